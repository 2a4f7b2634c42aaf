"""A file of events, whatever its format: opened and checked once, read a chunk at a time, in atomic units."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from flowcei.errors import DataError, UsageError
from flowcei.events.container import Events
from flowcei.events.faults import report_fault
from flowcei.events.foreign.assembly import mapped_chunks
from flowcei.events.foreign.interpretation import (
    Interpretation,
    Reading,
    interpret,
    is_native_header,
    open_table,
)
from flowcei.events.foreign.openedfile import OpenedFile
from flowcei.events.hdf import hdf_chunks, is_native, read_header, read_molecule
from flowcei.events.selection import EventFilter, Tally, sum_chance
from flowcei.experiment.drift import settled_drift
from flowcei.molecules.molecule import Molecule
from flowcei.storage.hdf import opened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from flowcei.events.faults import Faults
    from flowcei.events.foreign.mapping import Mapping
    from flowcei.events.foreign.table import Arrays, Table
    from flowcei.events.hdf import HdfEvents

    Chunks = Callable[[int], Iterator[Arrays]]

_log = logging.getLogger("flowcei")
CHUNK = 65_536  # events that are held at a time
HELD_BYTES = 1 << 27  # text files up to this are parsed once, and their numbers held for the next pass


class EventSource:
    """An opened file of events: whose, how many where it says so, and what a person should know of it.

    `conclusions` were stated by nobody, `statements` by the caller; `column_notes` say which columns are
    carried along and which are not read. `drift` (3,), hbar / bohr, is subtracted from the total momentum.
    """

    def __init__(
        self,
        path: Path,
        molecule: Molecule,
        reading: Reading,
        chunks: Chunks,
        origin: dict[str, Any],
        count: int | None = None,
        meaning: Interpretation | None = None,
    ) -> None:
        """`chunks` yields the arrays of the file, so many events at a time; the first ones tell the drift."""
        self.path, self.molecule, self.count = path, molecule, count
        self.selection, self.faults = reading.selection, reading.faults
        self.conclusions = meaning.conclusions if meaning else ()
        self.statements = meaning.statements if meaning else ()
        self.column_notes = meaning.column_notes if meaning else ()
        self.names: tuple[str, ...] = ()
        self.origin, self.drift, self._chunks = origin, None, chunks
        drift, words = settled_drift(reading.drift, molecule, self._first_momenta)
        self.conclusions += (words,) if words else ()
        if drift is not None:
            self.drift, origin["drift"] = drift.momentum, drift.to_dict()
        self._filter = self._new_filter()

    def _new_filter(self) -> EventFilter:
        return EventFilter(self.path, self.molecule, self.selection, self.drift, self.faults)

    def _first_momenta(self) -> NDArray[np.float64]:
        # The gate on the momentum sum is about the drift, so it cannot come first; the others can.
        gates = replace(self.selection, max_sum=None, noise=None)
        select = EventFilter(self.path, self.molecule, gates, None, self.faults)
        arrays = next(filter(len, map(select, self._chunks(CHUNK))), None)
        if arrays is None:
            raise DataError(f"no event is left ({select.tally})", path=self.path)
        return arrays.momenta

    def log_reading(self) -> None:
        """Log what was concluded and stated, what is carried along, and what a bound on the sum costs."""
        for line in (*self.conclusions, *self.statements, *self.column_notes):
            _log.info("%s: %s", self.path.name, line)
        if any("taken to be" in line for line in self.conclusions):
            _log.info(
                "to state it instead: flowcei convert --guess writes a mapping; check it, then give --mapping"
            )
        if (bound := self.selection.max_sum) is not None:
            _log.info("--max-sum %.3g loses 1 in %.3g true events", bound, 1.0 / sum_chance(bound))

    @property
    def tally(self) -> Tally:
        """What the last pass read and left out."""
        return self._filter.tally

    def chunks(self, rows: int = CHUNK) -> Iterator[Events]:
        """Yield the events that are not left out, about `rows` at a time; DataError where there is none.

        Each is numbered by the file, or by its row in it, from 0.
        """
        self._filter = select = self._new_filter()
        for arrays in map(select, self._chunks(rows)):
            if len(arrays):
                yield self._events(arrays)
        if not select.tally.read:
            raise DataError("holds no event", path=self.path)
        if not select.tally.accepted:
            raise DataError(f"no event is left ({select.tally})", path=self.path)

    def read(self) -> Events:
        """Return all events that are not left out."""
        events = Events.concatenate(list(self.chunks()))
        return events if self._filter.numbered or self.tally.rejected else replace(events, ids=None)

    def _events(self, arrays: Arrays) -> Events:
        return Events(
            self.molecule,
            arrays.momenta,
            arrays.positions,
            arrays.event_id,
            arrays.sigma,
            self.origin,
            arrays.columns,
        )

    def keep_tally(self) -> None:
        """Let the origin of events read from now on say which were left out, and why."""
        self.origin["selection"] = self.selection.to_dict() | self.tally.to_dict()


class _Replay:
    """The chunks of a text file, parsed as far as anybody asked for them, and held for the next pass."""

    def __init__(self, parse: Chunks) -> None:
        self._parse, self._parsed = parse, parse(CHUNK)
        self._held: list[Arrays] = []

    def __call__(self, rows: int) -> Iterator[Arrays]:
        if rows != CHUNK:
            yield from self._parse(rows)
            return
        for k in count():
            if k == len(self._held):
                arrays = next(self._parsed, None)
                if arrays is None:
                    return
                self._held.append(arrays)
            yield self._held[k]


def open_events(path: Path, molecule: Molecule | None = None, reading: Reading | None = None) -> EventSource:
    """Open a file of events, and check its format, columns, units and molecule.

    HDF5 files of flowcei say whose events they are; another file is taken to be of OCS where `molecule` is
    None. `reading` is what the file does not say itself.

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
    file = OpenedFile(path, reading.format)
    if file.format == "hdf5":
        with opened(path) as content:
            if reading.mapping is None and is_native(content):
                return _native(path, read_header(content, path, molecule), reading)
            molecule = molecule or read_molecule(content, path)
    molecule = molecule or Molecule.load("ocs")
    table = open_table(file, reading.mapping, reading.faults)
    meaning = interpret(table.preview(), molecule, reading)
    if file.format in ("text", "xyz") and not reading.allow_truncated:
        try:
            file.check_end("--allow-truncated reads it")
        except DataError as error:
            report_fault(error, "refused", reading.faults)
    parse = partial(_parsed, table, meaning.mapping, molecule, reading.faults)
    chunks: Chunks = parse
    if file.format in ("text", "xyz") and reading.faults is None:
        chunks = _Replay(parse) if file.size <= HELD_BYTES else _noted(parse, file)
    rows = table.rows if meaning.mapping.rows == "event" else None
    origin: dict[str, Any] = {"file": path.name}
    if not is_native_header(table, molecule):
        origin["mapping"] = meaning.mapping.to_dict()
    source = EventSource(path, molecule, reading, chunks, origin, rows, meaning)
    source.names = table.names
    return source


def _noted(parse: Chunks, file: OpenedFile) -> Chunks:
    """The chunks of a text file too large to be held; the second pass over it is noted."""
    passes, size = count(1), file.size >> 20
    what = "%s: %d MB of text, parsed anew in each pass; flowcei convert to HDF5 saves that"

    def chunks(rows: int) -> Iterator[Arrays]:
        if next(passes) == 2:
            _log.info(what, file.path.name, size)
        return parse(rows)

    return chunks


def _parsed(
    table: Table, mapping: Mapping, molecule: Molecule, faults: Faults | None, rows: int
) -> Iterator[Arrays]:
    return mapped_chunks(table, mapping, molecule, rows=rows, faults=faults)


def _native(path: Path, header: HdfEvents, reading: Reading) -> EventSource:
    for option, stated in (("--columns", reading.columns), ("--unit", reading.unit)):
        if stated:
            msg = f"{path} is a file of flowcei, which states its ions and units; leave out {option}"
            raise UsageError(msg)
    chunks = partial(hdf_chunks, path, header, faults=reading.faults)
    return EventSource(path, header.molecule, reading, chunks, header.origin, header.count)
