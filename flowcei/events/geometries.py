"""Geometries of other programs, and the events that they explode into."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from flowcei.errors import DataError
from flowcei.events.container import Events
from flowcei.events.foreign.structures import XyzTable
from flowcei.events.simulation import fresh_seed
from flowcei.experiment.detector import Noise
from flowcei.molecules.isotopes import HYDROGENS
from flowcei.physics.explosion import asymptotic_momenta, centre_of_mass
from flowcei.storage.files import check_end, check_readable
from flowcei.storage.xyz import check_length_unit, nuclides, read_structures
from flowcei.units import length_in_bohr

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from flowcei.molecules.molecule import Molecule

_ROWS = 10_000
_LOOK = 1_000  # structures that the unit is told from


def read_geometries(path: Path, molecule: Molecule, *, unit: str | None = None) -> NDArray[np.float64]:
    """Read structures of a molecule from an XYZ file, its atoms in any order.

    Args:
        path: The file.
        molecule: What they are structures of. Atoms of one symbol come in the order of the file.
        unit: Of the positions, ``"angstrom"`` or ``"bohr"``; as of `Molecule.load` where None.

    Returns:
        (G, N, 3), bohr, atoms in the molecule's order.

    Raises:
        UsageError: For a missing file.
        DataError: For a file that is no XYZ, or of other atoms.
    """
    check_readable(path)
    table = XyzTable(path)
    check_end(path, "add a line end")
    first = list(islice(read_structures(path), _LOOK))
    factor = length_in_bohr(check_length_unit(first, unit, path))
    names, wanted = tuple(table.symbols), molecule.symbols
    if HYDROGENS.keys() & set(nuclides(first[0])):
        names, wanted = tuple(nuclides(first[0])), molecule.nuclides
    left = list(enumerate(symbol.lower() for symbol in names))
    order = []
    for symbol in wanted:
        place = next((k for k, entry in enumerate(left) if entry[1] == symbol.lower()), None)
        if place is None or len(table.symbols) != len(molecule):
            what = f"atoms {' '.join(names)}; {molecule.name} has {' '.join(wanted)}"
            raise DataError(what, path=path)
        order.append(left.pop(place)[0])
    columns = [f"{axis}{k}" for k in order for axis in "xyz"]
    parts = [part[columns].to_numpy() for part in table.chunks(columns, rows=_ROWS)]
    found = np.concatenate(parts).reshape(-1, len(molecule), 3) * factor
    broken = ~np.isfinite(found).all(axis=(1, 2))
    if broken.any():
        raise DataError("positions are not finite", path=path, row=int(np.argmax(broken)) + 1)
    return found


def explode(
    positions: NDArray[np.float64],
    molecule: Molecule,
    *,
    noise: str = "0%",
    seed: int | None = None,
    accuracy: float = 1e-8,
) -> Events:
    """Explode given geometries.

    Args:
        positions: (G, N, 3), bohr.
        molecule: Whose ions.
        noise: Of the detector, as for `simulate`.
        seed: Of the noise; drawn, and kept in `origin`, where None.
        accuracy: Mean relative error of the momenta.

    Returns:
        An event of each geometry, in their order; positions with the centre of mass at 0.

    Raises:
        ValueError: For geometries that cannot explode, naming the first.

    Example:
        >>> from flowcei.molecules.molecule import Molecule
        >>> ocs = Molecule.load("ocs")
        >>> explode(ocs.equilibrium[None], ocs, seed=1).momenta.shape
        (1, 3, 3)
    """
    seed = fresh_seed() if seed is None else seed
    x = positions - centre_of_mass(positions, molecule.masses)
    exact = np.asarray(
        asymptotic_momenta(x, molecule.masses, molecule.charges, accuracy=accuracy), np.float64
    )
    momenta, sigma = Noise.parse(noise).apply(exact, np.random.default_rng(np.random.SeedSequence(seed)))
    return Events(
        molecule, momenta, x, sigma=sigma, origin={"noise": noise, "seed": seed, "accuracy": accuracy}
    )
