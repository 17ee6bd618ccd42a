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
from numba import carray

from earsight.kernels.simd import (
    BF16,
    F4,
    at,
    clamp,
    fetch,
    fma,
    inlined,
    load,
    next_ticket,
    root,
    separate,
    splat,
    store,
    where_inside,
)
from earsight.kernels.widths import WIDTH

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


def by_parts(do_part):
    """A kernel (pointer, kind) that does part after part, whichever thread is free."""

    @inlined
    def work(pointer, kind):
        job = carray(pointer, 1)[0]
        while True:
            part = next_ticket(job.here)
            if part >= job.parts:
                break
            do_part(job, part, kind)

    return work


def by_parts_and_joined(do_part, join):
    """The same; the thread that ends the last part joins all parts' results, some channels at a time."""

    @inlined
    def work(pointer, kind):
        job = carray(pointer, 1)[0]
        while True:
            part = next_ticket(job.here)
            if part >= job.parts:
                break
            do_part(job, part, kind)
            if next_ticket(job.here + 8) == job.parts - 1:
                whole = job.channels - job.channels % WIDTH
                for c in range(0, whole, WIDTH):
                    join(job, c, None)
                if whole < job.channels:
                    join(job, whole, job.channels - whole)

    return work


@inlined
def _prefetch_block(x, row, c, channels, stride):
    """Prefetch a share of the next block in memory's order, which caches do not foresee as it is read."""
    if stride == channels:
        fetch(x, row * channels + c * _ROWS, _LINES, 0)


@inlined
def _block_moments(x, place, stride, count, sums, first, second, seen, mask):
    """Mean and sum of squared distances from it, of one block of rows, joined to those of ``seen`` rows before."""
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
    whole = channels - channels % WIDTH
    first, second = 2 * part * channels, (2 * part + 1) * channels
    for row in range(begin, end, _ROWS):
        count, seen = min(_ROWS, end - row), row - begin
        for c in range(0, whole, WIDTH):
            _prefetch_block(x, row + _ROWS, c, channels, stride)
            _block_moments(x, row * stride + c, stride, count, sums, first + c, second + c, seen, None)
        if whole < channels:
            place = row * stride + whole
            _block_moments(x, place, stride, count, sums, first + whole, second + whole, seen, channels - whole)


@inlined
def _join_moments(job, c, mask):
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


_moments = by_parts_and_joined(_part_moments, _join_moments)


@inlined
def _apply_to(x, out, place, target, state, channels, c, low, high, mask):
    value = fma(load(x, place, mask), load(state, 2 * channels + c, mask), load(state, 3 * channels + c, mask))
    store(out, target, clamp(value, low, high), mask)


@inlined
def _add_and_apply_to(x, side, out, place, target, state, channels, c, low, high, mask):
    value = fma(load(x, place, mask), load(state, 2 * channels + c, mask), load(state, 3 * channels + c, mask))
    store(out, target, clamp(value + load(side, target, mask), low, high), mask)


@separate
def _part_apply(job, part, kind):
    x, side, out, state = at(job.x, kind), at(job.side, kind), at(job.out, kind), at(job.state, F4)
    channels, stride = job.channels, job.stride
    low, high = splat(job.low), splat(job.high)
    whole = channels - channels % WIDTH
    added = job.side != 0
    for row in range(job.rows * part // job.parts, job.rows * (part + 1) // job.parts):
        place, target = row * stride, row * channels
        if added:
            for c in range(0, whole, WIDTH):
                _add_and_apply_to(x, side, out, place + c, target + c, state, channels, c, low, high, None)
            if whole < channels:
                count = channels - whole
                _add_and_apply_to(x, side, out, place + whole, target + whole, state, channels, whole, low, high, count)
        else:
            for c in range(0, whole, WIDTH):
                _apply_to(x, out, place + c, target + c, state, channels, c, low, high, None)
            if whole < channels:
                count = channels - whole
                _apply_to(x, out, place + whole, target + whole, state, channels, whole, low, high, count)


_apply = by_parts(_part_apply)


@inlined
def _block_slopes(job, x, y, grad, more, side_out, state, row, count, sums, first, second, c, seen, mask):
    """Sums of the output's gradient where the activation lets it pass, alone and times the distance from the mean."""
    channels, stride = job.channels, job.stride
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
    channels, stride = job.channels, job.stride
    begin, end = job.rows * part // job.parts, job.rows * (part + 1) // job.parts
    whole = channels - channels % WIDTH
    first, second = 2 * part * channels, (2 * part + 1) * channels
    for row in range(begin, end, _ROWS):
        count, seen = min(_ROWS, end - row), row - begin
        for c in range(0, whole, WIDTH):
            _prefetch_block(x, row + _ROWS, c, channels, stride)
            _prefetch_block(grad, row + _ROWS, c, channels, channels)
            _block_slopes(
                job, x, y, grad, more, side_out, state, row, count, sums, first + c, second + c, c, seen, None
            )
        if whole < channels:
            c, mask = whole, channels - whole
            _block_slopes(
                job, x, y, grad, more, side_out, state, row, count, sums, first + c, second + c, c, seen, mask
            )


@inlined
def join_slopes(job, c, mask):
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


_slopes = by_parts_and_joined(_part_slopes, join_slopes)


@inlined
def _gradient_to(x, grad, out, place, target, state, slopes, channels, c, low, high, mask):
    value = load(x, place, mask)
    scale = load(state, 2 * channels + c, mask)
    g = where_inside(load(grad, target, mask), fma(value, scale, load(state, 3 * channels + c, mask)), low, high)
    rest = fma(load(slopes, 2 * channels + c, mask), value - load(state, c, mask), load(slopes, 3 * channels + c, mask))
    store(out, target, fma(scale, g, rest), mask)


@separate
def _part_gradient(job, part, kind):
    x, grad, out = at(job.x, kind), at(job.grad, kind), at(job.out, kind)
    state, slopes = at(job.state, F4), at(job.slopes, F4)
    channels, stride = job.channels, job.stride
    low, high = splat(job.low), splat(job.high)
    whole = channels - channels % WIDTH
    for row in range(job.rows * part // job.parts, job.rows * (part + 1) // job.parts):
        place, target = row * stride, row * channels
        for c in range(0, whole, WIDTH):
            _gradient_to(x, grad, out, place + c, target + c, state, slopes, channels, c, low, high, None)
        if whole < channels:
            c, count = whole, channels - whole
            _gradient_to(x, grad, out, place + c, target + c, state, slopes, channels, c, low, high, count)


_gradient = by_parts(_part_gradient)


def moments_float32(pointer):
    """Mean and variance of each channel, and what follows from them."""
    _moments(pointer, F4)


def moments_bfloat16(pointer):
    """Mean and variance of each channel, and what follows from them."""
    _moments(pointer, BF16)


def apply_float32(pointer):
    """``out = activation(x * scale + shift + side)``."""
    _apply(pointer, F4)


def apply_bfloat16(pointer):
    """``out = activation(x * scale + shift + side)``."""
    _apply(pointer, BF16)


def affine_gradients_float32(pointer):
    """Gradients of weight and bias; with ``y`` also that of the side, in ``side_out``."""
    _slopes(pointer, F4)


def affine_gradients_bfloat16(pointer):
    """Gradients of weight and bias; with ``y`` also that of the side, in ``side_out``."""
    _slopes(pointer, BF16)


def input_gradient_float32(pointer):
    """Gradient of the input from that of the output."""
    _gradient(pointer, F4)


def input_gradient_bfloat16(pointer):
    """Gradient of the input from that of the output."""
    _gradient(pointer, BF16)
