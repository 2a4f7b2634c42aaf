"""The compiled searches behind `flowcei.posterior.labels`: which ions are bonded, which comes first."""

from __future__ import annotations

import math

import numpy as np

from flowcei.physics._compilation import compiled, kernel

_MOST_NODES = (
    10_000  # of one search: what is best by then is taken, and counted, so that no molecule takes for ever
)


@compiled
def _same_bonds(order, other, bonded):
    """Whether two orders join the same ions by bonds: they differ by a symmetry of the bonds."""
    place = np.empty(len(order), np.int64)
    for slot in range(len(order)):
        place[other[slot]] = slot
    for i in range(len(order)):
        for j in range(i):
            if bonded[i, j] and not bonded[place[order[i]], place[order[j]]]:
                return False
    return True


@compiled
def _insert(order, cost, bonded, orders, costs):
    """Put an order among the best of other bond graphs, which are sorted by rising cost."""
    most = len(costs)
    for k in range(most):
        if costs[k] < np.inf and _same_bonds(order, orders[k], bonded):
            return
    k = most - 1
    while k > 0 and costs[k - 1] > cost:
        costs[k] = costs[k - 1]
        orders[k] = orders[k - 1]
        k -= 1
    costs[k] = cost
    orders[k] = order


@compiled
def _search(x, group, visit, twin, later, bonded, target, limit, orders, costs):
    """Branch and bound over the slots in the order `visit`, cheapest ion first."""
    n = len(x)
    order, used = np.zeros(n, np.int64), np.zeros(n, np.bool_)
    ions, gains = np.empty((n, n), np.int64), np.empty((n, n))
    count, tried = np.zeros(n, np.int64), np.zeros(n, np.int64)
    partial, gained = np.zeros(n + 1), np.zeros(n)
    depth, fresh, nodes = 0, True, 0
    while depth >= 0:
        slot = visit[depth]
        if fresh:
            nodes += 1
            found = 0
            for ion in range(n):
                if used[ion] or group[ion] != group[slot]:
                    continue
                gain = 0.0
                for d in range(depth):
                    if bonded[slot, visit[d]]:
                        r = 0.0
                        for axis in range(3):
                            r += (x[ion, axis] - x[order[visit[d]], axis]) ** 2
                        gain += (math.sqrt(r) - target[slot, visit[d]]) ** 2
                # Ions on slots that are exchanged without any change come in one order only.
                if twin[depth] and (gain, ion) < (gained[depth - 1], order[visit[depth - 1]]):
                    continue
                k = found
                while k > 0 and gains[depth, k - 1] > gain:
                    gains[depth, k], ions[depth, k] = gains[depth, k - 1], ions[depth, k - 1]
                    k -= 1
                gains[depth, k], ions[depth, k] = gain, ion
                found += 1
            count[depth], tried[depth] = found - later[depth], 0
            fresh = False
        else:  # back from a deeper slot
            used[order[slot]] = False
        bound = min(costs[-1], costs[0] + limit)
        k = tried[depth]
        # NaN is below no bound: what has no position keeps its place.
        if nodes > _MOST_NODES or k >= count[depth] or not partial[depth] + gains[depth, k] < bound:
            depth -= 1
            continue
        tried[depth] += 1
        order[slot], gained[depth] = ions[depth, k], gains[depth, k]
        used[order[slot]] = True
        partial[depth + 1] = partial[depth] + gains[depth, k]
        if depth == n - 1:
            _insert(order, partial[n], bonded, orders, costs)
        else:
            depth, fresh = depth + 1, True
    for k in range(1, len(costs)):  # among the best only while the best was not found
        if costs[k] > costs[0] + limit:
            costs[k] = np.inf
    return nodes > _MOST_NODES


@kernel
def best_bond_graphs(positions, group, visit, twin, later, bonded, target, limit, orders, costs):
    """Write the cheapest ways to bond ions as a molecule is bonded: one order for each set of bonded ions.

    The cost of an order is the sum over bonds of (length - target)^2.

    Args:
        positions: (B, N, 3), bohr.
        group: Of each slot and each ion, (N,): ions stand on slots of their own group.
        visit: Order in which slots are filled, (N,).
        twin: Whether the slot visited at each step has the bonds of the one before, (N,).
        later: How many such follow directly, (N,).
        bonded: (N, N).
        target: Lengths of bonds, (N, N), bohr.
        limit: How much more than the cheapest the others may cost, bohr^2.
        orders: Which ion stands on each slot, (B, K, N), for output: by rising cost. Where none
            is there (not finite) it stays as it was.
        costs: (B, K), bohr^2, infinite where there are fewer, for output.

    Returns:
        How many searches ended before they had been through all orders that may be better.
    """
    stopped = 0
    for b in range(len(positions)):
        costs[b] = np.inf
        stopped += _search(
            positions[b], group, visit, twin, later, bonded, target, limit, orders[b], costs[b]
        )
    return stopped


@kernel
def first_by_speed(orders, colour, bonded):
    """Replace orders (B, N) by the first of all that join the same ions by bonds.

    The first has the lowest ion on slot 0, then on slot 1, ...: ions are numbered from the
    fastest on, so that the faster of two that a symmetry of the bonds exchanges comes first.

    Args:
        orders: Which ion stands on each slot, (B, N).
        colour: Of each slot, (N,): slots of different colours are exchanged by no symmetry.
        bonded: (N, N).

    Returns:
        How many searches ended before they had found it: these orders stay as they were.
    """
    n, stopped = orders.shape[1], 0
    place, first = np.empty(n, np.int64), np.empty(n, np.int64)
    used = np.empty(n, np.bool_)
    for b in range(len(orders)):
        for slot in range(n):
            place[orders[b, slot]] = slot
        used[:] = False
        slot, ion, nodes = 0, 0, 0
        while 0 <= slot < n and nodes <= _MOST_NODES:
            nodes += 1
            while ion < n:
                fits = not used[ion] and colour[place[ion]] == colour[slot]
                k = 0
                while fits and k < slot:
                    fits = bonded[place[ion], place[first[k]]] == bonded[slot, k]
                    k += 1
                if fits:
                    break
                ion += 1
            if ion < n:
                first[slot], used[ion] = ion, True
                slot, ion = slot + 1, 0
            else:
                slot -= 1
                if slot >= 0:
                    used[first[slot]] = False
                    ion = first[slot] + 1
        if slot == n:
            orders[b] = first
        else:
            stopped += 1
    return stopped
