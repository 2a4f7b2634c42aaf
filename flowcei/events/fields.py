"""Columns of an array whose elements have fields: tables of PyTables and pandas, structured NumPy arrays."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from flowcei.errors import DataError
from flowcei.events.extracolumns import exact_numbers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["MAX_COLUMNS", "columns_of", "flat_columns", "refuse_wide", "rows_of"]

MAX_COLUMNS = 10_000
"""Columns of a table, at the most."""

_MOST_CELLS = 1 << 23  # of a part
_DEEPEST = 3  # fields within fields


def flat_columns(dtype: np.dtype, shape: tuple[int, ...]) -> Iterator[tuple[str, tuple[str, ...], int]]:
    """Yield the columns of numbers of an array: name, path of fields, place among the numbers of a row.

    Elements without fields are ``#1``, ``#2``, ... where a row has several. A field ``x`` of a table
    is ``x``; of an array of N ions a row it is ``x1``, ``x2``, ...; a field of k numbers is ``x#1``, ...

    Example:
        >>> table = np.dtype([("c", [("px", "f8"), ("py", "f8")]), ("delay", "f4")])
        >>> [name for name, _, _ in flat_columns(table, (9,))]
        ['c_px', 'c_py', 'delay']
        >>> [name for name, _, _ in flat_columns(np.dtype([("x", "f8"), ("y", "f8")]), (9, 2))]
        ['x1', 'x2', 'y1', 'y2']
    """
    ions = math.prod(shape[1:])
    for path, base, inner in _leaves(dtype, (), ()):
        if base.kind not in "fiub":
            continue
        numbers = math.prod(inner)
        for k in range(ions * numbers):
            ion = str(k // numbers + 1) if path and len(shape) > 1 else ""
            several = inner if path else (*shape[1:], *inner)
            number = f"#{(k % numbers if path else k) + 1}" if several else ""
            yield "_".join(path) + ion + number, path, k


def _leaves(
    dtype: np.dtype, path: tuple[str, ...], inner: tuple[int, ...]
) -> Iterator[tuple[tuple[str, ...], np.dtype, tuple[int, ...]]]:
    """Yield the fields that have no fields: their path, type and the shape of one of them."""
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        yield from _leaves(base, path, (*inner, *shape))
    elif dtype.names is None:
        yield path, dtype, inner
    elif len(path) < _DEEPEST:
        for name in dtype.names:
            yield from _leaves(dtype[name], (*path, name), inner)


def columns_of(array: NDArray[Any], columns: Mapping[str, tuple[tuple[str, ...], int]]) -> pd.DataFrame:
    """Return columns as `flat_columns` names them of some rows, float64 or int64.

    What is too large for the type becomes infinite, and is refused later.
    """
    parts: dict[tuple[str, ...], NDArray[Any]] = {}
    table: dict[str, NDArray[Any]] = {}
    for column, (path, k) in columns.items():
        if path not in parts:
            inner = array
            for name in path:
                inner = inner[name]
            parts[path] = exact_numbers(np.asarray(inner)).reshape(len(array), -1)
        table[column] = parts[path][:, k]
    return pd.DataFrame(table)


def rows_of(columns: int, rows: int) -> int:
    """Return how many rows a part may have, so that a wide table takes no more memory than a long one."""
    return max(1, min(rows, _MOST_CELLS // max(1, columns)))


def refuse_wide(columns: int, path: Path, name: str = "the file") -> None:
    """Refuse a table of too many columns.

    Raises:
        DataError: Saying how many there may be.
    """
    if columns > MAX_COLUMNS:
        raise DataError(f"{name} has more than {MAX_COLUMNS} columns; {MAX_COLUMNS} at the most", path=path)
