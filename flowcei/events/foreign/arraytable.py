"""Tables of numbers that are not text: NumPy arrays, Parquet and ROOT."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from flowcei.errors import DataError, UsageError
from flowcei.events.extracolumns import EXACT, exact_numbers
from flowcei.events.foreign.table import MAX_COLUMNS, Table, columns_of, flat_columns

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray


class NpyTable(Table):
    """A `.npy` array: (B, 3N) or (B, N, 3) as columns ``#1``, ``#2``, ..., a structured one by its fields."""

    def __init__(self, path: Path) -> None:
        """Refuse what is no array of numbers.

        Raises:
            DataError: For such a file.
        """
        try:
            self._array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        except Exception as error:  # the header is Python text: tokenizer, parser and limits speak
            raise DataError("not a .npy array of numbers, or cut short", path=path) from error
        fields = flat_columns(self._array.dtype, self._array.shape) if self._array.ndim else iter(())
        columns = [(name or "#1", inner, k) for name, inner, k in islice(fields, MAX_COLUMNS + 1)]
        if not columns and self._array.size:
            raise DataError("is not an array of numbers", path=path)
        super().__init__(path, [name for name, _, _ in columns], len(self._array) if self._array.ndim else 0)
        self._columns = {name: (inner, k) for name, inner, k in columns}

    def _parts(self, used: list[str], text: Collection[str], rows: int) -> Iterator[pd.DataFrame]:
        del text
        for first in range(0, len(self._array), rows):
            # A copy: the file itself cannot be written, and torch warns of such arrays.
            part = np.array(self._array[first : first + rows])
            yield columns_of(part, {name: self._columns[name] for name in used})


class ParquetTable(Table):
    """A Parquet file; reading it takes the extra ``flowcei[parquet]``."""

    def __init__(self, path: Path) -> None:
        """Open the file and look at its description.

        Raises:
            UsageError: Where pyarrow is not installed.
            DataError: For a file that is no Parquet.
        """
        try:
            import pyarrow as pa
            from pyarrow import parquet
        except ImportError as error:
            msg = f"{path}: Parquet needs pyarrow: pip install 'flowcei[parquet]'"
            raise UsageError(msg) from error
        try:
            self._file = parquet.ParquetFile(path, memory_map=False, thrift_string_size_limit=1 << 24)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DataError("not a Parquet file, or damaged", path=path) from error
        self._schema = self._file.schema_arrow
        super().__init__(path, self._schema.names, int(self._file.metadata.num_rows))
        self.units = {
            entry.name: word.decode("utf-8", "replace").strip()
            for entry in self._schema
            for key, word in (entry.metadata or {}).items()
            if key.strip().lower() in (b"unit", b"units")
        }
        words = (self._schema.metadata or {}).get(b"symbols", b"").decode("utf-8", "replace")
        self.symbols = tuple("".join(c if c.isalnum() else " " for c in words).split())

    def numeric(self, names: Sequence[str]) -> list[str]:
        """Return which of some columns hold one number in each row, by their type."""
        from pyarrow import types

        numeric = (types.is_floating, types.is_integer, types.is_boolean, types.is_decimal)
        return [name for name in names if any(fits(self._schema.field(name).type) for fits in numeric)]

    def _with_blanks(self) -> set[str]:
        """Return which columns may have blank cells, so that their type may differ between parts."""
        about = self._file.metadata
        groups = [about.row_group(k) for k in range(about.num_row_groups)]
        columns = [group.column(k) for group in groups for k in range(group.num_columns)]
        known = [(column, column.statistics if column.is_stats_set else None) for column in columns]
        return {c.path_in_schema for c, s in known if s is None or not s.has_null_count or s.null_count}

    def _parts(self, used: list[str], text: Collection[str], rows: int) -> Iterator[pd.DataFrame]:
        import pyarrow as pa

        numbers = [name for name in used if name not in text]
        for name in numbers:
            if not self.numeric([name]):
                kind = str(self._schema.field(name).type)
                raise DataError(f"holds {kind[:40]}, not numbers", path=self.path, column=name)
        integers = {name for name in used if pa.types.is_integer(self._schema.field(name).type)}
        whole = integers - self._with_blanks()
        try:
            for batch in self._file.iter_batches(batch_size=rows, columns=used):
                # pandas' own description of the file may hide columns.
                table = pa.Table.from_batches([batch]).to_pandas(ignore_metadata=True)
                for name in used:
                    kind = "str" if name in text else "int64" if name in whole else "float64"
                    with np.errstate(invalid="ignore"):  # signalling NaN: it becomes a quiet one
                        table[name] = table[name].astype(kind)
                    if kind == "float64" and name in integers and (table[name].abs() > EXACT).any():
                        what = "whole numbers beyond 2^53 beside blank cells: fill in the blank ones"
                        raise DataError(what, path=self.path, column=name)
                yield table
        except DataError:
            raise
        except (pa.ArrowException, OSError, ValueError, TypeError) as error:
            raise DataError("cannot be read as numbers, or damaged", path=self.path) from error


class RootTable(Table):
    """A tree of a ROOT file; reading it takes the extra ``flowcei[root]``."""

    def __init__(self, path: Path, tree: str = "") -> None:
        """Open the file and find the tree: the only one of the file where its name is empty.

        Raises:
            UsageError: Where uproot is not installed.
            DataError: For a file that is no ROOT, or has not that tree.
        """
        try:
            import uproot
        except ImportError as error:
            msg = f"{path}: ROOT files need uproot: pip install 'flowcei[root]'"
            raise UsageError(msg) from error
        # Not its path: uproot takes one with colons for a URL or for a part of a file.
        raw = path.open("rb")
        try:
            file = uproot.open(raw)
            kinds = file.classnames(cycle=False)
            trees = [name for name, kind in kinds.items() if kind in ("TTree", "ROOT::RNTuple")]
            chosen = tree or (trees[0] if len(trees) == 1 else "")
            if chosen not in trees:
                what = f"has the trees {', '.join(trees[:8]) or '(none)'}; a mapping's tree names one"
                raise DataError(what, path=path)
            self._tree = file[chosen]
            super().__init__(path, self._tree.keys(recursive=False), int(self._tree.num_entries))
        except DataError:
            raw.close()
            raise
        except Exception as error:  # uproot raises whatever its parsers stumble over
            raw.close()
            raise DataError("not a ROOT file, or damaged", path=path) from error

    def numeric(self, names: Sequence[str]) -> list[str]:
        """Return which of some branches hold one number in each entry, by their first entries."""
        return [name for name in names if self._is_numeric(name)]

    def _is_numeric(self, name: str) -> bool:
        try:
            first = self._tree[name].array(library="np", entry_stop=1)
        except Exception:  # noqa: BLE001 (uproot raises whatever its parsers stumble over)
            return False
        return first.ndim == 1 and first.dtype.kind in "fiub"

    def _parts(self, used: list[str], text: Collection[str], rows: int) -> Iterator[pd.DataFrame]:
        del text
        try:
            for part in self._tree.iterate(used, step_size=rows, library="np"):
                yield pd.DataFrame({name: _plain(part[name]) for name in used})
        except Exception as error:
            raise DataError("branches that are not plain numbers, or damaged", path=self.path) from error


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    """Return the numbers of a branch; a column of objects or of several numbers is none."""
    return exact_numbers(array if array.dtype.kind in "fiub" else np.asarray(array, np.float64))
