"""`flowcei check`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import click

import flowcei
from flowcei.cli import options
from flowcei.cli.runcheck import NO_PRIOR, show_run_check
from flowcei.cli.runs import MODEL_NAME, load_named
from flowcei.cli.streams import note, show
from flowcei.errors import DataError, UsageError

if TYPE_CHECKING:
    from flowcei.check.diagnostic import FileCheck
    from flowcei.check.run import RunCheck
    from flowcei.events.foreign.interpretation import Reading
    from flowcei.reconstruction.model import Reconstructor

_REJECTED = 3


@click.command()
@click.argument("file", type=options.InputFile())
@options.molecule_option
@click.option(
    "--model", type=MODEL_NAME, help="A model file or run, or bundled: is the run what its prior predicts?"
)
@click.option(
    "--prior", type=options.PRIOR_NAME, help="Is the run what this prior, or .toml of one, predicts?"
)
@options.noise_option
@options.ions_options
@click.option(
    "--repair",
    "output",
    type=click.Path(path_type=Path),
    help="Write the events to this .csv or .h5, positions centred and in the frame of the momenta.",
)
@options.json_option()
@options.reading_options
@options.overwrite_option
def check(
    *,
    file: Path,
    molecule: str | None,
    model: str | None,
    prior: str | None,
    noise: str | None,
    output: Path | None,
    as_json: bool,
    reading: Callable[[], Reading],
    overwrite: bool,
    **ions: str | None,
) -> None:
    """Check whether FILE is sound: units, charges, frames, noise, columns, duplicates.

    Positions are exploded anew and compared with the momenta. With --model or --prior, and for
    momenta alone with --molecule, the run is compared with what the prior predicts of it: KER,
    energy shares, angles, momentum sums. Ends with exit code 3 where something makes what is
    trained on the file, or reconstructed from it, wrong.

    Example: flowcei check events.csv --model bundled
    """
    if output is not None:
        options.output_path(output, overwrite=overwrite, endings=options.EVENT_FILES, source=file)
    claimed = options.named_or_none(molecule, ions, prior)
    trained = _trained(model, molecule=molecule, prior=prior, **ions)
    from flowcei.events.hdf import hdf_molecule  # which brings pandas and h5py

    if prior is not None and molecule is None and hdf_molecule(file) is None:  # a default would decide
        raise UsageError(f"--prior {prior} is of a molecule: name it with --molecule")
    stated = reading()
    checked = flowcei.check_file(file, claimed if trained is None else trained.molecule, stated)
    if molecule is None and checked.events is not None:
        options.warn_of_masses(checked.events.molecule, of_model=trained is not None)
    run = _compared(checked, trained, molecule, prior, noise)
    _report(checked, run, stated.columns, as_json=as_json)
    if output is not None:
        _repair(checked, output, overwrite=overwrite)
    if not checked.sound or (not isinstance(run, str) and run.severity == "error"):
        sys.exit(_REJECTED)


def _report(checked: FileCheck, run: RunCheck | str, columns: str, *, as_json: bool) -> None:
    """Print what was found of a file and of its run; of a run that was not compared, why."""
    if as_json:
        unasked = {"compared": 0, "remarks": [run or "nothing to compare with was named"]}
        table = unasked if isinstance(run, str) else run.to_dict()
        show(json.dumps(checked.to_dict() | {"run": table}, indent=1))
        return
    _show(checked)
    if not isinstance(run, str):
        show_run_check(run, columns)
    elif run:
        show(f"the run was not compared with what a model predicts of it: {run}")


def _trained(model: str | None, **others: str | None) -> Reconstructor | None:
    """Return the model meant, None where none is named."""
    if model is None:
        return None
    if given := [name.replace("_", "-") for name, value in others.items() if value is not None]:
        raise UsageError(f"a model states its molecule and prior; leave out --{given[0]}")
    return load_named(model, "cpu")[1]


def _compared(
    checked: FileCheck,
    trained: Reconstructor | None,
    molecule: str | None,
    prior: str | None,
    noise: str | None,
) -> RunCheck | str:
    """Compare the run with the prior meant, or return why it is not compared, "" where nobody asks."""
    from flowcei.check.run import OF_EXPERIMENT
    from flowcei.experiment.experiment import stated_experiment

    if (events := checked.usable) is None:
        return "the file holds nothing to compare"
    if (own := stated_experiment(events.origin)) is not None:
        asked = any((trained, prior, noise, molecule))
        if not asked or not own.of(events.molecule).isotropic:
            return OF_EXPERIMENT if asked else ""
        events = own.calibrated(events)
    if trained is not None:
        return NO_PRIOR if trained.prior_spec is None else flowcei.check_run(events, trained.prior, noise)
    if prior is None and events.positions is None:
        return _compared_with_its_own(events, noise, named=molecule is not None)
    return flowcei.check_run(events, prior, noise) if prior or noise else ""


def _compared_with_its_own(events: flowcei.Events, noise: str | None, *, named: bool) -> RunCheck | str:
    """Compare momenta alone with the prior that they state, or else the default one of a molecule named."""
    stated = events.origin.get("prior")
    if not isinstance(stated, dict):
        usable = noise or (named and events.molecule.priors)
        return flowcei.check_run(events, None, noise) if usable else "give --model, or --molecule and --prior"
    try:
        return flowcei.check_run(events, stated, noise)
    except UsageError as error:
        return f"the prior that the file states cannot be built ({error}); give --prior"


def _show(checked: FileCheck) -> None:
    from flowcei.molecules.isotopes import described_ions

    good = 0 if checked.events is None else len(checked.events)
    count = f"{checked.rows} events" if good == checked.rows else f"{good} of {checked.rows} events readable"
    show(f"{' '.join(checked.path.split())}: {checked.molecule}, {count}")
    if checked.events is not None:
        show(described_ions(checked.events.molecule))
    for severity, lines in groupby(checked.diagnostics, key=lambda line: line.severity):
        show(f"\n{severity.capitalize()}s")
        for line in lines:
            show(f"  {line.code}: {line.message}")
            show(f"      {line.means}")
            if line.todo:
                show(f"      -> {line.todo}")
    show(f"\n{checked.verdict}")


def _repair(checked: FileCheck, output: Path, *, overwrite: bool) -> None:
    if checked.events is None:
        raise DataError("no event is sound: nothing to repair", path=checked.path)
    if checked.usable is None:
        raise DataError(
            "holds numbers beyond 1e50, or none above 1e-50: remove them first", path=checked.path
        )
    repaired, changes = flowcei.repair(checked.usable)
    flowcei.write_events(repaired, output, overwrite=overwrite)
    note(f"repaired: {changes}")
    if lost := checked.rows - len(repaired):
        note(f"{lost} of {checked.rows} events could not be read and were left out")
    note(f"{len(repaired)} events written to {output}")
