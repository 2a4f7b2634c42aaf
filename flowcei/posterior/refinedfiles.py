"""Files of refined samples, written resumably as samples are: HDF5, or CSV made of it in the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.events.extracolumns import name_of_dataset
from flowcei.events.hdf import column_arrays, is_column
from flowcei.posterior.files import HDF, file_blocks
from flowcei.posterior.refinement import STATUS, refined_table
from flowcei.storage.cells import rows_as_text
from flowcei.storage.creation import as_text, atomic_write
from flowcei.storage.resumable import resumable_file

if TYPE_CHECKING:
    import h5py
    from numpy.typing import NDArray

    from flowcei.molecules.molecule import Molecule
    from flowcei.posterior.samples import PosteriorSamples
    from flowcei.storage.resumable import Layout
    from flowcei.workers.order import Each

    Arrays = dict[str, NDArray[Any]]


@dataclass
class Ends:
    """How searches of all events ended."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STATUS, 0))
    explained: int = 0  # events with an exact geometry
    hopeless: list[int] = field(default_factory=list)  # numbers of events whose searches could not begin

    def add(self, arrays: Arrays) -> None:
        """Take in those of the next events."""
        status = arrays["status"]
        for k, word in enumerate(STATUS):
            self.counts[word] += int((status == k).sum())
        self.explained += int((status == 0).any(axis=1).sum())
        self.hopeless += arrays["event"][~np.isfinite(arrays["error"]).any(axis=1)].tolist()


def refine_to_file(
    blocks: Callable[[int], Iterator[PosteriorSamples]],
    path: Path,
    request: dict[str, Any],
    *,
    each: Each = map,
    overwrite: bool = False,
    resume: bool = False,
    on_block: Callable[[int], None] = lambda _: None,
) -> Ends:
    """Refine samples that `blocks` gives from a number of events on, as many of them as `request` says.

    `each` shares the work; `on_block` is told of the events of each block, also of those that are there.
    """

    def layout() -> Layout:
        first = next(blocks(0))[:1]
        shapes = {k: ((request["events"], *a.shape[1:]), a.dtype) for k, a in refined_arrays(first).items()}
        return shapes, lambda file: _describe(file, first.molecule)

    hdf, block, ends = path.suffix.lower() in HDF, request["block"], Ends()
    with resumable_file(path, request, layout, overwrite=overwrite, resume=resume, rename=hdf) as file:
        start = len(file.done) if file.done.all() else int(np.argmin(file.done))
        if start:
            on_block(min(start * block, request["events"]))
        if start < len(file.done):
            for k, arrays in enumerate(each(refined_arrays, blocks(start * block)), start):
                file.put(k, k * block, arrays)
                on_block(len(arrays["event"]))
        if hdf:
            for arrays, *_ in file_blocks(file, block, ("event", "status", "error")):
                ends.add(arrays)
            return ends
        with atomic_write(path, overwrite=overwrite) as target, as_text(target) as text:
            for k, (arrays, molecule, _) in enumerate(file_blocks(file, block)):
                ends.add(arrays)
                columns = {name_of_dataset(name): arrays[name] for name in filter(is_column, arrays)}
                text.write(rows_as_text(refined_table(molecule, arrays, columns), 12, header=k == 0))
    return ends


def refined_arrays(samples: PosteriorSamples) -> Arrays:
    """Refine samples; what came of them by the names of the datasets."""
    return samples.refine(keep_flagged=True).arrays() | column_arrays(samples.columns)


def _describe(file: h5py.File, molecule: Molecule) -> None:
    """Write what a file says of itself."""
    file.attrs["content"] = "flowcei refined samples"
    file.attrs["molecule"] = json.dumps(molecule.to_dict())
    file["positions"].attrs["unit"] = "bohr"
    file["status"].attrs["words"] = json.dumps(STATUS)
