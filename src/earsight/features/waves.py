"""A data set's waves on disk, decoded once: row i is clip i, for ever.

Comes in: a `Dataset` and resolved `Features`. Goes out: `Waves`, whose rows read as float32 (batch, samples) at the
features' rate, to the last bit what `earsight.data.audio` decodes, and as spectrograms. They are kept as
`earsight.features.store` keeps spectrograms: keyed, resumable, in memory that does not grow with the clips.

A clip is kept as int16 with a power of two as its scale wherever that gives each sample back exactly: 8- and 16-bit
sources at the features' rate, quiet clips of finer ones too. All others (resampled, mixed from channels, decoded from
MP3) are kept as float32. Rounding them to int16 would not do: its noise, spread evenly over all frequencies, lies at a
mel power of 4e-6 in the upper bands of a full-scale clip, and silence there is drawn at 1e-6, so that log-mels would be
off by 1.6 where they are promised to 1e-3; float16, with three bits less on loud samples, is worse.
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
from earsight.features.row_file import DIGESTS, SOUNDS, Progress, Row, RowLayout, digest, open_row_file, read_table
from earsight.features.spectrogram import Spectrogram, silence
from earsight.features.store import manifest, moments, statistics
from earsight.recipe import Features

WAVES_VERSION = 2
_FILE, _SCALES = "waves.bin", "scales.f32"
_FINEST = 30
"""Largest power of two by which a clip's samples are multiplied in search of whole numbers."""


@dataclass(frozen=True)
class Waves:
    """Open waves of a data set.

    Attributes
    ----------
    folder : Path
    rows, samples : int
    scales : ndarray of float32, shape (rows,)
        What a row's int16 values are multiplied by; 0 where the row is float32 (or could not be read).
    sounds : ndarray of uint8, shape (rows, 16)
        Digest of each clip as it was decoded; zeros where it could not be read.
    errors : dict
        Row to reason, for the clips that could not be read.
    features : Features
    semitones : tuple of int
        The pitch steps that `read` can show.
    """

    folder: Path
    rows: int
    samples: int
    scales: NDArray[np.float32]
    sounds: NDArray[np.uint8]
    errors: dict[int, str]
    features: Features
    semitones: tuple[int, ...]

    stretches = False
    """Rows come at their pitch alone."""

    @property
    def whole(self) -> bool:
        """Whether all clips that can be read are int16."""
        readable = np.ones(self.rows, dtype=bool)
        readable[list(self.errors)] = False
        return bool((self.scales[readable] > 0).all())

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, samples)."""
        return self.rows, self.samples

    @property
    def bytes_on_disk(self) -> int:
        """What the values take: rows of int16 fill half of their place in the file and leave a hole."""
        return int(np.where(self.scales > 0, 2, 4).sum()) * self.samples

    def read_raw(self, row: int) -> NDArray[np.int16] | NDArray[np.float32]:
        """A clip as it is kept, (samples,): int16 to be multiplied by its scale, or float32; zeros if unreadable."""
        values: NDArray[Any] = np.zeros(self.samples, dtype=np.int16 if self.scales[row] else np.float32)
        if row in self.errors:
            return values
        with (self.folder / _FILE).open("rb", buffering=0) as file:
            file.seek(row * self.samples * 4)
            if file.readinto(values.data) != values.nbytes:
                raise DataError(f"{self.folder}: shorter than it was written; delete it, and it is built again")
        return values

    def read_waves(self, rows: NDArray[np.int64]) -> Tensor:
        """Waves (batch, samples) float32 of some rows."""
        waves = np.stack([self.read_raw(int(row)) * (self.scales[row] or np.float32(1)) for row in rows])
        return torch.from_numpy(waves.astype(np.float32, copy=False))

    @cached_property
    def silence(self) -> Tensor:
        """What each row of the spectrograms reads in digital silence, shape (bands,)."""
        return silence(self.features)

    @cached_property
    def _front_end(self) -> Spectrogram:
        return Spectrogram(self.features, semitones=tuple(float(step) for step in self.semitones))

    def read(self, rows: NDArray[np.int64], *, draws: Draws | None = None) -> Tensor:
        """Spectrograms of some rows, each at its own pitch; see `earsight.features.store.Store.read`."""
        wanted = np.zeros(len(rows), dtype=np.int64) if draws is None else draws.semitones
        steps = torch.from_numpy(np.searchsorted(self.semitones, wanted))
        with torch.inference_mode():
            spectrograms = self._front_end.spectrograms(self.read_waves(rows), steps=steps)[:, 0]
        return spectrograms.clone()

    def statistics(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation, each (windows,), over the unshifted spectrograms of some rows; computed anew."""
        return statistics(np.stack([moments(self.read(rows[start : start + 1]))[0] for start in range(len(rows))]))


def exact_scale(wave: NDArray[np.float32]) -> float:
    """The power of two of which every sample is a whole multiple within int16, the largest tried first; 0 for none."""
    for power in range(15, _FINEST + 1):
        whole = wave * np.float32(2.0**power)
        if whole.min() < -32768 or whole.max() > 32767:
            break
        if np.array_equal(whole, np.rint(whole)):
            return float(2.0**-power)
    return 0.0


def waves_key(dataset: Dataset, features: Features) -> str:
    """Sixteen hexadecimal digits that name the waves: the files, and the rate and length that they are brought to."""
    content = ["waves", WAVES_VERSION, features.rate, features.samples, manifest(dataset)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def waves_bytes(dataset: Dataset, features: Features) -> int:
    """Size of the waves on a device, in bytes, if no clip can be held in int16."""
    return 4 * len(dataset.clips) * features.samples


def open_waves(
    dataset: Dataset,
    features: Features,
    *,
    semitones: Sequence[int] = (0,),
    cache: Path | None = None,
    workers: int = 0,
    progress: Progress | None = None,
) -> Waves:
    """Open a data set's waves, decoding what is not there yet; see `earsight.features.store.open_store`.

    Raises
    ------
    DataError
        If the disk has too little room.
    """

    def work(row: int) -> tuple[int, Row | None, str]:
        try:
            wave = audio.read(dataset.file(row), sample_rate_hz=features.rate, seconds=float(features.clip_seconds))
        except AudioError as error:
            return row, None, error.reason
        sound = digest(wave)
        wave = audio.fit(wave, features.samples)
        scale = exact_scale(wave)
        values = (wave / np.float32(scale)).astype(np.int16) if scale else wave
        return row, Row(values, {_SCALES: np.array(scale, dtype=np.float32), SOUNDS: sound}), ""

    count, samples = len(dataset.clips), features.samples
    layout = RowLayout("waves", _FILE, row_bytes=4 * samples, tables={_SCALES: ("float32", ()), SOUNDS: DIGESTS})
    folder = (cache or default_cache()) / waves_key(dataset, features)
    about = {
        "waves_version": WAVES_VERSION,
        "sample_rate_hz": features.rate,
        "samples": samples,
        "dataset": {"name": dataset.name, "digest": dataset.digest, "root": str(dataset.root)},
    }
    content = open_row_file(folder, layout, count=count, work=work, about=about, workers=workers, progress=progress)
    return Waves(
        folder=folder,
        rows=count,
        samples=samples,
        scales=read_table(folder, _SCALES, layout),
        sounds=read_table(folder, SOUNDS, layout),
        errors={int(row): reason for row, reason in content["errors"].items()},
        features=features,
        semitones=tuple(semitones),
    )
