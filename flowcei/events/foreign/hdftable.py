"""HDF5 files of other programs as tables: datasets side by side, or one of records with named fields."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd

from flowcei.errors import DataError
from flowcei.events.extracolumns import NUMBERED
from flowcei.events.foreign.columnnames import is_momentum_word
from flowcei.events.foreign.table import MAX_COLUMNS, Table, columns_of, flat_columns
from flowcei.events.hdf import shared_unit, stated_unit
from flowcei.storage.hdf import check_chunks, opened

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

_DEEPEST = 5  # groups within groups that are entered without a word


class HdfTable(Table):
    """Datasets of an HDF5 file, side by side.

    (B,) is a column, (B, N, 3) are ``NAME#1``, ``NAME#2``, ...; of a dataset of records each field is a
    column, ``FIELD`` or, beside other datasets, ``NAME_FIELD``, and of (B, N) records ``NAME_FIELD1``, ...
    A file with one group and no dataset at its top is entered by itself.
    """

    def __init__(self, path: Path, group: str = "") -> None:
        """Find the datasets of numbers in a group that are as long as the momenta.

        Raises:
            DataError: Where there are none, or not such a group.
        """
        self._group = group
        columns: list[tuple[str, str, tuple[str, ...], int]] = []
        with opened(path) as file:
            place = self._place(file, path)
            names = list(islice(place, MAX_COLUMNS))
            numbers = {name: item for name in names if (item := _dataset(place, name)) is not None}
            if not numbers:
                where = f"group {place.name}" if place.name != "/" else "the top of the file"
                there = ", ".join(name[:40] for name in names[:8]) or "nothing"
                what = f"{where} holds no dataset of numbers ({there}); a mapping's tree names a group"
                raise DataError(what, path=path)
            momenta = [item for name, item in numbers.items() if is_momentum_word(name)]
            lengths = sorted({len(item) for item in momenta or numbers.values()})
            if len(lengths) > 1:
                raise DataError(f"datasets of different length ({lengths[:4]})", path=path)
            self.unread = tuple(name for name, item in numbers.items() if len(item) != lengths[0])
            for name, item in numbers.items():
                if name not in self.unread:
                    prefix = _prefix(item, name, place, sole=len(numbers) == 1)
                    inner = flat_columns(item.dtype, item.shape)
                    # PyTables and pandas number the rows of a table by "index".
                    named = ((NUMBERED if p == ("index",) else prefix + c, name, p, k) for c, p, k in inner)
                    columns += islice(named, MAX_COLUMNS + 1 - len(columns))
            stated = {name: stated_unit(numbers[name]) for _, name, _, _ in columns}
            self.units = {column: stated[name] for column, name, _, _ in columns if stated[name]}
            self.shared_unit = shared_unit(place)
        super().__init__(path, [column for column, *_ in columns], lengths[0])
        self._columns = {column: (name, inner, k) for column, name, inner, k in columns}

    def _place(self, file: h5py.File, path: Path) -> h5py.Group:
        place = file
        for part in filter(None, self._group.split("/")):
            place = _item(place, part)
            if not isinstance(place, h5py.Group):
                raise DataError(f"has no group /{self._group}", path=path)
        for _ in range(0 if self._group else _DEEPEST):
            names = list(islice(place, 2))
            inner = _item(place, names[0]) if len(names) == 1 else None
            if not isinstance(inner, h5py.Group):
                break
            place = inner
        return place

    def _parts(self, used: list[str], text: Collection[str], rows: int) -> Iterator[pd.DataFrame]:
        del text
        wanted: dict[str, dict[str, tuple[tuple[str, ...], int]]] = {}
        for column in used:
            name, inner, k = self._columns[column]
            wanted.setdefault(name, {})[column] = (inner, k)
        with opened(self.path) as file:
            place = self._place(file, self.path)
            for name in wanted:
                check_chunks(place[name], self.path)
            for first in range(0, self.rows or 0, rows):
                parts = [
                    columns_of(self._rows(place[name], slice(first, first + rows), columns), columns)
                    for name, columns in wanted.items()
                ]
                yield pd.concat(parts, axis=1)[used]

    def _rows(
        self, data: h5py.Dataset, rows: slice, columns: dict[str, tuple[tuple[str, ...], int]]
    ) -> NDArray[Any]:
        """Return some rows; of records the fields that are needed."""
        names = list(dict.fromkeys(path[0] for path, _ in columns.values() if path))
        try:
            return np.asarray(data.fields(names)[rows] if names else data[rows])
        except (OSError, ValueError) as error:
            raise DataError("cannot be read as numbers; is it cut short?", path=self.path) from error


def _item(place: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | None:
    """Return what a group holds under a name; no link is followed to another file."""
    return place[name] if isinstance(place.get(name, getlink=True), h5py.HardLink) else None


def _dataset(place: h5py.Group, name: str) -> h5py.Dataset | None:
    """Return a dataset of numbers, or of records with such, that lies in the file itself."""
    data = _item(place, name)
    if not isinstance(data, h5py.Dataset) or data.shape in (None, ()) or data.dtype.kind not in "fiubV":
        return None
    empty = data.dtype.names is not None and next(flat_columns(data.dtype, data.shape), None) is None
    return None if empty or data.external or data.is_virtual else data


def _prefix(data: h5py.Dataset, name: str, place: h5py.Group, *, sole: bool) -> str:
    """Return what the columns of a dataset begin with."""
    if data.dtype.names is None:
        return name
    if sole and len(data.shape) == 1:
        return ""
    # A dataset of an ion in a group of momenta: its x is a momentum.
    return f"p_{name}_" if is_momentum_word(place.name.rsplit("/", 1)[-1]) else f"{name}_"
