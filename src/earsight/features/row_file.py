"""A resumable file of rows: one row for each clip of a data set, computed once and kept in a folder.

Comes in: a data set, a layout, and a function from a decoded wave (samples,) float32 to its row. Goes out: a folder
with one large file of rows of equal size, small tables with an entry for each row, a table of states, and
``store.json``. It is built under another name, under a lock, and renamed when complete; a build that was interrupted
computes only the rows whose state is not done. A state is written once its row is on the disk, so that no kill, power
cut or full disk leaves a row of zeros that counts as done. Files are written and read by offset: pages of a memory map
would count as the process's memory, which would then grow with the number of clips.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import cached_property
from io import FileIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from torch import Tensor

from earsight.data import audio
from earsight.data.datasets import Dataset
from earsight.errors import AudioError, DataError
from earsight.features.spectrogram import silence
from earsight.files import replace_text
from earsight.parallel import in_order
from earsight.recipe import Features

DESCRIPTION = "store.json"
_SOUNDS, _STATES = "sounds.u8", "state.u8"
_DONE, _UNREADABLE = 1, 2
_SYNC_SECONDS = 1.0
_SYNC_SHARE = 0.02
"""Rows are synced to the disk in batches: once a second, and less often where that would take over 2 % of the time."""

Progress = Callable[[int, int], None]
"""Called with (clips done, clips in all)."""
Row = tuple[NDArray[Any], dict[str, NDArray[Any]]]
"""The C-contiguous values of a row, at most as long as its place, and its entry of each table of the layout."""


@dataclass(frozen=True)
class RowLayout:
    """The files of a folder of rows.

    Attributes
    ----------
    what : str
        Such as ``spectrograms``, for messages.
    file : str
        Name of the large file.
    row_bytes : int
        A row's place in it.
    tables : mapping of str to (str, tuple of int)
        Dtype and shape of an entry of each table, by file name.
    remedy : str
        What else helps where the disk is too small, with a comma after it.
    """

    what: str
    file: str
    row_bytes: int
    tables: Mapping[str, tuple[str, tuple[int, ...]]]
    remedy: str = ""


@dataclass(frozen=True)
class RowFile:
    """An open folder of rows, and how spectrograms are read from it.

    Attributes
    ----------
    folder : Path
    features : Features
        Resolved settings of the front end.
    semitones : tuple of int
        The pitch steps that can be read, rising.
    sounds : ndarray of uint8, shape (rows, 16)
        Digest of each clip as it was decoded; zeros where it could not be read.
    errors : dict
        Row to reason, for the clips that could not be read.
    tables : dict
        The layout's tables, one entry for each row.
    """

    folder: Path
    features: Features
    semitones: tuple[int, ...]
    sounds: NDArray[np.uint8]
    errors: dict[int, str]
    tables: dict[str, NDArray[Any]]

    stretches = False
    """Rows are read at a pitch step; stretching and rolling are left to `earsight.features.augment.apply`."""

    @cached_property
    def silence(self) -> Tensor:
        """What each row of the spectrograms reads in digital silence, shape (bands,)."""
        return silence(self.features)

    def read_values(self, name: str, rows: NDArray[Any], offsets: Iterable[int]) -> None:
        """Fill each row of an array from a file of the folder, from its offset in bytes on."""
        with (self.folder / name).open("rb", buffering=0) as file:
            for row, offset in zip(rows, offsets, strict=True):
                file.seek(offset)
                if file.readinto(row.data) != row.nbytes:
                    raise DataError(f"{self.folder}: shorter than it was written; delete it, and it is built again")


R = TypeVar("R", bound=RowFile)


def content_key(dataset: Dataset, *settings: Any) -> str:
    """Sixteen hexadecimal digits that name settings (as JSON) and the sounds: path, size and time of change of each."""
    files: list[list[Any]] = []
    for row, clip in enumerate(dataset.clips):
        try:
            status = dataset.file(row).stat()
            files.append([clip.path, status.st_size, status.st_mtime_ns])
        except OSError:
            files.append([clip.path, None, None])
    return hashlib.sha256(json.dumps([*settings, files]).encode()).hexdigest()[:16]


def is_complete(folder: Path) -> bool:
    """Whether every row of a folder is computed: `open_rows` then decodes nothing."""
    return (folder / DESCRIPTION).is_file() and not _description(folder)["errors"]


def open_rows(
    kind: type[R],
    final: Path,
    layout: RowLayout,
    *,
    dataset: Dataset,
    features: Features,
    semitones: Sequence[int],
    compute: Callable[[NDArray[np.float32]], Row],
    about: Mapping[str, Any],
    workers: int = 0,
    progress: Progress | None = None,
) -> R:
    """Open a folder of rows, computing those that are not there yet.

    Parameters
    ----------
    kind : type
        The subclass of `RowFile` to give.
    final : Path
        The folder; its name is the `content_key` of its content.
    layout : RowLayout
    dataset : Dataset
    features : Features
        Resolved; clips are decoded at its rate and fitted to its length.
    semitones : sequence of int
        Pitch steps that can be read, rising.
    compute : callable
        From a wave (features.samples,) to its row; called in threads.
    about : mapping
        What the description says besides data set and errors, as JSON.
    workers : int
        Threads; 0 is one a core.
    progress : callable, optional
        Called after every clip.

    Raises
    ------
    DataError
        If the disk has too little room, or the folder cannot be made.
    """
    described = final / DESCRIPTION
    if not is_complete(final):
        cache = final.parent
        try:
            cache.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{cache}: cannot be made ({error.strerror}); set EARSIGHT_CACHE or --cache") from error
        with _locked(cache / f"{final.name}.lock"):
            # What could not be read before may be readable now, after a chmod or when a disk is back: those rows alone
            # are tried again, in place, since nobody reads them. Another process may have built all in the meantime.
            built = described.is_file()
            if not is_complete(final):
                folder = final if built else final.with_name(final.name + ".building")
                _build(folder, layout, dataset, features, compute, workers=workers, progress=progress, about=about)
                if not built:
                    folder.replace(final)
    stored = {**layout.tables, _SOUNDS: ("uint8", (16,))}
    tables = {name: np.fromfile(final / name, dtype=of).reshape(-1, *shape) for name, (of, shape) in stored.items()}
    errors = {int(row): reason for row, reason in _description(final)["errors"].items()}
    return kind(final, features, tuple(semitones), tables.pop(_SOUNDS), errors, tables)


def _description(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    return content


def _locked(path: Path) -> AbstractContextManager[Any]:
    try:
        # The proxy that acquire returns lets go once; `with` on the lock itself would take it a second time.
        return FileLock(path).acquire(timeout=12 * 3600)
    except Timeout as error:
        raise DataError(f"{path}: held by another process for 12 hours; end that process or remove the file") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be locked ({error.strerror}); set EARSIGHT_CACHE or --cache") from error


def _build(
    folder: Path,
    layout: RowLayout,
    dataset: Dataset,
    features: Features,
    compute: Callable[[NDArray[np.float32]], Row],
    *,
    about: Mapping[str, Any],
    workers: int,
    progress: Progress | None,
) -> None:
    """Compute the rows that are not done, and describe the folder."""

    def work(row: int) -> tuple[int, Row | None, str]:
        try:
            wave = audio.read(dataset.file(row), sample_rate_hz=features.rate, seconds=float(features.clip_seconds))
        except AudioError as error:
            return row, None, error.reason
        sound = np.frombuffer(hashlib.blake2b(wave.tobytes(), digest_size=16).digest(), dtype=np.uint8)
        values, entries = compute(audio.fit(wave, features.samples))
        return row, (values, {**entries, _SOUNDS: sound}), ""

    folder.mkdir(exist_ok=True)
    count = len(dataset.clips)
    places = {layout.file: layout.row_bytes, _SOUNDS: 16, _STATES: 1}
    places |= {name: np.dtype(kind).itemsize * int(np.prod(shape)) for name, (kind, shape) in layout.tables.items()}
    needed = count * layout.row_bytes
    present = sum(path.stat().st_blocks * 512 for path in folder.iterdir() if path.is_file())
    free = shutil.disk_usage(folder).free
    if needed - present > free * 0.98:
        raise DataError(
            f"{folder.parent}: the {layout.what} need {_size(needed)} and {_size(free)} are free; "
            f"make room, {layout.remedy}name another folder with --cache"
        )
    if any(not (folder / name).is_file() or (folder / name).stat().st_size != count * places[name] for name in places):
        (folder / _STATES).unlink(missing_ok=True)  # a file that was lost, or never sized, holds no row that is done
    errors: dict[int, str] = {}
    with ExitStack() as stack:
        files = {name: stack.enter_context(_sized(folder / name, count * place)) for name, place in places.items()}
        states = np.fromfile(folder / _STATES, dtype=np.uint8)
        todo = np.flatnonzero(states != _DONE).tolist()
        written: dict[int, int] = {}

        def sync() -> None:
            """Write the states of the rows that were written, once these are on the disk."""
            rows = dict(written)
            written.clear()  # whatever fails below: a second sync can succeed though the first has lost rows
            for name, file in files.items():
                if name != _STATES:
                    os.fsync(file.fileno())
            states[list(rows)] = list(rows.values())
            _write(files[_STATES], states, offset=0)
            os.fsync(files[_STATES].fileno())

        synced, pause = time.monotonic(), _SYNC_SECONDS
        if progress:
            progress(count - len(todo), count)
        try:
            for done, (row, computed, reason) in enumerate(
                in_order(work, todo, workers=workers), count - len(todo) + 1
            ):
                if computed is None:
                    errors[row] = reason
                else:
                    for name, values in {layout.file: computed[0], **computed[1]}.items():
                        _write(files[name], values, offset=row * places[name])
                written[row] = _UNREADABLE if computed is None else _DONE
                if (now := time.monotonic()) - synced >= pause:
                    sync()
                    synced = time.monotonic()
                    pause = max(_SYNC_SECONDS, (synced - now) / _SYNC_SHARE)
                if progress:
                    progress(done, count)
        finally:
            sync()
    location = {"name": dataset.name, "digest": dataset.digest, "root": str(dataset.root)}
    content = {**about, "dataset": location, "errors": {str(row): errors[row] for row in sorted(errors)}}
    replace_text(folder / DESCRIPTION, json.dumps(content, indent=1), sync=True)


def _sized(path: Path, size: int) -> FileIO:
    """A file of that size, open for writing, which keeps what an earlier, interrupted build wrote to it."""
    with path.open("ab") as file:
        file.truncate(size)
    return path.open("r+b", buffering=0)


def _write(file: FileIO, values: NDArray[Any], *, offset: int) -> None:
    file.seek(offset)
    if file.write(values.data) != values.nbytes:  # a disk that fills up takes a part, and refuses the next
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file.name))


def _size(count: int) -> str:
    """Bytes for people, in the unit that leaves a figure to read."""
    power = min(3, max(0, (len(str(count)) - 1) // 3))
    return f"{count / 1000**power:.{int(power > 0)}f} {('bytes', 'kB', 'MB', 'GB')[power]}"
