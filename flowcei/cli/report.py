"""`flowcei report`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

import flowcei
from flowcei.cli import options
from flowcei.cli.inputs import is_samples, warn_of_run
from flowcei.cli.runs import BUNDLED, MODEL_NAME, load_named, read_metrics
from flowcei.cli.sharing import Sharing, sharing_options
from flowcei.cli.streams import note
from flowcei.errors import DataError, UsageError
from flowcei.storage.creation import atomic_text

if TYPE_CHECKING:
    from flowcei import PosteriorSamples, Reconstructor
    from flowcei.evaluation.calibration import Calibration
    from flowcei.workers.order import Each

_CALIBRATED, _SAMPLES = 200, 50  # events of the prior on which the model is judged, and samples of each
_OF_MODEL = 1000  # events that a page of a model alone is of


@click.command()
@click.argument("file", type=options.OUTPUT, required=False)
@options.option("--momenta", "Events instead: sampled first, with the weights.", options.INPUT)
@options.option("--model", "Model file or run; that of the samples, or as of sample, if absent.", MODEL_NAME)
@options.option("--molecule", "What the events are of; refused where the model is not.", options.MOLECULE)
@options.samples_option()
@options.noise_option
@options.output_option("Page, .html; NAME.report.html if absent.")
@options.option("--seed", "Of what is simulated and sampled.", options.SEED, default=0)
@options.device_option
@sharing_options
@options.overwrite_option
@click.pass_context
def report(
    ctx: click.Context,
    *,
    file: Path | None,
    momenta: Path | None,
    model: str | None,
    molecule: str | None,
    count: int,
    noise: str | None,
    output: Path | None,
    seed: int,
    device: str,
    sharing: Sharing,
    overwrite: bool,
) -> None:
    """Make one HTML page of FILE: posterior samples (.h5), or a model or run folder.

    It needs no network: what was read, whether the run is what the model believes, momenta,
    bonds and angles, the law of the ensemble (with a slider along a column `delay`), structures that turn,
    single events, the model and its calibration.

    Examples:
      flowcei report events.samples.h5 -o report.html

      flowcei report --momenta events.csv -o report.html
    """
    if (file is None) == (momenta is None):
        raise UsageError("give samples, a model or a run folder, or events with --momenta")
    if molecule is not None and momenta is None:
        raise UsageError("--molecule is of events with --momenta; samples and models say theirs")
    source = momenta or Path(str(file))
    path = output or Path(f"{source.stem.removesuffix('.samples')}.report.html")
    options.output_path(path, overwrite=overwrite, endings=(".html",), source=source)
    commands = [shlex.join(["flowcei", *sys.argv[1:]])]
    if momenta is not None:
        _check_molecule(model, molecule, device)
        file = path.with_name(f"{path.stem.removesuffix('.report')}.report.samples.h5")
        words = ["sample", "--momenta", str(momenta), "-n", str(count), "--weigh", "--seed", str(seed)]
        words += [*_named("--model", model), *_named("--noise", noise), "--device", device]
        words += [*sharing.words(), "-o", str(file), *["--overwrite"] * overwrite]
        ctx.find_root().command.main(words, standalone_mode=False, prog_name="flowcei", parent=ctx.parent)
        commands = [shlex.join(["flowcei", *words]), *commands]
    each = sharing.each("flowcei.evaluation.calibration")
    from flowcei.report.page import page
    from flowcei.report.sections import Material, read_for_page

    given, notes, shown = Path(str(file)), tuple[str, ...](), None
    if given.is_file() and is_samples(given):
        samples, shown = read_for_page(given)
        if momenta is None:  # else `sample` has said it
            warn_of_run(samples, given)
        network, named = _model_of(samples, model, device)
    else:
        network = load_named(named := model or str(file), device)[1]
        samples, notes = _of_prior(network, count, noise, seed)
    metrics = None if network is None else read_metrics(named)
    judged = _calibrated(network, seed, each)
    html = page(Material(samples, source.name, network, judged, metrics, notes, tuple(commands), shown))
    with atomic_text(path, overwrite=overwrite) as text:
        text.write(html)
    note(f"page in {path} ({len(html) / 1e6:.1f} MB): open it in any browser")


def _check_molecule(model: str | None, molecule: str | None, device: str) -> None:
    if molecule is None:
        return
    wanted = flowcei.Molecule.load(molecule)
    there = load_named(model, device, say=False)[1].molecule  # the sampling that follows says it
    if not wanted.same_ions(there):
        raise UsageError(
            f"the model is of {there.name}, not of {wanted.name}: name another with --model, or train one"
        )


def _named(option: str, value: str | None) -> list[str]:
    return [option, value] if value else []


def _model_of(samples: PosteriorSamples, name: str | None, device: str) -> tuple[Reconstructor | None, str]:
    """The model that is named, or that drew the samples where it can be found; and its name."""
    drew = str(samples.origin.get("model", ""))
    own = name or (BUNDLED if drew == "ocs-bundled" else drew)
    try:
        model = load_named(own, device)[1]
    except (UsageError, DataError):
        if name is not None:
            raise
        note(f"the model {own!r} of the samples is not here: --model names it, for its calibration")
        return None, own
    # Another one of the same name may have been trained since.
    there = (model.molecule.to_dict(), model.architecture, model.prior_spec)
    if there != (samples.molecule.to_dict(), samples.origin.get("architecture"), samples.origin.get("prior")):
        words = "another molecule, architecture or prior than the samples: not the one that drew them"
        if name is not None:
            raise UsageError(f"the model {name} has {words}")
        note(f"the model {own!r} here has {words}; the page has no calibration")
        return None, own
    return model, own


def _of_prior(
    model: Reconstructor, count: int, noise: str | None, seed: int
) -> tuple[PosteriorSamples, tuple[str, ...]]:
    level = noise or str(model.default_noise)
    events = flowcei.simulate(model.molecule, _OF_MODEL, prior=model.prior, noise=level, seed=seed)
    line = f"No measurement: {_OF_MODEL:,} events simulated from the prior of the model, noise {level}."
    return model.sample(events, count, noise=level, seed=seed), (line,)


def _calibrated(model: Reconstructor | None, seed: int, each: Each) -> Calibration | None:
    """The model judged on events of its prior, where it has one."""
    if model is None or model.prior_spec is None:
        return None
    level = str(model.default_noise)
    events = flowcei.simulate(model.molecule, _CALIBRATED, prior=model.prior, noise=level, seed=seed + 1)
    return flowcei.calibrate(model, events, n=_SAMPLES, seed=seed, each=each)
