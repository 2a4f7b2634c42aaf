"""`flowcei sample`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from flowcei.cli.options import (
    device_option,
    latent_option,
    noise_option,
    note,
    overwrite_option,
    samples_option,
    seed_option,
    settled_seed,
)
from flowcei.cli.stopping import stoppable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tqdm import tqdm

    from flowcei.events.container import Events
    from flowcei.models.interface import Latent
    from flowcei.posterior.samples import PosteriorSamples
    from flowcei.posterior.unfinished import Quality
    from flowcei.sampling import Sampling


@click.command(short_help="Draw the geometries that explain measured momenta.")
@click.option("--momenta", required=True, type=click.Path(path_type=Path), help="Events, .csv or .h5.")
@samples_option
@click.option("--model", help="Model file or run; the newest in runs/, else the bundled OCS model.")
@noise_option
@latent_option
@click.option("--weigh", is_flag=True, help="Weigh samples by the exact prior and likelihood.")
@click.option(
    "--min-ess",
    type=click.FloatRange(min=0),
    default=0.0,
    help="Effective samples an event should have; more are drawn where it has fewer. Implies --weigh.",
)
@click.option(
    "--budget",
    type=click.IntRange(min=1),
    help="Samples drawn of one event, at the most; 100 times -n if absent.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="File, .h5, .csv or .parquet; - for CSV on stdout; NAME.samples.h5 if absent.",
)
@click.option("--resume", is_flag=True, help="Go on with an unfinished file of the same options.")
@seed_option
@device_option
@overwrite_option
def sample(
    *,
    momenta: Path,
    count: int,
    model: str | None,
    noise: str | None,
    latent: Latent,
    weigh: bool,
    min_ess: float,
    budget: int | None,
    output: Path | None,
    resume: bool,
    seed: int | None,
    device: str,
    overwrite: bool,
) -> None:
    """Draw, for every event of a file, geometries that explain its momenta.

    Any number of events: until all are there, the file is called FILE.partial, and what was
    stopped, in whatever way, goes on with --resume.

    Example: flowcei sample --momenta events.csv -n 100
    """
    from flowcei.cli.runs import BUNDLED, load_named, note_what_is_assumed
    from flowcei.errors import UsageError
    from flowcei.events.storage import read_events
    from flowcei.posterior.storage import check_samples_path
    from flowcei.posterior.unfinished import begun_seed
    from flowcei.sampling import Sampling

    place = output or Path(f"{momenta.stem}.samples.h5")
    if place.resolve() == momenta.resolve():
        msg = f"{momenta} holds the momenta; give -o another name"
        raise UsageError(msg)
    to_pipe = str(place) == "-"
    if not to_pipe:
        check_samples_path(place, overwrite=overwrite)
    if resume:
        _refuse_nothing_begun(place)
        seed = begun_seed(place) if seed is None else seed
    name, reconstructor = load_named(model, device)
    found = ", the newest of runs/ (--model names another)" if model is None and name != BUNDLED else ""
    note(f"model {name}{found} ({reconstructor.architecture}, {reconstructor.molecule.name})")
    events = read_events(momenta, reconstructor.molecule)
    source = _Source(lambda: [events], len(events))
    note_what_is_assumed(reconstructor, next(iter(source.chunks())), noise)
    asked = Sampling(
        reconstructor, count, settled_seed(seed), noise, latent, weigh=weigh, min_ess=min_ess, budget=budget
    )
    if to_pipe:
        _say_quality(_to_pipe(asked, source))
        return
    quality = _to_file(asked, source, place, overwrite=overwrite, resume=resume)
    _say_quality(quality)
    note(f"{len(quality.ids)} events x {count} samples written to {place}")
    if place.suffix.lower() in (".h5", ".hdf5"):
        note(f"next: flowcei spread {place}, flowcei modes {place}")


@dataclass(frozen=True)
class _Source:
    """Events, chunk by chunk, as often as they are asked for.

    Attributes:
        chunks: Begins at the first event.
        count: How many events there are, where that is known.
    """

    chunks: Callable[[], Iterable[Events]]
    count: int | None


def _refuse_nothing_begun(place: Path) -> None:
    """Refuse --resume where there is nothing to go on with."""
    from flowcei.errors import UsageError
    from flowcei.events.streaming import partial_path

    if str(place) == "-" or not partial_path(place).exists():
        msg = f"there are no unfinished samples {partial_path(place)} to resume"
        raise UsageError(msg)


def _to_pipe(asked: Sampling, source: _Source) -> Quality:
    """Write CSV to stdout, with a bar on a terminal."""
    from flowcei.posterior.hdf import arrays_of
    from flowcei.posterior.text import write_samples_csv
    from flowcei.posterior.unfinished import Quality

    parts: list[Quality] = []

    def counted(update: Callable[[int], object]) -> Iterator[PosteriorSamples]:
        for part in asked.blocks(source.chunks()):
            yield part
            parts.append(Quality.of(arrays_of(part)))
            update(len(part))

    with _bar(source.count) as bar:
        write_samples_csv(counted(bar.update), sys.stdout)
    return Quality.concatenate(parts)


def _to_file(asked: Sampling, source: _Source, place: Path, *, overwrite: bool, resume: bool) -> Quality:
    """Write a file that can be resumed, with a bar on a terminal for each of its stages."""
    from flowcei.posterior.unfinished import sample_to_file
    from flowcei.sampling import Survey

    survey = Survey.of(source.chunks())
    request = asked.request() | {"events": survey.events, "momenta": survey.digest}
    with stoppable(), _bar(survey.events) as bar, _bar(survey.events, f"writing {place.suffix}") as second:
        return sample_to_file(
            lambda start: asked.blocks(source.chunks(), start),
            place,
            request,
            overwrite=overwrite,
            resume=resume,
            on_block=bar.update,
            on_written=second.update,
        )


def _bar(total: int | None, what: str | None = None) -> tqdm[NoReturn]:
    from tqdm import tqdm

    # A second bar shows itself when its stage has begun.
    delay = 0.0 if what is None else 1e-9
    return tqdm(total=total, unit=" events", desc=what, delay=delay, disable=None, leave=False)


def _say_quality(quality: Quality) -> None:
    """Warn of events that their samples speak against, and say what the weights left of them."""
    import numpy as np

    from flowcei.cli.runs import note_flags
    from flowcei.posterior.flags import AFTERWARDS

    note_flags({name: (quality.flags & bit) > 0 for name, bit in AFTERWARDS.items()}, quality.ids)
    if quality.efficiency is not None and quality.drawn is not None:
        low, middle = np.quantile(quality.efficiency, (0.1, 0.5))
        note(
            f"sample efficiency {middle:.1%} (median; a tenth of the events below {low:.1%}), "
            f"{quality.drawn.mean():.0f} samples drawn of an event"
        )
