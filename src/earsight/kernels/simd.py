"""SIMD vectors of sixteen float32 values, for kernels that numba compiles.

Comes in: addresses of arrays of float32 or bfloat16 (bits as uint16), and indices of elements. Goes out: vectors of
sixteen float32 values, with arithmetic on them. LLVM maps them to the processor's registers: one of AVX-512, two of
AVX, four of NEON. bfloat16 is a matter of loading and storing; all arithmetic is in float32.

A ``mask`` says which of the sixteen elements of an array are touched: ``None`` for all of them, or how many. Elements
that are not touched load as 0. Imports numba, so only what compiles kernels may import this.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from types import FunctionType
from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import carray, njit
from numba.core import types
from numba.extending import intrinsic, models, overload, register_model

from earsight.kernels.widths import WIDTH

F4, BF16 = np.float32, np.uint16
"""Types of feature maps' elements; bfloat16 as its bits."""
OPTIONS = {"nogil": True, "error_model": "numpy"}
inlined = njit(forceinline=True, no_cpython_wrapper=True, no_cfunc_wrapper=True, **OPTIONS)
separate = njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **OPTIONS)
"""Compile a part of a kernel, into its caller or as a function of its own."""

_FLOAT, _WORD, _HALF, _BIT = ir.FloatType(), ir.IntType(32), ir.IntType(16), ir.IntType(1)
FLOATS, _WORDS, _HALVES, _BITS = (ir.VectorType(kind, WIDTH) for kind in (_FLOAT, _WORD, _HALF, _BIT))
_NEARBY, _DATA = 2, 1
"""Where `fetch` brings lines: into the second-level cache, of data."""


class _VectorType(types.Type):
    def __init__(self) -> None:
        super().__init__(name="Vector")


vector_type = _VectorType()


@register_model(_VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, numba_type) -> None:
        super().__init__(manager, numba_type, FLOATS)


class _Brain(ir.Type):
    """LLVM's own bfloat, which llvmlite does not name."""

    def _to_string(self) -> str:
        return f"<{WIDTH} x bfloat>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Brain)

    def __hash__(self) -> int:
        return hash(_Brain)


def _splat(builder, value, kind):
    empty = ir.Constant(ir.VectorType(kind, WIDTH), ir.Undefined)
    first = builder.insert_element(empty, value, ir.Constant(_WORD, 0))
    return builder.shuffle_vector(first, empty, ir.Constant(_WORDS, [0] * WIDTH))


def _words(value: int):
    return ir.Constant(_WORDS, [value] * WIDTH)


def _mask_of(builder, count):
    ascending = ir.Constant(_WORDS, list(range(WIDTH)))
    return builder.icmp_signed("<", ascending, _splat(builder, builder.trunc(count, _WORD), _WORD))


def _rounded(builder, value):
    """Bits of the nearest bfloat16, ties to even; NaN stays NaN."""
    if llvmlite.binding.get_host_cpu_features().get("avx512bf16"):  # an instruction for it
        return builder.bitcast(builder.fptrunc(value, _Brain()), _HALVES)
    bits = builder.bitcast(value, _WORDS)
    odd = builder.and_(builder.lshr(bits, _words(16)), _words(1))
    rounded = builder.lshr(builder.add(bits, builder.add(odd, _words(0x7FFF))), _words(16))
    undefined = builder.fcmp_unordered("uno", value, value)
    return builder.trunc(builder.select(undefined, _words(0x7FC0), rounded), _HALVES)


def _place(builder, pointer, index) -> tuple[Any, Any, bool]:
    """Where sixteen elements of an array lie, as what, and whether they are bfloat16."""
    brain = pointer.type.pointee == _HALF
    vector = _HALVES if brain else FLOATS
    return builder.bitcast(builder.gep(pointer, [index]), vector.as_pointer()), vector, brain


def read(builder, pointer, index, count):
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


def write(builder, pointer, index, value, count) -> None:
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


def _known(builder, name: str, kind):
    """A function of LLVM's own."""
    return builder.module.globals.get(name) or ir.Function(builder.module, kind, name)


def fused(builder, a, b, c):
    """Code of `fma`."""
    return builder.call(_known(builder, f"llvm.fmuladd.v{WIDTH}f32", ir.FunctionType(FLOATS, [FLOATS] * 3)), [a, b, c])


def clamped(builder, value, low, high):
    """Code of `clamp`."""
    value = builder.select(builder.fcmp_ordered("<", value, low), low, value)
    return builder.select(builder.fcmp_ordered(">", value, high), high, value)


def kept_inside(builder, value, probe, low, high):
    """Code of `where_inside`."""
    inside = builder.and_(builder.fcmp_ordered(">", probe, low), builder.fcmp_ordered("<", probe, high))
    return builder.select(inside, value, ir.Constant(FLOATS, [0.0] * WIDTH))


@intrinsic
def at(typing_context, address, kind):
    """The array of a NumPy type (``np.float32``, ``np.uint16``) that begins at an address."""
    pointer_type = types.CPointer(kind.dtype)

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(pointer_type))

    return pointer_type(types.int64, kind), generate


@intrinsic
def load(typing_context, pointer, index, mask):
    """Sixteen elements of an array from an index on."""

    def generate(context, builder, signature, arguments):
        pointer, index, count = arguments
        return read(builder, pointer, index, None if isinstance(mask, types.NoneType) else count)

    return vector_type(pointer, types.int64, mask), generate


@intrinsic
def store(typing_context, pointer, index, value, mask):
    """Write sixteen values to an array from an index on, rounded to its type."""

    def generate(context, builder, signature, arguments):
        pointer, index, value, count = arguments
        write(builder, pointer, index, value, None if isinstance(mask, types.NoneType) else count)
        return context.get_dummy_value()

    return types.void(pointer, types.int64, value, mask), generate


@intrinsic
def splat(typing_context, value):
    """The same float32 in all sixteen places."""

    def generate(context, builder, signature, arguments):
        return _splat(builder, arguments[0], _FLOAT)

    return vector_type(types.float32), generate


def _ternary(code: Callable[..., Any]):
    @intrinsic
    def operation(typing_context, a, b, c):
        return vector_type(*3 * [vector_type]), lambda context, builder, signature, given: code(builder, *given)

    return operation


fma, clamp = _ternary(fused), _ternary(clamped)
"""``a * b + c``, in one rounding where the processor can; and values clamped to both ends, where NaN stays NaN."""


@intrinsic
def root(typing_context, value):
    """Square roots."""

    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(FLOATS, [FLOATS])
        return builder.call(_known(builder, f"llvm.sqrt.v{WIDTH}f32", kind), arguments)

    return vector_type(vector_type), generate


@intrinsic
def where_inside(typing_context, value, probe, low, high):
    """Values where a probe lies strictly between both ends, 0 elsewhere."""

    def generate(context, builder, signature, arguments):
        return kept_inside(builder, *arguments)

    return vector_type(vector_type, vector_type, vector_type, vector_type), generate


def _binary(name: str):
    @intrinsic
    def operation(typing_context, a, b):
        def generate(context, builder, signature, arguments):
            return getattr(builder, name)(*arguments)

        return vector_type(vector_type, vector_type), generate

    return operation


def _operator(symbol: Callable[..., Any], name: str) -> None:
    operation = _binary(name)

    @overload(symbol)
    def chosen(a, b):  # numba compares the signatures, annotations included
        return (lambda a, b: operation(a, b)) if a is vector_type and b is vector_type else None


_operator(operator.add, "fadd")
_operator(operator.sub, "fsub")
_operator(operator.mul, "fmul")
_operator(operator.truediv, "fdiv")


@intrinsic
def next_ticket(typing_context, address):
    """The count at an address, which is raised by one: an atomic fetch-and-add."""

    def generate(context, builder, signature, arguments):
        place = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", place, ir.Constant(ir.IntType(64), 1), "acq_rel")

    return types.int64(types.int64), generate


def by_parts(do_part, finish=None):
    """A kernel (pointer to a job, kind, more) that does part after part, whichever thread is free.

    ``do_part`` is called with the job, a part, the kind and more; ``finish`` without the part, after the last of them.
    """
    finish = finish or _nothing

    @inlined
    def work(pointer, kind, *more):
        job = carray(pointer, 1)[0]
        while True:
            part = next_ticket(job.here)
            if part >= job.parts:
                break
            do_part(job, part, kind, *more)
            if next_ticket(job.here + 8) == job.parts - 1:
                finish(job, kind, *more)

    return work


@inlined
def _nothing(job, kind, *more):
    pass


@inlined
def by_vectors(do, channels, *given):
    """Do all channels, sixteen after sixteen: ``do`` is called with the first one, a mask, and what is given."""
    whole = channels - channels % WIDTH
    for c in range(0, whole, WIDTH):
        do(c, None, *given)
    if whole < channels:
        do(whole, channels - whole, *given)


def entries(name: str, work, *plans):
    """The entries (pointer) of a kernel for float32 and for bfloat16: ``work(pointer, kind, *plans)``.

    numba can keep their code: they have no closure, whose hash would be another in each process, and names of their
    own, by which code that several processes compiled is told apart.
    """
    made = []
    for dtype, kind in (("float32", F4), ("bfloat16", BF16)):
        scope = {"_work": work, "_kind": kind, "_plans": plans, "__name__": work.py_func.__module__}
        entry = FunctionType(_entry.__code__, scope)
        entry.__name__ = entry.__qualname__ = f"{name}_{dtype}"
        made.append(entry)
    return tuple(made)


def _entry(pointer):
    _work(pointer, _kind, *_plans)  # noqa: F821 - globals that `entries` gives it


@intrinsic(prefer_literal=True)
def fetch(typing_context, pointer, index, lines, writes):
    """Prefetch as many cache lines as a tuple is long, from an element of an array on, to be read, or written."""
    count, intent = lines.count, writes.literal_value

    def generate(context, builder, signature, arguments):
        byte = ir.IntType(8).as_pointer()
        function = _known(builder, "llvm.prefetch.p0", ir.FunctionType(ir.VoidType(), [byte, _WORD, _WORD, _WORD]))
        place = builder.bitcast(builder.gep(arguments[0], [arguments[1]]), byte)
        for line in range(count):
            there = builder.gep(place, [ir.Constant(ir.IntType(64), 64 * line)])
            builder.call(function, [there, *(ir.Constant(_WORD, value) for value in (intent, _NEARBY, _DATA))])
        return context.get_dummy_value()

    return types.void(pointer, types.int64, lines, writes), generate


@intrinsic(prefer_literal=True)
def room(typing_context, vectors):
    """Room for some vectors of float32 values on the caller's stack."""
    count = vectors.literal_value * WIDTH

    def generate(context, builder, signature, arguments):
        with builder.goto_entry_block():
            place = builder.alloca(_FLOAT, size=ir.Constant(_WORD, count))
        place.align = 64
        return place

    return types.CPointer(types.float32)(vectors), generate
