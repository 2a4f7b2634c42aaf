"""`flowcei spread`."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from functools import partial
from io import StringIO
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import click

from flowcei.cli import options
from flowcei.cli.inputs import unflagged_samples
from flowcei.cli.options import option
from flowcei.cli.progress import Progress
from flowcei.cli.streams import note, show_table, warn, with_lengths_in, write_results
from flowcei.storage.creation import atomic_text
from flowcei.units import length_in_bohr

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pandas as pd

    from flowcei import PosteriorSamples
    from flowcei.cli.inputs import UnflaggedSamples
    from flowcei.frame.recoil import RecoilFrame
    from flowcei.posterior.pooled import PooledSpread
    from flowcei.posterior.spread import Spread

_SMALLER = 2  # times than the blocks of other commands: each thread has one
_THREADS = 8  # at the most: reading and adding up is for one
_DRAWN = 1_000  # events in pictures of all
_ASKED = 50  # events of which the efficiency of samples without weights is asked
_LOW = 0.1  # median efficiency below which samples without weights are no posterior to be pooled
_BY_SPEED = (
    "by speed: like atoms in the order of their ions' speed, which makes their rows differ though the bonds "
    "may be alike; rows that are pooled take them together"
)
_LESS_TELLING = ("p16", "p50", "p84")  # columns of the file that are not printed


@click.command()
@click.argument("samples", type=options.INPUT)
@option("--event", "Number of the event to draw; the first if absent.", int)
@options.output_option("Folder; NAME-spread if absent.")
@option("--xyz", "Also write the posterior means, extended XYZ, angstrom.", options.OUTPUT)
@options.json_option("The overall table as JSON, in bohr.")
@options.length_option
@options.keep_flagged_option
@options.overwrite_option
def spread(
    *,
    samples: Path,
    event: int | None,
    output: Path | None,
    xyz: Path | None,
    as_json: bool,
    length_unit: str,
    keep_flagged: bool,
    overwrite: bool,
) -> None:
    """Analyse the posterior spread of SAMPLES: per atom, bond and angle.

    Writes spread.csv and covariance.csv (every event), overall.csv and pictures; prints the
    overall table, of the samples of all events pooled under the prior, and what varies together
    within an event. The law that the geometries follow, without the noise and the pull of the
    prior, is that of flowcei population. Positions are in the recoil frame: x along the ion with
    the longest momenta, y in the plane of the momenta.

    Identical ions are labelled by the geometry of each sample: bonds join the atoms that the
    prior, or without its density the bond list, prefers, whatever the labels in the file. What
    the bonds do not tell apart comes by the speed of the ion, the fastest first ("by speed");
    rows such as "c-h (3)" pool it.

    Events that are flagged are left out, and counted, unless --keep-flagged.

    The means of --xyz are in the frame of the momenta, each with its event and spread.

    Example: flowcei spread events.samples.h5
    """
    folder = output or Path(f"{samples.stem.removesuffix('.samples')}-spread")
    options.check_folder(folder, overwrite=overwrite)
    if xyz:
        options.output_path(xyz, overwrite=overwrite)
    from flowcei.experiment.accidents import P_TRUE
    from flowcei.plot.figure import samples_figure

    chosen = unflagged_samples(samples, event, keep_flagged=keep_flagged)
    options.made_folder(folder, overwrite=overwrite)
    pooled = _written(chosen, folder, xyz, overwrite=overwrite)
    result, one, drawn = pooled.first, chosen.one(chosen.row or 0), chosen.evenly(_DRAWN)
    shown = f"event-{one.event_id[0]}"
    overall = _sound(drawn, pooled.overall())
    results = {
        "overall.csv": overall,
        "clouds.png": samples_figure(drawn, "structure", length_unit),
        "internal.png": samples_figure(drawn, "corner", length_unit),
        f"{shown}-clouds.png": samples_figure(one, "structure", length_unit),
        f"{shown}-internal.png": samples_figure(one, "corner", length_unit),
    }
    write_results(results, folder, overwrite=overwrite)
    less = [*_LESS_TELLING, *(["like"] if (overall["like"] == "").all() else [])]
    brief = overall if as_json else with_lengths_in(length_unit, overall.drop(columns=less))
    show_table(brief, as_json=as_json)
    _note_widths(pooled, length_unit)
    note(f"\nrecoil frame, x along {result.along}; typical_sd: within one event; mean, sd, percentiles: of")
    note(f"events pooled under the prior, which is no law of them: flowcei population {samples} finds it")
    if P_TRUE in result.columns:
        note(f"sd, mean and percentiles count each event by its {P_TRUE}")
    if "by speed" in (quantity.like for quantity in result.names):
        note(_BY_SPEED)
    if one.positions.shape[1] == 1:
        note("one sample an event has no spread: sample with a larger -n")
    means = f", means in {xyz}" if xyz else ""
    if len(drawn) < len(chosen):
        note(f"pictures of all events are of {len(drawn)}, evenly over the file")
    note(f"{len(chosen)} events; tables and pictures in {folder}{means}")


def _written(samples: UnflaggedSamples, folder: Path, xyz: Path | None, *, overwrite: bool) -> PooledSpread:
    """Write the tables of single events, and their means; return what all come to."""
    from flowcei.physics.threads import mapped, usable_cores
    from flowcei.posterior.pooled import PooledSpread

    pooled = PooledSpread(len(samples))
    with (
        atomic_text(folder / "spread.csv", overwrite=overwrite) as rows,
        atomic_text(folder / "covariance.csv", overwrite=overwrite) as pairs,
        atomic_text(xyz, overwrite=overwrite) if xyz else nullcontext() as places,
        Progress(len(samples), "events") as progress,
    ):
        work, blocks = partial(_of_block, means=xyz is not None), _numbered(samples.blocks(smaller=_SMALLER))
        for block, result, *texts in mapped(work, blocks, min(_THREADS, usable_cores())):
            for text, file in zip(texts, (rows, pairs, places), strict=True):
                if file:
                    file.write(text)
            pooled.add(result, block)
            progress.update(len(block))
    return pooled


def _numbered(
    blocks: Iterable[PosteriorSamples],
) -> Iterator[tuple[int, PosteriorSamples, RecoilFrame]]:
    """Blocks with the number of events before each, and the frame of the first."""
    from flowcei.posterior.spread import recoil_frame

    before, frame = 0, None
    for block in blocks:
        frame = frame or recoil_frame(block.molecule, block.momenta)
        yield before, block, frame
        before += len(block)


def _of_block(
    task: tuple[int, PosteriorSamples, RecoilFrame], *, means: bool
) -> tuple[PosteriorSamples, Spread, str, str, str]:
    """Samples after so many events, their spread, and both tables of it and means as text."""
    import numpy as np

    from flowcei.posterior.structures import write_means_xyz
    from flowcei.storage.cells import rows_as_text

    before, block, frame = task
    stream = np.random.PCG64(0)
    stream.advance(before)  # a number for each event, whatever the blocks
    result = block.spread(keep_flagged=True, seed=np.random.Generator(stream), frame=frame)
    tables = result.columns_by_row(), result.covariance_columns()
    rows, pairs = (rows_as_text(table, 6, header=before == 0) for table in tables)
    places = StringIO()
    if means:
        write_means_xyz(block, places)
    return block, result, rows, pairs, places.getvalue()


def _sound(samples: PosteriorSamples, overall: pd.DataFrame) -> pd.DataFrame:
    """The overall table; without rows, which is said, of samples without weights that are no posterior."""
    from flowcei.errors import NoDensityError

    efficiency = 1.0
    if samples.weights is None and not samples.exact and samples.log_prob is not None:
        with suppress(NoDensityError):
            weights = samples[:_ASKED].weigh().weights
            efficiency = 1.0 if weights is None else float(median(weights.efficiency))
    if efficiency >= _LOW:
        return overall
    reason = f"the samples have no weights, the model is far from the posterior (efficiency {efficiency:.1%})"
    warn(f"{reason}: their overall table is not shown; flowcei sample --weigh or --exact")
    return overall[:0]


def _note_widths(pooled: PooledSpread, unit: str) -> None:
    """Say how the spread compares with what the noise allows, and what varies together."""
    import numpy as np

    width, floor = pooled.widths()
    bounded = np.isfinite(floor) & (floor > 0)
    if bounded.any() and pooled.first.values.shape[1] > 1:
        typical = np.median(width) / length_in_bohr(unit)
        ratio = np.median(width[bounded] / floor[bounded])
        note(
            f"\nwithin an event atoms spread by {typical:.3g} {unit} (rms, median), "
            f"{ratio:.3g} times what the data allow without a prior (median of the ratios)"
        )
    if lines := pooled.covariance_in_words(unit):
        note("\nwithin one event (median):")
    for line in lines:
        note(f"  {line}")
