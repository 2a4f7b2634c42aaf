"""Which format a file has: its content says so, not its name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from flowcei.errors import DataError, UsageError
from flowcei.events.foreign.arraytable import NpyTable, ParquetTable, RootTable
from flowcei.events.foreign.hdftable import HdfTable
from flowcei.events.foreign.structures import XyzTable, is_xyz
from flowcei.events.foreign.texttable import TextTable, sniff
from flowcei.storage.files import check_readable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    import pandas as pd

    from flowcei.events.foreign.mapping import Mapping

__all__ = ["FORMATS", "Table", "format_of", "open_table"]

FORMATS = ("text", "npy", "hdf5", "parquet", "root", "xyz")
"""What flowcei reads."""

_SIGNATURES = {b"\x89HDF\r\n\x1a\n": "hdf5", b"\x93NUMPY": "npy", b"PAR1": "parquet", b"root": "root"}
_REFUSED = {
    b"PK\x03\x04": "a zip archive (.npz, .xlsx or a torch file?); export the numbers as CSV, .npy or HDF5",
    b"\x1f\x8b": "compressed with gzip; unpack it first",
    b"BZh": "compressed with bzip2; unpack it first",
    b"\xfd7zXZ": "compressed with xz; unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; unpack it first",
    b"\x80": "a pickle, which flowcei never opens: it may run any program; export the numbers as CSV or .npy",
    b"\xff\xfe": "text in UTF-16; save it as UTF-8",
    b"\xfe\xff": "text in UTF-16; save it as UTF-8",
}


class Table(Protocol):
    """Columns of numbers in a file, read a part at a time."""

    @property
    def names(self) -> tuple[str, ...]:
        """The columns, in the order of the file."""

    @property
    def rows(self) -> int | None:
        """The number of rows, where the file says it."""

    def numeric(self, names: Sequence[str]) -> list[str]:
        """Return which of some columns hold one number in each row."""

    def chunks(
        self,
        used: Collection[str],
        text: Collection[str] = (),
        *,
        rows: int,
        gaps: Collection[str] = (),
    ) -> Iterator[pd.DataFrame]:
        """Yield the columns `used`, at most `rows` rows at a time."""


def format_of(path: Path) -> str:
    """Return which of `FORMATS` a file has.

    Raises:
        UsageError: For a missing file.
        DataError: For an empty file, or of a kind that flowcei does not open.
    """
    check_readable(path)
    with path.open("rb") as file:
        start = file.read(8)
    for signature, name in _SIGNATURES.items():
        if start.startswith(signature):
            return name
    for signature, what in _REFUSED.items():
        if start.startswith(signature):
            raise DataError(what, path=path)
    return "xyz" if is_xyz(path) else "text"


def open_table(path: Path, format: str | None = None, mapping: Mapping | None = None) -> Table:  # noqa: A002
    """Open a file as a table.

    Args:
        path: The file.
        format: One of `FORMATS`; found in the content where None.
        mapping: What is known of its columns.

    Raises:
        UsageError: For a missing file, a format that is not known or needs another package.
        DataError: For a file that is not of that format.
    """
    found = format_of(path) if format is None else format
    if found not in FORMATS:
        msg = f"unknown format {found!r}; use one of {', '.join(FORMATS)}"
        raise UsageError(msg)
    check_readable(path)
    tree = mapping.tree if mapping else ""
    if found == "text":
        if mapping is None:
            return TextTable(path, sniff(path))
        header, skip, decimal = mapping.header, mapping.skip, mapping.decimal
        return TextTable(path, sniff(path, mapping.separator, header=header, skip=skip, decimal=decimal))
    if found == "hdf5":
        return HdfTable(path, tree)
    if found == "root":
        return RootTable(path, tree)
    if found == "npy":
        return NpyTable(path)
    return ParquetTable(path) if found == "parquet" else XyzTable(path)
