"""What a geometry prior is: the statement of which geometries are possible."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flowcei.errors import NoDensityError
from flowcei.physics.draws import fresh_key
from flowcei.physics.priors.orders import all_orders, check_groups, log_count

if TYPE_CHECKING:
    from flowcei.physics.priors.orders import Floats, Groups

_DRAWS, _BEYOND = 1000, 20.0
_MOST_ORDERS = 720  # of identical ions that a prior without a search of its own goes through: 6 alike


class GeometryPrior(ABC):
    """A distribution of geometries, orientation uniform, position in space irrelevant.

    Densities are per bohr^(3N-3): over the positions of all atoms relative to any one of
    them. Any other tree of bond vectors has the same volume element.

    Attributes:
        kind: The word that names it in a molecule's TOML.
        has_density: Whether `log_prob` can be asked.
        mirror_symmetric: Whether a geometry and its mirror image are equally probable;
            then handedness carries no information and may be folded away.
        exchangeable: Whether no order of the atoms is more probable than another.
        bounded: Whether there are geometries that `allows` excludes.
        motion: Whether the atoms move at the start, with momenta that `sample_moving` draws.
    """

    kind: str
    has_density: bool = False
    mirror_symmetric: bool = True
    exchangeable: bool = False
    bounded: bool = True
    motion: bool = False

    @abstractmethod
    def sample(self, n: int, rng: np.random.Generator) -> Floats:
        """Draw `n` geometries, (n, N, 3), bohr."""

    def sample_moving(self, n: int, rng: np.random.Generator) -> tuple[Floats, Floats | None]:
        """Draw the geometries of `sample` and, of a prior with motion, momenta (n, N, 3), hbar / bohr."""
        return self.sample(n, rng), None

    def momenta_of(self, positions: Floats, identical: Groups, rng: np.random.Generator) -> Floats | None:
        """Draw momenta at the start (B, N, 3) of given geometries, hbar / bohr; None without motion."""
        return None

    def log_prob(self, positions: Floats) -> Floats:
        """Return the log density (B,) of positions (B, N, 3), per bohr^(3N-3).

        Raises:
            NoDensityError: Where the prior cannot say.
        """
        lacking = "has no density in closed form: it can only be sampled"
        raise NoDensityError(f"a prior of kind {self.kind!r} {lacking}")

    def log_prob_unlabelled(self, positions: Floats, identical: Groups) -> Floats:
        """Return the log density (B,) where nobody knows which of the identical ions is which.

        A detector cannot tell one h+ from another: the density of measured events is the mean of
        `log_prob` of positions (B, N, 3), bohr, over all orders of the ions of groups (`Molecule.identical`).
        NaN, with a warning, where so many orders count that they cannot be added up.

        Raises:
            NoDensityError: Where the prior cannot say.
            UsageError: For groups that overlap, or more than 720 orders of a prior without a
                search of its own.
        """
        x = np.ascontiguousarray(positions, dtype=np.float64)
        check_groups(x.shape[1], identical)
        if self.exchangeable or not identical:
            return self.log_prob(x)
        return self._log_mean(x, identical)

    def allows(self, positions: Floats, identical: Groups = ()) -> NDArray[np.bool_]:
        """Return whether geometries (B, N, 3), bohr, lie in the prior's support, (B,) of bool.

        It is enough that one order of the ions of groups does; what is not finite does not. Errors are those
        of `log_prob_unlabelled`.

        Example:
            >>> from flowcei.molecules.molecule import Molecule
            >>> from flowcei.physics.priors import build_prior
            >>> ocs = Molecule.load("ocs")
            >>> x = ocs.equilibrium * np.array([1.0, 9.0])[:, None, None]
            >>> build_prior(ocs, "broad").allows(x)
            array([ True, False])
        """
        if not self.has_density:
            lacking = "cannot say which geometries it allows: it can only be sampled"
            raise NoDensityError(f"a prior of kind {self.kind!r} {lacking}")
        x = np.asarray(positions, dtype=np.float64)
        check_groups(x.shape[1], identical)
        finite = np.asarray(np.isfinite(x).all(axis=(1, 2)))
        allowed = np.zeros(len(x), dtype=bool)
        allowed[finite] = self._supports(x[finite])
        others = finite & ~allowed
        if others.any() and identical and not self.exchangeable:  # another order may do
            allowed[others] = self._log_mean(x[others], identical) > -np.inf
        return allowed

    def plausible(self, positions: Floats, identical: Groups = ()) -> NDArray[np.bool_]:
        """Return whether the prior ever draws the like of geometries (B, N, 3), bohr, (B,) of bool.

        A normal distribution excludes nothing strictly (`allows`), but a geometry e^20 times
        less probable than the least probable of 1000 draws is none of its. NoDensityError without a density.
        """
        draws = self.sample(_DRAWS, np.random.default_rng(0))
        least = self.log_prob_unlabelled(draws, identical).min() - _BEYOND
        return np.asarray(self.log_prob_unlabelled(positions, identical) >= least)

    def _supports(self, positions: Floats) -> NDArray[np.bool_]:
        """Whether finite positions (B, N, 3), as they are labelled, lie in the support."""
        return self.log_prob(positions) > -np.inf

    def _log_mean(self, positions: Floats, identical: Groups) -> Floats:
        """Return the log of the mean density (B,) over all orders, one after the other."""
        total = np.full(len(positions), -np.inf)
        for order in all_orders(positions.shape[1], identical, _MOST_ORDERS):
            total = np.logaddexp(total, self.log_prob(positions[:, order]))
        return total - log_count(identical)

    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """Return the table (plain numbers and text) that makes this prior again."""


def random_orientation(positions: Floats, rng: np.random.Generator) -> Floats:
    """Geometries (B, N, 3), each rotated by its own rotation, uniform over SO(3)."""
    # Imported here: numba takes half a second. Compiled, it is twenty times faster than SciPy's rotations.
    from flowcei.physics._placing import turn

    out = np.empty(positions.shape)
    turn(fresh_key(rng), np.ascontiguousarray(positions, np.float64), out)
    return out
