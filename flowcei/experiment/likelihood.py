"""The likelihood: how probable measured momenta are, for a geometry and a detector (docs/decisions/0014)."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtri

from flowcei.experiment.detector import rms_component
from flowcei.physics.explosion import COULOMB, followed_momenta, with_times
from flowcei.physics.jacobian import followed_jacobian

if TYPE_CHECKING:
    from flowcei.physics.forward import ForwardModel

_UNLIKELY = 1e-6
_SHARE = 1e-3  # of the noise: what the simulator may be wrong by where a likelihood is computed
_LEAST_ACCURACY, _BEST_ACCURACY = 3e-6, 1e-9
_AT_ONCE = 10_000  # geometries whose momenta are still in the cache for the next step
_SLOPE_ACCURACY = 1e-6  # of the derivative: Newton's method needs no better one

# Momenta of 0 or 1e300, or a noise of 0, belong to one event: its numbers become inf or NaN, which is "not
# explained", and the other events of the file go on without a warning.
nonfinite_allowed = np.errstate(over="ignore", divide="ignore", invalid="ignore")


def whitening(masses: ArrayLike) -> NDArray[np.float64]:
    """W, (N - 1, N), of masses (N,): it makes the noise of centred momenta independent and of unit size."""
    w = np.asarray(masses, dtype=np.float64)
    w = w / w.sum()
    n = len(w)
    # Of q_i = p_i - w_i sum_k p_k, per axis and over sigma^2: of rank N - 1, because the q sum to zero. N - 1
    # combinations W q with W C W^T = 1 carry all of it: the likelihood is normal in 3N - 3 numbers.
    covariance = np.eye(n) - w[:, None] - w[None, :] + n * np.outer(w, w)
    values, axes = np.linalg.eigh(covariance)
    return (axes[:, 1:] / np.sqrt(values[1:])).T  # the smallest eigenvalue is 0


def centred_momenta(momenta: NDArray[np.float64], masses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Momenta (..., N, 3) in the frame of the centre of mass."""
    total = momenta.sum(axis=-2, keepdims=True)
    return momenta - (masses / masses.sum())[:, None] * total


class Likelihood:
    """The likelihood of geometries, given measured events.

    Where the noise is `relative`, sigma / rms(measured) is a share, and the noise of a geometry is that share
    of *its* rms momentum component.
    """

    @nonfinite_allowed
    def __init__(
        self,
        masses: NDArray[np.float64],  # (N,), electron masses
        charges: NDArray[np.float64],  # (N,), elementary charges
        momenta: NDArray[np.float64],  # measured, (E, N, 3), hbar / bohr
        sigma: NDArray[np.float64],  # stated standard deviation of a component, (E,), hbar / bohr
        *,
        relative: bool = True,
    ) -> None:
        self.masses, self.charges = masses, charges
        self.forward: ForwardModel = COULOMB
        self.measured = centred_momenta(np.asarray(momenta, dtype=np.float64), masses)
        self.sigma = np.asarray(sigma, dtype=np.float64)
        self.whitening = whitening(masses)
        self._by_component = np.kron(self.whitening, np.eye(3))  # (3N - 3, 3N)
        self.size = np.sqrt((self.measured**2).sum(axis=(1, 2)))
        self.level = self.sigma / rms_component(momenta) if relative else None
        # log det W of the N - 1 ions that are left when one, it does not matter which, is dropped.
        self._log_volume = 3.0 * np.linalg.slogdet(self.whitening[:, 1:] - self.whitening[:, :1])[1]

    def of(self, events: NDArray[np.intp] | slice) -> Likelihood:
        """That of some of the events, in any order, any of them more than once."""
        other = copy(self)
        other.measured, other.sigma, other.size = self.measured[events], self.sigma[events], self.size[events]
        other.level = None if self.level is None else self.level[events]
        return other

    def of_samples(self, positions: NDArray[np.floating]) -> tuple[Likelihood, NDArray[np.intp]]:
        """The likelihood of geometries (E, n, N, 3) one by one, and which event of it each is of, (E n,)."""
        return self, np.repeat(np.arange(len(positions)), positions.shape[1])

    @property
    @nonfinite_allowed
    def noise(self) -> NDArray[np.float64]:
        """Standard deviation (E,) of a momentum component for a geometry that fits, hbar / bohr."""
        return self.sigma if self.level is None else self.level * rms_component(self.measured)

    @property
    def most_misfit(self) -> float:
        """The chi squared that the true geometry exceeds in one event of a million."""
        return float(chdtri(3 * len(self.whitening), _UNLIKELY))

    @property
    def finest(self) -> NDArray[np.float64]:
        """Noise (E,) of the component that is known best, hbar / bohr."""
        return self.sigma

    @property
    def by_axis(self) -> NDArray[np.float64]:
        """The whitening of each axis, (1, 3, N - 1, N), the same for all events; or (E, 3, N - 1, N)."""
        return np.tile(self.whitening, (1, 3, 1, 1))

    @property
    def least_scale(self) -> float:
        """The least factor by which whitening lengthens centred momenta."""
        return float(np.linalg.svd(self.whitening, compute_uv=False).min())

    def whitened(self, vectors: NDArray[np.float64], rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """M vectors like momenta, (K, N, 3, M), of events (K,), whitened: (K, 3N - 3, M)."""
        flat = np.matmul(self.whitening, vectors.reshape(*vectors.shape[:2], -1))
        return np.asarray(flat).reshape(len(rows), -1, vectors.shape[3])

    def unwhitened(self, residual: NDArray[np.float64], rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """Centred momenta (K, N, 3) of whitened ones (K, 3N - 3) of events (K,)."""
        return np.asarray(np.matmul(np.linalg.pinv(self.whitening), residual.reshape(len(rows), -1, 3)))

    @property
    @nonfinite_allowed
    def accuracy(self) -> float:
        """The relative accuracy of simulated momenta at which the noise hides their error."""
        rms = np.maximum(rms_component(self.measured), 1e-300)
        wanted = _SHARE * float(np.fmin.reduce(self.finest / rms, initial=1.0))
        return float(np.clip(wanted, _BEST_ACCURACY, _LEAST_ACCURACY))

    def simulated(
        self,
        positions: NDArray[np.floating],
        accuracy: float,
        threads: int | None,
        times: NDArray[np.float64] | None = None,
    ) -> NDArray[np.floating]:
        """Momenta (K, N, 3) of geometries (K, N, 3), NaN where nothing can follow them.

        With build-up times (K,), fs; those of all events where None.
        """
        forward = self.forward if times is None else with_times(self.forward, times.ravel())
        return followed_momenta(
            positions, self.masses, self.charges, forward=forward, accuracy=accuracy, threads=threads
        )

    @nonfinite_allowed
    def log_prob(
        self,
        positions: NDArray[np.floating],
        *,
        times: NDArray[np.float64] | None = None,
        threads: int | None = None,
    ) -> NDArray[np.float64]:
        """Log likelihood (E, n) of geometries (E, n, N, 3), bohr, per (hbar / bohr)^(3N-3).

        With a build-up time of each, (E, n), fs, or that of all events. It is -inf for those that nothing
        can follow; single precision is enough for noise above 0.1 %.
        """
        return self.log_prob_at(self._followed(positions, times, threads), positions)

    @nonfinite_allowed
    def chi_squared(
        self,
        positions: NDArray[np.floating],
        times: NDArray[np.float64] | None = None,
        *,
        threads: int | None = None,
    ) -> NDArray[np.float64]:
        """Squared distance (E, n) from measured to simulated momenta, in units of the noise.

        Of the true geometry it is chi-squared distributed with 3N - 3 degrees of freedom. Infinite where
        nothing can follow the geometry.
        """
        return self.chi_squared_at(self._followed(positions, times, threads), positions)

    def log_prob_at(
        self,
        simulated: NDArray[np.floating],
        positions: NDArray[np.floating],  # noqa: ARG002 (of atoms that move at the start)
    ) -> NDArray[np.float64]:
        """`log_prob` of geometries that have these momenta, (E, n, N, 3) both."""
        square, sigma = self._misfit(simulated)
        count = 3 * len(self.whitening)
        out = -0.5 * square - count * (np.log(sigma) + 0.5 * np.log(2.0 * np.pi))
        return np.where(np.isnan(out), -np.inf, out + self._log_volume)

    def chi_squared_at(
        self,
        simulated: NDArray[np.floating],
        positions: NDArray[np.floating],  # noqa: ARG002
    ) -> NDArray[np.float64]:
        """`chi_squared` of geometries that have these momenta, (E, n, N, 3) both."""
        out = self._misfit(simulated)[0]
        return np.where(np.isnan(out), np.inf, out)

    @nonfinite_allowed
    def residual(
        self, positions: NDArray[np.float64], rows: NDArray[np.intp], *, accuracy: float = _BEST_ACCURACY
    ) -> NDArray[np.float64]:
        """Whitened simulated less measured momenta over the size of the measured, (K, 3N-3).

        Positions (K, N, 3), bohr, are one geometry of each event in `rows` (K,); NaN where nothing can
        follow it.
        """
        simulated = self.simulated(positions, accuracy, 1)
        residual = (simulated - self.measured[rows]) / self.size[rows, None, None]
        return self.whitened(residual[..., None], rows)[..., 0]

    @nonfinite_allowed
    def slope(
        self, positions: NDArray[np.float64], rows: NDArray[np.intp], *, accuracy: float = _SLOPE_ACCURACY
    ) -> NDArray[np.float64]:
        """Derivative of `residual` by the positions, (K, 3N-3, 3N)."""
        n = len(self.masses)
        ions, how = (self.masses, self.charges), self.forward
        slope = followed_jacobian(positions, *ions, forward=how, accuracy=accuracy, threads=1)
        return self.whitened(slope.reshape(-1, n, 3, 3 * n), rows) / self.size[rows, None, None]

    def slope_over_noise(self, positions: NDArray[np.float64], rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """Derivatives (K, 3N-3, 3N) of whitened momenta over the noise by positions (K, N, 3)."""
        slope = self.slope(positions, rows, accuracy=1e-8)
        return np.asarray(slope * (self.size / self.noise)[rows, None, None])

    def information_root(self, positions: NDArray[np.float64], rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """S (K, D, 3N) of geometries (K, N, 3) of events (K,): what momenta tell of positions is S'S."""
        return self.slope_over_noise(positions, rows)

    def _followed(
        self, positions: NDArray[np.floating], times: NDArray[np.float64] | None, threads: int | None
    ) -> NDArray[np.floating]:
        """Momenta (E, n, N, 3) of geometries (E, n, N, 3)."""
        flat = positions.reshape(-1, *positions.shape[2:])
        return self.simulated(flat, self.accuracy, threads, times).reshape(positions.shape)

    def _misfit(self, simulated: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Sums of squares of residuals of momenta (E, n, N, 3) over the noise, and the noise, (E, n)."""
        e, n, ions = simulated.shape[:3]
        square, size = np.empty((e, n)), np.ones((e, n))
        for first in range(0, e, events := max(1, _AT_ONCE // max(n, 1))):
            rows = slice(first, first + events)
            momenta = simulated[rows].astype(np.float64)
            if self.level is not None:
                size[rows] = rms_component(momenta)
            momenta -= self.measured[rows, None]
            # One product of large matrices: as many small ones take as long as the simulation.
            residual = momenta.reshape(-1, 3 * ions) @ self._by_component.T
            square[rows] = np.einsum("kd,kd->k", residual, residual).reshape(len(momenta), n)
        sigma = (self.sigma if self.level is None else self.level)[:, None] * size
        return square / sigma**2, sigma
