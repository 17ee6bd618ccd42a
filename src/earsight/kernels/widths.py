"""How many values the FFT kernels compute side by side."""

from __future__ import annotations

LANES = 8
"""Values of float64 that a kernel's vectors hold."""
FRAMES = 2 * LANES
"""Frames that are transformed together: one as the real and one as the imaginary part of the wave in each lane."""
