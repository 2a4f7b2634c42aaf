"""Tables of numbers as text."""

from __future__ import annotations

import csv
import io
import math
import re
import warnings
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd

from flowcei.errors import DataError
from flowcei.events.extracolumns import EXACT, NUMBERED
from flowcei.events.faults import refuse
from flowcei.events.foreign.dialect import MAX_LINE, SEPARATORS, sniff
from flowcei.events.foreign.table import DOUBLED, Table

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from pathlib import Path

    from flowcei.events.faults import Faults
    from flowcei.events.foreign.mapping import Mapping

# What programs write where there is no number.
_GAPS = ["", "nan", "NaN", "NAN", "-nan", "NA", "N/A", "null", "None", "--"]
_LOOK = 10_000  # rows that a column of numbers is told by
_SLOW = 1 << 20  # cells of a part that is read line by line: a number takes 32 bytes there
_LONG_WHOLE = re.compile(r"[+-]?[0-9]{16,1000}")
_FORTRAN = re.compile(r"[+-]?[\d.]+[dD][+-]?\d+")
_UNTITLED = "rows have one field more than the header: a leading column of row numbers without a name"


class TextTable(Table):
    """A text file as a table; the number of rows is not known before they are read."""

    def __init__(self, path: Path, mapping: Mapping | None = None, faults: Faults | None = None) -> None:
        """Find out how the file separates and names its columns.

        Args:
            path: The file.
            mapping: What is known of its columns.
            faults: Collects doubled columns, and rows that are left out: of another length, or with a
                cell that is no number. The first is raised where None.

        Raises:
            DataError: For a file that is no table of text.
        """
        if mapping is None:
            self._dialect = sniff(path)
        else:
            header, skip, decimal = mapping.header, mapping.skip, mapping.decimal
            self._dialect = sniff(path, mapping.separator, header=header, skip=skip, decimal=decimal)
        self.path, self.faults, self.titled = path, faults, self._dialect.header
        if faults is not None:
            self._dialect = replace(self._dialect, names=self._single(self._dialect.names, faults))
        super().__init__(path, self._dialect.names)

    def _single(self, names: tuple[str, ...], faults: Faults) -> tuple[str, ...]:
        """Return a name for every column, each once."""
        widths = [len(self._dialect.split(line)) for _, line in islice(self._lines(), _LOOK)]
        if NUMBERED not in names and widths.count(len(names) + 1) > len(widths) // 2:
            what = f"{_UNTITLED}; remove it, or put a comma before the header"
            refuse(DataError(what, path=self.path), "index-column", faults)
            names = (NUMBERED, *names)
        out: list[str] = []
        for k, name in enumerate(names):
            if name in out:
                refuse(DataError(DOUBLED, path=self.path, column=name), "columns", faults)
            out.append(f"{NUMBERED} {k}" if name in out else name)
        return tuple(out)

    def numeric(self, names: Sequence[str]) -> list[str]:
        """Return which of some columns hold numbers, by the first rows; blank cells may be among them.

        Whole numbers of more digits than float64 holds are none.
        """
        try:
            part = next(self.chunks(names, names, rows=_LOOK), None) if names else None
        except DataError:  # the reading of the numbers says better what is wrong
            return list(names)
        return [] if part is None else [name for name in names if self._is_numeric(part[name].unique())]

    def _is_numeric(self, values: Iterable[object]) -> bool:
        cells = {self._pointed(str(value).strip()) for value in values}
        exact = not any(_LONG_WHOLE.fullmatch(cell) and abs(int(cell)) > EXACT for cell in cells)
        return exact and bool(cells - set(_GAPS)) and not any(map(cell_problem, cells))

    def _pointed(self, cell: str) -> str:
        """Return a cell with a decimal point."""
        return cell.replace(",", ".", 1) if self._dialect.decimal == "," else cell

    def _parts(self, used: list[str], text: Collection[str], rows: int) -> Iterator[pd.DataFrame]:
        numbers = [name for name in self.names if name in used and name not in text]
        row, reason, lines = 0, "", self._lines()
        # pandas drops what every row has too much.
        if not self._dialect.first.strip() or self._is_whole(self._dialect.first):
            try:
                for part in self._fast(numbers, rows):
                    if self._is_short(part, numbers, row, lines):
                        break
                    row += len(part)
                    yield part
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
        with cast("io.BufferedReader", io.BufferedReader(_Lines(self.path), 1 << 18)) as file:
            for _ in range(self._dialect.lead):
                _skip_line(file)
            while True:
                with warnings.catch_warnings():
                    # pandas only warns where every row has more fields than the header.
                    warnings.simplefilter("error", pd.errors.ParserWarning)
                    try:
                        reader = self._reader(file, numbers, rows) if reader is None else reader
                        part = reader.get_chunk()
                    except (StopIteration, pd.errors.EmptyDataError):
                        return
                if not len(part):
                    return
                yield part

    def _reader(self, file: io.BufferedReader, numbers: list[str], rows: int) -> pd.io.parsers.TextFileReader:
        return pd.read_csv(
            file,
            sep=SEPARATORS[self._dialect.separator],
            header=None,
            names=list(self.names),
            index_col=False,
            dtype={name: np.float64 if name in numbers else str for name in self.names},
            skipinitialspace=True,
            na_filter=bool(numbers),
            na_values=dict.fromkeys(numbers, _GAPS),
            keep_default_na=False,
            encoding="utf-8",
            compression=None,  # what is packed is not unpacked: it may be endless
            decimal=self._dialect.decimal,
            quoting=csv.QUOTE_NONE,
            chunksize=rows,
        )

    def _is_whole(self, line: str) -> bool:
        return len(self._dialect.split(line)) == len(self.names)

    def _is_short(
        self, part: pd.DataFrame, numbers: list[str], start: int, lines: Iterator[tuple[int, str]]
    ) -> bool:
        """Whether a row of a part ends early, which looks like a blank cell; `lines` is where it last was."""
        if numbers and part[numbers[-1]].isna().any():
            for row, line in lines:
                if row > start and not self._is_whole(line):
                    return True
                if row == start + len(part):
                    break
        return False

    def _slowly(self, numbers: list[str], start: int, rows: int, reason: str) -> Iterator[pd.DataFrame]:
        """Read line by line what cannot be read fast: each row that is not right is a fault."""
        rows = max(1, min(rows, _SLOW // len(self.names)))
        sound: list[list[float | str]] = []
        faulty = False
        kinds = [float if name in numbers else str for name in self.names]
        for row, line in islice(self._lines(), start, None):
            cells = self._dialect.split(line)
            try:
                # Most rows are right; one that float refuses, or takes too easily, is looked at by cells.
                plain = line.isascii() and "_" not in line and self._dialect.decimal == "."
                values = [kind(cell) for kind, cell in zip(kinds, cells, strict=True)] if plain else None
            except ValueError:
                values = None
            if values is None:
                fault = self._fault(cells, row, numbers)
                if fault is not None:
                    faulty = True
                    refuse(fault, "fields" if fault.column is None else "cells", self.faults)
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

    def _value(self, cell: str) -> float:
        return math.nan if cell in _GAPS else float(self._pointed(cell))

    def _fault(self, cells: list[str], row: int, numbers: list[str]) -> DataError | None:
        """Return what is wrong with a row, or None."""
        if len(cells) != len(self.names):
            whose = "the header has" if self._dialect.header else "the first row has"
            return DataError(f"{len(cells)} fields where {whose} {len(self.names)}", path=self.path, row=row)
        for name, cell in zip(self.names, cells, strict=True):
            if name in numbers:
                problem = cell_problem(self._pointed(cell))
                if self._dialect.decimal == "," and "." in cell:
                    problem = f"{cell[:40]!r}: decimals with a point in a file with decimal commas"
                if problem:
                    return DataError(problem, path=self.path, row=row, column=name)
        return None

    def _lines(self) -> Iterator[tuple[int, str]]:
        """Yield the rows as they stand in the file, and their numbers, from 1."""
        try:
            with self.path.open("r", encoding="utf-8-sig", newline=None) as file:
                for _ in range(self._dialect.lead):
                    file.readline(MAX_LINE)
                whole = iter(partial(file.readline, MAX_LINE), "")
                yield from enumerate((line for line in whole if line.strip()), start=1)
        except UnicodeDecodeError as error:
            raise DataError("not a text file in UTF-8", path=self.path) from error


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


def cell_problem(cell: str) -> str | None:
    """Return why the text of a cell is no number, or None where it is one, blank or not finite.

    Example:
        >>> cell_problem("1_0"), cell_problem("-1e3"), cell_problem("")
        ("'1_0' where a number belongs", None, None)
    """
    if cell in _GAPS:
        return None
    if _FORTRAN.fullmatch(cell):
        return f"{cell[:40]!r}: Fortran's exponent; write an e for the d"
    try:
        # Python also reads 1_000 and the digits of other scripts; a CSV has neither.
        float(cell if cell.isascii() and "_" not in cell else "no number")
    except ValueError:
        return f"{cell[:40]!r} where a number belongs"
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
        if self._length > MAX_LINE:
            raise DataError("a line of more than a million characters; is it a table?", path=self._path)
        return count

    def close(self) -> None:
        self._file.close()
        super().close()
