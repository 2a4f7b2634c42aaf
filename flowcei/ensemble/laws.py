"""Laws of internal coordinates: normals, and the two-dimensional normal bend of a straight angle.

Coordinates z are numbers such as bond lengths. Of an angle that is straight at equilibrium z is the bend, 180
degrees minus the angle: the length of a two-dimensional normal vector, Rayleigh distributed, since a chain
bends alike in all directions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.special import logsumexp

from flowcei.ensemble.components import Components, Moments
from flowcei.errors import DataError

if TYPE_CHECKING:
    from flowcei.posterior.arrays import Bools, Floats, Rows

_CORRELATED = 0.9999  # the largest correlation that a correction may lead to
_LEAST = 1e-10  # of the largest eigenvalue of a covariance: below it a law has no width


RAYLEIGH = np.sqrt(np.pi / 2.0), np.sqrt(2.0 - np.pi / 2.0)
"""Mean and deviation of a bend over its width in one direction."""


@dataclass(frozen=True, eq=False)
class NormalLaw:
    """A mixture of C normal laws of K coordinates.

    Bends of straight angles are independent of lengths and other angles, as their symmetry demands; their
    entry of `mean` is 0, and that of the diagonal of `covariance` the variance of the bend in one direction.
    """

    share: Floats  # (C,)
    mean: Floats  # (C, K)
    covariance: Floats  # (C, K, K)
    bends: Bools  # which coordinates are bends, (K,)

    @classmethod
    def of(cls, moments: Moments, bends: Bools) -> NormalLaw:
        """Return the law of greatest likelihood of points with these sums.

        Raises:
            DataError: Where a component has no points, or no width.
        """
        if not (moments.count > 0).all():
            raise DataError("a component of the law has no events: ask for fewer components")
        mean = np.where(bends, 0.0, moments.first / moments.count[:, None])
        covariance = moments.second / moments.count[:, None, None] - mean[:, :, None] * mean[:, None]
        covariance = covariance * (~bends[:, None] & ~bends)
        square = np.einsum("ckk->ck", moments.second) / moments.count[:, None]
        covariance += np.eye(len(bends)) * np.where(bends, 0.5 * square, 0.0)[:, None]
        share = moments.count / moments.count.sum()
        law = cls(share, mean, 0.5 * (covariance + np.swapaxes(covariance, 1, 2)), bends)
        variance = np.einsum("ckk->ck", law.covariance)
        size = np.sqrt(variance.max(axis=0).clip(0.0))
        if (
            not (variance > 0.0).all()
            or (np.linalg.eigvalsh(law.covariance / size / size[:, None])[:, 0] < _LEAST).any()
        ):
            raise DataError("the law shrinks to a point: too few events, or noise larger than stated")
        return law

    @property
    def deviation(self) -> Floats:
        """Standard deviations (C, K); of a bend in one direction."""
        return np.sqrt(np.einsum("ckk->ck", self.covariance))

    @property
    def shown(self) -> tuple[Floats, Floats]:
        """Mean and deviation (C, K) of lengths and angles: where z is a bend, of the angle."""
        mean, width = self.mean, self.deviation
        return (
            np.where(self.bends, 180.0 - RAYLEIGH[0] * width, mean),
            np.where(self.bends, RAYLEIGH[1] * width, width),
        )

    def ordered(self, like: NormalLaw | None = None) -> NormalLaw:
        """Return the law with its components in the order of their first means, or in that of another's."""
        order = np.argsort(self.mean[:, 0])
        if like is not None:  # lengths and angles, over the deviations of both
            width = np.hypot(self.deviation, like.deviation[:, None])
            away = (like.shown[0][:, None] - self.shown[0]) / width
            order = linear_sum_assignment((away**2).sum(axis=2))[1]
        return replace(
            self, share=self.share[order], mean=self.mean[order], covariance=self.covariance[order]
        )

    @property
    def correlation(self) -> Floats:
        """Correlations (C, K, K)."""
        return self.covariance / self.deviation[:, :, None] / self.deviation[:, None]

    @property
    def moments(self) -> Moments:
        """Expected sums of one point."""
        mean = np.where(self.bends, RAYLEIGH[0] * self.deviation, self.mean)
        square = self.covariance + self.mean[:, :, None] * self.mean[:, None]
        square += np.eye(len(self.bends)) * np.where(self.bends, self.deviation**2, 0.0)[:, None]
        return Moments(self.share, self.share[:, None] * mean, self.share[:, None, None] * square)

    @property
    def components(self) -> Components:
        """Its components, in one row."""
        with np.errstate(divide="ignore"):
            log_share = np.log(self.share)[None]
        which = np.arange(len(self.share))
        return Components.of(self.mean[None], log_share, self.covariance, which, self.bends)

    def log_each(self, z: Floats) -> Floats:
        """Log of share times density (B, C) of each component at points z (B, K)."""
        return self.components.log_each(z[None])[0]

    def log_prob(self, z: Floats) -> Floats:
        """Log density (B,) at points z (B, K)."""
        return np.asarray(logsumexp(self.log_each(z), axis=1))

    def log_complete(self, moments: Moments) -> float:
        """Log likelihood of points with some sums, each of its component, but for what all laws give them."""
        cross = moments.first[:, :, None] * self.mean[:, None]
        about = moments.second - cross - np.swapaxes(cross, 1, 2)
        about += moments.count[:, None, None] * self.mean[:, :, None] * self.mean[:, None]
        square = np.einsum("ckl,ckl->", np.linalg.inv(self.covariance), about)
        return float(moments.count @ self.components.height[0] - 0.5 * square)

    def sample(self, n: int, rng: np.random.Generator) -> Floats:
        """Draw n points, (n, K)."""
        component = rng.choice(len(self.share), n, p=self.share)
        normal = rng.standard_normal((n, len(self.bends)))
        z = self.mean[component] + np.einsum(
            "bkl,bl->bk", np.linalg.cholesky(self.covariance)[component], normal
        )
        second = self.deviation[component] * rng.standard_normal(normal.shape)
        return np.where(self.bends, np.hypot(z, second), z)

    @property
    def widths(self) -> int:
        """How many numbers come before the correlations: means, log deviations and free shares."""
        return 2 * self.mean.size + len(self.share) - 1

    def scores(self, z: Floats, pairs: tuple[Rows, Rows]) -> Floats:
        """Derivatives (B, P) of the log density by the numbers of the law.

        These are, of each component, K means and K log deviations; the shares but the last, which is what
        they leave; and of each component the correlations of pairs (two arrays of places). 0 for the mean of
        a bend, which is no number of the law.
        """
        each = self.log_each(z)
        member = np.exp(each - logsumexp(each, axis=1)[:, None])
        first, second = pairs
        widths, correlations = [], []
        for c, (mean, covariance) in enumerate(zip(self.mean, self.covariance, strict=True)):
            inverse, d = np.linalg.inv(covariance), z - mean
            y, own = d @ inverse, member[:, [c]]
            unit = self.deviation[c, first] * self.deviation[c, second]
            widths += [own * np.where(self.bends, 0.0, y), own * (d * y - np.where(self.bends, 2.0, 1.0))]
            correlations.append(own * (y[:, first] * y[:, second] - inverse[first, second]) * unit)
        over = member / self.share
        return np.concatenate([*widths, over[:, :-1] - over[:, -1:], *correlations], axis=1)

    def shifted(self, numbers: Floats, pairs: tuple[Rows, Rows]) -> NormalLaw:
        """Return the law with numbers (P,), of those of `scores`, added."""
        count, k = self.mean.shape
        mean, width = np.moveaxis(numbers[: 2 * count * k].reshape(count, 2, k), 1, 0)
        share = np.clip(self.share[:-1] + numbers[2 * count * k : self.widths], _LEAST, 1.0)
        share = np.append(share, max(1.0 - float(share.sum()), _LEAST))
        deviation, correlation = self.deviation * np.exp(width), self.correlation.copy()
        moved = correlation[:, *pairs] + numbers[self.widths :].reshape(count, -1)
        correlation[:, *pairs] = np.clip(moved, -_CORRELATED, _CORRELATED)
        correlation[:, pairs[1], pairs[0]] = correlation[:, *pairs]
        covariance = correlation * deviation[:, None] * deviation[:, :, None]
        return replace(self, share=share / share.sum(), mean=self.mean + mean, covariance=covariance)

    @property
    def pairs(self) -> tuple[Rows, Rows]:
        """Places of the pairs of coordinates that can be correlated."""
        listed = list(combinations(np.flatnonzero(~self.bends).tolist(), 2))
        first, second = np.array(listed, dtype=np.intp).reshape(-1, 2).T
        return first, second

    @property
    def vector(self) -> Floats:
        """All numbers of the law as a vector without bounds, which `from_vector` reads."""
        root = np.linalg.cholesky(self.covariance)
        low = np.tril_indices(len(self.bends), -1)
        diagonal = np.log(np.einsum("ckk->ck", root))
        parts = [np.log(self.share), self.mean.ravel(), diagonal.ravel(), root[:, low[0], low[1]].ravel()]
        return np.concatenate(parts)

    def from_vector(self, vector: Floats) -> NormalLaw:
        """Return the law of the same shape with these numbers."""
        count, k = self.mean.shape
        ends = np.cumsum([count, count * k, count * k])
        logs, mean, diagonal, below = np.split(vector, ends)
        root, low = np.zeros((count, k, k)), np.tril_indices(k, -1)
        root[:, np.arange(k), np.arange(k)] = np.exp(diagonal.reshape(count, k))
        root[:, low[0], low[1]] = below.reshape(count, -1)
        share = np.exp(logs - logsumexp(logs))
        covariance = root @ np.swapaxes(root, 1, 2)
        return replace(self, share=share, mean=mean.reshape(count, k), covariance=covariance)
