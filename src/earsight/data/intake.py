"""What of a sound reaches the network: which channel and which frequencies; and what that leaves out, in words.

Comes in: blocks (frames, channels) float32 as they were decoded, with their rate in Hz, and resolved `Features`. Goes
out: one channel (frames,), a `Loss` in shares of energy, and lines to print.

Sounds are judged in moments of 20 ms, so that a call counts however seldom it is. Above a limit counts what lies there
of a moment's energy from 1 kHz on, so that wind and rumble do not hide a call, where it is louder than -80 dB of full
scale, so that a recorder's own noise is no call. Below a low limit moments are longer, which tell it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earsight.errors import AudioError, counted
from earsight.recipe import Features

Wave = NDArray[np.float32]
Channel = str | int

MOMENT_SECONDS = 0.02
PERIODS = 20
"""Of a lower limit, that moments last by which the energy below it is measured."""
FROM_HZ = 1000.0
"""Energy below it does not count against what lies above a limit."""
NOTED_SHARE = 0.1
"""Of a moment's energy, from which on its loss is named."""
CANCELLED_SHARE = 0.5
"""Of the channels' energy in a window, from which on the loss by averaging them is named."""
QUIET_SHARE = 0.01
"""Of the loudest channel's energy in a window, below which a chosen one is named."""
NEAR = 1.1
"""A sound whose own band ends within a tenth of the limit loses nothing of note: one at 48 kHz read at 44.1 kHz."""
LEVEL = 1e-4
"""Of full scale, -80 dB: what is quieter is a recorder's own noise."""
SAME = 1e-6
"""Of full scale, -120 dB: samples that differ from the first by no more are silence, or a constant."""
_AT_ONCE = 512
RATES_HZ = (44100, 96000, 192000, 256000, 384000)
CLIPS_SHARE = 0.05
"""Of the clips looked at, that lose sound at a rate, from which on a higher one is taken."""


def picked(block: Wave, channel: Channel, name: str = "") -> Wave:
    """One channel (frames,) of a block (frames, channels): the average, a side, or a number from 1 on.

    A single channel is both sides. AudioError, under this name, if there is no such number.
    """
    count = block.shape[1]
    if channel == "mix":
        return block[:, 0] if count == 1 else np.asarray(block.mean(axis=1), dtype=np.float32)
    if isinstance(channel, str):
        return np.ascontiguousarray(block[:, min(count, 2 if channel == "right" else 1) - 1])
    if channel > count:
        found = counted(count, "channel")
        raise AudioError(name, f"has {found}, and features.channel is {channel}: choose another, or mix")
    return np.ascontiguousarray(block[:, channel - 1])


def is_constant(block: Wave, start: Any) -> bool:
    """Whether all samples are ``start``, to `SAME`."""
    # Of nearly every sound the first samples say that it is not.
    return not any((np.abs(part - start) > SAME).any() for part in (block[:1024], block))


def energy_of(block: Wave) -> NDArray[np.float64]:
    """The sum of squares of each channel of a block, (channels,)."""
    return np.asarray(np.square(block, dtype=np.float64).sum(axis=0))


@dataclass(frozen=True)
class Loss:
    """What of a sound does not reach the network, as shares between 0 and 1.

    ``above`` of a moment's energy lies above the bands, around ``above_hz``; ``below`` of all energy lies below them;
    ``cancelled`` of the channels' energy in a window is lost by averaging them; ``lacking`` of the loudest channel's
    energy in a window the chosen one does not have; ``silent`` is 1 where every channel `is_constant`.
    """

    above: float = 0.0
    above_hz: float = 0.0
    below: float = 0.0
    cancelled: float = 0.0
    lacking: float = 0.0
    silent: float = 0.0

    def __bool__(self) -> bool:
        """Whether any of it is worth naming."""
        return bool(_named(self))

    def to_dict(self) -> dict[str, float]:
        """What is worth naming, as JSON values: shares by kind, and around which frequency lies what is ``above``."""
        shares = {kind: round(share, 4) for kind, share in _named(self).items()}
        return shares | ({"above_hz": round(self.above_hz, 1)} if "above" in shares else {})


NO_LOSS = Loss()
_MOST_SAMPLES = 1 << 16
"""Of a moment: 20 ms at 3.3 MHz. Higher rates are claims of a header, which may be of 4 GHz, and cost no memory."""


class Meter:
    """Measures blocks of one sound, ``frames`` in all; `loss` is what they lost so far."""

    def __init__(self, features: Features, *, channel: Channel | None = None) -> None:
        self._low, self._high = features.band_hz
        self._channel = features.channel if channel is None else channel
        self._above, self._above_hz = 0.0, 0.0
        self._below, self._all = 0.0, 0.0
        self._seconds = float(features.clip_seconds)
        self._worst = np.zeros(2)
        # Of the last two halves of windows: frames, what averaging loses of moments' energy, and each channel's energy.
        self._halves = np.zeros((2, 0))
        self._start: Wave | None = None
        self.frames, self._sounds = 0, False

    def add(self, block: Wave, rate_hz: int) -> None:
        """Measure the next block (frames, channels)."""
        if block.shape[1] > 1:
            self._compare(block, rate_hz)
        if len(block) and not self._sounds:
            self._start = block[0].copy() if self._start is None else self._start
            self._sounds = not is_constant(block, self._start)
        self.frames += len(block)
        if rate_hz / 2 <= self._high * NEAR and not self._low:
            return
        if self._channel not in ("mix", "loudest"):  # of other channels the network gets nothing anyway
            block = picked(block, self._channel)[:, None]
        # Short moments would blur a low limit.
        for power, hz in moments(block, rate_hz, seconds=max(MOMENT_SECONDS, PERIODS / self._low)) if self._low else ():
            self._all += float(power.sum())
            self._below += float(power[:, hz < self._low].sum())
        for power, hz in moments(block, rate_hz):
            above = share_above(power, hz, self._high)
            if rate_hz / 2 > self._high * NEAR and above.max() > self._above:
                best = int(above.argmax())
                beyond = np.where(hz > self._high, power[best], 0.0)
                self._above, self._above_hz = float(above[best]), float(beyond @ hz / beyond.sum())

    def _compare(self, block: Wave, rate_hz: int) -> None:
        """Add the energies of a block's channels to those of the halves of windows that it lies in."""
        if not self._halves.size:
            self._halves = np.zeros((2, 2 + block.shape[1]))
        half, moment = max(1, round(self._seconds * rate_hz / 2)), max(1, round(MOMENT_SECONDS * rate_hz))
        at = self.frames % half
        for begin in (0, *range(half - at, len(block), half)):
            part = block[begin : begin + half - (at if begin == 0 else 0)].astype(np.float64)
            if at == 0 or begin:
                if self._halves[0, 0]:
                    self._worst = np.maximum(self._worst, self._lost())
                self._halves = np.stack([self._halves[1], 0 * self._halves[1]])
            starts = range(0, len(part), moment)
            each = np.add.reduceat(np.square(part), starts, axis=0)
            lost = each.sum(axis=1) - np.add.reduceat(np.square(part.sum(axis=1)), starts)
            self._halves[1] += [len(part), lost[lost > 0].sum(), *each.sum(axis=0)]

    def _lost(self) -> NDArray[np.float64]:
        """What is lost by averaging of the two halves of a window, and what the channel that is chosen lacks."""
        frames, lost, *each = self._halves.sum(axis=0) if self._halves.size else (0.0, 0.0)
        if self._channel == "loudest" or not sum(each) > frames * len(each) * LEVEL**2:
            return np.zeros(2)
        if self._channel == "mix":
            return np.array([lost / sum(each), 0.0])
        return np.array([0.0, 1 - float(picked(np.array([each], np.float32), self._channel)[0]) / max(each)])

    @property
    def loss(self) -> Loss:
        """What the blocks lost."""
        below = self._below / self._all if self._all else 0.0
        cancelled, lacking = np.maximum(self._worst, self._lost()).tolist()
        return Loss(self._above, self._above_hz, below, cancelled, lacking, float(self.frames > 0 and not self._sounds))


def moments(
    block: Wave, rate_hz: int, *, seconds: float = MOMENT_SECONDS
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float64]]]:
    """Mean squares of a block's moments by frequency, summed over channels, (moments, bins); and the bins' Hz."""
    size = min(max(16, round(seconds * rate_hz)), _MOST_SAMPLES)
    count = max(1, len(block) // size)
    padded = block if len(block) >= size else np.pad(block, ((0, size - len(block)), (0, 0)))
    window = np.hanning(size + 1)[:-1].astype(np.float32)
    hz = np.fft.rfftfreq(size, 1 / rate_hz).astype(np.float64)
    scale = np.float32(2 / (size * float(np.square(window).sum())))
    for first in range(0, count, _AT_ONCE):
        last = min(count, first + _AT_ONCE)
        parts = padded[first * size : last * size].reshape(last - first, size, -1)
        spectra = np.fft.rfft(parts * window[:, None], axis=1)
        power = (np.square(spectra.real) + np.square(spectra.imag)).sum(axis=2) * scale
        yield power.astype(np.float32), hz


def share_above(power: NDArray[np.float32], hz: NDArray[np.float64], limit_hz: float) -> NDArray[np.float64]:
    """The share of each moment's energy, from 1 kHz on, above a limit; 0 where that is below -80 dB."""
    over = power[:, hz > limit_hz].sum(axis=1, dtype=np.float64)
    counted_in = power[:, hz >= min(FROM_HZ, limit_hz / 4)].sum(axis=1, dtype=np.float64)
    return np.where(over > LEVEL**2, over / np.maximum(counted_in, 1e-30), 0.0)


def rate_for(shares: Sequence[dict[int, float]], *, most_hz: int) -> int:
    """The lowest of `RATES_HZ`, at most ``most_hz``, at which fewer than a twentieth of the clips lose sound.

    ``shares`` has for each clip the greatest share of a moment that lies above half of each rate.
    """
    rates = [*(rate for rate in RATES_HZ if rate < most_hz), most_hz]
    for rate in rates:
        lose = sum(share.get(rate, 0.0) >= NOTED_SHARE for share in shares)
        if lose < max(1, CLIPS_SHARE * len(shares)):
            return rate
    return most_hz


def shares_above(blocks: Iterable[tuple[Wave, int]], *, seconds: float) -> dict[int, float]:
    """For `rate_for`: what the first seconds of one clip have above half of each rate."""
    found, begun = dict.fromkeys(RATES_HZ, 0.0), 0.0
    for block, rate_hz in blocks:
        for power, hz in moments(block[: max(1, round((seconds - begun) * rate_hz))], rate_hz):
            for rate in found:
                found[rate] = max(found[rate], float(share_above(power, hz, rate / 2).max()))
        begun += len(block) / rate_hz
        if begun >= seconds:
            break
    return found


def _named(loss: Loss) -> dict[str, float]:
    """The kinds of loss that are worth naming, with their shares."""
    least = {"above": NOTED_SHARE, "below": NOTED_SHARE, "cancelled": CANCELLED_SHARE, "lacking": 1 - QUIET_SHARE}
    least |= {"silent": 1.0}
    return {kind: getattr(loss, kind) for kind, share in least.items() if getattr(loss, kind) >= share}


def loss_texts(
    losses: Iterable[tuple[Any, Loss]], features: Features, *, what: str = "clip"
) -> dict[str, tuple[list[Any], str]]:
    """For each kind of loss the sounds concerned and a sentence on them, from pairs of a sound's name and its loss."""
    found: dict[str, list[tuple[Any, Loss]]] = {}
    for name, loss in losses:
        for kind in _named(loss):
            found.setdefault(kind, []).append((name, loss))
    low, high = features.band_hz
    out = {}
    for kind, those in found.items():
        most = max((loss for _, loss in those), key=lambda loss: float(getattr(loss, kind)))
        percent, who = f"{100 * getattr(most, kind):.0f} %", counted(len(those), what)
        bound = "features.fmax_hz" if high < features.rate / 2 else f"a rate of {features.rate} Hz"
        text = {
            "above": f"{who} with up to {percent} of a moment's energy above {high:g} Hz (around {most.above_hz:.0f} "
            f"Hz), which {bound} leaves out: the network gets nothing of it; "
            "features.sample_rate_hz and features.fmax_hz choose",
            "below": f"{who} with up to {percent} of their energy below features.fmin_hz = {low:g} Hz, which the "
            "network does not get",
            "cancelled": f"{who} whose channels cancel each other: averaging them loses up to {percent} of their "
            "energy in a window; features.channel chooses: left, right, a number or loudest",
            "lacking": f"{who} with windows that have next to nothing in the channel that features.channel = "
            f"{features.channel} chooses, and sound in another; loudest takes that",
            "silent": f"{who} silent, or nearly: all samples are the same to -120 dB of full scale, so that an answer "
            "says nothing of it",
        }[kind]
        out[kind] = [name for name, _ in those], text
    return out
