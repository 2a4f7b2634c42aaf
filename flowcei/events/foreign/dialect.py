"""How a text file separates and names its columns: commas, semicolons, tabs or blanks, a header or none."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowcei.errors import DataError
from flowcei.events.extracolumns import NAMELESS, NUMBERED
from flowcei.events.foreign.table import MAX_COLUMNS

if TYPE_CHECKING:
    from pathlib import Path

SEPARATORS = {"tab": "\t", "blank": r"\s+", ",": ",", ";": ";"}
"""What separates columns, as a mapping and as pandas says it."""

MAX_LINE = 1 << 20
"""Characters of a line, at the most."""

_MAX_NAME = 1000
_NUMBER = re.compile(r"[+-]?(\d++(\.\d*+)?|\.\d++)([eEdD][+-]?\d++)?|nan|[+-]?inf(inity)?", re.IGNORECASE)
_SEP_LINE = re.compile(r"sep=.$")  # Excel tells itself the separator on a line of its own
_TOP = 64  # lines that are looked at
_COMMAS = re.compile(r"[+-]?\d+(?:,\d+)+(?:[eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(?:,\d{3})+")
_GROUPED = re.compile(r'"?[+-]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d*)?"?')  # 12,170.5
_TWO = re.compile(rf'"?(?:{_NUMBER.pattern})"?\s+"?(?:{_NUMBER.pattern})"?', re.IGNORECASE)


@dataclass(frozen=True)
class Dialect:
    """How a text file separates and names its columns.

    Attributes:
        names: Of the columns; ``#1``, ``#2``, ... where the file has no header.
        separator: One of ``, ; tab blank``.
        header: Whether a line names the columns.
        decimal: What separates the decimals of a number.
        lead: Lines before the first row: comments, names, units.
        first: The first row, as it stands.
    """

    names: tuple[str, ...]
    separator: str
    header: bool
    decimal: str
    lead: int = 1
    first: str = ""

    def split(self, line: str) -> list[str]:
        """Return the cells of a line of data."""
        if self.separator == "blank":
            return line.split()
        cells = line.rstrip("\r\n").split(SEPARATORS[self.separator])
        return [cell.strip() for cell in cells]


def sniff(
    path: Path, separator: str = "", *, header: bool | None = None, skip: int = 0, decimal: str = ""
) -> Dialect:
    """Find out how a text file separates and names its columns.

    Lines at the top that begin with # or % are comments; the last of them names the columns if
    numbers follow it, as many as it has words. A line of words below the names is their units.

    Args:
        path: The file.
        separator: One of ``, ; tab blank``; found where empty.
        header: Whether a line names the columns; found where None.
        skip: Lines at the top that are no part of the table.
        decimal: What separates decimals; found where empty.

    Raises:
        DataError: For a file that is no text, whose first line is no header and no numbers, or whose
            commas may separate thousands as well as decimals.
    """
    lead, comment, line, top = _without_comments(_first_lines(path), skip)
    chosen = separator or _separator(line)
    names = _cells(line, chosen, path)
    _refuse_names(names, path)
    decimal = decimal or _decimal(top, chosen, path)
    numeric = all(_is_number(name, decimal) for name in names if name)
    if comment and numeric and header is not False:
        words = _cells(comment, separator or _separator(comment), path)
        if len(words) == len(names):
            return Dialect(_unique(words), chosen, header=True, decimal=decimal, lead=lead, first=line)
    if numeric if header is None else not header:
        names = [f"#{k}" if name else "" for k, name in enumerate(names, start=1)]
        return Dialect(_unique(names), chosen, header=False, decimal=decimal, lead=lead, first=line)
    below = next((row for row in top[1:] if row.strip()), "")
    units = _cells(below, chosen, path)
    if len(units) == len(names) and any(units) and not any(_is_number(u, decimal) for u in units if u):
        pairs = zip(names, units, strict=True)
        names = [f"{name} [{unit.strip('[]()')}]" if unit else name for name, unit in pairs]
        lead, below = lead + 1 + top[1:].index(below), ""
    if names[0] in ("", "Unnamed: 0"):
        names[0] = NUMBERED
    return Dialect(_unique(names), chosen, header=True, decimal=decimal, lead=lead + 1, first=below)


def _without_comments(lines: list[str], skip: int) -> tuple[int, str, str, list[str]]:
    """Return how many lines stand before the table, the last comment, the first line, and the lines."""
    lead = skip or int(_SEP_LINE.match(lines[0]) is not None)
    comment = ""
    while lead < len(lines) and lines[lead].strip() and lines[lead].lstrip()[0] in "#%":
        comment, lead = lines[lead].lstrip().lstrip("#%"), lead + 1
    line = "".join(lines[lead : lead + 1])
    if comment and not line.strip():  # no row follows: the comment is the header
        return lead - 1, "", comment, ["", *lines[lead:]]
    return lead, comment, line, lines[lead:]


def _decimal(lines: list[str], separator: str, path: Path) -> str:
    """Return what separates the decimals of the numbers of some lines.

    Raises:
        DataError: Where commas separate thousands, or every one may as well: 12,170.
    """
    # A longer line has a cell that no number is: where numbers are read it is named.
    rows = [_cells(line, separator, path) for line in lines if len(line) <= csv.field_size_limit()]
    cells = [(k, cell) for row in rows for k, cell in enumerate(row)]
    for k, cell in cells:
        if _GROUPED.fullmatch(cell) and (separator == "," or "." in cell or '"' in cell):
            what = f"{cell[:40]!r}: a comma separates thousands; write numbers without such commas"
            raise DataError(what, path=path, column=_column(rows[0], k))
    if separator == ",":
        if any(map(_TWO.fullmatch, rows[0] if rows else ())):
            what = f"{lines[0][:40].strip()!r}: numbers with commas between blanks; write them without commas"
            raise DataError(f'{what}, or state separator = "blank" and decimal in a mapping', path=path)
        return "."
    commas = [(k, cell) for k, cell in cells if _COMMAS.fullmatch(cell)]
    sure = [(k, cell) for k, cell in commas if cell.count(",") > 1]
    if sure or (commas and all(_THOUSANDS.fullmatch(cell) for _, cell in commas)):
        k, cell = (sure or commas)[0]
        what = f"{cell[:40]!r}: does the comma separate thousands or decimals? Write numbers without commas"
        what += "" if sure else ', or state decimal = "," in a mapping'
        raise DataError(what, path=path, column=_column(rows[0], k))
    return "," if commas else "."


def _column(names: list[str], place: int) -> str:
    """Return what a column is called, or its number where the first line does not name it."""
    return names[place] if place < len(names) and names[place][:1].isalpha() else f"#{place + 1}"


def _refuse_names(names: list[str], path: Path) -> None:
    if not any(names):
        raise DataError("the first line must name the columns; it is blank", path=path)
    if len(names) > MAX_COLUMNS:
        raise DataError(f"{len(names)} columns; {MAX_COLUMNS} at the most", path=path)
    if max(map(len, names)) > _MAX_NAME:
        raise DataError(f"the name of a column is longer than {_MAX_NAME} characters", path=path)


def _cells(line: str, separator: str, path: Path) -> list[str]:
    """Return the words of a line that may name columns; quotes around them go."""
    try:
        delimiter = SEPARATORS[separator]
        cells = line.split() if separator == "blank" else next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error as error:  # more characters than the module takes for a cell
        raise DataError("the name of a column is too long; is it a table?", path=path) from error
    return [cell.strip() for cell in cells]


def _is_number(cell: str, decimal: str) -> bool:
    return bool(_NUMBER.fullmatch(cell.replace(",", ".", 1) if decimal == "," else cell))


def _unique(names: list[str]) -> tuple[str, ...]:
    """Give columns without a name one: a comma at the end of every line makes such a column."""
    return tuple(name or f"{NAMELESS} {k})" for k, name in enumerate(names, start=1))


def _first_lines(path: Path) -> list[str]:
    try:
        with path.open("r", encoding="utf-8-sig", newline=None) as file:
            lines = [file.readline(MAX_LINE) for _ in range(_TOP)]
    except (UnicodeDecodeError, OSError) as error:
        what = "not a text file in UTF-8, nor another format that flowcei reads"
        raise DataError(what, path=path) from error
    if "\0" in lines[0]:
        raise DataError("a binary file, of no format that flowcei reads", path=path)
    if any(len(line) >= MAX_LINE for line in lines):
        raise DataError("a line of more than a million characters; is it a table?", path=path)
    return lines


def _separator(line: str) -> str:
    for name in ("tab", ";", ","):
        if SEPARATORS[name] in line:
            return name
    return "blank" if len(line.split()) > 1 else ","
