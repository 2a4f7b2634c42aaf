"""Files of events with all their faults: the reader collects what it would stop at."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from flowcei.check.finding import Finding
from flowcei.errors import DataError
from flowcei.events.extracolumns import NUMBERED, component_names
from flowcei.events.faults import Faults
from flowcei.events.foreign.interpretation import Reading, open_table
from flowcei.events.foreign.openedfile import OpenedFile
from flowcei.events.source import open_events
from flowcei.molecules.molecule import Molecule, built_in_molecules

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from flowcei.events.container import Events
    from flowcei.events.source import EventSource

_SHOWN = 5  # names or rows that a sentence lists
_REFUSED = "flowcei refuses to read the file"
_LOST = {
    "fields": "have another number of fields than the header",
    "cells": "hold text where a number belongs",
}
_ROWS = _LOST | {"events": "have a negative sigma"}
_NUMBERS = {"event-numbers": "are not whole", "repeated": "are there twice"}


@dataclass(eq=False)
class Content:
    """What can be read of a file."""

    molecule: Molecule  # the one it was taken to be of
    rows: int  # events in the file
    events: Events | None  # the sound ones; None where there is none
    findings: list[Finding] = field(default_factory=list)  # what the reader refuses, or silently drops


def read_with_faults(
    path: Path, molecule: Molecule | str | None = None, reading: Reading | None = None
) -> Content:
    """Read what is sound in a file of events, and say what is not; arguments as of `read_events`."""
    stated = Molecule.load(molecule) if isinstance(molecule, str) else molecule
    faults = Faults()
    reading = replace(reading or Reading(), faults=faults)
    try:
        source = open_events(path, stated, reading)
    except DataError as error:
        raise _of_another_molecule(path, stated or Molecule.load("ocs"), reading, error) from error
    events, findings = None, []
    try:
        events = source.read()
    except DataError as error:
        if not (faults or source.tally.rejected):
            raise
        findings = [Finding("error", "refused", str(error), _REFUSED)]
    rows = source.tally.read + faults.count(*_LOST)
    if events is not None and faults.count(*_NUMBERS):
        events = replace(events, ids=None)
    return Content(source.molecule, rows, events, [*_faulty(faults, rows), *findings, *_remarks(source)])


def _faulty(faults: Faults, rows: int) -> list[Finding]:
    """Report what the reader refuses, each kind once."""
    out = [*_of_columns("index-column", faults), *_of_columns("columns", faults)]
    for kind, words in _ROWS.items():
        bad = faults.get(kind)
        if bad is not None:
            first = [str(error.row) for error in bad.first]
            shown = ", ".join(first[:_SHOWN]) + (", ..." if bad.count > len(first[:_SHOWN]) else "")
            what = f"{bad.count} of {rows} rows ({shown}) {words}"
            named = [name for name, _ in bad.columns.most_common()]
            what += f"; columns {_some(named)}" if named else ""
            means = f"{_REFUSED}; these rows were left out here"
            todo = "remove the events or fill in the numbers"
            values = {"count": bad.count, "first": bad.first[0].row}
            out.append(Finding("error", kind, what, means, todo, values=values))
    numbers = [f"{faults.count(kind)} {words}" for kind, words in _NUMBERS.items() if kind in faults]
    if numbers:
        means = f"{_REFUSED}; the rows were counted here instead"
        what = f"event numbers: {', '.join(numbers)}"
        out.append(Finding("error", "event-numbers", what, means, "number the events anew"))
    cut = faults["refused"].first if "refused" in faults else []
    return out + [Finding("error", "refused", str(error), _REFUSED) for error in cut]


def _of_columns(kind: str, faults: Faults) -> list[Finding]:
    """Report faults of columns, those of the same kind together."""
    alike: dict[str, list[str]] = {}
    for error in faults[kind].first if kind in faults else ():
        alike.setdefault(error.what, []).append(error.column or "")
    out = []
    for what, names in alike.items():
        fact, _, todo = what.partition("; ")
        fact += f": {_some(names)}" if any(names) else ""
        out.append(Finding("error", kind, fact, f"{_REFUSED}; the first was taken here, or none", todo))
    return out


def _remarks(source: EventSource) -> list[Finding]:
    """Report what was concluded, stated, carried along, and left out without having been asked for."""
    out = []
    if NUMBERED in source.names[:1] and "index-column" not in (source.reading.faults or ()):
        what = "the first column has no name: row numbers"
        means = "flowcei drops it; a program that takes columns by their place is off by one"
        out.append(Finding("note", "index-column", what, means))
    means = "nobody stated it; a wrong guess makes every answer wrong"
    todo = "a mapping states it: flowcei convert --guess"
    out += [Finding("note", "reading", line, means, todo) for line in source.conclusions]
    means = "they were left out here, as every command leaves them out"
    for reason, number in source.tally.unasked.items():
        what = f"{number} of {source.tally.read} events: {source.tally.in_words(reason)}"
        out.append(Finding("warning", "left-out", what, means))
    means = "you stated it; if it is wrong, every answer is"
    out += [Finding("note", "reading", line, means) for line in source.statements]
    means = "nothing is computed from them"
    return out + [Finding("note", "columns", line, means) for line in source.column_notes]


def _of_another_molecule(path: Path, molecule: Molecule, reading: Reading, refusal: DataError) -> DataError:
    """Return the refusal; of a text file of flowcei with what is missing and which molecule would fit."""
    file = OpenedFile(path, reading.format)
    if reading.mapping is not None or file.format != "text":
        return refusal
    try:
        there = set(open_table(file, faults=Faults()).names)
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
