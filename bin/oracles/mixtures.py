"""Mixtures of multivariate Student distributions: proposals whose density is known everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import gammaln, logsumexp

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FREEDOM = 5.0  # degrees of: tails wide enough for weights, and two moments
_HELD = 2_000_000  # numbers held at a time


@dataclass(frozen=True, eq=False)
class StudentMixture:
    """A mixture of Student distributions with 5 degrees of freedom.

    Attributes:
        centre: (M, D).
        factor: A root A of the scale matrix A A^T of each, (M, D, D).
        share: Probability of each, (M,).
    """

    centre: NDArray[np.float64]
    factor: NDArray[np.float64]
    share: NDArray[np.float64]

    @classmethod
    def of(
        cls, centre: NDArray[np.float64], scale: NDArray[np.float64], share: NDArray[np.float64]
    ) -> StudentMixture:
        """Make it from scale matrices (M, D, D), which are made positive definite.

        Example:
            >>> StudentMixture.of(np.zeros((1, 2)), 4.0 * np.eye(2)[None], np.ones(1)).factor.tolist()
            [[[2.0, 0.0], [0.0, 2.0]]]
        """
        values, axes = np.linalg.eigh(scale)
        values = np.maximum(values, 1e-12 * values[:, -1:])
        return cls(centre, axes * np.sqrt(values)[:, None], share / share.sum())

    def joined(self, other: StudentMixture, share: float) -> StudentMixture:
        """Return a mixture of this one and, with probability `share`, another."""
        shares = np.concatenate([(1.0 - share) * self.share, share * other.share])
        return StudentMixture(
            np.concatenate([self.centre, other.centre]), np.concatenate([self.factor, other.factor]), shares
        )

    def draw(self, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw `n` points, (n, D): from each component its share of them, rounded up or down."""
        marks = (np.arange(n) + rng.random()) / n
        which = np.searchsorted(self.share.cumsum(), marks).clip(0, len(self.share) - 1)
        size = self.centre.shape[1]
        normal = rng.standard_normal((n, size))
        stretch = np.sqrt(_FREEDOM / rng.chisquare(_FREEDOM, n))
        return self.centre[which] + np.einsum("nij,nj->ni", self.factor[which], normal) * stretch[:, None]

    def log_prob(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the log density (n,) of points (n, D).

        Example:
            >>> from scipy.stats import multivariate_t
            >>> x, one = np.array([[0.5, 1.0]]), np.eye(2)
            >>> known = multivariate_t.logpdf(x[0], shape=one, df=5)
            >>> bool(np.isclose(StudentMixture.of(0 * x, one[None], np.ones(1)).log_prob(x)[0], known))
            True
        """
        count, size = self.centre.shape
        inverse = np.linalg.inv(self.factor)  # (M, D, D)
        moved = np.einsum("mij,mj->mi", inverse, self.centre).reshape(-1)
        flat = inverse.reshape(count * size, size).T
        constant = (
            gammaln(0.5 * (_FREEDOM + size)) - gammaln(0.5 * _FREEDOM) - 0.5 * size * np.log(_FREEDOM * np.pi)
        )
        with np.errstate(divide="ignore"):
            log_share = np.log(self.share) - np.linalg.slogdet(self.factor)[1] + constant
        out = np.empty(len(x))
        step = max(1, _HELD // (count * size))
        for first in range(0, len(x), step):
            rows = slice(first, first + step)
            left = (x[rows] @ flat - moved).reshape(-1, count, size)
            squares = np.einsum("nmd,nmd->nm", left, left)
            parts = log_share - 0.5 * (_FREEDOM + size) * np.log1p(squares / _FREEDOM)
            out[rows] = logsumexp(parts, axis=1)
        return out
