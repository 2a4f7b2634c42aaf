"""Structures in extended XYZ: geometries, and the momenta of their ions where a file has them."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from flowcei.errors import DataError
from flowcei.events.foreign.table import Table
from flowcei.storage.xyz import check_length_unit, read_structures

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

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


class XyzTable(Table):
    """An XYZ file as a table with a row for every structure.

    Columns are ``x0``, ``y0``, ... and, where the file has momenta, ``px0``, ... in sqrt(u eV), as ASE
    writes them. Every structure has the same `symbols`.
    """

    def __init__(self, path: Path) -> None:
        """Look at the first structure.

        Raises:
            DataError: For a file without any.
        """
        first = next(iter(read_structures(path)), None)
        if first is None:
            raise DataError("holds no structure", path=path)
        self.symbols = tuple(first.get_chemical_symbols())
        self._moving = first.has("momenta")
        prefixes = ("", "p") if self._moving else ("",)
        super().__init__(
            path, [f"{p}{a}{k}" for p in prefixes for k in range(len(self.symbols)) for a in _AXES]
        )

    @property
    def length_unit(self) -> str:
        """The unit of the positions by the comment, or by lengths of bonds; "" where neither tells."""
        try:
            return check_length_unit([*islice(read_structures(self.path), _LOOK)], None, self.path)
        except DataError:
            return ""

    def _parts(self, used: list[str], text: Collection[str], rows: int) -> Iterator[pd.DataFrame]:
        del used, text
        part: list[NDArray[np.float64]] = []
        for row, structure in enumerate(read_structures(self.path), start=1):
            if tuple(structure.get_chemical_symbols()) != self.symbols:
                raise DataError(f"atoms other than {' '.join(self.symbols)}", path=self.path, row=row)
            vectors = [structure.get_positions()]
            if self._moving:
                vectors.append(structure.get_momenta())
            if any(v.shape != (len(self.symbols), 3) or v.dtype.kind not in "fiu" for v in vectors):
                raise DataError("vectors that are not three numbers", path=self.path, row=row)
            part.append(np.concatenate(vectors, axis=None))
            if len(part) == rows:
                yield pd.DataFrame(np.array(part), columns=list(self.names))
                part = []
        if part:
            yield pd.DataFrame(np.array(part), columns=list(self.names))
