"""`flowcei simulate`."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import flowcei
from flowcei.cli import options
from flowcei.cli.progress import Progress
from flowcei.cli.streams import note
from flowcei.errors import UsageError
from flowcei.storage.creation import partial_path

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from flowcei.events.simulation import Simulator

_COUNT = 10_000  # events, where nobody says
# Those of `flowcei.study`, which takes a second to import.
_DATASETS = ("cei_traning_orient_1", "random_cos3d_10000", "generated_cos3d_check", "random_million_orient")


@click.command(short_help="Simulate Coulomb explosions of a molecule.")
@click.argument("molecule", required=False, type=options.MOLECULE_NAME)
@click.option("-n", "count", type=click.IntRange(min=1), show_default="10000", help="Events.")
@click.option(
    "--prior",
    help="Which geometries: a prior of the molecule; its default if absent.",
    type=options.PRIOR_NAME,
)
@click.option(
    "--noise",
    type=options.NOISE,
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
    "--geometries",
    type=options.InputFile(),
    help="Instead of a prior: explode the structures of this XYZ file.",
)
@click.option(
    "--as-published",
    is_flag=True,
    help="With --like: repeat the study's faults (positions not centred, turned apart from momenta).",
)
@click.option(
    "--accuracy", type=float, show_default="3e-6; 1e-9 with --like", help="Relative error of the momenta."
)
@options.output_option("File, .csv or .h5; - for CSV on stdout.")
@click.option("--resume", is_flag=True, help="Go on with an unfinished .h5 of the same options.")
@options.ions_options
@options.seed_option
@options.overwrite_option
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
    given = {"MOLECULE": molecule, "--prior": prior, "--noise": noise, "--like": like, "-n": count}
    given |= {f"--{name.replace('_', '-')}": value for name, value in ions.items()}
    _check_together(given, geometries, as_published=as_published)
    exploded = None
    if like is None:
        exploded = options.named_molecule(molecule or "ocs", ions, prior)
    default = Path(f"{like if exploded is None else exploded.name}.csv")
    path = options.output_path(output or default, overwrite=overwrite, endings=options.EVENT_FILES)
    binary = path.suffix.lower() in (".h5", ".hdf5")
    if resume and not (binary and partial_path(path).exists()):
        raise UsageError(f"there is no unfinished simulation {partial_path(path)} to resume")
    how: dict[str, Any] = {} if accuracy is None else {"accuracy": _checked(accuracy)}
    if exploded is None:
        source = _dataset(str(like), count, how | {"as_published": as_published})
    elif geometries is None:
        source = _molecule(exploded, count, prior, noise, how)
    else:
        source = _structures(geometries, exploded, ions["length_unit"], noise, how)
    note(f"{source.name}: {source.about}")
    seed = options.settled_seed(_stored_seed(path) if resume and seed is None else seed)
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


def _check_together(given: Mapping[str, object], geometries: Path | None, *, as_published: bool) -> None:
    """Refuse options that contradict each other, and too few of them."""
    like = given["--like"]
    if geometries is not None:
        _refuse_beside("--geometries", "which geometries", given, ("--like", "--prior", "-n"))
    if like is not None:
        _refuse_beside(f"--like {like}", "molecule, prior and noise", given, given.keys() - {"--like", "-n"})
    elif as_published:
        raise UsageError("--as-published repeats the faults of a dataset; name it with --like")
    elif geometries is None and given["MOLECULE"] is None:
        raise UsageError(
            "nothing to simulate; name a MOLECULE, such as ocs, or a dataset of the first study with --like"
        )


def _molecule(
    molecule: flowcei.Molecule, count: int | None, prior: str | None, noise: str | None, how: dict[str, Any]
) -> _Source:
    from flowcei.events.simulation import make_simulator
    from flowcei.molecules.isotopes import described_ions

    n, how = count or _COUNT, how | {"prior": prior, "noise": noise or "0%"}
    return _Source(
        molecule.name,
        f"{described_ions(molecule)}; prior {prior or molecule.default_prior}; noise {how['noise']}",
        n,
        lambda seed: flowcei.simulate(molecule, n, seed=seed, **how),
        lambda seed: make_simulator(molecule, seed=seed, **how),
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


def _structures(
    path: Path, molecule: flowcei.Molecule, unit: str | None, noise: str | None, how: dict[str, Any]
) -> _Source:
    from flowcei.events.foreign.structures import read_geometries
    from flowcei.events.simulation import explode
    from flowcei.molecules.isotopes import described_ions

    positions, how = read_geometries(path, molecule, unit=unit), how | {"noise": noise or "0%"}
    about = f"structures of {path}: {len(positions)}; {described_ions(molecule)}; noise {how['noise']}"
    return _Source(
        molecule.name, about, len(positions), lambda seed: explode(positions, molecule, seed=seed, **how)
    )


def _refuse_beside(option: str, settled: str, named: Mapping[str, object], others: Collection[str]) -> None:
    given = [name for name, value in named.items() if name in others and value is not None]
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
    from flowcei.events.simulation import simulate_to_file

    start, count = time.perf_counter(), source.count
    with Progress(count, "events") as bar:
        simulate_to_file(simulator, count, path, overwrite=overwrite, resume=resume, on_block=bar.update)
    seconds = time.perf_counter() - start
    rate = f"{seconds:.1f} s ({count / seconds:.3g} events/s)"
    note(f"{count} events of {source.name} written to {path} in {rate}")


def _write(source: _Source, seed: int, path: Path, *, overwrite: bool) -> None:
    from flowcei.events.storage import write_csv

    events = source.events(seed)
    if str(path) == "-":
        write_csv(events, sys.stdout)
        return
    flowcei.write_events(events, path, overwrite=overwrite)
    note(f"{len(events)} events of {source.name} written to {path}")
