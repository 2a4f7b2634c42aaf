"""Units that nobody stated, told from the size of the numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from flowcei.errors import DataError
from flowcei.physics.explosion import kinetic_energy, potential_energy
from flowcei.units import ELECTRONVOLT, LENGTH_UNITS, momentum_factor

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from flowcei.molecules.molecule import Molecule

# Momenta are told apart by a factor of 400 in energy between the least and the most that a
# molecule can release; of two units that are closer than that (u km/s is 0.83 hbar/bohr) only
# one may be looked for, and the other must be stated.
_MOMENTA = ("hbar/bohr", "kg m/s", "1e-22 kg m/s", "u m/s")
_VELOCITIES = ("bohr/atomic time", "m/s", "km/s", "angstrom/fs")
_LENGTHS = ("bohr", "angstrom", "nanometres", "picometres", "metres")
_ENERGIES = (0.05, 20.0)  # KER over U0 of the equilibrium
_CLOSE = 0.2  # of KE / U0 from 1, with positions


def infer_momentum_unit(
    numbers: NDArray[np.float64], molecule: Molecule, path: Path, *, velocities: bool = False
) -> tuple[str, str]:
    """Return the only unit in which the KER is one that the molecule can have, and a line that says so.

    Args:
        numbers: Momenta or velocities as the file has them, (B, N, 3).
        molecule: Whose ions they are.
        path: The file, for messages.
        velocities: Whether they are velocities.

    Raises:
        DataError: Where none fits.

    Example:
        >>> import flowcei
        >>> from pathlib import Path
        >>> events = flowcei.simulate("ocs", 50, seed=1)
        >>> infer_momentum_unit(events.momenta * 2e-24, events.molecule, Path("x.csv"))[0]
        'kg m/s'
    """
    rest = abs(float(potential_energy(molecule.equilibrium, molecule.charges)))
    good = numbers[np.isfinite(numbers).all(axis=(1, 2))]
    energies: dict[str, float] = {}
    for unit in _VELOCITIES if velocities else _MOMENTA:
        with np.errstate(over="ignore"):
            momenta = good * momentum_factor(unit)[0]
            if velocities:
                momenta = momenta * molecule.masses[:, None]
            energies[unit] = float(np.median(kinetic_energy(momenta, molecule.masses))) if len(good) else 0.0
    fitting = [u for u, energy in energies.items() if _ENERGIES[0] < energy / rest < _ENERGIES[1]]
    if len(fitting) != 1:
        unit, energy = next(iter(energies.items()))
        what = (
            f"the unit of the {'velocities' if velocities else 'momenta'} cannot be told: in {unit} the "
            f"median KER would be {energy / ELECTRONVOLT:.3g} eV, the Coulomb energy of {molecule.name} is "
            f"{rest / ELECTRONVOLT:.3g} eV; state it with --unit"
        )
        raise DataError(what, path=path)
    energy, rest = energies[fitting[0]] / ELECTRONVOLT, rest / ELECTRONVOLT
    return fitting[
        0
    ], f"{fitting[0]}, as the median KER is then {energy:.3g} eV (Coulomb energy {rest:.3g} eV)"


def infer_length_unit(
    positions: NDArray[np.float64], momenta: NDArray[np.float64], molecule: Molecule, path: Path
) -> tuple[str, str]:
    """Return the unit in which the Coulomb energy of the positions is the kinetic energy, and a line.

    Args:
        positions: As the file has them, (B, N, 3).
        momenta: (B, N, 3), hbar / bohr.
        molecule: Whose ions they are.
        path: The file, for messages.

    Raises:
        DataError: Where none fits.

    Example:
        >>> import flowcei
        >>> from pathlib import Path
        >>> events = flowcei.simulate("ocs", 50, seed=1)
        >>> infer_length_unit(events.positions * 0.529, events.momenta, events.molecule, Path("x"))[0]
        'angstrom'
    """
    sound = np.isfinite(positions).all(axis=(1, 2)) & np.isfinite(momenta).all(axis=(1, 2))
    with np.errstate(all="ignore"):
        potential = np.abs(potential_energy(positions[sound], molecule.charges))
        energies = kinetic_energy(momenta[sound], molecule.masses) / potential
    ratio = float(np.median(energies)) if len(energies) else math.nan
    ratios = {unit: ratio * LENGTH_UNITS[unit] for unit in _LENGTHS}
    best = min(ratios, key=lambda unit: abs(np.log(ratios[unit])) if ratios[unit] > 0 else np.inf)
    if not abs(ratios[best] - 1.0) < _CLOSE:
        what = (
            f"the unit of the positions cannot be told: in bohr the kinetic energy is {ratio:.3g} times "
            "their Coulomb energy; state the units in a mapping (--mapping)"
        )
        raise DataError(what, path=path)
    return best, f"{best}, as their Coulomb energy is then {1.0 / ratios[best]:.3g} times the kinetic energy"
