"""HDF5 files of other programs as tables: datasets side by side, or one of records with named fields."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd

from flowcei.errors import DataError
from flowcei.events.extracolumns import NUMBERED
from flowcei.events.fields import MAX_COLUMNS, columns_of, flat_columns, refuse_wide, rows_of
from flowcei.events.foreign.columnnames import is_momentum_word
from flowcei.events.hdf import shared_unit, stated_unit
from flowcei.storage.files import check_held
from flowcei.storage.hdf import opened, refuse_large_chunks

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["HdfTable"]

_DEEPEST = 5  # groups within groups that are entered without a word


@dataclass(frozen=True, eq=False)
class HdfTable:
    """Datasets of an HDF5 file, side by side.

    (B,) is a column, (B, N, 3) are ``NAME#1``, ``NAME#2``, ...; of a dataset of records each field is a
    column, ``FIELD`` or, beside other datasets, ``NAME_FIELD``, and of (B, N) records ``NAME_FIELD1``, ...
    A file with one group and no dataset at its top is entered by itself.

    Attributes:
        path: The file.
        group: Where the datasets are.
        units: What the attributes of datasets state as units of their columns.
        shared_unit: What the group or the file states, for all of them.
        unread: Datasets that are not as long as the momenta.
    """

    path: Path
    group: str = ""
    units: dict[str, str] = field(init=False, default_factory=dict)
    shared_unit: str = field(init=False, default="")
    unread: list[str] = field(init=False, default_factory=list)
    _columns: dict[str, tuple[str, tuple[str, ...], int]] = field(init=False, default_factory=dict)
    _count: list[int] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        """Find the datasets of numbers that have the same length."""
        with opened(self.path) as file:
            place = self._place(file)
            data = {name: self._dataset(place, name) for name in islice(place, MAX_COLUMNS)}
            found = {name: dataset for name, dataset in data.items() if dataset is not None}
            if not found:
                where = f"group {place.name}" if place.name != "/" else "the top of the file"
                there = ", ".join(name[:40] for name in islice(data, 8)) or "nothing"
                what = f"{where} holds no dataset of numbers ({there}); a mapping's tree names a group"
                raise DataError(what, path=self.path)
            self._count.append(self._length(found))
            for name, dataset in found.items():
                if len(dataset) == self._count[0]:
                    self._add(dataset, name, place, sole=len(found) == 1)
                else:
                    self.unread.append(name)
            object.__setattr__(self, "shared_unit", shared_unit(place))

    def _length(self, found: dict[str, h5py.Dataset]) -> int:
        """Return the number of rows: that of the momenta, or of all datasets."""
        momenta = [data for name, data in found.items() if is_momentum_word(name)]
        lengths = sorted({len(data) for data in momenta or found.values()})
        if len(lengths) > 1:
            raise DataError(f"datasets of different length ({lengths[:4]})", path=self.path)
        return lengths[0]

    def _add(self, data: h5py.Dataset, name: str, place: h5py.Group, *, sole: bool) -> None:
        """Add the columns of a dataset."""
        unit = stated_unit(data)
        records = data.dtype.names is not None
        prefix = name
        if records:
            bare = sole and len(data.shape) == 1
            prefix = "" if bare else f"{name}_"
            # A dataset of an ion in a group of momenta: its x is a momentum.
            prefix = f"p_{prefix}" if prefix and is_momentum_word(place.name.rsplit("/", 1)[-1]) else prefix
        for column, path, k in flat_columns(data.dtype, data.shape):
            # PyTables and pandas number the rows of a table so.
            full = NUMBERED if path == ("index",) else prefix + column
            self._columns[full] = (name, path, k)
            refuse_wide(len(self._columns), self.path)
            if unit:
                self.units[full] = unit

    def _place(self, file: h5py.File) -> h5py.Group:
        place = file
        for part in filter(None, self.group.split("/")):
            place = self._inner(place, part)
            if place is None:
                raise DataError(f"has no group /{self.group}", path=self.path)
        if self.group:
            return place
        for _ in range(_DEEPEST):
            names = list(islice(place, 2))
            inner = self._inner(place, names[0]) if len(names) == 1 else None
            if inner is None:
                break
            place = inner
        return place

    @staticmethod
    def _inner(place: h5py.Group, name: str) -> h5py.Group | None:
        """Return a group of a group; no link is followed to another file."""
        item = place[name] if isinstance(place.get(name, getlink=True), h5py.HardLink) else None
        return item if isinstance(item, h5py.Group) else None

    @staticmethod
    def _dataset(place: h5py.Group, name: str) -> h5py.Dataset | None:
        data = place[name] if isinstance(place.get(name, getlink=True), h5py.HardLink) else None
        if not isinstance(data, h5py.Dataset) or data.shape in (None, ()) or data.dtype.kind not in "fiubV":
            return None
        if data.dtype.names is not None and next(flat_columns(data.dtype, data.shape), None) is None:
            return None
        return None if data.external or data.is_virtual else data

    @property
    def names(self) -> tuple[str, ...]:
        """The columns."""
        return tuple(self._columns)

    @property
    def rows(self) -> int:
        """The number of rows."""
        return self._count[0]

    def numeric(self, names: Sequence[str]) -> list[str]:
        """Return which of some columns hold one number in each row: all."""
        return list(names)

    def chunks(
        self,
        used: Collection[str],
        text: Collection[str] = (),
        *,
        rows: int,
        gaps: Collection[str] = (),
    ) -> Iterator[pd.DataFrame]:
        """Yield the rows, some at a time: see `TextTable.chunks`."""
        del text, gaps
        rows = rows_of(len(self._columns), rows)
        wanted: dict[str, dict[str, tuple[tuple[str, ...], int]]] = {}
        for column in used:
            name, path, k = self._columns[column]
            wanted.setdefault(name, {})[column] = (path, k)
        with opened(self.path) as file:
            place = self._place(file)
            for name in wanted:
                refuse_large_chunks(place[name], self.path)
            check_held(self.path, self.rows * len(used), "the table")
            for first in range(0, self.rows, rows):
                parts = [
                    columns_of(self._rows(place[name], slice(first, first + rows), columns), columns)
                    for name, columns in wanted.items()
                ]
                yield pd.concat(parts, axis=1)[list(used)]

    def _rows(
        self, data: h5py.Dataset, rows: slice, columns: dict[str, tuple[tuple[str, ...], int]]
    ) -> NDArray[Any]:
        """Return some rows; of records the fields that are needed."""
        names = list(dict.fromkeys(path[0] for path, _ in columns.values() if path))
        try:
            return np.asarray(data.fields(names)[rows] if names else data[rows])
        except (OSError, ValueError) as error:
            raise DataError("cannot be read as numbers; is it cut short?", path=self.path) from error
