"""Widths of the kernels' SIMD vectors; this file does not import numba."""

from __future__ import annotations

WIDTH = 16
"""Values of float32 in a vector."""
AT_ONCE = 8
"""Samples of a frame that the STFT kernel reads at once."""
VECTOR_BYTES = 64
"""Of a vector of the FFT, which holds eight values of float64 or sixteen of float32."""


def frames_of(value_bytes: int) -> int:
    """Frames that are transformed together: one as the real, one as the imaginary part in each place of the vectors."""
    return 2 * VECTOR_BYTES // value_bytes


def padded(channels: int) -> int:
    """Channels rounded up to whole vectors of float32."""
    return channels + -channels % WIDTH
