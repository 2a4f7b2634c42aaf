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
    from flowcei.posterior.arrays import Bools, Floats

_DRIVERS = 3  # longest axes, along which the others are bent
_FEW = 8  # components that are fitted from scratch
_EACH = 10  # points a dimension for each of them


@dataclass(frozen=True, eq=False)
class Bend(RowArrays):
    """Straight coordinates z of points x = centre + axes (z + slope^T f(z)) of E events.

    f: products of the first of z, less 1 of squares, and the first of z themselves. What they shift are the
    others, so the map is as easily undone, and its volume that of the axes.
    """

    ROWS = ("centre", "axes", "inverse", "slope")

    centre: Floats  # (E, D)
    axes: Floats  # (E, D, D), by falling length
    inverse: Floats  # (E, D, D)
    slope: Floats  # (E, F, D - K)

    @classmethod
    def of(cls, points: Floats, effective: Floats) -> Bend:
        """Principal axes of points (E, M, D), and the parabolas that so many independent ones (E,) show."""
        _, m, d = points.shape
        centre = points.mean(axis=1)
        off = points - centre[:, None]
        square, axes = np.linalg.eigh(products(off) / m)
        # Points on a plane still have a width, and so has one that is all there is.
        length = np.sqrt(np.maximum(square, RIDGE**2 * square[:, -1:]) + 1e-12)[:, ::-1]
        axes = axes[:, :, ::-1]
        inverse = np.swapaxes(axes / length[:, None], 1, 2)
        slope = _slope(off @ np.swapaxes(inverse, 1, 2), min(_DRIVERS, d // 2), effective)
        return cls(centre, np.ascontiguousarray(axes * length[:, None]), np.ascontiguousarray(inverse), slope)

    @property
    def log_volume(self) -> Floats:
        """Log of the volume of x over that of z, (E,)."""
        return np.asarray(np.linalg.slogdet(self.axes)[1])

    def straight(self, points: Floats) -> Floats:
        """Coordinates z (E, M, D) of points x."""
        from flowcei.posterior._student import straightened

        out = np.empty(points.shape)
        straightened(np.ascontiguousarray(points), self.centre, self.inverse, self.slope, out)
        return out

    def bent(self, z: Floats) -> Floats:
        """Points x of coordinates z (E, M, D)."""
        from flowcei.posterior._student import bent

        out = np.empty(z.shape)
        bent(z.copy(), self.centre, self.axes, self.slope, out)
        return out

    def derivative(self, z: Floats) -> Floats:
        """Derivatives dz / dx at z (E, M, D), (E, M, D, D)."""
        d, k = z.shape[2], z.shape[2] - self.slope.shape[2]
        i, j = np.triu_indices(k)
        unit, first = np.eye(k), z[:, :, :k]
        # Of z_i z_j by z_l, then of z_i.
        by_pair = first[..., i, None] * unit[j] + first[..., j, None] * unit[i]
        along = np.concatenate([by_pair, np.broadcast_to(unit, (*z.shape[:2], k, k))], axis=2)
        shear = np.tile(np.eye(d), (*z.shape[:2], 1, 1))
        shear[:, :, k:, :k] = -np.einsum("efr,emfl->emrl", self.slope, along)
        return np.asarray(shear @ self.inverse[:, None])


def _slope(z: Floats, drivers: int, effective: Floats) -> Floats:
    """Coefficients (E, F, D - K) of a regression of the others of z (E, M, D) on what the first make."""
    _, m, d = z.shape
    first, others = z[:, :, :drivers], z[:, :, drivers:]
    i, j = np.triu_indices(drivers)
    pairs = first[:, :, i] * first[:, :, j] - (i == j)
    # The axes have left no linear relation, and the products shall bring none.
    linear = np.swapaxes(first, 1, 2) @ pairs / m
    pairs = pairs - first @ linear
    square = products(pairs) / m + np.eye(len(i)) * (d / effective)[:, None, None]
    slope = np.linalg.solve(square, np.swapaxes(pairs, 1, 2) @ others / m)
    # What is no larger than its noise is none (C. Stein 1956): bends of few points are mostly noise.
    size = np.einsum("eff,efr->ef", square, slope**2) * effective[:, None]
    slope = slope * np.maximum(1.0 - (d - drivers) / np.maximum(size, 1e-300), 0.0)[:, :, None]
    return np.ascontiguousarray(np.concatenate([slope, -linear @ slope], axis=1))


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
        z = self.bend.straight(other.mean)
        factor = self.bend.derivative(z) @ other.factor
        # A triangular root again; rounding must not make it singular.
        scale = factor @ np.swapaxes(factor, 2, 3) + 1e-12 * np.eye(z.shape[2])
        straight = StudentMixture(z, np.asarray(np.linalg.cholesky(scale), np.float64), other.log_share)
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
        z = self.bend.straight(points)
        shares = self.mixture.log_shares(z)
        ahead, chosen = self.mixture.steps(shares, rng)
        new = z + scale * ahead
        back, there = (
            np.take_along_axis(log_shares, chosen[:, None], axis=1)[:, 0]
            for log_shares in (self.mixture.log_shares(new), shares)
        )
        return self.bend.bent(new), back, there
