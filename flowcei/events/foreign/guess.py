"""What the columns of a file probably mean, by the names that programs of the field give them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.errors import DataError, UsageError
from flowcei.events.extracolumns import PLACEHOLDERS, listed
from flowcei.events.foreign.assembly import mapped_chunks
from flowcei.events.foreign.mapping import Channel, Component, Ions, Mapping, Triple, Vectors
from flowcei.events.foreign.names import is_momentum_word, named_components
from flowcei.events.foreign.structures import XyzTable
from flowcei.events.foreign.table import LOOK
from flowcei.events.foreign.units import infer_length_unit, infer_momentum_unit, unit_of_columns
from flowcei.units import DALTON, momentum_factor

if TYPE_CHECKING:
    from flowcei.events.foreign.table import Table
    from flowcei.molecules.molecule import Molecule

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


class Guesser:
    """One method for each layout of files; the order of ions is stated by the caller, the file, or nobody.

    Where names do not tell, DataError says what would.
    """

    def __init__(self, table: Table, molecule: Molecule, columns: str = "", unit: str = "") -> None:
        """`columns` are labels in the order of the file, `unit` is of momenta or velocities, where stated."""
        self.table, self.molecule, self.stated, self.unit = table, molecule, bool(columns), unit
        self.order = _checked_order(columns, molecule) if columns else _order_of_symbols(table, molecule)
        self.such = f"such as --columns '{' '.join(molecule.labels)}'"
        self.conclusions: list[str] = []  # stated by nobody
        self.zeros: list[str] = []  # components without a column, taken for 0
        self._named = False  # whether columns or cells name the ions
        self._unknown: list[str] = []  # momenta, positions: those without a stated unit

    def fault(self, message: str, column: str | None = None) -> DataError:
        """An error about the file."""
        return DataError(message, path=self.table.path, column=column)

    def mapping(self) -> Mapping:
        """What the columns mean."""
        mapping = self._arrays_of_events() or self._unnamed()
        if mapping is None:
            mapping = self._rows_of_ions() or self._rows_of_events()
            if self.stated and self._named:
                message = "its columns say which ion is which; leave out --columns"
                raise UsageError(f"{self.table.path}: {message}")
            velocities = momentum_factor(mapping.momenta.unit)[1]
            if self.unit and momentum_factor(self.unit)[1] != velocities:
                quantity = "velocities" if velocities else "momenta"
                message = f"its columns are called {quantity}, and {self.unit} is no unit of {quantity}"
                raise UsageError(f"{self.table.path}: {message}")
        unknown = [quantity for quantity in self._unknown if not (self.unit and quantity == "momenta")]
        return self._with_inferred_units(mapping.with_units(momenta=self.unit), unknown)

    def blank(self) -> Mapping:
        """A mapping to be filled in by a person: ``?`` stands for every name that is asked for."""
        labels, triple = self.molecule.labels, self._one_vector()
        if triple is None:
            ions: dict[str, Triple] = dict.fromkeys(labels, ("?", "?", "?"))
            return Mapping(momenta=Vectors(unit="hbar/bohr", ions=ions))
        momenta = Vectors(unit="hbar/bohr", columns=triple[0])
        values = Ions(column="?", values=dict.fromkeys(labels, "?"))
        return Mapping(rows="ion", momenta=momenta, event="?", ions=values)

    def _with_inferred_units(self, mapping: Mapping, unknown: list[str]) -> Mapping:
        """The mapping with units that its numbers show."""
        if not unknown:
            return mapping
        molecule, path = self.molecule, self.table.path
        quantity = "velocities" if momentum_factor(mapping.momenta.unit)[1] else "momenta"
        as_in_file = mapping.with_units("hbar/bohr", "bohr")
        events = next(mapped_chunks(self.table, as_in_file, molecule, rows=LOOK), None)
        if events is None or not len(events):
            raise self.fault(f"no event of {molecule.name} among the first rows")
        if "momenta" in unknown:
            unit, why = infer_momentum_unit(events.momenta, molecule, path, quantity)
            self.conclusions.append(f"{quantity} taken to be in {why}")
            mapping = mapping.with_units(momenta=unit)
        if "positions" in unknown and events.positions is not None:
            factor, velocities = momentum_factor(mapping.momenta.unit)
            with np.errstate(over="ignore"):
                momenta = events.momenta * factor * (molecule.masses[:, None] if velocities else 1.0)
            unit, why = infer_length_unit(events.positions, momenta, molecule, path)
            self.conclusions.append(f"positions taken to be in {why}")
            mapping = mapping.with_units(positions=unit)
        return mapping

    def _vectors(self, quantity: str, unit: str, default: str, ions: dict[str, Triple]) -> Vectors:
        """Momenta or positions with their unit; without one it is to be inferred."""
        self._unknown += [] if unit else [quantity]
        return Vectors(unit=unit or default, ions=ions)

    def _arrays_of_events(self) -> Mapping | None:
        """Datasets of all momenta of an event, (B, N, 3), as HDF5 files have them."""
        names, n = self.table.names, len(self.molecule)
        sizes = Counter(match[1] for name in names if (match := re.fullmatch(r"(.+)#\d+", name)))
        momenta = next(filter(is_momentum_word, sizes), "")
        positions = next((name for name in sizes if name.lower() in _POSITIONS), "")
        if not momenta:
            return None
        order = self.order or self.molecule.labels
        if not self.order:
            self.conclusions.append(
                f"ions of {momenta} read in the order {' '.join(order)}; --columns states another"
            )
        vectors: dict[str, Any] = {}
        for quantity, name in (("momenta", momenta), ("positions", positions)):
            if name and sizes[name] != 3 * n:
                message = (
                    f"{name} has {sizes[name]} numbers an event; {self.molecule.name} has {n} ions with 3"
                )
                raise self.fault(f"{message} each")
            if name:
                unit = unit_of_columns(self.table, [f"{name}#1"], quantity)
                ions = triples(order, [f"{name}#{k}" for k in range(1, 3 * n + 1)])
                default = "hbar/bohr" if quantity == "momenta" else "bohr"
                vectors[quantity] = self._vectors(quantity, unit, default, ions)
        scalars: dict[str, Any] = {name: name for name in ("event", "sigma") if name in names}
        return Mapping(**vectors, **scalars)

    def _unnamed(self) -> Mapping | None:
        """Columns without names: 3N momenta, or nothing that can be told."""
        names = [name for name in self.table.names if not name.startswith(PLACEHOLDERS)]
        if not all(re.fullmatch(r".*#\d+", name) for name in names):
            return None
        expected = 3 * len(self.molecule)
        if len(names) != expected:
            message = (
                f"{len(names)} columns without names; the momenta of {self.molecule.name} are {expected}"
            )
            if self.table.rows == expected:
                message += "; rows and columns are exchanged"
            raise self.fault(f"{message}; a mapping tells which columns they are (--mapping)")
        if not self.order:
            raise self.fault(f"columns without names: say in which order the ions stand, {self.such}")
        whose = "each ion" if self.stated else ", ".join(self.order)
        self.conclusions.append(f"columns without names, read as x, y, z of {whose}")
        return Mapping(momenta=self._vectors("momenta", "", "hbar/bohr", triples(self.order, names)))

    def _rows_of_ions(self) -> Mapping | None:
        """One row an ion."""
        event, triple = self._first(_EVENT), self._one_vector()
        if not event or triple is None:
            return None
        columns, unit, sure = triple
        ions = self._which_ion()
        # Whole numbers may count the ions, in an order that was stated.
        self._named = any(isinstance(value, str) or value != int(value) for value in ions.values.values())
        self._unknown += [] if sure else ["momenta"]
        momenta = Vectors(unit=unit, columns=columns)
        return Mapping(rows="ion", momenta=momenta, event=event, ions=ions, channel=self._channel(event))

    def _which_ion(self) -> Ions:
        """How rows say which ion they are: by mass, by name, or by their stated order.

        Words that are not understood are refused: a wrong guess would give each ion the momentum of another.
        """
        labels, column = self.molecule.labels, self._first((*_MASS, *_WORDS))
        if not column:
            if not self.order:
                message = "no column tells the ions apart: say in which order the rows of an event stand"
                raise self.fault(f"{message}, {self.such}")
            if tuple(self.order) != labels:
                message = f"rows without a word on the ion must stand in the order {' '.join(labels)}"
                raise self.fault(f"{message}; sort them, or add a column that tells")
            self.conclusions.append(f"the rows of an event read as {', '.join(self.order)}, in this order")
            return Ions()
        values: dict[str, Component]
        if unit := _MASS.get(column.lower()):
            values = dict(zip(labels, (self.molecule.masses / unit).tolist(), strict=True))
        else:
            chunk = next(self.table.chunks([column], [column], rows=LOOK), None)
            words = [] if chunk is None else [str(word).strip() for word in chunk[column].unique()[:_FEW]]
            values = _by_name(words, self.molecule) or _by_number(words, self.order)
            if not values:
                shown = ", ".join(word[:20] for word in words[:6])
                message = f"which ion is which? column {column!r} holds {shown}; a mapping tells "
                raise self.fault(message + "([ions] column, values); flowcei convert --guess begins one")
        self.conclusions.append(f"ions told apart by {column}")
        return Ions(column=column, values=values)

    def _channel(self, event: str) -> Channel | None:
        """The kind of events that most often have N ions, where there are several kinds."""
        column = self._first(_CHANNEL)
        chunk = next(self.table.chunks([column, event], rows=LOOK), None) if column else None
        if chunk is None or chunk[column].nunique() < 2:
            return None
        size = chunk.groupby([column, event]).size().reset_index(name="ions")
        complete = size["ions"] == len(self.molecule)
        value = float((size[complete] if complete.any() else size)[column].mode()[0])
        self.conclusions.append(f"several kinds of events: those with {column} {value:g} are read")
        return Channel(column=column, value=value)

    def _rows_of_events(self) -> Mapping:
        """One row an event: columns that name a vector's component and an ion."""
        table, columns = self.table, self._components()
        quantity = "momenta" if columns["momenta"] else "velocities"
        self._named = not (self.order and set(columns[quantity]).isdisjoint(self.molecule.labels))
        if not self._named and not self.stated:
            self.conclusions.append(f"ions in the order {', '.join(self.order)}")
        ions, ase = self._by_label(columns[quantity], "momentum"), isinstance(table, XyzTable)
        unit = "sqrt(u eV)" if ase else unit_of_columns(table, _flat(ions), quantity, unit=self.unit)
        atomic = quantity == "momenta" and any(map(_ATOMIC.fullmatch, table.names))
        default = "m/s" if quantity == "velocities" else "hbar/bohr"
        momenta = self._vectors("momenta", unit or ("hbar/bohr" if atomic else ""), default, ions)
        positions = self._positions(columns["positions"], atomic=atomic) if columns["positions"] else None
        # A shot may have several events: its number is an extra column, and no number of an event.
        event = next((n for n in table.names if n.lower() in _EVENT and n.lower() != "shot"), "")
        return Mapping(momenta=momenta, positions=positions, event=event)

    def _positions(self, columns: dict[str, dict[str, str]], *, atomic: bool) -> Vectors:
        """Positions, of which names may say that they are in atomic units; XYZ has a unit of its own."""
        table, starts = self.table, self._by_label(columns, "position")
        unit = table.length_unit if isinstance(table, XyzTable) else "bohr" if atomic else ""
        unit = unit_of_columns(table, _flat(starts), "positions") or unit
        return self._vectors("positions", unit, "bohr", starts)

    def _components(self) -> dict[str, dict[str, dict[str, str]]]:
        """The columns that name a component of an ion, by quantity, ion and axis."""
        columns, duplicate = named_components(self.table.names)
        if duplicate:
            message = f"reads as the same component of the same ion as {duplicate[0]!r}"
            raise self.fault(f"{message}; rename one, or give a --mapping", duplicate[1])
        ions = {word.lower() for word in (*self.molecule.labels, *self.molecule.symbols)}
        positions = columns["positions"].items()
        starts = {k: axes for k, axes in positions if k in ions or _COUNTED.fullmatch(k)}
        if starts and not columns["momenta"] and not columns["velocities"]:
            raise self.fault("holds geometries and no momenta: flowcei simulate --geometries explodes them")
        return columns | {"positions": starts}

    def _by_label(self, columns: dict[str, dict[str, str]], quantity: str) -> dict[str, Triple]:
        """The columns of every ion by its label; a component that no column has is 0."""
        labels, names = self.molecule.labels, _ion_words(self.molecule)
        names |= self._numbered([word for word in columns if word not in names])
        by_label = {names[word]: axes for word, axes in columns.items() if word in names}
        missing = [label for label in labels if label not in by_label]
        if len(missing) > (1 if quantity == "position" else 0):
            message = (
                f"no column was recognised for {', '.join(missing)} of {self.molecule.name}: is it another "
            )
            message += f"molecule's file? it has {listed(self.table.names)}; "
            raise self.fault(message + "flowcei convert --guess begins a mapping to be filled in")
        components = [(k, axis, by_label.get(k, {}).get(axis, 0.0)) for k in labels for axis in _AXES]
        self.zeros += [f"{quantity} {axis} of {label}" for label, axis, column in components if column == 0.0]
        return triples(labels, [column for *_, column in components])

    def _numbered(self, words: list[str]) -> dict[str, str]:
        """Labels of ions that are only numbered, in the order that the user states."""
        numbered = [word for word in words if _COUNTED.fullmatch(word)]
        if len(numbered) != len(self.molecule):
            return {}
        numbered.sort(key=lambda word: int(re.sub(r"\D", "", word)))
        if not self.order:
            question = f"which ion is {numbered[0]!r}? say in which order the ions are numbered"
            raise self.fault(f"{question}, {self.such}")
        return dict(zip(numbered, self.order, strict=True))

    def _first(self, words: Iterable[str]) -> str:
        """The column that has the first of some names, whatever its letters; "" for none."""
        columns = {name.lower(): name for name in self.table.names}
        return next((columns[word] for word in words if word in columns), "")

    def _one_vector(self) -> tuple[tuple[str, str, str], str, bool] | None:
        """The columns of the vector of a row that is an ion, their unit, and whether it is stated."""
        for pattern, unit, sure in _TRIPLES:
            x, y, z = (self._first([pattern.format(axis)]) for axis in _AXES)
            if x and y and z:
                return (x, y, z), unit, sure
        return None


def _checked_order(text: str, molecule: Molecule) -> tuple[str, ...]:
    """Labels that a person wrote, such as ``O, c s``, in the order meant."""
    order = tuple(text.replace(",", " ").lower().split())
    if sorted(order) != sorted(molecule.labels):
        message = f"--columns is {text!r}; it names each ion once, in the order of the file: "
        raise UsageError(message + " ".join(molecule.labels))
    return order


def _order_of_symbols(table: Table, molecule: Molecule) -> tuple[str, ...]:
    """The labels in the order of the symbols that the file itself states."""
    symbols, ours = ([s.lower() for s in words] for words in (table.symbols, molecule.symbols))
    if sorted(symbols) != sorted(ours):
        return ()
    free = list(zip(ours, molecule.labels, strict=True))
    return tuple(free.pop([symbol for symbol, _ in free].index(word))[1] for word in symbols)


def _by_name(words: list[str], molecule: Molecule) -> dict[str, Component]:
    """Which words are which ions: labels or symbols, perhaps with a charge or a mass number."""
    bare = {re.sub(r"^\d+(?=[a-z])|\d*\++$", "", word.lower()): word for word in words}
    for names in (molecule.labels, molecule.symbols):
        if all(name.lower() in bare for name in names):
            return {k: bare[name.lower()] for k, name in zip(molecule.labels, names, strict=True)}
    return {}


def _by_number(words: list[str], order: Sequence[str]) -> dict[str, Component]:
    """Which numbers, 0, 1, ... or 1, 2, ..., are which ions, in an order that was stated."""
    try:
        numbers = sorted(float(word) for word in words)
    except ValueError:
        return {}
    counted = [[float(k + first) for k in range(len(order))] for first in (0, 1)]
    return dict(zip(order, numbers, strict=True)) if order and numbers in counted else {}


def _ion_words(molecule: Molecule) -> dict[str, str]:
    """Labels of ions by the words that may name them."""
    symbols = Counter(symbol.lower() for symbol in molecule.symbols)
    names = {label.lower(): label for label in molecule.labels}
    for symbol, label, mass in zip(molecule.symbols, molecule.labels, molecule.masses, strict=True):
        if symbols[symbol.lower()] == 1:
            names[symbol.lower()] = label
        if symbol == "H" and mass > _HEAVY_HYDROGEN * DALTON:  # D is how programs call it
            names["d" + label.lower().removeprefix("h")] = label
    return names


def triples(labels: Sequence[str], components: Sequence[Component]) -> dict[str, Triple]:
    """Three components for every label."""
    rows = zip(components[::3], components[1::3], components[2::3], strict=True)
    return dict(zip(labels, rows, strict=True))


def _flat(vectors: dict[str, Triple]) -> list[Component]:
    return [component for row in vectors.values() for component in row]
