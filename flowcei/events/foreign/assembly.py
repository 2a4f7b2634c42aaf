"""From the columns of a file, by its mapping, to arrays in atomic units."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flowcei.errors import DataError
from flowcei.events.extracolumns import EXACT, listed
from flowcei.events.faults import report_fault
from flowcei.events.foreign.table import Arrays
from flowcei.units import LENGTH_UNITS, momentum_factor

if TYPE_CHECKING:
    import pandas as pd

    from flowcei.events.faults import Faults
    from flowcei.events.foreign.mapping import Component, Mapping, Vectors
    from flowcei.events.foreign.table import Table
    from flowcei.molecules.molecule import Molecule

_NEAR = 0.02  # relative: a mass in a file may be rounded, or that of one isotope
_MAX_IONS = 10_000  # rows of an event


def mapped_chunks(
    table: Table,
    mapping: Mapping,
    molecule: Molecule,
    *,
    rows: int,
    faults: Faults | None = None,
    missing: int = 0,  # rows of ions that an event may lack: their momenta are NaN
) -> Iterator[Arrays]:
    """About `rows` events at a time, in the order of the file; numbers may be missing or not finite."""
    _check_fit(mapping, molecule, table)
    if mapping.rows == "ion":
        yield from _ion_rows(table, mapping, molecule, rows, missing)
        return
    start = 0
    for chunk in table.chunks(mapping.names, rows=rows):
        elsewhere = 0
        numbers = chunk[mapping.event].to_numpy() if mapping.event else None
        event_id = None if numbers is None else whole_numbers(numbers, table.path, start, faults)
        start += len(chunk)
        if mapping.channel is not None:
            selected = (chunk[mapping.channel.column] == mapping.channel.value).to_numpy()
            elsewhere = int((~selected).sum())
            chunk, event_id = chunk[selected], None if event_id is None else event_id[selected]  # noqa: PLW2901
        momenta = _vectors(chunk, mapping.momenta, molecule)
        positions = None if mapping.positions is None else _vectors(chunk, mapping.positions, molecule)
        yield _scaled(chunk, mapping, molecule, Arrays(momenta, positions, event_id, elsewhere=elsewhere))


def _check_fit(mapping: Mapping, molecule: Molecule, table: Table) -> None:
    """Refuse a mapping that is not of this molecule or this file."""
    tables: list[dict[str, Any]] = [v.ions for v in mapping.vectors.values() if mapping.rows == "event"]
    for labels in [*tables, *([mapping.ions.values] if mapping.ions.column else [])]:
        if set(labels) != set(molecule.labels):
            ours = ", ".join(molecule.labels)
            message = f"the mapping is of ions {', '.join(labels)[:80]}; {molecule.name} has {ours}"
            raise DataError(message, path=table.path)
    if missing := [name for name in mapping.names if name not in table.names]:
        message = f"the column is missing; the file has {listed(table.names)}"
        raise DataError(message, path=table.path, column=missing[0][:40])


def _vectors(chunk: pd.DataFrame, vectors: Vectors, molecule: Molecule) -> NDArray[np.float64]:
    """Momenta or positions (B, N, 3), as the file has them; a row of `chunk` is an event."""
    components = [component for label in molecule.labels for component in vectors.ions[label]]
    if all(isinstance(name, str) for name in components):
        return chunk[components].to_numpy(np.float64).reshape(len(chunk), len(molecule), 3)
    flat = np.empty((len(chunk), len(components)))
    for k, component in enumerate(components):
        flat[:, k] = chunk[component].to_numpy() if isinstance(component, str) else component
    return flat.reshape(len(chunk), len(molecule), 3)


def _scaled(chunk: pd.DataFrame, mapping: Mapping, molecule: Molecule, events: Arrays) -> Arrays:
    """Arrays in atomic units, with sigma and extra columns; a row of `chunk` is an event."""
    momenta, positions = events.momenta, events.positions
    factor, velocities = momentum_factor(mapping.momenta.unit)
    with np.errstate(over="ignore", invalid="ignore"):  # what is infinite is refused later, with its row
        if factor != 1.0:
            momenta = momenta * factor
        if velocities:
            momenta = momenta * molecule.masses[:, None]
        if positions is not None and mapping.positions is not None and mapping.positions.unit != "bohr":
            positions = positions * LENGTH_UNITS[mapping.positions.unit]
        sigma = chunk[mapping.sigma].to_numpy(np.float64) * factor if mapping.sigma else None
    columns = {name: chunk[name].to_numpy() for name in mapping.columns or ()}
    return Arrays(momenta, positions, events.event_id, sigma, events.incomplete, events.elsewhere, columns)


def _ion_rows(
    table: Table, mapping: Mapping, molecule: Molecule, rows: int, missing: int
) -> Iterator[Arrays]:
    """Gather the rows of each event; the last event of a chunk may go on in the next."""
    import pandas as pd

    column = mapping.ions.column
    text = [column] if column and any(isinstance(v, str) for v in mapping.ions.values.values()) else []
    begun: pd.DataFrame | None = None
    start = 0
    for chunk in table.chunks(mapping.names, text, rows=rows * len(molecule)):
        whole_numbers(chunk[mapping.event].to_numpy(), table.path, start)
        start += len(chunk)
        joined = chunk if begun is None else pd.concat([begun, chunk], ignore_index=True)
        before = joined[mapping.event].to_numpy() != joined[mapping.event].iloc[-1]
        end = int(np.flatnonzero(before)[-1]) + 1 if before.any() else 0
        begun = joined.iloc[end:]
        if len(begun) > _MAX_IONS:  # else it is held until the end of the file
            message = f"more than {_MAX_IONS} rows of the same event; which column numbers the events?"
            raise DataError(message, path=table.path, row=start, column=mapping.event)
        if end:
            yield _gathered(joined.iloc[:end], mapping, molecule, table.path, missing)
    if begun is not None and len(begun):
        yield _gathered(begun, mapping, molecule, table.path, missing)


def _gathered(chunk: pd.DataFrame, mapping: Mapping, molecule: Molecule, path: Path, missing: int) -> Arrays:
    """Return the events of complete groups of rows; those with other ions are only counted.

    A group that lacks up to `missing` rows is complete, too, where a column tells ions apart.
    """
    n, number, elsewhere = len(molecule), chunk[mapping.event].to_numpy(np.float64), 0
    if mapping.channel is not None:
        selected = (chunk[mapping.channel.column] == mapping.channel.value).to_numpy()
        others = number[~selected]
        elsewhere = int((others[1:] != others[:-1]).sum()) + bool(len(others))
        chunk, number = chunk[selected], number[selected]
    group = np.cumsum(np.append(0, number[1:] != number[:-1]))[: len(number)]
    ion = _ion_of(chunk, mapping, molecule, group)
    seen = np.zeros((int(group[-1]) + 1 if len(group) else 0, n), dtype=bool)
    seen[group[ion >= 0], ion[ion >= 0]] = True
    fewest = n - (missing if mapping.ions.column and mapping.positions is None else 0)
    there = np.bincount(group, minlength=len(seen))
    complete = (there == seen.sum(axis=1)) & (there >= max(fewest, 1))
    selected = complete[group]
    order = np.lexsort((ion[selected], group[selected]))
    rows, ion = chunk[selected].iloc[order], ion[selected][order]
    event = (np.cumsum(complete) - 1)[group[selected][order]]
    first = np.flatnonzero(np.diff(event, prepend=-1))

    def vectors(columns: tuple[str, str, str] | None) -> NDArray[np.float64]:
        out = np.full((len(first), n, 3), np.nan)
        out[event, ion] = rows[list(columns or ())].to_numpy(np.float64)
        return out

    for name in mapping.columns or ():
        values = rows[name].to_numpy()
        usual = values[first][event]
        if not ((values == usual) | (np.isnan(values) & np.isnan(usual))).all():
            message = "differs between the ions of one event; leave it out of columns in a mapping"
            raise DataError(message, path=path, column=name)
    heads = rows.iloc[first]
    events = Arrays(
        vectors(mapping.momenta.columns),
        None if mapping.positions is None else vectors(mapping.positions.columns),
        heads[mapping.event].to_numpy().astype(np.int64),
        incomplete=int((~complete).sum()),
        elsewhere=elsewhere,
    )
    return _scaled(heads, mapping, molecule, events)


def _ion_of(
    chunk: pd.DataFrame, mapping: Mapping, molecule: Molecule, group: NDArray[np.intp]
) -> NDArray[np.intp]:
    """Return which ion each row is, (rows,); -1 for none. Identical ones come in the order of the rows."""
    import pandas as pd

    if not mapping.ions.column:
        index = np.arange(len(chunk)) - np.searchsorted(group, group)
        return np.where(index < len(molecule), index, -1)
    values = [mapping.ions.values[label] for label in molecule.labels]
    kinds = [int(np.argmax(_means(pd.Series(values, dtype=object), value))) for value in values]
    kind = np.full(len(chunk), -1)
    for k in set(kinds):
        kind[_means(chunk[mapping.ions.column], values[k])] = k
    # The second row of a kind in its event is the second ion of that kind.
    rank = pd.DataFrame({"group": group, "kind": kind}).groupby(["group", "kind"]).cumcount().to_numpy()
    ion = np.full(len(chunk), -1)
    for k, first in enumerate(kinds):
        ion[(kind == first) & (rank == kinds[:k].count(first))] = k
    return ion


def _means(cells: pd.Series, value: Component) -> NDArray[np.bool_]:
    """Whether each cell is the value that names an ion."""
    import pandas as pd

    if isinstance(value, str):
        return (cells.astype(str).str.strip() == value).to_numpy()
    return np.isclose(pd.to_numeric(cells, errors="coerce").to_numpy(np.float64), value, rtol=_NEAR, atol=0)


def whole_numbers(
    values: NDArray[Any], path: Path, start: int, faults: Faults | None = None
) -> NDArray[np.int64] | None:
    """Event numbers (B,) after row `start` as integers; None where some are not and faults are collected."""
    with np.errstate(invalid="ignore"):
        bad = ~((values == np.round(values)) & (np.abs(values) <= EXACT))
    if bad.any():
        message, row = "event numbers must be whole, up to 2^53", start + int(np.argmax(bad)) + 1
        error = DataError(message, path=path, row=row, column="event")
        report_fault(error, "event-numbers", faults, int(bad.sum()))
        return None
    return values.astype(np.int64)
