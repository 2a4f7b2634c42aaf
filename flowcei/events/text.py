"""Events as CSV: the columns of the first study, one row an event, atomic units."""

from __future__ import annotations

import csv
import math
import warnings
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import pandas as pd

from flowcei.errors import DataError
from flowcei.events.container import Events

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import TextIO

    from flowcei.molecule import Molecule

__all__ = ["columns", "read_csv", "write_csv"]

_AXES = "xyz"
_EXTRA = ("event", "sigma")
_MAX_HEADER = 1 << 20
_MAX_EVENT = 1 << 53  # whole numbers are exact in floating point up to here


def columns(labels: Sequence[str], prefix: str = "") -> list[str]:
    """Return the column names of positions, or of momenta with prefix ``p``.

    Example:
        >>> columns(["c", "o"], "p")
        ['pcx', 'pcy', 'pcz', 'pox', 'poy', 'poz']
    """
    return [f"{prefix}{label}{axis}" for label in labels for axis in _AXES]


def read_csv(path: Path, molecule: Molecule) -> Events:
    """Read events of `molecule` from a CSV file.

    The header names the columns in any order: momenta (`pcx`, ...), and where known
    positions (`cx`, ...), `event` (a number for each) and `sigma` (noise, hbar / bohr).
    Blanks around names and a leading column of row numbers without a name are dropped.

    Args:
        path: The file.
        molecule: Whose ions the columns name.

    Returns:
        The events, in atomic units.

    Raises:
        DataError: Saying file, row and column of the first thing that is not right.
    """
    header = _header(path)
    names = [name.strip() for name in header]
    if names[0] in ("", "Unnamed: 0"):
        names[0] = "(row number)"
    has_positions = _check_columns(names, molecule, path)
    table = _numbers(path, names)
    ids = _whole_numbers(table["event"], path) if "event" in names else None
    n = len(molecule)

    def block(prefix: str) -> np.ndarray:
        return table[columns(molecule.labels, prefix)].to_numpy().reshape(-1, n, 3)

    try:
        return Events(
            molecule,
            block("p"),
            block("") if has_positions else None,
            ids=ids,
            sigma=table["sigma"].to_numpy() if "sigma" in names else None,
            origin={"file": path.name},
        )
    except DataError as error:
        raise DataError(str(error), path=path) from error


def _header(path: Path) -> list[str]:
    try:
        with path.open("r", encoding="utf-8-sig", newline="") as file:
            text = file.readline(_MAX_HEADER)
    except (UnicodeDecodeError, OSError) as error:
        raise DataError("not a text file in UTF-8; events are CSV or HDF5", path=path) from error
    if "\0" in text:
        raise DataError("a binary file; events are CSV or HDF5", path=path)
    if ";" in text or "\t" in text:
        raise DataError("fields must be separated by commas, not by ';' or tabs", path=path)
    names = next(csv.reader([text]), [])
    if not any(name.strip() for name in names):
        raise DataError("the first line must name the columns; it is blank", path=path)
    return names


def _check_columns(names: list[str], molecule: Molecule, path: Path) -> bool:
    """Refuse a header that does not fit; return whether it has positions."""
    momenta, positions = columns(molecule.labels, "p"), columns(molecule.labels)
    ions = f"{molecule.name} with ions {', '.join(molecule.labels)}"
    for name in names:
        if names.count(name) > 1:
            raise DataError("the column is there twice; keep one", path=path, column=name)
    missing = [c for c in momenta if c not in names]
    if missing:
        what = f"the momentum column is missing (for {ions}: {momenta[0]} ... {momenta[-1]})"
        if not set(momenta) & set(names):
            seen = ", ".join(name[:20] for name in names[:6]) + (", ..." if len(names) > 6 else "")
            what += f"; the first line is {seen}: has the file no header, or another molecule's?"
        raise DataError(what, path=path, column=missing[0])
    unknown = [c for c in names if c not in (*momenta, *positions, *_EXTRA, "(row number)")]
    if unknown:
        what = f"unknown column; for {ions} rename or remove it"
        raise DataError(what, path=path, column=unknown[0])
    there = [c for c in positions if c in names]
    if there and len(there) < len(positions):
        lost = next(c for c in positions if c not in names)
        what = "the position column is missing; give all positions or none"
        raise DataError(what, path=path, column=lost)
    return bool(there)


def _numbers(path: Path, names: list[str]) -> pd.DataFrame:
    try:
        with warnings.catch_warnings():
            # pandas only warns where every row has more fields than the header.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(
                path,
                header=None,
                skiprows=1,
                names=names,
                index_col=False,
                dtype=np.float64,
                skipinitialspace=True,
                na_filter=False,
                encoding="utf-8-sig",
                quoting=csv.QUOTE_NONE,
            )
    except (ValueError, pd.errors.ParserError, pd.errors.ParserWarning, OSError) as error:
        _refuse_first_bad_cell(path, names, str(error))
    if not np.isfinite(table.to_numpy()).all():
        _refuse_first_bad_cell(path, names, "a number that is not finite")
    if table.empty:
        raise DataError("there is a header but no event", path=path)
    return table


def _refuse_first_bad_cell(path: Path, names: list[str], reason: str) -> NoReturn:
    """Read slowly what could not be read fast, to say exactly where it went wrong."""
    try:
        with path.open("r", encoding="utf-8-sig", newline="") as file:
            next(file)
            lines = (line for line in csv.reader(file, quoting=csv.QUOTE_NONE) if "".join(line).strip())
            for row, cells in enumerate(lines, start=1):
                if len(cells) != len(names):
                    what = f"{len(cells)} fields where the header has {len(names)}"
                    raise DataError(what, path=path, row=row)
                for name, cell in zip(names, cells, strict=True):
                    problem = _problem(cell.strip())
                    if problem:
                        raise DataError(problem, path=path, row=row, column=name)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"not a CSV file ({error})", path=path) from error
    raise DataError(f"cannot be read as numbers ({reason})", path=path)


def _problem(cell: str) -> str | None:
    if not cell:
        return "a blank cell; remove the event or fill in the number"
    try:
        # Python also reads 1_000 and the digits of other scripts; a CSV has neither.
        value = float(cell if cell.isascii() and "_" not in cell else "no number")
    except ValueError:
        return f"{cell[:40]!r} where a number belongs"
    if not math.isfinite(value):
        return f"{cell[:40]!r} is not a finite number; remove the event"
    return None


def _whole_numbers(column: pd.Series, path: Path) -> np.ndarray:
    values = column.to_numpy()
    bad = (values != np.round(values)) | (np.abs(values) > _MAX_EVENT)
    if bad.any():
        row = int(np.argmax(bad)) + 1
        raise DataError("event numbers must be whole, up to 2^53", path=path, row=row, column="event")
    whole = values.astype(np.int64)
    if len(np.unique(whole)) != len(whole):
        repeated = whole[np.flatnonzero(pd.Series(whole).duplicated())[0]]
        raise DataError(f"event number {repeated} is there twice", path=path, column="event")
    return whole


def write_csv(events: Events, path: Path | TextIO) -> None:
    """Write events as CSV; numbers read back exactly."""
    labels = events.molecule.labels
    parts: dict[str, np.ndarray] = {}
    if events.ids is not None:
        parts["event"] = events.ids
    if events.positions is not None:
        flat = events.positions.reshape(len(events), -1)
        parts |= dict(zip(columns(labels), flat.T, strict=True))
    flat = events.momenta.reshape(len(events), -1)
    parts |= dict(zip(columns(labels, "p"), flat.T, strict=True))
    if events.sigma is not None and events.sigma.any():
        parts["sigma"] = events.sigma
    pd.DataFrame(parts).to_csv(path, index=False)
