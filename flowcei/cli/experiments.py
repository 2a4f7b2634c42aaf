"""The option of an experiment, and what the commands say of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import flowcei
from flowcei.cli import options
from flowcei.cli.streams import note
from flowcei.errors import UsageError

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping
    from pathlib import Path

    import click

    from flowcei.events.foreign.interpretation import Reading


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

    @classmethod
    def of(
        cls, noise: str | None, experiment: Path | None, build_up: str | None, molecule: flowcei.Molecule
    ) -> Detector:
        """What was asked for; says what of an experiment is not simulated."""
        growing = None if build_up is None else flowcei.BuildUp.parse(build_up)
        if growing is not None:
            growing.of_ions(len(molecule))
        if experiment is None:
            return cls(noise, None, growing)
        stated = flowcei.Experiment.load(experiment)
        stated.of(molecule)  # is of these ions
        if "efficiency" in stated.to_dict():
            note(f"{experiment}: all ions are detected, as events without one cannot be kept yet")
        if growing is not None and stated.build_up is not None:
            raise UsageError(f"{experiment} states the build-up; leave out --build-up")
        return cls(None, stated, growing)

    def __str__(self) -> str:
        about = {"noise": self.noise or "0%"} if self.experiment is None else self.experiment.to_dict()
        about |= {"build-up": self.build_up} if self.build_up is not None else {}
        return "; ".join(f"{name} {value}" for name, value in about.items())


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
    stated = flowcei.Experiment.load(path)
    if stated.accidents:
        note(f"{path}: accidents are not told from true events yet; the flag momentum-sum finds most of them")
    return stated


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
    selection = replace(reading.selection, noise=own) if reading.selection.max_sum else reading.selection
    drift = reading.drift if stated.drift is None else "none"
    return replace(reading, selection=selection, drift=drift)
