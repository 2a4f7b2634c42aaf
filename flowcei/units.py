"""The one place where units are converted; everywhere else is in atomic units.

Positions are in bohr, masses in electron masses, charges in elementary charges,
energies in hartree and momenta in hbar / bohr. Values: CODATA 2018
(E. Tiesinga et al., Rev. Mod. Phys. 93, 025010 (2021)).
"""

from __future__ import annotations

import math
import re

from flowcei.errors import UsageError

ANGSTROM = 1.0 / 0.529177210903  # bohr
DALTON = 1822.888486209  # one atomic mass unit (u) in electron masses
ELECTRONVOLT = 1.0 / 27.211386245988  # hartree
SI_MOMENTUM = 1.0 / 1.99285191410e-24  # one kg m/s in hbar / bohr
KILOMETRE_PER_SECOND = 1.0 / 2187.69126364  # atomic units of velocity
FEMTOSECOND = 41.341373  # atomic units of time
BOLTZMANN = 3.1668115634556e-6  # hartree per kelvin
VOLT_PER_METRE = 1.0 / 5.14220674763e11  # atomic units of an electric field
FWHM = 2.0 * math.sqrt(2.0 * math.log(2.0))  # full width at half maximum of a normal law over its deviation
LIGHT = 1.0 / 7.2973525693e-3  # speed of light: the reciprocal of the fine-structure constant

LENGTH_UNITS = {
    "bohr": 1.0,
    "angstrom": ANGSTROM,
    "nanometres": 10.0 * ANGSTROM,
    "picometres": 0.01 * ANGSTROM,
    "metres": 1e10 * ANGSTROM,
}
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
VELOCITY_UNITS = {
    "bohr/atomic time": 1.0,
    "m/s": KILOMETRE_PER_SECOND / 1000.0,
    "km/s": KILOMETRE_PER_SECOND,
    "angstrom/fs": 100.0 * KILOMETRE_PER_SECOND,
}
UNITS = {"momenta": MOMENTUM_UNITS, "velocities": VELOCITY_UNITS, "positions": LENGTH_UNITS}
"""Quantity -> its units in files of other programs -> one of each in atomic units."""

_QUANTITIES = {
    "field": {"V/m": VOLT_PER_METRE, "V/cm": 1e2 * VOLT_PER_METRE, "V/mm": 1e3 * VOLT_PER_METRE},
    "length": {"m": 1e10 * ANGSTROM, "cm": 1e8 * ANGSTROM, "mm": 1e7 * ANGSTROM, "um": 1e4 * ANGSTROM}
    | {"angstrom": ANGSTROM, "bohr": 1.0},
    "time": {"us": 1e9 * FEMTOSECOND, "ns": 1e6 * FEMTOSECOND, "ps": 1e3 * FEMTOSECOND},
}
_ATOMIC = ("au", "a.u.", "atomic units")
_SYNONYMS = {
    "momenta": dict.fromkeys((*_ATOMIC, "hbar/a0"), "hbar/bohr") | {"SI": "kg m/s"},
    "velocities": dict.fromkeys(_ATOMIC, "bohr/atomic time"),
    "positions": dict.fromkeys((*_ATOMIC, "a0"), "bohr")
    | dict.fromkeys(("ang", "a", "å"), "angstrom")
    | {"nm": "nanometres", "pm": "picometres", "m": "metres", "si": "metres"},
}


def length_in_bohr(unit: str) -> float:
    """One ``"bohr"`` or ``"angstrom"`` in bohr; UsageError for another unit."""
    if unit not in ("bohr", "angstrom"):
        raise UsageError(f"unknown unit of length {unit!r}; use one of bohr, angstrom")
    return LENGTH_UNITS[unit]


def unit_name(word: str, quantity: str) -> str:
    """The unit of momenta, velocities or positions that a word means, as `UNITS` calls it; "" for none.

    Example:
        >>> unit_name("kg*m*s^-1", "momenta"), unit_name("a.u.", "velocities"), unit_name("fs", "positions")
        ('kg m/s', 'bohr/atomic time', '')
    """
    if quantity == "positions":
        plain = word.strip().lower()
    else:
        plain = re.sub(r"\s+", " ", re.sub(r"[*\u00b7\u22c5]", " ", word)).strip()
        plain = re.sub(r" ?(?:s\^?-1|s\u207b\u00b9|/ ?s)$", "/s", plain)
        plain = re.sub(r"^(?:amu|Da) ", "u ", plain)
    name = _SYNONYMS[quantity].get(plain, plain)
    return name if name in UNITS[quantity] else ""


def momentum_factor(unit: str) -> tuple[float, bool]:
    """One unit of momentum or velocity in atomic units, and whether it is one of velocity.

    Example:
        >>> momentum_factor("au"), momentum_factor("bohr/atomic time")
        ((1.0, False), (1.0, True))
    """
    for quantity in ("momenta", "velocities"):
        if name := unit_name(unit, quantity):
            return UNITS[quantity][name], quantity == "velocities"
    units = ", ".join((*MOMENTUM_UNITS, *VELOCITY_UNITS))
    raise UsageError(f"unknown unit of momenta or velocities {unit[:40]!r}; use one of {units}")


def is_unit(word: str) -> bool:
    """Whether a word is a unit of momenta, velocities or positions."""
    return any(unit_name(word, quantity) for quantity in UNITS)


def quantity(text: str, kind: str) -> float:
    """A positive field, length or time with its unit, such as ``"20 V/cm"``, in atomic units.

    Example:
        >>> round(quantity("1 V/cm", "field") * 5.14220674763e9, 6), round(quantity("1 ns", "time"))
        (1.0, 41341373)
    """
    number, _, unit = text.strip().partition(" ")
    factor = _QUANTITIES[kind].get(unit.strip())
    try:
        value = float(number) * (factor or 0.0)
    except ValueError:
        value = 0.0
    if not 0.0 < value < math.inf:
        units = ", ".join(_QUANTITIES[kind])
        raise UsageError(f"{text[:40]!r} is no {kind}: write a positive number and one of {units}")
    return value


def compact(value: float, error: float) -> str:
    """A number with its error, of one digit, in units of its last digit: 0.0391(8).

    Example:
        >>> [compact(*pair) for pair in ((0.03912, 0.00081), (12.94, 0.96), (5421.0, 83.0), (0.5, 0.0))]
        ['0.0391(8)', '13(1)', '5420(80)', '0.5']
    """
    if not (math.isfinite(value) and 1e-99 < error < 1e9):
        return f"{value:.3g}"
    places = -math.floor(math.log10(float(f"{error:.0e}")))  # of the error, which 0.96 rounds to 1
    last = round(error * 10.0**places)
    return (
        f"{value:.{places}f}({last})"
        if places > 0
        else f"{round(value, places) + 0.0:.0f}({last * 10**-places})"
    )
