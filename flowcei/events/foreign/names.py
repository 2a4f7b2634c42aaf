"""Names that programs and groups give to columns: of which vector, component and ion, in what unit."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowcei.units import is_unit

if TYPE_CHECKING:
    from collections.abc import Sequence

# The longest first: of mom, momentum_1_x would leave an ion "entum1".
_P, _V = r"(?:momentum|momenta|mom|p)", r"(?:velocities|velocity|vel|v)"
# What stands between the parts of a name, and around the ion: px_C, px.C, p_x(C), "p x C".
_BETWEEN = re.compile(r"[\s_.\-()\[\]{}]+")
_CHARGE = r"(?:\^?\d*\++)?"  # a charge may follow: C2+, O++
_ION = r"(?P<ion>[a-z]*(?:_?\d+)?)"
_AXIS = r"(?P<axis>[xyz])"
# A name is a quantity, an axis and an ion, in one of the orders in which programs write them.
_PATTERNS = [
    (re.compile(pattern.format(q=quantity, ion=_ION, axis=_AXIS)), kind)
    for quantity, kind in ((_P, "momenta"), (_V, "velocities"))
    for pattern in (
        r"{q}_?{axis}_?{ion}",  # px_C, p_x(C), Px_ion_1, px1, mom_x_O
        r"{q}_?{ion}_?{axis}",  # p1x, p_C_x, pcx
        r"{ion}_{q}_?{axis}f?",  # C_px, ion_1_px, Br_vxf
    )
]
_PATTERNS += [
    (re.compile(rf"{_ION}_{_AXIS}0?"), "positions"),
    (re.compile(rf"{_AXIS}_?{_ION}"), "positions"),
]
_UNIT = re.compile(r"(.*?\S)\s*(?:\[([^\[\]]+)\]|\(([^()]+(?:\([^()]*\))?)\)|/\s*(.+))")


@dataclass(frozen=True)
class NamedComponents:
    """Columns by quantity (momenta, velocities, positions), word for the ion and axis, and a duplicate."""

    columns: dict[str, dict[str, dict[str, str]]]
    duplicate: tuple[str, str] | None = None  # two columns that read as the same component


def named_components(names: Sequence[str]) -> NamedComponents:
    """Read names such as ``px_C``, ``Px_ion_1``, ``p1x``, ``Br_vxf``, ``p_x(O)`` or ``px_C [kg m/s]``.

    Example:
        >>> named = named_components(["px_C [kg m/s]", "Br_x0", "mom y ion 1"])
        >>> named.columns["momenta"]
        {'c': {'x': 'px_C [kg m/s]'}, 'ion1': {'y': 'mom y ion 1'}}
    """
    # H1+ is the first hydrogen, or one of charge 1: the former where the latter names a column twice.
    components = _components(names, _CHARGE)
    return _components(names, r"\++$|") if components.duplicate else components


def _components(names: Sequence[str], charge: str) -> NamedComponents:
    columns: dict[str, dict[str, dict[str, str]]] = {k: {} for k in ("momenta", "velocities", "positions")}
    duplicate: tuple[str, str] | None = None
    for name in names:
        plain = _BETWEEN.sub("_", bare_name(name)[0].lower()).strip("_")
        if "+" in plain:  # charges stand at the end of the ion, which may not be that of the name
            plain = re.sub(charge + r"(?=_|$|[xyz]f?$)", "", plain)
        for pattern, kind in _PATTERNS:
            match = pattern.fullmatch(plain)
            if match and match["ion"].strip("_"):
                axes = columns[kind].setdefault(match["ion"].replace("_", ""), {})
                duplicate = duplicate or ((axes[match["axis"]], name) if match["axis"] in axes else None)
                axes[match["axis"]] = name
                break
    return NamedComponents(columns, duplicate)


def is_momentum_word(name: str) -> bool:
    """Whether a dataset or group is called as momenta are."""
    return re.fullmatch(_P, name.strip().lower()) is not None


def bare_name(name: str) -> tuple[str, str]:
    """Return a name without the unit that follows it, and the unit: in brackets or after a slash.

    Example:
        >>> bare_name("px_C [kg m/s]"), bare_name("p_x(C)"), bare_name("vx_C/(m/s)")
        (('px_C', 'kg m/s'), ('p_x(C)', ''), ('vx_C', 'm/s'))
    """
    match = _UNIT.fullmatch(name.strip())
    if match is None:
        return name.strip(), ""
    word = next(group for group in match.groups()[1:] if group).strip(" ()[]")
    return (match[1].strip(" /"), word) if is_unit(word) else (name.strip(), "")
