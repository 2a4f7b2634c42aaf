"""Events as HDF5: `/momenta`, `/positions`, and all that is needed to make them again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from flowcei.errors import DataError
from flowcei.events.container import Events
from flowcei.molecule import Molecule

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "MOMENTUM_UNIT",
    "describe",
    "is_hdf5",
    "read_array",
    "read_hdf",
    "read_json_attribute",
    "read_molecule",
    "write_hdf",
]

MOMENTUM_UNIT = "hbar/bohr"
_UNITS = {"momenta": MOMENTUM_UNIT, "positions": "bohr"}
_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def is_hdf5(path: Path) -> bool:
    """Whether the content of a file, not its name, says HDF5."""
    with path.open("rb") as file:
        return file.read(len(_SIGNATURE)) == _SIGNATURE


def read_hdf(path: Path, molecule: Molecule | None = None) -> Events:
    """Read events from an HDF5 file.

    Args:
        path: The file.
        molecule: Whose ions they must be; what the file says where None.

    Raises:
        DataError: For a file that lacks momenta or a molecule, or is damaged, or is of
            another molecule.
    """
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("content") == "flowcei samples":
                raise DataError("holds posterior samples; events are needed here", path=path)
            own = read_molecule(file, path) or molecule
            if own is None:
                raise DataError("does not say which molecule; name it with --molecule", path=path)
            if molecule is not None and not own.same_ions(molecule):
                what = f"events of {own.name}, where {molecule.name} is expected"
                raise DataError(what, path=path)
            arrays = {
                name: read_array(file, name, path)
                for name in ("momenta", "positions", "event", "sigma")
                if name in file
            }
            origin = read_json_attribute(file, "origin") or {}
    except (OSError, RuntimeError, MemoryError) as error:
        raise DataError(f"not an HDF5 file, or damaged ({error})", path=path) from error
    if "momenta" not in arrays:
        raise DataError("has no dataset /momenta: not a file of events", path=path)
    if arrays["momenta"].size == 0:
        raise DataError("holds no event", path=path)
    ids = arrays.pop("event", None)
    if ids is not None and ((ids % 1 != 0).any() or len(np.unique(ids)) != ids.size):
        raise DataError("/event holds numbers that are not whole, or one of them twice", path=path)
    numbers = {name: array.astype(np.float64, copy=False) for name, array in arrays.items()}
    try:
        return Events(
            own,
            numbers["momenta"],
            numbers.get("positions"),
            ids=None if ids is None else ids.astype(np.int64),
            sigma=numbers.get("sigma"),
            origin=origin,
        )
    except DataError as error:
        raise DataError(str(error), path=path) from error


def read_array(file: h5py.File, name: str, path: Path) -> np.ndarray:
    """Read a dataset of numbers that lies in the file itself.

    Raises:
        DataError: For anything else: no link is followed and no other file is opened.
    """
    link = file.get(name, getlink=True)
    data = file[name] if isinstance(link, h5py.HardLink) else None
    if not isinstance(data, h5py.Dataset) or data.dtype.kind not in "fiu" or data.shape is None:
        raise DataError(f"/{name} is not a dataset of numbers", path=path)
    if data.external or data.is_virtual:
        raise DataError(f"/{name} lies in another file; copy it into this one", path=path)
    expected = _UNITS.get(name)
    unit = data.attrs.get("unit", expected)
    unit = unit.decode("utf-8", "replace") if isinstance(unit, bytes) else str(unit)
    if expected is not None and unit != expected:
        raise DataError(f"/{name} are in {unit}, not in {expected}", path=path)
    return np.asarray(data[()])


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


def read_json_attribute(file: h5py.File, name: str) -> dict | None:
    """Return an attribute that holds a JSON table, or None where it is not there.

    Raises:
        DataError: Where it does not hold one.
    """
    text = file.attrs.get(name)
    if text is None:
        return None
    try:
        table = json.loads(text)
    except (ValueError, TypeError) as error:
        raise DataError(f"attribute {name} is not JSON", path=file.filename) from error
    if not isinstance(table, dict):
        raise DataError(f"attribute {name} is not a table", path=file.filename)
    return table


def describe(file: h5py.File, molecule: Molecule, origin: dict[str, Any]) -> None:
    """Write what a file of events says of itself."""
    file.attrs["content"] = "flowcei events"
    file.attrs["molecule"] = json.dumps(molecule.to_dict())
    file.attrs["origin"] = json.dumps(origin)


def write_hdf(events: Events, path: Path) -> None:
    """Write events as HDF5."""
    with h5py.File(path, "w") as file:
        describe(file, events.molecule, events.origin)
        file.create_dataset("momenta", data=events.momenta).attrs["unit"] = MOMENTUM_UNIT
        if events.positions is not None:
            file.create_dataset("positions", data=events.positions).attrs["unit"] = "bohr"
        if events.sigma is not None:
            file.create_dataset("sigma", data=events.sigma).attrs["unit"] = MOMENTUM_UNIT
        if events.ids is not None:
            file.create_dataset("event", data=events.ids)
