"""Axes of spectrograms, and resampling of channels with different hops to one time axis.

Comes in: the front end that made a spectrogram, and arrays (windows, bands, frames). Goes out: times in seconds,
frequencies in Hz, and arrays (bands, frames) whose columns all have the same width from 0 s to the end of the clip.

Frame m of a window is centred at m hops. The resize to ``frames`` columns takes column j from around frame
``(j + 1/2) n / frames - 1/2`` of n (the convention of ``align_corners=False``), so each channel's columns begin half a
hop before 0 s and end half a hop after its last frame: with hops of 10 to 50 ms, channels differ by up to two columns.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from earsight.features import filterbanks
from earsight.features.spectrogram import Spectrogram

_Reals = NDArray[np.float64]


def column_edges(front_end: Spectrogram, *, window: int) -> _Reals:
    """Where a channel's columns begin and end, in seconds, shape (frames + 1,); the first is half a hop before 0."""
    features = front_end.features
    hop = front_end.hop_samples[window]
    count = 1 + features.samples // hop
    places = np.arange(features.columns + 1, dtype=np.float64) * (count / features.columns) - 0.5
    return np.asarray(places * (hop / features.rate))


def column_seconds(front_end: Spectrogram, *, window: int) -> _Reals:
    """The middle of each of a channel's columns, in seconds, shape (frames,)."""
    edges = column_edges(front_end, window=window)
    return (edges[:-1] + edges[1:]) / 2


def axis_seconds(front_end: Spectrogram) -> _Reals:
    """The middle of each column of the common time axis, in seconds, shape (frames,)."""
    columns = front_end.features.columns
    middles = (np.arange(columns, dtype=np.float64) + 0.5) / columns
    return np.asarray(middles * (front_end.features.samples / front_end.features.rate))


def filterbank(front_end: Spectrogram) -> _Reals:
    """The weights of the FFT's bins in each band, shape (bands, bins), at the sound's own pitch."""
    return filterbanks.filterbank(front_end.features, fft_points=front_end.fft_points).astype(np.float64)


def band_hz(front_end: Spectrogram) -> _Reals:
    """The middle of each band (the centre of mass of its filter) in Hz, shape (bands,), in ascending order."""
    bank = filterbank(front_end)
    bins = np.arange(bank.shape[1]) * (front_end.features.rate / front_end.fft_points)
    weights = bank.sum(axis=1)
    # Filters narrower than the bins' spacing may hold no bin, or only rounding: they are put between their neighbours.
    there = np.flatnonzero(weights > 1e-6 * weights.max())
    middles = np.interp(np.arange(len(bank)), there, (bank[there] @ bins) / weights[there])
    return np.asarray(np.maximum.accumulate(middles))


def sum_channels(values: NDArray[np.floating], front_end: Spectrogram) -> _Reals:
    """The sum over the channels of (windows, bands, frames) on the common time axis, (bands, frames) float64.

    A channel's cell is divided among the axis's columns by their overlap in time; parts before 0 s or after the end go
    to the first or last column. The sum over all cells is kept.
    """
    out = np.zeros(values.shape[1:], dtype=np.float64)
    for window, channel in enumerate(values):
        out += channel.astype(np.float64) @ _shares(front_end, window=window)
    return out


def _shares(front_end: Spectrogram, *, window: int) -> _Reals:
    """The share (frames, frames) of each channel column that lies in each column of the axis; rows add up to 1."""
    edges = column_edges(front_end, window=window)
    columns = front_end.features.columns
    axis = np.linspace(0.0, front_end.features.samples / front_end.features.rate, columns + 1)
    axis[0], axis[-1] = min(axis[0], edges[0]), max(axis[-1], edges[-1])
    shared = np.minimum(edges[1:, None], axis[None, 1:]) - np.maximum(edges[:-1, None], axis[None, :-1])
    out: _Reals = np.maximum(shared, 0.0) / np.diff(edges)[:, None]
    return out
