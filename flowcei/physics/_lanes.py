"""Vectors of lanes for numba: one number of many explosions in one register (docs/decisions/0010).

A row of an array is loaded as one value of LLVM's vector type, which LLVM cuts into whatever registers
the machine has. Every lane goes through the very same instructions, so that a result never depends on
its neighbours, and arithmetic on rows reads like arithmetic on numbers:

    r = rsqrt(dx * dx + dy * dy + dz * dz)
"""

from __future__ import annotations

import operator
from functools import partial
from typing import Any, ClassVar

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

from flowcei.storage._compilation import compiled

LANES = {types.float32: 16, types.float64: 8}  # of a row: one register of 64 bytes, the widest that CPUs have

# Fused multiply-add and approximate reciprocals (refined to rounding by LLVM), but no
# reordering of sums.
_FLAGS = ("contract", "arcp", "afn", "nsz")


class Lanes(types.Type):
    """Type of a vector: `LANES` numbers of one precision."""

    def __init__(self, dtype: types.Float) -> None:
        self.dtype = dtype
        self.lanes = LANES[dtype]
        scalar = ir.FloatType() if dtype == types.float32 else ir.DoubleType()
        self.llvm = ir.VectorType(scalar, self.lanes)
        super().__init__(name=f"Lanes({dtype} x {self.lanes})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type) -> None:
        super().__init__(dmm, fe_type, fe_type.llvm)


def _broadcast(context, builder, value, kind, lanes) -> ir.Value:
    """A vector whose lanes all hold a scalar; a vector as it is."""
    if isinstance(kind, Lanes):
        return value
    scalar = context.cast(builder, value, kind, lanes.dtype)
    empty = ir.Constant(lanes.llvm, ir.Undefined)
    first = builder.insert_element(empty, scalar, ir.Constant(ir.IntType(32), 0))
    everywhere = ir.Constant(ir.VectorType(ir.IntType(32), lanes.lanes), [0] * lanes.lanes)
    return builder.shuffle_vector(first, empty, everywhere)


def _arithmetic(function, instruction) -> None:
    """Teach numba an operator between vectors, or between a vector and a scalar."""

    @infer_global(function)
    class _Operator(AbstractTemplate):
        metadata: ClassVar = {"target": "cpu"}  # tried first: numba has some twenty others of each operator

        def generic(self, args, _kws) -> Any:
            lanes = [a for a in args if isinstance(a, Lanes)]
            if lanes and all(isinstance(a, Lanes | types.Number) for a in args):
                return signature(lanes[0], *args)
            return None

    def lower(context, builder, sig, args) -> ir.Value:
        pairs = zip(args, sig.args, strict=True)
        operands = [_broadcast(context, builder, value, kind, sig.return_type) for value, kind in pairs]
        return getattr(builder, instruction)(*operands, flags=_FLAGS)

    for kinds in ((Lanes, Lanes), (Lanes, types.Number), (types.Number, Lanes)):
        lower_builtin(function, *kinds)(lower)


for _function in (operator.add, operator.sub, operator.mul, operator.truediv):
    _arithmetic(_function, f"f{_function.__name__.removeprefix('true')}")


@intrinsic
def numbers(_typing, array) -> tuple:
    """A pointer to the numbers of a C-contiguous array, which is seven values at each call of a function."""

    def lower(context, builder, sig, args) -> ir.Value:
        return _numbers(context, builder, sig.args[0], args[0])

    return types.CPointer(array.dtype)(array), lower


@intrinsic
def keep(_typing, array) -> tuple:
    """Do nothing: an array of a kernel's own, whose numbers are used, is there until here."""
    return types.void(array), lambda context, _builder, _sig, _args: context.get_dummy_value()


def _numbers(context, builder, kind, value) -> ir.Value:
    """A pointer to the numbers of an array, or that pointer as it is."""
    if isinstance(kind, types.CPointer):
        return value
    return context.make_array(kind)(context, builder, value).data


def _row(context, builder, kind, array, row) -> ir.Value:
    """A pointer to a row of a flat array."""
    lanes = Lanes(kind.dtype)
    first = builder.mul(row, ir.Constant(row.type, lanes.lanes))
    data = _numbers(context, builder, kind, array)
    return builder.bitcast(builder.gep(data, [first]), lanes.llvm.as_pointer())


@intrinsic
def lanes_of(_typing, array) -> tuple:
    """The number of lanes of a row of `array`, a constant for the compiler."""

    def lower(context, _builder, sig, _args) -> ir.Value:
        return context.get_constant(types.intp, LANES[sig.args[0].dtype])

    return types.intp(array), lower


@compiled
def scratch(count, like) -> np.ndarray:
    """Room for `count` rows, zero, of the precision of `like`."""
    return np.zeros((count + 1) * lanes_of(like), like.dtype)


@intrinsic
def aligned(_typing, array) -> tuple:
    """A pointer to the rows of `scratch`, which begin at a multiple of 64 bytes."""

    def lower(context, builder, sig, args) -> ir.Value:
        first = _numbers(context, builder, sig.args[0], args[0])
        kind = context.get_value_type(types.intp)
        address = builder.add(builder.ptrtoint(first, kind), ir.Constant(kind, 63))
        return builder.inttoptr(builder.and_(address, ir.Constant(kind, -64)), first.type)

    return types.CPointer(array.dtype)(array), lower


@intrinsic
def load(_typing, array, row) -> tuple:
    """Row `row` of a flat array that begins at a multiple of 64 bytes."""

    def lower(context, builder, sig, args) -> ir.Value:
        return builder.load(_row(context, builder, sig.args[0], *args), align=64)

    return Lanes(array.dtype)(array, types.intp), lower


@intrinsic
def store(_typing, array, row, value) -> tuple:
    """Write a vector, or a scalar into every lane, to row `row` of a flat array."""

    def lower(context, builder, sig, args) -> ir.Value:
        vector = _broadcast(context, builder, args[2], sig.args[2], Lanes(array.dtype))
        builder.store(vector, _row(context, builder, sig.args[0], *args[:2]), align=64)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), lower


@intrinsic
def store_turned(_typing, array, first, stride, rows, source) -> tuple:
    """Write as many rows as there are lanes, from `source` on, with lanes for rows.

    Those of lane k begin at number `first + stride * k` of `array`, at a multiple of 64 bytes.
    """

    def lower(context, builder, sig, args) -> ir.Value:
        array, first, stride, rows, source = args
        count = Lanes(sig.args[0].dtype).lanes
        places = [builder.add(source, ir.Constant(source.type, k)) for k in range(count)]
        v = [builder.load(_row(context, builder, sig.args[3], rows, place), align=64) for place in places]
        apart = count // 2  # blocks off the diagonal of ever smaller squares change places
        while apart:
            low = [k if not k & apart else count + k - apart for k in range(count)]
            high = [k + apart if not k & apart else count + k for k in range(count)]
            masks = [ir.Constant(ir.VectorType(ir.IntType(32), count), m) for m in (low, high)]
            for k in (k for k in range(count) if not k & apart):
                pair = v[k], v[k + apart]
                v[k], v[k + apart] = (builder.shuffle_vector(*pair, mask) for mask in masks)
            apart //= 2
        for k, row in enumerate(v):
            number = builder.add(first, builder.mul(stride, ir.Constant(stride.type, k)))
            data = builder.gep(_numbers(context, builder, sig.args[0], array), [number])
            builder.store(row, builder.bitcast(data, row.type.as_pointer()), align=64)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, rows, types.intp), lower


def _call(builder, name, vector) -> ir.Value:
    """Call one of LLVM's functions of a vector."""
    width = 32 if isinstance(vector.type.element, ir.FloatType) else 64
    name = f"llvm.{name}.v{vector.type.count}f{width}"
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(vector.type, [vector.type]), name
    )
    return builder.call(function, [vector], fastmath=_FLAGS)


@intrinsic
def sqrt(_typing, v) -> tuple:
    """Square root of every lane."""
    return v(v), lambda _context, builder, _sig, args: _call(builder, "sqrt", args[0])


@intrinsic
def rough_sqrt(_typing, v) -> tuple:
    """Square root of every lane to single precision, whose range it must be in: several times faster."""

    def lower(_context, builder, _sig, args) -> ir.Value:
        x = args[0]
        single = ir.VectorType(ir.FloatType(), x.type.count)
        if x.type == single:
            return _call(builder, "sqrt", x)
        return builder.fpext(_call(builder, "sqrt", builder.fptrunc(x, single)), x.type)

    return v(v), lower


@intrinsic
def ceil(_typing, v) -> tuple:
    """Least integer above every lane."""
    return v(v), lambda _context, builder, _sig, args: _call(builder, "ceil", args[0])


@intrinsic
def rsqrt(_typing, v) -> tuple:
    """1 / sqrt of every lane, which must be within the range of single precision."""

    def lower(_context, builder, sig, args) -> ir.Value:
        x, count = args[0], sig.args[0].lanes
        add, sub, mul, div = (
            partial(getattr(builder, name), flags=_FLAGS) for name in ("fadd", "fsub", "fmul", "fdiv")
        )

        def constant(value, kind=x.type) -> ir.Constant:
            return ir.Constant(kind, [value] * count)

        # In double precision one third-order step refines the estimate in single precision: several times
        # faster than a square root and a division.
        single = ir.VectorType(ir.FloatType(), count)
        root = _call(builder, "sqrt", x if x.type == single else builder.fptrunc(x, single))
        rough = div(constant(1.0, single), root)
        if x.type == single:
            return rough
        r = builder.fpext(rough, x.type)
        # With e = 1 - x r^2:  1 / sqrt(x) = r (1 - e)^(-1/2) = r (1 + e / 2 + 3 e^2 / 8 + ...)
        e = sub(constant(1.0), mul(mul(x, r), r))
        series = mul(add(constant(0.5), mul(constant(0.375), e)), e)
        return add(r, mul(r, series))

    return v(v), lower


def _bits(builder, vector) -> tuple[ir.Value, ir.Value, float, float]:
    """A vector as integers; the width of its mantissa as such a vector, 2 to that power, and the bias."""
    kind = vector.type
    width, mantissa = (32, 23) if isinstance(kind.element, ir.FloatType) else (64, 52)
    integers = ir.VectorType(ir.IntType(width), kind.count)
    shift = ir.Constant(integers, [mantissa] * kind.count)
    return builder.bitcast(vector, integers), shift, 2.0**mantissa, 2.0 ** (width - mantissa - 2) - 1.0


@intrinsic
def power_of_two(_typing, v) -> tuple:
    """2 to the power of every lane, a whole number within the range of the precision."""

    def lower(_context, builder, _sig, args) -> ir.Value:
        kind = args[0].type
        _, shift, unit, bias = _bits(builder, args[0])
        # A whole number added to `unit` stands in the last bits of its mantissa; they become the exponent.
        moved = builder.fadd(args[0], ir.Constant(kind, [unit + bias] * kind.count))
        return builder.bitcast(builder.shl(builder.bitcast(moved, shift.type), shift), kind)

    return v(v), lower


@intrinsic
def exponent(_typing, v) -> tuple:
    """The largest whole number whose power of two is not above every lane, which must be positive."""

    def lower(_context, builder, _sig, args) -> ir.Value:
        kind = args[0].type
        bits, shift, unit, bias = _bits(builder, args[0])
        start, _, _, _ = _bits(builder, ir.Constant(kind, [unit] * kind.count))
        whole = builder.bitcast(builder.or_(builder.lshr(bits, shift), start), kind)
        return builder.fsub(whole, ir.Constant(kind, [unit + bias] * kind.count))

    return v(v), lower


@intrinsic
def where_greater(_typing, a, b, yes, no) -> tuple:
    """`yes` in the lanes where a > b, else `no`; scalars stand for all lanes."""
    lanes = next(kind for kind in (a, b, yes, no) if isinstance(kind, Lanes))

    def lower(context, builder, sig, args) -> ir.Value:
        pairs = zip(args, sig.args, strict=True)
        vectors = [_broadcast(context, builder, value, kind, lanes) for value, kind in pairs]
        return builder.select(builder.fcmp_ordered(">", *vectors[:2]), *vectors[2:])

    return lanes(a, b, yes, no), lower


@intrinsic
def any_positive(_typing, v) -> tuple:
    """Whether any lane is above zero."""

    def lower(_context, builder, sig, args) -> ir.Value:
        positive = builder.fcmp_ordered(">", args[0], ir.Constant(args[0].type, [0.0] * sig.args[0].lanes))
        bits = builder.bitcast(positive, ir.IntType(sig.args[0].lanes))
        return builder.icmp_unsigned("!=", bits, ir.Constant(bits.type, 0))

    return types.boolean(v), lower


PANEL = 6  # rows that `accumulate` holds in registers: with AVX2 they fill 12 of 16


@intrinsic
def accumulate(_typing, array, source, count, weights, first, along, across, start, target, least) -> tuple:
    """Write to `PANEL` rows those from `start` on plus weights times `count` others, from `source` on.

    The weight of row i for the panel's row o is `weights[first + along * i + across * o]`; none ends below
    `least`.
    """

    def lower(context, builder, sig, args) -> ir.Value:
        rows, source, count, weights, first, along, across, start, target, least = args
        lanes = Lanes(sig.args[0].dtype)

        def row(number, more) -> ir.Value:
            return _row(context, builder, sig.args[0], rows, builder.add(number, more))

        places = [ir.Constant(start.type, o) for o in range(PANEL)]
        sums = [
            cgutils.alloca_once_value(builder, builder.load(row(start, place), align=64)) for place in places
        ]
        steps = [builder.mul(place, across) for place in places]
        factors = _numbers(context, builder, sig.args[3], weights)
        with cgutils.for_range(builder, count) as loop:
            value = builder.load(row(source, loop.index), align=64)
            panel = builder.add(first, builder.mul(loop.index, along))
            for step, total in zip(steps, sums, strict=True):
                factor = builder.load(builder.gep(factors, [builder.add(panel, step)]))
                product = builder.fmul(
                    _broadcast(context, builder, factor, sig.args[3].dtype, lanes), value, flags=_FLAGS
                )
                builder.store(builder.fadd(builder.load(total), product, flags=_FLAGS), total)
        floor = _broadcast(context, builder, least, sig.args[9], lanes)
        for place, total in zip(places, sums, strict=True):
            value = builder.load(total)
            low = builder.fcmp_ordered(">", floor, value)  # so that what is not a number stays so
            builder.store(builder.select(low, floor, value), row(target, place), align=64)
        return context.get_dummy_value()

    two = types.intp, types.intp
    return types.void(array, *two, weights, *two, types.intp, *two, least), lower
