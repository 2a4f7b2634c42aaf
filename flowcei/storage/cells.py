"""Tables as CSV whose text no spreadsheet takes for a formula.

A spreadsheet runs a cell that begins with `=`, `+`, `-` or `@`, and drops blanks before it. Names of
files, models and labels come from elsewhere: such a cell gets an apostrophe, which a spreadsheet hides.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any, TextIO

import pandas as pd

_FORMULA = ("=", "+", "-", "@", "\t", "\n")
_NUMBER = re.compile(r"[+-]?(?:inf|nan|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)")


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
    columns: dict[Hashable, Any] = {}
    for name, column in table.items():
        text = not pd.api.types.is_numeric_dtype(column)
        columns[safe_cell(name)] = column.map(safe_cell) if text else column
    safe = pd.DataFrame(columns, index=table.index)
    if options.get("index", True):
        safe.index = pd.Index([safe_cell(label) for label in table.index], name=table.index.name)
    safe.to_csv(file, **options)
