"""A file of events, whatever its format: read a part at a time, in atomic units, selected."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.errors import DataError, UsageError
from flowcei.events.container import Events
from flowcei.events.extracolumns import MOST_COLUMNS, column_problem, listed
from flowcei.events.guess import blank_mapping, checked_order, guess_mapping
from flowcei.events.hdf import hdf_chunks, is_native, look_into
from flowcei.events.inference import infer_length_unit, infer_momentum_unit
from flowcei.events.mapped import Arrays, mapped_chunks
from flowcei.events.mapping import momentum_factor
from flowcei.events.selection import Selection, Tally
from flowcei.events.tables import FORMATS, format_of, open_table
from flowcei.events.text import is_native_header, native_mapping
from flowcei.events.texttable import NAMELESS, NUMBERED, TextTable
from flowcei.files import check_readable
from flowcei.molecule import Molecule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from flowcei.events.guess import Guess
    from flowcei.events.mapping import Mapping
    from flowcei.events.tables import Table

__all__ = ["CHUNK", "EventSource", "Reading", "guessed", "open_events"]

CHUNK = 65_536
"""Events that are held at a time."""

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
        selection: Which events are left out.
    """

    format: str | None = None
    mapping: Mapping | None = None
    columns: str = ""
    unit: str = ""
    selection: Selection = field(default_factory=Selection)

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


@dataclass(eq=False)
class EventSource:
    """A file of events that is read a part at a time.

    Attributes:
        path: The file.
        molecule: Whose ions.
        origin: What the file says of itself, or how it was read.
        said: What was concluded and not stated, a line each: a person should see it.
        notes: What else a person should see: what was stated, and which columns are carried along.
        count: Events in the file, where it says so.
        selection: Which are left out.
        tally: What was read and left out so far.
        drift: Total momentum that is subtracted, each ion's share by mass, (3,), hbar / bohr.
    """

    path: Path
    molecule: Molecule
    origin: dict[str, Any]
    said: tuple[str, ...]
    count: int | None
    selection: Selection
    _arrays: Callable[[int], Iterator[Arrays]]
    notes: tuple[str, ...] = ()
    tally: Tally = field(default_factory=Tally)
    drift: NDArray[np.float64] | None = None
    _numbered: bool = False

    def chunks(self, rows: int = CHUNK) -> Iterator[Events]:
        """Yield the events that are not left out, at most about `rows` at a time.

        Each is numbered by the file, or by its place in it, from 0.

        Raises:
            DataError: For what cannot be read, and where no event is left.
        """
        self.tally.read, self.tally.rejected = 0, {}
        known = _Known(self.path)
        for arrays in self._arrays(rows):
            events = self._judged(arrays, known)
            if len(events):
                yield events
        if not self.tally.read:
            raise DataError("holds no event", path=self.path)
        if not self.tally.kept:
            raise DataError(f"no event is left ({self.tally})", path=self.path)

    def read(self) -> Events:
        """Return all events that are not left out.

        Raises:
            DataError: As `chunks`.
        """
        parts = list(self.chunks())
        whole = Events.concatenate(parts)
        if not self._numbered and not self.tally.rejected:
            return replace(whole, ids=None)
        return whole

    def keep_tally(self) -> None:
        """Let the origin of events read from now on say which were left out, and why."""
        self.origin["selection"] = self.selection.to_dict() | self.tally.to_dict()

    def _judged(self, arrays: Arrays, known: _Known) -> Events:
        first = self.tally.read
        self.tally.read += len(arrays) + arrays.incomplete + arrays.elsewhere
        self.tally.count("incomplete", arrays.incomplete)
        self.tally.count("of another channel", arrays.elsewhere)
        if self.drift is not None:
            masses = self.molecule.masses
            at_rest = arrays.momenta - (masses / masses.sum())[:, None] * self.drift
            arrays = replace(arrays, momenta=at_rest)
        kept = np.ones(len(arrays), dtype=bool)
        for reason, out in self.selection.rejected(arrays, self.molecule).items():
            self.tally.count(reason, int(out.sum()))
            kept &= ~out
        rows = slice(None) if kept.all() else kept  # a view where nothing is left out
        self._numbered = arrays.ids is not None
        ids = np.arange(first, first + len(arrays)) if arrays.ids is None else arrays.ids
        if arrays.ids is not None:
            known.refuse_repeated(arrays.ids)
        try:
            return Events(
                self.molecule,
                arrays.momenta[rows],
                None if arrays.positions is None else arrays.positions[rows],
                ids=ids[rows],
                sigma=None if arrays.sigma is None else arrays.sigma[rows],
                origin=self.origin,
                columns={name: values[rows] for name, values in arrays.columns.items()},
            )
        except DataError as error:
            row = None if error.row is None else first + int(np.flatnonzero(kept)[error.row - 1]) + 1
            raise DataError(error.what, path=self.path, row=row) from error


class _Known:
    """The event numbers seen so far: of parts that only count up, the first and the last are enough."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._parts: list[tuple[int, int, NDArray[np.int64] | None]] = []

    def refuse_repeated(self, ids: NDArray[np.int64]) -> None:
        if not len(ids):
            return
        ordered = np.sort(ids)
        steps = np.diff(ordered)
        repeated = ordered[1:][steps == 0]
        for low, high, known in self._parts:
            among = ordered[np.searchsorted(ordered, low) : np.searchsorted(ordered, high, "right")]
            repeated = np.append(repeated, among if known is None else among[np.isin(among, known)])
        if len(repeated):
            what = f"event number {int(repeated[0])} is there twice"
            raise DataError(what, path=self._path, column="event")
        gapless = bool((steps == 1).all())
        self._parts.append((int(ordered[0]), int(ordered[-1]), None if gapless else ordered))


def open_events(
    path: Path,
    molecule: Molecule | None = None,
    reading: Reading | None = None,
) -> EventSource:
    """Open a file of events, to be read a part at a time.

    Args:
        path: The file.
        molecule: Whose ions they are; HDF5 files of flowcei say so themselves, another file is
            taken to be of OCS where None.
        reading: What the file does not say itself.

    Raises:
        UsageError: For a missing file, or one that needs more to be said.
        DataError: For a file that is not sound, saying where.

    Example:
        >>> import tempfile, flowcei
        >>> from pathlib import Path
        >>> path = Path(tempfile.mkdtemp()) / "events.csv"
        >>> flowcei.write_events(flowcei.simulate("ocs", 5, seed=1), path)
        >>> source = open_events(path)
        >>> [len(events) for events in source.chunks(2)], str(source.tally)
        ([2, 2, 1], '5 events read, none left out')
    """
    reading = reading or Reading()
    check_readable(path)
    found = format_of(path) if reading.format is None else reading.format
    if found == "hdf5" and reading.mapping is None and is_native(path):
        return _native_hdf(path, molecule, reading)
    known = molecule or Molecule.load("ocs")
    table = open_table(path, found, reading.mapping)
    mapping, said = _understood(table, known, path, reading)
    native = is_native_header(table.names, known) and reading.mapping is None
    mapping, notes = _with_columns(mapping, table, known, path, native=native)
    gaps = reading.selection.finite

    def arrays(rows: int) -> Iterator[Arrays]:
        return mapped_chunks(table, mapping, known, path, rows=rows, gaps=gaps)

    count = table.rows if mapping.rows == "event" else None
    origin: dict[str, Any] = {"file": path.name}
    if not is_native_header(table.names, known):
        origin["mapping"] = mapping.to_dict()
    return EventSource(path, known, origin, tuple(said), count, reading.selection, arrays, tuple(notes))


def _with_columns(
    mapping: Mapping, table: Table, molecule: Molecule, path: Path, *, native: bool = False
) -> tuple[Mapping, list[str]]:
    """Return a mapping that names the extra columns, and what a person should know of them.

    Raises:
        DataError: For a column of flowcei's own tables that is misspelled, or for no extra column that
            the mapping names as one.
    """
    stated = mapping.columns is not None
    rest = [n for n in table.names if n not in mapping.names and not n.startswith((NAMELESS, NUMBERED))]
    titled = isinstance(table, TextTable) and table.dialect.header  # else NAME#k is one of many numbers
    names = list(mapping.columns or ()) if stated else [n for n in rest if titled or not _NUMBERED.search(n)]
    problems = {name: column_problem(name, molecule) for name in names}
    wrong = [name for name, problem in problems.items() if problem]
    if wrong and (native or stated):
        what = f"unknown column: it {problems[wrong[0]]}; rename or remove it"
        raise DataError(what, path=path, column=wrong[0])
    names = [name for name in names if name not in wrong]
    if len(names) > MOST_COLUMNS:
        many = f"none of {len(names)} further columns is carried along: a mapping's columns names up to"
        return mapping.model_copy(update={"columns": ()}), [f"{many} {MOST_COLUMNS}"]
    numeric = names if stated else table.numeric(names)
    if mapping.rows == "ion" and not stated:
        numeric = _of_events(table, mapping, numeric)
    notes = [f"extra columns carried along: {listed(numeric)}"] if numeric and not stated else []
    unread = [name for name in rest if name not in numeric]
    if unread:
        notes.append(f"columns not read: {listed(unread)}")
    return mapping.model_copy(update={"columns": tuple(numeric)}), notes


def _of_events(table: Table, mapping: Mapping, names: list[str]) -> list[str]:
    """Return which columns of a table of ions are the same for all ions of an event, by the first rows."""
    part = next(table.chunks([mapping.event, *names], rows=_LOOK, gaps=names), None) if names else None
    if part is None:
        return []
    number = part[mapping.event].to_numpy()
    group = np.concatenate([[0], np.cumsum(number[1:] != number[:-1])])
    # The last event may go on in the next part; what it begins with is the same anyway.
    several = part[names].groupby(group).nunique(dropna=False).max()
    return [name for name in names if several[name] <= 1]


def _native_hdf(path: Path, molecule: Molecule | None, reading: Reading) -> EventSource:
    for option, given in (("--columns", reading.columns), ("--unit", reading.unit)):
        if given:
            msg = f"{path} is a file of flowcei, which states its ions and units; leave out {option}"
            raise UsageError(msg)
    about = look_into(path, molecule)

    def arrays(rows: int) -> Iterator[Arrays]:
        return hdf_chunks(path, about, rows)

    return EventSource(path, about.molecule, about.origin, (), about.count, reading.selection, arrays)


def _understood(table: Table, molecule: Molecule, path: Path, reading: Reading) -> tuple[Mapping, list[str]]:
    """Return what the columns of a table mean, and what of that a person should check.

    Raises:
        DataError: Where it cannot be told.
    """
    if reading.mapping is not None:
        return reading.mapping, []
    if is_native_header(table.names, molecule):
        if reading.unit and momentum_factor(reading.unit) != (1.0, False):
            native = native_mapping(table.names, molecule, path)
            momenta = native.momenta.model_copy(update={"unit": reading.unit})
            return native.model_copy(update={"momenta": momenta}), []
        return native_mapping(table.names, molecule, path), []
    order = checked_order(reading.columns, molecule) if reading.columns else ()
    guess = guess_mapping(table, molecule, path, order, reading.unit)
    if guess.filled:
        what = f"there is no column for {', '.join(guess.filled[:6])}; are they 0 by the choice of axes? "
        what += "flowcei convert --guess writes a mapping that says so, to be checked and given as --mapping"
        raise DataError(what, path=path)
    return _settled(guess, table, molecule, path)


def guessed(path: Path, molecule: Molecule, reading: Reading) -> tuple[Mapping, list[str]]:
    """Return what the columns of a file probably mean, and what of that a person should check.

    Raises:
        UsageError: For a missing file.
        DataError: Where it cannot be told.
    """
    table = open_table(path, reading.format, reading.mapping)
    if is_native_header(table.names, molecule):
        return native_mapping(table.names, molecule, path), ["the columns of flowcei: no mapping is needed"]
    order = checked_order(reading.columns, molecule) if reading.columns else ()
    try:
        guess = guess_mapping(table, molecule, path, order, reading.unit)
        mapping, said = _settled(guess, table, molecule, path)
    except DataError as error:
        names = ", ".join(table.names[:100]) + (", ..." if len(table.names) > 100 else "")
        said = [f"could not be told: {error.what}", f"the columns of the file are {names}"]
        return blank_mapping(table, molecule), [*said, "a column name, or 0, belongs where a ? stands"]
    mapping, notes = _with_columns(mapping, table, molecule, path)
    said += notes
    if guess.filled:
        said.append(f"taken for 0, as no column has it: {', '.join(guess.filled)}")
    return mapping, said


def _settled(guess: Guess, table: Table, molecule: Molecule, path: Path) -> tuple[Mapping, list[str]]:
    """Return a guess with the units that its numbers show, and all that it concluded.

    Raises:
        DataError: For units that cannot be told.
    """
    mapping, said = guess.mapping, list(guess.said)
    if not guess.open:
        return mapping, said
    velocities = momentum_factor(mapping.momenta.unit)[1]
    part = next(mapped_chunks(table, _in_file_units(mapping), molecule, path, rows=_LOOK, gaps=True), None)
    if part is None or not len(part):
        raise DataError(f"no event of {molecule.name} among the first rows", path=path)
    if "momenta" in guess.open:
        unit, why = infer_momentum_unit(part.momenta, molecule, path, velocities=velocities)
        said.append(f"{'velocities' if velocities else 'momenta'} taken to be in {why}")
        momenta = mapping.momenta.model_copy(update={"unit": unit})
        mapping = mapping.model_copy(update={"momenta": momenta})
    if "positions" in guess.open and mapping.positions is not None and part.positions is not None:
        factor, velocities = momentum_factor(mapping.momenta.unit)
        with np.errstate(over="ignore"):
            p = part.momenta * factor * (molecule.masses[:, None] if velocities else 1.0)
        unit, why = infer_length_unit(part.positions, p, molecule, path)
        said.append(f"positions taken to be in {why}")
        places = mapping.positions.model_copy(update={"unit": unit})
        mapping = mapping.model_copy(update={"positions": places})
    return mapping, said


def _in_file_units(mapping: Mapping) -> Mapping:
    """Return a mapping that leaves numbers as the file has them."""
    changes: dict[str, Any] = {"momenta": mapping.momenta.model_copy(update={"unit": "hbar/bohr"})}
    if mapping.positions is not None:
        changes["positions"] = mapping.positions.model_copy(update={"unit": "bohr"})
    return mapping.model_copy(update=changes)
