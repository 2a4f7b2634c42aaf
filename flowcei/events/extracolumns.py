"""Extra columns of events: one value an event beside its momenta, such as a delay or a shot number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    from flowcei.molecules.molecule import Molecule

MOST_COLUMNS = 100
"""Extra columns of a file: a bound on memory, since a file may have 10,000."""

NAMELESS = "(no name"
"""How columns without a name are called, with their place after it."""

NUMBERED = "(row number)"
"""What a first column without a name is called: pandas writes row numbers there."""

EXACT = 1 << 53
"""Whole numbers are exact in floating point up to here."""

PLACEHOLDERS = (NAMELESS, NUMBERED)
"""How the names of columns begin that the file does not name."""

_MAX_NAME = 100
_FORMULA = ("=", "+", "-", "@")  # a spreadsheet runs what begins so


def component_names(labels: Sequence[str], prefix: str = "") -> list[str]:
    """Return the column names of positions, or of momenta with prefix ``p``.

    Example:
        >>> component_names(["c", "o"], "p")
        ['pcx', 'pcy', 'pcz', 'pox', 'poy', 'poz']
    """
    return [f"{prefix}{label}{axis}" for label in labels for axis in "xyz"]


def column_problem(name: str, molecule: Molecule) -> str | None:
    """Return why an extra column of events cannot have a name, or None where it can.

    A name that reads as a momentum, velocity or position of an ion of the molecule, or as another
    column of flowcei in other letters, is a misspelled one: carried along, it would be missed in silence.

    Example:
        >>> from flowcei.molecules.molecule import Molecule
        >>> ocs = Molecule.load("ocs")
        >>> column_problem("delay [fs]", ocs), column_problem("Sigma", ocs), column_problem("px_C", ocs)
        (None, 'is nearly the name of column sigma', 'reads as a component of an ion of ocs')
    """
    # Imported here: the mapping takes pydantic, which events without extra columns never need.
    from flowcei.events.foreign.columnnames import named_components

    if not name.strip() or not name.isprintable() or len(name) > _MAX_NAME or name != name.strip():
        return f"is no name of at most {_MAX_NAME} printable characters"
    if name.startswith(_FORMULA) or any(c in name for c in '",;'):
        return "has a name that a table does not bear: a separator, a quote, or what a spreadsheet would run"
    if name.startswith(PLACEHOLDERS):
        return "has a name that stands for a column without one"
    own = [*component_names(molecule.labels, "p"), *component_names(molecule.labels), "event", "sigma"]
    bare = name.casefold().rstrip("_0123456789")
    near = next((word for word in own if word.casefold() in (name.casefold(), bare)), "")
    if near:
        return f"is nearly the name of column {near}"
    ions = {word.lower() for word in (*molecule.labels, *molecule.symbols)}
    vectors = named_components([name]).columns.values()
    if any(not ions.isdisjoint(vector) for vector in vectors):
        return f"reads as a component of an ion of {molecule.name}"
    return None


def checked_columns(
    columns: Mapping[str, ArrayLike], molecule: Molecule, count: int
) -> dict[str, NDArray[Any]]:
    """Return extra columns as arrays, float64 or, of whole numbers, int64.

    Args:
        columns: Name -> one value an event; NaN where an event has none.
        molecule: Whose events.
        count: Of the events.

    Raises:
        DataError: For a name that is none, too many columns, another length, or no numbers.
    """
    if len(columns) > MOST_COLUMNS:
        raise DataError(f"{len(columns)} extra columns; {MOST_COLUMNS} at the most")
    out = {}
    for name, values in columns.items():
        problem = column_problem(str(name), molecule)
        if problem:
            raise DataError(f"an extra column {problem}", column=str(name)[:_MAX_NAME])
        array = np.asarray(values)
        if array.dtype.kind not in "fiub":
            raise DataError("an extra column holds numbers, nothing else", column=name)
        if array.shape != (count,):
            raise DataError(f"extra column of shape {array.shape}; expected ({count},)", column=name)
        out[str(name)] = exact_numbers(array, name)
    return out


def exact_numbers(array: NDArray[Any], name: str | None = None) -> NDArray[Any]:
    """Return numbers as int64 where they are whole by their type, else float64.

    Shot numbers that are time stamps exceed 2^53, beyond which float64 loses digits.

    Raises:
        DataError: For whole numbers beyond 2^63.
    """
    if array.dtype.kind in "iu":
        if array.dtype.kind == "u" and array.size and array.max() > np.iinfo(np.int64).max:
            raise DataError("holds whole numbers beyond 2^63", column=name)
        return array.astype(np.int64, copy=False)
    with np.errstate(all="ignore"):  # what is too large for the type becomes infinite
        return array.astype(np.float64, copy=False)


def joined_columns(parts: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Return the extra columns of several sets of events as one.

    Raises:
        DataError: Where they differ.
    """
    for part in parts[1:]:
        odd = sorted(set(part) ^ set(parts[0]))
        if odd:
            raise DataError("an extra column that some of the events have and others have not", column=odd[0])
    out = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}
    for name, values in out.items():
        whole = [part[name] for part in parts if part[name].dtype.kind == "i"]
        if values.dtype.kind == "f" and any((abs(array) > EXACT).any() for array in whole):
            raise DataError("whole numbers beyond 2^53 in some events and fractions in others", column=name)
    return out


def add_columns(
    table: dict[str, Any], columns: Mapping[str, NDArray[Any]], rows: NDArray[np.intp]
) -> dict[str, Any]:
    """Return the columns of a table with extra ones behind them.

    Args:
        table: Of R rows.
        columns: Of E events.
        rows: Which event each row is of, (R,).

    Example:
        >>> add_columns({"event": [0, 0]}, {"shot": np.array([7])}, np.array([0, 0]))["shot"].tolist()
        [7, 7]
    """
    out = dict(table)
    for name, values in columns.items():
        free = name
        while free in out:  # `weight`, `mode` or `sd` may be a column of the file and of the table
            free = f"file_{free}"
        out[free] = values[rows]
    return out


def dataset_name(name: str) -> str:
    """Return the name of the HDF5 dataset of an extra column: a slash would begin a group.

    Example:
        >>> dataset_name("E/mJ"), name_of_dataset("columns/E%2FmJ")
        ('columns/E%2FmJ', 'E/mJ')
    """
    plain = name.replace("%", "%25").replace("/", "%2F")
    return "columns/" + ("%2E" * len(plain) if plain in (".", "..") else plain)


def name_of_dataset(name: str) -> str:
    """Return the name of the extra column in a dataset: see `dataset_name`."""
    plain = name.removeprefix("columns/")
    return plain.replace("%2E", ".").replace("%2F", "/").replace("%25", "%")


def listed(names: Iterable[str]) -> str:
    """Return names for a sentence, the first eight of them."""
    shown = [name[:40] for name in names]
    return ", ".join(shown[:8]) + (", ..." if len(shown) > 8 else "")
