"""A file of events, whatever its format: read a part at a time, in atomic units, selected."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.errors import DataError, UsageError
from flowcei.events.container import Events
from flowcei.events.faults import refuse
from flowcei.events.foreign.interpretation import Reading, interpret
from flowcei.events.foreign.mapped import Arrays, mapped_chunks
from flowcei.events.foreign.tables import format_of, open_table
from flowcei.events.hdf import hdf_chunks, hdf_molecule, is_native, look_into
from flowcei.events.selection import INCOMPLETE, Selection, Tally
from flowcei.events.text import is_native_header
from flowcei.molecules.molecule import Molecule
from flowcei.storage.files import check_end

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from flowcei.events.faults import Faults

CHUNK = 65_536
"""Events that are held at a time."""


@dataclass(eq=False)
class EventSource:
    """A file of events that is read a part at a time.

    Attributes:
        path: The file.
        molecule: Whose ions.
        origin: What the file says of itself, or how it was read.
        count: Events in the file, where it says so.
        selection: Which are left out.
        said: What was concluded and not stated, a line each: a person should see it.
        stated: What the caller stated, a line each.
        notes: Which columns are carried along and which are not read, a line each.
        tally: What was read and left out so far.
        drift: Total momentum that is subtracted, each ion's share by mass, (3,), hbar / bohr.
        faults: Collects what would be refused; the first fault is raised where None.
        names: The columns, where it is a table.
    """

    path: Path
    molecule: Molecule
    origin: dict[str, Any]
    count: int | None
    selection: Selection
    _arrays: Callable[[int], Iterator[Arrays]]
    said: tuple[str, ...] = ()
    stated: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    tally: Tally = field(default_factory=Tally)
    drift: NDArray[np.float64] | None = None
    faults: Faults | None = None
    names: tuple[str, ...] = ()
    _numbered: bool = False

    def chunks(self, rows: int = CHUNK) -> Iterator[Events]:
        """Yield the events that are not left out, at most about `rows` at a time.

        Each is numbered by the file, or by its place in it, from 0.

        Raises:
            DataError: For what cannot be read, and where no event is left.
        """
        self.tally.read, self.tally.rejected, self.tally.first = 0, {}, {}
        known = _Known(self.path, self.faults)
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

    def first(self, **rules: Any) -> Events:  # noqa: ANN401 (whatever the selection takes)
        """Return the first chunk of events, selected with some rules changed; nothing is counted.

        Raises:
            DataError: As `chunks`.
        """
        return next(replace(self, selection=replace(self.selection, **rules), tally=Tally()).chunks())

    def keep_tally(self) -> None:
        """Let the origin of events read from now on say which were left out, and why."""
        self.origin["selection"] = self.selection.to_dict() | self.tally.to_dict()

    def _judged(self, arrays: Arrays, known: _Known) -> Events:
        first = self.tally.read
        self.tally.read += len(arrays) + arrays.incomplete + arrays.elsewhere
        self.tally.count(INCOMPLETE, arrays.incomplete)
        self.tally.count("of another channel", arrays.elsewhere)
        if self.drift is not None:
            masses = self.molecule.masses
            at_rest = arrays.momenta - (masses / masses.sum())[:, None] * self.drift
            arrays = replace(arrays, momenta=at_rest)
        kept = np.ones(len(arrays), dtype=bool)
        for reason, out in self.selection.rejected(arrays, self.molecule).items():
            if out.any():
                k = int(out.argmax())
                where = f"row {first + k + 1}" if arrays.ids is None else f"event {arrays.ids[k]}"
                self.tally.count(reason, int(out.sum()), where)
            kept &= ~out
        if arrays.sigma is not None and (negative := kept & (arrays.sigma < 0)).any():
            what = f"sigma is not a number >= 0 ({int(negative.sum())} of {len(arrays)} events)"
            error = DataError(what, path=self.path, row=first + int(negative.argmax()) + 1)
            refuse(error, "events", self.faults, int(negative.sum()))
            self.tally.count("with a negative sigma", int(negative.sum()))
            kept &= ~negative
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

    def __init__(self, path: Path, faults: Faults | None) -> None:
        self._path, self._faults = path, faults
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
            error = DataError(
                f"event number {int(repeated[0])} is there twice", path=self._path, column="event"
            )
            refuse(error, "repeated", self._faults, len(repeated))
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
    found = format_of(path, reading.format)
    if found == "hdf5" and reading.mapping is None and is_native(path):
        return _native_hdf(path, molecule, reading)
    known = molecule or (hdf_molecule(path) if found == "hdf5" else None) or Molecule.load("ocs")
    return _table(path, found, known, reading)


def _native_hdf(path: Path, molecule: Molecule | None, reading: Reading) -> EventSource:
    for option, given in (("--columns", reading.columns), ("--unit", reading.unit)):
        if given:
            msg = f"{path} is a file of flowcei, which states its ions and units; leave out {option}"
            raise UsageError(msg)
    about = look_into(path, molecule)

    def arrays(rows: int) -> Iterator[Arrays]:
        return hdf_chunks(path, about, rows, reading.faults)

    return EventSource(
        path, about.molecule, about.origin, about.count, reading.selection, arrays, faults=reading.faults
    )


def _table(path: Path, format: str, molecule: Molecule, reading: Reading) -> EventSource:  # noqa: A002
    table = open_table(path, format, reading.mapping, reading.faults)
    meaning = interpret(table.preview(), molecule, reading)
    mapping = meaning.mapping
    if format in ("text", "xyz") and not reading.allow_truncated:
        try:
            check_end(path, "--allow-truncated reads it")
        except DataError as error:
            refuse(error, "refused", reading.faults)

    def arrays(rows: int) -> Iterator[Arrays]:
        return mapped_chunks(table, mapping, molecule, rows=rows, faults=reading.faults)

    count = table.rows if mapping.rows == "event" else None
    origin: dict[str, Any] = {"file": path.name}
    if not is_native_header(table.names, molecule):
        origin["mapping"] = mapping.to_dict()
    return EventSource(
        path,
        molecule,
        origin,
        count,
        reading.selection,
        arrays,
        said=meaning.said,
        stated=meaning.stated,
        notes=meaning.notes,
        faults=reading.faults,
        names=table.names,
    )
