"""The forward model: point charges at rest to the momenta of a detector at infinity.

In the centre-of-mass frame the change of variables x(t) = R(t) y with

    R = 1 / (1 - z^2),   t = T (atanh z + z / (1 - z^2)),   T^2 = I0 / (2 U0)

(I0 = sum m |x0|^2, U0 the potential energy at the start) turns the equation of motion
exactly into y'' = S(y) / (1 - z^2), S(y) = 4 T^2 A(y) - 2 y, on z in [0, 1): infinite
time is a unit interval and no velocity appears on the right. A Runge-Kutta-Nystrom
method runs to z1, a quadrature that knows the logarithmic singularity at z = 1 does
the rest, and p = m y(1) / T. A homologous expansion is stationary, so N = 2 is exact.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from flowcei.physics.nystrom import RKN64, RKN86, Tableau, tail

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "BEST_ACCURACY",
    "asymptotic_momenta",
    "centre_of_mass",
    "kinetic_energy",
    "potential_energy",
    "validated_geometry",
]


@dataclass(frozen=True)
class _Setting:
    """A way to run the integrator, and the mean relative error it stays below."""

    accuracy: float
    dtype: type[np.floating[Any]]
    tableau: Tableau
    eta: float
    z1: float
    tail_nodes: int


# Mean relative error over wide geometries: N = 2, 3, 5 and 8 in a ball of 4 bohr with
# 0.5 bohr between ions, which is harder than any bound molecule (tests/test_explosion.py).
_SETTINGS = (
    _Setting(3e-4, np.float32, RKN64, 1.0, 0.8, 5),
    _Setting(1e-4, np.float32, RKN64, 0.8, 0.8, 6),
    _Setting(3e-5, np.float32, RKN64, 0.6, 0.85, 6),
    _Setting(1e-7, np.float64, RKN86, 0.6, 0.9, 8),
    _Setting(1e-8, np.float64, RKN86, 0.4, 0.95, 10),
    _Setting(1e-9, np.float64, RKN86, 0.25, 0.985, 11),
    _Setting(1e-10, np.float64, RKN86, 0.15, 0.99, 12),
)

BEST_ACCURACY = _SETTINGS[-1].accuracy
"""The smallest relative error that may be asked for."""

_CHUNK = 4096  # explosions a thread takes at a time


def asymptotic_momenta(
    positions: ArrayLike,
    masses: ArrayLike,
    charges: ArrayLike,
    *,
    accuracy: float = 1e-6,
    threads: int | None = None,
) -> NDArray[np.floating]:
    """Return the momenta of ions at infinite time after a Coulomb explosion from rest.

    Args:
        positions: Where the ions start, (B, N, 3) or (N, 3), bohr.
        masses: (N,), electron masses.
        charges: (N,), elementary charges, all of one sign.
        accuracy: Mean relative error of the momenta that is asked for, 1e-10 or more.
            From 3e-5 up the calculation runs in single precision and is several times faster.
        threads: Threads to use; all the process may run on by default. The result
            does not depend on it.

    Returns:
        Momenta, the shape of `positions`, hbar / bohr; float32 where `positions` are,
        else float64. They sum to zero and carry exactly the potential energy.

    Raises:
        ValueError: Naming the first offending row, for positions that are not finite,
            coincident ions, an explosion too violent for the precision; and for charges
            that are zero or of both signs, masses that are not positive, N < 2 or shapes
            that do not match.

    Example:
        Two protons, one bohr apart, share their potential energy of one hartree:

        >>> p = asymptotic_momenta([[0, 0, 0], [1, 0, 0]], [1836.15, 1836.15], [1, 1])
        >>> p.round(3).tolist()
        [[-42.85, 0.0, 0.0], [42.85, 0.0, 0.0]]
    """
    geometry, mass, charge = validated_geometry(positions, masses, charges)
    if not len(geometry):
        return np.zeros(geometry.shape)
    setting = _setting(accuracy)
    single = np.asarray(positions).dtype == np.float32
    # The origin is arbitrary: centring in double precision keeps single precision exact
    # for molecules far from it.
    centred = geometry - centre_of_mass(geometry, mass)
    with np.errstate(over="ignore"):  # what overflows is refused below
        flat = np.ascontiguousarray(centred.reshape(len(geometry), -1), dtype=setting.dtype)
        momenta = np.empty_like(flat)
        _run(flat, mass, charge, setting, momenta, threads)
    if not np.isfinite(momenta.sum()):
        lost = np.asarray(~np.isfinite(momenta).all(axis=1))
        what = f"an explosion that accuracy {accuracy:g} cannot follow; check units, or ask for less"
        _refuse_row(lost, what)
    out: NDArray[np.floating] = momenta.reshape(geometry.shape).astype(
        np.float32 if single else np.float64, copy=False
    )
    return out.reshape(np.shape(positions))


def _setting(accuracy: float) -> _Setting:
    if not accuracy >= BEST_ACCURACY:
        msg = f"accuracy is {accuracy}; it must be {BEST_ACCURACY:g} or more"
        raise ValueError(msg)
    return next(s for s in _SETTINGS if s.accuracy <= accuracy)


@lru_cache(maxsize=16)
def _coefficients(setting: _Setting) -> tuple[object, ...]:
    dtype: Any = setting.dtype
    c, a, bp = setting.tableau.arrays(dtype)
    end = tail(setting.z1, setting.tail_nodes, logarithmic=dtype is np.float64)
    nodes, weights = end.nodes.astype(dtype), end.weights.astype(dtype)
    return a, c, bp, dtype(setting.eta), dtype(setting.z1), nodes, weights


def _run(
    flat: NDArray[np.floating],
    masses: NDArray[np.float64],
    charges: NDArray[np.float64],
    setting: _Setting,
    momenta: NDArray[np.floating],
    threads: int | None,
) -> None:
    # Imported here: numba takes half a second that a command which simulates nothing saves.
    from flowcei.physics._kernel import explode

    dtype = flat.dtype
    coefficients = _coefficients(setting)
    m, q = masses.astype(dtype), charges.astype(dtype)

    def work(first: int) -> None:
        part = slice(first, first + _CHUNK)
        explode(flat[part], m, q, *coefficients, momenta[part])

    starts = range(0, len(flat), _CHUNK)
    workers = min(threads or len(os.sched_getaffinity(0)), len(starts))
    if workers <= 1:
        for first in starts:
            work(first)
        return
    # Threads of Python, not of numba: the kernel releases the GIL, and numba's own
    # pool would go on spinning next to torch's.
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, starts))


def validated_geometry(
    positions: ArrayLike, masses: ArrayLike, charges: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return positions (B, N, 3), masses (N,) and charges (N,) as float64, all of them sound.

    Args:
        positions: (B, N, 3) or (N, 3), bohr.
        masses: (N,), electron masses.
        charges: (N,), elementary charges.

    Raises:
        ValueError: See `asymptotic_momenta`.

    Example:
        >>> validated_geometry([[0, 0, 0], [0, 0, 2]], [1, 1], [1, 1])[0].shape
        (1, 2, 3)
    """
    geometry = np.asarray(positions, dtype=np.float64)
    if geometry.ndim == 2:
        geometry = geometry[None]
    if geometry.ndim != 3 or geometry.shape[2] != 3:
        msg = f"positions have shape {np.shape(positions)}; expected (B, N, 3) or (N, 3)"
        raise ValueError(msg)
    n = geometry.shape[1]
    if n < 2:
        msg = f"positions hold {n} ion; a Coulomb explosion needs two or more"
        raise ValueError(msg)
    mass = _per_ion("masses", masses, n)
    charge = _per_ion("charges", charges, n)
    if not (mass > 0).all():
        msg = f"masses must be positive, in electron masses; got {mass.tolist()}"
        raise ValueError(msg)
    if not ((charge > 0).all() or (charge < 0).all()):
        msg = f"charges must be non-zero and of one sign, or nothing explodes; got {charge.tolist()}"
        raise ValueError(msg)
    _refuse_row(np.asarray(~np.isfinite(geometry).all(axis=(1, 2))), "a position that is not finite")
    first, second = np.triu_indices(n, 1)
    with np.errstate(over="ignore"):
        gap = np.linalg.norm(geometry[:, first] - geometry[:, second], axis=-1)
    # Below this the reciprocal distance cubed leaves single precision.
    scale = np.abs(geometry).max(axis=(1, 2))
    _refuse_row((gap.min(axis=1) <= 1e-6 * scale) | (gap.min(axis=1) < 1e-8), "coincident ions")
    return geometry, mass, charge


def _per_ion(name: str, values: ArrayLike, n: int) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (n,):
        msg = f"{name} have shape {array.shape}; expected ({n},), one per ion"
        raise ValueError(msg)
    if not np.isfinite(array).all():
        msg = f"{name} must be finite; got {array.tolist()}"
        raise ValueError(msg)
    return array


def _refuse_row(bad: NDArray, what: str) -> None:
    if bad.any():
        msg = f"row {int(np.argmax(bad))} of positions has {what} ({int(bad.sum())} such rows)"
        raise ValueError(msg)


def centre_of_mass(positions: NDArray[np.floating], masses: NDArray[np.floating]) -> NDArray:
    """Return the centre of mass, (..., 1, 3), of positions (..., N, 3) with masses (N,).

    Example:
        >>> centre_of_mass(np.array([[0.0, 0, 0], [3, 0, 0]]), np.array([2.0, 1])).tolist()
        [[1.0, 0.0, 0.0]]
    """
    return (masses / masses.sum() @ positions)[..., None, :]


def kinetic_energy(momenta: NDArray[np.floating], masses: NDArray[np.floating]) -> NDArray:
    """Return the kinetic energy release (...,), hartree, of momenta (..., N, 3), hbar / bohr.

    Example:
        >>> float(kinetic_energy(np.array([[3.0, 0, 0], [-3, 0, 0]]), np.array([1.0, 1])))
        9.0
    """
    return (momenta**2 / (2.0 * masses[:, None])).sum(axis=(-2, -1))


def potential_energy(positions: NDArray[np.floating], charges: NDArray[np.floating]) -> NDArray:
    """Return the Coulomb energy (...,), hartree, of positions (..., N, 3), bohr.

    Example:
        >>> float(potential_energy(np.array([[0.0, 0, 0], [2, 0, 0]]), np.array([1.0, 1])))
        0.5
    """
    first, second = np.triu_indices(len(charges), 1)
    gap = np.linalg.norm(positions[..., first, :] - positions[..., second, :], axis=-1)
    return (charges[first] * charges[second] / gap).sum(axis=-1)
