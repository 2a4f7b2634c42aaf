"""Units of columns: stated by the file, and checked; or inferred from the size of the numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard

import numpy as np

from flowcei.errors import DataError
from flowcei.events.foreign.names import bare_name
from flowcei.physics.explosion import kinetic_energy, potential_energy
from flowcei.units import ELECTRONVOLT, LENGTH_UNITS, UNITS, momentum_factor, unit_name

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from flowcei.events.foreign.mapping import Component, Mapping
    from flowcei.events.foreign.table import Table
    from flowcei.molecules.molecule import Molecule


@dataclass(frozen=True)
class UnitRules:
    """When numbers show their unit.

    Momenta are told apart by a factor of 400 in energy between the least and the most that a molecule can
    release; of two units that are closer than that (u km/s is 0.83 hbar/bohr) only one is tried, and the
    other must be stated.
    """

    candidates: tuple[tuple[str, tuple[str, ...]], ...] = (
        ("momenta", ("hbar/bohr", "kg m/s", "1e-22 kg m/s", "u m/s")),
        ("velocities", ("bohr/atomic time", "m/s", "km/s", "angstrom/fs")),
    )
    plausible_ker: tuple[float, float] = (0.05, 20.0)  # over the Coulomb energy of the equilibrium
    energy_tolerance: float = 0.2  # of kinetic over Coulomb energy from 1, with positions


RULES = UnitRules()


def unit_of_columns(table: Table, columns: Sequence[Component], quantity: str, *, unit: str = "") -> str:
    """The unit that a file states for columns of momenta, velocities or positions; "" for none.

    Where some columns state it and others do not, and `unit` does not settle it, the first is refused.
    """
    stated = {name: _stated_units(table, name) for name in filter(_is_column, columns)}
    first = next(((words[0], name) for name, words in stated.items() if words), None)
    if first is None:
        return unit_name(table.shared_unit, quantity)
    for name, words in stated.items():
        if not words and not unit:
            what = f"states no unit where others state {first[0]!r}; --unit states it for all"
            raise DataError(what, path=table.path, column=name)
    return _checked_unit(*first, quantity, table)


def check_units(table: Table, mapping: Mapping) -> None:
    """Refuse a mapping whose units contradict those that the file states, naming the first such column."""
    moving = "velocities" if momentum_factor(mapping.momenta.unit)[1] else "momenta"
    for kind, vectors in mapping.vectors.items():
        quantity, sigma = (kind, "") if kind == "positions" else (moving, mapping.sigma)
        for name in filter(_is_column, (*vectors.components, sigma)):
            for word in _stated_units(table, name):
                if _checked_unit(word, name, quantity, table) != unit_name(vectors.unit, quantity):
                    what = f"the file states {word[:40]!r} here, and the {quantity} are taken in "
                    what += f"{vectors.unit[:40]!r}; one is wrong"
                    raise DataError(what, path=table.path, column=name)


def _is_column(component: Component) -> TypeGuard[str]:
    return isinstance(component, str)


def _stated_units(table: Table, column: str) -> list[str]:
    """Return what states the unit of a column: its name, and an attribute."""
    return [word for word in (bare_name(column)[1], table.units.get(column, "")) if word]


def _checked_unit(word: str, column: str, quantity: str, table: Table) -> str:
    unit = unit_name(word, quantity)
    if not unit:
        raise DataError(
            f"is in {word[:40]!r}, which is no unit of {quantity}", path=table.path, column=column
        )
    return unit


def coulomb_energy(molecule: Molecule) -> float:
    """Coulomb energy of the equilibrium, hartree."""
    return abs(float(potential_energy(molecule.equilibrium, molecule.charges)))


def infer_momentum_unit(
    numbers: NDArray[np.float64], molecule: Molecule, path: Path, quantity: str, *, rules: UnitRules = RULES
) -> tuple[str, str]:
    """The only unit in which the KER of momenta or velocities (B, N, 3) is plausible, and the reason."""
    at_rest = coulomb_energy(molecule)
    finite = numbers[np.isfinite(numbers).all(axis=(1, 2))]
    scale = molecule.masses[:, None] if quantity == "velocities" else 1.0
    energies: dict[str, float] = {}
    for unit in dict(rules.candidates)[quantity]:
        with np.errstate(over="ignore"):
            energy = kinetic_energy(finite * UNITS[quantity][unit] * scale, molecule.masses)
        energies[unit] = float(np.median(energy)) if len(finite) else 0.0
    low, high = rules.plausible_ker
    fitting = [unit for unit, energy in energies.items() if low < energy / at_rest < high]
    ker, expected = (f"{energy / ELECTRONVOLT:.3g} eV" for energy in (next(iter(energies.values())), at_rest))
    if len(fitting) != 1:
        what = (
            f"cannot infer the unit of the {quantity}: in {next(iter(energies))} the median KER would be "
            f"{ker}, the Coulomb energy of {molecule.name} is {expected}; state it with --unit"
        )
        raise DataError(what, path=path)
    ker = f"{energies[fitting[0]] / ELECTRONVOLT:.3g} eV"
    return fitting[0], f"{fitting[0]}, as the median KER is then {ker} (Coulomb energy {expected})"


def infer_length_unit(
    positions: NDArray[np.float64],
    momenta: NDArray[np.float64],
    molecule: Molecule,
    path: Path,
    *,
    rules: UnitRules = RULES,
) -> tuple[str, str]:
    """The unit in which the Coulomb energy of positions (B, N, 3) is the kinetic energy, and the reason.

    Momenta (B, N, 3) are in hbar / bohr, positions as the file has them.
    """
    sound = np.isfinite(positions).all(axis=(1, 2)) & np.isfinite(momenta).all(axis=(1, 2))
    with np.errstate(all="ignore"):
        potential = np.abs(potential_energy(positions[sound], molecule.charges))
        energies = kinetic_energy(momenta[sound], molecule.masses) / potential
    ratio = float(np.median(energies)) if len(energies) else math.nan
    ratios = {unit: ratio * factor for unit, factor in LENGTH_UNITS.items()}
    best = min(ratios, key=lambda unit: abs(np.log(ratios[unit])) if ratios[unit] > 0 else np.inf)
    if not abs(ratios[best] - 1.0) < rules.energy_tolerance:
        what = (
            f"cannot infer the unit of the positions: in bohr the kinetic energy is {ratio:.3g} times "
            "their Coulomb energy; state the units in a mapping (--mapping)"
        )
        raise DataError(what, path=path)
    return best, f"{best}, as their Coulomb energy is then {1.0 / ratios[best]:.3g} times the kinetic energy"
