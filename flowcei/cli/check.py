"""`flowcei check`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flowcei.cli import options
from flowcei.cli.runs import MODEL_NAME
from flowcei.cli.streams import note, show
from flowcei.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowcei.check.finding import Report
    from flowcei.check.verdict import RunCheck
    from flowcei.events.container import Events
    from flowcei.events.foreign.interpretation import Reading
    from flowcei.reconstruction.model import Reconstructor

_REJECTED = 3
_TITLES = {"error": "Errors", "warning": "Warnings", "note": "Notes"}


@click.command(short_help="Check whether a data file is sound and can bear a claim.")
@click.argument("file", type=options.InputFile())
@options.molecule_option
@click.option(
    "--model", type=MODEL_NAME, help="A model file or run, or bundled: is the run what its prior predicts?"
)
@click.option("--prior", help="Is the run what this prior of the molecule predicts?")
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
    if prior is not None and molecule is None:
        _refuse_unnamed(file, prior)
    from flowcei.check.examination import examine_file

    stated = reading()
    report = examine_file(file, claimed if trained is None else trained.molecule, stated)
    if molecule is None and report.events is not None:
        options.warn_of_masses(report.events.molecule, of_model=trained is not None)
    run = _compared(report, trained, molecule, prior, noise)
    if as_json:
        about = (
            run.to_dict()
            if not isinstance(run, str)
            else {"compared": 0, "remarks": [run or "nothing to compare with was named"]}
        )
        show(json.dumps(report.to_dict() | {"run": about}, indent=1))
    else:
        _show(report)
        _show_run(run, stated.columns)
    if output is not None:
        _repair(report, output, overwrite=overwrite)
    if not report.sound or (not isinstance(run, str) and run.severity == "error"):
        sys.exit(_REJECTED)


def _refuse_unnamed(file: Path, prior: str) -> None:
    """Refuse a prior of a molecule that neither user nor file names: a default would decide."""
    from flowcei.events.hdf import hdf_molecule

    if hdf_molecule(file) is None:
        raise UsageError(f"--prior {prior} is of a molecule: name it with --molecule")


def _trained(model: str | None, **others: str | None) -> Reconstructor | None:
    """Return the model meant, None where none is named."""
    from flowcei.cli.runs import load_named

    if model is None:
        return None
    if given := [name.replace("_", "-") for name, value in others.items() if value is not None]:
        raise UsageError(f"a model states its molecule and prior; leave out --{given[0]}")
    return load_named(model, "cpu")[1]


def _compared(
    report: Report, trained: Reconstructor | None, molecule: str | None, prior: str | None, noise: str | None
) -> RunCheck | str:
    """Compare the run with the prior meant, or return why it is not compared, "" where nobody asks."""
    from flowcei.check.verdict import check_run
    from flowcei.cli.runcheck import NO_PRIOR

    events = report.events
    if events is None or any(finding.code == "extreme" for finding in report.findings):
        return "the file holds nothing to compare"
    if trained is not None:
        return check_run(events, trained.prior, noise) if trained.prior_spec is not None else NO_PRIOR
    bare = events.positions is None
    if prior is None and bare and isinstance(events.origin.get("prior"), dict):
        return _compared_with_stated(events, noise)
    if prior is None and noise is None and not (bare and molecule is not None and events.molecule.priors):
        return "give --model, or --molecule and --prior" if bare else ""
    return check_run(events, prior, noise)


def _compared_with_stated(events: Events, noise: str | None) -> RunCheck | str:
    """Compare momenta with the prior that their file states, or return why it cannot be built."""
    from flowcei.check.verdict import check_run
    from flowcei.physics.priors import build_prior

    try:
        return check_run(events, build_prior(events.molecule, events.origin["prior"]), noise)
    except UsageError as error:
        return f"the prior that the file states cannot be built ({error}); give --prior"


def _show_run(run: RunCheck | str, columns: str) -> None:
    from flowcei.cli.runcheck import show_run_check

    if not isinstance(run, str):
        show_run_check(run, columns)
    elif run:
        show(f"the run was not compared with what a model predicts of it: {run}")


def _show(report: Report) -> None:
    from flowcei.check.finding import SEVERITIES
    from flowcei.molecules.isotopes import described_ions

    good = 0 if report.events is None else len(report.events)
    count = f"{report.rows} events" if good == report.rows else f"{good} of {report.rows} events readable"
    show(f"{' '.join(report.path.split())}: {report.molecule}, {count}")
    if report.events is not None:
        show(described_ions(report.events.molecule))
    for severity in SEVERITIES:
        findings = [f for f in report.findings if f.severity == severity]
        if findings:
            show(f"\n{_TITLES[severity]}")
        for finding in findings:
            show(f"  {finding.code}: {finding.what}")
            show(f"      {finding.means}")
            if finding.todo:
                show(f"      -> {finding.todo}")
    show(f"\n{report.verdict}")


def _repair(report: Report, output: Path, *, overwrite: bool) -> None:
    from flowcei.check.repair import repair
    from flowcei.errors import DataError
    from flowcei.events.storage import write_events

    if report.events is None:
        raise DataError("no event is sound: nothing to repair", path=report.path)
    if any(finding.code == "extreme" for finding in report.findings):
        raise DataError("holds numbers beyond 1e50, or none above 1e-50: remove them first", path=report.path)
    repaired, changes = repair(report.events)
    write_events(repaired, output, overwrite=overwrite)
    note(f"repaired: {changes}")
    left_out = report.rows - len(repaired)
    if left_out:
        note(f"{left_out} of {report.rows} events could not be read and were left out")
    note(f"{len(repaired)} events written to {output}")
