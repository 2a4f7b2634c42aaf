"""Which hydrogen is h1: identical ions are labelled by the geometry of each sample.

No detector tells one H+ from another, so the labels of like ions in a file mean nothing, and
neither does their order by momentum: read with such labels, the bond list of a molecule
connects atoms that are not bonded. Here an order of like ions is chosen for each sample:

1. Of all ways to bond the ions as the molecule is bonded, that which the prior prefers; without
   a density, the one with the smallest sum of squared deviations of the bonds from their lengths
   at equilibrium.
2. Orders that join the same ions differ by a symmetry of the bonds. Of these the first is taken:
   the fastest ion, by its measured momentum, on the first place it can have, and so on through
   the places of the molecule. Once h1 is chosen, what is bonded to it follows.

The order is a function of one sample and the momenta of its event alone, the same for samples
and for a truth: ranks of a truth among the samples of an exact posterior stay uniform.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from flowcei.molecules.molecule import Molecule
    from flowcei.physics.priors import GeometryPrior

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
    molecule: Molecule,
    momenta: NDArray[np.float64],
    positions: NDArray[np.floating],
    prior: GeometryPrior | None = None,
) -> NDArray[np.intp]:
    """Choose which of the identical ions is which in each sample.

    Args:
        molecule: Its bonds say what is to be recognised.
        momenta: (E, N, 3), hbar / bohr.
        positions: (E, n, N, 3), bohr, in any frame, ions in the order of the momenta.
        prior: Whose density decides between ways to bond the ions; the bond list where it is
            None, has no density or treats all atoms alike.

    Returns:
        (E, n, N): the ion that has each place, and label, of the molecule. Samples that are not
        finite keep the order by speed. A `UserWarning` counts the samples of large molecules whose
        search was stopped, and which have the best order of those that were tried, and says where
        the bonds have so many symmetries that the bond list decides though there is a density.

    Example:
        Carbon c2 is the faster one: it and its hydrogen become c1 and h1.

        >>> from flowcei.molecules.molecule import Molecule
        >>> c2h2 = Molecule.load("c2h2")
        >>> p = np.array([[[0, 0, -50.0], [0, 0, 51.0], [0, 0, -31.0], [0, 0, 30.0]]])
        >>> label_by_geometry(c2h2, p, c2h2.equilibrium[None, None]).tolist()
        [[[1, 0, 3, 2]]]
    """
    x = np.asarray(positions)
    speed = order_by_speed(molecule, momenta)
    bonds = _BondGraph.of(molecule)
    if bonds.exchangeable:  # every order joins the same ions
        return np.broadcast_to(speed[:, None], x.shape[:3])
    # Imported here: numba takes half a second.
    from flowcei.physics._relabelling import first_by_speed

    flat = relabel(x.astype(np.float64), speed[:, None]).reshape(-1, *x.shape[2:])
    listed = prior is None or not prior.has_density or prior.exchangeable
    if not listed and bonds.symmetries is None:
        msg = (
            f"the bonds of {molecule.name} have too many symmetries to ask the prior which ions are bonded: "
            "the lengths of bonds at equilibrium decide"
        )
        warnings.warn(msg, stacklevel=2)
    if prior is None or listed or bonds.symmetries is None:
        orders, _, stopped = bonds.cheapest(flat, 1, 0.0)
        chosen = orders[:, 0].copy()
    else:
        chosen, stopped = _preferred(bonds, bonds.symmetries, prior, flat)
    stopped = max(stopped, first_by_speed(chosen, bonds.colour, bonds.bonded))
    if stopped:
        msg = (
            f"{stopped} of {len(flat)} samples of {molecule.name} have more orders of identical ions than "
            "are searched: the bonds there are the best of those tried, and may not be the best of all"
        )
        warnings.warn(msg, stacklevel=2)
    return np.take_along_axis(speed[:, None], chosen.reshape(x.shape[:3]), axis=2)


def relabel(positions: NDArray[np.float64], order: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return positions (E, n, N, 3) with ions in an order (E, n, N) or (E, 1, N)."""
    return np.take_along_axis(positions, order[..., None], axis=2)


def order_by_speed(molecule: Molecule, momenta: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the ion that has each place where identical ones come by falling speed, (E, N).

    Args:
        molecule: Whose ions they are.
        momenta: (E, N, 3), hbar / bohr; their total does not count.
    """
    share = molecule.masses / molecule.masses.sum()
    size = np.linalg.norm(momenta - share[:, None] * momenta.sum(axis=1, keepdims=True), axis=2)
    order = np.tile(np.arange(len(molecule)), (len(size), 1))
    for group in molecule.identical:
        places = np.array(group)
        order[:, places] = places[np.argsort(-size[:, places], axis=1, kind="stable")]
    return order


def speed_names(molecule: Molecule) -> list[str]:
    """Return the names of ions in `order_by_speed`.

    Example:
        >>> from flowcei.molecules.molecule import Molecule
        >>> speed_names(Molecule.load("h2o"))
        ['o', 'fastest h', '2nd h']
    """
    names = list(molecule.labels)
    for group in molecule.identical:
        for rank, place in enumerate(group, start=1):
            ordinal = {1: "fastest", 2: "2nd", 3: "3rd"}.get(rank, f"{rank}th")
            names[place] = f"{ordinal} {molecule.symbols[place].lower()}"
    return names


def environments(molecule: Molecule) -> tuple[int, ...]:
    """Return a number for each atom, equal for atoms that are bonded alike to atoms bonded alike.

    Colour refinement: atoms of one kind are told apart by the numbers of their neighbours until
    nothing changes (B. Weisfeiler and A. Leman, Nauchno-Tekhnicheskaya Informatsiya 2 (9), 12
    (1968)). What a symmetry of the bonds exchanges has the same number.

    Example:
        >>> from flowcei.molecules.molecule import Molecule
        >>> environments(Molecule.load("c2h2"))
        (0, 0, 1, 1)
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
    """The bonds of a molecule of N places, and in which order a search fills these.

    Attributes:
        group: Number of the kind of each ion, (N,).
        colour: Number of its environment, (N,).
        bonded: (N, N).
        target: Lengths of bonds at equilibrium, the mean of those that a symmetry of the bonds
            exchanges, (N, N), bohr.
        visit: Places in the order of the search, (N,).
        twin: Whether a place of `visit` has the kind and the bonds of the one before, (N,).
        later: How many such follow it directly, (N,).
    """

    group: NDArray[np.int64]
    colour: NDArray[np.int64]
    bonded: NDArray[np.bool_]
    target: NDArray[np.float64]
    visit: NDArray[np.int64]
    twin: NDArray[np.bool_]
    later: NDArray[np.int64]

    @classmethod
    def of(cls, molecule: Molecule) -> _BondGraph:
        n, kinds = len(molecule), molecule.kinds
        bonded, target = np.zeros((n, n), dtype=np.bool_), np.zeros((n, n))
        colour = environments(molecule)
        lengths: dict[tuple[int, ...], list[float]] = {}
        alike = {(i, j): tuple(sorted((colour[i], colour[j]))) for i, j in molecule.bonds}
        for (i, j), key in alike.items():
            gap = molecule.equilibrium[i] - molecule.equilibrium[j]
            lengths.setdefault(key, []).append(float(np.linalg.norm(gap)))
        for (i, j), key in alike.items():
            bonded[i, j] = bonded[j, i] = True
            target[i, j] = target[j, i] = np.mean(lengths[key])
        group = [kinds.index(kind) for kind in kinds]
        visit = _search_order(group, bonded)
        bonds_of = [(group[k], tuple(np.flatnonzero(bonded[k]))) for k in visit]
        twin = [k > 0 and bonds_of[k] == bonds_of[k - 1] for k in range(n)]
        later = [0] * n
        for k in range(n - 2, -1, -1):
            later[k] = later[k + 1] + 1 if twin[k + 1] else 0
        search = (np.array(visit), np.array(twin), np.array(later))
        return cls(np.array(group), np.array(colour), bonded, target, *search)

    @property
    def exchangeable(self) -> bool:
        """Whether every order of identical ions joins the same ions by bonds."""
        n = len(self.group)
        for k, kind in enumerate(self.group.tolist()):
            order = np.arange(n)
            first = self.group.tolist().index(kind)
            order[[first, k]] = k, first
            if not np.array_equal(self.bonded[np.ix_(order, order)], self.bonded):
                return False
        return True

    @cached_property
    def symmetries(self) -> NDArray[np.intp] | None:
        """The orders (S, N) that leave all bonds where they are; None where they are too many to find."""
        orders = []
        for step, order in enumerate(self._extended([])):
            if len(order) == len(self.group):
                orders.append(order)
            if len(orders) > _SYMMETRIES or step > _STEPS:
                return None
        return np.array(orders)

    def _extended(self, order: list[int]) -> Iterator[list[int]]:
        """Yield the partial orders that keep the bonds among their places, whole ones too."""
        k = len(order)
        yield order
        if k == len(self.group):
            return
        for j in np.flatnonzero(self.colour == self.colour[k]).tolist():
            if j not in order and np.array_equal(self.bonded[j, order], self.bonded[k, :k]):
                yield from self._extended([*order, j])

    def cheapest(
        self, x: NDArray[np.float64], graphs: int, limit: float
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], int]:
        """Return the orders (B, K, N) of the best ways to bond ions (B, N, 3), and their costs (B, K).

        Also how many of the B searches were stopped.
        """
        from flowcei.physics._relabelling import best_bond_graphs

        orders = np.tile(np.arange(len(self.group)), (len(x), graphs, 1))
        costs = np.empty((len(x), graphs))
        tables = (self.group, self.visit, self.twin, self.later, self.bonded, self.target)
        stopped = best_bond_graphs(np.ascontiguousarray(x), *tables, limit, orders, costs)
        return orders, costs, stopped

    def misfit(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sum of squared deviations of the bonds of labelled geometries (B, N, 3), (B,)."""
        first, second = np.nonzero(np.triu(self.bonded))
        length = np.linalg.norm(x[:, first] - x[:, second], axis=2)
        return np.asarray(((length - self.target[first, second]) ** 2).sum(axis=1))


def _search_order(group: list[int], bonded: NDArray[np.bool_]) -> list[int]:
    """Return the places along the bonds from the rarest kind on, ends last: so bonds prune a search early."""
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


def _preferred(
    bonds: _BondGraph, symmetries: NDArray[np.intp], prior: GeometryPrior, x: NDArray[np.float64]
) -> tuple[NDArray[np.int64], int]:
    """Return for each of (B, N, 3) an order, (B, N), of the bonds that the prior's density prefers.

    Also how many of the B searches were stopped.
    """
    draws = prior.sample(_DRAWS, np.random.default_rng(0))
    limit = _BEYOND * float(bonds.misfit(draws).max())
    members = _distinct(symmetries, prior, draws[:_GRAPHS])
    chosen, total = np.empty(x.shape[:2], dtype=np.int64), 0
    for first in range(0, len(x), _BLOCK):
        part = x[first : first + _BLOCK]
        orders, costs, stopped = bonds.cheapest(part, _GRAPHS, limit)
        # Of so many likely ways to bond the ions, the prior is not asked about the others.
        total += max(stopped, int(np.isfinite(costs[:, -1]).sum()))
        best = np.zeros(len(part), dtype=np.intp)
        rows = np.flatnonzero(np.isfinite(costs[:, 1]))
        density = np.full((len(rows), _GRAPHS), -np.inf)
        for k in range(_GRAPHS if len(rows) else 0):
            asked = np.flatnonzero(np.isfinite(costs[rows, k]))
            ions = part[rows[asked, None], orders[rows[asked], k]]
            for member in members:
                density[asked, k] = np.maximum(density[asked, k], prior.log_prob(ions[:, member]))
        best[rows] = density.argmax(axis=1)
        chosen[first : first + _BLOCK] = orders[np.arange(len(part)), best]
    return chosen, total


def _distinct(
    symmetries: NDArray[np.intp], prior: GeometryPrior, draws: NDArray[np.float64]
) -> list[NDArray[np.intp]]:
    """Return one symmetry of the bonds for each density that the prior gives to one geometry."""
    density = np.stack([prior.log_prob(draws[:, order]) for order in symmetries])
    chosen: list[int] = []
    for k, row in enumerate(density):
        if not any(np.allclose(row, density[j], rtol=1e-9, atol=1e-6) for j in chosen):
            chosen.append(k)
    return [symmetries[k] for k in chosen]
