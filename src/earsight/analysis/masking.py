"""Split a sound in two by attributions: the part the network used, and the rest.

Comes in: a wave (samples,) float32 and the attributions of its spectrogram (windows, bands, frames). Goes out: two
waves that add up to the first one, sample by sample.

The attributions are smoothed over neighbouring cells, negative ones dropped (windows would otherwise cancel each other
out), and the windows added up. Cells are kept in proportion to that, and whole from the level above which the cells
hold half of it: a soft mask between 0 and 1. The transpose of the filterbank takes it from bands to the bins of an
STFT, linear interpolation from columns to frames. The STFT times the mask, turned back by overlap-add with the original
phase, is the sound that was used; the rest is the wave less that.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from earsight.analysis.time_axis import axis_seconds, filterbank, sum_channels
from earsight.features.spectrogram import Spectrogram

HALF = 0.5
SMOOTH_BANDS = 2.0
SMOOTH_SECONDS = 0.04
_OVERLAP = 4

_Reals = NDArray[np.float64]


def positive_part(attribution: NDArray[np.floating], *, seconds: float) -> _Reals:
    """The smoothed attributions (windows, bands, frames) of so many seconds, negative ones set to 0; same shape."""
    return np.stack([np.maximum(smoothed(channel, seconds=seconds), 0.0) for channel in attribution])


def soft_mask(attribution: NDArray[np.floating], front_end: Spectrogram) -> _Reals:
    """The kept share of each cell, 0 to 1, (bands, frames), from attributions (windows, bands, frames).

    On the common time axis; all 0 where no attribution is positive.
    """
    seconds = front_end.features.samples / front_end.features.rate
    used = sum_channels(positive_part(attribution, seconds=seconds), front_end)
    level = half_level(used)
    return np.minimum(used / level, 1.0) if level else np.zeros_like(used)


def smoothed(attribution: NDArray[np.floating], *, seconds: float) -> _Reals:
    """Attributions (bands, frames) of so many seconds, averaged over neighbours: a Gaussian of 2 bands and 40 ms."""
    out = torch.from_numpy(np.asarray(attribution, dtype=np.float64))[None, None]
    for axis, width in ((2, SMOOTH_BANDS), (3, SMOOTH_SECONDS * attribution.shape[1] / seconds)):
        reach = max(1, round(3 * width))
        steps = torch.arange(-reach, reach + 1, dtype=torch.float64)
        weights = torch.exp(-0.5 * (steps / max(width, 1e-3)).square())
        shape, pad = [1, 1, 1, 1], [0, 0, 0, 0]
        shape[axis] = len(weights)
        pad[2 * (3 - axis)] = pad[2 * (3 - axis) + 1] = reach
        out = F.conv2d(F.pad(out, pad, mode="replicate"), (weights / weights.sum()).reshape(shape))
    return np.asarray(out[0, 0].numpy())


def half_level(values: _Reals) -> float:
    """The greatest level such that the cells at or above it hold half of the sum of ``values`` (0 and above)."""
    falling = np.sort(values, axis=None)[::-1]
    running = np.cumsum(falling)
    return float(falling[np.searchsorted(running, HALF * running[-1])])


def split_sound(
    wave: NDArray[np.float32], mask: NDArray[np.floating], front_end: Spectrogram
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A wave (samples,), of a clip's length or less, cut in two by a mask (bands, frames) on its spectrogram.

    The mask is between 0 and 1, on the common time axis. The kept and the removed part add up to the wave; neither is
    scaled.
    """
    points = front_end.fft_points
    length = sorted(front_end.window_samples)[len(front_end.window_samples) // 2]
    hop = max(1, length // _OVERLAP)
    # Room at the ends, so that overlap-add is whole there, and for waves shorter than an FFT.
    padded = torch.from_numpy(np.pad(wave.astype(np.float64), points))
    window = torch.hann_window(length, periodic=True, dtype=torch.float64)
    spectrum = torch.stft(padded, points, hop_length=hop, win_length=length, window=window, return_complex=True)
    seconds = (np.arange(spectrum.shape[1]) * hop - points) / front_end.features.rate
    gains = torch.from_numpy(_on_frames(_on_bins(mask, front_end), front_end, seconds))
    masked = torch.istft(
        spectrum * gains, points, hop_length=hop, win_length=length, window=window, length=len(padded)
    ).numpy()
    kept = masked[points : points + len(wave)].astype(np.float32)
    return kept, (wave - kept).astype(np.float32)


def _on_bins(mask: NDArray[np.floating], front_end: Spectrogram) -> _Reals:
    """A mask (bands, frames) on the FFT's bins (bins, frames)."""
    bank = filterbank(front_end)
    weights = bank.sum(axis=0)
    gains: _Reals = np.zeros((bank.shape[1], mask.shape[1]))
    inside = weights > 0
    gains[inside] = (bank[:, inside].T @ mask) / weights[inside, None]
    # A bin in no band (0 Hz, half the rate) takes the value of the nearest bin that is in one.
    places = np.flatnonzero(inside)
    nearest = places[np.abs(np.flatnonzero(~inside)[:, None] - places).argmin(axis=1)]
    gains[~inside] = gains[nearest]
    return gains


def _on_frames(gains: _Reals, front_end: Spectrogram, seconds: _Reals) -> _Reals:
    """Gains (bins, columns of the axis) at some times, (bins, times), between columns by linear interpolation."""
    axis = axis_seconds(front_end)
    place = np.interp(seconds, axis, np.arange(len(axis)))
    left = np.minimum(place.astype(np.int64), len(axis) - 2)
    share = place - left
    out: _Reals = gains[:, left] * (1 - share) + gains[:, left + 1] * share
    return out
