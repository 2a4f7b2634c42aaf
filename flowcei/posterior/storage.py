"""Files of posterior samples: HDF5, or long tables with one row a sample; all streamed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from flowcei.errors import UsageError
from flowcei.posterior.hdf import write_hdf
from flowcei.posterior.text import refuse_missing_parquet, write_parquet, write_samples_csv
from flowcei.storage.creation import as_text, atomic_write, check_output

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flowcei.posterior.samples import PosteriorSamples

HDF = (".h5", ".hdf5")
"""Endings of HDF5 files."""

_TABLES = (".csv", ".parquet")


def check_samples_path(path: Path, *, overwrite: bool) -> None:
    """Refuse a path samples cannot be written to, before any work is done.

    Raises:
        UsageError: For an unknown ending, an existing file or a missing folder; for Parquet
            without pyarrow.
    """
    ending = path.suffix.lower()
    if ending not in (*HDF, *_TABLES):
        msg = f"{path}: samples are written as .h5, .csv or .parquet; give -o such an ending"
        raise UsageError(msg)
    if ending == ".parquet":
        refuse_missing_parquet()
    check_output(path, overwrite=overwrite)


def write_samples(parts: Iterable[PosteriorSamples], path: str | Path, *, overwrite: bool = False) -> None:
    """Write samples, a part at a time.

    Args:
        parts: Samples of successive events.
        path: `.h5` (float32 positions, and molecule, momenta and origin with them), `.csv` or
            `.parquet`.
        overwrite: Whether an existing file may be replaced.

    Raises:
        UsageError: For another ending, or where the file exists or cannot be written.
    """
    place = Path(path)
    check_samples_path(place, overwrite=overwrite)
    with atomic_write(place, overwrite=overwrite) as file:
        write_parts(parts, file, place.suffix.lower())


def write_parts(parts: Iterable[PosteriorSamples], file: BinaryIO, ending: str) -> None:
    """Write samples to an open file, in the format of an ending."""
    if ending in HDF:
        write_hdf(parts, file)
    elif ending == ".parquet":
        write_parquet(parts, file)
    else:
        with as_text(file) as text:
            write_samples_csv(parts, text)
