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
from flowcei.events.foreign.mapped import Arrays, whole_numbers
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
_SPOKEN = {"event": "event numbers"}
_SIGNATURE = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class HdfEvents:
    """What a file of events in HDF5 says of itself.

    Attributes:
        molecule: Whose ions.
        origin: How the events came about.
        count: Their number.
        names: The datasets that are there.
    """

    molecule: Molecule
    origin: dict[str, Any]
    count: int
    names: tuple[str, ...]


def is_hdf5(path: Path) -> bool:
    """Whether the content of a file, not its name, says HDF5."""
    with path.open("rb") as file:
        return file.read(len(_SIGNATURE)) == _SIGNATURE


def is_native(path: Path) -> bool:
    """Whether an HDF5 file is laid out as flowcei does it: flowcei's mark, or all that flowcei states.

    `/momenta` alone says neither their unit nor which ions they are of.

    Raises:
        DataError: For a damaged file.
    """
    with opened(path) as file:
        if text_attribute(file, "content").startswith("flowcei"):
            return True
        data = file["momenta"] if isinstance(file.get("momenta", getlink=True), h5py.HardLink) else None
        unit = stated_unit(data) if isinstance(data, h5py.Dataset) else ""
        return unit == MOMENTUM_UNIT or ("molecule" in file.attrs and bool(unit))


def look_into(path: Path, molecule: Molecule | None = None) -> HdfEvents:
    """Check what an HDF5 file says of itself, reading no event.

    Args:
        path: The file.
        molecule: Whose ions they must be; what the file says where None.

    Raises:
        DataError: For a file that lacks momenta or a molecule, or is damaged, or is of
            another molecule.
    """
    with opened(path) as file:
        if text_attribute(file, "content") == "flowcei samples":
            raise DataError("holds posterior samples; events are needed here", path=path)
        own = read_molecule(file, path) or molecule
        if own is None:
            raise DataError("does not say which molecule; name it with --molecule", path=path)
        if molecule is not None and not own.same_ions(molecule):
            what = f"events of {own.name}, where {molecule.name} is expected: {own.difference(molecule)}"
            raise DataError(what, path=path)
        if "momenta" not in file:
            raise DataError("has no dataset /momenta: not a file of events", path=path)
        data = {name: _dataset(file, name, path) for name in _DATASETS if name in file}
        data |= {name: _dataset(file, name, path) for name in column_datasets(file, path)}
        shape = (data["momenta"].shape[:1] or (0,))[0], len(own), 3
        if data["momenta"].size == 0:
            raise DataError("holds no event", path=path)
        for name, array in data.items():
            expected = shape if name in _UNITS else shape[:1]
            if array.shape != expected:
                what = (
                    f"{_SPOKEN.get(name, name)} have shape {array.shape}; expected {expected} for {own.name}"
                )
                raise DataError(what, path=path)
        for name in filter(is_column, data):
            problem = column_problem(name_of_dataset(name), own)
            if problem:
                raise DataError(f"an extra column {problem}", path=path, column=name_of_dataset(name))
        origin = read_json_attribute(file, "origin") or {}
        return HdfEvents(own, origin, shape[0], tuple(data))


def hdf_chunks(path: Path, about: HdfEvents, rows: int, faults: Faults | None = None) -> Iterator[Arrays]:
    """Yield the events of a file that `look_into` has seen, some at a time.

    Args:
        path: The file.
        about: What it says of itself.
        rows: Events of a part.
        faults: Collects event numbers that are none; the first is raised where None.

    Raises:
        DataError: For a damaged file, or event numbers that are not whole.
    """
    with opened(path) as file:
        for first in range(0, about.count, rows):
            part = {n: np.asarray(_dataset(file, n, path)[first : first + rows]) for n in about.names}
            ids = whole_numbers(part.pop("event"), path, first, faults) if "event" in part else None
            part = {name: exact_numbers(array) for name, array in part.items()}
            part |= {name: part[name].astype(np.float64) for name in (*_UNITS, "sigma") if name in part}
            yield Arrays(
                part["momenta"],
                part.get("positions"),
                ids,
                part.get("sigma"),
                columns={name_of_dataset(name): part[name] for name in filter(is_column, part)},
            )


def column_datasets(file: h5py.File, path: Path) -> list[str]:
    """Return the datasets of extra columns, those of the group `/columns`.

    Raises:
        DataError: For too many of them, or a group that is none.
    """
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
    """Return extra columns by the names of their datasets."""
    return {dataset_name(name): values for name, values in columns.items()}


def read_array(file: h5py.File, name: str, path: Path) -> np.ndarray:
    """Read a dataset of numbers that lies in the file itself.

    Raises:
        DataError: For anything else: no link is followed and no other file is opened.
    """
    return np.asarray(_dataset(file, name, path)[()])


def _dataset(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    """Return a dataset of numbers, in the unit that it must have."""
    data = numbers_of(file, name, path)
    expected = _UNITS.get(name)
    unit = stated_unit(data) if expected is not None else ""
    if unit and unit != expected:
        raise DataError(f"/{name} are in {unit[:40]}, not in {expected}", path=path)
    return data


def stated_unit(data: h5py.Dataset) -> str:
    """Return what an attribute of a dataset states as its unit, whatever its letters; nothing without one."""
    return _unit_attribute(data, _UNIT_WORDS)


def shared_unit(group: h5py.Group) -> str:
    """Return the unit that a group, or else its file, states of all momenta in it."""
    words = {*_UNIT_WORDS, *(f"momentum_{word}" for word in _UNIT_WORDS)}
    return _unit_attribute(group, words) or _unit_attribute(group.file, words)


def _unit_attribute(place: h5py.Group | h5py.Dataset, words: Collection[str]) -> str:
    for name in islice(place.attrs, _MOST_ATTRIBUTES):
        if name.strip().lower() in words:
            try:
                return text_attribute(place, name).strip()
            except DataError:
                return "a unit that is no text"
    return ""


def read_molecule(file: h5py.File, path: Path) -> Molecule | None:
    """Return the molecule that a file describes, or None where it does not.

    Raises:
        DataError: For a description that is not sound.
    """
    table = read_json_attribute(file, "molecule")
    try:
        return None if table is None else Molecule.from_dict(table)
    except DataError as error:
        raise DataError(str(error), path=path) from error


def hdf_molecule(path: Path) -> Molecule | None:
    """Return the molecule that an HDF5 file describes, or None where it does not.

    Raises:
        DataError: For a damaged file, or a description that is not sound.
    """
    with opened(path) as file:
        return read_molecule(file, path)


def describe(file: h5py.File, molecule: Molecule, origin: dict[str, Any]) -> None:
    """Write what a file of events says of itself."""
    file.attrs["content"] = "flowcei events"
    file.attrs["molecule"] = json.dumps(molecule.to_dict())
    file.attrs["origin"] = json.dumps(origin)


def write_hdf(events: Events, target: BinaryIO) -> None:
    """Write events as HDF5 to a new file."""
    with writing(target) as file:
        describe(file, events.molecule, events.origin)
        file.create_dataset("momenta", data=events.momenta).attrs["unit"] = MOMENTUM_UNIT
        if events.positions is not None:
            file.create_dataset("positions", data=events.positions).attrs["unit"] = "bohr"
        if events.sigma is not None:
            file.create_dataset("sigma", data=events.sigma).attrs["unit"] = MOMENTUM_UNIT
        if events.ids is not None:
            file.create_dataset("event", data=events.ids)
        for name, values in column_arrays(events.columns).items():
            file.create_dataset(name, data=values)


def write_hdf_parts(source: Callable[[], Iterable[Events]], count: int, target: BinaryIO, path: Path) -> None:
    """Write events as HDF5, a part at a time.

    Args:
        source: Yields the events.
        count: How many there are: room is made for them first, so that a full disk is
            found before anything is written (HDF5 that grows does not survive one).
        target: The file, new.
        path: What it is called, for messages.
    """
    parts = iter(source())
    first = next(parts)
    arrays = _arrays(first)
    shapes = {name: ((count, *array.shape[1:]), array.dtype) for name, array in arrays.items()}

    def about(file: h5py.File) -> None:
        describe(file, first.molecule, first.origin)
        for name in arrays:
            if name != "event" and not is_column(name):
                file[name].attrs["unit"] = _UNITS.get(name, MOMENTUM_UNIT)

    preallocate(target, path, shapes, 1, about)
    file, row = PreallocatedFile(target, path, durable=False), 0
    for events in chain([first], parts):
        file.put(0, row, _arrays(events))
        row += len(events)


def _arrays(events: Events) -> dict[str, np.ndarray]:
    arrays = {"momenta": events.momenta, "event": events.numbers}
    arrays |= {"positions": events.positions} if events.positions is not None else {}
    arrays |= {"sigma": events.sigma} if events.sigma is not None else {}
    return arrays | column_arrays(events.columns)
