"""`flowcei refine`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from flowcei.cli.inputs import unflagged_samples, warn_of_open_directions
from flowcei.cli.options import (
    INPUT,
    json_option,
    keep_flagged_option,
    output_option,
    output_path,
    overwrite_option,
)
from flowcei.cli.progress import Progress
from flowcei.cli.streams import note, show, show_json, warn
from flowcei.storage.creation import atomic_text


@click.command()
@click.argument("samples", type=INPUT)
@output_option("CSV; NAME.refined.csv if absent.")
@json_option()
@keep_flagged_option
@overwrite_option
def refine(*, samples: Path, output: Path | None, as_json: bool, keep_flagged: bool, overwrite: bool) -> None:
    """Start a search for an exact geometry from each of SAMPLES; write where it ended.

    One row a sample: status (converged, did not converge, left the prior), |dp| / |p| of its simulated
    momenta, the same in units of the noise (chi squared), positions in bohr.
    Events that are flagged are left out, and counted, unless --keep-flagged.

    Example: flowcei refine events.samples.h5
    """
    path = output or Path(f"{samples.stem.removesuffix('.samples')}.refined.csv")
    output_path(path, overwrite=overwrite)
    import numpy as np

    from flowcei.posterior.refinement import STATUS
    from flowcei.storage.cells import write_table

    chosen = unflagged_samples(samples, keep_flagged=keep_flagged)
    warn_of_open_directions(chosen)
    began, counts, explained, hopeless = time.perf_counter(), dict.fromkeys(STATUS, 0), 0, list[int]()
    with atomic_text(path, overwrite=overwrite) as file, Progress(len(chosen), "events") as progress:
        for number, block in enumerate(chosen.blocks()):
            refined = block.refine(keep_flagged=True)
            how: Any = {"index": False, "header": number == 0, "float_format": "%.12g"}
            write_table(refined.to_dataframe(), file, **how)
            counts = {word: counts[word] + int((refined.status == k).sum()) for k, word in enumerate(STATUS)}
            explained += int((refined.status == 0).any(axis=1).sum())
            hopeless += block.event_id[~np.isfinite(refined.error).any(axis=1)].tolist()
            progress.update(len(block))
    starts = sum(counts.values())
    rate = starts / (time.perf_counter() - began)
    if as_json:
        show_json(counts)
    for word, count in counts.items() if not as_json else ():
        show(f"{word:16s} {count:9d}  {count / starts:6.1%}")
    note(
        f"{explained} of {len(chosen)} events have a geometry that explains them exactly, {rate:.0f} starts/s"
    )
    if len(hopeless):
        warn(f"no search of event {hopeless[0]} could even begin ({len(hopeless)} such events)")
    note(f"written to {path}; next: flowcei modes {samples}")
