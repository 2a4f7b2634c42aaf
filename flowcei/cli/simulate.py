"""`flowcei simulate`."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import flowcei
from flowcei.cli.options import (
    EVENT_FILES,
    NOISE,
    InputFile,
    ions_options,
    named_molecule,
    output_option,
    output_path,
    overwrite_option,
    seed_option,
    settled_seed,
)
from flowcei.cli.progress import Progress
from flowcei.cli.streams import note
from flowcei.errors import UsageError
from flowcei.storage.creation import partial_path

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flowcei.events.simulation import Simulator

_COUNT = 10_000  # events, where nobody says
# Those of `flowcei.study`, which takes a second to import.
_DATASETS = ("cei_traning_orient_1", "random_cos3d_10000", "generated_cos3d_check", "random_million_orient")


@click.command(short_help="Simulate Coulomb explosions of a molecule.")
@click.argument("molecule", required=False)
@click.option("-n", "count", type=click.IntRange(min=1), show_default="10000", help="Events.")
@click.option("--prior", help="Which geometries: a prior of the molecule; its default if absent.")
@click.option(
    "--noise",
    type=NOISE,
    show_default="0%",
    metavar="LEVEL",
    help="Detector noise: 1% of the event's rms momentum component, 0.5 (a.u.), or 0.1%..5%.",
)
@click.option(
    "--like",
    type=click.Choice(_DATASETS),
    metavar="DATASET",
    help="Instead of a molecule: a dataset of the first study, in its size. "
    f"{', '.join(_DATASETS[:-1])} or {_DATASETS[-1]}.",
)
@click.option(
    "--geometries", type=InputFile(), help="Instead of a prior: explode the structures of this XYZ file."
)
@click.option(
    "--as-published",
    is_flag=True,
    help="With --like: repeat the study's faults (positions not centred, turned apart from momenta).",
)
@click.option(
    "--accuracy", type=float, show_default="3e-6; 1e-9 with --like", help="Relative error of the momenta."
)
@output_option("File, .csv or .h5; - for CSV on stdout.")
@click.option("--resume", is_flag=True, help="Go on with an unfinished .h5 of the same options.")
@ions_options
@seed_option
@overwrite_option
def simulate(
    *,
    molecule: str | None,
    like: str | None,
    geometries: Path | None,
    count: int | None,
    output: Path | None,
    resume: bool,
    seed: int | None,
    overwrite: bool,
    prior: str | None,
    noise: str | None,
    accuracy: float | None,
    as_published: bool,
    **ions: str | None,
) -> None:
    """Simulate Coulomb explosions of MOLECULE (a built-in name, .toml or .xyz).

    With --like, make a dataset of the first study again, soundly or --as-published. With
    --geometries, explode the structures of an XYZ file.

    Any number of events goes into a .h5; what is interrupted there can be resumed.

    Example: flowcei simulate ocs -n 100000 --noise 1% -o events.h5
    """
    if geometries is not None:
        others = {"--like": like, "--prior": prior, "-n": count}
        _refuse_beside("--geometries", "which geometries", others)
        molecule = molecule or "ocs"
    if like is not None:
        others = {"MOLECULE": molecule, "--prior": prior, "--noise": noise}
        others |= {f"--{name.replace('_', '-')}": value for name, value in ions.items()}
        _refuse_beside(f"--like {like}", "molecule, prior and noise", others)
    elif as_published:
        raise UsageError("--as-published repeats the faults of a dataset; name it with --like")
    exploded = None if like is not None else _exploded(molecule, ions, prior)
    default = Path(f"{like if exploded is None else exploded.name}.csv")
    path = output_path(output or default, overwrite=overwrite, endings=EVENT_FILES)
    binary = path.suffix.lower() in (".h5", ".hdf5")
    if resume and not (binary and partial_path(path).exists()):
        raise UsageError(f"there is no unfinished simulation {partial_path(path)} to resume")
    how: dict[str, Any] = {} if accuracy is None else {"accuracy": _checked(accuracy)}
    if exploded is None:
        source = _dataset(str(like), count, how | {"as_published": as_published})
    elif geometries is not None:
        source = _structures(geometries, exploded, ions["length_unit"], how | {"noise": noise or "0%"})
    else:
        source = _molecule(exploded, count or _COUNT, how | {"prior": prior, "noise": noise or "0%"})
    note(f"{source.name}: {source.about}")
    seed = settled_seed(_stored_seed(path) if resume and seed is None else seed)
    if binary and source.simulator is not None:
        _stream(source, source.simulator(seed), path, resume=resume, overwrite=overwrite)
    else:
        _write(source, seed, path, overwrite=overwrite)


@dataclass(frozen=True)
class _Source:
    """What is simulated, and how for a seed: all events at once, or by a simulator into a file."""

    name: str
    about: str
    count: int
    events: Callable[[int], flowcei.Events]
    simulator: Callable[[int], Simulator] | None = None


def _exploded(name: str | None, ions: Mapping[str, str | None], prior: str | None) -> flowcei.Molecule:
    if name is None:
        raise UsageError(
            "nothing to simulate; name a MOLECULE, such as ocs, or a dataset of the first study with --like"
        )
    return named_molecule(name, ions, prior)


def _molecule(molecule: flowcei.Molecule, count: int, how: dict[str, Any]) -> _Source:
    from flowcei.events.simulation import make_simulator
    from flowcei.molecules.isotopes import described_ions

    prior = how["prior"] or molecule.default_prior
    return _Source(
        molecule.name,
        f"{described_ions(molecule)}; prior {prior}; noise {how['noise']}",
        count,
        lambda seed: flowcei.simulate(molecule, count, seed=seed, **how),
        lambda seed: make_simulator(molecule, count, seed=seed, **how),
    )


def _dataset(name: str, count: int | None, how: dict[str, Any]) -> _Source:
    from flowcei.study.datasets import STUDY_DATASETS, study_simulator, study_size

    n = count or study_size(name)
    warning = "; as published, with its faults: to study them, not to train on" * how["as_published"]
    return _Source(
        name,
        STUDY_DATASETS[name] + warning,
        n,
        lambda seed: flowcei.study_events(name, n, seed=seed, **how),
        lambda seed: study_simulator(name, seed=seed, **how),
    )


def _structures(path: Path, molecule: flowcei.Molecule, unit: str | None, how: dict[str, Any]) -> _Source:
    from flowcei.events.geometries import explode, read_geometries
    from flowcei.molecules.isotopes import described_ions

    positions = read_geometries(path, molecule, unit=unit)
    about = f"structures of {path}: {len(positions)}; {described_ions(molecule)}; noise {how['noise']}"
    return _Source(
        molecule.name, about, len(positions), lambda seed: explode(positions, molecule, seed=seed, **how)
    )


def _refuse_beside(option: str, settled: str, others: Mapping[str, object]) -> None:
    given = [name for name, value in others.items() if value is not None]
    if given:
        raise UsageError(f"{option} settles {settled}; leave out {' and '.join(given)}")


def _checked(accuracy: float) -> float:
    from flowcei.physics.explosion import BEST_ACCURACY

    if not accuracy >= BEST_ACCURACY:
        raise UsageError(f"--accuracy is {accuracy}; it must be {BEST_ACCURACY:g} or more")
    return accuracy


def _stored_seed(path: Path) -> int | None:
    from flowcei.storage.resumable import unfinished_seed

    return unfinished_seed(path)


def _stream(source: _Source, simulator: Simulator, path: Path, *, resume: bool, overwrite: bool) -> None:
    """Simulate into a file, and tell how far it has come."""
    from flowcei.events.streaming import simulate_to_file

    start, count = time.perf_counter(), source.count
    with Progress(count, "events") as bar:
        simulate_to_file(simulator, count, path, overwrite=overwrite, resume=resume, on_block=bar.update)
    seconds = time.perf_counter() - start
    rate = f"{seconds:.1f} s ({count / seconds:.3g} events/s)"
    note(f"{count} events of {source.name} written to {path} in {rate}")


def _write(source: _Source, seed: int, path: Path, *, overwrite: bool) -> None:
    from flowcei.events.text import write_csv

    events = source.events(seed)
    if str(path) == "-":
        write_csv(events, sys.stdout)
        return
    flowcei.write_events(events, path, overwrite=overwrite)
    note(f"{len(events)} events of {source.name} written to {path}")
