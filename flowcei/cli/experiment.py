"""`flowcei experiment`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import flowcei
from flowcei.cli import options
from flowcei.cli.experiment_options import experiment_option
from flowcei.cli.inputs import read_noted
from flowcei.cli.options import option
from flowcei.cli.streams import note, show, text_table, warn
from flowcei.errors import DataError, UsageError
from flowcei.storage.creation import atomic_text

if TYPE_CHECKING:
    from flowcei.check.measuring import ExperimentMeasurement
    from flowcei.events.foreign.interpretation import Reading

_KNOWN = "noise", "detector", "spread", "temperature"


def _entries(text: str) -> list[Any]:
    """One entry or three, apart by commas: numbers, or levels in per cent."""
    entries = [entry.strip() for entry in text.split(",")]
    try:
        given: list[Any] = [entry if entry.endswith("%") else float(entry) for entry in entries]
    except ValueError:
        raise UsageError(f"{text!r} is not understood: write 1.5, or 4%,0.5%,0.5% for x, y and z") from None
    return given * 3 if len(given) == 1 else given


def _noise(text: str) -> list[Any]:
    return list(flowcei.Experiment(noise=_entries(text)).to_dict()["noise"])


def _spread(text: str) -> list[Any]:
    return list(flowcei.Experiment(noise=1.0, spread=_entries(text)).to_dict()["spread"])


def _stated(path: Path) -> dict[str, Any]:
    """What a file states of noise and source; UsageError where sums would tell nothing."""
    stated = flowcei.Experiment.load(path).to_dict()
    if "assignments" in stated:
        raise UsageError(f"{path} has assignments: sums of hits of unknown ions tell nothing")
    return {name: stated[name] for name in _KNOWN if name in stated}


@click.command()
@click.argument("file", type=options.InputFile())
@options.molecule_option
@option(
    "--noise", "Known resolution, of all or of x,y,z: 4%,0.5%,0.5% or hbar/bohr.", options.Checked(_noise)
)
@option("--spread", "Known spread of the source, hbar/bohr, of all or of x,y,z.", options.Checked(_spread))
@option("--temperature", "Instead of --spread, K.", click.FloatRange(0.0, 3000.0))
@experiment_option("What is known, TOML: of it noise or detector, and spread or temperature are taken.")
@option("--prior", "Of the molecules, trusted: measures momentum scale and build-up.", options.PRIOR_NAME)
@option("--fit", "With --prior: scale, build_up or both.", click.Choice(["scale", "build_up", "both"]))
@options.ions_options
@options.reading_options
@options.output_option("Write the experiment, for sample --experiment: .toml.")
@options.json_option()
@options.overwrite_option
def experiment(
    *,
    file: Path,
    molecule: str | None,
    noise: str | None,
    spread: str | None,
    temperature: float | None,
    experiment: Path | None,
    prior: str | None,
    fit: str | None,
    reading: Callable[[], Reading],
    output: Path | None,
    as_json: bool,
    overwrite: bool,
    **ions: str | None,
) -> None:
    """Measure the experiment from the events of FILE: drift, source, resolution, accidents, losses.

    Sums of momenta of true events are normal, those of accidents are of ions of different events.
    They hold the noise of the ions and the spread of the source together: state one of them, and
    the other is measured. Events that lack one ion tell the efficiency of each. With --prior the
    momentum scale and the time in which charges build up follow from KER and energy shares.

    Example: flowcei experiment events.h5 --noise 1.5 -o experiment.toml
    """
    forces = {} if experiment is None else flowcei.Experiment.load(experiment).forces
    if forces and prior is not None:
        raise UsageError(
            f"{experiment} states the {', '.join(forces)}, and --prior measures it for Coulomb's law"
        )
    stated = _known(experiment, noise, spread, temperature)
    if output is not None:
        options.output_path(output, overwrite=overwrite, endings=(".toml",), source=file)
    if not stated and (output is not None or prior is not None):
        raise UsageError("noise and source add up in sums: state --noise, or --spread or --temperature")
    if fit is not None and prior is None:
        raise UsageError("--fit is of a --prior: name one")
    named = options.named_or_none(molecule, ions, prior)
    from dataclasses import replace

    how = reading()
    events = read_noted(file, named, replace(how, selection=replace(how.selection, missing=1)))
    measured = flowcei.measure_experiment(events, **stated, prior=prior, fit=fit or "both")
    if as_json:
        show(json.dumps(measured.to_dict(), indent=1))
    else:
        _show(measured)
    for remark in measured.remarks:
        warn(remark, code="experiment")
    if output is not None:
        if measured.experiment is None:
            raise DataError(f"these numbers make no experiment; {output} is not written", path=file)
        with atomic_text(output, overwrite=overwrite) as target:
            target.write(replace(measured.experiment, **forces).to_toml())
        then = f"flowcei sample --momenta {file} --experiment {output} --exact"
        note(f"experiment written to {output}; next: {then}")


def _known(
    path: Path | None, noise: str | None, spread: str | None, temperature: float | None
) -> dict[str, Any]:
    """Entries of an experiment that are stated, by options or by the file of one; UsageError for both."""
    known: dict[str, Any] = {"temperature": temperature}
    known |= {"noise": _noise(noise) if noise else None, "spread": _spread(spread) if spread else None}
    known = {name: value for name, value in known.items() if value is not None}
    if path is None:
        return known
    stated = _stated(path)
    if twice := sorted(set(stated) & set(known)):
        raise UsageError(f"{path} states {twice[0]}; leave out --{twice[0]}")
    return known | stated


def _show(measured: ExperimentMeasurement) -> None:
    """Print a row for each number."""
    show(text_table(measured.table().drop(columns=["number", "error"])))
    if measured.fit is not None and measured.fit.correlation is not None:
        show(f"correlation of momentum_scale and build_up: {measured.fit.correlation:.3f}")
    note(f"{measured.events} complete events; 0.123(4): the standard error is 0.004")
