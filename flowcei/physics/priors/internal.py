"""A prior on lengths, angles and dihedrals: the Z-matrix of the chemists."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.errors import UsageError
from flowcei.physics.priors.base import GeometryPrior, random_orientation
from flowcei.physics.priors.distributions import Distribution, distribution
from flowcei.physics.priors.orders import NEGLIGIBLE, log_count, log_mean, warn_of_lost

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_AT_ONCE = 200_000  # entries of a table of densities in memory
_MOST_STATES = 4_000_000  # partial orders in memory
_MOST_OF_ONE = 400_000  # of one geometry: more than all 109,601 of 8 like atoms
_LIMITS = {"length": (0.0, np.inf), "angle": (0.0, 180.0), "dihedral": (-np.inf, np.inf)}


@dataclass(frozen=True)
class _Row:
    """How one atom is placed: by distances and angles to atoms placed before it."""

    atom: int
    references: tuple[int, ...]
    coordinates: tuple[Distribution, ...]


class InternalPrior(GeometryPrior):
    """Independent distributions of the rows of a Z-matrix, orientation uniform.

    The volume element of a row is r^2 sin(theta) dr dtheta dphi, and the orientation
    takes 8 pi^2 (4 pi for two atoms): the density per bohr^(3N-3) is the product of the
    one-dimensional densities over these factors.

    Args:
        labels: The molecule's labels, in its order.
        rows: One table per atom, each placed after the atoms it refers to:
            ``{atom}``, then ``{atom, from, length}``, then with ``angle_to, angle``
            (degrees), then with ``dihedral_to, dihedral`` (degrees).

    Raises:
        UsageError: For rows that do not place every atom once.
    """

    kind: str = "internal"
    has_density: bool = True

    def __init__(self, labels: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
        self._labels = list(labels)
        self._tables = [dict(row) for row in rows]
        self._rows = _read_rows(self._labels, self._tables)
        self.mirror_symmetric = all(_even(row) for row in self._rows)
        self.bounded = any(
            (d.low, d.high) != limits
            for row in self._rows
            for d, limits in zip(row.coordinates, _LIMITS.values(), strict=False)
        )

    def sample(self, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw `n` geometries, (n, N, 3), bohr."""
        x = np.zeros((n, len(self._labels), 3))
        for row in self._rows:
            values = [d.sample(n, rng) for d in row.coordinates]
            x[:, row.atom] = _place(x, row, values)
        return random_orientation(x, rng)

    def log_prob(self, positions: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the log density (B,) of positions (B, N, 3), per bohr^(3N-3)."""
        x = np.asarray(positions, dtype=np.float64)
        total = np.full(len(x), -np.log(4.0 * np.pi if len(self._labels) == 2 else 8.0 * np.pi**2))
        for row in self._rows[1:]:
            total += _row_log_prob(x, row)
        return np.where(np.isnan(total), -np.inf, total)

    def _log_mean(
        self, positions: NDArray[np.float64], identical: tuple[tuple[int, ...], ...]
    ) -> NDArray[np.float64]:
        """Return the log of the mean density (B,) over all orders, of those that can count.

        Row after row, partial orders grow by every atom that may be meant. A first pass keeps the
        best one of a geometry; the second gives up those that the greatest densities of
        the rows to come cannot bring near it.
        """
        rows = _OrderedRows(self._rows, identical, positions.shape[1])
        out = []
        for first in range(0, len(positions), rows.at_once):
            x = positions[first : first + rows.at_once]
            tables = rows.tables(x)
            _, start, _ = rows.swept(tables, len(x), greedy=True)
            cut = log_count(identical) - np.log(NEGLIGIBLE)
            owner, values, lost = rows.swept(tables, len(x), least=start - cut)
            out.append(np.where(lost, np.nan, log_mean(values, owner, len(x), identical)))
            warn_of_lost(lost)
        return np.concatenate(out) - np.log(4.0 * np.pi if len(self._labels) == 2 else 8.0 * np.pi**2)

    def spec(self) -> dict[str, Any]:
        """Return the table that makes this prior again."""
        return {"kind": self.kind, "zmatrix": self._tables}


class _OrderedRows:
    """The rows of a Z-matrix where nobody knows which of the identical atoms each one places."""

    def __init__(self, rows: Sequence[_Row], identical: tuple[tuple[int, ...], ...], n_atoms: int) -> None:
        self._rows = rows
        self._identical = identical
        self._alike: list[tuple[int, ...]] = [(i,) for i in range(n_atoms)]
        for group in identical:
            for member in group:
                self._alike[member] = group
        self._place = np.array([self._alike[i].index(i) for i in range(n_atoms)])
        self._choices = [
            np.array(list(product(*(self._alike[i] for i in (row.atom, *row.references))))) for row in rows
        ]
        # All partial orders are e times the whole ones; what is above the bound of one is dropped.
        most = min(np.exp(log_count(identical) + 1.0), _MOST_OF_ONE)
        entries = max(len(choice) for choice in self._choices)
        self.at_once = max(1, min(_AT_ONCE // entries, int(_MOST_STATES / most)))

    def tables(self, x: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """Return the log density of each row for all atoms that it may mean, (B, like atoms of each)."""
        out = [np.zeros((len(x), len(self._alike[self._rows[0].atom])))]
        for row, choice in zip(self._rows[1:], self._choices[1:], strict=True):
            sites = (row.atom, *row.references)
            points = x[:, choice].reshape(-1, len(sites), 3)
            value = _row_log_prob(points, _Row(0, tuple(range(1, len(sites))), row.coordinates))
            value = np.where(np.isnan(value), -np.inf, value).reshape(len(x), -1)
            ordered = np.sort(choice, axis=1)
            value[:, (ordered[:, 1:] == ordered[:, :-1]).any(axis=1)] = -np.inf  # one atom on two sites
            out.append(value.reshape(len(x), *(len(self._alike[i]) for i in sites)))
        return out

    def swept(
        self,
        tables: list[NDArray[np.float64]],
        n: int,
        *,
        greedy: bool = False,
        least: NDArray[np.float64] | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]:
        """Return whose each whole order is, its log density, (K,) both, and who has too many orders, (n,).

        Args:
            tables: As of `tables`.
            n: Geometries.
            greedy: Keep one order of each geometry, the best so far.
            least: What is looked for, (n,).
        """
        # What the rows to come add at the most.
        rest = np.cumsum([np.zeros(n), *(t.reshape(n, -1).max(axis=1) for t in tables[:0:-1])], axis=0)[::-1]
        owner, value, lost = np.arange(n), np.zeros(n), np.zeros(n, dtype=bool)
        order = np.full((n, len(self._rows)), -1)
        for k, (row, table) in enumerate(zip(self._rows, tables, strict=True)):
            atoms = np.array(self._alike[row.atom])
            parent = np.repeat(np.arange(len(owner)), len(atoms))
            atom = np.tile(atoms, len(owner))
            free = (order[parent] != atom[:, None]).all(axis=1)
            parent, atom = parent[free], atom[free]
            owner, order, value = owner[parent], order[parent], value[parent]
            order[:, row.atom] = atom
            meant = self._place[order[:, [row.atom, *row.references]]]
            value = value + table[(owner, *meant.T)]
            if greedy:
                best = np.lexsort((value, owner))
                kept = best[np.flatnonzero(np.diff(owner[best], append=-1))]
            else:
                bound = -np.inf if least is None else least[owner]
                kept = np.flatnonzero((value > -np.inf) & (value + rest[k][owner] >= bound))
            if len(kept) > _MOST_OF_ONE:
                lost |= np.bincount(owner[kept], minlength=n) > _MOST_OF_ONE
                kept = kept[~lost[owner[kept]]]
            owner, order, value = owner[kept], order[kept], value[kept]
        return owner, value, lost


def _row_log_prob(x: NDArray[np.float64], row: _Row) -> NDArray[np.float64]:
    """Return what a row adds to the log density of positions x (B, N, 3), (B,)."""
    total = np.zeros(len(x))
    with np.errstate(divide="ignore", invalid="ignore"):  # atoms that coincide, or lie in line
        for i, (d, value) in enumerate(zip(row.coordinates, _measure(x, row), strict=True)):
            total += _wrapped(d, value) if i == 2 else d.log_prob(value)
            if i == 0:
                total -= 2.0 * np.log(value)
            else:
                total += np.log(180.0 / np.pi)  # the tables are in degrees
            if i == 1:
                total -= np.log(np.sin(np.radians(value)))
    return total


def _read_rows(labels: list[str], tables: list[dict[str, Any]]) -> list[_Row]:
    keys = [("from", "length"), ("angle_to", "angle"), ("dihedral_to", "dihedral")]
    rows: list[_Row] = []
    for i, table in enumerate(tables):
        expected = {"atom", *(k for pair in keys[: min(i, 3)] for k in pair)}
        if set(table) != expected:
            raise UsageError(f"row {i + 1} of a zmatrix takes {sorted(expected)}; got {sorted(table)}")
        placed = [row.atom for row in rows]
        names = [table["atom"], *(table[k] for k, _ in keys[: min(i, 3)])]
        unknown = [name for name in names if name not in labels]
        if unknown:
            raise UsageError(f"a zmatrix names {unknown[0]!r}; the atoms are {', '.join(labels)}")
        atom, *references = (labels.index(name) for name in names)
        if atom in placed or len(set(references)) < len(references) or set(references) - set(placed):
            msg = f"row {i + 1} of a zmatrix must place a new atom by different atoms placed before"
            raise UsageError(msg)
        coordinates = tuple(distribution(table[k], _LIMITS[k]) for _, k in keys[: min(i, 3)])
        rows.append(_Row(atom, tuple(references), coordinates))
    if len(rows) != len(labels):
        raise UsageError(f"a zmatrix has {len(rows)} rows for {len(labels)} atoms")
    return rows


def _even(row: _Row) -> bool:
    """Whether the dihedral's distribution is the same for phi and -phi."""
    if len(row.coordinates) < 3:
        return True
    d = row.coordinates[2]
    if d.form == "uniform":
        low, high = d.parameters
        turns = (high - low) / 360.0
        return bool(np.isclose(turns, round(turns))) or _is_own_mirror(0.5 * (low + high))
    if d.form == "truncated_normal" and not np.isclose(d.low + d.high, 2.0 * d.parameters[0]):
        return False
    return _is_own_mirror(d.parameters[0])


def _is_own_mirror(degrees: float) -> bool:
    """Whether a dihedral and its negative are the same: 0 or 180 degrees, up to full turns."""
    return abs(np.sin(np.radians(degrees))) < 1e-8


def _wrapped(d: Distribution, degrees: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the log density of a dihedral: summed over all turns that its support holds."""
    if d.form == "normal":
        centre, reach = d.parameters[0], 8.0 * d.parameters[1]
    else:
        centre, reach = 0.5 * (d.low + d.high), 0.5 * (d.high - d.low)
    nearest = centre + (degrees - centre + 180.0) % 360.0 - 180.0
    count = int(reach / 360.0) + 1
    turns = np.stack([d.log_prob(nearest + 360.0 * k) for k in range(-count, count + 1)])
    return np.logaddexp.reduce(turns, axis=0)


def _place(x: NDArray[np.float64], row: _Row, values: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return where an atom goes, (n, 3), given the atoms placed before it."""
    if not row.references:
        return x[:, row.atom]
    origin = x[:, row.references[0]]
    if len(row.references) == 1:
        return origin + values[0][:, None] * np.array([0.0, 0.0, 1.0])
    theta = np.radians(values[1])
    if len(row.references) == 2:  # the first two lie on the z axis: the third goes to the xz plane
        up = np.sign(x[:, row.references[1], 2] - origin[:, 2])
        place = origin.copy()
        place[:, 0] += values[0] * np.sin(theta)
        place[:, 2] += values[0] * np.cos(theta) * up
        return place
    along = _unit(x[:, row.references[1]] - origin)
    other = x[:, row.references[2]] - x[:, row.references[1]]
    side = _unit(other - (other * along).sum(-1, keepdims=True) * along)
    phi = np.radians(values[2])
    third = np.cross(along, side)
    sine = np.sin(theta)
    direction = (
        np.cos(theta)[:, None] * along
        + (sine * np.cos(phi))[:, None] * side
        + (sine * np.sin(phi))[:, None] * third
    )
    return origin + values[0][:, None] * direction


def _measure(x: NDArray[np.float64], row: _Row) -> list[NDArray[np.float64]]:
    """Return the length, the angle and the dihedral (degrees) of one row, each (B,)."""
    origin = x[:, row.references[0]]
    bond = x[:, row.atom] - origin
    length = np.linalg.norm(bond, axis=-1)
    if len(row.references) == 1:
        return [length]
    along = _unit(x[:, row.references[1]] - origin)
    across = np.cross(along, bond)
    angle = np.degrees(np.arctan2(np.linalg.norm(across, axis=-1), (along * bond).sum(-1)))
    if len(row.references) == 2:
        return [length, angle]
    other = x[:, row.references[2]] - x[:, row.references[1]]
    side = _unit(other - (other * along).sum(-1, keepdims=True) * along)
    third = np.cross(along, side)
    phi = np.degrees(np.arctan2((bond * third).sum(-1), (bond * side).sum(-1)))
    return [length, angle, phi]


def _unit(v: NDArray[np.float64]) -> NDArray[np.float64]:
    return v / np.linalg.norm(v, axis=-1, keepdims=True)
