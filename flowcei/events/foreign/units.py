"""Units of columns: stated by the file, and checked; or inferred from the size of the numbers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flowcei.errors import DataError
from flowcei.events.foreign.names import bare_name
from flowcei.physics.explosion import kinetic_energy, potential_energy
from flowcei.units import ELECTRONVOLT, LENGTH_UNITS, UNITS, momentum_factor, unit_name

if TYPE_CHECKING:
    from flowcei.events.foreign.mapping import Component, Mapping
    from flowcei.events.foreign.table import Table
    from flowcei.molecules.molecule import Molecule

# Momenta are told apart by a factor of 400 in energy between the least and the most that a molecule can
# release; of two units that are closer than that (u km/s is 0.83 hbar/bohr) only one is tried, and the
# other must be stated.
_PLAUSIBLE_KER = 0.05, 20.0  # over the Coulomb energy of the equilibrium
_CANDIDATES = {
    "momenta": ("hbar/bohr", "kg m/s", "1e-22 kg m/s", "u m/s"),
    "velocities": ("bohr/atomic time", "m/s", "km/s", "angstrom/fs"),
}
_ENERGY_TOLERANCE = 0.2  # of kinetic over Coulomb energy from 1, with positions


def unit_of_columns(table: Table, columns: Iterable[Component], quantity: str, *, unit: str = "") -> str:
    """The unit that a file states for columns of momenta, velocities or positions; "" for none.

    Where some columns state it and others do not, and `unit` does not settle it, the first is refused.
    """
    stated = _stated_units(table, columns)
    first = next(((word, name) for name, words in stated.items() for word in words), None)
    if first is None:
        return unit_name(table.shared_unit, quantity)
    silent = next((name for name, words in stated.items() if not words), "")
    if silent and not unit:
        message = f"states no unit where others state {first[0]!r}; --unit states it for all"
        raise DataError(message, path=table.path, column=silent)
    return _checked_unit(*first, quantity, table)


def check_units(table: Table, mapping: Mapping) -> None:
    """Refuse a mapping whose units contradict those that the file states, naming the first such column."""
    moving = "velocities" if momentum_factor(mapping.momenta.unit)[1] else "momenta"
    for kind, vectors in mapping.vectors.items():
        quantity, sigma = (kind, "") if kind == "positions" else (moving, mapping.sigma)
        for name, words in _stated_units(table, (*vectors.components, sigma)).items():
            for word in words:
                if _checked_unit(word, name, quantity, table) != unit_name(vectors.unit, quantity):
                    message = f"the file states {word[:40]!r} here, and the {quantity} are taken in "
                    message += f"{vectors.unit[:40]!r}; one is wrong"
                    raise DataError(message, path=table.path, column=name)


def _stated_units(table: Table, columns: Iterable[Component]) -> dict[str, list[str]]:
    """What states the unit of each column: its name, and an attribute."""
    names = [name for name in columns if isinstance(name, str)]
    return {n: [word for word in (bare_name(n)[1], table.units.get(n, "")) if word] for n in names}


def _checked_unit(word: str, column: str, quantity: str, table: Table) -> str:
    if unit := unit_name(word, quantity):
        return unit
    raise DataError(f"is in {word[:40]!r}, which is no unit of {quantity}", path=table.path, column=column)


def infer_momentum_unit(
    numbers: NDArray[np.float64], molecule: Molecule, path: Path, quantity: str
) -> tuple[str, str]:
    """The only unit in which the KER of momenta or velocities (B, N, 3) is plausible, and the reason."""
    at_rest = abs(float(potential_energy(molecule.equilibrium, molecule.charges)))
    finite = numbers[np.isfinite(numbers).all(axis=(1, 2))]
    scale = molecule.masses[:, None] if quantity == "velocities" else 1.0
    energies: dict[str, float] = {}
    for unit in _CANDIDATES[quantity]:
        with np.errstate(over="ignore"):
            energy = kinetic_energy(finite * UNITS[quantity][unit] * scale, molecule.masses)
        energies[unit] = float(np.median(energy)) if len(finite) else 0.0
    low, high = _PLAUSIBLE_KER
    fitting = [unit for unit, energy in energies.items() if low < energy / at_rest < high]
    chosen = fitting[0] if len(fitting) == 1 else _CANDIDATES[quantity][0]
    ker, expected = (f"{energy / ELECTRONVOLT:.3g} eV" for energy in (energies[chosen], at_rest))
    if len(fitting) == 1:
        return chosen, f"{chosen}, as the median KER is then {ker} (Coulomb energy {expected})"
    message = f"cannot infer the unit of the {quantity}: in {chosen} the median KER would be {ker}, "
    message += f"the Coulomb energy of {molecule.name} is {expected}; state it with --unit"
    raise DataError(message, path=path)


def infer_length_unit(
    positions: NDArray[np.float64], momenta: NDArray[np.float64], molecule: Molecule, path: Path
) -> tuple[str, str]:
    """The unit in which the Coulomb energy of positions (B, N, 3) is the kinetic energy, and the reason.

    Momenta (B, N, 3) are in hbar / bohr, positions as the file has them.
    """
    sound = np.isfinite(positions).all(axis=(1, 2)) & np.isfinite(momenta).all(axis=(1, 2))
    with np.errstate(all="ignore"):
        potential = np.abs(potential_energy(positions[sound], molecule.charges))
        energies = kinetic_energy(momenta[sound], molecule.masses) / potential
    ratio = float(np.median(energies)) if len(energies) else np.nan
    ratios = {unit: ratio * factor for unit, factor in LENGTH_UNITS.items()}
    best = min(ratios, key=lambda unit: abs(np.log(ratios[unit])) if ratios[unit] > 0 else np.inf)
    if abs(ratios[best] - 1.0) < _ENERGY_TOLERANCE:
        over = 1.0 / ratios[best]
        return best, f"{best}, as their Coulomb energy is then {over:.3g} times the kinetic energy"
    message = f"cannot infer the unit of the positions: in bohr the kinetic energy is {ratio:.3g} times "
    raise DataError(f"{message}their Coulomb energy; state the units in a mapping (--mapping)", path=path)
