"""DFT by matrix product: the front end without FFTs, for ONNX Runtime.

Comes in: a `Spectrogram`. Goes out: a copy that computes each window's band energies in `MatrixDft`, with the
frames, windows, grids and banks of the `BandEnergies` that each stands for, in float64 as there.

A DFT of N = A * B points goes in two steps (Cooley and Tukey 1965): with sample n = B a + b and bin k = c + A d,

    X[k] = sum over b of exp(-2 pi i b d / B) * (sum over a of x[n] exp(-2 pi i a c / A) exp(-2 pi i b c / N))

The inner sums are one batch of products over b, the outer ones a single product. Of a real wave's bins those with
c <= A / 2 suffice, for X[N - k] is the conjugate of X[k]. Of all factors the ones with the fewest multiplications are
taken: for five seconds at 44.1 kHz 0.35 billion in all three windows, where one matrix for each would take 5.7.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from earsight.features.spectrogram import Spectrogram
from earsight.features.stft import BandEnergies

FRAMES_AT_A_TIME = 64
"""Of each wave, so that what stands between the steps stays in the processor's cache, whatever the batch."""


def with_matrix_dft(front_end: Spectrogram) -> Spectrogram:
    """A copy of a front end, on the CPU, without FFTs; its spectrograms are the original's up to rounding."""
    out = copy.deepcopy(front_end).cpu()
    out.energies = nn.ModuleList(MatrixDft(power) for power in out.energies if isinstance(power, BandEnergies))
    out.kernels = None
    return out.eval()


def split_points(points: int, *, window_samples: int) -> tuple[int, int]:
    """The factors (A, B) of the FFT's points that need the fewest multiplications."""

    def multiplications(fast: int) -> int:
        kept = points // fast // 2 + 1
        return kept * (2 * -(-window_samples // fast) * fast + 4 * fast * fast)

    fast = min((number for number in range(1, points + 1) if points % number == 0), key=multiplications)
    return points // fast, fast


class MatrixDft(nn.Module):
    """What a `BandEnergies` computes, with its window and bank, without an FFT."""

    def __init__(self, power: BandEnergies) -> None:
        super().__init__()
        self.power = power
        points, window_samples = power.points, power.window_samples
        slow, self.fast = split_points(points, window_samples=window_samples)
        self.rows, self.kept = -(-window_samples // self.fast), slow // 2 + 1
        a, b, c = np.arange(self.rows)[:, None], np.arange(self.fast)[:, None], np.arange(self.kept)
        self.register_buffer("inner", _twiddles(a * c, slow), persistent=False)
        self.register_buffer("twist", _twiddles(b * c, points), persistent=False)
        real, imaginary = _twiddles(b * b.T, self.fast).numpy()
        outer = np.block([[real, -imaginary], [imaginary, real]])
        self.register_buffer("outer", torch.from_numpy(outer), persistent=False)
        # Index of each bin in the order (d, c); of bins that occur twice one points to a row of zeros.
        bins = np.arange(points // 2 + 1)
        mirrored = np.where(bins % slow < self.kept, bins, points - bins)
        order = np.full(self.fast * self.kept, len(bins))
        order[mirrored // slow * self.kept + mirrored % slow] = bins
        self.register_buffer("order", torch.from_numpy(order), persistent=False)

    def _first(self) -> Tensor:
        """The inner sums' matrices (2, B, rows, kept), window and twist in them; small factors make a small file."""
        window: Tensor = self.power.window  # type: ignore[assignment]
        missing = self.rows * self.fast - len(window)
        weights = F.pad(window, (0, max(0, missing)))[: self.rows * self.fast].view(self.rows, self.fast).T[..., None]
        inner: Tensor = self.inner  # type: ignore[assignment]
        twist: Tensor = self.twist  # type: ignore[assignment]
        (real, imaginary), (cosine, sine) = inner[:, None], twist[:, :, None]
        return torch.stack([(real * cosine - imaginary * sine), (real * sine + imaginary * cosine)]) * weights

    def forward(self, padded: Tensor) -> Tensor:
        """Band energies (batch, columns, rows) of every frame; takes and gives what `BandEnergies` does."""
        power, samples, hop = self.power, self.rows * self.fast, self.power.hop_samples
        columns = 1 + (padded.shape[1] - power.fft_points // 2 * 2) // hop
        begin = (power.fft_points - power.window_samples) // 2
        # A frame is a few neighbouring blocks of one hop each.
        blocks = -(-samples // hop)
        length = (columns - 1 + blocks) * hop
        waves = F.pad(padded, (0, max(0, begin + length - padded.shape[1])))[:, begin : begin + length]
        hops = waves.reshape(-1, columns - 1 + blocks, hop)
        first, outer, order = self._first(), self.get_buffer("outer"), self.get_buffer("order")
        bank = F.pad(power.bank.matrix(power.points // 2 + 1), (0, 0, 0, 1)).index_select(0, order)
        found = []
        for start in range(0, columns, FRAMES_AT_A_TIME):
            stop = min(columns, start + FRAMES_AT_A_TIME)
            parts = [hops[:, start + number : stop + number] for number in range(blocks)]
            frames = torch.cat(parts, dim=-1)[..., :samples].reshape(-1, self.fast)
            sums = torch.matmul(frames.T.reshape(self.fast, -1, self.rows).double(), first)
            spectrum = torch.matmul(outer, sums.reshape(2 * self.fast, -1)).to(padded.dtype)
            squares = (spectrum * spectrum).reshape(2, self.fast, -1, self.kept)
            ordered = (squares[0] + squares[1]).transpose(0, 1).reshape(-1, stop - start, self.fast * self.kept)
            found.append(torch.matmul(ordered, bank))
        return torch.cat(found, dim=1)


def _twiddles(turns: np.ndarray, of: int) -> Tensor:
    """Real and imaginary parts (2, ...) float64 of exp(-2 pi i turns / of)."""
    angle = -2 * np.pi * (turns % of) / of
    return torch.from_numpy(np.stack([np.cos(angle), np.sin(angle)]))
