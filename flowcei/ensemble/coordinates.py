"""Which internal coordinates a law is of, and the density that the prior gives to them.

A law of coordinates q(x) does not say everything of a geometry x. What it leaves open stays as the prior
has it: pi(x | law) = pi0(x) pi_law(q(x)) / pi0_q(q(x)), where pi0_q is the density of q under the prior. This
is a density in x whatever the coordinates are, with no volume element, since both laws are of the same q: see
docs/decisions/0027-a-law-tilts-the-prior.md.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from flowcei.ensemble.fitting import fitted
from flowcei.errors import UsageError
from flowcei.physics.priors import InternalPrior, NormalModesPrior
from flowcei.posterior.labels import bond_symmetries, label_by_geometry, relabel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowcei.molecules.molecule import Molecule
    from flowcei.physics.priors import GeometryPrior
    from flowcei.physics.priors.distributions import Distribution
    from flowcei.posterior.arrays import Bools, Floats

_STRAIGHT = 175.0  # degrees: an angle that is wider at equilibrium bends about a straight line
_DRAWS = 10_000  # of a prior, to which the density of its coordinates is fitted
_COMPONENTS = 4  # normals of that fit
_INDEPENDENT = 1e-3  # smallest singular value of the derivatives of coordinates that are independent
_ALIKE = 1e-9


@dataclass(frozen=True)
class Coordinate:
    """A number of a geometry: the length or the angle of some atoms, or a normal mode."""

    name: str
    unit: str  # bohr, deg, or sd: standard deviations of the prior
    atoms: tuple[int, ...] = ()
    bend: bool = False  # whether its value is 180 degrees minus the angle


class Law(Protocol):
    """A distribution of K coordinates."""

    def sample(self, n: int, rng: np.random.Generator) -> Floats:
        """Draw n points, (n, K)."""

    def log_prob(self, z: Floats) -> Floats:
        """Log density (B,) at points z (B, K)."""


class Chart(ABC):
    """The coordinates of a law, (..., K), and what the prior says of them."""

    def __init__(self, prior: GeometryPrior, coordinates: Sequence[Coordinate], images: Floats) -> None:
        self.prior, self.coordinates, self.images = prior, tuple(coordinates), images

    @property
    def bends(self) -> Bools:
        """Which coordinates are bends of straight angles, (K,)."""
        return np.array([one.bend for one in self.coordinates])

    def values(self, x: Floats) -> Floats:
        """Coordinates (B, K) of labelled geometries (B, N, 3), bohr."""
        return _values(self.coordinates, x)

    @abstractmethod
    def log_prior(self, z: Floats) -> Floats:
        """Log density (B,) of coordinates z (B, K) under the prior."""

    def drawn(self, n: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Draws (n, N, 3) of the prior, bohr, and their coordinates (n, K)."""
        x = self.prior.sample(n, rng)
        return x, self.values(x)

    @abstractmethod
    def geometries(self, law: Law, n: int, rng: np.random.Generator) -> Floats:
        """Draw n geometries (n, N, 3), bohr, of a law: what it leaves open is as in the prior."""


def chart_of(molecule: Molecule, prior: GeometryPrior, names: Sequence[str] = ()) -> Chart:
    """The chart of some coordinates, all that suit a prior where none are named; UsageError for unknown ones.

    Normal modes where the prior has them, the lengths and angles of its Z-matrix, else bonds and angles of
    the molecule.
    """
    kinds = {InternalPrior: ZMatrixChart, NormalModesPrior: ModesChart}
    return kinds.get(type(prior), FittedChart)(molecule, prior, names)


class Nothing(Chart):
    """No coordinates: for laws of geometries that are priors."""

    def __init__(self, prior: GeometryPrior) -> None:
        super().__init__(prior, (), np.zeros((1, 0, 0)))

    def values(self, x: Floats) -> Floats:
        """Coordinates (B, 0)."""
        return np.empty((len(x), 0))

    def log_prior(self, z: Floats) -> Floats:
        """Log density (B,): 0."""
        return np.zeros(len(z))

    def geometries(self, law: Law, n: int, rng: np.random.Generator) -> Floats:
        """Draw the prior."""
        del law
        return self.prior.sample(n, rng)


class ZMatrixChart(Chart):
    """Lengths and angles of a Z-matrix, which are independent under its prior: their density is exact."""

    def __init__(self, molecule: Molecule, prior: InternalPrior, names: Sequence[str] = ()) -> None:
        rows = {_coordinate(molecule, atoms): law for atoms, law in prior.independent}
        chosen, images = _symmetric(molecule, list(rows), names, [rows[one] for one in rows])
        self._laws: list[Distribution] = [rows[one] for one in chosen]
        self._zmatrix = prior
        super().__init__(prior, chosen, images)

    def log_prior(self, z: Floats) -> Floats:
        """Log density (B,) of coordinates z (B, K) under the prior."""
        each = np.where(self.bends, 180.0 - z, z).T
        return np.sum([law.log_prob(value) for law, value in zip(self._laws, each, strict=True)], axis=0)

    def geometries(self, law: Law, n: int, rng: np.random.Generator) -> Floats:
        """Draw n geometries (n, N, 3), bohr, of a law, within the limits of the Z-matrix."""
        z = law.sample(2 * n, rng)
        z = z[np.isfinite(self.log_prior(z))][:n]
        values = np.where(self.bends, 180.0 - z, z).T
        given = {one.atoms: value for one, value in zip(self.coordinates, values, strict=True)}
        return self._zmatrix.sample_with(len(z), rng, given)


class ModesChart(Chart):
    """Normal coordinates over their deviation under the prior, in the frame of Eckart: standard normal."""

    def __init__(self, molecule: Molecule, prior: NormalModesPrior, names: Sequence[str] = ()) -> None:
        self._modes = prior
        every = [Coordinate(f"mode-{k + 1}", "sd") for k in range(prior.mode_count)]
        chosen = named(every, names)
        self._rows = np.array([every.index(one) for one in chosen])
        self._orders = bond_symmetries(molecule)
        maps = prior.symmetries(self._orders)
        block = maps[:, self._rows[:, None], self._rows]
        if not np.allclose(np.linalg.norm(block, axis=2), 1.0, atol=1e-2):
            raise UsageError("like atoms exchange these modes with others: take all of them")
        super().__init__(prior, chosen, block)

    def values(self, x: Floats) -> Floats:
        """Coordinates (B, K) of labelled geometries (B, N, 3), bohr."""
        best, least = self._modes.normal_coordinates(x)
        for order in self._orders[1:]:  # labels of like atoms may be those of another orientation
            z, off = self._modes.normal_coordinates(x[:, order])
            best[off < least], least = z[off < least], np.minimum(off, least)
        return best[:, self._rows]

    def log_prior(self, z: Floats) -> Floats:
        """Log density (B,) of coordinates z (B, K) under the prior."""
        return -0.5 * (z**2).sum(axis=1) - 0.5 * z.shape[1] * np.log(2.0 * np.pi)

    def geometries(self, law: Law, n: int, rng: np.random.Generator) -> Floats:
        """Draw n geometries (n, N, 3), bohr, of a law."""
        z = rng.standard_normal((n, self._modes.mode_count))
        z[:, self._rows] = law.sample(n, rng)
        return self._modes.displaced(z, rng)


class FittedChart(Chart):
    """Bonds and angles of a molecule under any prior: their density is fitted to draws of it."""

    def __init__(self, molecule: Molecule, prior: GeometryPrior, names: Sequence[str] = ()) -> None:
        every = [_coordinate(molecule, atoms) for atoms in (*molecule.bonds, *molecule.angles)]
        if not every:
            raise UsageError(f"{molecule.name} states no bonds: its TOML lists them as bonds = [...]")
        chosen, images = _symmetric(molecule, every, names)
        if not names and len(some := _independent(chosen, molecule.equilibrium)) < len(chosen):
            chosen, images = _symmetric(molecule, some, names)
        super().__init__(prior, chosen, images)
        rng = np.random.default_rng(0)
        x = prior.sample(_DRAWS, rng)
        middle = x.mean(axis=1, keepdims=True)  # like ions by their distance from it, where nothing else says
        order = label_by_geometry(molecule, x - middle, x[:, None], prior)
        self._geometries = relabel(x[:, None], order)[:, 0]
        turned = images[rng.integers(len(images), size=_DRAWS)]
        self._values = np.einsum("bkl,bl->bk", turned, self.values(self._geometries))
        self._law = fitted(self._values, self.bends, _COMPONENTS)

    def log_prior(self, z: Floats) -> Floats:
        """Log density (B,) of coordinates z (B, K) under the prior."""
        return self._law.log_prob(z)

    def drawn(self, n: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Draws (n, N, 3) of the prior, bohr, and their coordinates (n, K)."""
        rows = rng.choice(_DRAWS, n, replace=n > _DRAWS)
        return self._geometries[rows], self._values[rows]

    def geometries(self, law: Law, n: int, rng: np.random.Generator) -> Floats:
        """Draw n or fewer geometries, by their weight among draws of the prior: as many as are effective."""
        log_weight = law.log_prob(self._values) - self._law.log_prob(self._values)
        weight = np.exp(log_weight - log_weight.max())
        weight /= weight.sum()
        return self._geometries[rng.choice(_DRAWS, min(n, int(1.0 / (weight**2).sum())), p=weight)]


def _coordinate(molecule: Molecule, atoms: tuple[int, ...]) -> Coordinate:
    """The length or angle of some atoms, with the name that the molecule's bonds and angles have."""
    known = {*molecule.bonds, *molecule.angles}
    atoms = atoms if atoms in known or atoms[::-1] not in known else atoms[::-1]
    name = "-".join(molecule.labels[k] for k in atoms)
    bend = len(atoms) == 3 and _angles(molecule.equilibrium[None], atoms)[0] > _STRAIGHT
    return Coordinate(name, "bohr" if len(atoms) == 2 else "deg", atoms, bool(bend))


def _angles(x: Floats, atoms: tuple[int, ...]) -> Floats:
    i, vertex, j = atoms
    a, b = x[:, i] - x[:, vertex], x[:, j] - x[:, vertex]
    return np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b), axis=1), (a * b).sum(axis=1)))


def _values(coordinates: Sequence[Coordinate], x: Floats) -> Floats:
    """Lengths (bohr), angles and bends (degrees) of geometries (B, N, 3), (B, K)."""
    out = np.empty((len(x), len(coordinates)))
    for k, one in enumerate(coordinates):
        if len(one.atoms) == 2:
            out[:, k] = np.linalg.norm(x[:, one.atoms[1]] - x[:, one.atoms[0]], axis=1)
        else:
            angle = _angles(x, one.atoms)
            out[:, k] = 180.0 - angle if one.bend else angle
    return out


def named(every: Sequence[Coordinate], names: Sequence[str]) -> list[Coordinate]:
    """Those of some names, all where there are none; UsageError for an unknown one."""
    by_name = {one.name: one for one in every}
    by_name |= {"-".join(one.name.split("-")[::-1]): one for one in every if one.atoms}
    if unknown := [name for name in names if name not in by_name]:
        there = ", ".join(one.name for one in every)
        raise UsageError(f"no coordinate {unknown[0]!r}; this prior has {there}")
    return list(dict.fromkeys(by_name[name] for name in names)) if names else list(every)


def _symmetric(
    molecule: Molecule,
    every: list[Coordinate],
    names: Sequence[str],
    laws: Sequence[Distribution] | None = None,
) -> tuple[list[Coordinate], Floats]:
    """Coordinates that exchanges of like atoms map onto each other, and these maps (G, K, K).

    Like atoms that the bonds do not tell apart have labels by the speed of their ions, not by the geometry: a
    law, and the prior, must be the same for all of them. Others are left out; UsageError if they are named.
    """
    orders = bond_symmetries(molecule)
    chosen = named(every, names)
    law_of = dict(zip(every, laws, strict=True)) if laws else dict.fromkeys(every)
    while True:
        place = {one.atoms: k for k, one in enumerate(chosen)}
        place |= {one.atoms[::-1]: k for k, one in enumerate(chosen)}
        at = [[place.get(tuple(order[list(one.atoms)]), -1) for one in chosen] for order in orders]
        kept = [
            one
            for k, one in enumerate(chosen)
            if all(row[k] >= 0 and law_of[chosen[row[k]]] == law_of[one] for row in at)
        ]
        if len(kept) == len(chosen):
            break
        if names:
            lost = next(one.name for one in chosen if one not in kept)
            raise UsageError(f"like atoms exchange {lost} with others that are not named: name them too")
        chosen = kept
    if not chosen:
        raise UsageError("no bond or angle of this prior is alike for like atoms: name some coordinates")
    return chosen, np.unique(np.eye(len(chosen))[np.array(at)], axis=0)


def _independent(coordinates: Sequence[Coordinate], equilibrium: Floats) -> list[Coordinate]:
    """The first of coordinates that are independent at equilibrium; straight angles always are."""
    kept: list[Coordinate] = []
    rows: list[Floats] = []
    shifts = 1e-4 * np.eye(equilibrium.size).reshape(-1, *equilibrium.shape)
    for one in coordinates:
        row = (_values([one], equilibrium + shifts) - _values([one], equilibrium - shifts))[:, 0]
        row = row / max(float(np.linalg.norm(row)), 1e-300)
        if one.bend or np.linalg.svd(np.array([*rows, row]), compute_uv=False)[-1] > _INDEPENDENT:
            kept.append(one)
            rows += [] if one.bend else [row]
    return kept
