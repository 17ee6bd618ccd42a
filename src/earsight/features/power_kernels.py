"""Compiled loops around the FFTs of `earsight.features.power`, each one pass over memory.

Comes in: NumPy arrays, those that are written to included. A kernel computes what PyTorch's operations compute, in the
same order and without fused roundings: the bits are the same.

Imports numba: only `earsight.features.compiled` may import this.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}


@njit("void(f4[::1], f8[::1], i8, i8, f8[:, ::1])", **_OPTIONS)
def cut(wave, window, first, hop, frames):
    """Frames of a wave times the window, one every ``hop`` samples from ``first`` on; what lies behind it is left."""
    samples = window.shape[0]
    for number in range(frames.shape[0]):
        begin = first + number * hop
        heard = wave[begin : begin + samples]
        frame = frames[number]
        for place in range(samples):
            frame[place] = heard[place] * window[place]


@njit("void(f8[:, ::1], f4[:, ::1])", **_OPTIONS)
def square(spectra, power):
    """Squared magnitudes of spectra, whose real and imaginary parts take turns, rounded to float32 before."""
    for number in range(power.shape[0]):
        parts, out = spectra[number], power[number]
        for place in range(out.shape[0]):
            real, imaginary = np.float32(parts[2 * place]), np.float32(parts[2 * place + 1])
            out[place] = real * real + imaginary * imaginary
