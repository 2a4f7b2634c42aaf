"""`flowcei spread`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flowcei.cli.options import (
    InputFile,
    fresh_folder,
    keep_flagged_option,
    note,
    overwrite_option,
    refuse_full_folder,
    text_table,
)
from flowcei.cli.streams import show

if TYPE_CHECKING:
    from flowcei.posterior.samples import PosteriorSamples
    from flowcei.posterior.spread import Spread


@click.command(short_help="Tabulate and draw how far posterior samples lie apart.")
@click.argument("samples", type=InputFile())
@click.option("--event", type=int, help="Number of the event to draw; the first if absent.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder; NAME-spread if absent.")
@click.option(
    "--xyz", type=click.Path(path_type=Path), help="Also write the posterior means, extended XYZ, angstrom."
)
@keep_flagged_option
@overwrite_option
def spread(
    *,
    samples: Path,
    event: int | None,
    output: Path | None,
    xyz: Path | None,
    keep_flagged: bool,
    overwrite: bool,
) -> None:
    """Analyse the posterior spread of SAMPLES: per atom, bond and angle.

    Writes spread.csv and covariance.csv (every event), overall.csv and pictures; prints the
    overall table, and what varies together within an event.
    Positions are in the recoil frame: x along the ion with the longest momenta, y in the
    plane of the momenta.

    Identical ions are labelled by the geometry of each sample: bonds join the atoms that the
    prior, or without its density the bond list, prefers, whatever the labels in the file. What
    the bonds do not tell apart comes by the speed of the ion, the fastest first ("by speed");
    rows such as "c-h (3)" pool it.

    Events that are flagged are left out, and counted, unless --keep-flagged.

    The means of --xyz are in the frame of the momenta, each with its event and spread.

    Example: flowcei spread events.samples.h5
    """
    from flowcei.storage.creation import atomic_text, check_output

    place = output or Path(f"{samples.stem.removesuffix('.samples')}-spread")
    refuse_full_folder(place, overwrite=overwrite)
    if xyz:
        check_output(xyz, overwrite=overwrite)
    from flowcei.cli.runs import row_of_event, unflagged
    from flowcei.posterior.files import read_samples
    from flowcei.posterior.structures import write_means_xyz

    whole = read_samples(samples)
    drawn = unflagged(whole, samples, keep_flagged=keep_flagged)
    index = 0 if event is None else row_of_event(whole, drawn, event, samples)
    folder = fresh_folder(place, overwrite=overwrite)
    result = drawn.spread(keep_flagged=True)
    _write(result, index, folder, overwrite=overwrite)
    if xyz:
        with atomic_text(xyz, overwrite=overwrite) as file:
            write_means_xyz(drawn, file)
    show(text_table(result.overall()))
    _say_floor(drawn, result)
    _say_covariation(result)
    note(f"\nrecoil frame, x along {result.along}; sd: of all events together; typical_sd: within one event")
    if "by speed" in (q.like for q in result.names):
        note(
            "by speed: like atoms in the order of their ions' speed, which makes their rows differ though "
            "the bonds may be alike; rows that are pooled take them together"
        )
    if drawn.positions.shape[1] == 1:
        note("one sample an event has no spread: sample with a larger -n")
    means = f", means in {xyz}" if xyz else ""
    note(f"{len(drawn)} events; tables and pictures in {folder}{means}")


def _write(result: Spread, index: int, folder: Path, *, overwrite: bool) -> None:
    """Write tables, and pictures of all events and of one."""
    from flowcei.report.figures import internal_figure, spread_figure
    from flowcei.report.style import save
    from flowcei.storage.cells import write_table
    from flowcei.storage.creation import atomic_text

    tables = {
        "spread.csv": result.to_dataframe(),
        "overall.csv": result.overall(),
        "covariance.csv": result.covariance_table(),
    }
    for name, table in tables.items():
        with atomic_text(folder / name, overwrite=overwrite) as file:
            write_table(table, file, index=False, float_format="%.6g")
    number = result.event_id[index]
    pictures = {
        "clouds.png": spread_figure(result),
        "internal.png": internal_figure(result),
        f"event-{number}-clouds.png": spread_figure(result, index),
        f"event-{number}-internal.png": internal_figure(result, index),
    }
    for name, figure in pictures.items():
        save(figure, folder / name, overwrite=overwrite)


def _say_covariation(result: Spread) -> None:
    """Say which bonds and angles are fixed together better, or worse, than alone."""
    lines = result.covariance_in_words()
    if lines:
        note("\nwithin one event (median):")
    for line in lines:
        note(f"  {line}")


def _say_floor(samples: PosteriorSamples, result: Spread) -> None:
    """Say how the spread compares with what the noise allows: the model may be vague, or the data."""
    import numpy as np

    width = np.sqrt((result.per_atom() ** 2).mean(axis=1))
    floor = np.sqrt((samples.floor() ** 2).mean(axis=1))
    known = np.isfinite(floor) & (floor > 0)
    if known.any() and samples.positions.shape[1] > 1:
        ratio = np.median(width[known] / floor[known])
        note(
            f"\nwithin an event atoms spread by {np.median(width):.3g} bohr (rms, median), "
            f"{ratio:.3g} times what the data allow without a prior (median of the ratios)"
        )
