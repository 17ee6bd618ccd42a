"""A folder of one row per clip, or window of one, computed once; an interrupted build resumes.

Comes in: a data set, a layout, and a function from a decoded wave (samples,) float32 to its row. Goes out: a folder
with one large file of rows of equal size, small tables with an entry for each row, a table of states, and
``store.json``. It is built under another name, under a lock, and renamed when complete; a resumed build computes only
the rows whose state is not done. A state is written after its row is on the disk, so that no kill, power cut or full
disk leaves a row of zeros that counts as done. ``checks.u32`` has the CRC-32 of each part of a row that is read on its
own, and of its entries in the tables; ``store.json`` has those of the tables. Damaged rows are computed again. No
memory map: its pages count towards the process's memory.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from io import FileIO
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from torch import Tensor

from earsight.data import audio
from earsight.data.datasets import Dataset
from earsight.errors import AudioError, DataError, counted
from earsight.features.spectrogram import silence
from earsight.features.windows import ClipWindows, single_windows
from earsight.files import publish_folder, read_state, say_damage, say_once, write_state
from earsight.parallel import in_order, pool_size
from earsight.recipe import Features

DESCRIPTION = "store.json"
_BUILDING = ".building"
_SOUNDS, _CHECKS, _STATES = "sounds.u8", "checks.u32", "state.u8"
_DONE, _UNREADABLE = 1, 2
_REMEDY = "what does not fit is computed again"
_SYNC_SECONDS = 1.0
_SYNC_SHARE = 0.02
"""Rows are synced to the disk in batches: once a second, and less often where that would take over 2 % of the time."""

Progress = Callable[[int, int], None]
"""Called with (rows done, rows in all)."""
Row = tuple[NDArray[Any], dict[str, NDArray[Any]]]
"""The C-contiguous values of a row, at most as long as its place, and its entry of each table of the layout."""


@dataclass(frozen=True)
class RowLayout:
    """The files of a folder of rows.

    ``what`` (such as ``spectrograms``) is for messages; ``file`` is the name of the large file, ``row_bytes`` the size
    of a row in it, and ``parts`` the number of equal parts of a row, each of which can be read on its own. ``tables``
    has dtype and shape of an entry of each table, by file name. ``remedy`` is a further remedy for a full disk, in
    messages; it ends with a comma.
    """

    what: str
    file: str
    row_bytes: int
    tables: Mapping[str, tuple[str, tuple[int, ...]]]
    parts: int = 1
    remedy: str = ""

    @property
    def stored(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """All tables: those of the layout, the sounds' digests, and the checks (parts, entries, bytes of the row)."""
        return {**self.tables, _SOUNDS: ("uint8", (16,)), _CHECKS: ("uint32", (self.parts + 2,))}


@dataclass(frozen=True)
class RowFile:
    """An open folder of rows, with methods that read spectrograms from it.

    ``features`` are resolved; ``semitones``: the pitch steps that can be read, rising; ``sounds``, uint8 (rows,
    16): digest of each row's sound as it was decoded, zeros where it could not be read; ``errors``: row to reason.
    ``tables``: the layout's tables, one entry for each row, and the checks (not in folders of earlier versions).
    ``key``: hash of the content, also the folder's name (not in earlier versions). ``windows``: which part of which
    clip each row is.
    """

    folder: Path
    features: Features
    semitones: tuple[int, ...]
    sounds: NDArray[np.uint8]
    errors: dict[int, str]
    tables: dict[str, NDArray[Any]]
    layout: RowLayout
    dataset: Dataset
    key: str
    windows: ClipWindows

    stretches = False
    """`read` only shifts the pitch; `earsight.features.augment.apply` stretches and rolls."""

    @cached_property
    def silence(self) -> Tensor:
        """Value of each spectrogram row in digital silence, shape (bands,)."""
        return silence(self.features)

    def read_values(self, out: NDArray[Any], rows: Iterable[int], parts: Iterable[int]) -> None:
        """Fill each entry of ``out`` with a part of a row; a damaged row is computed again from its sound.

        DataError if the file of rows is gone, or a damaged row's sound does not give it again.
        """
        checks, path = self.tables.get(_CHECKS), self.folder / self.layout.file
        try:
            with path.open("rb", buffering=0) as file:
                for values, row, part in zip(out, rows, parts, strict=True):
                    file.seek(row * self.layout.row_bytes + part * values.nbytes)
                    whole = file.readinto(values.data) == values.nbytes
                    if checks is not None and row not in self.errors:
                        whole = whole and zlib.crc32(values.data) == checks[row, part]
                    if not whole:
                        values[...] = self._again(row)[part].view(values.dtype).reshape(values.shape)
        except FileNotFoundError as error:
            raise DataError(f"{path}: is gone; run the command again, which builds it anew") from error

    def computed(self, wave: NDArray[np.float32]) -> Iterable[Row]:
        """The row of a wave (samples,), by each method that may have computed the stored one."""
        raise NotImplementedError

    def _again(self, row: int) -> NDArray[np.uint8]:
        """Compute a damaged row's parts (parts, bytes) again from its sound, and write them to the file."""
        place = int(self.windows.clips[row])
        clip = f"{self.folder}: the row of {self.dataset.clips[place].name} is damaged"
        remedy = f"remove {self.folder} and give the command again: it is built anew"
        if _CHECKS not in self.tables:
            raise DataError(f"{clip}; {remedy}")
        try:
            wave = read_clip(self.dataset, place, self.features, self.windows)
        except AudioError as error:
            raise DataError(f"{clip}, and its sound cannot be read ({error.reason}); {remedy}") from error
        wave = part_of(wave, row, self.features, self.windows)
        for values, _ in self.computed(audio.fit(wave, self.features.samples)):
            parts = values.reshape(self.layout.parts, -1).view(np.uint8)
            if [zlib.crc32(part.data) for part in parts] == self.tables[_CHECKS][row, : len(parts)].tolist():
                say_damage(f"{clip} and made anew from its sound")
                with suppress(OSError), (self.folder / self.layout.file).open("r+b", buffering=0) as file:
                    _write(file, parts, offset=row * self.layout.row_bytes)
                return parts
        raise DataError(f"{clip}, and its sound now gives another: it has changed, or the processor has; {remedy}")


R = TypeVar("R", bound=RowFile)


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
    earlier: Path | None = None,
    windows: ClipWindows | None = None,
    look: Callable[[], None] | None = None,
) -> R:
    """Open a folder of rows, of this ``kind`` of `RowFile`, computing those that are missing or damaged.

    ``final`` has the `content_key` of its content as its name; ``earlier``, a folder of the same rows from an earlier
    version, is read if it does not exist. ``compute`` makes a row of a wave (features.samples,), in threads;
    ``progress`` is called after each. ``about`` is further content of ``store.json``. What is not described here is as
    in `earsight.features.store.open_store`. DataError if the disk has too little room, or the folder cannot be made.
    """
    windows = windows or single_windows(len(dataset.clips))
    count, settings = len(windows.clips), (features, tuple(semitones))
    if earlier is not None and not final.is_dir() and (found := _opened(earlier, layout, count)) is not None:
        say_once(f"{earlier}: was written by an earlier version, without digests; it cannot be checked")
        return kind(earlier, *settings, found[1].pop(_SOUNDS), *found, layout, dataset, final.name, windows)
    found = _opened(final, layout, count) if final.is_dir() else None
    if found is None or found[0]:
        cache = final.parent
        try:
            cache.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{cache}: cannot be made ({error.strerror}); set EARSIGHT_CACHE or --cache") from error
        with _locked(cache / f"{final.name}.lock"):
            # Clips that could not be read may be readable now (after a chmod, or when a disk is back): only their rows
            # and the damaged ones are computed again, in place. Another process may have built them in the meantime.
            # Another's rows under this name fit their checks, so nothing of them is kept.
            built = final.is_dir() and not _exchanged(final)
            found = _opened(final, layout, count, quiet=True) if built else None
            if found is None or found[0]:
                if look is not None:
                    look()
                folder = final if built else final.with_name(final.name + _BUILDING)
                _build(
                    *(folder, layout, dataset, features, windows, compute),
                    workers=workers,
                    progress=progress,
                    about=about,
                )
                if not built:
                    publish_folder(folder, final)
                found = _opened(final, layout, count)
    if found is None:
        raise DataError(f"{final}: is damaged right after writing; check the disk, or set EARSIGHT_CACHE or --cache")
    return kind(final, *settings, found[1].pop(_SOUNDS), *found, layout, dataset, final.name, windows)


def _description(folder: Path) -> dict[str, Any]:
    return read_state(folder / DESCRIPTION, {"errors": dict}, remedy=_REMEDY, error=DataError)


def _exchanged(folder: Path) -> bool:
    """Whether it holds rows of another key; those of earlier versions do not say."""
    with suppress(DataError):
        return bool(_description(folder).get("key", folder.name) != folder.name)
    return False


def _opened(
    folder: Path, layout: RowLayout, count: int, *, quiet: bool = False
) -> tuple[dict[int, str], dict[str, NDArray[Any]]] | None:
    """Reasons of unreadable clips, and the tables; None if they are damaged, which is reported unless quiet."""
    try:
        content = _description(folder)
        if _exchanged(folder):
            raise DataError(
                f"{folder}: holds the rows of {content['key']}, so folders were exchanged; it is built anew"
            )
        known, tables = content.get("tables"), {}
        if known is not None and "key" not in content:
            say_once(f"{folder}: was written by an earlier version, without its key; an exchange would not be noticed")
        for name, (of, shape) in layout.stored.items():
            if name == _CHECKS and known is None:
                continue  # an earlier version's
            tables[name] = np.fromfile(folder / name, dtype=of)
            if tables[name].nbytes != count * _entry_bytes(of, shape):
                raise DataError(
                    f"{folder / name}: is not as long as it was written; what does not fit is computed again"
                )
            if known is not None and known.get(name) != zlib.crc32(tables[name].data):
                raise DataError(f"{folder / name}: is damaged; what does not fit is computed again")
            tables[name] = tables[name].reshape(count, *shape)
        if (folder / layout.file).stat().st_size != count * layout.row_bytes:
            raise DataError(
                f"{folder / layout.file}: is not as long as it was written; what is lacking is computed again"
            )
        return {int(row): reason for row, reason in content["errors"].items()}, tables
    except FileNotFoundError as error:
        reason = f"{error.filename}: is not there any more; it is written anew"
    except ValueError:
        reason = f"{folder / DESCRIPTION}: is damaged; it is written anew"
    except DataError as error:
        reason = str(error)
    if not quiet:
        say_damage(reason)
    return None


def _locked(path: Path) -> AbstractContextManager[Any]:
    try:
        # The proxy that acquire returns releases the lock once; `with` on the lock itself would acquire it twice.
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
    windows: ClipWindows,
    compute: Callable[[NDArray[np.float32]], Row],
    *,
    about: Mapping[str, Any],
    workers: int,
    progress: Progress | None,
) -> None:
    """Compute the rows that are not done, and describe the folder."""
    decoded = partial(_decoded, dataset, features, windows)

    def sounds(rows: Iterable[int]) -> Iterator[tuple[int, NDArray[np.float32] | str | None]]:
        """Rows with their clips' waves; a clip that is a file and one row is decoded where that is computed."""
        several = {int(clip): list(held) for clip, held in groupby(rows, key=lambda row: windows.clips[row])}
        cut = [clip for clip in several if dataset.clips[clip].part]
        for clip in [clip for clip in several if windows.rows_in(clip) == 1 and not dataset.clips[clip].part]:
            yield several.pop(clip)[0], None
        for clip, wave in _parts(dataset, cut, features, windows):
            yield from ((row, wave) for row in several.pop(clip))
        for held, wave in zip(
            several.values(), in_order(decoded, several, workers=min(2, pool_size()), ahead=1), strict=True
        ):
            yield from ((row, wave) for row in held)

    def work(item: tuple[int, NDArray[np.float32] | str | None]) -> tuple[int, Row | None, str]:
        row, whole = item
        whole = decoded(int(windows.clips[row])) if whole is None else whole
        if isinstance(whole, str):
            return row, None, whole
        wave = part_of(whole, row, features, windows)
        sound = np.frombuffer(hashlib.blake2b(wave.tobytes(), digest_size=16).digest(), dtype=np.uint8)
        values, entries = compute(audio.fit(wave, features.samples))
        entries = {**entries, _SOUNDS: sound}
        return row, (values, {**entries, _CHECKS: _checks(values, entries, layout)}), ""

    folder.mkdir(exist_ok=True)
    count = len(windows.clips)
    tables = {name: _entry_bytes(*of) for name, of in layout.stored.items()}
    places = {layout.file: layout.row_bytes, **tables, _STATES: 1}
    needed = count * layout.row_bytes
    present = sum(path.stat().st_blocks * 512 for path in folder.iterdir() if path.is_file())
    free = shutil.disk_usage(folder).free
    if needed - present > free * 0.98:
        raise DataError(
            f"{folder.parent}: the {layout.what} need {_size(needed)} and {_size(free)} are free; "
            f"make room, {layout.remedy}name another folder with --cache"
        )
    errors: dict[int, str] = {}
    with ExitStack() as stack:
        files = {name: stack.enter_context(_sized(folder / name, count * place)) for name, place in places.items()}
        states = np.fromfile(folder / _STATES, dtype=np.uint8)
        _check_rows(files, states, layout)
        todo = np.flatnonzero(states != _DONE).tolist()
        written: dict[int, int] = {}

        def sync() -> None:
            """Write the states of the rows that were written, once these are on the disk."""
            rows = dict(written)
            written.clear()  # first: after a failed sync a second one can succeed although rows were lost
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
                in_order(work, sounds(todo), workers=workers), count - len(todo) + 1
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
    digests = {name: zlib.crc32((folder / name).read_bytes()) for name in tables}
    content = {"dataset": location, "errors": {str(row): errors[row] for row in sorted(errors)}, "tables": digests}
    content["key"] = folder.name.removesuffix(_BUILDING)
    write_state(folder / DESCRIPTION, {**about, **content}, sync=True, indent=1)


def read_clip(dataset: Dataset, clip: int, features: Features, windows: ClipWindows) -> NDArray[np.float32]:
    """A clip's wave (samples,) at the features' rate, to the end of its last window."""
    if dataset.clips[clip].part:
        path, spans = dataset.root / dataset.clips[clip].path, [_span(dataset, clip, features, windows)]
        return next(audio.read_parts(path, spans, sample_rate_hz=features.rate, channel=features.channel))
    seconds = _seconds(clip, features, windows)
    return audio.read(dataset.file(clip), sample_rate_hz=features.rate, seconds=seconds, channel=features.channel)


def _decoded(dataset: Dataset, features: Features, windows: ClipWindows, clip: int) -> NDArray[np.float32] | str:
    """The same, or why it cannot be read."""
    try:
        return read_clip(dataset, clip, features, windows)
    except AudioError as error:
        return error.reason


def fault_of(dataset: Dataset, clips: Sequence[int], features: Features, windows: ClipWindows) -> str:
    """Why some clips of one file cannot be read, the first that cannot; "" where damage is behind all that is used."""
    found: Iterator[NDArray[np.float32] | str] = map(partial(_decoded, dataset, features, windows), clips)
    if dataset.clips[clips[0]].part:
        found = (wave for _, wave in _parts(dataset, clips, features, windows))
    return next((wave for wave in found if isinstance(wave, str)), "")


def _seconds(clip: int, features: Features, windows: ClipWindows) -> float:
    """From a clip's begin to the end of its last window."""
    end = windows.last_begin(clip) + features.samples
    return float(features.clip_seconds) if end == features.samples else end / features.rate


def _span(dataset: Dataset, clip: int, features: Features, windows: ClipWindows) -> tuple[float, float]:
    """Begin and end, in seconds, of what is used of a clip that is a part of its file."""
    begin, end = dataset.clips[clip].part
    return begin, min(end, begin + _seconds(clip, features, windows))


def _parts(
    dataset: Dataset, clips: Sequence[int], features: Features, windows: ClipWindows
) -> Iterator[tuple[int, NDArray[np.float32] | str]]:
    """Clips that are parts of files with their waves, or why they cannot be read; each file is decoded once."""
    ordered = sorted(clips, key=lambda clip: (dataset.clips[clip].path, dataset.clips[clip].begin))
    for path, found in groupby(ordered, key=lambda clip: dataset.clips[clip].path):
        held = list(found)
        spans = [_span(dataset, clip, features, windows) for clip in held]
        read = audio.read_parts(dataset.root / path, spans, sample_rate_hz=features.rate, channel=features.channel)
        reason = ""
        for clip in held:
            try:
                wave = None if reason else next(read)
            except AudioError as error:
                wave, reason = None, error.reason
            yield clip, reason if wave is None else wave


def part_of(wave: NDArray[np.float32], row: int, features: Features, windows: ClipWindows) -> NDArray[np.float32]:
    """A row's part of its clip's wave; a clip that is a little shorter than its header says gives its end."""
    begin = min(int(windows.begins[row]), max(0, len(wave) - features.samples))
    return wave[begin : begin + features.samples]


def _entry_bytes(kind: str, shape: tuple[int, ...]) -> int:
    return np.dtype(kind).itemsize * int(np.prod(shape))


def _checks(values: NDArray[Any], entries: Mapping[str, NDArray[Any]], layout: RowLayout) -> NDArray[np.uint32]:
    """CRC-32 of each part of a row, and of its entries in the tables; then the bytes of the row."""
    parts = [zlib.crc32(part.data) for part in values.reshape(layout.parts, -1)]
    held = b"".join(entries[name].tobytes() for name in layout.stored if name != _CHECKS)
    return np.array([*parts, zlib.crc32(held), values.nbytes], dtype=np.uint32)


def _check_rows(files: Mapping[str, FileIO], states: NDArray[np.uint8], layout: RowLayout) -> None:
    """Mark rows as not done whose checks are missing or do not match."""
    lost = 0
    for row in np.flatnonzero(states == _DONE).tolist():
        entries = {name: _read(files[name], _entry_bytes(*of), row) for name, of in layout.stored.items()}
        checks = entries[_CHECKS].view(np.uint32)
        size = min(int(checks[-1]), layout.row_bytes) // layout.parts * layout.parts
        files[layout.file].seek(row * layout.row_bytes)
        values = np.frombuffer(files[layout.file].read(size), dtype=np.uint8)
        if not size or len(values) < size or (_checks(values, entries, layout) != checks).any():
            states[row], lost = 0, lost + 1
    if lost:
        folder = Path(str(files[layout.file].name)).parent
        say_damage(f"{folder}: {counted(lost, 'damaged row')} made anew, from the sound")


def _read(file: FileIO, size: int, row: int) -> NDArray[np.uint8]:
    file.seek(row * size)
    return np.frombuffer(file.read(size) or b"", dtype=np.uint8)


def _sized(path: Path, size: int) -> FileIO:
    """Open a file of that size for writing; what an interrupted build wrote to it is kept."""
    with path.open("ab") as file:
        file.truncate(size)
    return path.open("r+b", buffering=0)


def _write(file: FileIO, values: NDArray[Any], *, offset: int) -> None:
    file.seek(offset)
    if file.write(values.data) != values.nbytes:  # a nearly full disk writes only part and raises at the next write
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file.name))


def _size(count: int) -> str:
    """A byte count in a readable unit."""
    power = min(3, max(0, (len(str(count)) - 1) // 3))
    return f"{count / 1000**power:.{int(power > 0)}f} {('bytes', 'kB', 'MB', 'GB')[power]}"
