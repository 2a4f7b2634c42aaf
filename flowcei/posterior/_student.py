"""Kernels of mixtures of t distributions, and of bends; arrays are C-contiguous and of double precision.

Coordinate i of as many points of an event as a row has lanes is row i (see `flowcei.physics._lanes`).
"""

from __future__ import annotations

import math

from flowcei.physics._growth import ODDS, exp_minus
from flowcei.physics._lanes import (
    LANES,
    Lanes,
    aligned,
    exponent,
    keep,
    load,
    power_of_two,
    scratch,
    store,
    where_greater,
)
from flowcei.storage._compilation import compiled, kernel

_BLOCK = min(LANES.values())  # points, of double precision
_LEAST = -1e300  # log density: components without a share have less
_FADED = 80.0
_EXP, _TERMS = 13, 11  # of exp and atanh, in double precision


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
    room = scratch(2 * d + 1, points)
    rows = aligned(room)
    for e in range(points.shape[0]):
        for first in range(0, count, _BLOCK):
            _gather(points[e], first, rows)
            for k in range(mean.shape[1]):
                store(rows, 2 * d, _squared_distance(rows, mean[e, k], inverse[e, k]))
                for lane in range(min(_BLOCK, count - first)):
                    out[e, k, first + lane] = rows[2 * d * _BLOCK + lane]
    keep(room)


@kernel
def log_density(points, mean, inverse, height, dof, out) -> None:
    """Write the log density (E, M) of points (E, M, D) to `out`; `height` (E, K) is that at the means."""
    d, count, components = points.shape[2], points.shape[1], mean.shape[1]
    room = scratch(2 * (d + components), points)
    rows = aligned(room)
    for e in range(points.shape[0]):
        for first in range(0, count, _BLOCK):
            _gather(points[e], first, rows)
            for k in range(components):
                store(rows, 2 * d + k, _squared_distance(rows, mean[e, k], inverse[e, k]))
            top = _heights(rows, height[e], d, dof)
            total = 0.0 * top
            for k in range(2 * d + components, 2 * (d + components)):
                total = total + _faded(load(rows, k) - top)
            store(rows, 0, top + _log1p(total - 1.0))
            for lane in range(min(_BLOCK, count - first)):
                out[e, first + lane] = rows[lane]
    keep(room)


@compiled
def _heights(rows, heights, d, dof) -> Lanes:
    """Write log densities of components after squared distances, which begin at row 2D; the greatest."""
    count, power = len(heights), 0.5 * (dof + d)
    top = 0.0 * load(rows, 0) + _LEAST
    for k in range(2 * d, 2 * d + count):
        value = heights[k - 2 * d] - power * _log1p(load(rows, k) * (1.0 / dof))
        store(rows, k + count, value)
        top = where_greater(value, top, value, top)
    return top


@compiled
def _log1p(u) -> Lanes:
    """log(1 + u) of u >= 0, to rounding beside 1: the greatest are like 1e300."""
    u = where_greater(u, 1e300, 1e300, u) + 1.0
    power = exponent(u * math.sqrt(2.0))
    u = u * power_of_two(0.0 - power)
    # Of m between sqrt(1/2) and sqrt(2): 2 atanh(s) with |s| < 0.172.
    s = (u - 1.0) / (u + 1.0)
    square, total = s * s, 0.0 * s + ODDS[_TERMS - 1]
    for k in range(2, _TERMS + 1):
        total = total * square + ODDS[_TERMS - k]
    return power * math.log(2.0) + 2.0 * s * total


@compiled
def _faded(u) -> Lanes:
    """exp(u) of u <= 0, at the least 1e-35, which is nothing beside 1."""
    return exp_minus(where_greater(u, -_FADED, 0.0 - u, _FADED), _EXP)


@compiled
def _weigh(rows, heights, d, dof) -> None:
    """Write the share of each component at a block's points, and by what it pulls them.

    Of squared distances, which begin at row 2D and pulls replace; shares follow these.
    """
    count = len(heights)
    total = 0.0 * load(rows, 2 * d)
    top = _heights(rows, heights, d, dof)
    for k in range(2 * d + count, 2 * (d + count)):
        store(rows, k, _faded(load(rows, k) - top))
        total = total + load(rows, k)
    for k in range(2 * d, 2 * d + count):
        share = load(rows, k + count) / total
        store(rows, k + count, share)
        store(rows, k, share * (dof + d) / (dof + load(rows, k)))


@compiled
def _pull(rows, mean, own, count, at) -> None:
    """Add to the rows from `at` on what a component pulls a block by: that is in row `own`, shares follow."""
    d, pull = len(mean), load(rows, own)
    store(rows, at, load(rows, at) + load(rows, own + count))
    store(rows, at + 1, load(rows, at + 1) + pull)
    at += 2
    for i in range(d):
        off = load(rows, i) - mean[i]
        store(rows, d + i, off)
        pulled = pull * off
        store(rows, at + i, load(rows, at + i) + pulled)
        product = at + d + i * (i + 1) // 2
        for j in range(i + 1):
            store(rows, product + j, load(rows, product + j) + pulled * load(rows, d + j))


@compiled
def _clear(rows, start, end) -> None:
    for k in range(start, end):
        rows[k] = 0.0


@kernel
def pulls(points, mean, inverse, height, dof, share, first, second) -> None:
    """Add up what points (E, M, D) pull components by: a step of expectation.

    Writes sums of shares and of pulls, (E, K, 2), of pulls times deviations from the mean, (E, K, D), and
    times their products, the lower half of (E, K, D, D). Points in the tails pull less than they count.
    """
    d, m, count = points.shape[2], points.shape[1], mean.shape[1]
    size = 2 + d + d * (d + 1) // 2
    start = 2 * d + 2 * count
    room = scratch(start + count * size, points)
    rows = aligned(room)
    for e in range(points.shape[0]):
        _clear(rows, start * _BLOCK, (start + count * size) * _BLOCK)
        for begin in range(0, m, _BLOCK):
            _gather(points[e], begin, rows)
            for k in range(count):
                store(rows, 2 * d + k, _squared_distance(rows, mean[e, k], inverse[e, k]))
            _weigh(rows, height[e], d, dof)
            for k in range(2 * d, 2 * (d + count)):  # what fills up a last block counts nothing
                _clear(rows, k * _BLOCK + min(_BLOCK, m - begin), (k + 1) * _BLOCK)
            for k in range(count):
                _pull(rows, mean[e, k], 2 * d + k, count, start + k * size)
        for k in range(count):
            at = start + k * size
            for i in range(2):
                share[e, k, i] = _sum(rows, at + i)
            for i in range(d):
                first[e, k, i] = _sum(rows, at + 2 + i)
                for j in range(i + 1):
                    second[e, k, i, j] = _sum(rows, at + 2 + d + i * (i + 1) // 2 + j)
    keep(room)


@compiled
def _sum(rows, row) -> float:
    """Sum over the lanes of a row."""
    total = 0.0
    for lane in range(_BLOCK):
        total += rows[row * _BLOCK + lane]
    return total


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
    drivers, room = _drivers(slope.shape[1]), scratch(2 * d, points)
    rows = aligned(room)
    for e in range(points.shape[0]):
        for first in range(0, points.shape[1], _BLOCK):
            _gather(points[e], first, rows)
            for i in range(d):
                store(rows, d + i, load(rows, i) - centre[e, i])
            _transform(rows, d, inverse[e], 0)
            for k in range(d - 1, 0, -1):  # from the last: shifts are those of what is not straight yet
                store(rows, k, load(rows, k) - _shift(rows, k, drivers, slope[e]))
            _scatter(rows, 0, first, out[e])
    keep(room)


@kernel
def bent(straight, centre, axes, slope, out) -> None:
    """Write the points of straight coordinates (E, M, D) to `out`."""
    d = straight.shape[2]
    drivers, room = _drivers(slope.shape[1]), scratch(2 * d, straight)
    rows = aligned(room)
    for e in range(straight.shape[0]):
        for first in range(0, straight.shape[1], _BLOCK):
            _gather(straight[e], first, rows)
            for k in range(1, d):
                store(rows, k, load(rows, k) + _shift(rows, k, drivers, slope[e]))
            _transform(rows, 0, axes[e], d)
            for i in range(d):
                store(rows, d + i, load(rows, d + i) + centre[e, i])
            _scatter(rows, d, first, out[e])
    keep(room)
