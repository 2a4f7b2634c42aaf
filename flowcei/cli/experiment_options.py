"""The option of an experiment, and what the commands say of it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import flowcei
from flowcei.cli import options
from flowcei.cli.streams import note, warn
from flowcei.errors import UsageError
from flowcei.units import compact

if TYPE_CHECKING:
    import click

    from flowcei.events.foreign.interpretation import Reading
    from flowcei.events.source import EventSource


_UNLIKE = 4.0  # standard errors


class _ExperimentFile(options.InputFile):
    """A file that describes an experiment."""

    def convert(
        self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> Path:
        """Return the path."""
        path = super().convert(value, param, ctx)
        flowcei.Experiment.load(path)
        return path


def experiment_option(text: str) -> options.Decorator:
    """Option of the file of an `Experiment`, which must be sound."""
    return options.option("--experiment", text, _ExperimentFile(), metavar="FILE")


def build_up_option(text: str) -> options.Decorator:
    """Option of the time in which charges appear."""
    return options.option("--build-up", text, options.Checked(flowcei.BuildUp.parse), metavar="TIME")


class Detector(NamedTuple):
    """What is not ideal: a level of noise or all that an experiment does, and charges that build up."""

    noise: str | None
    experiment: flowcei.Experiment | None = None
    build_up: flowcei.BuildUp | None = None
    missing: int = 1

    @classmethod
    def of(
        cls,
        noise: str | None,
        experiment: Path | None,
        build_up: str | None,
        molecule: flowcei.Molecule,
        missing: int,
    ) -> Detector:
        """What was asked for; says what of an experiment is not simulated."""
        growing = None if build_up is None else flowcei.BuildUp.parse(build_up)
        if growing is not None:
            growing.of_ions(len(molecule))
        if experiment is None:
            return cls(noise, None, growing, missing)
        stated = flowcei.Experiment.load(experiment)
        own = stated.of(molecule)  # is of these ions
        if stated.loses:
            note(
                f"{experiment}: ions are lost; events that lack more than {missing} are not kept (--missing)"
            )
        if own.shots is not None:
            note(f"{experiment}: {own.shots.in_words(missing)}")
        if growing is not None and stated.forces:
            named = ", ".join(stated.forces).replace("_", "-")
            raise UsageError(f"{experiment} states the {named}; leave out --build-up")
        return cls(None, stated, growing, missing)

    def __str__(self) -> str:
        about = f"noise {self.noise or '0%'}" if self.experiment is None else str(self.experiment)
        return about if self.build_up is None else f"{about}; build-up {self.build_up}"


def sampled_experiment(
    path: Path | None, noise: str | None, asked: Mapping[str, Any], missing: int
) -> flowcei.Experiment | None:
    """The experiment of the samples that are asked for; UsageError where they could not be of it."""
    if missing and (path is None or not asked["exact"]):
        raise UsageError(
            "--missing needs --exact, and --experiment with the spread or temperature of the source"
        )
    if path is None:
        return None
    if noise is not None:
        raise UsageError("--experiment states the noise; leave out --noise")
    return flowcei.Experiment.load(path)


def on_their_scale(source: EventSource, stated: flowcei.Experiment | None) -> flowcei.Events:
    """First events of a file on their true scale; warns of a file that is of an experiment nobody stated."""
    first = next(source.chunks())
    if stated is not None:
        return stated.calibrated(first)
    if "experiment" in source.origin:
        warn(f"{source.path} is of an experiment: --experiment, with --weigh or --exact, answers for it")
    return first


def is_gated(reading: Reading) -> bool:
    """Whether events are left out of a file by their momenta."""
    return reading.selection.max_sum is not None or reading.selection.ker is not None


def note_accidents(found: Mapping[str, Mapping[str, float]] | None) -> None:
    """Say which share of a run are accidents, as its evidence, its sums and a person say."""
    from flowcei.experiment.accidents import LACKING, VAGUE

    if found is None:
        return
    if not found:
        warn("too few events to tell accidents from true ones: P(true) is not known", code="accidents")
    for kind, one in found.items():
        if "share" not in one:
            note(f"accidents: {one['stated']:.3g} of {kind} events as stated; P(true) is the column p_true")
            continue
        share, error = one["share"], one["error"]
        of = f"{one['events']} {kind} events"
        note(f"accidents: {compact(share, error)} of {of}; P(true) is the column p_true")
        if kind == LACKING and "stated" not in one:
            why = "a prior wider than their law makes it too large; state that of complete events"
            warn(f"{kind} events: nothing but the prior tells their share: {why}", code="accidents")
        if error > VAGUE:
            vague = "neither their sums nor their evidence tell accidents from true events"
            warn(f"{kind} events: {vague}; P(true) is little more than the share", code="accidents")
        unlike = {"are stated to be": (one["stated"], 0.0)} if "stated" in one else {}
        if "share_by_sums" in one and one["error_by_sums"] < VAGUE:
            unlike["are by their sums alone"] = one["share_by_sums"], one["error_by_sums"]
        for says, (other, its_error) in unlike.items():
            if abs(other - share) > _UNLIKE * math.hypot(error, its_error):
                why = "" if its_error == 0.0 else "; the prior or the noise does not hold for true events"
                warn(f"{compact(other, its_error)} of them {says} accidents{why}", code="accidents")


def note_assignments(stated: flowcei.Experiment | None, molecule: flowcei.Molecule) -> None:
    """Say which assignment of hits to ions has which number."""
    orders = None if stated is None else stated.of(molecule).orders
    if orders is not None:
        ions = [ion for ion in range(len(molecule)) if (orders[:, ion] != ion).any()]
        label = molecule.labels
        each = [f"{k}: {' '.join(label[hit] for hit in order[ions])}" for k, order in enumerate(orders)]
        names = " ".join(label[ion] for ion in ions)
        note(f"assignments: hits that {names} have, as the file names them, are {'; '.join(each)}")


def reading_of(
    reading: Reading, stated: flowcei.Experiment | None, molecule: flowcei.Molecule, missing: int
) -> Reading:
    """How a file is read: of an experiment with a bound on sums that knows it, and with its own drift."""
    reading = replace(reading, selection=replace(reading.selection, missing=missing))
    if stated is None:
        return reading
    own = stated.of(molecule)
    if stated.drift is not None and reading.drift != "auto":
        raise UsageError("--experiment states the drift; leave out --drift")
    if stated.assignments and is_gated(reading):
        raise UsageError("--max-sum and --ker need hits that are told apart: leave out them, or assignments")
    if stated.assignments and stated.drift is None and reading.drift == "auto":
        raise UsageError("sums of hits that may be of other ions tell no drift: state it, or --drift none")
    selection = replace(reading.selection, noise=own) if reading.selection.max_sum else reading.selection
    if math.isinf(stated.accidents) and is_gated(reading):
        raise UsageError(
            "--max-sum and --ker leave out accidents, by which their share is measured: leave these out, or "
            "state accidents as a number (flowcei experiment measures it)"
        )
    drift = reading.drift if stated.drift is None else "none"
    return replace(reading, selection=selection, drift=drift)
