"""Simulation into a file: any number of events in little memory, and resumable.

Until it is complete the file has the ending `.partial`. It is laid out whole before the first
event (`flowcei.storage.preallocated`) and can be read at every moment, however the process ends. Each block
is its own random stream: what is resumed is what would have been written at once.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from flowcei.errors import DataError, StoppedError, UsageError
from flowcei.events.hdf import MOMENTUM_UNIT, describe, read_json_attribute
from flowcei.events.simulation import block_count, block_rows
from flowcei.physics.explosion import usable_cores
from flowcei.storage.creation import create_file, output_lock, refuse_existing, reopen_file
from flowcei.storage.hdf import opened
from flowcei.storage.preallocated import LaidOutFile, lay_out

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import h5py

    from flowcei.events.simulation import Simulator
    from flowcei.storage.creation import OutputFile

__all__ = ["partial_path", "partial_seed", "simulate_to_file"]

_FLOAT = np.dtype("<f8")


def partial_path(path: Path) -> Path:
    """Return where an unfinished simulation for `path` lies.

    Example:
        >>> from pathlib import Path
        >>> str(partial_path(Path("a/ocs.h5")))
        'a/ocs.h5.partial'
    """
    return path.with_name(path.name + ".partial")


def partial_seed(path: Path) -> int | None:
    """Return the seed of the unfinished simulation for `path`, or None where there is none.

    Raises:
        DataError: For a file that is no unfinished simulation.
    """
    partial = partial_path(path)
    if not os.path.lexists(partial):
        return None
    with reopen_file(partial) as output:
        return int(_request(output.file, partial)["origin"]["seed"])


def simulate_to_file(
    simulator: Simulator,
    n: int,
    path: Path,
    *,
    overwrite: bool = False,
    resume: bool = False,
    threads: int | None = None,
    on_block: Callable[[int], None] | None = None,
) -> None:
    """Write `n` events of a simulator to an HDF5 file, the same as `simulate` returns.

    Args:
        simulator: Where they come from.
        n: How many.
        path: The file. Until all is there, it is called `path` + `.partial`.
        overwrite: Whether an existing file, or an unfinished one, may be replaced.
        resume: Whether to go on with an unfinished one.
        threads: Threads to use; all the process may run on by default. The result does not
            depend on it.
        on_block: Called after each block with its number of events, also for those that an
            earlier run has written.

    Raises:
        UsageError: Where the file exists, where an unfinished one exists and neither
            `resume` nor `overwrite` is given, or where it was begun with other settings.
        StoppedError: On an interruption; what was done is kept.
    """
    refuse_existing(path, overwrite=overwrite)
    partial = partial_path(path)
    if os.path.lexists(partial) and not (resume or overwrite):
        msg = f"{partial} holds an unfinished simulation: --resume goes on with it, --overwrite begins anew"
        raise UsageError(msg)
    resume = resume and os.path.lexists(partial)
    with (
        output_lock(path),
        reopen_file(partial) if resume else _begun(simulator, n, partial) as output,
    ):
        _refuse_other(simulator, n, output.file, partial)
        # Not durable: to wait for the disk after every block would halve the rate.
        with LaidOutFile(output.file, partial, durable=False) as file:
            if len(file.done) != block_count(n):
                raise DataError("is damaged; remove it", path=partial)
            try:
                _fill(simulator, n, file, threads, on_block)
            except KeyboardInterrupt:
                kept = f"{int(file.done.sum())} of {len(file.done)} blocks"
                msg = f"interrupted after {kept}; the same command with --resume goes on"
                raise StoppedError(msg) from None
        output.become(path, overwrite=overwrite)


@contextmanager
def _begun(simulator: Simulator, n: int, partial: Path) -> Iterator[OutputFile]:
    """Make the file with room for all events, whole from the first moment that it has its name."""
    with create_file(partial) as output:
        _lay_out(simulator, n, output.file, partial)
        output.become(partial)
        yield output


def _lay_out(simulator: Simulator, n: int, target: BinaryIO, partial: Path) -> None:
    vectors = (n, len(simulator.molecule), 3)
    shapes: dict[str, tuple[int, ...]] = {"positions": vectors, "sigma": (n,), "momenta": vectors}

    def about(file: h5py.File) -> None:
        describe(file, simulator.molecule, simulator.origin())
        file.attrs["events"] = n
        for name, unit in (("momenta", MOMENTUM_UNIT), ("sigma", MOMENTUM_UNIT), ("positions", "bohr")):
            file[name].attrs["unit"] = unit

    datasets = {name: (shape, _FLOAT) for name, shape in shapes.items()}
    lay_out(target, partial, datasets, block_count(n), about)


def _request(file: BinaryIO, partial: Path) -> dict[str, Any]:
    """Return what was asked for, as the file says."""
    try:
        with opened(partial, file) as content:
            request = {key: read_json_attribute(content, key) for key in ("molecule", "origin")}
            events, seed = int(content.attrs["events"]), (request["origin"] or {})["seed"]
    except DataError as error:
        raise DataError("is no unfinished simulation; remove it", path=partial) from error
    if request["molecule"] is None or not isinstance(seed, int):
        raise DataError("is no unfinished simulation; remove it", path=partial)
    return request | {"events": events}


def _refuse_other(simulator: Simulator, n: int, file: BinaryIO, partial: Path) -> None:
    found = _request(file, partial)
    wanted = json.loads(json.dumps({"molecule": simulator.molecule.to_dict(), "origin": simulator.origin()}))
    wanted["events"] = n
    found, wanted = (table | table.pop("origin") for table in (found, wanted))
    for key, value in wanted.items():
        if found.get(key) != value:
            msg = f"{partial} was begun with {key} {found.get(key)}, not {value}; give the same options"
            raise UsageError(msg)


def _fill(
    simulator: Simulator,
    n: int,
    file: LaidOutFile,
    threads: int | None,
    on_block: Callable[[int], None] | None,
) -> None:
    done = file.done.copy()

    def work(index: int) -> int:
        rows = block_rows(index, n)
        positions, momenta, sigma = simulator.rows(index, n)
        file.put(index, rows.start, {"positions": positions, "momenta": momenta, "sigma": sigma})
        return rows.stop - rows.start

    pool = ThreadPoolExecutor(threads or usable_cores())
    try:
        for index in np.flatnonzero(done):
            rows = block_rows(int(index), n)
            _tell(on_block, rows.stop - rows.start)
        for count in pool.map(work, np.flatnonzero(~done).tolist()):
            _tell(on_block, count)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _tell(on_block: Callable[[int], None] | None, count: int) -> None:
    if on_block is not None:
        on_block(count)
