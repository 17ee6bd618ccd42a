"""Compiled kernels of square depthwise convolutions, forward and backward.

Comes in: a `JOB` record of addresses and sizes. Feature maps are channels-last. Weights are float32, (taps, lanes): a
row of channels for each tap, as long as whole vectors need. Goes out: the arrays that the record names, changed.

A tile of the input, sixteen channels deep, is brought as float32 into the first-level cache, with zeros where it
reaches over the edge; then each output takes as many multiplications and additions as the kernel has taps, and nothing
else. Nothing is padded or cropped in memory. Work is cut by image, whatever the number of threads.

Imports numba: only `earsight.models.compiled` may import this.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, cfunc, from_dtype, njit, types

from earsight.features.simd import (
    WIDTH,
    add_window,
    at,
    load,
    load_taps,
    next_ticket,
    no_taps,
    room,
    splat,
    store,
    store_taps,
    weigh_window,
)

JOB = np.dtype(
    [
        (name, np.int64)
        for name in (
            *("next", "done", "here", "parts", "batch", "channels", "lanes", "kernel", "stride", "top", "left"),
            *("height", "width", "out_height", "out_width", "x", "grad", "out", "weight", "sums"),
        )
    ]
)
"""What a kernel is told. ``top`` and ``left`` are the padding there; ``sums`` is scratch, (parts, taps, lanes)."""

ROOM = 512
"""Vectors in a tile."""
_BAND_BYTES = 1 << 18
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
_ENTRY = types.void(types.CPointer(from_dtype(JOB)))
_F4, _BF = np.float32, np.uint16
# Sizes of kernels, as the lengths of tuples, which the compiler knows.
_TWO, _THREE, _FIVE = (0,) * 2, (0,) * 3, (0,) * 5

_inlined = njit(forceinline=True, no_cpython_wrapper=True, no_cfunc_wrapper=True, **_OPTIONS)
_whole = njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **_OPTIONS)


@_inlined
def _load(x, place, left):
    """Sixteen channels, or those that are left."""
    return load(x, place, None) if left >= WIDTH else load(x, place, left)


@_inlined
def _store(out, place, value, left):
    if left >= WIDTH:
        store(out, place, value, None)
    else:
        store(out, place, value, left)


@_whole
def _fill(tile, x, image, top, left, rows, columns, height, width, channels, c):
    """Bring sixteen channels of a rectangle of an image into a tile, zeros where there is no image."""
    nothing = splat(_F4(0))
    begin = min(max(0, -left), columns)
    end = max(min(columns, width - left), begin)
    for i in range(rows):
        row, target = top + i, i * columns * WIDTH
        inside = 0 <= row < height
        place = image + (row * width + left) * channels + c
        for j in range(columns):
            value = nothing
            if inside and begin <= j < end:
                value = _load(x, place + j * channels, channels - c)
            store(tile, target + j * WIDTH, value, None)


@_inlined
def _sizes(job, size, stride):
    """Rows and columns of output whose input fits in a tile, and rows whose input fits in the second-level cache."""
    columns = min(job.out_width, 32 // stride, (ROOM // size - size) // stride + 1)
    rows = min(job.out_height, (ROOM // ((columns - 1) * stride + size) - size) // stride + 1)
    band = _BAND_BYTES // (job.out_width * job.channels * 2 * stride * stride) // rows * rows
    return rows, columns, max(rows, band)


@_inlined
def _fill_for(job, x, tile, image, first, column, rows, columns, c, size):
    """The input that a rectangle of the output sees; returns how many vectors a row has."""
    stride = job.stride
    wide = (columns - 1) * stride + size
    _fill(
        tile, x, image * job.height * job.width * job.channels, first * stride - job.top, column * stride - job.left,
        (rows - 1) * stride + size, wide, job.height, job.width, job.channels, c,
    )  # fmt: skip
    return wide


@_whole
def _convolve_image(job, image, tile, kind, kernel):
    x, out, weight = at(job.x, kind), at(job.out, kind), at(job.weight, _F4)
    channels, stride = job.channels, job.stride
    rows, columns, band = _sizes(job, len(kernel), stride)
    for begin in range(0, job.out_height, band):
        end = min(job.out_height, begin + band)
        for c in range(0, channels, WIDTH):
            taps = load_taps(weight, c, job.lanes, kernel)
            for first in range(begin, end, rows):
                high = min(rows, end - first)
                for column in range(0, job.out_width, columns):
                    count = min(columns, job.out_width - column)
                    wide = _fill_for(job, x, tile, image, first, column, high, count, c, len(kernel))
                    for i in range(high):
                        target = ((image * job.out_height + first + i) * job.out_width + column) * channels + c
                        for j in range(count):
                            value = weigh_window(tile, (i * wide + j) * stride, wide, taps)
                            _store(out, target + j * channels, value, channels - c)


@_inlined
def _convolve(pointer, kind, kernel):
    job = carray(pointer, 1)[0]
    tile = room(ROOM)
    while True:
        image = next_ticket(job.here)
        if image >= job.parts:
            break
        _convolve_image(job, image, tile, kind, kernel)


@_whole
def _spread_tile(job, out, tile, weight, image, first, column, rows, columns, wide, c, touching):
    """Gradient of a rectangle of the padded input that begins at an even place."""
    channels = job.channels
    for parity in range(4):
        down, right = parity // 2, parity % 2
        taps = load_taps(weight, parity * len(touching) ** 2 * job.lanes + c, job.lanes, touching)
        for i in range(down, rows, 2):
            row = first + i - job.top
            if row < 0 or row >= job.height:
                continue
            target = (image * job.height + row) * job.width * channels + c
            for j in range(right, columns, 2):
                place = column + j - job.left
                if 0 <= place < job.width:
                    value = weigh_window(tile, i // 2 * wide + j // 2, wide, taps)
                    _store(out, target + place * channels, value, channels - c)


@_whole
def _spread_image(job, image, tile, kind, touching):
    grad, out, weight = at(job.grad, kind), at(job.out, kind), at(job.weight, _F4)
    channels, reach = job.channels, len(touching)
    height, width = job.height + job.top, job.width + job.left
    columns = min(width + width % 2, 32)
    rows = min(height + height % 2, (ROOM // (columns // 2 + reach) - reach) * 2)
    band = max(rows, _BAND_BYTES // (job.width * channels * 2) // rows * rows)
    start = image * job.out_height * job.out_width * channels
    for begin in range(0, height, band):
        end = min(height, begin + band)
        for c in range(0, channels, WIDTH):
            for first in range(begin, end, rows):
                high = min(rows, end - first)
                for column in range(0, width, columns):
                    count = min(columns, width - column)
                    # Position p of the padded input is touched by outputs (p - tap) / 2: the last of them is p // 2.
                    wide = (count + 1) // 2 + reach - 1
                    _fill(
                        tile, grad, start, first // 2 - reach + 1, column // 2 - reach + 1,
                        (high + 1) // 2 + reach - 1, wide, job.out_height, job.out_width, channels, c,
                    )  # fmt: skip
                    _spread_tile(job, out, tile, weight, image, first, column, high, count, wide, c, touching)


@_inlined
def _spread(pointer, kind, touching):
    job = carray(pointer, 1)[0]
    tile = room(ROOM)
    while True:
        image = next_ticket(job.here)
        if image >= job.parts:
            break
        _spread_image(job, image, tile, kind, touching)


@_whole
def _gather_image(job, image, fresh, part, tile, kind, kernel):
    x, grad = at(job.x, kind), at(job.grad, kind)
    sums = at(job.sums + part * len(kernel) ** 2 * job.lanes * 4, _F4)
    channels, stride = job.channels, job.stride
    rows, columns, band = _sizes(job, len(kernel), stride)
    for begin in range(0, job.out_height, band):
        end = min(job.out_height, begin + band)
        for c in range(0, channels, WIDTH):
            taps = no_taps(kernel)
            if begin or not fresh:
                taps = load_taps(sums, c, job.lanes, kernel)
            for first in range(begin, end, rows):
                high = min(rows, end - first)
                for column in range(0, job.out_width, columns):
                    count = min(columns, job.out_width - column)
                    wide = _fill_for(job, x, tile, image, first, column, high, count, c, len(kernel))
                    for i in range(high):
                        place = ((image * job.out_height + first + i) * job.out_width + column) * channels + c
                        for j in range(count):
                            value = _load(grad, place + j * channels, channels - c)
                            taps = add_window(taps, value, tile, (i * wide + j) * stride, wide)
            store_taps(sums, c, job.lanes, taps)


@_inlined
def _gather(pointer, kind, kernel):
    job = carray(pointer, 1)[0]
    tile = room(ROOM)
    while True:
        part = next_ticket(job.here)
        if part >= job.parts:
            break
        begin = job.batch * part // job.parts
        for image in range(begin, job.batch * (part + 1) // job.parts):
            _gather_image(job, image, image == begin, part, tile, kind, kernel)
        if next_ticket(job.here + 8) == job.parts - 1:
            sums, out, size = at(job.sums, _F4), at(job.out, _F4), len(kernel) ** 2 * job.lanes
            for c in range(0, size, WIDTH):
                total = load(sums, c, None)
                for other in range(1, job.parts):
                    total = total + load(sums, other * size + c, None)
                store(out, c, total, None)


def convolve3_float32(pointer):
    """``out = convolve(x, weight)``."""
    _convolve(pointer, _F4, _THREE)


def convolve3_bfloat16(pointer):
    """``out = convolve(x, weight)``."""
    _convolve(pointer, _BF, _THREE)


def convolve5_float32(pointer):
    """``out = convolve(x, weight)``."""
    _convolve(pointer, _F4, _FIVE)


def convolve5_bfloat16(pointer):
    """``out = convolve(x, weight)``."""
    _convolve(pointer, _BF, _FIVE)


def spread3_float32(pointer):
    """Gradient of the input of a convolution of stride 2; ``weight`` is that of the four parities."""
    _spread(pointer, _F4, _TWO)


def spread3_bfloat16(pointer):
    """Gradient of the input of a convolution of stride 2; ``weight`` is that of the four parities."""
    _spread(pointer, _BF, _TWO)


def spread5_float32(pointer):
    """Gradient of the input of a convolution of stride 2; ``weight`` is that of the four parities."""
    _spread(pointer, _F4, _THREE)


def spread5_bfloat16(pointer):
    """Gradient of the input of a convolution of stride 2; ``weight`` is that of the four parities."""
    _spread(pointer, _BF, _THREE)


def gather3_float32(pointer):
    """Gradient of the weight."""
    _gather(pointer, _F4, _THREE)


def gather3_bfloat16(pointer):
    """Gradient of the weight."""
    _gather(pointer, _BF, _THREE)


def gather5_float32(pointer):
    """Gradient of the weight."""
    _gather(pointer, _F4, _FIVE)


def gather5_bfloat16(pointer):
    """Gradient of the weight."""
    _gather(pointer, _BF, _FIVE)


def compile_entry(entry):
    """Machine code of one of the functions above; what an earlier process compiled is read from numba's cache."""
    return cfunc(_ENTRY, cache=True, **_OPTIONS)(entry)
