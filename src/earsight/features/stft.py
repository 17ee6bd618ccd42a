"""Band energies: any filterbank on the power of the short-time Fourier transform, by FFTs or by a SIMD kernel.

Comes in: waves (batch, samples) and a bank (rows, bins) of weights on the power of an FFT of ``fft_points``. Goes out:
the bank applied to every frame, (batch, columns, rows). Differentiable, on any device (docs/performance.md has times):

- A window of n samples has an autocorrelation of 2n - 1 lags, so its power on the grid of a longer, zero-padded FFT is
  an interpolation of its power on a grid of somewhat more than 2n points. The interpolation is folded into the bank,
  once, and the long FFT is never computed (`on_shorter_grid`).
- A band depends on few bins, so the bank is applied in blocks of neighbouring rows, each over the bins of its rows.
- Frames are transformed a few at a time, so that they stay in the processor's cache between the steps.
- For many clips a kernel (`earsight.kernels.stft_power`) computes the same, up to rounding, 16 frames at once in SIMD
  vectors (32 where the FFT is in float32). It is compiled for a length of FFT when it is first asked for, which takes
  seconds, and kept for later processes; it runs without the interpreter's lock.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from earsight.kernels.runtime import job_of, power_kernel
from earsight.kernels.widths import AT_ONCE, frames_of

ATTENUATION_DB = 260.0
"""Of what the interpolation of the power lets through from the neighbouring periods: below float32's rounding."""
OVERSAMPLING = 2.9
"""Points of the shorter grid for each sample of the window: nearer to 2, the kernel of the interpolation grows long."""
GRID_SHARE = 0.75
"""A shorter grid is taken where it has at most this share of the points."""
BINS_AT_A_TIME = 512
"""Bins of the long FFT that are interpolated at once."""
BLOCK_ROWS = 16
VALUES_AT_A_TIME = {"cpu": 1 << 18}
"""Values that are transformed at once, by kind of device: 2 MiB on a processor; all where it is not named."""


def grid_points(window_samples: int, *, fft_points: int) -> int:
    """Points of the FFT that stands for one of ``fft_points``: a product of small primes, or ``fft_points`` itself."""
    wanted = int(np.ceil(OVERSAMPLING * window_samples))
    while wanted % 2 or pow(30, wanted.bit_length(), wanted):  # even and a divisor of a power of 30: FFTs are fast
        wanted += 1
    return wanted if wanted <= GRID_SHARE * fft_points else fft_points


def on_shorter_grid(
    bank: NDArray[np.float64], *, window_samples: int, fft_points: int, points: int
) -> NDArray[np.float64]:
    """A bank (rows, fft_points // 2 + 1) as a bank (rows, points // 2 + 1) on the power of a shorter FFT, float64.

    The power P of a frame of n samples has no lag beyond n - 1. Sampled at ``points`` > 2n places of the circle it is
    therefore known everywhere, P(u) = sum over j of P(j) K(u - j), with any K whose transform is 1 up to lag n - 1 and
    0 from ``points`` - (n - 1) on. K here is sinc times a Kaiser window (Kaiser and Schafer 1980), which is
    ``ATTENUATION_DB`` deep and some 50 places long. ``points`` is even.
    """
    gap = 2 * np.pi * (1 - 2 * (window_samples - 1) / points)  # between the last lag and its mirror image, in radians
    half = (ATTENUATION_DB - 8) / (2.285 * gap) / 2
    beta = 0.1102 * (ATTENUATION_DB - 8.7)
    moved = np.zeros((len(bank), points // 2 + 1))
    # A few bins at a time, which lie near each other: the whole matrix would have gigabytes.
    for first in range(0, bank.shape[1], BINS_AT_A_TIME):
        bins = bank[:, first : first + BINS_AT_A_TIME]
        place = ((first + np.arange(bins.shape[1])) * points / fft_points)[:, None]
        near = np.round(place) + np.arange(-np.ceil(half), np.ceil(half) + 1)
        away = np.minimum(np.abs(place - near) / half, 1.0)
        kernel = np.sinc(place - near) * np.i0(beta * np.sqrt(1 - away**2)) * (away < 1) / np.i0(beta)
        # The power of a real frame is even and periodic: what lies beyond either end is the mirror image.
        places = np.minimum(near % points, -near % points).astype(np.int64)
        low, high = int(places.min()), int(places.max()) + 1
        interpolation = np.zeros((bins.shape[1], high - low))
        np.add.at(interpolation, (np.arange(bins.shape[1])[:, None], places - low), kernel)  # near the ends, one twice
        moved[:, low:high] += bins @ interpolation
    return moved


class Banded(nn.Module):
    """A matrix whose rows are zero but for a few neighbouring columns, applied in blocks of rows.

    ``matrix`` is float, (rows, columns), in any order of rows: they are sorted by their first column. A block has
    ``block_rows`` rows, and takes the columns that any of them needs.
    """

    def __init__(self, matrix: NDArray[np.floating], *, block_rows: int) -> None:
        super().__init__()
        seen = matrix != 0
        order = np.argsort(np.where(seen.any(axis=1), seen.argmax(axis=1), 0), kind="stable")
        self.sorted = bool((order == np.arange(len(order))).all())
        self.register_buffer("places", torch.from_numpy(np.argsort(order, kind="stable")), persistent=False)
        self.ranges: list[tuple[int, int]] = []
        for number, start in enumerate(range(0, len(order), block_rows)):
            rows = order[start : start + block_rows]
            columns = np.flatnonzero(seen[rows].any(axis=0))
            first, last = (int(columns[0]), int(columns[-1]) + 1) if len(columns) else (0, 1)
            self.ranges.append((first, last))
            block = torch.from_numpy(np.ascontiguousarray(matrix[rows, first:last].T, dtype=np.float32))
            self.register_buffer(f"block{number}", block, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """The product (..., rows) with vectors (..., columns)."""
        parts = [
            torch.matmul(x[..., first:last], getattr(self, f"block{number}"))
            for number, (first, last) in enumerate(self.ranges)
        ]
        out = torch.cat(parts, dim=-1)
        places: Tensor = self.places  # type: ignore[assignment]
        return out if self.sorted else out[..., places]

    def matrix(self, columns: int) -> Tensor:
        """The whole matrix, transposed: (columns, rows)."""
        blocks = [
            F.pad(getattr(self, f"block{number}"), (0, 0, first, columns - last))
            for number, (first, last) in enumerate(self.ranges)
        ]
        whole = torch.cat(blocks, dim=1)
        places: Tensor = self.places  # type: ignore[assignment]
        return whole if self.sorted else whole.index_select(1, places)


class BandEnergies(nn.Module):
    """A filterbank (rows, fft_points // 2 + 1) on the STFT's power: a periodic Hann window, zero-padded to the FFT."""

    def __init__(
        self,
        bank: NDArray[np.float32],
        *,
        window_samples: int,
        hop_samples: int,
        fft_points: int,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        self.window_samples, self.hop_samples, self.fft_points = window_samples, hop_samples, fft_points
        self.points = grid_points(window_samples, fft_points=fft_points)
        weights = bank.astype(np.float64)
        if self.points != fft_points:
            weights = on_shorter_grid(weights, window_samples=window_samples, fft_points=fft_points, points=self.points)
        # The rows of all pitches that stand at one place fill a block together.
        self.bank = Banded(weights, block_rows=BLOCK_ROWS * max(1, round(len(weights) / 128)))
        window = torch.hann_window(window_samples, periodic=True, dtype=dtype)
        self.register_buffer("window", F.pad(window, (0, self.points - window_samples)), persistent=False)

    def forward(self, padded: Tensor) -> Tensor:
        """Energies (batch, 1 + samples // hop, rows) of every frame, in the waves' dtype.

        ``padded`` (batch, fft_points // 2 + samples + fft_points // 2) holds waves that are reflected at both ends:
        frame t is centred on sample t * hop of the wave itself.
        """
        window: Tensor = self.window  # type: ignore[assignment]
        columns = 1 + (padded.shape[1] - self.fft_points // 2 * 2) // self.hop_samples
        # A window shorter than the FFT sits in its middle. The power does not see where in the FFT's buffer the samples
        # stand, so the frames begin at the window, and the zeros behind it are the window's own.
        first = (self.fft_points - self.window_samples) // 2
        last = first + (columns - 1) * self.hop_samples + self.points
        waves = F.pad(padded.to(window.dtype), (0, max(0, last - padded.shape[1])))
        frames = waves[:, first:last].unfold(1, self.points, self.hop_samples)
        most = VALUES_AT_A_TIME.get(waves.device.type, frames.numel())
        step = max(1, most // (len(waves) * self.points))
        found = []
        for start in range(0, columns, step):
            spectrum = torch.fft.rfft((frames[:, start : start + step] * window).flatten(0, 1))
            squares = torch.view_as_real(spectrum).to(padded.dtype).square()
            found.append(self.bank(squares[..., 0] + squares[..., 1]).unflatten(0, (len(waves), -1)))
        return torch.cat(found, dim=1)


LARGEST_RADIX = 16
"""Short transforms of more points do not fit in registers."""
WORTH_IT = 40
"""Clips from which on the kernels are asked for: below, numba takes longer to load than all spectrograms to compute."""
SHORTEST = AT_ONCE
"""Samples of a window that the kernel reads at once: no window may be shorter."""


def radices(points: int) -> tuple[int, int, int, int] | None:
    """Four factors of an FFT's points, none above `LARGEST_RADIX`, as equal as can be; None where there are none."""
    numbers = range(1, LARGEST_RADIX + 1)
    found = [
        (a, b, c, points // (a * b * c))
        for a, b, c in product(numbers, repeat=3)
        if points % (a * b * c) == 0 and points // (a * b * c) in numbers
    ]
    return min(found, key=lambda four: (sum(four), four)) if found else None


def _circle(turns: NDArray[np.int64], of: int, dtype: torch.dtype) -> Tensor:
    """exp(-2 pi i turns / of), real and imaginary parts beside each other: (..., 2)."""
    angle = -2 * np.pi * (turns % of) / of
    return torch.from_numpy(np.stack([np.cos(angle), np.sin(angle)], axis=-1)).to(dtype)


def _sparse(bank: NDArray[np.float32]) -> dict[str, Tensor]:
    """A bank (rows, bins) without the zeros around each row's weights, as the kernel reads it."""
    ranges: list[tuple[int, int, int]] = []
    weights: list[NDArray[np.float32]] = []
    for row in bank:
        weighed = np.flatnonzero(row)
        first, last = (int(weighed[0]), int(weighed[-1]) + 1) if len(weighed) else (0, 0)
        ranges.append((first, last - first, sum(len(before) for before in weights)))
        weights.append(row[first:last])
    return {
        "ranges": torch.tensor(ranges, dtype=torch.int64, device="cpu"),
        "weights": torch.from_numpy(np.concatenate(weights)),
    }


def simd_stft(power: BandEnergies) -> nn.Module:
    """A module that computes ``power`` by the SIMD kernel; ``power`` itself where sizes, device or machine forbid."""
    four, window = radices(power.points), power.get_buffer("window")
    if four is None or power.window_samples < SHORTEST or window.dtype.itemsize < 4 or window.device.type != "cpu":
        return power
    used = -(-power.window_samples // (power.points // four[0]))
    kernel = power_kernel(four, used, window.dtype.itemsize)
    return power if kernel is None else SimdStft(power, four, used, kernel)


class SimdStft(nn.Module):
    """The `BandEnergies` ``power`` by a SIMD kernel, many frames at a time, in the FFT's dtype.

    Waves that are not float32 on the CPU or shorter than an FFT, and those that require a gradient, go to ``power``
    itself. ``four`` are the factors of its FFT's points, ``used`` of the first factor's samples those that can lie
    within the window, and ``kernel`` is what `earsight.kernels.runtime.power_kernel` gives for both.
    """

    def __init__(self, power: BandEnergies, four: tuple[int, int, int, int], used: int, kernel: Any) -> None:
        super().__init__()
        self.power, self._kernel = power, kernel
        a1, a2, b1, b2 = four
        self.long, self.short = a1 * a2, b1 * b2
        n, bins = np.arange(self.short)[:, None, None], np.arange(a1)[:, None] + a1 * np.arange(a2)
        # Half of it, for the kernel gives four times the power.
        window = power.get_buffer("window")[: power.window_samples] / 2
        # The kernel reads addresses: none of these is a buffer, which a module would move or convert.
        self._tables = {
            "window": F.pad(window, (0, used * (power.points // a1) - len(window))),
            "inner": _circle(np.arange(a2)[:, None] * np.arange(a1), self.long, window.dtype),
            "between": _circle(n * bins, power.points, window.dtype),
            "outer": _circle(np.arange(b2)[:, None] * np.arange(b1), self.short, window.dtype),
            **_sparse(power.bank.matrix(power.points // 2 + 1).T.float().numpy()),
        }

    def forward(self, padded: Tensor) -> Tensor:
        """Energies (batch, columns, rows) of every frame; takes and gives what `BandEnergies` does."""
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
        reals = single | {"dtype": self._tables["window"].dtype}
        frames = frames_of(reals["dtype"].itemsize)
        out = torch.empty(len(padded), rows, -(-columns // frames) * frames, **single)
        arrays = self._tables | {
            "frames": torch.zeros(len(self._tables["window"]), frames, **single),
            "begins": torch.empty(frames, dtype=torch.int64, device="cpu"),
            "line": torch.empty(max(self.long, self.short), frames, **reals),
            "work": torch.empty(self.short, self.long + 1, frames, **reals),
            "pair": torch.empty(2, self.short, frames, **reals),
            "power": torch.empty(power.points // 2 + 1, frames, **single),
        }
        sizes = {"first": first, "hop": power.hop_samples, "columns": columns, "samples": samples, "rows": rows}
        job = job_of({name: array.data_ptr() for name, array in arrays.items()} | sizes)
        for wave, target in zip(padded, out, strict=True):
            job["wave"], job["out"] = wave.data_ptr(), target.data_ptr()
            self._kernel(job)
        return out[..., :columns].mT
