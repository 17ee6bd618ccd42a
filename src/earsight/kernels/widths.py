"""Widths of the kernels' SIMD vectors; this file does not import numba."""

from __future__ import annotations

WIDTH = 16
"""Values of float32 in a vector."""
DOUBLES = 8
"""Values of float64 in a vector of the FFT."""
FRAMES = 2 * DOUBLES
"""Frames that are transformed together: one as the real and one as the imaginary part in each place of the vectors."""


def padded(channels: int) -> int:
    """Channels rounded up to whole vectors of float32."""
    return channels + -channels % WIDTH
