"""Files of posterior samples: HDF5, or long CSV with one row a sample; both streamed."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pandas as pd

from flowcei.errors import DataError, UsageError
from flowcei.events.hdf import (
    MOMENTUM_UNIT,
    is_hdf5,
    read_array,
    read_json_attribute,
    read_molecule,
)
from flowcei.events.text import columns
from flowcei.files import check_readable, refuse_existing, whole_file
from flowcei.posterior.flags import FLAGS, in_words
from flowcei.posterior.samples import PosteriorSamples
from flowcei.posterior.weights import Weights

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TextIO

__all__ = ["check_samples_path", "read_samples", "write_samples", "write_samples_csv"]

_CONTENT = "flowcei samples"
_HDF = (".h5", ".hdf5")
_WEIGHTS = tuple(field.name for field in fields(Weights))
_OPTIONAL = ("log_prob", "flags", *_WEIGHTS)


def check_samples_path(path: Path, *, overwrite: bool) -> None:
    """Refuse a path samples cannot be written to, before any work is done.

    Raises:
        UsageError: For an unknown ending, an existing file or a missing folder.
    """
    if path.suffix.lower() not in (*_HDF, ".csv"):
        msg = f"{path}: samples are written as .h5 or .csv; give -o such an ending"
        raise UsageError(msg)
    refuse_existing(path, overwrite=overwrite)


def write_samples(parts: Iterable[PosteriorSamples], path: str | Path, *, overwrite: bool = False) -> None:
    """Write samples, a part at a time.

    Args:
        parts: Samples of successive events.
        path: `.h5` (float32 positions, and molecule, momenta and origin with them) or `.csv`.
        overwrite: Whether an existing file may be replaced.

    Raises:
        UsageError: For another ending, or where the file exists or cannot be written.
    """
    place = Path(path)
    check_samples_path(place, overwrite=overwrite)
    with whole_file(place, overwrite=overwrite) as temporary:
        if place.suffix.lower() in _HDF:
            _write_hdf(parts, temporary)
        else:
            with temporary.open("w", newline="") as file:
                write_samples_csv(parts, file)


def write_samples_csv(parts: Iterable[PosteriorSamples], file: TextIO) -> None:
    """Write long CSV, one row a sample: event, sample, positions (bohr), log density, weight."""
    for k, part in enumerate(parts):
        e, n = part.positions.shape[:2]
        table: dict[str, np.ndarray] = {
            "event": np.repeat(part.ids, n),
            "sample": np.tile(np.arange(n), e),
        }
        flat = part.positions.reshape(e * n, -1)
        table |= dict(zip(columns(part.molecule.labels), flat.T, strict=True))
        if part.log_prob is not None:
            table["log_prob"] = part.log_prob.reshape(-1).round(6)
        if part.flags is not None:
            table["flags"] = np.repeat([in_words(f) for f in part.flags], n)
        if part.weights is not None:
            table["weight"] = part.weights.normalised.reshape(-1)
        pd.DataFrame(table).to_csv(file, index=False, header=k == 0)


def _write_hdf(parts: Iterable[PosteriorSamples], path: Path) -> None:
    with h5py.File(path, "w") as file:
        for k, part in enumerate(parts):
            arrays: dict[str, np.ndarray | None] = {
                "positions": part.positions,
                "momenta": part.momenta,
                "event": part.ids,
                "sigma": part.sigma,
                "log_prob": part.log_prob,
                "flags": part.flags,
            }
            arrays |= {name: getattr(part.weights, name, None) for name in _WEIGHTS}
            if k == 0:
                _begin_hdf(file, part, arrays)
            for name, array in arrays.items():
                if array is not None:
                    data = file[name]
                    data.resize(len(data) + len(array), axis=0)
                    data[-len(array) :] = array


def _begin_hdf(file: h5py.File, part: PosteriorSamples, arrays: dict[str, np.ndarray | None]) -> None:
    file.attrs["content"] = _CONTENT
    file.attrs["molecule"] = json.dumps(part.molecule.to_dict())
    file.attrs["origin"] = json.dumps(part.origin)
    units = {"positions": "bohr", "momenta": MOMENTUM_UNIT, "sigma": MOMENTUM_UNIT}
    units["log_prob"] = f"log(1/bohr^{3 * len(part.molecule) - 3})"
    file.attrs["flags"] = json.dumps(FLAGS)
    for name, array in arrays.items():
        if array is None:
            continue
        shape = (0, *array.shape[1:])
        file.create_dataset(name, shape, array.dtype, maxshape=(None, *shape[1:]), chunks=True)
        if name in units:
            file[name].attrs["unit"] = units[name]


def read_samples(path: str | Path) -> PosteriorSamples:
    """Read an HDF5 file of samples.

    Raises:
        UsageError: For a missing file.
        DataError: For a file that is not one of samples, or damaged.
    """
    place = Path(path)
    check_readable(place)
    if not is_hdf5(place):
        what = "not HDF5; this needs the samples as flowcei sample writes them to an .h5 file"
        raise DataError(what, path=place)
    try:
        with h5py.File(place, "r") as file:
            molecule = read_molecule(file, place)
            if str(file.attrs.get("content")) != _CONTENT or molecule is None:
                raise DataError("an HDF5 file, but not of samples", path=place)
            arrays = {
                name: read_array(file, name, place)
                for name in ("momenta", "positions", "event", "sigma", *_OPTIONAL)
                if name in file or name not in _OPTIONAL
            }
            origin = read_json_attribute(file, "origin") or {}
    except (OSError, RuntimeError, MemoryError) as error:
        raise DataError(f"damaged ({error})", path=place) from error
    weights = {name: arrays.pop(name) for name in _WEIGHTS if name in arrays}
    if arrays["positions"].size == 0 or not all(np.isfinite(a).all() for a in arrays.values()):
        raise DataError("damaged (no samples, or numbers that are not finite)", path=place)
    try:
        return PosteriorSamples(
            molecule=molecule,
            momenta=arrays["momenta"],
            positions=arrays["positions"],
            log_prob=arrays.get("log_prob"),
            flags=arrays.get("flags"),
            ids=arrays["event"],
            sigma=arrays["sigma"],
            origin=origin,
            weights=Weights(**weights) if len(weights) == len(_WEIGHTS) else None,
        )
    except DataError as error:
        raise DataError(f"damaged ({error})", path=place) from error
