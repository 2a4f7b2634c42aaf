"""Normal components of a law, and the sums that expectation and maximisation take under them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flowcei.ensemble._sums import log_densities, weighted_moments

if TYPE_CHECKING:
    from flowcei.posterior.arrays import Bools, Floats, Rows


@dataclass(frozen=True, eq=False)
class Moments:
    """Weighted sums of coordinates for each of C components, of J covariances, in rows (...)."""

    count: Floats  # sum of weights, (..., C)
    first: Floats  # of z, (..., C, K)
    second: Floats  # of z z', of all that have the same covariance, (..., J, K, K)

    def __add__(self, other: Moments) -> Moments:
        """Return the sums of both."""
        return Moments(self.count + other.count, self.first + other.first, self.second + other.second)

    def __getitem__(self, row: int) -> Moments:
        """Return the sums of a row."""
        return Moments(self.count[row], self.first[row], self.second[row])

    def times(self, factor: float) -> Moments:
        """Return the sums with weights that are so many times as large."""
        return Moments(factor * self.count, factor * self.first, factor * self.second)

    @classmethod
    def of(cls, z: Floats, weights: Floats) -> Moments:
        """Return the sums of points z (B, K) with weights (B, C)."""
        each = [z.T @ (weights[:, [c]] * z) for c in range(weights.shape[1])]
        return cls(weights.sum(axis=0), weights.T @ z, np.array(each))

    def imaged(self, images: Floats) -> Moments:
        """Return the mean over linear images (G, K, K) of the points: what symmetric ions make alike."""
        first = np.einsum("gkl,cl->ck", images, self.first) / len(images)
        second = np.einsum("gkl,clm,gnm->ckn", images, self.second, images) / len(images)
        return Moments(self.count, first, second)


@dataclass(frozen=True, eq=False)
class Components:
    """C normal components of K coordinates, whose means and shares are those of one of S rows.

    A bend is a two-dimensional normal one: see `flowcei.ensemble.laws`.
    """

    root: Floats  # inverse Cholesky factors of J covariances, (J, K, K)
    which: Rows  # covariance of each component, (C,)
    mean: Floats  # over deviations, (S, C, K)
    height: Floats  # log of share and of the density at the mean, (S, C)
    bends: Bools  # (K,)

    @classmethod
    def of(cls, mean: Floats, log_share: Floats, covariance: Floats, which: Rows, bends: Bools) -> Components:
        """Of means (S, C, K), shares (S, C) and covariances (J, K, K); LinAlgError where one has no width."""
        root = np.linalg.inv(np.linalg.cholesky(covariance))
        sides = np.log(np.einsum("jkk->jk", root))
        peak = np.where(bends, 2.0 * sides, sides - 0.5 * np.log(2.0 * np.pi)).sum(axis=1)
        over = np.einsum("ckl,scl->sck", root[which], mean)
        return cls(root, which, over, log_share + peak[which], bends)

    def _over_deviations(self, z: Floats) -> Floats:
        return np.stack([(z.reshape(-1, z.shape[2]) @ root.T).reshape(z.shape) for root in self.root])

    def _log_bend(self, z: Floats) -> Floats:
        with np.errstate(divide="ignore"):  # a chain that is not bent at all
            return np.asarray(np.log(z[..., self.bends]).sum(axis=-1))

    def log_each(self, z: Floats, row: Rows | None = None) -> Floats:
        """Log of share times density (e, n, C) at points z (e, n, K), of events with means in rows (e,)."""
        row = np.zeros(len(z), dtype=np.intp) if row is None else row
        each = log_densities(self._over_deviations(z), row, self.which, self.mean, self.height)
        return np.asarray(each + self._log_bend(z)[:, :, None])

    def moments(
        self, z: Floats, base: Floats, p_true: Floats, times: Floats, row: Rows
    ) -> tuple[Floats, Moments]:
        """Log R (e,) of events, and their sums in each row.

        Samples z (e, n, K) have the log weights base (e, n), events count so many times, and as much as they
        are true under the law.
        """
        law = self.root, self.which, self.mean, self.height, self.bends
        log_r, *sums = weighted_moments(np.ascontiguousarray(z), base, p_true, times, row, *law)
        return log_r, Moments(*sums)
