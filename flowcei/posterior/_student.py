"""Kernels of mixtures of t distributions, and of bends; arrays are C-contiguous and of double precision.

Coordinate i of as many points of an event as a row has lanes is row i (see `flowcei.physics._lanes`).
"""

from __future__ import annotations

import math

from flowcei.physics._compilation import compiled, kernel
from flowcei.physics._lanes import LANES, Lanes, aligned, load, store

_BLOCK = min(LANES.values())  # points, of double precision


@compiled
def _gather(points, first, rows) -> None:
    """Write points (M, D) from the first on to the first D of the rows; a last block ends in copies."""
    for lane in range(_BLOCK):
        for i in range(points.shape[1]):
            rows[i * _BLOCK + lane] = points[min(first + lane, len(points) - 1), i]


@compiled
def _scatter(rows, start, first, points) -> None:
    """Write the D rows from `start` on to points (M, D), from the first on."""
    for lane in range(min(_BLOCK, len(points) - first)):
        for i in range(points.shape[1]):
            points[first + lane, i] = rows[(start + i) * _BLOCK + lane]


@compiled
def _squared_distance(rows, mean, inverse) -> Lanes:
    """|L^-1 (x - mean)|^2 of points in the first D rows; the inverse (D, D) of a lower triangular L."""
    d = len(mean)
    for i in range(d):
        store(rows, d + i, load(rows, i) - mean[i])
    first = inverse[0, 0] * load(rows, d)
    total = first * first
    for i in range(1, d):
        row = inverse[i, 0] * load(rows, d)
        for j in range(1, i + 1):
            row = row + inverse[i, j] * load(rows, d + j)
        total = total + row * row
    return total


@kernel
def distances(points, mean, inverse, out) -> None:
    """Write the squared distances (E, K, M) of points (E, M, D) from means (E, K, D) to `out`."""
    d, count = points.shape[2], points.shape[1]
    rows = aligned(2 * d + 1, points)
    for e in range(points.shape[0]):
        for first in range(0, count, _BLOCK):
            _gather(points[e], first, rows)
            for k in range(mean.shape[1]):
                store(rows, 2 * d, _squared_distance(rows, mean[e, k], inverse[e, k]))
                for lane in range(min(_BLOCK, count - first)):
                    out[e, k, first + lane] = rows[2 * d * _BLOCK + lane]


@kernel
def log_density(points, mean, inverse, height, dof, out) -> None:
    """Write the log density (E, M) of points (E, M, D) to `out`; `height` (E, K) is that at the means."""
    d, count, components = points.shape[2], points.shape[1], mean.shape[1]
    power = 0.5 * (dof + d)
    rows = aligned(2 * d + components, points)
    for e in range(points.shape[0]):
        for first in range(0, count, _BLOCK):
            _gather(points[e], first, rows)
            for k in range(components):
                store(rows, 2 * d + k, _squared_distance(rows, mean[e, k], inverse[e, k]))
            for lane in range(min(_BLOCK, count - first)):
                top, total = -math.inf, 0.0
                for k in range(components):
                    distance = rows[(2 * d + k) * _BLOCK + lane]
                    value = height[e, k] - power * math.log1p(distance / dof)
                    if value == -math.inf:
                        continue
                    if value <= top:
                        total += math.exp(value - top)
                    elif value > top:
                        total = total * math.exp(top - value) + 1.0
                        top = value
                out[e, first + lane] = top + math.log(total) if total > 0.0 else top


@kernel
def scaled(mean, factor, chosen, tail, normal, out) -> None:
    """Write mean + tail L z of the chosen components (E, n) to `out` (E, n, D), which may be z itself."""
    d = normal.shape[2]
    for e in range(normal.shape[0]):
        for m in range(normal.shape[1]):
            k = chosen[e, m]
            for i in range(d - 1, -1, -1):  # from the last: z may be overwritten
                row = 0.0
                for j in range(i + 1):
                    row += factor[e, k, i, j] * normal[e, m, j]
                out[e, m, i] = mean[e, k, i] + tail[e, m] * row


@compiled
def _shift(rows, k, drivers, slope) -> Lanes:
    """Shift of coordinate k >= 1 by products of the drivers before it, and by these: slope (F, D)."""
    before = min(k, drivers)
    pairs = drivers * (drivers + 1) // 2
    total = load(rows, 0) * slope[pairs, k]
    for i in range(1, before):
        total = total + load(rows, i) * slope[pairs + i, k]
    row = 0
    for i in range(drivers):
        for j in range(i, drivers):
            if j < before:
                product = load(rows, i) * load(rows, j)
                total = total + (product - (1.0 if i == j else 0.0)) * slope[row, k]
            row += 1
    return total


@compiled
def _drivers(features) -> int:
    """How many coordinates have so many products and are as many."""
    count = 0
    while count * (count + 3) // 2 < features:
        count += 1
    return count


@compiled
def _transform(rows, source, matrix, target) -> None:
    """Write the product of a matrix (D, D) and the rows from `source` on to those from `target` on."""
    for i in range(len(matrix)):
        row = matrix[i, 0] * load(rows, source)
        for j in range(1, len(matrix)):
            row = row + matrix[i, j] * load(rows, source + j)
        store(rows, target + i, row)


@kernel
def straightened(points, centre, inverse, slope, out) -> None:
    """Write straight coordinates of points (E, M, D) to `out`: see `flowcei.posterior.bent`."""
    d = points.shape[2]
    drivers, rows = _drivers(slope.shape[1]), aligned(2 * d, points)
    for e in range(points.shape[0]):
        for first in range(0, points.shape[1], _BLOCK):
            _gather(points[e], first, rows)
            for i in range(d):
                store(rows, d + i, load(rows, i) - centre[e, i])
            _transform(rows, d, inverse[e], 0)
            for k in range(d - 1, 0, -1):  # from the last: shifts are those of what is not straight yet
                store(rows, k, load(rows, k) - _shift(rows, k, drivers, slope[e]))
            _scatter(rows, 0, first, out[e])


@kernel
def bent(straight, centre, axes, slope, out) -> None:
    """Write the points of straight coordinates (E, M, D) to `out`."""
    d = straight.shape[2]
    drivers, rows = _drivers(slope.shape[1]), aligned(2 * d, straight)
    for e in range(straight.shape[0]):
        for first in range(0, straight.shape[1], _BLOCK):
            _gather(straight[e], first, rows)
            for k in range(1, d):
                store(rows, k, load(rows, k) + _shift(rows, k, drivers, slope[e]))
            _transform(rows, 0, axes[e], d)
            for i in range(d):
                store(rows, d + i, load(rows, d + i) + centre[e, i])
            _scatter(rows, d, first, out[e])
