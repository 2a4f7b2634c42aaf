"""A normal approximation of each event's posterior: charts whitened by it leave a network only the rest.

Positions y in the chart's own units, where KER = U0 = 1, minimise

    sum_k |p_k(y) - P_k|^2 / s_k^2 + |W (z - mean)|^2,    z = y / KER, turned onto the prior's mean,

with the noise s_k of lab axis k, and p of charges that build up where the event states a time,

by damped Gauss-Newton steps (K. Levenberg 1944, D. W. Marquardt 1963) on the exact simulator. Where they end
depends on the event alone: densities stay exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from flowcei.frame._approaches import approach, lengthen, turn_back
from flowcei.physics.build_up import LONGEST
from flowcei.physics.explosion import Coulomb, asymptotic_momenta
from flowcei.physics.forward import Start
from flowcei.physics.priors.orders import nearest_rotations

if TYPE_CHECKING:
    from flowcei.molecules.molecule import Molecule
    from flowcei.physics.forward import Reals, Status

Floats: TypeAlias = NDArray[np.float64]
Rows: TypeAlias = tuple[tuple[float, ...], ...]

LIKE_MOMENTA = -0.5
"""Power of the lengths of bonds in charts that are nearly linear in momenta."""

_ACCURACY = 1e-5  # of simulated momenta, far below any noise; 1e-6 takes half as long again for the same flow
_CHUNK = 4_000  # events at a time: the last of them share their rounds
_STEPS = 40  # of a search, at the most
_DAMPING = 1e-3  # of the first step
_STARTS = 4  # searches of an event, at the most
_ASTRAY = 5.0  # deviations of the sum of squares at its minimum, beyond which another start is tried
_HOPELESS = 1e12  # sum of squares of what cannot be searched
_ROUNDING = 1e-12  # of the mean curvature
_KEPT = 1e-4  # of the largest deviation of a prior: directions with less are turned away, or were never there


@dataclass(frozen=True)
class Whitening:
    """What the search needs, in plain numbers."""

    charges: tuple[float, ...]  # (N,)
    mean: Rows  # of the prior, (N, 3), bohr, from its centroid
    rest: Rows  # momenta with which the mean explodes, (N, 3), hbar / bohr
    root: Rows  # W (K, 3N), 1 / bohr: W (z - mean) of the prior's geometries z has the covariance 1
    # Charts hold bond vectors whose length r is r^power. Two ions leave each other along their bond with
    # p ~ r^(-1/2): charts of that power are nearly linear in momenta, and posteriors nearly normal.
    power: float = 1.0

    def __post_init__(self) -> None:
        """ValueError for tables that do not fit the ions."""
        n = len(self.charges)
        shapes = [(self.mean, n, 3), (self.rest, n, 3), (self.root, len(self.root), 3 * n)]
        fits = all(
            len(table) == rows and {len(row) for row in table} == {columns} for table, rows, columns in shapes
        )
        size = (
            max((abs(v) for table, *_ in shapes for row in table for v in row), default=np.inf)
            if fits
            else np.inf
        )
        if not fits or not 0 < len(self.root) <= 3 * n or not size < 1e9 or min(self.charges) <= 0:
            raise ValueError(f"a whitening that does not fit {n} ions")
        if not 0.1 <= abs(self.power) <= 2.0:
            raise ValueError(f"a whitening of the power {self.power:g}; it must be 0.1 to 2, or minus that")

    @classmethod
    def of(cls, molecule: Molecule, geometries: Floats, power: float = LIKE_MOMENTA) -> Whitening:
        """From geometries (B, N, 3) of a prior near the equilibrium of a molecule, bohr."""
        mean = molecule.equilibrium - molecule.equilibrium.mean(axis=0)
        x = geometries - geometries.mean(axis=1, keepdims=True)
        for _ in range(2):  # turned onto the equilibrium, then onto their own mean
            x = x @ nearest_rotations(np.swapaxes(x, 1, 2) @ mean)
            mean = x.mean(axis=0)
        size, axes = np.linalg.eigh(np.cov(x.reshape(len(x), -1).T))
        kept = np.sqrt(np.maximum(size, 0.0)) > _KEPT * np.sqrt(size[-1])
        root = (axes[:, kept] / np.sqrt(size[kept])).T
        masses, charges = molecule.masses, molecule.charges
        rest = np.asarray(asymptotic_momenta(mean, masses, charges, accuracy=1e-9), np.float64)
        return cls(tuple(charges.tolist()), _rows(mean), _rows(rest), _rows(root), power)

    def approximate(
        self,
        momenta: Floats,
        sigma: Floats,
        axes: Floats,
        ker: Floats,
        times: Floats,
        bodies: Bodies,
    ) -> tuple[Floats, Floats, Floats]:
        """Centre (B, D) of bonds with r^power, lower root (B, D, D) of their precision, sum of squares (B,).

        momenta: (B, N, 3) over sqrt(KER), centred; sigma: (B, 3) over sqrt(KER), of lab axes, the columns of
        axes (B, 3, 3); ker: (B,), hartree; times: of the build-up, (B,), fs, times KER^(3/2).
        """
        size = 3 * len(self.charges) - 3
        centre, root = np.zeros((len(ker), size)), np.tile(np.eye(size), (len(ker), 1, 1))
        misfit = np.full(len(ker), _HOPELESS)
        with np.errstate(over="ignore", invalid="ignore"):
            known = ((sigma > 0) & np.isfinite(sigma * ker[:, None])).all(axis=1)
            sound = np.isfinite(momenta).all(axis=(1, 2)) & known & (ker > 0)
        rows = np.flatnonzero(sound)
        for first in range(0, len(rows), _CHUNK):
            chunk = rows[first : first + _CHUNK]
            growth = np.clip(np.nan_to_num(times[chunk]), 0.0, LONGEST)
            event = momenta[chunk], sigma[chunk], axes[chunk], ker[chunk], growth
            with np.errstate(all="ignore"):  # a trial may be far beyond what can be followed
                centre[chunk], root[chunk], misfit[chunk] = _Search(self, bodies).best(*event)
        return centre, root, misfit


@dataclass(frozen=True)
class Bodies:
    """Masses (N,), bonds and assembly (N, N - 1) of a frame, and whether it folds mirror images."""

    masses: Floats
    tree: tuple[tuple[int, int], ...]
    assembly: Floats
    mirrored: bool


@dataclass(frozen=True)
class _Event:
    """Events that are looked for, as for `Whitening.approximate`, but for units and axes of their own.

    turn (B, 3, 3): of the prior's mean to their momenta. momenta (B, N, 3), hbar / bohr, turned back, as is
    what makes residuals of axes of unit noise, (B, 3, 3). times: fs.
    """

    turn: Floats
    momenta: Floats
    unit: Floats
    times: Floats

    def __getitem__(self, rows: NDArray[np.int64]) -> _Event:
        return _Event(*(table[rows] for table in vars(self).values()))


@dataclass(frozen=True)
class _State:
    """Where searches are."""

    bonds: Floats  # (B, N - 1, 3), turned as those of the mean, bohr
    square: Floats  # (B,)
    slope: Floats  # half the gradient, (B, D)
    curvature: Floats  # half the matrix of second derivatives, without those of residuals, (B, D, D)
    damping: Floats  # (B,)

    @classmethod
    def of(cls, count: int, ions: int) -> _State:
        """Of searches that are nowhere yet."""
        size = 3 * ions - 3
        tables = (count, ions - 1, 3), (count,), (count, size), (count, size, size), (count,)
        bonds, square, slope, curvature, damping = map(np.zeros, tables)
        return cls(bonds, square + np.inf, slope, curvature, damping + _DAMPING)

    def put(self, rows: NDArray[np.int64], other: _State) -> None:
        """Take over what is better of others (K), which belong to rows (K,)."""
        chosen = other.square < self.square[rows]
        for mine, its in zip(vars(self).values(), vars(other).values(), strict=True):
            mine[rows[chosen]] = its[chosen]


class _Search:
    """Searches with one whitening."""

    def __init__(self, whitening: Whitening, bodies: Bodies) -> None:
        self._bodies, self._charges, self._power = bodies, np.array(whitening.charges), whitening.power
        self._mean, self._rest = np.array(whitening.mean), np.array(whitening.rest)
        n = len(self._mean)
        self._root = np.array(whitening.root).reshape(-1, n, 3)
        self._limit = 3 * n - 6 + _ASTRAY * np.sqrt(2.0 * max(3 * n - 6, 1))
        assembly = bodies.assembly - bodies.assembly.mean(axis=0)  # from the centroid
        along = np.einsum("kni,nd->kdi", self._root, assembly)
        blind = bodies.masses / np.linalg.norm(bodies.masses)  # a drift moves momenta like this
        self._prior = assembly, self._mean, self._root, along, blind

    def best(
        self, momenta: Floats, sigma: Floats, axes: Floats, ker: Floats, times: Floats
    ) -> tuple[Floats, Floats, Floats]:
        """Centres, roots and sums of squares of the best of some searches; see `Whitening.approximate`."""
        turn, unit, turned = np.empty_like(axes), np.empty_like(axes), np.empty_like(momenta)
        weighted = self._rest / self._bodies.masses[:, None]
        turn_back(momenta, sigma, axes, ker, weighted, self._bodies.mirrored, turn, turned, unit)
        with np.errstate(divide="ignore", invalid="ignore"):  # of absurd events, without an energy
            told = np.nan_to_num(times / ker**1.5, nan=0.0, posinf=LONGEST)
        event = _Event(turn, turned, unit, np.minimum(told, LONGEST))
        state = self._from(self._mean, event)
        flat = self._root.reshape(len(self._root), -1)
        drawn = (
            np.random.default_rng(0).standard_normal((_STARTS - 1, len(flat))) @ np.linalg.pinv(flat).T
        )  # of the prior
        for shift in drawn.reshape(-1, *self._mean.shape):
            rows = np.flatnonzero(~(state.square < self._limit))
            if not len(rows):
                break
            state.put(rows, self._from(self._mean + shift, event[rows]))
        centre, curvature = np.empty_like(state.slope), np.empty_like(state.curvature)
        lengthen(state.bonds, state.curvature, event.turn, ker, self._power, centre, curvature)
        sound = np.isfinite(curvature).all(axis=(1, 2)) & np.isfinite(state.square)
        square = np.where(sound, state.square, _HOPELESS)
        # Where no geometry was found that explains the event, the truth is some way off.
        curvature = curvature / np.maximum(square / self._limit, 1.0)[:, None, None]
        centre[~sound], curvature[~sound] = 0.0, np.eye(centre.shape[1])
        return centre, np.asarray(np.linalg.cholesky(_lifted(curvature)), np.float64), square

    def _from(self, geometry: Floats, event: _Event) -> _State:
        """Search from a geometry (N, 3), turned as momenta are from those of the mean."""
        start, end = (list(side) for side in zip(*self._bodies.tree, strict=True))
        count = len(event.momenta)
        trial = np.tile(geometry[end] - geometry[start], (count, 1, 1))
        state, rows = _State.of(count, len(geometry)), np.arange(count)
        times, known = event.times, (event.momenta, event.unit)
        # Of charges that are there at once all events begin with the same momenta and derivatives.
        simulated = self._simulated(trial if times.any() else trial[:1], times if times.any() else times[:1])
        for _ in range(_STEPS):
            tables = tuple(vars(state).values())
            count = approach(
                rows[:count], trial, simulated, known, self._prior, self._bodies.mirrored, tables
            )
            if not count:
                break
            simulated = self._simulated(trial[:count], times[rows[:count]])
        return state

    def _simulated(self, bonds: Floats, times: Floats) -> tuple[Reals, Floats, Status]:
        """Momenta (B, N, 3) of bonds (B, N - 1, 3), derivatives by positions, and what is lost (B,)."""
        x = np.ascontiguousarray(np.einsum("nd,bdj->bnj", self._prior[0], np.nan_to_num(bonds)))
        start = Start(x, self._bodies.masses, self._charges)
        return Coulomb(times).follow(start, _ACCURACY, derivatives=True)


def _lifted(curvature: Floats) -> Floats:
    """Matrices (B, D, D) that rounding cannot make singular."""
    mean = np.einsum("bdd->b", curvature)[:, None, None] / curvature.shape[1]
    return np.asarray(
        curvature + np.maximum(_ROUNDING * mean, np.finfo(float).tiny) * np.eye(curvature.shape[1])
    )


def _rows(table: Floats) -> Rows:
    return tuple(tuple(float(v) for v in row) for row in table)
