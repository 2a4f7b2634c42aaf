"""The steps of the integrator on rows of lanes: forces, stages, tail, and their derivatives.

Explosions lie in the rows of a flat array (see `_lanes`), one coordinate of all lanes a row. A lane
picks its steps from its own state alone and waits with steps of length zero once it has arrived: a
result depends neither on its neighbours nor on how events are spread over threads.

Beside an explosion run its derivatives in M directions: the same linear steps, with derivatives of
the force in place of the force. Step lengths are not differentiated; short enough, they do not matter.

Lengths are in units of the rms radius of each molecule, masses of their sum and charges of the
largest, so that no molecule leaves the range of single precision. Symbols follow `explosion`: y is
the scaled position, w = dy/dz, tau = 4 T^2.
"""

from __future__ import annotations

from collections import namedtuple

from flowcei.physics._compilation import compiled
from flowcei.physics._lanes import any_positive, ceil, load, rsqrt, sqrt, store, where_greater

_ENERGY_ERROR = 0.01  # relative error of the energy beyond which an event is lost
_MOST_STEPS = 10_000  # near-collisions take some hundred

# The rows of the scratch array. The explosion lies in the first block of `gap` rows, direction c in block
# c + 1. A block holds 3N rows each of y, w, s (the position of a stage or node) and of the forces of all
# stages or nodes. After them come 1 / r of every pair, and for each direction dtau / tau and dU0 / U0.
Layout = namedtuple("Layout", "n n3 count gap inverse rates total")  # noqa: PYI024 - for numba


@compiled
def layout(n, stages, nodes, count) -> Layout:
    """Layout of n ions, a method with so many stages and tail nodes, and `count` directions."""
    gap = 3 * n * (3 + max(stages, nodes))
    inverse = (count + 1) * gap
    rates = inverse + n * (n - 1) // 2
    return Layout(n, 3 * n, count, gap, inverse, rates, rates + 2 * count)


@compiled
def integrate(rows, ions, ladder, directions, system, method, unit, moving) -> None:
    """Turn rows 0 ... 3N - 1, positions, and 3N ... 6N - 1, momenta, of one block into momenta.

    Positions and directions may be in any unit of length; momenta at the start belong to `unit`, the
    square root of the sum of masses times the largest charge. The numbers of ions, stages and
    directions are lengths of tuples, which numba compiles in (docs/decisions/0010).

    Momenta in rows 0 ... 3N - 1 are in units of the molecule; after them come the reciprocal of its
    size, its smallest squared distance and, positive for an explosion that was lost, the distance to
    z1. The y of each direction becomes the derivative of the momenta.
    """
    stages = len(ladder)
    masses, weights, strengths, curvatures = system  # unpacked once: each time costs reference counts
    a, c, bp, eta, z1, nodes, tail_weights = method
    n = len(ions)  # passed beside the layout: as its field LLVM unrolls less, 6 % slower for OCS
    o = layout(n, stages, len(nodes), len(directions))
    s, k = 2 * o.n3, 3 * o.n3
    size = _enter(rows, o, n, masses, weights, unit, moving)
    tau, energy, closest = _start(rows, o, n, masses, strengths)
    still = -2.0 + 0.0 * tau
    _forces(rows, o, n, 0, k, weights, strengths, tau, still)
    _enter_directions(rows, o, n, masses, strengths, energy)
    _tangent_forces(rows, o, n, 0, k, weights, strengths, tau, still)
    z = 0.0 * tau
    left = z1 - z
    for _ in range(_MOST_STEPS):
        if not any_positive(left):
            break
        h = _step_length(rows, o, n, curvatures, tau, z, left, eta)
        for stage in range(1, stages):
            at = z + h * c[stage]
            factor = 1.0 / (1.0 - at * at)
            _advance(rows, o, n, stage, a, c, h)
            _evaluate(rows, o, n, s, k + stage * o.n3, weights, strengths, tau * factor, -2.0 * factor)
        _accept(rows, o, n, stages, bp, h)
        z = z + h
        left = where_greater(h * 1e-6, z1 - z, 0.0, z1 - z)
        z = where_greater(left, 0.0, z, z1)
    _evaluate(rows, o, n, 0, k, weights, strengths, tau, still)
    for t in range(len(nodes)):
        _tail_node(rows, o, n, t, nodes[t] - z1, tail_weights)
        if t + 1 < len(nodes):
            _evaluate(rows, o, n, s, k + (t + 1) * o.n3, weights, strengths, tau, still)
    kinetic = _finish(rows, o, n, masses, energy)
    # An energy that is off before it is imposed betrays a collision that was stepped over.
    excess = 4.0 * kinetic / (tau * energy) - 1.0
    store(rows, o.n3, size)
    store(rows, o.n3 + 1, closest)
    store(rows, o.n3 + 2, where_greater(excess * excess, _ENERGY_ERROR * _ENERGY_ERROR, 1.0, left))


@compiled
def _load3(rows, at) -> tuple:
    return load(rows, at), load(rows, at + 1), load(rows, at + 2)


@compiled
def _store3(rows, at, x, y, z) -> None:
    store(rows, at, x)
    store(rows, at + 1, y)
    store(rows, at + 2, z)


@compiled
def _apart(rows, at, i, j) -> tuple:
    """Vector from ion j to ion i of the vectors of all ions at rows `at`."""
    xi, yi, zi = _load3(rows, at + 3 * i)
    xj, yj, zj = _load3(rows, at + 3 * j)
    return xi - xj, yi - yj, zi - zj


@compiled
def _evaluate(rows, o, n, y, out, weights, strengths, pull, push) -> None:
    """Write the forces at positions in rows `y` of every block to rows `out` of that block."""
    _forces(rows, o, n, y, out, weights, strengths, pull, push)
    _tangent_forces(rows, o, n, y, out, weights, strengths, pull, push)


@compiled
def _forces(rows, o, n, y, out, weights, strengths, pull, push) -> None:
    """Write pull * F / m + push * y to rows `out`, and 1 / r of every pair."""
    for d in range(3 * n):
        store(rows, out + d, 0.0)
    pair = 0
    for i in range(n):
        xi, yi, zi = _load3(rows, y + 3 * i)
        fx, fy, fz = _load3(rows, out + 3 * i)
        for j in range(i + 1, n):
            xj, yj, zj = _load3(rows, y + 3 * j)
            dx, dy, dz = xi - xj, yi - yj, zi - zj
            r = rsqrt(dx * dx + dy * dy + dz * dz)
            store(rows, o.inverse + pair, r)
            f = r * r * r * strengths[pair]
            fx, fy, fz = fx + f * dx, fy + f * dy, fz + f * dz
            gx, gy, gz = _load3(rows, out + 3 * j)
            _store3(rows, out + 3 * j, gx - f * dx, gy - f * dy, gz - f * dz)
            pair += 1
        scale = pull * weights[i]
        _store3(rows, out + 3 * i, fx * scale + xi * push, fy * scale + yi * push, fz * scale + zi * push)


@compiled
def _tangent_forces(rows, o, n, y, out, weights, strengths, pull, push) -> None:
    """Write the derivatives of the forces in rows `out` to the same rows of each direction's block."""
    for c in range(o.count):
        for d in range(3 * n):
            store(rows, (c + 1) * o.gap + out + d, 0.0)
    pair = 0
    for i in range(n):
        for j in range(i + 1, n):
            dx, dy, dz = _apart(rows, y, i, j)
            r = load(rows, o.inverse + pair)
            f = r * r * r * strengths[pair]
            g = -3.0 * f * r * r
            for c in range(o.count):
                m = (c + 1) * o.gap
                ex, ey, ez = _apart(rows, m + y, i, j)
                along = g * (dx * ex + dy * ey + dz * ez)
                px, py, pz = f * ex + along * dx, f * ey + along * dy, f * ez + along * dz
                a, b = m + out + 3 * i, m + out + 3 * j
                ax, ay, az = _load3(rows, a)
                _store3(rows, a, ax + px, ay + py, az + pz)
                bx, by, bz = _load3(rows, b)
                _store3(rows, b, bx - px, by - py, bz - pz)
            pair += 1
    for c in range(o.count):
        m, rate = (c + 1) * o.gap, load(rows, o.rates + 2 * c)
        for i in range(n):
            scale = pull * weights[i]
            for d in range(3 * i, 3 * i + 3):
                # out - push y is tau times the acceleration: its derivative by tau.
                by_tau = (load(rows, out + d) - push * load(rows, y + d)) * rate
                own = scale * load(rows, m + out + d) + push * load(rows, m + y + d)
                store(rows, m + out + d, own + by_tau)


@compiled
def _enter(rows, o, n, masses, weights, unit, moving):
    """Centre positions, scale them to I0 = 1, turn momenta into velocities; return the scale."""
    w = o.n3
    inertia = 0.0 * load(rows, 0)
    for axis in range(3):
        middle, drift = 0.0 * inertia, 0.0 * inertia
        for i in range(n):
            middle = middle + load(rows, 3 * i + axis) * masses[i]
            if moving:
                drift = drift + load(rows, w + 3 * i + axis)
        for i in range(n):
            x = load(rows, 3 * i + axis) - middle
            inertia = inertia + x * x * masses[i]
            store(rows, 3 * i + axis, x)
            if moving:
                p = load(rows, w + 3 * i + axis) - drift * masses[i]
                store(rows, w + 3 * i + axis, p * weights[i] / unit)
            else:
                store(rows, w + 3 * i + axis, 0.0)
    scale = rsqrt(inertia)
    for d in range(3 * n):
        store(rows, d, load(rows, d) * scale)
        if moving:
            store(rows, w + d, load(rows, w + d) / sqrt(scale))
    return scale


@compiled
def _start(rows, o, n, masses, strengths) -> tuple:
    """Return tau, the energy and the smallest squared distance; turn velocities into dy/dz."""
    energy = 0.0 * load(rows, 0)
    closest = 1e9 + energy
    pair = 0
    for i in range(n):
        for j in range(i + 1, n):
            dx, dy, dz = _apart(rows, 0, i, j)
            square = dx * dx + dy * dy + dz * dz
            energy = energy + rsqrt(square) * strengths[pair]
            closest = where_greater(closest, square, square, closest)
            pair += 1
    energy = energy + _kinetic(rows, o, n, o.n3, masses)
    tau = 2.0 / energy
    for d in range(o.n3, 2 * o.n3):
        store(rows, d, load(rows, d) * sqrt(tau))  # dy/dz = 2 T v
    return tau, energy, closest


@compiled
def _kinetic(rows, o, n, w, masses):
    """Kinetic energy of the velocities in rows `w`."""
    energy = 0.0 * load(rows, w)
    for i in range(n):
        for d in range(3 * i, 3 * i + 3):
            v = load(rows, w + d)
            energy = energy + v * v * (0.5 * masses[i])
    return energy


@compiled
def _step_length(rows, o, n, curvatures, tau, z, left, eta):
    """Next step of every lane, from rates of change that its own pairs have."""
    total = 0.0 * z
    field = tau / (1.0 - z * z)
    pair = 0
    for i in range(n):
        for j in range(i + 1, n):
            ux, uy, uz = _apart(rows, o.n3, i, j)
            r = load(rows, o.inverse + pair)
            omega = (field * curvatures[pair] * r + ux * ux + uy * uy + uz * uz) * r * r
            total = total + omega * omega
            pair += 1
    rate = sqrt(sqrt(total)) * (1.0 / eta)
    count = ceil(left * rate)
    count = where_greater(count, 1.0, count, 1.0)
    # The last three steps are made equal, so that none is a sliver.
    return where_greater(count, 3.0, 1.0 / rate, left / count)


@compiled
def _advance(rows, o, n, stage, a, c, h) -> None:
    """Write the positions of a Nystrom stage of every block."""
    n3, ahead, h2 = o.n3, h * c[stage], h * h
    for block in range(o.count + 1):
        first = block * o.gap
        for d in range(first, first + n3):
            total = load(rows, d + 3 * n3) * a[stage, 0]
            for j in range(1, stage):
                total = total + load(rows, d + (3 + j) * n3) * a[stage, j]
            store(rows, d + 2 * n3, load(rows, d) + ahead * load(rows, d + n3) + h2 * total)


@compiled
def _accept(rows, o, n, stages, bp, h) -> None:
    """Take the last stage as the new position, its force as the first of the next step."""
    n3 = o.n3
    for block in range(o.count + 1):
        first = block * o.gap
        for d in range(first, first + n3):
            total = load(rows, d + 3 * n3) * bp[0]
            for j in range(1, stages):
                total = total + load(rows, d + (3 + j) * n3) * bp[j]
            store(rows, d + n3, load(rows, d + n3) + h * total)
            store(rows, d, load(rows, d + 2 * n3))
            store(rows, d + 3 * n3, load(rows, d + (2 + stages) * n3))


@compiled
def _tail_node(rows, o, n, t, reach, weights) -> None:
    """Write the positions at a node of the tail of every block."""
    n3 = o.n3
    for block in range(o.count + 1):
        first = block * o.gap
        for d in range(first, first + n3):
            total = load(rows, d) + load(rows, d + n3) * reach
            for j in range(t + 1):
                total = total + load(rows, d + (3 + j) * n3) * weights[t, j]
            store(rows, d + 2 * n3, total)


@compiled
def _enter_directions(rows, o, n, masses, strengths, energy) -> None:
    """Centre the directions; write dtau / tau and dU0 / U0 of each, where tau = 2 I0 / U0, I0 = 1."""
    for c in range(o.count):
        m = (c + 1) * o.gap
        inertia, potential = 0.0 * energy, 0.0 * energy
        for axis in range(3):
            middle = 0.0 * energy
            for i in range(n):
                middle = middle + masses[i] * load(rows, m + 3 * i + axis)
            for i in range(n):
                d = 3 * i + axis
                store(rows, m + d, load(rows, m + d) - middle)
                store(rows, m + o.n3 + d, 0.0)
                inertia = inertia + 2.0 * masses[i] * load(rows, d) * load(rows, m + d)
        pair = 0
        for i in range(n):
            for j in range(i + 1, n):
                dx, dy, dz = _apart(rows, 0, i, j)
                ex, ey, ez = _apart(rows, m, i, j)
                r = load(rows, o.inverse + pair)
                potential = potential - (dx * ex + dy * ey + dz * ez) * r * r * r * strengths[pair]
                pair += 1
        store(rows, o.rates + 2 * c, inertia - potential / energy)
        store(rows, o.rates + 2 * c + 1, potential / energy)


@compiled
def _finish(rows, o, n, masses, energy):
    """Turn y(1), in the rows of stages, and its derivatives into momenta and theirs; return K.

    p = m y(1) / T up to a factor that the exact energy fixes: p = m y(1) sqrt(U0 / K) with
    K = sum m y(1)^2 / 2.
    """
    s = 2 * o.n3
    kinetic = _kinetic(rows, o, n, s, masses)
    scale = sqrt(energy / kinetic)
    for i in range(n):
        for d in range(3 * i, 3 * i + 3):
            store(rows, d, load(rows, s + d) * scale * masses[i])
    for c in range(o.count):
        m, change = (c + 1) * o.gap, 0.0 * energy
        for i in range(n):
            for d in range(3 * i, 3 * i + 3):
                change = change + masses[i] * load(rows, s + d) * load(rows, m + s + d)
        half = 0.5 * (load(rows, o.rates + 2 * c + 1) - change / kinetic)
        for i in range(n):
            for d in range(3 * i, 3 * i + 3):
                v = load(rows, m + s + d) + load(rows, s + d) * half
                store(rows, m + d, v * scale * masses[i])
    return kinetic
