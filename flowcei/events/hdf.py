"""Events as HDF5: `/momenta`, `/positions`, and all that is needed to make them again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, BinaryIO

import h5py
import numpy as np

from flowcei.errors import DataError
from flowcei.events.extracolumns import (
    MOST_COLUMNS,
    column_problem,
    dataset_name,
    exact_numbers,
    name_of_dataset,
)
from flowcei.events.foreign.assembly import whole_numbers
from flowcei.events.foreign.table import Arrays
from flowcei.experiment.missing import blanked
from flowcei.molecules.molecule import Molecule
from flowcei.storage.hdf import numbers_of, opened, read_json_attribute, text_attribute, writing
from flowcei.storage.resumable import PreallocatedFile, preallocate

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
    from pathlib import Path

    from flowcei.events.container import Events
    from flowcei.events.faults import Faults

MOMENTUM_UNIT = "hbar/bohr"
_UNITS = {"momenta": MOMENTUM_UNIT, "positions": "bohr"}
_DATASETS = ("momenta", "positions", "event", "sigma")
_UNIT_WORDS = ("unit", "units")
_MOST_ATTRIBUTES = 1000


@dataclass(frozen=True)
class HdfEvents:
    """What a file of events in HDF5 says of itself; `names` are its datasets."""

    molecule: Molecule
    origin: dict[str, Any]
    count: int
    names: tuple[str, ...]


def is_hdf5(path: Path) -> bool:
    """Whether the content of a file, not its name, says HDF5."""
    with path.open("rb") as file:
        return file.read(8) == b"\x89HDF\r\n\x1a\n"


def is_native(file: h5py.File) -> bool:
    """Whether a file is laid out as flowcei does it: flowcei's mark, or all that flowcei states."""
    if text_attribute(file, "content").startswith("flowcei"):
        return True
    # /momenta alone says neither their unit nor which ions they are of.
    data = file["momenta"] if isinstance(file.get("momenta", getlink=True), h5py.HardLink) else None
    unit = stated_unit(data) if isinstance(data, h5py.Dataset) else ""
    return unit == MOMENTUM_UNIT or ("molecule" in file.attrs and bool(unit))


def read_header(file: h5py.File, path: Path, molecule: Molecule | None = None) -> HdfEvents:
    """Check what an HDF5 file says of itself, and that it is of a molecule, reading no event."""
    if text_attribute(file, "content") == "flowcei samples":
        raise DataError("holds posterior samples; events are needed here", path=path)
    own = read_molecule(file, path) or molecule
    if own is None:
        raise DataError("does not say which molecule; name it with --molecule", path=path)
    if molecule is not None and not own.same_ions(molecule):
        message = f"events of {own.name}, where {molecule.name} is expected: {own.difference(molecule)}"
        raise DataError(message, path=path)
    if "momenta" not in file:
        raise DataError("has no dataset /momenta: not a file of events", path=path)
    names = [*(name for name in _DATASETS if name in file), *column_datasets(file, path)]
    data = {name: dataset_in_unit(file, name, path) for name in names}
    if data["momenta"].size == 0:
        raise DataError("holds no event", path=path)
    count = _checked_count(data, own, path)
    return HdfEvents(own, read_json_attribute(file, "origin") or {}, count, tuple(data))


def _checked_count(data: dict[str, h5py.Dataset], own: Molecule, path: Path) -> int:
    """The number of events of datasets that agree in it."""
    count: int = data["momenta"].shape[0] if data["momenta"].shape else 0
    for name, array in data.items():
        expected = (count, len(own), 3) if name in _UNITS else (count,)
        if array.shape != expected:
            words = "event numbers" if name == "event" else name
            raise DataError(
                f"{words} have shape {array.shape}; expected {expected} for {own.name}", path=path
            )
        if is_column(name) and (problem := column_problem(name_of_dataset(name), own)):
            raise DataError(f"an extra column {problem}", path=path, column=name_of_dataset(name))
    return count


def hdf_chunks(path: Path, header: HdfEvents, rows: int, faults: Faults | None = None) -> Iterator[Arrays]:
    """Yield the events of a file whose header was read, `rows` at a time."""
    with opened(path) as file:
        for first in range(0, header.count, rows):
            chunk = {n: read_array(file, n, path, slice(first, first + rows)) for n in header.names}
            numbers = chunk.pop("event", None)
            event_id = None if numbers is None else whole_numbers(numbers, path, first, faults)
            chunk = {name: exact_numbers(array) for name, array in chunk.items()}
            columns = {name_of_dataset(name): chunk.pop(name) for name in list(filter(is_column, chunk))}
            floats: dict[str, Any] = {name: array.astype(np.float64) for name, array in chunk.items()}
            yield Arrays(**floats, event_id=event_id, columns=columns)


def column_datasets(file: h5py.File, path: Path) -> list[str]:
    """The datasets of extra columns, those of the group `/columns`."""
    if "columns" not in file:
        return []
    group = file["columns"] if isinstance(file.get("columns", getlink=True), h5py.HardLink) else None
    if not isinstance(group, h5py.Group):
        raise DataError("/columns is not a group of datasets", path=path)
    if len(group) > MOST_COLUMNS:
        raise DataError(f"{len(group)} extra columns; {MOST_COLUMNS} at the most", path=path)
    return [f"columns/{name}" for name in group]


def is_column(name: str) -> bool:
    """Whether a dataset is that of an extra column."""
    return name.startswith("columns/")


def column_arrays(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Extra columns by the names of their datasets."""
    return {dataset_name(name): values for name, values in columns.items()}


def read_array(file: h5py.File, name: str, path: Path, rows: Any = ()) -> np.ndarray:  # noqa: ANN401
    """Read a dataset of numbers, or some rows of it, that lies in the file itself; no link is followed."""
    return np.asarray(dataset_in_unit(file, name, path)[rows])


def dataset_in_unit(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    """A dataset of numbers, in the unit that it must have, to be read from."""
    data = numbers_of(file, name, path)
    if name in _UNITS and (unit := stated_unit(data)) not in ("", _UNITS[name]):
        raise DataError(f"/{name} are in {unit[:40]}, not in {_UNITS[name]}", path=path)
    return data


def stated_unit(data: h5py.Dataset) -> str:
    """What an attribute of a dataset states as its unit, whatever its letters; "" without one."""
    return _unit_attribute(data, _UNIT_WORDS)


def shared_unit(group: h5py.Group) -> str:
    """The unit that a group, or else its file, states of all momenta in it."""
    words = {*_UNIT_WORDS, *(f"momentum_{word}" for word in _UNIT_WORDS)}
    return _unit_attribute(group, words) or _unit_attribute(group.file, words)


def _unit_attribute(item: h5py.Group | h5py.Dataset, words: Collection[str]) -> str:
    for name in islice(item.attrs, _MOST_ATTRIBUTES):
        if name.strip().lower() in words:
            try:
                return text_attribute(item, name).strip()
            except DataError:
                return "a unit that is no text"
    return ""


def read_molecule(file: h5py.File, path: Path) -> Molecule | None:
    """The molecule that a file describes, or None where it does not."""
    table = read_json_attribute(file, "molecule")
    try:
        return None if table is None else Molecule.from_dict(table)
    except DataError as error:
        raise DataError(str(error), path=path) from error


def hdf_molecule(path: Path) -> Molecule | None:
    """The molecule that a file describes, or None where it is not HDF5 or does not."""
    if not is_hdf5(path):
        return None
    with opened(path) as file:
        return read_molecule(file, path)


def describe(file: h5py.File, molecule: Molecule, origin: dict[str, Any]) -> None:
    """Write what a file of events says of itself, and the units of its datasets."""
    file.attrs["content"] = "flowcei events"
    file.attrs["molecule"] = json.dumps(molecule.to_dict())
    file.attrs["origin"] = json.dumps(origin)
    for name, unit in (("momenta", MOMENTUM_UNIT), ("sigma", MOMENTUM_UNIT), ("positions", "bohr")):
        if name in file:
            file[name].attrs["unit"] = unit


def write_hdf(events: Events, target: BinaryIO) -> None:
    """Write events as HDF5 to a new file."""
    arrays = _arrays(events)
    if not events.numbered:
        del arrays["event"]
    with writing(target) as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values)
        describe(file, events.molecule, events.origin)


def write_hdf_chunks(
    source: Callable[[], Iterable[Events]], count: int, target: BinaryIO, path: Path
) -> None:
    """Write `count` events as HDF5, a chunk at a time; messages call the file `path`."""
    # Room is made for all of them first: HDF5 that grows does not survive a full disk.
    chunks = iter(source())
    first = next(chunks)
    shapes = {name: ((count, *array.shape[1:]), array.dtype) for name, array in _arrays(first).items()}
    preallocate(target, path, shapes, 1, lambda file: describe(file, first.molecule, first.origin))
    file, row = PreallocatedFile(target, path, durable=False), 0
    for events in chain([first], chunks):
        file.put(0, row, _arrays(events))
        row += len(events)


def _arrays(events: Events) -> dict[str, np.ndarray]:
    momenta, columns = blanked(events.momenta, events.columns)
    arrays = {"momenta": momenta, "event": events.event_id}
    arrays |= {"positions": events.positions} if events.positions is not None else {}
    arrays |= {"sigma": events.sigma} if events.sigma is not None else {}
    return arrays | column_arrays(columns)
