"""`flowcei train`."""

from __future__ import annotations

import math
import shlex
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from flowcei.cli.architectures import ArchitectureCommand, architecture_options
from flowcei.cli.options import (
    Duration,
    InputFile,
    device_option,
    ions_options,
    named_molecule,
    named_or_none,
    note,
    note_ions,
    overwrite_option,
    seed_option,
    settled_seed,
    warn,
    warn_of_masses,
)
from flowcei.cli.reading import read_noted
from flowcei.cli.stopping import stoppable
from flowcei.errors import DataError, FlowceiError, StoppedError, TrainingDivergedError, UsageError

if TYPE_CHECKING:
    from flowcei.cli.progress import Progress
    from flowcei.cli.runfolder import RunFolder
    from flowcei.events.container import Events
    from flowcei.molecules.molecule import Molecule
    from flowcei.reconstruction.model import Reconstructor
    from flowcei.training.schedule import EpochRecord

_PARAMETERS_A_ROW = 20
_SCHEDULE = ("epochs", "batch", "learning_rate", "patience")
_ALWAYS = ("arch", "frame", "events", "seed", "device", *_SCHEDULE)


@click.command(cls=ArchitectureCommand, short_help="Train a model, on fresh simulations or on a file.")
@click.option("--arch", default="cinn", show_default=True, help="The architecture; its options are below.")
@click.option("--data", type=InputFile(), help="Events with positions; simulated afresh if absent.")
@click.option("--molecule", help="A built-in name, .toml or .xyz; ocs, or what --data says, if absent.")
@ions_options
@click.option("--prior", help="Which geometries to simulate; the molecule's default if absent.")
@click.option(
    "--noise",
    metavar="RANGE",
    help="Detector noise to train for, 1% or a range. If absent 0.1%..5%, or from what --data show to 5%.",
)
@click.option(
    "--frame",
    type=click.Choice(["recoil", "raw"]),
    default="recoil",
    show_default=True,
    help="Coordinates: the recoil frame, or the file's own (as the first study did; to compare).",
)
@click.option("--epochs", type=int, help="Passes at the most; 10 if absent, with --data by its rows.")
@click.option(
    "--events", type=int, default=100_000, show_default=True, help="Fresh events an epoch, without --data."
)
@click.option("--batch", type=int, help="Events a step; 1024 if absent, with --data by its rows.")
@click.option(
    "--learning-rate", type=float, default=3e-3, show_default=True, help="Peak of the one-cycle schedule."
)
@click.option(
    "--patience", type=int, help="Epochs without progress to stop after; 10, or a third if there are more."
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Run folder; runs/NAME if absent.")
@click.option(
    "--max-time",
    type=Duration(),
    metavar="DURATION",
    help="Stop after 90s, 45m or 2h, before the next step; --resume goes on from the last whole epoch.",
)
@click.option(
    "--resume",
    is_flag=False,
    flag_value="",
    metavar="[RUN]",
    help="Go on with an unfinished training, with its own options; the newest in runs/ if none is named.",
)
@seed_option
@device_option
@overwrite_option
@click.pass_context
def train(
    ctx: click.Context,
    /,
    *,
    output: Path | None,
    overwrite: bool,
    resume: str | None,
    max_time: float | None,
    **options: str | float | Path | None,
) -> None:
    """Train a model that reads geometries out of momenta, and write it to a run folder.

    Without --data, events of the molecule are simulated as the training goes on and no
    epoch sees one twice. Every epoch is kept: what is stopped or killed goes on with
    --resume, to the same model.

    Example: flowcei train --arch cinn --couplings 8
    """
    from flowcei.cli.logs import log_file, refuse_busy
    from flowcei.cli.runfolder import LOG, begin_run, check_run_folder, to_resume

    if resume is not None:
        if output is not None or overwrite:
            msg = "--resume goes on in the folder of the run; leave --output and --overwrite out"
            raise UsageError(msg)
        run = to_resume(resume)
        plan = _Plan.of(_options_of(ctx, options, run))
    else:
        if output is not None:
            check_run_folder(output, "", overwrite=overwrite)
        plan = _Plan.of(options)
        folder = check_run_folder(output, f"{plan.molecule.name}-{options['arch']}", overwrite=overwrite)
        plan.options["seed"] = settled_seed(plan.options.get("seed"))
        refuse_busy(folder / LOG)
        run = begin_run(folder, plan.options)
    facts = [f"{name} {plan.options[name]}" for name in ("prior", "noise") if plan.options.get(name)]
    note_ions(plan.molecule, *facts)
    with log_file(run.folder / LOG), stoppable():
        _log_start(plan, run, resume=resume is not None)
        _train(plan, run, max_time, resume=resume is not None)


@dataclass(frozen=True)
class _Plan:
    """What is to be trained, on what.

    Attributes:
        options: All options of the run, resolved: with them it can be made again.
        architecture: Those of the architecture.
        molecule: What explodes.
        data: The events of the file.
        said: What was concluded from them, a line each.
    """

    options: dict[str, Any]
    architecture: dict[str, Any]
    molecule: Molecule
    data: Events | None
    said: tuple[str, ...] = ()

    @classmethod
    def of(cls, options: dict[str, Any]) -> _Plan:
        from flowcei.models.registry import ARCHITECTURES, find_architecture
        from flowcei.reconstruction.training_data import DEFAULT_NOISE
        from flowcei.training.schedule import Schedule

        resolved = {name: value for name, value in options.items() if value is not None}
        said: tuple[str, ...] = ()
        arch = find_architecture(resolved["arch"])
        kinds = [*ARCHITECTURES.values(), arch]
        known = {field.name for kind in kinds for field in fields(kind.options_type)}
        given = {name: resolved.pop(name) for name in known & resolved.keys()}
        architecture = arch.options_type.parse(arch.architecture, given).to_dict()
        ions = {name: resolved.get(name) for name in ("isotopes", "charges", "length_unit")}
        if "data" not in resolved:
            molecule, data = named_molecule(resolved.setdefault("molecule", "ocs"), ions), None
            resolved.setdefault("noise", str(DEFAULT_NOISE))
            if molecule.default_prior is not None:
                resolved.setdefault("prior", molecule.default_prior)
        elif "prior" in resolved:
            msg = "--prior says what to simulate; with --data nothing is simulated"
            raise UsageError(msg)
        else:
            data = read_noted(resolved["data"], named_or_none(resolved.get("molecule"), ions))
            molecule, resolved["data"] = data.molecule, str(resolved["data"])
            if "molecule" not in resolved:
                warn_of_masses(molecule)
            settled, said = _settled_by_data(data, resolved)
            resolved |= settled
        plain = Schedule()
        resolved = {name: getattr(plain, name) for name in _SCHEDULE} | resolved
        named = {"arch": resolved.pop("arch")}
        return cls(named | architecture | resolved, architecture, molecule, data, said)

    @property
    def rows(self) -> int:
        """Events of an epoch."""
        return int(0.8 * len(self.data)) if self.data is not None else self.options["events"]


def _settled_by_data(data: Events, given: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, str]]:
    """Return noise and schedule for the events of a file, where they are not given, and a line on each."""
    from flowcei.reconstruction.training_data import settled_noise
    from flowcei.training.schedule import Schedule

    level, own = settled_noise(data, given.get("noise"))
    rows = int(0.8 * len(data))
    chosen = {name: given[name] for name in _SCHEDULE if name in given}
    schedule = Schedule.for_rows(rows, fresh_noise=own is not None and not own.level, **chosen)
    settled = {name: getattr(schedule, name) for name in _SCHEDULE}
    said = (
        f"noise of the data: {'as its column says' if own is None else own}; trained for {level}",
        f"schedule: {schedule.epochs} passes over {rows} events in batches of {schedule.batch}",
    )
    return settled if own is None else settled | {"noise": str(level)}, said


def _options_of(ctx: click.Context, given: dict[str, Any], run: RunFolder) -> dict[str, Any]:
    """Return the options of an unfinished run; those typed beside --resume must be the same."""
    table, kept = run.read_config(), {}
    params = ctx.command.params
    for param in [*params, *architecture_options(str(table.get("arch", "")), params)]:
        name = param.name or ""
        if name not in given and param in params:
            continue
        kept[name] = param.type_cast_value(ctx, table.pop(name)) if name in table else None
        if ctx.get_parameter_source(name) is not ParameterSource.COMMANDLINE or given[name] == kept[name]:
            continue
        if name == "data" and kept[name] is not None:  # the file may have moved: what is in it is compared
            kept[name] = given[name]
            continue
        begun = "without" if kept[name] is None else f"with {kept[name]}"
        msg = f"{param.opts[0]} is {given[name]}; the run was begun {begun}; leave it out"
        raise UsageError(msg)
    missing = [name for name in _ALWAYS if kept.get(name) is None]
    if table or missing:
        what = (
            f"its options {', '.join([*table, *missing])} are unknown or missing; begin anew with --overwrite"
        )
        raise DataError(what, path=run.work / "config.toml")
    return kept


def _train(plan: _Plan, run: RunFolder, max_time: float | None, *, resume: bool) -> None:
    """Train, and finish the run folder; or say how to go on."""
    from flowcei.cli.progress import Progress
    from flowcei.training.checkpoint import read_checkpoint
    from flowcei.training.schedule import best_of

    run.clean()
    resume = resume and run.checkpoint.exists()
    before = read_checkpoint(run.checkpoint).records if resume else []
    records = list(before)
    epochs = plan.options["epochs"]
    done = plan.rows * len(records)
    try:
        with Progress(plan.rows * epochs, "events", done=done) as progress:
            model = _fit(plan, run, progress, records, max_time, resume=resume)
        if plan.data is not None:
            _warn_of_few_rows(model.training.parameters, plan.rows)
        run.finish(model, records)
    except (StoppedError, KeyboardInterrupt) as stop:
        reason = str(stop) or f"interrupted: {len(records)} of {epochs} epochs are saved"
        if isinstance(stop, StoppedError) and len(records) == len(before):
            reason += " (--max-time is shorter than an epoch: give more)"
        msg = f"{reason}; go on with: flowcei train --resume {shlex.quote(str(run.folder))}"
        raise StoppedError(msg) from None
    except (FlowceiError, OSError) as error:
        if not records:
            run.discard()
        elif isinstance(error, TrainingDivergedError):
            note(f"the metrics of the {len(records)} epochs before are in {run.work}")
        else:
            note(f"{len(records)} epochs are saved: flowcei train --resume {run.folder} goes on with them")
        raise
    best = best_of(records)
    note(f"validation loss {best.validation_loss:.4f} (epoch {best.epoch}), model in {run.folder}")


def _fit(
    plan: _Plan,
    run: RunFolder,
    progress: Progress,
    records: list[EpochRecord],
    max_time: float | None,
    *,
    resume: bool,
) -> Reconstructor:
    from flowcei.reconstruction.fitting import train as fit
    from flowcei.training.schedule import Schedule

    given = plan.options

    def tell(record: EpochRecord) -> None:
        records.append(record)
        progress.note(_line(record, given["epochs"]))
        run.write_metrics(records)

    return fit(
        given["arch"],
        molecule=plan.molecule,
        data=plan.data,
        prior=given.get("prior"),
        noise=given.get("noise"),
        frame=given["frame"],
        options=plan.architecture,
        schedule=Schedule(**{name: given[name] for name in _SCHEDULE}),
        events_per_epoch=given["events"],
        seed=given["seed"],
        device=given["device"],
        checkpoint=run.checkpoint,
        resume=resume,
        max_seconds=max_time,
        on_step=lambda rows, loss: progress.update(rows, f"loss {loss:.3f}"),
        on_epoch=tell,
    )


def _line(record: EpochRecord, epochs: int) -> str:
    if math.isnan(record.train_loss):  # nothing has a gradient
        return f"nothing to train: the training events are stored; validation {record.validation_loss:.4f}"
    return (
        f"epoch {record.epoch:3d}/{epochs}  loss {record.train_loss:8.4f}  "
        f"validation {record.validation_loss:8.4f}  {record.rows_per_second:8.0f} events/s"
    )


def _log_start(plan: _Plan, run: RunFolder, *, resume: bool) -> None:
    """Write to the log what the run is; say on stderr what is trained, and on what."""
    import logging
    import platform

    import torch

    from flowcei._version import __version__
    from flowcei.cli.logs import NOTES

    log, given = logging.getLogger(NOTES), plan.options
    log.info("$ flowcei %s", shlex.join(sys.argv[1:]))
    versions = (__version__, platform.python_version(), torch.__version__, given["seed"])
    log.info("flowcei %s, Python %s, torch %s, seed %d", *versions)
    if plan.data is not None and not resume:
        _warn_of_findings(plan.data)
    source = (
        f"the events of {given['data']}" if plan.data is not None else f"fresh events of {plan.molecule.name}"
    )
    for line in plan.said:
        note(line)
    note(f"{'going on with' if resume else 'training'} {given['arch']} in {run.folder} on {source}")


def _warn_of_findings(events: Events) -> None:
    """Say what `flowcei check` would warn of, a line each."""
    from flowcei.check.examination import examine

    for finding in examine(events):
        if finding.severity != "note":
            warn(f"{finding.what}; {finding.means}", finding.code)


def _warn_of_few_rows(parameters: int, rows: int) -> None:
    """Warn where a file has too few events for the network; fresh simulations have no end."""
    if parameters > _PARAMETERS_A_ROW * rows:
        warn(
            f"{rows} training events for {parameters} parameters: they may be learned by heart; "
            "fewer --couplings or --hidden, or no --data, so that events are simulated"
        )
