"""The compiled simulator of any pair potential: plain time, steps by their own error, an event at a time.

Column 0 of all arrays (3N, C) is the explosion, the others are its derivatives in all 3N directions, none
without. A pair has a kind: Coulomb's law with the product `tail` of its charges, Yukawa's with that and a
screening length, or a cubic spline with Coulomb's law beyond its last point.
"""

from __future__ import annotations

import numpy as np

from flowcei.physics._kernel import COINCIDENT, NOT_FINITE
from flowcei.physics._vectors import copy
from flowcei.storage._compilation import compiled, kernel

COULOMB, YUKAWA, TABLE = 0, 1, 2  # kinds
NEARER, BOUND = 4, 5  # keys of `forward.LOST_FOR`
_MOST_STEPS = 5_000  # those who need more stay bound
_CLOSEST = 1e-6  # bohr
_FIRST = 0.05  # step, in units of sqrt(I / 2 E)
_LEAST, _MOST, _SAFETY = 0.2, 4.0, 0.85  # change of a step, and how far it stays below what its error allows
_ORDER = 6.0  # of the difference of both velocities in the step
_FAR = 0.05  # of the root of the accuracy: interaction over kinetic energy at which flight is straight
_FADED = 0.01  # of the accuracy: what a screened interaction may still be of the energy


@compiled
def _energy(kind, tail, length, first, last, knots, spline, r) -> float:
    """U(r), 0 at infinity."""
    if kind == COULOMB or (kind == TABLE and r >= knots[last - 1]):
        return tail / r
    if kind == YUKAWA:
        return tail * np.exp(-r / length) / r
    k = _interval(knots, first, last, r)
    x = r - knots[k]
    return ((spline[k, 0] * x + spline[k, 1]) * x + spline[k, 2]) * x + spline[k, 3]


@compiled
def _force(kind, tail, length, first, last, knots, spline, r) -> tuple[float, float]:
    """Return -U'(r) / r and its derivative by r."""
    if kind == COULOMB or (kind == TABLE and r >= knots[last - 1]):
        f = tail / (r * r * r)
        return f, -3.0 * f / r
    if kind == YUKAWA:
        u, w = tail * np.exp(-r / length) / r, 1.0 / r + 1.0 / length
        f = u * w / r
        return f, -f * (w + 1.0 / r) - u / (r * r * r)
    k = _interval(knots, first, last, r)
    x = r - knots[k]
    slope = (3.0 * spline[k, 0] * x + 2.0 * spline[k, 1]) * x + spline[k, 2]
    return -slope / r, (slope / r - 6.0 * spline[k, 0] * x - 2.0 * spline[k, 1]) / r


@compiled
def _interval(knots, first, last, r) -> int:
    """Interval of a table, from row `first` to `last` of all, that holds r."""
    low, high = first, last - 1
    while high - low > 1:
        middle = (low + high) // 2
        if knots[middle] <= r:
            low = middle
        else:
            high = middle
    return low


@compiled
def _accelerate(x, out, inverse, laws, knots, spline) -> float:
    """Write F / m of positions x (3N, C) to `out`; return how near two ions are, over where tables begin."""
    kinds, tails, lengths, firsts, lasts = laws
    n, columns, pair, nearest = len(inverse), x.shape[1], 0, np.inf
    out[:] = 0.0
    for i in range(n):
        for j in range(i + 1, n):
            a, b = 3 * i, 3 * j
            dx, dy, dz = x[a, 0] - x[b, 0], x[a + 1, 0] - x[b + 1, 0], x[a + 2, 0] - x[b + 2, 0]
            r = np.sqrt(dx * dx + dy * dy + dz * dz)
            if kinds[pair] == TABLE:
                nearest = min(nearest, r / knots[firsts[pair]])
            f, slope = _force(
                kinds[pair], tails[pair], lengths[pair], firsts[pair], lasts[pair], knots, spline, r
            )
            for axis, d in enumerate((dx, dy, dz)):
                out[a + axis, 0] += f * d * inverse[i]
                out[b + axis, 0] -= f * d * inverse[j]
            bend = slope / r
            for c in range(1, columns):
                ex, ey, ez = x[a, c] - x[b, c], x[a + 1, c] - x[b + 1, c], x[a + 2, c] - x[b + 2, c]
                along = bend * (dx * ex + dy * ey + dz * ez)
                for axis, v in enumerate((f * ex + along * dx, f * ey + along * dy, f * ez + along * dz)):
                    out[a + axis, c] += v * inverse[i]
                    out[b + axis, c] -= v * inverse[j]
            pair += 1
    return nearest


@compiled
def _ballistic(x, v, masses, laws) -> None:
    """Add to velocities what ions in straight flight still give each other: t (r^ + v^) / (|r||v| + r v)."""
    kinds, tails = laws[0], laws[1]
    n, columns, pair = len(masses), x.shape[1], 0
    r, w, dr, dw, push = np.empty(3), np.empty(3), np.empty(3), np.empty(3), np.zeros(v.shape)
    for i in range(n):
        for j in range(i + 1, n):
            strength = 0.0 if kinds[pair] == YUKAWA else tails[pair]
            pair += 1
            for k in range(3):
                r[k], w[k] = x[3 * i + k, 0] - x[3 * j + k, 0], v[3 * i + k, 0] - v[3 * j + k, 0]
            a, b, along = np.sqrt((r * r).sum()), np.sqrt((w * w).sum()), (r * w).sum()
            both = a * b + along
            for c in range(columns):
                for k in range(3):
                    dr[k], dw[k] = x[3 * i + k, c] - x[3 * j + k, c], v[3 * i + k, c] - v[3 * j + k, c]
                da, db = (r * dr).sum() / a, (w * dw).sum() / b
                change = (da * b + a * db + (dr * w).sum() + (r * dw).sum()) / both
                for k in range(3):
                    one, two = r[k] / a, w[k] / b
                    impulse = one + two
                    if c:
                        impulse = (dr[k] - one * da) / a + (dw[k] - two * db) / b - impulse * change
                    push[3 * i + k, c] += strength * impulse / both / masses[i]
                    push[3 * j + k, c] -= strength * impulse / both / masses[j]
    v += push


@compiled
def _free(x, v, masses, laws, knots, energy, accuracy) -> bool:
    """Whether all pairs fly apart, beyond their tables and screening, with hardly any interaction."""
    kinds, tails, lengths, _, lasts = laws
    n, pair, interaction = len(masses), 0, 0.0
    for i in range(n):
        for j in range(i + 1, n):
            square, along, fast = 0.0, 0.0, 0.0
            for k in range(3):
                d, w = x[3 * i + k, 0] - x[3 * j + k, 0], v[3 * i + k, 0] - v[3 * j + k, 0]
                square, along, fast = square + d * d, along + d * w, fast + w * w
            r = np.sqrt(square)
            if along < 0.9 * r * np.sqrt(fast) or (kinds[pair] == TABLE and r < knots[lasts[pair] - 1]):
                return False
            if kinds[pair] == YUKAWA:
                if abs(tails[pair]) * np.exp(-r / lengths[pair]) / r > _FADED * accuracy * energy:
                    return False
            else:
                interaction += abs(tails[pair]) / r
            pair += 1
    return interaction < _FAR * np.sqrt(accuracy) * energy


@compiled
def _stage(x, v, f, a, row, ahead, square, out) -> None:
    """Write positions of a stage, `ahead` of x, by the forces of the stages before."""
    for d in range(x.shape[0]):
        for c in range(x.shape[1]):
            total = 0.0
            for j in range(row):
                total += a[row, j] * f[j, d, c]
            out[d, c] = x[d, c] + ahead * v[d, c] + square * total


@compiled
def _flown(x, v, f, masses, laws, tables, method, accuracy, energy) -> int:
    """Follow positions and velocities (3N, C) to infinity; return the status."""
    knots, spline = tables
    a, c, bp, other = method
    stages, out, inverse = len(c), np.empty(x.shape), 1.0 / masses
    inertia = 0.0
    for d in range(len(x)):
        inertia += masses[d // 3] * x[d, 0] ** 2
    h, scale = _FIRST * np.sqrt(inertia / (2.0 * energy)), np.sqrt(2.0 * energy)
    _accelerate(x, f[0], inverse, laws, knots, spline)
    for _ in range(_MOST_STEPS):
        for s in range(1, stages):
            _stage(x, v, f, a, s, h * c[s], h * h, out)
            nearest = _accelerate(out, f[s], inverse, laws, knots, spline)
        error = 0.0
        for d in range(len(x)):
            difference = 0.0
            for s in range(stages):
                difference += (bp[0, s] - other[s]) * f[s, d, 0]
            error += masses[d // 3] * (h * difference) ** 2
        error = np.sqrt(error) / (scale * accuracy)
        if not np.isfinite(error):
            h *= _LEAST
            continue
        if error <= 1.0:
            if nearest < 1.0:
                return NEARER
            copy(out, x)
            for d in range(len(x)):
                for k in range(x.shape[1]):
                    total = 0.0
                    for s in range(stages):
                        total += bp[0, s] * f[s, d, k]
                    v[d, k] += h * total
            copy(f[stages - 1], f[0])
            if _free(x, v, masses, laws, knots, energy, accuracy):
                _ballistic(x, v, masses, laws)
                return 0
        h *= min(_MOST, max(_LEAST, _SAFETY * max(error, 1e-10) ** (-1.0 / _ORDER)))
    return BOUND


@kernel
def fly(positions, initial, masses, laws, tables, method, accuracy, momenta, jacobian, status) -> None:
    """Write momenta at infinity of positions (B, N, 3), bohr, and dp/dx unless `jacobian` is empty.

    initial: momenta at the start (B, N, 3), or (0, N, 3). laws: kind, tail, screening length, first and last
    row of its table, of every pair. tables: r (K,) and the coefficients (K, 4) of the interval that begins
    there. method: a, c, bp of a `Tableau` and other weights of y' by which a step judges itself.
    """
    n, columns = len(masses), 1 + (3 * len(masses) if len(jacobian) else 0)
    x, v = np.empty((3 * n, columns)), np.empty((3 * n, columns))
    f = np.empty((len(method[1]), 3 * n, columns))
    kinds, tails, lengths, firsts, lasts = laws
    for event in range(len(positions)):
        x[:], v[:] = 0.0, 0.0
        energy, pair, closest, near = 0.0, 0, np.inf, np.inf
        for d in range(3 * n):
            x[d, 0] = positions[event, d // 3, d % 3] - positions[event, 0, d % 3]
            if len(initial):
                v[d, 0] = initial[event, d // 3, d % 3] / masses[d // 3]
            energy += 0.5 * masses[d // 3] * v[d, 0] ** 2
            if columns > 1:
                x[d, 1 + d] = 1.0
        for i in range(n):
            for j in range(i + 1, n):
                square = 0.0
                for k in range(3):
                    square += (x[3 * i + k, 0] - x[3 * j + k, 0]) ** 2
                r = np.sqrt(square)
                law = kinds[pair], tails[pair], lengths[pair], firsts[pair], lasts[pair]
                closest = min(closest, r)
                if law[0] == TABLE:
                    near = min(near, r / tables[0][law[3]])
                if near >= 1.0:
                    energy += _energy(law[0], law[1], law[2], law[3], law[4], tables[0], tables[1], r)
                pair += 1
        if not (np.isfinite(x).all() and np.isfinite(v).all()):
            status[event] = NOT_FINITE
        elif closest < _CLOSEST:
            status[event] = COINCIDENT
        elif near < 1.0:
            status[event] = NEARER
        elif not energy > 0.0:
            status[event] = BOUND
        else:
            status[event] = _flown(x, v, f, masses, laws, tables, method, accuracy, energy)
        for d in range(3 * n):
            momenta[event, d // 3, d % 3] = masses[d // 3] * v[d, 0]
            for k in range(columns - 1):
                jacobian[event, d, k] = masses[d // 3] * v[d, 1 + k]
