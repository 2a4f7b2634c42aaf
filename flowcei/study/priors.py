"""The geometries of the first study's datasets, as far as its figures tell them: docs/study-data.md."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.physics.priors.base import GeometryPrior, random_orientation

if TYPE_CHECKING:
    from numpy.typing import NDArray


class StudyPrior(GeometryPrior):
    """Geometries (n, N, 3), bohr, that lie in a way of their own before anybody turns them; no density."""

    @abstractmethod
    def unturned(self, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw `n` geometries as they lie."""

    def sample(self, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw `n` geometries, oriented at random."""
        return random_orientation(self.unturned(n, rng), rng)

    def spec(self) -> dict[str, Any]:
        """Return its name: it has no parameters."""
        return {"kind": self.kind}


class StretchedChain(StudyPrior):
    """OCS, nearly linear, both bonds stretched by one factor; along z, C at the origin, O below.

    r(CO) = 2.08 s (1 + 0.003 a) and r(CS) = 2.89 s (1 + 0.003 b) bohr with s = 1 + 0.275 |c|, where a, b and
    c are normal; 180 degrees minus the angle is Rayleigh distributed with 3.3 degrees, half on either bond.
    """

    kind = "stretched_chain"

    def unturned(self, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw `n` geometries along z, in the order C, O, S."""
        stretch = 1.0 + 0.275 * np.abs(rng.standard_normal((n, 1)))
        scatter = 1.0 + 0.003 * rng.standard_normal((n, 2))
        length = np.array([2.08, 2.89]) * stretch * scatter
        half = 0.5 * rng.rayleigh(np.radians(3.3), (n, 1))
        side = rng.uniform(0.0, 2.0 * np.pi, (n, 1))
        across, along = length * np.sin(half), length * np.cos(half) * [-1.0, 1.0]
        x = np.zeros((n, 3, 3))
        x[:, 1:] = np.stack([across * np.cos(side), across * np.sin(side), along], axis=2)
        return x


@dataclass(frozen=True)
class UnitCube(StudyPrior):
    """Three atoms, each uniform in the cube [-1, 1]^3 bohr; drawn again where two are closer than `closest`.

    One draw in 600,000 is. The others the simulator can follow to its best accuracy.
    """

    kind = "unit_cube"
    closest: float = 0.01

    def unturned(self, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw `n` geometries about the centre of the cube."""
        x = rng.uniform(-1.0, 1.0, (n, 3, 3))
        first, second = np.triu_indices(3, 1)
        while True:
            gap = np.linalg.norm(x[:, first] - x[:, second], axis=-1).min(axis=1)
            close = np.flatnonzero(gap < self.closest)
            if not len(close):
                return x
            x[close] = rng.uniform(-1.0, 1.0, (len(close), 3, 3))
