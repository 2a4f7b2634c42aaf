"""`flowcei plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from flowcei.cli import options
from flowcei.cli.experiment_options import experiment_option
from flowcei.cli.options import option
from flowcei.cli.streams import note, show, show_json, show_table, write_results


@click.command()
@click.argument("molecule", type=options.MOLECULE_NAME)
@option(
    "--want",
    "'c-s 0.02': error of the mean of a bond (bohr) or an angle (deg); 'width:c-s 0.01'; 'share:PRIOR 0.02'.",
    metavar="'NAME ERROR'",
    multiple=True,
    required=True,
)
@option("--prior", "Law of the geometries: a prior of the molecule, or its TOML file.", metavar="NAME")
@option("--noise", "One or several levels of the detector: 0.5%,1%,3%.", metavar="LEVELS", show_default="1%")
@option(
    "--charges",
    "Of the ions: 2,2,2 in their order, or one for all; several times.",
    metavar="LIST",
    multiple=True,
)
@experiment_option("Resolution, source, efficiency and accidents, TOML; --noise stands in place of its own.")
@option(
    "--missing",
    "Ions that an event may lack: 0, 1, ... of them are compared.",
    click.IntRange(min=0),
    default=0,
)
@option(
    "--check", "Compare with simulated events that this model samples: bundled, or a run.", metavar="MODEL"
)
@options.output_option("Folder; NAME-plan if absent.")
@options.json_option()
@option("--seed", "Of the geometries.", options.SEED, default=0)
@options.overwrite_option
def plan(
    *,
    molecule: str,
    want: tuple[str, ...],
    prior: str | None,
    noise: str | None,
    charges: tuple[str, ...],
    experiment: Path | None,
    missing: int,
    check: str | None,
    output: Path | None,
    as_json: bool,
    seed: int,
    overwrite: bool,
) -> None:
    """Say how many events of MOLECULE reach a wanted error.

    Of the mean of a bond or an angle, of the width of its law, or of the share of a second prior
    (share:PRIOR=0.3 where 30 % of the events are of it). The geometries are those of a prior; errors follow
    from the information that noisy momenta hold. --check simulates at most 300 events of each setting,
    samples and unfolds them, and shows which error that reaches.

    Writes table.csv and plan.png.

    Example: flowcei plan ocs --want "c-s 0.02" --want "width:c-s 0.01" --noise 0.5%,1%,3%
    """
    from flowcei.molecules.molecule import Molecule

    own = Molecule.load(molecule)
    folder = output or Path(f"{own.name}-plan")
    options.check_folder(folder, overwrite=overwrite)
    import flowcei

    levels = None if noise is None else noise.split(",")
    how: dict[str, Any] = {"noise": levels, "charges": charges, "experiment": experiment, "missing": missing}
    made = flowcei.plan(own, want, prior=prior, seed=seed, **how)
    checked = None
    if check is not None:
        from flowcei.cli.runs import load_named

        checked = made.check(load_named(check, "cpu")[1])
    options.made_folder(folder, overwrite=overwrite)
    results = {"table.csv": made.to_dataframe(), "plan.png": made.plot()}
    write_results(results | ({} if checked is None else {"check.csv": checked}), folder, overwrite=overwrite)
    if as_json:
        show_json(made.to_dict() | ({} if checked is None else {"check": checked.to_dict("records")}))
    else:
        show_table(made.to_dataframe(), as_json=False)
        if checked is not None:
            show("")
            show_table(checked, as_json=False)
    note("\nblur: error of one event (median); sd: width of the law; events: that have to be kept")
    if checked is not None:
        note("promised, reached: errors by the simulated events; away: from the truth, in such errors")
    note(f"table and picture in {folder}")
