"""Which orders of identical atoms bring a geometry near a reference: a search that prunes.

An order puts one atom on each site of the reference. Sites are filled one after the other, and
a partial order is given up where even the best of its completions lies beyond a ceiling. Two
lower bounds of the weighted residual min over R of sum w |x - R e|^2 decide, both from centred
coordinates: that of the pairs, sum w w' (d - d')^2 / sum w (the identity of the centroid, and
|u - v| >= ||u| - |v||), where a site that is still free takes its cheapest atom; and that of
the sites that are filled, turned as suits them best, with the radii of the others.

The `plan` of each search is `flowcei.physics.priors.orders._Plan`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowcei.physics._rotations import log_average, proper_singular_values
from flowcei.physics._vectors import between, copy, dot, insert
from flowcei.storage._compilation import compiled, kernel

_FEW = 6  # atoms up to which all orders cost less than a good first one
_EXHAUSTED, _TOO_MANY = -1, -2


class _Search(NamedTuple):
    """Room for one search over n atoms."""

    x: NDArray[np.float64]  # the geometry, from its centroid, (n, 3)
    distance: NDArray[np.float64]  # (n, n)
    radius: NDArray[np.float64]  # (n,)
    cost: NDArray[np.float64]  # of a site with an atom, after as many sites were filled, (n + 1, n, n)
    outer: NDArray[np.float64]  # sum of w x e^T over the sites filled, and room for a copy, (n + 2, 3, 3)
    sums: NDArray[np.float64]  # their residual of pairs, of radii, and sum of w (|x|^2 + |e|^2), (n + 1, 3)
    candidates: NDArray[np.int64]  # of a site, best first, (n, n)
    misfits: NDArray[np.float64]  # of the candidates of a site, (n,)
    count: NDArray[np.int64]  # of the candidates of each site, (n,)
    tried: NDArray[np.int64]  # of these, (n,)
    order: NDArray[np.int64]  # the atom of each site, (n,)
    used: NDArray[np.bool_]  # atoms on the sites before the last, (n,)
    values: NDArray[np.float64]  # proper singular values of `outer` of a whole order, (3,)
    budget: NDArray[np.int64]  # partial orders that may still be looked at, (1,)


@compiled
def _search(n) -> _Search:
    return _Search(
        np.empty((n, 3)),
        np.empty((n, n)),
        np.empty(n),
        np.zeros((n + 1, n, n)),
        np.zeros((n + 2, 3, 3)),
        np.zeros((n + 1, 3)),
        np.empty((n, n), np.int64),
        np.empty(n),
        np.empty(n, np.int64),
        np.empty(n, np.int64),
        np.empty(n, np.int64),
        np.empty(n, np.bool_),
        np.empty(3),
        np.empty(1, np.int64),
    )


@compiled
def _begin(point, plan, search) -> float:
    """Begin a search for orders of a geometry (N, 3); return the sum of its squares, from the centroid."""
    x, radius, squares = search.x, search.radius, 0.0
    n, total = len(point), plan.weights.sum()
    for axis in range(3):
        centre = 0.0
        for i in range(n):
            centre += plan.weights[i] * point[i, axis]
        for i in range(n):
            x[i, axis] = point[i, axis] - centre / total
    for i in range(n):
        squares += dot(x[i], x[i])
        radius[i] = math.sqrt(dot(x[i], x[i]))
        for j in range(n):
            apart = between(x, i, j)
            search.distance[i, j] = math.sqrt(dot(apart, apart))
    search.used[:] = False
    _list_candidates(0, plan, search)
    return squares


@compiled
def _list_candidates(site, plan, search) -> None:
    """List the atoms that may take a site, the cheapest first."""
    sites, kind, _, _, spans, below, _ = plan
    n, count, greater = len(sites), 0, 0
    for k in range(n):
        greater += not search.used[k] and kind[k] == kind[sites[site]]
        greater -= below[k, site]  # sites to come whose atom must have a greater number
    for atom in range(n):
        allowed = not search.used[atom] and kind[atom] == kind[sites[site]]
        greater -= allowed
        allowed = allowed and greater >= 0
        for base in range(site):
            if below[site, base] and search.order[base] > atom:
                allowed = False
        if allowed:
            gap = search.radius[atom] - spans[site, site]
            misfit = gap * gap + search.cost[site, site, atom] * n / max(site, 1)
            insert(search.misfits, search.candidates[site], count, misfit, atom)
            count += 1
    search.count[site], search.tried[site] = count, 0


@compiled
def _bound(site, atom, plan, search, ceiling) -> float:
    """Put an atom on a site; return a lower bound of the residual of all completions."""
    sites, kind, weights, reference, spans, _, mirrored = plan
    x, distance, radius, cost, outer, sums, _, _, count, _, _, used, values, _ = search
    n, own, total = len(sites), weights[sites[site]], weights.sum()
    for row in range(3):
        for column in range(3):
            term = own * x[atom, row] * reference[site, column]
            outer[site + 1, row, column] = outer[site, row, column] + term
    gap, span = radius[atom] - spans[site, site], spans[site, site]
    pairs = sums[site + 1, 0] = sums[site, 0] + cost[site, site, atom]
    radii = sums[site + 1, 1] = sums[site, 1] + own * gap * gap
    squares = sums[site + 1, 2] = sums[site, 2] + own * (radius[atom] ** 2 + span**2)
    free = 0.0
    for other in range(site + 1, n):
        weight = weights[sites[other]]
        cheapest, nearest = math.inf, math.inf
        for candidate in range(n):
            if used[candidate] or candidate == atom or kind[candidate] != kind[sites[other]]:
                continue
            gap = distance[atom, candidate] - spans[site, other]
            value = cost[site, other, candidate] + own * weight / total * gap * gap
            cost[site + 1, other, candidate] = value
            cheapest = min(cheapest, value)
            gap = radius[candidate] - spans[other, other]
            nearest = min(nearest, weight * gap * gap)
        pairs += cheapest
        free += nearest
    # To turn the filled sites costs a decomposition: not where it cannot save one.
    forced = count[site] == 1 or site == n - 2 or ceiling == math.inf
    bound = max(pairs, radii + free)
    if bound > ceiling or (forced and site < n - 1):
        return bound
    copy(outer[site + 1], outer[n + 1])
    values[0], values[1], values[2] = proper_singular_values(outer[n + 1])
    if mirrored:
        values[2] = abs(values[2])
    return max(bound, squares + free - 2.0 * (values[0] + values[1] + values[2]))


@compiled
def _advance(site, ceiling, plan, search) -> int:
    """Go on from the candidates of a site to the next whole order with a residual within the ceiling.

    Returns the number of sites, or why there is no such order. It goes on from the last site.
    """
    n = len(plan.sites)
    _, _, _, cost, _, sums, candidates, _, count, tried, order, used, _, budget = search
    while site >= 0:
        if tried[site] == count[site]:
            site -= 1
            if site >= 0:
                used[order[site]] = False
            continue
        atom = candidates[site, tried[site]]
        tried[site] += 1
        if sums[site, 0] + cost[site, site, atom] > ceiling:
            continue
        budget[0] -= 1
        if budget[0] < 0:
            return _TOO_MANY
        if _bound(site, atom, plan, search, ceiling) > ceiling:
            continue
        order[site] = atom
        if site == n - 1:
            return n
        used[atom] = True
        site += 1
        _list_candidates(site, plan, search)
    return _EXHAUSTED


@compiled
def _log_density(search, n, variance) -> float:
    """Log density of the order that was reached, up to a constant."""
    s, squares = search.values, search.sums[n, 2]
    return log_average(s[0] / variance, s[1] / variance, s[2] / variance) - 0.5 * squares / variance


@kernel
def log_displaced_unlabelled(points, plan, free, variance, cut, budget, out) -> None:
    """Write log of the sum over orders of the densities of `log_displaced` to `out` (B,).

    points: (B, N, 3), bohr. plan: for one order of each class; free: for all orders, where the first one is
    looked for, as that of a class may lie where no cheap step leads. variance: of each component of each
    atom, bohr^2. cut: an order with less than exp(-cut) of the greatest is left out. budget: partial orders
    of a geometry that are looked at. NaN for positions that are not finite, and where that does not suffice.
    """
    n = points.shape[1]
    search = _search(n)
    for b in range(len(points)):
        out[b] = math.nan
        if not math.isfinite(_begin(points[b], plan, search)):
            continue
        search.budget[0] = budget
        best, total, ceiling = -math.inf, 0.0, math.inf
        if n > _FEW:
            # What it costs to be near, then more, until there is an order: a poor first one prunes little.
            ceiling, state = 4.0 * n * variance, _EXHAUSTED
            while state == _EXHAUSTED:
                ceiling *= 4.0
                _begin(points[b], free, search)
                state = _advance(0, ceiling, free, search)
            if state == n:
                best = _log_density(search, n, variance)
                ceiling = 2.0 * variance * (cut - best)
            _begin(points[b], plan, search)
        state = _advance(0, ceiling, plan, search)
        while state == n:
            value = _log_density(search, n, variance)
            if value > best:
                total *= math.exp(best - value)
                best = value
                # The average is never above its integrand's greatest value: that prunes, exactly.
                ceiling = 2.0 * variance * (cut - best)
            total += math.exp(value - best)
            state = _advance(n - 1, ceiling, plan, search)
        if state == _EXHAUSTED:
            out[b] = best + math.log(total)


@kernel
def near_orders(points, plan, ceilings, most, budget) -> tuple:
    """All orders of points (B, N, 3) whose residual lies within the ceiling (B,) of their geometry.

    most: orders of a geometry that are returned, the first ones reached; budget: partial orders of a
    geometry that are looked at. Returns the geometry of each order (K,), the orders (K, N), the atom of
    each site of the reference, and of which geometries `budget` did not suffice, (B,): these have none.
    """
    n = points.shape[1]
    search = _search(n)
    rows, orders, count = np.empty(64, np.int64), np.empty((64, n), np.int64), 0
    lost = np.zeros(len(points), np.bool_)
    for b in range(len(points)):
        if not math.isfinite(_begin(points[b], plan, search)):
            continue
        search.budget[0] = budget
        site, first, state = 0, count, n
        while count - first < most:
            state = _advance(site, ceilings[b], plan, search)
            if state != n:
                break
            if count == len(rows):
                rows, orders = np.concatenate((rows, rows)), np.concatenate((orders, orders))
            rows[count] = b
            for site in range(n):
                orders[count, plan.sites[site]] = search.order[site]
            site, count = n - 1, count + 1
        if state == _TOO_MANY:
            lost[b], count = True, first
    return rows[:count], orders[:count], lost


@kernel
def nearest_orders(points, plan, small, budget, out) -> None:
    """Write the order with the least residual of points (B, N, 3), the atom of each site, to `out` (B, N).

    small: a residual to begin with. budget: partial orders of a geometry that are looked at; then the best of
    these stands. Points that are not finite stay in their order.
    """
    n = points.shape[1]
    search = _search(n)
    for b in range(len(points)):
        for atom in range(n):
            out[b, atom] = atom
        if not math.isfinite(_begin(points[b], plan, search)):
            continue
        search.budget[0] = budget
        ceiling = small if n > _FEW else math.inf
        state = _advance(0, ceiling, plan, search)
        while state == _EXHAUSTED:  # more, until there is an order: a poor first one prunes little
            ceiling *= 4.0
            _begin(points[b], plan, search)
            state = _advance(0, ceiling, plan, search)
        if state == _TOO_MANY:
            search.budget[0] = n
            _begin(points[b], plan, search)
            state = _advance(0, math.inf, plan, search)
        while state == n:
            for site in range(n):
                out[b, plan.sites[site]] = search.order[site]
            ceiling = search.sums[n, 2] - 2.0 * search.values.sum()
            state = _advance(n - 1, ceiling, plan, search)
