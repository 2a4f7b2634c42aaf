"""Reading and writing events, whatever the format."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TextIO

from flowcei.errors import UsageError
from flowcei.events.hdf import write_hdf, write_hdf_chunks
from flowcei.events.source import open_events
from flowcei.molecules.molecule import Molecule
from flowcei.storage.creation import as_text, atomic_write

if TYPE_CHECKING:
    from flowcei.events.container import Events
    from flowcei.events.foreign.interpretation import Reading
    from flowcei.events.source import EventSource


def read_events(
    path: str | Path, molecule: Molecule | str | None = None, reading: Reading | None = None
) -> Events:
    """Read all events of a file: text, HDF5, .npy, Parquet, ROOT or XYZ; its content decides which.

    Args:
        path: The file.
        molecule: Whose ions they are; HDF5 files of flowcei say so themselves, another file is
            taken to be of OCS where None.
        reading: What the file does not say itself: the order of ions, units, a mapping of its
            columns, which events to leave out.

    Returns:
        The events, in atomic units. Events that lack an ion are left out, with a warning.

    Raises:
        UsageError: For a missing file or unknown molecule.
        DataError: For a file that is not sound, saying where.

    Example:
        >>> import tempfile, flowcei
        >>> path = Path(tempfile.mkdtemp()) / "events.csv"
        >>> write_events(flowcei.simulate("ocs", 4, seed=1), path)
        >>> len(read_events(path))
        4
    """
    mol = Molecule.load(molecule) if isinstance(molecule, str) else molecule
    source = open_events(Path(path), mol, reading)
    events = source.read()
    if source.tally.unasked:
        warnings.warn(f"{path}: {source.tally}", stacklevel=2)
    return events


def write_events(events: Events, path: str | Path, *, overwrite: bool = False) -> None:
    """Write events as `.csv` or `.h5`.

    Args:
        events: What to write.
        path: Where; its ending decides the format. HDF5 also keeps molecule and origin.
        overwrite: Whether an existing file may be replaced.

    Raises:
        UsageError: For another ending, or where the file exists or cannot be written.

    Example:
        >>> import tempfile, flowcei
        >>> write_events(flowcei.simulate("ocs", 4, seed=1), Path(tempfile.mkdtemp()) / "e.h5")
    """
    writer = events_writer(Path(path))
    with atomic_write(Path(path), overwrite=overwrite) as file:
        writer(events, file)


def write_event_chunks(source: EventSource, path: Path, *, overwrite: bool = False) -> None:
    """Write the events of a source a chunk at a time, as `write_events` would write them at once.

    HDF5 also keeps how the source was read, and what was left out of it and why.
    """
    writer = events_writer(path)
    with atomic_write(path, overwrite=overwrite) as file:
        if writer is write_hdf:
            deque(source.chunks(), maxlen=0)  # to know how many are left
            source.keep_tally()
            write_hdf_chunks(source.chunks, source.tally.accepted, file, path)
        else:
            with as_text(file) as text:
                for k, events in enumerate(source.chunks()):
                    _to_csv(events, text, header=k == 0)


def write_csv(events: Events, file: TextIO) -> None:
    """Write events as CSV; numbers read back exactly. Without noise there is no column of it."""
    silent = events.sigma is not None and not events.sigma.any()
    _to_csv(replace(events, sigma=None) if silent else events, file)


def _to_csv(events: Events, file: TextIO, *, header: bool = True) -> None:
    events.to_dataframe().to_csv(file, index=False, header=header, na_rep="nan")


def _write_csv(events: Events, file: BinaryIO) -> None:
    with as_text(file) as text:
        write_csv(events, text)


_WRITERS = {".csv": _write_csv, ".h5": write_hdf, ".hdf5": write_hdf}


def events_writer(path: Path) -> Callable[[Events, BinaryIO], None]:
    """The function that writes events to an open file with this ending; UsageError for others."""
    if path.suffix.lower() not in _WRITERS:
        raise UsageError(f"{path}: events are written as {' or '.join(_WRITERS)}; give -o such an ending")
    return _WRITERS[path.suffix.lower()]
