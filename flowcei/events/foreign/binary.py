"""Tables of numbers that are not text: NumPy arrays, HDF5, Parquet, ROOT and DataFrames."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import finalize

import h5py
import numpy as np
from numpy.typing import NDArray

from flowcei.errors import DataError, UsageError
from flowcei.events.extracolumns import EXACT, NUMBERED, exact_numbers
from flowcei.events.foreign.names import is_momentum_word, named_components
from flowcei.events.foreign.table import MAX_COLUMNS, Table, columns_of
from flowcei.events.hdf import shared_unit, stated_unit
from flowcei.storage.hdf import check_chunks, opened

if TYPE_CHECKING:
    import pandas as pd

_DEEPEST = 5  # groups within groups that are entered by themselves
_MAX_ROW = 1 << 26  # bytes of a row of a dataset


class NpyTable(Table):
    """A `.npy` array: (B, 3N) or (B, N, 3) as columns ``#1``, ``#2``, ..., a structured one by its fields."""

    def __init__(self, path: Path) -> None:
        """Map the file."""
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except Exception as error:  # the header is Python text: tokenizer, parser and limits raise
            raise DataError("not a .npy array of numbers, or cut short", path=path) from error
        columns = list(islice(columns_of(array), MAX_COLUMNS + 1)) if array.ndim else []
        if not columns and array.size:
            raise DataError("is not an array of numbers", path=path)
        names = [name or "#1" for name, *_ in columns]
        super().__init__(path, names, len(array) if array.ndim else 0)
        self._columns = dict(zip(names, (values for *_, values in columns), strict=True))

    def _chunks(self, used: list[str], text: Collection[str], rows: int) -> Iterator[pd.DataFrame]:
        import pandas as pd

        del text
        for first in range(0, self.rows or 0, rows):
            columns = {name: exact_numbers(self._columns[name][first : first + rows]) for name in used}
            # A copy: the file itself cannot be written, and torch warns of such arrays.
            yield pd.DataFrame(columns, copy=True)


def _momentum_names(names: list[str]) -> list[str]:
    """Datasets that are of momenta or velocities: by one word, or a component of an ion such as px_c."""
    columns = named_components(names)[0]
    components = {
        n for kind in ("momenta", "velocities") for ion in columns[kind].values() for n in ion.values()
    }
    return [name for name in names if name in components or is_momentum_word(name)]


class HdfTable(Table):
    """Datasets of an HDF5 file, side by side.

    (B,) is a column, (B, N, 3) are ``NAME#1``, ``NAME#2``, ...; of a dataset of records each field is a
    column, ``FIELD`` or, beside other datasets, ``NAME_FIELD``, and of (B, N) records ``NAME_FIELD1``, ...
    A file with one group and no dataset at its top is entered by itself.
    """

    def __init__(self, path: Path, group: str = "") -> None:
        """Take the datasets of numbers in a group that are as long as the momenta."""
        self._tree = group
        with opened(path) as file:
            parent = self._group(file, path)
            numbers = _datasets(parent, path)
            momenta = [numbers[name] for name in _momentum_names(list(numbers))]
            lengths = sorted({len(item) for item in momenta or numbers.values()})
            if len(lengths) > 1:
                raise DataError(f"datasets of different length ({lengths[:4]})", path=path)
            self.unread = tuple(name for name, item in numbers.items() if len(item) != lengths[0])
            self._columns: dict[str, tuple[str, str, str]] = {}  # dataset, field, name in `columns_of`
            names: list[str] = []
            for name, item in numbers.items():
                if name not in self.unread:
                    prefix = _prefix(item, name, parent, sole=len(numbers) == 1)
                    for column, field, _ in islice(_columns_of(item), MAX_COLUMNS + 1 - len(names)):
                        # PyTables and pandas number the rows of a table by "index".
                        names.append(NUMBERED if field == column == "index" else prefix + column)
                        self._columns[names[-1]] = (name, field, column)
            stated = {name: stated_unit(numbers[name]) for name, *_ in self._columns.values()}
            self.units = {
                column: stated[name] for column, (name, *_) in self._columns.items() if stated[name]
            }
            self.shared_unit = shared_unit(parent)
        super().__init__(path, names, lengths[0])

    def _group(self, file: h5py.File, path: Path) -> h5py.Group:
        group = file
        for name in filter(None, self._tree.split("/")):
            group = _item(group, name)
            if not isinstance(group, h5py.Group):
                raise DataError(f"has no group /{self._tree}", path=path)
        for _ in range(0 if self._tree else _DEEPEST):
            names = list(islice(group, 2))
            inner = _item(group, names[0]) if len(names) == 1 else None
            if not isinstance(inner, h5py.Group):
                break
            group = inner
        return group

    def _chunks(self, used: list[str], text: Collection[str], rows: int) -> Iterator[pd.DataFrame]:
        import pandas as pd

        del text
        wanted = {column: self._columns[column] for column in used}
        fields: dict[str, list[str]] = {}  # by dataset; those that are needed
        for name, field, _ in wanted.values():
            fields.setdefault(name, []).extend([field] if field else [])
        with opened(self.path) as file:
            group = self._group(file, self.path)
            for name in fields:
                check_chunks(group[name], self.path)
            for first in range(0, self.rows or 0, rows):
                arrays = {}
                for name, some in fields.items():
                    data = group[name].fields(list(dict.fromkeys(some))) if some else group[name]
                    try:
                        array = np.asarray(data[first : first + rows])
                    except (OSError, ValueError) as error:
                        message = "cannot be read as numbers; is it cut short?"
                        raise DataError(message, path=self.path) from error
                    arrays[name] = {column: values for column, _, values in columns_of(array)}
                yield pd.DataFrame({c: exact_numbers(arrays[name][k]) for c, (name, _, k) in wanted.items()})


def _columns_of(data: h5py.Dataset) -> Iterator[tuple[str, str, NDArray[Any]]]:
    """The columns that a dataset has, without rows; none where they cannot be counted."""
    if math.prod(data.shape[1:]) * data.dtype.itemsize > _MAX_ROW:
        raise DataError(f"a row of {data.name} is longer than 64 MB", path=data.file.filename)
    return columns_of(np.empty((0, *data.shape[1:]), data.dtype))


def _datasets(group: h5py.Group, path: Path) -> dict[str, h5py.Dataset]:
    """The datasets of numbers, or of records with such, that lie in the file itself."""
    names = list(islice(group, MAX_COLUMNS))
    numbers = {}
    for name in names:
        data = _item(group, name)
        if not isinstance(data, h5py.Dataset) or data.shape in (None, ()) or data.dtype.kind not in "fiubV":
            continue
        empty = data.dtype.names is not None and next(_columns_of(data), None) is None
        if not (empty or data.external or data.is_virtual):
            numbers[name] = data
    if not numbers:
        where = f"group {group.name}" if group.name != "/" else "the top of the file"
        content = ", ".join(name[:40] for name in names[:8]) or "nothing"
        message = f"{where} holds no dataset of numbers ({content}); a mapping's tree names a group"
        raise DataError(message, path=path)
    return numbers


def _item(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | None:
    """What a group holds under a name; no link is followed to another file."""
    return group[name] if isinstance(group.get(name, getlink=True), h5py.HardLink) else None


def _prefix(data: h5py.Dataset, name: str, group: h5py.Group, *, sole: bool) -> str:
    """What the names of the columns of a dataset begin with."""
    if data.dtype.names is None:
        return name
    if sole and len(data.shape) == 1:
        return ""
    # A dataset of an ion in a group of momenta: its x is a momentum.
    return f"p_{name}_" if is_momentum_word(group.name.rsplit("/", 1)[-1]) else f"{name}_"


class ParquetTable(Table):
    """A Parquet file; reading it takes the extra ``flowcei[parquet]``."""

    def __init__(self, path: Path) -> None:
        """Open the file and look at its description."""
        try:
            import pyarrow as pa
            from pyarrow import parquet
        except ImportError as error:
            raise UsageError(f"{path}: Parquet needs pyarrow: pip install 'flowcei[parquet]'") from error
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
        """Those columns that hold one number in each row, by their type."""
        from pyarrow import types

        numeric = (types.is_floating, types.is_integer, types.is_boolean, types.is_decimal)
        return [name for name in names if any(fits(self._schema.field(name).type) for fits in numeric)]

    def _with_blanks(self) -> set[str]:
        """Columns that may have blank cells, so that their type may differ between chunks."""
        about = self._file.metadata
        groups = [about.row_group(k) for k in range(about.num_row_groups)]
        columns = [group.column(k) for group in groups for k in range(group.num_columns)]
        counted = [(column, column.statistics if column.is_stats_set else None) for column in columns]
        return {c.path_in_schema for c, s in counted if s is None or not s.has_null_count or s.null_count}

    def _chunks(self, used: list[str], text: Collection[str], rows: int) -> Iterator[pd.DataFrame]:
        import pyarrow as pa

        numeric = self.numeric(used)
        if words := [name for name in used if name not in text and name not in numeric]:
            kind = str(self._schema.field(words[0]).type)
            raise DataError(f"holds {kind[:40]}, not numbers", path=self.path, column=words[0])
        integers = {name for name in used if pa.types.is_integer(self._schema.field(name).type)}
        exact = integers - self._with_blanks()
        try:
            for batch in self._file.iter_batches(batch_size=rows, columns=used):
                # pandas' own description of the file may hide columns.
                table = pa.Table.from_batches([batch]).to_pandas(ignore_metadata=True)
                for name in used:
                    kind = "str" if name in text else "int64" if name in exact else "float64"
                    with np.errstate(invalid="ignore"):  # signalling NaN: it becomes a quiet one
                        table[name] = table[name].astype(kind)
                    if kind == "float64" and name in integers and (table[name].abs() > EXACT).any():
                        message = "whole numbers beyond 2^53 beside blank cells: fill in the blank ones"
                        raise DataError(message, path=self.path, column=name)
                yield table
        except DataError:
            raise
        except (pa.ArrowException, OSError, ValueError, TypeError) as error:
            raise DataError("cannot be read as numbers, or damaged", path=self.path) from error


class RootTable(Table):
    """A tree of a ROOT file; reading it takes the extra ``flowcei[root]``."""

    def __init__(self, path: Path, tree: str = "") -> None:
        """Open the tree: the only one of the file where its name is empty."""
        try:
            import uproot
        except ImportError as error:
            raise UsageError(f"{path}: ROOT files need uproot: pip install 'flowcei[root]'") from error
        # Not its path: uproot takes one with colons for a URL or for a part of a file.
        raw = path.open("rb")
        try:
            # No thread of its own: where that held the last reference to a damaged file, it waited for
            # itself. Without one uproot leaves the file open.
            finalize(self, raw.close)
            file = uproot.open(raw, use_threads=False)
            kinds = file.classnames(cycle=False)
            trees = [name for name, kind in kinds.items() if kind in ("TTree", "ROOT::RNTuple")]
            chosen = tree or (trees[0] if len(trees) == 1 else "")
            if chosen not in trees:
                message = f"has the trees {', '.join(trees[:8]) or '(none)'}; a mapping's tree names one"
                raise DataError(message, path=path)
            self._tree = file[chosen]
            super().__init__(path, self._tree.keys(recursive=False), int(self._tree.num_entries))
        except Exception as error:  # uproot raises whatever its parsers stumble over
            raw.close()
            refused = isinstance(error, DataError)
            raise error if refused else DataError("not a ROOT file, or damaged", path=path) from error

    def numeric(self, names: Sequence[str]) -> list[str]:
        """Those branches that hold one number in each entry, by their first entries."""
        return [name for name in names if self._is_numeric(name)]

    def _is_numeric(self, name: str) -> bool:
        try:
            first = self._tree[name].array(library="np", entry_stop=1)
        except Exception:  # noqa: BLE001 (uproot raises whatever its parsers stumble over)
            return False
        return first.ndim == 1 and first.dtype.kind in "fiub"

    def _chunks(self, used: list[str], text: Collection[str], rows: int) -> Iterator[pd.DataFrame]:
        import pandas as pd

        del text
        try:
            for chunk in self._tree.iterate(used, step_size=rows, library="np"):
                yield pd.DataFrame({name: _as_numbers(chunk[name]) for name in used})
        except Exception as error:
            raise DataError("branches that are not plain numbers, or damaged", path=self.path) from error


class FrameTable(Table):
    """A DataFrame, whose column names become text."""

    titled = True

    def __init__(self, frame: pd.DataFrame) -> None:
        """Messages call it DataFrame."""
        super().__init__(Path("DataFrame"), [str(name) for name in frame.columns])
        self._frame = frame.set_axis(list(self.names), axis=1)

    def numeric(self, names: Sequence[str]) -> list[str]:
        """Those columns whose type is one of numbers."""
        return [name for name in names if self._frame[name].dtype.kind in "fiub"]

    def _chunks(self, used: list[str], text: Collection[str], rows: int) -> Iterator[pd.DataFrame]:
        import pandas as pd

        columns = {}
        for name in used:
            try:
                values = self._frame[name].to_numpy()
                columns[name] = values if name in text else _as_numbers(values, name)
            except (TypeError, ValueError) as error:
                raise DataError("text where numbers belong", path=self.path, column=name) from error
        table = pd.DataFrame(columns)
        for first in range(0, len(table), rows):
            yield table[first : first + rows]


def _as_numbers(array: NDArray[Any], name: str | None = None) -> NDArray[Any]:
    """The numbers of a column; ValueError or TypeError where it holds something else."""
    return exact_numbers(array if array.dtype.kind in "fiub" else np.asarray(array, np.float64), name)
