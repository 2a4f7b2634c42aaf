"""Isotopes: their masses, and which elements have an average mass that no isotope has."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from flowcei.units import DALTON

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowcei.molecules.molecule import Molecule

HYDROGENS = {"D": 2, "T": 3}
"""Isotopes with a symbol of their own, and their mass numbers."""

_NO_ISOTOPE = 0.005  # relative: beyond it lengths are wrong by as much as a good measurement's error
_ISOTOPE = re.compile(r"(\d{1,3})-?([A-Z][a-z]?)|([A-Z][a-z]?)-?(\d{1,3})")


@cache
def _table() -> dict[str, dict[int, float]]:
    text = (files("flowcei") / "assets" / "isotopes.txt").read_text(encoding="ascii")
    rows = [line.split() for line in text.splitlines() if not line.startswith("#")]
    return {s: dict(zip(map(int, rest[::2]), map(float, rest[1::2]), strict=True)) for s, *rest in rows}


def isotope_masses(symbol: str) -> dict[int, float]:
    """Return the masses of an element's isotopes, u, by mass number; none for an unknown one.

    Example:
        >>> isotope_masses("Br")
        {79: 78.9183376, 81: 80.9162882}
    """
    return dict(_table().get(symbol, {}))


def read_isotope(text: str) -> tuple[str, float]:
    """Return element and mass, electron masses, of an isotope such as 81Br, Br-81, D or T.

    Raises:
        ValueError: For what is none, naming those of the element.

    Example:
        >>> read_isotope("81Br")[0], round(read_isotope("81Br")[1] / DALTON, 4)
        ('Br', 80.9163)
    """
    name = text.strip()
    if name in HYDROGENS:
        return "H", isotope_masses("H")[HYDROGENS[name]] * DALTON
    match = _ISOTOPE.fullmatch(name)
    symbol, number = (match[2] or match[3], int(match[1] or match[4])) if match else ("", 0)
    of_element = isotope_masses(symbol)
    if number in of_element:
        return symbol, of_element[number] * DALTON
    others = f"; {symbol} has {', '.join(f'{a}{symbol}' for a in of_element)}" if of_element else ""
    raise ValueError(f"{name[:40]!r} is no isotope{others or ': write 81Br, or D'}")


def described_ions(molecule: Molecule) -> str:
    """Return masses and charges in one line.

    Example:
        >>> from flowcei.molecules.molecule import Molecule
        >>> described_ions(Molecule.load("ch4"))
        'masses (u) C 12.011, H 1.008; charges +1, +1, +1, +1, +1'
    """
    by_symbol: dict[str, set[float]] = {}
    for symbol, mass in zip(molecule.symbols, molecule.masses.tolist(), strict=True):
        by_symbol.setdefault(symbol, set()).add(mass)
    rows = zip(molecule.symbols, molecule.labels, molecule.masses.tolist(), strict=True)
    names = dict.fromkeys(
        f"{symbol if len(by_symbol[symbol]) == 1 else label} {mass / DALTON:.6g}"
        for symbol, label, mass in rows
    )
    return f"masses (u) {', '.join(names)}; charges {', '.join(f'{q:+g}' for q in molecule.charges)}"


def average_mass_warnings(molecule: Molecule) -> list[str]:
    """Return a line for each element whose mass here is that of no isotope, to half a per cent.

    Example:
        >>> from flowcei.molecules.molecule import Molecule
        >>> average_mass_warnings(Molecule.load("chbrclf"))[0]
        'Br: 79.904 u is the average mass, that of no isotope; --isotopes 79Br or 81Br'
    """
    lines = []
    for symbol, mass in dict.fromkeys(zip(molecule.symbols, molecule.masses.tolist(), strict=True)):
        of_element, u = isotope_masses(symbol), mass / DALTON
        if of_element and all(abs(u / m - 1.0) > _NO_ISOTOPE for m in of_element.values()):
            names = _either([f"{a}{symbol}" for a in of_element])
            lines.append(f"{symbol}: {u:.6g} u is the average mass, that of no isotope; --isotopes {names}")
    return lines


def _either(names: Sequence[str]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
