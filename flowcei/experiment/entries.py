"""The entries of an experiment: every form that a person may write, brought to one and checked."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from flowcei.errors import UsageError
from flowcei.experiment.detector import NOISE_FLOOR, Noise
from flowcei.physics.build_up import BuildUpPrior, build_up_of
from flowcei.units import quantity

if TYPE_CHECKING:
    from flowcei.molecules.molecule import Molecule

DETECTOR = {"field": "field", "length": "length", "sigma_t": "time", "sigma_x": "length"}
"""Entries of a spectrometer, and what they are."""

_UNKNOWN = "unknown"
_EVERY = "every ion"
_LEAST = 1e-6  # hbar/bohr


def number(
    name: str, value: object, low: float = -math.inf, high: float = math.inf, open_end: str = ""
) -> float:
    """A finite number between bounds, which may be reached but for the `open_end`, low or high."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        number, excluded = float(value), {"low": low, "high": high}.get(open_end)
        if low <= number <= high and number != excluded:
            return number
    span = f" from {low:g} to {high:g}" if math.isfinite(high) else " of 0 or more" if low == 0.0 else ""
    ends = f", not {low if open_end == 'low' else high:g}" if open_end else ""
    raise UsageError(f"{name} is {str(value)[:40]!r}; it must be a number{span}{ends}")


def number_or_unknown(value: object, name: str, *bounds: Any) -> float:  # noqa: ANN401 (those of `number`)
    """A number, or infinity for one that is unknown."""
    unknown = value == _UNKNOWN or (isinstance(value, float) and value == math.inf)
    return math.inf if unknown else number(name, value, *bounds)


def three(value: object, settle: Any, name: str) -> tuple[Any, ...]:  # noqa: ANN401 (a function of one)
    """The entries for x, y, z: those of a list, or one for all."""
    listed = list(value) if isinstance(value, (list, tuple)) else [value] * 3
    if len(listed) != 3 or (name == "drift" and not isinstance(value, (list, tuple))):
        raise UsageError(f"{name} is {str(value)[:60]!r}; it needs an entry for each of x, y and z")
    return tuple(settle(entry) for entry in listed)


def by_ion(value: object, settle: Any) -> dict[str, Any]:  # noqa: ANN401 (a function of one)
    """The entries of ions: those of a table by their labels, or one for all."""
    table = value if isinstance(value, dict) and value else {_EVERY: value}
    return {str(label): settle(entry) for label, entry in table.items()}


def of_each_ion(table: dict[str, Any], molecule: Molecule, name: str) -> dict[str, Any]:
    """Entries of all ions of a molecule; UsageError for others, or too few."""
    if _EVERY in table and len(table) == 1:
        return dict.fromkeys(molecule.labels, table[_EVERY])
    if set(table) != set(molecule.labels):
        ours = ", ".join(molecule.labels)
        raise UsageError(f"{name} is of {', '.join(table)[:60]}; {molecule.name} has {ours}: state each")
    return table


def settled_noise(value: object) -> dict[str, tuple[Any, ...]]:
    """Levels of each ion along x, y, z."""
    levels = by_ion(value, lambda ion: three(ion, _level, "noise"))
    if len({isinstance(level, str) for ion in levels.values() for level in ion}) > 1:
        raise UsageError("noise is partly in %, partly in hbar/bohr; state all of it alike")
    return levels


def _level(value: object) -> float | str:
    """A level as a number, hbar / bohr, or as text in per cent."""
    text = value.strip() if isinstance(value, str) else repr(number("noise", value))
    noise = Noise.parse(text)
    if noise.low != noise.high:
        raise UsageError(f"noise {text} is a range, for training; an experiment has one level")
    least = NOISE_FLOOR if noise.relative else _LEAST
    if not least <= noise.low <= 1.0 / _LEAST:
        span = "0.01% or more" if noise.relative else f"from {_LEAST:g} to {1.0 / _LEAST:g} hbar/bohr"
        raise UsageError(f"noise is {text} along an axis; it must be {span}: without resolution no density")
    return f"{float(text.rstrip('% '))!r}%" if noise.relative else noise.low


def settled_growth(value: object) -> Any:  # noqa: ANN401 (text, or a table of a prior)
    """The text of a build-up, or the table of its prior."""
    growth = build_up_of(value)
    return growth.to_dict() if isinstance(growth, BuildUpPrior) else str(growth)


def settled_detector(value: object) -> dict[str, str]:
    """The table of a spectrometer, with its axis."""
    table = {"axis": "z"} | value if isinstance(value, dict) else {}
    if sorted(table) != sorted([*DETECTOR, "axis"]):
        raise UsageError(f"detector is a table of {', '.join(DETECTOR)}, each with its unit, and axis")
    if table["axis"] not in ("x", "y", "z"):
        raise UsageError(f"the axis of a detector is x, y or z; got {str(table['axis'])[:40]!r}")
    for name, kind in DETECTOR.items():
        try:
            quantity(str(table[name]), kind)
        except UsageError as error:
            raise UsageError(f"detector.{name}: {error}") from error
    return {name: str(table[name]) for name in (*DETECTOR, "axis")}


def plain(value: Any) -> Any:  # noqa: ANN401 (an entry, of any form)
    """An entry as TOML and JSON have it."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()} if _EVERY not in value else plain(value[_EVERY])
    if isinstance(value, tuple):
        return [plain(entry) for entry in value]
    return _UNKNOWN if value == math.inf else value


def toml(value: object) -> str:
    """An entry as the text of a TOML file."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + " }"
    return json.dumps(value)  # JSON's text, numbers and lists are TOML's too
