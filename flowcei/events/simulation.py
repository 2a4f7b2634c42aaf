"""Events made by the computer: a prior's geometries, exploded, seen by a noisy detector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flowcei.errors import UsageError
from flowcei.events.container import Events
from flowcei.events.extracolumns import ACCIDENT, dataset_name
from flowcei.events.hdf import describe
from flowcei.experiment.detector import Noise
from flowcei.experiment.experiment import ASSIGNMENT, BUILD_UP_TIME, Experiment
from flowcei.experiment.missing import LOST, completed, lost_column
from flowcei.molecules.molecule import Molecule
from flowcei.physics.build_up import BuildUp, BuildUpPrior, build_up_of
from flowcei.physics.explosion import COULOMB, Coulomb, asymptotic_momenta
from flowcei.physics.priors import GeometryPrior, build_prior
from flowcei.physics.threads import in_threads, usable_cores
from flowcei.storage.creation import check_output
from flowcei.storage.resumable import resumable_file

if TYPE_CHECKING:
    from flowcei.experiment.measurement import Measurement
    from flowcei.physics.forward import ForwardModel
    from flowcei.storage.resumable import Layout
    from flowcei.workers.order import Each

    Floats = NDArray[np.float64]
    # positions and momenta (n, N, 3), sigma (n,) and perhaps those of `_COLUMNS`
    Arrays = dict[str, Any]

AXES = ("sigma_x", "sigma_y", "sigma_z")
"""Extra columns of training events whose noise differs between lab axes: that of each, hbar / bohr."""

# What is known of an event because it was simulated, (n,).
_COLUMNS = (ACCIDENT, ASSIGNMENT, BUILD_UP_TIME)
_AT_ONCE = 4  # blocks that a worker makes, 30 ms of work
BLOCK = 8_192  # events that share a random stream: results do not depend on how many are asked
_ACCURACY = 3e-6  # far below any noise; single precision makes twice as many events a second as 1e-6
_FLOAT = np.dtype("<f8")


@dataclass(frozen=True)
class Simulator:
    """A source of fresh events: molecule, prior, noise, seed, and mean relative error of the momenta.

    Where there is an experiment, it takes the place of the noise, and of the build-up if it states one. Of a
    build-up that has a prior each event has a time of its own.
    """

    molecule: Molecule
    prior: GeometryPrior
    noise: Noise
    seed: int
    accuracy: float = _ACCURACY
    experiment: Experiment | None = None
    build_up: BuildUp | BuildUpPrior | None = None
    missing: int = 1  # ions that an event may lack where they are not all detected

    def arrays(self, index: int, n: int, *, stream: int = 0, threads: int | None = None) -> Arrays:
        """`n` events of an independent random stream: every index, and every `stream`, is one."""
        child = np.random.SeedSequence(self.seed, spawn_key=(stream, index))
        geometry_rng, noise_rng, time_rng = (np.random.default_rng(s) for s in child.spawn(3))
        positions, motion = self.prior.sample_moving(n, geometry_rng)
        detector = self.noise if self.experiment is None else self.experiment.of(self.molecule)
        forward, times = _forward(self.molecule, self.build_up, self.experiment, n, time_rng)
        how = forward, times, noise_rng, self.accuracy, threads, self.missing, motion
        return _exploded(positions, self.molecule, detector, *how)

    def block(self, index: int, n: int, *, stream: int = 0, threads: int | None = None) -> Events:
        """The events of `arrays`."""
        arrays = self.arrays(index, n, stream=stream, threads=threads)
        return _events(self.molecule, arrays, self.origin())

    def rows(self, index: int, n: int) -> Arrays:
        """Block `index` of `n` events; all are drawn in full, so that a longer run begins the same."""
        arrays = self.arrays(index, BLOCK, threads=1)
        return {name: values[: n - index * BLOCK] for name, values in arrays.items()}

    def several(self, n: int, indices: Sequence[int]) -> list[Arrays]:
        """Several blocks, in threads: what a worker is asked for at a time."""
        with ThreadPoolExecutor(min(usable_cores(), len(indices))) as pool:
            return list(pool.map(partial(self.rows, n=n), indices))

    def shapes(self, n: int) -> dict[str, tuple[int, ...]]:
        """The shapes of the arrays of `n` events, in the order of files; UsageError for n < 1."""
        if n < 1:
            raise UsageError(f"the number of events is {n}; it must be 1 or more")
        vectors = (n, len(self.molecule), 3)
        own = None if self.experiment is None else self.experiment.of(self.molecule)
        columns = {ACCIDENT: (n,)} if own is not None and own.accidents else {}
        columns |= {ASSIGNMENT: (n,)} if own is not None and own.orders is not None else {}
        if isinstance(_build_up(self.build_up, self.experiment), BuildUpPrior):
            columns[BUILD_UP_TIME] = (n,)
        return {"positions": vectors, "sigma": (n,), "momenta": vectors} | columns

    def events(self, n: int) -> Events:
        """The first `n` events, on all cores."""
        arrays: Arrays = {name: np.empty(shape) for name, shape in self.shapes(n).items()}

        def work(index: int) -> None:
            for name, values in self.rows(index, n).items():
                arrays[name][index * BLOCK :][: len(values)] = values

        in_threads(work, range(-(-n // BLOCK)), None)
        return _events(self.molecule, arrays, self.origin())

    def origin(self) -> dict[str, Any]:
        """All that is needed to make the events again."""
        settings: dict[str, Any] = {"noise": str(self.noise)}
        if self.experiment is not None:
            settings = {"experiment": self.experiment.to_dict()}
            settings |= {"missing": self.missing} if self.experiment.loses else {}
        settings |= {} if self.build_up is None else {"build_up": str(self.build_up)}
        settings |= {"seed": self.seed, "accuracy": self.accuracy}
        return {"prior": self.prior.spec(), **settings, "flowcei": version("flowcei")}


def simulate(
    molecule: Molecule | str,
    n: int,
    *,
    prior: str | dict[str, Any] | GeometryPrior | None = None,
    noise: Noise | str | None = None,
    experiment: Experiment | str | Path | None = None,
    build_up: BuildUp | str | float | Sequence[float] | None = None,
    seed: int | None = None,
    accuracy: float = _ACCURACY,
    missing: int = 1,
) -> Events:
    """Simulate Coulomb explosions.

    Args:
        molecule: A `Molecule`, the name of a built-in one, or a .toml or .xyz file.
        n: Number of events.
        prior: A name or table of the molecule's, or a prior; its default where None.
        noise: Standard deviation added to each momentum component: ``"1%"`` of the
            event's rms component, ``"0.5"`` hbar / bohr, or a range ``"0.1%..5%"``; none where None.
        experiment: Instead of `noise`, an `Experiment` or its TOML file. Of events that are accidents (column
            ``accident``) the positions are of none of their ions. Ions are lost by its efficiency (column
            ``lost_ion``; their momenta then bring the sum to 0, and are NaN in files). Hits of its
            assignments are shuffled (column ``assignment``: which is right).
        build_up: Time in which charges appear, ``"10fs"`` or 10.0 (fs), or of each ion, ``"5fs,10fs,10fs"``;
            at once where None.
        seed: Seed of all randomness; drawn, and kept in `origin`, where None.
        accuracy: Mean relative error of the momenta: see `asymptotic_momenta`.
        missing: Ions that an event may lack, beside two, where there is an efficiency: others are not kept.

    Returns:
        Events with positions (n, N, 3), bohr, centre of mass 0, and momenta (n, N, 3),
        hbar / bohr. The first k of n events are the events of a call with k.

    Raises:
        UsageError: For n < 1, an unknown molecule or prior, noise or a build-up that is not understood,
            or an experiment with other ions.

    Example:
        >>> events = simulate("ocs", 3, prior="broad", noise="1%", seed=7)
        >>> events.positions.shape, events.origin["seed"]
        ((3, 3, 3), 7)
    """
    return make_simulator(molecule, prior, noise, seed, accuracy, experiment, build_up, missing).events(n)


def make_simulator(
    molecule: Molecule | str,
    prior: str | dict[str, Any] | GeometryPrior | None = None,
    noise: Noise | str | None = None,
    seed: int | None = None,
    accuracy: float = _ACCURACY,
    experiment: Experiment | str | Path | None = None,
    build_up: BuildUp | str | float | Sequence[float] | None = None,
    missing: int = 1,
) -> Simulator:
    """The source of the events that `simulate` returns."""
    if noise is not None and experiment is not None:
        raise UsageError("the experiment states its noise; leave the other out")
    mol = molecule if isinstance(molecule, Molecule) else Molecule.load(molecule)
    prior = build_prior(mol, prior)
    stated = None if experiment is None else Experiment.load(experiment)
    level = Noise.parse(noise or "0%")
    if level.by_axis:
        raise UsageError(f"noise {level} is to train for; an experiment states that of each axis")
    seed = fresh_seed() if seed is None else seed
    growth = None if build_up is None else BuildUp.parse(build_up)
    simulator = Simulator(mol, prior, level, seed, accuracy, stated, growth, missing)
    _check_forces(mol, growth, stated)
    if stated is not None:
        stated.of(mol).check_stated()  # is of these ions
    return simulator


def simulate_to_file(
    simulator: Simulator,
    n: int,
    path: Path,
    *,
    overwrite: bool = False,
    resume: bool = False,
    threads: int | None = None,
    each: Each = map,
    on_block: Callable[[int], None] = lambda _: None,
) -> None:
    """Write the first `n` events to an HDF5 file: in little memory, with any number of threads, resumable.

    Until all is there, the file is called `path` + `.partial`. `on_block` is called with the number of
    events of each block, also of those that an earlier run has written. Where `each` is not `map` workers
    make the events, and this process writes them.
    """
    check_output(path, overwrite=overwrite)

    def layout() -> Layout:
        shapes = {_dataset(name): (shape, _FLOAT) for name, shape in simulator.shapes(n).items()}
        return shapes, lambda file: describe(file, simulator.molecule, simulator.origin())

    request = {"events": n, "block": BLOCK, **simulator.origin(), "molecule": simulator.molecule.to_dict()}
    # Not durable: to wait for the disk after every block would halve the rate.
    how = {"overwrite": overwrite, "resume": resume, "durable": False}
    with resumable_file(path, request, layout, **how) as file:

        def put(index: int, rows: Arrays) -> int:
            file.put(index, index * BLOCK, {_dataset(name): array for name, array in rows.items()})
            return index

        def count(index: int) -> None:
            on_block(min(BLOCK, n - index * BLOCK))

        missing = np.flatnonzero(~file.done).tolist()
        for index in np.flatnonzero(file.done).tolist():
            count(index)
        if each is map:
            _in_threads(lambda index: put(index, simulator.rows(index, n)), missing, threads, count)
            return
        groups = [missing[first : first + _AT_ONCE] for first in range(0, len(missing), _AT_ONCE)]
        for group, made in zip(groups, each(partial(simulator.several, n), groups), strict=True):
            for index, rows in zip(group, made, strict=True):
                count(put(index, rows))


def _in_threads(
    work: Callable[[int], int], indices: Sequence[int], threads: int | None, count: Callable[[int], None]
) -> None:
    """Do the work of all blocks, and count them here, in their order."""
    pool = ThreadPoolExecutor(threads or usable_cores())
    try:
        for index in pool.map(work, indices):
            count(index)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def explode(
    positions: Floats,
    molecule: Molecule,
    *,
    noise: str | None = None,
    experiment: Experiment | None = None,
    build_up: BuildUp | None = None,
    seed: int | None = None,
    accuracy: float = 1e-8,
    missing: int = 1,
) -> Events:
    """Explode geometries (G, N, 3), bohr: an event of each, in their order, centres of mass at 0."""
    seed = fresh_seed() if seed is None else seed
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    detector = Noise.parse(noise or "0%") if experiment is None else experiment.of(molecule)
    _check_forces(molecule, build_up, experiment)
    forward, times = _forward(molecule, build_up, experiment, len(positions), rng)
    arrays = _exploded(positions, molecule, detector, forward, times, rng, accuracy, None, missing)
    stated: dict[str, Any] = {"noise": noise or "0%"}
    if experiment is not None:
        stated = {"experiment": experiment.to_dict()}
    stated |= {} if build_up is None else {"build_up": str(build_up)}
    return _events(molecule, arrays, stated | {"seed": seed, "accuracy": accuracy})


def _build_up(
    stated: BuildUp | BuildUpPrior | None, experiment: Experiment | None
) -> BuildUp | BuildUpPrior | None:
    """The build-up that was stated, or that of the experiment; UsageError for both."""
    if experiment is None or experiment.build_up is None:
        return stated
    if stated is not None:
        raise UsageError("the experiment states its build-up; leave the other out")
    return build_up_of(experiment.build_up)


def _forward(
    molecule: Molecule,
    stated: BuildUp | BuildUpPrior | None,
    experiment: Experiment | None,
    n: int,
    rng: np.random.Generator,
) -> tuple[ForwardModel, Floats | None]:
    """The forward model of n events, and the build-up time of each, (n,), fs, where they are drawn."""
    growth = _build_up(stated, experiment)
    if isinstance(growth, BuildUpPrior):
        times = growth.draw(n, rng)
        return Coulomb(times, None if experiment is None else experiment.transfer(molecule)), times
    if stated is None and experiment is not None:
        return experiment.forward(molecule), None
    return COULOMB if growth is None else Coulomb(growth), None


def _check_forces(
    molecule: Molecule, stated: BuildUp | BuildUpPrior | None, experiment: Experiment | None
) -> None:
    """UsageError for forces that are stated twice, or are of other ions."""
    if isinstance(growth := _build_up(stated, experiment), BuildUp):
        growth.of_ions(len(molecule))
    if experiment is not None and experiment.forces:
        experiment.forward(molecule)
        if stated is not None:
            raise UsageError("the experiment states its forces; leave the build-up out")


def _exploded(
    x: Floats,
    molecule: Molecule,
    detector: Noise | Measurement,
    forward: ForwardModel,
    times: Floats | None,  # in which charges of each event appear, (n,), fs
    rng: np.random.Generator,
    accuracy: float,
    threads: int | None,
    missing: int,
    motion: Floats | None = None,  # momenta at the start
) -> Arrays:
    # Imported here: numba takes half a second that a command which simulates nothing saves.
    from flowcei.physics._placing import centre

    m, q = molecule.masses, molecule.charges
    x = np.array(x, np.float64, order="C")  # a copy: it is the caller's
    centre(x, m / m.sum())
    how = {"forward": forward, "accuracy": accuracy, "threads": threads}
    momenta = asymptotic_momenta(x, m, q, initial_momenta=motion, **how)  # type: ignore[arg-type]
    exact = momenta.astype(np.float64, copy=False)
    columns = {} if times is None else {BUILD_UP_TIME: times}
    if isinstance(detector, Noise):
        momenta, sigma = detector.apply(exact, rng)
        return {"positions": x, "momenta": momenta, "sigma": sigma} | columns
    # Where accidents come of ions that are lost, which these are is drawn first.
    lost = None if detector.shots is None else detector.lost(len(exact), missing, rng)
    momenta, sigma, accident = detector.apply(exact, rng, lost)
    if detector.efficiency is not None:
        momenta[detector.lost(len(exact), missing, rng) if lost is None else lost] = np.nan
    if detector.accidents:
        columns[ACCIDENT] = accident.astype(np.float64)
    if detector.orders is not None:
        momenta, right = detector.shuffled(momenta, rng)
        sigma, columns[ASSIGNMENT] = detector.sigma(momenta), right.astype(np.float64)
    return {"positions": x, "momenta": momenta, "sigma": sigma} | columns


def _events(molecule: Molecule, arrays: Arrays, origin: dict[str, Any]) -> Events:
    columns = {name: arrays[name] for name in _COLUMNS if name in arrays}
    columns |= {name: columns[name].astype(np.int64) for name in (ACCIDENT, ASSIGNMENT) if name in columns}
    own = {name: array for name, array in arrays.items() if name not in columns}
    if arrays["sigma"].ndim == 2:
        own["sigma"], of_axes = by_axis(arrays["sigma"])
        columns |= of_axes
    lost = np.isnan(arrays["momenta"]).all(axis=2)
    if lost.any():
        own["momenta"] = completed(arrays["momenta"], lost)
        columns[LOST] = lost_column(lost)
    return Events(molecule, **own, origin=origin, columns=columns)


def by_axis(sigma: Floats) -> tuple[Floats, dict[str, Any]]:
    """Noise of all components (B,), rms, and the extra columns of that of each axis, (B, 3)."""
    return np.sqrt((sigma**2).mean(axis=1)), dict(zip(AXES, sigma.T, strict=True))


def _dataset(name: str) -> str:
    """The dataset in a file of one of `Arrays`."""
    return dataset_name(name) if name in _COLUMNS else name


def fresh_seed() -> int:
    """Draw a seed that is short enough to be typed again."""
    return int(np.random.SeedSequence().generate_state(1)[0])
