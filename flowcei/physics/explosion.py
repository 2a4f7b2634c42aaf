"""The forward model, from point charges to momenta at infinity; derived in docs/simulator.md."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowcei.physics.build_up import BuildUp
from flowcei.physics.forward import Start, check_followed
from flowcei.physics.growth import growth_of
from flowcei.physics.nystrom import RKN64, RKN86, Tableau, tail
from flowcei.physics.threads import CHUNK, in_threads, shares

if TYPE_CHECKING:
    from flowcei.physics.forward import Floats, ForwardModel, Reals, Status
    from flowcei.physics.growth import ChargeTransfer, Growth

    _System: TypeAlias = tuple[tuple[Floats, ...], float]


@dataclass(frozen=True, eq=False)  # eq=False: hashed by identity, not through 60 fractions at every call
class _Setting:
    """A way to run the integrator."""

    accuracy: float  # mean relative error of the momenta that it stays below
    dtype: type[np.floating[Any]]
    tableau: Tableau
    eta: float
    z1: float
    tail_nodes: int
    fading: float  # build-up times that have passed at z1, at least
    fades: tuple[float, ...] = ()  # of `nystrom.tail`, while charges grow
    pace: float = 0.15  # of steps while charges grow: a step of eta / pace build-up times at the start
    stretch: float = 1.0  # of T^2, by tau / T: slow charges make slow explosions
    lengthening: float = 0.25  # of steps, the most: where charges grow for far longer than T
    apart: float = 1.0  # of the pace, where each ion has a time of its own


# The cheapest that keep the promise with a quarter in hand, of a grid over all four numbers:
# mean error below `accuracy`, 99th percentile below ten times as much, near equilibrium and
# in a ball with 0.5 bohr between ions of 4 bohr for N = 2, 3, 5 and 8 and of 5 bohr for N = 10,
# of masses as uneven as O and H: see `_uneven`. tests/physics/test_explosion.py judges them on other
# geometries. With eta above 1 a step could carry an ion past another without noticing; it
# would save a tenth: longer steps of slow charges stay below it too. Of these T is the least with which
# OCS, CHBrClF and a ball of five keep the promise at tau / T from 0.01 to 30.
SETTINGS = (
    _Setting(1e-4, np.float32, RKN64, 0.9, 0.7, 7, 0.85, stretch=1.4, lengthening=0.1),
    _Setting(3e-5, np.float32, RKN64, 0.9, 0.7, 9, 1.0, (6.0,), stretch=1.4, lengthening=0.1),
    _Setting(1e-5, np.float32, RKN64, 0.7, 0.75, 9, 1.0, (6.0,), stretch=1.3, lengthening=0.4, apart=1.2),
    _Setting(3e-6, np.float32, RKN64, 0.55, 0.82, 9, 1.2, (6.0,), lengthening=0.4, apart=1.2),
    _Setting(1e-6, np.float64, RKN86, 0.75, 0.85, 10, 1.0, (2.0,), lengthening=0.33, apart=0.8),
    _Setting(1e-7, np.float64, RKN86, 0.6, 0.93, 9, 2.8, (5.0,), apart=0.8),
    _Setting(3e-8, np.float64, RKN86, 0.5, 0.93, 9, 3.6, (5.5,), apart=0.9),
    _Setting(1e-8, np.float64, RKN86, 0.45, 0.94, 9, 4.2, (5.5,)),
    _Setting(1e-9, np.float64, RKN86, 0.3, 0.97, 9, 6.0, (6.0, 9.0), apart=1.2),
    _Setting(1e-10, np.float64, RKN86, 0.15, 0.99, 12, 18.0, (18.0, 27.0), lengthening=0.0),
)

BEST_ACCURACY = SETTINGS[-1].accuracy  # the smallest relative error that may be asked for

_UNEVEN = 16.5  # heaviest mass over the lightest, above which settings are `_uneven`: H beside F or heavier
_LEAST_DERIVATIVES = 1_000  # over N^2: explosions with derivatives that are worth a thread


def asymptotic_momenta(
    positions: ArrayLike,
    masses: ArrayLike,
    charges: ArrayLike,
    *,
    initial_momenta: ArrayLike | None = None,
    build_up: str | ArrayLike | BuildUp | None = None,
    forward: ForwardModel | None = None,
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
        build_up: How long the charges take to appear, q(t) = Q (1 - exp(-t / tau)): a `BuildUp`, its
            text, ``"10fs"``, or numbers in fs: one, one for each event (B,), or also for each ion
            (B, N). At once where None.
        forward: Instead of Coulomb's law and `build_up` another forward model, such as a `PairPotential`.
        accuracy: Mean relative error of the momenta that is asked for, 1e-10 or more; one
            event in a hundred may be ten times worse. From 3e-6 up the calculation runs in
            single precision. OCS costs 0.1 microseconds of one core at 1e-4, 0.3 at 1e-6, 0.6
            at 1e-9 (Zen 5; `bin/benchmark simulator`), and cost grows like N^2.
        threads: Threads to use; all the process may run on by default. The result
            does not depend on it.

    Returns:
        Momenta, the shape of `positions`, hbar / bohr; float32 where `positions` are,
        else float64. In the frame of the centre of mass they sum to zero and carry exactly
        the energy at the start; less of it where charges build up.

    Raises:
        ValueError: Naming the first offending row, for positions or momenta that are not
            finite, build-up times that are negative, coincident ions, an explosion too violent
            for the precision; and for charges that are zero or of both signs, masses that are
            not positive, N < 2 or shapes that do not match.

    Example:
        Two protons, one bohr apart, share their potential energy of one hartree:

        >>> p = asymptotic_momenta([[0, 0, 0], [1, 0, 0]], [1836.15, 1836.15], [1, 1])
        >>> p.round(3).tolist()
        [[-42.85, 0.0, 0.0], [42.85, 0.0, 0.0]]
    """
    start = Start(positions, masses, charges, initial_momenta)
    momenta, _, status = chosen(forward, build_up).follow(start, accuracy, threads)
    check_followed(status)
    return momenta.reshape(np.shape(positions))


@dataclass(frozen=True, eq=False)
class Coulomb:
    """The forward model of point charges, which may appear slowly (see `asymptotic_momenta`), or move."""

    build_up: str | ArrayLike | BuildUp | None = None
    transfer: ChargeTransfer | None = None

    @property
    def name(self) -> str:
        """`PLAIN`, or with the times."""
        if isinstance(self.build_up, np.ndarray):
            return f"{PLAIN}, charges that build up in a time of each event"
        growth = None if self.build_up is None else BuildUp.parse(self.build_up)
        slow = "" if growth is None or growth.is_zero else f", charges that build up in {growth}"
        return f"{PLAIN}{slow}" if self.transfer is None else f"{PLAIN}{slow}, {self.transfer}"

    def follow(
        self, start: Start, accuracy: float, threads: int | None = None, *, derivatives: bool = False
    ) -> tuple[Reals, Floats, Status]:
        """As of `ForwardModel`."""
        from flowcei.physics._kernel import LOST

        setting, finest = setting_for(accuracy), SETTINGS[-1]
        if self.transfer is not None:
            setting, finest = _careful(setting), _careful(finest)
        x = as_events("positions", start.positions)
        system = system_of(start.masses, start.charges, x.shape[1])
        motion, drift = moving_start(x, start.initial_momenta, system[0][0].reshape(-1, 3))
        growth = growth_of(self.build_up, self.transfer, len(x), *start.ions)
        each = growth is not None and self.transfer is None and growth[0].shape[1] > 1
        setting = _of_ions(setting, np.asarray(start.masses), growing=growth is not None, apart=each)
        momenta, jacobian, status = _run(x, motion, system, growth, setting, threads, derivatives=derivatives)
        # One geometry in a million comes so close to a collision that a coarse setting loses it. It is
        # followed again, alone, by the finest: a long training must not end for it.
        lost = np.flatnonzero(status == LOST)
        if len(lost) and setting is not finest:
            moving = motion[lost] if len(motion) else motion
            growing = growth and (growth[0][lost], growth[1])
            again = _run(x[lost], moving, system, growing, finest, threads, derivatives=derivatives)
            momenta[lost], status[lost] = again[0], again[2]
            if derivatives:
                jacobian[lost] = again[1]
        if drift is not None:
            momenta += drift
        return momenta, jacobian, status


PLAIN = "Coulomb"
COULOMB = Coulomb()


def forward_of(forward: ForwardModel, rows: slice | NDArray[np.intp]) -> ForwardModel:
    """That of some of the events, where each may have a build-up time of its own."""
    if isinstance(forward, Coulomb) and isinstance(forward.build_up, np.ndarray):
        return with_times(forward, forward.build_up[rows])
    return forward


def with_times(forward: ForwardModel, times: Floats) -> ForwardModel:
    """The same of charges that build up in a time of each event, (B,), fs."""
    return replace(forward, build_up=times) if isinstance(forward, Coulomb) else Coulomb(times)


def chosen(forward: ForwardModel | None, build_up: str | ArrayLike | BuildUp | None) -> ForwardModel:
    """The one that is stated; ValueError for two."""
    if forward is None:
        return Coulomb(build_up)
    if build_up is not None:
        raise ValueError(f"{forward.name} has no build-up of charges: state it, or a forward model")
    return forward


def followed_momenta(
    positions: Reals,
    masses: Reals,
    charges: Reals,
    *,
    forward: ForwardModel = COULOMB,
    initial_momenta: Floats | None = None,
    accuracy: float = 1e-6,
    threads: int | None = None,
) -> Reals:
    """`asymptotic_momenta` (B, N, 3), NaN where it would refuse: trials of a search may collide."""
    start = Start(positions, masses, charges, initial_momenta)
    momenta, _, status = forward.follow(start, accuracy, threads)
    momenta[status != 0] = np.nan
    return momenta


def _run(
    x: Reals,
    motion: Reals,
    system: _System,
    growth: Growth | None,
    setting: _Setting,
    threads: int | None,
    *,
    derivatives: bool,
) -> tuple[Reals, Floats, Status]:
    # Imported here: numba takes half a second that a command which simulates nothing saves.
    from flowcei.physics._kernel import explode

    count, n = x.shape[:2]
    momenta, status = np.empty_like(x), np.zeros(count, np.uint8)
    jacobian = np.empty((count if derivatives else 0, 3 * n, 3 * n))
    directions = 3 * n - 6 + (growth is not None)  # scaling changes how long a build-up is
    sizes = (0,) * n, (0,) * len(setting.tableau.c), (0,) * (directions if derivatives else 0)
    method = _method(setting, growing=growth is not None)
    tables = tuple(table.astype(setting.dtype) for table in system[0]), method, system[1]
    growing = growth and _growing(*growth, setting)

    def work(rows: slice) -> None:
        slope = jacobian[rows] if derivatives else None
        times = growth and growth[0][rows]
        # Always in double precision, and to be written: another type is another kernel, seconds to compile.
        start, moving = (np.require(table[rows], np.float64, "W") for table in (x, motion))
        out = momenta[rows] if momenta.dtype == start.dtype else np.empty_like(start)
        flat = start.reshape(-1), out.reshape(-1)  # faster there with one index
        explode(flat[0], moving, times, *sizes, *tables, growing, flat[1], slope, status[rows])
        if out.base is not momenta:
            with np.errstate(over="ignore", invalid="ignore"):  # of events that status tells of
                momenta[rows] = out

    least = (_LEAST_DERIVATIVES if derivatives else CHUNK) // n**2
    in_threads(work, shares(count, least, threads), threads)
    return momenta, jacobian, status


def _growing(times: Floats, moved: Floats, setting: _Setting) -> tuple[object, ...]:
    """Growth as the kernel wants it (see `_growth`)."""
    count = times.shape[1]
    builds = count - bool(len(moved))
    return (0,) * count, (0,) * builds, moved.astype(setting.dtype), *_pace(setting)


@cache
def _pace(setting: _Setting) -> tuple[object, ...]:
    """The pace of a setting, its least T in longest build-up times, the shortest time and the nodes in T."""
    z1, dtype = setting.z1, setting.dtype
    least = setting.fading / (np.arctanh(z1) + z1 / (1.0 - z1**2))
    nodes = tail(z1, setting.tail_nodes)[0][:-1]
    elapsed = np.arctanh(nodes) + nodes / (1.0 - nodes**2)
    shortest = 1e-7 if dtype == np.float32 else 1e-12
    own = dtype(setting.stretch), dtype(setting.lengthening)
    return dtype(setting.pace), dtype(least), dtype(shortest), elapsed.astype(dtype), *own


@cache
def _uneven(setting: _Setting) -> _Setting:
    """With shorter steps and a later tail, for ions of uneven masses: the light ones are soon gone."""
    # By trial, of CH3X and C6H5X with X = Cl, Br, I and At, 2-iodopyridine, CHBrClF and balls of such masses.
    # Without, 23 times the mean error promised at 1e-4 (iodobenzene), 92 times at 3e-5, 3 times at 1e-8. One
    # light ion alone needs it only from 1e-7 on, beside four or more others only at 1e-9 (HOX, HCOX, CHX3).
    return replace(setting, eta=0.85 * setting.eta, z1=max(setting.z1, 0.88))


def _of_ions(setting: _Setting, masses: Floats, *, growing: bool, apart: bool) -> _Setting:
    """For ions of these masses, whose charges grow or do not, or each at a time of its own."""
    light, alone = int((masses * _UNEVEN < masses.max()).sum()), 1e-8 if len(masses) > 4 else 1e-6
    if light > 1 or (light and (growing or setting.accuracy < alone)):
        setting = _uneven(setting)
    return _apart(setting) if apart else setting


@cache
def _apart(setting: _Setting) -> _Setting:
    """For a build-up time of each ion: the steps of the fastest are shorter, those of slow ones longer."""
    # By trial, as `SETTINGS`; without, twice the mean error promised at 3e-6 and 1e-9.
    stretch = 1.0 if setting.accuracy == SETTINGS[0].accuracy else setting.stretch
    longer = 0.5 if setting.accuracy > 1e-9 else setting.lengthening
    return replace(setting, pace=setting.apart * setting.pace, stretch=stretch, lengthening=longer)


@cache
def _careful(setting: _Setting) -> _Setting:
    """With shorter steps, for charge that moves: forces begin at once, and change from the first moment."""
    # By trial, as `SETTINGS`, for times from 0.01 to 10 T.
    few = setting.dtype == np.float64 and setting.accuracy > 1e-9  # these have the most in hand
    eta, pace, longer = (1.0, 1.5, -0.4) if few else (0.85, 2.0, -0.55)
    return replace(setting, eta=eta * setting.eta, pace=pace * setting.pace, stretch=1.0, lengthening=longer)


def setting_for(accuracy: float) -> _Setting:
    """The cheapest setting that keeps a promise of accuracy."""
    if not accuracy >= BEST_ACCURACY:
        raise ValueError(f"accuracy is {accuracy}; it must be {BEST_ACCURACY:g} or more")
    return next(s for s in SETTINGS if s.accuracy <= accuracy)


@cache
def _method(setting: _Setting, *, growing: bool) -> tuple[object, ...]:
    """A setting as the kernel wants it: a, c, bp, eta, z1, nodes, weights."""
    dtype: Any = setting.dtype
    c, a, bp = setting.tableau.arrays(dtype)
    nodes, weights = tail(setting.z1, setting.tail_nodes, setting.fades if growing else ())
    return a, c, bp, dtype(setting.eta), dtype(setting.z1), nodes.astype(dtype), weights.astype(dtype)


def system_of(masses: ArrayLike, charges: ArrayLike, n: int) -> _System:
    """The tables of `_kernel.explode` for n ions, and sqrt(sum of masses) times the largest charge."""
    if n < 2:
        raise ValueError(f"positions hold {n} ion; a Coulomb explosion needs two or more")
    m, q = _per_ion("masses", masses, n), _per_ion("charges", charges, n)
    if not (m > 0).all():
        raise ValueError(f"masses must be positive, in electron masses; got {m.tolist()}")
    if not ((q > 0).all() or (q < 0).all()):
        raise ValueError(f"charges must be non-zero and of one sign, or nothing explodes; got {q.tolist()}")
    return _tables(tuple(m.tolist()), tuple(q.tolist()))


@lru_cache(64)  # half of the time of a small batch
def _tables(masses: tuple[float, ...], charges: tuple[float, ...]) -> _System:
    """`system_of` of numbers that are right."""
    m, q = np.array(masses), np.array(charges)
    share, largest = m / m.sum(), np.abs(q).max()
    i, j = np.triu_indices(len(m), 1)
    strengths = q[i] * q[j] / largest**2
    curvatures = strengths * (1.0 / share[i] + 1.0 / share[j])
    coordinate = np.repeat(share, 3)
    return (coordinate, 1.0 / coordinate, strengths, curvatures), float(np.sqrt(m.sum()) * largest)


def moving_start(
    x: Reals, initial_momenta: ArrayLike | None, shares: Floats
) -> tuple[Reals, NDArray[np.floating] | None]:
    """Momenta at the start without those of the centre of mass, (B, N, 3) or (0, N, 3), and the latter.

    shares: of the mass, (N, 3) or (N, 1).
    """
    if initial_momenta is None:
        return np.empty((0, *x.shape[1:])), None
    motion = as_events("initial momenta", initial_momenta)
    if motion.shape != x.shape:
        raise ValueError(f"initial momenta have shape {np.shape(initial_momenta)}; expected {x.shape}")
    with np.errstate(invalid="ignore", over="ignore"):  # rows that are not finite are named later
        drift = shares * motion.sum(axis=1, keepdims=True, dtype=np.float64)
        return motion - drift, drift


def as_events(name: str, values: ArrayLike) -> Reals:
    """Positions or momenta as contiguous (B, N, 3), float32 as it is, else float64."""
    array = np.asarray(values)
    array = np.ascontiguousarray(array, dtype=np.float32 if array.dtype == np.float32 else np.float64)
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(f"{name} have shape {np.shape(values)}; expected (B, N, 3) or (N, 3)")
    return array


def _per_ion(name: str, values: ArrayLike, n: int) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (n,):
        raise ValueError(f"{name} have shape {array.shape}; expected ({n},), one per ion")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite; got {array.tolist()}")
    return array


def centre_of_mass(positions: Reals, masses: Reals) -> NDArray:
    """Centre of mass (..., 1, 3) of positions (..., N, 3) with masses (N,)."""
    return np.einsum("i,...ij->...j", masses / masses.sum(), positions)[..., None, :]


def kinetic_energy(momenta: Reals, masses: Reals) -> NDArray:
    """Kinetic energy release (...,), hartree, of momenta (..., N, 3), hbar / bohr."""
    return (momenta**2 / (2.0 * masses[:, None])).sum(axis=(-2, -1))


def potential_energy(positions: Reals, charges: Reals) -> NDArray:
    """Coulomb energy (...,), hartree, of positions (..., N, 3), bohr."""
    i, j = np.triu_indices(len(charges), 1)
    return (
        charges[i] * charges[j] / np.linalg.norm(positions[..., i, :] - positions[..., j, :], axis=-1)
    ).sum(-1)
