"""The one place where units are converted; everywhere else is in atomic units.

Positions are in bohr, masses in electron masses, charges in elementary charges,
energies in hartree and momenta in hbar / bohr. Values: CODATA 2018
(E. Tiesinga et al., Rev. Mod. Phys. 93, 025010 (2021)).
"""

from __future__ import annotations

__all__ = [
    "ANGSTROM",
    "DALTON",
    "ELECTRONVOLT",
    "KILOMETRE_PER_SECOND",
    "LENGTH_UNITS",
    "LIGHT",
    "MOMENTUM_UNITS",
    "SI_MOMENTUM",
    "VELOCITY_UNITS",
    "length_in_bohr",
]

ANGSTROM = 1.0 / 0.529177210903
"""One angstrom in bohr."""

DALTON = 1822.888486209
"""One atomic mass unit (u) in electron masses."""

ELECTRONVOLT = 1.0 / 27.211386245988
"""One electronvolt in hartree."""

SI_MOMENTUM = 1.0 / 1.99285191410e-24
"""One kg m/s in hbar / bohr."""

KILOMETRE_PER_SECOND = 1.0 / 2187.69126364
"""One km/s in atomic units of velocity."""

LIGHT = 1.0 / 7.2973525693e-3
"""The speed of light in atomic units: the reciprocal of the fine-structure constant."""

LENGTH_UNITS = {
    "bohr": 1.0,
    "angstrom": ANGSTROM,
    "nanometres": 10.0 * ANGSTROM,
    "picometres": 0.01 * ANGSTROM,
    "metres": 1e10 * ANGSTROM,
}
"""What other programs write positions in -> one of it in bohr."""

MOMENTUM_UNITS = {
    "hbar/bohr": 1.0,
    "kg m/s": SI_MOMENTUM,
    "1e-22 kg m/s": 1e-22 * SI_MOMENTUM,
    "u m/s": DALTON * KILOMETRE_PER_SECOND / 1000.0,
    "u km/s": DALTON * KILOMETRE_PER_SECOND,
    "u angstrom/fs": 100.0 * DALTON * KILOMETRE_PER_SECOND,
    "sqrt(u eV)": (DALTON * ELECTRONVOLT) ** 0.5,
    "eV/c": ELECTRONVOLT / LIGHT,
    "keV/c": 1000.0 * ELECTRONVOLT / LIGHT,
}
"""What other programs write momenta in -> one of it in hbar / bohr."""

VELOCITY_UNITS = {
    "bohr/atomic time": 1.0,
    "m/s": KILOMETRE_PER_SECOND / 1000.0,
    "km/s": KILOMETRE_PER_SECOND,
    "angstrom/fs": 100.0 * KILOMETRE_PER_SECOND,
}
"""What other programs write velocities in -> one of it in atomic units."""

_LENGTHS = {"bohr": 1.0, "angstrom": ANGSTROM}


def length_in_bohr(unit: str) -> float:
    """Return one `unit` of length in bohr.

    Args:
        unit: ``"bohr"`` or ``"angstrom"``.

    Returns:
        The factor that turns a number in `unit` into bohr.

    Raises:
        ValueError: For any other unit.

    Example:
        >>> round(length_in_bohr("angstrom"), 6)
        1.889726
    """
    if unit not in _LENGTHS:
        msg = f"unknown unit of length {unit!r}; use one of {', '.join(_LENGTHS)}"
        raise ValueError(msg)
    return _LENGTHS[unit]
