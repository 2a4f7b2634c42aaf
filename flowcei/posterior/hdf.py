"""Posterior samples as HDF5: positions in single precision, and all that is known of them."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from flowcei.errors import DataError
from flowcei.events.extracolumns import name_of_dataset
from flowcei.events.hdf import (
    MOMENTUM_UNIT,
    column_arrays,
    column_datasets,
    is_column,
    is_hdf5,
    read_array,
    read_molecule,
)
from flowcei.posterior.flags import FLAG_BITS, FLAGS
from flowcei.posterior.samples import PosteriorSamples
from flowcei.posterior.weights import Weights
from flowcei.storage.files import check_readable
from flowcei.storage.hdf import opened, read_json_attribute, writing
from flowcei.storage.resumable import DONE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import h5py

    from flowcei.molecules.molecule import Molecule

_CONTENT = "flowcei samples"
_WEIGHTS = tuple(field.name for field in fields(Weights))
_NEEDED = ("momenta", "positions", "event", "sigma")
_OPTIONAL = ("log_prob", "flags", *_WEIGHTS)


def arrays_of(samples: PosteriorSamples) -> dict[str, np.ndarray]:
    """Return the arrays of samples by the names they have in a file."""
    found: dict[str, np.ndarray | None] = {
        "positions": samples.positions,
        "momenta": samples.momenta,
        "event": samples.ids,
        "sigma": samples.sigma,
        "log_prob": samples.log_prob,
        "flags": samples.flags,
    }
    found |= {name: getattr(samples.weights, name, None) for name in _WEIGHTS}
    found |= column_arrays(samples.columns)
    return {name: array for name, array in found.items() if array is not None}


def samples_of(
    arrays: Mapping[str, np.ndarray], molecule: Molecule, origin: dict[str, Any]
) -> PosteriorSamples:
    """Return samples from what `arrays_of` returned.

    Raises:
        DataError: For shapes that do not match.
    """
    weights = {name: arrays[name] for name in _WEIGHTS if name in arrays}
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
        columns={name_of_dataset(name): arrays[name] for name in filter(is_column, arrays)},
    )


def describe_samples(file: h5py.File, samples: PosteriorSamples) -> None:
    """Write what a file of samples says of itself, with the units of its datasets."""
    file.attrs["content"] = _CONTENT
    file.attrs["molecule"] = json.dumps(samples.molecule.to_dict())
    file.attrs["origin"] = json.dumps(samples.origin)
    file.attrs["flags"] = json.dumps(FLAGS)
    units = {"positions": "bohr", "momenta": MOMENTUM_UNIT, "sigma": MOMENTUM_UNIT}
    units["log_prob"] = f"log(1/bohr^{3 * len(samples.molecule) - 3})"
    for name, unit in units.items():
        if name in file:
            file[name].attrs["unit"] = unit


def write_hdf(parts: Iterable[PosteriorSamples], target: BinaryIO) -> None:
    """Write samples to a new file, a part at a time; how many there will be need not be known."""
    with writing(target) as file:
        for k, part in enumerate(parts):
            arrays = arrays_of(part)
            if k == 0:
                for name, array in arrays.items():
                    shape = array.shape[1:]
                    file.create_dataset(name, (0, *shape), array.dtype, maxshape=(None, *shape), chunks=True)
                describe_samples(file, part)
            for name, array in arrays.items():
                data = file[name]
                data.resize(len(data) + len(array), axis=0)
                data[-len(array) :] = array


def read_samples(path: str | Path) -> PosteriorSamples:
    """Read an HDF5 file of samples.

    Raises:
        UsageError: For a missing file.
        DataError: For a file that is not one of samples, is not finished, or is damaged.
    """
    place = Path(path)
    check_readable(place)
    if not is_hdf5(place):
        what = "not HDF5; this needs the samples as flowcei sample writes them to an .h5 file"
        raise DataError(what, path=place)
    with opened(place) as file:
        molecule = read_molecule(file, place)
        if str(file.attrs.get("content")) != _CONTENT or molecule is None:
            raise DataError("an HDF5 file, but not of samples", path=place)
        if DONE in file and not (done := read_array(file, DONE, place)).all():
            what = f"not finished: {int((done != 0).sum())} of {done.size} blocks are there; "
            raise DataError(f"{what}flowcei sample --resume goes on", path=place)
        arrays = {
            name: read_array(file, name, place)
            for name in (*_NEEDED, *_OPTIONAL, *column_datasets(file, place))
            if name in file or name not in _OPTIONAL
        }
        origin = read_json_attribute(file, "origin") or {}
    try:
        samples = samples_of(arrays, molecule, origin)
    except DataError as error:
        raise DataError(f"damaged ({error})", path=place) from error
    if samples.positions.size == 0 or not _is_finite(samples):
        raise DataError("damaged (no samples, or numbers that are not finite)", path=place)
    return samples


def _is_finite(samples: PosteriorSamples) -> bool:
    """Whether all numbers are, but for the samples of events that are flagged to have none."""
    flags = np.zeros(len(samples), np.uint16) if samples.flags is None else samples.flags
    answered = (flags & FLAG_BITS["no-geometry"]) == 0
    some = samples if answered.all() else samples[answered]
    tables = (samples.ids, samples.momenta, samples.sigma, some.positions, some.log_prob)
    return all(table is None or bool(np.isfinite(table).all()) for table in tables)
