"""What every reader of other programs' files is: a table of named columns, read a part at a time."""

from __future__ import annotations

import math
from copy import copy
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from flowcei.errors import DataError
from flowcei.events.extracolumns import exact_numbers
from flowcei.events.faults import Faults
from flowcei.storage.files import check_held

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

DOUBLED = "the column is there twice; keep one"
MAX_COLUMNS = 10_000
"""Columns of a table, at the most."""

_MOST_CELLS = 1 << 23  # of a part: a wide table takes no more memory than a long one
_DEEPEST = 3  # fields within fields


class Table:
    """Columns of numbers in a file; a reader fills in `_parts`.

    Attributes:
        path: The file.
        names: The columns, in the order of the file.
        rows: Their number, where the file says it.
        titled: Whether somebody named the columns; else ``NAME#k`` is one of many numbers.
        units: What the file states as units of columns.
        shared_unit: What the file states as the unit of all momenta.
        symbols: Chemical symbols in the order of the ions, where the file states them.
        unread: Datasets that are not columns of this table.
        faults: Collects rows that are left out as they cannot be read; the first is raised where None.
    """

    titled = False
    units: Mapping[str, str] = MappingProxyType({})
    shared_unit = ""
    symbols: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    faults: Faults | None = None

    def __init__(self, path: Path, names: Sequence[str], rows: int | None = None) -> None:
        """Refuse columns that are too many, or there twice.

        Raises:
            DataError: Saying which.
        """
        if len(names) > MAX_COLUMNS:
            raise DataError(f"has more than {MAX_COLUMNS} columns; {MAX_COLUMNS} at the most", path=path)
        if len(set(names)) < len(names):
            name = next(name for k, name in enumerate(names) if name in names[:k])
            raise DataError(DOUBLED, path=path, column=name)
        self.path, self.names, self.rows = path, tuple(names), rows

    def preview(self) -> Table:
        """Return the table to be looked at before it is read: it is the reading that collects faults."""
        table = copy(self)
        table.faults = None if self.faults is None else Faults()
        return table

    def numeric(self, names: Sequence[str]) -> list[str]:
        """Return which of some columns hold one number in each row."""
        return list(names)

    def chunks(
        self, used: Collection[str], text: Collection[str] = (), *, rows: int
    ) -> Iterator[pd.DataFrame]:
        """Yield the rows, some at a time; numbers may be blank or not finite.

        Args:
            used: Columns that are needed; their cells must be numbers.
            text: Those of them whose cells may be text.
            rows: Of a part, at the most.

        Raises:
            DataError: Naming row and column of the first cell that is not right.
        """
        if self.rows is not None:
            check_held(self.path, self.rows * len(used), "the table")
        most = max(1, _MOST_CELLS // max(1, len(self.names)))
        yield from self._parts(list(dict.fromkeys(used)), text, min(rows, most))

    def _parts(self, used: list[str], text: Collection[str], rows: int) -> Iterator[pd.DataFrame]:
        """Yield parts with at least the columns that are used."""
        raise NotImplementedError


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
