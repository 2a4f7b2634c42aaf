"""The option of an experiment, and what the commands say of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import flowcei
from flowcei.cli import options
from flowcei.cli.streams import note

if TYPE_CHECKING:
    import os
    from pathlib import Path

    import click


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


class Detector(NamedTuple):
    """What the detector adds: a level of noise, or all that an experiment does."""

    noise: str | None
    experiment: flowcei.Experiment | None = None

    @classmethod
    def of(cls, noise: str | None, experiment: Path | None, molecule: flowcei.Molecule) -> Detector:
        """What was asked for; says what of an experiment is not simulated."""
        if experiment is None:
            return cls(noise)
        stated = flowcei.Experiment.load(experiment)
        stated.of(molecule)  # is of these ions
        if "efficiency" in stated.to_dict():
            note(f"{experiment}: all ions are detected, as events without one cannot be kept yet")
        return cls(None, stated)

    def __str__(self) -> str:
        if self.experiment is None:
            return f"noise {self.noise or '0%'}"
        return "; ".join(f"{name} {value}" for name, value in self.experiment.to_dict().items())
