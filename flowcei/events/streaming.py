"""Simulation into a file: any number of events in little memory, and resumable."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from flowcei.events.hdf import MOMENTUM_UNIT, describe
from flowcei.events.simulation import BLOCK, block_rows
from flowcei.physics.explosion import usable_cores
from flowcei.storage.creation import check_output
from flowcei.storage.resumable import resumable_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import h5py

    from flowcei.events.simulation import Simulator
    from flowcei.storage.resumable import Layout, PreallocatedFile

_FLOAT = np.dtype("<f8")


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
        UsageError: Where the file exists, or as `resumable_file`.
        StoppedError: On an interruption; what was done is kept.
    """
    check_output(path, overwrite=overwrite)
    vectors = (n, len(simulator.molecule), 3)

    def about(file: h5py.File) -> None:
        describe(file, simulator.molecule, simulator.origin())
        for name, unit in (("momenta", MOMENTUM_UNIT), ("sigma", MOMENTUM_UNIT), ("positions", "bohr")):
            file[name].attrs["unit"] = unit

    def layout() -> Layout:
        shapes = {"positions": vectors, "sigma": (n,), "momenta": vectors}
        return {name: (shape, _FLOAT) for name, shape in shapes.items()}, about

    request = {"events": n, "block": BLOCK, **simulator.origin(), "molecule": simulator.molecule.to_dict()}
    # Not durable: to wait for the disk after every block would halve the rate.
    how = {"overwrite": overwrite, "resume": resume, "durable": False}
    with resumable_file(path, request, layout, **how) as file:
        _fill(simulator, n, file, threads, on_block or (lambda _: None))


def _fill(
    simulator: Simulator,
    n: int,
    file: PreallocatedFile,
    threads: int | None,
    on_block: Callable[[int], None],
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
            on_block(rows.stop - rows.start)
        for count in pool.map(work, np.flatnonzero(~done).tolist()):
            on_block(count)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
