"""The Jacobian of the forward model: how momenta at infinity change with positions."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from flowcei.physics.explosion import (
    System,
    as_events,
    describe_lost,
    in_threads,
    method_of,
    refuse_lost,
    setting_for,
    shares,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_LEAST = 1_000  # over N^2: explosions that are worth a thread
_COARSEST = 1e-6  # the least exact setting in double precision


def momenta_jacobian(
    positions: ArrayLike,
    masses: ArrayLike,
    charges: ArrayLike,
    *,
    accuracy: float = 1e-9,
    threads: int | None = None,
) -> NDArray[np.float64]:
    """Return dp/dx: the derivatives of `asymptotic_momenta` of ions that start at rest.

    The derivatives are integrated beside the explosion (tangent-linear equations), in the
    3N - 6 directions that are neither translations, scalings nor rotations; those are
    known: they change p by 0, by -p/2 and by turning it.

    Args:
        positions: Where the ions start, (B, N, 3) or (N, 3), bohr.
        masses: (N,), electron masses.
        charges: (N,), elementary charges, all of one sign.
        accuracy: Relative error of momenta and derivatives that is asked for, 1e-10 or
            more; always in double precision. OCS costs 3 microseconds of one core, CH4 13
            (Zen 5; `bin/benchmark simulator`).
        threads: Threads to use; all the process may run on by default.

    Returns:
        (B, 3N, 3N) or (3N, 3N), hbar / bohr^2: row 3 i + a is component a of the momentum of
        ion i, column 3 j + b component b of the position of ion j.

        Of a batch, events that cannot be followed have NaN, and a RuntimeWarning names the first.

    Raises:
        ValueError: As of `asymptotic_momenta`; for events that cannot be followed only where a
            single geometry, (N, 3), is given.

    Example:
        Two protons on the x axis, p = sqrt(m / r): dp/dr = -p / (2 r).

        >>> j = momenta_jacobian([[0, 0, 0], [1, 0, 0]], [1836.15, 1836.15], [1, 1])
        >>> round(float(j[3, 3]), 3)
        -21.425
    """
    jacobian, status = _differentiated(positions, masses, charges, accuracy, threads)
    if np.ndim(positions) == 2:
        refuse_lost(status)
        return jacobian[0]
    if status.any():  # the others are right: one event must not take them along
        jacobian[status != 0] = np.nan
        warnings.warn(f"{describe_lost(status)}; derivatives are NaN there", RuntimeWarning, stacklevel=2)
    return jacobian


def followed_jacobian(
    positions: NDArray[np.float64],
    masses: ArrayLike,
    charges: ArrayLike,
    *,
    accuracy: float = 1e-9,
    threads: int | None = None,
) -> NDArray[np.float64]:
    """Return `momenta_jacobian` (B, 3N, 3N), NaN without a warning for events that cannot be followed.

    Args:
        positions: (B, N, 3), bohr.
        masses: (N,), electron masses.
        charges: (N,), elementary charges.
        accuracy: As of `momenta_jacobian`.
        threads: As of `momenta_jacobian`.

    Raises:
        ValueError: For masses, charges or shapes that `momenta_jacobian` refuses.

    Example:
        >>> x = np.zeros((1, 2, 3))
        >>> bool(np.isnan(followed_jacobian(x, [1836.15, 1836.15], [1, 1])).all())
        True
    """
    jacobian, status = _differentiated(positions, masses, charges, accuracy, threads)
    jacobian[status != 0] = np.nan
    return jacobian


def _differentiated(
    positions: ArrayLike, masses: ArrayLike, charges: ArrayLike, accuracy: float, threads: int | None
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    setting = setting_for(min(accuracy, _COARSEST))
    # Imported here: numba takes half a second.
    from flowcei.physics._kernel import differentiate

    geometry = as_events("positions", np.asarray(positions, dtype=np.float64))
    n = geometry.shape[1]
    system = System.of(masses, charges, n)
    flat = geometry.reshape(-1, 3 * n)
    jacobian = np.empty((len(flat), 3 * n, 3 * n))
    status = np.zeros(len(flat), np.uint8)
    sizes = (0,) * n, (0,) * setting.tableau.stages, (0,) * (3 * n - 6)
    fixed = (*sizes, system.arrays(np.float64), method_of(setting), system.unit)

    def work(part: slice) -> None:
        differentiate(flat[part], *fixed, jacobian[part], status[part])

    in_threads(work, shares(len(flat), _LEAST // n**2, threads), threads)
    return jacobian, status
