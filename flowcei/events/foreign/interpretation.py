"""What the columns of a file mean: by its own words, by a mapping, or by a guess that is said aloud."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from flowcei.errors import DataError, UsageError
from flowcei.events.extracolumns import MOST_COLUMNS, PLACEHOLDERS, column_problem, component_names, listed
from flowcei.events.faults import refuse
from flowcei.events.foreign.guess import blank_mapping, guess_mapping
from flowcei.events.foreign.inference import infer_length_unit, infer_momentum_unit
from flowcei.events.foreign.mapped import mapped_chunks
from flowcei.events.foreign.statedunits import check_units, unit_of_columns
from flowcei.events.foreign.tables import FORMATS, open_table
from flowcei.events.selection import Selection
from flowcei.events.text import is_native_header, native_mapping
from flowcei.units import momentum_factor

if TYPE_CHECKING:
    from pathlib import Path

    from flowcei.events.faults import Faults
    from flowcei.events.foreign.mapping import Mapping
    from flowcei.events.foreign.table import Table
    from flowcei.molecules.molecule import Molecule

_LOOK = 10_000  # events that units are told from
_NUMBERED = re.compile(r"#\d+$")


@dataclass(frozen=True)
class Reading:
    """How a file is to be read, where it does not say so itself.

    Attributes:
        format: One of ``text, npy, hdf5, parquet, root, xyz``; found in the content where None.
        mapping: What the columns mean; told from their names where None.
        columns: Labels of the ions in the order of the file, where it only numbers them.
        unit: Of momenta or velocities; told from names or sizes where empty.
        allow_truncated: Whether the last line of a text file may lack its end: the file may be cut
            in the middle of a number.
        selection: Which events are left out.
        faults: Collects what would be refused; the first fault is raised where None.
    """

    format: str | None = None
    mapping: Mapping | None = None
    columns: str = ""
    unit: str = ""
    selection: Selection = field(default_factory=Selection)
    allow_truncated: bool = False
    faults: Faults | None = None

    def __post_init__(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            UsageError: For an unknown format or unit, or a mapping beside what it would settle.
        """
        if self.format is not None and self.format not in FORMATS:
            msg = f"unknown format {self.format!r}; use one of {', '.join(FORMATS)}"
            raise UsageError(msg)
        if self.unit:
            momentum_factor(self.unit)
        if self.mapping is not None and (self.columns or self.unit):
            msg = "a mapping settles columns and units; leave out --columns and --unit"
            raise UsageError(msg)


@dataclass(frozen=True)
class Interpretation:
    """What the columns of a file mean, and who says so.

    Attributes:
        mapping: The meaning.
        said: What was concluded and not stated, a line each: a person should see it.
        stated: What the caller stated, a line each.
        notes: Which columns are carried along and which are not read, a line each.
    """

    mapping: Mapping
    said: tuple[str, ...] = ()
    stated: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def interpret(table: Table, molecule: Molecule, reading: Reading) -> Interpretation:
    """Return what the columns of a table mean.

    Raises:
        DataError: Where it cannot be told, or where what is stated contradicts the file.
    """
    native = is_native_header(table.names, molecule) and reading.mapping is None
    if reading.mapping is not None:
        found = Interpretation(reading.mapping)
    elif native:
        found = Interpretation(_native(table, molecule, reading), stated=_stated(reading))
    else:
        found, filled = _concluded(table, molecule, reading)
        if filled:
            what = f"there is no column for {', '.join(filled[:6])}; are they 0 by the choice of axes? "
            what += "flowcei convert --guess writes a mapping that says so, to be checked and given as "
            raise DataError(f"{what}--mapping", path=table.path)
    return _completed(found, table, molecule, reading, native=native)


def guessed(path: Path, molecule: Molecule, reading: Reading) -> tuple[Mapping, list[str]]:
    """Return what the columns of a file probably mean, and what of that a person should check.

    Raises:
        UsageError: For a missing file.
        DataError: Where it cannot be told.
    """
    table = open_table(path, reading.format, reading.mapping)
    if is_native_header(table.names, molecule):
        return native_mapping(table, molecule), ["the columns of flowcei: no mapping is needed"]
    try:
        found, filled = _concluded(table, molecule, reading)
    except DataError as error:
        names = ", ".join(table.names[:100]) + (", ..." if len(table.names) > 100 else "")
        said = [f"could not be told: {error.what}", f"the columns of the file are {names}"]
        return blank_mapping(table, molecule), [*said, "a column name, or 0, belongs where a ? stands"]
    found = _completed(found, table, molecule, reading)
    zeros = [f"taken for 0, as no column has it: {', '.join(filled)}"] if filled else []
    return found.mapping, [*found.said, *found.stated, *found.notes, *zeros]


def _stated(reading: Reading) -> tuple[str, ...]:
    order = " ".join(reading.columns.replace(",", " ").split())
    lines = (f"ions in the order {order}, as --columns states",) if order else ()
    return (*lines, f"momenta in {reading.unit}, as --unit states") if reading.unit else lines


def _native(table: Table, molecule: Molecule, reading: Reading) -> Mapping:
    """Return the meaning of flowcei's own columns, in the unit that was stated for them, if any was."""
    mapping = native_mapping(table, molecule, reading.faults)
    if reading.columns:
        msg = f"{table.path}: its columns say which ion is which; leave out --columns"
        raise UsageError(msg)
    return mapping.with_units(momenta=reading.unit or unit_of_columns(table, mapping.momenta.components))


def _completed(
    found: Interpretation, table: Table, molecule: Molecule, reading: Reading, *, native: bool = False
) -> Interpretation:
    """Return a meaning that names the extra columns, and what a person should know of them.

    Raises:
        DataError: For units that the file contradicts, a column of flowcei's own tables that is
            misspelled, or for no extra column that the mapping names as one.
    """
    mapping = found.mapping
    if set(mapping.names) <= set(table.names):  # else it is refused where it is read
        check_units(table, mapping)
    own = {*mapping.names, *(component_names(molecule.labels) if native else ())}
    rest = [name for name in table.names if name not in own and not name.startswith(PLACEHOLDERS)]
    names = _extra_names(mapping, rest, table, molecule, reading, native=native)
    if len(names) > MOST_COLUMNS:
        what = f"none of {len(names)} further columns is carried along: a mapping's columns names up to"
        mapping = mapping.model_copy(update={"columns": ()})
        return replace(found, mapping=mapping, notes=(f"{what} {MOST_COLUMNS}",))
    notes = []
    if mapping.columns is None:
        names = table.numeric(names)
        names = _of_events(table, mapping, names) if mapping.rows == "ion" else names
        notes += [f"extra columns carried along: {listed(names)}"] if names else []
    unread = [*(name for name in rest if name not in names), *table.unread]
    notes += [f"columns not read: {listed(unread)}"] if unread else []
    mapping = mapping.model_copy(update={"columns": tuple(names)})
    return replace(found, mapping=mapping, notes=tuple(notes))


def _extra_names(
    mapping: Mapping, rest: list[str], table: Table, molecule: Molecule, reading: Reading, *, native: bool
) -> list[str]:
    """Return the columns that may be extra ones: those that the mapping names, or the rest of the file."""
    # Where nobody named columns, NAME#k is one of many numbers.
    names = [name for name in rest if table.titled or not _NUMBERED.search(name)]
    names = names if mapping.columns is None else list(mapping.columns)
    problems = {name: problem for name in names if (problem := column_problem(name, molecule))}
    for name, problem in problems.items() if native or mapping.columns is not None else ():
        what = f"unknown column: it {problem}; rename or remove it"
        refuse(DataError(what, path=table.path, column=name), "columns", reading.faults)
    return [name for name in names if name not in problems]


def _of_events(table: Table, mapping: Mapping, names: list[str]) -> list[str]:
    """Return which columns of a table of ions are the same for all ions of an event, by the first rows."""
    part = next(table.chunks([mapping.event, *names], rows=_LOOK), None) if names else None
    if part is None:
        return []
    number = part[mapping.event].to_numpy()
    group = np.concatenate([[0], np.cumsum(number[1:] != number[:-1])])
    # The last event may go on in the next part; what it begins with is the same anyway.
    several = part[names].groupby(group).nunique(dropna=False).max()
    return [name for name in names if several[name] <= 1]


def _concluded(table: Table, molecule: Molecule, reading: Reading) -> tuple[Interpretation, tuple[str, ...]]:
    """Return a guess with the units that its numbers show, and the components that no column has.

    Raises:
        DataError: For columns or units that cannot be told.
    """
    guess = guess_mapping(table, molecule, reading.columns, reading.unit)
    mapping, said = guess.mapping, list(guess.said)
    if guess.open:
        velocities = momentum_factor(mapping.momenta.unit)[1]
        bare = mapping.with_units("hbar/bohr", "bohr")  # numbers as the file has them
        part = next(mapped_chunks(table, bare, molecule, rows=_LOOK), None)
        if part is None or not len(part):
            raise DataError(f"no event of {molecule.name} among the first rows", path=table.path)
        if "momenta" in guess.open:
            unit, why = infer_momentum_unit(part.momenta, molecule, table.path, velocities=velocities)
            said.append(f"{'velocities' if velocities else 'momenta'} taken to be in {why}")
            mapping = mapping.with_units(momenta=unit)
        if "positions" in guess.open and part.positions is not None:
            factor, velocities = momentum_factor(mapping.momenta.unit)
            with np.errstate(over="ignore"):
                p = part.momenta * factor * (molecule.masses[:, None] if velocities else 1.0)
            unit, why = infer_length_unit(part.positions, p, molecule, table.path)
            said.append(f"positions taken to be in {why}")
            mapping = mapping.with_units(positions=unit)
    return Interpretation(mapping, tuple(said), _stated(reading)), guess.filled
