"""The compiled inner loop of the simulator: blocks of explosions, one per lane.

Explosions are gathered into the rows of a flat scratch array, one coordinate of all lanes
a row, and integrated together (see `_lanes`). Each lane picks its steps from its own state
alone and waits with steps of length zero once it has arrived: a result depends neither on
the neighbours in a block nor on how events are spread over threads.

The number of ions and of stages are the lengths of tuples, which numba compiles in as
constants: rows then have constant addresses, 1.4 times faster for OCS. All else is data.

Inside, lengths are in units of the rms radius of each molecule, masses of their sum and
charges of the largest, so that no molecule leaves the range of single precision. Symbols
follow `explosion`: y is the scaled position, w = dy/dz, tau = 4 T^2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from flowcei.physics._compilation import compiled, kernel
from flowcei.physics._lanes import any_positive, ceil, lanes_of, load, rsqrt, sqrt, store, where_greater

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["COINCIDENT", "LOST", "NOT_FINITE", "explode"]

NOT_FINITE, COINCIDENT, LOST = 1, 2, 3
"""What `explode` says of an event that it could not follow; 0 where it could."""

_CLOSEST = 3e-6  # distance of two ions, in rms radii, below which they coincide
_FARTHEST = 1e9  # distance from the origin, in rms radii, beyond which positions are rounding
_ENERGY_ERROR = 0.01  # relative error of the energy beyond which an event is lost
_MOST_STEPS = 10_000  # near-collisions take some hundred


@compiled
def forces(rows, y, out, inverse, n, weights, strengths, pull, push):
    """Write pull * F / m + push * y to rows `out`, and 1 / r of every pair to `inverse`."""
    for d in range(3 * n):
        store(rows, out + d, 0.0)
    pair = 0
    for i in range(n):
        xi, yi, zi = load(rows, y + 3 * i), load(rows, y + 3 * i + 1), load(rows, y + 3 * i + 2)
        fx, fy, fz = load(rows, out + 3 * i), load(rows, out + 3 * i + 1), load(rows, out + 3 * i + 2)
        for j in range(i + 1, n):
            dx, dy, dz = (
                xi - load(rows, y + 3 * j),
                yi - load(rows, y + 3 * j + 1),
                zi - load(rows, y + 3 * j + 2),
            )
            r = rsqrt(dx * dx + dy * dy + dz * dz)
            store(rows, inverse + pair, r)
            f = r * r * r * strengths[pair]
            fx, fy, fz = fx + f * dx, fy + f * dy, fz + f * dz
            store(rows, out + 3 * j, load(rows, out + 3 * j) - f * dx)
            store(rows, out + 3 * j + 1, load(rows, out + 3 * j + 1) - f * dy)
            store(rows, out + 3 * j + 2, load(rows, out + 3 * j + 2) - f * dz)
            pair += 1
        scale = pull * weights[i]
        store(rows, out + 3 * i, fx * scale + xi * push)
        store(rows, out + 3 * i + 1, fy * scale + yi * push)
        store(rows, out + 3 * i + 2, fz * scale + zi * push)


@compiled
def enter(rows, y, w, n, masses, weights, unit, moving):
    """Centre positions y, scale them to I0 = 1, turn momenta w into velocities; return the scale."""
    inertia = 0.0 * load(rows, y)
    for axis in range(3):
        middle, drift = 0.0 * inertia, 0.0 * inertia
        for i in range(n):
            middle = middle + load(rows, y + 3 * i + axis) * masses[i]
            if moving:
                drift = drift + load(rows, w + 3 * i + axis)
        for i in range(n):
            x = load(rows, y + 3 * i + axis) - middle
            inertia = inertia + x * x * masses[i]
            store(rows, y + 3 * i + axis, x)
            if moving:
                p = load(rows, w + 3 * i + axis) - drift * masses[i]
                store(rows, w + 3 * i + axis, p * weights[i] / unit)
            else:
                store(rows, w + 3 * i + axis, 0.0)
    scale = rsqrt(inertia)
    for d in range(3 * n):
        store(rows, y + d, load(rows, y + d) * scale)
        if moving:
            store(rows, w + d, load(rows, w + d) / sqrt(scale))
    return scale


@compiled
def start(rows, y, w, n, masses, strengths):
    """Return tau, the energy and the smallest squared distance; turn velocities w into dy/dz."""
    energy = 0.0 * load(rows, y)
    closest = 1e9 + energy
    pair = 0
    for i in range(n):
        for j in range(i + 1, n):
            dx = load(rows, y + 3 * i) - load(rows, y + 3 * j)
            dy = load(rows, y + 3 * i + 1) - load(rows, y + 3 * j + 1)
            dz = load(rows, y + 3 * i + 2) - load(rows, y + 3 * j + 2)
            square = dx * dx + dy * dy + dz * dz
            energy = energy + rsqrt(square) * strengths[pair]
            closest = where_greater(closest, square, square, closest)
            pair += 1
    for i in range(n):
        for d in range(3 * i, 3 * i + 3):
            v = load(rows, w + d)
            energy = energy + v * v * (0.5 * masses[i])
    tau = 2.0 / energy
    for d in range(3 * n):
        store(rows, w + d, load(rows, w + d) * sqrt(tau))  # dy/dz = 2 T v
    return tau, energy, closest


@compiled
def step_length(rows, w, inverse, n, curvatures, tau, z, left, eta):
    """Return the next step of every lane, from rates of change that its own pairs have."""
    total = 0.0 * z
    field = tau / (1.0 - z * z)
    pair = 0
    for i in range(n):
        for j in range(i + 1, n):
            ux = load(rows, w + 3 * i) - load(rows, w + 3 * j)
            uy = load(rows, w + 3 * i + 1) - load(rows, w + 3 * j + 1)
            uz = load(rows, w + 3 * i + 2) - load(rows, w + 3 * j + 2)
            r = load(rows, inverse + pair)
            omega = (field * curvatures[pair] * r + ux * ux + uy * uy + uz * uz) * r * r
            total = total + omega * omega
            pair += 1
    rate = sqrt(sqrt(total)) * (1.0 / eta)
    count = ceil(left * rate)
    count = where_greater(count, 1.0, count, 1.0)
    # The last three steps are made equal, so that none is a sliver.
    return where_greater(count, 3.0, 1.0 / rate, left / count)


@compiled
def advance(rows, y, w, s, k, n3, stage, a, c, h):
    """Write the position of a Nystrom stage to rows `s`."""
    ahead, h2 = h * c[stage], h * h
    for d in range(n3):
        total = load(rows, k + d) * a[stage, 0]
        for j in range(1, stage):
            total = total + load(rows, k + j * n3 + d) * a[stage, j]
        store(rows, s + d, load(rows, y + d) + ahead * load(rows, w + d) + h2 * total)


@compiled
def accept(rows, y, w, s, k, n3, stages, bp, h):
    """Take the last stage as the new position, its force as the first of the next step."""
    for d in range(n3):
        total = load(rows, k + d) * bp[0]
        for j in range(1, stages):
            total = total + load(rows, k + j * n3 + d) * bp[j]
        store(rows, w + d, load(rows, w + d) + h * total)
        store(rows, y + d, load(rows, s + d))
        store(rows, k + d, load(rows, k + (stages - 1) * n3 + d))


@compiled
def tail_node(rows, y, w, s, k, n3, t, reach, weights):
    """Write the position at a node of the tail to rows `s`."""
    for d in range(n3):
        total = load(rows, y + d) + load(rows, w + d) * reach
        for j in range(t + 1):
            total = total + load(rows, k + j * n3 + d) * weights[t, j]
        store(rows, s + d, total)


@compiled
def _explode_block(rows, ions, ladder, system, method, unit, moving):
    """Turn rows 0 ... 3N - 1, positions, and 3N ... 6N - 1, momenta, of one block into momenta.

    They are left in rows 0 ... 3N - 1; the rows after them hold the reciprocal of the size of
    the molecule, the smallest squared distance in its units, and the way that is left to z1.
    """
    n, stages = len(ions), len(ladder)
    masses, weights, strengths, curvatures = system
    a, c, bp, eta, z1, nodes, tail_weights = method
    n3 = 3 * n
    y, w, s, inverse = 0, n3, 2 * n3, 3 * n3
    k = inverse + n * (n - 1) // 2
    size = enter(rows, y, w, n, masses, weights, unit, moving)
    tau, energy, closest = start(rows, y, w, n, masses, strengths)
    forces(rows, y, k, inverse, n, weights, strengths, tau, -2.0 + 0.0 * tau)
    z = 0.0 * tau
    left = z1 - z
    for _ in range(_MOST_STEPS):
        if not any_positive(left):
            break
        h = step_length(rows, w, inverse, n, curvatures, tau, z, left, eta)
        for stage in range(1, stages):
            advance(rows, y, w, s, k, n3, stage, a, c, h)
            at = z + h * c[stage]
            factor = 1.0 / (1.0 - at * at)
            forces(rows, s, k + stage * n3, inverse, n, weights, strengths, tau * factor, -2.0 * factor)
        accept(rows, y, w, s, k, n3, stages, bp, h)
        z = z + h
        left = where_greater(h * 1e-6, z1 - z, 0.0, z1 - z)
        z = where_greater(left, 0.0, z, z1)
    forces(rows, y, k, inverse, n, weights, strengths, tau, -2.0 + 0.0 * tau)
    for t in range(len(nodes)):
        tail_node(rows, y, w, s, k, n3, t, nodes[t] - z1, tail_weights)
        if t + 1 < len(nodes):
            forces(rows, s, k + (t + 1) * n3, inverse, n, weights, strengths, tau, -2.0 + 0.0 * tau)
    # p = m y(1) / T up to a factor that the exact energy fixes.
    kinetic = 0.0 * tau
    for i in range(n):
        for d in range(3 * i, 3 * i + 3):
            v = load(rows, s + d)
            kinetic = kinetic + v * v * (0.5 * masses[i])
            store(rows, y + d, v * masses[i])
    # An energy that is off before it is imposed betrays a collision that was stepped over.
    excess = 4.0 * kinetic / (tau * energy) - 1.0
    left = where_greater(excess * excess, _ENERGY_ERROR * _ENERGY_ERROR, 1.0, left)
    scale = sqrt(size * energy / kinetic) * unit
    for d in range(n3):
        store(rows, y + d, load(rows, y + d) * scale)
    store(rows, n3, size)
    store(rows, n3 + 1, closest)
    store(rows, n3 + 2, left)


@compiled
def _gather(positions, initial, event, n, rows, lane):
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
def _scatter(rows, lane, n, positions, momenta, event):
    """Write the momenta of one lane to its event; return what became of it: see `explode`."""
    n3, lanes = 3 * n, lanes_of(rows)
    total = 0.0
    for d in range(n3):
        p = rows[d * lanes + lane]
        momenta[event, d] = p
        total += abs(p)
    size, closest = rows[n3 * lanes + lane], rows[(n3 + 1) * lanes + lane]
    left = rows[(n3 + 2) * lanes + lane]
    away = abs(positions[event, 0]) + abs(positions[event, 1]) + abs(positions[event, 2])
    if closest <= _CLOSEST * _CLOSEST or away * size > _FARTHEST:
        return COINCIDENT
    if left > 0.0 or not np.isfinite(total):
        return LOST
    return 0


@compiled
def _is_finite(rows, event):
    for d in range(rows.shape[1]):
        if not np.isfinite(rows[event, d]):
            return False
    return True


@kernel
def explode(
    positions: NDArray[np.floating],
    initial: NDArray[np.floating],
    ions: tuple[int, ...],
    ladder: tuple[int, ...],
    system: tuple[NDArray[np.floating], ...],
    method: tuple[object, ...],
    masses: NDArray[np.float64],
    unit: float,
    momenta: NDArray[np.floating],
    status: NDArray[np.uint8],
) -> None:
    """Write the asymptotic momenta of positions (B, 3N), bohr, to `momenta` (B, 3N).

    Args:
        positions: (B, 3N), bohr.
        initial: Momenta at the start, (B, 3N), hbar / bohr, or (0, 3N) for ions at rest.
        ions: A tuple of N zeros.
        ladder: A tuple of as many zeros as the method has stages.
        system: Masses over their sum (N,), their reciprocals (N,), and for every pair the
            product of the charges over the square of the largest and that over the reduced mass.
        method: a, c, bp, eta, z1, nodes and weights: see `nystrom`. Their type is the
            precision of the calculation.
        masses: Masses over their sum, (N,), in double precision.
        unit: sqrt(sum of masses) times the largest charge.
        momenta: Where the result goes; of no meaning for an event that cannot be followed.
        status: (B,): 0, or `NOT_FINITE`, `COINCIDENT` or `LOST`.
    """
    n, stages, nodes = len(ions), len(ladder), len(method[5])
    rows = _aligned(3 * n * (3 + max(stages, nodes)) + n * (n - 1) // 2, method[0])
    lanes = lanes_of(rows)
    for first in range(0, len(positions), lanes):
        filled = min(lanes, len(positions) - first)
        for lane in range(lanes):  # a last block is filled up with copies
            _gather(positions, initial, first + min(lane, filled - 1), n, rows, lane)
        _explode_block(rows, ions, ladder, system, method, unit, len(initial) > 0)
        for lane in range(filled):
            event = first + lane
            what = _scatter(rows, lane, n, positions, momenta, event)
            if what and not (
                _is_finite(positions, event) and (len(initial) == 0 or _is_finite(initial, event))
            ):
                what = NOT_FINITE
            status[event] = what
    if len(initial):
        _add_drift(momenta, initial, masses)


@compiled
def _aligned(count, like):
    """Return `count` rows for `_lanes`, of the precision of `like`."""
    step = 64 // like.itemsize
    raw = np.zeros((count + 1) * step, like.dtype)
    skip = (-raw.ctypes.data % 64) // like.itemsize
    return raw[skip : skip + count * step]


@compiled
def _add_drift(momenta, initial, masses):
    """Give back the motion of the centre of mass."""
    for event in range(len(momenta)):
        for axis in range(3):
            total = 0.0
            for i in range(len(masses)):
                total += initial[event, 3 * i + axis]
            for i in range(len(masses)):
                momenta[event, 3 * i + axis] += masses[i] * total
