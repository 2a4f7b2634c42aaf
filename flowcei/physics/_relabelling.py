"""The compiled searches behind `flowcei.posterior.labels`: which ions are bonded, which comes first."""

from __future__ import annotations

import math

import numpy as np

from flowcei.physics._vectors import between, copy, dot, insert
from flowcei.storage._compilation import compiled, kernel

_MOST_NODES = 10_000  # of one search: what is best by then is taken, and counted: no molecule takes for ever


@compiled
def _invert(order, slots) -> None:
    """Write the slot of each ion, from the ion of each slot."""
    for slot in range(len(order)):
        slots[order[slot]] = slot


@compiled
def _insert(order, cost, bonded, orders, costs) -> None:
    """Put an order among the best `orders` (K, N) of other bond graphs, which are sorted by rising cost."""
    for k in range(len(costs)):
        if costs[k] < np.inf:
            # Two orders that join the same ions by bonds differ by a symmetry of the bonds.
            slot, same = np.empty_like(order), True
            _invert(orders[k], slot)
            for i in range(len(order)):
                for j in range(i):
                    same = same and (not bonded[i, j] or bonded[slot[order[i]], slot[order[j]]])
            if same:
                return
    at = len(costs) - 1
    while at > 0 and costs[at - 1] > cost:
        costs[at] = costs[at - 1]
        copy(orders[at - 1], orders[at])
        at -= 1
    costs[at] = cost
    copy(order, orders[at])


@compiled
def _list_ions(depth, x, tables, order, used, gains, ions, tried) -> int:
    """List the ions for the slot visited at `depth`, by what their bonds to slots before cost: how many."""
    group, visit, twin, later, bonded, target = tables
    slot, count, last = visit[depth], 0, tried[depth - 1] - 1
    for ion in range(len(x)):
        if used[ion] or group[ion] != group[slot]:
            continue
        gain = 0.0
        for d in range(depth):
            if bonded[slot, visit[d]]:
                bond = between(x, ion, order[visit[d]])
                gain += (math.sqrt(dot(bond, bond)) - target[slot, visit[d]]) ** 2
        # Ions on slots that are exchanged without any change come in one order only.
        if twin[depth] and (gain, ion) < (gains[depth - 1, last], ions[depth - 1, last]):
            continue
        insert(gains[depth], ions[depth], count, gain, ion)
        count += 1
    tried[depth] = 0
    return count - later[depth]


@compiled
def _search(x, tables, limit, orders, costs) -> bool:
    """Branch and bound over the slots in the order `visit`, cheapest ion first: whether it was stopped."""
    n, visit, bonded = len(x), tables[1], tables[4]
    order, used = np.zeros(n, np.int64), np.zeros(n, np.bool_)
    ions, gains = np.empty((n, n), np.int64), np.empty((n, n))
    count, tried, partial = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n + 1)
    count[0] = _list_ions(0, x, tables, order, used, gains, ions, tried)
    depth, nodes = 0, 1
    while depth >= 0:
        k, bound = tried[depth], min(costs[-1], costs[0] + limit)
        # NaN is below no bound: what has no position keeps its place.
        if nodes > _MOST_NODES or k >= count[depth] or not partial[depth] + gains[depth, k] < bound:
            depth -= 1
            used[order[visit[depth]]] = False
            continue
        tried[depth] += 1
        order[visit[depth]], partial[depth + 1] = ions[depth, k], partial[depth] + gains[depth, k]
        if depth == n - 1:
            _insert(order, partial[n], bonded, orders, costs)
            continue
        used[ions[depth, k]] = True
        depth, nodes = depth + 1, nodes + 1
        count[depth] = _list_ions(depth, x, tables, order, used, gains, ions, tried)
    for k in range(1, len(costs)):  # among the best only while the best was not reached
        if costs[k] > costs[0] + limit:
            costs[k] = np.inf
    return nodes > _MOST_NODES


@kernel
def best_bond_graphs(positions, tables, limit, orders, costs) -> int:
    """Write the cheapest ways to bond ions as a molecule is bonded: one order for each set of bonded ions.

    The cost of an order is the sum over bonds of (length - target)^2, of positions (B, N, 3), bohr. tables:
    of each slot and each ion its group (N,), ions stand on slots of their own; the order in which slots are
    filled (N,), whether the slot at each step has the bonds of the one before (N,), and how many such follow
    directly (N,); which slots are bonded (N, N), and lengths of bonds (N, N), bohr. limit: how much more than
    the cheapest the others may cost, bohr^2. orders: which ion stands on each slot, (B, K, N), by rising
    costs (B, K), bohr^2, infinite where there are fewer; where none is there (not finite) it stays as it was.
    Returns how many searches ended before they had been through all orders that may be better.
    """
    stopped = 0
    for b in range(len(positions)):
        costs[b] = np.inf
        stopped += _search(positions[b], tables, limit, orders[b], costs[b])
    return stopped


@kernel
def first_by_speed(orders, colour, bonded) -> int:
    """Replace orders, which ion stands on each slot (B, N), by the first that join the same ions by bonds.

    The first has the lowest ion on slot 0, then on slot 1, ...: ions are numbered from the fastest on, so
    that the faster of two that a symmetry of the bonds (N, N) exchanges comes first. Slots of different
    colours (N,) are exchanged by none. Returns how many searches were stopped: these orders stay.
    """
    n, stopped = orders.shape[1], 0
    first, place, used = np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.bool_)
    for b in range(len(orders)):
        _invert(orders[b], place)
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
            copy(first, orders[b])
        else:
            stopped += 1
    return stopped
