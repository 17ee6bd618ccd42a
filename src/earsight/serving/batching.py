"""Sounds of several requests in one batch of the network.

Comes in: waves (samples,) float32, one at a time. Goes out: for each, what the network says. A batch is what has come
while the last one was computed, and in ``wait_seconds`` more if that does not fill it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Answer = TypeVar("Answer")


class Batcher(Generic[Answer]):
    """A queue before a network.

    Parameters
    ----------
    compute : callable
        From waves (batch, samples) float32 to a sequence of as many answers; called in one thread.
    most : int
        Waves in a batch.
    wait_seconds : float
        How long a batch that is not full waits for more.
    on_batch : callable, optional
        Called with the size of each batch.
    """

    def __init__(
        self,
        compute: Callable[[NDArray[np.float32]], Sequence[Answer]],
        *,
        most: int,
        wait_seconds: float,
        on_batch: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._compute, self._most, self._wait, self._on_batch = compute, most, wait_seconds, on_batch
        self._waiting: asyncio.Queue[tuple[NDArray[np.float32], asyncio.Future[Answer]]] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="network")
        self._worker: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to answer, in the running event loop."""
        self._worker = asyncio.create_task(self._work())

    async def close(self) -> None:
        """End; who still waits is cancelled."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        while not self._waiting.empty():
            self._waiting.get_nowait()[1].cancel()
        self._thread.shutdown(wait=True)

    @property
    def waiting(self) -> int:
        """How many waves are in no batch yet."""
        return self._waiting.qsize()

    async def answer(self, wave: NDArray[np.float32]) -> Answer:
        """What the network says of one wave; an error of its batch is raised for each of it."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((wave, future))
        return await future

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = await self._next_batch()
            waves = np.stack([wave for wave, _ in batch])
            self._on_batch(len(batch))
            try:
                answers = await loop.run_in_executor(self._thread, self._compute, waves)
            except asyncio.CancelledError:
                for _, future in batch:
                    future.cancel()
                raise
            except Exception as error:  # whoever asked gets it, and the next batch is another
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():  # who asked may have gone
                    future.set_result(answer)

    async def _next_batch(self) -> list[tuple[NDArray[np.float32], asyncio.Future[Answer]]]:
        batch = [await self._waiting.get()]
        loop = asyncio.get_running_loop()
        until = loop.time() + self._wait
        while len(batch) < self._most:
            if self._waiting.empty() and (left := until - loop.time()) > 0:
                try:
                    async with asyncio.timeout(left):
                        batch.append(await self._waiting.get())
                    continue
                except TimeoutError:
                    break
            if self._waiting.empty():
                break
            batch.append(self._waiting.get_nowait())
        return [(wave, future) for wave, future in batch if not future.done()] or await self._next_batch()
