"""A data set's pictures on disk, built once: row i is clip i, for ever.

Comes in: a `Dataset` and resolved `Features`. Goes out: a `Store`, whose rows read as pictures
(batch, windows, bands, frames) float32 at any of its pitch steps. Folds are index sets over the rows.

On disk a store is a folder named by its key, the hash of the manifest (with sizes and times of the files), the
feature settings, the pitch steps and the format version. It is built in a folder beside that name and renamed when
whole, under a lock; a build that was killed goes on where it stopped. What it keeps are log powers in bands, before
the basis of the representations that have one (MFCCs): int16 in steps of 1/1024, 8 times finer than float16 between 8
and 16, from -16 to 48; `earsight.features.filterbanks.REPRESENTATIONS` has the figures of each. Rows are read by
offset rather than through a memory map: pages of a map count as the process's memory, which would then grow with the
number of clips.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from torch import Tensor

from earsight.data import audio
from earsight.data.datasets import Dataset
from earsight.errors import AudioError, DataError
from earsight.features.augment import Draws
from earsight.features.filterbanks import REPRESENTATIONS
from earsight.features.parallel import in_order
from earsight.features.spectrogram import Spectrogram, basis, silence
from earsight.recipe import Features

FORMAT_VERSION = 1
_DONE, _BAD = 1, 2

Progress = Callable[[int, int], None]
"""Called with (clips done, clips in all)."""

_Result = tuple[int, Tensor | None, str]
"""A row, its log powers, and why it has none."""


@dataclass(frozen=True)
class Store:
    """Open pictures of a data set.

    Attributes
    ----------
    folder : Path
        Where it lies.
    shape : tuple of int
        (rows, steps, windows, bands, frames).
    semitones : tuple of int
        The pitch step of each index along the second axis.
    moments : ndarray of float64, shape (rows, windows, 2)
        Mean, and mean of squares, of each row's unshifted picture.
    errors : dict
        Row to reason, for the clips that could not be read.
    features : Features
        Resolved settings of the front end that made the pictures.
    """

    folder: Path
    shape: tuple[int, ...]
    semitones: tuple[int, ...]
    moments: NDArray[np.float64]
    errors: dict[int, str]
    features: Features

    stretches = False
    """The store holds pitch steps; stretching is left to `earsight.features.augment.apply`."""

    @cached_property
    def silence(self) -> Tensor:
        """What each row of the pictures reads in digital silence, shape (bands,)."""
        return silence(self.features)

    @cached_property
    def _basis(self) -> Tensor | None:
        return basis(self.features)

    def read(self, rows: NDArray[np.int64], *, draws: Draws | None = None) -> Tensor:
        """Pictures of some rows, each at its own pitch step.

        Parameters
        ----------
        rows : ndarray of int64, shape (batch,)
        draws : Draws, optional
            Says the pitch of each; unshifted when left out.

        Returns
        -------
        Tensor, shape (batch, windows, bands, frames), float32
        """
        wanted = np.zeros(len(rows), dtype=np.int64) if draws is None else draws.semitones
        codes = self.read_codes(rows, np.searchsorted(self.semitones, wanted))
        logs = decode(torch.from_numpy(codes), representation=self.features.representation)
        return logs if self._basis is None else torch.matmul(self._basis, logs)

    def read_codes(self, rows: NDArray[np.int64], steps: NDArray[np.int64]) -> NDArray[np.int16]:
        """What the store holds of some rows, each at the pitch step of that index: (batch, windows, bands, frames)."""
        codes = np.empty((len(rows), *self.shape[2:]), dtype=np.int16)
        with (self.folder / "pictures.i16").open("rb", buffering=0) as file:
            for target, row, step in zip(codes, rows, steps, strict=True):
                file.seek((int(row) * self.shape[1] + int(step)) * target.nbytes)
                if file.readinto(target.data) != target.nbytes:
                    raise DataError(f"{self.folder}: shorter than it was written; delete it, and it is built again")
        return codes

    def statistics(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation, each (windows,), over the unshifted pictures of some rows."""
        mean, square = np.moveaxis(self.moments[rows].mean(axis=0), -1, 0)
        return mean, np.sqrt(np.maximum(square - mean**2, 1e-12))


def encode(logs: Tensor, *, representation: str = "log_mel") -> NDArray[np.int16]:
    """Log powers as int16 codes; values beyond what they reach are held at the end of the range."""
    kept = REPRESENTATIONS[representation]
    codes = torch.round((logs - kept.zero_at) * kept.steps_per_unit)
    return codes.clamp_(-32768, 32767).to(torch.int16).numpy()


def decode(codes: Tensor, *, representation: str = "log_mel") -> Tensor:
    """Log powers float32 of int16 codes, on their device."""
    kept = REPRESENTATIONS[representation]
    return codes.float().div_(kept.steps_per_unit).add_(kept.zero_at)


def default_cache() -> Path:
    """Folder for stores: ``$EARSIGHT_CACHE``, or ``earsight`` in the user's cache folder."""
    named = os.environ.get("EARSIGHT_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "earsight"


def store_key(dataset: Dataset, features: Features, semitones: Sequence[int]) -> str:
    """Sixteen hexadecimal digits that name a store's content."""
    manifest = []
    for row, clip in enumerate(dataset.clips):
        try:
            status = dataset.file(row).stat()
            manifest.append([clip.path, status.st_size, status.st_mtime_ns])
        except OSError:
            manifest.append([clip.path, None, None])
    content = [FORMAT_VERSION, features.model_dump(mode="json"), list(semitones), manifest]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def open_store(
    dataset: Dataset,
    features: Features,
    *,
    semitones: Sequence[int] = (0,),
    cache: Path | None = None,
    workers: int = 0,
    progress: Progress | None = None,
) -> Store:
    """Open a data set's store, building what is not there yet.

    Parameters
    ----------
    dataset : Dataset
    features : Features
        Resolved feature settings.
    semitones : sequence of int
        Pitch steps to hold, rising, 0 among them.
    cache : Path, optional
        Folder that holds the stores; default `default_cache`.
    workers : int
        Decoding threads; 0 is one a core.
    progress : callable, optional
        Told of every clip.

    Returns
    -------
    Store
        With the reasons of unreadable clips in ``errors``; nothing is raised for those.

    Raises
    ------
    DataError
        If the disk has too little room.
    """
    cache = cache or default_cache()
    key = store_key(dataset, features, semitones)
    final = cache / key
    if (final / "store.json").is_file() and not _open(final).errors:
        return _open(final)
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{cache}: cannot be made ({error.strerror}); set EARSIGHT_CACHE or --cache") from error
    with _locked(cache / f"{key}.lock"):
        # What could not be read before may be readable now, after a chmod or when a disk is back: those rows alone are
        # tried again, in place, since nobody reads them. Another process may have built all while this one waited.
        whole = (final / "store.json").is_file()
        if not whole or _open(final).errors:
            place = final if whole else final.with_name(final.name + ".building")
            _fill(dataset, features, tuple(semitones), place, workers=workers, progress=progress)
            if not whole:
                place.replace(final)
    return _open(final)


def _locked(path: Path) -> AbstractContextManager[Any]:
    try:
        # The proxy that acquire returns lets go once; `with` on the lock itself would take it a second time.
        return FileLock(path).acquire(timeout=12 * 3600)
    except Timeout as error:
        raise DataError(f"{path}: held by another process for 12 hours; end that process or remove the file") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be locked ({error.strerror}); set EARSIGHT_CACHE or --cache") from error


def _shape(dataset: Dataset, features: Features, semitones: Sequence[int]) -> tuple[int, ...]:
    return len(dataset.clips), len(semitones), len(features.windows_ms), features.bands, features.columns


def store_bytes(dataset: Dataset, features: Features, semitones: Sequence[int]) -> int:
    """Size of a store on disk, in bytes."""
    return 2 * int(np.prod(_shape(dataset, features, semitones), dtype=np.int64))


def _fill(
    dataset: Dataset,
    features: Features,
    semitones: tuple[int, ...],
    building: Path,
    *,
    workers: int,
    progress: Progress | None,
) -> None:
    """Compute the rows of a store that are not done, and describe it."""
    building.mkdir(exist_ok=True)
    shape = _shape(dataset, features, semitones)
    files = {
        "moments.f64": ("float64", (shape[0], shape[2], 2)),
        "state.u8": ("uint8", shape[:1]),
    }
    needed = store_bytes(dataset, features, semitones)
    present = sum(path.stat().st_blocks * 512 for path in building.iterdir() if path.is_file())
    free = shutil.disk_usage(building).free
    if needed - present > free * 0.98:
        raise DataError(
            f"{building.parent}: the pictures need {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; make room, "
            "name another folder with --cache, or keep fewer pitch steps with --set augment.pitch_semitones=0"
        )
    moments, state = (_mapped(building / name, kind, size) for name, (kind, size) in files.items())
    front_end = Spectrogram(features, semitones=tuple(float(step) for step in semitones))
    centre = semitones.index(0)

    def work(row: int) -> _Result:
        try:
            wave = audio.read(dataset.file(row), sample_rate_hz=features.rate, seconds=float(features.clip_seconds))
        except AudioError as error:
            return row, None, error.reason
        with torch.inference_mode():
            return row, front_end.band_views(torch.from_numpy(audio.fit(wave, features.samples))[None])[0], ""

    todo = [row for row in range(shape[0]) if state[row] != _DONE]
    errors: dict[int, str] = {}
    done = shape[0] - len(todo)
    if progress:
        progress(done, shape[0])
    with _sized(building / "pictures.i16", needed).open("r+b", buffering=0) as file:
        for row, logs, reason in in_order(work, todo, workers=workers):
            if logs is None:
                errors[row] = reason
            else:
                codes = encode(logs, representation=features.representation)
                file.seek(row * codes.nbytes)
                if file.write(codes.data) != codes.nbytes:  # a disk that fills up takes a part before it refuses
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(building))
                plain = front_end.finish(logs[centre]).double()
                moments[row, :, 0] = plain.mean(dim=(1, 2))
                moments[row, :, 1] = plain.square().mean(dim=(1, 2))
            # Written after the row itself, so that a kill in between only does the row again.
            state[row] = _BAD if logs is None else _DONE
            done += 1
            if progress:
                progress(done, shape[0])
        os.fsync(file.fileno())
    moments.flush()
    state.flush()
    content: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "shape": shape,
        "semitones": semitones,
        "errors": {str(row): errors[row] for row in sorted(errors)},
        "features": features.model_dump(mode="json"),
        "dataset": {"name": dataset.name, "digest": dataset.digest, "root": str(dataset.root)},
    }
    description = building / ".store.json.part"
    description.write_text(json.dumps(content, indent=1), encoding="utf-8")
    description.replace(building / "store.json")


def _sized(path: Path, size: int) -> Path:
    """A file of that size, which keeps what an earlier, interrupted build wrote to it."""
    with path.open("ab") as file:
        file.truncate(size)
    return path


def _mapped(path: Path, kind: str, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(kind).itemsize
    return np.memmap(_sized(path, size), dtype=kind, mode="r+", shape=shape)


def _open(folder: Path) -> Store:
    content = json.loads((folder / "store.json").read_text(encoding="utf-8"))
    shape = tuple(content["shape"])
    return Store(
        folder=folder,
        shape=shape,
        semitones=tuple(content["semitones"]),
        moments=np.fromfile(folder / "moments.f64").reshape(shape[0], shape[2], 2),
        errors={int(row): reason for row, reason in content["errors"].items()},
        features=Features.model_validate(content["features"]),
    )
