"""What a geometry prior is: the statement of which geometries are possible."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.errors import NoDensityError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["GeometryPrior", "random_orientation"]


class GeometryPrior(ABC):
    """A distribution of geometries, orientation uniform, position in space irrelevant.

    Densities are per bohr^(3N-3): over the positions of all atoms relative to any one of
    them. Any other tree of bond vectors has the same volume element.

    Attributes:
        kind: The word that names it in a molecule's TOML.
        has_density: Whether `log_prob` can be asked.
        mirror_symmetric: Whether a geometry and its mirror image are equally probable;
            then handedness carries no information and may be folded away.
    """

    kind: str
    has_density: bool = False
    mirror_symmetric: bool = True

    @abstractmethod
    def sample(self, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw `n` geometries, (n, N, 3), bohr."""

    def log_prob(self, positions: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the log density (B,) of positions (B, N, 3), per bohr^(3N-3).

        Raises:
            NoDensityError: Where the prior cannot say.
        """
        msg = f"a prior of kind {self.kind!r} has no density in closed form: it can only be sampled"
        raise NoDensityError(msg)

    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """Return the table (plain numbers and text) that makes this prior again."""


def random_orientation(positions: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Rotate each geometry of (B, N, 3) by its own rotation, uniform over SO(3).

    Example:
        >>> x = random_orientation(np.array([[[0.0, 0, 0], [0, 0, 2]]]), np.random.default_rng(1))
        >>> float(np.linalg.norm(x[0, 1]).round(12))
        2.0
    """
    # Imported here: numba takes half a second. Compiled, it is four times faster than SciPy's
    # rotations, which were a third of the cost of a simulated event.
    from flowcei.physics._orientation import rotate

    out = np.empty(positions.shape)
    # Four normal numbers are a quaternion that is uniform over the directions of four dimensions.
    rotate(np.ascontiguousarray(positions, np.float64), rng.standard_normal((len(positions), 4)), out)
    return out
