"""The STFT kernel of `earsight.features.stft`: from a wave to band energies, sixteen frames at once.

Comes in: a `JOB` record of addresses and sizes. Goes out: the band energies, where the record says.

A transform of N = A * B points, A = a1 * a2 and B = b1 * b2, runs in two steps, so that each stays in the nearest
cache: transforms of A samples, B apart, then of the B points that those gave for the same bin of theirs (Cooley and
Tukey 1965). Each step is two passes of short FFTs in registers (`earsight.kernels.fft`). Frames come in pairs, one as
the real part and one as the imaginary part of a complex wave; their bins are separated in the end. Imports numba: only
`earsight.kernels.runtime` may import this.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, from_dtype, njit, types

from earsight.kernels.fft import POINT, gather, store_powers, transform_frames, transform_points
from earsight.kernels.simd import F4, OPTIONS, at, fma, load, splat, store
from earsight.kernels.widths import DOUBLES

JOB = np.dtype(
    [(name, np.int64) for name in ("wave", "first", "hop", "columns", "samples", "window", "frames")]
    + [(name, np.int64) for name in ("inner", "between", "outer", "begins", "line", "work", "pair", "power")]
    + [(name, np.int64) for name in ("ranges", "weights", "rows", "out")]
)
"""The kernel's record: sizes, and addresses of arrays; those of ``frames`` and of scratch are whole 64 bytes.

``wave`` is float32; frame t begins at sample ``first`` + t * ``hop`` and has ``samples`` of them, at least `DOUBLES`;
there are ``columns`` frames. ``window`` is float64, half of what a sample is weighted with, and zero behind ``samples``
up to the last that is transformed; ``frames`` is as long, float32 (.., `POINT`), and zero there too.
``inner``, ``between`` and ``outer`` are complex128, the twiddles behind the first three passes in the order in which
they are used: (a2, a1), (B, a1, a2), (b2, b1). ``begins`` (`POINT`), int64, ``line`` (max(A, B), `POINT`), ``work``
(B, A + 1, `POINT`), ``pair`` (2, B, `POINT`), float64, and ``power`` (N // 2 + 1, `POINT`), float32, are scratch.
``ranges`` (``rows``, 3) int64 has of each row of the bank its first bin, how many there are, and the place of the first
one's weight in ``weights``, float32. ``out`` is float32 (``rows``, ``columns`` made whole `POINT`\\ s).
"""

_JOB = from_dtype(JOB)
_F8, _I8 = np.float64, np.int64


@njit(no_cpython_wrapper=True, **OPTIONS)
def _cut(job, group):
    """Samples of a group of frames side by side; the last frame is repeated."""
    begins = at(job.begins, _I8)
    for frame in range(POINT):
        begins[frame] = job.first + min(group * POINT + frame, job.columns - 1) * job.hop
    wave, frames = at(job.wave, F4), at(job.frames, F4)
    for sample in range(0, job.samples - DOUBLES, DOUBLES):
        gather(wave, begins, sample, frames)
    gather(wave, begins, job.samples - DOUBLES, frames)  # some of them twice


@njit(no_cpython_wrapper=True, **OPTIONS)
def _apply_bank(job, group):
    """The bank on the power of a group of frames."""
    power, weights, out = at(job.power, F4), at(job.weights, F4), at(job.out, F4)
    ranges = carray(at(job.ranges, _I8), (job.rows, 3))
    stride = (job.columns + POINT - 1) // POINT * POINT
    for row in range(job.rows):
        first, count, place = ranges[row]
        # Four sums, so that none waits for the one before.
        a = b = c = d = splat(F4(0))
        whole = count - count % 4
        for number in range(0, whole, 4):
            here, weight = (first + number) * POINT, place + number
            a = fma(load(power, here, None), splat(weights[weight]), a)
            b = fma(load(power, here + POINT, None), splat(weights[weight + 1]), b)
            c = fma(load(power, here + 2 * POINT, None), splat(weights[weight + 2]), c)
            d = fma(load(power, here + 3 * POINT, None), splat(weights[weight + 3]), d)
        for number in range(whole, count):
            a = fma(load(power, (first + number) * POINT, None), splat(weights[place + number]), a)
        store(out, row * stride + group * POINT, (a + b) + (c + d), None)


def compiled(radices: tuple[int, int, int, int], inside: int, *, keep: bool) -> Any:
    """The kernel for transforms whose length is the product of four radices a1, a2, b1, b2.

    Of the a1 samples of a transform of the first pass, the first ``inside`` can be within the window. With ``keep`` its
    machine code is kept on the disk, where numba's settings say.
    """
    a1, a2, b1, b2 = radices
    A, B = a1 * a2, b1 * b2

    # All that the function takes from here are integers: numba knows what it kept by the values of these.
    @njit(types.void(types.Array(_JOB, 1, "C")), cache=keep, **OPTIONS)
    def powers(jobs):
        job = jobs[0]
        frames, window = at(job.frames, F4), at(job.window, _F8)
        inner, between, outer = at(job.inner, _F8), at(job.between, _F8), at(job.outer, _F8)
        line, work, pair, power = at(job.line, _F8), at(job.work, _F8), at(job.pair, _F8), at(job.power, F4)
        for group in range((job.columns + POINT - 1) // POINT):
            _cut(job, group)
            for n in range(B):
                for k in range(a2):
                    transform_frames(a1, inside, frames, window, k * B + n, a2 * B, line, k, a2, inner, k * a1)
                for k in range(a1):
                    transform_points(a2, line, k * a2, 1, work, n * (A + 1) + k, a1, between, n * A + k * a2)
            # Bins row + A * k, and those that mirror them: in the row that mirrors this one, or in this one itself.
            for row in range(A // 2 + 1):
                mirrored = (A - row) % A
                sides = 1 if mirrored == row else 2
                for side in range(sides):
                    begin = mirrored if side else row
                    for n in range(b2):
                        transform_points(b1, work, n * (A + 1) + begin, b2 * (A + 1), line, n, b2, outer, n * b1)
                    for k in range(b1):
                        transform_points(b2, line, k * b2, 1, pair, side * B + k, b1, None, 0)
                for k in range(B):
                    there = B - 1 - k if row else (B - k) % B
                    place = row + A * k
                    store_powers(pair, k, (sides - 1) * B + there, power, min(place, A * B - place))
            _apply_bank(job, group)

    return powers
