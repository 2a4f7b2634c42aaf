"""Random numbers in lanes: functions of a key and a counter, so that each is drawn without those before.

Threefry of two words of 64 bits and 20 rounds (J. K. Salmon, M. A. Moraes, R. O. Dror and D. E. Shaw,
"Parallel random numbers: as easy as 1, 2, 3", SC'11).
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from flowcei.physics._elementary import circle, logarithm, root
from flowcei.physics._lanes import Lanes, aligned, keep, lanes_of, scratch, store
from flowcei.storage._compilation import compiled, kernel

_ROTATIONS = (16, 42, 12, 31, 16, 32, 24, 21)
_ROUNDS = 20
_PARITY = 0x1BD11BDAA9FC1A22
PAIR = 16  # numbers in the two rows of lanes that one call gives
_DOUBLE = Lanes(types.float64)


@intrinsic
def random_words(_typing, one, two, first, slot) -> tuple:
    """Two vectors of random bits: those of key (one, two) and, in lane k, of counter (first + k, slot)."""
    words = ir.VectorType(ir.IntType(64), _DOUBLE.lanes)

    def lower(context, builder, sig, args) -> ir.Value:
        def everywhere(value) -> ir.Value:
            empty = ir.Constant(words, ir.Undefined)
            vector = builder.insert_element(empty, value, ir.Constant(ir.IntType(32), 0))
            zeros = ir.Constant(ir.VectorType(ir.IntType(32), _DOUBLE.lanes), [0] * _DOUBLE.lanes)
            return builder.shuffle_vector(vector, empty, zeros)

        def constant(value) -> ir.Constant:
            return ir.Constant(words, [value] * _DOUBLE.lanes)

        one, two, first, slot = (everywhere(value) for value in args)
        keys = one, two, builder.xor(builder.xor(one, two), constant(_PARITY))
        x = builder.add(builder.add(first, ir.Constant(words, list(range(_DOUBLE.lanes)))), one)
        y = builder.add(slot, two)
        for k in range(_ROUNDS):
            turn = _ROTATIONS[k % len(_ROTATIONS)]
            x = builder.add(x, y)
            turned = builder.or_(builder.shl(y, constant(turn)), builder.lshr(y, constant(64 - turn)))
            y = builder.xor(turned, x)
            if k % 4 == 3:
                group = k // 4 + 1
                x = builder.add(x, keys[group % 3])
                y = builder.add(y, builder.add(keys[(group + 1) % 3], constant(group)))
        both = [builder.bitcast(value, _DOUBLE.llvm) for value in (x, y)]
        return context.make_tuple(builder, sig.return_type, both)

    return types.UniTuple(_DOUBLE, 2)(types.uint64, types.uint64, types.uint64, types.uint64), lower


@intrinsic
def uniform(_typing, words) -> tuple:
    """Numbers between 0 and 1, neither of them, of random bits: odd multiples of 2^-53."""

    def lower(_context, builder, _sig, args) -> ir.Value:
        kind = ir.VectorType(ir.IntType(64), _DOUBLE.lanes)
        shift, one = (ir.Constant(kind, [value] * _DOUBLE.lanes) for value in (12, 0x3FF << 52))
        bits = builder.or_(builder.lshr(builder.bitcast(args[0], kind), shift), one)
        start = ir.Constant(_DOUBLE.llvm, [1.0 - 2.0**-53] * _DOUBLE.lanes)
        return builder.fsub(builder.bitcast(bits, _DOUBLE.llvm), start)

    return words(words), lower


@compiled
def normals(key, block, count, rows) -> None:
    """Write `count` blocks of 16 normal numbers of a key (2,), from one of its blocks on, to rows.

    By pairs, of a radius and an angle (G. E. P. Box and M. E. Muller, Ann. Math. Stat. 29, 610 (1958)).
    """
    for k in range(count):
        words = random_words(key[0], key[1], (block + k) * lanes_of(rows), 0)
        radius = root(-2.0 * logarithm(uniform(words[0])))
        cosine, sine = circle(uniform(words[1]) - 0.5)
        store(rows, 2 * k, radius * cosine)
        store(rows, 2 * k + 1, radius * sine)


@kernel
def draw_normal(key, out) -> None:
    """Write independent normal numbers of a key (2,) to `out` (n,)."""
    room = scratch(2, out)
    rows = aligned(room)
    for first in range(0, len(out), PAIR):
        normals(key, first // PAIR, 1, rows)
        for k in range(min(PAIR, len(out) - first)):
            out[first + k] = rows[k]
    keep(room)
