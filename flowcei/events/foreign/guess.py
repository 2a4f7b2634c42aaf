"""What the columns of a file probably mean, by the names that programs of the field give them."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from flowcei.errors import DataError, UsageError
from flowcei.events.extracolumns import PLACEHOLDERS, listed
from flowcei.events.foreign.columnnames import is_momentum_word, named_components
from flowcei.events.foreign.mapping import Channel, Component, Ions, Mapping, Vectors
from flowcei.events.foreign.statedunits import unit_of_columns
from flowcei.events.foreign.structures import XyzTable
from flowcei.units import DALTON, momentum_factor

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from flowcei.events.foreign.table import Table
    from flowcei.molecules.molecule import Molecule

    Triple = tuple[Component, Component, Component]

_AXES = "xyz"
_ELECTRON_MASS = 9.1093837015e-31  # kg, CODATA 2018
# Columns where a row is an ion, their unit, and whether their names say it.
_TRIPLES = (
    ("p{}_au", "hbar/bohr", True),
    ("p{}_si", "kg m/s", True),
    ("p{}", "hbar/bohr", False),
    ("v{}_ms", "m/s", True),
    ("v{}", "m/s", False),
)
_EVENT = ("event", "sim_counter", "event_id", "eventid", "event_number", "shot")
_MASS = {"mass_amu": DALTON, "mass_u": DALTON, "mass_kg": 1.0 / _ELECTRON_MASS}
# What tells ions apart, the surest first.
_NAMES = ("ion", "label", "symbol", "element", "atom", "species")
_WORDS = (*_NAMES, "m_over_q", "m/q", "mq", "z", "particle", "fragment", "species_id", "pid", "ion_id")
_CHANNEL = ("channel_idx", "channel")
_POSITIONS = ("positions", "position", "pos", "coordinates", "xyz", "r")
_COUNTED = re.compile(r"(?:ion|atom|particle|fragment|frag|hit)?0*\d+")
# SCULPT and nathan-albin/coulomb-explosion define momenta of such names as in atomic units.
_ATOMIC = re.compile(r"px_?ion_?\d+|px0", re.IGNORECASE)
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
    ordered: bool = True


def guess_mapping(table: Table, molecule: Molecule, columns: str = "", unit: str = "") -> Guess:
    """Conclude from the names of columns what they mean.

    Args:
        table: The file.
        molecule: Whose ions it holds.
        columns: Labels of the ions in the order of the file, where it only numbers them.
        unit: Of the momenta or velocities, where somebody said.

    Raises:
        UsageError: For an order that is none of the ions, or is not needed, or a unit of something else.
        DataError: Where names do not tell, saying what would.
    """
    order = _checked_order(columns, molecule) if columns else _stated_order(table, molecule)
    guess = _whole_vectors(table, molecule, order) or _unnamed(table, molecule, order, stated=bool(columns))
    if guess is None:
        guess = _rows_of_ions(table, molecule, order)
        guess = guess or _rows_of_events(table, molecule, order, unit=unit, stated=bool(columns))
        if columns and not guess.ordered:
            msg = f"{table.path}: its columns say which ion is which; leave out --columns"
            raise UsageError(msg)
        velocities = momentum_factor(guess.mapping.momenta.unit)[1]
        if unit and momentum_factor(unit)[1] != velocities:
            called = "velocities" if velocities else "momenta"
            msg = f"{table.path}: its columns are called {called}, and {unit} is no unit of {called}"
            raise UsageError(msg)
    if not unit:
        return guess
    rest = tuple(name for name in guess.open if name != "momenta")
    return replace(guess, mapping=guess.mapping.with_units(momenta=unit), open=rest)


def _checked_order(text: str, molecule: Molecule) -> tuple[str, ...]:
    """Return labels that a person wrote, such as ``O, c s``, in the order meant."""
    order = tuple(text.replace(",", " ").lower().split())
    if sorted(order) != sorted(molecule.labels):
        msg = f"--columns is {text!r}; it names each ion once, in the order of the file: "
        raise UsageError(msg + " ".join(molecule.labels))
    return order


def blank_mapping(table: Table, molecule: Molecule) -> Mapping:
    """Return a mapping to be filled in by a person: ``?`` stands for every name that is asked for."""
    triple = _one_vector(table)
    if triple is not None:
        ions = Ions(column="?", values=dict.fromkeys(molecule.labels, "?"))
        return Mapping(rows="ion", momenta=Vectors(unit="hbar/bohr", columns=triple[0]), event="?", ions=ions)
    blank: dict[str, Triple] = dict.fromkeys(molecule.labels, ("?", "?", "?"))
    return Mapping(momenta=Vectors(unit="hbar/bohr", ions=blank))


def _first(table: Table, words: Iterable[str]) -> str:
    """Return the column that has the first of some names, whatever its letters; "" for none."""
    there = {name.lower(): name for name in table.names}
    return next((there[word] for word in words if word in there), "")


def _one_vector(table: Table) -> tuple[tuple[str, str, str], str, bool] | None:
    """Return the columns of the vector of a row that is an ion, their unit, and whether it is stated."""
    for pattern, unit, sure in _TRIPLES:
        columns = [_first(table, [pattern.format(axis)]) for axis in _AXES]
        if all(columns):
            return (columns[0], columns[1], columns[2]), unit, sure
    return None


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


def _whole_vectors(table: Table, molecule: Molecule, order: Sequence[str]) -> Guess | None:
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
            raise DataError(what, path=table.path)
    said = []
    if not order:
        order = molecule.labels
        said.append(f"ions of {momenta} read in the order {' '.join(order)}; --columns states another")

    def vectors(name: str) -> dict[str, Triple]:
        return _triples(order, [f"{name}#{k}" for k in range(1, 3 * n + 1)])

    unit = unit_of_columns(table, [f"{momenta}#1"])
    length = unit_of_columns(table, [f"{positions}#1"], positions=True) if positions else ""
    mapping = Mapping(
        momenta=Vectors(unit=unit or "hbar/bohr", ions=vectors(momenta)),
        positions=Vectors(unit=length or "bohr", ions=vectors(positions)) if positions else None,
        event="event" if "event" in table.names else "",
        sigma="sigma" if "sigma" in table.names else "",
    )
    return Guess(mapping, said, _unknown(momenta=unit, positions=length or not positions))


def _unnamed(table: Table, molecule: Molecule, order: Sequence[str], *, stated: bool) -> Guess | None:
    """Columns without names: 3N momenta, or nothing that can be told."""
    names = [name for name in table.names if not name.startswith(PLACEHOLDERS)]
    if not all(re.fullmatch(r".*#\d+", name) for name in names):
        return None
    if len(names) != 3 * len(molecule):
        what = f"{len(names)} columns without names; the momenta of {molecule.name} are {3 * len(molecule)}"
        if table.rows == 3 * len(molecule):
            what += "; rows and columns are exchanged"
        raise DataError(f"{what}; a mapping tells which columns they are (--mapping)", path=table.path)
    if not order:
        such = f"such as --columns '{' '.join(molecule.labels)}'"
        raise DataError(f"columns without names: say in which order the ions stand, {such}", path=table.path)
    said = [f"columns without names, read as x, y, z of {'each ion' if stated else ', '.join(order)}"]
    mapping = Mapping(momenta=Vectors(unit="hbar/bohr", ions=_triples(order, names)))
    return Guess(mapping, said, ("momenta",))


def _rows_of_ions(table: Table, molecule: Molecule, order: Sequence[str]) -> Guess | None:
    """Look for one row an ion."""
    event, triple = _first(table, _EVENT), _one_vector(table)
    if not event or triple is None:
        return None
    columns, unit, sure = triple
    ions, said = _which_ion(table, molecule, order)
    channel = _channel(table, event, len(molecule))
    if channel is not None:
        said.append(f"several kinds of events: those with {channel.column} {channel.value:g} are read")
    vectors = Vectors(unit=unit, columns=columns)
    mapping = Mapping(rows="ion", momenta=vectors, event=event, ions=ions, channel=channel)
    ordered = not ions.column or all(isinstance(v, float) and v == int(v) for v in ions.values.values())
    return Guess(mapping, said, _unknown(momenta=sure), ordered=ordered)


def _which_ion(table: Table, molecule: Molecule, order: Sequence[str]) -> tuple[Ions, list[str]]:
    """Return how rows say which ion they are: by mass, by name, or by their stated order.

    Raises:
        DataError: Where they do not, or in words that are not understood: a wrong guess would give
            each ion the momentum of another.
    """
    labels = " ".join(molecule.labels)
    column = _first(table, (*_MASS, *_WORDS))
    if column.lower() in _MASS:
        masses = molecule.masses / _MASS[column.lower()]
        values: dict[str, Component] = dict(zip(molecule.labels, masses.tolist(), strict=True))
        return Ions(column=column, values=values), [f"ions told apart by {column}"]
    if column:
        part = next(table.chunks([column], [column], rows=_LOOK), None)
        words = [] if part is None else [str(word).strip() for word in part[column].unique()[:_FEW]]
        values = _named(words, molecule) or _counted(words, order)
        if values:
            return Ions(column=column, values=values), [f"ions told apart by {column}"]
        what = (
            f"which ion is which? column {column!r} holds {', '.join(w[:20] for w in words[:6])}; a mapping "
        )
        what += "tells ([ions] column, values); flowcei convert --guess begins one"
    elif not order:
        what = "no column tells the ions apart: say in which order the rows of an event stand, such as "
        what += f"--columns '{labels}'"
    elif tuple(order) != molecule.labels:
        what = f"rows without a word on the ion must stand in the order {labels}; sort them, or add a column "
        what += "that tells"
    else:
        return Ions(), [f"the rows of an event read as {', '.join(order)}, in this order"]
    raise DataError(what, path=table.path)


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


def _channel(table: Table, event: str, n: int) -> Channel | None:
    """Return the kind of events that most often have N ions, where there are several kinds."""
    column = _first(table, _CHANNEL)
    part = next(table.chunks([column, event], rows=_LOOK), None) if column else None
    if part is None or part[column].nunique() < 2:
        return None
    size = part.groupby([column, event]).size().reset_index(name="ions")
    fitting = size[size["ions"] == n] if (size["ions"] == n).any() else size
    return Channel(column=column, value=float(fitting[column].mode()[0]))


def _rows_of_events(
    table: Table, molecule: Molecule, order: Sequence[str], *, unit: str, stated: bool
) -> Guess:
    """Look for one row an event: columns that name a vector's component and an ion."""
    columns = _components(table, molecule)
    velocities = not columns["momenta"]
    moving = columns["velocities" if velocities else "momenta"]
    named = not set(moving).isdisjoint(molecule.labels)
    said = [f"ions in the order {', '.join(order)}"] if order and not named and not stated else []
    ase = isinstance(table, XyzTable)
    vectors, filled = _by_label(moving, molecule, table, order)
    own = "sqrt(u eV)" if ase else unit_of_columns(table, _flat(vectors), unit=unit, velocities=velocities)
    defined = not velocities and any(map(_ATOMIC.fullmatch, table.names))
    sure = bool(own or defined)
    momenta = Vectors(unit=own or ("m/s" if velocities else "hbar/bohr"), ions=vectors)
    positions = None
    if columns["positions"]:
        places, more = _by_label(columns["positions"], molecule, table, order, origin=True)
        length = table.length_unit if isinstance(table, XyzTable) else ""
        length = length or unit_of_columns(table, _flat(places), positions=True)
        positions, filled = Vectors(unit=length or "bohr", ions=places), filled + more
        sure_of_places = bool(length or (defined and not ase))
    # A shot may have several events: its number is an extra column, and no number of an event.
    event = next((n for n in table.names if n.lower() in _EVENT and n.lower() != "shot"), "")
    mapping = Mapping(momenta=momenta, positions=positions, event=event)
    still = _unknown(momenta=sure, positions=positions is None or sure_of_places)
    return Guess(mapping, said, still, tuple(filled), ordered=bool(order) and not named)


def _components(table: Table, molecule: Molecule) -> dict[str, dict[str, dict[str, str]]]:
    """Return the columns that name a component of an ion, by quantity, ion and axis."""
    found = named_components(table.names)
    if found.doubled:
        one, other = found.doubled
        what = f"reads as the same component of the same ion as {one!r}; rename one, or give a --mapping"
        raise DataError(what, path=table.path, column=other)
    columns = found.columns
    ions = {word.lower() for word in (*molecule.labels, *molecule.symbols)}
    places = {k: v for k, v in columns["positions"].items() if k in ions or _COUNTED.fullmatch(k)}
    if places and not columns["momenta"] and not columns["velocities"]:
        what = "holds geometries and no momenta: flowcei simulate --geometries explodes them"
        raise DataError(what, path=table.path)
    return columns | {"positions": places}


def _by_label(
    columns: dict[str, dict[str, str]],
    molecule: Molecule,
    table: Table,
    order: Sequence[str],
    *,
    origin: bool = False,
) -> tuple[dict[str, Triple], list[str]]:
    """Return the columns of every ion by its label, and what had to be filled with 0."""
    names = _ion_words(molecule)
    numbered = [token for token in columns if _COUNTED.fullmatch(token) and token not in names]
    if len(numbered) == len(molecule):
        numbered.sort(key=lambda token: int(re.sub(r"\D", "", token)))
        if not order:
            what = f"which ion is {numbered[0]!r}? say in which order the ions are numbered, such as "
            raise DataError(f"{what}--columns '{' '.join(molecule.labels)}'", path=table.path)
        names |= dict(zip(numbered, order, strict=True))
    by_label = {names[token]: axes for token, axes in columns.items() if token in names}
    lost = [label for label in molecule.labels if label not in by_label]
    if len(lost) > (1 if origin else 0):
        what = f"no column was recognised for {', '.join(lost)} of {molecule.name}: is it another molecule's "
        what += (
            f"file? it has {listed(table.names)}; flowcei convert --guess begins a mapping to be filled in"
        )
        raise DataError(what, path=table.path)
    called = "position" if origin else "momentum"
    parts = [(k, axis, by_label.get(k, {}).get(axis, 0.0)) for k in molecule.labels for axis in _AXES]
    filled = [f"{called} {axis} of {label}" for label, axis, column in parts if column == 0.0]
    return _triples(molecule.labels, [column for *_, column in parts]), filled


def _ion_words(molecule: Molecule) -> dict[str, str]:
    """Return the labels of ions by the words that may name them."""
    symbols = Counter(symbol.lower() for symbol in molecule.symbols)
    names = {label.lower(): label for label in molecule.labels}
    for symbol, label, mass in zip(molecule.symbols, molecule.labels, molecule.masses, strict=True):
        if symbols[symbol.lower()] == 1:
            names[symbol.lower()] = label
        if symbol == "H" and mass > _HEAVY_HYDROGEN * DALTON:  # D is how programs call it
            names["d" + label.lower().removeprefix("h")] = label
    return names


def _triples(labels: Sequence[str], parts: Sequence[Component]) -> dict[str, Triple]:
    """Return three components for every label."""
    rows = zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    return dict(zip(labels, rows, strict=True))


def _flat(vectors: dict[str, Triple]) -> list[Component]:
    return [component for row in vectors.values() for component in row]


def _unknown(*, momenta: object, positions: object = True) -> tuple[str, ...]:
    """Return what has a unit that nothing states."""
    return tuple(name for name, sure in (("momenta", momenta), ("positions", positions)) if not sure)
