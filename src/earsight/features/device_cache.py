"""Device cache: a data set's spectrograms or waves in the memory of the device that trains.

Comes in: a `Store`, or `Waves`. Goes out: sources of spectrograms (batch, windows, bands, frames) float32 whose rows
and pitch steps are tensors on the device, so that a training step never waits for the host. Spectrograms take 2 bytes a
value and pitch step, and a step copies them; waves take less room, and a step computes their spectrograms anew.
"""

from __future__ import annotations

import abc

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from earsight.features.augment import Draws, step_indices
from earsight.features.spectrogram import Spectrogram, basis
from earsight.features.store import Store, decode, moments, statistics
from earsight.features.waves import Waves

_CHUNK_ROWS = 16
"""Rows that are copied to the device at a time, so that the host's memory does not grow with the data set."""


class DeviceCache(abc.ABC):
    """Spectrograms from data on a device; ``semitones`` and ``silence`` as in `earsight.features.row_file.RowFile`."""

    stretches = False
    semitones: tuple[int, ...]
    device: torch.device
    silence: Tensor

    @abc.abstractmethod
    def pick(self, rows: Tensor, steps: Tensor) -> Tensor:
        """Spectrograms (batch, windows, bands, frames) float32 of some rows, each at the pitch step of that index.

        ``rows`` and ``steps`` are int64 (batch,) on the device; the host does not wait for the result.
        """

    def read(self, rows: NDArray[np.int64], *, draws: Draws | None = None) -> Tensor:
        """Spectrograms of some rows, each at its drawn pitch; see `earsight.features.store.Store.read`."""
        steps = torch.from_numpy(step_indices(self.semitones, len(rows), draws))
        return self.pick(torch.from_numpy(rows).to(self.device), steps.to(self.device))


class SpectrogramCache(DeviceCache):
    """A store's int16 codes on a device, every pitch step of every row."""

    def __init__(self, store: Store, device: torch.device) -> None:
        self.semitones, self.device, self.silence = store.semitones, device, store.silence
        rows = basis(store.features)
        self._basis = None if rows is None else rows.to(device)
        self._representation = store.features.representation
        count, steps = store.shape[:2]
        self._codes = torch.empty((count * steps, *store.shape[2:]), dtype=torch.int16, device=device)
        for start in range(0, count * steps, _CHUNK_ROWS):
            index = np.arange(start, min(start + _CHUNK_ROWS, count * steps))
            self._codes[start : start + len(index)] = torch.from_numpy(store.read_codes(index // steps, index % steps))

    def pick(self, rows: Tensor, steps: Tensor) -> Tensor:
        """See `DeviceCache.pick`."""
        logs = decode(self._codes[rows * len(self.semitones) + steps], representation=self._representation)
        return logs if self._basis is None else torch.matmul(self._basis, logs)


class WaveCache(DeviceCache):
    """A data set's waves (rows, samples) on a device: int16 where that is exact for every clip, else float32."""

    def __init__(self, waves: Waves, device: torch.device) -> None:
        self.semitones, self.device, self.silence = waves.semitones, device, waves.silence
        whole = waves.whole
        kind = torch.int16 if whole else torch.float32
        self.waves = torch.zeros(waves.shape, dtype=kind, device=device)
        for row in range(len(waves.scales)):
            values = waves.read_raw(row)
            self.waves[row] = torch.from_numpy(values if whole else values * (waves.scales[row] or np.float32(1)))
        scales = np.where(waves.scales > 0, waves.scales, 1) if whole else np.ones(len(waves.scales))
        self._scales = torch.tensor(scales, dtype=torch.float32, device=device)[:, None]
        steps = tuple(float(step) for step in self.semitones)
        self._front_end = Spectrogram(waves.features, semitones=steps).to(device)
        self._moments = self._measured()

    def pick(self, rows: Tensor, steps: Tensor) -> Tensor:
        """See `DeviceCache.pick`; computed from the waves."""
        with torch.no_grad():
            waves = self.waves[rows].float() * self._scales[rows]
            return self._front_end.spectrograms(waves, steps=steps)[:, 0]

    def statistics(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation, each (windows,), over the unshifted spectrograms of some rows."""
        return statistics(self._moments[rows])

    def _measured(self) -> NDArray[np.float64]:
        """Moments of every row's unshifted spectrogram, (rows, windows, 2)."""
        parts = np.split(np.arange(len(self.waves)), range(_CHUNK_ROWS, len(self.waves), _CHUNK_ROWS))
        return np.concatenate([moments(self.read(part)) for part in parts])
