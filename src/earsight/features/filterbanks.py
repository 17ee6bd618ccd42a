"""Filterbanks (mel, linear, gammatone) on the power of the STFT, and MFCCs.

Comes in: a rate in Hz, the points of the FFT, a number of bands, and a pitch step. Goes out: a bank (bands, bins)
float32, bins = points // 2 + 1, of weights of at least 0, lowest band first. A spectrogram is log(bank @ power + 1e-6),
resized in time; where the representation has a basis (bands, bands), the spectrogram is the basis times that.

Only the power of the STFT is used, so a sound is raised by s semitones by reading the power at frequency f as if it
stood at f * 2^(s / 12): the filters are evaluated at multiplied frequencies, and no phase is touched. What is moved
beyond the bank is lost, as it is beyond half the rate in a wave that is resampled.

All banks reach from ``fmin_hz`` to ``fmax_hz``, by default from 0 Hz to half the rate; what lies or is moved beyond
has no weight:

- ``log_mel``: triangles of height 1 between points that are evenly spaced in HTK mels;
- ``log_spectrogram``: linear frequency. A row is the mean power under a triangle: torch's bilinear resize with
  antialiasing from the FFT's bins to the bands, as the columns are resized in time;
- ``mfcc``: the log-mels of a column under an orthonormal DCT of type II: as many coefficients as bands, so that every
  representation has spectrograms of one size and none of the log-mel is thrown away; the lowest order first;
- ``gammatone``: the power responses of gammatone filters of order 4 with peaks of 1 (Slaney 1993, Apple technical
  report 35), their centres evenly spaced in ERBs (Glasberg and Moore 1990, doi 10.1016/0378-5955(90)90170-T).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from earsight.recipe import Features

LOG_OFFSET = 1e-6
FLOOR = float(np.log(LOG_OFFSET))
"""Log power of digital silence in a band, about -13.8."""
ERB_SHARE = 1.019
"""Bandwidth of a gammatone filter of order 4, in ERBs, at which its own equivalent rectangular bandwidth is one ERB."""


def hz_to_mel(hz: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """HTK mel scale, 2595 log10(1 + f / 700), of frequencies in Hz."""
    return 2595.0 * np.log10(1.0 + np.asarray(hz, dtype=np.float64) / 700.0)


def mel_to_hz(mel: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """Frequencies in Hz of HTK mels: the inverse of `hz_to_mel`."""
    return 700.0 * (10.0 ** (np.asarray(mel, dtype=np.float64) / 2595.0) - 1.0)


def hz_to_erbs(hz: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """Number of ERBs below frequencies in Hz: 21.4 log10(1 + 0.00437 f) (Glasberg and Moore 1990, equation 4)."""
    return 21.4 * np.log10(1.0 + 0.00437 * np.asarray(hz, dtype=np.float64))


def erbs_to_hz(erbs: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """Frequencies in Hz of numbers of ERBs: the inverse of `hz_to_erbs`."""
    return (10.0 ** (np.asarray(erbs, dtype=np.float64) / 21.4) - 1.0) / 0.00437


def erb_width_hz(hz: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """Equivalent rectangular bandwidth of hearing in Hz: 24.7 (1 + 0.00437 f) (Glasberg and Moore 1990, equation 3)."""
    return 24.7 * (1.0 + 0.00437 * np.asarray(hz, dtype=np.float64))


def mel_filterbank(
    *,
    sample_rate_hz: int,
    fft_points: int,
    bands: int,
    semitones: float = 0.0,
    fmin_hz: float = 0.0,
    fmax_hz: float | None = None,
) -> NDArray[np.float32]:
    """Triangular mel filters of height 1, shifted upwards by ``semitones``: (bands, fft_points // 2 + 1) float32.

    ``fmin_hz`` and ``fmax_hz`` are the outer edges of the first and the last; None is half the rate.
    """
    frequencies = _warped_hz(sample_rate_hz, fft_points, semitones)
    highest = sample_rate_hz / 2.0 if fmax_hz is None else fmax_hz
    edges = mel_to_hz(np.linspace(hz_to_mel(fmin_hz), hz_to_mel(highest), bands + 2))
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising = (frequencies - left) / (centre - left)
    falling = (right - frequencies) / (right - centre)
    filters: NDArray[np.float32] = np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)
    return filters


def linear_filterbank(
    *,
    sample_rate_hz: int,
    fft_points: int,
    bands: int,
    semitones: float = 0.0,
    fmin_hz: float = 0.0,
    fmax_hz: float | None = None,
) -> NDArray[np.float32]:
    """The bilinear resize with antialiasing of an FFT's bins to bands; takes and gives what `mel_filterbank` does.

    A row weighs the bins by a triangle whose half-width is one row (or one bin, where there are fewer bins than rows),
    and its weights add up to 1. A pitch shift keeps that scale: a tone has the power that it had.
    """
    bins = fft_points // 2 + 1
    # The outer edges of the bands, in bins.
    low = fmin_hz * fft_points / sample_rate_hz - 0.5
    high = bins - 0.5 if fmax_hz is None else fmax_hz * fft_points / sample_rate_hz + 0.5
    width = (high - low) / bands
    centre = ((np.arange(bands) + 0.5) * width + low)[:, None]

    def triangles(place: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.maximum(0.0, 1.0 - np.abs(place - centre) / max(width, 1.0))

    frequencies = _warped_hz(sample_rate_hz, fft_points, semitones)
    place = np.arange(bins, dtype=np.float64)
    scale = triangles(place[(place > low) & (place < high)]).sum(axis=1, keepdims=True)
    filters = triangles(frequencies * fft_points / sample_rate_hz) / np.maximum(scale, 1e-9)
    return _within(filters, frequencies, fmin_hz, sample_rate_hz / 2 if fmax_hz is None else fmax_hz)


def gammatone_filterbank(
    *,
    sample_rate_hz: int,
    fft_points: int,
    bands: int,
    semitones: float = 0.0,
    fmin_hz: float = 0.0,
    fmax_hz: float | None = None,
) -> NDArray[np.float32]:
    """Power responses of gammatone filters; takes and gives what `mel_filterbank` does.

    The impulse response t^3 exp(-2 pi b t) cos(2 pi c t) has a transform proportional to (1 + i (f - c) / b)^-4 + (1 +
    i (f + c) / b)^-4, with the centre c and b = 1.019 ERB(c), all in Hz. A row is its squared magnitude, divided by
    that at c. The centres divide the range from ``fmin_hz`` to ``fmax_hz`` evenly in ERBs.
    """
    highest = sample_rate_hz / 2.0 if fmax_hz is None else fmax_hz
    frequencies = _warped_hz(sample_rate_hz, fft_points, semitones)
    centre = erbs_to_hz(np.linspace(hz_to_erbs(fmin_hz), hz_to_erbs(highest), bands + 2)[1:-1])[:, None]
    width = ERB_SHARE * erb_width_hz(centre)

    def power(hz: NDArray[np.float64]) -> NDArray[np.float64]:
        response = (1.0 + 1j * (hz - centre) / width) ** -4 + (1.0 + 1j * (hz + centre) / width) ** -4
        return np.asarray(response.real**2 + response.imag**2)

    return _within(power(frequencies[None, :]) / power(centre), frequencies, fmin_hz, highest)


def _within(
    filters: NDArray[np.float64], frequencies: NDArray[np.float64], lowest: float, highest: float
) -> NDArray[np.float32]:
    """Filters (bands, bins) without their weights beyond two frequencies."""
    beyond = (frequencies < lowest * (1 - 1e-12)) | (frequencies > highest)
    kept: NDArray[np.float32] = np.where(beyond, 0.0, filters).astype(np.float32)
    return kept


def cosine_basis(bands: int) -> NDArray[np.float32]:
    """The orthonormal DCT of type II as a matrix (bands, bands) float32: row k is the k-th coefficient's cosine."""
    order = np.arange(bands)[:, None]
    basis = np.sqrt(2.0 / bands) * np.cos(np.pi * order * (2 * np.arange(bands) + 1) / (2 * bands))
    basis[0] /= np.sqrt(2.0)
    rows: NDArray[np.float32] = basis.astype(np.float32)
    return rows


def _warped_hz(sample_rate_hz: int, fft_points: int, semitones: float) -> NDArray[np.float64]:
    """Frequencies at which the FFT's bins are read, in Hz."""
    bins = np.arange(fft_points // 2 + 1, dtype=np.float64) * (sample_rate_hz / fft_points)
    warped: NDArray[np.float64] = bins * 2.0 ** (semitones / 12.0)
    return warped


@dataclass(frozen=True)
class Representation:
    """How the power of an STFT becomes the rows of a spectrogram.

    ``bank``: the filters; takes and gives what `mel_filterbank` does. ``basis``: from a number of bands to the matrix
    (bands, bands) that turns log energies into rows; None where they are rows. ``steps_per_unit``: of the log energies
    as the store keeps them, before the basis. ``zero_at``: log energy in the middle of the store's range, which reaches
    32768 steps to either side.
    """

    bank: Callable[..., NDArray[np.float32]]
    basis: Callable[[int], NDArray[np.float32]] | None = None
    steps_per_unit: int = 1024
    zero_at: float = 16.0


REPRESENTATIONS = {
    "log_mel": Representation(mel_filterbank),
    "log_spectrogram": Representation(linear_filterbank),
    # A coefficient adds up the rounding of all bands, so the steps are finer and silence has a code of its own. The
    # range is -13.8 to 18.2; sounds of full scale reach 15 at 44.1 kHz.
    "mfcc": Representation(mel_filterbank, basis=cosine_basis, steps_per_unit=2048, zero_at=FLOOR + 16),
    "gammatone": Representation(gammatone_filterbank),
}


def filterbank(features: Features, *, fft_points: int, semitones: float = 0.0) -> NDArray[np.float32]:
    """The bank (bands, fft_points // 2 + 1) float32 of resolved features, shifted upwards by ``semitones``."""
    return REPRESENTATIONS[features.representation].bank(
        sample_rate_hz=features.rate,
        fft_points=fft_points,
        bands=features.bands,
        semitones=semitones,
        fmin_hz=features.fmin_hz,
        fmax_hz=None if features.fmax_hz == "none" else features.fmax_hz,
    )
