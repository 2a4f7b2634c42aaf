"""XYZ files, a structure at a time, trusting no number in them."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

from flowcei.errors import DataError
from flowcei.files import check_readable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["read_structures"]

_MAX_ATOMS = 1000
_MAX_LINE = 1 << 16
_PROPERTIES = re.compile(
    r'(?:^|\s)Properties="?((?:\w{1,40}:[SRIL]:[1-9])(?::\w{1,40}:[SRIL]:[1-9]){0,49})(?=["\s]|$)'
)


def read_structures(path: Path) -> Iterator[Any]:
    r"""Yield the structures of an XYZ file, plain or extended, as `ase.Atoms`.

    Of the comment only the columns that it names are read. Atoms and characters of a line are
    bounded before ASE sees them: it takes memory for as many columns as a comment announces, and
    time for as many atoms.

    Raises:
        UsageError: For a missing file.
        DataError: For what is no XYZ file, or damaged.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> path = Path(tempfile.mkdtemp()) / "co.xyz"
        >>> _ = path.write_text("2\n\nC 0 0 0\nO 0 0 1.1\n")
        >>> [len(atoms) for atoms in read_structures(path)]
        [2]
    """
    from ase.io.extxyz import read_xyz

    check_readable(path)
    try:
        # newline="" would leave lone carriage returns inside a line.
        with path.open("r", encoding="utf-8") as file:
            for text in _frames(file, path):
                yield from read_xyz(io.StringIO(text), index=slice(0, 1), properties_parser=_columns)
    except DataError:
        raise
    except Exception as error:  # ASE raises whatever its parsers stumble over
        raise DataError("not an XYZ file, or damaged", path=path) from error


def _frames(file: io.TextIOBase, path: Path) -> Iterator[str]:
    """Yield the text of a structure after the other."""
    while first := file.readline(_MAX_LINE):
        if not first.strip():
            continue
        count = int(first) if re.fullmatch(r"\s*\d{1,9}\s*", first, re.ASCII) else 0
        if not count:
            raise DataError("not an XYZ file: no number of atoms where a structure begins", path=path)
        if count > _MAX_ATOMS:
            raise DataError(f"{count} atoms in a structure; {_MAX_ATOMS} at the most", path=path)
        lines = [first]
        for _ in range(count + 1):
            lines.append(file.readline(_MAX_LINE))
            if not lines[-1]:
                raise DataError(f"a cut XYZ file: a structure of {count} atoms ends too early", path=path)
            if len(lines[-1]) >= _MAX_LINE:
                raise DataError(f"not an XYZ file: a line of more than {_MAX_LINE} characters", path=path)
        yield "".join(lines)


def _columns(comment: str) -> dict[str, str]:
    """Return what the comment says of the columns; ASE's defaults hold where it says nothing."""
    found = _PROPERTIES.search(comment)
    if found:
        return {"Properties": found[1]}
    if "Properties" in comment:
        msg = "columns that cannot be understood"
        raise ValueError(msg)
    return {}
