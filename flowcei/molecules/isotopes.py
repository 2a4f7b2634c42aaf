"""Isotopes: their masses, and which elements have an average mass that no isotope has."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from flowcei.units import DALTON

if TYPE_CHECKING:
    from flowcei.molecules.molecule import Molecule

HYDROGENS = {"D": 2, "T": 3}  # isotopes with a symbol of their own, and their mass numbers
_NO_ISOTOPE = 0.005  # relative: beyond it lengths are wrong by as much as a good measurement's error
_ISOTOPE = re.compile(r"(\d{1,3})-?([A-Z][a-z]?)|([A-Z][a-z]?)-?(\d{1,3})")


@cache
def _table() -> dict[str, dict[int, float]]:
    text = (files("flowcei") / "assets" / "isotopes.txt").read_text(encoding="ascii")
    rows = [line.split() for line in text.splitlines() if not line.startswith("#")]
    return {s: dict(zip(map(int, rest[::2]), map(float, rest[1::2]), strict=True)) for s, *rest in rows}


def isotope_masses(symbol: str) -> dict[int, float]:
    """Masses of an element's isotopes, u, by mass number; none for an unknown one."""
    return dict(_table().get(symbol, {}))


def read_isotope(text: str) -> tuple[str, float]:
    """Element and mass, electron masses, of an isotope such as 81Br, Br-81, D or T; else ValueError."""
    name = text.strip()
    if name in HYDROGENS:
        return "H", isotope_masses("H")[HYDROGENS[name]] * DALTON
    match = _ISOTOPE.fullmatch(name)
    symbol, number = (match[2] or match[3], int(match[1] or match[4])) if match else ("", 0)
    masses = isotope_masses(symbol)
    if number in masses:
        return symbol, masses[number] * DALTON
    others = f"{symbol} has {', '.join(f'{a}{symbol}' for a in masses)}" if masses else ""
    raise ValueError(f"{name[:40]!r} is no isotope{'; ' + others if others else ': write 81Br, or D'}")


def described_ions(molecule: Molecule) -> str:
    """Masses, u, and charges in one line; the masses by label where an element has several."""
    by_symbol: dict[str, set[float]] = {}
    for symbol, _, mass in molecule.kinds:
        by_symbol.setdefault(symbol, set()).add(mass)
    masses = dict.fromkeys(
        f"{symbol if len(by_symbol[symbol]) == 1 else label} {mass / DALTON:.6g}"
        for label, (symbol, _, mass) in zip(molecule.labels, molecule.kinds, strict=True)
    )
    return f"masses (u) {', '.join(masses)}; charges {', '.join(f'{q:+g}' for q in molecule.charges)}"


def average_mass_warnings(molecule: Molecule) -> list[str]:
    """A line for each element whose mass here is that of no isotope, to half a per cent."""
    lines = []
    for symbol, mass in dict.fromkeys((symbol, mass) for symbol, _, mass in molecule.kinds):
        isotopes, u = isotope_masses(symbol), mass / DALTON
        if isotopes and all(abs(u / m - 1.0) > _NO_ISOTOPE for m in isotopes.values()):
            *most, last = (f"{a}{symbol}" for a in isotopes)
            names = " or ".join([", ".join(most), last] if most else [last])
            lines.append(f"{symbol}: {u:.6g} u is the average mass, that of no isotope; --isotopes {names}")
    return lines
