"""Tables of numbers that are not text: NumPy arrays, Parquet and ROOT."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from flowcei.errors import DataError, UsageError
from flowcei.events.extracolumns import exact_numbers
from flowcei.events.fields import columns_of, flat_columns, refuse_wide, rows_of
from flowcei.storage.files import check_held

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["NpyTable", "ParquetTable", "RootTable"]

_EXACT = 1 << 53  # whole numbers are exact in floating point up to here


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    """Return the numbers of a branch; a column of objects or of several numbers is none."""
    numbers = array if array.dtype.kind in "fiub" else np.asarray(array, np.float64)
    return exact_numbers(numbers)


@dataclass(frozen=True, eq=False)
class NpyTable:
    """A `.npy` array: (B, 3N) or (B, N, 3) as columns ``#1``, ``#2``, ..., a structured one by its fields.

    Attributes:
        path: The file.
    """

    path: Path
    _columns: dict[str, tuple[tuple[str, ...], int]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what is no array of numbers."""
        array = self._array()
        columns = flat_columns(array.dtype, array.shape) if array.ndim else ()
        for name, path, k in columns:
            self._columns[name or "#1"] = (path, k)
            refuse_wide(len(self._columns), self.path)
        if not self._columns and array.size:
            raise DataError("is not an array of numbers", path=self.path)

    def _array(self) -> NDArray[Any]:
        try:
            array: NDArray[Any] = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except Exception as error:  # the header is Python text: tokenizer, parser and limits speak
            raise DataError("not a .npy array of numbers, or cut short", path=self.path) from error
        return array

    @property
    def names(self) -> tuple[str, ...]:
        """The columns."""
        return tuple(self._columns)

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self._array())

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
        array = self._array()
        rows = rows_of(len(self._columns), rows)
        for first in range(0, len(array), rows):
            # A copy: the file itself cannot be written, and torch warns of such arrays.
            part = np.array(array[first : first + rows])
            yield columns_of(part, {name: self._columns[name] for name in used})


@dataclass(frozen=True, eq=False)
class ParquetTable:
    """A Parquet file; reading it takes the extra ``flowcei[parquet]``.

    Attributes:
        path: The file.
        symbols: Chemical symbols in the order of the ions, where its metadata states them.
        units: What the metadata of columns state as their units.
    """

    path: Path
    symbols: tuple[str, ...] = field(init=False, default=())
    units: dict[str, str] = field(init=False, default_factory=dict)
    _file: list[Any] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        """Open the file and look at its description."""
        try:
            import pyarrow as pa
            from pyarrow import parquet
        except ImportError as error:
            msg = f"{self.path}: Parquet needs pyarrow: pip install 'flowcei[parquet]'"
            raise UsageError(msg) from error
        try:
            self._file.append(
                parquet.ParquetFile(self.path, memory_map=False, thrift_string_size_limit=1 << 24)
            )
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DataError("not a Parquet file, or damaged", path=self.path) from error
        refuse_wide(len(self.names), self.path)
        metadata = self._file[0].schema_arrow.metadata or {}
        for entry in self._file[0].schema_arrow:
            for key, word in (entry.metadata or {}).items():
                if key.strip().lower() in (b"unit", b"units"):
                    self.units[entry.name] = word.decode("utf-8", "replace").strip()
        words = metadata.get(b"symbols", b"").decode("utf-8", "replace")
        object.__setattr__(self, "symbols", tuple("".join(c if c.isalnum() else " " for c in words).split()))

    @property
    def names(self) -> tuple[str, ...]:
        """The columns."""
        return tuple(self._file[0].schema_arrow.names)

    @property
    def rows(self) -> int:
        """The number of rows."""
        return int(self._file[0].metadata.num_rows)

    def _without_blanks(self, names: Sequence[str]) -> set[str]:
        """Return which of some columns have no blank cell, so that their type is the same in all parts."""
        about = self._file[0].metadata
        blank: set[str] = set()
        for k in range(about.num_row_groups):
            group = about.row_group(k)
            for column in map(group.column, range(group.num_columns)):
                known = column.statistics if column.is_stats_set else None
                if known is None or not known.has_null_count or known.null_count:
                    blank.add(column.path_in_schema)
        return {name for name in names if name not in blank}

    def numeric(self, names: Sequence[str]) -> list[str]:
        """Return which of some columns hold one number in each row, by their type."""
        return [name for name in names if self._is_numeric(name)]

    def _is_numeric(self, name: str) -> bool:
        import pyarrow as pa

        types = pa.types
        kind = self._file[0].schema_arrow.field(name).type
        numeric = (types.is_floating, types.is_integer, types.is_boolean, types.is_decimal)
        return any(fits(kind) for fits in numeric)

    def chunks(
        self,
        used: Collection[str],
        text: Collection[str] = (),
        *,
        rows: int,
        gaps: Collection[str] = (),
    ) -> Iterator[pd.DataFrame]:
        """Yield the rows, some at a time: see `TextTable.chunks`."""
        del gaps
        import pyarrow as pa

        for name in used:
            if name not in text and not self._is_numeric(name):
                kind = str(self._file[0].schema_arrow.field(name).type)
                raise DataError(f"holds {kind[:40]}, not numbers", path=self.path, column=name)
        check_held(self.path, self.rows * len(used), "the table")
        rows = rows_of(len(used), rows)
        integers = [name for name in used if pa.types.is_integer(self._file[0].schema_arrow.field(name).type)]
        whole = self._without_blanks(integers)
        try:
            for batch in self._file[0].iter_batches(batch_size=rows, columns=list(used)):
                # pandas' own description of the file may hide columns.
                table = pa.Table.from_batches([batch]).to_pandas(ignore_metadata=True)
                for name in used:
                    kind = "str" if name in text else "int64" if name in whole else "float64"
                    with np.errstate(invalid="ignore"):  # signalling NaN: it becomes a quiet one
                        table[name] = table[name].astype(kind)
                    if kind == "float64" and name in integers and (table[name].abs() > _EXACT).any():
                        what = "whole numbers beyond 2^53 beside blank cells: fill in the blank ones"
                        raise DataError(what, path=self.path, column=name)
                yield table
        except (pa.ArrowException, OSError, ValueError, TypeError) as error:
            raise DataError("cannot be read as numbers, or damaged", path=self.path) from error


@dataclass(frozen=True, eq=False)
class RootTable:
    """A tree of a ROOT file; reading it takes the extra ``flowcei[root]``.

    Attributes:
        path: The file.
        tree: Its name; the only tree of the file where empty.
    """

    path: Path
    tree: str = ""
    _tree: list[Any] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        """Open the file and find the tree."""
        try:
            import uproot
        except ImportError as error:
            msg = f"{self.path}: ROOT files need uproot: pip install 'flowcei[root]'"
            raise UsageError(msg) from error
        # Not its path: uproot takes one with colons for a URL or for a part of a file.
        raw = self.path.open("rb")
        try:
            file = uproot.open(raw)
            kinds = file.classnames(cycle=False)
            trees = [name for name, kind in kinds.items() if kind in ("TTree", "ROOT::RNTuple")]
            found = self.tree or (trees[0] if len(trees) == 1 else "")
            if found not in trees:
                what = f"has the trees {', '.join(trees[:8]) or '(none)'}; a mapping's tree names one"
                raise DataError(what, path=self.path)
            self._tree.append(file[found])
            refuse_wide(len(self.names), self.path)
        except DataError:
            raw.close()
            raise
        except Exception as error:  # uproot raises whatever its parsers stumble over
            raw.close()
            raise DataError("not a ROOT file, or damaged", path=self.path) from error

    @property
    def names(self) -> tuple[str, ...]:
        """The branches."""
        return tuple(self._tree[0].keys(recursive=False))

    @property
    def rows(self) -> int:
        """The number of entries."""
        return int(self._tree[0].num_entries)

    def numeric(self, names: Sequence[str]) -> list[str]:
        """Return which of some branches hold one number in each entry, by their first entries."""
        return [name for name in names if self._is_numeric(name)]

    def _is_numeric(self, name: str) -> bool:
        try:
            first = self._tree[0][name].array(library="np", entry_stop=1)
        except Exception:  # noqa: BLE001 (uproot raises whatever its parsers stumble over)
            return False
        return first.ndim == 1 and first.dtype.kind in "fiub"

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
        check_held(self.path, self.rows * len(used), "the table")
        rows = rows_of(len(used), rows)
        try:
            for part in self._tree[0].iterate(list(used), step_size=rows, library="np"):
                yield pd.DataFrame({name: _plain(part[name]) for name in used})
        except Exception as error:
            raise DataError("branches that are not plain numbers, or damaged", path=self.path) from error
