"""The compiled simulator: explosions, and their derivatives, gathered into lanes and scattered again.

Of the 3N directions of a derivative six need no integration: translations change no momentum, a
rotation turns it, and a scaling by 1 + e changes it by -e / 2. Only two rotations are taken, the
third does nothing to a straight molecule. 3N - 6 directions orthogonal to these remain.
"""

from __future__ import annotations

import math

import numpy as np

from flowcei.physics._lanes import aligned, keep, lanes_of, scratch
from flowcei.physics._layout import layout
from flowcei.physics._steps import integrate
from flowcei.physics._vectors import across, cross, dot, scaled, unit_vector
from flowcei.storage._compilation import compiled, kernel

NOT_FINITE, COINCIDENT, LOST = 1, 2, 3  # keys of `forward.LOST_FOR`; 0 where an event could be followed

_CLOSEST = 3e-6  # distance of two ions, in rms radii, below which they coincide
_FARTHEST = 1e9  # distance from the origin, in rms radii, beyond which positions are rounding
_SYMMETRIES = 6  # translations, scaling, two rotations
_SCALING = 3


@kernel
def explode(
    starts,
    initial,
    times,
    ions,
    ladder,
    directions,
    system,
    method,
    unit,
    growth,
    ends,
    jacobian,
    status,
) -> None:
    """Write momenta at infinity and, unless `jacobian` is None, dp/dx of positions `starts` (3NB,), bohr.

    initial: momenta at the start (B, N, 3), hbar / bohr, that sum to zero, or (0, N, 3) for ions at rest.
    ions, ladder, directions: tuples of N zeros, of as many as the method has stages, and of 3N - 6, or
    none without derivatives. system: for each coordinate the mass over the sum of masses and its reciprocal
    (3N,), for every pair the product of the charges over the square of the largest and that over the
    reduced mass. method: a, c, bp, eta, z1, nodes and weights (see `nystrom`); their type is the precision.
    unit: sqrt(sum of masses) times the largest charge. momenta `ends` (3NB,), jacobian (B, 3N, 3N). status
    (B,): 0, or why the others mean nothing.
    """
    n = len(ions)
    o = layout(n, len(ladder), len(method[5]), len(directions), growth)
    room = scratch(o.total, method[0])
    rows = aligned(room)
    lanes = lanes_of(rows)
    if jacobian is not None:  # numba compiles this, and what follows of it, only where there is one
        bases, axes, norms = np.empty((lanes, o.n3, o.n3)), np.empty((lanes, 2, 3)), np.empty(lanes)
    for first in range(0, len(status), lanes):
        filled = min(lanes, len(status) - first)
        for lane in range(lanes):  # a last block is filled up with copies
            _gather(starts, initial, first + min(lane, filled - 1), n, rows, lane)
            if jacobian is not None:
                norms[lane] = _basis(rows, lane, n, bases[lane], axes[lane])
                for c in range(o.count):
                    for d in range(o.n3):
                        rows[((c + 1) * o.gap + d) * lanes + lane] = bases[lane, d, _column(c, growth)]
            if growth is not None:
                for k in range(o.fading):
                    rows[(o.times + k) * lanes + lane] = times[first + min(lane, filled - 1), k]
        integrate(rows, ions, ladder, directions, system, method, unit, growth, len(initial) > 0)
        for lane in range(filled):
            event = first + lane
            size = rows[o.n3 * lanes + lane]
            scale = unit * math.sqrt(size)
            for d in range(o.n3):
                ends[event * o.n3 + d] = rows[d * lanes + lane] * scale
            status[event] = _status(rows, lane, o.n3, starts, initial, event)
            if jacobian is not None:
                norm = norms[lane] * size
                derivatives = jacobian[event]
                _assemble(rows, lane, o, n, bases[lane], axes[lane], norm, scale * size, growth, derivatives)
    keep(room)


@compiled
def _column(c, growth) -> int:
    """Column of a basis that direction c is: with charges that grow the scaling is the first."""
    if growth is None:
        return _SYMMETRIES + c
    return _SYMMETRIES - 1 + c if c else _SCALING


@compiled
def _gather(starts, initial, event, n, rows, lane) -> None:
    """Write the positions of one event, from its first ion, and its momenta to a lane."""
    lanes, first = lanes_of(rows), 3 * n * event
    for axis in range(3):
        # In double precision: this keeps single precision exact for molecules far from the origin.
        origin = starts[first + axis]
        for d in range(axis, 3 * n, 3):
            rows[d * lanes + lane] = starts[first + d] - origin
    if len(initial):
        for i in range(n):
            for axis in range(3):
                rows[(3 * (n + i) + axis) * lanes + lane] = initial[event, i, axis]


@compiled
def _status(rows, lane, n3, starts, initial, event) -> int:
    """Status of the event in a lane after the integration."""
    lanes, offset, first = lanes_of(rows), 0.0, n3 * event
    for axis in range(3):
        offset += abs(starts[first + axis])
    size, closest = rows[n3 * lanes + lane], rows[(n3 + 1) * lanes + lane]
    status = 0
    if closest <= _CLOSEST * _CLOSEST or offset * size > _FARTHEST:
        status = COINCIDENT
    elif rows[(n3 + 2) * lanes + lane] > 0.0:
        status = LOST
    if status:
        for d in range(n3):  # numpy's own way compiles for a second
            if not math.isfinite(starts[first + d]):
                status = NOT_FINITE
            if len(initial) and not math.isfinite(initial[event, d // 3, d % 3]):
                status = NOT_FINITE
    return status


@compiled
def _assemble(rows, lane, o, n, basis, axes, norm, unit, growth, jacobian) -> None:
    """Write dp/dx of one lane to `jacobian` (3N, 3N), in units of `unit`."""
    lanes = lanes_of(rows)
    for i in range(n):
        p = (rows[3 * i * lanes + lane], rows[(3 * i + 1) * lanes + lane], rows[(3 * i + 2) * lanes + lane])
        one, two = scaled(1.0 / norm, cross(axes[0], p)), scaled(1.0 / norm, cross(axes[1], p))
        for axis in range(3):
            d, half = 3 * i + axis, -0.5 * p[axis] / norm
            if growth is not None:
                half = 0.0
            for e in range(o.n3):
                total = half * basis[e, _SCALING] + one[axis] * basis[e, 4] + two[axis] * basis[e, 5]
                for c in range(o.count):
                    total += rows[((c + 1) * o.gap + d) * lanes + lane] * basis[e, _column(c, growth)]
                jacobian[d, e] = total * unit


@compiled
def _basis(rows, lane, n, basis, axes) -> float:
    """Write an orthonormal basis of the displacements of one lane to the columns of `basis` (3N, 3N).

    Columns 0 ... 2 are translations, 3 the scaling about the centroid, 4 and 5 rotations about `axes`
    (2, 3), the others a complement. Returns the norm of x from the centroid: the columns are that many
    times the rotations and the scaling.
    """
    lanes = lanes_of(rows)
    basis[:], axes[:] = 0.0, 0.0
    for i in range(n):
        for axis in range(3):
            basis[3 * i + axis, axis] = 1.0 / math.sqrt(n)
            basis[3 * i + axis, 3] = rows[(3 * i + axis) * lanes + lane]
    norm = _orthonormalise(basis, 3)
    far, square = 0, -1.0
    for i in range(n):
        x = _vector(basis, i)
        if dot(x, x) > square:
            far, square = i, dot(x, x)
    # Both axes at right angles to the ion farthest out: whatever the shape, each turns it by a right angle.
    outward = unit_vector(_vector(basis, far))
    first = across(outward)
    second = cross(first, outward)
    for k in range(2):
        axis = second if k else first
        for i in range(n):
            turned = cross(axis, _vector(basis, i))
            for a in range(3):
                basis[3 * i + a, 4 + k] = turned[a]
        common = _dot(basis, 4, 5)  # 0 for the first: column 5 is empty still
        length = _orthonormalise(basis, 4 + k)
        for a in range(3):
            axes[k, a] = (axis[a] - common * axes[0, a]) / length
    # Unit vectors, each time the one that is worst described so far: rounding stays small.
    for column in range(_SYMMETRIES, 3 * n):
        worst, most = 0, -1.0
        for d in range(3 * n):
            undescribed = 1.0
            for k in range(column):
                undescribed -= basis[d, k] * basis[d, k]
            if undescribed > most:
                worst, most = d, undescribed
        basis[worst, column] = 1.0
        _orthonormalise(basis, column)
    return norm


@compiled
def _vector(basis, i) -> tuple[float, float, float]:
    """Where ion i is from the centroid, over the norm."""
    return basis[3 * i, _SCALING], basis[3 * i + 1, _SCALING], basis[3 * i + 2, _SCALING]


@compiled
def _dot(basis, j, k) -> float:
    """Scalar product of two columns."""
    total = 0.0
    for d in range(len(basis)):
        total += basis[d, j] * basis[d, k]
    return total


@compiled
def _orthonormalise(basis, column) -> float:
    """Make a column orthogonal to those before it and of unit length; return its length between the two."""
    for k in range(column):
        common = _dot(basis, k, column)
        for d in range(len(basis)):
            basis[d, column] -= common * basis[d, k]
    length = math.sqrt(_dot(basis, column, column))
    for d in range(len(basis)):
        basis[d, column] /= length
    return length
