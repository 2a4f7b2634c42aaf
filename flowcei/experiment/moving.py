"""The likelihood where atoms begin with the momenta of their vibrations, which nobody measured."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from flowcei.errors import UsageError
from flowcei.experiment.covariance import CovarianceLikelihood
from flowcei.experiment.detector import rms_component
from flowcei.experiment.likelihood import nonfinite_allowed
from flowcei.experiment.measurement import Measurement
from flowcei.physics.explosion import asymptotic_momenta
from flowcei.physics.jacobian import followed_jacobian
from flowcei.physics.priors import NormalModesPrior, build_prior

if TYPE_CHECKING:
    from flowcei.molecules.molecule import Molecule
    from flowcei.physics.forward import ForwardModel

    Floats = NDArray[np.float64]

_STEP, _AWAY = 0.1, 0.01  # of differences: deviations of the momenta at the start, and bohr
_RANK = 1e-8  # of the largest variance: below are rigid motions and rounding
_FARTHEST = 1e6  # bohr: trials beyond have no prior, and here no infinities
_LEAST_NOISE = 1e-6  # of what motion adds: of ions that hardly repel each other nothing else would be left
_BLOCK = 8192  # geometries whose covariances are held at a time


class MovingLikelihood(CovarianceLikelihood):
    """Normal in the momenta, with the covariance of noise, source and motion at the start.

    Momenta at infinity are taken to be F(x) + R (G a + a H a / 2): a, of the modes, are independent standard
    normal numbers, and a rotation R brings the equilibrium nearest to x. G, linear in what x differs by, and
    H are derivatives of explosions about the equilibrium. So each geometry has the mean F(x) + R tr H / 2 and
    the covariance D + s^2 u u' + R (G G' + tr H H' / 2) R', of the ions that were detected. Searches take the
    motion of each ion as noise of its own, of no direction.
    """

    def __init__(
        self,
        molecule: Molecule,
        momenta: Floats,  # calibrated, (E, N, 3), hbar / bohr
        own: Measurement,
        spec: dict[str, Any],  # of a prior with motion
        lost: NDArray[np.bool_] | None = None,
    ) -> None:
        ions = molecule.masses, molecule.charges
        self._motion, self._identical = _motion(molecule, spec, own.forward), molecule.identical
        unit = rms_component(momenta)[:, None, None] if own.relative else np.ones((len(momenta), 1, 1))
        each = (self._motion.columns[..., 1:] ** 2).sum(axis=2).mean(axis=1, keepdims=True)
        several = replace(own, noise=np.sqrt((own.levels * unit) ** 2 + each), relative=False, scale=1.0)
        super().__init__(*ions, momenta, several, lost)
        # Vibrations have no momentum in all: what a known source tells of the ions, noise alone decides.
        self.measured = CovarianceLikelihood(*ions, momenta, own, lost).measured
        self._detector, self._share_of_rms = np.broadcast_to(own.levels, momenta.shape), own.relative

    @classmethod
    def of_level(
        cls, molecule: Molecule, momenta: Floats, sigma: Floats, spec: dict[str, Any]
    ) -> MovingLikelihood:
        """That of events with one level of noise each, (E,), hbar / bohr, of a source that is not known."""
        noise, unknown = np.broadcast_to(sigma[:, None, None], momenta.shape), np.full(3, np.inf)
        shares = molecule.masses / molecule.masses.sum()
        return cls(molecule, momenta, Measurement(shares, noise, False, np.zeros(3), unknown), spec)

    def of(self, events: NDArray[np.intp] | slice) -> Self:
        """As of `Likelihood`."""
        other = super().of(events)
        vars(other)["_detector"] = self._detector[events]
        return other

    def log_prob_at(self, simulated: NDArray[np.floating], positions: NDArray[np.floating]) -> Floats:
        """As of `CovarianceLikelihood`."""
        square, log_volume = self._moving_squares(simulated, positions)[:2]
        count = 3 * self._detected.sum(axis=1)[:, None] - np.isinf(self._spread).sum()
        out = -0.5 * (square + count * np.log(2.0 * np.pi)) - log_volume
        return np.where(np.isnan(out), -np.inf, out)

    def chi_squared_at(self, simulated: NDArray[np.floating], positions: NDArray[np.floating]) -> Floats:
        """As of `Likelihood`, with the motion as part of the noise; not of the sum of all momenta."""
        square, _, of_sum = self._moving_squares(simulated, positions)
        return np.where(np.isnan(square), np.inf, square - of_sum)

    @nonfinite_allowed
    def information_root(self, positions: Floats, rows: NDArray[np.intp]) -> Floats:
        """As of `Likelihood`, with the motion as part of the noise."""
        n, ions = len(self.masses), (self.masses, self.charges)
        simulated = np.asarray(self.simulated(positions, self.accuracy, 1), np.float64)
        slope = followed_jacobian(positions, *ions, forward=self.forward, accuracy=1e-8, threads=1)
        there = self._there(rows)
        root, source = self._roots(positions, simulated, there, self._detector[rows])[:2]
        out = np.linalg.solve(root, slope.reshape(len(rows), 3 * n, -1) * there.repeat(3, axis=1)[..., None])
        along = np.linalg.solve(root, source[:, :, np.isinf(self._spread)])
        if along.shape[2]:
            out = out - along @ np.linalg.pinv(along) @ out
        return np.asarray(out)

    def _moving_squares(
        self, simulated: NDArray[np.floating], positions: NDArray[np.floating]
    ) -> tuple[Floats, Floats, Floats]:
        """Squares (E, n) of residuals by all of the covariance, half its log determinant, squares of the sum.

        The last is that of the sum of all momenta alone, 0 where an ion was lost.
        """
        e, n, ions = positions.shape[:3]
        exact = np.asarray(simulated, np.float64).reshape(e * n, ions, 3)
        x = np.asarray(positions, np.float64).reshape(e * n, ions, 3)
        x = np.clip(np.nan_to_num(x), -_FARTHEST, _FARTHEST)
        event, several = np.repeat(np.arange(e), n), [slice(k, k + _BLOCK) for k in range(0, e * n, _BLOCK)]
        out = [self._squares_of(x[rows], exact[rows], event[rows]) for rows in several]
        square, log_volume, of_sum = (np.concatenate(each).reshape(e, n) for each in zip(*out, strict=True))
        return square, log_volume, of_sum

    def _squares_of(
        self, x: Floats, simulated: Floats, event: NDArray[np.intp]
    ) -> tuple[Floats, Floats, Floats]:
        """`_moving_squares` of geometries (B, N, 3) of events (B,), whose momenta at rest are known."""
        there = self._there(event)
        root, source, noise, shift = self._roots(x, simulated, there, self._detector[event])
        residual = (self._momenta[event] - simulated - shift) * there[..., None]
        white = np.linalg.solve(root, residual.reshape(len(x), -1, 1))
        square = (white[..., 0] ** 2).sum(axis=1)
        log_volume = np.log(np.diagonal(root, axis1=1, axis2=2)).sum(axis=1)
        unknown = np.isinf(self._spread)
        if unknown.any():  # integrated over all momenta of the source
            along = np.linalg.solve(root, source[:, :, unknown])
            scale = np.swapaxes(along, 1, 2) @ along
            seen = np.swapaxes(along, 1, 2) @ white
            square = square - (seen * np.linalg.solve(scale, seen)).sum(axis=(1, 2))
            log_volume = log_volume + 0.5 * np.linalg.slogdet(scale)[1]
        width = noise.sum(axis=1) + self._spread**2
        of_sum = (residual.sum(axis=1) ** 2 / width).sum(axis=1) * there.all(axis=1)
        return square, log_volume, of_sum

    def _there(self, event: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Which ions (B, N) of events (B,) were detected."""
        return self._detected[event if len(self._detected) > 1 else np.zeros_like(event)]

    def _roots(
        self, x: Floats, simulated: Floats, there: NDArray[np.bool_], levels: Floats
    ) -> tuple[Floats, Floats, Floats, Floats]:
        """Root (B, 3N, 3N) of the covariance but for unknown axes of the source, u (B, 3N, 3), D (B, N, 3).

        And the mean (B, N, 3) of what motion adds. Of ions that are not `there` (B, N) the covariance is 1
        and u is 0: they count for nothing.
        """
        several = there.repeat(3, axis=1)
        unit = np.nan_to_num(rms_component(simulated), nan=1.0) if self._share_of_rms else np.ones(len(x))
        noise = (levels * unit[:, None, None]) ** 2
        source = np.kron(self._shares[:, None], np.eye(3)) * several[..., None]
        known = source * np.where(np.isinf(self._spread), 0.0, self._spread)
        shift, moved = self._turned(x)
        moved = moved * several[..., None]
        total = moved @ np.swapaxes(moved, 1, 2) + known @ np.swapaxes(known, 1, 2)
        least = _LEAST_NOISE**2 * np.diagonal(total, axis1=1, axis2=2).max(axis=1, keepdims=True)
        own = np.where(several, np.maximum(noise.reshape(several.shape), least), 1.0 + least)
        total += own[..., None] * np.eye(several.shape[1])
        return np.asarray(np.linalg.cholesky(total)), np.asarray(source), noise, shift

    def _turned(self, x: Floats) -> tuple[Floats, Floats]:
        """Mean (B, N, 3), and roots (B, 3N, F) of the covariance, of what motion adds to x (B, N, 3)."""
        atoms, turn, near = self._motion.prior.placed(x, self._identical)
        out = self._motion.columns + np.tensordot(
            near - self._motion.prior.equilibrium, self._motion.slopes, axes=2
        )
        out = np.matmul(turn[:, None], out)
        out = np.take_along_axis(out, atoms[..., None, None].argsort(axis=1), axis=1)
        return out[..., 0], out[..., 1:].reshape(len(x), x.shape[1] * 3, -1)


class _Motion(NamedTuple):
    """What motion adds to the momenta at the end, in the frame of the equilibrium."""

    prior: NormalModesPrior
    columns: Floats  # its mean and roots of its covariance, (N, 3, 1 + F)
    slopes: Floats  # their derivatives by the positions, (N, 3, N, 3, 1 + F)


def _motion(molecule: Molecule, spec: dict[str, Any], forward: ForwardModel) -> _Motion:
    ions = molecule.masses, molecule.charges, molecule.equilibrium
    return _motion_of(json.dumps(spec), _Key(molecule, forward, b"".join(a.tobytes() for a in ions)))


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
def _motion_of(spec: str, key: _Key) -> _Motion:
    """`_motion`: by differences of explosions, to second order in the momenta at the start."""
    molecule, prior = key.molecule, build_prior(key.molecule, json.loads(spec))
    if not isinstance(prior, NormalModesPrior):
        raise UsageError("only normal modes have motion")
    values, axes = np.linalg.eigh(prior.momentum_covariance)
    starts = (axes * np.sqrt(np.maximum(values, 0.0)))[:, values > _RANK * values[-1]]  # of a deviation each
    size, count = starts.shape

    def ends(x: Floats, amounts: Floats) -> Floats:
        """Momenta (K, A, 3N) of geometries (K, N, 3) with amounts (A, F) of the starts."""
        many = np.repeat(x, len(amounts), axis=0)
        moving = np.tile(amounts @ starts.T, (len(x), 1)).reshape(many.shape)
        how: dict[str, Any] = {"initial_momenta": moving, "forward": key.forward, "accuracy": 1e-9}
        out = asymptotic_momenta(many, molecule.masses, molecule.charges, **how)
        return np.asarray(out, np.float64).reshape(len(x), len(amounts), size)

    x, step = prior.equilibrium, _STEP * np.eye(count)
    both = np.concatenate([step, -step])
    bent = np.eye(size).reshape(size, -1, 3) * _AWAY
    of_all = ends(np.concatenate([x[None], x + bent, x - bent]), both)
    first = np.swapaxes(of_all[:, :count] - of_all[:, count:], 1, 2) / (2.0 * _STEP)  # (1 + 6N, 3N, F)
    slopes = (first[1 : 1 + size] - first[1 + size :]) / (2.0 * _AWAY)
    pairs = (both[:, None] + both).reshape(-1, count)
    signs = np.array([[1.0, -1.0], [-1.0, 1.0]])
    second = ends(x[None], pairs).reshape(2, count, 2, count, size)
    second = np.einsum("ac,afcgi->fgi", signs, second) / (4.0 * _STEP**2)
    # Of p = G a + a H a / 2 with independent a: the mean is tr H / 2, and the covariance has tr H H / 2 too.
    values, axes = np.linalg.eigh(0.5 * np.einsum("fgi,fgj->ij", second, second))
    curved = (axes * np.sqrt(np.maximum(values, 0.0)))[:, values > _RANK * values[-1]]
    columns = np.hstack([0.5 * np.einsum("ffi->i", second)[:, None], first[0], curved])
    padded = np.zeros((size, *columns.shape))
    padded[:, :, 1 : 1 + count] = slopes
    return _Motion(prior, columns.reshape(*x.shape, -1), padded.reshape(*x.shape, *x.shape, -1))
