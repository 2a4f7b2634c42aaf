"""Structures in extended XYZ: geometries, and the momenta of their ions where a file has them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flowcei.errors import DataError
from flowcei.events.foreign.table import Table
from flowcei.molecules.isotopes import HYDROGENS
from flowcei.storage.files import check_end
from flowcei.storage.xyz import check_length_unit, nuclides, read_structures
from flowcei.units import length_in_bohr

if TYPE_CHECKING:
    import pandas as pd

    from flowcei.molecules.molecule import Molecule

_LOOK = 1_000  # structures that the unit is inferred from
_ROWS = 10_000


class XyzTable(Table):
    """An XYZ file as a table with a row for every structure, all with the same `symbols`.

    Columns are ``x0``, ``y0``, ... and, where the file has momenta, ``px0``, ... in sqrt(u eV), as ASE
    writes them.
    """

    def __init__(self, path: Path) -> None:
        """Look at the first structures."""
        self.first = list(islice(read_structures(path), _LOOK))
        if not self.first:
            raise DataError("holds no structure", path=path)
        self.symbols = tuple(self.first[0].get_chemical_symbols())
        prefixes = ("", "p") if self.first[0].has("momenta") else ("",)
        names = [f"{p}{axis}{k}" for p in prefixes for k in range(len(self.symbols)) for axis in "xyz"]
        super().__init__(path, names)

    @property
    def length_unit(self) -> str:
        """The unit of the positions by the comment, or by lengths of bonds; "" where neither tells."""
        try:
            return check_length_unit(self.first, None, self.path)
        except DataError:
            return ""

    def _chunks(self, used: list[str], text: Collection[str], rows: int) -> Iterator[pd.DataFrame]:
        import pandas as pd

        del used, text
        numbers = self._numbers()
        for chunk in iter(lambda: list(islice(numbers, rows)), []):
            yield pd.DataFrame(np.array(chunk), columns=list(self.names))

    def _numbers(self) -> Iterator[NDArray[np.float64]]:
        n = len(self.symbols)
        for row, structure in enumerate(read_structures(self.path), start=1):
            if tuple(structure.get_chemical_symbols()) != self.symbols:
                raise DataError(f"atoms other than {' '.join(self.symbols)}", path=self.path, row=row)
            moving = [structure.get_momenta()] if len(self.names) > 3 * n else []
            vectors = [structure.get_positions(), *moving]
            if any(v.shape != (n, 3) or v.dtype.kind not in "fiu" for v in vectors):
                raise DataError("vectors that are not three numbers", path=self.path, row=row)
            yield np.concatenate(vectors, axis=None)


def read_geometries(path: Path, molecule: Molecule, *, unit: str | None = None) -> NDArray[np.float64]:
    """Positions (G, N, 3), bohr, of the structures of an XYZ file, in the molecule's order of atoms.

    Atoms of one symbol come in the order of the file; `unit` is as of `Molecule.load`.
    """
    table = XyzTable(path)
    check_end(path, "add a line end")
    factor = length_in_bohr(check_length_unit(table.first, unit, path))
    names, wanted = list(table.symbols), molecule.symbols
    if HYDROGENS.keys() & set(nuclides(table.first[0])):
        names, wanted = nuclides(table.first[0]), molecule.nuclides
    # Both in the order of their symbols: stable, so that equal atoms stay in the order of the file.
    there, ours = (sorted(range(len(s)), key=[w.lower() for w in s].__getitem__) for s in (names, wanted))
    if [names[k].lower() for k in there] != [wanted[k].lower() for k in ours]:
        raise DataError(f"atoms {' '.join(names)}; {molecule.name} has {' '.join(wanted)}", path=path)
    order = [there[ours.index(k)] for k in range(len(ours))]
    columns = [f"{axis}{k}" for k in order for axis in "xyz"]
    chunks = [chunk[columns].to_numpy() for chunk in table.chunks(columns, rows=_ROWS)]
    positions = np.concatenate(chunks).reshape(-1, len(molecule), 3) * factor
    broken = ~np.isfinite(positions).all(axis=(1, 2))
    if broken.any():
        raise DataError("positions are not finite", path=path, row=int(np.argmax(broken)) + 1)
    return positions
