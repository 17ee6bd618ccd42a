"""Short FFTs as straight-line code, several transforms side by side.

Comes in: addresses of arrays of float64 (or float32) in which each point of a transform is a vector of eight (sixteen)
real and a vector of as many imaginary parts, so that so many transforms run side by side, nothing is shuffled, and any
length is as good as a power of two. Goes out: the transforms, written where the caller says.

A composite length is split into its factors (Cooley and Tukey 1965), an odd prime into sums of cosines and sines over
pairs of points, which halves the multiplications. Points known to be zero cost nothing. Imports numba, so only what
compiles kernels may import this.
"""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from earsight.kernels.widths import AT_ONCE, VECTOR_BYTES

_WORD, _LONG, _SINGLE = ir.IntType(32), ir.IntType(64), ir.FloatType()

Complex = tuple[Any, Any] | None
"""Real and imaginary parts as values of the code that is generated; None is a zero."""


class _Arithmetic:
    """Operations on vectors of complex numbers of the type that a pointer has; each generates code."""

    def __init__(self, builder, pointer) -> None:
        self.builder, self.kind = builder, pointer.type.pointee
        self.width = _width(self.kind)
        self.vector = ir.VectorType(self.kind, self.width)

    def constant(self, value: float):
        return ir.Constant(self.vector, [value] * self.width)

    def splat(self, value):
        empty = ir.Constant(self.vector, ir.Undefined)
        first = self.builder.insert_element(empty, value, ir.Constant(_WORD, 0))
        return self.builder.shuffle_vector(first, empty, _order([0] * self.width))

    def fused(self, a, b, c):
        """``a * b + c``, in one rounding where the processor has an instruction for it."""
        name = f"llvm.fmuladd.v{self.width}f{8 * VECTOR_BYTES // self.width}"
        module, kind = self.builder.module, ir.FunctionType(self.vector, [self.vector] * 3)
        return self.builder.call(module.globals.get(name) or ir.Function(module, kind, name), [a, b, c])

    def places(self, pointer, point) -> tuple[Any, Any]:
        """Where the real and the imaginary parts of a point of an array lie."""
        real = self.builder.mul(point, ir.Constant(_LONG, 2 * self.width))
        imaginary = self.builder.add(real, ir.Constant(_LONG, self.width))
        real, imaginary = (
            self.builder.bitcast(self.builder.gep(pointer, [index]), self.vector.as_pointer())
            for index in (real, imaginary)
        )
        return real, imaginary

    def point(self, pointer, point) -> tuple[Any, Any]:
        """A point of an array."""
        real, imaginary = (self.builder.load(place, align=64) for place in self.places(pointer, point))
        return real, imaginary

    def add(self, a: Complex, b: Complex) -> Complex:
        if a is None or b is None:
            return a or b
        return self.builder.fadd(a[0], b[0]), self.builder.fadd(a[1], b[1])

    def subtract(self, a: Complex, b: Complex) -> Complex:
        if b is None:
            return a
        if a is None:
            return self.builder.fneg(b[0]), self.builder.fneg(b[1])
        return self.builder.fsub(a[0], b[0]), self.builder.fsub(a[1], b[1])

    def add_scaled(self, total: Complex, value: Complex, factor: float) -> Complex:
        if value is None:
            return total
        scale = self.constant(factor)
        if total is None:
            return self.builder.fmul(value[0], scale), self.builder.fmul(value[1], scale)
        return self.fused(value[0], scale, total[0]), self.fused(value[1], scale, total[1])

    def times(self, value: tuple[Any, Any], cosine, sine) -> tuple[Any, Any]:
        """A complex number times another, given by vectors of its parts."""
        real, imaginary = value
        crossed = self.builder.fmul(imaginary, sine), self.builder.fmul(real, sine)
        return self.fused(real, cosine, self.builder.fneg(crossed[0])), self.fused(imaginary, cosine, crossed[1])

    def turned(self, value: Complex, turn: int, of: int) -> Complex:
        """A complex number times exp(-2 pi i turn / of)."""
        turn %= of
        if value is None or turn == 0:
            return value
        real, imaginary = value
        if 4 * turn == of:
            return imaginary, self.builder.fneg(real)
        if 2 * turn == of:
            return self.builder.fneg(real), self.builder.fneg(imaginary)
        if 4 * turn == 3 * of:
            return self.builder.fneg(imaginary), real
        angle = -2 * math.pi * turn / of
        return self.times(value, self.constant(math.cos(angle)), self.constant(math.sin(angle)))

    def transform(self, points: list[Complex]) -> list[Complex]:
        """The discrete Fourier transform of some points."""
        count = len(points)
        factor = next((number for number in range(2, count) if count % number == 0), count)
        if factor == count:
            return points if count == 1 else self._prime(points)
        rest = count // factor
        inner = [self.transform(points[first::rest]) for first in range(rest)]
        out: list[Complex] = [None] * count
        for place in range(factor):
            column = [self.turned(row[place], first * place, count) for first, row in enumerate(inner)]
            out[place::factor] = self.transform(column)
        return out

    def _prime(self, points: list[Complex]) -> list[Complex]:
        first, count = points[0], len(points)
        if count == 2:
            return [self.add(*points), self.subtract(*points)]
        pairs = [(points[place], points[count - place]) for place in range(1, count // 2 + 1)]
        sums = [self.add(*pair) for pair in pairs]
        differences = [self.subtract(*pair) for pair in pairs]
        out: list[Complex] = [None] * count
        out[0] = first
        for value in sums:
            out[0] = self.add(out[0], value)
        for place in range(1, count // 2 + 1):
            even, odd = first, None
            for pair, (total, difference) in enumerate(zip(sums, differences, strict=True), 1):
                angle = 2 * math.pi * pair * place / count
                even = self.add_scaled(even, total, math.cos(angle))
                odd = self.add_scaled(odd, difference, math.sin(angle))
            turned = self.turned(odd, 1, 4)
            out[place], out[count - place] = self.add(even, turned), self.subtract(even, turned)
        return out


def _width(kind) -> int:
    """Values of a type in a vector; a point takes twice as many: real parts, then imaginary parts."""
    return VECTOR_BYTES // (4 if kind == _SINGLE else 8)


def _order(places: list[int]):
    return ir.Constant(ir.VectorType(_WORD, len(places)), places)


def _strided(builder, begin, step, number: int):
    return builder.add(begin, builder.mul(step, ir.Constant(_LONG, number)))


def _store_frames(builder, values, target, place) -> None:
    pointer = builder.gep(target, [builder.mul(place, ir.Constant(_LONG, values.type.count))])
    builder.store(values, builder.bitcast(pointer, values.type.as_pointer()), align=64)


def _turn_and_store(write: _Arithmetic, found: list[Complex], twiddles, row, target, to, step) -> None:
    """Points times their twiddles, where there are some, to ``target``, one every ``step`` points from ``to`` on."""
    builder = write.builder
    for number, value in enumerate(found):
        if value is None:
            raise ValueError("a transform of zeros alone")
        if twiddles is not None:
            index = builder.mul(builder.add(row, ir.Constant(_LONG, number)), ir.Constant(_LONG, 2))
            cosine = builder.load(builder.gep(twiddles, [index]))
            sine = builder.load(builder.gep(twiddles, [builder.add(index, ir.Constant(_LONG, 1))]))
            value = write.times(value, write.splat(cosine), write.splat(sine))
        for part, place in zip(value, write.places(target, _strided(builder, to, step, number)), strict=True):
            builder.store(part, place, align=64)


@intrinsic(prefer_literal=True)
def transform_frames(typing_context, radix, inside, frames, window, begin, step, target, to, to_step, twiddles, row):
    """A short transform of samples of as many frames as a point has values: half are real parts, half imaginary ones.

    Of its ``radix`` points, samples ``begin + i * step``, the first ``inside`` are read from ``frames`` (float32) and
    weighted with ``window``; the others are zero. Point k is multiplied by ``twiddles[row + k]`` and written to place
    ``to + k * to_step`` of ``target``.
    """
    count, known = radix.literal_value, inside.literal_value

    def generate(context, builder, signature, arguments):
        _, _, frames, window, begin, step, target, to, to_step, twiddles, row = arguments
        write = _Arithmetic(builder, window)
        points: list[Complex] = [None] * count
        all_frames = ir.VectorType(_SINGLE, 2 * write.width)
        for place in range(known):
            sample = _strided(builder, begin, step, place)
            pointer = builder.gep(frames, [builder.mul(sample, ir.Constant(_LONG, 2 * write.width))])
            both = builder.load(builder.bitcast(pointer, all_frames.as_pointer()), align=64)
            weight = write.splat(builder.load(builder.gep(window, [sample])))
            halves = []
            for first in (0, write.width):
                order = _order(list(range(first, first + write.width)))
                half = builder.shuffle_vector(both, ir.Constant(all_frames, ir.Undefined), order)
                halves.append(
                    builder.fmul(half if write.kind == _SINGLE else builder.fpext(half, write.vector), weight)
                )
            points[place] = (halves[0], halves[1])
        _turn_and_store(write, write.transform(points), twiddles, row, target, to, to_step)
        return context.get_dummy_value()

    return types.void(radix, inside, frames, window, begin, step, target, to, to_step, twiddles, row), generate


@intrinsic(prefer_literal=True)
def transform_points(typing_context, radix, source, begin, step, target, to, to_step, twiddles, row):
    """A short transform of points ``begin + i * step`` of ``source``, written as by `transform_frames`.

    ``twiddles`` may be None: nothing is multiplied then.
    """
    count = radix.literal_value
    plain = isinstance(twiddles, types.NoneType)

    def generate(context, builder, signature, arguments):
        _, source, begin, step, target, to, to_step, twiddles, row = arguments
        write = _Arithmetic(builder, source)
        found = write.transform(
            [write.point(source, _strided(builder, begin, step, number)) for number in range(count)]
        )
        _turn_and_store(write, found, None if plain else twiddles, row, target, to, to_step)
        return context.get_dummy_value()

    return types.void(radix, source, begin, step, target, to, to_step, twiddles, row), generate


@intrinsic
def store_powers(typing_context, points, here, there, target, place):
    """Squared magnitudes of one bin of real frames, from the transform of half of them and half of them.

    Bin k of the real frames lies in points k and -k of the transform, which are ``here`` and ``there`` in ``points``.
    Written to vector ``place`` of ``target`` (a float32 for each frame), four times too large.
    """

    def generate(context, builder, signature, arguments):
        points, here, there, target, place = arguments
        write = _Arithmetic(builder, points)
        (real, imaginary), (real_there, imaginary_there) = (write.point(points, which) for which in (here, there))
        pairs = (
            (builder.fadd(real, real_there), builder.fsub(imaginary, imaginary_there)),
            (builder.fadd(imaginary, imaginary_there), builder.fsub(real, real_there)),
        )
        powers = [write.fused(a, a, builder.fmul(b, b)) for a, b in pairs]
        both = builder.shuffle_vector(*powers, _order(list(range(2 * write.width))))
        if write.kind != _SINGLE:
            both = builder.fptrunc(both, ir.VectorType(_SINGLE, 2 * write.width))
        _store_frames(builder, both, target, place)
        return context.get_dummy_value()

    return types.void(points, here, there, target, place), generate


def _side_by_side(builder, vectors: list[Any], others: list[Any], frames: int, most: int) -> list[Any]:
    """Vectors of samples of twice as many frames, from those of ``frames`` and of as many others, sample by sample.

    None is longer than ``most``.
    """
    out = []
    for vector, other in zip(vectors, others, strict=True):
        width = vector.type.count
        order = [
            place * frames + frame + (frame >= frames) * (width - frames)
            for place in range(width // frames)
            for frame in range(2 * frames)
        ]
        for first in range(0, len(order), most):
            out.append(builder.shuffle_vector(vector, other, _order(order[first : first + most])))
    return out


@intrinsic
def gather(typing_context, wave, begins, sample, target, points):
    """Eight neighbouring samples of so many frames of a wave (float32) as a point has values, sample by sample.

    ``begins`` says where in the wave each frame begins (int64); sample ``sample + i`` of all goes to vector
    ``sample + i`` of ``target`` (float32). ``points`` is an array of the transform, of which the type alone counts.
    """

    def generate(context, builder, signature, arguments):
        wave, begins, sample, target, points = arguments
        groups, frames, most = [], 1, 2 * _width(points.type.pointee)
        for frame in range(most):
            begin = builder.load(builder.gep(begins, [ir.Constant(_LONG, frame)]))
            pointer = builder.gep(wave, [builder.add(begin, sample)])
            eight = ir.VectorType(_SINGLE, AT_ONCE).as_pointer()
            groups.append([builder.load(builder.bitcast(pointer, eight), align=4)])
        while len(groups) > 1:
            pairs = zip(groups[::2], groups[1::2], strict=True)
            groups = [_side_by_side(builder, *pair, frames, most) for pair in pairs]
            frames *= 2
        for place, vector in enumerate(groups[0]):
            _store_frames(builder, vector, target, builder.add(sample, ir.Constant(_LONG, place)))
        return context.get_dummy_value()

    return types.void(wave, begins, sample, target, points), generate


@intrinsic(prefer_literal=True)
def reals(typing_context, address, value_bytes):
    """The array of float64 (8 bytes a value) or float32 (4) that begins at an address."""
    kind = types.CPointer(types.float32 if value_bytes.literal_value == 4 else types.float64)
    return kind(types.int64, value_bytes), lambda context, builder, signature, given: builder.inttoptr(
        given[0], context.get_value_type(kind)
    )
