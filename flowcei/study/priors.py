"""The geometries of the first study's datasets, as far as its published figures tell them.

How they were derived is in docs/study-data.md.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.physics.priors.base import GeometryPrior, random_orientation

if TYPE_CHECKING:
    from numpy.typing import NDArray


class StudyPrior(GeometryPrior):
    """Geometries that lie in a way of their own before anybody turns them; no density."""

    @abstractmethod
    def unturned(self, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw `n` geometries as they lie, (n, N, 3), bohr."""

    def sample(self, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw `n` geometries, oriented at random, (n, N, 3), bohr."""
        return random_orientation(self.unturned(n, rng), rng)


class StretchedChain(StudyPrior):
    """OCS, nearly linear, both bonds stretched by one factor; along z, C at the origin, O below.

    r(CO) = 2.08 s (1 + 0.003 a) and r(CS) = 2.89 s (1 + 0.003 b) bohr with s = 1 + 0.275 |c|,
    where a, b and c are normal; 180 degrees minus the angle is Rayleigh distributed with 3.3
    degrees, half of it on either bond, to all sides of z alike.

    Example:
        >>> x = StretchedChain().unturned(1000, np.random.default_rng(1))
        >>> round(float(np.linalg.norm(x[:, 1] - x[:, 0], axis=1).mean()), 1)
        2.5
    """

    kind: str = "stretched_chain"

    _SHORTEST = (2.08, 2.89)  # bohr: C-O, C-S
    _STRETCH = 0.275
    _SCATTER = 0.003
    _BEND = np.radians(3.3)

    def unturned(self, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw `n` geometries along z, in the order C, O, S, (n, 3, 3), bohr."""
        stretch = 1.0 + self._STRETCH * np.abs(rng.standard_normal((n, 1)))
        scatter = 1.0 + self._SCATTER * rng.standard_normal((n, 2))
        length = np.array(self._SHORTEST) * stretch * scatter
        half = 0.5 * rng.rayleigh(self._BEND, (n, 1))
        side = rng.uniform(0.0, 2.0 * np.pi, n)
        x = np.zeros((n, 3, 3))
        across = length * np.sin(half)
        x[:, 1:, 0] = across * np.cos(side)[:, None]
        x[:, 1:, 1] = across * np.sin(side)[:, None]
        x[:, 1:, 2] = length * np.cos(half) * [-1.0, 1.0]
        return x

    def spec(self) -> dict[str, Any]:
        """Return its name: it has no parameters."""
        return {"kind": self.kind}


class UnitCube(StudyPrior):
    """Three atoms, each uniform in the cube [-1, 1]^3 bohr; drawn again where two are within 0.01 bohr.

    One draw in 600,000 is. What is left the simulator can follow to its best accuracy.

    Example:
        >>> x = UnitCube().unturned(1000, np.random.default_rng(1))
        >>> x.shape, bool(np.abs(x).max() < 1.0)
        ((1000, 3, 3), True)
    """

    kind: str = "unit_cube"

    _CLOSEST = 0.01  # bohr

    def unturned(self, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw `n` geometries about the centre of the cube, (n, 3, 3), bohr."""
        x = rng.uniform(-1.0, 1.0, (n, 3, 3))
        first, second = np.triu_indices(3, 1)
        while True:
            gap = np.linalg.norm(x[:, first] - x[:, second], axis=-1).min(axis=1)
            close = np.flatnonzero(gap < self._CLOSEST)
            if not len(close):
                return x
            x[close] = rng.uniform(-1.0, 1.0, (len(close), 3, 3))

    def spec(self) -> dict[str, Any]:
        """Return its name: it has no parameters."""
        return {"kind": self.kind}
