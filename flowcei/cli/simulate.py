"""`flowcei simulate`."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowcei.cli.options import (
    InputFile,
    ions_options,
    named_molecule,
    note,
    overwrite_option,
    seed_option,
    settled_seed,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flowcei.events.container import Events
    from flowcei.events.simulation import Simulator

_COUNT = 10_000  # events, where nobody says


@click.command(short_help="Simulate Coulomb explosions of a molecule.")
@click.argument("molecule", required=False)
@click.option("-n", "count", type=click.IntRange(min=1), show_default="10000", help="Events.")
@click.option("--prior", help="Which geometries: a prior of the molecule; its default if absent.")
@click.option(
    "--noise",
    show_default="0%",
    metavar="LEVEL",
    help="Detector noise: 1% of the event's rms momentum component, 0.5 (a.u.), or 0.1%..5%.",
)
@click.option(
    "--like",
    metavar="DATASET",
    help="Instead of a molecule: a dataset of the first study, in its size. cei_traning_orient_1, "
    "random_cos3d_10000, generated_cos3d_check or random_million_orient.",
)
@click.option(
    "--geometries",
    type=InputFile(),
    help="Instead of a prior: explode the structures of this XYZ file.",
)
@click.option(
    "--as-published",
    is_flag=True,
    help="With --like: repeat the study's faults (positions not centred, turned apart from momenta).",
)
@click.option(
    "--accuracy",
    type=float,
    show_default="3e-6; 1e-9 with --like",
    help="Relative error of the momenta.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="File, .csv or .h5; - for CSV on stdout."
)
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
    from flowcei.errors import UsageError
    from flowcei.storage.creation import check_output

    if output is not None and str(output) != "-":
        check_output(output, overwrite=overwrite)
    from flowcei.events.storage import events_writer, write_events  # after what costs nothing to refuse
    from flowcei.events.text import write_csv
    from flowcei.storage.resumable import partial_path, unfinished_seed

    precise = _checked(accuracy)
    if geometries is not None:
        others = {"--like": like, "--prior": prior, "-n": count}
        _refuse_beside("--geometries", "which geometries", others)
        source = _structures(geometries, molecule or "ocs", ions, noise or "0%", precise)
    elif like is None:
        source = _molecule(molecule, ions, count, prior, noise, precise, as_published=as_published)
    else:
        _refuse_beside(
            f"--like {like}",
            "molecule, prior and noise",
            {"MOLECULE": molecule, "--prior": prior, "--noise": noise, "--isotopes": ions["isotopes"]}
            | {"--charges": ions["charges"]},
        )
        source = _dataset(like, count, precise, as_published=as_published)
    place = output or Path(f"{source.name}.csv")
    binary = place.suffix.lower() in (".h5", ".hdf5")
    if str(place) != "-":
        events_writer(place)
        check_output(place, overwrite=overwrite)
    if resume:
        if not binary or not partial_path(place).exists():
            msg = f"there is no unfinished simulation {partial_path(place)} to resume"
            raise UsageError(msg)
        seed = unfinished_seed(place) if seed is None else seed
    note(f"{source.name}: {source.about}")
    seed = settled_seed(seed)
    if binary and source.simulator is not None:
        _stream(source, source.simulator, seed, place, resume=resume, overwrite=overwrite)
        return
    events = source.events(seed)
    if str(place) == "-":
        write_csv(events, sys.stdout)
        return
    write_events(events, place, overwrite=overwrite)
    note(f"{len(events)} events of {source.name} written to {place}")


@dataclass(frozen=True)
class _Source:
    """What is simulated: how it is called and described, and, given a seed, how it is made."""

    name: str
    about: str
    count: int
    simulator: Callable[[int], Simulator] | None
    events: Callable[[int], Events]


def _molecule(
    molecule: str | None,
    ions: dict[str, str | None],
    count: int | None,
    prior: str | None,
    noise: str | None,
    precise: dict[str, float],
    *,
    as_published: bool,
) -> _Source:
    from flowcei.errors import UsageError
    from flowcei.events.simulation import make_simulator
    from flowcei.events.simulation import simulate as run
    from flowcei.molecules.isotopes import described_ions

    if as_published:
        msg = "--as-published repeats the faults of a dataset; name it with --like"
        raise UsageError(msg)
    if molecule is None:
        msg = "nothing to simulate; name a MOLECULE, such as ocs, or a dataset of the first study with --like"
        raise UsageError(msg)
    known, n = named_molecule(molecule, ions), count or _COUNT
    asked: dict[str, Any] = {"prior": prior, "noise": noise or "0%", **precise}
    return _Source(
        known.name,
        f"{described_ions(known)}; prior {prior or known.default_prior}; noise {noise or '0%'}",
        n,
        lambda seed: make_simulator(known, n, seed=seed, **asked),
        lambda seed: run(known, n, seed=seed, **asked),
    )


def _dataset(name: str, count: int | None, precise: dict[str, float], *, as_published: bool) -> _Source:
    from flowcei.study.datasets import STUDY_DATASETS, study_events, study_simulator, study_size

    n = count or study_size(name)
    asked: dict[str, Any] = {"as_published": as_published, **precise}
    warning = "; as published, with its faults: to study them, not to train on" if as_published else ""
    return _Source(
        name,
        STUDY_DATASETS[name] + warning,
        n,
        lambda seed: study_simulator(name, seed=seed, **asked),
        lambda seed: study_events(name, n, seed=seed, **asked),
    )


def _structures(
    path: Path, molecule: str, ions: dict[str, str | None], noise: str, precise: dict[str, float]
) -> _Source:
    from flowcei.events.geometries import explode, read_geometries
    from flowcei.molecules.isotopes import described_ions

    known = named_molecule(molecule, ions)
    positions = read_geometries(path, known, unit=ions["length_unit"])
    about = f"structures of {path}: {len(positions)}; {described_ions(known)}; noise {noise}"
    return _Source(
        known.name,
        about,
        len(positions),
        None,
        lambda seed: explode(positions, known, noise=noise, seed=seed, **precise),
    )


def _refuse_beside(option: str, settled: str, others: Mapping[str, object]) -> None:
    from flowcei.errors import UsageError

    given = [name for name, value in others.items() if value is not None]
    if given:
        msg = f"{option} settles {settled}; leave out {' and '.join(given)}"
        raise UsageError(msg)


def _checked(accuracy: float | None) -> dict[str, float]:
    """Return the accuracy as an argument, or none where the default of the source is meant."""
    from flowcei.errors import UsageError
    from flowcei.physics.explosion import BEST_ACCURACY

    if accuracy is None:
        return {}
    if not accuracy >= BEST_ACCURACY:
        msg = f"--accuracy is {accuracy}; it must be {BEST_ACCURACY:g} or more"
        raise UsageError(msg)
    return {"accuracy": accuracy}


def _stream(
    source: _Source,
    make: Callable[[int], Simulator],
    seed: int,
    place: Path,
    *,
    resume: bool,
    overwrite: bool,
) -> None:
    """Simulate into a file, and tell how far it has come."""
    from flowcei.cli.progress import Progress
    from flowcei.events.streaming import simulate_to_file

    start, count = time.perf_counter(), source.count
    simulator = make(seed)
    with Progress(count, "events") as bar:
        simulate_to_file(simulator, count, place, overwrite=overwrite, resume=resume, on_block=bar.update)
    seconds = time.perf_counter() - start
    rate = f"{seconds:.1f} s ({count / seconds:.3g} events/s)"
    note(f"{count} events of {source.name} written to {place} in {rate}")
