"""`flowcei refine`."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import click

from flowcei.cli import options
from flowcei.cli.inputs import is_there_already, unflagged_samples, warn_of_open_directions
from flowcei.cli.progress import Progress
from flowcei.cli.sharing import Sharing, sharing_options
from flowcei.cli.streams import note, show, show_json, warn


@click.command()
@click.argument("samples", type=options.INPUT)
@options.output_option("File, .csv or .h5; NAME.refined.csv if absent.")
@options.flag("--resume", "Go on with an unfinished file of the same samples.")
@options.json_option()
@options.keep_flagged_option
@sharing_options
@options.overwrite_option
def refine(
    *,
    samples: Path,
    output: Path | None,
    resume: bool,
    as_json: bool,
    keep_flagged: bool,
    sharing: Sharing,
    overwrite: bool,
) -> None:
    """Start a search for an exact geometry from each of SAMPLES; write where it ended.

    One row a sample: status (converged, did not converge, left the prior), |dp| / |p| of its simulated
    momenta, the same in units of the noise (chi squared), positions in bohr.
    Events that are flagged are left out, and counted, unless --keep-flagged.
    What was stopped, in whatever way, goes on with --resume.

    Example: flowcei refine events.samples.h5 -o refined.h5
    """
    path = output or Path(f"{samples.stem.removesuffix('.samples')}.refined.csv")
    endings = (".csv", ".h5", ".hdf5")
    options.output_path(path, overwrite=overwrite or resume, endings=endings, source=samples)
    if resume and is_there_already(path):
        return
    each = sharing.each("flowcei.posterior.refinedfiles", "flowcei.posterior.samples")
    from flowcei.posterior.refinedfiles import refine_to_file

    chosen = unflagged_samples(samples, keep_flagged=keep_flagged)
    warn_of_open_directions(chosen)
    with samples.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    request = {"events": len(chosen), "block": chosen.events_at_once, "seed": 0, "samples": digest}
    request |= {"keep_flagged": keep_flagged}
    began = time.perf_counter()
    with Progress(len(chosen), "events") as progress:
        how: Any = {"overwrite": overwrite, "resume": resume, "each": each, "on_block": progress.update}
        ends = refine_to_file(lambda start: chosen.blocks(start=start), path, request, **how)
    counts, starts = ends.counts, sum(ends.counts.values())
    if as_json:
        show_json(counts)
    for word, count in counts.items() if not as_json else ():
        show(f"{word:16s} {count:9d}  {count / starts:6.1%}")
    rate = starts / (time.perf_counter() - began)
    words = f"{ends.explained} of {len(chosen)} events have a geometry that explains them exactly"
    note(f"{words}, {rate:.0f} starts/s")
    if ends.hopeless:
        warn(f"no search of event {ends.hopeless[0]} could even begin ({len(ends.hopeless)} such events)")
    note(f"written to {path}; next: flowcei modes {samples}")
