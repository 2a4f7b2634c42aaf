"""A prior that is a list of geometries: a molecular-dynamics run, a conformer search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.errors import UsageError
from flowcei.physics.priors.base import GeometryPrior, random_orientation

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


class EnsemblePrior(GeometryPrior):
    """Geometries drawn with replacement from a list, oriented at random; no density.

    Args:
        geometries: (G, N, 3), bohr.

    Raises:
        UsageError: For an empty list or positions that are not finite.
    """

    kind: str = "ensemble"
    mirror_symmetric: bool = False

    def __init__(self, geometries: ArrayLike) -> None:
        self._geometries = np.asarray(geometries, dtype=np.float64)
        if self._geometries.ndim != 3 or self._geometries.shape[2] != 3 or not len(self._geometries):
            raise UsageError(f"an ensemble has shape (G, N, 3) with G > 0; got {self._geometries.shape}")
        if not np.isfinite(self._geometries).all():
            raise UsageError("an ensemble holds positions that are not finite")

    @property
    def n_atoms(self) -> int:
        """Number of atoms of each geometry."""
        return self._geometries.shape[1]

    def sample(self, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw `n` geometries, (n, N, 3), bohr."""
        return random_orientation(self._geometries[rng.integers(len(self._geometries), size=n)], rng)

    def spec(self) -> dict[str, Any]:
        """Return the table that makes this prior again."""
        return {"kind": self.kind, "geometries": self._geometries.tolist()}
