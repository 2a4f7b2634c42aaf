"""`flowcei simulate`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from flowcei.cli.options import note, overwrite_option, seed_option, settled_seed


@click.command(short_help="Simulate Coulomb explosions of a molecule.")
@click.argument("molecule")
@click.option("-n", "count", type=click.IntRange(min=1), default=10_000, show_default=True, help="Events.")
@click.option("--prior", help="Which geometries: a prior of the molecule; its default if absent.")
@click.option(
    "--noise",
    default="0%",
    show_default=True,
    metavar="LEVEL",
    help="Detector noise: 1% of the event's rms momentum component, 0.5 (a.u.), or 0.1%..5%.",
)
@click.option(
    "--accuracy", type=float, default=1e-6, show_default=True, help="Relative error of the momenta."
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="File, .csv or .h5; - for CSV on stdout."
)
@seed_option
@overwrite_option
def simulate(
    *,
    molecule: str,
    count: int,
    prior: str | None,
    noise: str,
    accuracy: float,
    output: Path | None,
    seed: int | None,
    overwrite: bool,
) -> None:
    """Simulate COUNT Coulomb explosions of MOLECULE (a built-in name, .toml or .xyz).

    Example: flowcei simulate ocs -n 100000 --noise 1% -o events.h5
    """
    from flowcei.errors import UsageError
    from flowcei.events.simulation import simulate as run
    from flowcei.events.storage import events_writer, write_events
    from flowcei.events.text import write_csv
    from flowcei.files import refuse_existing
    from flowcei.molecule import Molecule
    from flowcei.physics.explosion import BEST_ACCURACY

    if not accuracy >= BEST_ACCURACY:
        msg = f"--accuracy is {accuracy}; it must be {BEST_ACCURACY:g} or more"
        raise UsageError(msg)
    known = Molecule.load(molecule)
    place = output or Path(f"{known.name}.csv")
    if str(place) != "-":
        events_writer(place)
        refuse_existing(place, overwrite=overwrite)
    ions = ", ".join(f"{k} {q:+g}" for k, q in zip(known.labels, known.charges, strict=True))
    note(f"{known.name}: ions {ions}")
    events = run(known, count, prior=prior, noise=noise, seed=settled_seed(seed), accuracy=accuracy)
    if str(place) == "-":
        write_csv(events, sys.stdout)
        return
    write_events(events, place, overwrite=overwrite)
    note(f"{count} events of {known.name} written to {place}")
