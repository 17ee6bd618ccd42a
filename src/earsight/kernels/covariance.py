"""A compiled kernel for the mean and the covariance of a feature map's channels over all positions.

Comes in: a `JOB` record of addresses and sizes, of a map (rows, channels) of few channels, float32 or bfloat16. Goes
out: mean (channels,) and covariance (channels, channels), float32.

Distances are taken from the mean of some rows, so that little is lost where channels are far from 0. Rows are cut
into parts, which threads take one after the other; the parts are put together in their order, so that the bits are the
same for any number of threads. Imports numba: only `earsight.kernels.runtime` may import this.
"""

from __future__ import annotations

import numpy as np
from numba import carray, cfunc, from_dtype, types

from earsight.kernels.batch_norm import _BF, _F4, _OPTIONS, _inlined, _whole
from earsight.kernels.simd import WIDTH, at, fma, load, next_ticket, room, splat, store

JOB = np.dtype(
    [
        (name, np.int64)
        for name in ("next", "done", "here", "parts", "rows", "channels", "lanes", "x", "sums", "mean", "covariance")
    ]
)
"""What the kernel is told. ``lanes`` are channels, as many as whole vectors need; ``sums`` is scratch, (parts, lanes +
1, lanes): of products, and below them of distances."""

_ENTRY = types.void(types.CPointer(from_dtype(JOB)))
_ROOM = 256
"""Vectors in a tile of rows."""
_MOST_VECTORS = 32
"""That channels fill: those of `earsight.models.fast.inverted_residual._MOST_CHANNELS`."""
_SOME = 64
"""Rows whose mean distances are taken from."""
_AT_A_TIME = 8
"""Channels whose products are summed at a time."""


@_inlined
def _load(x, place, left):
    return load(x, place, None) if left >= WIDTH else load(x, place, left)


@_inlined
def _add(sums, place, value):
    store(sums, place, load(sums, place, None) + value, None)


@_whole
def _origin(x, c, rows, channels):
    """Mean of some rows from all over the map, of sixteen channels from c on."""
    count = min(_SOME, rows)
    total = splat(_F4(0))
    for row in range(count):
        total = total + _load(x, row * (rows // count) * channels + c, channels - c)
    return total * splat(_F4(1) / _F4(count))


@_whole
def _add_products(tile, count, lanes, channels, sums):
    """Add the products of all pairs of columns of a tile, summed over its rows, to those of the later column."""
    for i in range(0, channels, _AT_A_TIME):
        for c in range(i - i % WIDTH, lanes, WIDTH):
            a = b = d = e = f = g = h = k = splat(_F4(0))
            for row in range(count):
                value = load(tile, row * lanes + c, None)
                place = row * lanes + i
                a = fma(value, splat(tile[place]), a)
                b = fma(value, splat(tile[place + 1]), b)
                d = fma(value, splat(tile[place + 2]), d)
                e = fma(value, splat(tile[place + 3]), e)
                f = fma(value, splat(tile[place + 4]), f)
                g = fma(value, splat(tile[place + 5]), g)
                h = fma(value, splat(tile[place + 6]), h)
                k = fma(value, splat(tile[place + 7]), k)
            place = i * lanes + c
            _add(sums, place, a)
            _add(sums, place + lanes, b)
            _add(sums, place + 2 * lanes, d)
            _add(sums, place + 3 * lanes, e)
            _add(sums, place + 4 * lanes, f)
            _add(sums, place + 5 * lanes, g)
            _add(sums, place + 6 * lanes, h)
            _add(sums, place + 7 * lanes, k)


@_whole
def _do_part(job, part, tile, origin, kind):
    x, channels, lanes = at(job.x, kind), job.channels, job.lanes
    sums = at(job.sums + part * (lanes + 1) * lanes * 4, _F4)
    for place in range(0, (lanes + 1) * lanes, WIDTH):
        store(sums, place, splat(_F4(0)), None)
    for c in range(0, lanes, WIDTH):
        store(origin, c, _origin(x, c, job.rows, channels), None)
    most = _ROOM * WIDTH // lanes
    end = job.rows * (part + 1) // job.parts
    for begin in range(job.rows * part // job.parts, end, most):
        count = min(most, end - begin)
        for c in range(0, lanes, WIDTH):
            first = load(origin, c, None)
            total = splat(_F4(0))
            for row in range(count):
                value = _load(x, (begin + row) * channels + c, channels - c) - first
                store(tile, row * lanes + c, value, None)
                total = total + value
            _add(sums, lanes * lanes + c, total)
        _add_products(tile, count, lanes, channels, sums)


@_whole
def _join(job, kind):
    """Mean and covariance from the sums of all parts."""
    x, sums = at(job.x, kind), at(job.sums, _F4)
    channels, lanes = job.channels, job.lanes
    mean, covariance = at(job.mean, _F4), at(job.covariance, _F4)
    size = (lanes + 1) * lanes
    share = splat(_F4(1) / _F4(job.rows))
    for place in range(0, size, WIDTH):
        total = load(sums, place, None)
        for part in range(1, job.parts):
            total = total + load(sums, part * size + place, None)
        store(sums, place, total * share, None)
    apart = lanes * lanes
    for c in range(0, lanes, WIDTH):
        value = load(sums, apart + c, None) + _origin(x, c, job.rows, channels)
        if c + WIDTH <= channels:
            store(mean, c, value, None)
        else:
            store(mean, c, value, channels - c)
    for i in range(channels):
        for j in range(i, channels):
            value = sums[i * lanes + j] - sums[apart + i] * sums[apart + j]
            covariance[i * channels + j] = value
            covariance[j * channels + i] = value


@_inlined
def _covary(pointer, kind):
    job = carray(pointer, 1)[0]
    tile, origin = room(_ROOM), room(_MOST_VECTORS)
    while True:
        part = next_ticket(job.here)
        if part >= job.parts:
            break
        _do_part(job, part, tile, origin, kind)
        if next_ticket(job.here + 8) == job.parts - 1:
            _join(job, kind)


def covary_float32(pointer):
    """Mean and covariance of the columns of a matrix."""
    _covary(pointer, _F4)


def covary_bfloat16(pointer):
    """Mean and covariance of the columns of a matrix."""
    _covary(pointer, _BF)


def compile_entry(entry):
    """Machine code of one of the functions above; what an earlier process compiled is read from numba's cache."""
    return cfunc(_ENTRY, cache=True, **_OPTIONS)(entry)
