"""The steps of the integrator on rows of lanes: forces, stages, tail, and their derivatives.

Explosions lie in the rows of a flat array (see `_lanes`), one coordinate of all lanes a row. A lane
picks its steps from its own state alone and waits with steps of length zero once it has arrived: a
result depends neither on its neighbours nor on how events are spread over threads.

Beside an explosion run its derivatives in M directions: the same linear steps, with derivatives of
the force in place of the force. Step lengths are not differentiated; short enough, they do not matter.

Lengths are in units of the rms radius of each molecule, masses of their sum and charges of the
largest, so that no molecule leaves the range of single precision. Symbols follow docs/simulator.md: y is
the scaled position, w = dy/dz, tau = 4 T^2.
"""

from __future__ import annotations

import numpy as np

from flowcei.physics._growth import begun, gained, grow, grow_stages, growing, product, stretched
from flowcei.physics._lanes import (
    Lanes,
    any_positive,
    ceil,
    load,
    numbers,
    rough_sqrt,
    rsqrt,
    sqrt,
    store,
    where_greater,
)
from flowcei.physics._layout import layout
from flowcei.storage._compilation import compiled

_ENERGY_ERROR = 0.01  # relative error of the energy beyond which an event is lost
_MOST_STEPS = 10_000  # near-collisions take some hundred


@compiled
def integrate(rows, ions, ladder, directions, system, method, unit, growth, moving) -> None:
    """Turn rows 0 ... 3N - 1, positions, and 3N ... 6N - 1, momenta, of one block into momenta.

    Positions and directions may be in any unit of length; momenta at the start belong to `unit`, the
    square root of the sum of masses times the largest charge. The numbers of ions, stages and
    directions are lengths of tuples, which numba compiles in (docs/decisions/0010).

    Momenta in rows 0 ... 3N - 1 are in units of the molecule; after them come the reciprocal of its
    size, its smallest squared distance and, positive for an explosion that was lost, the distance to
    z1. The y of each direction becomes the derivative of the momenta.
    """
    stages = len(ladder)
    masses, weights = numbers(system[0]), numbers(system[1])
    strengths, curvatures = numbers(system[2]), numbers(system[3])
    a, c, bp, eta, z1, nodes, tail_weights = method
    each, last_of, ends = numbers(a), numbers(bp), numbers(tail_weights)
    # A number: `len(ions)` is a constant to numba, and each other constant compiles a function anew. Forces
    # need it, and what few compile. Beside the layout: as its field LLVM unrolls less, 6 % slower for OCS.
    n = np.int64(len(ions))
    o = layout(len(ions), stages, len(nodes), len(directions), growth)
    s, k = 2 * o.n3, 3 * o.n3
    size = _enter(rows, o, n, masses, weights, unit, moving)
    tau, energy, closest = _start(rows, o, n, masses, strengths)
    last = o.shares + (stages - 1) * o.sharing  # where shares at the end of a step are
    if growth is not None:
        tau, energy = _start_growing(rows, o, len(ions), masses, strengths, tau, size, growth, last)
    still = -2.0 + 0.0 * tau
    _enter_directions(rows, o, n, masses, strengths, energy, growth)
    z, whole = 0.0 * tau, 1.0 + 0.0 * tau
    always = stages > 0  # no constant, like n
    _forces(rows, o, len(ions), 0 * k, k, weights, strengths, tau, still, whole, growth, last, always)
    remaining = z1 - z
    for _ in range(_MOST_STEPS):
        if not any_positive(remaining):
            break
        h = _step_length(rows, o, n, curvatures, tau, z, remaining, eta, growth, last)
        if growth is not None:
            grow_stages(rows, o, growth, z, h, c)
        for stage in range(1, stages):
            at = z + h * c[stage]
            shrink = 1.0 - at * at
            again = stage + 1 < stages and c[stage] == c[stage + 1]  # two stages at the end of a step
            same = stage + 1 if again else stage
            factor = 1.0 / shrink if growth is None else load(rows, o.factors + same)
            _advance(rows, o, stage, each, stage * stages, h * c[stage], h * h)
            out, pull, push = k + stage * o.n3, tau * factor, -2.0 * factor
            own = o.shares + same * o.sharing
            # Within a percent by trapezia: of many stages the middle and the end of a step will do.
            counts = (stages < 8) | (stage % 4 == 0)
            work = _forces(
                rows, o, len(ions), s, out, weights, strengths, pull, push, shrink, growth, own, counts
            )
            if growth is not None:
                energy = energy + work
        _accept(rows, o, stages, last_of, h)
        z = z + h
        remaining = where_greater(h * 1e-6, z1 - z, 0.0, z1 - z)
        z = where_greater(remaining, 0.0, z, z1)
    # The last force of the steps is the first of the tail, but for a factor.
    end = 1.0 - z * z
    for block in range(o.count + 1):
        for d in range(block * o.gap + k, block * o.gap + k + o.n3):
            store(rows, d, load(rows, d) * end)
    if growth is not None:
        for t in range(len(nodes) - 1):
            grow(rows, o, growth, 0.0 * z + growth[6][t], o.shares + t * o.sharing)
    for t in range(len(nodes)):
        _advance(rows, o, t + 1, ends, t * len(nodes), whole * (nodes[t] - z1), whole)
        if t + 1 < len(nodes):
            out, own, shrink = k + (t + 1) * o.n3, o.shares + t * o.sharing, whole - nodes[t] * nodes[t]
            work = _forces(
                rows, o, len(ions), s, out, weights, strengths, tau, still, shrink, growth, own, always
            )
            if growth is not None:
                energy = energy + work
    kinetic = _finish(rows, o, masses, energy, tau, growth)
    # An energy that is off before it is imposed betrays a collision that was stepped over.
    excess = 4.0 * kinetic / (tau * energy) - 1.0
    store(rows, o.n3, size)
    store(rows, o.n3 + 1, closest)
    # What is not a number is off too.
    store(rows, o.n3 + 2, where_greater(_ENERGY_ERROR * _ENERGY_ERROR, excess * excess, remaining, 1.0))


@compiled
def _load3(rows, at) -> tuple[Lanes, Lanes, Lanes]:
    return load(rows, at), load(rows, at + 1), load(rows, at + 2)


@compiled
def _store3(rows, at, x, y, z) -> None:
    store(rows, at, x)
    store(rows, at + 1, y)
    store(rows, at + 2, z)


@compiled
def _subtract3(rows, at, x, y, z) -> None:
    ax, ay, az = _load3(rows, at)
    _store3(rows, at, ax - x, ay - y, az - z)


@compiled
def _apart(rows, at, i, j) -> tuple[Lanes, Lanes, Lanes]:
    """Vector from ion j to ion i of the vectors of all ions at rows `at`."""
    xi, yi, zi = _load3(rows, at + 3 * i)
    xj, yj, zj = _load3(rows, at + 3 * j)
    return xi - xj, yi - yj, zi - zj


@compiled
def _forces(rows, o, n, y, out, weights, strengths, pull, push, shrink, growth, shares, counted) -> Lanes:
    """Write pull * F / m + push * y, from rows `y` of every block to its rows `out`; and 1 / r.

    Where it is `counted`, returns the energy that charges which grow have brought since the last count, with
    1 / R = `shrink`.
    """
    field = pull
    if growth is not None and o.sharing == 1:  # of all pairs alike
        field = pull * product(rows, o, 0, 0, shares)
    for block in range(o.count + 1):
        for d in range(block * o.gap, block * o.gap + o.n3):
            store(rows, out + d, push * load(rows, y + d))
    pair = 0
    for i in range(n):
        xi, yi, zi = _load3(rows, y + 3 * i)
        fx, fy, fz = _load3(rows, out + 3 * i)
        for j in range(i + 1, n):
            xj, yj, zj = _load3(rows, y + 3 * j)
            dx, dy, dz = xi - xj, yi - yj, zi - zj
            r = rsqrt(dx * dx + dy * dy + dz * dz)
            store(rows, o.inverse + pair, r)
            f = r * r * r * (field * strengths[pair])
            if growth is not None and o.sharing > 1:
                f = f * product(rows, o, i, j, shares)
            a, b = f * weights[3 * i], f * weights[3 * j]
            fx, fy, fz = fx + a * dx, fy + a * dy, fz + a * dz
            _subtract3(rows, out + 3 * j, b * dx, b * dy, b * dz)
            g = -3.0 * r * r
            for c in range(o.count):
                m = (c + 1) * o.gap
                ex, ey, ez = _apart(rows, m + y, i, j)
                along = g * (dx * ex + dy * ey + dz * ez)
                px, py, pz = ex + along * dx, ey + along * dy, ez + along * dz
                ax, ay, az = _load3(rows, m + out + 3 * i)
                _store3(rows, m + out + 3 * i, ax + a * px, ay + a * py, az + a * pz)
                _subtract3(rows, m + out + 3 * j, b * px, b * py, b * pz)
            pair += 1
        _store3(rows, out + 3 * i, fx, fy, fz)
    for c in range(o.count):
        # tau times the acceleration, and so its derivative by tau, belongs to the explosion.
        rate = load(rows, o.rates + 2 * c)
        for d in range(o.n3):
            acceleration = load(rows, out + d) - push * load(rows, y + d)
            m = (c + 1) * o.gap + out + d
            store(rows, m, load(rows, m) + acceleration * rate)
    work = 0.0 * pull
    if growth is not None and counted:  # not among the forces: they are faster short
        work = gained(rows, o, n, strengths, shrink, shares)
    return work


@compiled
def _centre(rows, first, n, masses) -> None:
    """Move the vectors of all ions in rows `first` ... by minus their weighted mean."""
    for axis in range(first, first + 3):
        mean = 0.0 * load(rows, axis)
        for i in range(n):
            mean = mean + load(rows, axis + 3 * i) * masses[3 * i]
        for i in range(n):
            store(rows, axis + 3 * i, load(rows, axis + 3 * i) - mean)


@compiled
def _product(rows, u, v, o, masses) -> Lanes:
    """Sum of m u v over all coordinates, of vectors in rows `u` ... and `v` ...."""
    total = 0.0 * load(rows, u)
    for d in range(o.n3):
        total = total + load(rows, u + d) * load(rows, v + d) * masses[d]
    return total


@compiled
def _enter(rows, o, n, masses, weights, unit, moving) -> Lanes:
    """Centre positions, scale them to I0 = 1, turn momenta into velocities; return the scale."""
    first = 0 * n  # no constant
    _centre(rows, first, n, masses)
    scale = rsqrt(_product(rows, first, first, o, masses))
    for d in range(o.n3):
        store(rows, d, load(rows, d) * scale)
        if moving:
            store(rows, o.n3 + d, load(rows, o.n3 + d) * weights[d] / unit / sqrt(scale))
        else:
            store(rows, o.n3 + d, 0.0)
    return scale


@compiled
def _start(rows, o, n, masses, strengths) -> tuple[Lanes, Lanes, Lanes]:
    """Return tau, the energy and the smallest squared distance; turn velocities into dy/dz."""
    energy = 0.5 * _product(rows, o.n3, o.n3, o, masses)
    closest = 1e9 + 0.0 * energy
    pair = 0
    for i in range(n):
        for j in range(i + 1, n):
            dx, dy, dz = _apart(rows, 0 * n, i, j)
            square = dx * dx + dy * dy + dz * dz
            r = rsqrt(square)
            store(rows, o.inverse + pair, r)
            energy = energy + r * strengths[pair]
            closest = where_greater(closest, square, square, closest)
            pair += 1
    tau = 2.0 / energy
    for d in range(o.n3, 2 * o.n3):
        store(rows, d, load(rows, d) * sqrt(tau))  # dy/dz = 2 T v
    return tau, energy, closest


@compiled
def _start_growing(rows, o, n, masses, strengths, tau, size, growth, shares) -> tuple[Lanes, Lanes]:
    """Return the tau that suits charges which grow, and the energy at the start."""
    longer = stretched(rows, o, tau, size, growth)
    store(rows, o.factors, 1.0 + growth[8] * (1.0 - tau / longer))
    for d in range(o.n3, 2 * o.n3):
        store(rows, d, load(rows, d) * sqrt(longer / tau))
    motion = 0.5 * _product(rows, o.n3, o.n3, o, masses) / longer
    return longer, motion + begun(rows, o, n, strengths, growth, shares)


@compiled
def _step_length(rows, o, n, curvatures, tau, z, remaining, eta, growth, shares) -> Lanes:
    """Next step of every lane, from rates of change that its own pairs have, and their charges."""
    total = 0.0 * z
    factor = 1.0 / (1.0 - z * z)
    field = tau * factor
    if growth is not None:
        total = growing(rows, o, 2.0 * factor * factor, growth)
        longer = load(rows, o.factors)
    pair = 0
    for i in range(n):
        for j in range(i + 1, n):
            ux, uy, uz = _apart(rows, o.n3, i, j)
            r = load(rows, o.inverse + pair)
            pull = field * curvatures[pair] * r
            if growth is not None:
                change = load(rows, o.changes + min(i, o.sharing - 1))
                change = change + load(rows, o.changes + min(j, o.sharing - 1))
                # With charges as they are in the step, not at its start, where they may be 0. Where one of
                # two ions has its charge long before the other, the force is there sooner.
                root, share = rough_sqrt(pull * r * r), product(rows, o, i, j, shares)
                sooner = 1.0 if o.sharing == 1 else 1.5
                pull, own = pull * share, root * (sooner * eta * longer * change) * (0.75 - 0.5 * share)
                omega = (pull + ux * ux + uy * uy + uz * uz) * r * r + own
            else:
                omega = (pull + ux * ux + uy * uy + uz * uz) * r * r
            total = total + omega * omega
            pair += 1
    rate = sqrt(sqrt(total)) * (1.0 / eta)
    if growth is not None:
        rate = rate / longer
    count = ceil(remaining * rate)
    count = where_greater(count, 1.0, count, 1.0)
    # The last three steps are made equal, so that none is a sliver.
    return where_greater(count, 3.0, 1.0 / rate, remaining / count)


@compiled
def _sum_forces(rows, at, o, count, weights, first) -> tuple[Lanes, Lanes, Lanes]:
    """Sum of weights[first + j] times the force on one ion, in rows from at + j 3N on, over j < count."""
    # All three components in one loop: it is short, and its end cannot be predicted.
    weight = weights[first]
    x, y, z = load(rows, at) * weight, load(rows, at + 1) * weight, load(rows, at + 2) * weight
    for j in range(1, count):
        at, weight = at + o.n3, weights[first + j]
        x, y, z = (
            x + load(rows, at) * weight,
            y + load(rows, at + 1) * weight,
            z + load(rows, at + 2) * weight,
        )
    return x, y, z


@compiled
def _advance(rows, o, count, weights, first, ahead, square) -> None:
    """Write the positions of a stage or node `ahead` of y in every block, by the forces before it."""
    n3 = o.n3
    for block in range(o.count + 1):
        for d in range(block * o.gap, block * o.gap + n3, 3):
            x, y, z = _load3(rows, d)
            u, v, w = _load3(rows, d + n3)
            fx, fy, fz = _sum_forces(rows, d + 3 * n3, o, count, weights, first)
            x, y, z = x + ahead * u + square * fx, y + ahead * v + square * fy, z + ahead * w + square * fz
            _store3(rows, d + 2 * n3, x, y, z)


@compiled
def _accept(rows, o, stages, bp, h) -> None:
    """Take the last stage as the new position, its force as the first of the next step."""
    n3 = o.n3
    for block in range(o.count + 1):
        for d in range(block * o.gap, block * o.gap + n3, 3):
            u, v, w = _load3(rows, d + n3)
            fx, fy, fz = _sum_forces(rows, d + 3 * n3, o, np.int64(stages), bp, 0 * n3)
            _store3(rows, d + n3, u + h * fx, v + h * fy, w + h * fz)
            x, y, z = _load3(rows, d + 2 * n3)
            _store3(rows, d, x, y, z)
            x, y, z = _load3(rows, d + (2 + stages) * n3)
            _store3(rows, d + 3 * n3, x, y, z)


@compiled
def _enter_directions(rows, o, n, masses, strengths, energy, growth) -> None:
    """Centre the directions; write dtau / tau and dU0 / U0 of each, where tau = 2 I0 / U0, I0 = 1."""
    for c in range(o.count):
        m = (c + 1) * o.gap
        _centre(rows, m, n, masses)
        for d in range(m + o.n3, m + 2 * o.n3):
            store(rows, d, 0.0)
        potential = 0.0 * energy
        pair = 0
        for i in range(n):
            for j in range(i + 1, n):
                dx, dy, dz = _apart(rows, 0 * n, i, j)
                ex, ey, ez = _apart(rows, m, i, j)
                r = load(rows, o.inverse + pair)
                potential = potential - (dx * ex + dy * ey + dz * ez) * r * r * r * strengths[pair]
                pair += 1
        store(rows, o.rates + 2 * c, 2.0 * _product(rows, 0 * n, m, o, masses) - potential / energy)
        store(rows, o.rates + 2 * c + 1, potential / energy)
        if growth is not None:  # any T is right, so it may be held: nothing else scales
            store(rows, o.rates + 2 * c, 0.0)


@compiled
def _finish(rows, o, masses, energy, tau, growth) -> Lanes:
    """Turn y(1), in the rows of stages, and its derivatives into momenta and theirs; return K.

    p = m y(1) / T up to a factor that the exact energy fixes: p = m y(1) sqrt(U0 / K) with
    K = sum m y(1)^2 / 2. Charges that grow bring an energy that is known no better than the momenta.
    """
    s = 2 * o.n3
    kinetic = 0.5 * _product(rows, s, s, o, masses)
    scale = sqrt(energy / kinetic) if growth is None else 2.0 / sqrt(tau)
    for d in range(o.n3):
        store(rows, d, load(rows, s + d) * scale * masses[d])
    for c in range(o.count):
        m = (c + 1) * o.gap
        half = 0.5 * (load(rows, o.rates + 2 * c + 1) - _product(rows, s, m + s, o, masses) / kinetic)
        if growth is not None:
            half = 0.0 * kinetic
        for d in range(o.n3):
            v = load(rows, m + s + d) + load(rows, s + d) * half
            store(rows, m + d, v * scale * masses[d])
    return kinetic
