"""A data set's waves on disk, decoded once.

Comes in: a `Dataset` and resolved `Features`. Goes out: `Waves`, whose rows are read as float32 (batch, samples) at the
features' rate, bit for bit what `earsight.data.audio` decodes, and as spectrograms. They are kept in a folder of rows
(`earsight.features.row_file`), as the store's spectrograms are.

A clip is kept as int16 with a power of two as its scale wherever that gives each sample back exactly: 8- and 16-bit
sources at the features' rate, quiet clips of finer ones too. All others (resampled, mixed from channels, decoded from
MP3) are kept as float32. Rounded to int16, a full-scale clip has noise of mel power 4e-6 in its upper bands, where
silence is 1e-6: log-mels would be off by 1.6, and 1e-3 is promised. Float16 has three bits less on loud samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from earsight.cache import default_cache, made_cache
from earsight.data.datasets import Dataset
from earsight.features.augment import Draws, step_indices
from earsight.features.content_key import content_key, earlier_folder
from earsight.features.row_file import Progress, Row, RowFile, RowLayout, open_rows
from earsight.features.spectrogram import Spectrogram
from earsight.features.store import moments, statistics
from earsight.features.windows import ClipWindows, single_windows
from earsight.recipe import Features

WAVES_VERSION = 3
_WITHOUT_DIGESTS = 2
_FILE, _SCALES = "waves.bin", "scales.f32"
_FINEST = 30
"""Largest power of two tried as a clip's scale."""


class Waves(RowFile):
    """Open waves of a data set."""

    @property
    def scales(self) -> NDArray[np.float32]:
        """Factor of each row's int16 values, shape (rows,); 0 where it is float32 or could not be read."""
        return self.tables[_SCALES]

    @property
    def whole(self) -> bool:
        """Whether all clips that can be read are int16."""
        readable = np.ones(len(self.sounds), dtype=bool)
        readable[list(self.errors)] = False
        return bool((self.scales[readable] > 0).all())

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, samples)."""
        return len(self.sounds), self.features.samples

    @property
    def bytes_on_disk(self) -> int:
        """Size of the values: rows of int16 fill half of their place in the file and leave a hole."""
        return int(np.where(self.scales > 0, 2, 4).sum()) * self.features.samples

    def read_raw(self, row: int) -> NDArray[np.int16] | NDArray[np.float32]:
        """A clip as it is kept, (samples,): int16 to be multiplied by its scale, or float32; zeros if unreadable."""
        values: NDArray[Any] = np.zeros(self.features.samples, dtype=np.int16 if self.scales[row] else np.float32)
        if row not in self.errors:
            self.read_values(values[None], [row], [0])
        return values

    def computed(self, wave: NDArray[np.float32]) -> Iterator[Row]:
        """See `RowFile.computed`."""
        yield _row(wave)

    def read_waves(self, rows: NDArray[np.int64]) -> Tensor:
        """Waves (batch, samples) float32 of some rows."""
        waves = np.stack([self.read_raw(int(row)) * (self.scales[row] or np.float32(1)) for row in rows])
        return torch.from_numpy(waves.astype(np.float32, copy=False))

    @cached_property
    def _front_end(self) -> Spectrogram:
        return Spectrogram(self.features, semitones=tuple(float(step) for step in self.semitones))

    def read(self, rows: NDArray[np.int64], *, draws: Draws | None = None) -> Tensor:
        """Spectrograms of some rows, each at its own pitch; see `earsight.features.store.Store.read`."""
        steps = torch.from_numpy(step_indices(self.semitones, len(rows), draws))
        with torch.inference_mode():
            spectrograms = self._front_end.spectrograms(self.read_waves(rows), steps=steps)[:, 0]
        return spectrograms.clone()

    def statistics(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation, each (windows,), over the unshifted spectrograms of some rows; computed anew."""
        return statistics(np.stack([moments(self.read(rows[start : start + 1]))[0] for start in range(len(rows))]))


def exact_scale(wave: NDArray[np.float32]) -> float:
    """The largest power of two of which every sample is a whole multiple within int16; 0 if there is none."""
    for power in range(15, _FINEST + 1):
        whole = wave * np.float32(2.0**power)
        if whole.min() < -32768 or whole.max() > 32767:
            break
        if np.array_equal(whole, np.rint(whole)):
            return float(2.0**-power)
    return 0.0


def _row(wave: NDArray[np.float32]) -> Row:
    scale = exact_scale(wave)
    values = (wave / np.float32(scale)).astype(np.int16) if scale else wave
    return values, {_SCALES: np.array([scale], dtype=np.float32)}


def waves_key(
    dataset: Dataset, features: Features, *, cache: Path | None = None, windows: ClipWindows | None = None
) -> str:
    """Hash (16 hex digits) of the sound files, and of the waves' rate, length, channel and begins."""
    cut = windows.key if windows else []
    settings = "waves", WAVES_VERSION, features.rate, features.samples, *_channel(features), *cut
    return content_key(dataset, *settings, cache=cache or default_cache())


def _channel(features: Features) -> list[Any]:
    """The channel, for keys, where it is not the average."""
    return [] if features.channel == "mix" else [{"channel": features.channel}]


def waves_bytes(rows: int, features: Features) -> int:
    """Size of the waves on a device, in bytes, if all are float32."""
    return 4 * rows * features.samples


def open_waves(
    dataset: Dataset,
    features: Features,
    *,
    semitones: Sequence[int] = (0,),
    cache: Path | None = None,
    workers: int = 0,
    progress: Progress | None = None,
    windows: ClipWindows | None = None,
    look: Callable[[], None] | None = None,
) -> Waves:
    """Open a data set's waves, decoding missing rows; arguments and errors as in `open_store`."""
    cache = cache or made_cache()
    windows = windows or single_windows(len(dataset.clips))
    key = waves_key(dataset, features, cache=cache, windows=windows)
    folder = cache / key
    settings = "waves", _WITHOUT_DIGESTS, features.rate, features.samples, *_channel(features)
    return open_rows(
        Waves,
        folder,
        RowLayout("waves", _FILE, row_bytes=4 * features.samples, tables={_SCALES: ("float32", ())}),
        dataset=dataset,
        features=features,
        semitones=semitones,
        compute=_row,
        about={"waves_version": WAVES_VERSION, "sample_rate_hz": features.rate, "samples": features.samples},
        workers=workers,
        progress=progress,
        earlier=None
        if folder.is_dir() or not windows.single
        else earlier_folder(dataset, *settings, key=key, cache=cache),
        windows=windows,
        look=look,
    )
