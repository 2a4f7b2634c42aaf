"""Events made by the computer: a prior's geometries, exploded, seen by a noisy detector."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.errors import UsageError
from flowcei.events.container import Events
from flowcei.molecule import Molecule
from flowcei.physics.detector import Noise
from flowcei.physics.explosion import asymptotic_momenta, centre_of_mass
from flowcei.physics.priors import GeometryPrior, build_prior

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Simulator", "fresh_seed", "simulate"]

_BLOCK = 8_192  # events that share a random stream: results do not depend on how many are asked


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
    accuracy: float = 1e-6

    def block(self, index: int, n: int, *, stream: int = 0) -> Events:
        """Return `n` events of an independent random stream.

        Args:
            index: Number of the block; every block is its own stream.
            n: Events in it.
            stream: Another set of blocks, such as one kept for validation.
        """
        child = np.random.SeedSequence(self.seed, spawn_key=(stream, index))
        geometry_rng, noise_rng = (np.random.default_rng(s) for s in child.spawn(2))
        positions = self.prior.sample(n, geometry_rng)
        positions -= centre_of_mass(positions, self.molecule.masses)
        momenta = self._explode(positions)
        momenta, sigma = self.noise.apply(momenta, noise_rng)
        return Events(self.molecule, momenta, positions, sigma=sigma, origin=self.origin())

    def _explode(self, positions: NDArray[np.float64]) -> NDArray[np.float64]:
        molecule = self.molecule
        momenta = asymptotic_momenta(positions, molecule.masses, molecule.charges, accuracy=self.accuracy)
        return momenta.astype(np.float64, copy=False)

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
    accuracy: float = 1e-6,
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
    if n < 1:
        msg = f"the number of events is {n}; it must be 1 or more"
        raise UsageError(msg)
    mol = molecule if isinstance(molecule, Molecule) else Molecule.load(molecule)
    simulator = Simulator(
        mol,
        prior if isinstance(prior, GeometryPrior) else build_prior(mol, prior),
        noise if isinstance(noise, Noise) else Noise.parse(noise),
        fresh_seed() if seed is None else seed,
        accuracy,
    )
    # Whole blocks are drawn and the last is cut, so that a longer run begins the same.
    blocks = [simulator.block(k, _BLOCK) for k in range(-(-n // _BLOCK))]
    return replace(_joined(blocks)[:n], ids=None)


def fresh_seed() -> int:
    """Draw a seed that is short enough to be typed again."""
    return int(np.random.SeedSequence().generate_state(1)[0])


def _joined(blocks: list[Events]) -> Events:
    first = blocks[0]
    return Events(
        first.molecule,
        np.concatenate([b.momenta for b in blocks]),
        np.concatenate([b.positions for b in blocks if b.positions is not None]),
        sigma=np.concatenate([b.sigma for b in blocks if b.sigma is not None]),
        origin=first.origin,
    )
