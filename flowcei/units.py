"""The one place where units are converted; everywhere else is in atomic units.

Positions are in bohr, masses in electron masses, charges in elementary charges,
energies in hartree and momenta in hbar / bohr. Values: CODATA 2018
(E. Tiesinga et al., Rev. Mod. Phys. 93, 025010 (2021)).
"""

from __future__ import annotations

import re

from flowcei.errors import UsageError

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
_SHORT = {
    "au": "hbar/bohr",
    "a.u.": "hbar/bohr",
    "atomic units": "hbar/bohr",
    "hbar/a0": "hbar/bohr",
    "SI": "kg m/s",
    "1e-22 kg*m/s": "1e-22 kg m/s",
}
_SHORT_LENGTHS = {
    "au": "bohr",
    "a.u.": "bohr",
    "atomic units": "bohr",
    "a0": "bohr",
    "ang": "angstrom",
    "a": "angstrom",
    "å": "angstrom",
    "nm": "nanometres",
    "pm": "picometres",
    "m": "metres",
    "si": "metres",
}


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


def momentum_factor(unit: str) -> tuple[float, bool]:
    """Return one of a unit in atomic units, and whether it is one of velocity.

    Raises:
        UsageError: For a unit that is not known.

    Example:
        >>> momentum_factor("au"), momentum_factor("bohr/atomic time")
        ((1.0, False), (1.0, True))
        >>> momentum_factor("kg*m*s^-1") == momentum_factor("kg m/s")
        True
    """
    name = _SHORT.get(unit, unit)
    if name not in MOMENTUM_UNITS and name not in VELOCITY_UNITS:
        plain = re.sub(r"\s+", " ", re.sub(r"[*\u00b7\u22c5]", " ", unit)).strip()
        plain = re.sub(r" ?(?:s\^?-1|s\u207b\u00b9|/ ?s)$", "/s", plain)
        plain = re.sub(r"^(?:amu|Da) ", "u ", plain)
        name = _SHORT.get(plain, plain)
    if name in MOMENTUM_UNITS:
        return MOMENTUM_UNITS[name], False
    if name in VELOCITY_UNITS:
        return VELOCITY_UNITS[name], True
    known = ", ".join((*MOMENTUM_UNITS, *VELOCITY_UNITS))
    msg = f"unknown unit of momenta or velocities {unit[:40]!r}; use one of {known}"
    raise UsageError(msg)


def length_unit(word: str) -> str:
    """Return which unit of length a word means; nothing where it means none.

    Example:
        >>> length_unit("a.u."), length_unit("Angstrom"), length_unit("fs")
        ('bohr', 'angstrom', '')
    """
    plain = word.strip().lower()
    return plain if plain in LENGTH_UNITS else _SHORT_LENGTHS.get(plain, "")


def meaning_of_unit(word: str, *, positions: bool, velocities: bool = False) -> float | None:
    """Return one of a stated unit in atomic units; None where it is no unit of the quantity."""
    if positions:
        unit = length_unit(word)
        return LENGTH_UNITS[unit] if unit else None
    if velocities and word in ("au", "a.u.", "atomic units"):
        return 1.0
    try:
        factor, of_velocity = momentum_factor(word)
    except UsageError:
        return None
    return factor if of_velocity == velocities else None


def is_unit(word: str) -> bool:
    """Whether a word is a unit of momenta, velocities or positions."""
    kinds = ({"positions": True}, {"positions": False}, {"positions": False, "velocities": True})
    return any(meaning_of_unit(word, **kind) is not None for kind in kinds)
