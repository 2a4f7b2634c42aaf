"""The likelihood where atoms begin with the momenta of their vibrations, which nobody measured."""

from __future__ import annotations

import json
import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flowcei.errors import UsageError
from flowcei.experiment.detector import rms_component
from flowcei.experiment.likelihood import Likelihood, nonfinite_allowed
from flowcei.physics.explosion import COULOMB, asymptotic_momenta
from flowcei.physics.priors import NormalModesPrior, build_prior
from flowcei.physics.priors.orders import all_orders, log_count

if TYPE_CHECKING:
    from flowcei.experiment.measurement import Measurement
    from flowcei.molecules.molecule import Molecule
    from flowcei.physics.forward import ForwardModel

    Floats = NDArray[np.float64]

_MOST_ORDERS = 24  # of like ions
_STEP = 1e-3  # of the rms momentum at the end: of differences by momenta at the start


class MovingLikelihood(Likelihood):
    """Normal in the centred momenta, with the covariance of noise and of motion at the start.

    Momenta at infinity are taken to be F(x, 0) + R G R' p0: p0, of the modes, has the covariance C in the
    frame of the equilibrium, which a rotation R brings nearest to x, and G = dF/dp0 is that of the
    equilibrium. So each geometry has the covariance D + R G C G' R'. The noise D is that at the measured
    momenta. Searches and their curvatures take all of it as one level.
    """

    def __init__(
        self,
        molecule: Molecule,
        momenta: Floats,  # (E, N, 3), hbar / bohr
        noise: Floats,  # of each component, (E, N, 3), hbar / bohr
        spec: dict[str, Any],  # of a prior with motion
        forward: ForwardModel = COULOMB,
    ) -> None:
        self._detector = noise
        self._equilibrium, self._moved = _covariance(molecule, spec, forward)
        n = len(molecule)
        if log_count(molecule.identical) > math.log(_MOST_ORDERS) + 1e-9:
            raise UsageError(f"with motion weights go through at most {_MOST_ORDERS} orders of like ions")
        self._orders = list(all_orders(n, molecule.identical, _MOST_ORDERS))
        level = np.sqrt((noise**2).mean(axis=(1, 2)) + np.trace(self._moved) / (3 * n))
        super().__init__(molecule.masses, molecule.charges, momenta, level, relative=False)
        self.forward = forward

    @classmethod
    def of_level(
        cls, molecule: Molecule, momenta: Floats, sigma: Floats, spec: dict[str, Any]
    ) -> MovingLikelihood:
        """That of events with one level of noise each, (E,), hbar / bohr."""
        return cls(molecule, momenta, np.broadcast_to(sigma[:, None, None], momenta.shape), spec)

    @classmethod
    def of_experiment(
        cls, molecule: Molecule, momenta: Floats, own: Measurement, spec: dict[str, Any]
    ) -> MovingLikelihood:
        """That of calibrated events of an experiment, whose sums of momenta are not used."""
        unit = rms_component(momenta)[:, None, None] if own.relative else np.ones((len(momenta), 1, 1))
        return cls(molecule, momenta, own.levels * unit, spec, own.forward)

    def of(self, events: NDArray[np.intp] | slice) -> Likelihood:
        """As of `Likelihood`."""
        other = super().of(events)
        vars(other)["_detector"] = self._detector[events]
        return other

    @nonfinite_allowed
    def log_prob(
        self, positions: NDArray[np.floating], *, times: Floats | None = None, threads: int | None = None
    ) -> Floats:
        """As of `Likelihood`: per (hbar / bohr)^(3N - 3), of the centred momenta."""
        square, log_volume = self._moving_squares(positions, times, threads)
        out = -0.5 * (square + 3 * len(self.whitening) * np.log(2.0 * np.pi)) - log_volume
        return np.where(np.isnan(out), -np.inf, out + self._log_volume)

    @nonfinite_allowed
    def chi_squared(
        self, positions: NDArray[np.floating], times: Floats | None = None, *, threads: int | None = None
    ) -> Floats:
        """As of `Likelihood`, with the motion as part of the noise."""
        square = self._moving_squares(positions, times, threads)[0]
        return np.where(np.isnan(square), np.inf, square)

    def _moving_squares(
        self, positions: NDArray[np.floating], times: Floats | None, threads: int | None
    ) -> tuple[Floats, Floats]:
        """Squares (E, n) of residuals whitened by all of the covariance, and half its log determinant."""
        e, n, ions = positions.shape[:3]
        x = np.nan_to_num(positions.reshape(e * n, ions, 3).astype(np.float64))
        simulated = self.simulated(positions.reshape(e * n, ions, 3), self.accuracy, threads, times)
        residual = np.asarray(simulated, np.float64).reshape(positions.shape) - self.measured[:, None]
        shares = self.masses / self.masses.sum()
        # Of all coordinates, (3N - 3, 3N): centred, then made independent for noise of one level.
        weights = self._by_component @ np.kron(np.eye(ions) - shares[:, None], np.eye(3))
        noise = (self._detector**2).reshape(e, 1, 3 * ions)
        total = np.repeat(np.matmul(weights * noise, weights.T), n, axis=0)
        turned = weights @ self._turned(x)
        total += np.matmul(turned, np.swapaxes(turned, 1, 2))
        root = np.linalg.cholesky(total)
        white = np.linalg.solve(root, (residual.reshape(e * n, -1) @ weights.T)[..., None])[..., 0]
        log_volume = np.log(np.diagonal(root, axis1=1, axis2=2)).sum(axis=1)
        return (white**2).sum(axis=1).reshape(e, n), log_volume.reshape(e, n)

    def motion(self, x: Floats, rng: np.random.Generator) -> Floats:
        """What motion adds to the momenta of geometries (B, N, 3), drawn once of each, hbar / bohr."""
        roots = self._turned(x)
        return np.einsum("bif,bf->bi", roots, rng.standard_normal(roots.shape[::2])).reshape(x.shape)

    def _turned(self, x: Floats) -> Floats:
        """Roots (B, 3N, F) of the covariance of motion in the frame of geometries (B, N, 3)."""
        values, axes = np.linalg.eigh(self._moved)
        root = (axes * np.sqrt(np.maximum(values, 0.0))).reshape(len(self.masses), 3, -1)
        shares = self.masses / self.masses.sum()
        x = x - np.einsum("i,bij->bj", shares, x)[:, None]
        best = np.full(len(x), -np.inf)
        out = np.empty((len(x), len(self.masses), 3, root.shape[2]))
        for order in self._orders:
            outer = np.einsum("i,bia,ic->bac", shares, x, self._equilibrium[order])
            u, s, vt = np.linalg.svd(outer)
            sign = np.sign(np.linalg.det(u @ vt))
            u[..., -1] *= sign[:, None]
            near = s[:, 0] + s[:, 1] + sign * s[:, 2]
            rows = near > best
            best[rows] = near[rows]
            out[rows] = np.einsum("bac,icf->biaf", (u @ vt)[rows], root[order])
        return out.reshape(len(x), -1, root.shape[2])


def _covariance(molecule: Molecule, spec: dict[str, Any], forward: ForwardModel) -> tuple[Floats, Floats]:
    """Centred equilibrium (N, 3) and the covariance (3N, 3N) of what motion adds to its momenta."""
    ions = molecule.masses, molecule.charges, molecule.equilibrium
    return _covariance_of(json.dumps(spec), _Key(molecule, forward, b"".join(a.tobytes() for a in ions)))


class _Key:
    """A molecule and a forward model, the same where their numbers are."""

    def __init__(self, molecule: Molecule, forward: ForwardModel, numbers: bytes) -> None:
        self.molecule, self.forward = molecule, forward
        self._same = numbers, forward.name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._same == other._same

    def __hash__(self) -> int:
        return hash(self._same)


@lru_cache(8)
def _covariance_of(spec: str, key: _Key) -> tuple[Floats, Floats]:
    """`_covariance`; differences of explosions by their momenta at the start."""
    molecule, prior = key.molecule, build_prior(key.molecule, json.loads(spec))
    if not isinstance(prior, NormalModesPrior):
        raise UsageError("only normal modes have motion")
    x, m = prior.equilibrium, molecule.masses
    ions, size = (m, molecule.charges), 3 * len(m)
    still = asymptotic_momenta(x, *ions, forward=key.forward, accuracy=1e-9)
    step = _STEP * np.sqrt((np.asarray(still) ** 2).mean())
    starts = step * np.eye(size).reshape(size, -1, 3) * np.array([1.0, -1.0])[:, None, None, None]
    how = {"forward": key.forward, "accuracy": 1e-9}
    many = np.tile(x, (2 * size, 1, 1))
    ends = np.asarray(
        asymptotic_momenta(many, *ions, initial_momenta=starts.reshape(-1, *x.shape), **how)  # type: ignore[arg-type]
    ).reshape(2, size, size)
    slope = (ends[0] - ends[1]).T / (2.0 * step)
    return x, slope @ prior.momentum_covariance @ slope.T
