"""A prior around the equilibrium: every atom displaced by the same isotropic normal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.errors import UsageError
from flowcei.physics.priors.base import GeometryPrior, random_orientation
from flowcei.physics.priors.orders import OrderSearch

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from numpy.typing import NDArray

_SAME = 2e-6  # of the squares of all radii: the residual of a mirror image that is the molecule itself


class DisplacedPrior(GeometryPrior):
    """Equilibrium positions plus a normal displacement of each atom, oriented at random.

    The density averages a Gaussian over all rotations; the average is the normalising
    constant of the matrix Fisher distribution, one integral over [-1, 1] (T. Lee, IEEE
    Trans. Automat. Contr. 63, 3377 (2018), eq. 14).

    Args:
        equilibrium: (N, 3), bohr.
        kinds: Of each atom, hashable: equal ones are interchangeable.
        sigma: Standard deviation of each component of each atom, bohr.

    Raises:
        UsageError: For a sigma that is not positive and finite.
    """

    kind: str = "displaced"
    has_density: bool = True
    bounded: bool = False

    def __init__(self, equilibrium: NDArray[np.float64], kinds: Sequence[Hashable], sigma: float) -> None:
        if not 0 < sigma < np.inf:
            raise UsageError(f"sigma = {sigma} of a displaced prior must be positive, in bohr")
        self._equilibrium = np.ascontiguousarray(equilibrium - equilibrium.mean(axis=0), np.float64)
        self._sigma = float(sigma)
        self._searches: dict[tuple[tuple[int, ...], ...], OrderSearch] = {}
        self.mirror_symmetric = _superposable_on_mirror_image(self._equilibrium, kinds)

    def sample(self, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw `n` geometries, (n, N, 3), bohr."""
        shift = self._sigma * rng.standard_normal((n, *self._equilibrium.shape))
        return random_orientation(self._equilibrium + shift, rng)

    def log_prob(self, positions: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the log density (B,) of positions (B, N, 3), per bohr^(3N-3)."""
        # Imported here: numba takes half a second, and a prior can be named without it.
        from flowcei.physics._rotations import log_displaced

        x = np.ascontiguousarray(positions, dtype=np.float64)
        out = np.empty(len(x))
        log_displaced(x, self._equilibrium, self._sigma**2, out)
        return out + self._log_normalisation

    @property
    def _log_normalisation(self) -> float:
        n_atoms = len(self._equilibrium)
        # Orthonormal coordinates without the centroid have the volume element
        # N^(-3/2) of the relative positions.
        return float(-1.5 * (n_atoms - 1) * np.log(2.0 * np.pi * self._sigma**2) - 1.5 * np.log(n_atoms))

    def _log_mean(
        self, positions: NDArray[np.float64], identical: tuple[tuple[int, ...], ...]
    ) -> NDArray[np.float64]:
        search = self._searches.get(identical)
        if search is None:
            search = self._searches[identical] = OrderSearch(self._equilibrium, identical)
        if search.all_alike:
            return self.log_prob(positions)
        return search.log_displaced(positions, self._sigma) + self._log_normalisation

    def _supports(self, positions: NDArray[np.float64]) -> NDArray[np.bool_]:
        return np.ones(len(positions), dtype=bool)  # a normal displacement reaches everywhere

    def spec(self) -> dict[str, Any]:
        """Return the table that makes this prior again."""
        return {"kind": self.kind, "sigma": self._sigma}


def _superposable_on_mirror_image(x: NDArray[np.float64], kinds: Sequence[Hashable]) -> bool:
    """Whether a rotation and a swap of like atoms turns `x` (N, 3) into its mirror image."""
    groups = (tuple(i for i, k in enumerate(kinds) if k == kind) for kind in dict.fromkeys(kinds))
    search = OrderSearch(x, tuple(group for group in groups if len(group) > 1))
    # Where the search gives up, handedness counts: that is never wrong, only more to learn.
    return search.fits(x * [1.0, 1.0, -1.0], _SAME * float((x**2).sum()))
