"""Refinement: from posterior samples to geometries that the exact simulator confirms.

Each sample is the start of a search by Levenberg and Marquardt's steps for a geometry with the measured
momenta. Momenta in the frame of the centre of mass and positions relative to one ion are 3N - 3 numbers each,
so the misfit goes to zero wherever the momenta can be explained; elsewhere the search ends at the nearest
miss in units of the noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flowcei.experiment.likelihood import nonfinite_allowed
from flowcei.physics.explosion import centre_of_mass, kinetic_energy
from flowcei.physics.leastsquares import levenberg_marquardt
from flowcei.physics.priors.orders import nearest_rotations
from flowcei.physics.threads import in_threads
from flowcei.posterior.structures import required, sample_table

if TYPE_CHECKING:
    import pandas as pd

    from flowcei.experiment.likelihood import Likelihood
    from flowcei.molecules.molecule import Molecule
    from flowcei.posterior.arrays import Floats, Reals, Rows
    from flowcei.posterior.samples import PosteriorSamples

    Plausible = Callable[[Floats], NDArray[np.bool_]]
    """Whether the prior ever draws the like of geometries (B, N, 3), (B,)."""

CONVERGED, STALLED, OUTSIDE = 0, 1, 2
STATUS = ("converged", "did not converge", "left the prior")
"""The end of a search explains the momenta; does not; explains them, but the prior excludes it."""

_CHUNK = 4_000  # starts that are refined together: their Jacobians are held
_NEAR = 0.1  # |dp| / |p| within which a start needs no turning
_FARTHEST = 1e38  # bohr: about what single precision, in which samples are kept, can say


@dataclass(frozen=True)
class RefinementRules:
    """When a search ends."""

    tolerance: float = 1e-9  # |dp| / |p| at which a geometry explains noise-free momenta
    steps: int = 60  # at the most
    patience: int = 20  # steps without progress
    collision: float = 1e-3  # distance over the size of the molecule below which ions collide
    largest: float = 1e3  # times the size at the start, beyond which a search has diverged
    damping: float = 1e-2  # of the first step, of the diagonal of J'J


REFINEMENT_RULES = RefinementRules()


@dataclass(frozen=True, eq=False)
class Refinement:
    """Where the searches from the n samples of each of E events ended."""

    positions: Floats  # (E, n, N, 3), bohr, in the frame of the momenta, centre of mass 0
    error: Floats  # |dp| / |p| there, (E, n): simulated against measured, in the frame of the centre of mass
    chi_squared: Floats  # the same in units of the noise, (E, n), of 3N - 3 degrees of freedom
    status: NDArray[np.uint8]  # numbers into `STATUS`, (E, n)
    rules: RefinementRules = REFINEMENT_RULES
    samples: PosteriorSamples | None = None  # they began at, of `PosteriorSamples.refine`

    def share(self, status: int) -> Floats:
        """Return the share of starts of each event with a status, (E,)."""
        return np.asarray((self.status == status).mean(axis=1))

    def to_dataframe(self) -> pd.DataFrame:
        """Return a row a sample: status, |dp| / |p|, chi squared, refined `labelled` positions, bohr."""
        samples = required(self.samples)
        return refined_table(samples.molecule, self.arrays(), samples.columns)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return numbers of the events, `labelled` positions, status, |dp| / |p| and chi squared by name."""
        samples = required(self.samples)
        arrays = {name: getattr(self, name) for name in ("status", "error", "chi_squared")}
        return {"event": samples.event_id, "positions": samples.labelled(self.positions)} | arrays


def refined_table(
    molecule: Molecule, arrays: Mapping[str, NDArray[Any]], columns: Mapping[str, NDArray[Any]]
) -> pd.DataFrame:
    """A row a sample of `Refinement.arrays`, with extra columns of the events."""
    facts = {"status": np.array(STATUS)[arrays["status"]]}
    facts |= {name: arrays[name] for name in ("error", "chi_squared")}
    return sample_table(molecule, arrays["event"], columns, arrays["positions"], facts, {})


@nonfinite_allowed
def refine(
    likelihood: Likelihood,
    positions: Reals,
    *,
    plausible: Plausible | None = None,
    rules: RefinementRules = REFINEMENT_RULES,
    threads: int | None = None,
) -> Refinement:
    """Search from samples (E, n, N, 3), bohr, each `turned` first."""
    e, n, ions = positions.shape[:3]
    likelihood, event = likelihood.of_samples(positions)
    start = turned(likelihood, np.asarray(positions, dtype=np.float64).reshape(e * n, ions, 3), event)
    ends, error = np.empty_like(start), np.empty(e * n)

    def work(rows: slice) -> None:
        ends[rows], error[rows] = solved(likelihood, start[rows], event[rows], rules)

    in_threads(work, [slice(k, k + _CHUNK) for k in range(0, e * n, _CHUNK)], threads)
    ends -= centre_of_mass(ends, likelihood.masses)
    each = ends.reshape(len(likelihood.size), -1, ions, 3)
    chi_squared = likelihood.chi_squared(each, threads=threads).reshape(e, n)
    status = judged(ends, error, chi_squared.ravel(), likelihood.most_misfit, plausible, rules.tolerance)
    ends, error, status = ends.reshape(e, n, ions, 3), error.reshape(e, n), status.reshape(e, n)
    return Refinement(ends, error, chi_squared, status, rules)


def judged(
    positions: Floats,
    error: Floats,
    chi_squared: Floats,
    limit: float,
    plausible: Plausible | None,
    tolerance: float,
) -> NDArray[np.uint8]:
    """Status (K,) of ends (K, N, 3): of what explains the momenta also whether the prior has its like."""
    status = np.where(error <= tolerance, CONVERGED, STALLED).astype(np.uint8)
    if plausible is not None:
        # Also what explains the momenta within their noise alone must be a geometry of the prior.
        near = (status == CONVERGED) | (chi_squared <= limit)
        status[near] = np.where(plausible(positions[near]), status[near], OUTSIDE)
    return status


@nonfinite_allowed
def turned(likelihood: Likelihood, positions: Floats, event: Rows) -> Floats:
    """Geometries (K, N, 3), bohr, of events (K,), turned and scaled so that their momenta come nearest.

    Turned as W. Kabsch, Acta Cryst. A 32, 922 (1976), scaled to the measured energy, an exact symmetry where
    charges are there at once. What cannot be simulated stays as it is, and what is near already; the centre
    of mass is at 0.
    """
    m = likelihood.masses
    x = positions - centre_of_mass(positions, m)
    p = likelihood.simulated(x, 1e-5, None)
    size = likelihood.size[event]
    far = np.linalg.norm(p - likelihood.measured[event], axis=(1, 2)) > _NEAR * size
    p, y, measured = p[far], x[far], likelihood.measured[event[far]]
    # Directions alone decide: momenta of 1e300 would overflow, and no SVD comes of that.
    unit = np.nan_to_num(p / np.abs(p).max(axis=(1, 2), keepdims=True))
    direction = np.nan_to_num(measured / size[far, None, None])
    rotation = nearest_rotations(np.einsum("kia,kib->kab", unit, direction))
    scale = kinetic_energy(p, m) / kinetic_energy(measured, m)
    nearest = (y @ rotation) * scale[:, None, None]
    # Momenta next to nothing would scale a geometry to 1e200 bohr, whose squares no table can hold.
    usable = np.abs(nearest).max(axis=(1, 2), keepdims=True) < _FARTHEST
    x[far] = np.where(usable, nearest, y)
    return x


@nonfinite_allowed
def solved(
    likelihood: Likelihood, start: Floats, event: Rows, rules: RefinementRules, *, stay: float = np.inf
) -> tuple[Floats, Floats]:
    """Ends (K, N, 3) of searches from `start` (K, N, 3) of events (K,), and |dp| / |p| there, (K,).

    A search that would go farther than `stay`, bohr, does not go at all.
    """
    ions = start.shape[1]
    relative = (start[:, 1:] - start[:, :1]).reshape(len(start), -1)
    size = np.abs(relative).max(axis=1)
    first, second = np.triu_indices(ions, 1)

    def geometry(y: Floats) -> Floats:
        return np.pad(y, ((0, 0), (3, 0))).reshape(-1, ions, 3)

    def residual(y: Floats, rows: Rows) -> Floats:
        x, reach = geometry(y), np.abs(y).max(axis=1)
        gap = np.linalg.norm(x[:, first] - x[:, second], axis=-1).min(axis=1)
        bad = ~((gap > rules.collision * reach) & (reach < rules.largest * size[rows]))
        x[bad] = start[rows[bad]]
        out = likelihood.residual(x, event[rows])
        out[bad] = np.nan
        return out

    def slope(y: Floats, rows: Rows) -> Floats:
        return likelihood.slope(geometry(y), event[rows])[:, :, 3:]

    # Whitened and plain residuals differ by a factor between 1 and that of the least whitened.
    tolerance = likelihood.least_scale * rules.tolerance
    how: Any = {"steps": rules.steps, "patience": rules.patience, "damping": rules.damping}
    fit = levenberg_marquardt(residual, slope, relative, tolerance=tolerance, **how)
    far = ~(np.abs(fit.x - relative).max(axis=1) <= stay)
    x = geometry(np.where(far[:, None], relative, fit.x))
    # q - f sums to zero over the ions, so its length follows from what was whitened.
    plain = likelihood.unwhitened(likelihood.residual(x, event), event)
    error = np.sqrt((plain**2).sum(axis=(1, 2)))
    return x, np.where(np.isnan(error), np.inf, error)
