"""Power in bands by a compiled kernel, of sixteen frames at once.

Comes in: a `BandPower`. Goes out: what it computes, from the same window, grid and bank, up to rounding; the FFT runs
in float64 too. Each lane of the processor's vectors transforms two frames, as real and imaginary part, and everything
between the wave and the bands stays in its second cache, which is four times as fast as an FFT library between passes
over memory (docs/performance.md).

The kernel (`earsight.features.power_kernels`) is made for a length of FFT when it is first asked for, which takes
seconds, and is kept for later processes; it computes without the interpreter's lock.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from earsight.features.compiled import FRAMES, LANES, job_of, power_kernel
from earsight.features.power import BandPower

LARGEST_RADIX = 16
"""Short transforms of more points do not fit in registers by far."""
SHORTEST = LANES
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


def _sparse(bank: NDArray[np.float32]) -> dict[str, Tensor]:
    """A bank (rows, bins) without the zeros around each row's weights, as the kernel reads it."""
    ranges: list[tuple[int, int, int]] = []
    weights: list[NDArray[np.float32]] = []
    for row in bank:
        seen = np.flatnonzero(row)
        first, last = (int(seen[0]), int(seen[-1]) + 1) if len(seen) else (0, 0)
        ranges.append((first, last - first, sum(len(before) for before in weights)))
        weights.append(row[first:last])
    return {
        "ranges": torch.tensor(ranges, dtype=torch.int64, device="cpu"),
        "weights": torch.from_numpy(np.concatenate(weights)),
    }


def in_lanes(power: BandPower) -> nn.Module:
    """A module that computes ``power`` by a kernel; ``power`` itself where sizes, device or machine allow none."""
    four, window = radices(power.points), power.get_buffer("window")
    if four is None or power.window_samples < SHORTEST or window.dtype != torch.float64 or window.device.type != "cpu":
        return power
    heard = -(-power.window_samples // (power.points // four[0]))
    kernel = power_kernel(four, heard)
    return power if kernel is None else PowerInLanes(power, four, heard, kernel)


class PowerInLanes(nn.Module):
    """What a `BandPower` computes, sixteen frames at a time.

    Waves that are not float32 on the CPU or shorter than an FFT, and those that require a gradient, go to the
    `BandPower` itself.

    Parameters
    ----------
    power : BandPower
        Its window and bank are used.
    four : tuple of int
        Factors of its FFT's points.
    heard : int
        Of the first factor's samples, how many can be within the window.
    kernel : object
        What `earsight.features.compiled.power_kernel` gives for both.
    """

    def __init__(self, power: BandPower, four: tuple[int, int, int, int], heard: int, kernel: Any) -> None:
        super().__init__()
        self.power, self._kernel = power, kernel
        a1, a2, b1, b2 = four
        self.long, self.short = a1 * a2, b1 * b2
        n, bins = np.arange(self.short)[:, None, None], np.arange(a1)[:, None] + a1 * np.arange(a2)
        # Half of it, for the kernel gives four times the power.
        window = power.get_buffer("window")[: power.window_samples] / 2
        # The kernel reads addresses: none of these is a buffer, which a module would move or convert.
        self._tables = {
            "window": F.pad(window, (0, heard * (power.points // a1) - len(window))),
            "inner": _circle(np.arange(a2)[:, None] * np.arange(a1), self.long),
            "between": _circle(n * bins, power.points),
            "outer": _circle(np.arange(b2)[:, None] * np.arange(b1), self.short),
            **_sparse(power.bank.matrix(power.points // 2 + 1).T.float().numpy()),
        }

    def forward(self, padded: Tensor) -> Tensor:
        """Power in bands (batch, columns, rows) of every frame; takes and gives what `BandPower` does."""
        power, rows, samples = self.power, len(self._tables["ranges"]), self.power.window_samples
        length = padded.shape[1] - power.fft_points // 2 * 2
        tracked = padded.requires_grad and torch.is_grad_enabled()
        if padded.device.type != "cpu" or padded.dtype != torch.float32 or length < 0 or tracked:
            found: Tensor = power(padded)
            return found
        columns = 1 + length // power.hop_samples
        first = (power.fft_points - samples) // 2
        # The last frame of an odd FFT may end one sample behind the wave.
        lacking = first + (columns - 1) * power.hop_samples + samples - padded.shape[1]
        padded = F.pad(padded, (0, lacking)) if lacking > 0 else padded.contiguous()
        single: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}  # whatever the defaults are
        double = single | {"dtype": torch.float64}
        out = torch.empty(len(padded), rows, -(-columns // FRAMES) * FRAMES, **single)
        arrays = self._tables | {
            "frames": torch.zeros(len(self._tables["window"]), FRAMES, **single),
            "begins": torch.empty(FRAMES, dtype=torch.int64, device="cpu"),
            "line": torch.empty(max(self.long, self.short), FRAMES, **double),
            "work": torch.empty(self.short, self.long + 1, FRAMES, **double),
            "pair": torch.empty(2, self.short, FRAMES, **double),
            "power": torch.empty(power.points // 2 + 1, FRAMES, **single),
        }
        sizes = {"first": first, "hop": power.hop_samples, "columns": columns, "samples": samples, "rows": rows}
        job = job_of({name: array.data_ptr() for name, array in arrays.items()} | sizes)
        for wave, target in zip(padded, out, strict=True):
            job["wave"], job["out"] = wave.data_ptr(), target.data_ptr()
            self._kernel(job)
        return out[..., :columns].mT
