"""The datasets of the first study, made again: sound, or with their published faults (docs/study-data.md)."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flowcei.errors import UsageError
from flowcei.events.simulation import Simulator, fresh_seed
from flowcei.experiment.detector import Noise
from flowcei.molecules.molecule import Molecule
from flowcei.physics.explosion import asymptotic_momenta, centre_of_mass
from flowcei.physics.priors.base import GeometryPrior, random_orientation

if TYPE_CHECKING:
    from flowcei.events.container import Events

    Floats = NDArray[np.float64]

_ACCURACY = 1e-9  # the momenta are in double precision, as the study's were
_O, _S = 1, 2  # the ions that span the frames of the study


class StudyPrior(GeometryPrior):
    """Geometries (n, N, 3), bohr, that lie in a way of their own before anybody turns them; no density."""

    @abstractmethod
    def unturned(self, n: int, rng: np.random.Generator) -> Floats:
        """Draw `n` geometries as they lie."""

    def sample(self, n: int, rng: np.random.Generator) -> Floats:
        """Draw `n` geometries, oriented at random."""
        return random_orientation(self.unturned(n, rng), rng)

    def spec(self) -> dict[str, Any]:
        """Return its name: it has no parameters."""
        return {"kind": self.kind}


class StretchedChain(StudyPrior):
    """OCS, nearly linear, both bonds stretched by one factor; along z, C at the origin, O below."""

    kind = "stretched_chain"

    def unturned(self, n: int, rng: np.random.Generator) -> Floats:
        """Draw `n` geometries along z, in the order C, O, S."""
        stretch = 1.0 + 0.275 * np.abs(rng.standard_normal((n, 1)))
        scatter = 1.0 + 0.003 * rng.standard_normal((n, 2))
        length = np.array([2.08, 2.89]) * stretch * scatter  # r(CO) and r(CS), bohr
        half = 0.5 * rng.rayleigh(np.radians(3.3), (n, 1))  # of 180 degrees minus the angle
        side = rng.uniform(0.0, 2.0 * np.pi, (n, 1))
        across, along = length * np.sin(half), length * np.cos(half) * [-1.0, 1.0]
        bonds = np.stack([across * np.cos(side), across * np.sin(side), along], axis=2)
        return np.concatenate([np.zeros((n, 1, 3)), bonds], axis=1)


@dataclass(frozen=True)
class UnitCube(StudyPrior):
    """Three atoms, each uniform in the cube [-1, 1]^3 bohr; drawn again where two are closer than `closest`.

    One draw in 600,000 is. The others the simulator can follow to its best accuracy.
    """

    kind = "unit_cube"
    closest: float = 0.01

    def unturned(self, n: int, rng: np.random.Generator) -> Floats:
        """Draw `n` geometries about the centre of the cube."""
        x = rng.uniform(-1.0, 1.0, (n, 3, 3))
        first, second = np.triu_indices(3, 1)
        while True:
            gap = np.linalg.norm(x[:, first] - x[:, second], axis=-1).min(axis=1)
            close = np.flatnonzero(gap < self.closest)
            if not len(close):
                return x
            x[close] = rng.uniform(-1.0, 1.0, (len(close), 3, 3))


@dataclass(frozen=True)
class _Recipe:
    """How a dataset came about."""

    about: str
    prior: StudyPrior
    offset: float = 0.0  # deviation of each coordinate of the published centre of mass, bohr
    oriented: bool = False  # was S turned to +x and O into the xy plane?
    shuffled: bool = False  # is the sound version oriented at random?
    size: int = 10_000


_CHAIN = "OCS stretched by a common factor, nearly linear"
_CUBE = "C, O, S each uniform in the cube [-1, 1]^3 bohr"
_ORIENTED = "S on +x, O in the xy plane"
_RECIPES = {
    "cei_traning_orient_1": _Recipe(f"{_CHAIN}; {_ORIENTED}", StretchedChain(), offset=1.0, oriented=True),
    "random_cos3d_10000": _Recipe(f"{_CUBE}, not oriented", UnitCube(), shuffled=True),
    "generated_cos3d_check": _Recipe(f"{_CHAIN}, along z", StretchedChain(), offset=1.0),
    "random_million_orient": _Recipe(f"{_CUBE}; {_ORIENTED}", UnitCube(), oriented=True, size=1_000_000),
}

STUDY_DATASETS = {name: recipe.about for name, recipe in _RECIPES.items()}
"""Name of each dataset of the study (the spelling is the study's) -> one line on it."""


@dataclass(frozen=True)
class StudySimulator(Simulator):
    """The source of the events of the dataset `name`: see `study_events`."""

    name: str = ""
    as_published: bool = False

    def arrays(self, index: int, n: int, *, stream: int = 0, threads: int | None = None) -> dict[str, Floats]:
        """Return positions (n, 3, 3), momenta (n, 3, 3) and sigma (n,) of a `block`, one shape a seed."""
        recipe, m = _RECIPES[self.name], self.molecule.masses
        child = np.random.SeedSequence(self.seed, spawn_key=(stream, index))
        shape_rng, origin_rng = (np.random.default_rng(s) for s in child.spawn(2))
        positions = recipe.prior.unturned(n, shape_rng)
        if recipe.offset or not self.as_published:  # cubes were published about their centre
            positions -= centre_of_mass(positions, m)
        if self.as_published:
            positions += recipe.offset * origin_rng.standard_normal((n, 1, 3))
        elif recipe.shuffled:
            positions = random_orientation(positions, origin_rng)
        charges = self.molecule.charges
        momenta = asymptotic_momenta(positions, m, charges, accuracy=self.accuracy, threads=threads)
        if recipe.oriented:
            rotation = _rotation(momenta)
            momenta = _turned(momenta, rotation)
            # The fault of the study: a rotation for the momenta, another for the positions.
            positions = _turned(positions, _rotation(positions) if self.as_published else rotation)
        return {"positions": positions, "momenta": momenta.astype(np.float64), "sigma": np.zeros(n)}

    def origin(self) -> dict[str, Any]:
        """Return all that is needed to make the events again."""
        settings = {key: super(StudySimulator, self).origin()[key] for key in ("seed", "accuracy", "flowcei")}
        return {"dataset": self.name, "as_published": self.as_published, **settings}


def study_events(
    name: str,
    n: int | None = None,
    *,
    as_published: bool = False,
    seed: int | None = None,
    accuracy: float = _ACCURACY,
) -> Events:
    """Make a dataset of the first study again: OCS, charges (2, 2, 2), without noise.

    Sound events have positions from the centre of mass, in the frame of the momenta: oriented
    sets by one rotation, which puts the momentum of S on +x and that of O in the xy plane. As
    published, positions of oriented sets are turned by a rotation of their own, which puts
    atom S on +x and O in the xy plane, and positions are not centred.

    Args:
        name: One of `STUDY_DATASETS`.
        n: Number of events; as many as the study had where None.
        as_published: Whether to repeat the faults.
        seed: Of all randomness; drawn, and kept in `origin`, where None.
        accuracy: Mean relative error of the momenta: see `asymptotic_momenta`.

    Returns:
        Events with positions (n, 3, 3), bohr, and momenta (n, 3, 3), hbar / bohr, in the order
        C, O, S. The first k of n events are the events of a call with k.

    Raises:
        UsageError: For an unknown name, or n < 1.

    Example:
        >>> events = study_events("cei_traning_orient_1", 5, seed=1)
        >>> events.positions.shape, events.origin["dataset"]
        ((5, 3, 3), 'cei_traning_orient_1')
    """
    simulator = study_simulator(name, as_published=as_published, seed=seed, accuracy=accuracy)
    return simulator.events(study_size(name) if n is None else n)


def republished(name: str, positions: Floats, copies: int, *, seed: int = 0) -> Floats:
    """Return other positions (E, copies, 3, 3) that the momenta of published ones (E, 3, 3) could have had.

    Momenta do not tell where the origin was. The scatter is what no model of the published coordinates can
    explain: its mean variance is the least MSE. Not for `random_million_orient`, whose turned cube cannot be
    turned back.
    """
    recipe, rng = _recipe(name), np.random.default_rng(seed)
    shape = (len(positions), copies, 1, 3)
    if recipe.offset:
        centred = positions - centre_of_mass(positions, Molecule.load("ocs").masses)
        x = centred[:, None] + recipe.offset * rng.standard_normal(shape)
    elif recipe.oriented:
        raise UsageError(f"a dataset whose origins are known is asked for; {name!r} is not one")
    else:  # anywhere in the cube
        low, high = -1.0 - positions.min(axis=1), 1.0 - positions.max(axis=1)
        x = positions[:, None] + rng.uniform(low[:, None, None], high[:, None, None], shape)
    flat = x.reshape(-1, 3, 3)
    return _turned(flat, _rotation(flat)).reshape(x.shape) if recipe.oriented else x


def study_simulator(
    name: str, *, as_published: bool = False, seed: int | None = None, accuracy: float = _ACCURACY
) -> StudySimulator:
    """Return the source of the events that `study_events` returns."""
    prior, seed = _recipe(name).prior, fresh_seed() if seed is None else seed
    ocs, none = Molecule.load("ocs"), Noise.parse("0%")
    return StudySimulator(ocs, prior, none, seed, accuracy, name=name, as_published=as_published)


def study_size(name: str) -> int:
    """Return the number of events that a dataset of the study had."""
    return _recipe(name).size


def _recipe(name: str) -> _Recipe:
    if name not in _RECIPES:
        raise UsageError(f"the study has no dataset {name!r}; it has {', '.join(_RECIPES)}")
    return _RECIPES[name]


def _rotation(vectors: NDArray[np.floating]) -> Floats:
    """Return the rotations (B, 3, 3) that put S of (B, 3, 3) on +x, and O in the xy plane, y > 0."""
    x = vectors[:, _S] / np.linalg.norm(vectors[:, _S], axis=-1, keepdims=True)
    y = vectors[:, _O] - (vectors[:, _O] * x).sum(axis=1, keepdims=True) * x
    y = y / np.linalg.norm(y, axis=-1, keepdims=True)
    return np.stack([x, y, np.cross(x, y)], axis=1)


def _turned(vectors: NDArray[np.floating], rotation: Floats) -> Floats:
    # Zeros come out as rounding errors, as in the published files.
    return np.asarray(vectors @ rotation.transpose(0, 2, 1), dtype=np.float64)
