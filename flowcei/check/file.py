"""Whether data are sound, and whether they can bear the claim that is to rest on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from flowcei.check.agreement import compare_with_simulation, noisiness
from flowcei.check.diagnostic import SEVERITIES, Diagnostic, FileCheck
from flowcei.check.explanation import explanation
from flowcei.check.geometry import centre, constant_columns, degeneracies, likeness
from flowcei.check.momenta import (
    duplicates,
    extremes,
    identical_ions,
    momentum_sums,
    of_experiment,
    plausible_energy,
)
from flowcei.errors import DataError
from flowcei.events.container import Events
from flowcei.events.extracolumns import ACCIDENT, NUMBERED, component_names
from flowcei.events.faults import Faults
from flowcei.events.foreign.interpretation import Reading, open_table
from flowcei.events.foreign.openedfile import OpenedFile
from flowcei.events.source import open_events
from flowcei.experiment.experiment import stated_experiment
from flowcei.molecules.molecule import Molecule, built_in_molecules

if TYPE_CHECKING:
    from flowcei.events.source import EventSource

_MOST = 2000  # events that are re-simulated
_SHOWN = 5  # names or rows that a sentence lists
_REFUSED = "flowcei refuses to read the file"
_LOST = {
    "fields": "have another number of fields than the header",
    "cells": "hold text where a number belongs",
}
_ROWS = _LOST | {"events": "have a negative sigma"}
_NUMBERS = {"event-numbers": "are not whole", "repeated": "are there twice"}


def check_file(
    source: Events | str | Path, molecule: Molecule | str | None = None, reading: Reading | None = None
) -> FileCheck:
    """Look for everything that is wrong with events, or worth knowing before training.

    A file is read as by `read_events`, but to its end: rows and columns that are refused there are
    reported, and the others looked at.

    Args:
        source: A file, or events; without positions what needs them is left out.
        molecule: That a file is of: a molecule, or its name; what the file says, else OCS, where None.
        reading: How a file of another program is read.

    Returns:
        The `diagnostics`, the worst first, with their `verdict` in one line.

    Raises:
        DataError: For a file that is none of events, or of another molecule.

    Example:
        >>> import flowcei
        >>> events = flowcei.simulate("ocs", 500, noise="1%", seed=1)
        >>> flowcei.check_file(events).verdict
        'sound: 0 errors, 0 warnings; the positions explain the momenta'
    """
    if isinstance(source, Events):
        return FileCheck("", source.molecule.name, len(source), source, _worst_first(_diagnostics(source)))
    path, faults = Path(source), Faults()
    stated = Molecule.load(molecule) if isinstance(molecule, str) else molecule
    reading = replace(reading or Reading(), faults=faults)
    try:
        opened = open_events(path, stated, reading)
    except DataError as error:
        raise _of_another_molecule(path, stated or Molecule.load("ocs"), reading, error) from error
    events, refusal = None, []
    try:
        events = opened.read()
    except DataError as error:
        if not (faults or opened.tally.rejected):
            raise
        refusal = [Diagnostic("error", "refused", str(error), _REFUSED)]
    rows = opened.tally.read + faults.count(*_LOST)
    if events is not None and faults.count(*_NUMBERS):
        events = events.unnumbered()
    lines = [*_refused(faults, rows), *refusal, *_remarks(opened)]
    lines += _diagnostics(events) if events is not None else ()
    return FileCheck(str(source), opened.molecule.name, rows, events, _worst_first(lines))


def unbounded(events: Events, *, coordinates: Literal["chart", "raw"] = "chart") -> list[Diagnostic]:
    """Return what lets the likelihood of a flow grow without bound: positions that fill no volume.

    Coordinates: ``chart`` (relative positions, recoil frame: those of training), ``raw`` (columns).
    """
    lines = [*constant_columns(events), *degeneracies(events)]
    return _worst_first(line for line in lines if line.unbounded and coordinates in ("raw", line.unbounded))


def _worst_first(lines: Iterable[Diagnostic]) -> list[Diagnostic]:
    return sorted(lines, key=lambda line: SEVERITIES.index(line.severity))


def _diagnostics(events: Events) -> Iterator[Diagnostic]:
    """Look at sound events."""
    if extreme := list(extremes(events)):
        yield from extreme
        return
    if own := stated_experiment(events.origin):  # accidents, which have no geometry, are known
        sound = events.columns.get(ACCIDENT, np.zeros(len(events))) != 1
        events = own.rightly_assigned(events[sound] if sound.any() else events)
    noise = noisiness(events)
    yield from of_experiment(events, own) if own else momentum_sums(events, noise)
    yield from constant_columns(events)
    yield from (*duplicates(events), *identical_ions(events))
    if events.positions is None:
        message = "momenta only: nothing here shows which ions they are of, with which charges and prior"
        means = "the events can be reconstructed, if they are what a model believes: see below"
        yield from (plausible_energy(events), Diagnostic("note", "momenta-only", message, means))
        return
    # From the whole length of a file: what is wrong may begin anywhere.
    rows = np.unique(np.linspace(0, len(events) - 1, _MOST).astype(np.int64))
    agreement = compare_with_simulation(events[rows], noise)
    if agreement is None:
        message = "no event has positions that can explode: ions coincide in all of them"
        means, todo = "there is no geometry to learn", "look at the columns"
        yield Diagnostic("error", "coincident", message, means, todo)
        return
    yield from (*explanation(agreement), centre(events))
    yield from degeneracies(events)
    if not agreement.motion:  # priors by name have none
        yield likeness(agreement.events)


def _refused(faults: Faults, rows: int) -> Iterator[Diagnostic]:
    """Report what the reader refuses, each kind once."""
    yield from (*_of_columns("index-column", faults), *_of_columns("columns", faults))
    for kind, reason in _ROWS.items():
        if (bad := faults.get(kind)) is None:
            continue
        first = [str(error.row) for error in bad.first][:_SHOWN]
        shown = ", ".join(first) + (", ..." if bad.count > len(first) else "")
        columns = [name for name, _ in bad.columns.most_common()]
        message = f"{bad.count} of {rows} rows ({shown}) {reason}"
        message += f"; columns {_listed(columns)}" if columns else ""
        means, todo = f"{_REFUSED}; these rows were left out here", "remove the events or fill in the numbers"
        values = {"count": bad.count, "first": bad.first[0].row}
        yield Diagnostic("error", kind, message, means, todo, values=values)
    if numbers := [f"{faults.count(kind)} {words}" for kind, words in _NUMBERS.items() if kind in faults]:
        message = f"event numbers: {', '.join(numbers)}"
        means = f"{_REFUSED}; the rows were counted here instead"
        yield Diagnostic("error", "event-numbers", message, means, "number the events anew")
    for error in faults["refused"].first if "refused" in faults else ():
        yield Diagnostic("error", "refused", str(error), _REFUSED)


def _of_columns(kind: str, faults: Faults) -> Iterator[Diagnostic]:
    """Report faults of columns, those of the same kind together."""
    alike: dict[str, list[str]] = {}
    for error in faults[kind].first if kind in faults else ():
        alike.setdefault(error.what, []).append(error.column or "")
    for reason, names in alike.items():
        message, _, todo = reason.partition("; ")
        message += f": {_listed(names)}" if any(names) else ""
        yield Diagnostic("error", kind, message, f"{_REFUSED}; the first was taken here, or none", todo)


def _remarks(source: EventSource) -> Iterator[Diagnostic]:
    """Report what was concluded, stated, carried along, and left out without having been asked for."""
    if NUMBERED in source.names[:1] and "index-column" not in (source.reading.faults or ()):
        message = "the first column has no name: row numbers"
        means = "flowcei drops it; a program that takes columns by their place is off by one"
        yield Diagnostic("note", "index-column", message, means)
    means = "they were left out here, as every command leaves them out"
    for reason, number in source.tally.unasked.items():
        message = f"{number} of {source.tally.read} events: {source.tally.in_words(reason)}"
        yield Diagnostic("warning", "left-out", message, means)
    guess = "nobody stated it; a wrong guess makes every answer wrong"
    todo = "a mapping states it: flowcei convert --guess"
    yield from (Diagnostic("note", "reading", line, guess, todo) for line in source.conclusions)
    stated = "you stated it; if it is wrong, every answer is"
    yield from (Diagnostic("note", "reading", line, stated) for line in source.statements)
    unused = "nothing is computed from them"
    yield from (Diagnostic("note", "columns", line, unused) for line in source.column_notes)


def _of_another_molecule(path: Path, molecule: Molecule, reading: Reading, refusal: DataError) -> DataError:
    """Return the refusal; of a text file of flowcei with what is missing and which molecule would fit."""
    file = OpenedFile(path, reading.format)
    if reading.mapping is not None or file.format != "text":
        return refusal
    try:
        columns = set(open_table(file, faults=Faults()).names)
    except DataError:
        return refusal
    momenta = component_names(molecule.labels, "p")
    missing = [name for name in momenta if name not in columns]
    names = built_in_molecules()
    fitting = [n for n in names if columns.issuperset(component_names(Molecule.load(n).labels, "p"))]
    if not missing or (not fitting and len(missing) == len(momenta)):
        return refusal
    counted = f"{len(missing)} of the {len(momenta)} momentum columns of {molecule.name}"
    message = f"{counted} (ions {', '.join(molecule.labels)}) are missing: {_listed(missing)}"
    if fitting:
        message += f"; the columns fit {' or '.join(fitting)}: name it with --molecule"
    return DataError(message, path=path)


def _listed(items: Sequence[str]) -> str:
    return ", ".join(items[:_SHOWN]) + (", ..." if len(items) > _SHOWN else "")
