"""Which hydrogen is h1: identical ions are labelled by the geometry of each sample.

No detector tells one H+ from another: read with the labels of a file, or by momentum, the bond list of a
molecule connects atoms that are not bonded. Here an order of identical ions is chosen for each sample:

1. Of all ways to bond the ions as the molecule is bonded, that which the prior prefers; without
   a density, the one with the smallest sum of squared deviations of the bonds from their lengths
   at equilibrium.
2. Orders that join the same ions differ by a symmetry of the bonds. Of these the first is taken:
   the fastest ion, by its measured momentum, on the first place it can have, and so on through
   the places of the molecule. Once h1 is chosen, what is bonded to it follows.

The order is a function of one sample and the momenta of its event alone, so that ranks of a truth among
the samples of an exact posterior stay uniform.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from flowcei.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowcei.molecules.molecule import Molecule
    from flowcei.physics.priors import GeometryPrior
    from flowcei.posterior.arrays import Bools, Floats, Numbers, Reals, Rows

_GRAPHS = 8  # sets of bonded ions between which a prior is asked to choose, at the most
_BLOCK = 10_000  # samples whose ways to bond the ions are held at a time
_SYMMETRIES = 100  # of the bonds: where there are more, the bond list decides, not the prior
_STEPS = 10_000  # of the search for these: an irregular graph of 24 like atoms takes minutes
_DRAWS = 1000  # of a prior, to see how far it lets bonds deviate
# Times the largest sum of squares of 1000 draws, that is the 0.999 quantile of chi squared (10.8 or
# more) times the variance of a normal bond: a way to bond the ions that costs so much more than the
# best is less probable by e^10.8 or more for its bonds alone, and the prior is not asked about it.
_BEYOND = 2.0


def label_by_geometry(
    molecule: Molecule, momenta: Floats, positions: Reals, prior: GeometryPrior | None = None
) -> Rows:
    """The ion at each label, (E, n, N), of positions (E, n, N, 3) with ions as momenta (E, N, 3).

    Samples that are not finite keep the order by speed. Warns where the search was stopped or the prior not
    asked.
    """
    x = np.asarray(positions)
    speed = order_by_speed(molecule, momenta)
    bonds = _BondGraph.of(molecule)
    if bonds.exchangeable:  # every order joins the same ions
        return np.broadcast_to(speed[:, None], x.shape[:3])
    # Imported here: numba takes half a second.
    from flowcei.physics._relabelling import first_by_speed

    flat = relabel(x.astype(np.float64), speed[:, None]).reshape(-1, *x.shape[2:])
    decides = prior is not None and prior.has_density and not prior.exchangeable
    if decides and bonds.symmetries is None:
        msg = (
            f"the bonds of {molecule.name} have too many symmetries to ask the prior which ions are bonded: "
        )
        warnings.warn(f"{msg}the lengths of bonds at equilibrium decide", stacklevel=2)
    if prior is not None and decides and bonds.symmetries is not None:
        chosen, stopped = _preferred(bonds, bonds.symmetries, prior, flat)
    else:
        orders, _, stopped = bonds.cheapest(flat, 1, 0.0)
        chosen = orders[:, 0].copy()
    stopped = max(stopped, first_by_speed(chosen, bonds.colour, bonds.bonded))
    if stopped:
        msg = f"{stopped} of {len(flat)} samples of {molecule.name} have more orders of identical ions than"
        text = "are searched: the bonds there are the best of those tried, and may not be the best of all"
        warnings.warn(f"{msg} {text}", stacklevel=2)
    return np.take_along_axis(speed[:, None], chosen.reshape(x.shape[:3]), axis=2)


def bond_symmetries(molecule: Molecule) -> Rows:
    """The orders (S, N) of like atoms that leave all bonds where they are; UsageError for too many."""
    orders = _BondGraph.of(molecule).symmetries
    if orders is None:
        raise UsageError(f"the bonds of {molecule.name} have too many symmetries (over {_SYMMETRIES})")
    return orders


def relabel(positions: Floats, order: Rows) -> Floats:
    """Positions (E, n, N, 3) with ions in an order (E, n, N) or (E, 1, N)."""
    return np.take_along_axis(positions, order[..., None], axis=2)


def order_by_speed(molecule: Molecule, momenta: Floats) -> Rows:
    """The ion at each label, (E, N), where identical ones come by falling speed, of momenta (E, N, 3)."""
    share = molecule.masses / molecule.masses.sum()
    size = np.linalg.norm(momenta - share[:, None] * momenta.sum(axis=1, keepdims=True), axis=2)
    order = np.tile(np.arange(len(molecule)), (len(size), 1))
    for group in map(np.array, molecule.identical):
        order[:, group] = group[np.argsort(-size[:, group], axis=1, kind="stable")]
    return order


def speed_names(molecule: Molecule) -> list[str]:
    """Names of ions in `order_by_speed`: of water o, fastest h, 2nd h."""
    names = list(molecule.labels)
    for group in molecule.identical:
        for rank, ion in enumerate(group, start=1):
            ordinal = {1: "fastest", 2: "2nd", 3: "3rd"}.get(rank, f"{rank}th")
            names[ion] = f"{ordinal} {molecule.symbols[ion].lower()}"
    return names


def environments(molecule: Molecule) -> tuple[int, ...]:
    """A number for each atom, equal for atoms bonded alike to atoms bonded alike: of C2H2 (0, 0, 1, 1).

    Colour refinement (B. Weisfeiler and A. Leman, Nauchno-Tekhnicheskaya Informatsiya 2 (9), 12 (1968)); what
    a symmetry of the bonds exchanges has the same number.
    """
    kinds = molecule.kinds
    number = tuple(kinds.index(kind) for kind in kinds)
    while True:
        near = [
            sorted(number[j if k == i else i] for i, j in molecule.bonds if k in (i, j))
            for k in range(len(kinds))
        ]
        keys = list(zip(number, near, strict=True))
        refined = tuple(keys.index(key) for key in keys)
        if len(set(refined)) == len(set(number)):
            ranks = sorted(set(refined))
            return tuple(ranks.index(k) for k in refined)
        number = refined


@dataclass(frozen=True, eq=False)
class _BondGraph:
    """The bonds of a molecule of N atoms, and in which order a search assigns ions to these."""

    group: Numbers  # number of the kind of each ion, (N,)
    colour: Numbers  # number of its environment, (N,)
    bonded: Bools  # (N, N)
    target: Floats  # bonds at equilibrium, the mean of those that a symmetry exchanges, (N, N), bohr
    visit: Numbers  # atoms in the order of the search, (N,)
    twin: Bools  # whether an atom of `visit` has the kind and the bonds of the one before, (N,)
    later: Numbers  # how many such follow it directly, (N,)

    @classmethod
    def of(cls, molecule: Molecule) -> _BondGraph:
        n, kinds = len(molecule), molecule.kinds
        group, colour = [kinds.index(kind) for kind in kinds], np.array(environments(molecule))
        bonded, target = np.zeros((n, n), dtype=np.bool_), np.zeros((n, n))
        if molecule.bonds:
            i, j = np.array(molecule.bonds).T
            bonded[i, j] = bonded[j, i] = True
            length = np.linalg.norm(molecule.equilibrium[i] - molecule.equilibrium[j], axis=1)
            colours = np.sort([colour[i], colour[j]], axis=0)
            alike = (colours[:, :, None] == colours[:, None]).all(axis=0)
            target[i, j] = target[j, i] = alike @ length / alike.sum(axis=1)
        visit = _search_order(group, bonded)
        bonds_of = [(group[k], tuple(np.flatnonzero(bonded[k]))) for k in visit]
        twin = [k > 0 and bonds_of[k] == bonds_of[k - 1] for k in range(n)]
        later = [next((j for j in range(n - k - 1) if not twin[k + j + 1]), n - k - 1) for k in range(n)]
        return cls(np.array(group), colour, bonded, target, np.array(visit), np.array(twin), np.array(later))

    @property
    def exchangeable(self) -> bool:
        """Whether every order of identical ions joins the same ions by bonds."""
        first = self.group  # of the kind of each ion: exchanges with it make all orders
        for k, other in enumerate(first):
            order = np.arange(len(first))
            order[[other, k]] = k, other
            if not np.array_equal(self.bonded[np.ix_(order, order)], self.bonded):
                return False
        return True

    @cached_property
    def symmetries(self) -> Rows | None:
        """The orders (S, N) that leave all bonds where they are; None where they are too many to search."""
        orders = []
        for step, order in enumerate(self._extended([])):
            if len(order) == len(self.group):
                orders.append(order)
            if len(orders) > _SYMMETRIES or step > _STEPS:
                return None
        return np.array(orders)

    def _extended(self, order: list[int]) -> Iterator[list[int]]:
        """Partial orders that keep the bonds among their atoms, complete ones too."""
        k = len(order)
        yield order
        if k == len(self.group):
            return
        for j in np.flatnonzero(self.colour == self.colour[k]).tolist():
            if j not in order and np.array_equal(self.bonded[j, order], self.bonded[k, :k]):
                yield from self._extended([*order, j])

    def cheapest(self, x: Floats, graphs: int, limit: float) -> tuple[Numbers, Floats, int]:
        """Orders (B, K, N) of the best bonds of ions (B, N, 3), costs (B, K), how many searches stopped."""
        from flowcei.physics._relabelling import best_bond_graphs

        orders = np.tile(np.arange(len(self.group)), (len(x), graphs, 1))
        costs = np.empty((len(x), graphs))
        tables = (self.group, self.visit, self.twin, self.later, self.bonded, self.target)
        stopped = best_bond_graphs(np.ascontiguousarray(x), tables, limit, orders, costs)
        return orders, costs, stopped

    def misfit(self, x: Floats) -> Floats:
        """Sum of squared deviations (B,) of the bonds of labelled geometries (B, N, 3)."""
        first, second = np.nonzero(np.triu(self.bonded))
        length = np.linalg.norm(x[:, first] - x[:, second], axis=2)
        return np.asarray(((length - self.target[first, second]) ** 2).sum(axis=1))


def _search_order(group: list[int], bonded: Bools) -> list[int]:
    """Atoms along the bonds from the rarest kind on, ends last: so bonds prune a search early."""
    count, degree = np.bincount(group)[group], bonded.sum(axis=1)
    rank: dict[int, int] = {}
    for root in sorted(range(len(group)), key=lambda k: (degree[k] < 2, count[k], k)):
        queue = [root]
        for k in queue:
            if k not in rank:
                rank[k] = len(rank)
                queue += np.flatnonzero(bonded[k]).tolist()
    # The ends of one atom stand side by side, kind by kind: they are exchanged without any change.
    ends = {k: (tuple(np.flatnonzero(bonded[k])), group[k]) for k in rank}
    return sorted(rank, key=lambda k: (0, rank[k], ()) if degree[k] > 1 else (1, 0, ends[k]))


def _preferred(bonds: _BondGraph, symmetries: Rows, prior: GeometryPrior, x: Floats) -> tuple[Numbers, int]:
    """Orders (B, N) of ions (B, N, 3) whose bonds the prior prefers, and how many searches stopped."""
    draws = prior.sample(_DRAWS, np.random.default_rng(0))
    limit = _BEYOND * float(bonds.misfit(draws).max())
    members = _distinct(symmetries, prior, draws[:_GRAPHS])
    chosen, total = np.empty(x.shape[:2], dtype=np.int64), 0
    for first in range(0, len(x), _BLOCK):
        block = x[first : first + _BLOCK]
        orders, costs, stopped = bonds.cheapest(block, _GRAPHS, limit)
        # Of so many likely ways to bond the ions, the prior is not asked about the others.
        total += max(stopped, int(np.isfinite(costs[:, -1]).sum()))
        rows, k = np.nonzero(np.isfinite(costs) & np.isfinite(costs[:, [1]]))  # several to choose from
        density = np.full(costs.shape, -np.inf)
        if len(rows):
            ions = block[rows[:, None], orders[rows, k]]
            density[rows, k] = np.max([prior.log_prob(ions[:, member]) for member in members], axis=0)
        chosen[first : first + _BLOCK] = orders[np.arange(len(block)), density.argmax(axis=1)]
    return chosen, total


def _distinct(symmetries: Rows, prior: GeometryPrior, draws: Floats) -> list[Rows]:
    """One symmetry of the bonds for each density that the prior gives to one geometry."""
    chosen: list[tuple[Rows, Floats]] = []
    for order in symmetries:
        density = prior.log_prob(draws[:, order])
        if not any(np.allclose(density, other, rtol=1e-9, atol=1e-6) for _, other in chosen):
            chosen.append((order, density))
    return [order for order, _ in chosen]
