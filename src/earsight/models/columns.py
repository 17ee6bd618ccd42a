"""Columns of vectors that lie in registers, as tuples, for numba's kernels.

Comes in: places in feature maps (channels-last) and in float32 arrays. Goes out: tuples of vectors of sixteen channels,
one for each of some rows, and code that reads, changes and writes them.

``start`` is the index of a column's first value (it is not touched where its row lies outside), its row and its column;
``shape`` is height, width and channels of the map. ``mask`` says how many of sixteen channels there are, None for all.

Imports numba, so only what compiles kernels may import this.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from earsight.features.simd import FLOATS, WIDTH, kept_inside, lanes_type, read, write

LONG = ir.IntType(64)
ZERO = ir.Constant(FLOATS, [0.0] * WIDTH)


def vectors(count: int) -> Any:
    """Numba's type of so many vectors."""
    return types.UniTuple(lanes_type, count)


def known(mask: Any, count: Any) -> Any:
    """The code of a mask's count, None where all channels are meant."""
    return None if isinstance(mask, types.NoneType) else count


def parts_of(builder: Any, value: Any, count: int) -> list[Any]:
    """Code of each part of a tuple."""
    return [builder.extract_value(value, index) for index in range(count)]


def plus(builder: Any, value: Any, number: int) -> Any:
    """Code of an index plus a number."""
    return builder.add(value, ir.Constant(LONG, number)) if number else value


def only_where(builder: Any, inside: Any, make: Any) -> Any:
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
def zeros(typing_context: Any, count: Any) -> Any:
    """As many vectors of zeros as a tuple is long."""
    kind = vectors(count.count)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return context.make_tuple(builder, kind, [ZERO] * count.count)

    return kind(count), generate


@intrinsic
def load_taps(typing_context: Any, pointer: Any, index: Any, step: Any, taps: Any) -> Any:
    """As many vectors of a float32 array as a tuple is long, one every ``step`` elements."""
    kind = vectors(taps.count)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer, index, step, _ = arguments
        places = [builder.add(index, builder.mul(step, ir.Constant(LONG, tap))) for tap in range(taps.count)]
        return context.make_tuple(builder, kind, [read(builder, pointer, place, None) for place in places])

    return kind(types.CPointer(types.float32), types.int64, types.int64, taps), generate


@intrinsic
def store_taps(typing_context: Any, pointer: Any, index: Any, step: Any, taps: Any) -> Any:
    """Write vectors to a float32 array, one every ``step`` elements."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer, index, step, _ = arguments
        for tap, value in enumerate(parts_of(builder, arguments[3], taps.count)):
            write(builder, pointer, builder.add(index, builder.mul(step, ir.Constant(LONG, tap))), value, None)
        return context.get_dummy_value()

    return types.void(types.CPointer(types.float32), types.int64, types.int64, taps), generate


@intrinsic
def cut_column(typing_context: Any, values: Any, seen: Any, start: Any, shape: Any, cuts: Any, mask: Any) -> Any:
    """A column of gradients, 0 where the activation of ``seen`` there does not let them pass, or in rows outside."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        found = parts_of(builder, arguments[0], values.count)
        _, seen, start, shape, cuts, count = arguments
        place, row, _ = parts_of(builder, start, 3)
        height, width, channels = parts_of(builder, shape, 3)
        shift, low, high = parts_of(builder, cuts, 3)
        line = builder.mul(width, channels)
        for i, value in enumerate(found):

            def make(value: Any = value, place: Any = place) -> Any:
                probe = builder.fadd(read(builder, seen, place, known(mask, count)), shift)
                return kept_inside(builder, value, probe, low, high)

            found[i] = only_where(builder, builder.icmp_unsigned("<", plus(builder, row, i), height), make)
            place = builder.add(place, line)
        return context.make_tuple(builder, values, found)

    return values(values, seen, start, shape, cuts, mask), generate


@intrinsic
def put_column(typing_context: Any, values: Any, out: Any, start: Any, shape: Any, mask: Any) -> Any:
    """Write a column of vectors to a map, those whose rows lie in it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
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
def add_column(typing_context: Any, total: Any, values: Any) -> Any:
    """A vector plus all vectors of a column."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        total = arguments[0]
        for value in parts_of(builder, arguments[1], values.count):
            total = builder.fadd(total, value)
        return total

    return total(total, values), generate
