"""The front end: from waves to spectrograms, one for training, prediction and export.

Comes in: waves (batch, samples) float32 at ``features.sample_rate_hz``, on any device. Goes out: spectrograms
(batch, 3, bands, frames) float32, the three-channel log-mel or another representation
(`earsight.features.filterbanks`). Every step is differentiable down to the wave.

The numbers: log(band energy + 1e-6), natural; a periodic Hann window of ``windows_ms`` zero-padded to ``fft_ms``;
centred frames over a reflected wave; then each channel is resized in time, bilinear with antialiasing, to ``frames``
columns (Palanisamy et al. 2020, arXiv 2007.11154). With log-mels, the default, the bands are triangles of height 1 on
the HTK mel scale from ``fmin_hz`` to ``fmax_hz``, by default from 0 Hz to half the rate.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from earsight.errors import RecipeError
from earsight.features.filterbanks import FLOOR, LOG_OFFSET, REPRESENTATIONS, filterbank
from earsight.features.stft import Banded, BandEnergies, simd_stft
from earsight.recipe import Features

RESIZE_ROWS = 50
"""Columns of the spectrogram that are resized at once, from the frames around them."""
COLUMNS_AT_A_TIME = 512
"""Frames whose weights in the resize are computed at once."""


def resize_matrix(columns_in: int, columns_out: int) -> Tensor:
    """The matrix (columns_in, columns_out) of torch's own bilinear resize with antialiasing along one axis."""
    parts = []
    for first in range(0, columns_in, COLUMNS_AT_A_TIME):  # the whole identity is the square of the columns
        eye = torch.zeros(min(COLUMNS_AT_A_TIME, columns_in - first), columns_in)
        eye[torch.arange(len(eye)), first + torch.arange(len(eye))] = 1
        size = (len(eye), columns_out)
        parts.append(F.interpolate(eye[None, None], size=size, mode="bilinear", antialias=True)[0, 0])
    return torch.cat(parts)


def basis(features: Features) -> Tensor | None:
    """The matrix (bands, bands) float32 from log energies to a spectrogram's rows; None where they are the rows."""
    make = REPRESENTATIONS[features.representation].basis
    return None if make is None else torch.from_numpy(make(features.bands))


def silence(features: Features) -> Tensor:
    """What each row of a spectrogram reads in digital silence, shape (bands,) float32."""
    floor = torch.full((features.bands,), FLOOR)
    rows = basis(features)
    return floor if rows is None else rows @ floor


def _check_bank(features: Features, bank: NDArray[np.float32]) -> None:
    """Refuse a range of frequencies in which more than half of the bands hold no point of the FFT."""
    empty = int((bank.max(axis=1) < 1e-6).sum())
    if 2 * empty > features.bands:
        low, high = features.band_hz
        raise RecipeError(
            f"features.bands is {features.bands}, and between fmin_hz = {low:g} and fmax_hz = {high:g} {empty} of them "
            f"hold no point of an FFT of {features.fft_ms:g} ms: set fewer bands, a longer fft_ms or a wider range"
        )


class Spectrogram(nn.Module):
    """The front end that ``features``, resolved (no ``auto`` left), describes, at one or several pitch steps.

    ``semitones`` are the steps that `spectrograms` computes; the default is the sound as it is. The FFT runs in
    ``fft_dtype``: float32 leaves errors of up to 0.01 in the log-mels of silent bands beside loud ones. RecipeError if
    the clips are too short to be reflected by half an FFT, or most bands too narrow for the FFT.
    """

    def __init__(
        self, features: Features, *, semitones: tuple[float, ...] = (0.0,), fft_dtype: torch.dtype = torch.float64
    ) -> None:
        super().__init__()
        self.features = features
        self.semitones = semitones
        rate = features.rate
        self.fft_points = round(features.fft_ms * rate / 1000)
        self.window_samples = [round(ms * rate / 1000) for ms in features.windows_ms]
        self.hop_samples = [max(1, round(min(ms * rate / 1000, features.samples + 1))) for ms in features.hops_ms]
        if min(self.window_samples) < 2:
            raise RecipeError(
                f"features.windows_ms: {min(features.windows_ms):g} ms is below two samples at {rate} Hz; "
                "set longer windows"
            )
        if features.samples <= self.fft_points // 2:
            raise RecipeError(
                f"features.clip_seconds is {features.clip_seconds:g}, below half of fft_ms = {features.fft_ms:g}: "
                "set a longer clip_seconds or a shorter fft_ms"
            )
        banks = [filterbank(features, fft_points=self.fft_points, semitones=step) for step in semitones]
        if (features.fmin_hz, features.fmax_hz) != (0, "none"):
            _check_bank(features, filterbank(features, fft_points=self.fft_points))
        self.register_buffer("basis", basis(features), persistent=False)
        self.energies = nn.ModuleList(
            BandEnergies(
                np.concatenate(banks),
                window_samples=window,
                hop_samples=hop,
                fft_points=self.fft_points,
                dtype=fft_dtype,
            )
            for window, hop in zip(self.window_samples, self.hop_samples, strict=True)
        )
        self.kernels: nn.ModuleList | None = None
        resizes = [resize_matrix(1 + features.samples // hop, features.columns).T for hop in self.hop_samples]
        self.resizes = nn.ModuleList(Banded(matrix.numpy(), block_rows=RESIZE_ROWS) for matrix in resizes)

    def use_kernels(self) -> Spectrogram:
        """Compute by SIMD kernels from now on, where there are some: faster, and the same up to rounding."""
        self.kernels = nn.ModuleList(
            simd_stft(power) if isinstance(power, BandEnergies) else power for power in self.energies
        )
        return self

    def reflected(self, waves: Tensor) -> Tensor:
        """Waves (batch, samples) with half an FFT of their reflection at each end."""
        half = self.fft_points // 2  # by parts, in a third of the time of `F.pad`
        return torch.cat([waves[:, 1 : half + 1].flip(1), waves, waves[:, -half - 1 : -1].flip(1)], dim=1)

    def log_bands(self, reflected: Tensor, *, window: int, steps: Tensor | None = None) -> Tensor:
        """Log energies (batch, steps, bands, 1 + samples // hop) of one window, before the resize."""
        power = (self.kernels or self.energies)[window](reflected).mT
        power = power.view(len(reflected), len(self.semitones), self.features.bands, -1)
        if steps is not None:
            # Picked by index on the device: a batch grouped by pitch would have another shape at each step of training.
            power = power[torch.arange(len(reflected), device=power.device), steps][:, None]
        return torch.log(power + LOG_OFFSET)

    def band_energies(self, waves: Tensor, *, steps: Tensor | None = None) -> Tensor:
        """Log band energies at every pitch step, one channel a window, before the representation's basis.

        Comes in: ``waves`` (batch, features.samples), float32, and the index of one pitch step for each in ``steps``,
        int64 (batch,); without it all steps are given for every wave. Goes out: (batch, steps, windows, bands, frames),
        float32.
        """
        padded = self.reflected(waves)
        logs = (self.log_bands(padded, window=window, steps=steps) for window in range(len(self.resizes)))
        channels = [resize(log) for resize, log in zip(self.resizes, logs, strict=True)]
        return torch.stack(channels, dim=2)

    def finish(self, logs: Tensor) -> Tensor:
        """Spectrograms (..., bands, frames) of log energies of that shape: times the representation's basis, if any."""
        rows: Tensor | None = self.basis  # type: ignore[assignment]
        return logs if rows is None else torch.matmul(rows, logs)

    def spectrograms(self, waves: Tensor, *, steps: Tensor | None = None) -> Tensor:
        """Spectrograms at every pitch step, one channel a window; takes and gives what `band_energies` does."""
        return self.finish(self.band_energies(waves, steps=steps))

    def forward(self, waves: Tensor) -> Tensor:
        """Spectrograms (batch, 3, bands, frames) at the first pitch step; a single window fills all three channels."""
        spectrograms = self.spectrograms(waves)[:, 0]
        return spectrograms.expand(-1, 3, -1, -1)
