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
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from flowcei.physics.nystrom import RKN64, RKN86, Tableau, tail

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from numpy.typing import ArrayLike, NDArray

_Task = TypeVar("_Task")


@dataclass(frozen=True)
class _Setting:
    """A way to run the integrator, and the mean relative error it stays below."""

    accuracy: float
    dtype: type[np.floating[Any]]
    tableau: Tableau
    eta: float
    z1: float
    tail_nodes: int


# The cheapest that keep the promise with a quarter in hand, of a grid over all four numbers:
# mean error below `accuracy`, 99th percentile below ten times as much, near equilibrium and
# in a ball with 0.5 bohr between ions, which is harder than any bound molecule, of 4 bohr for
# N = 2, 3, 5 and 8 and of 5 bohr for N = 10. tests/physics/test_explosion.py judges them on other
# geometries. With eta above 1 a step could carry an ion past another without noticing; it
# would save a tenth.
SETTINGS = (
    _Setting(1e-4, np.float32, RKN64, 0.9, 0.7, 7),
    _Setting(3e-5, np.float32, RKN64, 0.9, 0.7, 9),
    _Setting(1e-5, np.float32, RKN64, 0.7, 0.75, 9),
    _Setting(3e-6, np.float32, RKN64, 0.55, 0.82, 9),
    _Setting(1e-6, np.float64, RKN86, 0.75, 0.85, 10),
    _Setting(1e-7, np.float64, RKN86, 0.6, 0.93, 9),
    _Setting(3e-8, np.float64, RKN86, 0.5, 0.93, 9),
    _Setting(1e-8, np.float64, RKN86, 0.45, 0.94, 9),
    _Setting(1e-9, np.float64, RKN86, 0.3, 0.97, 9),
    _Setting(1e-10, np.float64, RKN86, 0.15, 0.99, 12),
)

BEST_ACCURACY = SETTINGS[-1].accuracy
"""The smallest relative error that may be asked for."""

_CHUNK = 16_384  # explosions a thread takes at a time, at the most


def asymptotic_momenta(
    positions: ArrayLike,
    masses: ArrayLike,
    charges: ArrayLike,
    *,
    initial_momenta: ArrayLike | None = None,
    accuracy: float = 1e-6,
    threads: int | None = None,
) -> NDArray[np.floating]:
    """Return the momenta of ions at infinite time after a Coulomb explosion.

    Args:
        positions: Where the ions start, (B, N, 3) or (N, 3), bohr.
        masses: (N,), electron masses.
        charges: (N,), elementary charges, all of one sign.
        initial_momenta: Thermal or zero-point motion at the start, the shape of `positions`,
            hbar / bohr; at rest where None.
        accuracy: Mean relative error of the momenta that is asked for, 1e-10 or more; one
            event in a hundred may be ten times worse. From 3e-6 up the calculation runs in
            single precision. OCS costs 0.1 microseconds of one core at 1e-4, 0.3 at 1e-6, 0.6
            at 1e-9 (Zen 5; `bin/benchmark simulator`), and cost grows like N^2.
        threads: Threads to use; all the process may run on by default. The result
            does not depend on it.

    Returns:
        Momenta, the shape of `positions`, hbar / bohr; float32 where `positions` are,
        else float64. In the frame of the centre of mass they sum to zero and carry exactly
        the energy at the start.

    Raises:
        ValueError: Naming the first offending row, for positions or momenta that are not
            finite, coincident ions, an explosion too violent for the precision; and for
            charges that are zero or of both signs, masses that are not positive, N < 2 or
            shapes that do not match.

    Example:
        Two protons, one bohr apart, share their potential energy of one hartree:

        >>> p = asymptotic_momenta([[0, 0, 0], [1, 0, 0]], [1836.15, 1836.15], [1, 1])
        >>> p.round(3).tolist()
        [[-42.85, 0.0, 0.0], [42.85, 0.0, 0.0]]
    """
    setting = setting_for(accuracy)
    geometry = as_events("positions", positions)
    motion = geometry[:0] if initial_momenta is None else as_events("initial momenta", initial_momenta)
    if initial_momenta is not None and motion.shape != geometry.shape:
        msg = f"initial momenta have shape {np.shape(initial_momenta)}; expected {np.shape(positions)}"
        raise ValueError(msg)
    system = System.of(masses, charges, geometry.shape[1])
    momenta, status = _follow(geometry, motion, system, setting, threads)
    refuse_lost(status)
    return momenta.reshape(np.shape(positions))


def followed_momenta(
    positions: NDArray[np.floating],
    masses: ArrayLike,
    charges: ArrayLike,
    *,
    accuracy: float = 1e-6,
    threads: int | None = None,
) -> NDArray[np.floating]:
    """Return `asymptotic_momenta` (B, N, 3) of ions at rest, NaN for those that it would refuse.

    For searches, whose trials may collide: one of them must not end all the others.

    Args:
        positions: (B, N, 3), bohr.
        masses: (N,), electron masses.
        charges: (N,), elementary charges.
        accuracy: As of `asymptotic_momenta`.
        threads: As of `asymptotic_momenta`.

    Raises:
        ValueError: For masses, charges or shapes that `asymptotic_momenta` refuses.

    Example:
        >>> x = np.array([[[0.0, 0, 0], [1, 0, 0]], [[0.0, 0, 0], [0, 0, 0]]])
        >>> bool(np.isnan(followed_momenta(x, [1836.15, 1836.15], [1, 1])[1]).all())
        True
    """
    setting = setting_for(accuracy)
    geometry = as_events("positions", positions)
    system = System.of(masses, charges, geometry.shape[1])
    momenta, status = _follow(geometry, geometry[:0], system, setting, threads)
    momenta[status != 0] = np.nan
    return momenta


def setting_for(accuracy: float) -> _Setting:
    """Return the cheapest setting that keeps a promise.

    Raises:
        ValueError: For an accuracy below `BEST_ACCURACY`.
    """
    if not accuracy >= BEST_ACCURACY:
        raise ValueError(f"accuracy is {accuracy}; it must be {BEST_ACCURACY:g} or more")
    return next(s for s in SETTINGS if s.accuracy <= accuracy)


@lru_cache(maxsize=16)
def method_of(setting: _Setting) -> tuple[object, ...]:
    """Return a setting as the kernels want it: a, c, bp, eta, z1, nodes, weights."""
    dtype: Any = setting.dtype
    c, a, bp = setting.tableau.arrays(dtype)
    end = tail(setting.z1, setting.tail_nodes)
    nodes, weights = end.nodes.astype(dtype), end.weights.astype(dtype)
    return a, c, bp, dtype(setting.eta), dtype(setting.z1), nodes, weights


@dataclass(frozen=True)
class System:
    """The ions of a molecule in the units of the kernel: see `flowcei.physics._kernel`.

    Attributes:
        masses: Over their sum, (N,).
        unit: Momentum in hbar / bohr of a molecule with an rms radius of 1 bohr.
        strengths: Of each pair, the product of the charges over the square of the largest.
        curvatures: Of each pair, its strength over its reduced mass.
    """

    masses: NDArray[np.float64]
    unit: float
    strengths: NDArray[np.float64]
    curvatures: NDArray[np.float64]

    @classmethod
    def of(cls, masses: ArrayLike, charges: ArrayLike, n: int) -> System:
        """Check masses (N,), electron masses, and charges (N,), elementary charges.

        Raises:
            ValueError: For N < 2, masses that are not positive, charges that are zero or of
                both signs, or shapes that do not match.
        """
        if n < 2:
            raise ValueError(f"positions hold {n} ion; a Coulomb explosion needs two or more")
        m = _per_ion("masses", masses, n)
        q = _per_ion("charges", charges, n)
        if not (m > 0).all():
            raise ValueError(f"masses must be positive, in electron masses; got {m.tolist()}")
        if not ((q > 0).all() or (q < 0).all()):
            msg = f"charges must be non-zero and of one sign, or nothing explodes; got {q.tolist()}"
            raise ValueError(msg)
        share, largest = m / m.sum(), np.abs(q).max()
        i, j = np.triu_indices(n, 1)
        strengths = q[i] * q[j] / largest**2
        curvatures = strengths * (1.0 / share[i] + 1.0 / share[j])
        return cls(share, float(np.sqrt(m.sum()) * largest), strengths, curvatures)

    def arrays(self, dtype: type[np.floating]) -> tuple[NDArray[np.floating], ...]:
        """Return masses, their reciprocals, strengths and curvatures in one precision."""
        arrays = (self.masses, 1.0 / self.masses, self.strengths, self.curvatures)
        return tuple(array.astype(dtype) for array in arrays)


def _follow(
    geometry: NDArray[np.floating],
    motion: NDArray[np.floating],
    system: System,
    setting: _Setting,
    threads: int | None,
) -> tuple[NDArray[np.floating], NDArray[np.uint8]]:
    """Return momenta (B, N, 3) and status (B,).

    One geometry in a million comes so close to a collision that a coarse setting loses it: it
    is followed again, alone, by the finest. A long training must not end for it.
    """
    from flowcei.physics._kernel import LOST

    momenta, status = np.empty_like(geometry), np.zeros(len(geometry), np.uint8)
    _run(geometry, motion, system, setting, momenta, status, threads)
    lost = np.flatnonzero(status == LOST)
    if len(lost):
        part, again = np.empty_like(geometry[lost]), np.zeros(len(lost), np.uint8)
        start = motion[lost] if len(motion) else motion
        _run(geometry[lost], start, system, SETTINGS[-1], part, again, threads)
        momenta[lost], status[lost] = part, again
    return momenta, status


def _run(
    geometry: NDArray[np.floating],
    motion: NDArray[np.floating],
    system: System,
    setting: _Setting,
    momenta: NDArray[np.floating],
    status: NDArray[np.uint8],
    threads: int | None,
) -> None:
    # Imported here: numba takes half a second that a command which simulates nothing saves.
    from flowcei.physics._kernel import explode

    n = geometry.shape[1]
    flat, out = geometry.reshape(-1, 3 * n), momenta.reshape(-1, 3 * n)
    moving = motion.reshape(-1, 3 * n)
    ladder = (0,) * setting.tableau.stages
    fixed = ((0,) * n, ladder, system.arrays(setting.dtype), method_of(setting), system.masses, system.unit)

    def work(part: slice) -> None:
        explode(flat[part], moving[part], *fixed, out[part], status[part])

    in_threads(work, shares(len(flat), _CHUNK // n**2, threads), threads)


def usable_cores() -> int:
    """Return the number of cores that this process may run on.

    Example:
        >>> usable_cores() >= 1
        True
    """
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def shares(count: int, least: int, threads: int | None) -> list[slice]:
    """Cut `count` rows into parts of at least `least`, the same number for every thread.

    Example:
        >>> shares(100, 40, 2)
        [slice(0, 50, None), slice(50, 100, None)]
    """
    workers = threads or usable_cores()
    rounds = max(min(8, count // (workers * max(1, least))), -(-count // (workers * _CHUNK)), 1)
    parts = workers * rounds if count > least else 1
    size = max(1, -(-count // parts))
    return [slice(first, min(first + size, count)) for first in range(0, count, size)]


def in_threads(work: Callable[[_Task], None], tasks: Sequence[_Task], threads: int | None) -> None:
    """Call `work` for every task, in `threads` threads, or in all the process may run on.

    Threads are Python's, not numba's: a kernel releases the lock, and numba's own pool
    would go on spinning next to torch's.
    """
    workers = min(threads or usable_cores(), len(tasks))
    if workers <= 1:
        for task in tasks:
            work(task)
        return
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, tasks))


def as_events(name: str, values: ArrayLike) -> NDArray[np.floating]:
    """Return positions or momenta as contiguous (B, N, 3), float32 as it is, else float64."""
    array = np.asarray(values)
    array = np.ascontiguousarray(array, dtype=np.float32 if array.dtype == np.float32 else np.float64)
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(f"{name} have shape {np.shape(values)}; expected (B, N, 3) or (N, 3)")
    return array


def _per_ion(name: str, values: ArrayLike, n: int) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (n,):
        raise ValueError(f"{name} have shape {array.shape}; expected ({n},), one per ion")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite; got {array.tolist()}")
    return array


def refuse_lost(status: NDArray[np.uint8]) -> None:
    """Refuse events (B,) that a kernel could not follow.

    Raises:
        ValueError: Naming the first of them and what was wrong.
    """
    if status.any():
        raise ValueError(describe_lost(status))


def describe_lost(status: NDArray[np.uint8]) -> str:
    """Return the first of the events (B,) that a kernel could not follow, and what was wrong with it."""
    from flowcei.physics._kernel import COINCIDENT, LOST, NOT_FINITE

    row = int(np.argmax(status != 0))
    what = {
        NOT_FINITE: "a position or momentum that is not finite",
        COINCIDENT: "coincident ions",
        LOST: "an explosion too violent to be followed; check units",
    }[int(status[row])]
    return f"row {row} of positions has {what} ({int((status == status[row]).sum())} such rows)"


def centre_of_mass(positions: NDArray[np.floating], masses: NDArray[np.floating]) -> NDArray:
    """Return the centre of mass, (..., 1, 3), of positions (..., N, 3) with masses (N,).

    Example:
        >>> centre_of_mass(np.array([[0.0, 0, 0], [3, 0, 0]]), np.array([2.0, 1])).tolist()
        [[1.0, 0.0, 0.0]]
    """
    return np.einsum("i,...ij->...j", masses / masses.sum(), positions)[..., None, :]


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
