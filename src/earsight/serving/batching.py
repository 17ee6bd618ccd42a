"""Micro-batching: the windows of several requests go through the network together.

Comes in: spectrograms, one at a time. Goes out: for each, its prediction. A batch holds the items that arrived while
the last one was computed; if it is not full and more are expected, it waits for ``wait_seconds``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Batcher(Generic[Item, Answer]):
    """A queue before a network.

    ``compute`` makes as many answers of up to ``most`` items, in one thread. A batch that is not full waits
    ``wait_seconds`` for more, unless all are here: ``coming`` returns the number of items in this batch, in the queue
    and expected. ``on_batch`` is called with the size of each batch.
    """

    def __init__(
        self,
        compute: Callable[[list[Item]], Sequence[Answer]],
        *,
        most: int,
        wait_seconds: float,
        coming: Callable[[], int],
        on_batch: Callable[[int], None],
    ) -> None:
        self._compute, self._most, self._wait = compute, most, wait_seconds
        self._coming, self._on_batch = coming, on_batch
        self._waiting: asyncio.Queue[tuple[Item, asyncio.Future[Answer]]] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="network")
        self._worker: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the worker task in the running event loop."""
        self._worker = asyncio.create_task(self._work())

    async def close(self) -> None:
        """Stop; waiting items are cancelled."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        while not self._waiting.empty():
            self._waiting.get_nowait()[1].cancel()
        self._thread.shutdown(wait=True)

    @property
    def waiting(self) -> int:
        """Number of items that are in no batch yet."""
        return self._waiting.qsize()

    async def submit(self, item: Item) -> Answer:
        """The prediction for one item; an error of its batch is raised for every item in it."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((item, future))
        return await future

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = await self._next_batch()
            self._on_batch(len(batch))
            try:
                answers = await loop.run_in_executor(self._thread, self._compute, [item for item, _ in batch])
            except asyncio.CancelledError:
                for _, future in batch:
                    future.cancel()
                raise
            except Exception as error:  # raised for the items of this batch; the next one goes on
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():  # its request may have been cancelled
                    future.set_result(answer)

    async def _next_batch(self) -> list[tuple[Item, asyncio.Future[Answer]]]:
        batch = [await self._waiting.get()]
        loop = asyncio.get_running_loop()
        until = loop.time() + self._wait
        while len(batch) < self._most:
            more = len(batch) < self._coming()
            if more and self._waiting.empty() and (left := until - loop.time()) > 0:
                try:
                    async with asyncio.timeout(left):
                        batch.append(await self._waiting.get())
                    continue
                except TimeoutError:
                    break
            if self._waiting.empty():
                break
            batch.append(self._waiting.get_nowait())
        return [(item, future) for item, future in batch if not future.done()] or await self._next_batch()
