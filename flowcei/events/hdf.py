"""Events as HDF5: `/momenta`, `/positions`, and all that is needed to make them again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import h5py
import numpy as np

from flowcei.errors import DataError
from flowcei.events.container import Events
from flowcei.molecule import Molecule

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["MOMENTUM_UNIT", "is_hdf5", "read_hdf", "read_json_attribute", "write_hdf"]

MOMENTUM_UNIT = "hbar/bohr"
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
            stored = read_json_attribute(file, "molecule")
            if stored is None and molecule is None:
                raise DataError("does not say which molecule; name it with --molecule", path=path)
            own = Molecule.from_dict(stored) if stored is not None else molecule
            if own is None or (molecule is not None and not own.same_ions(molecule)):
                names = [m.name if m is not None else "?" for m in (own, molecule)]
                raise DataError(f"events of {names[0]}, where {names[1]} is expected", path=path)
            arrays = {
                name: _array(file, name, path)
                for name in ("momenta", "positions", "event", "sigma")
                if name in file
            }
            origin = read_json_attribute(file, "origin") or {}
    except (OSError, RuntimeError) as error:
        raise DataError(f"not an HDF5 file, or damaged ({error})", path=path) from error
    if "momenta" not in arrays:
        raise DataError("has no dataset /momenta: not a file of events", path=path)
    if len(arrays["momenta"]) == 0:
        raise DataError("holds no event", path=path)
    ids = arrays.get("event")
    try:
        return Events(
            own,
            arrays["momenta"],
            arrays.get("positions"),
            ids=None if ids is None else ids.astype(np.int64),
            sigma=arrays.get("sigma"),
            origin=origin,
        )
    except DataError as error:
        raise DataError(str(error), path=path) from error


def _array(file: h5py.File, name: str, path: Path) -> np.ndarray:
    # No external or soft link is followed: a file of events is whole in itself.
    link = file.get(name, getlink=True)
    data = file[name] if isinstance(link, h5py.HardLink) else None
    if not isinstance(data, h5py.Dataset) or data.dtype.kind not in "fiu":
        raise DataError(f"/{name} is not a dataset of numbers", path=path)
    if name == "momenta" and data.attrs.get("unit", MOMENTUM_UNIT) != MOMENTUM_UNIT:
        raise DataError(f"/momenta are in {data.attrs['unit']}, not in {MOMENTUM_UNIT}", path=path)
    if name == "positions" and data.attrs.get("unit", "bohr") != "bohr":
        raise DataError(f"/positions are in {data.attrs['unit']}, not in bohr", path=path)
    return np.asarray(data[()], dtype=np.float64)


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


def write_hdf(events: Events, path: Path) -> None:
    """Write events as HDF5."""
    with h5py.File(path, "w") as file:
        file.attrs["content"] = "flowcei events"
        file.attrs["molecule"] = json.dumps(events.molecule.to_dict())
        file.attrs["origin"] = json.dumps(events.origin)
        file.create_dataset("momenta", data=events.momenta).attrs["unit"] = MOMENTUM_UNIT
        if events.positions is not None:
            file.create_dataset("positions", data=events.positions).attrs["unit"] = "bohr"
        if events.sigma is not None:
            file.create_dataset("sigma", data=events.sigma).attrs["unit"] = MOMENTUM_UNIT
        if events.ids is not None:
            file.create_dataset("event", data=events.ids)
