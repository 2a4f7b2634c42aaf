"""Tables of numbers as text: how they separate and name columns, and their numbers."""

from __future__ import annotations

import csv
import math
import re
import warnings
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from flowcei.errors import DataError
from flowcei.events.extracolumns import EXACT, NAMELESS, NUMBERED
from flowcei.events.faults import report_fault
from flowcei.events.foreign.openedfile import LONG_LINE, MAX_LINE
from flowcei.events.foreign.table import DUPLICATE, LOOK, MAX_COLUMNS, Table

if TYPE_CHECKING:
    import io
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from pathlib import Path

    from flowcei.events.faults import Faults
    from flowcei.events.foreign.mapping import Mapping
    from flowcei.events.foreign.openedfile import OpenedFile

    _Kind = type[float | str]

_SEPARATORS = {"tab": "\t", "blank": r"\s+", ",": ",", ";": ";"}  # as a mapping and as pandas says it
# What programs write where there is no number.
_BLANK = ["", "nan", "NaN", "NAN", "-nan", "NA", "N/A", "null", "None", "--"]
_MAX_NAME = 1000
_TOP = 64  # lines that the dialect is inferred from
_SLOW_CELLS = 1 << 20  # of a chunk that is read line by line: a number takes 32 bytes there
_NUMBER = re.compile(r"[+-]?(\d++(\.\d*+)?|\.\d++)([eEdD][+-]?\d++)?|nan|[+-]?inf(inity)?", re.IGNORECASE)
_SEP_LINE = re.compile(r"sep=.$")  # Excel tells itself the separator on a line of its own
_COMMAS = re.compile(r"[+-]?\d+(?:,\d+)+(?:[eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(?:,\d{3})+")
_GROUPED = re.compile(r'"?[+-]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d*)?"?')  # 12,170.5
_TWO = re.compile(rf'"?(?:{_NUMBER.pattern})"?\s+"?(?:{_NUMBER.pattern})"?', re.IGNORECASE)
_LONG_INTEGER = re.compile(r"[+-]?[0-9]{16,1000}")
_FORTRAN = re.compile(r"[+-]?[\d.]+[dD][+-]?\d+")
_UNTITLED = "rows have one field more than the header: a leading column of row numbers without a name"


@dataclass(frozen=True)
class Dialect:
    """How a text file separates and names its columns."""

    names: tuple[str, ...]  # #1, #2, ... where the file has no header
    separator: str  # , ; tab blank
    decimal: str
    header: bool  # whether a line names the columns
    lead: int = 1  # lines before the first row: comments, names, units
    first: str = ""  # the first row

    def split(self, line: str) -> list[str]:
        """Return the cells of a line of data."""
        if self.separator == "blank":
            return line.split()
        return [cell.strip() for cell in line.rstrip("\r\n").split(_SEPARATORS[self.separator])]


def sniff(
    file: OpenedFile, separator: str = "", *, header: bool | None = None, skip: int = 0, decimal: str = ""
) -> Dialect:
    """Infer how a text file separates and names its columns, but for what is stated.

    Lines at the top that begin with # or % are comments; the last of them names the columns if
    numbers follow it, as many as it has words. A line of words below the names is their units.
    """
    path = file.path
    lead, comment, line, top = _without_comments(_first_lines(file), skip)
    chosen = separator or _separator(line)
    names = _cells(line, chosen, path)
    _check_names(names, path)
    decimal = decimal or _decimal(top, chosen, path)
    dialect = partial(Dialect, separator=chosen, decimal=decimal)
    numeric = _are_numbers(names, decimal)
    if comment and numeric and header is not False:
        words = _cells(comment, separator or _separator(comment), path)
        if len(words) == len(names):
            return dialect(_named(words), header=True, lead=lead, first=line)
    if numeric if header is None else not header:
        return dialect(_named(_numbers_of(names)), header=False, lead=lead, first=line)
    below = next((row for row in top[1:] if row.strip()), "")
    if units := _units_below(names, _cells(below, chosen, path), decimal):
        names = [f"{n} [{unit.strip('[]()')}]" if unit else n for n, unit in zip(names, units, strict=True)]
        lead, below = lead + 1 + top[1:].index(below), ""
    names[0] = NUMBERED if names[0] in ("", "Unnamed: 0") else names[0]
    return dialect(_named(names), header=True, lead=lead + 1, first=below)


def _numbers_of(cells: list[str]) -> list[str]:
    return [f"#{k}" if cell else "" for k, cell in enumerate(cells, start=1)]


def _units_below(names: list[str], cells: list[str], decimal: str) -> list[str]:
    """The cells of the line below the names if they are words, as many as there are names; else none."""
    filled = [cell for cell in cells if cell]
    words = len(cells) == len(names) and not any(_are_numbers([cell], decimal) for cell in filled)
    return cells if words and filled else []


def _first_lines(file: OpenedFile) -> list[str]:
    try:
        lines = list(islice(file.lines(), _TOP))
    except (UnicodeDecodeError, OSError) as error:
        what = "not a text file in UTF-8, nor another format that flowcei reads"
        raise DataError(what, path=file.path) from error
    if "\0" in "".join(lines[:1]):
        raise DataError("a binary file, of no format that flowcei reads", path=file.path)
    if any(len(line) >= MAX_LINE for line in lines):
        raise DataError(LONG_LINE, path=file.path)
    return lines + [""] * (_TOP - len(lines))


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
    """The decimal separator of some lines; a comma may not also be one of thousands, as in 12,170."""
    # A longer line has a cell that no number is: where numbers are read it is named.
    rows = [_cells(line, separator, path) for line in lines if len(line) <= csv.field_size_limit()]
    cells = [(k, cell) for row in rows for k, cell in enumerate(row)]

    def fault(index: int, cell: str, what: str) -> DataError:
        names = rows[0]
        titled = index < len(names) and names[index][:1].isalpha()
        column = names[index] if titled else f"#{index + 1}"
        return DataError(f"{cell[:40]!r}: {what}", path=path, column=column)

    for k, cell in cells:
        if _GROUPED.fullmatch(cell) and (separator == "," or "." in cell or '"' in cell):
            raise fault(k, cell, "a comma separates thousands; write numbers without such commas")
    if separator == ",":
        _check_no_numbers_between_blanks(rows, lines, path)
        return "."
    commas = [(k, cell) for k, cell in cells if _COMMAS.fullmatch(cell)]
    if ambiguous := _ambiguous_comma(commas):
        raise fault(*ambiguous)
    return "," if commas else "."


def _check_no_numbers_between_blanks(rows: list[list[str]], lines: list[str], path: Path) -> None:
    if any(map(_TWO.fullmatch, rows[0] if rows else ())):
        what = f"{lines[0][:40].strip()!r}: numbers with commas between blanks; write them without commas"
        raise DataError(f'{what}, or state separator = "blank" and decimal in a mapping', path=path)


def _ambiguous_comma(commas: list[tuple[int, str]]) -> tuple[int, str, str] | None:
    """Of cells with commas, one whose comma may separate thousands: its column, its text and what to do."""
    what = "does the comma separate thousands or decimals? Write numbers without commas"
    for index, cell in commas:
        if cell.count(",") > 1:
            return index, cell, what
    if commas and all(_THOUSANDS.fullmatch(cell) for _, cell in commas):
        return *commas[0], f'{what}, or state decimal = "," in a mapping'
    return None


def _check_names(names: list[str], path: Path) -> None:
    if not any(names):
        raise DataError("the first line must name the columns; it is blank", path=path)
    if len(names) > MAX_COLUMNS:
        raise DataError(f"{len(names)} columns; {MAX_COLUMNS} at the most", path=path)
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


def _are_numbers(cells: list[str], decimal: str) -> bool:
    """Whether all cells but blank ones are numbers."""
    plain = (cell.replace(",", ".", 1) if decimal == "," else cell for cell in cells if cell)
    return all(map(_NUMBER.fullmatch, plain))


def _named(names: list[str]) -> tuple[str, ...]:
    """Give columns without a name one: a comma at the end of every line makes such a column."""
    return tuple(name or f"{NAMELESS} {k})" for k, name in enumerate(names, start=1))


def _separator(line: str) -> str:
    for name in ("tab", ";", ","):
        if _SEPARATORS[name] in line:
            return name
    return "blank" if len(line.split()) > 1 else ","


class TextTable(Table):
    """A text file as a table; the number of rows is not known before they are read."""

    def __init__(
        self, file: OpenedFile, mapping: Mapping | None = None, faults: Faults | None = None
    ) -> None:
        """`mapping` may state the dialect; `faults` collects duplicate columns and rows that are left out."""
        if mapping is None:
            self._dialect = sniff(file)
        else:
            stated = {"header": mapping.header, "skip": mapping.skip, "decimal": mapping.decimal}
            self._dialect = sniff(file, mapping.separator, **stated)  # type: ignore[arg-type]
        self._file, self.path, self.faults, self.titled = file, file.path, faults, self._dialect.header
        if faults is not None:
            self._dialect = replace(self._dialect, names=self._single(self._dialect.names, faults))
        super().__init__(file.path, self._dialect.names)

    def _single(self, names: tuple[str, ...], faults: Faults) -> tuple[str, ...]:
        """Return a name for every column, each once."""
        widths = [len(self._dialect.split(line)) for _, line in islice(self._rows(), LOOK)]
        if NUMBERED not in names and widths.count(len(names) + 1) > len(widths) // 2:
            what = f"{_UNTITLED}; remove it, or put a comma before the header"
            report_fault(DataError(what, path=self.path), "index-column", faults)
            names = (NUMBERED, *names)
        out: list[str] = []
        for k, name in enumerate(names):
            if name in out:
                report_fault(DataError(DUPLICATE, path=self.path, column=name), "columns", faults)
            out.append(f"{NUMBERED} {k}" if name in out else name)
        return tuple(out)

    def numeric(self, names: Sequence[str]) -> list[str]:
        """Those columns that hold numbers in the first rows, blank cells among them.

        Integers of more digits than float64 holds are none.
        """
        try:
            chunk = next(self.chunks(names, names, rows=LOOK), None) if names else None
        except DataError:  # the reading of the numbers says better what is wrong
            return list(names)
        return [] if chunk is None else [name for name in names if self._is_numeric(chunk[name].unique())]

    def _is_numeric(self, values: Iterable[object]) -> bool:
        cells = {self._pointed(str(value).strip()) for value in values}
        exact = not any(_LONG_INTEGER.fullmatch(cell) and abs(int(cell)) > EXACT for cell in cells)
        return exact and bool(cells - set(_BLANK)) and not any(map(cell_problem, cells))

    def _pointed(self, cell: str) -> str:
        """Return a cell with a decimal point."""
        return cell.replace(",", ".", 1) if self._dialect.decimal == "," else cell

    def _chunks(self, used: list[str], text: Collection[str], rows: int) -> Iterator[pd.DataFrame]:
        numbers = [name for name in self.names if name in used and name not in text]
        row, reason, lines = 0, "", self._rows()
        # pandas drops what every row has too much.
        if not self._dialect.first.strip() or self._fits(self._dialect.first):
            try:
                for chunk in self._fast(numbers, rows):
                    if self._is_short(chunk, numbers, row, lines):
                        break
                    row += len(chunk)
                    yield chunk
                else:
                    return
            except DataError:
                raise
            except (ValueError, pd.errors.ParserError, pd.errors.ParserWarning, OSError) as error:
                reason = " ".join(str(error).split())[:120]
        yield from self._slowly(numbers, row, rows, reason)

    def _fast(self, numbers: list[str], rows: int) -> Iterator[pd.DataFrame]:
        """Yield the rows as pandas reads them; it fails where one is not right, and does not say which."""
        reader: pd.io.parsers.TextFileReader | None = None
        with self._file.stream(guarded=True) as stream:
            while True:
                with warnings.catch_warnings():
                    # pandas only warns where every row has more fields than the header.
                    warnings.simplefilter("error", pd.errors.ParserWarning)
                    try:
                        reader = self._reader(stream, numbers, rows) if reader is None else reader
                        chunk = reader.get_chunk()
                    except (StopIteration, pd.errors.EmptyDataError):
                        return
                if not len(chunk):
                    return
                yield chunk

    def _reader(
        self, stream: io.BufferedReader, numbers: list[str], rows: int
    ) -> pd.io.parsers.TextFileReader:
        return pd.read_csv(
            stream,
            sep=_SEPARATORS[self._dialect.separator],
            header=None,
            names=list(self.names),
            skiprows=self._dialect.lead,
            index_col=False,
            dtype={name: np.float64 if name in numbers else str for name in self.names},
            skipinitialspace=True,
            na_filter=bool(numbers),
            na_values=dict.fromkeys(numbers, _BLANK),
            keep_default_na=False,
            encoding="utf-8",
            compression=None,  # what is packed is not unpacked: it may be endless
            decimal=self._dialect.decimal,
            quoting=csv.QUOTE_NONE,
            chunksize=rows,
        )

    def _fits(self, line: str) -> bool:
        return len(self._dialect.split(line)) == len(self.names)

    def _is_short(
        self, chunk: pd.DataFrame, numbers: list[str], start: int, lines: Iterator[tuple[int, str]]
    ) -> bool:
        """Whether a row of a chunk ends early (it looks like a blank cell); `lines` is consumed."""
        if numbers and chunk[numbers[-1]].isna().any():
            for row, line in lines:
                if row > start and not self._fits(line):
                    return True
                if row == start + len(chunk):
                    break
        return False

    def _slowly(self, numbers: list[str], start: int, rows: int, reason: str) -> Iterator[pd.DataFrame]:
        """Read line by line what cannot be read fast: each row that is not right is a fault."""
        rows = max(1, min(rows, _SLOW_CELLS // len(self.names)))
        numeric = set(numbers)
        kinds: list[_Kind] = [float if name in numeric else str for name in self.names]
        sound: list[list[float | str]] = []
        faulty = False
        for row, line in islice(self._rows(), start, None):
            cells = self._dialect.split(line)
            values = self._plain_values(line, cells, kinds)
            if values is None:
                fault = self._fault(cells, row, kinds)
                if fault is not None:
                    faulty = True
                    report_fault(fault, "fields" if fault.column is None else "cells", self.faults)
                    continue
                pairs = zip(kinds, cells, strict=True)
                values = [self._value(cell) if kind is float else cell for kind, cell in pairs]
            sound.append(values)
            if len(sound) == rows:
                yield pd.DataFrame(sound, columns=list(self.names))
                sound = []
        if not faulty:
            raise DataError(f"cannot be read as numbers ({reason})", path=self.path)
        if sound:
            yield pd.DataFrame(sound, columns=list(self.names))

    def _plain_values(self, line: str, cells: list[str], kinds: list[_Kind]) -> list[float | str] | None:
        """The values of a row, as most are; None where float refuses a cell, or takes it too easily."""
        if not line.isascii() or "_" in line or self._dialect.decimal != ".":
            return None
        try:
            return [kind(cell) for kind, cell in zip(kinds, cells, strict=True)]
        except ValueError:
            return None

    def _value(self, cell: str) -> float:
        return math.nan if cell in _BLANK else float(self._pointed(cell))

    def _fault(self, cells: list[str], row: int, kinds: list[_Kind]) -> DataError | None:
        """Return what is wrong with a row, or None."""
        if len(cells) != len(self.names):
            whose = "the header has" if self._dialect.header else "the first row has"
            return DataError(f"{len(cells)} fields where {whose} {len(self.names)}", path=self.path, row=row)
        for name, kind, cell in zip(self.names, kinds, cells, strict=True):
            if kind is float:
                problem = cell_problem(self._pointed(cell))
                if self._dialect.decimal == "," and "." in cell:
                    problem = f"{cell[:40]!r}: decimals with a point in a file with decimal commas"
                if problem:
                    return DataError(problem, path=self.path, row=row, column=name)
        return None

    def _rows(self) -> Iterator[tuple[int, str]]:
        """Yield the rows as they stand in the file, and their numbers, from 1."""
        try:
            lines = islice(self._file.lines(), self._dialect.lead, None)
            yield from enumerate((line for line in lines if line.strip()), start=1)
        except UnicodeDecodeError as error:
            raise DataError("not a text file in UTF-8", path=self.path) from error


def cell_problem(cell: str) -> str | None:
    """Return why the text of a cell is no number, or None where it is one, blank or not finite.

    Example:
        >>> cell_problem("1_0"), cell_problem("-1e3"), cell_problem("")
        ("'1_0' where a number belongs", None, None)
    """
    if cell in _BLANK:
        return None
    if _FORTRAN.fullmatch(cell):
        return f"{cell[:40]!r}: Fortran's exponent; write an e for the d"
    try:
        # Python also reads 1_000 and the digits of other scripts; a CSV has neither.
        float(cell if cell.isascii() and "_" not in cell else "no number")
    except ValueError:
        return f"{cell[:40]!r} where a number belongs"
    return None
