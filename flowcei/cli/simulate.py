"""`flowcei simulate`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import flowcei
from flowcei.cli import options
from flowcei.cli.experiment_options import Detector, build_up_option, experiment_option
from flowcei.cli.options import flag, option
from flowcei.cli.progress import Progress
from flowcei.cli.sharing import Sharing, sharing_options
from flowcei.cli.streams import note
from flowcei.errors import UsageError
from flowcei.storage.creation import partial_path

if TYPE_CHECKING:
    from flowcei.events.simulation import Simulator
    from flowcei.workers.order import Each

    _Source = tuple[str, int, Callable[..., Simulator | flowcei.Events]]  # about it, how many, of a seed

_COUNT = 10_000  # events, where nobody says
# Those of `flowcei.study`, which takes a second to import.
_DATASETS = ("cei_traning_orient_1", "random_cos3d_10000", "generated_cos3d_check", "random_million_orient")


@click.command()
@click.argument("molecule", required=False, type=options.MOLECULE_NAME)
@option("-n count", "Events.", options.COUNT, show_default="10000")
@option(
    "--prior",
    "Which geometries: a prior of the molecule, or .toml; the default if absent.",
    options.PRIOR_NAME,
)
@option(
    "--noise",
    "Detector noise: 1% of the event's rms momentum component, 0.5 (a.u.), or 0.1%..5%.",
    options.NOISE,
    show_default="0%",
    metavar="LEVEL",
)
@experiment_option("Instead of --noise: resolution, source, efficiency and accidents of an experiment, TOML.")
@build_up_option("Time in which charges appear: 10fs, or 5fs,10fs,10fs for each ion; at once if absent.")
@option(
    "--missing",
    "Ions that an event may lack where the experiment states an efficiency; events that lack more, or leave "
    "fewer than two, are not kept.",
    click.IntRange(min=0),
    default=1,
    show_default=True,
)
@option(
    "--like",
    "Instead of a molecule: a dataset of the first study, in its size. "
    f"{', '.join(_DATASETS[:-1])} or {_DATASETS[-1]}.",
    click.Choice(_DATASETS),
    metavar="DATASET",
)
@option("--geometries", "Instead of a prior: explode the structures of this XYZ file.", options.INPUT)
@option(
    "--movie",
    "Instead of a prior: geometries that move with a delay along one or several pathways, TOML.",
    options.INPUT,
)
@flag(
    "--as-published",
    "With --like: repeat the study's faults (positions not centred, turned apart from momenta).",
)
@option("--accuracy", "Relative error of the momenta.", float, show_default="3e-6; 1e-9 with --like")
@options.output_option("File, .csv or .h5; - for CSV on stdout.")
@flag("--resume", "Go on with an unfinished .h5 of the same options.")
@options.ions_options
@options.seed_option
@sharing_options
@options.overwrite_option
def simulate(
    *,
    molecule: str | None,
    like: str | None,
    geometries: Path | None,
    movie: Path | None,
    count: int | None,
    output: Path | None,
    resume: bool,
    seed: int | None,
    sharing: Sharing,
    overwrite: bool,
    prior: str | None,
    noise: str | None,
    experiment: Path | None,
    build_up: str | None,
    missing: int,
    accuracy: float | None,
    as_published: bool,
    **ions: str | None,
) -> None:
    """Simulate Coulomb explosions of MOLECULE (a built-in name, .toml or .xyz).

    With --like, make a dataset of the first study again, soundly or --as-published. With
    --geometries, explode the structures of an XYZ file. With --movie, events at several delays (column
    delay): docs/population.md says what its file holds.

    Any number of events goes into a .h5; what is interrupted there can be resumed.

    Example: flowcei simulate ocs -n 100000 --noise 1% -o events.h5
    """
    given = {"MOLECULE": molecule, "--prior": prior, "--noise": noise, "--like": like, "-n": count}
    given |= {"--experiment": str(experiment) if experiment else None, "--build-up": build_up}
    given |= {f"--{name.replace('_', '-')}": value for name, value in ions.items()}
    _check_together(given, geometries, movie, as_published=as_published)
    exploded, detector = None, Detector(noise)
    if like is None:
        exploded = options.named_molecule(molecule or "ocs", ions, prior)
        detector = Detector.of(noise, experiment, build_up, exploded, missing)
    name = str(like) if exploded is None else exploded.name
    path = output or Path(f"{name}.csv")
    options.output_path(path, overwrite=overwrite, endings=options.EVENT_FILES)
    _check_resume(path, resume=resume)
    _check_shared(sharing, path, of_prior=geometries is None and movie is None)
    each = sharing.each("flowcei.events.simulation")
    how: dict[str, Any] = {} if accuracy is None else {"accuracy": _checked(accuracy)}
    if exploded is None:
        about, n, make = _dataset(str(like), count, how | {"as_published": as_published})
    elif movie is not None:
        about, n, make = _movie(exploded, movie, how, detector)
    elif geometries is None:
        about, n, make = _molecule(exploded, count, how | {"prior": prior}, detector)
    else:
        about, n, make = _structures(geometries, exploded, ions["length_unit"], how, detector)
    note(f"{name}: {about}")
    made = make(seed=options.settled_seed(seed, path if resume else None))
    rate = _write(made, n, path, each, overwrite=overwrite, resume=resume)
    if str(path) != "-":
        note(f"{n} events of {name} written to {path}{rate}")


def _check_together(
    given: Mapping[str, object], geometries: Path | None, movie: Path | None, *, as_published: bool
) -> None:
    """Refuse options that contradict each other, and too few of them."""
    like = given["--like"]
    named = {"--geometries": geometries, "--movie": movie}
    settled = [
        (name, "which geometries", ["--prior", "--like", "-n"]) for name, path in named.items() if path
    ]
    if movie and geometries:
        raise UsageError("--movie and --geometries: name one of them")
    if like is not None:
        others = [name for name in given if name not in ("--like", "-n")]
        settled.append((f"--like {like}", "molecule, prior and noise", others))
    for name, topic, others in settled:
        if beside := [other for other in others if given[other] is not None]:
            raise UsageError(f"{name} settles {topic}; leave out {' and '.join(beside)}")
    if given["--experiment"] is not None and given["--noise"] is not None:
        raise UsageError("--experiment states the noise; leave out --noise")
    if like is not None:
        return
    if as_published:
        raise UsageError("--as-published repeats the faults of a dataset; name it with --like")
    if geometries is None and given["MOLECULE"] is None:
        raise UsageError(
            "nothing to simulate; name a MOLECULE, such as ocs, or a dataset of the first study with --like"
        )


def _check_shared(sharing: Sharing, path: Path, *, of_prior: bool) -> None:
    """Refuse to share what is not written block by block."""
    if sharing.shared and not (of_prior and path.suffix.lower() in options.EVENT_FILES[1:]):
        raise UsageError("--workers and --cluster share events of a prior, written to .h5; leave them out")


def _check_resume(path: Path, *, resume: bool) -> None:
    if resume and (path.suffix.lower() not in (".h5", ".hdf5") or not partial_path(path).exists()):
        raise UsageError(f"there is no unfinished simulation {partial_path(path)} to resume")


def _checked(accuracy: float) -> float:
    from flowcei.physics.explosion import BEST_ACCURACY

    if not accuracy >= BEST_ACCURACY:
        raise UsageError(f"--accuracy is {accuracy}; it must be {BEST_ACCURACY:g} or more")
    return accuracy


def _molecule(
    molecule: flowcei.Molecule, count: int | None, how: dict[str, Any], detector: Detector
) -> _Source:
    from flowcei.events.simulation import make_simulator
    from flowcei.molecules.isotopes import described_ions

    prior = how["prior"] or molecule.default_prior
    about = f"{described_ions(molecule)}; prior {prior}; {detector}"
    return about, count or _COUNT, partial(make_simulator, molecule, **how, **detector._asdict())


def _dataset(name: str, count: int | None, how: dict[str, Any]) -> _Source:
    from flowcei.study.datasets import STUDY_DATASETS, study_simulator, study_size

    warning = "; as published, with its faults: to study them, not to train on" * how["as_published"]
    return STUDY_DATASETS[name] + warning, count or study_size(name), partial(study_simulator, name, **how)


def _movie(molecule: flowcei.Molecule, path: Path, how: dict[str, Any], detector: Detector) -> _Source:
    from flowcei.events.movie import movie_size, simulate_movie
    from flowcei.storage.files import read_toml

    movie = read_toml(path)
    make = partial(simulate_movie, molecule, movie, **how, **detector._asdict())
    return f"movie {path}; {detector}", movie_size(movie), make


def _structures(
    path: Path, molecule: flowcei.Molecule, unit: str | None, how: dict[str, Any], detector: Detector
) -> _Source:
    from flowcei.events.foreign.structures import read_geometries
    from flowcei.events.simulation import explode
    from flowcei.molecules.isotopes import described_ions

    positions = read_geometries(path, molecule, unit=unit)
    about = f"structures of {path}: {len(positions)}; {described_ions(molecule)}; {detector}"
    return about, len(positions), partial(explode, positions, molecule, **how, **detector._asdict())


def _write(made: Simulator | flowcei.Events, n: int, path: Path, each: Each, **how: bool) -> str:
    """Write events, those of a simulator in HDF5 as they are made; return how fast, where that is told."""
    from flowcei.events.simulation import simulate_to_file
    from flowcei.events.storage import write_csv

    if not isinstance(made, flowcei.Events) and path.suffix.lower() in options.EVENT_FILES[1:]:
        start = time.perf_counter()
        with Progress(n, "events") as bar:
            simulate_to_file(made, n, path, each=each, on_block=bar.update, **how)
        seconds = time.perf_counter() - start
        return f" in {seconds:.1f} s ({n / seconds:.3g} events/s)"
    events = made if isinstance(made, flowcei.Events) else made.events(n)
    if str(path) == "-":
        write_csv(events, sys.stdout)
    else:
        flowcei.write_events(events, path, overwrite=how["overwrite"])
    return ""
