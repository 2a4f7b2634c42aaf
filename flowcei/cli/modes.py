"""`flowcei modes`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flowcei.cli.options import InputFile, keep_flagged_option, note, overwrite_option, text_table
from flowcei.cli.streams import show

if TYPE_CHECKING:
    from flowcei.posterior.samples import PosteriorSamples

_SHOWN = 12  # modes that are printed


@click.command(short_help="Find every geometry that explains an event, with its probability.")
@click.argument("samples", type=InputFile())
@click.option("--prior", help="Of the molecule; that of the model if absent.")
@click.option("--event", type=int, help="Number of the event to draw; the most ambiguous if absent.")
@click.option(
    "--xyz", type=click.Path(path_type=Path), help="Also write the geometries, extended XYZ, angstrom."
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="CSV; NAME.modes.csv if absent.")
@keep_flagged_option
@overwrite_option
def modes(
    *,
    samples: Path,
    prior: str | None,
    event: int | None,
    xyz: Path | None,
    output: Path | None,
    keep_flagged: bool,
    overwrite: bool,
) -> None:
    """Refine SAMPLES and gather them into the distinct geometries of each event.

    One row a mode, with its probability (of the importance weights, where prior and model
    have a density), how it was found, bonds and angles with local deviations, and positions.
    Draws the modes of one event, and where in momentum space events are ambiguous. Events that
    are flagged are left out, and counted, unless --keep-flagged.

    Example: flowcei modes events.samples.h5 -o modes.csv
    """
    from flowcei.storage.creation import atomic_text, check_output

    place = output or Path(f"{samples.stem.removesuffix('.samples')}.modes.csv")
    pictures = {name: place.with_name(f"{place.stem}-{name}.png") for name in ("event", "map")}
    for path in (place, *pictures.values(), *([xyz] if xyz else [])):
        check_output(path, overwrite=overwrite)
    from flowcei.cli.runs import row_of_event, unflagged
    from flowcei.physics.priors import build_prior
    from flowcei.posterior.files import read_samples
    from flowcei.posterior.modes import UNANSWERED, VERDICTS
    from flowcei.posterior.structures import write_modes_xyz
    from flowcei.report.modes import ambiguity_figure, modes_figure
    from flowcei.report.style import save
    from flowcei.storage.cells import write_table

    whole = read_samples(samples)
    drawn = unflagged(whole, samples, keep_flagged=keep_flagged)
    shown = None if event is None else row_of_event(whole, drawn, event, samples)
    stated = None if prior is None else build_prior(drawn.molecule, prior)
    if stated is not None:  # by which identical ions are labelled too
        drawn = replace(drawn, origin=drawn.origin | {"prior": stated.spec()})
    weighed = _weighed(drawn, stated)
    found = weighed.modes(stated, keep_flagged=True)
    table = found.to_dataframe()
    with atomic_text(place, overwrite=overwrite) as file:
        write_table(table, file, index=False, float_format="%.12g")
    if xyz:
        with atomic_text(xyz, overwrite=overwrite) as file:
            write_modes_xyz(found, file)
    shown = found.most_ambiguous if shown is None else shown
    save(modes_figure(found, weighed, shown), pictures["event"], overwrite=overwrite)
    save(ambiguity_figure(found, weighed), pictures["map"], overwrite=overwrite)
    brief = table[table["event"] == drawn.event_id[shown]].iloc[:_SHOWN, : -3 * len(drawn.molecule)]
    long = [name for name in brief if name.startswith("corr_")]
    show(text_table(brief.drop(columns=["starts", "error", "chi_squared", *long])))
    for k, word in enumerate(VERDICTS[:UNANSWERED]):
        note(f"{word:12s} {int((found.verdict == k).sum()):7d} of {len(drawn)} events")
    written = ", ".join(str(path) for path in (place, *pictures.values(), *([xyz] if xyz else [])))
    note(f"{len(found)} modes; written: {written}")


def _weighed(samples: PosteriorSamples, prior: object) -> PosteriorSamples:
    """Return samples with weights where they can have any, and say so where they cannot."""
    from flowcei.errors import NoDensityError
    from flowcei.physics.priors import GeometryPrior

    if samples.weights is not None and prior is None:
        return samples
    try:
        return samples.weigh(prior if isinstance(prior, GeometryPrior) else None)
    except NoDensityError as error:
        note(f"probabilities are shares of the model's samples, not exact: {error}")
        return samples
