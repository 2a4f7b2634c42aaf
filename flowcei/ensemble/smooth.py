"""A normal law that changes smoothly along a column, such as the delay between two pulses.

At the true delay t the law has the mean sum_m c_m phi_m(t), of B-splines, and the covariance
sum_j h_j(t) S_j, of hat functions: it is a mixture of normal laws S_j about one mean, with the shares
h_j(t). Beyond each end of the column the mean goes on straight, or stays: a molecule rests until the pump
comes. The pulses have a length: an event of the nominal delay T is of true delays t that are normal
about T, with the deviation of the cross-correlation, and its law is the mean over these (a step becomes
an error function). How many splines and covariances there are, and what the ends do, the events hardly tell
where the pulses are long: laws of all such shapes are averaged by H. Akaike's weights.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from flowcei.ensemble.laws import RAYLEIGH, NormalLaw
from flowcei.ensemble.splines import ends_of, hat_basis, mean_basis, true_values

if TYPE_CHECKING:
    from flowcei.ensemble.coordinates import Coordinate
    from flowcei.posterior.arrays import Bools, Floats


@dataclass(frozen=True, eq=False)
class SmoothLaw:
    """The law along a column of K coordinates.

    Attributes:
        values: At which it is tabulated, (V,).
        coefficients: Of the splines of the mean, (M, K); 0 of bends.
        covariance: At each of J equally spaced values between the ends, (J, K, K).
        cross_correlation: Its deviation, in units of the column.
        error: Covariance of coefficients (M K) and log deviations (J K), from the Fisher information and
            the Monte Carlo sums.
        shapes: Laws of all shapes that are likely, with their Akaike weights, that of this one first; what
            is said of means and widths is the average.
    """

    coordinates: tuple[Coordinate, ...]
    bends: Bools
    values: Floats
    coefficients: Floats
    covariance: Floats
    cross_correlation: float
    images: Floats  # (G, K, K), by which like ions make coordinates alike
    error: Floats
    true_count: int  # of true values of each nominal one
    straight: tuple[bool, bool] = (True, True)  # whether the mean goes on beyond each end, or stays
    shapes: tuple[tuple[float, SmoothLaw], ...] = ()

    @property
    def ends(self) -> tuple[float, float]:
        """Between which the covariance changes; beyond it stays."""
        return ends_of(self.values, self.cross_correlation)

    @property
    def vector(self) -> Floats:
        """All numbers of the law as a vector without bounds, which `from_vector` reads."""
        return np.concatenate([self.coefficients.ravel(), self._about.vector])

    def from_vector(self, vector: Floats) -> SmoothLaw:
        """Return the law of the same shape with these numbers."""
        own, other = np.split(vector, [self.coefficients.size])
        covariance = self._about.from_vector(other).covariance
        return replace(self, coefficients=own.reshape(self.coefficients.shape), covariance=covariance)

    @property
    def numbers(self) -> int:
        """How many numbers it has."""
        straight = int((~self.bends).sum())
        each = straight * (straight + 1) // 2 + int(self.bends.sum())
        return len(self.coefficients) * straight + len(self.covariance) * each

    def with_covariances(self, count: int) -> SmoothLaw:
        """Return the law with so many covariances, between which it changes as before."""
        covariance = np.einsum("jh,hkl->jkl", self.hats(np.linspace(*self.ends, count)), self.covariance)
        return replace(self, covariance=covariance)

    def moved(self, numbers: Floats) -> SmoothLaw:
        """Return the law with so much added to its coefficients (M K) and log deviations (J K)."""
        own, widths = np.split(numbers, [self.coefficients.size])
        scale = np.exp(widths.reshape(-1, len(self.bends)))
        covariance = self.covariance * scale[:, None] * scale[:, :, None]
        return replace(
            self, coefficients=self.coefficients + own.reshape(-1, len(self.bends)), covariance=covariance
        )

    @property
    def _about(self) -> NormalLaw:
        """Laws about a mean of 0 with each of the covariances."""
        zero = np.zeros(self.covariance.shape[:2])
        return NormalLaw(np.ones(len(zero)), zero, self.covariance, self.bends)

    def splines(self, t: Floats) -> Floats:
        """Of true values (B,), (B, M)."""
        return mean_basis(t, len(self.coefficients), ends_of(self.values, 0.0), self.straight)

    def hats(self, t: Floats) -> Floats:
        """Shares of the covariances at true values (B,), (B, J)."""
        return hat_basis(t, len(self.covariance), self.ends)

    def _over_shapes(self, t: Floats) -> tuple[Floats, Floats]:
        """Of means and log widths (2, B, K): how far the average over shapes is from here, and the variance.

        S. Buckland, K. Burnham and N. Augustin, Biometrics 53, 603 (1997).
        """
        if not self.shapes:
            return (none := np.zeros((2, len(t), len(self.bends)))), none
        weights = np.array([weight for weight, _ in self.shapes])
        each = np.array(
            [[one.splines(t) @ one.coefficients, np.log(one.deviation(t))] for _, one in self.shapes]
        )
        average = np.tensordot(weights, each, 1)
        return average - each[0], np.tensordot(weights, (each - average) ** 2, 1)

    def mean(self, t: Floats) -> Floats:
        """Means (B, K) at true values; of straight angles the mean angle."""
        width = np.sqrt(np.einsum("jkk->jk", self.covariance))
        by_mean, by_width = self._over_shapes(t)[0]
        angle = 180.0 - RAYLEIGH[0] * self.hats(t) @ width * np.exp(by_width)
        return np.where(self.bends, angle, self.splines(t) @ self.coefficients + by_mean)

    def deviation(self, t: Floats) -> Floats:
        """Widths (B, K) at true values; of straight angles that of the angle."""
        width = np.sqrt(self.hats(t) @ np.einsum("jkk->jk", self.covariance))
        return np.where(self.bends, RAYLEIGH[1], 1.0) * width * np.exp(self._over_shapes(t)[0][1])

    def seen(self, values: Floats) -> Floats:
        """Means (B, K) at nominal values: over the true ones of each; of straight angles the mean angle."""
        nodes, shares = true_values(self.cross_correlation, self.true_count)
        each = [share * self.mean(values + shift) for shift, share in zip(nodes, shares, strict=True)]
        return np.asarray(np.sum(each, axis=0))

    def law(self, t: float) -> NormalLaw:
        """The law at a true value."""
        at = np.array([t])
        share, (by_mean, by_width) = self.hats(at)[0], self._over_shapes(at)[0][:, 0]
        mean = np.repeat(self.splines(at) @ self.coefficients + by_mean, len(share), axis=0)
        kept, scale = share > 0, np.exp(by_width)
        covariance = self.covariance[kept] * scale * scale[:, None]
        return NormalLaw(share[kept], mean[kept], covariance, self.bends)

    def errors(self, t: Floats) -> tuple[Floats, Floats]:
        """Standard errors of means and of log widths, (B, K) each, also for the choice of the shape."""
        m, k = self.coefficients.shape
        splines, hats = self.splines(t), self.hats(t)
        variance = np.einsum("jkk->jk", self.covariance)
        share = hats[:, :, None] * variance / (hats @ variance)[:, None]  # of d log width by d log S_j
        blocks = self.error[: m * k, : m * k].reshape(m, k, m, k), self.error[m * k :, m * k :]
        of_mean = np.einsum("bm,mknk,bn->bk", splines, blocks[0], splines)
        widths = blocks[1].reshape(len(variance), k, len(variance), k)
        of_width = np.einsum("bjk,jkik,bik->bk", share, widths, share)
        of_mean, of_width = np.stack([of_mean, of_width]) + self._over_shapes(t)[1]
        width = np.sqrt(of_width.clip(0.0))
        bend = RAYLEIGH[0] * self.deviation(t) / RAYLEIGH[1] * width
        return np.where(self.bends, bend, np.sqrt(of_mean.clip(0.0))), width

    def to_dataframe(self, by: str = "delay", t: Floats | None = None) -> pd.DataFrame:
        """Return a row a value and coordinate: mean and width at true values, with standard errors."""
        t = self.values if t is None else t
        mean, sd, (by_mean, by_width) = self.mean(t), self.deviation(t), self.errors(t)
        shape = mean.shape
        names = [one.name for one in self.coordinates] * shape[0]
        table = {by: np.repeat(t, shape[1]), "quantity": names}
        table |= {"unit": [one.unit for one in self.coordinates] * shape[0]}
        table |= {"mean": mean.ravel(), "mean_error": by_mean.ravel(), "sd": sd.ravel()}
        return pd.DataFrame(table | {"sd_error": (sd * by_width).ravel()})
