"""Tables of numbers as text: commas, semicolons, tabs or blanks, with a header or without."""

from __future__ import annotations

import csv
import io
import math
import re
import warnings
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NoReturn, cast

import numpy as np
import pandas as pd

from flowcei.errors import DataError
from flowcei.events.extracolumns import NAMELESS, NUMBERED

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

__all__ = ["Dialect", "TextTable", "cell_problem", "sniff"]

_SEPARATORS = {"tab": "\t", "blank": r"\s+", ",": ",", ";": ";"}
_MAX_LINE = 1 << 20
_MAX_COLUMNS = 10_000
_MAX_NAME = 1000
_MOST_CELLS = 1 << 23  # of a part
# What programs write where there is no number.
_GAPS = ["", "nan", "NaN", "NAN", "-nan", "NA", "N/A", "null", "None", "--"]
_NUMBER = re.compile(r"[+-]?(\d++(\.\d*+)?|\.\d++)([eEdD][+-]?\d++)?|nan|[+-]?inf(inity)?", re.IGNORECASE)
_SEP_LINE = re.compile(r"sep=.$")  # Excel tells itself the separator on a line of its own
_TOP = 64  # lines that are looked at
_LOOK = 10_000  # rows that a column of numbers is told by
_EXACT = 1 << 53  # whole numbers are exact in floating point up to here
_LONG_WHOLE = re.compile(r"[+-]?[0-9]{16,1000}")
_FORTRAN = re.compile(r"[+-]?[\d.]+[dD][+-]?\d+")
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
        cells = line.rstrip("\r\n").split(_SEPARATORS[self.separator])
        return [cell.strip() for cell in cells]

    def refuse_other_length(self, line: str, path: Path, row: int) -> None:
        """Refuse a line that has more or fewer cells than the header.

        Raises:
            DataError: With the row.
        """
        count = len(self.split(line))
        if count != len(self.names):
            whose = "the header has" if self.header else "the first row has"
            raise DataError(f"{count} fields where {whose} {len(self.names)}", path=path, row=row)


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
    lines = _first_lines(path)
    lead = skip + (1 if not skip and _SEP_LINE.match(lines[0]) else 0)
    top, comment = lines[lead:], ""
    while top and top[0].lstrip()[:1] in ("#", "%") and top[0].strip():
        comment, top, lead = top[0].lstrip().lstrip("#%"), top[1:], lead + 1
    line = top[0] if top else ""
    if not line.strip() and comment:
        line, comment = comment, ""
        top, lead = ["", *top], lead - 1
    found = separator or _separator(line)
    names = _cells(line, found, path)
    _refuse_names(names, path)
    following = next((row for row in top[1:] if row.strip()), "")
    decimal = decimal or _decimal(top, found, path)
    numeric = all(_is_number(n, decimal) for n in names if n)
    if comment and numeric and header is not False:
        words = _cells(comment, separator or _separator(comment), path)
        if len(words) == len(names):
            return Dialect(_unique(words), found, header=True, decimal=decimal, lead=lead, first=line)
    if header is None:
        header = not numeric
    if not header:
        names = [f"#{k}" if name else "" for k, name in enumerate(names, start=1)]
        return Dialect(_unique(names), found, header=False, decimal=decimal, lead=lead, first=line)
    units = _cells(following, found, path)
    if len(units) == len(names) and any(units) and not any(_is_number(u, decimal) for u in units if u):
        names = [
            f"{name} [{unit.strip('[]()')}]" if unit else name
            for name, unit in zip(names, units, strict=True)
        ]
        lead += 1 + top[1:].index(following)
        following = ""
    if names[0] in ("", "Unnamed: 0"):
        names[0] = NUMBERED
    return Dialect(_unique(names), found, header=True, decimal=decimal, lead=lead + 1, first=following)


def _decimal(lines: list[str], separator: str, path: Path) -> str:
    """Return what separates the decimals of the numbers of some lines.

    Raises:
        DataError: Where commas separate thousands, or every one may as well: 12,170.
    """
    # A longer line has a cell that no number is: where numbers are read it is named.
    lines = [line for line in lines if len(line) <= csv.field_size_limit()]
    for line in lines:
        for k, cell in enumerate(_cells(line, separator, path)):
            grouped = _GROUPED.fullmatch(cell) and (separator == "," or "." in cell or '"' in cell)
            if grouped:
                what = f"{cell[:40]!r}: a comma separates thousands; write numbers without such commas"
                raise DataError(what, path=path, column=_column(lines, separator, path, k))
            if line is lines[0] and separator == "," and _TWO.fullmatch(cell):
                what = (
                    f"{line[:40].strip()!r}: numbers with commas between blanks; write them without commas, "
                )
                raise DataError(f'{what}or state separator = "blank" and decimal in a mapping', path=path)
    if separator == ",":
        return "."
    commas = [
        (line, cell) for line in lines for cell in _cells(line, separator, path) if _COMMAS.fullmatch(cell)
    ]
    groups = [_THOUSANDS.fullmatch(cell) is not None for _, cell in commas]
    sure = [cell for _, cell in commas if cell.count(",") > 1]
    if sure or (commas and all(groups)):
        cell = sure[0] if sure else commas[0][1]
        line = next(line for line, other in commas if other == cell)
        column = _column(lines, separator, path, _cells(line, separator, path).index(cell))
        what = f"{cell[:40]!r}: does the comma separate thousands or decimals? Write numbers without commas"
        what += "" if sure else ', or state decimal = "," in a mapping'
        raise DataError(what, path=path, column=column)
    return "," if commas else "."


def _column(lines: list[str], separator: str, path: Path, place: int) -> str:
    """Return what a column is called, or its number where the first line does not name it."""
    names = _cells(lines[0], separator, path)
    return names[place] if place < len(names) and names[place][:1].isalpha() else f"#{place + 1}"


def _refuse_names(names: list[str], path: Path) -> None:
    if not any(names):
        raise DataError("the first line must name the columns; it is blank", path=path)
    if len(names) > _MAX_COLUMNS:
        raise DataError(f"{len(names)} columns; {_MAX_COLUMNS} at the most", path=path)
    if max(map(len, names)) > _MAX_NAME:
        raise DataError(f"the name of a column is longer than {_MAX_NAME} characters", path=path)


def _cells(line: str, separator: str, path: Path) -> list[str]:
    """Return the words of a line that may name columns; quotes around them go."""
    try:
        delimiter = _SEPARATORS[separator]
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
            lines = [file.readline(_MAX_LINE) for _ in range(_TOP)]
    except (UnicodeDecodeError, OSError) as error:
        what = "not a text file in UTF-8, nor another format that flowcei reads"
        raise DataError(what, path=path) from error
    if "\0" in lines[0]:
        raise DataError("a binary file, of no format that flowcei reads", path=path)
    if any(len(line) >= _MAX_LINE for line in lines):
        raise DataError("a line of more than a million characters; is it a table?", path=path)
    return lines


def _separator(line: str) -> str:
    for name in ("tab", ";", ","):
        if _SEPARATORS[name] in line:
            return name
    return "blank" if len(line.split()) > 1 else ","


@dataclass(frozen=True)
class TextTable:
    """A text file as a table.

    Attributes:
        path: The file.
        dialect: How it is written.
    """

    path: Path
    dialect: Dialect

    @property
    def names(self) -> tuple[str, ...]:
        """The columns, in the order of the file."""
        return self.dialect.names

    @property
    def rows(self) -> int | None:
        """The number of rows: not known before they are read."""
        return None

    def numeric(self, names: Sequence[str]) -> list[str]:
        """Return which of some columns hold numbers, by the first rows; blank cells may be among them.

        Whole numbers of more digits than float64 holds are none.
        """
        if not names:
            return []
        try:
            part = next(self.chunks(names, names, rows=_LOOK), None)
        except DataError:  # the reading of the numbers says better what is wrong
            return list(names)
        if part is None:
            return []
        out = []
        for name in names:
            cells = [str(cell).strip() for cell in part[name].unique()]
            if self.dialect.decimal == ",":
                cells = [cell.replace(",", ".", 1) for cell in cells]
            exact = not any(_LONG_WHOLE.fullmatch(cell) and abs(int(cell)) > _EXACT for cell in cells)
            if exact and set(cells) - set(_GAPS) and not any(cell_problem(c, gaps=True) for c in cells):
                out.append(name)
        return out

    def chunks(
        self,
        used: Collection[str],
        text: Collection[str] = (),
        *,
        rows: int,
        gaps: Collection[str] = (),
    ) -> Iterator[pd.DataFrame]:
        """Yield the rows, some at a time.

        Args:
            used: Columns that are needed; their cells must be numbers.
            text: Those of them whose cells may be text.
            rows: Of a part, at the most.
            gaps: Those of them that may have blank cells and numbers that are not finite.

        Raises:
            DataError: Naming row and column of the first cell that is not right.
        """
        self._refuse_doubled()
        rows = max(1, min(rows, _MOST_CELLS // len(self.names)))
        numbers = [name for name in self.names if name in used and name not in text]
        kinds: dict[str, type] = {name: np.float64 if name in numbers else str for name in self.names}
        if self.dialect.first.strip():  # pandas drops what every row has too much
            self.dialect.refuse_other_length(self.dialect.first, self.path, 1)
        reader: pd.io.parsers.TextFileReader | None = None
        row = 0
        again = self._lines()
        with cast("io.BufferedReader", io.BufferedReader(_Lines(self.path), 1 << 18)) as file:
            while True:
                try:
                    with warnings.catch_warnings():
                        # pandas only warns where every row has more fields than the header.
                        warnings.simplefilter("error", pd.errors.ParserWarning)
                        if reader is None:
                            for _ in range(self.dialect.lead):
                                _skip_line(file)
                            reader = self._reader(file, kinds, rows, gaps)
                        part = reader.get_chunk()
                        if not len(part):
                            return
                except (StopIteration, pd.errors.EmptyDataError):
                    return
                except DataError:
                    raise
                except (ValueError, pd.errors.ParserError, pd.errors.ParserWarning, OSError) as error:
                    self._refuse_first_bad_cell(numbers, row, str(error), gaps=gaps)
                self._refuse_gaps(part, row, numbers, gaps, again)
                row += len(part)
                yield part

    def _reader(
        self, file: io.BufferedReader, kinds: dict[str, type], rows: int, gaps: Collection[str]
    ) -> pd.io.parsers.TextFileReader:
        return pd.read_csv(
            file,
            sep=_SEPARATORS[self.dialect.separator],
            header=None,
            names=list(self.names),
            index_col=False,
            dtype=kinds,
            skipinitialspace=True,
            na_filter=bool(gaps),
            na_values={name: _GAPS for name in self.names if name in gaps},
            keep_default_na=False,
            encoding="utf-8",
            compression=None,  # what is packed is not unpacked: it may be endless
            decimal=self.dialect.decimal,
            quoting=csv.QUOTE_NONE,
            chunksize=rows,
        )

    def _refuse_doubled(self) -> None:
        if len(set(self.names)) < len(self.names):
            seen: set[str] = set()
            name = next(n for n in self.names if n in seen or seen.add(n))  # type: ignore[func-returns-value]
            raise DataError("the column is there twice; keep one", path=self.path, column=name)

    def _refuse_first_bad_cell(
        self, numbers: list[str], start: int, reason: str, *, gaps: Collection[str]
    ) -> NoReturn:
        """Read slowly what could not be read fast, to say exactly where it went wrong."""
        for row, line in self._lines():
            if row > start:
                self._refuse_line(line, row, numbers, gaps=gaps)
        raise DataError(f"cannot be read as numbers ({' '.join(reason.split())[:120]})", path=self.path)

    def _refuse_gaps(
        self,
        part: pd.DataFrame,
        start: int,
        numbers: list[str],
        gaps: Collection[str],
        lines: Iterator[tuple[int, str]],
    ) -> None:
        """Refuse numbers that are not finite, but for those of some columns; `lines` is where it last was."""
        finite = [name for name in numbers if name not in gaps]
        if not np.isfinite(part[finite].to_numpy()).all():
            self._refuse_first_bad_cell(numbers, start, "a number that is not finite", gaps=gaps)
        if numbers and part[numbers[-1]].isna().any():
            # What a row that is too short lacks at its end looks like a blank cell.
            for row, line in lines:
                if row > start:
                    self.dialect.refuse_other_length(line, self.path, row)
                if row == start + len(part):
                    return

    def _lines(self) -> Iterator[tuple[int, str]]:
        """Yield the rows as they stand in the file, and their numbers, from 1."""
        try:
            with self.path.open("r", encoding="utf-8-sig", newline=None) as file:
                for _ in range(self.dialect.lead):
                    file.readline(_MAX_LINE)
                whole = iter(partial(file.readline, _MAX_LINE), "")
                yield from enumerate((line for line in whole if line.strip()), start=1)
        except UnicodeDecodeError as error:
            raise DataError("not a text file in UTF-8", path=self.path) from error

    def _refuse_line(self, line: str, row: int, numbers: list[str], *, gaps: Collection[str]) -> None:
        self.dialect.refuse_other_length(line, self.path, row)
        for name, cell in zip(self.names, self.dialect.split(line), strict=True):
            if name in numbers:
                comma = self.dialect.decimal == ","
                problem = cell_problem(cell.replace(",", ".", 1) if comma else cell, gaps=name in gaps)
                if comma and "." in cell:
                    problem = f"{cell[:40]!r}: decimals with a point in a file with decimal commas"
                if problem:
                    raise DataError(problem, path=self.path, row=row, column=name)


def _skip_line(file: io.BufferedReader) -> None:
    """Move to the next line; lines end with a newline, a carriage return or both."""
    while start := file.peek():
        ends = [k for k in (start.find(b"\n"), start.find(b"\r")) if k >= 0]
        if not ends:
            file.read(len(start))
            continue
        end = file.read(min(ends) + 1)[-1:]
        if end == b"\r" and file.peek()[:1] == b"\n":
            file.read(1)
        return


def cell_problem(cell: str, *, gaps: bool = False) -> str | None:
    """Return why the text of a cell is no number, or None where it is one.

    Args:
        cell: Its text.
        gaps: Whether it may be blank or not finite.

    Example:
        >>> cell_problem("1_0"), cell_problem("-1e3")
        ("'1_0' where a number belongs", None)
    """
    if not cell:
        return None if gaps else "a blank cell; fill in the number"
    if cell in _GAPS and "nan" not in cell.lower() and not gaps:
        return f"{cell!r} where a number belongs"
    if _FORTRAN.fullmatch(cell):
        return f"{cell[:40]!r}: Fortran's exponent; write an e for the d"
    try:
        # Python also reads 1_000 and the digits of other scripts; a CSV has neither.
        value = float(cell if cell.isascii() and "_" not in cell else "no number")
    except ValueError:
        return None if gaps and cell in _GAPS else f"{cell[:40]!r} where a number belongs"
    if not math.isfinite(value) and not gaps:
        return f"{cell[:40]!r} is not a finite number"
    return None


class _Lines(io.RawIOBase):
    """A file that refuses lines without end and zero bytes: pandas would take all memory for them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("rb")
        if self._file.read(3) != b"\xef\xbb\xbf":  # the mark that some editors put first
            self._file.seek(0)
        self._length = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = self._file.readinto(buffer)
        data = bytes(buffer[:count])
        if b"\0" in data:
            msg = "bytes of 0"
            raise ValueError(msg)
        end = max(data.rfind(b"\n"), data.rfind(b"\r"))
        self._length = count - end - 1 if end >= 0 else self._length + count
        if self._length > _MAX_LINE:
            raise DataError("a line of more than a million characters; is it a table?", path=self._path)
        return count

    def close(self) -> None:
        self._file.close()
        super().close()
