"""`flowcei refine`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from flowcei.cli.options import InputFile, keep_flagged_option, note, overwrite_option, warn
from flowcei.cli.streams import show


@click.command(short_help="Refine posterior samples to the exact physics.")
@click.argument("samples", type=InputFile())
@click.option("-o", "--output", type=click.Path(path_type=Path), help="CSV; NAME.refined.csv if absent.")
@keep_flagged_option
@overwrite_option
def refine(*, samples: Path, output: Path | None, keep_flagged: bool, overwrite: bool) -> None:
    """Start a search for an exact geometry from each of SAMPLES; write where it ended.

    One row a sample: status (converged, did not converge, left the prior), |dp| / |p| of its simulated
    momenta, the same in units of the noise (chi squared), positions in bohr.
    Events that are flagged are left out, and counted, unless --keep-flagged.

    Example: flowcei refine events.samples.h5
    """
    from flowcei.storage.creation import atomic_text, check_output

    place = output or Path(f"{samples.stem.removesuffix('.samples')}.refined.csv")
    check_output(place, overwrite=overwrite)
    import numpy as np

    from flowcei.cli.runs import unflagged
    from flowcei.posterior.files import read_samples
    from flowcei.posterior.refinement import STATUS
    from flowcei.storage.cells import write_table

    drawn = unflagged(read_samples(samples), samples, keep_flagged=keep_flagged)
    began = time.perf_counter()
    found = drawn.refine(keep_flagged=True)
    rate = found.status.size / (time.perf_counter() - began)
    with atomic_text(place, overwrite=overwrite) as file:
        write_table(found.to_dataframe(), file, index=False, float_format="%.12g")
    for k, word in enumerate(STATUS):
        show(f"{word:16s} {int((found.status == k).sum()):9d}  {(found.status == k).mean():6.1%}")
    explained = int((found.status == 0).any(axis=1).sum())
    note(
        f"{explained} of {len(drawn)} events have a geometry that explains them exactly, {rate:.0f} starts/s"
    )
    hopeless = drawn.event_id[~np.isfinite(found.error).any(axis=1)]
    if len(hopeless):
        warn(f"no search of event {hopeless[0]} could even begin ({len(hopeless)} such events)")
    note(f"written to {place}; next: flowcei modes {samples}")
