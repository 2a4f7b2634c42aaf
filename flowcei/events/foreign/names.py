"""Names that programs and groups give to columns: of which vector, component and ion, in what unit."""

from __future__ import annotations

import re
from collections.abc import Sequence

from flowcei.units import is_unit

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


Columns = dict[str, dict[str, dict[str, str]]]
"""Columns by quantity (momenta, velocities, positions), word for the ion and axis."""


def named_components(names: Sequence[str]) -> tuple[Columns, tuple[str, str] | None]:
    """Columns by what names such as ``Px_ion_1`` or ``p_x(O) [au]`` say; two that say the same, if any do.

    Example:
        >>> columns, _ = named_components(["px_C [kg m/s]", "Br_x0", "mom y ion 1"])
        >>> columns["momenta"]
        {'c': {'x': 'px_C [kg m/s]'}, 'ion1': {'y': 'mom y ion 1'}}
    """
    # H1+ is the first hydrogen, or one of charge 1: the former where the latter names a column twice.
    for charge in (_CHARGE, r"\++$|"):
        columns: Columns = {quantity: {} for quantity in ("momenta", "velocities", "positions")}
        duplicate: tuple[str, str] | None = None
        for name in names:
            quantity, ion, axis = _component(name, charge)
            if ion:
                axes = columns[quantity].setdefault(ion, {})
                duplicate = duplicate or ((axes[axis], name) if axis in axes else None)
                axes[axis] = name
        if not duplicate:
            break
    return columns, duplicate


def _component(name: str, charge: str) -> tuple[str, str, str]:
    """Quantity, ion and axis of a column; "" where its name says none."""
    plain = _BETWEEN.sub("_", bare_name(name)[0].lower()).strip("_")
    if "+" in plain:  # charges stand at the end of the ion, which may not be that of the name
        plain = re.sub(charge + r"(?=_|$|[xyz]f?$)", "", plain)
    for pattern, quantity in _PATTERNS:
        match = pattern.fullmatch(plain)
        if match and match["ion"].strip("_"):
            return quantity, match["ion"].replace("_", ""), match["axis"]
    return "", "", ""


def is_momentum_word(name: str) -> bool:
    """Whether a dataset or group is called as momenta are."""
    return re.fullmatch(_P, name.strip().lower()) is not None


def bare_name(name: str) -> tuple[str, str]:
    """A name without the unit that follows it, and the unit: in brackets or after a slash.

    Example:
        >>> bare_name("px_C [kg m/s]"), bare_name("p_x(C)"), bare_name("vx_C/(m/s)")
        (('px_C', 'kg m/s'), ('p_x(C)', ''), ('vx_C', 'm/s'))
    """
    match = _UNIT.fullmatch(name.strip())
    if match is None:
        return name.strip(), ""
    word = next(group for group in match.groups()[1:] if group).strip(" ()[]")
    return (match[1].strip(" /"), word) if is_unit(word) else (name.strip(), "")
