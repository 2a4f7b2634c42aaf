"""What the columns of a file probably mean, by the names that programs of the field give them."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flowcei.errors import DataError, UsageError
from flowcei.events.extracolumns import NAMELESS, NUMBERED, listed
from flowcei.events.foreign.columnnames import is_momentum_word, named_components
from flowcei.events.foreign.mapping import Channel, Component, Ions, Mapping, Vectors
from flowcei.events.foreign.statedunits import unit_of_columns
from flowcei.events.foreign.structures import XyzTable
from flowcei.units import DALTON, momentum_factor

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from flowcei.events.foreign.tables import Table
    from flowcei.molecules.molecule import Molecule

__all__ = ["Guess", "blank_mapping", "checked_order", "guess_mapping"]

_AXES = "xyz"
_ELECTRON_MASS = 9.1093837015e-31  # kg, CODATA 2018
_TRIPLES = (("p{}_au", "hbar/bohr"), ("p{}_si", "kg m/s"), ("p{}", ""), ("v{}_ms", "m/s"), ("v{}", ""))
_EVENT = ("event", "sim_counter", "event_id", "eventid", "event_number", "shot")
_MASS = {"mass_amu": DALTON, "mass_u": DALTON, "mass_kg": 1.0 / _ELECTRON_MASS}
_UNREAD = ("m_over_q", "m/q", "mq", "z", "particle", "fragment", "species_id", "pid", "ion_id")
_WORDS = ("ion", "label", "symbol", "element", "atom", "species")
_CHANNEL = ("channel_idx", "channel")
_POSITIONS = ("positions", "position", "pos", "coordinates", "xyz", "r")
_COUNTED = re.compile(r"(?:ion|atom|particle|fragment|frag|hit)?0*\d+")
_HEAVY_HYDROGEN = 1.5  # u: between H, 1.008, and D, 2.014
_FEW = 50  # different words
_LOOK = 10_000  # rows that are looked at


@dataclass(frozen=True)
class Guess:
    """What the columns of a file probably mean.

    Attributes:
        mapping: The meaning.
        said: What was concluded and should be checked by a person, a line each.
        open: What is not known yet: ``momenta`` or ``positions``, whose unit no name tells.
        filled: Components that the file leaves out and that were taken for 0.
        ordered: Whether the order of the ions had to be stated.
    """

    mapping: Mapping
    said: list[str] = field(default_factory=list)
    open: tuple[str, ...] = ()
    filled: tuple[str, ...] = ()
    ordered: bool = False


def checked_order(text: str, molecule: Molecule) -> tuple[str, ...]:
    """Return labels that a person wrote, such as ``o c s``, in the order meant.

    Raises:
        UsageError: For anything but each label of the molecule once.

    Example:
        >>> from flowcei.molecules.molecule import Molecule
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
    stated, order = tuple(order), tuple(order) or _stated_order(table, molecule)
    whole = _whole_vectors(table, molecule, path, order)
    if whole is not None:
        guess = whole
    elif all(re.fullmatch(r".*#\d+", n) or n.startswith((NAMELESS, NUMBERED)) for n in table.names):
        guess = _unnamed(table, molecule, path, order, stated=bool(stated))
    else:
        guess = _rows_of_ions(table, molecule, path, order) or _rows_of_events(
            table, molecule, path, order, unit=unit, stated=bool(stated)
        )
        if stated and not guess.ordered:
            msg = f"{path}: its columns say which ion is which; leave out --columns"
            raise UsageError(msg)
        called = "velocities" if momentum_factor(guess.mapping.momenta.unit)[1] else "momenta"
        if unit and momentum_factor(unit)[1] != momentum_factor(guess.mapping.momenta.unit)[1]:
            msg = f"{path}: its columns are called {called}, and {unit} is no unit of {called}"
            raise UsageError(msg)
    if not unit:
        return guess
    momenta = guess.mapping.momenta.model_copy(update={"unit": unit})
    rest = tuple(name for name in guess.open if name != "momenta")
    mapping = guess.mapping.model_copy(update={"momenta": momenta})
    return Guess(mapping, guess.said, rest, guess.filled, ordered=guess.ordered)


def blank_mapping(table: Table, molecule: Molecule) -> Mapping:
    """Return a mapping to be filled in by a person: ``?`` stands for every name that is asked for."""
    there = {name.lower() for name in table.names}
    if any(all(pattern.format(a) in there for a in _AXES) for pattern, _ in _TRIPLES):
        columns = next(p for p, _ in _TRIPLES if all(p.format(a) in there for a in _AXES))
        x, y, z = (next(n for n in table.names if n.lower() == columns.format(a)) for a in _AXES)
        ions = Ions(column="?", values=dict.fromkeys(molecule.labels, "?"))
        return Mapping(rows="ion", momenta=Vectors(unit="hbar/bohr", columns=(x, y, z)), event="?", ions=ions)
    blank: dict[str, tuple[Component, Component, Component]] = dict.fromkeys(molecule.labels, ("?", "?", "?"))
    return Mapping(momenta=Vectors(unit="hbar/bohr", ions=blank))


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


def _whole_vectors(table: Table, molecule: Molecule, path: Path, order: Sequence[str]) -> Guess | None:
    """Look for datasets of all momenta of an event, (B, N, 3), as HDF5 files have them."""
    sizes = Counter(match[1] for match in (re.fullmatch(r"(.+)#\d+", name) for name in table.names) if match)
    momenta = next((name for name in sizes if is_momentum_word(name)), "")
    if not momenta:
        return None
    n = len(molecule)
    positions = next((name for name in sizes if name.lower() in _POSITIONS), "")
    for name in filter(None, (momenta, positions)):
        if sizes[name] != 3 * n:
            what = f"{name} has {sizes[name]} numbers an event; {molecule.name} has {n} ions with 3 each"
            raise DataError(what, path=path)
    said = []
    if not order:
        order = molecule.labels
        said.append(f"ions of {momenta} read in the order {' '.join(order)}; --columns states another")

    def vectors(name: str) -> dict[str, tuple[Component, Component, Component]]:
        return {k: _triple([f"{name}#{3 * i + j}" for j in (1, 2, 3)]) for i, k in enumerate(order)}

    unit = unit_of_columns(table, [f"{momenta}#1"], path, unit="")
    length = unit_of_columns(table, [f"{positions}#1"], path, unit="", positions=True) if positions else ""
    mapping = Mapping(
        momenta=Vectors(unit=unit or "hbar/bohr", ions=vectors(momenta)),
        positions=Vectors(unit=length or "bohr", ions=vectors(positions)) if positions else None,
        event=next((name for name in table.names if name == "event"), ""),
        sigma=next((name for name in table.names if name == "sigma"), ""),
    )
    unknown = [*([] if unit else ["momenta"]), *(["positions"] if positions and not length else [])]
    return Guess(mapping, said, tuple(unknown), ordered=True)


def _unnamed(table: Table, molecule: Molecule, path: Path, order: Sequence[str], *, stated: bool) -> Guess:
    """Columns without names: 3N momenta, or nothing that can be told."""
    n = len(molecule)
    names = [name for name in table.names if not name.startswith((NAMELESS, NUMBERED))]
    if len(names) != 3 * n:
        what = f"{len(names)} columns without names; the momenta of {molecule.name} are {3 * n}"
        if getattr(table, "rows", None) == 3 * n:
            what += "; rows and columns are exchanged"
        raise DataError(f"{what}; a mapping tells which columns they are (--mapping)", path=path)
    if not order:
        such = f"such as --columns '{' '.join(molecule.labels)}'"
        what = f"columns without names: say in which order the ions stand, {such}"
        raise DataError(what, path=path)
    ions = {label: _triple(names[3 * k : 3 * k + 3]) for k, label in enumerate(order)}
    whose = "each ion" if stated else ", ".join(order)
    said = [f"columns without names, read as x, y, z of {whose}"]
    mapping = Mapping(momenta=Vectors(unit="hbar/bohr", ions=ions))
    return Guess(mapping, said, ("momenta",), ordered=True)


def _rows_of_ions(table: Table, molecule: Molecule, path: Path, order: Sequence[str]) -> Guess | None:
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
    ions, said = _which_ion(table, molecule, there, path, order)
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
    ordered = not ions.column or all(isinstance(v, float) and v == int(v) for v in ions.values.values())
    return Guess(mapping, said, () if unit else ("momenta",), ordered=ordered)


def _which_ion(
    table: Table, molecule: Molecule, there: dict[str, str], path: Path, order: Sequence[str]
) -> tuple[Ions, list[str]]:
    """Return how rows say which ion they are: by mass, by name, or by their stated order.

    Raises:
        DataError: Where they do not, or in words that are not understood: a wrong guess would give
            each ion the momentum of another.
    """
    for name, unit in _MASS.items():
        if name in there:
            masses: dict[str, Component] = {
                k: float(m / unit) for k, m in zip(molecule.labels, molecule.masses, strict=True)
            }
            return Ions(column=there[name], values=masses), [f"ions told apart by {there[name]}"]
    column = next((there[name] for name in (*_WORDS, *_UNREAD) if name in there), "")
    if column:
        part = next(table.chunks([column], [column], rows=_LOOK), None)
        found = [] if part is None else [str(word).strip() for word in part[column].unique()[:_FEW]]
        values = _named(found, molecule) or _counted(found, order)
        if values:
            return Ions(column=column, values=values), [f"ions told apart by {column}"]
        what = (
            f"which ion is which? column {column!r} holds {', '.join(w[:20] for w in found[:6])}; a mapping "
        )
        what += "tells ([ions] column, values); flowcei convert --guess begins one"
        raise DataError(what, path=path)
    if not order:
        such = f"--columns '{' '.join(molecule.labels)}'"
        what = (
            f"no column tells the ions apart: say in which order the rows of an event stand, such as {such}"
        )
        raise DataError(what, path=path)
    if tuple(order) != molecule.labels:
        what = f"rows without a word on the ion must stand in the order {' '.join(molecule.labels)}"
        raise DataError(f"{what}; sort them, or add a column that tells", path=path)
    return Ions(), [f"the rows of an event read as {', '.join(order)}, in this order"]


def _named(found: list[str], molecule: Molecule) -> dict[str, Component]:
    """Return which words are which ions: labels or symbols, perhaps with a charge or a mass number."""
    bare = {re.sub(r"^\d+(?=[a-z])|\d*\++$", "", word.lower()): word for word in found}
    for words in (molecule.labels, molecule.symbols):
        if all(word.lower() in bare for word in words):
            return {k: bare[w.lower()] for k, w in zip(molecule.labels, words, strict=True)}
    return {}


def _counted(found: list[str], order: Sequence[str]) -> dict[str, Component]:
    """Return which numbers, 0, 1, ... or 1, 2, ..., are which ions, in an order that was stated."""
    try:
        numbers = sorted(float(word) for word in found)
    except ValueError:
        return {}
    if not order or numbers not in (
        [*map(float, range(len(order)))],
        [*map(float, range(1, len(order) + 1))],
    ):
        return {}
    return dict(zip(order, numbers, strict=True))


def _channel(table: Table, there: dict[str, str], event: str, n: int) -> Channel | None:
    column = next((there[name] for name in _CHANNEL if name in there), "")
    part = next(table.chunks([column, event], rows=_LOOK), None) if column else None
    if part is None or part[column].nunique() < 2:
        return None
    size = part.groupby([column, event]).size().reset_index(name="ions")
    fitting = size[size["ions"] == n] if (size["ions"] == n).any() else size
    return Channel(column=column, value=float(fitting[column].mode()[0]))


def _rows_of_events(
    table: Table, molecule: Molecule, path: Path, order: Sequence[str], *, unit: str, stated: bool
) -> Guess:
    """Look for one row an event: columns that name a vector's component and an ion."""
    found = named_components(table.names)
    if found.doubled:
        one, other = found.doubled
        what = f"reads as the same component of the same ion as {one!r}; rename one, or give a --mapping"
        what = "the column is there twice; keep one" if one == other else what
        raise DataError(what, path=path, column=other)
    starts = {token: axes for token, axes in found.columns["positions"].items() if _is_ion(token, molecule)}
    found.columns["positions"] = starts
    if found.columns["positions"] and not found.columns["momenta"] and not found.columns["velocities"]:
        what = "holds geometries and no momenta: flowcei simulate --geometries explodes them"
        raise DataError(what, path=path)
    kind = "momenta" if found.columns["momenta"] else "velocities"
    vectors, filled = _by_label(found.columns[kind], molecule, path, order, table.names)
    named = not set(found.columns[kind]).isdisjoint(molecule.labels)
    said = [f"ions in the order {', '.join(order)}"] if order and not named and not stated else []
    # SCULPT and nathan-albin/coulomb-explosion define their momenta as in atomic units, ASE its own.
    defined = kind == "momenta" and any(
        re.fullmatch(r"px_?ion_?\d+|px0", n, re.IGNORECASE) for n in table.names
    )
    ase = table if isinstance(table, XyzTable) else None
    components = [part for row in vectors.values() for part in row]
    velocities = kind == "velocities"
    own = "sqrt(u eV)" if ase else unit_of_columns(table, components, path, unit=unit, velocities=velocities)
    length = ase.length_unit if ase else ""
    still_open = [] if own or defined else ["momenta"]
    places = None
    if found.columns["positions"]:
        ions, more = _by_label(starts, molecule, path, order, table.names, origin=True)
        where = [part for row in ions.values() for part in row]
        length = length or unit_of_columns(table, where, path, unit="", positions=True)
        places = Vectors(unit=length or "bohr", ions=ions)
        filled += more
        still_open += [] if length or (defined and not ase) else ["positions"]
    # A shot may have several events: its number is an extra column, and no number of an event.
    event = next((n for n in table.names if n.lower() in _EVENT and n.lower() != "shot"), "")
    own = own or ("m/s" if velocities else "hbar/bohr")
    mapping = Mapping(momenta=Vectors(unit=own, ions=vectors), positions=places, event=event)
    return Guess(mapping, said, tuple(still_open), tuple(filled), ordered=bool(order) and not named)


def _by_label(
    found: dict[str, dict[str, str]],
    molecule: Molecule,
    path: Path,
    order: Sequence[str],
    columns: Sequence[str],
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
    for symbol, label, mass in zip(molecule.symbols, molecule.labels, molecule.masses, strict=True):
        if symbol == "H" and mass > _HEAVY_HYDROGEN * DALTON:  # D is how programs call it
            names["d" + label.lower().removeprefix("h")] = label
    numbered = [token for token in found if _COUNTED.fullmatch(token) and token not in names]
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
        what += f"file? it has {listed(columns)}; flowcei convert --guess begins a mapping to be filled in"
        raise DataError(what, path=path)
    filled = [
        f"{'position' if origin else 'momentum'} {axis} of {label}"
        for label in molecule.labels
        for axis in _AXES
        if axis not in by_label.get(label, {})
    ]
    vectors = {k: _triple([by_label.get(k, {}).get(a, 0.0) for a in _AXES]) for k in molecule.labels}
    return vectors, filled


def _is_ion(token: str, molecule: Molecule) -> bool:
    """Whether a word names an ion of the molecule, or only numbers it."""
    ions = {word.lower() for word in (*molecule.labels, *molecule.symbols)}
    return token in ions or _COUNTED.fullmatch(token) is not None


def _triple(parts: Sequence[Component]) -> tuple[Component, Component, Component]:
    return parts[0], parts[1], parts[2]
