"""The information floor: how well noisy momenta can fix a geometry (docs/comparing.md)."""

# Of p = f(x) + noise the Fisher information of the 3N coordinates is J^T Sigma^-1 J with J = df/dx; its
# inverse bounds the covariance of every unbiased estimate (Cramer and Rao).

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import elliprg

from flowcei.errors import DataError
from flowcei.experiment.measurement import Measurement
from flowcei.experiment.moving import MovingLikelihood
from flowcei.physics.explosion import COULOMB, centre_of_mass, followed_momenta, forward_of
from flowcei.physics.jacobian import followed_jacobian

if TYPE_CHECKING:
    from flowcei.experiment.experiment import Experiment
    from flowcei.molecules.molecule import Molecule
    from flowcei.physics.forward import ForwardModel
    from flowcei.posterior.arrays import Bools, Floats, Rows

_CHUNK = 5_000  # events whose Jacobians are held at a time
_RANK = 1e-12  # of the largest singular value: below lies rounding, not information
_STRAIGHT = 1e-9  # a molecule straighter than this has no rotation about itself


@dataclass(frozen=True, eq=False)
class InformationFloor:
    """How far from the truth an efficient estimate lies, event by event."""

    positions: Floats  # centre of mass 0, (E, N, 3), bohr
    # Of the 3N coordinates, in the frame of the positions, (E, 3N, 3N), bohr^2; inf where the momenta leave a
    # direction open, NaN where the geometry cannot be simulated.
    covariance: Floats

    @property
    def atom_error(self) -> Floats:
        """Expected distance of each atom from the truth, (E, N), bohr."""
        return _atom_errors(self.covariance)

    @property
    def shape_error(self) -> Floats:
        """The same after the best small rotation, (E, N), bohr: errors of shape alone."""
        # Columns: displacements by a rotation about x, y and z.
        turns = np.stack([np.cross(axis, self.positions) for axis in np.eye(3)], axis=-1)
        turns = turns.reshape(len(turns), -1, 3)
        shape = np.eye(turns.shape[1]) - turns @ np.linalg.pinv(turns, rcond=_STRAIGHT)
        finite = _finite(self.covariance)
        out = self.covariance.copy()
        out[finite] = shape[finite] @ out[finite] @ shape[finite]
        return _atom_errors(out)

    @property
    def variance(self) -> Floats:
        """Of each coordinate, (E, N, 3), bohr^2."""
        return np.diagonal(self.covariance, axis1=1, axis2=2).reshape(self.positions.shape)

    @property
    def mse(self) -> Floats:
        """Expected squared error per coordinate, (E,), bohr^2: the trace over 3N."""
        return np.asarray(self.variance.mean(axis=(1, 2)))

    def turned(self, rotation: Floats, order: Rows) -> InformationFloor:
        """The same with the ions in an order (E, N), then turned by rotations (E, 3, 3)."""
        x = np.take_along_axis(self.positions, order[..., None], axis=1) @ np.swapaxes(rotation, 1, 2)
        rows = (3 * order[..., None] + np.arange(3)).reshape(len(x), -1)
        out = self.covariance[np.arange(len(x))[:, None, None], rows[:, :, None], rows[:, None]]
        finite, size = _finite(out), order.shape[1]
        turn = np.einsum("ij,eab->eiajb", np.eye(size), rotation).reshape(out.shape)
        out[finite] = turn[finite] @ out[finite] @ np.swapaxes(turn[finite], 1, 2)
        return InformationFloor(x, out)

    def draw(self, n: int, rng: np.random.Generator) -> Floats:
        """Draw `n` errors of an efficient estimate for each event, (E, n, N, 3), bohr; NaN without any."""
        finite = _finite(self.covariance)
        values, axes = np.linalg.eigh(np.where(finite[:, None, None], self.covariance, 0.0))
        factor = axes * np.sqrt(values.clip(0.0))[:, None]
        errors = rng.standard_normal((len(factor), n, factor.shape[1])) @ np.swapaxes(factor, 1, 2)
        errors[~finite] = np.nan
        return errors.reshape(len(factor), n, -1, 3)

    def summary(self) -> dict[str, float]:
        """Return mean and median over events of the errors per atom (bohr) and the MSE (bohr^2).

        The few geometries that the momenta hardly fix carry the mean, which need not even converge: the
        median says what is typical.
        """
        summary: dict[str, float] = {}
        for name in ("atom_error", "shape_error", "mse"):
            values = getattr(self, name).reshape(len(self.positions), -1).mean(axis=1)
            values = values[~np.isnan(values)]
            summary[f"{name}_mean"] = float(values.mean()) if len(values) else float("nan")
            summary[f"{name}_median"] = float(np.median(values)) if len(values) else float("nan")
        return summary


def information_floor(
    molecule: Molecule,
    positions: Floats,
    sigma: ArrayLike | None = None,
    *,
    experiment: Experiment | None = None,
    forward: ForwardModel = COULOMB,
    motion: dict[str, Any] | None = None,
) -> InformationFloor:
    """Return the information floor of geometries, for a flat prior.

    A model can stay below it where its prior knows what the momenta do not say, above all
    where noise is large; none can by reading the momenta better.

    Args:
        molecule: Masses and charges of the ions.
        positions: The true geometries, (E, N, 3), bohr; in the lab frame where axes are resolved differently.
        sigma: Standard deviation of a momentum component, hbar / bohr: one number, (E,) or,
            where ions are measured differently well, (E, N). The source is then at rest.
        experiment: Instead: resolution and source, with the forward model.
        forward: Beside `sigma`.
        motion: Table of a prior with motion at the start, which is noise of the momenta at the end.

    Returns:
        Errors of positions relative to the centre of mass.

    Raises:
        DataError: For a sigma that is not positive or of another shape.

    Example:
        >>> import flowcei
        >>> e = flowcei.simulate("ocs", 200, noise="1%", seed=1)
        >>> floor = information_floor(e.molecule, e.positions, e.sigma)
        >>> floor.atom_error.shape, 0.03 < floor.summary()["atom_error_median"] < 0.06
        ((200, 3), True)
    """
    x = np.asarray(positions, dtype=np.float64)
    x = x - centre_of_mass(x, molecule.masses)
    events, ions = x.shape[:2]
    blocks = [slice(k, k + _CHUNK) for k in range(0, max(1, events), _CHUNK)]
    own = None if experiment is None else experiment.of(molecule)
    if motion is not None:
        if own is None:
            levels = np.repeat(_checked(sigma, events, ions)[..., None], 3, axis=2)
            shares, rest = molecule.masses / molecule.masses.sum(), np.zeros(3)
            own = Measurement(shares, levels, relative=False, drift=rest, spread=rest, forward=forward)
        likelihood = MovingLikelihood(molecule, np.zeros_like(x), own, motion)
        roots = [likelihood.information_root(x[b], np.arange(events)[b]) for b in blocks]
        return InformationFloor(x, np.concatenate([_covariances(molecule, root) for root in roots]))
    if own is not None:
        forward = own.forward
        exact = followed_momenta(x, molecule.masses, molecule.charges, forward=forward).astype(np.float64)
        whitening = [own.whitening(np.nan_to_num(exact[b], nan=1.0)) for b in blocks]
    else:
        per_ion = _checked(sigma, events, ions)
        whitening = [(np.eye(ions) / per_ion[b, None, :])[:, None] for b in blocks]
    several = [forward_of(forward, b) for b in blocks]
    parts = zip(blocks, whitening, several, strict=True)
    roots = [weighted_slopes(molecule, x[b], w, f) for b, w, f in parts]
    return InformationFloor(x, np.concatenate([_covariances(molecule, root) for root in roots]))


def _checked(sigma: ArrayLike | None, events: int, ions: int) -> Floats:
    """Standard deviations (E, N)."""
    given = np.asarray(np.nan if sigma is None else sigma, dtype=np.float64)
    if given.shape not in ((), (events,), (events, ions)):
        expected = f"one number, ({events},) or ({events}, {ions})"
        raise DataError(f"sigma has shape {given.shape}; expected {expected}")
    if not (np.isfinite(given) & (given > 0)).all():
        raise DataError("sigma must be positive: without noise there is no floor")
    return np.broadcast_to(given[:, None] if given.ndim == 1 else given, (events, ions))


def mean_length(covariance: Floats) -> Floats:
    """Return E|v| (...,) of normal vectors v of mean 0 and covariance (..., 3, 3)."""
    bad = ~_finite(covariance)
    values = np.linalg.eigvalsh(np.where(bad[..., None, None], 0.0, covariance)).clip(0.0)
    # Exact: the mean over directions u of sqrt(u C u) is Carlson's symmetric elliptic integral R_G of the
    # eigenvalues, and E|u v| = sqrt(2 / pi) sqrt(u C u) is half of it in |v|.
    length = 2.0 * np.sqrt(2.0 / np.pi) * elliprg(values[..., 0], values[..., 1], values[..., 2])
    # Of a direction that is left open the length is infinite; of what is unknown, unknown.
    unknown = np.isnan(np.trace(covariance, axis1=-2, axis2=-1))
    return np.where(bad, np.where(unknown, np.nan, np.inf), length)


def _finite(matrices: Floats) -> Bools:
    return np.asarray(np.isfinite(matrices).all(axis=(-2, -1)))


def _atom_errors(covariance: Floats) -> Floats:
    blocks = [covariance[:, k : k + 3, k : k + 3] for k in range(0, covariance.shape[1], 3)]
    return mean_length(np.stack(blocks, axis=1))


def weighted_slopes(molecule: Molecule, x: Floats, whitening: Floats, forward: ForwardModel) -> Floats:
    """Derivatives (E, 3N, 3N) of whitened momenta by positions (E, N, 3); whitening (E, 3 or 1, N, N)."""
    n = len(molecule)
    slope = followed_jacobian(x, molecule.masses, molecule.charges, forward=forward).reshape(-1, n, 3, 3 * n)
    return np.asarray(np.swapaxes(np.matmul(whitening, np.swapaxes(slope, 1, 2)), 1, 2)).reshape(
        len(x), 3 * n, -1
    )


def _covariances(molecule: Molecule, weighted: Floats) -> Floats:
    """Covariance (E, 3N, 3N) of positions about the centre of mass, of whitened derivatives (E, D, 3N)."""
    n, masses = len(molecule), molecule.masses
    # Columns: orthonormal displacements without translation, which changes no momentum; rows of `shift` take
    # them to positions whose centre of mass is 0.
    relative = np.kron(np.linalg.qr(np.eye(n) - 1.0 / n)[0][:, : n - 1], np.eye(3))
    shift = np.kron(np.eye(n) - masses / masses.sum(), np.eye(3)) @ relative
    usable = _finite(weighted)
    design = np.where(usable[:, None, None], weighted, 0.0) @ relative
    _, size, directions = np.linalg.svd(design, full_matrices=False)
    open_ = np.asarray((size <= _RANK * size[:, :1]).any(axis=1))
    factor = shift @ (np.swapaxes(directions, 1, 2) / np.where(open_[:, None], 1.0, size)[:, None])
    covariance = factor @ np.swapaxes(factor, 1, 2)
    covariance[open_ & usable] = np.inf
    covariance[~usable] = np.nan
    return covariance
