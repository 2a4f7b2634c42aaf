"""`flowcei plot`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

import flowcei
from flowcei.cli import options
from flowcei.cli.runs import is_samples, read_noted, read_unflagged
from flowcei.cli.streams import note
from flowcei.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure

    from flowcei.events.foreign.interpretation import Reading

# Those of `flowcei.plot`, which takes a second to import.
_EVENTS = ("newton", "ker", "shares", "angles", "dalitz", "ker-angle", "sum", "correlation", "covariance")
_SAMPLES = ("structure", "corner", "predictive")
_PICTURES = (".png", ".pdf", ".svg")


def _kinds(text: str) -> tuple[str, ...]:
    kinds = tuple(kind.strip() for kind in text.split(","))
    for kind in kinds:
        if kind not in (*_EVENTS, *_SAMPLES):
            raise UsageError(f"no plot {kind!r}; there are {', '.join([*_EVENTS, *_SAMPLES])}")
    if len(kinds) > 1 and set(kinds) & set(_SAMPLES):
        raise UsageError(f"{' and '.join(sorted(set(kinds) & set(_SAMPLES)))} is a picture of its own")
    return kinds


@click.command()
@click.argument("file", type=options.INPUT)
@options.option(
    "--kind",
    f"Of events: {', '.join(_EVENTS)}; newton,ker if absent. Of samples also {', '.join(_SAMPLES)}.",
    options.Checked(_kinds),
    metavar="KIND,...",
)
@options.option("--compare", "Other events, drawn as lines over those of FILE.", options.INPUT)
@options.option(
    "--prior",
    "Draw simulated events of this prior of the molecule over those of FILE.",
    options.PRIOR_NAME,
)
@options.option("--by", "A row of plots for each value of an extra column, as a delay.", metavar="COLUMN")
@options.option("--event", "Number of the event whose samples are drawn; the first if absent.", int)
@options.molecule_option
@options.option(
    "--length-unit", "Of lengths in the picture.", click.Choice(["angstrom", "bohr"]), default="angstrom"
)
@options.reading_options
@options.output_option("Picture, .png, .pdf or .svg; NAME-KIND.png if absent.")
@options.keep_flagged_option
@options.overwrite_option
def plot(
    *,
    file: Path,
    kind: str | None,
    compare: Path | None,
    prior: str | None,
    by: str | None,
    event: int | None,
    molecule: str | None,
    length_unit: str,
    reading: Callable[[], Reading],
    output: Path | None,
    keep_flagged: bool,
    overwrite: bool,
) -> None:
    """Draw the events or the posterior samples of FILE.

    Examples:
      flowcei plot events.csv --prior broad

      flowcei plot events.samples.h5 --kind corner --event 7
    """
    of_samples = is_samples(file)
    kinds = _kinds(kind) if kind else ("structure",) if of_samples else ("newton", "ker")
    path = output or Path(f"{file.stem.removesuffix('.samples')}-{'-'.join(kinds)}.png")
    options.output_path(path, overwrite=overwrite, endings=_PICTURES, source=file)
    from flowcei.plot.figure import events_figure
    from flowcei.plot.style import save

    if kinds[0] in _SAMPLES:
        if not of_samples:
            raise UsageError(f"{kinds[0]} is of samples; {file} holds events: flowcei sample draws some")
        figure = _drawn(file, kinds[0], event, length_unit, keep_flagged=keep_flagged)
    else:
        stated = None if molecule is None else flowcei.Molecule.load(molecule)
        if of_samples:
            samples = flowcei.read_samples(file)
            events = flowcei.Events(
                samples.molecule, samples.momenta, sigma=samples.sigma, columns=samples.columns
            )
        else:
            events = read_noted(file, stated, reading())
        sets = {file.name: events}
        if compare is not None:
            sets[compare.name] = read_noted(compare, events.molecule, reading())
        if prior is not None:
            noise = None if events.sigma is None else f"{float(events.sigma.mean()):.12g}"
            sets[f"prior {prior}"] = flowcei.simulate(
                events.molecule, len(events), prior=prior, noise=noise or "0%", seed=0
            )
        figure = events_figure(sets if len(sets) > 1 else events, kinds, by)
    save(figure, path, overwrite=overwrite)
    note(f"picture in {path}")


def _drawn(file: Path, kind: str, event: int | None, unit: str, *, keep_flagged: bool) -> Figure:
    from flowcei.plot.figure import samples_figure

    samples, row = read_unflagged(file, event, keep_flagged=keep_flagged)
    alone = samples if kind == "predictive" else samples[row or 0]
    return samples_figure(alone, kind, unit)
