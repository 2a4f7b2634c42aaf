"""The Jacobian of the forward model: how momenta at infinity change with positions."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowcei.physics.explosion import COULOMB, chosen
from flowcei.physics.forward import Start, check_followed, describe_lost

if TYPE_CHECKING:
    from flowcei.physics.build_up import BuildUp
    from flowcei.physics.forward import Floats, ForwardModel, Status

_COARSEST = 1e-6  # the least exact setting in double precision


def momenta_jacobian(
    positions: ArrayLike,
    masses: ArrayLike,
    charges: ArrayLike,
    *,
    build_up: str | ArrayLike | BuildUp | None = None,
    forward: ForwardModel | None = None,
    accuracy: float = 1e-9,
    threads: int | None = None,
) -> NDArray[np.float64]:
    """Return dp/dx: the derivatives of `asymptotic_momenta` of ions that start at rest.

    The derivatives are integrated beside the explosion (tangent-linear equations), in the
    3N - 6 directions that are neither translations, scalings nor rotations; those are
    known: they change p by 0, by -p/2 and by turning it. Where charges build up, the scaling is
    integrated too.

    Args:
        positions: Where the ions start, (B, N, 3) or (N, 3), bohr.
        masses: (N,), electron masses.
        charges: (N,), elementary charges, all of one sign.
        build_up: How long the charges take to appear: as of `asymptotic_momenta`.
        forward: Instead of Coulomb's law another forward model: as of `asymptotic_momenta`.
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
    jacobian, status = _differentiate(
        positions, masses, charges, chosen(forward, build_up), accuracy, threads
    )
    if np.ndim(positions) == 2:
        check_followed(status)
        return jacobian[0]
    if status.any():  # the others are right: one event must not take them along
        warnings.warn(f"{describe_lost(status)}; derivatives are NaN there", RuntimeWarning, stacklevel=2)
    return jacobian


def followed_jacobian(
    positions: Floats,
    masses: Floats,
    charges: Floats,
    *,
    forward: ForwardModel = COULOMB,
    accuracy: float = 1e-9,
    threads: int | None = None,
) -> Floats:
    """`momenta_jacobian` (B, 3N, 3N), NaN without a warning for events that cannot be followed."""
    return _differentiate(positions, masses, charges, forward, accuracy, threads)[0]


def _differentiate(
    positions: ArrayLike,
    masses: ArrayLike,
    charges: ArrayLike,
    forward: ForwardModel,
    accuracy: float,
    threads: int | None,
) -> tuple[Floats, Status]:
    start = Start(np.asarray(positions, dtype=np.float64), masses, charges)
    _, jacobian, status = forward.follow(start, min(accuracy, _COARSEST), threads, derivatives=True)
    jacobian[status != 0] = np.nan
    return jacobian, status
