"""`flowcei sample`."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from flowcei.cli import options
from flowcei.cli.experiment_options import (
    experiment_option,
    is_gated,
    note_accidents,
    note_assignments,
    on_their_scale,
    reading_of,
    sampled_experiment,
)
from flowcei.cli.inputs import is_there_already, note_what_is_assumed, warn_of_flags, warn_of_motion
from flowcei.cli.options import flag, option
from flowcei.cli.progress import Progress
from flowcei.cli.runs import BUNDLED, MODEL_NAME, load_named
from flowcei.cli.sharing import Sharing, sharing_options
from flowcei.cli.streams import note, warn
from flowcei.errors import DataError, StoppedError

if TYPE_CHECKING:
    from flowcei import Reconstructor
    from flowcei.check.run import RunCheck
    from flowcei.events.foreign.interpretation import Reading
    from flowcei.events.source import EventSource
    from flowcei.posterior.quality import Quality
    from flowcei.reconstruction.sampling import SamplingRequest, Survey
    from flowcei.workers.order import Each


@click.command()
@option("--momenta", "Events, in any format that flowcei reads.", options.INPUT, required=True)
@options.samples_option()
@option(
    "--model",
    "Model file or run; the newest in runs/ that is not poor, else the bundled one.",
    MODEL_NAME,
)
@options.noise_option
@experiment_option(
    "Instead of --noise: resolution and source, TOML; with --weigh or --exact, or a model of its noise alone."
)
@option(
    "--missing",
    "Ions that an event may lack: of one the momentum follows from the others, of more the prior fills what "
    "is open; two must be there. With --exact and a known source.",
    click.IntRange(min=0),
    default=0,
)
@options.run_options
@options.latent_option
@flag(
    "--exact", "Draw from the exact posterior, however poor the model; Markov chains where they are needed."
)
@flag("--weigh", "Weigh samples by the exact prior and likelihood.")
@option(
    "--min-ess",
    "Effective samples an event should have; more are drawn where it has fewer, or where a few carry the "
    "weight. Implies --weigh.",
    click.FloatRange(min=0),
    default=0.0,
)
@option(
    "--budget",
    "Samples drawn of one event, at the most; 100 times -n if absent, more with --exact.",
    options.COUNT,
)
@options.output_option("File, .h5, .csv or .parquet; - for CSV on stdout; NAME.samples.h5 if absent.")
@flag("--resume", "Go on with an unfinished file of the same options.")
@options.seed_option
@options.keep_flagged_option
@options.device_option
@sharing_options
@options.overwrite_option
def sample(
    *,
    momenta: Path,
    model: str | None,
    experiment: Path | None,
    missing: int,
    reading: Callable[[str | None], Reading],
    output: Path | None,
    resume: bool,
    seed: int | None,
    keep_flagged: bool,
    device: str,
    sharing: Sharing,
    overwrite: bool,
    **asked: Any,  # noqa: ANN401 (of a SamplingRequest)
) -> None:
    """Draw, for every event of a file, geometries that explain its momenta.

    Any number of events: until all are there, the file is called FILE.partial, and what was
    stopped, in whatever way, goes on with --resume. Where all events are flagged as not to be
    trusted the exit code is 3, unless --keep-flagged; the file is there all the same.

    Example: flowcei sample --momenta events.csv -n 100
    """
    path = output or Path(f"{momenta.stem}.samples.h5")
    options.output_path(path, overwrite=overwrite or resume, endings=options.SAMPLE_FILES, source=momenta)
    if resume and is_there_already(path):
        return
    noise = asked["noise"]
    stated = sampled_experiment(experiment, noise, asked, missing)
    each = sharing.each("flowcei.reconstruction.sharing")
    from flowcei.cli.runcheck import note_run_check
    from flowcei.events.source import open_events
    from flowcei.reconstruction.limits import check_request
    from flowcei.reconstruction.sampling import SamplingRequest, Survey

    reconstructor = _loaded(model, device, noise if stated is None else f"of {experiment}", sharing)
    how = reading_of(reading(noise), stated, reconstructor.molecule, missing)
    source = open_events(momenta, reconstructor.molecule, how)
    source.log_reading()
    first = on_their_scale(source, stated)
    note_assignments(stated, reconstructor.molecule)
    note_what_is_assumed(reconstructor, first, noise, stated)
    warn_of_motion(reconstructor, missing)
    seed = options.settled_seed(seed, path if resume else None)
    request = SamplingRequest(asked.pop("count"), seed, **asked, experiment=stated)
    check_request(reconstructor, request)
    survey = Survey.of(source.chunks())
    _note_left_out(source)
    write = _to_stdout if str(path) == "-" else partial(_to_file, path, overwrite=overwrite, resume=resume)
    quality, check = write(reconstructor, request, source, survey, each)
    complete = survey.events > len(first) or bool(stated and stated.assignments)
    if stated is not None:
        note_accidents(quality.accidents)
    _note_quality(quality, complete=complete, exact=request.exact)
    if stated is None and survey.thinned is not None:
        note_run_check(check, quality.flags)
    _finish(quality, path, momenta, request.n, keep_flagged=keep_flagged)


def _note_left_out(source: EventSource) -> None:
    if source.reading.selection.to_dict() or source.tally.rejected:
        source.keep_tally()
        note(f"{source.tally}")


def _loaded(name: str | None, device: str, noise: str | None, sharing: Sharing) -> Reconstructor:
    """Load the model meant, and say which it is and what it assumes; begin to compile what it needs."""
    from flowcei.workers.ahead import compile_ahead

    title, model = load_named(name, device)
    usual = ", of runs/ (--model names another)" if name is None and title != BUNDLED else ""
    note(f"model {title}{usual} ({model.architecture}, {model.molecule.name})")
    if verdict := model.training.judgement.get("summary"):
        poor = model.training.judgement.get("word") == "poor"
        (warn if poor else note)(f"verdict after its training: {verdict}")
    options.warn_of_masses(model.molecule, of_model=True)
    prior = f"prior {model.training.prior_name or 'unnamed'}"
    options.note_ions(model.molecule, prior, f"noise {noise or 'of the file, or else of the model'}")
    if not sharing.shared and getattr(model.frame, "whitening", None) is not None:
        compile_ahead("sample", len(model.molecule))
    return model


def _to_stdout(*words: Any) -> tuple[Quality, RunCheck | None]:  # noqa: ANN401 (those of `_to_file`)
    """Write CSV to stdout: that of a file, whose flags take all events to judge."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "samples.csv"
        try:
            written = _to_file(path, *words)
        except StoppedError:
            raise KeyboardInterrupt from None  # nothing is kept to go on with
        with path.open(encoding="utf-8", newline="") as file:
            shutil.copyfileobj(file, sys.stdout)
    return written


def _to_file(
    path: Path,
    model: Reconstructor,
    request: SamplingRequest,
    source: EventSource,
    survey: Survey,
    each: Each,
    **how: bool,
) -> tuple[Quality, RunCheck | None]:
    """Write a file that can be resumed, and tell how far each of its stages has come; check the run."""
    from flowcei.cli.runcheck import checked_run, verdict_of
    from flowcei.posterior.files import sample_to_file
    from flowcei.reconstruction.sharing import shared_blocks

    check: RunCheck | None = None
    blocks = shared_blocks(model, each)

    def judge(quality: Quality) -> Quality:  # are the momenta as probable as those of the prior?
        nonlocal check
        judged, evidence = model.judge(quality, request, blocks)
        if judged.accidents and is_gated(source.reading):
            # P(true) is as without the gate: it leaves out as much of the density as of the share. What is
            # left of accidents does not tell how many there were.
            names, told = ("events", "stated"), judged.accidents
            kept = {kind: {name: one[name] for name in names} for kind, one in told.items()}
            judged = replace(judged, accidents=kept)
        if evidence is not None and evidence.events:
            (note if evidence.sound else partial(warn, code="evidence"))(evidence.summary)
        if request.experiment is None:  # the check of a run knows one level of noise
            check = checked_run(model, survey.thinned, None if request.noise is None else str(request.noise))
        return replace(judged, verdict=verdict_of(check, evidence, judged.flags))

    with ExitStack() as stack:
        drawing = stack.enter_context(Progress(survey.events, "events"))

        @cache
        def writing() -> Progress:  # its bar shows itself when its stage has begun
            return stack.enter_context(Progress(survey.events, f"events to {path.suffix}"))

        quality = sample_to_file(
            lambda start: blocks(source.chunks(), request, start=start),
            path,
            model.describe(request) | {"events": survey.events, "momenta": survey.digest},
            on_block=drawing.update,
            on_written=lambda count: writing().update(count),
            judge=judge,
            **how,
        )
    return quality, check


def _note_quality(quality: Quality, *, complete: bool, exact: bool) -> None:
    """Warn of events that their samples speak against, and say what the weights left of them."""
    from flowcei.posterior.exact import exact_in_words
    from flowcei.posterior.flags import AFTERWARDS, FLAG_BITS
    from flowcei.posterior.weights import efficiency_in_words

    bits = FLAG_BITS if complete else AFTERWARDS  # flags of momenta were said of the first events already
    warn_of_flags({name: (quality.flags & bit) > 0 for name, bit in bits.items()}, quality.event_id)
    if quality.ess is not None and quality.drawn is not None:
        words = exact_in_words(quality.ess) if exact else efficiency_in_words(quality.ess, quality.drawn)
        note(words)


def _finish(quality: Quality, path: Path, momenta: Path, count: int, *, keep_flagged: bool) -> None:
    """Say where the samples are; DataError where none is to be trusted: a batch job should not go on."""
    from flowcei.posterior.flags import counted

    if str(path) != "-":
        note(f"{len(quality.event_id)} events x {count} samples written to {path}")
    if quality.all_flagged and not keep_flagged:
        message = f"{counted(quality.flags)}: no samples are to be trusted; check units, molecule and model"
        raise DataError(message, path=momenta)
    if path.suffix.lower() in (".h5", ".hdf5"):
        note(f"next: flowcei spread {path}, flowcei modes {path}")
