"""Power in bands by a compiled kernel, of sixteen frames at once.

Comes in: a `BandPower`. Goes out: what it computes, from the same window, grid and bank, up to rounding; the FFT runs
in float64 too. Each lane of the processor's vectors works at a frame of its own, and everything between the wave and
the bands stays in its cache, which is four times as fast as an FFT library between passes over memory
(docs/performance.md).

The kernel (`earsight.features.power_kernels`) is made for a length of FFT when it is first asked for, which takes
seconds, and is kept for later processes; it computes without the interpreter's lock.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from earsight.features.compiled import power_kernels
from earsight.features.power import BandPower

LARGEST_RADIX = 10
FRAMES = 16
"""Frames that are transformed together."""
SHORTEST = 8
"""Samples of a window: so many are read at once."""


def radices(points: int) -> tuple[int, int, int, int] | None:
    """Four factors of an FFT's points, none above `LARGEST_RADIX` and as even as can be; None where there are none."""
    numbers = range(1, LARGEST_RADIX + 1)
    found = [
        (a, b, c, points // (a * b * c))
        for a, b, c in product(numbers, repeat=3)
        if points % (a * b * c) == 0 and points // (a * b * c) in numbers
    ]
    return min(found, key=lambda four: (sum(four), four)) if found else None


def _circle(turns: NDArray[np.int64], of: int) -> Tensor:
    """exp(-2 pi i turns / of), real and imaginary parts beside each other: (..., 2) float64."""
    angle = -2 * np.pi * (turns % of) / of
    return torch.from_numpy(np.stack([np.cos(angle), np.sin(angle)], axis=-1))


class PowerInLanes(nn.Module):
    """What a `BandPower` computes, sixteen frames at a time.

    Waves that are not float32 on the CPU, and those whose gradient is wanted, go to the `BandPower` itself.

    Parameters
    ----------
    power : BandPower
        Its window and bank are used, its numbers of samples kept.
    """

    def __init__(self, power: BandPower) -> None:
        super().__init__()
        self.power = power
        four = radices(power.points)
        if four is None:
            raise ValueError(f"{power.points} points are no product of four factors up to {LARGEST_RADIX}")
        a1, a2, b1, b2 = four
        self.long, self.short = a1 * a2, b1 * b2
        apart = a2 * self.short
        heard = -(-power.window_samples // apart)
        self._kernel: Any = power_kernels().power_kernel(four, heard)
        window = power.get_buffer("window")[: power.window_samples].double() / 2  # the kernel gives four times the power
        padding = heard * apart - power.window_samples
        self.register_buffer("window", nn.functional.pad(window, (0, padding)), persistent=False)
        n, k = np.arange(self.short)[:, None, None], np.arange(a1)[:, None] + a1 * np.arange(a2)
        turns = [
            _circle(np.arange(a2)[:, None] * np.arange(a1), self.long),
            _circle(n * k, power.points),
            _circle(np.arange(b2)[:, None] * np.arange(b1), self.short),
        ]
        for name, values in zip(("inner", "between", "outer"), turns, strict=True):
            self.register_buffer(name, values.contiguous(), persistent=False)
        bank = power.bank.matrix(power.points // 2 + 1).T
        ranges, weights = [], []
        for row in bank.numpy():
            seen = np.flatnonzero(row)
            first, last = (int(seen[0]), int(seen[-1]) + 1) if len(seen) else (0, 0)
            ranges.append((first, last - first, sum(map(len, weights))))
            weights.append(row[first:last])
        self.register_buffer("ranges", torch.tensor(ranges), persistent=False)
        self.register_buffer("weights", torch.from_numpy(np.concatenate(weights)), persistent=False)

    def forward(self, padded: Tensor) -> Tensor:
        """Power in bands (batch, columns, rows) of every frame; takes and gives what `BandPower` does."""
        if padded.device.type != "cpu" or padded.dtype != torch.float32 or _tracked(padded):
            return self.power(padded)
        power = self.power
        columns = 1 + (padded.shape[1] - power.fft_points // 2 * 2) // power.hop_samples
        stride, rows = -(-columns // FRAMES) * FRAMES, len(self.ranges)
        out = torch.empty(len(padded), rows, stride)
        samples = torch.zeros(len(self.window), FRAMES)
        line = torch.empty(max(self.long, self.short), 2 * FRAMES // 2, dtype=torch.float64)
        work = torch.empty(self.short, self.long + 1, FRAMES, dtype=torch.float64)
        pair = torch.empty(2, self.short, FRAMES, dtype=torch.float64)
        bins = torch.empty(power.points // 2 + 1, FRAMES)
        addresses = [
            x.data_ptr() for x in (self.window, samples, self.inner, self.between, self.outer, line, work, pair, bins)
        ]
        for wave, found in zip(padded.contiguous(), out, strict=True):
            first = (power.fft_points - power.window_samples) // 2
            self._kernel(
                wave.data_ptr(), first, power.hop_samples, columns, power.window_samples, *addresses,
                self.ranges.data_ptr(), self.weights.data_ptr(), rows, found.data_ptr(),
            )  # fmt: skip
        return out[..., :columns].mT


def in_lanes(power: BandPower) -> nn.Module:
    """What computes the same by a kernel, or the `BandPower` itself where there is none for its sizes or this machine."""
    exact = power.get_buffer("window").dtype == torch.float64
    long_enough = power.window_samples >= SHORTEST
    can = exact and long_enough and radices(power.points) is not None and power_kernels() is not None
    return PowerInLanes(power) if can else power


def _tracked(tensor: Tensor) -> bool:
    """Whether gradients are wanted of it."""
    return tensor.requires_grad and torch.is_grad_enabled()
