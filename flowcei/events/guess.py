"""What the columns of a file probably mean, by the names that programs of the field give them."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flowcei.errors import DataError, UsageError
from flowcei.events.mapping import Channel, Component, Ions, Mapping, Vectors, momentum_factor
from flowcei.units import DALTON

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from flowcei.events.tables import Table
    from flowcei.molecule import Molecule

__all__ = ["Guess", "checked_order", "guess_mapping"]

_AXES = "xyz"
_ELECTRON_MASS = 9.1093837015e-31  # kg, CODATA 2018
_ION = r"(?P<ion>[a-z]*\d*)"
_PATTERNS = (
    (rf"p(?P<axis>[xyz])_?{_ION}", "momenta"),
    (rf"{_ION}_p(?P<axis>[xyz])f?", "momenta"),
    (rf"v(?P<axis>[xyz])_?{_ION}", "velocities"),
    (rf"{_ION}_v(?P<axis>[xyz])f?", "velocities"),
    (rf"{_ION}_(?P<axis>[xyz])0?", "positions"),
    (rf"(?P<axis>[xyz])_?{_ION}", "positions"),
)
_TRIPLES = (("p{}_au", "hbar/bohr"), ("p{}_si", "kg m/s"), ("p{}", ""), ("v{}_ms", "m/s"), ("v{}", ""))
_EVENT = ("event", "sim_counter", "event_id", "eventid", "event_number", "shot")
_MASS = {"mass_amu": DALTON, "mass_u": DALTON, "mass_kg": 1.0 / _ELECTRON_MASS}
_WORDS = ("ion", "label", "symbol", "element", "atom", "species")
_CHANNEL = ("channel_idx", "channel")
_LOOK = 10_000  # rows that are looked at


@dataclass(frozen=True)
class Guess:
    """What the columns of a file probably mean.

    Attributes:
        mapping: The meaning.
        said: What was concluded and should be checked by a person, a line each.
        open: What is not known yet: ``momenta`` or ``positions``, whose unit no name tells.
        filled: Components that the file leaves out and that were taken for 0.
    """

    mapping: Mapping
    said: list[str] = field(default_factory=list)
    open: tuple[str, ...] = ()
    filled: tuple[str, ...] = ()


def checked_order(text: str, molecule: Molecule) -> tuple[str, ...]:
    """Return labels that a person wrote, such as ``o c s``, in the order meant.

    Raises:
        UsageError: For anything but each label of the molecule once.

    Example:
        >>> from flowcei.molecule import Molecule
        >>> checked_order("S,c O", Molecule.load("ocs"))
        ('s', 'c', 'o')
    """
    order = tuple(text.replace(",", " ").lower().split())
    if sorted(order) != sorted(molecule.labels):
        msg = f"--columns is {text!r}; it names each ion once, in the order of the file: " + " ".join(
            molecule.labels
        )
        raise UsageError(msg)
    return order


def guess_mapping(
    table: Table, molecule: Molecule, path: Path, order: Sequence[str] = (), unit: str = ""
) -> Guess:
    """Conclude from the names of columns what they mean.

    Args:
        table: The file.
        molecule: Whose ions it holds.
        path: Of the file, for messages.
        order: Labels of the ions where the file only numbers them.
        unit: Of the momenta or velocities, where somebody said.

    Raises:
        DataError: Where names do not tell, saying what would.
    """
    if unit:
        momentum_factor(unit)
    order = tuple(order) or _stated_order(table, molecule)
    if all(re.fullmatch(r".*#\d+", name) for name in table.names):
        guess = _unnamed(table, molecule, path, order)
    else:
        guess = _rows_of_ions(table, molecule) or _rows_of_events(table, molecule, path, order)
    if not unit:
        return guess
    momenta = guess.mapping.momenta.model_copy(update={"unit": unit})
    rest = tuple(name for name in guess.open if name != "momenta")
    return Guess(guess.mapping.model_copy(update={"momenta": momenta}), guess.said, rest, guess.filled)


def _stated_order(table: Table, molecule: Molecule) -> tuple[str, ...]:
    """Return the labels in the order of the symbols that the file itself states."""
    symbols = [symbol.lower() for symbol in getattr(table, "symbols", ())]
    if Counter(symbols) != Counter(symbol.lower() for symbol in molecule.symbols):
        return ()
    left = list(zip(molecule.symbols, molecule.labels, strict=True))
    order = []
    for symbol in symbols:
        k = next(k for k, (known, _) in enumerate(left) if known.lower() == symbol)
        order.append(left.pop(k)[1])
    return tuple(order)


def _unnamed(table: Table, molecule: Molecule, path: Path, order: Sequence[str]) -> Guess:
    """Columns without names: 3N momenta, or nothing that can be told."""
    n = len(molecule)
    if len(table.names) != 3 * n:
        what = f"{len(table.names)} columns without names; the momenta of {molecule.name} are {3 * n}"
        raise DataError(f"{what}; a mapping tells which columns they are (--mapping)", path=path)
    if not order:
        such = f"such as --columns '{' '.join(molecule.labels)}'"
        what = f"columns without names: say in which order the ions stand, {such}"
        raise DataError(what, path=path)
    ions = {label: _triple(table.names[3 * k : 3 * k + 3]) for k, label in enumerate(order)}
    said = [f"columns without names, read as x, y, z of {', '.join(order)}"]
    mapping = Mapping(momenta=Vectors(unit="hbar/bohr", ions=ions))
    return Guess(mapping, said, ("momenta",))


def _rows_of_ions(table: Table, molecule: Molecule) -> Guess | None:
    """Look for one row an ion."""
    there = {name.lower(): name for name in table.names}
    event = next((there[name] for name in _EVENT if name in there), "")
    triple = next(
        (
            ([there[pattern.format(a)] for a in _AXES], unit, pattern)
            for pattern, unit in _TRIPLES
            if all(pattern.format(a) in there for a in _AXES)
        ),
        None,
    )
    if not event or triple is None:
        return None
    columns, unit, pattern = triple
    ions, said = _which_ion(table, molecule, there)
    channel = _channel(table, there, event, len(molecule))
    if channel is not None:
        said.append(f"several kinds of events: those with {channel.column} {channel.value:g} are read")
    mapping = Mapping(
        rows="ion",
        momenta=Vectors(
            unit=unit or ("m/s" if pattern[0] == "v" else "hbar/bohr"),
            columns=(columns[0], columns[1], columns[2]),
        ),
        event=event,
        ions=ions,
        channel=channel,
    )
    return Guess(mapping, said, () if unit else ("momenta",))


def _which_ion(table: Table, molecule: Molecule, there: dict[str, str]) -> tuple[Ions, list[str]]:
    for name, unit in _MASS.items():
        if name in there:
            masses: dict[str, Component] = {
                k: float(m / unit) for k, m in zip(molecule.labels, molecule.masses, strict=True)
            }
            return Ions(column=there[name], values=masses), [f"ions told apart by {there[name]}"]
    for name in _WORDS:
        if name in there:
            column = there[name]
            part = next(table.chunks([column], [column], rows=_LOOK), None)
            found = {} if part is None else {word.lower(): word for word in map(str, part[column].unique())}
            for words in (molecule.labels, molecule.symbols):
                if all(word.lower() in found for word in words):
                    values: dict[str, Component] = {
                        label: found[w.lower()] for label, w in zip(molecule.labels, words, strict=True)
                    }
                    return Ions(column=column, values=values), [f"ions told apart by {column}"]
    return Ions(), [f"the rows of an event read as {', '.join(molecule.labels)}, in this order"]


def _channel(table: Table, there: dict[str, str], event: str, n: int) -> Channel | None:
    column = next((there[name] for name in _CHANNEL if name in there), "")
    part = next(table.chunks([column, event], rows=_LOOK), None) if column else None
    if part is None or part[column].nunique() < 2:
        return None
    size = part.groupby([column, event]).size().reset_index(name="ions")
    fitting = size[size["ions"] == n] if (size["ions"] == n).any() else size
    return Channel(column=column, value=float(fitting[column].mode()[0]))


def _rows_of_events(table: Table, molecule: Molecule, path: Path, order: Sequence[str]) -> Guess:
    """Look for one row an event: columns that name a vector's component and an ion."""
    found: dict[str, dict[str, dict[str, str]]] = {"momenta": {}, "velocities": {}, "positions": {}}
    for name in table.names:
        for pattern, kind in _PATTERNS:
            match = re.fullmatch(pattern, name, re.IGNORECASE)
            if match and match["ion"]:
                found[kind].setdefault(match["ion"].lower(), {})[match["axis"].lower()] = name
                break
    if found["positions"] and not found["momenta"] and not found["velocities"]:
        what = "holds geometries and no momenta: flowcei simulate --geometries explodes them"
        raise DataError(what, path=path)
    kind = "momenta" if found["momenta"] else "velocities"
    vectors, filled = _by_label(found[kind], molecule, path, order)
    unit = "hbar/bohr" if kind == "momenta" else "m/s"
    said = []
    if order and not set(found[kind]) & set(molecule.labels):
        said.append(f"ions in the order {', '.join(order)}")
    # SCULPT and nathan-albin/coulomb-explosion define their momenta as in atomic units.
    defined = kind == "momenta" and any(re.fullmatch(r"px_ion\d+|px0", n, re.IGNORECASE) for n in table.names)
    open_units = [] if defined else ["momenta"]
    if type(table).__name__ == "XyzTable":
        unit, open_units = "sqrt(u eV)", []
    places = None
    if found["positions"]:
        starts, more = _by_label(found["positions"], molecule, path, order, origin=True)
        places = Vectors(unit="angstrom" if unit == "sqrt(u eV)" else "bohr", ions=starts)
        filled += more
        open_units += [] if unit == "sqrt(u eV)" or defined else ["positions"]
    event = next((name for name in table.names if name.lower() in _EVENT), "")
    mapping = Mapping(momenta=Vectors(unit=unit, ions=vectors), positions=places, event=event)
    unused = [name for name in table.names if name not in mapping.names]
    if unused:
        said.append(f"columns not read: {', '.join(unused[:8])}{', ...' if len(unused) > 8 else ''}")
    return Guess(mapping, said, tuple(open_units), tuple(filled))


def _by_label(
    found: dict[str, dict[str, str]],
    molecule: Molecule,
    path: Path,
    order: Sequence[str],
    *,
    origin: bool = False,
) -> tuple[dict[str, tuple[Component, Component, Component]], list[str]]:
    """Return the columns of every ion by its label, and what had to be filled with 0."""
    symbols = Counter(symbol.lower() for symbol in molecule.symbols)
    names = {label.lower(): label for label in molecule.labels}
    names |= {
        symbol.lower(): label
        for symbol, label in zip(molecule.symbols, molecule.labels, strict=True)
        if symbols[symbol.lower()] == 1
    }
    numbered = [token for token in found if re.fullmatch(r"(ion|particle|fragment)?_?\d+", token)]
    numbered = [token for token in numbered if token not in names]
    if len(numbered) == len(molecule):
        numbered.sort(key=lambda token: int(re.sub(r"\D", "", token)))
        if not order:
            what = (
                f"which ion is {numbered[0]!r}? say in which order the ions are numbered, such as "
                f"--columns '{' '.join(molecule.labels)}'"
            )
            raise DataError(what, path=path)
        names |= dict(zip(numbered, order, strict=True))
    by_label = {names[token]: axes for token, axes in found.items() if token in names}
    lost = [label for label in molecule.labels if label not in by_label]
    if len(lost) > (1 if origin else 0):
        what = f"no column was recognised for {', '.join(lost)} of {molecule.name}: is it another molecule's "
        what += "file? a mapping tells which columns are which (flowcei convert --guess, --mapping)"
        raise DataError(what, path=path)
    filled = [
        f"{'position' if origin else 'momentum'} {axis} of {label}"
        for label in molecule.labels
        for axis in _AXES
        if axis not in by_label.get(label, {})
    ]
    vectors = {k: _triple([by_label.get(k, {}).get(a, 0.0) for a in _AXES]) for k in molecule.labels}
    return vectors, filled


def _triple(parts: Sequence[Component]) -> tuple[Component, Component, Component]:
    return parts[0], parts[1], parts[2]
