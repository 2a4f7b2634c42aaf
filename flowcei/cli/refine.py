"""`flowcei refine`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from flowcei.cli.options import INPUT, keep_flagged_option, output_option, output_path, overwrite_option
from flowcei.cli.runs import read_unflagged
from flowcei.cli.streams import note, show, warn, write_results


@click.command()
@click.argument("samples", type=INPUT)
@output_option("CSV; NAME.refined.csv if absent.")
@keep_flagged_option
@overwrite_option
def refine(*, samples: Path, output: Path | None, keep_flagged: bool, overwrite: bool) -> None:
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
    began = time.perf_counter()
    refined = drawn.refine(keep_flagged=True)
    rate = refined.status.size / (time.perf_counter() - began)
    write_results({path.name: refined.to_dataframe()}, path.parent, overwrite=overwrite, digits=12)
    for k, word in enumerate(STATUS):
        show(f"{word:16s} {int((refined.status == k).sum()):9d}  {(refined.status == k).mean():6.1%}")
    n = int((refined.status == 0).any(axis=1).sum())
    note(f"{n} of {len(drawn)} events have a geometry that explains them exactly, {rate:.0f} starts/s")
    hopeless = drawn.event_id[~np.isfinite(refined.error).any(axis=1)]
    if len(hopeless):
        warn(f"no search of event {hopeless[0]} could even begin ({len(hopeless)} such events)")
    note(f"written to {path}; next: flowcei modes {samples}")
