"""The compiled Jacobian: explosions and their derivatives in the directions that need them.

Of the 3N directions six need no integration: translations change no momentum, a rotation
turns it, and a scaling by 1 + e changes it by -e / 2. Only two rotations are taken, the
third does nothing to a straight molecule. 3N - 6 directions orthogonal to these remain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from flowcei.physics._compilation import compiled, kernel
from flowcei.physics._kernel import aligned, gather, verdict
from flowcei.physics._lanes import lanes_of
from flowcei.physics._steps import integrate, row_count

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SYMMETRIES = 6  # translations, scaling, two rotations


@kernel
def differentiate(
    positions: NDArray[np.floating],
    ions: tuple[int, ...],
    ladder: tuple[int, ...],
    directions: tuple[int, ...],
    system: tuple[NDArray[np.floating], ...],
    method: tuple[object, ...],
    unit: float,
    jacobian: NDArray[np.float64],
    status: NDArray[np.uint8],
) -> None:
    """Write dp/dx of positions (B, 3N), bohr, to `jacobian` (B, 3N, 3N).

    Args:
        positions: (B, 3N), bohr.
        ions: A tuple of N zeros.
        ladder: A tuple of as many zeros as the method has stages.
        directions: A tuple of 3N - 6 zeros.
        system: See `_kernel.explode`.
        method: See `_kernel.explode`.
        unit: See `_kernel.explode`.
        jacobian: Where the result goes; of no meaning for an event that cannot be followed.
        status: (B,), as of `_kernel.explode`.
    """
    n, count = len(ions), len(directions)
    total, base, gap = row_count(n, len(ladder), len(method[5]), count)
    rows = aligned(total, method[0])
    lanes = lanes_of(rows)
    bases, turns = np.empty((lanes, 3 * n, 3 * n)), np.empty((lanes, 2, 3))
    norms = np.empty(lanes)
    at_rest = positions[:0]
    for first in range(0, len(positions), lanes):
        filled = min(lanes, len(positions) - first)
        for lane in range(lanes):  # a last block is filled up with copies
            gather(positions, at_rest, first + min(lane, filled - 1), n, rows, lane)
            norms[lane] = _basis(rows, lane, n, bases[lane], turns[lane])
            for c in range(count):
                for d in range(3 * n):
                    rows[(base + c * gap + d) * lanes + lane] = bases[lane, d, _SYMMETRIES + c]
        integrate(rows, ions, ladder, directions, system, method, unit, False)
        for lane in range(filled):
            event = first + lane
            status[event] = verdict(rows, lane, n, positions, at_rest, event)
            size = rows[3 * n * lanes + lane]
            _assemble(
                rows, lane, n, base, gap, count, bases[lane], turns[lane],
                norms[lane] * size, unit * np.sqrt(size) * size, jacobian[event],
            )  # fmt: skip


@compiled
def _assemble(rows, lane, n, base, gap, count, basis, turns, norm, unit, jacobian):
    """Write dp/dx of one lane to `jacobian` (3N, 3N), in units of `unit`."""
    n3, lanes = 3 * n, lanes_of(rows)
    for i in range(n):
        for axis in range(3):
            d = 3 * i + axis
            u, v = (axis + 1) % 3, (axis + 2) % 3
            pu, pv = rows[(3 * i + u) * lanes + lane], rows[(3 * i + v) * lanes + lane]
            scaled = -0.5 * rows[d * lanes + lane] / norm
            one = (turns[0, u] * pv - turns[0, v] * pu) / norm
            two = (turns[1, u] * pv - turns[1, v] * pu) / norm
            for e in range(n3):
                total = scaled * basis[e, 3] + one * basis[e, 4] + two * basis[e, 5]
                for c in range(count):
                    total += rows[(base + c * gap + d) * lanes + lane] * basis[e, _SYMMETRIES + c]
                jacobian[d, e] = total * unit


@compiled
def _basis(rows, lane, n, basis, turns):
    """Write an orthonormal basis of the 3N displacements of one lane to the columns of `basis`.

    Columns 0 ... 2 are translations, 3 the scaling about the centroid, 4 and 5 rotations about
    the axes of the rows of `turns`, the others a complement. Returns the norm of x from the
    centroid: the columns are that many times the rotations and the scaling.
    """
    n3, lanes = 3 * n, lanes_of(rows)
    basis[:, :] = 0.0
    norm = 0.0
    for axis in range(3):
        middle = 0.0
        for i in range(n):
            middle += rows[(3 * i + axis) * lanes + lane] / n
            basis[3 * i + axis, axis] = 1.0 / np.sqrt(n)
        for i in range(n):
            basis[3 * i + axis, 3] = rows[(3 * i + axis) * lanes + lane] - middle
            norm += basis[3 * i + axis, 3] ** 2
    norm = np.sqrt(norm)
    for d in range(n3):
        basis[d, 3] /= norm
    _rotations(n, basis, turns)
    # Unit vectors, each time the one that is worst described so far, made orthogonal twice.
    for column in range(_SYMMETRIES, n3):
        best, most = 0, -1.0
        for d in range(n3):
            rest = 1.0
            for k in range(column):
                rest -= basis[d, k] ** 2
            if rest > most:
                best, most = d, rest
        basis[best, column] = 1.0
        for _ in range(2):
            for k in range(column):
                dot = 0.0
                for d in range(n3):
                    dot += basis[d, k] * basis[d, column]
                for d in range(n3):
                    basis[d, column] -= dot * basis[d, k]
        length = 0.0
        for d in range(n3):
            length += basis[d, column] ** 2
        for d in range(n3):
            basis[d, column] /= np.sqrt(length)
    return norm


@compiled
def _rotations(n, basis, turns):
    """Fill columns 4 and 5 of `basis` with the two rotations that move most, axes to `turns`."""
    turns[:, :] = 0.0
    first, most = 0, -1.0
    for axis in range(3):  # about e_axis every ion moves by its distance from that axis
        moved = 0.0
        for i in range(n):
            for other in range(3):
                if other != axis:
                    moved += basis[3 * i + other, 3] ** 2
        if moved > most:
            first, most = axis, moved
    turns[0, first] = 1.0
    _turn(n, basis, turns, 0)
    best = -1.0
    for axis in range(3):
        if axis == first:
            continue
        moved, dot = 0.0, 0.0
        u, v = (axis + 1) % 3, (axis + 2) % 3
        for i in range(n):
            xu, xv = basis[3 * i + u, 3], basis[3 * i + v, 3]
            moved += xu * xu + xv * xv
            dot += -xv * basis[3 * i + u, 4] + xu * basis[3 * i + v, 4]
        if moved - dot * dot > best:
            best = moved - dot * dot
            for k in range(3):
                turns[1, k] = -dot * turns[0, k]
            turns[1, axis] += 1.0
    _turn(n, basis, turns, 1)


@compiled
def _turn(n, basis, turns, which):
    """Write the rotation about `turns[which]` to its column, and scale both to unit length."""
    column = 4 + which
    length = 0.0
    for i in range(n):
        for axis in range(3):
            u, v = (axis + 1) % 3, (axis + 2) % 3
            x = turns[which, u] * basis[3 * i + v, 3] - turns[which, v] * basis[3 * i + u, 3]
            basis[3 * i + axis, column] = x
            length += x * x
    for d in range(3 * n):
        basis[d, column] /= np.sqrt(length)
    for k in range(3):
        turns[which, k] /= np.sqrt(length)
