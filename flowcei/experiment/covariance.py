"""The likelihood where axes and ions are resolved differently, or the motion of the source is known."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from flowcei.experiment.detector import rms_component
from flowcei.experiment.likelihood import Likelihood, nonfinite_allowed

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowcei.experiment.measurement import Measurement

    Floats = NDArray[np.float64]


# An ion that was not detected is one with so many times the noise: this changes what it leaves out by 1e-6.
# Where several were not, theirs do not follow from the others: the least noise, 1e-4, must leave them open.
_BLIND, _BLINDER = 1e3, 1e6


class CovarianceLikelihood(Likelihood):
    """The likelihood of `Measurement.calibrated` momenta y, whose noise on an axis is Sigma = D + s^2 u u^T.

    D is that of the ions, u their shares by mass, s the spread of the source. Where s is infinite the density
    on that axis is that of the centred momenta, as of `Likelihood`. Else it is that of all N: the density of
    their sum t, times that of the centred ones given t. The latter is centred about y - u t - g t, with
    g = (D 1 - u 1'D 1) / (1'D 1 + s^2): what a source that is known adds (docs/decisions/0024). A geometry
    with these momenta explains the event: `measured`, residuals and chi squared are of them, 3N - 3 numbers.
    """

    @nonfinite_allowed
    def __init__(
        self,
        masses: Floats,
        charges: Floats,
        momenta: Floats,
        measurement: Measurement,
        lost: NDArray[np.bool_] | None = None,  # ions (E, N) that were not detected, with `completed` momenta
    ) -> None:
        super().__init__(masses, charges, momenta, np.ones(len(momenta)), relative=False)
        self.forward = measurement.forward
        self._momenta, self._shares = np.asarray(momenta, dtype=np.float64), measurement.shares
        self._spread, self._relative = measurement.spread, measurement.relative
        level = float(np.sqrt((measurement.levels**2).mean()))
        self._least = measurement.levels.min() / level
        self._detected = np.ones((1, len(masses)), dtype=bool) if lost is None else ~lost
        # (E or 1, N, 3), over what is the noise of all ions and axes together.
        several = (~self._detected).sum(axis=1)[:, None, None] > 1
        blind = np.where(self._detected[..., None], 1.0, np.where(several, _BLINDER, _BLIND))
        self._levels = blind * measurement.levels / level
        self._unit = level
        unit = rms_component(self.measured) if self._relative else np.ones(len(momenta))
        self.sigma = level * unit
        self._total = (self._levels**2).sum(axis=1)  # of the sum of momenta, (E or 1, 3)
        known = 1.0 / (1.0 + (self._spread / self.sigma[:, None]) ** 2 / self._total)  # (E, 3)
        gain = _excess(self._levels, self._shares) / self._total[:, None]
        self.measured = self.measured - gain * (known * self._momenta.sum(axis=1))[:, None]
        self.size = np.sqrt((self.measured**2).sum(axis=(1, 2)))
        # The same for all events, unless noise is relative and beside a spread that is not.
        alike = lost is None and bool((known == known[:1]).all())
        self._known = known[:1] if alike else known
        self._by_axis: Floats | None = None
        # Sums over ions by one product of large matrices, as in `Likelihood`.
        weights, size = np.eye(3) / self._levels[..., None] ** 2, (len(self._levels), -1, 3)
        self._weights = weights.reshape(size)
        self._weighted_shares = (self._shares[:, None, None] * weights).reshape(size)

    def of(self, events: NDArray[np.intp] | slice) -> Self:
        """That of some of the events, in any order, any of them more than once."""
        other = copy(self)
        for name in ("measured", "sigma", "size", "_momenta"):
            setattr(other, name, getattr(self, name)[events])
        for name in ("_detected", "_levels", "_total", "_known", "_by_axis", "_weights", "_weighted_shares"):
            table = getattr(self, name)
            if table is not None and len(table) > 1:
                setattr(other, name, table[events])
        return other

    @property
    def finest(self) -> Floats:
        """Noise (E,) of the axis and ion that are resolved best, hbar / bohr."""
        return self.sigma * self._least

    @property
    @nonfinite_allowed
    def by_axis(self) -> Floats:
        """Whitening W of each axis, (E or 1, 3, N - 1, N): W C W' = sigma^2 for the centred given the sum."""
        if self._by_axis is None:
            out = np.eye(len(self._shares)) - self._shares[:, None]
            variance = np.swapaxes(self._levels**2, 1, 2)  # (E or 1, 3, N)
            centred = np.matmul(out * variance[:, :, None], out.T)
            excess = np.swapaxes(_excess(self._levels, self._shares), 1, 2)
            given = excess[..., None] * excess[..., None, :] * (self._known / self._total)[..., None, None]
            values, axes = np.linalg.eigh(np.nan_to_num(centred - given))
            # The smallest eigenvalue is 0: centred momenta sum to 0.
            self._by_axis = np.swapaxes(axes[..., 1:] / np.sqrt(values[..., None, 1:]), -1, -2).copy()
        return self._by_axis

    def log_prob_at(
        self,
        simulated: NDArray[np.floating],
        positions: NDArray[np.floating],  # noqa: ARG002
    ) -> Floats:
        """As of `Likelihood`, but per (hbar / bohr)^(3N - k), of N ions that were detected.

        With k axes along which the motion of the source is unknown.
        """
        square, scale, sigma = self._squares(simulated)
        unknown = np.isinf(self._spread)
        spread = np.where(unknown, 0.0, self._spread)
        volume = np.log(np.where(unknown, scale, 1.0 + spread**2 * scale)).sum(axis=2)
        volume += (
            2.0 * np.where(self._detected[..., None], np.log(self._levels), 0.0).sum(axis=(1, 2))[:, None]
        )
        count = 3 * self._detected.sum(axis=1)[:, None]
        volume += 2.0 * count * np.log(sigma) + (count - unknown.sum()) * np.log(2.0 * np.pi)
        out = -0.5 * (square.sum(axis=2) + volume)
        return np.where(np.isnan(out), -np.inf, out)

    def chi_squared_at(
        self,
        simulated: NDArray[np.floating],
        positions: NDArray[np.floating],  # noqa: ARG002
    ) -> Floats:
        """As of `Likelihood`: what the sum of momenta alone has of the misfit does not count."""
        square, _, sigma = self._squares(simulated)
        total = self._momenta.sum(axis=1)[:, None] ** 2
        out = square - total / (self._total[:, None] * sigma[..., None] ** 2 + self._spread**2)
        return np.where(np.isnan(out := out.sum(axis=2)), np.inf, out)

    @property
    def least_scale(self) -> float:
        """As of `Likelihood`, over axes and events."""
        return float(np.linalg.svd(self.by_axis, compute_uv=False).min(initial=1.0))

    def whitened(self, vectors: Floats, rows: NDArray[np.intp]) -> Floats:
        """As of `Likelihood`."""
        out = np.matmul(self._of_rows(self.by_axis, rows), np.swapaxes(vectors, 1, 2))
        return np.asarray(np.swapaxes(out, 1, 2)).reshape(len(rows), -1, vectors.shape[3])

    def unwhitened(self, residual: Floats, rows: NDArray[np.intp]) -> Floats:
        """As of `Likelihood`."""
        inverse = self._of_rows(np.asarray(np.linalg.pinv(self.by_axis), dtype=np.float64), rows)
        each = np.swapaxes(residual.reshape(len(rows), -1, 3), 1, 2)[..., None]
        return np.asarray(np.swapaxes(np.matmul(inverse, each)[..., 0], 1, 2))

    def _of_rows(self, tables: Floats, rows: NDArray[np.intp]) -> Floats:
        return tables if len(tables) == 1 else tables[rows]

    def _squares(self, simulated: NDArray[np.floating]) -> tuple[Floats, Floats, Floats]:
        """Squares r' Sigma^-1 r of axes (E, n, 3), u' D^-1 u (E, n, 3), and the noise (E, n)."""
        e, n, ions = simulated.shape[:3]
        left = (self._momenta[:, None] - simulated).reshape(e, n, 3 * ions)
        sigma = np.full((e, n), self._unit)
        if self._relative:
            flat = simulated.reshape(e * n, ions, 3)
            sigma *= rms_component(flat.astype(np.float64, copy=False)).reshape(e, n)
        square = sigma[..., None] ** 2
        along = _summed(left, self._weighted_shares) / square
        scale = np.matmul(self._shares, self._weighted_shares.reshape(-1, ions, 9)).reshape(-1, 1, 3, 3)
        scale = np.einsum("enaa->ena", scale) / square
        out = _summed(left * left, self._weights) / square
        return out - along**2 / (1.0 / self._spread**2 + scale), scale, sigma


class AssignedLikelihood(CovarianceLikelihood):
    """The mean of the likelihoods of all K assignments of hits to ions (`Measurement.assigned`).

    Chi squared is that of the likeliest; all else is of the momenta as they stand.
    """

    def __init__(
        self,
        masses: Floats,
        charges: Floats,
        momenta: Floats,
        measurement: Measurement,
        of: Callable[[Floats], CovarianceLikelihood] | None = None,  # that of other momenta, where atoms move
    ) -> None:
        super().__init__(masses, charges, momenta, measurement)
        of = of or (lambda p: CovarianceLikelihood(masses, charges, p, measurement))
        each = measurement.assigned(momenta)
        self.assignments = len(each)
        self.every = of(each.reshape(-1, *each.shape[2:]))

    def of(self, events: NDArray[np.intp] | slice) -> Self:
        """As of `Likelihood`."""
        other = super().of(events)
        other.every = self.every.of(self._rows[:, events].ravel())
        return other

    @property
    def _rows(self) -> NDArray[np.intp]:
        """Rows of `every`, (K, E)."""
        return np.arange(len(self.every.size)).reshape(self.assignments, -1)

    def _each(self, *arrays: NDArray[np.floating]) -> list[NDArray[np.floating]]:
        """The same momenta and positions for all assignments, (K E, n, N, 3) each."""
        return [np.tile(array, (self.assignments, 1, 1, 1)) for array in arrays]

    @nonfinite_allowed
    def log_probs(self, positions: NDArray[np.floating]) -> Floats:
        """Log likelihood under each assignment, (K, E, n), of geometries (E, n, N, 3), over K."""
        out = self.every.log_prob_at(*self._each(self._followed(positions, None, None), positions))
        return out.reshape(self.assignments, *positions.shape[:2]) - np.log(self.assignments)

    def under(self, assignment: int, events: NDArray[np.intp]) -> CovarianceLikelihood:
        """That of some events under one assignment."""
        return self.every.of(self._rows[assignment, events])

    def of_samples(self, positions: NDArray[np.floating]) -> tuple[Likelihood, NDArray[np.intp]]:
        """As of `Likelihood`, under the likeliest assignment of each."""
        rows = np.take_along_axis(
            self._rows[..., None], self.log_probs(positions).argmax(axis=0)[None], axis=0
        )
        return self.every.of(rows.ravel()), np.arange(rows.size)

    def log_prob_at(self, simulated: NDArray[np.floating], positions: NDArray[np.floating]) -> Floats:
        """As of `CovarianceLikelihood`."""
        out = self.every.log_prob_at(*self._each(simulated, positions))
        out = out.reshape(self.assignments, *simulated.shape[:2])
        return np.asarray(logsumexp(out, axis=0) - np.log(self.assignments))

    def chi_squared_at(self, simulated: NDArray[np.floating], positions: NDArray[np.floating]) -> Floats:
        """As of `CovarianceLikelihood`."""
        each, shape = self._each(simulated, positions), (self.assignments, *simulated.shape[:2])
        best = self.every.log_prob_at(*each).reshape(shape).argmax(axis=0)
        out = self.every.chi_squared_at(*each).reshape(shape)
        return np.asarray(np.take_along_axis(out, best[None], axis=0)[0])


def _summed(vectors: Floats, tables: Floats) -> Floats:
    """Sums over ions, (E, n, 3), of vectors (E, n, 3N) with the weights (3N, 3) of all events, or of each."""
    if len(tables) > 1:
        return np.asarray(np.matmul(vectors, tables))
    return np.asarray(vectors.reshape(-1, vectors.shape[2]) @ tables[0]).reshape(*vectors.shape[:2], 3)


def _excess(levels: Floats, shares: Floats) -> Floats:
    """D 1 - u 1'D 1, (..., N, 3): covariance of the centred momenta with their sum."""
    variance = levels**2
    return np.asarray(variance - shares[:, None] * variance.sum(axis=-2, keepdims=True))
