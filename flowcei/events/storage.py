"""Reading and writing events, whatever the format."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flowcei.errors import UsageError
from flowcei.events.hdf import is_hdf5, read_hdf, write_hdf
from flowcei.events.text import read_csv, write_csv
from flowcei.files import check_readable, whole_file
from flowcei.molecule import Molecule

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowcei.events.container import Events

__all__ = ["events_writer", "read_events", "write_events"]

_WRITERS = {".csv": write_csv, ".h5": write_hdf, ".hdf5": write_hdf}


def read_events(path: str | Path, molecule: Molecule | str | None = None) -> Events:
    """Read events from CSV or HDF5; the content of the file decides which.

    Args:
        path: The file.
        molecule: Whose ions they are; HDF5 files of flowcei say so themselves, a CSV is
            taken to be of OCS where None.

    Returns:
        The events, in atomic units.

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
    place = Path(path)
    check_readable(place)
    known = Molecule.load(molecule) if isinstance(molecule, str) else molecule
    if is_hdf5(place):
        return read_hdf(place, known)
    return read_csv(place, known or Molecule.load("ocs"))


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
    place = Path(path)
    writer = events_writer(place)
    with whole_file(place, overwrite=overwrite) as temporary:
        writer(events, temporary)


def events_writer(path: Path) -> Callable[[Events, Path], None]:
    """Return the function that writes events to a file of this ending.

    Raises:
        UsageError: For an ending that is not known.
    """
    if path.suffix.lower() not in _WRITERS:
        msg = f"{path}: events are written as {' or '.join(_WRITERS)}; give -o such an ending"
        raise UsageError(msg)
    return _WRITERS[path.suffix.lower()]
