"""Depthwise convolution kernels (square, 3 x 3 and 5 x 5), forward and backward.

Comes in: a `JOB` record of addresses and sizes. Feature maps are channels-last. Weights are float32, (taps, padded): a
row of channels for each tap, rounded up to whole vectors. Goes out: the arrays that the record names, changed.

Windows slide along some rows at a time, sixteen channels wide (`earsight.kernels.sliding_window`). Nothing is padded,
cropped or copied in memory. Work is cut by image, whatever the number of threads. Imports numba: only
`earsight.kernels.runtime` may import this.
"""

from __future__ import annotations

import numpy as np

from earsight.kernels.simd import F4, at, by_parts, by_vectors, entries, fetch, inlined, load, separate, splat, store
from earsight.kernels.sliding_window import (
    add_column,
    convolve_step,
    cut_column,
    load_taps,
    put_column,
    reach,
    store_taps,
    strided_gradient_step,
    weight_gradient_step,
    zeros,
)
from earsight.kernels.widths import WIDTH

JOB = np.dtype(
    [
        (name, np.int64)
        for name in (
            *("next", "done", "here", "parts", "batch", "channels", "padded", "stride", "top", "left"),
            *("height", "width", "out_height", "out_width", "x", "grad", "seen", "shift", "out", "weight", "sums"),
        )
    ]
    + [("low", np.float32), ("high", np.float32)]
)
"""The record of a kernel. ``top`` and ``left`` are the padding there. ``shift``, (padded,), is added to the input and
the sum cut at ``low`` and ``high`` before it is convolved. With ``seen``, that input, an input gradient goes back
through the cuts, and its sums over each image are added to ``sums``, (batch, padded). In weight gradients ``sums`` is
scratch, (parts, taps, padded).
"""

_NO_END = F4(-np.inf), F4(np.inf)


def _many(count):
    return (0,) * count


_LINE = 32
"""Elements of a cache line, of bfloat16; of float32 every other line is prefetched."""


@inlined
def _cuts(job, c):
    """Shift and clamp limits of the activation, for sixteen channels."""
    shift = load(at(job.shift, F4), c, None) if job.shift else splat(F4(0))
    return shift, splat(job.low), splat(job.high)


@inlined
def _no_cuts():
    return splat(F4(0)), splat(_NO_END[0]), splat(_NO_END[1])


@inlined
def _add_to_sums(job, image, c, total):
    if job.seen:
        sums, place = at(job.sums, F4), image * job.padded + c
        store(sums, place, load(sums, place, None) + total, None)


@inlined
def _ahead(image, height, row, line, c, steps, lines):
    """Where in a map to prefetch what the next rows need, a little with each step of these."""
    return (image * height + row) * line + c // WIDTH * steps * len(lines) * _LINE


@inlined
def _prefetch_output(job, place, lines, kind):
    fetch(at(job.out, kind), place, lines, 1)
    if job.seen:
        fetch(at(job.seen, kind), place, lines, 0)


@inlined
def _put(job, found, total, start, shape, cuts, mask, kind):
    """Write a complete column, gradients masked by the activation; returns the sum of what was not masked."""
    if job.seen:
        found = cut_column(found, at(job.seen, kind), start, shape, cuts, mask)
        total = add_column(total, found)
    put_column(found, at(job.out, kind), start, shape, mask)
    return total


@inlined
def _convolve_rows(c, mask, job, image, first, kind, plan):
    """Some rows of the output, of sixteen channels."""
    sizes, waiting, taps, x_lines, out_lines = plan
    x = at(job.x, kind)
    kernel, rows = len(sizes[0]), len(sizes[2])
    channels, stride, last = job.channels, job.stride, len(waiting) // rows
    steps, more = job.out_width + last, first + rows < job.out_height
    taps = load_taps(at(job.weight, F4), c, job.padded, taps)
    cuts = _cuts(job, c)
    # With an activation behind the gradient that is convolved, what comes out goes through it, not what comes in.
    before = _no_cuts() if job.seen else cuts
    partial, total = zeros(waiting), splat(F4(0))
    row, column = first * stride - job.top, -job.left
    place = ((image * job.height + row) * job.width + column) * channels + c
    target = ((image * job.out_height + first) * job.out_width - last) * channels + c
    shape, out_shape = (job.height, job.width, channels), (job.out_height, job.out_width, channels)
    soon = _ahead(image, job.height, row + (rows - 1) * stride + kernel, job.width * channels, c, steps, x_lines)
    out_soon = _ahead(image, job.out_height, first + rows, job.out_width * channels, c, steps, out_lines)
    for step in range(steps):
        if more:
            fetch(x, soon, x_lines, 0)
            _prefetch_output(job, out_soon, out_lines, kind)
        partial, found = convolve_step(partial, taps, x, (place, row, column), shape, before, mask, sizes)
        if step >= last:
            total = _put(job, found, total, (target, first, step - last), out_shape, cuts, mask, kind)
        soon += len(x_lines) * _LINE
        out_soon += len(out_lines) * _LINE
        place += stride * channels
        column += stride
        target += channels
    _add_to_sums(job, image, c, total)


@inlined
def _strided_gradient_rows(c, mask, job, image, first, kind, plan):
    """Gradient of two rows of the padded input for each of some rows of the output, of sixteen channels."""
    sizes, waiting, taps, grad_lines, out_lines = plan
    grad = at(job.grad, kind)
    channels, rows, last = job.channels, len(sizes[1]), len(sizes[0]) // 2
    steps, more = (job.width + job.left + 1) // 2, first + rows < job.out_height
    taps = load_taps(at(job.weight, F4), c, job.padded, taps)
    cuts = _cuts(job, c)
    partial, total = zeros(waiting), splat(F4(0))
    row, up = first - last, 2 * first - job.top
    place = (image * job.out_height + row) * job.out_width * channels + c
    shape, out_shape = (job.out_height, job.out_width, channels), (job.height, job.width, channels)
    soon = _ahead(image, job.out_height, first + rows, job.out_width * channels, c, steps, grad_lines)
    out_soon = _ahead(image, job.height, up + 2 * rows, job.width * channels, c, steps, out_lines)
    for column in range(steps):
        if more:
            fetch(grad, soon, grad_lines, 0)
            _prefetch_output(job, out_soon, out_lines, kind)
        partial, even, odd = strided_gradient_step(partial, taps, grad, (place, row, column), shape, mask, sizes)
        for parity in range(2):
            right = 2 * column + parity - job.left
            if 0 <= right < job.width:
                found = odd if parity else even
                target = ((image * job.height + up) * job.width + right) * channels + c
                total = _put(job, found, total, (target, up, right), out_shape, cuts, mask, kind)
        soon += len(grad_lines) * _LINE
        out_soon += len(out_lines) * _LINE
        place += channels
    _add_to_sums(job, image, c, total)


@inlined
def _weight_gradient_rows(c, mask, job, image, first, kind, plan):
    """Sums over some rows of the output, of sixteen channels, added to those of this part."""
    part, fresh, (sizes, waiting, taps, x_lines, grad_lines) = plan
    x, grad = at(job.x, kind), at(job.grad, kind)
    sums = at(job.sums + part * len(taps) * job.padded * 4, F4)
    kernel, rows = len(sizes[0]), len(sizes[2])
    channels, stride, last = job.channels, job.stride, len(waiting) // rows
    steps, more = job.out_width + last, first + rows < job.out_height
    totals = zeros(taps) if fresh and first == 0 else load_taps(sums, c, job.padded, taps)
    cuts, seen = _cuts(job, c), zeros(waiting)
    row, column = first * stride - job.top, -job.left
    place = ((image * job.height + row) * job.width + column) * channels + c
    grad_place = (image * job.out_height + first) * job.out_width * channels + c
    shape, grad_shape = (job.height, job.width, channels), (job.out_height, job.out_width, channels)
    soon = _ahead(image, job.height, row + (rows - 1) * stride + kernel, job.width * channels, c, steps, x_lines)
    grad_soon = _ahead(image, job.out_height, first + rows, job.out_width * channels, c, steps, grad_lines)
    for step in range(steps):
        if more:
            fetch(x, soon, x_lines, 0)
            fetch(grad, grad_soon, grad_lines, 0)
        totals, seen = weight_gradient_step(
            totals, seen, x, (place, row, column), shape, cuts, grad, (grad_place, first, step), grad_shape, mask, sizes
        )
        soon += len(x_lines) * _LINE
        grad_soon += len(grad_lines) * _LINE
        place += stride * channels
        column += stride
        grad_place += channels
    store_taps(sums, c, job.padded, totals)


@separate
def _convolve_image(job, image, kind, plan):
    for first in range(0, job.out_height, len(plan[0][2])):
        by_vectors(_convolve_rows, job.channels, job, image, first, kind, plan)


@separate
def _strided_gradient_image(job, image, kind, plan):
    for first in range(0, (job.height + job.top + 1) // 2, len(plan[0][1])):
        by_vectors(_strided_gradient_rows, job.channels, job, image, first, kind, plan)


@separate
def _weight_gradient_part(job, part, kind, plan):
    begin = job.batch * part // job.parts
    for image in range(begin, job.batch * (part + 1) // job.parts):
        for first in range(0, job.out_height, len(plan[0][2])):
            own = part, image == begin, plan
            by_vectors(_weight_gradient_rows, job.channels, job, image, first, kind, own)


@inlined
def _sum_weight_gradients(job, kind, one, two):
    sums, out, size = at(job.sums, F4), at(job.out, F4), len(one[2]) * job.padded
    for c in range(0, size, WIDTH):
        total = load(sums, c, None)
        for part in range(1, job.parts):
            total = total + load(sums, part * size + c, None)
        store(out, c, total, None)


def _by_stride(do_part):
    """Do a part with the plan of the job's stride, 1 or 2."""

    @inlined
    def chosen(job, part, kind, one, two):
        if job.stride == 1:
            do_part(job, part, kind, one)
        else:
            do_part(job, part, kind, two)

    return chosen


_convolve = by_parts(_by_stride(_convolve_image))
_strided = by_parts(_strided_gradient_image)
_weight = by_parts(_by_stride(_weight_gradient_part), _sum_weight_gradients)


def _plan(kernel, stride, rows):
    """Sizes of a step, how many vectors it leaves, how many taps there are, and cache lines to prefetch.

    All as tuples of that length, which the compiler knows; lines of the input and of the output.
    """
    left, lines = rows * (reach(kernel, stride) - 1), (max(1, rows * stride**2 // 2), max(1, rows // 2))
    return (_many(kernel), _many(stride), _many(rows)), _many(left), _many(kernel**2), *map(_many, lines)


def _strided_plan(kernel, rows):
    """The same, lines of the output's gradient and of the input's."""
    left, lines = 2 * rows * (kernel - 2), (max(1, rows // 2), 2 * rows)
    return (_many(kernel), _many(rows)), _many(left), _many(kernel**2), *map(_many, lines)


# Rows at a time: as many as keep the sums in registers.
convolve3_float32, convolve3_bfloat16 = entries("convolve3", _convolve, _plan(3, 1, 4), _plan(3, 2, 4))
convolve5_float32, convolve5_bfloat16 = entries("convolve5", _convolve, _plan(5, 1, 4), _plan(5, 2, 4))
"""``out = convolve(activation(x + shift), weight)``."""
strided_gradient3_float32, strided_gradient3_bfloat16 = entries("strided_gradient3", _strided, _strided_plan(3, 4))
strided_gradient5_float32, strided_gradient5_bfloat16 = entries("strided_gradient5", _strided, _strided_plan(5, 2))
"""Gradient of the input of a convolution of stride 2."""
weight_gradient3_float32, weight_gradient3_bfloat16 = entries(
    "weight_gradient3", _weight, _plan(3, 1, 4), _plan(3, 2, 4)
)
weight_gradient5_float32, weight_gradient5_bfloat16 = entries(
    "weight_gradient5", _weight, _plan(5, 1, 1), _plan(5, 2, 1)
)
"""Gradient of the weight."""
