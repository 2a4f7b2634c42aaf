"""Tables of numbers as text: how they separate and name columns, and their numbers."""

from __future__ import annotations

import csv
import math
import re
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flowcei.errors import DataError
from flowcei.events.extracolumns import EXACT, NAMELESS, NUMBERED
from flowcei.events.faults import report_fault
from flowcei.events.foreign.table import DUPLICATE, LOOK, MAX_COLUMNS, Table

if TYPE_CHECKING:
    import pandas as pd

    from flowcei.events.faults import Faults
    from flowcei.events.foreign.mapping import Mapping
    from flowcei.events.foreign.openedfile import OpenedFile

_SEPARATORS = {"tab": "\t", ";": ";", ",": ",", "blank": r"\s+"}  # as a mapping and as pandas says it
# What programs write where there is no number.
_BLANK = ["", "nan", "NaN", "NAN", "-nan", "NA", "N/A", "null", "None", "--"]
_MAX_NAME = 1000
_TOP = 64  # lines that the dialect is inferred from
_SLOW_CELLS = 1 << 20  # of a chunk that is read line by line: a number takes 32 bytes there
_NUMBER = re.compile(r"[+-]?(\d++(\.\d*+)?|\.\d++)([eEdD][+-]?\d++)?|nan|[+-]?inf(inity)?", re.IGNORECASE)
_COMMAS = re.compile(r"[+-]?\d+(?:,\d+)+(?:[eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(?:,\d{3})+")
_GROUPED = re.compile(rf'"?{_THOUSANDS.pattern}(?:\.\d*)?"?')  # 12,170.5
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
    lead: int  # lines before the first row: comments, names, units

    def split(self, line: str) -> list[str]:
        """Cells of a line of data."""
        if self.separator == "blank":
            return line.split()
        return [cell.strip() for cell in line.rstrip("\r\n").split(_SEPARATORS[self.separator])]


def sniff(
    file: OpenedFile, separator: str = "", *, header: bool | None = None, skip: int = 0, decimal: str = ""
) -> Dialect:
    """How a text file separates and names its columns: as stated, else inferred from its first lines.

    Lines at the top that begin with # or % are comments; the last of them names the columns if
    numbers follow it, as many as it has words. A line of words below the names is their units.
    """
    path = file.path
    lead, comment, top = _without_comments(_first_lines(file), skip)
    chosen = separator or _separator(top[0])
    # A longer line below has a cell that no number is: where numbers are read it is named.
    short = [line if len(line) <= csv.field_size_limit() else "" for line in top[1:]]
    rows = [_cells(line, chosen, path) for line in (top[0], *short)]
    _check_names(rows[0], path)
    decimal = decimal or _decimal(rows, top[0], chosen, path)
    titles = _cells(comment, separator or _separator(comment), path) if comment else []
    numeric, titled_above = _are_numbers(rows[0], decimal), len(titles) == len(rows[0])
    header = (not numeric or titled_above) if header is None else header
    names, lines = titles, 0
    if not header:
        names = [f"#{k}" if cell else "" for k, cell in enumerate(rows[0], start=1)]
    elif not (numeric and titled_above):
        names, lines = _header_names(rows, top, decimal)
    return Dialect(_all_named(names), chosen, decimal, header, lead + lines)


def _all_named(names: list[str]) -> tuple[str, ...]:
    """Names of all columns: a comma at the end of every line makes one without."""
    return tuple(name or f"{NAMELESS} {k})" for k, name in enumerate(names, start=1))


def _without_comments(top: list[str], skip: int) -> tuple[int, str, list[str]]:
    """How many lines stand before the table, the last comment among them, and the lines from there on."""
    lead, comment = skip or int(bool(re.match(r"sep=.$", top[0]))), ""  # Excel states the separator in a line
    while lead < len(top) and top[lead].lstrip()[:1] in ("#", "%"):
        comment, lead = top[lead].lstrip().lstrip("#%"), lead + 1
    top = top[lead:] or [""]
    if comment and not top[0].strip():  # no row follows: the comment is the header
        return lead - 1, "", [comment, *top]
    return lead, comment, top


def _header_names(rows: list[list[str]], top: list[str], decimal: str) -> tuple[list[str], int]:
    """Names of columns, with units from a line below, and how many lines they take."""
    names, lines = rows[0], 1
    below = next((k for k, line in enumerate(top) if k and line.strip()), 0)
    if units := _units_below(names, rows[below], decimal):
        names = [f"{n} [{unit.strip('[]()')}]" if unit else n for n, unit in zip(names, units, strict=True)]
        lines += below
    return [NUMBERED if names[0] in ("", "Unnamed: 0") else names[0], *names[1:]], lines


def _units_below(names: list[str], cells: list[str], decimal: str) -> list[str]:
    """The cells of the line below the names if they are words, as many as there are names; else none."""
    filled = [cell for cell in cells if cell]
    words = len(cells) == len(names) and not any(_are_numbers([cell], decimal) for cell in filled)
    return cells if words and filled and cells is not names else []


def _first_lines(file: OpenedFile) -> list[str]:
    try:
        lines = list(islice(file.lines(), _TOP))
    except (UnicodeDecodeError, OSError) as error:
        message = "not a text file in UTF-8, nor another format that flowcei reads"
        raise DataError(message, path=file.path) from error
    if "\0" in "".join(lines[:1]):
        raise DataError("a binary file, of no format that flowcei reads", path=file.path)
    return lines + [""] * (_TOP - len(lines))


def _decimal(rows: list[list[str]], first: str, separator: str, path: Path) -> str:
    """The decimal separator of some rows; a comma may not also be one of thousands, as in 12,170."""
    cells = [(k, cell) for row in rows for k, cell in enumerate(row)]
    commas = [(k, cell) for k, cell in cells if separator != "," and _COMMAS.fullmatch(cell)]
    for k, cell, message in _thousands(cells, commas, separator):
        titled = k < len(rows[0]) and rows[0][k][:1].isalpha()
        column = rows[0][k] if titled else f"#{k + 1}"
        raise DataError(f"{cell[:40]!r}: {message}", path=path, column=column)
    if separator == "," and any(map(_TWO.fullmatch, rows[0])):
        message = f"{first[:40].strip()!r}: numbers with commas between blanks; write them without commas"
        raise DataError(f'{message}, or state separator = "blank" and decimal in a mapping', path=path)
    return "," if commas else "."


def _thousands(
    cells: list[tuple[int, str]], commas: list[tuple[int, str]], separator: str
) -> Iterator[tuple[int, str, str]]:
    """Yield cells whose comma separates thousands, or may do so: index of the column, text, what to do."""
    for k, cell in cells:
        if _GROUPED.fullmatch(cell) and (separator == "," or "." in cell or '"' in cell):
            yield k, cell, "a comma separates thousands; write numbers without such commas"
    which = "does the comma separate thousands or decimals? Write numbers without commas"
    yield from ((k, cell, which) for k, cell in commas if cell.count(",") > 1)
    if commas and all(_THOUSANDS.fullmatch(cell) for _, cell in commas):
        yield *commas[0], f'{which}, or state decimal = "," in a mapping'


def _check_names(names: list[str], path: Path) -> None:
    message = ""
    if not any(names):
        message = "the first line must name the columns; it is blank"
    elif len(names) > MAX_COLUMNS:
        message = f"{len(names)} columns; {MAX_COLUMNS} at the most"
    elif max(map(len, names)) > _MAX_NAME:
        message = f"the name of a column is longer than {_MAX_NAME} characters"
    if message:
        raise DataError(message, path=path)


def _cells(line: str, separator: str, path: Path) -> list[str]:
    """The words of a line that may name columns; quotes around them go."""
    if separator == "blank":
        return line.split()
    try:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=_SEPARATORS[separator]), [])]
    except csv.Error as error:  # more characters than the module takes for a cell
        raise DataError("the name of a column is too long; is it a table?", path=path) from error


def _are_numbers(cells: list[str], decimal: str) -> bool:
    """Whether all cells but blank ones are numbers."""
    plain = (cell.replace(",", ".", 1) if decimal == "," else cell for cell in cells if cell)
    return all(map(_NUMBER.fullmatch, plain))


def _separator(line: str) -> str:
    written = (name for name in ("tab", ";", ",") if _SEPARATORS[name] in line)
    return next(written, "blank" if len(line.split()) > 1 else ",")


class TextTable(Table):
    """A text file as a table; the number of rows is not known before they are read."""

    def __init__(
        self, file: OpenedFile, mapping: Mapping | None = None, faults: Faults | None = None
    ) -> None:
        """`mapping` may state the dialect; `faults` collects duplicate columns and rows that are left out."""
        if mapping is None:
            self._dialect = sniff(file)
        else:
            self._dialect = sniff(
                file, mapping.separator, header=mapping.header, skip=mapping.skip, decimal=mapping.decimal
            )
        self._file, self.path, self.faults, self.titled = file, file.path, faults, self._dialect.header
        if faults is not None:
            self._dialect = replace(self._dialect, names=self._single(self._dialect.names, faults))
        super().__init__(file.path, self._dialect.names)

    def _single(self, names: tuple[str, ...], faults: Faults) -> tuple[str, ...]:
        """A name for every column, each once."""
        widths = [len(self._dialect.split(line)) for _, line in islice(self._rows(), LOOK)]
        if NUMBERED not in names and widths.count(len(names) + 1) > len(widths) // 2:
            message = f"{_UNTITLED}; remove it, or put a comma before the header"
            report_fault(DataError(message, path=self.path), "index-column", faults)
            names = (NUMBERED, *names)
        out: list[str] = []
        for k, name in enumerate(names):
            if name in out:
                report_fault(DataError(DUPLICATE, path=self.path, column=name), "columns", faults)
            out.append(f"{NUMBERED} {k}" if name in out else name)
        return tuple(out)

    def numeric(self, names: Sequence[str]) -> list[str]:
        """Those columns that hold numbers in the first rows; integers beyond what float64 holds are none."""
        chunk = next(self.chunks(names, names, rows=LOOK), None) if names else None
        return [name for name in names if chunk is not None and self._is_numeric(set(chunk[name]))]

    def _is_numeric(self, values: set[object]) -> bool:
        cells = {self._pointed(str(value).strip()) for value in values}
        try:
            list(map(_number, cells))
        except ValueError:
            return False
        exact = not any(_LONG_INTEGER.fullmatch(cell) and abs(int(cell)) > EXACT for cell in cells)
        return exact and not cells.issubset(_BLANK)

    def _pointed(self, cell: str) -> str:
        return cell.replace(",", ".", 1) if self._dialect.decimal == "," else cell

    def _chunks(self, used: list[str], text: Collection[str], rows: int) -> Iterator[pd.DataFrame]:
        """Chunks as pandas reads them as long as it can: which row is wrong it does not say."""
        import pandas as pd

        numbers = [name for name in self.names if name in used and name not in text]
        done, lines = 0, self._rows()
        # pandas drops a blank cell that every row has too much.
        if self._fits(next(lines, (0, ""))[1]):
            with suppress(ValueError, pd.errors.ParserWarning):
                for chunk in self._fast(numbers, rows):
                    if self._is_ragged(chunk, done, lines):
                        break
                    done += len(chunk)
                    yield chunk
                else:
                    return
        yield from self._slowly(set(numbers), done, rows)

    def _fast(self, numbers: list[str], rows: int) -> Iterator[pd.DataFrame]:
        """The rows by pandas' reader; ValueError, or its warning, where one is not right."""
        import pandas as pd

        with self._file.stream(guarded=True) as stream, warnings.catch_warnings():
            # pandas only warns where every row has more fields than the header.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            try:
                reader = pd.read_csv(
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
            except pd.errors.EmptyDataError:
                return
            yield from filter(len, reader)

    def _fits(self, line: str) -> bool:
        return not line or len(self._dialect.split(line)) == len(self.names)

    def _is_ragged(self, chunk: pd.DataFrame, done: int, lines: Iterator[tuple[int, str]]) -> bool:
        """Whether a row of a chunk ends early, as if its last cells were blank; `lines` is consumed."""
        last = chunk[self.names[-1]]
        if (last.isna() | (last == "")).any():
            for row, line in lines:
                if row > done and not self._fits(line):
                    return True
                if row == done + len(chunk):
                    break
        return False

    def _slowly(self, numbers: set[str], done: int, rows: int) -> Iterator[pd.DataFrame]:
        """Read line by line what pandas refuses: each row that is not right is a fault."""
        import pandas as pd

        rows = max(1, min(rows, _SLOW_CELLS // len(self.names)))
        sound: list[list[float | str]] = []
        for row, line in islice(self._rows(), done, None):
            try:
                sound.append(self._values(self._dialect.split(line), row, numbers))
            except DataError as error:
                report_fault(error, "cells" if error.column else "fields", self.faults)
            if len(sound) == rows:
                yield pd.DataFrame(sound, columns=list(self.names))
                sound = []
        if sound:
            yield pd.DataFrame(sound, columns=list(self.names))

    def _values(self, cells: list[str], row: int, numbers: set[str]) -> list[float | str]:
        """The values of a row; DataError for the first that is not right."""
        if len(cells) != len(self.names):
            whose = "the header has" if self._dialect.header else "the first row has"
            raise DataError(f"{len(cells)} fields where {whose} {len(self.names)}", path=self.path, row=row)
        values: list[float | str] = []
        for name, cell in zip(self.names, cells, strict=True):
            try:
                if name not in numbers and "\0" in cell:
                    raise ValueError(f"{cell[:40]!r}: a byte of 0; is the file damaged?")
                if name in numbers and self._dialect.decimal == "," and "." in cell:
                    raise ValueError(f"{cell[:40]!r}: decimals with a point in a file with decimal commas")
                values.append(_number(self._pointed(cell)) if name in numbers else cell)
            except ValueError as error:
                raise DataError(str(error), path=self.path, row=row, column=name) from error
        return values

    def _rows(self) -> Iterator[tuple[int, str]]:
        """The rows as they stand in the file, and their numbers, from 1."""
        try:
            lines = islice(self._file.lines(), self._dialect.lead, None)
            yield from enumerate((line for line in lines if line.strip()), start=1)
        except UnicodeDecodeError as error:
            raise DataError("not a text file in UTF-8", path=self.path) from error


def _number(cell: str) -> float:
    """The number of a cell, NaN where it is blank; ValueError says why it is none."""
    if cell in _BLANK:
        return math.nan
    try:
        # Python also reads 1_000 and the digits of other scripts; a CSV has neither.
        return float(cell if cell.isascii() and "_" not in cell else "no number")
    except ValueError:
        fortran = _FORTRAN.fullmatch(cell) is not None
        why = ": Fortran's exponent; write an e for the d" if fortran else " where a number belongs"
        raise ValueError(f"{cell[:40]!r}{why}") from None
