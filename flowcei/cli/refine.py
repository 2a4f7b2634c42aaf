"""`flowcei refine`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from flowcei.cli.inputs import read_unflagged, warn_of_open_directions
from flowcei.cli.options import (
    INPUT,
    json_option,
    keep_flagged_option,
    output_option,
    output_path,
    overwrite_option,
)
from flowcei.cli.streams import note, show, show_json, warn, write_results


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

    drawn, _ = read_unflagged(samples, keep_flagged=keep_flagged)
    warn_of_open_directions(drawn)
    began = time.perf_counter()
    refined = drawn.refine(keep_flagged=True)
    rate = refined.status.size / (time.perf_counter() - began)
    write_results({path.name: refined.to_dataframe()}, path.parent, overwrite=overwrite, digits=12)
    counts = {word: int((refined.status == k).sum()) for k, word in enumerate(STATUS)}
    if as_json:
        show_json(counts)
    for word, count in counts.items() if not as_json else ():
        show(f"{word:16s} {count:9d}  {count / refined.status.size:6.1%}")
    n = int((refined.status == 0).any(axis=1).sum())
    note(f"{n} of {len(drawn)} events have a geometry that explains them exactly, {rate:.0f} starts/s")
    hopeless = drawn.event_id[~np.isfinite(refined.error).any(axis=1)]
    if len(hopeless):
        warn(f"no search of event {hopeless[0]} could even begin ({len(hopeless)} such events)")
    note(f"written to {path}; next: flowcei modes {samples}")
