"""What the columns of a file probably mean, by the names that programs of the field give them."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from flowcei.errors import DataError, UsageError
from flowcei.events.extracolumns import PLACEHOLDERS, listed
from flowcei.events.foreign.mapping import Channel, Component, Ions, Mapping, Vectors
from flowcei.events.foreign.names import is_momentum_word, named_components
from flowcei.events.foreign.structures import XyzTable
from flowcei.events.foreign.table import LOOK
from flowcei.events.foreign.units import unit_of_columns
from flowcei.units import DALTON, momentum_factor

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from flowcei.events.foreign.table import Table
    from flowcei.molecules.molecule import Molecule

    Triple = tuple[Component, Component, Component]

_AXES = "xyz"
_ELECTRON_MASS = 9.1093837015e-31  # kg, CODATA 2018
# Columns where a row is an ion, their unit, and whether their names state it.
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


@dataclass(frozen=True)
class Guess:
    """What the columns of a file probably mean, and what a person should check."""

    mapping: Mapping
    conclusions: tuple[str, ...] = ()
    unknown_units: tuple[str, ...] = ()  # momenta, positions
    zeros: tuple[str, ...] = ()  # components without a column, taken for 0
    ordered: bool = True  # whether the order of the ions had to be stated


def guess_mapping(table: Table, molecule: Molecule, columns: str = "", unit: str = "") -> Guess:
    """Conclude from the names of columns what they mean.

    `columns` are labels of the ions in the order of the file, `unit` is that of the momenta or velocities,
    where somebody stated them. Where names do not tell, DataError says what would.
    """
    guesser = _Guesser(table, molecule, columns)
    guess = guesser.arrays_of_events() or guesser.unnamed()
    if guess is None:
        guess = guesser.rows_of_ions() or guesser.rows_of_events(unit)
        if columns and not guess.ordered:
            raise UsageError(f"{table.path}: its columns say which ion is which; leave out --columns")
        velocities = momentum_factor(guess.mapping.momenta.unit)[1]
        if unit and momentum_factor(unit)[1] != velocities:
            quantity = "velocities" if velocities else "momenta"
            msg = f"{table.path}: its columns are called {quantity}, and {unit} is no unit of {quantity}"
            raise UsageError(msg)
    if not unit:
        return guess
    others = tuple(name for name in guess.unknown_units if name != "momenta")
    return replace(guess, mapping=guess.mapping.with_units(momenta=unit), unknown_units=others)


def blank_mapping(table: Table, molecule: Molecule) -> Mapping:
    """A mapping to be filled in by a person: ``?`` stands for every name that is asked for."""
    triple = _one_vector(table)
    if triple is not None:
        ions = Ions(column="?", values=dict.fromkeys(molecule.labels, "?"))
        return Mapping(rows="ion", momenta=Vectors(unit="hbar/bohr", columns=triple[0]), event="?", ions=ions)
    blank: dict[str, Triple] = dict.fromkeys(molecule.labels, ("?", "?", "?"))
    return Mapping(momenta=Vectors(unit="hbar/bohr", ions=blank))


class _Guesser:
    """One method for each layout of files; the order of ions is stated by the caller, the file, or nobody."""

    def __init__(self, table: Table, molecule: Molecule, columns: str) -> None:
        self.table, self.molecule, self.stated = table, molecule, bool(columns)
        self.order = _checked_order(columns, molecule) if columns else _order_of_symbols(table, molecule)
        self.such = f"such as --columns '{' '.join(molecule.labels)}'"

    def fault(self, what: str, column: str | None = None) -> DataError:
        return DataError(what, path=self.table.path, column=column)

    def arrays_of_events(self) -> Guess | None:
        """Look for datasets of all momenta of an event, (B, N, 3), as HDF5 files have them."""
        numbered = (re.fullmatch(r"(.+)#\d+", name) for name in self.table.names)
        sizes = Counter(match[1] for match in numbered if match)
        momenta = next(filter(is_momentum_word, sizes), "")
        positions = next((name for name in sizes if name.lower() in _POSITIONS), "")
        if not momenta:
            return None
        conclusions: tuple[str, ...] = ()
        order = self.order or self.molecule.labels
        if not self.order:
            conclusions = (
                f"ions of {momenta} read in the order {' '.join(order)}; --columns states another",
            )
        n, unknown = len(self.molecule), []
        vectors: dict[str, Any] = {}
        for quantity, name in (("momenta", momenta), ("positions", positions)):
            if name and sizes[name] != 3 * n:
                what = f"{name} has {sizes[name]} numbers an event; {self.molecule.name} has {n} ions with 3"
                raise self.fault(f"{what} each")
            if name:
                unit = unit_of_columns(self.table, [f"{name}#1"], quantity)
                ions = _triples(order, [f"{name}#{k}" for k in range(1, 3 * n + 1)])
                default = "hbar/bohr" if quantity == "momenta" else "bohr"
                vectors[quantity] = Vectors(unit=unit or default, ions=ions)
                unknown += [] if unit else [quantity]
        scalars: dict[str, Any] = {name: name for name in ("event", "sigma") if name in self.table.names}
        return Guess(Mapping(**vectors, **scalars), conclusions, tuple(unknown))

    def unnamed(self) -> Guess | None:
        """Columns without names: 3N momenta, or nothing that can be told."""
        names = [name for name in self.table.names if not name.startswith(PLACEHOLDERS)]
        if not all(re.fullmatch(r".*#\d+", name) for name in names):
            return None
        expected = 3 * len(self.molecule)
        if len(names) != expected:
            what = f"{len(names)} columns without names; the momenta of {self.molecule.name} are {expected}"
            if self.table.rows == expected:
                what += "; rows and columns are exchanged"
            raise self.fault(f"{what}; a mapping tells which columns they are (--mapping)")
        if not self.order:
            raise self.fault(f"columns without names: say in which order the ions stand, {self.such}")
        whose = "each ion" if self.stated else ", ".join(self.order)
        mapping = Mapping(momenta=Vectors(unit="hbar/bohr", ions=_triples(self.order, names)))
        return Guess(mapping, (f"columns without names, read as x, y, z of {whose}",), ("momenta",))

    def rows_of_ions(self) -> Guess | None:
        """Look for one row an ion."""
        event, triple = _first(self.table, _EVENT), _one_vector(self.table)
        if not event or triple is None:
            return None
        columns, unit, sure = triple
        ions, conclusion = self._which_ion()
        channel, conclusions = self._channel(event), [conclusion]
        if channel is not None:
            conclusions.append(
                f"several kinds of events: those with {channel.column} {channel.value:g} are read"
            )
        momenta = Vectors(unit=unit, columns=columns)
        mapping = Mapping(rows="ion", momenta=momenta, event=event, ions=ions, channel=channel)
        ordered = not ions.column or all(isinstance(v, float) and v == int(v) for v in ions.values.values())
        return Guess(mapping, tuple(conclusions), () if sure else ("momenta",), ordered=ordered)

    def _which_ion(self) -> tuple[Ions, str]:
        """Return how rows say which ion they are: by mass, by name, or by their stated order.

        Words that are not understood are refused: a wrong guess would give each ion the momentum of another.
        """
        labels = self.molecule.labels
        column = _first(self.table, (*_MASS, *_WORDS))
        if column.lower() in _MASS:
            masses = self.molecule.masses / _MASS[column.lower()]
            values: dict[str, Component] = dict(zip(labels, masses.tolist(), strict=True))
            return Ions(column=column, values=values), f"ions told apart by {column}"
        if column:
            chunk = next(self.table.chunks([column], [column], rows=LOOK), None)
            words = [] if chunk is None else [str(word).strip() for word in chunk[column].unique()[:_FEW]]
            values = _by_name(words, self.molecule) or _by_number(words, self.order)
            if values:
                return Ions(column=column, values=values), f"ions told apart by {column}"
            shown = ", ".join(word[:20] for word in words[:6])
            what = f"which ion is which? column {column!r} holds {shown}; a mapping tells "
            raise self.fault(what + "([ions] column, values); flowcei convert --guess begins one")
        if not self.order:
            what = "no column tells the ions apart: say in which order the rows of an event stand"
            raise self.fault(f"{what}, {self.such}")
        if tuple(self.order) != labels:
            what = f"rows without a word on the ion must stand in the order {' '.join(labels)}"
            raise self.fault(f"{what}; sort them, or add a column that tells")
        return Ions(), f"the rows of an event read as {', '.join(self.order)}, in this order"

    def _channel(self, event: str) -> Channel | None:
        """Return the kind of events that most often have N ions, where there are several kinds."""
        column = _first(self.table, _CHANNEL)
        chunk = next(self.table.chunks([column, event], rows=LOOK), None) if column else None
        if chunk is None or chunk[column].nunique() < 2:
            return None
        size = chunk.groupby([column, event]).size().reset_index(name="ions")
        complete = size["ions"] == len(self.molecule)
        size = size[complete] if complete.any() else size
        return Channel(column=column, value=float(size[column].mode()[0]))

    def rows_of_events(self, unit: str) -> Guess:
        """Look for one row an event: columns that name a vector's component and an ion."""
        table, columns = self.table, self._components()
        quantity = "momenta" if columns["momenta"] else "velocities"
        named = not set(columns[quantity]).isdisjoint(self.molecule.labels)
        ordered = bool(self.order) and not named
        inferred = ordered and not self.stated
        conclusions = (f"ions in the order {', '.join(self.order)}",) if inferred else ()
        vectors, zeros = self._by_label(columns[quantity], "momentum")
        ase = isinstance(table, XyzTable)
        stated = "sqrt(u eV)" if ase else unit_of_columns(table, _flat(vectors), quantity, unit=unit)
        defined = quantity == "momenta" and any(map(_ATOMIC.fullmatch, table.names))
        default = "m/s" if quantity == "velocities" else "hbar/bohr"
        momenta, positions = Vectors(unit=stated or default, ions=vectors), None
        unknown = [] if stated or defined else ["momenta"]
        if columns["positions"]:
            starts, more = self._by_label(columns["positions"], "position")
            length = self._length_unit(starts)
            positions, zeros = Vectors(unit=length or "bohr", ions=starts), zeros + more
            unknown += [] if length or (defined and not ase) else ["positions"]
        mapping = Mapping(momenta=momenta, positions=positions, event=self._event_column())
        return Guess(mapping, conclusions, tuple(unknown), tuple(zeros), ordered=ordered)

    def _event_column(self) -> str:
        # A shot may have several events: its number is an extra column, and no number of an event.
        return next((n for n in self.table.names if n.lower() in _EVENT and n.lower() != "shot"), "")

    def _length_unit(self, positions: dict[str, Triple]) -> str:
        own = self.table.length_unit if isinstance(self.table, XyzTable) else ""
        return own or unit_of_columns(self.table, _flat(positions), "positions")

    def _components(self) -> dict[str, dict[str, dict[str, str]]]:
        """Return the columns that name a component of an ion, by quantity, ion and axis."""
        named = named_components(self.table.names)
        if named.duplicate:
            one, other = named.duplicate
            what = f"reads as the same component of the same ion as {one!r}; rename one, or give a --mapping"
            raise self.fault(what, other)
        ions = {word.lower() for word in (*self.molecule.labels, *self.molecule.symbols)}
        positions = named.columns["positions"].items()
        starts = {k: axes for k, axes in positions if k in ions or _COUNTED.fullmatch(k)}
        if starts and not named.columns["momenta"] and not named.columns["velocities"]:
            raise self.fault("holds geometries and no momenta: flowcei simulate --geometries explodes them")
        return named.columns | {"positions": starts}

    def _by_label(
        self, columns: dict[str, dict[str, str]], quantity: str
    ) -> tuple[dict[str, Triple], list[str]]:
        """Return the columns of every ion by its label, and the components that no column has."""
        labels, names = self.molecule.labels, _ion_words(self.molecule)
        numbered = [word for word in columns if _COUNTED.fullmatch(word) and word not in names]
        if len(numbered) == len(labels):
            numbered.sort(key=lambda word: int(re.sub(r"\D", "", word)))
            if not self.order:
                what = f"which ion is {numbered[0]!r}? say in which order the ions are numbered, {self.such}"
                raise self.fault(what)
            names |= dict(zip(numbered, self.order, strict=True))
        by_label = {names[word]: axes for word, axes in columns.items() if word in names}
        missing = [label for label in labels if label not in by_label]
        if len(missing) > (1 if quantity == "position" else 0):
            what = (
                f"no column was recognised for {', '.join(missing)} of {self.molecule.name}: is it another "
            )
            what += f"molecule's file? it has {listed(self.table.names)}; "
            raise self.fault(what + "flowcei convert --guess begins a mapping to be filled in")
        components = [(k, axis, by_label.get(k, {}).get(axis, 0.0)) for k in labels for axis in _AXES]
        zeros = [f"{quantity} {axis} of {label}" for label, axis, column in components if column == 0.0]
        return _triples(labels, [column for *_, column in components]), zeros


def _checked_order(text: str, molecule: Molecule) -> tuple[str, ...]:
    """Return labels that a person wrote, such as ``O, c s``, in the order meant."""
    order = tuple(text.replace(",", " ").lower().split())
    if sorted(order) != sorted(molecule.labels):
        msg = f"--columns is {text!r}; it names each ion once, in the order of the file: "
        raise UsageError(msg + " ".join(molecule.labels))
    return order


def _order_of_symbols(table: Table, molecule: Molecule) -> tuple[str, ...]:
    """Return the labels in the order of the symbols that the file itself states."""
    symbols = [symbol.lower() for symbol in table.symbols]
    ours = [symbol.lower() for symbol in molecule.symbols]
    if sorted(symbols) != sorted(ours):
        return ()
    labels = {
        symbol: [k for k, s in zip(molecule.labels, ours, strict=True) if s == symbol] for symbol in ours
    }
    return tuple(labels[symbol].pop(0) for symbol in symbols)


def _first(table: Table, words: Iterable[str]) -> str:
    """Return the column that has the first of some names, whatever its letters; "" for none."""
    columns = {name.lower(): name for name in table.names}
    return next((columns[word] for word in words if word in columns), "")


def _one_vector(table: Table) -> tuple[tuple[str, str, str], str, bool] | None:
    """Return the columns of the vector of a row that is an ion, their unit, and whether it is stated."""
    for pattern, unit, sure in _TRIPLES:
        x, y, z = (_first(table, [pattern.format(axis)]) for axis in _AXES)
        if x and y and z:
            return (x, y, z), unit, sure
    return None


def _by_name(words: list[str], molecule: Molecule) -> dict[str, Component]:
    """Return which words are which ions: labels or symbols, perhaps with a charge or a mass number."""
    bare = {re.sub(r"^\d+(?=[a-z])|\d*\++$", "", word.lower()): word for word in words}
    for names in (molecule.labels, molecule.symbols):
        if all(name.lower() in bare for name in names):
            return {k: bare[name.lower()] for k, name in zip(molecule.labels, names, strict=True)}
    return {}


def _by_number(words: list[str], order: Sequence[str]) -> dict[str, Component]:
    """Return which numbers, 0, 1, ... or 1, 2, ..., are which ions, in an order that was stated."""
    try:
        numbers = sorted(float(word) for word in words)
    except ValueError:
        return {}
    counted = [[float(k + first) for k in range(len(order))] for first in (0, 1)]
    return dict(zip(order, numbers, strict=True)) if order and numbers in counted else {}


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


def _triples(labels: Sequence[str], components: Sequence[Component]) -> dict[str, Triple]:
    """Return three components for every label."""
    rows = zip(components[::3], components[1::3], components[2::3], strict=True)
    return dict(zip(labels, rows, strict=True))


def _flat(vectors: dict[str, Triple]) -> list[Component]:
    return [component for row in vectors.values() for component in row]
