"""Covariance kernel: mean and covariance of a feature map's channels over all positions.

Comes in: a `JOB` record of addresses and sizes, of a map (rows, channels) of few channels, float32 or bfloat16. Goes
out: mean (channels,) and covariance (channels, channels), float32.

Distances are taken from the mean of some rows, so that little is lost where channels are far from 0. Rows are cut into
parts, which threads take one after the other and which are added in their order: the bits are the same for any number
of threads. Imports numba: only `earsight.kernels.runtime` may import this.
"""

from __future__ import annotations

import numpy as np

from earsight.kernels.simd import F4, at, by_parts, entries, fma, inlined, load, room, separate, splat, store
from earsight.kernels.widths import WIDTH

JOB = np.dtype(
    [
        (name, np.int64)
        for name in ("next", "done", "here", "parts", "rows", "channels", "padded", "x", "sums", "mean", "covariance")
    ]
)
"""The kernel's record. ``padded`` are the channels rounded up to whole vectors; ``sums`` is scratch,
(parts, padded + 1, padded): of products, and below them of distances."""

_ROOM = 256
"""Vectors in a tile of rows."""
_MOST_VECTORS = 32
"""Most vectors of channels, for `earsight.models.fast.inverted_residual._MOST_CHANNELS`."""
_ORIGIN_ROWS = 64
"""Rows whose mean is the origin of distances."""
_AT_A_TIME = 8
"""Channels whose products are summed at a time."""


@inlined
def _load(x, place, left):
    return load(x, place, None) if left >= WIDTH else load(x, place, left)


@inlined
def _add(sums, place, value):
    store(sums, place, load(sums, place, None) + value, None)


@separate
def _origin(x, c, rows, channels):
    """Mean of some rows from all over the map, of sixteen channels from c on."""
    count = min(_ORIGIN_ROWS, rows)
    total = splat(F4(0))
    for row in range(count):
        total = total + _load(x, row * (rows // count) * channels + c, channels - c)
    return total * splat(F4(1) / F4(count))


@separate
def _add_products(tile, count, padded, channels, sums):
    """Add the products of all pairs of a tile's columns, summed over its rows, to the sums."""
    for i in range(0, channels, _AT_A_TIME):
        for c in range(i - i % WIDTH, padded, WIDTH):
            a = b = d = e = f = g = h = k = splat(F4(0))
            for row in range(count):
                value = load(tile, row * padded + c, None)
                place = row * padded + i
                a = fma(value, splat(tile[place]), a)
                b = fma(value, splat(tile[place + 1]), b)
                d = fma(value, splat(tile[place + 2]), d)
                e = fma(value, splat(tile[place + 3]), e)
                f = fma(value, splat(tile[place + 4]), f)
                g = fma(value, splat(tile[place + 5]), g)
                h = fma(value, splat(tile[place + 6]), h)
                k = fma(value, splat(tile[place + 7]), k)
            place = i * padded + c
            _add(sums, place, a)
            _add(sums, place + padded, b)
            _add(sums, place + 2 * padded, d)
            _add(sums, place + 3 * padded, e)
            _add(sums, place + 4 * padded, f)
            _add(sums, place + 5 * padded, g)
            _add(sums, place + 6 * padded, h)
            _add(sums, place + 7 * padded, k)


@separate
def _do_part(job, part, kind):
    tile, origin = room(_ROOM), room(_MOST_VECTORS)
    x, channels, padded = at(job.x, kind), job.channels, job.padded
    sums = at(job.sums + part * (padded + 1) * padded * 4, F4)
    for place in range(0, (padded + 1) * padded, WIDTH):
        store(sums, place, splat(F4(0)), None)
    for c in range(0, padded, WIDTH):
        store(origin, c, _origin(x, c, job.rows, channels), None)
    most = _ROOM * WIDTH // padded
    end = job.rows * (part + 1) // job.parts
    for begin in range(job.rows * part // job.parts, end, most):
        count = min(most, end - begin)
        for c in range(0, padded, WIDTH):
            first = load(origin, c, None)
            total = splat(F4(0))
            for row in range(count):
                value = _load(x, (begin + row) * channels + c, channels - c) - first
                store(tile, row * padded + c, value, None)
                total = total + value
            _add(sums, padded * padded + c, total)
        _add_products(tile, count, padded, channels, sums)


@separate
def _join(job, kind):
    """Mean and covariance from the sums of all parts."""
    x, sums = at(job.x, kind), at(job.sums, F4)
    channels, padded = job.channels, job.padded
    mean, covariance = at(job.mean, F4), at(job.covariance, F4)
    size = (padded + 1) * padded
    share = splat(F4(1) / F4(job.rows))
    for place in range(0, size, WIDTH):
        total = load(sums, place, None)
        for part in range(1, job.parts):
            total = total + load(sums, part * size + place, None)
        store(sums, place, total * share, None)
    apart = padded * padded
    for c in range(0, padded, WIDTH):
        value = load(sums, apart + c, None) + _origin(x, c, job.rows, channels)
        store(mean, c, value, min(WIDTH, channels - c))
    for i in range(channels):
        for j in range(i, channels):
            value = sums[i * padded + j] - sums[apart + i] * sums[apart + j]
            covariance[i * channels + j] = value
            covariance[j * channels + i] = value


_covariance = by_parts(_do_part, _join)


covariance_float32, covariance_bfloat16 = entries("covariance", _covariance)
"""Mean and covariance of the columns of a matrix."""
