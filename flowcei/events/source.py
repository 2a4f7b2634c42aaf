"""A file of events, whatever its format: opened and checked once, read a chunk at a time, in atomic units."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, tee
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowcei.errors import DataError, UsageError
from flowcei.events.container import Events
from flowcei.events.faults import report_fault
from flowcei.events.foreign.assembly import mapped_chunks
from flowcei.events.foreign.interpretation import Reading, interpret, is_native_header, open_table
from flowcei.events.foreign.openedfile import OpenedFile
from flowcei.events.hdf import hdf_chunks, is_native, read_header, read_molecule
from flowcei.events.selection import EventFilter, Tally, sum_chance
from flowcei.experiment.drift import settled_drift
from flowcei.molecules.molecule import Molecule
from flowcei.storage.hdf import opened

if TYPE_CHECKING:
    import h5py
    import numpy as np
    from numpy.typing import NDArray

    from flowcei.events.foreign.table import Arrays
    from flowcei.events.selection import Selection

_log = logging.getLogger("flowcei")
CHUNK = 65_536  # events that are held at a time
HELD_BYTES = 1 << 27  # text files up to this are parsed once, and their numbers held for the next pass


@dataclass(eq=False)
class EventSource:
    """An opened file of events: whose, how many where it says so, and what a person should know of it."""

    path: Path
    molecule: Molecule
    reading: Reading
    arrays: Callable[[int], Iterator[Arrays]]  # those of the file, so many events at a time
    origin: dict[str, Any]
    count: int | None = None
    names: tuple[str, ...] = ()  # of columns
    conclusions: tuple[str, ...] = ()  # stated by nobody
    statements: tuple[str, ...] = ()  # by the caller
    column_notes: tuple[str, ...] = ()  # which columns are carried along, and which are not read

    def __post_init__(self) -> None:
        drift, words = settled_drift(self.reading.drift, self.molecule, self._first_momenta)
        self.conclusions += (words,) if words else ()
        self.origin |= {} if drift is None else {"drift": drift.to_dict()}
        self._drift = 0.0 if drift is None else drift.momentum
        self._filter = self._new_filter(self.reading.selection, self._drift)

    def _new_filter(self, selection: Selection, drift: NDArray[np.float64] | float) -> EventFilter:
        return EventFilter(self.path, self.molecule, selection, drift, self.reading.faults)

    def _first_momenta(self) -> NDArray[np.float64]:
        # The gate on the momentum sum is about the drift, so it cannot come first; the others can.
        select = self._new_filter(replace(self.reading.selection, max_sum=None, noise=None, missing=0), 0.0)
        arrays = next(filter(len, map(select, self.arrays(CHUNK))), None)
        if arrays is None:
            raise DataError(f"no event is left ({select.tally})", path=self.path)
        return arrays.momenta

    def log_reading(self) -> None:
        """Log what was concluded and stated, what is carried along, and what a bound on the sum costs."""
        for line in (*self.conclusions, *self.statements, *self.column_notes):
            _log.info("%s: %s", self.path.name, line)
        if any("taken to be" in line for line in self.conclusions):
            advice = "flowcei convert --guess writes a mapping; check it, then give --mapping"
            _log.info("to state it instead: %s", advice)
        if (bound := self.reading.selection.max_sum) is not None:
            _log.info("--max-sum %.3g loses 1 in %.3g true events", bound, 1.0 / sum_chance(bound))

    @property
    def tally(self) -> Tally:
        """What the last pass read and left out."""
        return self._filter.tally

    def chunks(self, rows: int = CHUNK) -> Iterator[Events]:
        """Yield the events that are not left out, about `rows` at a time; DataError where there is none.

        Each is numbered by the file, or by its row in it, from 0.
        """
        self._filter = select = self._new_filter(self.reading.selection, self._drift)
        for arrays in map(select, self.arrays(rows)):
            if len(arrays):
                yield Events.from_arrays(self.molecule, arrays, self.origin)
        if not select.tally.read:
            raise DataError("holds no event", path=self.path)
        if not select.tally.accepted:
            raise DataError(f"no event is left ({select.tally})", path=self.path)

    def read(self) -> Events:
        """Return all events that are not left out."""
        events = Events.concatenate(list(self.chunks()))
        return events if self._filter.numbered or self.tally.rejected else events.unnumbered()

    def keep_tally(self) -> None:
        """Let the origin of events read from now on say which were left out, and why."""
        self.origin["selection"] = self.reading.selection.to_dict() | self.tally.to_dict()


def open_events(path: Path, molecule: Molecule | None = None, reading: Reading | None = None) -> EventSource:
    """Open a file of events, and check its format, columns, units and molecule.

    HDF5 files of flowcei say whose events they are; another file is taken to be of OCS where `molecule` is
    None. `reading` is what the file does not say itself.
    """
    reading = reading or Reading()
    file = OpenedFile(path, reading.format)
    if file.format == "hdf5":
        with opened(path) as content:
            if reading.mapping is None and is_native(content):
                return _native_source(content, path, molecule, reading)
            molecule = molecule or read_molecule(content, path)
    return _foreign_source(file, molecule or Molecule.load("ocs"), reading)


def _native_source(
    content: h5py.File, path: Path, molecule: Molecule | None, reading: Reading
) -> EventSource:
    """The events of an HDF5 file of flowcei."""
    if option := (reading.columns and "--columns") or (reading.unit and "--unit"):
        reason = "is a file of flowcei, which states its ions and units"
        raise UsageError(f"{path} {reason}; leave out {option}")
    header = read_header(content, path, molecule)
    chunks = partial(hdf_chunks, path, header, faults=reading.faults)
    return EventSource(path, header.molecule, reading, chunks, header.origin, header.count)


def _foreign_source(file: OpenedFile, molecule: Molecule, reading: Reading) -> EventSource:
    """The events of a file of another program, or of text."""
    path = file.path
    table = open_table(file, reading.mapping, reading.faults)
    meaning = interpret(table.preview(), molecule, reading)
    if file.format in ("text", "xyz") and not reading.allow_truncated:
        try:
            file.check_end("--allow-truncated reads it")
        except DataError as error:
            report_fault(error, "refused", reading.faults)

    text, passes = file.format in ("text", "xyz"), count(1)

    def parse(rows: int) -> Iterator[Arrays]:
        if text and file.size > HELD_BYTES and next(passes) == 2:
            message = "%s: %d MB of text, parsed anew in each pass; flowcei convert to HDF5 saves that"
            _log.info(message, path.name, file.size >> 20)
        missing = reading.selection.missing
        how: dict[str, Any] = {"rows": rows, "faults": reading.faults, "missing": missing}
        return mapped_chunks(table, meaning.mapping, molecule, **how)

    held = text and file.size <= HELD_BYTES and reading.faults is None
    parsed = tee(parse(CHUNK) if held else (), 1)[0]  # its copies share what any of them has read
    origin: dict[str, Any] = {"file": path.name}
    if not is_native_header(table, molecule):
        origin["mapping"] = meaning.mapping.to_dict()
    return EventSource(
        path,
        molecule,
        reading,
        lambda rows: copy(parsed) if held and rows == CHUNK else parse(rows),
        origin,
        table.rows if meaning.mapping.rows == "event" else None,
        table.names,
        meaning.conclusions,
        meaning.statements,
        meaning.column_notes,
    )
