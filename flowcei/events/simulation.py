"""Events made by the computer: a prior's geometries, exploded, seen by a noisy detector."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.errors import UsageError
from flowcei.events.container import Events
from flowcei.experiment.detector import Noise
from flowcei.molecules.molecule import Molecule
from flowcei.physics.explosion import asymptotic_momenta, centre_of_mass, in_threads
from flowcei.physics.priors import GeometryPrior, build_prior

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK = 8_192
"""Events that share a random stream: results do not depend on how many are asked."""

_ACCURACY = 3e-6  # far below any noise; single precision makes twice as many events a second as 1e-6


@dataclass(frozen=True)
class Simulator:
    """A source of fresh events: molecule, prior, noise and seed.

    Attributes:
        molecule: What explodes.
        prior: Which geometries it has.
        noise: What the detector adds.
        seed: Of all randomness.
        accuracy: Of the momenta: see `asymptotic_momenta`.
    """

    molecule: Molecule
    prior: GeometryPrior
    noise: Noise
    seed: int
    accuracy: float = _ACCURACY

    def block(self, index: int, n: int, *, stream: int = 0) -> Events:
        """Return `n` events of an independent random stream.

        Args:
            index: Number of the block; every block is its own stream.
            n: Events in it.
            stream: Another set of blocks, such as one kept for validation.
        """
        positions, momenta, sigma = self.arrays(index, n, stream=stream)
        return Events(self.molecule, momenta, positions, sigma=sigma, origin=self.origin())

    def arrays(
        self, index: int, n: int, *, stream: int = 0, threads: int | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return positions (n, N, 3), momenta (n, N, 3) and sigma (n,) of a `block`."""
        child = np.random.SeedSequence(self.seed, spawn_key=(stream, index))
        geometry_rng, noise_rng = (np.random.default_rng(s) for s in child.spawn(2))
        m, q = self.molecule.masses, self.molecule.charges
        positions = self.prior.sample(n, geometry_rng)
        positions -= centre_of_mass(positions, m)
        momenta = asymptotic_momenta(positions, m, q, accuracy=self.accuracy, threads=threads)
        momenta, sigma = self.noise.apply(momenta.astype(np.float64, copy=False), noise_rng)
        return positions, momenta, sigma

    def rows(self, index: int, n: int) -> tuple[NDArray[np.float64], ...]:
        """Return positions, momenta and sigma of block `index` of `n` events.

        Whole blocks are drawn and the last is cut, so that a longer run begins the same,
        whoever computes which block.
        """
        rows = block_rows(index, n)
        return tuple(a[: rows.stop - rows.start] for a in self.arrays(index, BLOCK, threads=1))

    def origin(self) -> dict[str, Any]:
        """Return all that is needed to make the events again."""
        return {
            "prior": self.prior.spec(),
            "noise": str(self.noise),
            "seed": self.seed,
            "accuracy": self.accuracy,
            "flowcei": version("flowcei"),
        }


def simulate(
    molecule: Molecule | str,
    n: int,
    *,
    prior: str | dict[str, Any] | GeometryPrior | None = None,
    noise: Noise | str = "0%",
    seed: int | None = None,
    accuracy: float = _ACCURACY,
) -> Events:
    """Simulate Coulomb explosions.

    Args:
        molecule: A `Molecule`, the name of a built-in one, or a .toml or .xyz file.
        n: Number of events.
        prior: A name or table of the molecule's, or a prior; its default where None.
        noise: Standard deviation added to each momentum component: ``"1%"`` of the
            event's rms component, ``"0.5"`` hbar / bohr, or a range ``"0.1%..5%"``.
        seed: Of all randomness; drawn, and kept in `origin`, where None.
        accuracy: Mean relative error of the momenta: see `asymptotic_momenta`.

    Returns:
        Events with positions (n, N, 3), bohr, centre of mass 0, and momenta (n, N, 3),
        hbar / bohr. The first k of n events are the events of a call with k.

    Raises:
        UsageError: For n < 1, an unknown molecule or prior, or noise that is not understood.

    Example:
        >>> events = simulate("ocs", 3, prior="broad", noise="1%", seed=7)
        >>> events.positions.shape, events.origin["seed"]
        ((3, 3, 3), 7)
    """
    simulator = make_simulator(molecule, n, prior=prior, noise=noise, seed=seed, accuracy=accuracy)
    mol = simulator.molecule
    positions, momenta, sigma = (np.empty((n, *shape)) for shape in ((len(mol), 3), (len(mol), 3), ()))

    def work(index: int) -> None:
        rows = block_rows(index, n)
        for whole, part in zip((positions, momenta, sigma), simulator.rows(index, n), strict=True):
            whole[rows] = part

    in_threads(work, range(block_count(n)), None)
    return Events(mol, momenta, positions, sigma=sigma, origin=simulator.origin())


def make_simulator(
    molecule: Molecule | str,
    n: int,
    *,
    prior: str | dict[str, Any] | GeometryPrior | None = None,
    noise: Noise | str = "0%",
    seed: int | None = None,
    accuracy: float = _ACCURACY,
) -> Simulator:
    """Return the source of the events that `simulate` returns.

    Raises:
        UsageError: As of `simulate`.
    """
    if n < 1:
        msg = f"the number of events is {n}; it must be 1 or more"
        raise UsageError(msg)
    mol = molecule if isinstance(molecule, Molecule) else Molecule.load(molecule)
    return Simulator(
        mol,
        prior if isinstance(prior, GeometryPrior) else build_prior(mol, prior),
        Noise.parse(noise),
        fresh_seed() if seed is None else seed,
        accuracy,
    )


def block_count(n: int) -> int:
    """Return the number of blocks that `n` events fill."""
    return -(-n // BLOCK)


def block_rows(index: int, n: int) -> slice:
    """Return the rows of `n` events that a block fills."""
    return slice(index * BLOCK, min((index + 1) * BLOCK, n))


def fresh_seed() -> int:
    """Draw a seed that is short enough to be typed again."""
    return int(np.random.SeedSequence().generate_state(1)[0])
