"""`flowcei train`; each field of the options of an architecture is an option of it by itself."""

from __future__ import annotations

import math
import os
import platform
import re
import shlex
import sys
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

import flowcei
from flowcei.cli import options
from flowcei.cli.options import INPUT, MOLECULE, NOISE, PRIOR_NAME, Checked, option
from flowcei.cli.progress import Progress
from flowcei.cli.runs import LOG, RunFolder, begin_run, check_run_folder, read_noted, to_resume
from flowcei.cli.streams import log, log_file, note, warn
from flowcei.errors import DataError, FlowceiError, StoppedError, TrainingDivergedError, UsageError
from flowcei.experiment.detector import DEFAULT_NOISE
from flowcei.models.registry import architecture_names, listed_options, options_type
from flowcei.training.schedule import MIN_EVENTS, EpochRecord, Schedule, best_of, fresh_sizes

if TYPE_CHECKING:
    from pathlib import Path

    from flowcei.reconstruction.efficiency import Round

_NAMED = "flowcei.architecture"
_PARAMETERS_A_ROW = 20
_SCHEDULE = ("epochs", "batch", "learning_rate", "patience")
_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_ALWAYS = ("arch", "frame", "events", "seed", "device", *_SCHEDULE)


class Duration(click.ParamType):
    """A time span: 90, 90s, 45m, 2h, 1.5d; in seconds."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds, above 0."""
        matched = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *([smhd]?)", str(value).strip())
        seconds = float(matched[1]) * _SECONDS[matched[2]] if matched else 0.0
        if seconds <= 0.0:
            self.fail(f"{value!r} is no time span; write 90s, 45m, 2h or 1.5d", param, ctx)
        return seconds


class _ArchitectureCommand(click.Command):
    """Has the options of the architectures of flowcei too, and of a plug-in where one is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Look for the architecture, whose options decide what can be parsed, and parse."""
        words = " ".join(args).replace("--arch=", "--arch ").split(" ")
        named = dict(pairwise(words)).get("--arch", (ctx.default_map or {}).get("arch", "cinn"))
        if named not in listed_options() and not set(args) & set(ctx.help_option_names):
            # What else is wrong is answered before the plug-in, and torch with it, is imported.
            first = click.Context(self, ctx.parent, ignore_unknown_options=True, allow_extra_args=True)
            super().parse_args(first, list(args))
        ctx.meta[_NAMED] = named
        return super().parse_args(ctx, args)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Name the architectures."""
        del ctx
        formatter.write_paragraph()
        formatter.write_text(f"Architectures: {', '.join(architecture_names())}.")

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Own options and those of architectures."""
        named = ctx.meta.get(_NAMED) or (ctx.default_map or {}).get("arch", "cinn")
        added, own = _architecture_options(named), {name for param in self.params for name in param.opts}
        for name in (param.opts[0] for param in added):
            if name in own:
                raise UsageError(f"architecture {named!r} may not have the option {name} of flowcei train")
        return [*super().get_params(ctx), *added]


def _architecture_options(architecture: str) -> tuple[click.Option, ...]:
    """Options of all architectures of flowcei and of the one that is named."""
    added: dict[str, click.Option] = {}
    for name, kind in (listed_options() | {architecture: options_type(architecture)}).items():
        for field in fields(kind):
            choices = field.metadata.get("choices")
            value = click.Choice(choices) if choices else type(field.default)
            new = click.Option([f"--{field.name.replace('_', '-')}"], type=value)
            new.help = field.metadata.get("help", "")
            shared = added.setdefault(field.name, new)
            shared.help += f"{', ' if shared is not new else ' ('}{name} {field.default}"  # type: ignore[operator]
    for shared in added.values():
        shared.help += ")."  # type: ignore[operator]
    return tuple(added.values())


@click.command(cls=_ArchitectureCommand)
@option(
    "--arch",
    "The architecture; its options are below.",
    Checked(values=lambda _: architecture_names()),
    default="cinn",
)
@option("--data", "Events with positions; simulated afresh if absent.", INPUT)
@option("--molecule", "A built-in name, .toml or .xyz; ocs, or what --data says, if absent.", MOLECULE)
@options.ions_options
@option("--prior", "Which geometries to simulate; the molecule's default if absent.", PRIOR_NAME)
@option(
    "--noise",
    "Detector noise to train for, 1% or a range. If absent 0.1%..5%, or from what --data show to 5%.",
    NOISE,
    metavar="RANGE",
)
@option(
    "--frame",
    "Coordinates: the recoil frame, or the file's own (as the first study did; to compare).",
    click.Choice(["recoil", "raw"]),
    default="recoil",
)
@option("--epochs", "Passes at the most; 10 if absent, with --data by its rows.", int)
@option("--events", "Fresh events an epoch; 100000 if absent, 20000 where charts are whitened.", int)
@option("--batch", "Events a step; 1024 or 256 if absent, with --data by its rows.", int)
@option("--learning-rate", "Peak of the one-cycle schedule.", float, default=3e-3)
@option("--patience", "Epochs without progress to stop after; 10, or a third if there are more.", int)
@option(
    "--until",
    "Median efficiency, 0.9, on fresh events: rounds, each twice as long, until it is there or time is up.",
    click.FloatRange(min=0.0, max=1.0, min_open=True),
)
@options.output_option("Run folder; runs/NAME if absent.")
@option(
    "--max-time",
    "Stop after 90s, 45m or 2h, before the next step; --resume goes on from the last whole epoch. With "
    "--until, 15m if absent, end with the best model so far.",
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
    --resume, to the same model.

    Example: flowcei train --arch cinn --couplings 8
    """
    resuming = resume is not None
    if resume is not None:
        if output is not None or overwrite:
            raise UsageError("--resume goes on in the folder of the run; leave --output and --overwrite out")
        run = to_resume(resume)
        plan = _Plan.of(_options_of(ctx, given, run))
    else:
        if output is not None:
            check_run_folder(output, "", overwrite=overwrite)
        plan = _Plan.of(given)
        folder = check_run_folder(output, f"{plan.molecule.name}-{given['arch']}", overwrite=overwrite)
        plan.options["seed"] = options.settled_seed(plan.options.get("seed"))
        if os.path.lexists(folder / LOG):
            with log_file(folder / LOG):  # another process may train there
                pass
        run = begin_run(folder, plan.options)
    facts = [f"{name} {plan.options[name]}" for name in ("prior", "noise") if plan.options.get(name)]
    options.note_ions(plan.molecule, *facts)
    with log_file(run.folder / LOG):
        _log_start(plan, run, resuming=resuming)
        _train(plan, run, max_time, resuming=resuming)


@dataclass(frozen=True)
class _Plan:
    """What is to be trained, on what."""

    options: dict[str, Any]  # all of the run, resolved: with them it can be made again
    molecule: flowcei.Molecule
    data: flowcei.Events | None = None
    conclusions: tuple[str, ...] = ()  # from the data, a line each

    @classmethod
    def of(cls, given: dict[str, Any]) -> _Plan:
        """Plan of the options that are given, not None; UsageError or DataError if it cannot be trained."""
        chosen = {name: value for name, value in given.items() if value is not None}
        arch = chosen.pop("arch")
        names = {str(option.name) for option in _architecture_options(arch)}
        own = {name: chosen.pop(name) for name in names & chosen.keys()}
        architecture = options_type(arch).parse(arch, own).to_dict()
        Schedule(**{name: chosen[name] for name in _SCHEDULE if name in chosen})
        ions = {name: chosen.get(name) for name in ("isotopes", "charges", "length_unit")}
        data, conclusions = None, tuple[str, ...]()
        if "data" not in chosen:
            molecule = options.named_molecule(chosen.setdefault("molecule", "ocs"), ions, chosen.get("prior"))
            if chosen.get("events", MIN_EVENTS) < MIN_EVENTS:
                raise UsageError(f"--events is {chosen['events']}; it must be {MIN_EVENTS} or more")
            chosen.setdefault("noise", str(DEFAULT_NOISE))
            if molecule.default_prior is not None:
                chosen.setdefault("prior", molecule.default_prior)
            kind = molecule.priors.get(chosen.get("prior", ""), {}).get("kind", "")
            chosen = fresh_sizes(len(molecule), kind if options_type(arch).whitened else "") | chosen
        elif "prior" in chosen:
            raise UsageError("--prior says what to simulate; with --data nothing is simulated")
        else:
            data = read_noted(chosen["data"], options.named_or_none(chosen.get("molecule"), ions))
            molecule, chosen["data"] = data.molecule, str(chosen["data"])
            if "molecule" not in chosen:
                options.warn_of_masses(molecule)
            settled, conclusions = _settled_by_data(data, chosen)
            chosen |= settled
        resolved = {"arch": arch, "events": fresh_sizes(0, "")["events"]} | architecture
        resolved |= {name: getattr(Schedule(), name) for name in _SCHEDULE}
        return cls(resolved | chosen, molecule, data, conclusions)

    @property
    def rows(self) -> int:
        """Events of an epoch."""
        return int(0.8 * len(self.data)) if self.data is not None else self.options["events"]

    def fit(self, **how: Any) -> flowcei.Reconstructor:  # noqa: ANN401 (of `flowcei.train`)
        """Train."""
        given = self.options
        how |= {name: given.get(name) for name in ("prior", "noise", "frame", "seed", "device", "until")}
        return flowcei.train(
            given["arch"],
            molecule=self.molecule,
            data=self.data,
            options={field.name: given[field.name] for field in fields(options_type(given["arch"]))},
            schedule=Schedule(**{name: given[name] for name in _SCHEDULE}),
            events_per_epoch=given["events"],
            **how,
        )


def _settled_by_data(data: flowcei.Events, given: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Noise and schedule for the events of a file, where they are not given, and a line on each."""
    from flowcei.reconstruction.training_data import settled_noise

    level, own = settled_noise(data, given.get("noise"))
    rows = int(0.8 * len(data))
    chosen = {name: given[name] for name in _SCHEDULE if name in given}
    schedule = Schedule.for_rows(rows, fresh_noise=own is not None and not own.level, **chosen)
    settled = {name: getattr(schedule, name) for name in _SCHEDULE}
    conclusions = (
        f"noise of the data: {'as its column says' if own is None else own}; trained for {level}",
        f"schedule: {schedule.epochs} passes over {rows} events in batches of {schedule.batch}",
    )
    return settled if own is None else settled | {"noise": str(level)}, conclusions


def _options_of(ctx: click.Context, given: dict[str, Any], run: RunFolder) -> dict[str, Any]:
    """Options of an unfinished run; those typed beside --resume must be the same."""
    table, stored = run.read_config(), {}
    own = ctx.command.params
    for param in [*own, *_architecture_options(str(table.get("arch", "")))]:
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


def _train(plan: _Plan, run: RunFolder, max_time: float | None, *, resuming: bool) -> None:
    """Train, and finish the run folder; or say how to go on."""
    from flowcei.training.checkpoint import read_checkpoint

    run.clean()
    resume = resuming and run.checkpoint.exists()
    begun = read_checkpoint(run.checkpoint) if resume else None
    before = len(records := begun.records if begun else [])
    epochs = sum(begun.rounds if begun else ()) or plan.options["epochs"]

    def record_epoch(record: EpochRecord) -> None:
        records.append(record)
        progress.note(_line(record, epochs))
        run.write_metrics(records)

    def record_round(ended: Round) -> None:
        nonlocal epochs
        epochs = len(records) + ended.more
        progress.lengthen(plan.rows * epochs)
        end = f"; {ended.why}" if ended.why else ""
        progress.note(f"round {ended.number}, {ended.epochs} epochs: {ended.efficiency}{end}")

    try:
        with Progress(plan.rows * epochs, "events", done=plan.rows * before) as progress:
            model = plan.fit(
                checkpoint=run.checkpoint,
                resume=resume,
                max_seconds=max_time,
                on_step=lambda rows, loss: progress.update(rows, f"loss {loss:.3f}"),
                on_epoch=record_epoch,
                on_round=record_round,
            )
        if plan.data is not None and model.training.parameters > _PARAMETERS_A_ROW * plan.rows:
            warn(
                f"{plan.rows} training events for {model.training.parameters} parameters: they may be "
                "learned by heart; fewer --couplings or --hidden, or no --data, so that events are simulated"
            )
        _judge(plan, model)
        run.finish(model, records)
    except (StoppedError, KeyboardInterrupt) as stop:
        reason = str(stop) or f"interrupted: {len(records)} of {epochs} epochs are saved"
        if isinstance(stop, StoppedError) and len(records) == before:
            reason += " (--max-time is shorter than an epoch: give more)"
        folder = shlex.quote(str(run.folder))
        raise StoppedError(f"{reason}; go on with: flowcei train --resume {folder}") from None
    except (FlowceiError, OSError) as error:
        if not records:
            run.discard()
        elif isinstance(error, TrainingDivergedError):
            note(f"the metrics of the {len(records)} epochs before are in {run.work}")
        else:
            note(f"{len(records)} epochs are saved: flowcei train --resume {run.folder} goes on with them")
        raise
    best = best_of(records)
    loss = ": ".join(filter(None, (f"epoch {best.epoch}", options_type(plan.options["arch"]).loss)))
    note(f"validation loss {best.validation_loss:.4f} ({loss}), model in {run.folder}")


def _judge(plan: _Plan, model: flowcei.Reconstructor) -> None:
    """Put into the card what the model is worth on events that it has not seen, and say so."""
    from flowcei.evaluation.comparison import unseen
    from flowcei.evaluation.judgement import JudgementRules

    events = None if plan.data is None else unseen(model, plan.data)
    rules = JudgementRules.of(plan.rows * plan.options["epochs"])
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
    source = (
        f"fresh events of {plan.molecule.name}" if plan.data is None else f"the events of {given['data']}"
    )
    note(f"{'going on with' if resuming else 'training'} {given['arch']} in {run.folder} on {source}")
