"""Sixteen float32 values at once, for kernels that numba compiles.

Comes in: addresses of arrays of float32 or bfloat16 (bits as uint16), and indices of elements. Goes out: vectors of
sixteen float32 values, with arithmetic on them. LLVM maps them to what the processor has: one AVX-512 register, two of
AVX, four of NEON. bfloat16 is a matter of loading and storing; all arithmetic is in float32.

A ``mask`` says which of the sixteen elements of an array are touched: ``None`` for all of them, or how many. Elements
that are not touched load as 0.

Imports numba, so only what compiles kernels may import this.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, models, overload, register_model

WIDTH = 16

_FLOAT, _WORD, _HALF, _BIT = ir.FloatType(), ir.IntType(32), ir.IntType(16), ir.IntType(1)
FLOATS, _WORDS, _HALVES, _BITS = (ir.VectorType(kind, WIDTH) for kind in (_FLOAT, _WORD, _HALF, _BIT))


_NEARBY, _DATA = 2, 1
"""How near and where `fetch` brings what it asks for: into the second-level cache, of data."""


class _LanesType(types.Type):
    def __init__(self) -> None:
        super().__init__(name="Lanes")


lanes_type = _LanesType()


@register_model(_LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, numba_type: Any) -> None:
        super().__init__(manager, numba_type, FLOATS)


class _Brain(ir.Type):
    """LLVM's own bfloat, which llvmlite does not name."""

    def _to_string(self) -> str:
        return f"<{WIDTH} x bfloat>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Brain)

    def __hash__(self) -> int:
        return hash(_Brain)


def _rounds_to_bfloat16() -> bool:
    """Whether the processor has an instruction for it."""
    return bool(llvmlite.binding.get_host_cpu_features().get("avx512bf16"))


def _splat(builder: Any, value: Any, kind: Any) -> Any:
    empty = ir.Constant(ir.VectorType(kind, WIDTH), ir.Undefined)
    first = builder.insert_element(empty, value, ir.Constant(_WORD, 0))
    return builder.shuffle_vector(first, empty, ir.Constant(_WORDS, [0] * WIDTH))


def _words(value: int) -> Any:
    return ir.Constant(_WORDS, [value] * WIDTH)


def _mask_of(builder: Any, count: Any) -> Any:
    ascending = ir.Constant(_WORDS, list(range(WIDTH)))
    return builder.icmp_signed("<", ascending, _splat(builder, builder.trunc(count, _WORD), _WORD))


def _rounded(builder: Any, value: Any) -> Any:
    """Bits of the nearest bfloat16, ties to even; what is not a number stays so."""
    if _rounds_to_bfloat16():
        return builder.bitcast(builder.fptrunc(value, _Brain()), _HALVES)
    bits = builder.bitcast(value, _WORDS)
    odd = builder.and_(builder.lshr(bits, _words(16)), _words(1))
    rounded = builder.lshr(builder.add(bits, builder.add(odd, _words(0x7FFF))), _words(16))
    undefined = builder.fcmp_unordered("uno", value, value)
    return builder.trunc(builder.select(undefined, _words(0x7FC0), rounded), _HALVES)


def _place(builder: Any, pointer: Any, index: Any) -> tuple[Any, Any, bool]:
    """Where sixteen elements of an array lie, as what, and whether they are bfloat16."""
    brain = pointer.type.pointee == _HALF
    vector = _HALVES if brain else FLOATS
    return builder.bitcast(builder.gep(pointer, [index]), vector.as_pointer()), vector, brain


def read(builder: Any, pointer: Any, index: Any, count: Any | None) -> Any:
    """Code of `load`; a count of None is all."""
    place, vector, brain = _place(builder, pointer, index)
    size = 2 if brain else 4
    if count is None:
        value = builder.load(place, align=size)
    else:
        kind = ir.FunctionType(vector, [place.type, _WORD, _BITS, vector])
        function = _known(builder, f"llvm.masked.load.v{WIDTH}{'i16' if brain else 'f32'}.p0", kind)
        zeros = ir.Constant(vector, [0] * WIDTH if brain else [0.0] * WIDTH)
        value = builder.call(function, [place, ir.Constant(_WORD, size), _mask_of(builder, count), zeros])
    return builder.bitcast(builder.shl(builder.zext(value, _WORDS), _words(16)), FLOATS) if brain else value


def write(builder: Any, pointer: Any, index: Any, value: Any, count: Any | None) -> None:
    """Code of `store`; a count of None is all."""
    place, vector, brain = _place(builder, pointer, index)
    size = 2 if brain else 4
    value = _rounded(builder, value) if brain else value
    if count is None:
        builder.store(value, place, align=size)
    else:
        kind = ir.FunctionType(ir.VoidType(), [vector, place.type, _WORD, _BITS])
        function = _known(builder, f"llvm.masked.store.v{WIDTH}{'i16' if brain else 'f32'}.p0", kind)
        builder.call(function, [value, place, ir.Constant(_WORD, size), _mask_of(builder, count)])


def _known(builder: Any, name: str, kind: Any) -> Any:
    """A function of LLVM's own."""
    return builder.module.globals.get(name) or ir.Function(builder.module, kind, name)


def fused(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """Code of `fma`."""
    return builder.call(_known(builder, f"llvm.fmuladd.v{WIDTH}f32", ir.FunctionType(FLOATS, [FLOATS] * 3)), [a, b, c])


def clamped(builder: Any, value: Any, low: Any, high: Any) -> Any:
    """Code of `clamp`."""
    value = builder.select(builder.fcmp_ordered("<", value, low), low, value)
    return builder.select(builder.fcmp_ordered(">", value, high), high, value)


def kept_inside(builder: Any, value: Any, probe: Any, low: Any, high: Any) -> Any:
    """Code of `where_inside`."""
    inside = builder.and_(builder.fcmp_ordered(">", probe, low), builder.fcmp_ordered("<", probe, high))
    return builder.select(inside, value, ir.Constant(FLOATS, [0.0] * WIDTH))


@intrinsic
def at(typing_context: Any, address: Any, kind: Any) -> Any:
    """The array of a NumPy type (``np.float32``, ``np.uint16``) that begins at an address."""
    pointer_type = types.CPointer(kind.dtype)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(pointer_type))

    return pointer_type(types.int64, kind), generate


@intrinsic
def load(typing_context: Any, pointer: Any, index: Any, mask: Any) -> Any:
    """Sixteen elements of an array from an index on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer, index, count = arguments
        return read(builder, pointer, index, None if isinstance(mask, types.NoneType) else count)

    return lanes_type(pointer, types.int64, mask), generate


@intrinsic
def store(typing_context: Any, pointer: Any, index: Any, value: Any, mask: Any) -> Any:
    """Write sixteen values to an array from an index on, rounded to its type."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer, index, value, count = arguments
        write(builder, pointer, index, value, None if isinstance(mask, types.NoneType) else count)
        return context.get_dummy_value()

    return types.void(pointer, types.int64, value, mask), generate


@intrinsic
def splat(typing_context: Any, value: Any) -> Any:
    """The same float32 in all sixteen places."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _splat(builder, arguments[0], _FLOAT)

    return lanes_type(types.float32), generate


@intrinsic
def fma(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
    """``a * b + c``, in one rounding where the processor has an instruction for it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return fused(builder, *arguments)

    return lanes_type(lanes_type, lanes_type, lanes_type), generate


@intrinsic
def root(typing_context: Any, value: Any) -> Any:
    """Square roots."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(FLOATS, [FLOATS])
        return builder.call(_known(builder, f"llvm.sqrt.v{WIDTH}f32", kind), arguments)

    return lanes_type(lanes_type), generate


@intrinsic
def clamp(typing_context: Any, value: Any, low: Any, high: Any) -> Any:
    """Values cut at both ends; what is not a number stays so."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return clamped(builder, *arguments)

    return lanes_type(lanes_type, lanes_type, lanes_type), generate


@intrinsic
def where_inside(typing_context: Any, value: Any, probe: Any, low: Any, high: Any) -> Any:
    """Values where a probe lies strictly between both ends, 0 elsewhere."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return kept_inside(builder, *arguments)

    return lanes_type(lanes_type, lanes_type, lanes_type, lanes_type), generate


def _binary(name: str) -> Any:
    @intrinsic
    def operation(typing_context: Any, a: Any, b: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return getattr(builder, name)(*arguments)

        return lanes_type(lanes_type, lanes_type), generate

    return operation


def _operator(symbol: Callable[..., Any], name: str) -> None:
    operation = _binary(name)

    @overload(symbol)
    def chosen(a, b):  # numba compares the signatures, annotations included
        return (lambda a, b: operation(a, b)) if a is lanes_type and b is lanes_type else None


_operator(operator.add, "fadd")
_operator(operator.sub, "fsub")
_operator(operator.mul, "fmul")
_operator(operator.truediv, "fdiv")


@intrinsic
def next_ticket(typing_context: Any, address: Any) -> Any:
    """The count at an address, which goes up by one for whoever comes next, whatever the thread."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", place, ir.Constant(ir.IntType(64), 1), "acq_rel")

    return types.int64(types.int64), generate


@intrinsic(prefer_literal=True)
def fetch(typing_context: Any, pointer: Any, index: Any, lines: Any, writes: Any) -> Any:
    """Ask for as many cache lines as a tuple is long, from an element of an array on, to be read soon, or written."""
    count, intent = lines.count, writes.literal_value

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte = ir.IntType(8).as_pointer()
        function = _known(builder, "llvm.prefetch.p0", ir.FunctionType(ir.VoidType(), [byte, _WORD, _WORD, _WORD]))
        place = builder.bitcast(builder.gep(arguments[0], [arguments[1]]), byte)
        for line in range(count):
            there = builder.gep(place, [ir.Constant(ir.IntType(64), 64 * line)])
            builder.call(function, [there, *(ir.Constant(_WORD, value) for value in (intent, _NEARBY, _DATA))])
        return context.get_dummy_value()

    return types.void(pointer, types.int64, lines, writes), generate


@intrinsic(prefer_literal=True)
def room(typing_context: Any, vectors: Any) -> Any:
    """Room for some vectors of float32 values on the stack of whoever calls."""
    count = vectors.literal_value * WIDTH

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        with builder.goto_entry_block():
            place = builder.alloca(_FLOAT, size=ir.Constant(_WORD, count))
        place.align = 64
        return place

    return types.CPointer(types.float32)(vectors), generate
