"""Files that are replaced whole or not at all: written beside their name, then renamed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """A path beside ``path`` to write to; it takes the name of ``path`` when the block ends well, and goes otherwise.

    Its name is hidden and drawn anew each time: two threads, or processes of one number in two containers, never write
    to one file. What a kill leaves behind under such a name is never read.

    Parameters
    ----------
    path : Path
        The file to replace; its folder must be there.
    sync : bool
        Wait until file and name are on the disk, so that a power cut keeps them.

    Raises
    ------
    OSError
        Whatever the disk refuses; ``path`` is then as it was.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        yield part
        if sync:
            _sync(part)
        part.replace(path)
        if sync and os.name == "posix":  # elsewhere a folder cannot be opened, nor need it be
            _sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


def replace_text(path: Path, text: str, *, sync: bool = False) -> None:
    """Write a UTF-8 text file whole or not at all; see `replacing`."""
    replace_bytes(path, text.encode(), sync=sync)


def replace_bytes(path: Path, data: bytes, *, sync: bool = False) -> None:
    """Write a file whole or not at all; see `replacing`."""
    with replacing(path, sync=sync) as part:
        part.write_bytes(data)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
