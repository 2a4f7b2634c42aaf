"""`flowcei train`; each field of the options of an architecture is an option of it by itself."""

from __future__ import annotations

import math
import os
import platform
import shlex
import sys
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

import flowcei
from flowcei.cli import options
from flowcei.cli.architectures import ArchitectureCommand, architecture_options
from flowcei.cli.duration import Duration
from flowcei.cli.inputs import read_noted
from flowcei.cli.options import INPUT, MOLECULE, NOISE, PRIOR_NAME, Checked, option
from flowcei.cli.progress import Progress
from flowcei.cli.ranks import in_ranks
from flowcei.cli.runs import LOG, RunFolder, begin_run, check_run_folder, to_resume
from flowcei.cli.streams import log, log_file, note, warn
from flowcei.errors import DataError, FlowceiError, StoppedError, TrainingDivergedError, UsageError
from flowcei.experiment.detector import Noise
from flowcei.models.registry import architecture_names, options_type
from flowcei.physics.build_up import BuildUpPrior
from flowcei.training.schedule import MIN_EVENTS, EpochRecord, Schedule, best_of

if TYPE_CHECKING:
    from pathlib import Path

    from flowcei.reconstruction.defaults import Defaults
    from flowcei.reconstruction.efficiency import Round

_PARAMETERS_A_ROW = 20
_SCHEDULE = ("epochs", "batch", "learning_rate", "patience")
_ALWAYS = ("arch", "frame", "events", "seed", "device", *_SCHEDULE)


@click.command(cls=ArchitectureCommand)
@option(
    "--arch",
    "The architecture; its options are below.",
    Checked(values=lambda _: architecture_names()),
    default="cinn",
)
@option("--data", "Events with positions; simulated afresh if absent.", INPUT)
@option("--molecule", "A built-in name, .toml or .xyz; ocs, or what --data says, if absent.", MOLECULE)
@options.ions_options
@option("--prior", "Which geometries: a prior of the molecule, or .toml; the default if absent.", PRIOR_NAME)
@option(
    "--noise",
    "Detector noise to train for: 1%, a range, or 0.1%..5%/axis, a level for each axis of the lab. If absent "
    "that, or 0.1%..5% of wide priors and other charts, or from what --data show to 5%.",
    NOISE,
    metavar="RANGE",
)
@option(
    "--build-up",
    "Times in which charges appear, to train for: 0..15fs; an experiment states its own. At once if absent.",
    Checked(BuildUpPrior.to_train_for),
    metavar="RANGE",
)
@option(
    "--frame",
    "Coordinates: the recoil frame, or the file's own (as the first study did; to compare).",
    click.Choice(["recoil", "raw"]),
    default="recoil",
)
@option("--epochs", "Passes at the most; 10 if absent, with --data by its rows.", int)
@option("--events", "Fresh events an epoch; if absent by molecule and prior, as the next line says.", int)
@option("--batch", "Events a step; if absent by molecule and prior, with --data by its rows.", int)
@option("--learning-rate", "Peak of the one-cycle schedule.", float, default=3e-3)
@option("--patience", "Epochs without progress to stop after; 10, or a third if there are more.", int)
@option(
    "--until",
    "Median efficiency, 0.9 (10th percentile: a fifth), of fresh events, that ends rounds of training.",
    click.FloatRange(min=0.0, max=1.0, min_open=True),
)
@options.output_option("Run folder; runs/NAME if absent.")
@option(
    "--max-time",
    "Stop after 90s, 45m or 2h, before the next step; --resume goes on from the last whole epoch. With "
    "--until, 15m if absent, end by then with the best model so far and its verdict.",
    Duration(),
    metavar="DURATION",
)
@option(
    "--resume",
    "Go on with an unfinished training, with its own options; the newest in runs/ if none is named.",
    is_flag=False,
    flag_value="",
    metavar="[RUN]",
)
@options.seed_option
@options.device_option
@options.overwrite_option
@click.pass_context
def train(
    ctx: click.Context,
    /,
    *,
    output: Path | None,
    overwrite: bool,
    resume: str | None,
    max_time: float | None,
    **given: str | float | Path | None,
) -> None:
    """Train a model that reads geometries out of momenta, and write it to a run folder.

    Without --data, events of the molecule are simulated as the training goes on and no
    epoch sees one twice. Every epoch is kept: what is stopped or killed goes on with
    --resume, to the same model. Several processes, on CPUs or with a GPU each:
    torchrun --nproc-per-node 4 -m flowcei train ...

    Example: flowcei train --arch cinn --couplings 8
    """
    run = None
    if resume is not None:
        if output is not None or overwrite:
            raise UsageError("--resume goes on in the folder of the run; leave --output and --overwrite out")
        run = to_resume(resume)
        plan = _Plan.of(_options_of(ctx, given, run))
    else:
        if output is not None:
            check_run_folder(output, "", overwrite=overwrite)
        plan = _Plan.of(given)
    with in_ranks(plan.options["device"]) as first:
        if not first:
            begun = run.checkpoint if run is not None and run.checkpoint.exists() else None
            plan.fit(checkpoint=begun, resume=begun is not None)
            return
        kept = run or _new_run(plan, output, overwrite=overwrite)
        told = ("prior", "noise", "build_up")
        facts = [f"{name.replace('_', '-')} {plan.options[name]}" for name in told if plan.options.get(name)]
        options.note_ions(plan.molecule, *facts)
        with log_file(kept.folder / LOG):
            _log_start(plan, kept, resuming=run is not None)
            _train(plan, kept, max_time, resuming=run is not None)


def _new_run(plan: _Plan, output: Path | None, *, overwrite: bool) -> RunFolder:
    """Folder of a new run, and its seed."""
    given = plan.options
    folder = check_run_folder(output, f"{plan.molecule.name}-{given['arch']}", overwrite=overwrite)
    given["seed"] = options.settled_seed(given.get("seed"))
    if os.path.lexists(folder / LOG):
        with log_file(folder / LOG):  # another process may train there
            pass
    return begin_run(folder, given)


@dataclass(frozen=True)
class _Plan:
    """What is to be trained, on what."""

    options: dict[str, Any]  # all of the run, resolved: with them it can be made again
    molecule: flowcei.Molecule
    data: flowcei.Events | None = None
    conclusions: list[str] = field(default_factory=list)  # from data, molecule and prior, a line each

    @classmethod
    def of(cls, given: dict[str, Any]) -> _Plan:
        """Plan of the options that are given, not None; UsageError or DataError if it cannot be trained."""
        chosen = {name: value for name, value in given.items() if value is not None}
        arch = chosen.pop("arch")
        names = {str(option.name) for option in architecture_options(arch)}
        own = {name: chosen.pop(name) for name in names & chosen.keys()}
        options_type(arch).parse(arch, own)
        Schedule(**{name: chosen[name] for name in _SCHEDULE if name in chosen})
        ions = {name: chosen.get(name) for name in ("isotopes", "charges", "length_unit")}
        data = None
        if "data" not in chosen:
            molecule = options.named_molecule(chosen.setdefault("molecule", "ocs"), ions, chosen.get("prior"))
            if chosen.get("events", MIN_EVENTS) < MIN_EVENTS:
                raise UsageError(f"--events is {chosen['events']}; it must be {MIN_EVENTS} or more")
            if molecule.default_prior is not None:
                chosen.setdefault("prior", molecule.default_prior)
            usual = _usual(molecule, arch, chosen)
            own, conclusions = usual.options | own, [f"defaults for {len(molecule)} ions: {usual}"]
            chosen = {"events": usual.events, "batch": usual.batch} | chosen
        elif simulated := [name for name in ("prior", "build_up") if name in chosen]:
            option = simulated[0].replace("_", "-")
            raise UsageError(f"--{option} says what to simulate; with --data nothing is simulated")
        else:
            data = read_noted(chosen["data"], options.named_or_none(chosen.get("molecule"), ions))
            molecule, chosen["data"] = data.molecule, str(chosen["data"])
            if "molecule" not in chosen:
                options.warn_of_masses(molecule)
            settled, conclusions = _settled_by_data(data, chosen)
            chosen = {"events": len(data)} | chosen | settled
        resolved = {"arch": arch, **options_type(arch).parse(arch, own).to_dict()}
        resolved |= {name: getattr(Schedule(), name) for name in _SCHEDULE}
        return cls(resolved | chosen, molecule, data, conclusions)

    @property
    def rows(self) -> int:
        """Events of an epoch."""
        return int(0.8 * len(self.data)) if self.data is not None else self.options["events"]

    def fit(self, **how: Any) -> flowcei.Reconstructor:  # noqa: ANN401 (of `flowcei.train`)
        """Train."""
        given = self.options
        names = ("prior", "noise", "build_up", "frame", "seed", "device", "until")
        how |= {name: given.get(name) for name in names}
        return flowcei.train(
            given["arch"],
            molecule=self.molecule,
            data=self.data,
            options={each.name: given[each.name] for each in fields(options_type(given["arch"]))},
            schedule=Schedule(**{name: given[name] for name in _SCHEDULE}),
            events_per_epoch=given["events"],
            **how,
        )


def _usual(molecule: flowcei.Molecule, arch: str, chosen: dict[str, Any]) -> Defaults:
    """What is not typed; the noise goes to what is chosen."""
    from flowcei.physics.priors import build_prior
    from flowcei.reconstruction.defaults import usual_noise, usual_training

    about = len(molecule), build_prior(molecule, chosen.get("prior")), arch
    chosen.setdefault("noise", str(usual_noise(*about)))
    return usual_training(*about, more=Noise.parse(chosen["noise"]).by_axis or "build_up" in chosen)


def _settled_by_data(data: flowcei.Events, given: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Noise and schedule for the events of a file, where they are not given, and a line on each."""
    from flowcei.reconstruction.training_data import settled_noise

    level, own = settled_noise(data, given.get("noise"))
    rows = int(0.8 * len(data))
    chosen = {name: given[name] for name in _SCHEDULE if name in given}
    schedule = Schedule.for_rows(rows, fresh_noise=own is not None and not own.level, **chosen)
    settled = {name: getattr(schedule, name) for name in _SCHEDULE}
    conclusions = [
        f"noise of the data: {'as its column says' if own is None else own}; trained for {level}",
        f"schedule: {schedule.epochs} passes over {rows} events in batches of {schedule.batch}",
    ]
    return settled if own is None else settled | {"noise": str(level)}, conclusions


def _options_of(ctx: click.Context, given: dict[str, Any], run: RunFolder) -> dict[str, Any]:
    """Options of an unfinished run; those typed beside --resume must be the same."""
    table, stored = run.read_config(), {}
    own = ctx.command.params
    for param in [*own, *architecture_options(str(table.get("arch", "")))]:
        name = param.name or ""
        if name not in given and param in own:
            continue
        stored[name] = param.type_cast_value(ctx, table.pop(name)) if name in table else None
        if ctx.get_parameter_source(name) is not ParameterSource.COMMANDLINE or given[name] == stored[name]:
            continue
        if name == "data" and stored[name] is not None:  # the file may have moved: its content is compared
            stored[name] = given[name]
            continue
        begun = "without" if stored[name] is None else f"with {stored[name]}"
        raise UsageError(f"{param.opts[0]} is {given[name]}; the run was begun {begun}; leave it out")
    missing = [name for name in _ALWAYS if stored.get(name) is None]
    if table or missing:
        names = ", ".join([*table, *missing])
        message = f"its options {names} are unknown or missing; begin anew with --overwrite"
        raise DataError(message, path=run.work / "config.toml")
    return stored


@dataclass
class _Course:
    """How far a training is: what is shown and kept of it."""

    plan: _Plan
    run: RunFolder
    records: list[EpochRecord]
    epochs: int  # so far planned
    progress: Progress

    def epoch(self, record: EpochRecord) -> None:
        """Note an epoch."""
        self.records.append(record)
        self.progress.note(_line(record, self.epochs))
        self.run.write_metrics(self.records)

    def round(self, ended: Round) -> None:
        """Note a round, and how many epochs follow."""
        self.epochs = len(self.records) + ended.more
        self.progress.lengthen(self.plan.rows * self.epochs)
        end = f"; {ended.why}" if ended.why else ""
        efficiency = ended.efficiency or "efficiency not measured"
        self.progress.note(f"round {ended.number}, {ended.epochs} epochs: {efficiency}{end}")

    def stopped(self, stop: BaseException, before: int) -> StoppedError:
        """How to go on after an interruption; so many epochs were there before."""
        count = len(self.records)
        reason = str(stop) or f"interrupted: {count} of {self.epochs} epochs are saved"
        if isinstance(stop, StoppedError) and count == before:
            reason += " (--max-time is shorter than an epoch: give more)"
        folder = shlex.quote(str(self.run.folder))
        return StoppedError(f"{reason}; go on with: flowcei train --resume {folder}")

    def failed(self, error: Exception) -> None:
        """Say what is left, if anything is."""
        count, run = len(self.records), self.run
        if not count:
            run.discard()
        elif isinstance(error, TrainingDivergedError):
            note(f"the metrics of the {count} epochs before are in {run.work}")
        else:
            note(f"{count} epochs are saved: flowcei train --resume {run.folder} goes on with them")


def _train(plan: _Plan, run: RunFolder, max_time: float | None, *, resuming: bool) -> None:
    """Train, and finish the run folder; or say how to go on."""
    from flowcei.training.checkpoint import read_checkpoint

    run.clean()
    resume = resuming and run.checkpoint.exists()
    begun = read_checkpoint(run.checkpoint) if resume else None
    records = begun.records if begun else []
    before, epochs = len(records), sum(begun.rounds if begun else ()) or plan.options["epochs"]
    progress = Progress(plan.rows * epochs, "events", done=plan.rows * before)
    course = _Course(plan, run, records, epochs, progress)
    try:
        with progress:
            model = plan.fit(
                checkpoint=run.checkpoint,
                resume=resume,
                max_seconds=max_time,
                on_step=lambda rows, loss: progress.update(rows, f"loss {loss:.3f}"),
                on_epoch=course.epoch,
                on_round=course.round,
            )
        if plan.data is not None and model.training.parameters > _PARAMETERS_A_ROW * plan.rows:
            warn(
                f"{plan.rows} training events for {model.training.parameters} parameters: they may be "
                "learned by heart; fewer --couplings or --hidden, or no --data, so that events are simulated"
            )
        _judge(plan, model)
        run.finish(model, records)
    except (StoppedError, KeyboardInterrupt) as stop:
        raise course.stopped(stop, before) from None
    except (FlowceiError, OSError, MemoryError, RuntimeError) as error:  # torch's want of memory is the last
        course.failed(error)
        raise
    best = best_of(records)
    loss = ": ".join(filter(None, (f"epoch {best.epoch}", options_type(plan.options["arch"]).loss)))
    note(f"validation loss {best.validation_loss:.4f} ({loss}), model in {run.folder}")


def _judge(plan: _Plan, model: flowcei.Reconstructor) -> None:
    """Put into the card what the model is worth on events that it has not seen, and say so."""
    from flowcei.evaluation.comparison import unseen
    from flowcei.evaluation.judgement import JudgementRules

    rules = JudgementRules.of(plan.rows * (model.training.epochs_run or 0))
    events = None if plan.data is None else unseen(model, plan.data)
    # By 60 rows of a file a model that had learned 480 by heart failed one check, by fresh events 19.
    events = None if events is not None and len(events) < rules.events and model.prior_spec else events
    try:
        result = flowcei.judge(model, events, seed=plan.options["seed"], rules=rules)
        result = replace(result, wanted=plan.options.get("until"))
    except (UsageError, DataError) as error:  # a point, too few rows, no prior: a model all the same
        note(f"not judged: {error}")
        return
    model.training.judgement = result.to_dict()
    bad = result.word == "poor" or not result.reached
    (warn if bad else note)(f"verdict on {result.events} events unseen: {result.summary}")
    if result.todo:
        note(f"  {result.todo}")


def _line(record: EpochRecord, epochs: int) -> str:
    if math.isnan(record.train_loss):  # nothing has a gradient
        return f"nothing to train: the training events are stored; validation {record.validation_loss:.4f}"
    return (
        f"epoch {record.epoch:3d}/{epochs}  loss {record.train_loss:8.4f}  "
        f"validation {record.validation_loss:8.4f}  {record.rows_per_second:8.0f} events/s"
    )


def _log_start(plan: _Plan, run: RunFolder, *, resuming: bool) -> None:
    """Write to the log what the run is; say what is trained, on what, and what `flowcei check` warns of."""
    import torch

    given, versions = plan.options, f"Python {platform.python_version()}, torch {torch.__version__}"
    log(f"$ flowcei {shlex.join(sys.argv[1:])}")
    log(f"flowcei {flowcei.__version__}, {versions}, seed {given['seed']}")
    checked = flowcei.check_file(plan.data) if plan.data is not None and not resuming else None
    for diagnostic in checked.diagnostics if checked is not None else ():
        if diagnostic.severity != "note":
            warn(f"{diagnostic.message}; {diagnostic.means}", diagnostic.code)
    for line in plan.conclusions:
        note(line)
    source = f"fresh events of {plan.molecule.name}" if plan.data is None else f"events of {given['data']}"
    note(f"{'going on with' if resuming else 'training'} {given['arch']} in {run.folder} on {source}")
