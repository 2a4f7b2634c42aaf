"""Which orders of identical atoms bring a geometry near a reference: a search that prunes.

An order puts one atom on each site of the reference. Sites are filled one after the other, and
a partial order is given up where even the best of its completions lies beyond a ceiling. Two
lower bounds of the weighted residual min over R of sum w |x - R e|^2 decide, both from centred
coordinates: that of the pairs, sum w w' (d - d')^2 / sum w (the identity of the centroid, and
|u - v| >= ||u| - |v||), where a site that is still free takes its cheapest atom; and that of
the sites that are filled, turned as suits them best, with the radii of the others.
"""

from __future__ import annotations

import math

import numpy as np

from flowcei.physics._compilation import compiled, kernel
from flowcei.physics._rotations import log_average, proper_singular_values

_FEW = 6  # atoms up to which all orders cost less than a good first one
_EXHAUSTED = -1
_TOO_MANY = -2


@compiled
def _scratch(n):
    """Return room for one search over n atoms."""
    return (
        np.empty((n, 3)),  # the geometry, from its centroid
        np.empty((n, n)),  # its distances
        np.empty(n),  # its radii
        np.empty((n + 1, n, n)),  # cost of a site with an atom, after as many sites were filled
        np.empty((n + 1, 3, 3)),  # sum of w x e^T
        np.empty((n + 1, 3)),  # of the sites filled: pairs' and radii's residual, sum of w (|x|^2 + |e|^2)
        np.empty((n, n), np.int64),  # candidates of a site, cheapest first
        np.zeros((2, n), np.int64),  # how many there are, and the next
        np.zeros(n, np.int64),  # the atom of each site
        np.zeros(n, np.bool_),  # atoms in use
        np.empty((3, 3)),
        np.empty(3),  # proper singular values of the sum over all sites
        np.empty(n),  # of the candidates: how badly they fit
    )


@compiled
def _begin(point, weights, room):
    """Put a geometry (N, 3) into the scratch of a new search."""
    x, distance, radius, cost, outer, filled, _, _, _, used, _, _, _ = room
    n, total = len(point), 0.0
    for i in range(n):
        total += weights[i]
    for axis in range(3):
        centre = 0.0
        for i in range(n):
            centre += weights[i] * point[i, axis]
        for i in range(n):
            x[i, axis] = point[i, axis] - centre / total
    for i in range(n):
        radius[i] = math.sqrt(x[i, 0] ** 2 + x[i, 1] ** 2 + x[i, 2] ** 2)
        used[i] = False
        for j in range(i):
            u, v, w = x[i, 0] - x[j, 0], x[i, 1] - x[j, 1], x[i, 2] - x[j, 2]
            distance[i, j] = distance[j, i] = math.sqrt(u * u + v * v + w * w)
        distance[i, i] = 0.0
    cost[0] = 0.0
    outer[0] = 0.0
    filled[0] = 0.0


@compiled
def _list_candidates(site, plan, room):
    """List the atoms that may take a site, the cheapest first."""
    _, kind, _, _, spans, below = plan
    _, _, radius, cost, _, _, candidates, counts, order, used, _, _, keys = room
    count = 0
    for atom in range(len(used)):
        if used[atom] or kind[atom] != kind[plan[0][site]]:
            continue
        allowed = True
        for base in range(site):
            if below[site, base] and order[base] > atom:
                allowed = False
        if not allowed:
            continue
        place = count
        gap = radius[atom] - spans[site, site]
        key = gap * gap + cost[site, site, atom] * len(used) / max(site, 1)
        while place > 0 and keys[place - 1] > key:
            candidates[site, place], keys[place] = candidates[site, place - 1], keys[place - 1]
            place -= 1
        candidates[site, place], keys[place] = atom, key
        count += 1
    counts[0, site], counts[1, site] = count, 0


@compiled
def _bound(site, atom, plan, room, ceiling):
    """Put an atom on a site; return a lower bound of the residual of all completions."""
    sites, kind, weights, reference, spans, _ = plan
    x, distance, radius, cost, outer, filled, _, counts, _, used, matrix, values, _ = room
    n, total = len(sites), 0.0
    for i in range(n):
        total += weights[i]
    own = weights[sites[site]]
    for row in range(3):
        for column in range(3):
            outer[site + 1, row, column] = (
                outer[site, row, column] + own * x[atom, row] * reference[site, column]
            )
    pairs = filled[site + 1, 0] = filled[site, 0] + cost[site, site, atom]
    gap = radius[atom] - spans[site, site]
    radii = filled[site + 1, 1] = filled[site, 1] + own * gap * gap
    squares = filled[site + 1, 2] = filled[site, 2] + own * (radius[atom] ** 2 + spans[site, site] ** 2)
    free = 0.0
    for other in range(site + 1, n):
        share = own * weights[sites[other]] / total
        cheapest, nearest = math.inf, math.inf
        for candidate in range(n):
            if used[candidate] or candidate == atom or kind[candidate] != kind[sites[other]]:
                continue
            gap = distance[atom, candidate] - spans[site, other]
            value = cost[site, other, candidate] + share * gap * gap
            cost[site + 1, other, candidate] = value
            cheapest = min(cheapest, value)
            gap = radius[candidate] - spans[other, other]
            nearest = min(nearest, weights[sites[other]] * gap * gap)
        pairs += cheapest
        free += nearest
    # Turning a part costs a decomposition: not where it cannot save one.
    forced = counts[0, site] == 1 or site == n - 2 or ceiling == math.inf
    bound = max(pairs, radii + free)
    if bound > ceiling or (forced and site < n - 1):
        return bound
    for row in range(3):
        for column in range(3):
            matrix[row, column] = outer[site + 1, row, column]
    s1, s2, s3 = proper_singular_values(matrix)
    values[0], values[1], values[2] = s1, s2, s3
    return max(bound, squares + free - 2.0 * (s1 + s2 + s3))


@compiled
def _advance(site, fresh, ceiling, plan, room, left):
    """Go on to the next whole order within the ceiling.

    Args:
        site: Where to go on.
        fresh: Whether its atoms are still to be listed; else it has one, and takes the next.
        ceiling: Of the residual.
        plan: What is the same for all geometries.
        room: Of the search.
        left: Partial orders that may still be looked at, (1,).

    Returns:
        The number of sites, or why there is none.
    """
    n = len(plan[0])
    _, _, _, cost, _, filled, candidates, counts, order, used, _, _, _ = room
    if not fresh:
        used[order[site]] = False
    while site >= 0:
        if fresh:
            _list_candidates(site, plan, room)
            fresh = False
        if counts[1, site] >= counts[0, site]:
            site -= 1
            if site >= 0:
                used[order[site]] = False
            continue
        atom = candidates[site, counts[1, site]]
        counts[1, site] += 1
        if filled[site, 0] + cost[site, site, atom] > ceiling:
            continue
        left[0] -= 1
        if left[0] < 0:
            return _TOO_MANY
        if _bound(site, atom, plan, room, ceiling) > ceiling:
            continue
        order[site] = atom
        used[atom] = True
        site += 1
        if site == n:
            return n
        fresh = True
    return _EXHAUSTED


@compiled
def _value(room, n, variance):
    """Return the log density of the order that was found, up to a constant."""
    values = room[11]
    average = log_average(values[0] / variance, values[1] / variance, values[2] / variance)
    return average - 0.5 * room[5][n, 2] / variance


@kernel
def log_displaced_unlabelled(points, plan, free, variance, cut, budget, out):
    """Write log of the sum over orders of the densities of `log_displaced` to `out` (B,).

    Args:
        points: (B, N, 3), bohr.
        plan: As of `flowcei.physics.priors.orders`, for one order of each class.
        free: The same for all orders: its first order is looked for, as that of a class may lie
            where no cheap step leads.
        variance: Of each component of each atom, bohr^2.
        cut: An order with less than exp(-cut) of the greatest is left out.
        budget: Partial orders of a geometry that are looked at.
        out: (B,); NaN for positions that are not finite, and where `budget` does not suffice.
    """
    n = points.shape[1]
    room = _scratch(n)
    left = np.zeros(1, np.int64)
    for b in range(len(points)):
        _begin(points[b], plan[2], room)
        if not math.isfinite((room[2] ** 2).sum()):
            out[b] = math.nan
            continue
        left[0] = budget
        best, total, ceiling = -math.inf, 0.0, math.inf
        if n > _FEW:
            # What it costs to be near, then more, until there is an order: a poor first one prunes little.
            ceiling, state = 4.0 * n * variance, _EXHAUSTED
            while state == _EXHAUSTED:
                ceiling *= 4.0
                _begin(points[b], plan[2], room)
                state = _advance(0, True, ceiling, free, room, left)
            if state == n:
                best = _value(room, n, variance)
                ceiling = 2.0 * variance * (cut - best)
            _begin(points[b], plan[2], room)
        site, fresh = 0, True
        while True:
            state = _advance(site, fresh, ceiling, plan, room, left)
            if state != n:
                break
            site, fresh = n - 1, False
            value = _value(room, n, variance)
            if value > best:
                total = total * math.exp(best - value) + 1.0
                best = value
                # The average is never above its integrand's greatest value: that prunes, exactly.
                ceiling = 2.0 * variance * (cut - best)
            else:
                total += math.exp(value - best)
        out[b] = math.nan if state == _TOO_MANY else best + math.log(total)


@kernel
def near_orders(points, plan, ceilings, most, budget):
    """Return all orders whose residual lies within the ceiling of their geometry.

    Args:
        points: (B, N, 3).
        plan: As of `flowcei.physics.priors.orders`.
        ceilings: (B,).
        most: Orders of a geometry that are returned, the first ones found.
        budget: Partial orders of a geometry that are looked at.

    Returns:
        The geometry of each order (K,), the orders (K, N): the atom of each site of the
        reference; and of which geometries `budget` did not suffice, (B,): these have no orders.
    """
    n = points.shape[1]
    room = _scratch(n)
    left = np.zeros(1, np.int64)
    rows, orders, count = np.empty(64, np.int64), np.empty((64, n), np.int64), 0
    lost = np.zeros(len(points), np.bool_)
    for b in range(len(points)):
        _begin(points[b], plan[2], room)
        if not math.isfinite((room[2] ** 2).sum()):
            continue
        left[0] = budget
        site, fresh, more, first = 0, True, most, count
        while more > 0:
            state = _advance(site, fresh, ceilings[b], plan, room, left)
            if state == _TOO_MANY:
                lost[b], count = True, first
            if state != n:
                break
            site, fresh, more = n - 1, False, more - 1
            if count == len(rows):
                rows = np.concatenate((rows, rows))
                orders = np.concatenate((orders, orders))
            rows[count] = b
            for site in range(n):
                orders[count, plan[0][site]] = room[8][site]
            count += 1
    return rows[:count], orders[:count], lost
