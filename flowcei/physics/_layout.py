"""The rows of scratch in which explosions run: which of them holds what."""

from __future__ import annotations

from typing import NamedTuple

from flowcei.storage._compilation import compiled


class Layout(NamedTuple):
    """The rows of the scratch array.

    The explosion lies in the first block of `gap` rows, direction c in block c + 1. A block holds 3N rows
    each of y, w, s (the position of a stage or node) and of the forces of all stages or nodes. After them
    come 1 / r of every pair and, for each direction, dtau / tau and dU0 / U0. Charges that grow (`_growth`)
    add T over the half-life of each build-up and exp(-t / time), by how much steps are longer, 1 / (1 - z^2)
    of all stages but the first, the share of its charge that each ion has (one row where all have the same)
    and its change with z, and for every pair, or all at once, the product of shares and the energy there
    would be with all charges.
    """

    n3: int
    count: int
    gap: int
    inverse: int
    rates: int
    fading: int
    times: int
    sharing: int
    factors: int
    shares: int
    changes: int
    pairs: int
    total: int


@compiled
def layout(n, stages, nodes, count, growth) -> Layout:
    """Layout of n ions, a method with so many stages and tail nodes, `count` directions, and growth."""
    gap = 3 * n * (3 + max(stages, nodes))
    inverse = (count + 1) * gap
    rates = inverse + n * (n - 1) // 2
    times = rates + 2 * count
    fading = 0 if growth is None else len(growth[0])
    sharing = 0 if growth is None else 1 if fading == len(growth[1]) == 1 else n
    factors = times + 2 * fading
    shares = factors + (stages if fading else 0)
    changes = shares + sharing * max(stages, nodes)
    pairs = changes + sharing
    total = pairs + (2 if sharing == 1 else (n - 1) * sharing)
    return Layout(
        3 * n, count, gap, inverse, rates, fading, times, sharing, factors, shares, changes, pairs, total
    )
