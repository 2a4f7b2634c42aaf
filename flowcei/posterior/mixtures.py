"""Mixtures of Student-t distributions, one for each event: proposals fitted to weighted points."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import gammaln, logsumexp

from flowcei.posterior.arrays import RowArrays

if TYPE_CHECKING:
    from flowcei.posterior.arrays import Bools, Floats, Numbers

_DOF = 15.0  # at 5 a normal target of 12 dimensions wastes half of the draws, at 30 the tails are bare
_STEPS = 4, 12  # of expectation and maximisation, of one component and of more
_GUARD = 0.1  # share of the draws
RIDGE = 1e-3
"""Of the spread: points on a plane still have a covariance."""


@dataclass(frozen=True, eq=False)
class StudentMixture(RowArrays):
    """K components in D dimensions for each of E events.

    Heavier tails than a normal mixture, so that weights stay bounded where the fit is too narrow.
    """

    ROWS = ("mean", "factor", "log_share")

    mean: Floats  # (E, K, D)
    factor: Floats  # Cholesky factors of the scale matrices, (E, K, D, D)
    log_share: Floats  # of each component, (E, K)

    @classmethod
    def fit(cls, points: Floats, effective: Floats, rng: np.random.Generator, count: int) -> StudentMixture:
        """Fit to points (E, M, D) with mean 0 and covariance 1 that count alike.

        By expectation and maximisation: D. Peel and G. J. McLachlan, Statistics and Computing 10, 339 (2000).
        count: of components, which begin at points far from one another.
        effective: independent points behind them, (E,): of a component with few of these the scale is drawn
        towards the mean scale of all, or a handful of repeated points would be fitted.
        """
        e, _, d = points.shape
        unit = np.broadcast_to(np.eye(d) / (2 * count), (e, count, d, d))
        fitted = cls(_distinct(points, count, rng), unit, np.full((e, count), -np.log(count)))
        for _ in range(_STEPS[count > 1]):
            fitted = fitted._step(points, effective)
        # The last is as wide as twice all points: what the others miss must have a chance.
        wide = np.zeros((e, 1, d)), np.tile(2.0 * np.eye(d), (e, 1, 1, 1)), np.zeros((e, 1))
        return fitted.joined(cls(*wide), _GUARD)

    def moved(self, points: Floats, effective: Floats) -> StudentMixture:
        """Return these components as points (E, M, D) have them, each still with a chance.

        A mode that no point is at yet is still there.
        """
        fitted = self
        for _ in range(_STEPS[0]):
            fitted = fitted._step(points, effective)
        log_share = np.logaddexp(fitted.log_share + np.log1p(-_GUARD), self.log_share + np.log(_GUARD))
        return replace(fitted, log_share=log_share)

    def padded(self, count: int) -> StudentMixture:
        """Return the same with so many components, or as many as there are; the others have no share."""
        more = count - self.mean.shape[1]
        if more <= 0:
            return self
        (e, _, d), unit = self.mean.shape, np.eye(self.mean.shape[2])
        blank = np.zeros((e, more, d)), np.tile(unit, (e, more, 1, 1)), np.full((e, more), -np.inf)
        own = self.mean, self.factor, self.log_share
        return StudentMixture(*(np.concatenate(pair, axis=1) for pair in zip(own, blank, strict=True)))

    def components(self, chosen: Numbers) -> StudentMixture:
        """Return some of the components, (E, C), of each event."""
        rows = np.arange(len(self))[:, None]
        return StudentMixture(*(getattr(self, name)[rows, chosen] for name in self.ROWS))

    def joined(self, other: StudentMixture, share: float = 0.2) -> StudentMixture:
        """Return the components of both, of which the others have a share."""
        theirs = other.log_share - logsumexp(other.log_share, axis=1, keepdims=True) + np.log(share)
        own = self.mean, self.factor, self.log_share + np.log1p(-share)
        more = other.mean, other.factor, theirs
        return StudentMixture(*(np.concatenate(pair, axis=1) for pair in zip(own, more, strict=True)))

    def covers(self, points: Floats) -> Bools:
        """Whether points (E, M, D) lie where a component but the last has its own, (E, M)."""
        d = points.shape[2]
        return np.asarray(self._components(points)[1][:, :-1].min(axis=1) < d + 4.0 * np.sqrt(2.0 * d))

    def _step(self, z: Floats, effective: Floats) -> StudentMixture:
        from flowcei.posterior._student import pulls

        (_, m, d), shape = z.shape, self.mean.shape
        shares, first, half = np.empty((*shape[:2], 2)), np.empty(shape), np.zeros((*shape, d))
        pulls(np.ascontiguousarray(z), self.mean, self._inverse(), self._height(z), _DOF, shares, first, half)
        total, pull = shares[..., 0], shares[..., 1:]
        shift = first / (pull + 1e-9)  # one without points stays
        # About the mean that was: sums of squares less those of means would lose a narrow one's digits.
        scatter = half + np.swapaxes(np.tril(half, -1), 2, 3)
        scatter += (pull * shift)[..., None] * shift[:, :, None]
        scatter -= first[..., None] * shift[:, :, None] + shift[..., None] * first[:, :, None]
        pooled = scatter.sum(axis=1, keepdims=True) / m
        known = (total * effective[:, None] / m)[..., None, None]
        own = scatter / np.maximum(total, 1e-300)[..., None, None]
        # Drawn towards the mean of all scales, and never flatter than a thousandth of it.
        trace = np.einsum("ekdd->e", pooled)[:, None, None, None] / d
        # Where one point is all there is, nor a point.
        scale = (own * known + d * pooled) / (known + d) + (RIDGE**2 * trace + 1e-12) * np.eye(d)
        log_share = np.log(np.maximum(total / m, 1e-12))
        return StudentMixture(self.mean + shift, np.linalg.cholesky(scale), log_share)

    def log_density(self, points: Floats) -> Floats:
        """Log density (E, M) of points (E, M, D)."""
        # Imported here: numba takes half a second, and most commands draw no exact samples.
        from flowcei.posterior._student import log_density

        out = np.empty(points.shape[:2])
        log_density(np.ascontiguousarray(points), self.mean, self._inverse(), self._height(points), _DOF, out)
        return out

    def _components(self, points: Floats) -> tuple[Floats, Floats]:
        """Log density times share, and squared distance in units of the scale, (E, K, M)."""
        from flowcei.posterior._student import distances

        distance = np.empty((*self.log_share.shape, points.shape[1]))
        distances(np.ascontiguousarray(points), self.mean, self._inverse(), distance)
        return self._height(points)[..., None] - (_DOF + points.shape[2]) / 2 * np.log1p(
            distance / _DOF
        ), distance

    def _inverse(self) -> Floats:
        return np.ascontiguousarray(np.linalg.inv(self.factor))

    def _height(self, points: Floats) -> Floats:
        """Log density times share at the means, (E, K)."""
        d = points.shape[2]
        constant = gammaln((_DOF + d) / 2) - gammaln(_DOF / 2) - d / 2 * np.log(_DOF * np.pi)
        return np.asarray(self.log_share - np.log(np.einsum("ekdd->ekd", self.factor)).sum(axis=2) + constant)

    def sample(self, n: int, rng: np.random.Generator) -> Floats:
        """Draw n points of each event, (E, n, D), independent and in any order."""
        edges = np.exp(self.log_share).cumsum(axis=1)
        marks = rng.random((len(edges), n)) * edges[:, -1:]
        chosen = np.asarray((marks[..., None] > edges[:, None, :-1]).sum(axis=2))
        return self._scaled(self.mean, chosen, np.sqrt(_DOF / rng.chisquare(_DOF, (len(self), n))), rng)

    def steps(self, log_shares: Floats, rng: np.random.Generator) -> tuple[Floats, Numbers]:
        """Draw normal steps (E, P, D), each with the scale of a component drawn by its share (E, K, P).

        Also returns which, (E, P).
        """
        edges = np.exp(log_shares).cumsum(axis=1)
        chosen = np.asarray((rng.random((len(self), 1, log_shares.shape[2])) > edges[:, :-1]).sum(axis=1))
        return self._scaled(np.zeros_like(self.mean), chosen, np.ones(chosen.shape), rng), chosen

    def log_shares(self, points: Floats) -> Floats:
        """Log of the shares (E, K, P) that the components have in the density at points (E, P, D)."""
        each = self._components(points)[0]
        return np.asarray(each - logsumexp(each, axis=1, keepdims=True))

    def _scaled(self, mean: Floats, chosen: Numbers, tail: Floats, rng: np.random.Generator) -> Floats:
        from flowcei.posterior._student import scaled

        out = rng.standard_normal((*chosen.shape, mean.shape[2]))
        scaled(np.ascontiguousarray(mean), np.ascontiguousarray(self.factor), chosen, tail, out, out)
        return out


def products(points: Floats, weight: Floats | float = 1.0) -> Floats:
    """Sums of weighted outer products (E, D, D) of points (E, M, D)."""
    return np.asarray(np.swapaxes(points * weight, 1, 2) @ points)


def _distinct(z: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Points (E, count, D) far from one another, each drawn by its squared distance from those before.

    D. Arthur and S. Vassilvitskii, k-means++, SODA 2007, 1027.
    """
    (e, m, d), rows = z.shape, np.arange(len(z))
    out = np.empty((e, count, d))
    out[:, 0] = z[rows, rng.integers(m, size=e)]
    nearest = np.full((e, m), np.inf)
    for k in range(1, count):
        nearest = np.minimum(nearest, ((z - out[:, k - 1, None]) ** 2).sum(axis=2))
        edges = nearest.cumsum(axis=1)
        out[:, k] = z[rows, (edges > rng.random((e, 1)) * edges[:, -1:]).argmax(axis=1)]
    return out
