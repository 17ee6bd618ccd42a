"""Calls that some systems lack, each with another way: which is taken follows from what is there, not from a name."""

from __future__ import annotations

import _thread
import ctypes
import functools
import os
import signal
import tempfile
from pathlib import Path

_SOCKET_BYTES = 103  # of a socket's path: macOS's limit, Linux's is 107
_SHORT = ("/tmp", "/var/tmp")


def socket_folder(below: int) -> str:
    """The folder for temporary files, or a short one where its path is too long for a socket ``below`` bytes further.

    Where no short one can be written it is returned all the same: the system then refuses the socket.
    """
    usual = tempfile.gettempdir()
    if os.name == "nt" or len(os.fsencode(usual)) + below <= _SOCKET_BYTES:
        return usual
    return next((place for place in _SHORT if Path(place).is_dir() and os.access(place, os.W_OK | os.X_OK)), usual)


def read_at(descriptor: int, count: int, position: int) -> bytes:
    """Bytes of an open file from a position on; where reading goes on stays as it was."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, count, position)
    before = os.lseek(descriptor, 0, os.SEEK_CUR)
    try:
        os.lseek(descriptor, position, os.SEEK_SET)
        return os.read(descriptor, count)
    finally:
        os.lseek(descriptor, before, os.SEEK_SET)


@functools.cache
def c_library() -> ctypes.CDLL | None:
    """The C library that this process runs on; None where it cannot be had so, as on Windows."""
    try:
        return ctypes.CDLL(None)
    except (OSError, TypeError):
        return None


def interrupt(number: int) -> None:
    """Send this process a signal from another thread; on Windows `os.kill` would end it at once."""
    if os.name == "nt":
        _thread.interrupt_main(signal.Signals(number))
    else:
        os.kill(os.getpid(), number)
