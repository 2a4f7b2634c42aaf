"""Tables as CSV whose text no spreadsheet takes for a formula.

A spreadsheet runs a cell that begins with `=`, `+`, `-` or `@`, and drops blanks before it. Names of
files, models and labels come from elsewhere: such a cell gets an apostrophe, which a spreadsheet hides.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

_FORMULA = ("=", "+", "-", "@", "\t", "\n")
_NUMBER = re.compile(r"[+-]?(?:inf|nan|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)")
_POWERS = np.array([float(10**k) for k in range(23)])  # of ten, all that are exact
_WHOLE = 2**63 - 1
_LONGEST = 20  # characters of a whole number, or of one with twelve digits


def safe_cell(cell: object) -> object:
    """A cell that no spreadsheet runs, its line breaks of one kind; numbers, also in text, as they are."""
    if not isinstance(cell, str):
        return cell
    # A lone carriage return ends a line for many readers, and is not quoted for it: what comes
    # after it would begin a cell of its own.
    text = cell.replace("\r\n", "\n").replace("\r", "\n")
    return f"'{text}" if text.startswith(_FORMULA) and not _NUMBER.fullmatch(text) else text


def write_table(table: pd.DataFrame, file: TextIO, **options: Any) -> None:  # noqa: ANN401
    """Write a table as CSV, the text of cells, headers and index made safe; options of `to_csv`."""
    import pandas as pd

    columns: dict[Hashable, Any] = {}
    for name, column in table.items():
        text = not pd.api.types.is_numeric_dtype(column)
        columns[safe_cell(name)] = column.map(safe_cell) if text else column
    safe = pd.DataFrame(columns, index=table.index)
    if options.get("index", True):
        safe.index = pd.Index([safe_cell(label) for label in table.index], name=table.index.name)
    safe.to_csv(file, **options)


@dataclass(frozen=True, eq=False)
class Words:
    """A column of words that come again and again."""

    number: NDArray[np.intp]  # of the word in each row, (R,)
    words: list[str]

    def __len__(self) -> int:
        return len(self.number)

    @property
    def spelled(self) -> NDArray[np.object_]:
        """The word of each row, (R,)."""
        return np.array(self.words, dtype=object)[self.number]


def rows_as_text(table: pd.DataFrame | Mapping[str, Any], digits: int, *, header: bool = True) -> str:
    """Columns of R rows as `write_table` without index has them, numbers to 12 significant digits or fewer.

    As with `float_format` "%.6g", to the byte; many times as fast, and text is looked at once a word.
    """
    import pandas as pd

    from flowcei.storage._digits import WHOLE, WORD, decimals, join_cells

    shape = len(next(iter(dict(table).values()), ())), len(table.keys())
    value, power = np.empty(shape, np.int64), np.full(shape, WORD, np.int16)
    words = [""]  # the first is that of nothing
    for k, (_, column) in enumerate(table.items()):
        if isinstance(column, Words):
            value[:, k] = column.number + len(words)
            words += _as_cells(column.words)
        elif pd.api.types.is_float_dtype(column):
            numbers = np.ascontiguousarray(column, dtype=np.float64)
            with np.errstate(divide="ignore"):
                logarithm = np.log10(np.abs(numbers))
            decimals(numbers, logarithm, digits, _POWERS, value[:, k], power[:, k])
            others = np.flatnonzero(power[:, k] == WORD)
            value[others, k] = 0
            others = others[~np.isnan(numbers[others])]
            value[others, k] = len(words) + np.arange(len(others))
            words += [f"{x:.{digits}g}" for x in numbers[others].tolist()]
        elif _is_whole(column):
            value[:, k], power[:, k] = column, WHOLE
        else:
            number, each = pd.factorize(column)
            value[:, k] = np.where(number < 0, 0, number + len(words))
            words += _as_cells(each)
    text = [word.encode() for word in words]
    out = np.empty(shape[0] * shape[1] * (max(_LONGEST, *map(len, text)) + 1), np.uint8)
    ends = np.cumsum([len(word) for word in text])
    size = join_cells(value, power, digits, np.frombuffer(b"".join(text) or b" ", np.uint8), ends, out)
    first = ",".join(_as_cells(table.keys())) + "\n" if header else ""
    return first + str(out[:size].data, "utf-8")


def _is_whole(column: pd.Series[Any] | NDArray[Any]) -> bool:
    """Whether a column holds whole numbers with a sign, of at most 63 bits."""
    if column.dtype.kind not in "iu":
        return False
    return not len(column) or (column.min() >= -_WHOLE and column.max() <= _WHOLE)


def _as_cells(words: Iterable[object]) -> list[str]:
    """Words as they stand in CSV, safe and quoted where they must be."""
    cells = []
    for word in words:
        csv.writer(line := StringIO(), lineterminator="\n").writerow([safe_cell(word), ""])
        cells.append(line.getvalue().removesuffix(",\n"))
    return cells
