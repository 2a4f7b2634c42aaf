"""Orders of identical atoms: how many, and what a pruned search over them needs to know."""

from __future__ import annotations

import warnings
from itertools import permutations, product
from math import lgamma, log
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from flowcei.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


NEGLIGIBLE = 1e-12
"""The share of a density that the orders left out can have, all together."""

_WORK = 1 << 26  # partial orders of a geometry times N^2: all those of 8 like atoms; about a second
_VANISHING = 745.0  # e^-745 is the least positive number in double precision
_EXACT = 1e-11  # of the size: symmetries beyond rounding are none, or the sum would not be exact
_ROUNDING = 1e-12  # of the squares that a residual is the difference of


def check_groups(n_atoms: int, identical: tuple[tuple[int, ...], ...]) -> None:
    """Refuse groups of identical ions that overlap, or name ions that are not there.

    Raises:
        UsageError: Where they do.
    """
    members = [i for group in identical for i in group]
    if len(set(members)) < len(members) or not set(members) <= set(range(n_atoms)):
        msg = f"groups of identical ions {identical} name an ion twice, or one that {n_atoms} ions lack"
        raise UsageError(msg)


def log_count(identical: tuple[tuple[int, ...], ...]) -> float:
    """Return the log of the number of orders.

    Example:
        >>> round(np.exp(log_count(((0, 1), (2, 3, 4)))))
        12
    """
    return sum(lgamma(len(group) + 1.0) for group in identical)


def log_mean(
    values: NDArray[np.float64], rows: NDArray[np.int64], n: int, identical: tuple[tuple[int, ...], ...]
) -> NDArray[np.float64]:
    """Return log of the mean over all orders, (n,), of the log densities of those that count.

    Args:
        values: (K,), log densities.
        rows: Whose each is, (K,).
        n: Geometries.
        identical: Groups of identical atoms.

    Example:
        >>> log_mean(np.log([0.2, 0.6, 0.5]), np.array([0, 0, 1]), 3, ((0, 1),)).round(3).tolist()
        [-0.916, -1.386, -inf]
    """
    best = np.full(n, -np.inf)
    np.maximum.at(best, rows, values)
    shift = np.where(np.isfinite(best), best, 0.0)
    with np.errstate(divide="ignore"):
        total = np.log(np.bincount(rows, np.exp(values - shift[rows]), n))
    return np.asarray(total + shift - log_count(identical))


def warn_of_lost(lost: NDArray[np.bool_]) -> None:
    """Say how many of the geometries (B,) have no density, as too many of their orders count."""
    if lost.any():
        msg = (
            f"{int(lost.sum())} of {len(lost)} geometries have so many orders of identical ions to add up "
            "that their prior density is unknown (NaN); a narrower prior, or a ball, has one"
        )
        warnings.warn(msg, stacklevel=2)


def all_orders(
    n_atoms: int, identical: tuple[tuple[int, ...], ...], most: int
) -> Iterator[NDArray[np.int64]]:
    """Yield every order (N,) of the atoms that exchanges identical ones.

    Raises:
        UsageError: Where there are more than `most`.

    Example:
        >>> [order.tolist() for order in all_orders(3, ((0, 2),), 10)]
        [[0, 1, 2], [2, 1, 0]]
    """
    if log_count(identical) > log(most) + 1e-9:
        ions = ", ".join(str(len(group)) for group in identical)
        msg = (
            f"the orders of {ions} identical ions are too many to average over; "
            "use a narrower prior, or one that treats all atoms alike, such as a ball"
        )
        raise UsageError(msg)
    for choice in product(*(permutations(group) for group in identical)):
        order = np.arange(n_atoms)
        for group, members in zip(identical, choice, strict=True):
            order[list(group)] = members
        yield order


class _Plan(NamedTuple):
    """What the compiled search reads."""

    sites: NDArray[np.int64]  # in the order in which they are filled
    kind: NDArray[np.int64]  # of each atom
    weights: NDArray[np.float64]  # of each atom
    reference: NDArray[np.float64]  # of each site in its turn, from the centroid
    spans: NDArray[np.float64]  # distances of sites; their radii on the diagonal
    below: NDArray[np.bool_]  # whether a site's atom must have a greater number than another site's


class OrderSearch:
    """A search for the orders of identical atoms that bring geometries near a reference.

    Args:
        reference: (N, 3), bohr.
        identical: Groups of indices of identical atoms.
        weights: Of each atom in the residual, (N,), equal for identical ones; 1 where None.
        symmetric: Whether orders that a rotation of the reference undoes count as one.

    Attributes:
        classes: How many orders stand for each one that the search goes through: rotations
            that map the reference onto itself, atom by like atom, change no residual.

    Example:
        >>> from flowcei.molecules.molecule import Molecule
        >>> methane = Molecule.load("ch4")
        >>> search = OrderSearch(methane.equilibrium, methane.identical)
        >>> search.classes, search.fits(methane.equilibrium[[0, 2, 1, 3, 4]], 1e-6)
        (12, True)
    """

    def __init__(
        self,
        reference: NDArray[np.float64],
        identical: tuple[tuple[int, ...], ...],
        weights: NDArray[np.float64] | None = None,
        *,
        symmetric: bool = True,
    ) -> None:
        n = len(reference)
        mass = np.ones(n) if weights is None else np.asarray(weights, np.float64)
        x = np.ascontiguousarray(reference - mass @ reference / mass.sum(), np.float64)
        kind = np.arange(n)
        for group in identical:
            kind[list(group)] = group[0]
        sites = _filling_order(x, kind)
        placed = x[sites]
        spans = np.linalg.norm(placed[:, None] - placed[None], axis=-1)
        np.fill_diagonal(spans, np.linalg.norm(placed, axis=1))
        self._plan = self._free = _Plan(sites, kind, mass, placed, spans, np.zeros((n, n), bool))
        self._squares = float(mass @ (x**2).sum(axis=1))
        self._budget = _WORK // n**2
        self.identical = identical
        self.classes = 1
        if identical and symmetric:
            self._use_symmetry(x)

    @property
    def all_alike(self) -> bool:
        """Whether a rotation undoes every order, as for water."""
        return log(self.classes) > log_count(self.identical) - 1e-6

    def log_displaced(self, points: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
        """Return log of the mean over all orders of the density of `log_displaced`, (B,).

        Args:
            points: (B, N, 3), bohr.
            sigma: Standard deviation of each component of each atom, bohr.

        Returns:
            (B,); -inf where the density is e^-745 of its greatest or less, and too many orders would
            have to be searched; NaN where too many count, or positions are not finite.
        """
        from flowcei.physics._orders import log_displaced_unlabelled

        count = log_count(self.identical)
        cut = count - log(NEGLIGIBLE)
        out = np.full(len(points), -np.inf)
        asked = np.arange(len(points))
        if count > log(self._budget):  # a geometry far from the reference could cost all of it
            asked = np.flatnonzero(~(self.least_residual(points) > 2.0 * sigma**2 * (cut + _VANISHING)))
        found = np.empty(len(asked))
        log_displaced_unlabelled(points[asked], self._plan, self._free, sigma**2, cut, self._budget, found)
        out[asked] = found
        warn_of_lost(np.isnan(out) & np.isfinite(points).all(axis=(1, 2)))
        return out + log(self.classes) - count

    def least_residual(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what no order's residual is below, (B,): that of the radii, in the order of their size."""
        mass, kind, sites = self._plan.weights, self._plan.kind, self._plan.sites
        own = np.empty(len(mass))
        own[sites] = np.diagonal(self._plan.spans)
        with np.errstate(over="ignore", invalid="ignore"):
            radius = np.linalg.norm(points - (mass @ points / mass.sum())[:, None], axis=2)
            least = np.zeros(len(points))
            for k in np.unique(kind):  # rearrangement: sorted against sorted is the best matching
                alike = kind == k
                gap = np.sort(radius[:, alike], axis=1) - np.sort(own[alike])
                least += mass[alike][0] * (gap**2).sum(axis=1)
        return least

    def within(
        self, points: NDArray[np.float64], ceilings: NDArray[np.float64], most: int | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """Return the geometry (K,) and the atoms (K, N) of all orders with a residual within a ceiling.

        Also of which geometries (B,) there are too many to search: they have none.

        Args:
            points: (B, N, 3), bohr; geometries that are not finite have none.
            ceilings: Of each geometry's residual, (B,).
            most: Orders of a geometry, those found first; all where None.
        """
        from flowcei.physics._orders import near_orders

        x = np.ascontiguousarray(points, np.float64)
        enough = np.iinfo(np.int64).max if most is None else most
        return near_orders(x, self._plan, ceilings, enough, self._budget)

    def fits(self, point: NDArray[np.float64], ceiling: float) -> bool:
        """Whether an order of a geometry (N, 3), bohr, with a residual within a ceiling is found."""
        return len(self.within(point[None], np.array([ceiling]), 1)[0]) > 0

    def _use_symmetry(self, x: NDArray[np.float64]) -> None:
        """Let the search go through one order of each class: that which is first in its atoms' numbers.

        Site after site, its atom has the least number among those of its orbit under the
        rotations that leave the sites before it alone (Schreier and Sims).
        """
        _, orders, lost = self.within(x[None], np.array([_ROUNDING * self._squares]))
        if lost.any():
            return
        turn = np.linalg.svd(np.swapaxes(x[orders], 1, 2) @ x)
        proper = (
            turn.U
            * np.stack([np.ones(len(orders)), np.ones(len(orders)), np.linalg.det(turn.U @ turn.Vh)], -1)[
                :, None
            ]
        )
        apart = np.abs(x[orders] @ (proper @ turn.Vh) - x).max(axis=(1, 2))
        place = np.argsort(self._plan.sites)
        group = {tuple(place[o[self._plan.sites]].tolist()) for o in orders[apart < _EXACT * np.abs(x).max()]}
        if not all(tuple(a[k] for k in b) in group for a in group for b in group):
            return  # within rounding, and no group
        self.classes = max(len(group), 1)
        below = np.zeros_like(self._plan.below)
        for site in range(len(x)):
            for other in {g[site] for g in group} - {site}:
                below[other, site] = True
            group = {g for g in group if g[site] == site}
        self._plan = self._free._replace(below=below)


def _filling_order(x: NDArray[np.float64], kind: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the order in which sites are filled: the sooner, the more it tells of the others.

    First atoms that are like no other, then always the one farthest from the space that those
    before it span, and in the end the outermost.
    """
    alone = np.bincount(kind, minlength=len(kind))[kind] == 1
    chosen: list[int] = np.flatnonzero(alone).tolist()
    rest = x.copy()
    for i in chosen:
        rest = _without(rest, rest[i], x)
    while len(chosen) < len(x):
        free = np.setdiff1d(np.arange(len(x)), chosen)
        away = np.linalg.norm(rest[free], axis=1)
        if away.max() < 1e-6 * np.linalg.norm(x, axis=1).max():
            away = np.linalg.norm(x[free], axis=1)
        best = int(free[np.argmax(away)])
        chosen.append(best)
        rest = _without(rest, rest[best], x)
    return np.array(chosen, np.int64)


def _without(
    rest: NDArray[np.float64], axis: NDArray[np.float64], x: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return what of `rest` (N, 3) is orthogonal to an axis; all of it where the axis is nothing."""
    square = float(axis @ axis)
    if square < 1e-12 * float((x**2).sum()):
        return rest
    return rest - np.outer(rest @ axis, axis) / square
