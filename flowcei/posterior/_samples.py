"""Compiled: what is done with each of many samples."""

from __future__ import annotations

import math

from flowcei.physics._lanes import numbers
from flowcei.physics._vectors import between, cross, dot
from flowcei.storage._compilation import kernel


@kernel
def enter_frame(positions, order, share, rotation, out) -> None:
    """Write positions (E, n, N, 3) with ions in an order (E, n, N) or (E, 1, N), turned about their centre.

    `share` (N,) of the mass is that of the ions as ordered, `rotation` (E, 3, 3) acts from the left.
    """
    for e in range(positions.shape[0]):
        for s in range(positions.shape[1]):
            x, ions = positions[e, s], order[e, min(s, order.shape[1] - 1)]
            u = v = w = 0.0
            for k in range(len(ions)):
                u += share[k] * x[ions[k], 0]
                v += share[k] * x[ions[k], 1]
                w += share[k] * x[ions[k], 2]
            for k in range(len(ions)):
                a, b, c = x[ions[k], 0] - u, x[ions[k], 1] - v, x[ions[k], 2] - w
                for axis in range(3):
                    turned = rotation[e, axis, 0] * a + rotation[e, axis, 1] * b + rotation[e, axis, 2] * c
                    out[e, s, k, axis] = turned


@kernel
def measure(positions, bonds, angles, values, cosines) -> None:
    """Write coordinates, lengths of bonds (b, 2), sines of angles (a, 3) of positions (B, N, 3): (Q, B).

    The cosines (a, B) are apart; both are times the lengths of the sides.
    """
    for k in range(positions.shape[0]):
        x = positions[k]
        at = 0
        for ion in range(x.shape[0]):
            for axis in range(3):
                values[at, k] = x[ion, axis]
                at += 1
        for i in range(bonds.shape[0]):
            bond = between(x, bonds[i, 0], bonds[i, 1])
            values[at, k] = math.sqrt(dot(bond, bond))
            at += 1
        for i in range(angles.shape[0]):
            a, b = between(x, angles[i, 1], angles[i, 0]), between(x, angles[i, 1], angles[i, 2])
            normal = cross(a, b)
            values[at, k], cosines[i, k] = math.sqrt(dot(normal, normal)), dot(a, b)
            at += 1


@kernel
def summarise(ordered, levels, out) -> None:
    """Write mean, deviation and percentiles at levels (L,) of 0 to 1 of rising values (E, n): (2 + L, E)."""
    n = ordered.shape[1]
    for e in range(ordered.shape[0]):
        x = ordered[e]
        a = b = c = d = 0.0  # four sums, since each waits for itself
        for k in range(0, n - 3, 4):
            a, b, c, d = a + x[k], b + x[k + 1], c + x[k + 2], d + x[k + 3]
        for k in range(n - n % 4, n):
            a += x[k]
        mean = (a + b + c + d) / n
        a = b = c = d = 0.0
        for k in range(0, n - 3, 4):
            a += (x[k] - mean) ** 2
            b += (x[k + 1] - mean) ** 2
            c += (x[k + 2] - mean) ** 2
            d += (x[k + 3] - mean) ** 2
        for k in range(n - n % 4, n):
            a += (x[k] - mean) ** 2
        out[0, e], out[1, e] = mean, math.sqrt((a + b + c + d) / n)
        for i in range(len(levels)):
            place = levels[i] * (n - 1)
            low = math.floor(place)
            share = place - low
            step = x[min(low + 1, n - 1)] - x[low]
            # As NumPy does, whose steps from either side meet in the middle.
            level = x[low] + step * share if share < 0.5 else x[low] + step - step * (1.0 - share)
            out[2 + i, e] = level if x[n - 1] == x[n - 1] else math.nan  # NaN is sorted to the end


@kernel
def first_reaching(edges, marks, chosen) -> None:
    """Write the first of rising edges (E, P) that is not below each of rising marks (E, n), or the last."""
    for e in range(edges.shape[0]):
        at, last = 0, edges.shape[1] - 1
        for k in range(marks.shape[1]):
            while at < last and edges[e, at] < marks[e, k]:
                at += 1
            chosen[e, k] = at


@kernel
def count_bins(values, weights, scale, counts) -> None:
    """Add the weights (E,) of values (E, n), times a scale, to bins of width 1, half of them below 0."""
    middle, bins = len(counts) // 2, numbers(counts)
    for e in range(values.shape[0]):
        for k in range(values.shape[1]):
            bins[math.floor(values[e, k] * scale) + middle] += weights[e]
