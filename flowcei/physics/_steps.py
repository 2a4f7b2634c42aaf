"""The steps of the integrator on rows of lanes: forces, stages, tail, and their derivatives.

Explosions lie in the rows of a flat array, one coordinate of all lanes a row, and are
integrated together (see `_lanes`). Each lane picks its steps from its own state alone and
waits with steps of length zero once it has arrived: a result depends neither on the
neighbours in a block nor on how events are spread over threads.

Beside an explosion run its derivatives in M directions: the same linear steps, with
derivatives of the force in place of the force. Step lengths are not differentiated; short
enough, they do not matter. M = 0 is the explosion alone.

The numbers of ions, stages and directions are the lengths of tuples, which numba compiles
in as constants: rows then have constant addresses, 1.4 times faster for OCS, and what is
not asked for is not there. All else is data.

Lengths are in units of the rms radius of each molecule, masses of their sum and charges of
the largest, so that no molecule leaves the range of single precision. Symbols follow
`explosion`: y is the scaled position, w = dy/dz, tau = 4 T^2. Row numbers of the scratch
array are passed under the names of what lies there.
"""

from __future__ import annotations

from flowcei.physics._compilation import compiled
from flowcei.physics._lanes import any_positive, ceil, load, rsqrt, sqrt, store, where_greater

_ENERGY_ERROR = 0.01  # relative error of the energy beyond which an event is lost
_MOST_STEPS = 10_000  # near-collisions take some hundred


@compiled
def row_count(n, stages, nodes, count):
    """Return the rows that `integrate` needs; those of direction c begin at `first + c * gap`.

    Returns:
        All rows, `first` and `gap`.
    """
    gap = 3 * n * (3 + max(stages, nodes))
    base = gap + n * (n - 1) // 2
    return base + count * (gap + 2), base, gap


@compiled
def integrate(rows, ions, ladder, directions, system, method, unit, moving):
    """Turn rows 0 ... 3N - 1, positions, and 3N ... 6N - 1, momenta, of one block into momenta.

    Positions and directions may be in any unit of length, momenta at the start belong to
    `unit`, the square root of the sum of masses times the largest charge.

    What is left behind is in units of the molecule: momenta in rows 0 ... 3N - 1, after them
    the reciprocal of the size of the molecule, its smallest squared distance and the way that
    is left to z1, which is positive for an explosion that was lost. The derivatives by
    direction c, 3N rows that begin at `first + c * gap`, become derivatives of the momenta.
    """
    n, stages, count = len(ions), len(ladder), len(directions)
    masses, weights, strengths, curvatures = system
    a, c, bp, eta, z1, nodes, tail_weights = method
    n3 = 3 * n
    _, first, gap = row_count(n, stages, len(nodes), count)
    y, w, s, k, inverse = 0, n3, 2 * n3, 3 * n3, gap
    dy, dw, ds, dk = first, first + n3, first + 2 * n3, first + 3 * n3
    rates = first + count * gap
    size = _enter(rows, y, w, n, masses, weights, unit, moving)
    tau, energy, closest = _start(rows, y, w, n, masses, strengths)
    still = -2.0 + 0.0 * tau
    _forces(rows, y, k, inverse, n, weights, strengths, tau, still)
    _enter_directions(rows, y, dy, dw, gap, count, rates, n, masses, strengths, inverse, energy)
    _tangent_forces(rows, y, k, dy, dk, gap, count, rates, inverse, n, weights, strengths, tau, still)
    z = 0.0 * tau
    left = z1 - z
    for _ in range(_MOST_STEPS):
        if not any_positive(left):
            break
        h = _step_length(rows, w, inverse, n, curvatures, tau, z, left, eta)
        for stage in range(1, stages):
            at = z + h * c[stage]
            factor = 1.0 / (1.0 - at * at)
            pull, push = tau * factor, -2.0 * factor
            f, df = k + stage * n3, dk + stage * n3
            _advance(rows, y, w, s, k, n3, stage, a, c, h)
            _forces(rows, s, f, inverse, n, weights, strengths, pull, push)
            for m in range(0, count * gap, gap):
                _advance(rows, dy + m, dw + m, ds + m, dk + m, n3, stage, a, c, h)
            _tangent_forces(rows, s, f, ds, df, gap, count, rates, inverse, n, weights, strengths, pull, push)
        _accept(rows, y, w, s, k, n3, stages, bp, h)
        for m in range(0, count * gap, gap):
            _accept(rows, dy + m, dw + m, ds + m, dk + m, n3, stages, bp, h)
        z = z + h
        left = where_greater(h * 1e-6, z1 - z, 0.0, z1 - z)
        z = where_greater(left, 0.0, z, z1)
    _forces(rows, y, k, inverse, n, weights, strengths, tau, still)
    _tangent_forces(rows, y, k, dy, dk, gap, count, rates, inverse, n, weights, strengths, tau, still)
    for t in range(len(nodes)):
        reach = nodes[t] - z1
        _tail_node(rows, y, w, s, k, n3, t, reach, tail_weights)
        for m in range(0, count * gap, gap):
            _tail_node(rows, dy + m, dw + m, ds + m, dk + m, n3, t, reach, tail_weights)
        if t + 1 < len(nodes):
            f, df = k + (t + 1) * n3, dk + (t + 1) * n3
            _forces(rows, s, f, inverse, n, weights, strengths, tau, still)
            _tangent_forces(rows, s, f, ds, df, gap, count, rates, inverse, n, weights, strengths, tau, still)
    kinetic = _finish(rows, y, s, dy, ds, gap, count, rates, n, masses, energy)
    # An energy that is off before it is imposed betrays a collision that was stepped over.
    excess = 4.0 * kinetic / (tau * energy) - 1.0
    store(rows, n3, size)
    store(rows, n3 + 1, closest)
    store(rows, n3 + 2, where_greater(excess * excess, _ENERGY_ERROR * _ENERGY_ERROR, 1.0, left))


@compiled
def _forces(rows, y, out, inverse, n, weights, strengths, pull, push):
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
def _enter(rows, y, w, n, masses, weights, unit, moving):
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
def _start(rows, y, w, n, masses, strengths):
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
def _step_length(rows, w, inverse, n, curvatures, tau, z, left, eta):
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
def _advance(rows, y, w, s, k, n3, stage, a, c, h):
    """Write the position of a Nystrom stage to rows `s`."""
    ahead, h2 = h * c[stage], h * h
    for d in range(n3):
        total = load(rows, k + d) * a[stage, 0]
        for j in range(1, stage):
            total = total + load(rows, k + j * n3 + d) * a[stage, j]
        store(rows, s + d, load(rows, y + d) + ahead * load(rows, w + d) + h2 * total)


@compiled
def _accept(rows, y, w, s, k, n3, stages, bp, h):
    """Take the last stage as the new position, its force as the first of the next step."""
    for d in range(n3):
        total = load(rows, k + d) * bp[0]
        for j in range(1, stages):
            total = total + load(rows, k + j * n3 + d) * bp[j]
        store(rows, w + d, load(rows, w + d) + h * total)
        store(rows, y + d, load(rows, s + d))
        store(rows, k + d, load(rows, k + (stages - 1) * n3 + d))


@compiled
def _tail_node(rows, y, w, s, k, n3, t, reach, weights):
    """Write the position at a node of the tail to rows `s`."""
    for d in range(n3):
        total = load(rows, y + d) + load(rows, w + d) * reach
        for j in range(t + 1):
            total = total + load(rows, k + j * n3 + d) * weights[t, j]
        store(rows, s + d, total)


@compiled
def _tangent_forces(rows, y, out, dy, dout, gap, count, rates, inverse, n, weights, strengths, pull, push):
    """Write the derivatives of `forces` to rows `dout`: of direction c at `dout + c * gap`.

    Directions are at rows `dy + c * gap`; row `rates + 2 c` holds dtau / tau.
    """
    n3 = 3 * n
    for c in range(count):
        for d in range(n3):
            store(rows, dout + c * gap + d, 0.0)
    pair = 0
    for i in range(n):
        for j in range(i + 1, n):
            a, b = 3 * i, 3 * j
            du = load(rows, y + a) - load(rows, y + b)
            dv = load(rows, y + a + 1) - load(rows, y + b + 1)
            dw = load(rows, y + a + 2) - load(rows, y + b + 2)
            r = load(rows, inverse + pair)
            f = r * r * r * strengths[pair]
            g = -3.0 * f * r * r
            for c in range(count):
                at, to = dy + c * gap, dout + c * gap
                ex = load(rows, at + a) - load(rows, at + b)
                ey = load(rows, at + a + 1) - load(rows, at + b + 1)
                ez = load(rows, at + a + 2) - load(rows, at + b + 2)
                along = g * (du * ex + dv * ey + dw * ez)
                px, py, pz = f * ex + along * du, f * ey + along * dv, f * ez + along * dw
                store(rows, to + a, load(rows, to + a) + px)
                store(rows, to + a + 1, load(rows, to + a + 1) + py)
                store(rows, to + a + 2, load(rows, to + a + 2) + pz)
                store(rows, to + b, load(rows, to + b) - px)
                store(rows, to + b + 1, load(rows, to + b + 1) - py)
                store(rows, to + b + 2, load(rows, to + b + 2) - pz)
            pair += 1
    for c in range(count):
        rate = load(rows, rates + 2 * c)
        for i in range(n):
            scale = pull * weights[i]
            for d in range(3 * i, 3 * i + 3):
                # out - push y is tau times the acceleration: its derivative by tau.
                by_tau = (load(rows, out + d) - push * load(rows, y + d)) * rate
                own = scale * load(rows, dout + c * gap + d) + push * load(rows, dy + c * gap + d)
                store(rows, dout + c * gap + d, own + by_tau)


@compiled
def _enter_directions(rows, y, dy, dw, gap, count, rates, n, masses, strengths, inverse, energy):
    """Centre the directions; write dtau / tau of each to rows `rates`, dU0 / U0 to the next.

    tau = 2 I0 / U0 with I0 = 1; `inverse` holds 1 / r.
    """
    for c in range(count):
        here = dy + c * gap
        inertia, potential = 0.0 * energy, 0.0 * energy
        for axis in range(3):
            middle = 0.0 * energy
            for i in range(n):
                middle = middle + masses[i] * load(rows, here + 3 * i + axis)
            for i in range(n):
                d = 3 * i + axis
                store(rows, here + d, load(rows, here + d) - middle)
                store(rows, dw + c * gap + d, 0.0)
                inertia = inertia + 2.0 * masses[i] * load(rows, y + d) * load(rows, here + d)
        pair = 0
        for i in range(n):
            for j in range(i + 1, n):
                r, dot = load(rows, inverse + pair), 0.0 * energy
                for axis in range(3):
                    a, b = 3 * i + axis, 3 * j + axis
                    apart = load(rows, y + a) - load(rows, y + b)
                    dot = dot + apart * (load(rows, here + a) - load(rows, here + b))
                potential = potential - dot * r * r * r * strengths[pair]
                pair += 1
        store(rows, rates + 2 * c, inertia - potential / energy)
        store(rows, rates + 2 * c + 1, potential / energy)


@compiled
def _finish(rows, y, s, dy, ds, gap, count, rates, n, masses, energy):
    """Turn y(1) in rows `s` into momenta in rows `y`, its derivatives into theirs; return K.

    p = m y(1) / T up to a factor that the exact energy fixes: p = m y(1) sqrt(U0 / K) with
    K = sum m y(1)^2 / 2.
    """
    kinetic = 0.0 * energy
    for i in range(n):
        for d in range(3 * i, 3 * i + 3):
            v = load(rows, s + d)
            kinetic = kinetic + v * v * (0.5 * masses[i])
    scale = sqrt(energy / kinetic)
    for i in range(n):
        for d in range(3 * i, 3 * i + 3):
            store(rows, y + d, load(rows, s + d) * scale * masses[i])
    for m in range(count):
        change = 0.0 * energy
        for i in range(n):
            for d in range(3 * i, 3 * i + 3):
                change = change + masses[i] * load(rows, s + d) * load(rows, ds + m * gap + d)
        half = 0.5 * (load(rows, rates + 2 * m + 1) - change / kinetic)
        for i in range(n):
            for d in range(3 * i, 3 * i + 3):
                v = load(rows, ds + m * gap + d) + load(rows, s + d) * half
                store(rows, dy + m * gap + d, v * scale * masses[i])
    return kinetic
