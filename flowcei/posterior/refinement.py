"""Refinement: from posterior samples to geometries that the exact simulator confirms.

Each sample is the start of a search by Levenberg and Marquardt's steps for a geometry whose
simulated momenta are the measured ones. Momenta in the frame of the centre of mass and
positions relative to one ion are 3N - 3 numbers each: as many equations as unknowns, so the
misfit goes to zero wherever the momenta can be explained at all, and where they cannot, the
search ends at the geometry that comes nearest in units of the noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flowcei.experiment.likelihood import nonfinite_allowed
from flowcei.physics.explosion import (
    centre_of_mass,
    followed_momenta,
    in_threads,
    kinetic_energy,
    potential_energy,
)
from flowcei.physics.leastsquares import levenberg_marquardt

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowcei.experiment.likelihood import Likelihood

CONVERGED, STALLED, OUTSIDE = 0, 1, 2
STATUS = ("converged", "did not converge", "left the prior")
"""What became of a start: it explains the momenta; it ended where they are not explained; it
explains them, but the prior excludes it."""

TOLERANCE = 1e-9
"""Of |dp| / |p| at which a geometry explains noise-free momenta."""

_STEPS, _PATIENCE = 60, 20
_CHUNK = 4_000  # starts that are refined together: their Jacobians are held
_COLLISION = 1e-3  # of the size of the molecule: nearer ions collide
_FARTHEST = 1e38  # bohr: about what single precision, in which samples are kept, can say
_LARGEST = 1e3  # times the size at the start: beyond, a search has run away


@dataclass(frozen=True, eq=False)
class Refinement:
    """Where the searches from the samples of events ended.

    Attributes:
        positions: (E, n, N, 3), bohr, in the frame of the momenta, centre of mass 0.
        error: |dp| / |p| there, (E, n): simulated against measured, in the frame of the centre of mass.
        chi_squared: The same in units of the noise, (E, n), of 3N - 3 degrees of freedom.
        status: `CONVERGED`, `STALLED` or `OUTSIDE`, (E, n), numbers into `STATUS`.
    """

    positions: NDArray[np.float64]
    error: NDArray[np.float64]
    chi_squared: NDArray[np.float64]
    status: NDArray[np.uint8]

    def share(self, status: int) -> NDArray[np.float64]:
        """Return the share of starts of each event with a status, (E,)."""
        return np.asarray((self.status == status).mean(axis=1))


@nonfinite_allowed
def refine(
    likelihood: Likelihood,
    positions: NDArray[np.floating],
    *,
    tolerance: float = TOLERANCE,
    threads: int | None = None,
) -> Refinement:
    """Refine samples by the exact simulator.

    Args:
        likelihood: Of the E events.
        positions: Where the searches start, (E, n, N, 3), bohr, in the frame of the momenta.
        tolerance: Of |dp| / |p| at which a search has arrived.
        threads: To use; all the process may run on by default.

    Each start is first `turned`.

    Returns:
        The geometries found, with status `CONVERGED` or `STALLED`: no prior is asked.

    Example:
        >>> import flowcei
        >>> from flowcei.experiment.likelihood import Likelihood
        >>> e = flowcei.simulate("ocs", 2, seed=1, accuracy=1e-9)
        >>> known = Likelihood(e.molecule.masses, e.molecule.charges, e.momenta, np.ones(2))
        >>> refine(known, 1.02 * e.positions[:, None]).status.tolist()
        [[0], [0]]
    """
    e, n, ions = positions.shape[:3]
    start = turned(likelihood, np.asarray(positions, dtype=np.float64)).reshape(e * n, ions, 3)
    event = np.repeat(np.arange(e), n)
    found, error = np.empty_like(start), np.empty(e * n)

    def work(part: slice) -> None:
        found[part], error[part] = _search(likelihood, start[part], event[part], tolerance)

    parts = [slice(k, k + _CHUNK) for k in range(0, e * n, _CHUNK)]
    in_threads(work, parts, threads)
    ends = (found - centre_of_mass(found, likelihood.masses)).reshape(e, n, ions, 3)
    status = np.where(error <= tolerance, CONVERGED, STALLED).astype(np.uint8)
    chi_squared = likelihood.chi_squared(ends, threads=threads)
    return Refinement(ends, error.reshape(e, n), chi_squared, status.reshape(e, n))


@nonfinite_allowed
def turned(likelihood: Likelihood, positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn and scale geometries so that their momenta come as near as that brings them.

    Turning and scaling are exact symmetries of a Coulomb explosion: each geometry is turned so
    that its momenta come nearest to the measured ones (W. Kabsch, Acta Cryst. A 32, 922
    (1976)), and scaled so that its potential energy is the measured kinetic energy.

    Args:
        likelihood: Of the E events.
        positions: (E, n, N, 3), bohr.

    Returns:
        (E, n, N, 3), bohr, centre of mass 0; as they were where nothing can follow them.

    Example:
        >>> import flowcei
        >>> e = flowcei.simulate("ocs", 2, seed=1, accuracy=1e-9)
        >>> known = flowcei.load().sample(e.momenta, 1, seed=1).likelihood
        >>> x = turned(known, 2.0 * e.positions[:, None, :, [1, 2, 0]])
        >>> bool((known.chi_squared(x) < 1e-6).all())
        True
    """
    m, q = likelihood.masses, likelihood.charges
    x = positions - centre_of_mass(positions, m)
    p = followed_momenta(x.reshape(-1, *x.shape[2:]), m, q, accuracy=1e-5).reshape(x.shape)
    usable = np.isfinite(p).all(axis=(2, 3), keepdims=True)
    p = np.where(usable, p, 0.0)
    # Directions alone decide: momenta of 1e300 would overflow, and no SVD comes of that.
    measured = np.nan_to_num(likelihood.measured / likelihood.size[:, None, None])
    unit = np.nan_to_num(p / np.abs(p).max(axis=(2, 3), keepdims=True))
    u, _, v = np.linalg.svd(np.einsum("esia,eib->esab", unit, measured))
    proper = np.ones(u.shape[:-1])
    proper[..., 2] = np.sign(np.linalg.det(u) * np.linalg.det(v))
    scale = potential_energy(x, q) / kinetic_energy(likelihood.measured, m)[:, None]
    found = (x @ ((u * proper[..., None, :]) @ v)) * scale[:, :, None, None]
    # Momenta next to nothing would scale a geometry to 1e200 bohr, whose squares no table can hold.
    usable &= np.abs(found).max(axis=(2, 3), keepdims=True) < _FARTHEST
    return np.where(usable, found, x)


@nonfinite_allowed
def _search(
    likelihood: Likelihood, start: NDArray[np.float64], event: NDArray[np.intp], tolerance: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return geometries (K, N, 3) and their |dp| / |p| (K,), one of each event in `event` (K,)."""
    ions = start.shape[1]
    relative = (start[:, 1:] - start[:, :1]).reshape(len(start), -1)
    size = np.abs(relative).max(axis=1)
    first, second = np.triu_indices(ions, 1)

    def geometry(y: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.concatenate([np.zeros((len(y), 3)), y], axis=1).reshape(-1, ions, 3)

    def residual(y: NDArray[np.float64], rows: NDArray[np.intp]) -> NDArray[np.float64]:
        x = geometry(y)
        gap = np.linalg.norm(x[:, first] - x[:, second], axis=-1).min(axis=1)
        reach = np.abs(y).max(axis=1)
        bad = ~((gap > _COLLISION * reach) & (reach < _LARGEST * size[rows]))
        x[bad] = start[rows[bad]]
        out = likelihood.residual(x, event[rows])
        out[bad] = np.nan
        return out

    def slope(y: NDArray[np.float64], rows: NDArray[np.intp]) -> NDArray[np.float64]:
        return likelihood.slope(geometry(y), event[rows])[:, :, 3:]

    # Whitened and plain residuals differ by a factor between 1 and that of the least whitened.
    least = np.linalg.svd(likelihood.whitening, compute_uv=False).min()
    fit = levenberg_marquardt(
        residual, slope, relative, tolerance=least * tolerance, steps=_STEPS, patience=_PATIENCE
    )
    x = geometry(fit.x)
    left = likelihood.residual(x, event).reshape(len(x), -1, 3)
    # q - f sums to zero over the ions, so its length follows from what was whitened.
    plain = np.matmul(np.linalg.pinv(likelihood.whitening), left)
    error = np.sqrt((plain**2).sum(axis=(1, 2)))
    return x, np.where(np.isnan(error), np.inf, error)
