"""Power of the short-time spectrum in bands: one window length, any filterbank.

Comes in: waves (batch, samples) and a bank (rows, bins) of weights on the power of an FFT of ``fft_points``. Goes out:
the bank applied to every frame, (batch, rows, columns). Differentiable, on any device.

Where the time goes and does not go (docs/performance.md has the figures):

- A window of n samples has an autocorrelation of 2n - 1 lags, so its power on the grid of a longer, zero-padded FFT is
  an interpolation of its power on a grid of somewhat more than 2n points. The interpolation is folded into the bank,
  once, and the long FFT is never computed (`on_shorter_grid`).
- A band sees few bins, so the bank is applied in blocks of neighbouring rows over the bins that they see.
- Frames are transformed a few at a time, so that they stay in the processor's cache between the steps.
- For many clips a compiled kernel does all of it without passes over memory (`earsight.features.lanes`).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

ATTENUATION_DB = 260.0
"""Of what the interpolation of the power lets through from the neighbouring periods: below float32's rounding."""
OVERSAMPLING = 2.9
"""Points of the shorter grid for each sample of the window: nearer to 2, the kernel of the interpolation grows long."""
WORTH_IT = 0.75
"""A shorter grid is taken where it has at most this share of the points."""
BLOCK_ROWS = 16
VALUES_AT_A_TIME = {"cpu": 1 << 18}
"""Values that are transformed at once, by kind of device: 2 MiB on a processor; all where it is not named."""


def grid_points(window_samples: int, *, fft_points: int) -> int:
    """Points of the FFT that stands for one of ``fft_points``: a product of small primes, or ``fft_points`` itself."""
    wanted = int(np.ceil(OVERSAMPLING * window_samples))
    while not _is_smooth(wanted):
        wanted += 1
    return wanted if wanted <= WORTH_IT * fft_points else fft_points


def _is_smooth(number: int) -> bool:
    """Whether a number is even and has no prime factor above 5: lengths at which FFTs are fast."""
    if number % 2:
        return False
    for prime in (2, 3, 5):
        while number % prime == 0:
            number //= prime
    return number == 1


def on_shorter_grid(
    bank: NDArray[np.float64], *, window_samples: int, fft_points: int, points: int
) -> NDArray[np.float64]:
    """A bank on the power of an FFT of ``fft_points`` as a bank on the power of one of fewer ``points``.

    The power P of a frame of n samples has no lag beyond n - 1. Sampled at ``points`` > 2n places of the circle it is
    therefore known everywhere, P(u) = sum over j of P(j) K(u - j), with any K whose transform is 1 up to lag n - 1 and
    0 from ``points`` - (n - 1) on. K here is sinc times a Kaiser window (Kaiser and Schafer 1980), which is
    ``ATTENUATION_DB`` deep and some 50 places long.

    Parameters
    ----------
    bank : ndarray of float64, shape (rows, fft_points // 2 + 1)
    window_samples : int
    fft_points : int
    points : int
        Even, above twice ``window_samples``.

    Returns
    -------
    ndarray of float64, shape (rows, points // 2 + 1)
    """
    gap = 2 * np.pi * (1 - 2 * (window_samples - 1) / points)  # between the last lag and its mirror image, in radians
    half = (ATTENUATION_DB - 8) / (2.285 * gap) / 2
    beta = 0.1102 * (ATTENUATION_DB - 8.7)
    place = (np.arange(bank.shape[1]) * points / fft_points)[:, None]
    near = np.round(place) + np.arange(-np.ceil(half), np.ceil(half) + 1)
    away = np.minimum(np.abs(place - near) / half, 1.0)
    kernel = np.sinc(place - near) * np.i0(beta * np.sqrt(1 - away**2)) * (away < 1) / np.i0(beta)
    # The power of a real frame is even and periodic: what lies beyond either end is the mirror image.
    near = np.minimum(near % points, -near % points)
    interpolation = np.zeros((bank.shape[1], points // 2 + 1))
    for row, places, weights in zip(interpolation, near.astype(np.int64), kernel, strict=True):
        np.add.at(row, places, weights)  # near the ends a place comes twice
    return np.asarray(bank @ interpolation)


class Banded(nn.Module):
    """A matrix whose rows are zero but for a few neighbouring columns, applied in blocks of rows.

    Parameters
    ----------
    matrix : ndarray of float, shape (rows, columns)
        Rows that begin at neighbouring columns may stand anywhere; they are sorted into blocks here.
    block_rows : int
        Rows of a block, which takes the columns that any of them sees.
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


class BandPower(nn.Module):
    """A filterbank on the power of one window's short-time spectrum.

    Parameters
    ----------
    bank : ndarray of float, shape (rows, fft_points // 2 + 1)
    window_samples, hop_samples, fft_points : int
        A periodic Hann window, zero-padded to the FFT.
    dtype : torch.dtype
        In which the FFT runs.
    """

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
        """Power in bands of every frame.

        Parameters
        ----------
        padded : Tensor, shape (batch, fft_points // 2 + samples + fft_points // 2)
            Waves, reflected at both ends: frame t is centred on sample t * hop of the wave itself.

        Returns
        -------
        Tensor, shape (batch, 1 + samples // hop, rows)
            In the waves' dtype.
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
