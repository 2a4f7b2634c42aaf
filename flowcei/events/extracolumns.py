"""Extra columns of events: one value an event beside its momenta, such as a delay or a shot number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowcei.errors import DataError

if TYPE_CHECKING:
    from flowcei.molecules.molecule import Molecule

ACCIDENT = "accident"
"""Column of simulated events: 1 where the ions are of different molecules, and positions of none of them."""
MOST_COLUMNS = 100  # extra ones: a bound on memory, since a file may have 10,000
NAMELESS = "(no name"  # names of columns without a name begin so, before their number
NUMBERED = "(row number)"  # a first column without a name: pandas writes row numbers there
PLACEHOLDERS = (NAMELESS, NUMBERED)
EXACT = 1 << 53  # whole numbers are exact in floating point up to here
_MAX_NAME = 100
_FORMULA = ("=", "+", "-", "@")  # a spreadsheet runs what begins so


def component_names(labels: Sequence[str], prefix: str = "") -> list[str]:
    """Column names of positions (`cx`, ...), or of momenta with prefix ``p``."""
    return [f"{prefix}{label}{axis}" for label in labels for axis in "xyz"]


def column_problem(name: str, molecule: Molecule) -> str | None:
    """Why an extra column of events cannot have a name, or None where it can.

    A name that reads as a momentum, velocity or position of an ion, or as another column of flowcei in
    other letters, is a misspelled one: carried along, it would be missed in silence.
    """
    from flowcei.events.foreign.names import named_components  # compiles patterns: only where needed

    if not name.strip() or not name.isprintable() or len(name) > _MAX_NAME or name != name.strip():
        return f"is no name of at most {_MAX_NAME} printable characters"
    if name.startswith(_FORMULA) or any(c in name for c in '",;'):
        return "has a name that a table does not bear: a separator, a quote, or what a spreadsheet would run"
    if name.startswith(PLACEHOLDERS):
        return "has a name that stands for a column without one"
    own = [*component_names(molecule.labels, "p"), *component_names(molecule.labels), "event", "sigma"]
    bare = name.casefold().rstrip("_0123456789")
    if near := next((word for word in own if word.casefold() in (name.casefold(), bare)), ""):
        return f"is nearly the name of column {near}"
    ions = {word.lower() for word in (*molecule.labels, *molecule.symbols)}
    if any(not ions.isdisjoint(vector) for vector in named_components([name])[0].values()):
        return f"reads as a component of an ion of {molecule.name}"
    return None


def checked_columns(
    columns: Mapping[str, ArrayLike], molecule: Molecule, count: int
) -> dict[str, NDArray[Any]]:
    """Extra columns of `count` events as arrays, float64 or, of whole numbers, int64."""
    if len(columns) > MOST_COLUMNS:
        raise DataError(f"{len(columns)} extra columns; {MOST_COLUMNS} at the most")
    arrays = {}
    for name, values in columns.items():
        if problem := column_problem(str(name), molecule):
            raise DataError(f"an extra column {problem}", column=str(name)[:_MAX_NAME])
        array = np.asarray(values)
        if array.dtype.kind not in "fiub":
            raise DataError("an extra column holds numbers, nothing else", column=name)
        if array.shape != (count,):
            raise DataError(f"extra column of shape {array.shape}; expected ({count},)", column=name)
        arrays[str(name)] = exact_numbers(array, name)
    return arrays


def exact_numbers(array: NDArray[Any], name: str | None = None) -> NDArray[Any]:
    """Numbers as int64 where they are whole by their type, else float64."""
    if array.dtype.kind in "iu":  # time stamps exceed 2^53, beyond which float64 loses digits
        if array.dtype.kind == "u" and array.size and array.max() > np.iinfo(np.int64).max:
            raise DataError("holds whole numbers beyond 2^63", column=name)
        return array.astype(np.int64, copy=False)
    with np.errstate(all="ignore"):  # what is too large for the type becomes infinite
        return array.astype(np.float64, copy=False)


def joined_columns(chunks: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """The extra columns of several sets of events as one; all must have the same."""
    for chunk in chunks[1:]:
        if odd := sorted(set(chunk) ^ set(chunks[0])):
            raise DataError("an extra column that some of the events have and others have not", column=odd[0])
    joined = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]} if chunks else {}
    for name, values in joined.items():
        integers = [chunk[name] for chunk in chunks if chunk[name].dtype.kind == "i"]
        if values.dtype.kind == "f" and any((abs(array) > EXACT).any() for array in integers):
            raise DataError("whole numbers beyond 2^53 in some events and fractions in others", column=name)
    return joined


def chosen_rows(events: Any, names: Iterable[str], rows: slice | NDArray[Any]) -> dict[str, Any]:  # noqa: ANN401
    """Some rows of the named arrays of events or samples, and of their extra columns; None stays None."""
    arrays = {name: getattr(events, name) for name in names}
    chosen = {name: None if array is None else array[rows] for name, array in arrays.items()}
    return chosen | {"columns": {name: values[rows] for name, values in events.columns.items()}}


def add_columns(
    table: Mapping[str, Any], columns: Mapping[str, NDArray[Any]], rows: NDArray[np.intp]
) -> dict[str, Any]:
    """The columns of a table of R rows with extra ones of E events behind them; `rows` (R,) are events."""
    extended = dict(table)
    for name, values in columns.items():
        free = name
        while free in extended:  # `weight`, `mode` or `sd` may be a column of the file and of the table
            free = f"file_{free}"
        extended[free] = values[rows]
    return extended


def dataset_name(name: str) -> str:
    """The HDF5 dataset of an extra column: a slash would begin a group."""
    plain = name.replace("%", "%25").replace("/", "%2F")
    return "columns/" + ("%2E" * len(plain) if plain in (".", "..") else plain)


def name_of_dataset(name: str) -> str:
    """The extra column in a dataset: see `dataset_name`."""
    return name.removeprefix("columns/").replace("%2E", ".").replace("%2F", "/").replace("%25", "%")


def listed(names: Iterable[str]) -> str:
    """Names for a sentence, the first eight of them."""
    shown = [name[:40] for name in names]
    return ", ".join(shown[:8]) + (", ..." if len(shown) > 8 else "")
