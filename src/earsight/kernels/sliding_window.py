"""Sliding windows over the rows of feature maps, as straight-line code for the convolution kernels.

Comes in: a place in a feature map (channels-last), and what the steps before have left, as tuples of vectors of sixteen
channels that lie in registers. Goes out: the columns that a step completes, and what it leaves.

A step reads each value under its windows once, for some rows of windows at a time, and uses it wherever it counts: in
the sums of all outputs whose windows it lies in, which wait in registers for their last column. So nothing is copied,
and an output costs as many multiplications and additions as a window has taps, and few loads.

Sizes (of windows, strides, rows at a time) are lengths of tuples, which the compiler knows. ``start`` is the index of
the first value (it is not touched where it lies outside), its row and its column; ``shape`` is height, width and
channels of the map; values outside are 0. ``mask`` says how many of sixteen channels there are, None for all. Imports
numba, so only what compiles kernels may import this.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from earsight.kernels.simd import FLOATS, clamped, fused, kept_inside, read, vector_type, write
from earsight.kernels.widths import WIDTH

LONG = ir.IntType(64)
ZERO = ir.Constant(FLOATS, [0.0] * WIDTH)


def vectors(count: int):
    """Numba's type of so many vectors."""
    return types.UniTuple(vector_type, count)


def known(mask, count):
    """The code of a mask's count, None where all channels are meant."""
    return None if isinstance(mask, types.NoneType) else count


def parts_of(builder, value, count: int) -> list[Any]:
    """Code of each part of a tuple."""
    return [builder.extract_value(value, index) for index in range(count)]


def _tuples(context, builder, signature, parts):
    """Code of a tuple of tuples, each given as its type and its values."""
    made = [context.make_tuple(builder, kind, values) for kind, values in parts]
    return context.make_tuple(builder, signature.return_type, made)


def plus(builder, value, number: int):
    """Code of an index plus a number."""
    return builder.add(value, ir.Constant(LONG, number)) if number else value


def only_where(builder, inside, make):
    """What code makes, run only where a condition holds; else 0."""
    before = builder.block
    with builder.if_then(inside):
        value = make()
        after = builder.block
    out = builder.phi(FLOATS)
    out.add_incoming(ZERO, before)
    out.add_incoming(value, after)
    return out


@intrinsic
def zeros(typing_context, count):
    """As many vectors of zeros as a tuple is long."""
    kind = vectors(count.count)

    def generate(context, builder, signature, arguments):
        return context.make_tuple(builder, kind, [ZERO] * count.count)

    return kind(count), generate


@intrinsic
def load_taps(typing_context, pointer, index, step, taps):
    """As many vectors of a float32 array as a tuple is long, one every ``step`` elements."""
    kind = vectors(taps.count)

    def generate(context, builder, signature, arguments):
        pointer, index, step, _ = arguments
        places = [builder.add(index, builder.mul(step, ir.Constant(LONG, tap))) for tap in range(taps.count)]
        return context.make_tuple(builder, kind, [read(builder, pointer, place, None) for place in places])

    return kind(types.CPointer(types.float32), types.int64, types.int64, taps), generate


@intrinsic
def store_taps(typing_context, pointer, index, step, taps):
    """Write vectors to a float32 array, one every ``step`` elements."""

    def generate(context, builder, signature, arguments):
        pointer, index, step, _ = arguments
        for tap, value in enumerate(parts_of(builder, arguments[3], taps.count)):
            write(builder, pointer, builder.add(index, builder.mul(step, ir.Constant(LONG, tap))), value, None)
        return context.get_dummy_value()

    return types.void(types.CPointer(types.float32), types.int64, types.int64, taps), generate


@intrinsic
def cut_column(typing_context, values, seen, start, shape, cuts, mask):
    """A column of gradients, 0 where the activation of ``seen`` there does not let them pass, or in rows outside."""

    def generate(context, builder, signature, arguments):
        found = parts_of(builder, arguments[0], values.count)
        _, seen, start, shape, cuts, count = arguments
        place, row, _ = parts_of(builder, start, 3)
        height, width, channels = parts_of(builder, shape, 3)
        shift, low, high = parts_of(builder, cuts, 3)
        line = builder.mul(width, channels)
        for i, value in enumerate(found):

            def make(value=value, place=place):
                probe = builder.fadd(read(builder, seen, place, known(mask, count)), shift)
                return kept_inside(builder, value, probe, low, high)

            found[i] = only_where(builder, builder.icmp_unsigned("<", plus(builder, row, i), height), make)
            place = builder.add(place, line)
        return context.make_tuple(builder, values, found)

    return values(values, seen, start, shape, cuts, mask), generate


@intrinsic
def put_column(typing_context, values, out, start, shape, mask):
    """Write a column of vectors to a map, those whose rows lie in it."""

    def generate(context, builder, signature, arguments):
        _, out, start, shape, count = arguments
        place, row, _ = parts_of(builder, start, 3)
        height, width, channels = parts_of(builder, shape, 3)
        line = builder.mul(width, channels)
        for i, value in enumerate(parts_of(builder, arguments[0], values.count)):
            with builder.if_then(builder.icmp_unsigned("<", plus(builder, row, i), height)):
                write(builder, out, place, value, known(mask, count))
            place = builder.add(place, line)
        return context.get_dummy_value()

    return types.void(values, out, start, shape, mask), generate


@intrinsic
def add_column(typing_context, total, values):
    """A vector plus all vectors of a column."""

    def generate(context, builder, signature, arguments):
        total = arguments[0]
        for value in parts_of(builder, arguments[1], values.count):
            total = builder.fadd(total, value)
        return total

    return total(total, values), generate


def reach(kernel: int, stride: int) -> int:
    """How many steps a window takes to pass over a column."""
    return -(-kernel // stride)


def _values(
    builder, pointer, start, shape, count, *, rows: int, columns: int, cuts=None
) -> Iterator[tuple[int, int, Any]]:
    """Row, column and code of each value of a rectangle; ``cuts`` are a shift and the two ends of an activation."""
    place, row, column = parts_of(builder, start, 3)
    height, width, channels = parts_of(builder, shape, 3)
    line = builder.mul(width, channels)
    columns_inside = [builder.icmp_unsigned("<", plus(builder, column, j), width) for j in range(columns)]
    for i in range(rows):
        row_inside = builder.icmp_unsigned("<", plus(builder, row, i), height)
        for j in range(columns):
            here = place if j == 0 else builder.add(place, builder.mul(channels, ir.Constant(LONG, j)))

            def make(here=here):
                value = read(builder, pointer, here, count)
                if cuts is None:
                    return value
                shift, low, high = parts_of(builder, cuts, 3)
                return clamped(builder, builder.fadd(value, shift), low, high)

            yield i, j, only_where(builder, builder.and_(row_inside, columns_inside[j]), make)
        place = builder.add(place, line)


def _uses(builder, x, start, shape, count, cuts, sizes) -> Iterator[tuple[Any, int, int, int]]:
    """Each value that a step reads, with the tap, row and columns back of each window that it lies in."""
    kernel, stride, rows = (size.count for size in sizes)
    values = _values(builder, x, start, shape, count, rows=stride * (rows - 1) + kernel, columns=stride, cuts=cuts)
    for i, j, value in values:
        for row in range(rows):
            down = i - stride * row
            for back in range(reach(kernel, stride)):
                right = stride * back + j
                if 0 <= down < kernel and right < kernel:
                    yield value, down * kernel + right, row, back


@intrinsic
def convolve_step(typing_context, partial, taps, x, start, shape, cuts, mask, sizes):
    """The next column of outputs of a convolution, one for each row of windows, and the sums of those not complete.

    ``sizes`` are those of kernel, stride and rows. ``partial`` are ``rows * (reach - 1)`` vectors. The outputs are of
    the column ``reach - 1`` before the one whose window begins at ``start``.
    """
    kernel, stride, rows = (size.count for size in sizes)
    ahead = reach(kernel, stride)
    outs = vectors(rows)

    def generate(context, builder, signature, arguments):
        partial, taps, x, start, shape, cuts, count, _ = arguments
        weights = parts_of(builder, taps, kernel**2)
        waiting = parts_of(builder, partial, rows * (ahead - 1))
        sums = [[ZERO, *waiting[row * (ahead - 1) : (row + 1) * (ahead - 1)]] for row in range(rows)]
        for value, tap, row, back in _uses(builder, x, start, shape, known(mask, count), cuts, sizes):
            sums[row][back] = fused(builder, value, weights[tap], sums[row][back])
        left = [total for row in sums for total in row[:-1]]
        parts = (partial_type, left), (outs, [row[-1] for row in sums])
        return _tuples(context, builder, signature, parts)

    partial_type = vectors(rows * (ahead - 1))
    kind = types.Tuple([partial_type, outs])
    return kind(partial, taps, x, start, shape, cuts, mask, sizes), generate


@intrinsic
def strided_gradient_step(typing_context, partial, taps, grad, start, shape, mask, sizes):
    """The next two columns of input gradients of a convolution of stride 2, and the sums of those not complete.

    ``sizes`` are those of kernel and rows. ``start`` lies at the last column of gradients that the outputs see, and
    ``reach - 1`` rows above the first row whose window begins where the outputs begin. Each column of outputs has
    ``2 * rows``. ``partial`` are ``2 * rows * (kernel - 2)`` vectors.
    """
    kernel, rows = (size.count for size in sizes)
    ahead = reach(kernel, 2)
    partial_type, outs = vectors(2 * rows * (kernel - 2)), vectors(2 * rows)

    def generate(context, builder, signature, arguments):
        partial, taps, grad, start, shape, count, _ = arguments
        weights = parts_of(builder, taps, kernel**2)
        waiting = iter(parts_of(builder, partial, 2 * rows * (kernel - 2)))
        # Of each output row, of either parity of the column: this column's, which is complete after it, and the next.
        later = [len(range(parity, kernel, 2)) - 1 for parity in (0, 1)]
        sums = [[[*(next(waiting) for _ in range(later[p])), ZERO] for p in (0, 1)] for _ in range(2 * rows)]
        values = _values(builder, grad, start, shape, known(mask, count), rows=rows + ahead - 1, columns=1)
        for i, _, value in values:
            for row in range(2 * rows):
                down = 2 * (row // 2 - i + ahead - 1) + row % 2
                for right in range(kernel):
                    if 0 <= down < kernel:
                        mine, place = sums[row][right % 2], right // 2
                        mine[place] = fused(builder, value, weights[down * kernel + right], mine[place])
        left = [total for row in sums for parity in row for total in parity[1:]]
        columns = [[row[parity][0] for row in sums] for parity in (0, 1)]
        return _tuples(context, builder, signature, ((partial_type, left), *((outs, column) for column in columns)))

    kind = types.Tuple([partial_type, outs, outs])
    return kind(partial, taps, grad, start, shape, mask, sizes), generate


@intrinsic
def weight_gradient_step(typing_context, sums, seen, x, start, shape, cuts, grad, grad_start, grad_shape, mask, sizes):
    """What the next columns of the input add to the sums of a kernel's gradient, (kernel * kernel,).

    ``sizes`` are those of kernel, stride and rows. ``seen`` are the last ``reach - 1`` columns of the output's
    gradient, ``rows`` in each, the newest first; the new ones are the second result.
    """
    kernel, stride, rows = (size.count for size in sizes)
    ahead = reach(kernel, stride)
    sums_type, seen_type = vectors(kernel**2), vectors(rows * (ahead - 1))

    def generate(context, builder, signature, arguments):
        sums, seen, x, start, shape, cuts, grad, grad_start, grad_shape, count, _ = arguments
        totals = parts_of(builder, sums, kernel**2)
        old = parts_of(builder, seen, rows * (ahead - 1))
        left = known(mask, count)
        new = [value for _, _, value in _values(builder, grad, grad_start, grad_shape, left, rows=rows, columns=1)]
        grads = [*new, *old]
        for value, tap, row, back in _uses(builder, x, start, shape, left, cuts, sizes):
            totals[tap] = fused(builder, value, grads[back * rows + row], totals[tap])
        parts = (sums_type, totals), (seen_type, grads[: rows * (ahead - 1)])
        return _tuples(context, builder, signature, parts)

    kind = types.Tuple([sums_type, seen_type])
    return kind(sums, seen, x, start, shape, cuts, grad, grad_start, grad_shape, mask, sizes), generate
