"""The interface of readers of other programs' files: named columns in, arrays of events out."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from flowcei.errors import DataError
from flowcei.events.faults import Faults
from flowcei.storage.files import check_held

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

DUPLICATE = "duplicate column; keep one"
LOOK = 10_000  # rows that types and units of columns are inferred from
MAX_COLUMNS = 10_000
_MOST_CELLS = 1 << 23  # of a chunk: a wide table takes no more memory than a long one
_DEEPEST = 3  # fields within fields


@dataclass(frozen=True, eq=False)
class Arrays:
    """Events of a chunk, in atomic units, not checked yet."""

    momenta: NDArray[np.float64]  # (B, N, 3)
    positions: NDArray[np.float64] | None = None  # (B, N, 3)
    event_id: NDArray[np.int64] | None = None  # (B,)
    sigma: NDArray[np.float64] | None = None  # (B,)
    incomplete: int = 0  # events that are not here: with other ions than the molecule
    elsewhere: int = 0  # events that are not here: of another channel
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)  # extra ones, (B,) each

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


def columns_of(array: NDArray[Any]) -> Iterator[tuple[str, str, NDArray[Any]]]:
    """Columns of numbers of an array (B, ...): name, outermost field, values (B,).

    Elements without fields are ``#1``, ``#2``, ... where a row has several. A field ``x`` of a table
    is ``x``; of an array of N ions a row it is ``x1``, ``x2``, ...; a field of k numbers is ``x#1``, ...
    """
    ions = math.prod(array.shape[1:])
    for path, values in _leaves(array, ()):
        total, several = math.prod(values.shape[1:]), values.ndim > (array.ndim if path else 1)
        numbers = values.reshape(len(values), total)
        for k in range(total):
            ion, inner = divmod(k, total // ions) if path else (0, k)
            named = "_".join(path) + (f"{ion + 1}" if path and array.ndim > 1 else "")
            yield named + (f"#{inner + 1}" if several else ""), "".join(path[:1]), numbers[:, k]


def _leaves(array: NDArray[Any], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], NDArray[Any]]]:
    """Yield the fields of numbers that have no fields, with their path."""
    if array.dtype.names is None:
        yield from [(path, array)] if array.dtype.kind in "fiub" else []
    elif len(path) < _DEEPEST:
        for name in array.dtype.names:
            yield from _leaves(array[name], (*path, name))
