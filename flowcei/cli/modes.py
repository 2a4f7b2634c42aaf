"""`flowcei modes`."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flowcei.cli import options
from flowcei.cli.inputs import unflagged_samples, warn_of_open_directions
from flowcei.cli.options import option
from flowcei.cli.progress import Progress
from flowcei.cli.sharing import Sharing, sharing_options
from flowcei.cli.streams import note, show, show_table, write_results
from flowcei.errors import NoDensityError
from flowcei.storage.creation import atomic_text
from flowcei.units import compact, length_in_bohr

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

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
@sharing_options
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
    sharing: Sharing,
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
    written = [options.output_path(one, overwrite=overwrite) for one in (path, *pictures, xyz) if one]
    each = sharing.each("flowcei.cli.modes", "flowcei.posterior.samples", "flowcei.posterior.gathering")
    import numpy as np

    from flowcei.physics.priors import build_prior
    from flowcei.posterior.structures import required
    from flowcei.workers.ahead import compile_ahead

    chosen = unflagged_samples(samples, event, keep_flagged=keep_flagged)
    first = chosen.one(0)
    if not sharing.shared:
        compile_ahead("modes", len(first.molecule))
    from flowcei.report.figures import (
        ambiguity_figure,
        modes_figure,
    )  # half a second, beside the other process

    warn_of_open_directions(chosen)
    stated = None if prior is None else build_prior(first.molecule, prior)
    weigh, sought = _can_weigh(first, stated), _Sought(chosen.row)
    work = partial(_modes_of, prior=stated, missed=missed, weigh=weigh)
    with Progress(len(chosen), "events") as progress:
        _gather(each(work, chosen.blocks()), sought, path, xyz, progress, overwrite=overwrite)
    result, row = sought.shown, sought.row
    drawn, verdict = required(result.samples), np.concatenate(sought.verdict)
    figures = (
        modes_figure(result, drawn, row, length_unit),
        ambiguity_figure(drawn.molecule, np.concatenate(sought.momenta), verdict),
    )
    names = (picture.name for picture in pictures)
    write_results(dict(zip(names, figures, strict=True)), path.parent, overwrite=overwrite)
    _tell(sought, verdict, length_unit, asked=event is not None, as_json=as_json)
    note(f"{sought.count} modes; written: {', '.join(map(str, written))}")


def _tell(
    sought: _Sought, verdict: NDArray[np.uint8], length_unit: str, *, asked: bool, as_json: bool
) -> None:
    """Print the modes of the event that is shown, and how many events have which verdict."""
    from flowcei.posterior.modes import VERDICTS
    from flowcei.posterior.structures import required

    result, row = sought.shown, sought.row
    drawn = required(result.samples)
    brief = result[result.of(row)].to_dataframe().iloc[:_SHOWN, : -3 * len(drawn.molecule)]
    which = "" if asked else " (the most ambiguous; --event chooses another)"
    words = f"event {drawn.event_id[row]}: {VERDICTS[result.verdict[row]]}{which}"
    _show(brief, "" if as_json else words, drawn.molecule, length_unit)
    _note(sought, verdict)


def _gather(
    blocks: Iterable[tuple[Modes, str]],
    sought: _Sought,
    path: Path,
    xyz: Path | None,
    progress: Progress,
    *,
    overwrite: bool,
) -> None:
    """Write the tables of the modes of each block, and their geometries; gather what is told of them."""
    from flowcei.posterior.structures import write_modes_xyz

    with (
        atomic_text(path, overwrite=overwrite) as target,
        atomic_text(xyz, overwrite=overwrite) if xyz else nullcontext() as geometries,
    ):
        for found, table in blocks:
            target.write(table.partition("\n")[2] if sought.verdict else table)
            if geometries:
                write_modes_xyz(found, geometries)
            sought.add(found)
            progress.update(len(found.verdict))


def _modes_of(
    samples: PosteriorSamples, *, prior: GeometryPrior | None, missed: float, weigh: bool
) -> tuple[Modes, str]:
    """The modes of some events, under a prior that is stated or that of the model, and their table as CSV."""
    from flowcei.posterior.searches import SearchRules
    from flowcei.storage.cells import rows_as_text

    if prior is not None:  # by which identical ions are labelled too
        samples = replace(samples, origin=samples.origin | {"prior": prior.spec()})
    samples = samples.weigh(prior) if weigh else samples
    found = samples.modes(prior, search=SearchRules(missed=missed), keep_flagged=True)
    return found, rows_as_text(found.to_dataframe(), 12)


def _can_weigh(one: PosteriorSamples, prior: GeometryPrior | None) -> bool:
    """Whether samples are to be weighed, as those of one event; says so where they cannot be."""
    if one.weights is not None and prior is None:
        return False
    try:
        one.weigh(prior)
    except NoDensityError as error:
        note(f"probabilities are shares of the model's samples, not exact: {error}")
        return False
    return True


@dataclass
class _Sought:
    """What is kept of the modes of all events: one event to be shown, small numbers of the others."""

    asked: int | None  # row of the event that was asked for
    shown: Modes = field(init=False)  # of the block of the event that is shown
    row: int = 0  # of that event in its block
    score: float = -2.0
    count: int = 0
    searches: int = 0
    audits: int = 0
    surprises: int = 0
    events: int = 0
    verdict: list[NDArray[np.uint8]] = field(default_factory=list)
    momenta: list[NDArray[np.float32]] = field(default_factory=list)

    def add(self, found: Modes) -> None:
        """Take in the modes of the next events."""
        samples = found.samples
        if samples is None:
            return
        row, score = found.ambiguity
        if self.asked is not None:
            row = self.asked - self.events
            score = 0.0 if 0 <= row < len(found.verdict) else -2.0
        if score > self.score or not self.events:
            self.shown, self.row, self.score = found, row, score
        self.count += len(found)
        self.events += len(found.verdict)
        self.searches += int(found.searches.made.sum())
        self.audits += int(found.searches.audits.sum())
        self.surprises += int(found.searches.surprises.sum())
        self.verdict.append(found.verdict)
        self.momenta.append(samples.momenta.astype("f4"))


def _note(sought: _Sought, verdict: NDArray[np.uint8]) -> None:
    """Say how many events have which verdict, and what the searches of all and of one may have missed."""
    import numpy as np

    from flowcei.posterior.modes import UNANSWERED, VERDICTS
    from flowcei.posterior.searches import missed_share
    from flowcei.posterior.structures import required

    for k, word in enumerate(VERDICTS[:UNANSWERED]):
        note(f"{word:12s} {int((verdict == k).sum()):7d} of {len(verdict)} events")
    number, missed = required(sought.shown.samples).event_id[sought.row], sought.shown.missed[sought.row]
    average = float(missed_share(np.array(sought.audits), sought.surprises))
    note(
        f"{sought.searches} searches, until nothing new came; they miss less than "
        f"{average:.2g} of the samples' weight on average, {missed:.2g} of event {number} "
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
