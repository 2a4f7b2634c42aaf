"""`flowcei simulate`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowcei.cli.options import note, overwrite_option, seed_option, settled_seed

if TYPE_CHECKING:
    from flowcei.events.simulation import Simulator


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
    "--accuracy", type=float, default=3e-6, show_default=True, help="Relative error of the momenta."
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="File, .csv or .h5; - for CSV on stdout."
)
@click.option("--resume", is_flag=True, help="Go on with an unfinished .h5 of the same options.")
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
    resume: bool,
    seed: int | None,
    overwrite: bool,
) -> None:
    """Simulate COUNT Coulomb explosions of MOLECULE (a built-in name, .toml or .xyz).

    Any number of events goes into a .h5; what is interrupted there can be resumed.

    Example: flowcei simulate ocs -n 100000 --noise 1% -o events.h5
    """
    from flowcei.errors import UsageError
    from flowcei.events.simulation import make_simulator
    from flowcei.events.simulation import simulate as run
    from flowcei.events.storage import events_writer, write_events
    from flowcei.events.streaming import partial_path, partial_seed
    from flowcei.events.text import write_csv
    from flowcei.files import refuse_existing
    from flowcei.molecule import Molecule
    from flowcei.physics.explosion import BEST_ACCURACY

    if not accuracy >= BEST_ACCURACY:
        msg = f"--accuracy is {accuracy}; it must be {BEST_ACCURACY:g} or more"
        raise UsageError(msg)
    known = Molecule.load(molecule)
    place = output or Path(f"{known.name}.csv")
    binary = place.suffix.lower() in (".h5", ".hdf5")
    if str(place) != "-":
        events_writer(place)
        refuse_existing(place, overwrite=overwrite)
    if resume:
        if not binary or not partial_path(place).exists():
            msg = f"there is no unfinished simulation {partial_path(place)} to resume"
            raise UsageError(msg)
        seed = partial_seed(place) if seed is None else seed
    ions = ", ".join(f"{k} {q:+g}" for k, q in zip(known.labels, known.charges, strict=True))
    note(f"{known.name}: ions {ions}")
    asked: dict[str, Any] = {"prior": prior, "noise": noise, "seed": settled_seed(seed), "accuracy": accuracy}
    if binary:
        _stream(make_simulator(known, count, **asked), count, place, resume=resume, overwrite=overwrite)
        return
    events = run(known, count, **asked)
    if str(place) == "-":
        write_csv(events, sys.stdout)
        return
    write_events(events, place, overwrite=overwrite)
    note(f"{count} events of {known.name} written to {place}")


def _stream(simulator: Simulator, count: int, place: Path, *, resume: bool, overwrite: bool) -> None:
    """Simulate into a file, with a bar on a terminal."""
    from tqdm import tqdm

    from flowcei.events.streaming import simulate_to_file

    start = time.perf_counter()
    with tqdm(total=count, unit=" events", unit_scale=True, disable=None, leave=False) as bar:
        simulate_to_file(simulator, count, place, overwrite=overwrite, resume=resume, on_block=bar.update)
    seconds = time.perf_counter() - start
    name = simulator.molecule.name
    note(f"{count} events of {name} written to {place} in {seconds:.1f} s ({count / seconds:.3g} events/s)")
