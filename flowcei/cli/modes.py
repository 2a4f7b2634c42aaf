"""`flowcei modes`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flowcei.cli import options
from flowcei.cli.inputs import read_unflagged, warn_of_open_directions
from flowcei.cli.options import option
from flowcei.cli.streams import note, show, show_table, write_results
from flowcei.errors import NoDensityError
from flowcei.storage.creation import atomic_text
from flowcei.units import compact, length_in_bohr

if TYPE_CHECKING:
    import pandas as pd

    from flowcei import Molecule, PosteriorSamples
    from flowcei.physics.priors import GeometryPrior
    from flowcei.posterior.modes import Modes

_ACROSS = 7  # columns that fit 80 characters; more are lines, and each mode a column
_SHOWN = 12  # modes that are printed
_LESS_TELLING = ("starts", "error", "chi_squared")  # columns of the file that are not printed


@click.command()
@click.argument("samples", type=options.INPUT)
@option("--prior", "Of the molecule, or a TOML file; that of the model if absent.")
@option("--event", "Number of the event to draw; the most ambiguous if absent.", int)
@option("--xyz", "Also write the geometries, extended XYZ, angstrom.", options.OUTPUT)
@option(
    "--missed",
    "Search on until each event misses less than this share of its samples' weight (95 % certain).",
    click.FloatRange(0.0, 1.0, min_open=True),
    default=0.35,
)
@options.output_option("CSV; NAME.modes.csv if absent.")
@options.json_option("The table of that event as JSON, in bohr.")
@options.length_option
@options.keep_flagged_option
@options.overwrite_option
def modes(
    *,
    samples: Path,
    prior: str | None,
    event: int | None,
    xyz: Path | None,
    missed: float,
    output: Path | None,
    as_json: bool,
    length_unit: str,
    keep_flagged: bool,
    overwrite: bool,
) -> None:
    """Refine SAMPLES and gather them into the distinct geometries of each event.

    Searches start from distinct samples, and from random ones, until nothing new comes.
    One row a mode, with its probability (of the importance weights, where prior and model
    have a density), how it was found, bonds and angles with local deviations, and positions.
    Draws the modes of one event, and where in momentum space events are ambiguous. Events that
    are flagged are left out, and counted, unless --keep-flagged.

    Example: flowcei modes events.samples.h5 -o modes.csv
    """
    path = output or Path(f"{samples.stem.removesuffix('.samples')}.modes.csv")
    pictures = [path.with_name(f"{path.stem}-{name}.png") for name in ("event", "map")]
    written = [path, *pictures, *([xyz] if xyz else [])]
    for file in written:
        options.output_path(file, overwrite=overwrite)
    from flowcei.physics.priors import build_prior
    from flowcei.posterior.modes import VERDICTS
    from flowcei.posterior.searches import SearchRules
    from flowcei.posterior.structures import write_modes_xyz
    from flowcei.report.figures import ambiguity_figure, modes_figure

    drawn, row = read_unflagged(samples, event, keep_flagged=keep_flagged)
    warn_of_open_directions(drawn)
    stated = None if prior is None else build_prior(drawn.molecule, prior)
    if stated is not None:  # by which identical ions are labelled too
        drawn = replace(drawn, origin=drawn.origin | {"prior": stated.spec()})
    weighed = drawn if drawn.weights is not None and stated is None else _weighed(drawn, stated)
    result = weighed.modes(stated, search=SearchRules(missed=missed), keep_flagged=True)
    row = result.most_ambiguous if row is None else row
    table = result.to_dataframe()
    results = {
        path.name: table,
        pictures[0].name: modes_figure(result, weighed, row, length_unit),
        pictures[1].name: ambiguity_figure(result, weighed),
    }
    write_results(results, path.parent, overwrite=overwrite, digits=12)
    if xyz:
        with atomic_text(xyz, overwrite=overwrite) as text:
            write_modes_xyz(result, text)
    brief = table[table["event"] == drawn.event_id[row]].iloc[:_SHOWN, : -3 * len(drawn.molecule)]
    which = "" if event is not None else " (the most ambiguous; --event chooses another)"
    words = f"event {drawn.event_id[row]}: {VERDICTS[result.verdict[row]]}{which}"
    _show(brief, "" if as_json else words, drawn.molecule, length_unit)
    _note(result, int(drawn.event_id[row]), float(result.missed[row]))
    note(f"{len(result)} modes; written: {', '.join(map(str, written))}")


def _note(modes: Modes, number: int, missed: float) -> None:
    """Say how many events have which verdict, and what the searches of all and of one may have missed."""
    from flowcei.posterior.modes import UNANSWERED, VERDICTS

    for k, word in enumerate(VERDICTS[:UNANSWERED]):
        note(f"{word:12s} {int((modes.verdict == k).sum()):7d} of {len(modes.verdict)} events")
    note(
        f"{modes.searches.made.sum()} searches, until nothing new came; they miss less than "
        f"{modes.missed_on_average:.2g} of the samples' weight on average, {missed:.2g} of event {number} "
        "(95 % certain; --missed)"
    )


def _show(brief: pd.DataFrame, words: str, molecule: Molecule, unit: str) -> None:
    """Print the modes of one event under some words, or without any as JSON."""
    if not words:
        correlations = [name for name in brief if str(name).startswith("corr_")]
        show_table(brief.drop(columns=[*_LESS_TELLING, *correlations]), as_json=True)
        return
    show(words)
    shown = _with_errors(brief, molecule, unit)
    if len(shown.columns) > _ACROSS:
        shown = shown.set_index("mode").T.rename_axis("mode")
    show_table(shown, as_json=False)
    note("1.23(4): what gives the momenta exactly, and what their noise alone leaves open there;")
    note("the estimate of the event, which knows the prior, is that of its samples: flowcei spread")


def _with_errors(table: pd.DataFrame, molecule: Molecule, unit: str) -> pd.DataFrame:
    """The modes of one event for a terminal: bonds and angles with what the noise leaves open."""
    import numpy as np

    from flowcei.posterior.spread import quantities

    shown = table[["mode", "probability", "source", "status"]]
    for quantity in quantities(molecule, np.zeros((1, len(molecule), 3)))[0]:
        if quantity.kind != "atom":
            length = quantity.unit == "bohr"
            pair = table[[quantity.name, f"sd_{quantity.name}"]].to_numpy() / (
                length_in_bohr(unit) if length else 1
            )
            shown = shown.assign(
                **{f"{quantity.name} ({unit if length else 'deg'})": [compact(*p) for p in pair]}
            )
    return shown


def _weighed(samples: PosteriorSamples, prior: GeometryPrior | None) -> PosteriorSamples:
    """Samples with weights where they can have any; says so where they cannot."""
    try:
        return samples.weigh(prior)
    except NoDensityError as error:
        note(f"probabilities are shares of the model's samples, not exact: {error}")
        return samples
