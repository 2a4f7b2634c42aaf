"""Vectors of lanes for numba: one number of many explosions in one register.

numba leaves vector instructions to LLVM's loop vectoriser, which has to prove that arrays
do not overlap, gives up where it cannot, and may treat the last lanes of a loop unlike the
first. Here a row of an array is loaded as one value of LLVM's vector type. Every lane then
goes through the very same instructions, so that a result never depends on its neighbours,
and arithmetic on rows reads like arithmetic on numbers:

    r = rsqrt(dx * dx + dy * dy + dz * dz)

LLVM cuts a vector into whatever registers the machine has.
"""

from __future__ import annotations

import operator

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

LANES = {types.float32: 16, types.float64: 8}
"""Lanes of a row: one register of 64 bytes, the widest that CPUs have."""

# Fused multiply-add and approximate reciprocals (refined to rounding by LLVM), but no
# reordering of sums.
_FLAGS = ("contract", "arcp", "afn", "nsz")


class _Lanes(types.Type):
    """Type of a vector: `LANES` numbers of one precision."""

    def __init__(self, dtype: types.Float) -> None:
        self.dtype = dtype
        self.lanes = LANES[dtype]
        super().__init__(name=f"Lanes({dtype} x {self.lanes})")

    @property
    def llvm(self) -> ir.VectorType:
        scalar = ir.FloatType() if self.dtype == types.float32 else ir.DoubleType()
        return ir.VectorType(scalar, self.lanes)

    def constant(self, value: float) -> ir.Constant:
        return ir.Constant(self.llvm, [value] * self.lanes)


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, fe_type.llvm)


def _broadcast(context, builder, value, kind, lanes):
    """Return a vector whose lanes all hold a scalar; a vector as it is."""
    if isinstance(kind, _Lanes):
        return value
    scalar = context.cast(builder, value, kind, lanes.dtype)
    empty = ir.Constant(lanes.llvm, ir.Undefined)
    zero = ir.Constant(ir.IntType(32), 0)
    first = builder.insert_element(empty, scalar, zero)
    everywhere = ir.Constant(ir.VectorType(ir.IntType(32), lanes.lanes), [0] * lanes.lanes)
    return builder.shuffle_vector(first, empty, everywhere)


def _arithmetic(function, instruction):
    """Teach numba an operator between vectors, or between a vector and a scalar."""

    @infer_global(function)
    class _Operator(AbstractTemplate):
        def generic(self, args, _kws):
            lanes = [a for a in args if isinstance(a, _Lanes)]
            if lanes and all(isinstance(a, _Lanes | types.Number) for a in args):
                return signature(lanes[0], *args)
            return None

    def lower(context, builder, sig, args):
        a, b = (
            _broadcast(context, builder, v, kind, sig.return_type)
            for v, kind in zip(args, sig.args, strict=True)
        )
        return getattr(builder, instruction)(a, b, flags=_FLAGS)

    for kinds in ((_Lanes, _Lanes), (_Lanes, types.Number), (types.Number, _Lanes)):
        lower_builtin(function, *kinds)(lower)


for _in_place, _function, _instruction in (
    (operator.iadd, operator.add, "fadd"),
    (operator.isub, operator.sub, "fsub"),
    (operator.imul, operator.mul, "fmul"),
    (operator.itruediv, operator.truediv, "fdiv"),
):
    _arithmetic(_function, _instruction)
    _arithmetic(_in_place, _instruction)


def _row(context, builder, array_type, array, row):
    """Return a pointer to a row of a flat array."""
    lanes = _Lanes(array_type.dtype)
    first = builder.mul(row, ir.Constant(row.type, lanes.lanes))
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [first]), lanes.llvm.as_pointer())


@intrinsic
def lanes_of(_typing, array):
    """Return the number of lanes of a row of `array`, a constant for the compiler."""

    def lower(context, _builder, sig, _args):
        return context.get_constant(types.intp, LANES[sig.args[0].dtype])

    return types.intp(array), lower


@intrinsic
def load(_typing, array, row):
    """Return row `row` of a flat array that begins at a multiple of 64 bytes."""

    def lower(context, builder, sig, args):
        return builder.load(_row(context, builder, sig.args[0], *args), align=64)

    return _Lanes(array.dtype)(array, types.intp), lower


@intrinsic
def store(_typing, array, row, value):
    """Write a vector, or a scalar into every lane, to row `row` of a flat array."""
    lanes = _Lanes(array.dtype)

    def lower(context, builder, sig, args):
        vector = _broadcast(context, builder, args[2], sig.args[2], lanes)
        builder.store(vector, _row(context, builder, sig.args[0], *args[:2]), align=64)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), lower


def _call(builder, name, lanes, value):
    width = 32 if lanes.dtype == types.float32 else 64
    kind = ir.FunctionType(value.type, [value.type])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{lanes.lanes}f{width}")
    return builder.call(function, [value], fastmath=_FLAGS)


def _unary(name):
    def define(_typing, v):
        def lower(_context, builder, sig, args):
            return _call(builder, name, sig.args[0], args[0])

        return v(v), lower

    define.__name__ = name
    define.__doc__ = f"Return the {name} of every lane."
    return intrinsic(define)


sqrt = _unary("sqrt")
ceil = _unary("ceil")


@intrinsic
def rsqrt(_typing, v):
    """Return 1 / sqrt of every lane.

    In double precision the estimate in single precision is refined by one third-order
    step, which is several times faster than a square root and a division. The argument
    then must be within the range of single precision.
    """

    def lower(_context, builder, sig, args):
        lanes, x = sig.args[0], args[0]
        one = lanes.constant(1.0)
        if lanes.dtype == types.float32:
            return builder.fdiv(one, _call(builder, "sqrt", lanes, x), flags=_FLAGS)
        single = ir.VectorType(ir.FloatType(), lanes.lanes)
        kind = ir.FunctionType(single, [single])
        root = cgutils.get_or_insert_function(builder.module, kind, f"llvm.sqrt.v{lanes.lanes}f32")
        rough = builder.call(root, [builder.fptrunc(x, single)], fastmath=_FLAGS)
        rough = builder.fdiv(ir.Constant(single, [1.0] * lanes.lanes), rough, flags=_FLAGS)
        r = builder.fpext(rough, x.type)
        # With e = 1 - x r^2:  1 / sqrt(x) = r (1 - e)^(-1/2) = r (1 + e / 2 + 3 e^2 / 8 + ...)
        e = builder.fsub(one, builder.fmul(builder.fmul(x, r, flags=_FLAGS), r, flags=_FLAGS), flags=_FLAGS)
        series = builder.fmul(lanes.constant(0.375), e, flags=_FLAGS)
        series = builder.fadd(lanes.constant(0.5), series, flags=_FLAGS)
        series = builder.fmul(series, e, flags=_FLAGS)
        return builder.fadd(r, builder.fmul(r, series, flags=_FLAGS), flags=_FLAGS)

    return v(v), lower


@intrinsic
def where_greater(_typing, a, b, yes, no):
    """Return `yes` in the lanes where a > b, else `no`; scalars stand for all lanes."""
    lanes = next(kind for kind in (a, b, yes, no) if isinstance(kind, _Lanes))

    def lower(context, builder, sig, args):
        vectors = [
            _broadcast(context, builder, v, kind, lanes) for v, kind in zip(args, sig.args, strict=True)
        ]
        return builder.select(builder.fcmp_ordered(">", *vectors[:2]), *vectors[2:])

    return lanes(a, b, yes, no), lower


@intrinsic
def any_positive(_typing, v):
    """Whether any lane is above zero."""

    def lower(_context, builder, sig, args):
        lanes = sig.args[0]
        bits = builder.bitcast(
            builder.fcmp_ordered(">", args[0], lanes.constant(0.0)), ir.IntType(lanes.lanes)
        )
        return builder.icmp_unsigned("!=", bits, ir.Constant(bits.type, 0))

    return types.boolean(v), lower
