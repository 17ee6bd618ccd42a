"""Backward kernels for dense blocks, whose layers normalise the same channels repeatedly.

Comes in: the `JOB` record of `earsight.kernels.batch_norm`. ``x`` and what has its shape have rows that begin every
``stride`` elements; maps of one layer's own are whole. Goes out: the arrays that the record names, changed. Imports
numba: only `earsight.kernels.runtime` may import this.
"""

from __future__ import annotations

from earsight.kernels.batch_norm import JOB, finish_slopes
from earsight.kernels.simd import (
    F4,
    at,
    by_parts,
    by_vectors,
    entries,
    fma,
    inlined,
    load,
    separate,
    splat,
    store,
    where_inside,
)

__all__ = ["JOB"]

_BLOCK_ELEMENTS = 12 * 1024


@inlined
def _block_add_gradient(c, mask, job, x, grad, out, state, row, count, sums, first, seen):
    """Add a layer's gradient, without its two terms of each channel, and take the sums that those are made of."""
    channels, stride = job.channels, job.stride
    first, second = first + c, first + channels + c
    low, high = splat(job.low), splat(job.high)
    mean = load(state, c, mask)
    scale, shift = load(state, 2 * channels + c, mask), load(state, 3 * channels + c, mask)
    a = b = splat(F4(0))
    if seen:
        a, b = load(sums, first, mask), load(sums, second, mask)
    place, target = row * stride + c, row * channels + c
    for _ in range(count):
        value = load(x, place, mask)
        g = where_inside(load(grad, target, mask), fma(value, scale, shift), low, high)
        store(out, place, fma(scale, g, load(out, place, mask)), mask)
        a = a + g
        b = fma(g, value - mean, b)
        place += stride
        target += channels
    store(sums, first, a, mask)
    store(sums, second, b, mask)


@separate
def _part_add_gradient(job, part, kind):
    x, grad, out = at(job.x, kind), at(job.grad, kind), at(job.out, kind)
    state, sums = at(job.state, F4), at(job.sums, F4)
    channels = job.channels
    begin, end = job.rows * part // job.parts, job.rows * (part + 1) // job.parts
    block, first = max(16, _BLOCK_ELEMENTS // channels), 2 * part * channels
    for row in range(begin, end, block):
        count, seen = min(block, end - row), row - begin
        by_vectors(_block_add_gradient, channels, job, x, grad, out, state, row, count, sums, first, seen)


_add_gradient = by_parts(_part_add_gradient, finish_slopes)


@inlined
def _finish_to(c, mask, x, grad, out, place, target, state, slopes, channels):
    away = load(x, place + c, mask) - load(state, c, mask)
    rest = fma(load(slopes, c, mask), away, load(slopes, channels + c, mask))
    store(out, target + c, load(grad, place + c, mask) + rest, mask)


@separate
def _part_finish(job, part, kind):
    x, grad, out = at(job.x, kind), at(job.grad, kind), at(job.out, kind)
    state, slopes = at(job.state, F4), at(job.slopes, F4)
    channels = job.channels
    for row in range(job.rows * part // job.parts, job.rows * (part + 1) // job.parts):
        place, target = row * job.stride, row * channels
        by_vectors(_finish_to, channels, x, grad, out, place, target, state, slopes, channels)


_finish = by_parts(_part_finish)


add_gradient_float32, add_gradient_bfloat16 = entries("add_gradient", _add_gradient)
"""``out += scale * grad`` where the activation lets it pass; gradients of weight and bias."""
finish_gradient_float32, finish_gradient_bfloat16 = entries("finish_gradient", _finish)
"""``out = grad + (x - mean) * slopes[0] + slopes[1]``."""
