"""From the columns of a file, by its mapping, to arrays in atomic units."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from flowcei.errors import DataError
from flowcei.events.extracolumns import EXACT
from flowcei.events.faults import refuse
from flowcei.units import LENGTH_UNITS, momentum_factor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from flowcei.events.faults import Faults
    from flowcei.events.foreign.mapping import Mapping, Vectors
    from flowcei.events.foreign.table import Table
    from flowcei.molecules.molecule import Molecule

_NEAR = 0.02  # relative: a mass in a file may be rounded, or that of one isotope
_MAX_IONS = 10_000  # rows of an event


@dataclass(frozen=True, eq=False)
class Arrays:
    """Some events of a file, not judged yet.

    Attributes:
        momenta: (B, N, 3), hbar / bohr.
        positions: (B, N, 3), bohr.
        ids: (B,).
        sigma: (B,), hbar / bohr.
        incomplete: Events left out since they have other ions than the molecule.
        elsewhere: Events left out since they are of another channel.
        columns: Extra columns, (B,) each.
    """

    momenta: NDArray[np.float64]
    positions: NDArray[np.float64] | None
    ids: NDArray[np.int64] | None
    sigma: NDArray[np.float64] | None
    incomplete: int = 0
    elsewhere: int = 0
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of events."""
        return len(self.momenta)


def _refuse_misfit(mapping: Mapping, molecule: Molecule, table: Table) -> None:
    """Refuse a mapping that is not of this molecule or this file.

    Raises:
        DataError: Saying what does not fit.
    """
    tables = [vectors.ions for vectors in mapping.vectors.values() if mapping.rows == "event"]
    if mapping.ions.column:
        tables.append(mapping.ions.values)  # type: ignore[arg-type]
    for labels in tables:
        if set(labels) != set(molecule.labels):
            ours = ", ".join(molecule.labels)
            what = f"the mapping is of ions {', '.join(labels)[:80]}; {molecule.name} has {ours}"
            raise DataError(what, path=table.path)
    lost = [name for name in mapping.names if name not in table.names]
    if lost:
        seen = ", ".join(name[:20] for name in table.names[:6]) + (", ..." if len(table.names) > 6 else "")
        raise DataError(f"the column is missing; the file has {seen}", path=table.path, column=lost[0][:40])


def mapped_chunks(
    table: Table, mapping: Mapping, molecule: Molecule, *, rows: int, faults: Faults | None = None
) -> Iterator[Arrays]:
    """Yield the events of a table, some at a time, in the order of the file.

    Numbers may be missing or not finite, but for those that tell events, ions or channels apart.

    Args:
        table: The file.
        mapping: What its columns mean.
        molecule: Whose ions they are.
        rows: Events of a part, about.
        faults: Collects event numbers that are none; the first is raised where None.

    Raises:
        DataError: For cells that are no numbers, and event numbers that are not whole or
            are there twice.
    """
    _refuse_misfit(mapping, molecule, table)
    if mapping.rows == "ion":
        yield from _ion_rows(table, mapping, molecule, rows)
        return
    start = 0
    for part in table.chunks(mapping.names, rows=rows):
        elsewhere = 0
        numbers = part[mapping.event].to_numpy() if mapping.event else None
        ids = None if numbers is None else whole_numbers(numbers, table.path, start, faults)
        start += len(part)
        if mapping.channel is not None:
            kept = (part[mapping.channel.column] == mapping.channel.value).to_numpy()
            elsewhere = int((~kept).sum())
            part, ids = part[kept], None if ids is None else ids[kept]  # noqa: PLW2901
        momenta = _vectors(part, mapping.momenta, molecule)
        positions = None if mapping.positions is None else _vectors(part, mapping.positions, molecule)
        yield _scaled(part, mapping, molecule, momenta, positions, ids, elsewhere=elsewhere)


def _vectors(part: pd.DataFrame, vectors: Vectors, molecule: Molecule) -> NDArray[np.float64]:
    """Return (B, N, 3), as the file has them."""
    parts = [component for label in molecule.labels for component in vectors.ions[label]]
    if all(isinstance(name, str) for name in parts):
        return part[parts].to_numpy(np.float64).reshape(len(part), len(molecule), 3)
    flat = np.empty((len(part), len(parts)))
    for k, component in enumerate(parts):
        flat[:, k] = part[component].to_numpy() if isinstance(component, str) else component
    return flat.reshape(len(part), len(molecule), 3)


def _scaled(
    part: pd.DataFrame,
    mapping: Mapping,
    molecule: Molecule,
    momenta: NDArray[np.float64],
    positions: NDArray[np.float64] | None,
    ids: NDArray[np.int64] | None,
    *,
    elsewhere: int,
    incomplete: int = 0,
) -> Arrays:
    """Turn numbers of the file into atomic units."""
    factor, velocities = momentum_factor(mapping.momenta.unit)
    with np.errstate(over="ignore", invalid="ignore"):  # what is infinite is refused later, with its row
        if factor != 1.0:
            momenta = momenta * factor
        if velocities:
            momenta = momenta * molecule.masses[:, None]
        if positions is not None and mapping.positions is not None and mapping.positions.unit != "bohr":
            positions = positions * LENGTH_UNITS[mapping.positions.unit]
        sigma = part[mapping.sigma].to_numpy(np.float64) * factor if mapping.sigma else None
    columns = {name: part[name].to_numpy() for name in mapping.columns or ()}
    return Arrays(momenta, positions, ids, sigma, incomplete, elsewhere, columns)


def _ion_rows(table: Table, mapping: Mapping, molecule: Molecule, rows: int) -> Iterator[Arrays]:
    """Gather the rows of each event; the last event of a part may go on in the next."""
    names = mapping.ions.column
    text = [names] if names and any(isinstance(v, str) for v in mapping.ions.values.values()) else []
    rest: pd.DataFrame | None = None
    start = 0
    for part in table.chunks(mapping.names, text, rows=rows * len(molecule)):
        whole_numbers(part[mapping.event].to_numpy(), table.path, start)
        start += len(part)
        whole = part if rest is None else pd.concat([rest, part], ignore_index=True)
        last = whole[mapping.event].to_numpy() != whole[mapping.event].iloc[-1]
        end = int(np.flatnonzero(last)[-1]) + 1 if last.any() else 0
        rest = whole.iloc[end:]
        if len(rest) > _MAX_IONS:  # else it is held until the end of the file
            what = f"more than {_MAX_IONS} rows of the same event; which column numbers the events?"
            raise DataError(what, path=table.path, row=start, column=mapping.event)
        if end:
            yield _gathered(whole.iloc[:end], mapping, molecule, table.path)
    if rest is not None and len(rest):
        yield _gathered(rest, mapping, molecule, table.path)


def _gathered(part: pd.DataFrame, mapping: Mapping, molecule: Molecule, path: Path) -> Arrays:
    """Return the events of whole groups of rows; those with other ions are only counted."""
    n = len(molecule)
    number = part[mapping.event].to_numpy(np.float64)
    elsewhere = 0
    if mapping.channel is not None:
        kept = (part[mapping.channel.column] == mapping.channel.value).to_numpy()
        elsewhere = _groups(number[~kept])
        part, number = part[kept], number[kept]
    group = np.concatenate([[0], np.cumsum(number[1:] != number[:-1])]) if len(number) else number.astype(int)
    ion = _ion_of(part, mapping, molecule, group)
    size = np.bincount(group)
    seen = np.zeros((len(size), n), dtype=bool)
    seen[group[ion >= 0], ion[ion >= 0]] = True
    right = (size == n) & seen.all(axis=1)
    kept = right[group] if len(group) else np.zeros(0, bool)
    order = np.lexsort((ion[kept], group[kept]))
    rows = part[kept].iloc[order]
    columns = list(mapping.momenta.columns or ())
    momenta = rows[columns].to_numpy(np.float64).reshape(-1, n, 3)
    positions = None
    if mapping.positions is not None and mapping.positions.columns is not None:
        positions = rows[list(mapping.positions.columns)].to_numpy(np.float64).reshape(-1, n, 3)
    first = rows.iloc[::n]
    for name in mapping.columns or ():
        values = rows[name].to_numpy().reshape(-1, n)
        if not ((values == values[:, :1]) | (np.isnan(values) & np.isnan(values[:, :1]))).all():
            what = "differs between the ions of one event; leave it out of columns in a mapping"
            raise DataError(what, path=path, column=name)
    ids = first[mapping.event].to_numpy().astype(np.int64)
    wrong = int((~right).sum())
    return _scaled(first, mapping, molecule, momenta, positions, ids, elsewhere=elsewhere, incomplete=wrong)


def _groups(number: NDArray[np.float64]) -> int:
    return int((number[1:] != number[:-1]).sum()) + 1 if len(number) else 0


def _ion_of(
    part: pd.DataFrame, mapping: Mapping, molecule: Molecule, group: NDArray[np.intp]
) -> NDArray[np.intp]:
    """Return which ion each row is, (rows,); -1 for none. Identical ones come in the order of the rows."""
    column = mapping.ions.column
    if not column:
        place = np.arange(len(part)) - np.searchsorted(group, group)
        return np.where(place < len(molecule), place, -1)
    values = [mapping.ions.values[label] for label in molecule.labels]
    kinds = [next(j for j, other in enumerate(values) if _same(other, value)) for value in values]
    kind = np.full(len(part), -1)
    for k in set(kinds):
        value = values[k]
        if isinstance(value, str):
            kind[(part[column].astype(str).str.strip() == value).to_numpy()] = k
        else:
            kind[np.abs(part[column].to_numpy(np.float64) - value) <= _NEAR * abs(value)] = k
    # The second row of a kind in its event is the second ion of that kind.
    rank = pd.DataFrame({"group": group, "kind": kind}).groupby(["group", "kind"]).cumcount().to_numpy()
    out = np.full(len(part), -1)
    for k, first in enumerate(kinds):
        out[(kind == first) & (rank == kinds[:k].count(first))] = k
    return out


def _same(a: str | float, b: str | float) -> bool:
    """Whether two values of the column of ions mean the same kind."""
    if isinstance(a, str) or isinstance(b, str):
        return a == b
    return abs(a - b) <= _NEAR * abs(b)


def whole_numbers(
    values: NDArray[Any], path: Path, start: int, faults: Faults | None = None
) -> NDArray[np.int64] | None:
    """Return event numbers as integers, or None where some are not whole and faults are collected.

    Args:
        values: The numbers, (B,).
        path: The file.
        start: Row of the file before them.
        faults: Collects how many are not whole; the first is raised where None.

    Raises:
        DataError: Naming the row.
    """
    with np.errstate(invalid="ignore"):
        bad = ~((values == np.round(values)) & (np.abs(values) <= EXACT))
    if bad.any():
        what = "event numbers must be whole, up to 2^53"
        error = DataError(what, path=path, row=start + int(np.argmax(bad)) + 1, column="event")
        refuse(error, "event-numbers", faults, int(bad.sum()))
        return None
    return values.astype(np.int64)
