"""Kernels of mixtures of t distributions, and of bends; arrays are C-contiguous and of double precision."""

from __future__ import annotations

import math

from flowcei.physics._compilation import compiled, kernel


@compiled
def _squared_distance(point, mean, inverse) -> float:
    """|L^-1 (x - mean)|^2 of a point (D,) and the inverse (D, D) of a lower triangular L."""
    total = 0.0
    for i in range(len(point)):
        row = 0.0
        for j in range(i + 1):
            row += inverse[i, j] * (point[j] - mean[j])
        total += row * row
    return total


@kernel
def distances(points, mean, inverse, out) -> None:
    """Write the squared distances (E, K, M) of points (E, M, D) from means (E, K, D) to `out`."""
    for e in range(points.shape[0]):
        for k in range(mean.shape[1]):
            for m in range(points.shape[1]):
                out[e, k, m] = _squared_distance(points[e, m], mean[e, k], inverse[e, k])


@kernel
def log_density(points, mean, inverse, height, dof, out) -> None:
    """Write the log density (E, M) of points (E, M, D) to `out`; `height` (E, K) is that at the means."""
    count = mean.shape[1]
    power = 0.5 * (dof + points.shape[2])
    for e in range(points.shape[0]):
        for m in range(points.shape[1]):
            top, total = -math.inf, 0.0
            for k in range(count):
                distance = _squared_distance(points[e, m], mean[e, k], inverse[e, k])
                value = height[e, k] - power * math.log1p(distance / dof)
                if value == -math.inf:
                    continue
                if value <= top:
                    total += math.exp(value - top)
                elif value > top:
                    total = total * math.exp(top - value) + 1.0
                    top = value
            out[e, m] = top + math.log(total) if total > 0.0 else top


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
def _shift(z, k, drivers, slope) -> float:
    """Shift of coordinate k of z (D,) by products of the drivers before it, and by these: slope (F, D)."""
    before = min(k, drivers)
    total, row = 0.0, 0
    for i in range(drivers):
        for j in range(i, drivers):
            if j < before:
                total += (z[i] * z[j] - (1.0 if i == j else 0.0)) * slope[row, k]
            row += 1
    for i in range(before):
        total += z[i] * slope[row + i, k]
    return total


@compiled
def _drivers(features) -> int:
    """How many coordinates have so many products and are as many."""
    count = 0
    while count * (count + 3) // 2 < features:
        count += 1
    return count


@kernel
def straightened(points, centre, inverse, slope, out) -> None:
    """Write straight coordinates of points (E, M, D) to `out`: see `flowcei.posterior.bent`."""
    d = points.shape[2]
    drivers = _drivers(slope.shape[1])
    for e in range(points.shape[0]):
        for m in range(points.shape[1]):
            for i in range(d):
                row = 0.0
                for j in range(d):
                    row += inverse[e, i, j] * (points[e, m, j] - centre[e, j])
                out[e, m, i] = row
            for k in range(d - 1, 0, -1):  # from the last: shifts are those of what is not straight yet
                out[e, m, k] -= _shift(out[e, m], k, drivers, slope[e])


@kernel
def bent(straight, centre, axes, slope, out) -> None:
    """Write the points of straight coordinates (E, M, D), which are changed, to `out`."""
    d = straight.shape[2]
    drivers = _drivers(slope.shape[1])
    for e in range(straight.shape[0]):
        for m in range(straight.shape[1]):
            for k in range(1, d):
                straight[e, m, k] += _shift(straight[e, m], k, drivers, slope[e])
            for i in range(d):
                row = centre[e, i]
                for j in range(d):
                    row += axes[e, i, j] * straight[e, m, j]
                out[e, m, i] = row
