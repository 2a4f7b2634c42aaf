"""A prior on lengths, angles and dihedrals: the Z-matrix of the chemists."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from flowcei.errors import UsageError
from flowcei.physics.draws import fresh_key
from flowcei.physics.priors.base import GeometryPrior
from flowcei.physics.priors.distributions import Distribution, distribution
from flowcei.physics.priors.orders import NEGLIGIBLE, log_count, log_mean

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from flowcei.physics.priors.orders import Floats, Groups

_FEW = 7  # orders, up to 6, that are sooner gone through than searched
_AT_ONCE = 200_000  # entries of a table of densities in memory
_MOST_STATES = 4_000_000  # partial orders in memory
_MOST_OF_ONE = 400_000  # of one geometry: more than all 109,601 of 8 like atoms
_LIMITS = {"length": (0.0, np.inf), "angle": (0.0, 180.0), "dihedral": (-np.inf, np.inf)}


class _Row(NamedTuple):
    """How one atom is placed: by a length, an angle and a dihedral to atoms placed before it."""

    atom: int
    references: tuple[int, ...]
    coordinates: tuple[Distribution, ...]

    @property
    def sites(self) -> tuple[int, ...]:
        return (self.atom, *self.references)


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

    Example:
        >>> rows = [{"atom": "c"}, {"atom": "o", "from": "c", "length": {"uniform": [2.0, 2.4]}}]
        >>> InternalPrior(["c", "o"], rows).allows(
        ...     np.array([[[0, 0, 0], [0, 0, 2.2]], [[0, 0, 0], [0, 0, 3]]])
        ... )
        array([ True, False])
    """

    kind: str = "internal"
    has_density: bool = True

    def __init__(self, labels: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
        self._tables = [dict(row) for row in rows]
        self._rows = _read_rows(list(labels), self._tables)
        self._log_orientations = np.log(4.0 * np.pi if len(labels) == 2 else 8.0 * np.pi**2)
        self.mirror_symmetric = all(_is_even(row.coordinates[2]) for row in self._rows[3:])
        pairs = [pair for row in self._rows for pair in zip(row.coordinates, _LIMITS.values(), strict=False)]
        self.bounded = any((d.low, d.high) != limits for d, limits in pairs)

    def sample(self, n: int, rng: np.random.Generator) -> Floats:
        """Draw `n` geometries, (n, N, 3), bohr."""
        return self.sample_with(n, rng, {})

    @property
    def independent(self) -> list[tuple[tuple[int, ...], Distribution]]:
        """Atoms and law of each length (bohr) and angle (degrees, the vertex in the middle)."""
        return [
            (row.sites[: k + 2], d) for k in (0, 1) for row in self._rows for d in row.coordinates[k : k + 1]
        ]

    def sample_with(
        self, n: int, rng: np.random.Generator, given: Mapping[tuple[int, ...], Floats]
    ) -> Floats:
        """Draw `n` geometries, (n, N, 3), with some of the `independent` coordinates given, (n,) each."""
        # Imported here: numba takes half a second, and a prior can be named without it.
        from flowcei.physics._placing import GIVEN, place

        given = {key: value for atoms, value in given.items() for key in (atoms, atoms[::-1])}
        laws, values = [], []
        for row in self._rows:
            for k, d in enumerate(row.coordinates):
                stated = given.get(row.sites[: k + 2]) if k < 2 else None
                laws.append((GIVEN, *[0.0] * 6) if stated is not None else d.law)
                values += [] if stated is None else [stated]
        sites = np.array([(*row.sites, -1, -1, -1)[:4] for row in self._rows])
        x = np.empty((n, len(self._rows), 3))
        place(fresh_key(rng), sites, np.array(laws), np.reshape(values, (len(values), n)), x)
        return x

    def log_prob(self, positions: Floats) -> Floats:
        """Return the log density (B,) of positions (B, N, 3), per bohr^(3N-3)."""
        x = np.asarray(positions, dtype=np.float64)
        total = np.sum([_row_log_prob(x, row) for row in self._rows[1:]], axis=0) - self._log_orientations
        return np.where(np.isnan(total), -np.inf, total)

    def _log_mean(self, positions: Floats, identical: Groups) -> Floats:
        """Return the log of the mean density (B,) over all orders, of those that can count.

        Row after row, partial orders grow by every atom that may be meant. A first pass keeps the
        best one of a geometry; the second gives up those that the greatest densities of
        the rows to come cannot bring near it.
        """
        if log_count(identical) < np.log(_FEW):
            return super()._log_mean(positions, identical)
        rows = _OrderedRows(self._rows, identical)
        cut = log_count(identical) - np.log(NEGLIGIBLE)
        out = []
        for first in range(0, len(positions), rows.at_once):
            x = positions[first : first + rows.at_once]
            tables = rows.tables(x)
            _, best, _ = rows.sweep(tables, len(x))
            owner, values, lost = rows.sweep(tables, len(x), least=best - cut)
            out.append(log_mean(values, owner, lost, identical))
        return np.concatenate(out) - self._log_orientations

    def spec(self) -> dict[str, Any]:
        """Return the table that makes this prior again."""
        return {"kind": self.kind, "zmatrix": self._tables}


class _OrderedRows:
    """The rows of a Z-matrix where nobody knows which of the identical atoms each one places."""

    def __init__(self, rows: Sequence[_Row], identical: Groups) -> None:
        self._rows = rows
        groups = {member: group for group in identical for member in group}
        self._alike = [groups.get(i, (i,)) for i in range(len(rows))]
        self._rank = np.array([alike.index(i) for i, alike in enumerate(self._alike)])
        self._choices = [np.array(list(product(*(self._alike[i] for i in row.sites)))) for row in rows]
        # All partial orders are e times the whole ones; what is above the bound of one is dropped.
        most = min(np.exp(log_count(identical) + 1.0), _MOST_OF_ONE)
        entries = max(len(choice) for choice in self._choices)
        self.at_once = max(1, min(_AT_ONCE // entries, int(_MOST_STATES / most)))

    def tables(self, x: Floats) -> list[Floats]:
        """Log density of each row for all atoms that it may mean, (B, like atoms of each site)."""
        out = [np.zeros((len(x), len(self._choices[0])))]
        for row, choice in zip(self._rows[1:], self._choices[1:], strict=True):
            count = len(row.sites)
            points = x[:, choice].reshape(-1, count, 3)
            value = _row_log_prob(points, _Row(0, tuple(range(1, count)), row.coordinates))
            value = np.where(np.isnan(value), -np.inf, value).reshape(len(x), -1)
            ordered = np.sort(choice, axis=1)
            value[:, (ordered[:, 1:] == ordered[:, :-1]).any(axis=1)] = -np.inf  # one atom on two sites
            out.append(value.reshape(len(x), *(len(self._alike[i]) for i in row.sites)))
        return out

    def sweep(
        self, tables: list[Floats], n: int, least: Floats | None = None
    ) -> tuple[NDArray[np.int64], Floats, NDArray[np.bool_]]:
        """Whose each whole order is, its log density, (K,) both, and who of n geometries has too many.

        Orders that cannot reach `least`, (n,), are given up; where None, only the best so far goes on.
        """
        # What the rows to come add at the most.
        rest = np.cumsum([np.zeros(n), *(t.reshape(n, -1).max(axis=1) for t in tables[:0:-1])], axis=0)[::-1]
        owner, value, lost = np.arange(n), np.zeros(n), np.zeros(n, dtype=bool)
        order = np.full((n, len(self._rows)), -1)
        for row, table, to_come in zip(self._rows, tables, rest, strict=True):
            atoms = np.array(self._alike[row.atom])
            parent = np.repeat(np.arange(len(owner)), len(atoms))
            atom = np.tile(atoms, len(owner))
            free = (order[parent] != atom[:, None]).all(axis=1)
            parent, atom = parent[free], atom[free]
            owner, order, value = owner[parent], order[parent], value[parent]
            order[:, row.atom] = atom
            value = value + table[(owner, *self._rank[order[:, row.sites]].T)]
            if least is None:
                best = np.lexsort((value, owner))
                kept = best[np.flatnonzero(np.diff(owner[best], append=-1))]
            else:
                kept = np.flatnonzero((value > -np.inf) & (value + to_come[owner] >= least[owner]))
            if len(kept) > _MOST_OF_ONE:
                lost |= np.bincount(owner[kept], minlength=n) > _MOST_OF_ONE
                kept = kept[~lost[owner[kept]]]
            owner, order, value = owner[kept], order[kept], value[kept]
        return owner, value, lost


def _read_rows(labels: list[str], tables: list[dict[str, Any]]) -> list[_Row]:
    keys = [("from", "length"), ("angle_to", "angle"), ("dihedral_to", "dihedral")]
    rows: list[_Row] = []
    for i, table in enumerate(tables):
        used = keys[: min(i, 3)]
        expected = {"atom", *(key for pair in used for key in pair)}
        if set(table) != expected:
            raise UsageError(f"row {i + 1} of a zmatrix takes {sorted(expected)}; got {sorted(table)}")
        names = [table["atom"], *(table[key] for key, _ in used)]
        if unknown := [name for name in names if name not in labels]:
            raise UsageError(f"a zmatrix names {unknown[0]!r}; the atoms are {', '.join(labels)}")
        atom, *references = (labels.index(name) for name in names)
        placed = [row.atom for row in rows]
        if atom in placed or len(set(references)) < len(references) or set(references) - set(placed):
            rule = "must place a new atom by different atoms placed before"
            raise UsageError(f"row {i + 1} of a zmatrix {rule}")
        coordinates = tuple(distribution(table[key], _LIMITS[key]) for _, key in used)
        rows.append(_Row(atom, tuple(references), coordinates))
    if len(rows) != len(labels):
        raise UsageError(f"a zmatrix has {len(rows)} rows for {len(labels)} atoms")
    return rows


def _is_even(dihedral: Distribution) -> bool:
    """Whether a dihedral's distribution is the same for phi and -phi."""
    centre = dihedral.mean
    if dihedral.form == "uniform":
        turns = (dihedral.high - dihedral.low) / 360.0
        if np.isclose(turns, round(turns)):
            return True
        centre = 0.5 * (dihedral.low + dihedral.high)
    elif np.isfinite(dihedral.low) and not np.isclose(dihedral.low + dihedral.high, 2.0 * centre):
        return False
    return bool(abs(np.sin(np.radians(centre))) < 1e-8)  # 0 or 180 degrees, up to full turns


def _row_log_prob(x: Floats, row: _Row) -> Floats:
    """What a row adds to the log density of positions x (B, N, 3), (B,)."""
    total = np.zeros(len(x))
    with np.errstate(divide="ignore", invalid="ignore"):  # atoms that coincide, or lie in line
        for i, (d, value) in enumerate(zip(row.coordinates, _measured(x, row), strict=True)):
            total += _wrapped(d, value) if i == 2 else d.log_prob(value)
            # The volume element; tables are in degrees.
            total += -2.0 * np.log(value) if i == 0 else np.log(180.0 / np.pi)
            if i == 1:
                total -= np.log(np.sin(np.radians(value)))
    return total


def _wrapped(d: Distribution, degrees: Floats) -> Floats:
    """Log density of a dihedral: summed over all turns that its support holds."""
    centre, reach = d.mean, 8.0 * d.deviation
    if np.isfinite(d.low):
        centre, reach = 0.5 * (d.low + d.high), 0.5 * (d.high - d.low)
    nearest = centre + (degrees - centre + 180.0) % 360.0 - 180.0
    count = int(reach / 360.0) + 1
    turns = np.stack([d.log_prob(nearest + 360.0 * k) for k in range(-count, count + 1)])
    return np.logaddexp.reduce(turns, axis=0)


def _measured(x: Floats, row: _Row) -> list[Floats]:
    """Length (bohr), angle and dihedral (degrees) of a row, each (B,); as many as it has references."""
    from flowcei.physics._placing import read_off  # numba takes a moment

    lengths, (across, along) = np.empty(len(x)), np.empty((2, len(row.references) - 1, len(x)))
    read_off(np.ascontiguousarray(x), np.array(row.sites), lengths, across, along)
    return [lengths, *np.degrees(np.arctan2(across, along))]
