"""Structures in extended XYZ: geometries, and the momenta of their ions where a file has them."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from flowcei.errors import DataError
from flowcei.storage.xyz import check_length_unit, read_structures

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["XyzTable", "is_xyz"]

_AXES = "xyz"
_LOOK = 1_000  # structures that the unit is told from


def is_xyz(path: Path) -> bool:
    """Whether the content of a file says XYZ: a number of atoms alone on its first line."""
    try:
        with path.open("r", encoding="utf-8") as file:
            first, _, third = (file.readline(1000).split() for _ in range(3))
    except (UnicodeDecodeError, OSError):
        return False
    return len(first) == 1 and first[0].isdigit() and len(third) > 3 and third[0][:1].isalpha()


@dataclass(frozen=True, eq=False)
class XyzTable:
    """An XYZ file as a table with a row for every structure.

    Columns are ``x0``, ``y0``, ... and, where the file has momenta, ``px0``, ... in sqrt(u eV), as ASE
    writes them.

    Attributes:
        path: The file.
        symbols: Chemical symbols, the same in every structure.
    """

    path: Path
    symbols: tuple[str, ...] = field(init=False)
    _moving: list[bool] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        """Look at the first structure."""
        for first in read_structures(self.path):
            object.__setattr__(self, "symbols", tuple(first.get_chemical_symbols()))
            self._moving.append(first.has("momenta"))
            return
        raise DataError("holds no structure", path=self.path)

    @property
    def names(self) -> tuple[str, ...]:
        """The columns."""
        prefixes = ("", "p") if self._moving[0] else ("",)
        return tuple(f"{p}{a}{k}" for p in prefixes for k in range(len(self.symbols)) for a in _AXES)

    @property
    def length_unit(self) -> str:
        """The unit of the positions by the comment, or by lengths of bonds; "" where neither tells."""
        try:
            return check_length_unit([*islice(read_structures(self.path), _LOOK)], None, self.path)
        except DataError:
            return ""

    @property
    def rows(self) -> int | None:
        """The number of structures: not known before they are read."""
        return None

    def numeric(self, names: Sequence[str]) -> list[str]:
        """Return which of some columns hold numbers: all."""
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
        del used, text, gaps
        part: list[NDArray[np.float64]] = []
        for row, structure in enumerate(read_structures(self.path), start=1):
            if tuple(structure.get_chemical_symbols()) != self.symbols:
                raise DataError(f"atoms other than {' '.join(self.symbols)}", path=self.path, row=row)
            vectors = [structure.get_positions()]
            if self._moving[0]:
                vectors.append(structure.get_momenta())
            if any(v.shape != (len(self.symbols), 3) or v.dtype.kind not in "fiu" for v in vectors):
                raise DataError("vectors that are not three numbers", path=self.path, row=row)
            part.append(np.concatenate(vectors, axis=None))
            if len(part) == rows:
                yield pd.DataFrame(np.array(part), columns=list(self.names))
                part = []
        if part:
            yield pd.DataFrame(np.array(part), columns=list(self.names))
