"""Priors that know no chemistry: atoms anywhere in a ball or in a cube, and geometries from a list."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowcei.errors import UsageError
from flowcei.physics.draws import standard_normal
from flowcei.physics.priors.base import GeometryPrior, random_orientation

if TYPE_CHECKING:
    from flowcei.physics.priors.orders import Floats

_HOPELESS = 1e-4  # share of accepted draws below which a separation is refused
_COINCIDENT = 1e-3  # bohr: atoms nearer than this are drawn again whatever is asked
_TRIALS = 1_000_000  # draws that the acceptance is estimated from
_BATCH = 50_000


class _UniformPrior(GeometryPrior):
    """Atoms uniform and independent in a body, draws with close contacts thrown away."""

    exchangeable: bool = True
    _size_name: str

    def __init__(self, n_atoms: int, size: float, minimal_separation: float) -> None:
        if not 0 < size < np.inf or not 0 <= minimal_separation < np.inf:
            sizes = f"{self._size_name} = {size} and minimal_separation = {minimal_separation}"
            raise UsageError(f"{sizes} must be positive, in bohr")
        if n_atoms < 2:
            raise UsageError(f"a {self.kind} takes two atoms or more; got {n_atoms}")
        self._n_atoms, self._size, self._separation = n_atoms, float(size), float(minimal_separation)
        self._closest = max(self._separation, _COINCIDENT)  # least distance of two atoms, bohr

    def _draw(self, n: int, rng: np.random.Generator) -> Floats:
        raise NotImplementedError

    def sample(self, n: int, rng: np.random.Generator) -> Floats:
        """Draw `n` geometries, (n, N, 3), bohr."""
        batches: list[Floats] = []
        missing, drawn = n, 0
        while missing > 0:
            x = self._draw(max(2 * missing, 64), rng)
            batches.append(x[self._accepted(x)][:missing])
            missing -= len(batches[-1])
            drawn += len(x)
            if drawn > 1 / _HOPELESS and n - missing < _HOPELESS * drawn:
                raise self._no_room()
        return random_orientation(np.concatenate(batches), rng)

    def _accepted(self, x: Floats) -> NDArray[np.bool_]:
        """Return whether no two atoms of x (B, N, 3) are too close, (B,)."""
        # Imported here: numba takes half a second, and a prior can be named without it.
        from flowcei.physics._enclosing import least_distances

        gap = np.empty(len(x))
        least_distances(x, gap)
        return gap > self._closest

    def _no_room(self) -> UsageError:
        return UsageError(
            f"a minimal_separation of {self._separation} bohr leaves hardly any room for "
            f"{self._n_atoms} atoms in a {self.kind} of size {self._size}; make it smaller"
        )

    def spec(self) -> dict[str, Any]:
        """Return the table that makes this prior again."""
        return {"kind": self.kind, self._size_name: self._size, "minimal_separation": self._separation}


class BallPrior(_UniformPrior):
    """Atoms uniform in a ball of `radius` bohr, no two closer than `minimal_separation`.

    The density of the relative positions is the volume of all shifts that keep every atom in
    the ball, which is exact, over the volume of the ball to the power N and over the share of
    draws that are accepted. For two atoms that share is exact; for more it is estimated, once
    and always alike, from a million draws: with share a, log density is uncertain by
    sqrt((1 - a) / a) / 1000 (0.0001 for five atoms of radius 4 and separation 0.5), the same
    for all geometries.

    Two atoms or more, lengths in bohr; UsageError for sizes that are not positive, or where atoms do not fit.

    Example:
        >>> pair = np.array([[[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]], [[0.0, 0.0, 0.0], [0.0, 0.0, 9.0]]])
        >>> np.exp(BallPrior(2, radius=4.0).log_prob(pair)).round(5)
        array([0.00304, 0.     ])
    """

    kind: str = "ball"
    has_density: bool = True
    _size_name = "radius"

    def __init__(self, n_atoms: int, radius: float, minimal_separation: float = 0.5) -> None:
        super().__init__(n_atoms, radius, minimal_separation)

    def _draw(self, n: int, rng: np.random.Generator) -> Floats:
        v = standard_normal((n, self._n_atoms, 3), rng)
        r = self._size * np.cbrt(rng.random((n, self._n_atoms, 1)))
        return r * v / np.linalg.norm(v, axis=-1, keepdims=True)

    def log_prob(self, positions: Floats) -> Floats:
        """Return the log density (B,) of positions (B, N, 3), per bohr^(3N-3)."""
        with np.errstate(divide="ignore"):  # outside the support
            room = np.log(self._room(positions))
        whole = self._n_atoms * np.log(4.0 / 3.0 * np.pi * self._size**3)
        return room - whole - np.log(self._acceptance)

    def _supports(self, positions: Floats) -> NDArray[np.bool_]:
        return self._room(positions) > 0.0  # without the acceptance

    def _room(self, positions: Floats) -> Floats:
        """Return the volume of the shifts that keep all atoms in the ball, (B,), bohr^3; 0 if not allowed."""
        from flowcei.physics._enclosing import shift_volumes

        n, x = self._n_atoms, np.ascontiguousarray(positions, dtype=np.float64)
        if x.shape[1:] != (n, 3):
            raise UsageError(f"a ball of {n} atoms has geometries (B, {n}, 3); got {x.shape}")
        out = np.empty(len(x))
        shift_volumes(x, self._size, self._closest, out)
        return out

    @cached_property
    def _acceptance(self) -> float:
        """Share of draws in which no two atoms are too close."""
        if self._n_atoms == 2:
            u = self._closest / self._size
            # Distance of two points in a unit ball: density 3 u^2 - 9/4 u^3 + 3/16 u^5.
            accepted = 1.0 - u**3 + 9.0 / 16.0 * u**4 - u**6 / 32.0
        else:
            rng = np.random.default_rng(0)  # of its own: the same prior has the same density
            batches = [self._accepted(self._draw(_BATCH, rng)).mean() for _ in range(_TRIALS // _BATCH)]
            accepted = float(np.mean(batches))
        if accepted < _HOPELESS or self._closest >= 2.0 * self._size:
            raise self._no_room()
        return accepted


class CubePrior(_UniformPrior):
    """Atoms uniform in the cube [-half_width, half_width]^3 bohr, then oriented at random.

    No density: it would be a mean over all orientations of the room the cube leaves. Errors: as `BallPrior`.

    Example:
        >>> CubePrior(3, half_width=1.0).sample(5, np.random.default_rng(0)).shape
        (5, 3, 3)
    """

    kind: str = "cube"
    _size_name = "half_width"

    def __init__(self, n_atoms: int, half_width: float, minimal_separation: float = 0.0) -> None:
        super().__init__(n_atoms, half_width, minimal_separation)

    def _draw(self, n: int, rng: np.random.Generator) -> Floats:
        return rng.uniform(-self._size, self._size, (n, self._n_atoms, 3))


class EnsemblePrior(GeometryPrior):
    """Geometries (G, N, 3), bohr, of a molecular-dynamics run or a conformer search, drawn with replacement.

    They are oriented at random, and have no density. UsageError for none, or positions that are not finite.

    Example:
        >>> EnsemblePrior([[[0, 0, 0], [0, 0, 2.1]], [[0, 0, 0], [0, 0, 2.2]]]).n_atoms
        2
    """

    kind: str = "ensemble"
    mirror_symmetric: bool = False

    def __init__(self, geometries: ArrayLike) -> None:
        self._geometries = np.asarray(geometries, dtype=np.float64)
        if self._geometries.ndim != 3 or self._geometries.shape[2] != 3 or not len(self._geometries):
            raise UsageError(f"an ensemble has shape (G, N, 3) with G > 0; got {self._geometries.shape}")
        if not np.isfinite(self._geometries).all():
            raise UsageError("an ensemble holds positions that are not finite")
        self.n_atoms = self._geometries.shape[1]

    def sample(self, n: int, rng: np.random.Generator) -> Floats:
        """Draw `n` geometries, (n, N, 3), bohr."""
        return random_orientation(self._geometries[rng.integers(len(self._geometries), size=n)], rng)

    def spec(self) -> dict[str, Any]:
        """Return the table that makes this prior again."""
        return {"kind": self.kind, "geometries": self._geometries.tolist()}
