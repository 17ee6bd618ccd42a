"""Where a recording rises above its own background: band levels of short frames, and what they show.

Comes in: waves of windows with their rate. Goes out: `Frames` of levels, uint8 (frames, `BANDS`) in half decibels above
-100 dB of full scale; whether a stretch is steady noise; and from when to when something is active. Frame k begins at k
times 20 ms.

Steady noise fluctuates as Gaussian noise of constant power does, or is digital silence: the mean power of n bins of
such noise has, in decibels, a standard deviation of 4.34 sqrt(trigamma(n)). The background of a band is the level that
its seconds fall to: of their medians in the last ten minutes that which a fifth lies below. Active is a frame that
exceeds it by more than steady noise does.
"""

from __future__ import annotations

import base64
import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earsight.inference.predictions import Frames

FRAME_SECONDS = 0.02
BANDS = 16
KEPT_SECONDS = 30.0
"""How much of a recording's levels is kept."""
PAUSE_SECONDS = 1.0
"""Pauses up to this long are within a sound."""
_LONG_SECONDS = 0.025  # of a frame, which fades in and out where it overlaps its neighbours
_LOWEST_HZ = 100.0
_FLOOR_DB, _STEP_DB = -100.0, 0.5
_SECOND, _HALF = 50, 25  # frames
_BLOCKS, _ENOUGH = 600, 10  # seconds that make a background at most and at least
_BACKGROUND_SHARE = 20  # per cent
_LEAST_SPREAD, _MOST_SPREADS = 3.0, 6.0  # of a band, in half decibels; and how many count at most
_ACTIVE = 2.0  # mean square of a frame's spreads above the background: 0.5 in noise, where 1.4 was the most of 12,500
_UNLIKE = (0.7, 1.3, 1.4, 1.5)
"""Where steady noise ends: of each band's spread, its least and most; of half seconds' means; of all bands together."""

Levels = NDArray[np.uint8]


def frames_of(
    wave: NDArray[np.float32], *, begin: int, covered: int, rate_hz: int, band_hz: tuple[float, float]
) -> Frames:
    """The frames of a window that reach beyond sample ``covered`` of the recording.

    ``wave`` (samples,) begins at sample ``begin``; ``band_hz`` is the band that the network gets.
    """
    step, size = FRAME_SECONDS * rate_hz, max(4, round(_LONG_SECONDS * rate_hz))
    first = max(0, math.floor(begin / step))
    while round(first * step) < begin or (covered and round(first * step) + size <= covered):
        first += 1
    last = math.ceil((begin + len(wave)) / step)
    while round(last * step) + size > begin + len(wave):
        last -= 1
    starts = np.round(np.arange(first, last + 1) * step).astype(np.int64) - begin
    spreads = _noise_spreads(rate_hz, band_hz)
    if not len(starts):
        return Frames(first, b"", spreads)
    window, edges = _shape(size, rate_hz, band_hz)
    import torch  # whose FFT takes a third of numpy's time; slow to load, and rules of events do without

    parts = np.lib.stride_tricks.sliding_window_view(wave, size)[starts] * window
    spectra = torch.fft.rfft(torch.from_numpy(parts), dim=1).numpy()
    power = np.square(spectra.real) + np.square(spectra.imag)
    power[:, edges[-1] :] = 0
    sums = np.add.reduceat(power, edges[:-1], axis=1) * (2 / (size * float(np.square(window).sum())))
    level = (10 * np.log10(np.maximum(sums, 1e-12)) - _FLOOR_DB) / _STEP_DB
    level[:, np.diff(edges) < 1] = 0
    return Frames(first, np.clip(np.round(level), 0, 255).astype(np.uint8).tobytes(), spreads)


@lru_cache(maxsize=8)
def _shape(size: int, rate_hz: int, band_hz: tuple[float, float]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The window of a frame, and the bins at which bands begin and end."""
    fade = max(1, size - round(FRAME_SECONDS * rate_hz))
    window = np.ones(size, dtype=np.float32)
    window[:fade] = np.sin(np.pi / 2 * (np.arange(fade) + 0.5) / fade)
    window[size - fade :] = window[:fade][::-1]
    high = min(band_hz[1], rate_hz / 2)
    bins = np.geomspace(min(max(_LOWEST_HZ, band_hz[0]), high / 2), high, BANDS + 1) * size / rate_hz
    return window, np.minimum(np.ceil(bins).astype(np.int64), size // 2)


@lru_cache(maxsize=8)
def _noise_spreads(rate_hz: int, band_hz: tuple[float, float]) -> tuple[float, ...]:
    """The standard deviation of each band's level in Gaussian noise, in half decibels; 0 for a band without bins."""
    bins = np.diff(_shape(max(4, round(_LONG_SECONDS * rate_hz)), rate_hz, band_hz)[1]).astype(np.float64)
    count = np.maximum(bins, 1)[:, None] + np.arange(200)
    trigamma = (1 / np.square(count)).sum(axis=1) + 1 / (count[:, -1] + 0.5)
    spreads = np.where(bins > 0, 10 / math.log(10) * np.sqrt(trigamma) / _STEP_DB, 0.0)
    return tuple(round(float(one), 6) for one in spreads)


class Activity:
    """The last levels of one recording and its background; ``state``, from `state`, resumes."""

    def __init__(self, state: dict[str, Any] | None = None) -> None:
        state = state or {"first": 0, "levels": "", "blocks": "", "spreads": [0.0] * BANDS}
        self._first = int(state["first"])
        self._levels, self._blocks = _unpacked(state["levels"]), _unpacked(state["blocks"])
        self._spreads = np.array(state["spreads"], dtype=np.float64)
        self._low: NDArray[np.float64] | None = None

    def state(self) -> dict[str, Any]:
        """Levels and background, as JSON values."""
        levels, blocks = (base64.b64encode(part.tobytes()).decode() for part in (self._levels, self._blocks))
        return {"first": self._first, "levels": levels, "blocks": blocks, "spreads": self._spreads.tolist()}

    def add(self, frames: Frames) -> None:
        """Add a window's frames; between windows that do not overlap some may be missing, and read as silence."""
        first, levels = frames.first, np.frombuffer(frames.levels, dtype=np.uint8).reshape(-1, BANDS)
        self._spreads, most = np.array(frames.spreads), round(KEPT_SECONDS / FRAME_SECONDS)
        end = self._first + len(self._levels)
        begun = end // _SECOND if first == end else math.ceil(first / _SECOND)
        if first - end > most:
            self._levels, self._first = levels, first
        else:
            gap = np.zeros((max(0, first - end), BANDS), dtype=np.uint8)
            self._levels = np.concatenate([self._levels, gap, levels])
        numbers = range(begun, (self._first + len(self._levels)) // _SECOND)
        parts = [self._part(number * _SECOND, (number + 1) * _SECOND) for number in numbers]
        if medians := [np.median(part, axis=0).astype(np.uint8) for part in parts if len(part) == _SECOND]:
            self._blocks, self._low = np.concatenate([self._blocks, np.stack(medians)])[-_BLOCKS:], None
        spare = max(0, len(self._levels) - most)
        self._levels, self._first = self._levels[spare:], self._first + spare

    @property
    def known(self) -> bool:
        """Whether enough of the recording was read to know its background."""
        return len(self._blocks) >= _ENOUGH

    def noise(self, begin: float, end: float) -> bool:
        """Whether a stretch, in seconds, is steady noise or digital silence; False where it is too short to tell."""
        levels = self._part(*_frames(begin, end)).astype(np.float64)
        if len(levels) < _SECOND:
            return False
        used = (self._spreads > 0) & (levels.min(axis=0) > 0)
        if not levels.any():
            return True
        if not used.any():
            return False
        levels, spreads = levels[:, used], np.hypot(self._spreads[used], 12**-0.5)
        halves = levels[: len(levels) // _HALF * _HALF].reshape(-1, _HALF, levels.shape[1]).mean(axis=1)
        each = float((levels.std(axis=0) / spreads).mean())
        slow = float((math.sqrt(_HALF) * halves.std(axis=0) / spreads).mean())
        common = float(((levels - levels.mean(axis=0)) / spreads).sum(axis=1).std()) / math.sqrt(levels.shape[1])
        least, *most = _UNLIKE
        return each > least and each < most[0] and slow < most[1] and common < most[2]

    def active(self, begin: float, end: float) -> list[tuple[float, float]]:
        """From when to when a stretch rises above the background, in seconds; pauses up to `PAUSE_SECONDS` count in."""
        first, last = _frames(begin, end)
        first = max(first, self._first)
        levels = self._part(max(first - 1, self._first), last + 1).astype(np.float64)
        if not len(levels) or not len(self._blocks):
            return []
        spread = np.maximum(self._spreads, _LEAST_SPREAD)
        above = np.square(np.clip((levels - self._background()) / spread, 0, _MOST_SPREADS)).mean(axis=1)
        over = np.pad(above > _ACTIVE, 1)
        # A single frame counts if it is far above, as a click is.
        found = (over[1:-1] & (over[:-2] | over[2:])) | (above > 3 * _ACTIVE)
        found = found[first - max(first - 1, self._first) :][: max(0, last - first)]
        on = np.flatnonzero(found)
        if not len(on):
            return []
        parts = np.split(on, np.flatnonzero(np.diff(on) > round(PAUSE_SECONDS / FRAME_SECONDS)) + 1)
        edges = [(first + int(part[0]), first + int(part[-1]) + 1) for part in parts]
        return [(round(begin * FRAME_SECONDS, 6), round(end * FRAME_SECONDS, 6)) for begin, end in edges]

    def _background(self) -> NDArray[np.float64]:
        if self._low is None:
            self._low = np.percentile(self._blocks, _BACKGROUND_SHARE, axis=0)
        return self._low

    def _part(self, first: int, last: int) -> Levels:
        return self._levels[max(0, first - self._first) : max(0, last - self._first)]


def _frames(begin: float, end: float) -> tuple[int, int]:
    return math.ceil(begin / FRAME_SECONDS - 1e-6), math.floor(end / FRAME_SECONDS + 1e-6)


def _unpacked(text: str) -> Levels:
    return np.frombuffer(base64.b64decode(text), dtype=np.uint8).reshape(-1, BANDS)
