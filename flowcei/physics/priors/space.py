"""Priors that know no chemistry: atoms anywhere in a ball or in a cube."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.errors import UsageError
from flowcei.physics.priors.base import GeometryPrior, random_orientation

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BallPrior", "CubePrior"]

_HOPELESS = 1e-4  # share of accepted draws below which a separation is refused


class _UniformPrior(GeometryPrior):
    """Atoms uniform and independent in a body, draws with close contacts thrown away.

    The density of the relative positions is the volume over which the molecule can be
    shifted inside the body, divided by the acceptance: not in closed form, so it is not
    offered.
    """

    def __init__(self, n_atoms: int, size: float, minimal_separation: float, name: str) -> None:
        if not 0 < size < np.inf or not 0 <= minimal_separation < np.inf:
            msg = f"{name} = {size} and minimal_separation = {minimal_separation} must be positive, in bohr"
            raise UsageError(msg)
        self._n_atoms = n_atoms
        self._size = float(size)
        self._separation = float(minimal_separation)

    def _draw(self, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        raise NotImplementedError

    def sample(self, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw `n` geometries, (n, N, 3), bohr."""
        kept: list[NDArray[np.float64]] = []
        missing, drawn = n, 0
        first, second = np.triu_indices(self._n_atoms, 1)
        while missing > 0:
            x = self._draw(max(2 * missing, 64), rng)
            gap = np.linalg.norm(x[:, first] - x[:, second], axis=-1).min(axis=1)
            good = x[gap > max(self._separation, 1e-3)][:missing]
            kept.append(good)
            missing -= len(good)
            drawn += len(x)
            if drawn > 1 / _HOPELESS and n - missing < _HOPELESS * drawn:
                msg = (
                    f"a minimal_separation of {self._separation} bohr leaves hardly any room for "
                    f"{self._n_atoms} atoms in a {self.kind} of size {self._size}; make it smaller"
                )
                raise UsageError(msg)
        return random_orientation(np.concatenate(kept), rng)


class BallPrior(_UniformPrior):
    """Atoms uniform in a ball of `radius` bohr, no two closer than `minimal_separation`.

    Args:
        n_atoms: Number of atoms.
        radius: Bohr.
        minimal_separation: Bohr.

    Raises:
        UsageError: For sizes that are not positive, or where atoms do not fit.
    """

    kind: str = "ball"

    def __init__(self, n_atoms: int, radius: float, minimal_separation: float = 0.5) -> None:
        super().__init__(n_atoms, radius, minimal_separation, "radius")

    def _draw(self, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        v = rng.standard_normal((n, self._n_atoms, 3))
        r = self._size * np.cbrt(rng.random((n, self._n_atoms, 1)))
        return r * v / np.linalg.norm(v, axis=-1, keepdims=True)

    def spec(self) -> dict[str, Any]:
        """Return the table that makes this prior again."""
        return {
            "kind": self.kind,
            "radius": self._size,
            "minimal_separation": self._separation,
        }


class CubePrior(_UniformPrior):
    """Atoms uniform in the cube [-half_width, half_width]^3 bohr, then oriented at random.

    Args:
        n_atoms: Number of atoms.
        half_width: Bohr.
        minimal_separation: Bohr.

    Raises:
        UsageError: For sizes that are not positive, or where atoms do not fit.
    """

    kind: str = "cube"

    def __init__(self, n_atoms: int, half_width: float, minimal_separation: float = 0.0) -> None:
        super().__init__(n_atoms, half_width, minimal_separation, "half_width")

    def _draw(self, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        return rng.uniform(-self._size, self._size, (n, self._n_atoms, 3))

    def spec(self) -> dict[str, Any]:
        """Return the table that makes this prior again."""
        return {
            "kind": self.kind,
            "half_width": self._size,
            "minimal_separation": self._separation,
        }
