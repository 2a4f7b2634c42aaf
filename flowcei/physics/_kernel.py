"""The compiled simulator: explosions, and their derivatives, gathered into lanes and scattered again.

Of the 3N directions of a derivative six need no integration: translations change no momentum, a
rotation turns it, and a scaling by 1 + e changes it by -e / 2. Only two rotations are taken, the
third does nothing to a straight molecule. 3N - 6 directions orthogonal to these remain.
"""

from __future__ import annotations

import numpy as np

from flowcei.physics._compilation import compiled, kernel
from flowcei.physics._lanes import lanes_of
from flowcei.physics._steps import integrate, layout

NOT_FINITE, COINCIDENT, LOST = 1, 2, 3
"""Status of an event that could not be followed; 0 where it could."""

_CLOSEST = 3e-6  # distance of two ions, in rms radii, below which they coincide
_FARTHEST = 1e9  # distance from the origin, in rms radii, beyond which positions are rounding
_SYMMETRIES = 6  # translations, scaling, two rotations


@kernel
def explode(positions, initial, ions, ladder, system, method, masses, unit, momenta, status) -> None:
    """Write the asymptotic momenta of positions (B, 3N), bohr, to `momenta` (B, 3N).

    initial: momenta at the start (B, 3N), hbar / bohr, or (0, 3N) for ions at rest. ions, ladder: a
    tuple of N zeros, and of as many as the method has stages. system: masses over their sum (N,), their
    reciprocals, and for every pair the product of the charges over the square of the largest and that
    over the reduced mass. method: a, c, bp, eta, z1, nodes and weights (see `nystrom`); their type is
    the precision. masses: over their sum, in double precision. unit: sqrt(sum of masses) times the
    largest charge. status (B,): 0, or why the momenta mean nothing.
    """
    n = len(ions)
    rows = _aligned(layout(n, len(ladder), len(method[5]), 0).total, method[0])
    lanes = lanes_of(rows)
    for first in range(0, len(positions), lanes):
        filled = min(lanes, len(positions) - first)
        for lane in range(lanes):  # a last block is filled up with copies
            _gather(positions, initial, first + min(lane, filled - 1), n, rows, lane)
        integrate(rows, ions, ladder, (), system, method, unit, len(initial) > 0)
        for lane in range(filled):
            event = first + lane
            status[event] = _status(rows, lane, n, positions, initial, event)
            scale = unit * np.sqrt(rows[3 * n * lanes + lane])
            for d in range(3 * n):
                momenta[event, d] = rows[d * lanes + lane] * scale
    for event in range(len(initial)):  # the motion of the centre of mass
        for axis in range(3):
            total = 0.0
            for i in range(n):
                total += initial[event, 3 * i + axis]
            for i in range(n):
                momenta[event, 3 * i + axis] += masses[i] * total


@kernel
def differentiate(positions, ions, ladder, directions, system, method, unit, jacobian, status) -> None:
    """Write dp/dx of positions (B, 3N), bohr, to `jacobian` (B, 3N, 3N).

    directions: a tuple of 3N - 6 zeros; the others as of `explode`.
    """
    n = len(ions)
    o = layout(n, len(ladder), len(method[5]), len(directions))
    rows = _aligned(o.total, method[0])
    lanes = lanes_of(rows)
    bases, turns = np.empty((lanes, 3 * n, 3 * n)), np.empty((lanes, 2, 3))
    norms = np.empty(lanes)
    at_rest = positions[:0]
    for first in range(0, len(positions), lanes):
        filled = min(lanes, len(positions) - first)
        for lane in range(lanes):
            _gather(positions, at_rest, first + min(lane, filled - 1), n, rows, lane)
            norms[lane] = _basis(rows, lane, n, bases[lane], turns[lane])
            for c in range(o.count):
                for d in range(3 * n):
                    rows[((c + 1) * o.gap + d) * lanes + lane] = bases[lane, d, _SYMMETRIES + c]
        integrate(rows, ions, ladder, directions, system, method, unit, False)
        for lane in range(filled):
            event = first + lane
            status[event] = _status(rows, lane, n, positions, at_rest, event)
            size = rows[3 * n * lanes + lane]
            scale = unit * np.sqrt(size) * size
            _assemble(rows, lane, o, bases[lane], turns[lane], norms[lane] * size, scale, jacobian[event])


@compiled
def _aligned(count, like) -> np.ndarray:
    """`count` rows for `_lanes`, of the precision of `like`."""
    step = 64 // like.itemsize
    raw = np.zeros((count + 1) * step, like.dtype)
    skip = (-raw.ctypes.data % 64) // like.itemsize
    return raw[skip : skip + count * step]


@compiled
def _gather(positions, initial, event, n, rows, lane) -> None:
    """Write the positions of one event, from its first ion, and its momenta to a lane.

    The origin is arbitrary: subtracting in double precision keeps single precision exact
    for molecules far from it.
    """
    lanes = lanes_of(rows)
    for axis in range(3):
        origin = positions[event, axis]
        for i in range(n):
            rows[(3 * i + axis) * lanes + lane] = positions[event, 3 * i + axis] - origin
    if len(initial):
        for d in range(3 * n):
            rows[(3 * n + d) * lanes + lane] = initial[event, d]


@compiled
def _status(rows, lane, n, positions, initial, event) -> int:
    """Status of the event in a lane after the integration."""
    lanes, total = lanes_of(rows), 0.0
    for d in range(3 * n):
        total += abs(rows[d * lanes + lane])
    size, closest = rows[3 * n * lanes + lane], rows[(3 * n + 1) * lanes + lane]
    left = rows[(3 * n + 2) * lanes + lane]
    offset = abs(positions[event, 0]) + abs(positions[event, 1]) + abs(positions[event, 2])
    status = 0
    if closest <= _CLOSEST * _CLOSEST or offset * size > _FARTHEST:
        status = COINCIDENT
    elif left > 0.0 or not np.isfinite(total):
        status = LOST
    if status and not (_is_finite(positions, event) and (len(initial) == 0 or _is_finite(initial, event))):
        status = NOT_FINITE
    return status


@compiled
def _is_finite(values, event) -> bool:
    for d in range(values.shape[1]):
        if not np.isfinite(values[event, d]):
            return False
    return True


@compiled
def _assemble(rows, lane, o, basis, turns, norm, unit, jacobian) -> None:
    """Write dp/dx of one lane to `jacobian` (3N, 3N), in units of `unit`."""
    lanes = lanes_of(rows)
    for i in range(o.n):
        for axis in range(3):
            d = 3 * i + axis
            u, v = (axis + 1) % 3, (axis + 2) % 3
            pu, pv = rows[(3 * i + u) * lanes + lane], rows[(3 * i + v) * lanes + lane]
            scaled = -0.5 * rows[d * lanes + lane] / norm
            one = (turns[0, u] * pv - turns[0, v] * pu) / norm
            two = (turns[1, u] * pv - turns[1, v] * pu) / norm
            for e in range(o.n3):
                total = scaled * basis[e, 3] + one * basis[e, 4] + two * basis[e, 5]
                for c in range(o.count):
                    total += rows[((c + 1) * o.gap + d) * lanes + lane] * basis[e, _SYMMETRIES + c]
                jacobian[d, e] = total * unit


@compiled
def _basis(rows, lane, n, basis, turns) -> float:
    """Write an orthonormal basis of the 3N displacements of one lane to the columns of `basis`.

    Columns 0 ... 2 are translations, 3 the scaling about the centroid, 4 and 5 rotations about
    the axes of the rows of `turns`, the others a complement. Returns the norm of x from the
    centroid: the columns are that many times the rotations and the scaling.
    """
    n3, lanes = 3 * n, lanes_of(rows)
    basis[:, :] = 0.0
    for axis in range(3):
        middle = 0.0
        for i in range(n):
            middle += rows[(3 * i + axis) * lanes + lane] / n
            basis[3 * i + axis, axis] = 1.0 / np.sqrt(n)
        for i in range(n):
            basis[3 * i + axis, 3] = rows[(3 * i + axis) * lanes + lane] - middle
    norm = _normalise(basis, 3)
    _rotations(n, basis, turns)
    # Unit vectors, each time the one that is worst described so far, made orthogonal twice.
    for column in range(_SYMMETRIES, n3):
        best, most = 0, -1.0
        for d in range(n3):
            undescribed = 1.0
            for k in range(column):
                undescribed -= basis[d, k] ** 2
            if undescribed > most:
                best, most = d, undescribed
        basis[best, column] = 1.0
        for _ in range(2):
            for k in range(column):
                dot = _dot(basis, k, column)
                for d in range(n3):
                    basis[d, column] -= dot * basis[d, k]
        _normalise(basis, column)
    return norm


@compiled
def _dot(basis, j, k) -> float:
    """Scalar product of two columns."""
    total = 0.0
    for d in range(len(basis)):
        total += basis[d, j] * basis[d, k]
    return total


@compiled
def _normalise(basis, column) -> float:
    """Scale a column to unit length; return the length that it had."""
    length = np.sqrt(_dot(basis, column, column))
    for d in range(len(basis)):
        basis[d, column] /= length
    return length


@compiled
def _rotations(n, basis, turns) -> None:
    """Fill columns 4 and 5 of `basis` with the two rotations that move most, axes to `turns`."""
    turns[:, :] = 0.0
    first, most = 0, -1.0
    for axis in range(3):  # about e_axis every ion moves by its distance from that axis
        moved = 0.0
        for d in range(3 * n):
            if d % 3 != axis:
                moved += basis[d, 3] ** 2
        if moved > most:
            first, most = axis, moved
    turns[0, first] = 1.0
    _turn(n, basis, turns[0], 4)
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
    _turn(n, basis, turns[1], 5)


@compiled
def _turn(n, basis, axes, column) -> None:
    """Write the rotation about `axes` (3,) to a column, and scale both to unit length."""
    for i in range(n):
        for axis in range(3):
            u, v = (axis + 1) % 3, (axis + 2) % 3
            basis[3 * i + axis, column] = axes[u] * basis[3 * i + v, 3] - axes[v] * basis[3 * i + u, 3]
    length = _normalise(basis, column)
    for k in range(3):
        axes[k] /= length
