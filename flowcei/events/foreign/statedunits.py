"""Units that a file states: behind the names of columns, on a line below them, or as attributes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from flowcei.errors import DataError
from flowcei.events.foreign.columnnames import bare_name
from flowcei.units import length_unit, meaning_of_unit, momentum_factor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowcei.events.foreign.mapping import Component, Mapping
    from flowcei.events.foreign.table import Table


def unit_of_columns(
    table: Table,
    columns: Sequence[Component],
    *,
    unit: str = "",
    positions: bool = False,
    velocities: bool = False,
) -> str:
    """Return the unit that a file states for columns of one quantity; nothing where it states none.

    Args:
        table: The file.
        columns: Components of momenta, velocities or positions; numbers stand for columns left out.
        unit: What the caller states: then the file need not state it for every column.
        positions: Whether they are positions.
        velocities: Whether they are velocities.

    Raises:
        DataError: Naming the first column whose unit is none of the quantity, contradicts that of
            the others, or is not stated where that of others is.
    """
    stated = {name: _words(table, name) for name in columns if isinstance(name, str)}
    first = next((words[0] for words in stated.values() if words), "")
    if not first:
        shared = table.shared_unit
        meaning = meaning_of_unit(shared, positions=positions, velocities=velocities)
        return "" if meaning is None else _plain(shared, positions=positions, velocities=velocities)
    for name, words in stated.items():
        for word in words:
            _check_word(word, first, table, name, positions=positions, velocities=velocities)
        if not words and not unit:
            what = f"states no unit where others state {first!r}; --unit states it for all"
            raise DataError(what, path=table.path, column=name)
    return _plain(first, positions=positions, velocities=velocities)


def check_units(table: Table, mapping: Mapping) -> None:
    """Refuse a mapping whose units are not those that the file states.

    Raises:
        DataError: Naming the first column that contradicts it.
    """
    velocities = momentum_factor(mapping.momenta.unit)[1]
    for kind, vectors in mapping.vectors.items():
        positions = kind == "positions"
        names = [*vectors.components, *([mapping.sigma] if mapping.sigma and not positions else [])]
        for name in names:
            for word in _words(table, name) if isinstance(name, str) else ():
                moving = velocities and not positions
                _check_word(word, vectors.unit, table, str(name), positions=positions, velocities=moving)


def _words(table: Table, column: str) -> list[str]:
    """Return what states the unit of a column: its name, and an attribute."""
    words = (bare_name(column)[1], table.units.get(column, ""))
    return [word for word in words if word]


def _check_word(
    word: str, other: str, table: Table, column: str, *, positions: bool, velocities: bool
) -> None:
    called = "positions" if positions else "velocities" if velocities else "momenta"
    factor = meaning_of_unit(word, positions=positions, velocities=velocities)
    if factor is None:
        raise DataError(f"is in {word[:40]!r}, which is no unit of {called}", path=table.path, column=column)
    expected = meaning_of_unit(other, positions=positions, velocities=velocities)
    # The same unit in two spellings may differ by rounding; no two units are nearer than 0.1.
    if expected is None or not math.isclose(factor, expected, rel_tol=1e-6):
        what = (
            f"the file states {word[:40]!r} here, and the {called} are taken in {other[:40]!r}; one is wrong"
        )
        raise DataError(what, path=table.path, column=column)


def _plain(word: str, *, positions: bool, velocities: bool) -> str:
    """Return a unit as a mapping names it."""
    if positions:
        return length_unit(word)
    return "bohr/atomic time" if velocities and word in ("au", "a.u.", "atomic units") else word
