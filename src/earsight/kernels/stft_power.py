"""The STFT kernel of `earsight.features.stft`: from a wave to band energies, sixteen or 32 frames at once.

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

from earsight.kernels.fft import gather, reals, store_powers, transform_frames, transform_points
from earsight.kernels.simd import F4, OPTIONS, at, fma, load, splat, store
from earsight.kernels.widths import AT_ONCE, WIDTH, frames_of

JOB = np.dtype(
    [(name, np.int64) for name in ("wave", "first", "hop", "columns", "samples", "window", "frames")]
    + [(name, np.int64) for name in ("inner", "between", "outer", "begins", "line", "work", "pair", "power")]
    + [(name, np.int64) for name in ("ranges", "weights", "rows", "out")]
)
"""The kernel's record: sizes, and addresses of arrays; those of ``frames`` and of scratch are whole 64 bytes.

Reals are float64, or float32 where a kernel is compiled for that; F is 16 or 32 then, `widths.frames_of`. ``wave`` is
float32; frame t begins at sample ``first`` + t * ``hop`` and has ``samples`` of them, at least `AT_ONCE`; there are
``columns`` frames. ``window`` is of reals, half of what a sample is weighted with, and zero behind ``samples`` up to
the last that is transformed; ``frames`` is as long, float32 (.., F), and zero there too. ``inner``, ``between`` and
``outer`` are pairs of reals, the twiddles behind the first three passes in the order in which they are used: (a2, a1),
(B, a1, a2), (b2, b1). ``begins`` (F), int64, ``line`` (max(A, B), F), ``work`` (B, A + 1, F), ``pair`` (2, B, F),
reals, and ``power`` (N // 2 + 1, F), float32, are scratch. ``ranges`` (``rows``, 3) int64 has of each row of the bank
its first bin, how many there are, and the place of the first one's weight in ``weights``, float32. ``out`` is float32
(``rows``, ``columns`` made a multiple of F).
"""

_JOB = from_dtype(JOB)
_I8 = np.int64


@njit(no_cpython_wrapper=True, **OPTIONS)
def _cut(job, group, points, point):
    """Samples of a group of ``point`` frames side by side; the last frame is repeated."""
    begins = at(job.begins, _I8)
    for frame in range(point):
        begins[frame] = job.first + min(group * point + frame, job.columns - 1) * job.hop
    wave, frames = at(job.wave, F4), at(job.frames, F4)
    for sample in range(0, job.samples - AT_ONCE, AT_ONCE):
        gather(wave, begins, sample, frames, points)
    gather(wave, begins, job.samples - AT_ONCE, frames, points)  # some of them twice


@njit(no_cpython_wrapper=True, **OPTIONS)
def _apply_bank(job, group, point):
    """The bank on the power of a group of ``point`` frames."""
    power, weights, out = at(job.power, F4), at(job.weights, F4), at(job.out, F4)
    ranges = carray(at(job.ranges, _I8), (job.rows, 3))
    stride = (job.columns + point - 1) // point * point
    for row in range(job.rows):
        first, count, place = ranges[row]
        whole = count - count % 4
        for some in range(0, point, WIDTH):
            # Four sums, so that none waits for the one before.
            a = b = c = d = splat(F4(0))
            for number in range(0, whole, 4):
                here, weight = (first + number) * point + some, place + number
                a = fma(load(power, here, None), splat(weights[weight]), a)
                b = fma(load(power, here + point, None), splat(weights[weight + 1]), b)
                c = fma(load(power, here + 2 * point, None), splat(weights[weight + 2]), c)
                d = fma(load(power, here + 3 * point, None), splat(weights[weight + 3]), d)
            for number in range(whole, count):
                a = fma(load(power, (first + number) * point + some, None), splat(weights[place + number]), a)
            store(out, row * stride + group * point + some, (a + b) + (c + d), None)


def compiled(radices: tuple[int, int, int, int], inside: int, value_bytes: int, *, keep: bool) -> Any:
    """The kernel for transforms whose length is the product of four radices a1, a2, b1, b2.

    Of the a1 samples of a transform of the first pass, the first ``inside`` can be within the window. Reals have
    ``value_bytes``, 8 or 4. With ``keep`` its machine code is kept on the disk, where numba's settings say.
    """
    a1, a2, b1, b2 = radices
    A, B, point = a1 * a2, b1 * b2, frames_of(value_bytes)

    # All that the function takes from here are integers: numba knows what it kept by the values of these.
    @njit(types.void(types.Array(_JOB, 1, "C")), cache=keep, **OPTIONS)
    def powers(jobs):
        job = jobs[0]
        frames, window = at(job.frames, F4), reals(job.window, value_bytes)
        inner, between = reals(job.inner, value_bytes), reals(job.between, value_bytes)
        outer, line = reals(job.outer, value_bytes), reals(job.line, value_bytes)
        work, pair, power = reals(job.work, value_bytes), reals(job.pair, value_bytes), at(job.power, F4)
        for group in range((job.columns + point - 1) // point):
            _cut(job, group, line, point)
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
            _apply_bank(job, group, point)

    return powers
