"""Work on many clips in threads, a few at a time.

Comes in: a function and its items. Goes out: results in the items' order, in memory that does not grow with their
number. Threads are enough: decoding, resampling and FFTs all leave the interpreter's lock.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
_bound: int | None = None


def bound_threads(most: int | None) -> None:
    """Let pools have at most so many threads from now on, in this process; None is one a core."""
    global _bound
    _bound = most


def pool_size(workers: int = 0) -> int:
    """Threads of a pool that was asked for ``workers``, where 0 is as many as it may have."""
    return workers or _bound or os.cpu_count() or 1


def in_order(work: Callable[[T], R], items: Iterable[T], *, workers: int = 0, ahead: int = 4) -> Iterator[R]:
    """Results of ``work`` on each item, in order, at most ``ahead`` items a worker ahead of what is taken.

    Items are read in the calling thread; ``work`` is called in threads of a torch thread count of 1 each, as many as
    ``workers``: 0 is one a core, or what `bound_threads` was given.
    """
    import torch

    workers = pool_size(workers)
    pending: deque[Future[R]] = deque()
    before = torch.get_num_threads()
    # OpenMP keeps a thread count for each thread: one core each, or they would fight over all of them.
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) >= ahead * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:  # the caller stopped early
                future.cancel()
            torch.set_num_threads(before)  # the workers' calls also set what later threads begin with
