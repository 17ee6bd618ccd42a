"""What libraries write to standard error unasked: that of C is caught, and printed under a file's name.

Comes in: a block of code in which a library is called. Goes out: the lines that it wrote, for `report` to print once
each. Python's own standard error, and other threads', are left alone.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import importlib
import os
import re
import sys
import threading
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from earsight.errors import counted
from earsight.files import say_damage
from earsight.portable import c_library


def load_tqdm() -> None:
    """Load tqdm.auto, which timm, captum and huggingface_hub load, without its warning in a notebook.

    It warns where ipywidgets are missing, whose bars nobody asked for.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")
        importlib.import_module("tqdm.auto")


_local = threading.local()
_lock = threading.Lock()
_seen: defaultdict[str, set[str]] = defaultdict(set)  # files by what decoders say of them
_listeners = 0


def report(name: str, notes: Mapping[str, int]) -> None:
    """Print what a decoder wrote, under the name of its file: equal lines once, those of further files at the end."""
    for line, count in notes.items():
        kind = re.sub(r"\d+", "#", line)
        with _lock:
            first = not _seen[kind]
            _seen[kind].add(name)
        if first:
            say_damage(f"{name}: its decoder says: {line}" + (f" ({count} times)" if count > 1 else ""))


@atexit.register
def _sum_up() -> None:
    for kind, files in _seen.items():
        if len(files) > 1:
            say_damage(f"{counted(len(files) - 1, 'more file')}: the decoder says: {kind}")


@contextmanager
def listening() -> Iterator[list[str]]:
    """Catch what C libraries write to standard error in this thread; elsewhere than with glibc nothing is caught."""
    global _listeners
    lines: list[str] = []
    stderr = _stderr()
    if stderr is None:
        yield lines
        return
    place, ours, theirs = stderr
    _local.lines = lines
    with _lock:
        _listeners += 1
        place.value = ours
    try:
        yield lines
    finally:
        with _lock:
            _listeners -= 1
            if not _listeners:
                place.value = theirs
        _local.lines = None


_Write = ctypes.CFUNCTYPE(ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class _Functions(ctypes.Structure):
    _fields_ = (("read", ctypes.c_void_p), ("write", _Write), ("seek", ctypes.c_void_p), ("close", ctypes.c_void_p))


def _take(cookie: Any, text: Any, length: int) -> int:
    """Take one message of a C library; of threads that do not listen it goes to standard error."""
    message = ctypes.string_at(text, length)
    lines = getattr(_local, "lines", None)
    if lines is None:
        os.write(2, message)
    else:
        lines += [line.strip() for line in message.decode(errors="replace").splitlines() if line.strip()]
    return length


_written = _Write(_take)


@functools.cache
def _stderr() -> tuple[Any, int, int] | None:
    """C's variable `stderr`, a stream that ends in `_written`, and the stream that it was."""
    library = c_library()
    if library is None or not sys.platform.startswith("linux"):
        return None
    try:
        place = ctypes.c_void_p.in_dll(library, "stderr")
        library.fopencookie.restype = ctypes.c_void_p
        library.fopencookie.argtypes = (ctypes.c_void_p, ctypes.c_char_p, _Functions)
        library.setvbuf.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_size_t)
    except (ValueError, AttributeError):  # another C library
        return None
    stream = library.fopencookie(None, b"w", _Functions(None, _written, None, None))
    if not stream or place.value is None:
        return None
    library.setvbuf(stream, None, 2, 0)  # unbuffered: one message, one call, in the thread that it came from
    return place, int(stream), int(place.value)
