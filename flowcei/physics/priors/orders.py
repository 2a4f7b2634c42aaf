"""Orders of identical atoms: how many, and a pruned search for those that count."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from itertools import permutations, product
from math import lgamma, log
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from flowcei.errors import UsageError

Floats: TypeAlias = NDArray[np.float64]
Groups: TypeAlias = tuple[tuple[int, ...], ...]  # of indices of identical atoms

NEGLIGIBLE = 1e-12  # the share of a density that the orders left out can have, all together
_WORK = 1 << 26  # partial orders of a geometry times N^2: all those of 8 like atoms; about a second
_VANISHING = 745.0  # e^-745 is the least positive number in double precision
_EXACT = 1e-11  # of the size: symmetries beyond rounding are none, or the sum would not be exact
_NEAR = 0.01  # of the squares of a reference: a residual to begin with
_ROUNDING = 1e-12  # of the squares that a residual is the difference of


def check_groups(n_atoms: int, identical: Groups) -> None:
    """UsageError for groups of identical ions that overlap, or name ions that are not there."""
    members = [i for group in identical for i in group]
    if len(set(members)) < len(members) or not set(members) <= set(range(n_atoms)):
        groups = f"groups of identical ions {identical}"
        raise UsageError(f"{groups} name an ion twice, or one that {n_atoms} ions lack")


def log_count(identical: Groups) -> float:
    """Log of the number of orders."""
    return sum(lgamma(len(group) + 1.0) for group in identical)


def log_mean(values: Floats, rows: NDArray[np.int64], lost: NDArray[np.bool_], identical: Groups) -> Floats:
    """Log of the mean over all orders, (n,), of the log densities (K,) of those that count, by geometry (K,).

    NaN, with a warning, where geometries are lost (n,): too many of their orders count.
    """
    n = len(lost)
    best = np.full(n, -np.inf)
    np.maximum.at(best, rows, values)
    shift = np.where(np.isfinite(best), best, 0.0)
    with np.errstate(divide="ignore"):
        total = np.log(np.bincount(rows, np.exp(values - shift[rows]), n))
    _warn_of_lost(lost)
    return np.where(lost, np.nan, total + shift - log_count(identical))


def _warn_of_lost(lost: NDArray[np.bool_]) -> None:
    if lost.any():
        too_many = (
            f"{int(lost.sum())} of {len(lost)} geometries have so many orders of identical ions to add up"
        )
        unknown = "that their prior density is unknown (NaN); a narrower prior, or a ball, has one"
        warnings.warn(f"{too_many} {unknown}", stacklevel=2)


def all_orders(n_atoms: int, identical: Groups, most: int) -> Iterator[NDArray[np.int64]]:
    """Every order (N,) of the atoms that exchanges identical ones; UsageError for more than `most`."""
    if log_count(identical) > log(most) + 1e-9:
        ions = ", ".join(str(len(group)) for group in identical)
        raise UsageError(
            f"the orders of {ions} identical ions are too many to average over; "
            "use a narrower prior, or one that treats all atoms alike, such as a ball"
        )
    for choice in product(*(permutations(group) for group in identical)):
        order = np.arange(n_atoms)
        for group, members in zip(identical, choice, strict=True):
            order[list(group)] = members
        yield order


def nearest_rotations(matrices: Floats, *, mirrored: bool = False) -> Floats:
    """Rotations R (B, 3, 3) with the greatest tr(R^T M) of matrices M (B, 3, 3) (W. Kabsch, 1976).

    `mirrored`: or rotations and a reflection.
    """
    u, _, v = np.linalg.svd(matrices)
    if not mirrored:
        u[:, :, 2] *= np.linalg.det(u @ v)[:, None]
    return u @ v


class _Plan(NamedTuple):
    """What the compiled search reads."""

    sites: NDArray[np.int64]  # in the order in which they are filled
    kind: NDArray[np.int64]  # of each atom
    weights: Floats  # of each atom
    reference: Floats  # of each site in its turn, from the centroid
    spans: Floats  # distances of sites; their radii on the diagonal
    below: NDArray[np.bool_]  # whether a site's atom must have a greater number than another site's
    mirrored: bool  # whether mirror images are as near


class OrderSearch:
    """A search for the orders of identical atoms that bring geometries near a reference (N, 3), bohr.

    Near is a small residual: squared distances of the atoms after the best rotation, weighted (N,), equal for
    identical atoms; where it is `mirrored`, also after a reflection. Where it is `symmetric`, an order stands
    for `classes` orders: rotations that map the reference onto itself, atom by like atom, to `exact` of its
    size, change no residual.
    """

    def __init__(
        self,
        reference: Floats,
        identical: Groups,
        weights: Floats | None = None,
        *,
        symmetric: bool = True,
        mirrored: bool = False,
        exact: float = _EXACT,
    ) -> None:
        n = len(reference)
        mass = np.ones(n) if weights is None else np.asarray(weights, np.float64)
        x = np.ascontiguousarray(reference - mass @ reference / mass.sum(), np.float64)
        kind = np.arange(n)
        for group in identical:
            kind[list(group)] = group[0]
        sites = _filling_order(x, kind)
        spans = np.linalg.norm(x[sites][:, None] - x[sites], axis=-1)
        np.fill_diagonal(spans, np.linalg.norm(x[sites], axis=1))
        self._plan = self._free = _Plan(sites, kind, mass, x[sites], spans, np.zeros((n, n), bool), mirrored)
        self._squares = float(mass @ (x**2).sum(axis=1))
        self._budget = _WORK // n**2
        self.identical = identical
        self.classes = 1
        if identical and symmetric:
            self._use_symmetry(x, exact)

    @property
    def all_alike(self) -> bool:
        """Whether a rotation undoes every order, as for water."""
        return log(self.classes) > log_count(self.identical) - 1e-6

    def log_displaced(self, points: Floats, sigma: float) -> Floats:
        """Log of the mean over all orders of `_rotations.log_displaced`, (B,), of points (B, N, 3), bohr.

        It is -inf where the density is e^-745 of its greatest or less, and too many orders would have to be
        searched; NaN where too many count, or positions are not finite.
        """
        from flowcei.physics._orders import log_displaced_unlabelled

        count = log_count(self.identical)
        cut = count - log(NEGLIGIBLE)
        out = np.full(len(points), -np.inf)
        asked = np.arange(len(points))
        if count > log(self._budget):  # a geometry far from the reference could cost all of it
            asked = np.flatnonzero(~(self.least_residual(points) > 2.0 * sigma**2 * (cut + _VANISHING)))
        values = np.empty(len(asked))
        log_displaced_unlabelled(points[asked], self._plan, self._free, sigma**2, cut, self._budget, values)
        out[asked] = values
        _warn_of_lost(np.isnan(out) & np.isfinite(points).all(axis=(1, 2)))
        return out + log(self.classes) - count

    def least_residual(self, points: Floats) -> Floats:
        """What no order's residual is below, (B,): that of the radii, in the order of their size."""
        mass, kind = self._plan.weights, self._plan.kind
        own = np.diagonal(self._plan.spans)[np.argsort(self._plan.sites)]
        with np.errstate(over="ignore", invalid="ignore"):
            radius = np.linalg.norm(points - (mass @ points / mass.sum())[:, None], axis=2)
            least = np.zeros(len(points))
            for k in np.unique(kind):  # rearrangement: sorted against sorted is the best matching
                alike = kind == k
                gap = np.sort(radius[:, alike], axis=1) - np.sort(own[alike])
                least += mass[alike][0] * (gap**2).sum(axis=1)
        return least

    def within(
        self, points: Floats, ceilings: Floats, most: int = np.iinfo(np.int64).max
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """Geometry (K,) and atoms (K, N) of the first orders, at `most` of each, with a residual below (B,).

        Also which geometries (B,) have too many to search: they have none, like those that are not finite.
        """
        from flowcei.physics._orders import near_orders

        return near_orders(np.ascontiguousarray(points, np.float64), self._plan, ceilings, most, self._budget)

    def nearest(self, points: Floats, most: int) -> NDArray[np.int64]:
        """Atom of each site, (B, N), in the order of the least residual.

        The best of all orders, one of each class, unless more than `most` partial ones are to be looked at.
        """
        from flowcei.physics._orders import nearest_orders

        out = np.empty(points.shape[:2], np.int64)
        nearest_orders(np.ascontiguousarray(points, np.float64), self._plan, _NEAR * self._squares, most, out)
        return out

    def _use_symmetry(self, x: Floats, tolerance: float) -> None:
        """Let the search go through one order of each class: that which is first in its atoms' numbers.

        Site after site, its atom has the least number among those of its orbit under the
        rotations that leave the sites before it alone (Schreier and Sims).
        """
        residual = max(_ROUNDING, len(x) * tolerance**2)
        _, orders, lost = self.within(x[None], np.array([residual * self._squares]))
        if lost.any():
            return
        mirrored = self._plan.mirrored
        turned = x[orders] @ nearest_rotations(np.swapaxes(x[orders], 1, 2) @ x, mirrored=mirrored)
        exact = np.abs(turned - x).max(axis=(1, 2)) < tolerance * np.abs(x).max()
        sites, turn_of = self._plan.sites, np.argsort(self._plan.sites)
        group = {tuple(turn_of[order[sites]].tolist()) for order in orders[exact]}
        if not all(tuple(a[k] for k in b) in group for a in group for b in group):
            return  # within rounding, and no group
        self.classes = max(len(group), 1)
        below = np.zeros_like(self._plan.below)
        for site in range(len(x)):
            below[[g[site] for g in group if g[site] != site], site] = True
            group = {g for g in group if g[site] == site}
        self._plan = self._free._replace(below=below)


def _filling_order(x: Floats, kind: NDArray[np.int64]) -> NDArray[np.int64]:
    """The order in which sites are filled: the sooner, the more it tells of the others.

    First atoms that are like no other, then always the one farthest from the space that those
    before it span, and in the end the outermost.
    """
    chosen: list[int] = np.flatnonzero(np.bincount(kind, minlength=len(kind))[kind] == 1).tolist()
    radius = np.linalg.norm(x, axis=1)
    while len(chosen) < len(x):
        span = np.linalg.pinv(x[chosen], rcond=1e-6) @ x[chosen]  # projects onto it
        distance = np.linalg.norm(x - x @ span, axis=1)
        distance[chosen] = 0.0
        if distance.max() < 1e-6 * radius.max():
            distance = np.where(np.isin(np.arange(len(x)), chosen), -1.0, radius)
        chosen.append(int(distance.argmax()))
    return np.array(chosen, np.int64)
