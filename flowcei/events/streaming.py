"""Simulation straight into a file: any number of events in little memory, resumable.

The file is laid out whole before the first event: an HDF5 file whose datasets have their
place on disk. Threads then write blocks to those places and never touch the structure, so
that the file can be read at every moment, however the process ends. A dataset `/done` says
which blocks are there. Each block is its own random stream: what is resumed is what would
have been written at once.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import h5py
import numpy as np

from flowcei.errors import DataError, StoppedError, UsageError
from flowcei.events.hdf import MOMENTUM_UNIT, describe, read_json_attribute
from flowcei.events.simulation import block_count, block_rows
from flowcei.files import refuse_existing
from flowcei.physics.explosion import usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from flowcei.events.simulation import Simulator

__all__ = ["partial_path", "partial_seed", "simulate_to_file"]

_FLOAT = np.dtype("<f8")
_PAGE = 4096


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
    if not partial.exists():
        return None
    return int(_request(partial)["origin"]["seed"])


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
    if partial.exists() and not (resume or overwrite):
        msg = f"{partial} holds an unfinished simulation: --resume goes on with it, --overwrite begins anew"
        raise UsageError(msg)
    if not (resume and partial.exists()):
        _lay_out(simulator, n, partial)
    _refuse_other(simulator, n, partial)
    offsets, done = _places(partial, n, len(simulator.molecule))
    try:
        _fill(simulator, n, partial, offsets, done, threads, on_block)
    except KeyboardInterrupt:
        kept = int(_places(partial, n, len(simulator.molecule))[1].sum())
        msg = f"interrupted after {kept} of {len(done)} blocks; the same command with --resume goes on"
        raise StoppedError(msg) from None
    partial.replace(path)


def _lay_out(simulator: Simulator, n: int, partial: Path) -> None:
    """Make the file with room for all events, whole from the first moment."""
    begun = partial.with_name(f".{partial.name}")
    shapes = {"positions": (n, len(simulator.molecule), 3), "sigma": (n,)}
    shapes["momenta"] = shapes["positions"]
    try:
        # Blocks on whole pages, and all pages there: half the time of writing into a sparse file.
        with h5py.File(begun, "w", alignment_threshold=_PAGE, alignment_interval=_PAGE) as file:
            describe(file, simulator.molecule, simulator.origin())
            file.attrs["events"] = n
            layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            layout.set_layout(h5py.h5d.CONTIGUOUS)
            layout.set_obj_track_times(False)  # the same events, the same bytes
            layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            for name, shape in (*shapes.items(), ("done", (block_count(n),))):
                kind = h5py.h5t.NATIVE_UINT8 if name == "done" else h5py.h5t.IEEE_F64LE
                space = h5py.h5s.create_simple(shape)
                h5py.h5d.create(file.id, name.encode(), kind, space, layout)
            file["done"][:] = 0
            for name, unit in (("momenta", MOMENTUM_UNIT), ("sigma", MOMENTUM_UNIT), ("positions", "bohr")):
                file[name].attrs["unit"] = unit
        if hasattr(os, "posix_fallocate"):  # not on macOS
            with begun.open("r+b") as raw:
                os.posix_fallocate(raw.fileno(), 0, begun.stat().st_size)
        begun.replace(partial)
    finally:
        begun.unlink(missing_ok=True)


def _request(partial: Path) -> dict:
    try:
        with h5py.File(partial, "r") as file:
            request = {key: read_json_attribute(file, key) for key in ("molecule", "origin")}
            return request | {"events": int(file.attrs["events"])}
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError("is no unfinished simulation; remove it", path=partial) from error


def _refuse_other(simulator: Simulator, n: int, partial: Path) -> None:
    found = _request(partial)
    wanted = json.loads(json.dumps({"molecule": simulator.molecule.to_dict(), "origin": simulator.origin()}))
    wanted["events"] = n
    found, wanted = (table | table.pop("origin") for table in (found, wanted))
    for key, value in wanted.items():
        if found.get(key) != value:
            msg = f"{partial} was begun with {key} {found.get(key)}, not {value}; give the same options"
            raise UsageError(msg)


def _places(partial: Path, n: int, ions: int) -> tuple[dict[str, int], np.ndarray]:
    """Return where each dataset begins in the file, and which blocks are there."""
    expected = {"positions": (n, ions, 3), "momenta": (n, ions, 3), "sigma": (n,), "done": (block_count(n),)}
    try:
        with h5py.File(partial, "r") as file:
            offsets = {name: file[name].id.get_offset() for name in expected}
            sound = all(file[name].shape == shape for name, shape in expected.items())
            done = np.asarray(file["done"][()], dtype=bool)
    except (OSError, KeyError) as error:
        raise DataError("is damaged; remove it", path=partial) from error
    if not sound or None in offsets.values():
        raise DataError("is damaged; remove it", path=partial)
    return offsets, done


def _fill(
    simulator: Simulator,
    n: int,
    partial: Path,
    offsets: dict[str, int],
    done: np.ndarray,
    threads: int | None,
    on_block: Callable[[int], None] | None,
) -> None:
    ions = len(simulator.molecule)
    width = {"positions": 3 * ions, "momenta": 3 * ions, "sigma": 1}
    handle = os.open(partial, os.O_RDWR)

    def work(index: int) -> int:
        rows = block_rows(index, n)
        parts = zip(width, simulator.rows(index, n), strict=True)
        for name, array in parts:
            place = offsets[name] + rows.start * width[name] * _FLOAT.itemsize
            _write(handle, np.ascontiguousarray(array, _FLOAT), place)
        _write(handle, np.ones(1, np.uint8), offsets["done"] + index)
        return rows.stop - rows.start

    pool = ThreadPoolExecutor(threads or usable_cores())
    try:
        for index in np.flatnonzero(done):
            rows = block_rows(int(index), n)
            _tell(on_block, rows.stop - rows.start)
        for count in pool.map(work, np.flatnonzero(~done).tolist()):
            _tell(on_block, count)
        os.fsync(handle)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        os.close(handle)


def _tell(on_block: Callable[[int], None] | None, count: int) -> None:
    if on_block is not None:
        on_block(count)


def _write(handle: int, array: np.ndarray, place: int) -> None:
    data = memoryview(array.view(np.uint8).reshape(-1))  # type: ignore[arg-type]
    while data:  # a write may stop short, at 2 GiB or at a signal
        written = os.pwrite(handle, data, place)
        data, place = data[written:], place + written
