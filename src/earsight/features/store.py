"""A data set's spectrograms on disk, built once: row i is clip i, for ever.

Comes in: a `Dataset` and resolved `Features`. Goes out: a `Store`, whose rows read as spectrograms
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

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from earsight.cache import default_cache
from earsight.data import audio
from earsight.data.datasets import Dataset
from earsight.errors import AudioError, DataError
from earsight.features.augment import Draws
from earsight.features.filterbanks import REPRESENTATIONS
from earsight.features.row_file import (
    DIGESTS,
    SOUNDS,
    Progress,
    Row,
    RowLayout,
    digest,
    is_complete,
    open_row_file,
    read_description,
    read_table,
)
from earsight.features.spectrogram import Spectrogram, basis, silence
from earsight.kernels.runtime import WORTH_IT
from earsight.recipe import Features

FORMAT_VERSION = 3
_CODES, _MOMENTS = "pictures.i16", "moments.f64"


@dataclass(frozen=True)
class Store:
    """Open spectrograms of a data set.

    Attributes
    ----------
    folder : Path
        Where it lies.
    shape : tuple of int
        (rows, steps, windows, bands, frames).
    semitones : tuple of int
        The pitch step of each index along the second axis.
    moments : ndarray of float64, shape (rows, windows, 2)
        Mean, and mean of squares, of each row's unshifted spectrogram.
    sounds : ndarray of uint8, shape (rows, 16)
        Digest of each clip as it was decoded; zeros where it could not be read.
    errors : dict
        Row to reason, for the clips that could not be read.
    features : Features
        Resolved settings of the front end that made the spectrograms.
    """

    folder: Path
    shape: tuple[int, ...]
    semitones: tuple[int, ...]
    moments: NDArray[np.float64]
    sounds: NDArray[np.uint8]
    errors: dict[int, str]
    features: Features

    stretches = False
    """The store holds pitch steps; stretching is left to `earsight.features.augment.apply`."""

    @cached_property
    def silence(self) -> Tensor:
        """What each row of the spectrograms reads in digital silence, shape (bands,)."""
        return silence(self.features)

    @cached_property
    def _basis(self) -> Tensor | None:
        return basis(self.features)

    @property
    def bytes_on_disk(self) -> int:
        """What the spectrograms take."""
        return 2 * int(np.prod(self.shape, dtype=np.int64))

    def read(self, rows: NDArray[np.int64], *, draws: Draws | None = None) -> Tensor:
        """Spectrograms of some rows, each at its own pitch step.

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
        with (self.folder / _CODES).open("rb", buffering=0) as file:
            for target, row, step in zip(codes, rows, steps, strict=True):
                file.seek((int(row) * self.shape[1] + int(step)) * target.nbytes)
                if file.readinto(target.data) != target.nbytes:
                    raise DataError(f"{self.folder}: shorter than it was written; delete it, and it is built again")
        return codes

    def statistics(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation, each (windows,), over the unshifted spectrograms of some rows."""
        return statistics(self.moments[rows])


def moments(spectrograms: Tensor) -> NDArray[np.float64]:
    """Mean, and mean of squares, of each channel of each spectrogram: (batch, windows, 2)."""
    exact = spectrograms.double()
    both = torch.stack([exact.mean(dim=(2, 3)), exact.square().mean(dim=(2, 3))], dim=2)
    found: NDArray[np.float64] = both.cpu().numpy()
    return found


def statistics(rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation, each (windows,), over rows of `moments`."""
    mean, square = np.moveaxis(rows.mean(axis=0), -1, 0)
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


def manifest(dataset: Dataset) -> list[list[Any]]:
    """What a data set's sounds are: path, size and time of change of each file, in order."""
    files: list[list[Any]] = []
    for row, clip in enumerate(dataset.clips):
        try:
            status = dataset.file(row).stat()
            files.append([clip.path, status.st_size, status.st_mtime_ns])
        except OSError:
            files.append([clip.path, None, None])
    return files


def store_key(dataset: Dataset, features: Features, semitones: Sequence[int]) -> str:
    """Sixteen hexadecimal digits that name a store's content."""
    content = [FORMAT_VERSION, features.model_dump(mode="json"), list(semitones), manifest(dataset)]
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
    front_end = Spectrogram(features, semitones=tuple(float(step) for step in semitones))
    centre = list(semitones).index(0)

    def work(row: int) -> tuple[int, Row | None, str]:
        try:
            wave = audio.read(dataset.file(row), sample_rate_hz=features.rate, seconds=float(features.clip_seconds))
        except AudioError as error:
            return row, None, error.reason
        with torch.inference_mode():
            logs = front_end.band_energies(torch.from_numpy(audio.fit(wave, features.samples))[None])[0]
            codes = encode(logs, representation=features.representation)
            small = {_MOMENTS: moments(front_end.finish(logs[centre])[None])[0], SOUNDS: digest(wave)}
            return row, Row(codes, small), ""

    folder = (cache or default_cache()) / store_key(dataset, features, semitones)
    if len(dataset.clips) >= WORTH_IT and not is_complete(folder):
        front_end.use_kernels()
    shape = _shape(dataset, features, semitones)
    about = {
        "format_version": FORMAT_VERSION,
        "shape": shape,
        "semitones": list(semitones),
        "features": features.model_dump(mode="json"),
        "dataset": {"name": dataset.name, "digest": dataset.digest, "root": str(dataset.root)},
    }
    open_row_file(folder, _layout(shape), count=shape[0], work=work, about=about, workers=workers, progress=progress)
    return _open(folder)


def _layout(shape: Sequence[int]) -> RowLayout:
    return RowLayout(
        what="spectrograms",
        file=_CODES,
        row_bytes=2 * int(np.prod(shape[1:], dtype=np.int64)),
        tables={_MOMENTS: ("float64", (shape[2], 2)), SOUNDS: DIGESTS},
        remedy="keep fewer pitch steps with --set augment.pitch_semitones=0, or ",
    )


def _shape(dataset: Dataset, features: Features, semitones: Sequence[int]) -> tuple[int, ...]:
    return len(dataset.clips), len(semitones), len(features.windows_ms), features.bands, features.columns


def store_bytes(dataset: Dataset, features: Features, semitones: Sequence[int]) -> int:
    """Size of a store on disk, in bytes."""
    return 2 * int(np.prod(_shape(dataset, features, semitones), dtype=np.int64))


def _open(folder: Path) -> Store:
    content = read_description(folder)
    return Store(
        folder=folder,
        shape=tuple(content["shape"]),
        semitones=tuple(content["semitones"]),
        moments=read_table(folder, _MOMENTS, _layout(content["shape"])),
        sounds=read_table(folder, SOUNDS, _layout(content["shape"])),
        errors={int(row): reason for row, reason in content["errors"].items()},
        features=Features.model_validate(content["features"]),
    )
