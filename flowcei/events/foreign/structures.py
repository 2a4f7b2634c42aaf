"""Structures in extended XYZ: geometries, and the momenta of their ions where a file has them."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from flowcei.errors import DataError
from flowcei.events.foreign.table import Table
from flowcei.molecules.isotopes import HYDROGENS
from flowcei.storage.files import check_end
from flowcei.storage.xyz import check_length_unit, nuclides, read_structures
from flowcei.units import length_in_bohr

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path
    from typing import Any

    from numpy.typing import NDArray

    from flowcei.molecules.molecule import Molecule

_LOOK = 1_000  # structures that the unit is inferred from
_ROWS = 10_000


class XyzTable(Table):
    """An XYZ file as a table with a row for every structure.

    Columns are ``x0``, ``y0``, ... and, where the file has momenta, ``px0``, ... in sqrt(u eV), as ASE
    writes them. Every structure has the same `symbols`.
    """

    def __init__(self, path: Path) -> None:
        """Look at the first structures."""
        self.first: list[Any] = list(islice(read_structures(path), _LOOK))
        if not self.first:
            raise DataError("holds no structure", path=path)
        self.symbols = tuple(self.first[0].get_chemical_symbols())
        self._moving = self.first[0].has("momenta")
        prefixes = ("", "p") if self._moving else ("",)
        super().__init__(
            path, [f"{p}{a}{k}" for p in prefixes for k in range(len(self.symbols)) for a in "xyz"]
        )

    @property
    def length_unit(self) -> str:
        """The unit of the positions by the comment, or by lengths of bonds; "" where neither tells."""
        try:
            return check_length_unit(self.first, None, self.path)
        except DataError:
            return ""

    def _chunks(self, used: list[str], text: Collection[str], rows: int) -> Iterator[pd.DataFrame]:
        del used, text
        chunk: list[NDArray[np.float64]] = []
        for row, structure in enumerate(read_structures(self.path), start=1):
            if tuple(structure.get_chemical_symbols()) != self.symbols:
                raise DataError(f"atoms other than {' '.join(self.symbols)}", path=self.path, row=row)
            vectors = [structure.get_positions()]
            if self._moving:
                vectors.append(structure.get_momenta())
            if any(v.shape != (len(self.symbols), 3) or v.dtype.kind not in "fiu" for v in vectors):
                raise DataError("vectors that are not three numbers", path=self.path, row=row)
            chunk.append(np.concatenate(vectors, axis=None))
            if len(chunk) == rows:
                yield pd.DataFrame(np.array(chunk), columns=list(self.names))
                chunk = []
        if chunk:
            yield pd.DataFrame(np.array(chunk), columns=list(self.names))


def read_geometries(path: Path, molecule: Molecule, *, unit: str | None = None) -> NDArray[np.float64]:
    """Positions (G, N, 3), bohr, of the structures of an XYZ file, in the molecule's order of atoms.

    Atoms of one symbol come in the order of the file; `unit` is as of `Molecule.load`.
    """
    table = XyzTable(path)
    check_end(path, "add a line end")
    factor = length_in_bohr(check_length_unit(table.first, unit, path))
    names, wanted = tuple(table.symbols), molecule.symbols
    if HYDROGENS.keys() & set(nuclides(table.first[0])):
        names, wanted = tuple(nuclides(table.first[0])), molecule.nuclides
    free = {k: symbol.lower() for k, symbol in enumerate(names)}
    order = []
    for symbol in wanted:
        index = next((k for k, name in free.items() if name == symbol.lower()), None)
        if index is None or len(names) != len(molecule):
            what = f"atoms {' '.join(names)}; {molecule.name} has {' '.join(wanted)}"
            raise DataError(what, path=path)
        del free[index]
        order.append(index)
    columns = [f"{axis}{k}" for k in order for axis in "xyz"]
    chunks = [chunk[columns].to_numpy() for chunk in table.chunks(columns, rows=_ROWS)]
    positions = np.concatenate(chunks).reshape(-1, len(molecule), 3) * factor
    broken = ~np.isfinite(positions).all(axis=(1, 2))
    if broken.any():
        raise DataError("positions are not finite", path=path, row=int(np.argmax(broken)) + 1)
    return positions
