"""`flowcei plot`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import flowcei
from flowcei.cli import options
from flowcei.cli.inputs import is_samples, read_noted, read_unflagged, warn_of_run
from flowcei.cli.streams import note
from flowcei.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from flowcei.events.foreign.interpretation import Reading

# Those of `flowcei.plot`, which takes a second to import.
_EVENTS = ("newton", "ker", "shares", "angles", "dalitz", "ker-angle", "sum", "correlation", "covariance")
_SAMPLES = ("structure", "corner", "predictive")
_OF_ONE = ("structure", "corner")  # of one event
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
@options.option("--frame", "Of a structure; recoil if absent.", click.Choice(["recoil", "principal"]))
@options.option("--truth", "Events with positions: mark those of the structure that is drawn.", options.INPUT)
@options.length_option
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
    frame: str | None,
    truth: Path | None,
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
    given: dict[str, object] = {"--compare": compare, "--prior": prior, "--by": by, "--event": event}
    _check_idle(kinds[0], given | {"--frame": frame, "--truth": truth})
    from flowcei.plot.figure import events_figure, samples_figure
    from flowcei.plot.style import save

    if kinds[0] in _SAMPLES:
        if not of_samples:
            raise UsageError(f"{kinds[0]} is of samples; {file} holds events: flowcei sample draws some")
        samples, row = read_unflagged(file, event, keep_flagged=keep_flagged)
        samples = samples[row or 0] if kinds[0] in _OF_ONE else samples
        where = None if truth is None else _positions(truth, samples, reading)
        figure = samples_figure(samples, kinds[0], length_unit, frame=frame or "recoil", truth=where, by=by)
    else:
        stated = None if molecule is None else flowcei.Molecule.load(molecule)
        sets = {file.name: _events(file, reading, stated, of_samples=of_samples)}
        figure = events_figure(_with_others(sets, compare, prior, reading), kinds, by)
    save(figure, path, overwrite=overwrite)
    note(f"picture in {path}")


def _check_idle(kind: str, given: dict[str, object]) -> None:
    """Refuse options that a kind of plot would not look at."""
    unused = {"--compare", "--prior"} if kind in _SAMPLES else set()
    unused |= {"--by"} if kind in _OF_ONE else {"--event"}
    unused |= set() if kind == "structure" else {"--frame", "--truth"}
    if idle := [name for name, value in given.items() if name in unused and value is not None]:
        raise UsageError(f"{', '.join(idle)} has no meaning for the plot {kind}; leave it out")


def _events(
    file: Path, reading: Callable[[], Reading], molecule: flowcei.Molecule | None, *, of_samples: bool
) -> flowcei.Events:
    """The events of a file, or those that its samples are of."""
    if not of_samples:
        return read_noted(file, molecule, reading())
    s = flowcei.read_samples(file)
    warn_of_run(s, file)
    return flowcei.Events(s.molecule, s.momenta, sigma=s.sigma, columns=s.columns)


def _with_others(
    sets: dict[str, flowcei.Events], compare: Path | None, prior: str | None, reading: Callable[[], Reading]
) -> flowcei.Events | dict[str, flowcei.Events]:
    """The events, and beside them those of another file or of a prior, with as much noise."""
    from flowcei.experiment.experiment import stated_experiment

    events = next(iter(sets.values()))
    if compare is not None:
        name = compare.name if compare.name not in sets else f"{compare} (--compare)"
        sets[name] = read_noted(compare, events.molecule, reading())
    if prior is not None and (own := stated_experiment(events.origin)) is not None:
        note(f"events of the prior {prior} are simulated with the experiment that the events state")
        how: dict[str, Any] = {"experiment": own, "seed": 0}
        sets[f"prior {prior}"] = flowcei.simulate(events.molecule, len(events), prior=prior, **how)
    elif prior is not None:
        sigma = 0.0 if events.sigma is None else float(events.sigma.mean())
        words = f"{sigma:.3g} hbar/bohr, the mean of the events" if sigma else "none"
        note(f"events of the prior {prior} are simulated, noise {words}")
        noise = f"{sigma:.12g}" if sigma else "0%"
        sets[f"prior {prior}"] = flowcei.simulate(
            events.molecule, len(events), prior=prior, noise=noise, seed=0
        )
    return sets if len(sets) > 1 else events


def _positions(
    path: Path, samples: flowcei.PosteriorSamples, reading: Callable[[], Reading]
) -> NDArray[np.float64]:
    """The known positions (N, 3) of the event whose samples are drawn; UsageError where there are none."""
    import numpy as np

    from flowcei.experiment.likelihood import centred_momenta

    events, (event,) = read_noted(path, samples.molecule, reading()), samples.event_id.tolist()
    rows = (events.event_id == event).nonzero()[0]
    if events.positions is None or not len(rows):
        raise UsageError(f"{path} holds no positions of event {event}")
    measured = events.momenta[rows[0]]
    if own := samples.origin.get("experiment"):
        measured = flowcei.Experiment.from_dict(own).of(samples.molecule).calibrated(measured)
    pair = (measured, samples.momenta[0])
    one, other = (centred_momenta(p[None], samples.molecule.masses) for p in pair)  # a drift was subtracted
    if not np.allclose(one, other, rtol=0.0, atol=1e-4 * np.abs(one).max()):
        raise UsageError(f"event {event} of {path} has other momenta than the samples: it is another event")
    return events.positions[rows[0]]
