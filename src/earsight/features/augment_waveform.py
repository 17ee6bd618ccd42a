"""Slow reference augmentation: changes the wave, then computes its spectrogram.

Comes in: a data set, features, and the same draws as `earsight.features.augment` takes, which a test holds to this.
Goes out: spectrograms (batch, windows, bands, frames). Every example is decoded anew and changed by Signalsmith Stretch
(the package python-stretch, extra ``waveform``).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from earsight.data import audio
from earsight.data.datasets import Dataset
from earsight.errors import RecipeError
from earsight.features.augment import Draws
from earsight.features.row_file import part_of, read_clip
from earsight.features.spectrogram import Spectrogram, silence
from earsight.features.windows import ClipWindows, single_windows
from earsight.recipe import Features


def change_wave(
    wave: NDArray[np.float32], *, sample_rate_hz: int, semitones: float = 0.0, speed: float = 1.0
) -> NDArray[np.float32]:
    """A wave (samples,) shifted in pitch, upwards positive, and of another speed: (round(samples / speed),) float32.

    RecipeError if python-stretch is not installed.
    """
    try:
        from python_stretch import Signalsmith
    except ImportError as error:
        raise RecipeError(
            "augment.backend is waveform, which needs python-stretch: python -m pip install 'earsight[waveform]'"
        ) from error
    if semitones == 0 and speed == 1:
        return wave
    stretch = Signalsmith.Stretch()
    stretch.preset(1, sample_rate_hz)
    stretch.setTransposeSemitones(semitones)
    stretch.setTimeFactor(speed)
    # `process` takes the whole sound and gives it back without the stretcher's latency: nothing is cut off here.
    out = np.asarray(stretch.process(np.ascontiguousarray(wave, dtype=np.float32)[None]))[0]
    return audio.fit(out.astype(np.float32), round(len(wave) / speed))


class WaveformSource:
    """Spectrograms of a data set's rows, decoded and changed at every read."""

    stretches = True
    """Rows are read rolled, stretched and shifted in pitch."""

    def __init__(self, dataset: Dataset, features: Features, *, windows: ClipWindows | None = None) -> None:
        self.dataset = dataset
        self.features = features
        self.windows = windows or single_windows(len(dataset.clips))
        self.front_end = Spectrogram(features)
        self.silence = silence(features)

    def read(self, rows: NDArray[np.int64], *, draws: Draws | None = None) -> Tensor:
        """Spectrograms (batch, windows, bands, frames) float32 of some rows."""
        waves = np.stack([self._wave(int(row), index, draws) for index, row in enumerate(rows)])
        with torch.inference_mode():
            spectrograms = self.front_end.spectrograms(torch.from_numpy(waves))[:, 0]
        return spectrograms.clone()

    def _wave(self, row: int, index: int, draws: Draws | None) -> NDArray[np.float32]:
        rate, samples = self.features.rate, self.features.samples
        wave = read_clip(self.dataset, int(self.windows.clips[row]), self.features, self.windows)
        wave = audio.fit(part_of(wave, row, self.features, self.windows), samples)
        if draws is None:
            return wave
        wave = np.roll(wave, int(draws.roll[index] * samples))
        wave = change_wave(
            wave, sample_rate_hz=rate, semitones=float(draws.semitones[index]), speed=float(draws.speed[index])
        )
        # A longer sound is cropped from a drawn place, a shorter one stands at a drawn place among silence.
        spare = len(wave) - samples
        if spare >= 0:
            return audio.fit(wave[int(draws.place[index] * spare) :], samples)
        return audio.fit(np.pad(wave, (int(draws.place[index] * -spare), 0)), samples)
