"""`flowcei sample`."""

from __future__ import annotations

import shutil
import sys
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from flowcei.cli.options import (
    InputFile,
    device_option,
    keep_flagged_option,
    latent_option,
    noise_option,
    note,
    note_ions,
    overwrite_option,
    samples_option,
    seed_option,
    settled_seed,
    warn,
    warn_of_masses,
)
from flowcei.cli.reading import drift_option, note_reading, reading_options, selection_options

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowcei.events.foreign.interpretation import Reading
    from flowcei.events.selection import Selection
    from flowcei.events.source import EventSource
    from flowcei.models.interface import Latent
    from flowcei.posterior.files import Quality
    from flowcei.reconstruction.model import Reconstructor
    from flowcei.reconstruction.sampling import SamplingRequest, Survey


@click.command(short_help="Draw the geometries that explain measured momenta.")
@click.option(
    "--momenta",
    required=True,
    type=InputFile(),
    help="Events, in any format that flowcei reads.",
)
@samples_option
@click.option("--model", help="Model file or run; the newest in runs/, else the bundled OCS model.")
@noise_option
@reading_options
@selection_options
@drift_option
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
@keep_flagged_option
@device_option
@overwrite_option
def sample(
    *,
    momenta: Path,
    count: int,
    model: str | None,
    noise: str | None,
    reading: Callable[[], Reading],
    selection: Callable[[str | None], Selection],
    drift: str,
    latent: Latent,
    weigh: bool,
    min_ess: float,
    budget: int | None,
    output: Path | None,
    resume: bool,
    seed: int | None,
    keep_flagged: bool,
    device: str,
    overwrite: bool,
) -> None:
    """Draw, for every event of a file, geometries that explain its momenta.

    Any number of events: until all are there, the file is called FILE.partial, and what was
    stopped, in whatever way, goes on with --resume. Where all events are flagged as not to be
    trusted the exit code is 3, unless --keep-flagged; the file is there all the same.

    Example: flowcei sample --momenta events.csv -n 100
    """
    place = output or Path(f"{momenta.stem}.samples.h5")
    _look_at_names(momenta, place, model, overwrite=overwrite or resume)
    from flowcei.check.observables import Thinning
    from flowcei.cli.runcheck import note_run_check
    from flowcei.cli.runs import BUNDLED, load_named, note_what_is_assumed
    from flowcei.events.source import open_events
    from flowcei.experiment.drift import subtract_drift
    from flowcei.reconstruction.sampling import SamplingRequest, Survey
    from flowcei.storage.resumable import partial_path, unfinished_seed

    if resume and place.exists() and not partial_path(place).exists():
        note(f"{place} is there already: nothing to go on with")  # a batch job that was queued again
        return
    to_pipe = _refuse_place(place, overwrite=overwrite, resume=resume)
    seed = unfinished_seed(place) if resume and seed is None else seed
    name, reconstructor = load_named(model, device)
    found = ", the newest of runs/ (--model names another)" if model is None and name != BUNDLED else ""
    note(f"model {name}{found} ({reconstructor.architecture}, {reconstructor.molecule.name})")
    prior = f"prior {reconstructor.training.prior_name or 'unnamed'}"
    warn_of_masses(reconstructor.molecule, of_model=True)
    note_ions(reconstructor.molecule, prior, f"noise {noise or 'of the file, or else of the model'}")
    source = open_events(momenta, reconstructor.molecule, replace(reading(), selection=selection(noise)))
    subtract_drift(source, drift)
    note_reading(source)
    first = next(source.chunks())
    note_what_is_assumed(reconstructor, first, noise)
    request = SamplingRequest(
        count, settled_seed(seed), noise, latent, weigh=weigh, min_ess=min_ess, budget=budget
    )
    thinning = Thinning()
    survey = Survey.of(thinning.watch(source.chunks()))
    if source.selection.to_dict() or source.tally.rejected:
        source.keep_tally()
        note(f"{source.tally}")
    if to_pipe:
        quality = _to_pipe(reconstructor, request, source, survey)
    else:
        quality = _to_file(reconstructor, request, source, survey, place, overwrite=overwrite, resume=resume)
    _say_quality(quality, whole=survey.events > len(first))
    note_run_check(reconstructor, thinning.events(), noise)
    if not to_pipe:
        note(f"{len(quality.event_id)} events x {count} samples written to {place}")
    if not keep_flagged:
        _refuse_all_flagged(quality, momenta)
    if place.suffix.lower() in (".h5", ".hdf5"):
        note(f"next: flowcei spread {place}, flowcei modes {place}")


def _look_at_names(momenta: Path, place: Path, model: str | None, *, overwrite: bool) -> None:
    """Refuse names that cannot be right before torch is imported, which takes seconds."""
    from flowcei.cli.runs import find_model
    from flowcei.errors import UsageError
    from flowcei.storage.creation import check_output
    from flowcei.storage.files import same_file

    if same_file(place, momenta):
        msg = f"{momenta} holds the momenta; give -o another name"
        raise UsageError(msg)
    find_model(model)
    if str(place) != "-":
        check_output(place, overwrite=overwrite)


def _refuse_all_flagged(quality: Quality, momenta: Path) -> None:
    """End with an error where no answer is to be trusted: a batch job should not go on with them."""
    from flowcei.errors import DataError
    from flowcei.posterior.flags import counted

    if quality.all_flagged:
        what = f"{counted(quality.flags)}: no samples are to be trusted; check units, molecule and model"
        raise DataError(what, path=momenta)


def _refuse_place(place: Path, *, overwrite: bool, resume: bool) -> bool:
    """Refuse what cannot be written, and --resume with nothing to go on with; say whether it is a pipe."""
    from flowcei.errors import UsageError
    from flowcei.posterior.files import check_samples_path
    from flowcei.storage.resumable import partial_path

    to_pipe = str(place) == "-"
    if not to_pipe:
        check_samples_path(place, overwrite=overwrite)
    if resume and (to_pipe or not partial_path(place).exists()):
        msg = f"there are no unfinished samples {partial_path(place)} to resume"
        raise UsageError(msg)
    return to_pipe


def _to_pipe(model: Reconstructor, request: SamplingRequest, source: EventSource, survey: Survey) -> Quality:
    """Write CSV to stdout: that of a file, whose flags take all events to judge."""
    from flowcei.errors import StoppedError

    with TemporaryDirectory() as folder:
        place = Path(folder) / "samples.csv"
        try:
            quality = _to_file(model, request, source, survey, place, overwrite=False, resume=False)
        except StoppedError:
            raise KeyboardInterrupt from None  # nothing is kept to go on with
        with place.open(encoding="utf-8", newline="") as file:
            shutil.copyfileobj(file, sys.stdout)
    return quality


def _to_file(
    model: Reconstructor,
    request: SamplingRequest,
    source: EventSource,
    survey: Survey,
    place: Path,
    *,
    overwrite: bool,
    resume: bool,
) -> Quality:
    """Write a file that can be resumed, and tell how far each of its stages has come."""
    from flowcei.cli.progress import Progress
    from flowcei.posterior.files import sample_to_file

    described = model.describe(request) | {"events": survey.events, "momenta": survey.digest}
    with ExitStack() as stack:
        progress = stack.enter_context(Progress(survey.events, "events"))
        writing: list[Progress] = []

        def on_written(count: int) -> None:
            if not writing:  # its bar shows itself when its stage has begun
                writing.append(stack.enter_context(Progress(survey.events, f"events to {place.suffix}")))
            writing[0].update(count)

        return sample_to_file(
            lambda start: model.stream(source.chunks(), request, start=start),
            place,
            described,
            overwrite=overwrite,
            resume=resume,
            on_block=progress.update,
            on_written=on_written,
            judge=partial(_judged, model, request),
        )


def _judged(model: Reconstructor, request: SamplingRequest, quality: Quality) -> Quality:
    """Say whether the momenta are as probable as those of the prior, and flag events that are not."""
    judged, evidence = model.judge(quality, request)
    if evidence is not None:
        (note if evidence.sound else partial(warn, code="evidence"))(evidence.summary)
    return judged


def _say_quality(quality: Quality, *, whole: bool) -> None:
    """Warn of events that their samples speak against, and say what the weights left of them.

    Flags that momenta alone raise were said of the first part of the file; `whole`: say them of all.
    """
    from flowcei.cli.runs import note_flags
    from flowcei.posterior.flags import AFTERWARDS, FLAG_BITS
    from flowcei.posterior.weights import efficiency_in_words

    note_flags(
        {name: (quality.flags & bit) > 0 for name, bit in (FLAG_BITS if whole else AFTERWARDS).items()},
        quality.event_id,
    )
    if quality.ess is not None and quality.drawn is not None:
        note(efficiency_in_words(quality.ess, quality.drawn))
