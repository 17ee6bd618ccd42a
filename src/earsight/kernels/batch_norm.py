"""Batch-norm kernels with an activation, forward and backward, with few passes over memory.

Comes in: a `JOB` record of addresses and sizes. Feature maps are channels-last: ``rows`` positions (batch, height,
width) of ``channels`` values; those of ``x`` begin every ``stride`` elements. All else is float32. Goes out: the arrays
that the record names, changed.

The rows are cut into ``parts``, which threads take one after the other; partial sums are added in the order of the
parts, so the bits are the same for any number of threads. Imports numba: only `earsight.kernels.runtime` may import
this.
"""

from __future__ import annotations

import numpy as np

from earsight.kernels.simd import (
    F4,
    at,
    by_parts,
    by_vectors,
    clamp,
    entries,
    fetch,
    fma,
    inlined,
    load,
    root,
    separate,
    splat,
    store,
    where_inside,
)

JOB = np.dtype(
    [("next", np.int64), ("done", np.int64), ("here", np.int64), ("parts", np.int64)]
    + [(name, np.int64) for name in ("rows", "channels", "stride", "x", "y", "side", "grad", "more", "out", "side_out")]
    + [(name, np.int64) for name in ("weight", "bias", "running_mean", "running_var", "state", "sums", "slopes")]
    + [(name, np.float32) for name in ("low", "high", "eps", "momentum")]
)
"""The record of a kernel: addresses (0 for none), sizes and settings.

``grad``, and ``more`` where something else reads the output too, are gradients of the output, which ``y`` is.
``state`` holds mean, inverse deviation, scale and shift of each channel, (4, channels); ``slopes`` the gradients of
weight and bias and two coefficients of the input's gradient, (4, channels); ``sums`` is scratch, (parts, 2, channels).
"""

_ROWS = 16
"""Rows of a block, over which sums are taken for sixteen channels after sixteen."""
_LINES = (0,) * (_ROWS // 2)
"""As long as the cache lines are many that sixteen bfloat16 channels of a block fill."""


@inlined
def _prefetch_block(x, row, c, mask, channels, stride):
    """Prefetch a share of the next block in memory's order, which caches do not foresee as it is read."""
    if mask is None and stride == channels:
        fetch(x, row * channels + c * _ROWS, _LINES, 0)


@inlined
def _block_moments(c, mask, x, row, channels, stride, count, sums, first, seen):
    """Mean and sum of squared distances from it, of one block of rows, joined to those of ``seen`` rows before."""
    _prefetch_block(x, row + _ROWS, c, mask, channels, stride)
    place, first, second = row * stride + c, first + c, first + channels + c
    a = b = splat(F4(0))
    at_row = place
    for _ in range(count // 2):
        a = a + load(x, at_row, mask)
        b = b + load(x, at_row + stride, mask)
        at_row += 2 * stride
    if count % 2:
        a = a + load(x, at_row, mask)
    mean = (a + b) * splat(F4(1) / F4(count))
    a = b = splat(F4(0))
    at_row = place
    for _ in range(count // 2):
        d = load(x, at_row, mask) - mean
        e = load(x, at_row + stride, mask) - mean
        a = fma(d, d, a)
        b = fma(e, e, b)
        at_row += 2 * stride
    if count % 2:
        d = load(x, at_row, mask) - mean
        a = fma(d, d, a)
    squares = a + b
    if seen:
        before = load(sums, first, mask)
        apart = mean - before
        mean = fma(apart, splat(F4(count) / F4(seen + count)), before)
        squares = squares + load(sums, second, mask)
        squares = fma(apart * apart, splat(F4(seen) * (F4(count) / F4(seen + count))), squares)
    store(sums, first, mean, mask)
    store(sums, second, squares, mask)


@separate
def _part_moments(job, part, kind):
    x, sums = at(job.x, kind), at(job.sums, F4)
    channels, stride = job.channels, job.stride
    begin, end = job.rows * part // job.parts, job.rows * (part + 1) // job.parts
    first = 2 * part * channels
    for row in range(begin, end, _ROWS):
        count, seen = min(_ROWS, end - row), row - begin
        by_vectors(_block_moments, channels, x, row, channels, stride, count, sums, first, seen)


@inlined
def _join_moments(c, mask, job):
    """Statistics of all parts: mean, inverse deviation, scale and shift, and the running ones."""
    channels, sums, state = job.channels, at(job.sums, F4), at(job.state, F4)
    mean, squares = load(sums, c, mask), load(sums, channels + c, mask)
    seen = job.rows // job.parts
    for part in range(1, job.parts):
        count = job.rows * (part + 1) // job.parts - seen
        apart = load(sums, 2 * part * channels + c, mask) - mean
        mean = fma(apart, splat(F4(count) / F4(seen + count)), mean)
        squares = squares + load(sums, (2 * part + 1) * channels + c, mask)
        squares = fma(apart * apart, splat(F4(seen) * (F4(count) / F4(seen + count))), squares)
        seen += count
    variance = squares * splat(F4(1) / F4(job.rows))
    inverse = splat(F4(1)) / root(variance + splat(F4(job.eps)))
    scale = inverse
    if job.weight:
        scale = inverse * load(at(job.weight, F4), c, mask)
    shift = splat(F4(0)) - mean * scale
    if job.bias:
        shift = shift + load(at(job.bias, F4), c, mask)
    store(state, c, mean, mask)
    store(state, channels + c, inverse, mask)
    store(state, 2 * channels + c, scale, mask)
    store(state, 3 * channels + c, shift, mask)
    if job.running_mean:
        running_mean, running_var = at(job.running_mean, F4), at(job.running_var, F4)
        new, old = splat(F4(job.momentum)), splat(F4(1) - F4(job.momentum))
        unbiased = squares * splat(F4(1) / F4(job.rows - 1))
        store(running_mean, c, fma(new, mean, old * load(running_mean, c, mask)), mask)
        store(running_var, c, fma(new, unbiased, old * load(running_var, c, mask)), mask)


@inlined
def _finish_moments(job, kind):
    by_vectors(_join_moments, job.channels, job)


_moments = by_parts(_part_moments, _finish_moments)


@inlined
def _apply_to(c, mask, x, out, place, target, state, channels, low, high):
    value = fma(load(x, place + c, mask), load(state, 2 * channels + c, mask), load(state, 3 * channels + c, mask))
    store(out, target + c, clamp(value, low, high), mask)


@inlined
def _add_and_apply_to(c, mask, x, side, out, place, target, state, channels, low, high):
    value = fma(load(x, place + c, mask), load(state, 2 * channels + c, mask), load(state, 3 * channels + c, mask))
    store(out, target + c, clamp(value + load(side, target + c, mask), low, high), mask)


@separate
def _part_apply(job, part, kind):
    x, side, out, state = at(job.x, kind), at(job.side, kind), at(job.out, kind), at(job.state, F4)
    channels, stride = job.channels, job.stride
    low, high = splat(job.low), splat(job.high)
    added = job.side != 0
    for row in range(job.rows * part // job.parts, job.rows * (part + 1) // job.parts):
        place, target = row * stride, row * channels
        if added:
            by_vectors(_add_and_apply_to, channels, x, side, out, place, target, state, channels, low, high)
        else:
            by_vectors(_apply_to, channels, x, out, place, target, state, channels, low, high)


_apply = by_parts(_part_apply)


@inlined
def _block_slopes(c, mask, job, x, y, grad, more, side_out, state, row, count, sums, first, seen):
    """Sums of the output's gradient where the activation lets it pass, alone and times the distance from the mean."""
    channels, stride = job.channels, job.stride
    _prefetch_block(x, row + _ROWS, c, mask, channels, stride)
    _prefetch_block(grad, row + _ROWS, c, mask, channels, channels)
    first, second = first + c, first + channels + c
    low, high = splat(job.low), splat(job.high)
    mean = load(state, c, mask)
    scale, shift = load(state, 2 * channels + c, mask), load(state, 3 * channels + c, mask)
    a = b = splat(F4(0))
    if seen:
        a, b = load(sums, first, mask), load(sums, second, mask)
    place, target = row * stride + c, row * channels + c
    if job.y:
        twice = job.more != 0
        for _ in range(count):
            g = load(grad, target, mask)
            if twice:
                g = g + load(more, target, mask)
            g = where_inside(g, load(y, target, mask), low, high)
            store(side_out, target, g, mask)
            a = a + g
            b = fma(g, load(x, place, mask) - mean, b)
            place += stride
            target += channels
    else:
        for _ in range(count):
            value = load(x, place, mask)
            g = where_inside(load(grad, target, mask), fma(value, scale, shift), low, high)
            a = a + g
            b = fma(g, value - mean, b)
            place += stride
            target += channels
    store(sums, first, a, mask)
    store(sums, second, b, mask)


@separate
def _part_slopes(job, part, kind):
    x, y, grad, side_out = at(job.x, kind), at(job.y, kind), at(job.grad, kind), at(job.side_out, kind)
    more = at(job.more, kind)
    state, sums = at(job.state, F4), at(job.sums, F4)
    channels = job.channels
    begin, end = job.rows * part // job.parts, job.rows * (part + 1) // job.parts
    first = 2 * part * channels
    for row in range(begin, end, _ROWS):
        count, seen = min(_ROWS, end - row), row - begin
        by_vectors(_block_slopes, channels, job, x, y, grad, more, side_out, state, row, count, sums, first, seen)


@inlined
def _join_slopes(c, mask, job):
    """Gradients of weight and bias, and the two coefficients of the input's gradient."""
    channels, sums = job.channels, at(job.sums, F4)
    state, slopes = at(job.state, F4), at(job.slopes, F4)
    a, b = load(sums, c, mask), load(sums, channels + c, mask)
    for part in range(1, job.parts):
        a = a + load(sums, 2 * part * channels + c, mask)
        b = b + load(sums, (2 * part + 1) * channels + c, mask)
    inverse, scale = load(state, channels + c, mask), load(state, 2 * channels + c, mask)
    weight_grad = b * inverse
    share = scale * splat(F4(-1) / F4(job.rows))
    store(slopes, c, weight_grad, mask)
    store(slopes, channels + c, a, mask)
    store(slopes, 2 * channels + c, share * inverse * weight_grad, mask)
    store(slopes, 3 * channels + c, share * a, mask)


@inlined
def finish_slopes(job, kind):
    """Join what the parts have left."""
    by_vectors(_join_slopes, job.channels, job)


_slopes = by_parts(_part_slopes, finish_slopes)


@inlined
def _gradient_to(c, mask, x, grad, out, place, target, state, slopes, channels, low, high):
    value = load(x, place + c, mask)
    scale = load(state, 2 * channels + c, mask)
    g = where_inside(load(grad, target + c, mask), fma(value, scale, load(state, 3 * channels + c, mask)), low, high)
    rest = fma(load(slopes, 2 * channels + c, mask), value - load(state, c, mask), load(slopes, 3 * channels + c, mask))
    store(out, target + c, fma(scale, g, rest), mask)


@separate
def _part_gradient(job, part, kind):
    x, grad, out = at(job.x, kind), at(job.grad, kind), at(job.out, kind)
    state, slopes = at(job.state, F4), at(job.slopes, F4)
    channels, stride = job.channels, job.stride
    low, high = splat(job.low), splat(job.high)
    for row in range(job.rows * part // job.parts, job.rows * (part + 1) // job.parts):
        place, target = row * stride, row * channels
        by_vectors(_gradient_to, channels, x, grad, out, place, target, state, slopes, channels, low, high)


_gradient = by_parts(_part_gradient)


moments_float32, moments_bfloat16 = entries("moments", _moments)
"""Mean and variance of each channel, and what follows from them."""
apply_float32, apply_bfloat16 = entries("apply", _apply)
"""``out = activation(x * scale + shift + side)``."""
affine_gradients_float32, affine_gradients_bfloat16 = entries("affine_gradients", _slopes)
"""Gradients of weight and bias; with ``y`` also that of the side, in ``side_out``."""
input_gradient_float32, input_gradient_bfloat16 = entries("input_gradient", _gradient)
"""Gradient of the input from that of the output."""
