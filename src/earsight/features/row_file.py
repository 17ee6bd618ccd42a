"""Something of every clip of a data set, computed once and kept in a folder: row i is clip i, for ever.

Comes in: what a row holds, and a function that makes it. Goes out: a folder with one large file of rows, small tables
beside it, and a description. It is built in a folder beside its name and renamed when whole, under a lock, so that two
processes or a kill never leave a half one in use; a build that was killed goes on where it stopped. Rows are written
and read by offset rather than through a memory map: pages of a map count as the process's memory, which would then grow
with the number of clips.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from earsight.errors import DataError
from earsight.parallel import in_order

DESCRIPTION = "store.json"
_STATES = "state.u8"
_DONE, _BAD = 1, 2
SOUNDS = "sounds.u8"
"""Table of the digests of the sounds that the rows were made from."""
DIGESTS = ("uint8", (16,))
"""What a row of `SOUNDS` is."""

Progress = Callable[[int, int], None]
"""Called with (clips done, clips in all)."""


@dataclass(frozen=True)
class Row:
    """What is kept of one clip.

    Attributes
    ----------
    values : ndarray, C-contiguous
        Its row of the large file; it may be shorter than the row's place.
    small : mapping of str to ndarray
        Its row of each table.
    """

    values: NDArray[Any]
    small: Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class RowLayout:
    """What a folder of rows holds.

    Attributes
    ----------
    what : str
        Such as ``spectrograms``, for messages.
    file : str
        Name of the large file.
    row_bytes : int
        A row's place in it.
    tables : mapping of str to (str, tuple of int)
        File name, dtype and shape of a row of each table.
    remedy : str
        What else helps where the disk is too small, with a comma after it.
    """

    what: str
    file: str
    row_bytes: int
    tables: Mapping[str, tuple[str, tuple[int, ...]]]
    remedy: str = ""


Work = Callable[[int], tuple[int, Row | None, str]]
"""From a row to itself, what is kept of it, and otherwise why there is nothing."""


def open_row_file(
    final: Path,
    layout: RowLayout,
    *,
    count: int,
    work: Work,
    about: Mapping[str, Any],
    workers: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Open a folder of rows, building what is not there yet.

    Parameters
    ----------
    final : Path
        The folder; its name is the key of its content.
    layout : RowLayout
    count : int
        Number of rows.
    work : callable
        Makes a row; called in threads.
    about : mapping
        What the description says besides the errors; anything that JSON holds.
    workers : int
        Threads; 0 is one a core.
    progress : callable, optional
        Told of every clip.

    Returns
    -------
    dict
        The description: ``about``, and under ``errors`` the reason of every row that could not be made.

    Raises
    ------
    DataError
        If the disk has too little room, or the folder cannot be made.
    """
    described = final / DESCRIPTION
    if is_complete(final):
        return read_description(final)
    cache = final.parent
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{cache}: cannot be made ({error.strerror}); set EARSIGHT_CACHE or --cache") from error
    with _locked(cache / f"{final.name}.lock"):
        # What could not be read before may be readable now, after a chmod or when a disk is back: those rows alone are
        # tried again, in place, since nobody reads them. Another process may have built all while this one waited.
        whole = described.is_file()
        if not whole or read_description(final)["errors"]:
            place = final if whole else final.with_name(final.name + ".building")
            _fill(place, layout, count=count, work=work, about=about, workers=workers, progress=progress)
            if not whole:
                place.replace(final)
    return read_description(final)


def is_complete(folder: Path) -> bool:
    """Whether `open_row_file` has no row left to make in a folder."""
    return (folder / DESCRIPTION).is_file() and not read_description(folder)["errors"]


def digest(wave: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Sixteen bytes (uint8) that name a sound as it was decoded, wherever its file lies and whenever it was written."""
    return np.frombuffer(hashlib.blake2b(wave.tobytes(), digest_size=16).digest(), dtype=np.uint8)


def read_description(folder: Path) -> dict[str, Any]:
    """What `open_row_file` returned for the folder."""
    content: dict[str, Any] = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    return content


def read_table(folder: Path, name: str, layout: RowLayout) -> NDArray[Any]:
    """A table of the folder, one entry a row, in memory."""
    kind, shape = layout.tables[name]
    return np.fromfile(folder / name, dtype=kind).reshape(-1, *shape)


def _locked(path: Path) -> AbstractContextManager[Any]:
    try:
        # The proxy that acquire returns lets go once; `with` on the lock itself would take it a second time.
        return FileLock(path).acquire(timeout=12 * 3600)
    except Timeout as error:
        raise DataError(f"{path}: held by another process for 12 hours; end that process or remove the file") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be locked ({error.strerror}); set EARSIGHT_CACHE or --cache") from error


def _fill(
    place: Path,
    layout: RowLayout,
    *,
    count: int,
    work: Work,
    about: Mapping[str, Any],
    workers: int,
    progress: Progress | None,
) -> None:
    """Make the rows that are not done, and describe the folder."""
    place.mkdir(exist_ok=True)
    needed = count * layout.row_bytes
    present = sum(path.stat().st_blocks * 512 for path in place.iterdir() if path.is_file())
    free = shutil.disk_usage(place).free
    if needed - present > free * 0.98:
        raise DataError(
            f"{place.parent}: the {layout.what} need {_size(needed)} and {_size(free)} are free; "
            f"make room, {layout.remedy}name another folder with --cache"
        )
    tables = {name: _mapped(place / name, kind, (count, *shape)) for name, (kind, shape) in layout.tables.items()}
    state = _mapped(place / _STATES, "uint8", (count,))
    todo = [row for row in range(count) if state[row] != _DONE]
    errors: dict[int, str] = {}
    done = count - len(todo)
    if progress:
        progress(done, count)
    with _sized(place / layout.file, needed).open("r+b", buffering=0) as file:
        for row, kept, reason in in_order(work, todo, workers=workers):
            if kept is None:
                errors[row] = reason
            else:
                file.seek(row * layout.row_bytes)
                if (
                    file.write(kept.values.data) != kept.values.nbytes
                ):  # a disk that fills up takes a part, then refuses
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place))
                for name, values in kept.small.items():
                    tables[name][row] = values
            # Written after the row itself, so that a kill in between only does the row again.
            state[row] = _BAD if kept is None else _DONE
            done += 1
            if progress:
                progress(done, count)
        os.fsync(file.fileno())
    for table in (*tables.values(), state):
        table.flush()
    content = {**about, "errors": {str(row): errors[row] for row in sorted(errors)}}
    description = place / f".{DESCRIPTION}.part"
    description.write_text(json.dumps(content, indent=1), encoding="utf-8")
    description.replace(place / DESCRIPTION)


def _sized(path: Path, size: int) -> Path:
    """A file of that size, which keeps what an earlier, interrupted build wrote to it."""
    with path.open("ab") as file:
        file.truncate(size)
    return path


def _mapped(path: Path, kind: str, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(kind).itemsize
    return np.memmap(_sized(path, size), dtype=kind, mode="r+", shape=shape)


def _size(count: int) -> str:
    """Bytes for people, in the unit that leaves a figure to read."""
    power = min(3, max(0, (len(str(count)) - 1) // 3))
    return f"{count / 1000**power:.{int(power > 0)}f} {('bytes', 'kB', 'MB', 'GB')[power]}"
