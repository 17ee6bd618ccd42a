"""The compiled kernel of `earsight.features.lanes`: power in bands of sixteen frames at once.

Comes in: addresses of NumPy arrays, which are aligned to 64 bytes, and sizes. Goes out: the power in bands.

A transform of N = A * B points, A = a1 * a2 and B = b1 * b2, runs in two steps, so that each stays in the nearest
cache: transforms of A samples, B apart, then of the B points that those gave for the same bin of theirs. Each is two
passes of short transforms in registers (`earsight.features.butterflies`). Frames come in pairs, one as the real part
and one as the imaginary part of a complex wave; their bins come apart in the end.

Imports numba: only `earsight.features.compiled` may import this.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import carray, njit, types

from earsight.features.butterflies import LANES, POINT, gather, store_powers, transform_frames, transform_points
from earsight.features.simd import at, fma, load, splat, store

_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}
_F4, _F8, _I8 = np.float32, np.float64, np.int64


@njit("void(i8, i8, i8, i8, i8, i8, i8)", no_cpython_wrapper=True, **_OPTIONS)
def _bands(power, ranges, weights, rows, out, stride, group):
    """A bank on the power of sixteen frames; ``ranges`` has each row's first bin, number of bins and first weight."""
    vectors, values, found = at(power, _F4), at(weights, _F4), at(out, _F4)
    table = carray(at(ranges, _I8), (rows, 3))
    for row in range(rows):
        first, count, place = table[row]
        a = b = c = d = splat(np.float32(0))
        whole = count - count % 4
        for number in range(0, whole, 4):
            here, weight = (first + number) * POINT, place + number
            a = fma(load(vectors, here, None), splat(values[weight]), a)
            b = fma(load(vectors, here + POINT, None), splat(values[weight + 1]), b)
            c = fma(load(vectors, here + 2 * POINT, None), splat(values[weight + 2]), c)
            d = fma(load(vectors, here + 3 * POINT, None), splat(values[weight + 3]), d)
        for number in range(whole, count):
            a = fma(load(vectors, (first + number) * POINT, None), splat(values[place + number]), a)
        store(found, row * stride + group * POINT, (a + b) + (c + d), None)


@cache
def power_kernel(radices: tuple[int, int, int, int], heard: int) -> Any:
    """The kernel of transforms whose length is the product of four radices.

    Of the first radix's points, ``heard`` can be other than zero, whatever the place.
    """
    a1, a2, b1, b2 = radices
    long, short = a1 * a2, b1 * b2
    points = long * short

    @njit(types.void(*[types.int64] * 18), **_OPTIONS)
    def powers(
        wave, first, hop, columns, samples, window, frames, twiddles_a, twiddles_between, twiddles_b,
        line, work, rows_of_two, power, ranges, weights, rows, out,
    ):  # fmt: skip
        begins = np.empty(POINT, np.int64)
        stride = (columns + POINT - 1) // POINT * POINT
        x, cut, weight = at(wave, _F4), at(frames, _F4), at(window, _F8)
        turn_a, turn, turn_b = at(twiddles_a, _F8), at(twiddles_between, _F8), at(twiddles_b, _F8)
        near, far, both = at(line, _F8), at(work, _F8), at(rows_of_two, _F8)
        other = at(rows_of_two + 8 * POINT * short, _F8)
        for group in range(stride // POINT):
            for frame in range(POINT):
                begins[frame] = first + min(group * POINT + frame, columns - 1) * hop
            for sample in range(0, samples - LANES, LANES):
                gather(x, at(begins.ctypes.data, _I8), sample, cut)
            gather(x, at(begins.ctypes.data, _I8), samples - LANES, cut)
            for n in range(short):
                for k in range(a2):
                    transform_frames(
                        a1, heard, cut, weight, k * short + n, a2 * short, near, k, a2, turn_a, k * a1
                    )
                for k in range(a1):
                    transform_points(
                        a2, near, k * a2, 1, far, n * (long + 1) + k, a1, turn, n * long + k * a2
                    )
            for row in range(long // 2 + 1):
                mirrored = (long - row) % long
                for n in range(b2):
                    transform_points(
                        b1, far, n * (long + 1) + row, b2 * (long + 1), near, n, b2, turn_b, n * b1
                    )
                for k in range(b1):
                    transform_points(b2, near, k * b2, 1, both, k, b1, None, 0)
                if mirrored != row:
                    for n in range(b2):
                        transform_points(
                            b1, far, n * (long + 1) + mirrored, b2 * (long + 1), near, n, b2, turn_b, n * b1
                        )
                    for k in range(b1):
                        transform_points(b2, near, k * b2, 1, other, k, b1, None, 0)
                for k in range(short):
                    bin_ = row + long * k
                    there = short - 1 - k if row else (short - k) % short
                    store_powers(
                        both, k, other if mirrored != row else both, there, at(power, _F4), min(bin_, points - bin_)
                    )
            _bands(power, ranges, weights, rows, out, stride, group)

    return powers
