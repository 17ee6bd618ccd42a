"""A disk with little room: a limit on the size of files stands for it."""

from __future__ import annotations

import resource
import signal
from contextlib import contextmanager


@contextmanager
def full_disk(room: int):
    """No file gets larger than ``room`` bytes; what would is refused as by a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
