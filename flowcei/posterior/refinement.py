"""Refinement: from posterior samples to geometries that the exact simulator confirms.

Each sample is the start of a search by Levenberg and Marquardt's steps for a geometry with the measured
momenta. Momenta in the frame of the centre of mass and positions relative to one ion are 3N - 3 numbers each,
so the misfit goes to zero wherever the momenta can be explained; elsewhere the search ends at the nearest
miss in units of the noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from flowcei.errors import UsageError
from flowcei.events.extracolumns import add_columns, component_names
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
    from flowcei.posterior.arrays import Floats, Reals, Rows
    from flowcei.posterior.samples import PosteriorSamples

CONVERGED, STALLED, OUTSIDE = 0, 1, 2
STATUS = ("converged", "did not converge", "left the prior")
"""The end of a search explains the momenta; does not; explains them, but the prior excludes it."""

_CHUNK = 4_000  # starts that are refined together: their Jacobians are held
_FARTHEST = 1e38  # bohr: about what single precision, in which samples are kept, can say


@dataclass(frozen=True)
class RefinementRules:
    """When a search ends.

    Attributes:
        tolerance: |dp| / |p| at which a geometry explains noise-free momenta.
        steps: At the most.
        patience: Steps without progress.
        collision: Distance over the size of the molecule below which ions collide.
        largest: Times the size at the start, beyond which a search has diverged.
    """

    tolerance: float = 1e-9
    steps: int = 60
    patience: int = 20
    collision: float = 1e-3
    largest: float = 1e3


REFINEMENT_RULES = RefinementRules()


@dataclass(frozen=True, eq=False)
class Refinement:
    """Where the searches from the n samples of each of E events ended.

    Attributes:
        positions: (E, n, N, 3), bohr, in the frame of the momenta, centre of mass 0.
        error: |dp| / |p| there, (E, n): simulated against measured, in the frame of the centre of mass.
        chi_squared: The same in units of the noise, (E, n), of 3N - 3 degrees of freedom.
        status: `CONVERGED`, `STALLED` or `OUTSIDE`, (E, n), numbers into `STATUS`.
        rules: When the searches ended.
        samples: The samples they began at, of `PosteriorSamples.refine`.
    """

    positions: Floats
    error: Floats
    chi_squared: Floats
    status: NDArray[np.uint8]
    rules: RefinementRules = REFINEMENT_RULES
    samples: PosteriorSamples | None = None

    def share(self, status: int) -> Floats:
        """Return the share of starts of each event with a status, (E,)."""
        return np.asarray((self.status == status).mean(axis=1))

    def to_dataframe(self) -> pd.DataFrame:
        """Return a row for each sample: status, |dp| / |p|, chi squared, refined positions, extra columns.

        Positions in bohr, in the frame of the momenta, identical ions labelled by the geometry.

        Raises:
            UsageError: Where it is not known of which samples it is.

        Example:
            >>> import flowcei
            >>> s = flowcei.load().sample(flowcei.simulate("ocs", 2, seed=1), 5, noise="1%", seed=1)
            >>> s.refine().to_dataframe()["status"].unique().tolist()
            ['converged']
        """
        samples, (e, n) = required(self.samples), self.status.shape
        flat = samples.labelled(self.positions).reshape(e * n, -1)
        table: dict[str, np.ndarray] = {
            "event": np.repeat(samples.event_id, n),
            "sample": np.tile(np.arange(n), e),
            "status": np.array(STATUS)[self.status.reshape(-1)],
            "error": self.error.reshape(-1),
            "chi_squared": self.chi_squared.reshape(-1),
            **dict(zip(component_names(samples.molecule.labels), flat.T, strict=True)),
        }
        return pd.DataFrame(add_columns(table, samples.columns, np.repeat(np.arange(e), n)))


def required(samples: PosteriorSamples | None) -> PosteriorSamples:
    """The samples that geometries are of, which tables and structures need."""
    if samples is None:
        msg = "of which samples these geometries are is unknown; call PosteriorSamples.refine() or modes()"
        raise UsageError(msg)
    return samples


@nonfinite_allowed
def refine(
    likelihood: Likelihood,
    positions: Reals,
    *,
    rules: RefinementRules = REFINEMENT_RULES,
    threads: int | None = None,
) -> Refinement:
    """Search from samples (E, n, N, 3), bohr, each `turned` first: `CONVERGED` or `STALLED`, by no prior."""
    e, n, ions = positions.shape[:3]
    start = turned(likelihood, np.asarray(positions, dtype=np.float64)).reshape(e * n, ions, 3)
    event = np.repeat(np.arange(e), n)
    ends, error = np.empty_like(start), np.empty(e * n)

    def work(rows: slice) -> None:
        ends[rows], error[rows] = _search(likelihood, start[rows], event[rows], rules)

    in_threads(work, [slice(k, k + _CHUNK) for k in range(0, e * n, _CHUNK)], threads)
    ends = (ends - centre_of_mass(ends, likelihood.masses)).reshape(e, n, ions, 3)
    status = np.where(error <= rules.tolerance, CONVERGED, STALLED).astype(np.uint8).reshape(e, n)
    chi_squared = likelihood.chi_squared(ends, threads=threads)
    return Refinement(ends, error.reshape(e, n), chi_squared, status, rules)


@nonfinite_allowed
def turned(likelihood: Likelihood, positions: Floats) -> Floats:
    """Geometries (E, n, N, 3), bohr, turned and scaled so that their momenta come nearest, centre of mass 0.

    Both are exact symmetries: turned as W. Kabsch, Acta Cryst. A 32, 922 (1976), scaled to the measured
    energy. What cannot be simulated stays as it is.
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
    nearest = (x @ ((u * proper[..., None, :]) @ v)) * scale[:, :, None, None]
    # Momenta next to nothing would scale a geometry to 1e200 bohr, whose squares no table can hold.
    usable &= np.abs(nearest).max(axis=(2, 3), keepdims=True) < _FARTHEST
    return np.where(usable, nearest, x)


@nonfinite_allowed
def _search(
    likelihood: Likelihood, start: Floats, event: Rows, rules: RefinementRules
) -> tuple[Floats, Floats]:
    """Ends (K, N, 3) of searches from `start` (K, N, 3) of events (K,), and |dp| / |p| there, (K,)."""
    ions = start.shape[1]
    relative = (start[:, 1:] - start[:, :1]).reshape(len(start), -1)
    size = np.abs(relative).max(axis=1)
    first, second = np.triu_indices(ions, 1)

    def geometry(y: Floats) -> Floats:
        return np.concatenate([np.zeros((len(y), 3)), y], axis=1).reshape(-1, ions, 3)

    def residual(y: Floats, rows: Rows) -> Floats:
        x = geometry(y)
        gap = np.linalg.norm(x[:, first] - x[:, second], axis=-1).min(axis=1)
        reach = np.abs(y).max(axis=1)
        bad = ~((gap > rules.collision * reach) & (reach < rules.largest * size[rows]))
        x[bad] = start[rows[bad]]
        out = likelihood.residual(x, event[rows])
        out[bad] = np.nan
        return out

    def slope(y: Floats, rows: Rows) -> Floats:
        return likelihood.slope(geometry(y), event[rows])[:, :, 3:]

    # Whitened and plain residuals differ by a factor between 1 and that of the least whitened.
    tolerance = np.linalg.svd(likelihood.whitening, compute_uv=False).min() * rules.tolerance
    x = geometry(
        levenberg_marquardt(
            residual, slope, relative, tolerance=tolerance, steps=rules.steps, patience=rules.patience
        ).x
    )
    whitened = likelihood.residual(x, event).reshape(len(x), -1, 3)
    # q - f sums to zero over the ions, so its length follows from what was whitened.
    plain = np.matmul(np.linalg.pinv(likelihood.whitening), whitened)
    error = np.sqrt((plain**2).sum(axis=(1, 2)))
    return x, np.where(np.isnan(error), np.inf, error)
