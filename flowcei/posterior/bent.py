"""Mixtures in coordinates of each event that are bent as its points are.

Where momenta tell little of a direction a posterior is long, and bent along it: a parabola of three long
axes, which a normal distribution misses and a shear straightens (H. Haario, E. Saksman and J. Tamminen,
Comput. Stat. 14, 375 (1999), bend a normal one into their test case).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from flowcei.posterior.arrays import RowArrays
from flowcei.posterior.mixtures import RIDGE, StudentMixture, products

if TYPE_CHECKING:
    from flowcei.posterior.arrays import Bools, Floats, Numbers

_DRIVERS = 3  # longest axes, along which the others are bent
_FEW = 8  # components that are fitted from scratch
_EACH = 10  # points a dimension for each of them
_KEPT = 0.1  # share of the draws of a guarded mixture that are of what it began as
_LEAST_WIDTH = 1e-6  # of a component that came of others


@dataclass(frozen=True, eq=False)
class Bend(RowArrays):
    """Straight coordinates s of points x = centre + axes z of E events, where z_k = s_k + slope_k . f(z).

    f: products of the first K of z, less 1 of squares, and the first of z themselves; a coordinate is shifted
    by such of them as lie before it. So the map is as easily undone, and its volume that of the axes.
    """

    ROWS = ("centre", "axes", "inverse", "slope")

    centre: Floats  # (E, D)
    axes: Floats  # (E, D, D)
    inverse: Floats  # (E, D, D)
    slope: Floats  # (E, F, D)

    @classmethod
    def of(cls, points: Floats, effective: Floats) -> Bend:
        """White coordinates of points (E, M, D), and the parabolas that so many independent ones show."""
        _, m, d = points.shape
        centre = points.mean(axis=1)
        off = points - centre[:, None]
        square, unit = np.linalg.eigh(products(off) / m)
        # Points on a plane still have a width, and so has one that is all there is.
        length = np.sqrt(np.maximum(square, RIDGE**2 * square[:, -1:]) + 1e-12)[:, ::-1]
        unit = unit[:, :, ::-1]
        z = off @ unit / length[:, None]
        axes = unit * length[:, None]
        inverse = np.swapaxes(unit / length[:, None], 1, 2)
        slope = _slopes(z, min(_DRIVERS, d - 1), effective)
        return cls(centre, np.ascontiguousarray(axes), np.ascontiguousarray(inverse), slope)

    @property
    def log_volume(self) -> Floats:
        """Log of the volume of x over that of s, (E,)."""
        return np.asarray(np.linalg.slogdet(self.axes)[1])

    def straight(self, points: Floats) -> Floats:
        """Coordinates s (E, M, D) of points x."""
        from flowcei.posterior._student import straightened

        out = np.empty(points.shape)
        straightened(np.ascontiguousarray(points), self.centre, self.inverse, self.slope, out)
        return out

    def bent(self, straight: Floats) -> Floats:
        """Points x of coordinates s (E, M, D)."""
        from flowcei.posterior._student import bent

        out = np.empty(straight.shape)
        bent(straight.copy(), self.centre, self.axes, self.slope, out)
        return out

    def derivative(self, points: Floats) -> Floats:
        """Derivatives ds / dx at points x (E, M, D), (E, M, D, D)."""
        d = points.shape[2]
        k = min(_DRIVERS, d - 1)
        z = (points - self.centre[:, None]) @ np.swapaxes(self.inverse, 1, 2)
        i, j = np.triu_indices(k)
        unit = np.eye(d)[:k]
        # Of z_i z_j by each of z, then of z_i.
        by_pair = z[..., i, None] * unit[j] + z[..., j, None] * unit[i]
        along = np.concatenate([by_pair, np.broadcast_to(unit, (*z.shape[:2], k, d))], axis=2)
        shear = np.eye(d) - np.einsum("efr,emfl->emrl", self.slope, along)
        return np.asarray(shear @ self.inverse[:, None])


def _slopes(z: Floats, drivers: int, effective: Floats) -> Floats:
    """Coefficients (E, F, D) of regressions of coordinates z (E, M, D) on what those before them make."""
    e, _, d = z.shape
    i, j = np.triu_indices(drivers)
    out = np.zeros((e, len(i) + drivers, d))
    for k in range(1, drivers + 1):  # the others are all shifted by the same
        pairs = np.flatnonzero(j < k)
        rows = np.concatenate([pairs, len(i) + np.arange(k)])
        shifted = slice(k, k + 1 if k < drivers else d)
        out[:, rows, shifted] = _slope(z[:, :, :k], i[pairs], j[pairs], z[:, :, shifted], effective)
    return out


def _slope(first: Floats, i: Numbers, j: Numbers, others: Floats, effective: Floats) -> Floats:
    """Coefficients (E, F, R) of others (E, M, R) on products of the first (E, M, K), and on these."""
    m = first.shape[1]
    pairs = first[:, :, i] * first[:, :, j] - (i == j)
    # The axes have left no linear relation, and the products shall bring none.
    linear = np.swapaxes(first, 1, 2) @ pairs / m
    pairs = pairs - first @ linear
    square = products(pairs) / m + np.eye(len(i)) * (len(i) / effective)[:, None, None]
    slope = np.linalg.solve(square, np.swapaxes(pairs, 1, 2) @ others / m)
    # What is no larger than its noise is none (C. Stein 1956): bends of few points are mostly noise.
    size = np.einsum("eff,efr->ef", square, slope**2) * effective[:, None]
    slope = slope * np.maximum(1.0 - others.shape[2] / np.maximum(size, 1e-300), 0.0)[:, :, None]
    return np.concatenate([slope, -linear @ slope], axis=1)


@dataclass(frozen=True, eq=False)
class BentMixture(RowArrays):
    """For each of E events a mixture in its straight coordinates."""

    ROWS = ("bend", "mixture")

    bend: Bend
    mixture: StudentMixture

    @classmethod
    def fit(cls, points: Floats, effective: Floats, rng: np.random.Generator, count: int) -> BentMixture:
        """Fit to points (E, M, D) that count alike, with so many components: see `StudentMixture.fit`."""
        bend = Bend.of(points, effective)
        return cls(bend, StudentMixture.fit(bend.straight(points), effective, rng, count))

    def fitted_again(self, points: Floats, effective: Floats, rng: np.random.Generator) -> BentMixture:
        """Return a fit to points that came of these, with up to twice as many components.

        Points that chains have reached tell more of a bent density than those that weights began with.
        """
        count, (_, m, d) = self.count - 1, points.shape
        if count <= _FEW:
            return BentMixture.fit(points, effective, rng, max(count, min(2 * count, m // (_EACH * d))))
        # One for each mode: begun anew, some would be lost.
        return self.moved(points, effective)

    def moved(self, points: Floats, effective: Floats) -> BentMixture:
        """Return these components as points (E, M, D) have them: see `StudentMixture.moved`."""
        return replace(self, mixture=self.mixture.moved(self.bend.straight(points), effective))

    @property
    def count(self) -> int:
        """Components, with the wide one."""
        return self.mixture.mean.shape[1]

    def padded(self, count: int) -> BentMixture:
        """Return the same with so many components, or as many as there are; the others have no share."""
        return replace(self, mixture=self.mixture.padded(count))

    def joined(self, other: StudentMixture) -> BentMixture:
        """Return the components of both; those of the other are of points, not of straight coordinates."""
        mean = self.bend.straight(other.mean)
        factor = self.bend.derivative(other.mean) @ other.factor
        # A triangular root again, not by way of the square: of a steep bend that is singular by rounding.
        root = np.swapaxes(np.linalg.qr(np.swapaxes(factor, 2, 3), mode="r"), 2, 3)
        size = np.diagonal(root, axis1=2, axis2=3)
        root = root * np.where(size < 0, -1.0, 1.0)[:, :, None] + _LEAST_WIDTH * np.eye(mean.shape[2])
        straight = StudentMixture(mean, root, other.log_share)
        return replace(self, mixture=self.mixture.joined(straight))

    def covers(self, points: Floats) -> Bools:
        """Whether points (E, M, D) lie where a component but the last has its own, (E, M)."""
        return self.mixture.covers(self.bend.straight(points))

    def log_density(self, points: Floats) -> Floats:
        """Log density (E, M) of points (E, M, D)."""
        return self.mixture.log_density(self.bend.straight(points)) - self.bend.log_volume[:, None]

    def sample(self, n: int, rng: np.random.Generator) -> Floats:
        """Draw n points of each event, (E, n, D), independent and in any order."""
        return self.bend.bent(self.mixture.sample(n, rng))

    def stepped(
        self, points: Floats, scale: Floats, rng: np.random.Generator
    ) -> tuple[Floats, Floats, Floats]:
        """Go a normal step from each of points (E, P, D), so many times (E, P, 1) as long as a component is.

        The component is drawn by where the point is, so the way back is not as likely as the way there: log
        densities of both, (E, P), but for what they share.
        """
        straight = self.bend.straight(points)
        shares = self.mixture.log_shares(straight)
        ahead, chosen = self.mixture.steps(shares, rng)
        new = straight + scale * ahead
        back, there = (
            np.take_along_axis(log_shares, chosen[:, None], axis=1)[:, 0]
            for log_shares in (self.mixture.log_shares(new), shares)
        )
        return self.bend.bent(new), back, there


@dataclass(frozen=True, eq=False)
class GuardedMixture(RowArrays):
    """A mixture that is fitted again and again, beside the one that it began as, which keeps a share.

    Each fit is to draws of the one before: what a few of these happen to miss would be lost for good.
    """

    ROWS = ("fitted", "first")

    fitted: BentMixture
    first: BentMixture

    def fitted_again(self, points: Floats, effective: Floats, rng: np.random.Generator) -> GuardedMixture:
        """See `BentMixture.fitted_again`."""
        return replace(self, fitted=self.fitted.fitted_again(points, effective, rng))

    def moved(self, points: Floats, effective: Floats) -> GuardedMixture:
        """See `BentMixture.moved`."""
        return replace(self, fitted=self.fitted.moved(points, effective))

    @property
    def count(self) -> int:
        """Components of that which is fitted."""
        return self.fitted.count

    def padded(self, count: int) -> GuardedMixture:
        """See `BentMixture.padded`."""
        return replace(self, fitted=self.fitted.padded(count))

    def log_density(self, points: Floats) -> Floats:
        """Log density (E, M) of points (E, M, D)."""
        fitted, first = self.fitted.log_density(points), self.first.log_density(points)
        return np.asarray(np.logaddexp(fitted + np.log1p(-_KEPT), first + np.log(_KEPT)))

    def sample(self, n: int, rng: np.random.Generator) -> Floats:
        """Draw n points of each event, (E, n, D), in any order; the shares of both are met."""
        few = int(_KEPT * n + rng.random())
        return np.concatenate([self.fitted.sample(n - few, rng), self.first.sample(few, rng)], axis=1)

    def stepped(
        self, points: Floats, scale: Floats, rng: np.random.Generator
    ) -> tuple[Floats, Floats, Floats]:
        """See `BentMixture.stepped`."""
        return self.fitted.stepped(points, scale, rng)
