"""Which format a file has: its content says so, not its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowcei.errors import DataError, UsageError
from flowcei.events.foreign.arraytable import NpyTable, ParquetTable, RootTable
from flowcei.events.foreign.hdftable import HdfTable
from flowcei.events.foreign.structures import XyzTable, is_xyz
from flowcei.events.foreign.texttable import TextTable
from flowcei.storage.files import check_readable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from flowcei.events.faults import Faults
    from flowcei.events.foreign.mapping import Mapping
    from flowcei.events.foreign.table import Table

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


def format_of(path: Path, stated: str | None = None) -> str:
    """Return which of `FORMATS` a file has: the one that is stated, or that its content says.

    Raises:
        UsageError: For a missing file, or a format that is not known.
        DataError: For an empty file, or of a kind that flowcei does not open.
    """
    check_readable(path)
    if stated is not None:
        if stated not in FORMATS:
            msg = f"unknown format {stated!r}; use one of {', '.join(FORMATS)}"
            raise UsageError(msg)
        return stated
    with path.open("rb") as file:
        start = file.read(8)
    for signature, name in _SIGNATURES.items():
        if start.startswith(signature):
            return name
    for signature, what in _REFUSED.items():
        if start.startswith(signature):
            raise DataError(what, path=path)
    return "xyz" if is_xyz(path) else "text"


def open_table(
    path: Path,
    format: str | None = None,  # noqa: A002
    mapping: Mapping | None = None,
    faults: Faults | None = None,
) -> Table:
    """Open a file as a table.

    Args:
        path: The file.
        format: One of `FORMATS`; found in the content where None.
        mapping: What is known of its columns.
        faults: Collects the faults of text; None raises the first.

    Raises:
        UsageError: For a missing file, a format that is not known or needs another package.
        DataError: For a file that is not of that format.
    """
    tree = mapping.tree if mapping else ""
    readers: dict[str, Callable[[], Table]] = {
        "text": lambda: TextTable(path, mapping, faults),
        "npy": lambda: NpyTable(path),
        "hdf5": lambda: HdfTable(path, tree),
        "parquet": lambda: ParquetTable(path),
        "root": lambda: RootTable(path, tree),
        "xyz": lambda: XyzTable(path),
    }
    return readers[format_of(path, format)]()
