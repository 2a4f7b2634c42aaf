"""Files of events with all their faults: what the strict reader stops at is counted here."""

from __future__ import annotations

import csv
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from flowcei.check.finding import Finding
from flowcei.errors import DataError
from flowcei.events.container import Events
from flowcei.events.extracolumns import (
    MOST_COLUMNS,
    NAMELESS,
    NUMBERED,
    column_problem,
    dataset_name,
    name_of_dataset,
)
from flowcei.events.foreign.mapped import Arrays
from flowcei.events.foreign.tables import format_of
from flowcei.events.foreign.texttable import sniff
from flowcei.events.hdf import (
    column_datasets,
    is_column,
    is_native,
    read_array,
    read_molecule,
)
from flowcei.events.selection import Selection, Tally
from flowcei.events.source import Reading, open_events
from flowcei.events.text import columns
from flowcei.molecules.molecule import Molecule, built_in_molecules
from flowcei.storage.files import check_readable
from flowcei.storage.hdf import opened, read_json_attribute

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["Content", "read_with_faults"]

_EXTRA = ("event", "sigma")
_LOOK = 10_000  # rows that a column of numbers is told by
_SHOWN = 5  # names or rows that a sentence lists
_DIAGNOSED = 1 << 27  # bytes: all cells of a file that was refused are held at once
_REFUSED = "flowcei refuses to read the file"


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
    known = Molecule.load(molecule) if isinstance(molecule, str) else molecule
    reading = reading or Reading()
    check_readable(path)
    found = reading.format or format_of(path)
    if found == "hdf5" and reading.mapping is None and is_native(path):
        return _read_hdf(path, known)
    known = known or Molecule.load("ocs")
    try:
        source = open_events(path, known, reading)
        events = source.read()
    except DataError as error:
        if found != "text" or reading.mapping is not None or path.stat().st_size > _DIAGNOSED:
            raise
        return _read_csv(path, known, error)
    findings = [] if found != "text" else _numbered(list(sniff(path).names))
    for line in source.said:
        means = "nobody stated it; a wrong guess makes every answer wrong"
        findings.append(
            Finding("note", "reading", line, means, "a mapping states it: flowcei convert --guess")
        )
    findings += _left_out(source.tally)
    for line in source.stated:
        findings.append(Finding("note", "reading", line, "you stated it; if it is wrong, every answer is"))
    for line in source.notes:
        findings.append(Finding("note", "columns", line, "nothing is computed from them"))
    return Content(known, source.tally.read, events, findings)


def _numbered(names: list[str]) -> list[Finding]:
    if NUMBERED not in names[:1]:
        return []
    what = "the first column has no name: row numbers"
    means = "flowcei drops it; a program that takes columns by their place is off by one"
    return [Finding("note", "index-column", what, means)]


def _read_csv(path: Path, molecule: Molecule, refusal: DataError) -> Content:
    """Read a CSV file that the strict reader refused."""
    try:
        names = list(sniff(path).names)
        lines = list(_lines(path))
    except (DataError, UnicodeDecodeError, csv.Error, OSError):
        raise refusal from None
    momenta, positions = columns(molecule.labels, "p"), columns(molecule.labels)
    if not set(momenta) <= set(names) or not lines:
        raise _of_another_molecule(path, molecule, names, refusal)
    findings = _numbered(names)
    if sum(len(cells) == len(names) + 1 for cells in lines) > len(lines) // 2 and NUMBERED not in names:
        names = [NUMBERED, *names]
        what = "rows have one field more than the header: a leading column of row numbers without a name"
        todo = "remove it, or put a comma before the header"
        findings.append(Finding("error", "index-column", what, _REFUSED, todo))
    extra, wrong = _columns(names, molecule, lines)
    findings += wrong
    used = [c for c in (*momenta, *positions, *_EXTRA) if c in names]
    numbers, faults = _numbers(names, lines, [*used, *extra])
    findings += faults
    partial = [c for c in positions if c in names]
    if partial and len(partial) < len(positions):
        lost = [c for c in positions if c not in names]
        what = f"position columns are missing: {_some(lost)}"
        todo = "give all positions or none"
        findings.append(Finding("error", "columns", what, f"{_REFUSED}; they were ignored here", todo))
    n = len(molecule)
    arrays: dict[str, Any] = {"momenta": numbers[momenta].to_numpy().reshape(-1, n, 3)}
    if len(partial) == len(positions):
        arrays["positions"] = numbers[positions].to_numpy().reshape(-1, n, 3)
    arrays |= {name: numbers[name].to_numpy() for name in _EXTRA if name in used}
    arrays |= {dataset_name(name): numbers[name].to_numpy() for name in extra}
    events, refused = _sound(molecule, arrays, {"file": path.name})
    findings += refused
    if not any(f.severity == "error" for f in findings):
        # The reader found something that this one did not: its word is the one that counts.
        findings.append(Finding("error", "refused", str(refusal), _REFUSED))
    return Content(molecule, len(lines), events, findings)


def _lines(path: Path) -> Iterator[list[str]]:
    with path.open("r", encoding="utf-8-sig", newline="") as file:
        next(file)
        for cells in csv.reader(file, quoting=csv.QUOTE_NONE):
            if "".join(cells).strip():
                yield [cell.strip() for cell in cells]


def _of_another_molecule(path: Path, molecule: Molecule, names: list[str], refusal: DataError) -> DataError:
    """Return the refusal, with what is missing and which molecule would fit."""
    momenta = columns(molecule.labels, "p")
    missing = [c for c in momenta if c not in names]
    if not missing or len(missing) == len(momenta) == 0:
        return refusal
    there = set(names)
    fitting = [
        name for name in built_in_molecules() if set(columns(Molecule.load(name).labels, "p")) <= there
    ]
    if not fitting and len(missing) == len(momenta):
        return refusal
    what = (
        f"{len(missing)} of the {len(momenta)} momentum columns of {molecule.name} "
        f"(ions {', '.join(molecule.labels)}) are missing: {_some(missing)}"
    )
    if fitting:
        what += f"; the columns fit {' or '.join(fitting)}: name it with --molecule"
    return DataError(what, path=path)


def _some(items: list[str]) -> str:
    return ", ".join(items[:_SHOWN]) + (", ..." if len(items) > _SHOWN else "")


def _columns(names: list[str], molecule: Molecule, lines: list[list[str]]) -> tuple[list[str], list[Finding]]:
    """Return the extra columns, those of numbers, and what is wrong with columns: twice there, unknown."""
    out = []
    doubled = [name for name, count in Counter(names).items() if count > 1]
    if doubled:
        what = f"columns that are there twice: {_some(doubled)}"
        out.append(Finding("error", "columns", what, f"{_REFUSED}; the first was taken here", "keep one"))
    expected = {*columns(molecule.labels, "p"), *columns(molecule.labels), *_EXTRA, NUMBERED}
    others = [name for name in dict.fromkeys(names) if name not in expected]
    problems = {name: column_problem(name, molecule) for name in others}
    unknown = [name for name, problem in problems.items() if problem or name.startswith(NAMELESS)]
    if unknown:
        what = f"unknown columns: {_some(unknown)}"
        out.append(Finding("error", "columns", what, f"{_REFUSED}; they were ignored here", "rename them"))
    extra = [name for name in others if name not in unknown]
    whole = [cells for cells in lines[:_LOOK] if len(cells) == len(names)]
    numeric = [n for n in extra if not any(_number(cells[names.index(n)])[1] == "text" for cells in whole)]
    return numeric[:MOST_COLUMNS], out


def _numbers(names: list[str], lines: list[list[str]], used: list[str]) -> tuple[pd.DataFrame, list[Finding]]:
    """Return the rows in which all is a number, blank or not finite, and what is wrong with others."""
    places = {name: names.index(name) for name in used}
    rows: list[list[float]] = []
    ragged: list[int] = []
    bad: dict[str, list[int]] = {}
    where: Counter[str] = Counter()
    for row, cells in enumerate(lines, start=1):
        if len(cells) != len(names):
            ragged.append(row)
            continue
        problems: dict[str, int] = {}
        values = []
        for name, place in places.items():
            value, problem = _number(cells[place])
            values.append(value)
            if problem == "text" or (problem and name == "event"):
                problems.setdefault(problem, row)
                where[name] += 1
        for problem in problems:
            bad.setdefault(problem, []).append(row)
        if not problems:
            rows.append(values)
    out = []
    if ragged:
        what = f"{_rows(ragged, lines)} have another number of fields than the header ({len(names)})"
        out.append(_faulty("fields", what, ragged))
    for problem, numbers in bad.items():
        what = f"{_rows(numbers, lines)} hold {problem}; columns {_some([n for n, _ in where.most_common()])}"
        out.append(_faulty("cells", what, numbers))
    return pd.DataFrame(np.array(rows, dtype=np.float64).reshape(-1, len(used)), columns=used), out


def _rows(rows: list[int], lines: list[list[str]]) -> str:
    return f"{len(rows)} of {len(lines)} rows ({_some([str(row) for row in rows[: _SHOWN + 1]])})"


def _faulty(code: str, what: str, rows: list[int]) -> Finding:
    means = f"{_REFUSED}; these rows were left out here"
    values = {"count": len(rows), "first": rows[0]}
    return Finding("error", code, what, means, "remove the events or fill in the numbers", values=values)


def _number(cell: str) -> tuple[float, str]:
    if not cell:
        return math.nan, "blank cells"
    try:
        # Python also reads 1_000 and the digits of other scripts; a CSV has neither.
        value = float(cell if cell.isascii() and "_" not in cell else "no number")
    except ValueError:
        return math.nan, "text"
    return value, "" if math.isfinite(value) else "NaN or infinite numbers"


def _read_hdf(path: Path, molecule: Molecule | None) -> Content:
    try:
        source = open_events(path, molecule)
        events = source.read()
    except DataError as error:
        content = _damaged_hdf(path, molecule)
        if content is None:
            raise
        if not any(f.severity == "error" for f in content.findings):
            content.findings.append(Finding("error", "refused", str(error), _REFUSED))
        return content
    return Content(events.molecule, source.tally.read, events, _left_out(source.tally))


def _left_out(tally: Tally) -> list[Finding]:
    """Report events that are left out without having been asked for."""
    means = "they were left out here, as every command leaves them out"
    return [
        Finding("warning", "left-out", f"{number} of {tally.read} events: {tally.in_words(reason)}", means)
        for reason, number in tally.unasked.items()
    ]


def _damaged_hdf(path: Path, molecule: Molecule | None) -> Content | None:
    """Read an HDF5 file whose arrays have the right shapes but unsound numbers."""
    try:
        with opened(path) as file:
            own = read_molecule(file, path) or molecule
            arrays = {
                name: read_array(file, name, path).astype(np.float64)
                for name in ("momenta", "positions", "event", "sigma", *column_datasets(file, path))
                if name in file
            }
            origin = read_json_attribute(file, "origin") or {}
    except DataError:
        return None
    if own is None or "momenta" not in arrays or (molecule is not None and not own.same_ions(molecule)):
        return None
    rows = len(arrays["momenta"]) if arrays["momenta"].ndim else 0
    shapes = {"momenta": (rows, len(own), 3), "positions": (rows, len(own), 3)}
    if rows == 0 or any(a.shape != shapes.get(name, (rows,)) for name, a in arrays.items()):
        return None
    return Content(own, rows, *_sound(own, arrays, origin))


def _sound(
    molecule: Molecule, arrays: dict[str, NDArray[np.float64]], origin: dict[str, Any]
) -> tuple[Events | None, list[Finding]]:
    """Return the events among rows that can be used, and what is wrong with the others."""
    p, tally = arrays["momenta"], Tally(len(arrays["momenta"]))
    keep = np.ones(len(p), dtype=bool)
    bare = Arrays(p, arrays.get("positions"), None, arrays.get("sigma"))
    for reason, rows in Selection().rejected(bare, molecule).items():
        if rows.any():
            tally.count(reason, int(rows.sum()), f"row {int(rows.argmax()) + 1}")
            keep &= ~rows
    findings = _left_out(tally)
    negative = arrays["sigma"] < 0 if "sigma" in arrays else ~keep & keep
    if negative.any():
        numbers = [int(k) + 1 for k in np.flatnonzero(negative)]
        what = f"{len(numbers)} of {len(p)} events have a negative sigma"
        findings.append(_faulty("events", what, numbers))
        keep &= ~negative
    ids = arrays.get("event")
    if ids is not None:
        whole = (ids == np.round(ids)) & (np.abs(ids) <= float(1 << 53))
        repeated = pd.Series(ids).duplicated().to_numpy()
        if not whole.all() or repeated.any():
            what = (
                f"event numbers: {int((~whole).sum())} are not whole, {int(repeated.sum())} are there twice"
            )
            means = f"{_REFUSED}; the rows were counted here instead"
            findings.append(Finding("error", "event-numbers", what, means, "number the events anew"))
            ids = None
    if not keep.any():
        return None, findings
    events = Events(
        molecule,
        p[keep],
        arrays["positions"][keep] if "positions" in arrays else None,
        ids=None if ids is None else ids[keep].astype(np.int64),
        sigma=arrays["sigma"][keep] if "sigma" in arrays else None,
        origin=origin,
        columns={name_of_dataset(name): array[keep] for name, array in arrays.items() if is_column(name)},
    )
    return events, findings
