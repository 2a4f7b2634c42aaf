"""Names that programs and groups give to columns: of which vector, component and ion, in what unit."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowcei.errors import UsageError
from flowcei.events.mapping import momentum_factor

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["NamedComponents", "bare_name", "named_components"]

_ION = r"(?P<ion>[a-z]*\d*?)(?:\d+\+|\++)?"  # a charge may follow: C2+, O++
_AXIS = r"(?P<axis>[xyz])"
_P, _V = r"(?:p|mom|momentum)", r"(?:v|vel|velocity)"
_PATTERNS = [
    (pattern.format(q=quantity, ion=_ION, axis=_AXIS), kind)
    for quantity, kind in ((_P, "momenta"), (_V, "velocities"))
    for pattern in (
        r"{q}_?{axis}[_(]?{ion}\)?",
        r"{q}_?{ion}_?{axis}",
        r"{ion}_{q}_?{axis}f?",
    )
]
_PATTERNS += [
    (rf"{_ION}_{_AXIS}0?", "positions"),
    (rf"{_AXIS}_?{_ION}", "positions"),
]
_LENGTHS = {
    "bohr": "bohr",
    "a0": "bohr",
    "a.u.": "bohr",
    "angstrom": "angstrom",
    "å": "angstrom",
    "a": "angstrom",
}
_LENGTHS |= {"nm": "nanometres", "pm": "picometres", "m": "metres"}
_UNIT = re.compile(r"(.*?\S)\s*(?:\[(.+)\]|\((.+)\)|/\s*(.+))")


@dataclass(frozen=True)
class NamedComponents:
    """What the names of columns say.

    Attributes:
        columns: momenta, velocities or positions -> word for the ion -> x, y or z -> column.
        words: momenta, velocities or positions -> what stands as unit behind the names.
    """

    columns: dict[str, dict[str, dict[str, str]]]
    words: dict[str, set[str]]

    def unit(self, kind: str) -> str:
        """Return the unit that all names of a kind state, or nothing."""
        if kind == "positions":
            word = next(iter(self.words[kind])) if len(self.words[kind]) == 1 else ""
            return _LENGTHS.get(word.lower(), "")
        return _momentum_unit(self.words[kind], velocities=kind == "velocities")


def named_components(names: Sequence[str]) -> NamedComponents:
    """Read names such as ``px_C``, ``Px_ion1``, ``Br_vxf``, ``p_x(O)``, ``x0`` or ``px_C [kg m/s]``.

    Example:
        >>> found = named_components(["px_C [kg m/s]", "Br_x0"])
        >>> found.columns["momenta"], found.unit("momenta")
        ({'c': {'x': 'px_C [kg m/s]'}}, 'kg m/s')
    """
    kinds = ("momenta", "velocities", "positions")
    found = NamedComponents({kind: {} for kind in kinds}, {kind: set() for kind in kinds})
    for name in names:
        bare, word = bare_name(name)
        for pattern, kind in _PATTERNS:
            match = re.fullmatch(pattern, bare, re.IGNORECASE)
            if match and match["ion"]:
                axes = found.columns[kind].setdefault(match["ion"].lower(), {})
                axes[match["axis"].lower()] = name
                found.words[kind].add(word)
                break
    return found


def bare_name(name: str) -> tuple[str, str]:
    """Return a name without the unit that follows it, and the unit: in brackets or after a slash.

    Example:
        >>> bare_name("px_C [kg m/s]"), bare_name("p_x(C)"), bare_name("vx_C/(m/s)")
        (('px_C', 'kg m/s'), ('p_x(C)', ''), ('vx_C', 'm/s'))
    """
    match = _UNIT.fullmatch(name.strip())
    if match is None:
        return name.strip(), ""
    word = next(part for part in match.groups()[1:] if part).strip(" ()[]")
    known = _momentum_unit({word}) or _LENGTHS.get(word.lower())
    return (match[1].strip(" /"), word) if known else (name.strip(), "")


def _momentum_unit(words: set[str], *, velocities: bool | None = None) -> str:
    """Return the unit that all names state, or nothing."""
    word = next(iter(words)) if len(words) == 1 else ""
    if word == "a.u." and velocities:
        return "bohr/atomic time"
    try:
        return word if word and velocities in (None, momentum_factor(word)[1]) else ""
    except UsageError:
        return ""
