"""What the columns of a file mean: by its own words, by a mapping, or by a guess that is reported."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flowcei.errors import DataError, UsageError
from flowcei.events.extracolumns import (
    MOST_COLUMNS,
    NAMELESS,
    PLACEHOLDERS,
    column_problem,
    component_names,
    listed,
)
from flowcei.events.faults import report_fault
from flowcei.events.foreign import FORMATS
from flowcei.events.foreign.binary import HdfTable, NpyTable, ParquetTable, RootTable
from flowcei.events.foreign.guess import Guesser, triples
from flowcei.events.foreign.mapping import Mapping, Vectors
from flowcei.events.foreign.openedfile import OpenedFile
from flowcei.events.foreign.structures import XyzTable
from flowcei.events.foreign.table import LOOK
from flowcei.events.foreign.text import TextTable
from flowcei.events.foreign.units import check_units, unit_of_columns
from flowcei.events.selection import Selection
from flowcei.units import momentum_factor

if TYPE_CHECKING:
    from flowcei.events.faults import Faults
    from flowcei.events.foreign.table import Table
    from flowcei.molecules.molecule import Molecule

_ELEMENT = re.compile(r"#\d+$")


@dataclass(frozen=True)
class Reading:
    """How a file is to be read, where it does not say so itself.

    UsageError for an unknown format or unit, or a mapping beside what it would settle.

    Example:
        >>> Reading(columns="o c s", unit="kg m/s").unit
        'kg m/s'
    """

    format: str | None = None  # text, npy, hdf5, parquet, root or xyz; by the content where None
    mapping: Mapping | None = None  # meaning of the columns; inferred from their names where None
    columns: str = ""  # labels of the ions in the order of the file, where it only numbers them
    unit: str = ""  # of momenta or velocities; inferred from names or sizes where empty
    selection: Selection = field(default_factory=Selection)  # rules for events that are left out
    drift: str = "none"  # of the beam, to be subtracted: none, auto or what `parse_drift` reads
    # Whether the last line of a text file may lack its end: it may be cut in the middle of a number.
    allow_truncated: bool = False
    faults: Faults | None = None  # collects what would be refused; the first fault is raised where None

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        if self.format is not None and self.format not in FORMATS:
            raise UsageError(f"unknown format {self.format!r}; use one of {', '.join(FORMATS)}")
        if self.unit:
            momentum_factor(self.unit)
        if self.mapping is not None and (self.columns or self.unit):
            raise UsageError("a mapping settles columns and units; leave out --columns and --unit")

    @property
    def statements(self) -> tuple[str, ...]:
        """Lines for a person on what the caller stated."""
        order = " ".join(self.columns.replace(",", " ").split())
        lines = (f"ions in the order {order}, as --columns states",) if order else ()
        return (*lines, f"momenta in {self.unit}, as --unit states") if self.unit else lines


@dataclass(frozen=True)
class Interpretation:
    """What the columns of a file mean, with lines for a person: who says so, and what of other columns."""

    mapping: Mapping
    conclusions: tuple[str, ...] = ()  # not stated by anybody
    statements: tuple[str, ...] = ()  # by the caller
    column_notes: tuple[str, ...] = ()  # which are carried along, and which are not read


def open_table(file: OpenedFile, mapping: Mapping | None = None, faults: Faults | None = None) -> Table:
    """The table in a file; `mapping` may say where and how, `faults` collects those of text."""
    path, tree = file.path, mapping.tree if mapping else ""
    readers: dict[str, Callable[[], Table]] = {
        "text": lambda: TextTable(file, mapping, faults),
        "npy": lambda: NpyTable(path),
        "hdf5": lambda: HdfTable(path, tree),
        "parquet": lambda: ParquetTable(path),
        "root": lambda: RootTable(path, tree),
        "xyz": lambda: XyzTable(path),
    }
    return readers[file.format]()


def interpret(table: Table, molecule: Molecule, reading: Reading) -> Interpretation:
    """What the columns of a table mean; DataError where it cannot be told, or contradicts the file."""
    native = is_native_header(table, molecule) and reading.mapping is None
    conclusions, zeros = [], []
    if reading.mapping is not None:
        mapping = reading.mapping
    elif native:
        if reading.columns:
            raise UsageError(f"{table.path}: its columns say which ion is which; leave out --columns")
        mapping = native_mapping(table, molecule, reading.faults)
        unit = reading.unit or unit_of_columns(table, mapping.momenta.components, "momenta")
        mapping = mapping.with_units(momenta=unit)
    else:
        guesser = Guesser(table, molecule, reading.columns, reading.unit)
        mapping, conclusions, zeros = guesser.mapping(), guesser.conclusions, guesser.zeros
    if zeros:
        message = f"there is no column for {', '.join(zeros[:6])}; are they 0 by the choice of axes? "
        message += "flowcei convert --guess writes a mapping that says so, to be checked and given as "
        raise DataError(f"{message}--mapping", path=table.path)
    mapping, notes = _with_extra_columns(mapping, table, molecule, reading, native=native)
    return Interpretation(mapping, tuple(conclusions), reading.statements, notes)


def guessed(path: Path, molecule: Molecule, reading: Reading) -> tuple[Mapping, list[str]]:
    """What the columns of a file probably mean, and what of that a person should check."""
    table = open_table(OpenedFile(path, reading.format), reading.mapping)
    if is_native_header(table, molecule):
        return native_mapping(table, molecule), ["the columns of flowcei: no mapping is needed"]
    guesser = Guesser(table, molecule, reading.columns, reading.unit)
    try:
        mapping = guesser.mapping()
    except DataError as error:
        names = ", ".join(table.names[:100]) + (", ..." if len(table.names) > 100 else "")
        lines = [f"cannot be inferred: {error.what}", f"the columns of the file are {names}"]
        return guesser.blank(), [*lines, "a column name, or 0, belongs where a ? stands"]
    mapping, notes = _with_extra_columns(mapping, table, molecule, reading)
    lines = [*guesser.conclusions, *reading.statements, *notes]
    if guesser.zeros:
        lines.append(f"taken for 0, as no column has it: {', '.join(guesser.zeros)}")
    return mapping, lines


def is_native_header(table: Table, molecule: Molecule) -> bool:
    """Whether column names are those that flowcei writes, or nearly: one momentum is enough."""
    return not set(component_names(molecule.labels, "p")).isdisjoint(table.names)


def native_mapping(table: Table, molecule: Molecule, faults: Faults | None = None) -> Mapping:
    """The meaning of the columns that flowcei writes, in any order: momenta, and perhaps others.

    Those are positions (`cx`, ...), `event` (a number for each) and `sigma` (noise, hbar / bohr).
    `faults` collects columns without a name, and missing positions.
    """
    momenta, positions = component_names(molecule.labels, "p"), component_names(molecule.labels)
    if missing := [name for name in momenta if name not in table.names]:
        ions = f"{molecule.name} with ions {', '.join(molecule.labels)}"
        message = f"the momentum column is missing (for {ions}: {momenta[0]} ... {momenta[-1]})"
        raise DataError(message, path=table.path, column=missing[0])
    for name in table.names:
        if name.startswith(NAMELESS):
            error = DataError("unknown column; name it or remove it", path=table.path, column=name)
            report_fault(error, "columns", faults)
    missing = [name for name in positions if name not in table.names]
    if 0 < len(missing) < len(positions):
        message = "the position column is missing; give all positions or none"
        report_fault(DataError(message, path=table.path, column=missing[0]), "columns", faults)
    starts = Vectors(unit="bohr", ions=triples(molecule.labels, positions))
    return Mapping(
        momenta=Vectors(unit="hbar/bohr", ions=triples(molecule.labels, momenta)),
        positions=None if missing else starts,
        event="event" if "event" in table.names else "",
        sigma="sigma" if "sigma" in table.names else "",
    )


def _with_extra_columns(
    mapping: Mapping, table: Table, molecule: Molecule, reading: Reading, *, native: bool = False
) -> tuple[Mapping, tuple[str, ...]]:
    """The mapping with the extra columns named, and notes on them; its units are checked.

    A column that may be a misspelled one of flowcei is a fault.
    """
    if set(mapping.names) <= set(table.names):  # else it is refused where it is read
        check_units(table, mapping)
    own = {*mapping.names, *(component_names(molecule.labels) if native else ())}
    others = [name for name in table.names if name not in own and not name.startswith(PLACEHOLDERS)]
    names = _extra_names(others, table, mapping, molecule, reading, native=native)
    if len(names) > MOST_COLUMNS:
        message = f"none of {len(names)} further columns is carried along: a mapping's columns names up to"
        return mapping.model_copy(update={"columns": ()}), (f"{message} {MOST_COLUMNS}",)
    notes: tuple[str, ...] = ()
    text = list[str]()
    if mapping.columns is None:
        numbers = table.numeric(names)
        names, text = numbers, [name for name in names if name not in numbers]
        names = _same_in_events(table, mapping, names) if mapping.rows == "ion" else names
        notes += (f"extra columns carried along: {listed(names)}",) if names else ()
    unread = [*(name for name in others if name not in names), *table.unread]
    notes += (f"columns not read: {listed(unread)}",) if unread else ()
    notes += (f"columns of text cannot be carried along, only numbers: {listed(text)}",) if text else ()
    return mapping.model_copy(update={"columns": tuple(names)}), notes


def _extra_names(
    others: list[str], table: Table, mapping: Mapping, molecule: Molecule, reading: Reading, *, native: bool
) -> list[str]:
    """The extra columns that a mapping names, or else all; one that may be misspelled is a fault."""
    # Where nobody named columns, NAME#k is one of many numbers.
    names = [name for name in others if table.titled or not _ELEMENT.search(name)]
    names = names if mapping.columns is None else list(mapping.columns)
    problems = {name: problem for name in names if (problem := column_problem(name, molecule))}
    for name, problem in problems.items() if native or mapping.columns is not None else ():
        message = f"unknown column: it {problem}; rename or remove it"
        report_fault(DataError(message, path=table.path, column=name), "columns", reading.faults)
    return [name for name in names if name not in problems]


def _same_in_events(table: Table, mapping: Mapping, names: list[str]) -> list[str]:
    """Columns of a table of ions that are the same for all ions of an event, by the first rows."""
    chunk = next(table.chunks([mapping.event, *names], rows=LOOK), None) if names else None
    if chunk is None:
        return []
    number = chunk[mapping.event].to_numpy()
    group = np.concatenate([[0], np.cumsum(number[1:] != number[:-1])])
    # The last event may go on in the next chunk; what it begins with is the same anyway.
    several = chunk[names].groupby(group).nunique(dropna=False).max()
    return [name for name in names if several[name] <= 1]
