"""Files of events with all their faults: the reader collects what it would stop at."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from flowcei.check.finding import Finding
from flowcei.errors import DataError
from flowcei.events.extracolumns import NUMBERED, component_names
from flowcei.events.faults import Faults
from flowcei.events.foreign.tables import format_of, open_table
from flowcei.events.source import Reading, open_events
from flowcei.molecules.molecule import Molecule, built_in_molecules

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from flowcei.events.container import Events
    from flowcei.events.source import EventSource

__all__ = ["Content", "read_with_faults"]

_SHOWN = 5  # names or rows that a sentence lists
_REFUSED = "flowcei refuses to read the file"
_ROWS = {
    "fields": "have another number of fields than the header",
    "cells": "hold text where a number belongs",
}
_NUMBERS = {"event-numbers": "are not whole", "repeated": "are there twice"}


@dataclass(eq=False)
class Content:
    """What can be read of a file.

    Attributes:
        molecule: Which molecule it was taken to be of.
        rows: Events in the file.
        events: The sound ones; None where there is none.
        findings: What the reader refuses, or silently drops.
    """

    molecule: Molecule
    rows: int
    events: Events | None
    findings: list[Finding] = field(default_factory=list)


def read_with_faults(
    path: Path, molecule: Molecule | str | None = None, reading: Reading | None = None
) -> Content:
    """Read what is sound in a file of events, and say what is not.

    Args:
        path: The file.
        molecule: As for `read_events`.
        reading: As for `read_events`.

    Raises:
        UsageError: For a missing file or an unknown molecule.
        DataError: For a file that does not hold events of the molecule.

    Example:
        >>> import tempfile, flowcei
        >>> from pathlib import Path
        >>> path = Path(tempfile.mkdtemp()) / "events.csv"
        >>> flowcei.write_events(flowcei.simulate("co2", 3, seed=1), path)
        >>> _ = path.write_text(path.read_text().rstrip() + "oops")
        >>> content = read_with_faults(path, "co2")
        >>> content.rows, len(content.events), content.findings[0].code
        (3, 2, 'cells')
    """
    stated = Molecule.load(molecule) if isinstance(molecule, str) else molecule
    reading = replace(reading or Reading(), faults=Faults())
    try:
        source = open_events(path, stated, reading)
    except DataError as error:
        raise _of_another_molecule(path, stated or Molecule.load("ocs"), reading, error) from error
    faults, events, findings = reading.faults or Faults(), None, []
    try:
        events = source.read()
    except DataError as error:
        if not (faults.kinds or source.tally.rejected):
            raise
        findings = [Finding("error", "refused", str(error), _REFUSED)]
    rows = source.tally.read + faults.rows(*_ROWS)
    if events is not None and faults.rows(*_NUMBERS):
        events = replace(events, ids=None)
    return Content(source.molecule, rows, events, [*_faulty(faults, rows), *findings, *_remarks(source)])


def _faulty(faults: Faults, rows: int) -> list[Finding]:
    """Report what the reader refuses, each kind once."""
    out = []
    for kind in ("index-column", "columns"):
        alike: dict[str, list[str]] = {}
        for error, _ in faults.kinds.get(kind, {}).values():
            alike.setdefault(error.what, []).append(error.column or "")
        for what, names in alike.items():
            fact, _, todo = what.partition("; ")
            fact += f": {_some(names)}" if any(names) else ""
            means = f"{_REFUSED}; the first was taken here, or none"
            out.append(Finding("error", kind, fact, means, todo))
    for kind, words in _ROWS.items():
        if bad := faults.kinds.get(kind):
            where = Counter(error.column for error, _ in bad.values() if error.column)
            what = f"{len(bad)} of {rows} rows ({_some(list(map(str, bad)))}) {words}"
            what += f"; columns {_some([name for name, _ in where.most_common()])}" if where else ""
            out.append(_left_out_here(kind, what, bad))
    if bad := faults.kinds.get("events"):
        what = f"{faults.rows('events')} of {rows} events have a negative sigma"
        out.append(_left_out_here("events", what, bad))
    numbers = [f"{faults.rows(kind)} {words}" for kind, words in _NUMBERS.items() if faults.rows(kind)]
    if numbers:
        means = f"{_REFUSED}; the rows were counted here instead"
        what = f"event numbers: {', '.join(numbers)}"
        out.append(Finding("error", "event-numbers", what, means, "number the events anew"))
    return out + [
        Finding("error", "refused", str(error), _REFUSED)
        for error, _ in faults.kinds.get("refused", {}).values()
    ]


def _left_out_here(code: str, what: str, bad: Collection[int | str]) -> Finding:
    means = f"{_REFUSED}; these rows were left out here"
    values = {"count": len(bad), "first": next(iter(bad))}
    return Finding("error", code, what, means, "remove the events or fill in the numbers", values=values)


def _remarks(source: EventSource) -> list[Finding]:
    """Report what was concluded, stated, carried along, and left out without having been asked for."""
    out = []
    if NUMBERED in source.names[:1]:
        what = "the first column has no name: row numbers"
        means = "flowcei drops it; a program that takes columns by their place is off by one"
        out.append(Finding("note", "index-column", what, means))
    means = "nobody stated it; a wrong guess makes every answer wrong"
    todo = "a mapping states it: flowcei convert --guess"
    out += [Finding("note", "reading", line, means, todo) for line in source.said]
    means = "they were left out here, as every command leaves them out"
    for reason, number in source.tally.unasked.items():
        what = f"{number} of {source.tally.read} events: {source.tally.in_words(reason)}"
        out.append(Finding("warning", "left-out", what, means))
    means = "you stated it; if it is wrong, every answer is"
    out += [Finding("note", "reading", line, means) for line in source.stated]
    means = "nothing is computed from them"
    return out + [Finding("note", "columns", line, means) for line in source.notes]


def _of_another_molecule(path: Path, molecule: Molecule, reading: Reading, refusal: DataError) -> DataError:
    """Return the refusal; of a text file of flowcei with what is missing and which molecule would fit."""
    if reading.mapping is not None or format_of(path, reading.format) != "text":
        return refusal
    try:
        there = set(open_table(path, "text", None, Faults()).names)
    except DataError:
        return refusal
    momenta = component_names(molecule.labels, "p")
    missing = [name for name in momenta if name not in there]
    fitting = [
        name
        for name in built_in_molecules()
        if there.issuperset(component_names(Molecule.load(name).labels, "p"))
    ]
    if not missing or (not fitting and len(missing) == len(momenta)):
        return refusal
    what = (
        f"{len(missing)} of the {len(momenta)} momentum columns of {molecule.name} "
        f"(ions {', '.join(molecule.labels)}) are missing: {_some(missing)}"
    )
    if fitting:
        what += f"; the columns fit {' or '.join(fitting)}: name it with --molecule"
    return DataError(what, path=path)


def _some(items: Sequence[str]) -> str:
    return ", ".join(items[:_SHOWN]) + (", ..." if len(items) > _SHOWN else "")
