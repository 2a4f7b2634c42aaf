"""Priors around the equilibrium: each atom displaced by a normal, or normal coordinates (Wigner)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.errors import UsageError
from flowcei.physics.draws import standard_normal
from flowcei.physics.priors.base import GeometryPrior, random_orientation
from flowcei.physics.priors.orders import NEGLIGIBLE, OrderSearch, log_count, log_mean, nearest_rotations
from flowcei.units import BOLTZMANN

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from numpy.typing import ArrayLike, NDArray

    from flowcei.physics.priors.orders import Floats, Groups

_SAME = 2e-6  # of the squares of all radii: the residual of a mirror image that is the molecule itself
_HARTREE_PER_WAVENUMBER = 4.556335252912e-6  # CODATA 2018
_VOLUME_SLACK = 10.0
_AT_ONCE = 256  # geometries whose orders are in memory
_PLAUSIBLE = 1.5  # nats a mode that a density may be below its greatest, on average 0.5
_SYMMETRIC = 1e-4  # of the squares of all radii: what printed digits leave of a symmetry
_LOOKED_AT = 2_000  # partial orders of like atoms, for the nearest one
_RIGID_SHARE = 0.2  # what rounding to two printed digits can leave in a vibration


class _EquilibriumPrior(GeometryPrior):
    """Normal displacements, which reach everywhere, of an equilibrium (N, 3), bohr."""

    bounded: bool = False

    def __init__(self, equilibrium: Floats) -> None:
        self._equilibrium = np.ascontiguousarray(equilibrium, np.float64)
        self._searches: dict[Groups, OrderSearch] = {}

    def _search(
        self, identical: Groups, weights: Floats | None = None, *, symmetric: bool = True
    ) -> OrderSearch:
        if identical not in self._searches:
            search = OrderSearch(self._equilibrium, identical, weights, symmetric=symmetric)
            self._searches[identical] = search
        return self._searches[identical]

    def _supports(self, positions: Floats) -> NDArray[np.bool_]:
        return np.ones(len(positions), dtype=bool)


class DisplacedPrior(_EquilibriumPrior):
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

    Example:
        >>> prior = DisplacedPrior(np.array([[0.0, 0, 0], [0, 0, 2.1]]), ["c", "o"], sigma=0.1)
        >>> prior.sample(3, np.random.default_rng(0)).shape, prior.mirror_symmetric
        ((3, 2, 3), True)
    """

    kind: str = "displaced"
    has_density: bool = True

    def __init__(self, equilibrium: Floats, kinds: Sequence[Hashable], sigma: float) -> None:
        if not 0 < sigma < np.inf:
            raise UsageError(f"sigma = {sigma} of a displaced prior must be positive, in bohr")
        super().__init__(equilibrium - equilibrium.mean(axis=0))
        self._sigma = float(sigma)
        n = len(self._equilibrium)
        # Orthonormal coordinates without the centroid have N^(-3/2) the volume element of relative positions.
        self._log_normalisation = -1.5 * ((n - 1) * np.log(2.0 * np.pi * self._sigma**2) + np.log(n))
        groups = (tuple(i for i, k in enumerate(kinds) if k == kind) for kind in dict.fromkeys(kinds))
        search = self._search(tuple(group for group in groups if len(group) > 1))
        ceiling = np.array([_SAME * (self._equilibrium**2).sum()])
        # Where the search gives up, handedness counts: that is never wrong, only more to learn.
        self.mirror_symmetric = len(search.within(self._equilibrium[None] * [1, 1, -1], ceiling, 1)[0]) > 0

    def sample(self, n: int, rng: np.random.Generator) -> Floats:
        """Draw `n` geometries, (n, N, 3), bohr."""
        shift = self._sigma * standard_normal((n, *self._equilibrium.shape), rng)
        return random_orientation(self._equilibrium + shift, rng)

    def log_prob(self, positions: Floats) -> Floats:
        """Return the log density (B,) of positions (B, N, 3), per bohr^(3N-3)."""
        # Imported here: numba takes half a second, and a prior can be named without it.
        from flowcei.physics._rotations import log_displaced

        x = np.ascontiguousarray(positions, dtype=np.float64)
        out = np.empty(len(x))
        log_displaced(x, self._equilibrium, self._sigma**2, out)
        return out + self._log_normalisation

    def _log_mean(self, positions: Floats, identical: Groups) -> Floats:
        search = self._search(identical)
        if search.all_alike:
            return self.log_prob(positions)
        return search.log_displaced(positions, self._sigma) + self._log_normalisation

    def spec(self) -> dict[str, Any]:
        """Return the table that makes this prior again."""
        return {"kind": self.kind, "sigma": self._sigma}


class NormalModesPrior(_EquilibriumPrior):
    """The Wigner function of harmonic vibrations, oriented at random.

    Each normal coordinate is normal with variance coth(omega / 2kT) / (2 omega) in mass-weighted atomic
    units, its momentum independent of it with omega^2 times that (E. Wigner, Phys. Rev. 40, 749 (1932)).
    Atoms start at rest all the same unless `motion` says that they have these momenta. The density is
    per bohr^(3N-3): the geometry is turned into the Eckart frame, whose volume element is
    det(I') / sqrt(det I_eq), I' = sum m (x . x_eq - x x_eq^T).

    Args:
        equilibrium: (N, 3), bohr.
        masses: (N,), electron masses.
        wavenumbers: (F,), 1 / cm.
        modes: (F, N, 3), Cartesian displacements of any length, as a quantum chemistry
            program prints them.
        temperature: Kelvin; 0 is the zero-point motion.
        motion: Whether atoms begin with the momenta of their vibrations.

    Raises:
        UsageError: For shapes that do not match, wavenumbers that are not positive or
            modes that are not independent vibrations.

    Example:
        >>> x, stretch = np.array([[0.0, 0, 0], [0, 0, 2.1]]), [[[0, 0, -1.0], [0, 0, 1.0]]]
        >>> NormalModesPrior(x, np.full(2, 2.0e4), [2000.0], stretch).sample(
        ...     3, np.random.default_rng(0)
        ... ).shape
        (3, 2, 3)
    """

    kind: str = "normal_modes"
    mirror_symmetric: bool = False

    def __init__(
        self,
        equilibrium: Floats,
        masses: Floats,
        wavenumbers: ArrayLike,
        modes: ArrayLike,
        temperature: float = 0.0,
        motion: bool = False,  # noqa: FBT001, FBT002 (an entry of a table)
    ) -> None:
        if not isinstance(motion, bool):
            raise UsageError(f"motion of normal modes is true or false; got {str(motion)[:40]!r}")
        self.motion = motion
        super().__init__(equilibrium - masses @ equilibrium / masses.sum())
        self._wavenumbers = np.asarray(wavenumbers, dtype=np.float64)
        self._modes = np.asarray(modes, dtype=np.float64)
        self._temperature = float(temperature)
        expected = (self._wavenumbers.size, *equilibrium.shape)
        sound = self._modes.shape == expected and np.isfinite(self._modes).all()
        if not sound or not _positive(self._wavenumbers) or not 0 <= self._temperature < np.inf:
            raise UsageError(
                f"normal modes have shape {self._modes.shape}, expected {expected} and finite, with "
                "positive wavenumbers and a temperature of 0 K or more"
            )
        self._masses = masses
        self._basis = _orthonormal((self._modes * np.sqrt(masses)[:, None]).reshape(len(self._modes), -1))
        omega = self._wavenumbers * _HARTREE_PER_WAVENUMBER
        with np.errstate(divide="ignore"):  # at 0 K coth is 1
            warm = 1.0 / np.tanh(omega / (2.0 * np.float64(self._temperature) * BOLTZMANN))
        self._sigma = np.sqrt(warm / (2.0 * omega))
        self._omega = omega
        # Half sum (q / sigma)^2 is never less than this times the squared mass-weighted displacement.
        vibrating = _vibrating_share(self._basis, self._equilibrium, masses)
        self._stiffness = 0.5 * vibrating / self._sigma.max() ** 2
        inertia = self._inertia(self._equilibrium[None])[0]
        self._root_inertia = np.sqrt(max(np.linalg.det(inertia), 0.0))
        linear = self._root_inertia < 1e-6 * np.trace(inertia) ** 1.5
        self.has_density = len(self._basis) == 3 * len(masses) - 6 and not linear

    def sample(self, n: int, rng: np.random.Generator) -> Floats:
        """Draw `n` geometries, (n, N, 3), bohr."""
        return self.sample_moving(n, rng)[0]

    def sample_moving(self, n: int, rng: np.random.Generator) -> tuple[Floats, Floats | None]:
        """Draw the geometries of `sample` and, where there is motion, momenta (n, N, 3) of sum 0."""
        q = self._sigma * standard_normal((n, len(self._sigma)), rng)
        root = np.sqrt(self._masses)[:, None]
        x = self._equilibrium + (q @ self._basis).reshape(n, -1, 3) / root
        if not self.motion:
            return random_orientation(x, rng), None
        own = rng.spawn(1)[0]  # geometries are those without motion
        pace = self._sigma * self._omega * standard_normal((n, len(self._sigma)), own)
        p = (pace @ self._basis).reshape(n, -1, 3) * root
        p -= (self._masses / self._masses.sum())[:, None] * p.sum(axis=1, keepdims=True)  # of printed modes
        both = random_orientation(np.concatenate([x, p], axis=1), rng)
        return both[:, : len(root)], both[:, len(root) :]

    def momenta_of(self, positions: Floats, identical: Groups, rng: np.random.Generator) -> Floats | None:
        """As of `GeometryPrior`: those of the modes, in the frame that brings the equilibrium nearest."""
        if not self.motion:
            return None
        atoms, turn, near = self.placed(positions, identical)
        pace = self._sigma * self._omega * standard_normal((len(near), len(self._sigma)), rng)
        p = (pace @ self._basis).reshape(near.shape) * np.sqrt(self._masses)[:, None]
        p -= (self._masses / self._masses.sum())[:, None] * p.sum(axis=1, keepdims=True)
        return np.asarray(
            np.take_along_axis(p @ np.swapaxes(turn, 1, 2), atoms[..., None].argsort(axis=1), axis=1)
        )

    def placed(self, positions: Floats, identical: Groups) -> tuple[NDArray[np.int64], Floats, Floats]:
        """Positions (B, N, 3) as near as may be to the equilibrium: x[atoms] @ turn, of centred ones.

        Atoms (B, N), in an order of those of groups, rotations (B, 3, 3), and these positions (B, N, 3).
        """
        m = self._masses
        x = positions - np.einsum("i,bij->bj", m / m.sum(), positions)[:, None]
        atoms = np.tile(np.arange(len(m)), (len(x), 1))
        if identical:
            atoms = self._search(identical, m, symmetric=False).nearest(x, _LOOKED_AT)
            x = np.take_along_axis(x, atoms[..., None], axis=1)
        turn = nearest_rotations(np.einsum("i,bia,ic->bac", m, x, self._equilibrium))
        return atoms, turn, x @ turn

    @property
    def equilibrium(self) -> Floats:
        """Where the modes vibrate about, (N, 3), bohr, centre of mass 0."""
        return self._equilibrium

    @property
    def mode_count(self) -> int:
        """How many modes vibrate, F."""
        return len(self._sigma)

    def normal_coordinates(self, positions: Floats) -> tuple[Floats, Floats]:
        """Normal coordinates (B, F) of geometries (B, N, 3) over their deviations, and what turning leaves.

        The geometry is turned into the Eckart frame: the rotation of the least mass-weighted displacement
        (K. N. Kudin and A. Y. Dymarsky, J. Chem. Phys. 122, 224105 (2005)). That displacement, squared, is
        returned beside them, (B,).
        """
        m = self._masses[:, None]
        x = positions - (self._masses @ positions)[:, None] / self._masses.sum()
        u, _, vt = np.linalg.svd(np.swapaxes(m * x, 1, 2) @ self._equilibrium)
        u[:, :, 2] *= np.sign(np.linalg.det(u @ vt))[:, None]
        shift = (np.sqrt(m) * (x @ (u @ vt) - self._equilibrium)).reshape(len(x), -1)
        return shift @ self._basis.T / self._sigma, (shift**2).sum(axis=1)

    def displaced(self, coordinates: Floats, rng: np.random.Generator) -> Floats:
        """Geometries (B, N, 3), oriented at random, of normal coordinates (B, F) over their deviations."""
        return random_orientation(self.at(coordinates), rng)

    def at(self, coordinates: Floats) -> Floats:
        """Geometries (B, N, 3) in the Eckart frame of normal coordinates (B, F) over their deviations."""
        shift = ((self._sigma * coordinates) @ self._basis).reshape(len(coordinates), -1, 3)
        return np.asarray(self._equilibrium + shift / np.sqrt(self._masses)[:, None])

    def symmetries(self, orders: NDArray[np.intp]) -> Floats:
        """Maps (G, F, F) of normal coordinates over deviations by those orders (S, N) that are rotations."""
        maps, size = [], (self._masses[:, None] * self._equilibrium**2).sum()
        shifts = self._basis * 1e-3 / np.repeat(np.sqrt(self._masses), 3)
        shifts = shifts.reshape(-1, *self._equilibrium.shape)
        for order in orders:
            at = self._equilibrium[order]
            here, off = self.normal_coordinates(at[None])
            if off[0] < _SYMMETRIC * size:
                moved = self.normal_coordinates((self._equilibrium + shifts)[:, order])[0] - here
                maps.append((moved * self._sigma[:, None]).T / 1e-3)
        return np.array(maps)

    @property
    def momentum_covariance(self) -> Floats:
        """Of the momenta of the modes in the frame of the equilibrium, (3N, 3N), (hbar / bohr)^2."""
        root = (self._sigma * self._omega)[:, None] * self._basis * np.repeat(np.sqrt(self._masses), 3)
        return np.asarray(root.T @ root)

    def log_prob(self, positions: Floats) -> Floats:
        """Return the log density (B,) of positions (B, N, 3), per bohr^(3N-3).

        Raises:
            NoDensityError: For linear molecules or an incomplete set of modes.
        """
        if not self.has_density:
            return super().log_prob(positions)
        # Imported here: numba takes half a second, and a prior can be named without it.
        from flowcei.physics._rotations import log_normal_modes

        m = self._masses
        x = np.ascontiguousarray(positions, dtype=np.float64)
        modes = self._basis * np.repeat(np.sqrt(m), 3) / self._sigma[:, None]
        out = np.empty(len(x))
        log_normal_modes(x, self._equilibrium, m, modes, out)
        out += np.log(self._root_inertia) + 1.5 * (np.log(m).sum() - np.log(m.sum()))
        out -= np.log(np.sqrt(2.0 * np.pi) * self._sigma).sum() + np.log(8.0 * np.pi**2)
        return np.where(np.isfinite(x).all(axis=(1, 2)), out, np.nan)

    def _inertia(self, x: Floats) -> Floats:
        """Return sum m (x . x_eq - x x_eq^T), (B, 3, 3), of geometries x (B, N, 3)."""
        outer = np.swapaxes(x * self._masses[:, None], 1, 2) @ self._equilibrium
        return np.trace(outer, axis1=1, axis2=2)[:, None, None] * np.eye(3) - outer

    def _log_mean(self, positions: Floats, identical: Groups) -> Floats:
        """Return the log of the mean density (B,) over all orders, of those that can count.

        sum (q / sigma)^2 is at least the squared mass-weighted displacement over the largest
        variance. The volume element enters the bound as it is at equilibrium: an order that is
        left out counts only where its own is smaller by exp(-`_VOLUME_SLACK`), where hardly any
        rotation is the best one.
        """
        if not self.has_density:
            return self.log_prob(positions)
        # Printed modes are not quite symmetric: orders that a rotation undoes are all looked at.
        search = self._search(identical, self._masses, symmetric=False)
        top = self.log_prob(self._equilibrium[None])
        start = self.log_prob(positions)  # of most samples of a posterior the order is right already
        far = np.flatnonzero(~(start > top - _PLAUSIBLE * len(self._sigma)))
        rows, nearest, _ = search.within(positions[far], np.full(len(far), np.inf), most=1)
        start[far[rows]] = self.log_prob(positions[far[rows, None], nearest])
        cut = log_count(identical) - np.log(NEGLIGIBLE) + _VOLUME_SLACK
        ceilings = (top + cut - start) / self._stiffness
        out = []
        for first in range(0, len(positions), _AT_ONCE):
            x = positions[first : first + _AT_ONCE]
            rows, orders, lost = search.within(x, ceilings[first : first + _AT_ONCE])
            out.append(log_mean(self.log_prob(x[rows[:, None], orders]), rows, lost, identical))
        return np.where(np.isnan(start), np.nan, np.concatenate(out))

    def spec(self) -> dict[str, Any]:
        """Return the table that makes this prior again."""
        numbers = {"wavenumbers": self._wavenumbers.tolist(), "modes": self._modes.tolist()}
        moving = {"motion": True} if self.motion else {}
        return {"kind": self.kind, **numbers, "temperature": self._temperature, **moving}


def _positive(values: Floats) -> bool:
    return bool(values.ndim == 1 and values.size and (values > 0).all() and np.isfinite(values).all())


def _orthonormal(rows: Floats) -> Floats:
    """Unit rows, made exactly orthogonal (printed modes carry four digits)."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    u, s, v = np.linalg.svd(rows / np.where(length > 0, length, 1.0), full_matrices=False)
    if s.min() < 0.9:
        raise UsageError(
            "normal modes are not orthogonal in mass-weighted coordinates; give Cartesian "
            "displacements of the vibrations only, for the masses of the molecule"
        )
    return u @ v


def _vibrating_share(basis: Floats, equilibrium: Floats, masses: Floats) -> float:
    """Least share that unit modes (F, 3N) hold of a vibration's square; UsageError for rigid motions."""
    root = np.sqrt(masses)[:, None]
    rigid = [root * e for e in np.eye(3)] + [root * np.cross(e, equilibrium) for e in np.eye(3)]
    u, s, _ = np.linalg.svd(np.reshape(rigid, (6, -1)).T, full_matrices=False)
    moved = basis @ u[:, s > 1e-6 * s[0]]
    if np.linalg.norm(moved, axis=1).max() > _RIGID_SHARE:
        raise UsageError("a normal mode moves or turns the whole molecule; give the vibrations only")
    return max(1.0 - float(np.linalg.norm(moved, 2)) ** 2, 0.1)
