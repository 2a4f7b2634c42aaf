"""The interface of readers of other programs' files: named columns in, arrays of events out."""

from __future__ import annotations

import math
from copy import copy
from dataclasses import dataclass, field
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

    Field = tuple[tuple[str, ...], int]

DUPLICATE = "duplicate column; keep one"
LOOK = 10_000  # rows that types and units of columns are inferred from
MAX_COLUMNS = 10_000
_MOST_CELLS = 1 << 23  # of a chunk: a wide table takes no more memory than a long one
_DEEPEST = 3  # fields within fields


@dataclass(frozen=True, eq=False)
class Arrays:
    """Events of a chunk, not checked yet: momenta and positions (B, N, 3), event_id and sigma (B,).

    `incomplete` and `elsewhere` count events that are not among them: with other ions than the molecule,
    and of another channel. `columns` are extra ones, (B,) each.
    """

    momenta: NDArray[np.float64]
    positions: NDArray[np.float64] | None = None
    event_id: NDArray[np.int64] | None = None
    sigma: NDArray[np.float64] | None = None
    incomplete: int = 0
    elsewhere: int = 0
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of events."""
        return len(self.momenta)


class Table:
    """Columns of numbers in a file; a reader fills in `_chunks` and, where the file states them, the rest."""

    titled = False  # whether somebody named the columns; else NAME#k is one of many numbers
    units: Mapping[str, str] = MappingProxyType({})  # of columns
    shared_unit = ""  # of all momenta
    symbols: tuple[str, ...] = ()  # in the order of the ions
    unread: tuple[str, ...] = ()  # datasets that are not columns of this table
    faults: Faults | None = None  # collects rows that cannot be read

    def __init__(self, path: Path, names: Sequence[str], rows: int | None = None) -> None:
        """`rows` is None where only reading tells."""
        if len(names) > MAX_COLUMNS:
            raise DataError(f"has more than {MAX_COLUMNS} columns; {MAX_COLUMNS} at the most", path=path)
        if len(set(names)) < len(names):
            name = next(name for k, name in enumerate(names) if name in names[:k])
            raise DataError(DUPLICATE, path=path, column=name)
        self.path, self.names, self.rows = path, tuple(names), rows

    def preview(self) -> Table:
        """The table to be looked at before it is read: only the reading collects faults."""
        table = copy(self)
        table.faults = None if self.faults is None else Faults()
        return table

    def numeric(self, names: Sequence[str]) -> list[str]:
        """Those columns that hold one number in each row."""
        return list(names)

    def chunks(
        self, used: Collection[str], text: Collection[str] = (), *, rows: int
    ) -> Iterator[pd.DataFrame]:
        """At most `rows` rows at a time, with numbers blank or not finite; cells of `text` may be words."""
        if self.rows is not None:
            check_held(self.path, self.rows * len(used), "the table")
        most = max(1, _MOST_CELLS // max(1, len(self.names)))
        yield from self._chunks(list(dict.fromkeys(used)), text, min(rows, most))

    def _chunks(self, used: list[str], text: Collection[str], rows: int) -> Iterator[pd.DataFrame]:
        """Yield chunks with at least the columns that are used."""
        raise NotImplementedError


def flat_columns(dtype: np.dtype, shape: tuple[int, ...]) -> Iterator[tuple[str, tuple[str, ...], int]]:
    """Columns of numbers of an array: name, path of fields, index among the numbers of a row.

    Elements without fields are ``#1``, ``#2``, ... where a row has several. A field ``x`` of a table
    is ``x``; of an array of N ions a row it is ``x1``, ``x2``, ...; a field of k numbers is ``x#1``, ...
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


def columns_of(array: NDArray[Any], columns: Mapping[str, Field]) -> pd.DataFrame:
    """Columns of some rows by the path and index of `flat_columns`, float64 or int64."""
    blocks: dict[tuple[str, ...], NDArray[Any]] = {}
    table: dict[str, NDArray[Any]] = {}
    for column, (path, k) in columns.items():
        if path not in blocks:
            inner = array
            for name in path:
                inner = inner[name]
            blocks[path] = exact_numbers(np.asarray(inner)).reshape(len(array), -1)
        table[column] = blocks[path][:, k]
    return pd.DataFrame(table)
