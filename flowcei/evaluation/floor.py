"""The information floor: how well noisy momenta can fix a geometry, whatever reads them.

Measured momenta are p = f(x) + noise, each component with its own standard deviation sigma.
The Fisher information of the 3N coordinates is J^T J / sigma^2 with J = df/dx; its inverse
bounds the covariance of every unbiased estimate (Cramer and Rao), and for small noise it is
the covariance of the posterior under a flat prior. A rotation changes the momenta and is
known as well as they are, so orientation counts; a translation changes nothing and is fixed
by the centre of mass. Forces between the ions keep the total momentum at zero whatever the
geometry: what is measured of it is noise and tells nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import elliprg

from flowcei.errors import DataError
from flowcei.physics.explosion import centre_of_mass
from flowcei.physics.jacobian import followed_jacobian

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from flowcei.molecules.molecule import Molecule

_CHUNK = 5_000  # events whose Jacobians are held at a time
_RANK = 1e-12  # of the largest singular value: below lies rounding, not information
_STRAIGHT = 1e-9  # a molecule straighter than this has no rotation about itself


@dataclass(frozen=True, eq=False)
class InformationFloor:
    """How far from the truth an efficient estimate lies, event by event.

    Attributes:
        positions: The geometries, centre of mass 0, (E, N, 3), bohr.
        covariance: Of the 3N coordinates, in the frame of the positions, (E, 3N, 3N), bohr^2;
            inf where the momenta leave a direction open, NaN where the geometry cannot be
            simulated.
    """

    positions: NDArray[np.float64]
    covariance: NDArray[np.float64]

    @property
    def atom_error(self) -> NDArray[np.float64]:
        """Expected distance of each atom from the truth, (E, N), bohr."""
        return _atom_errors(self.covariance)

    @property
    def shape_error(self) -> NDArray[np.float64]:
        """The same after the best small rotation, (E, N), bohr: errors of shape alone."""
        # Columns: displacements by a rotation about x, y and z.
        turns = np.stack([np.cross(axis, self.positions) for axis in np.eye(3)], axis=-1)
        turns = turns.reshape(len(turns), -1, 3)
        rest = np.eye(turns.shape[1]) - turns @ np.linalg.pinv(turns, rcond=_STRAIGHT)
        finite = _finite(self.covariance)
        out = self.covariance.copy()
        out[finite] = rest[finite] @ out[finite] @ rest[finite]
        return _atom_errors(out)

    @property
    def variance(self) -> NDArray[np.float64]:
        """Of each coordinate, (E, N, 3), bohr^2."""
        diagonal = np.diagonal(self.covariance, axis1=1, axis2=2)
        return diagonal.reshape(self.positions.shape)

    @property
    def mse(self) -> NDArray[np.float64]:
        """Expected squared error per coordinate, (E,), bohr^2: the trace over 3N."""
        mean: NDArray[np.float64] = self.variance.mean(axis=(1, 2))
        return mean

    def draw(self, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw `n` errors of an efficient estimate for each event, (E, n, N, 3), bohr.

        The expected error of an event is a number; quantiles over events need the errors
        themselves. NaN where the covariance is not finite.
        """
        finite = _finite(self.covariance)
        values, axes = np.linalg.eigh(np.where(finite[:, None, None], self.covariance, 0.0))
        factor = axes * np.sqrt(values.clip(0.0))[:, None]
        drawn = rng.standard_normal((len(factor), n, factor.shape[1])) @ np.swapaxes(factor, 1, 2)
        drawn[~finite] = np.nan
        return drawn.reshape(len(factor), n, -1, 3)

    def summary(self) -> dict[str, float]:
        """Return mean and median over events of the errors per atom (bohr) and the MSE (bohr^2).

        Expected errors average event by event; the few geometries that the momenta hardly fix
        carry the mean, which need not even converge: the median says what is typical.
        """
        per_event = {
            "atom_error": self.atom_error.mean(axis=1),
            "shape_error": self.shape_error.mean(axis=1),
            "mse": self.mse,
        }
        found: dict[str, float] = {}
        for name, values in per_event.items():
            known = values[~np.isnan(values)]
            found[f"{name}_mean"] = float(known.mean()) if len(known) else float("nan")
            found[f"{name}_median"] = float(np.median(known)) if len(known) else float("nan")
        return found


def information_floor(
    molecule: Molecule, positions: NDArray[np.float64], sigma: ArrayLike
) -> InformationFloor:
    """Return the information floor of geometries, for a flat prior.

    A model can stay below it where its prior knows what the momenta do not say, above all
    where noise is large; none can by reading the momenta better.

    Args:
        molecule: Masses and charges of the ions.
        positions: The true geometries, (E, N, 3), bohr, in any frame.
        sigma: Standard deviation of a momentum component, hbar / bohr: one number, (E,) or,
            where ions are measured differently well, (E, N).

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
    known = _per_ion(sigma, x.shape[0], x.shape[1])
    parts = [slice(k, k + _CHUNK) for k in range(0, max(1, len(x)), _CHUNK)]
    return InformationFloor(
        x, np.concatenate([_covariances(molecule, x[rows], known[rows]) for rows in parts])
    )


def _finite(matrices: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(matrices).all(axis=(-2, -1)))


def _atom_errors(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    n = covariance.shape[1] // 3
    blocks = [covariance[:, 3 * k : 3 * k + 3, 3 * k : 3 * k + 3] for k in range(n)]
    return mean_length(np.stack(blocks, axis=1))


def mean_length(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return E|v| (...,) of normal vectors v of mean 0 and covariance (..., 3, 3).

    Exact: the mean over directions u of sqrt(u C u) is Carlson's symmetric elliptic integral
    R_G of the eigenvalues, and E|u v| = sqrt(2 / pi) sqrt(u C u) is half of it in |v|.

    Example:
        >>> float(mean_length(np.eye(3)).round(6))  # sqrt(8 / pi)
        1.595769
    """
    bad = ~_finite(covariance)
    values = np.linalg.eigvalsh(np.where(bad[..., None, None], 0.0, covariance)).clip(0.0)
    length = 2.0 * np.sqrt(2.0 / np.pi) * elliprg(values[..., 0], values[..., 1], values[..., 2])
    # Of a direction that is left open the length is infinite; of what is unknown, unknown.
    unknown = np.isnan(np.trace(covariance, axis1=-2, axis2=-1))
    return np.where(bad, np.where(unknown, np.nan, np.inf), length)


def _per_ion(sigma: ArrayLike, events: int, ions: int) -> NDArray[np.float64]:
    """Return sigma as (E, N)."""
    given = np.asarray(sigma, dtype=np.float64)
    if given.shape not in ((), (events,), (events, ions)):
        msg = f"sigma has shape {given.shape}; expected one number, ({events},) or ({events}, {ions})"
        raise DataError(msg)
    if not (np.isfinite(given) & (given > 0)).all():
        msg = "sigma must be positive: without noise there is no floor"
        raise DataError(msg)
    return np.broadcast_to(given[:, None] if given.ndim == 1 else given, (events, ions))


def _covariances(
    molecule: Molecule, x: NDArray[np.float64], sigma: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the covariance (E, 3N, 3N) of positions relative to the centre of mass."""
    n = len(molecule)

    slope = followed_jacobian(x, molecule.masses, molecule.charges)
    weighted = slope / np.repeat(sigma, 3, axis=1)[:, :, None]
    # Columns: orthonormal displacements without translation; rows of `shift` take them to
    # positions whose centre of mass is 0.
    relative = np.kron(np.linalg.qr(np.eye(n) - 1.0 / n)[0][:, : n - 1], np.eye(3))
    shift = np.kron(np.eye(n) - molecule.masses / molecule.masses.sum(), np.eye(3)) @ relative
    usable = _finite(weighted)
    design = np.where(usable[:, None, None], weighted, 0.0) @ relative
    _, size, directions = np.linalg.svd(design, full_matrices=False)
    open_ = np.asarray((size <= _RANK * size[:, :1]).any(axis=1))
    factor = shift @ (np.swapaxes(directions, 1, 2) / np.where(open_[:, None], 1.0, size)[:, None])
    covariance = factor @ np.swapaxes(factor, 1, 2)
    covariance[open_ & usable] = np.inf
    covariance[~usable] = np.nan
    return covariance
