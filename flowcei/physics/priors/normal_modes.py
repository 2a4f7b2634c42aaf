"""A prior from vibrations: independent normal coordinates, thermal or zero-point (Wigner)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.errors import UsageError
from flowcei.physics.priors.base import GeometryPrior, random_orientation
from flowcei.physics.priors.orders import NEGLIGIBLE, OrderSearch, log_count, log_mean, warn_of_lost

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_HARTREE_PER_WAVENUMBER = 4.556335252912e-6  # CODATA 2018
_HARTREE_PER_KELVIN = 3.1668115634556e-6  # CODATA 2018
_VOLUME_SLACK = 10.0
_AT_ONCE = 256  # geometries whose orders are in memory
_RIGID_SHARE = 0.2  # what rounding to two printed digits can leave in a vibration


class NormalModesPrior(GeometryPrior):
    """The position part of the Wigner function of harmonic vibrations, oriented at random.

    Each normal coordinate is normal with variance coth(omega / 2kT) / (2 omega) in
    mass-weighted atomic units (E. Wigner, Phys. Rev. 40, 749 (1932)). The density is
    per bohr^(3N-3): the geometry is turned into the Eckart frame, whose volume element is
    det(I') / sqrt(det I_eq), I' = sum m (x . x_eq - x x_eq^T).

    Args:
        equilibrium: (N, 3), bohr.
        masses: (N,), electron masses.
        wavenumbers: (F,), 1 / cm.
        modes: (F, N, 3), Cartesian displacements of any length, as a quantum chemistry
            program prints them.
        temperature: Kelvin; 0 is the zero-point motion.

    Raises:
        UsageError: For shapes that do not match, wavenumbers that are not positive or
            modes that are not independent vibrations.
    """

    kind: str = "normal_modes"
    mirror_symmetric: bool = False
    bounded: bool = False

    def __init__(
        self,
        equilibrium: NDArray[np.float64],
        masses: NDArray[np.float64],
        wavenumbers: ArrayLike,
        modes: ArrayLike,
        temperature: float = 0.0,
    ) -> None:
        self._wavenumbers = np.asarray(wavenumbers, dtype=np.float64)
        self._modes = np.asarray(modes, dtype=np.float64)
        self._temperature = float(temperature)
        expected = (self._wavenumbers.size, *equilibrium.shape)
        sound = self._modes.shape == expected and np.isfinite(self._modes).all()
        if not sound or not _positive(self._wavenumbers) or not 0 <= self._temperature < np.inf:
            msg = (
                f"normal modes have shape {self._modes.shape}, expected {expected} and finite, with "
                f"positive wavenumbers and a temperature of 0 K or more"
            )
            raise UsageError(msg)
        self._masses = masses
        self._equilibrium = equilibrium - masses @ equilibrium / masses.sum()
        weighted = self._modes * np.sqrt(masses)[:, None]
        self._basis = _orthonormal(weighted.reshape(len(weighted), -1))
        vibrating = _vibrating_share(self._basis, self._equilibrium, masses)
        omega = self._wavenumbers * _HARTREE_PER_WAVENUMBER
        warm = np.ones_like(omega)
        if self._temperature > 0:
            warm = 1.0 / np.tanh(omega / (2.0 * self._temperature * _HARTREE_PER_KELVIN))
        self._sigma = np.sqrt(warm / (2.0 * omega))
        self._searches: dict[tuple[tuple[int, ...], ...], OrderSearch] = {}
        inertia = _inertia(self._equilibrium[None], self._equilibrium, masses)[0]
        self._root_inertia = np.sqrt(max(np.linalg.det(inertia), 0.0))
        # Half sum (q / sigma)^2 is never less than this times the squared mass-weighted displacement.
        self._stiffness = 0.5 * vibrating / self._sigma.max() ** 2
        linear = self._root_inertia < 1e-6 * np.trace(inertia) ** 1.5
        self.has_density = len(self._basis) == 3 * len(masses) - 6 and not linear

    def sample(self, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw `n` geometries, (n, N, 3), bohr."""
        q = self._sigma * rng.standard_normal((n, len(self._sigma)))
        shift = (q @ self._basis).reshape(n, -1, 3) / np.sqrt(self._masses)[:, None]
        return random_orientation(self._equilibrium + shift, rng)

    def log_prob(self, positions: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the log density (B,) of positions (B, N, 3), per bohr^(3N-3).

        Raises:
            NoDensityError: For linear molecules or an incomplete set of modes.
        """
        if not self.has_density:
            return super().log_prob(positions)
        m, total = self._masses, self._masses.sum()
        x = np.asarray(positions, dtype=np.float64)
        finite = np.isfinite(x).all(axis=(1, 2))
        if not finite.all():  # LAPACK would refuse all of them
            out = np.full(len(x), np.nan)
            out[finite] = self.log_prob(x[finite])
            return out
        x = x - (m @ x / total)[:, None]
        u, _, v = np.linalg.svd(np.swapaxes(x * m[:, None], 1, 2) @ self._equilibrium)
        u[:, :, 2] *= np.linalg.det(u @ v)[:, None]
        body = x @ (u @ v)
        weighted = (body - self._equilibrium) * np.sqrt(m)[:, None]
        q = weighted.reshape(len(x), -1) @ self._basis.T / self._sigma
        volume = np.linalg.det(_inertia(body, self._equilibrium, m)) / self._root_inertia
        return (
            -0.5 * (q**2).sum(axis=1)
            - np.log(np.sqrt(2.0 * np.pi) * self._sigma).sum()
            - np.log(8.0 * np.pi**2 * np.abs(volume))
            + 1.5 * (np.log(m).sum() - np.log(total))
        )

    def _log_mean(
        self, positions: NDArray[np.float64], identical: tuple[tuple[int, ...], ...]
    ) -> NDArray[np.float64]:
        """Return the log of the mean density (B,) over all orders, of those that can count.

        sum (q / sigma)^2 is at least the squared mass-weighted displacement over the largest
        variance. The volume element enters the bound as it is at equilibrium: an order that is
        left out counts only where its own is smaller by exp(-`_VOLUME_SLACK`), where hardly any
        rotation is the best one.
        """
        if not self.has_density:
            return self.log_prob(positions)
        # Printed modes are not quite symmetric: orders that a rotation undoes are all looked at.
        search = self._searches.get(identical) or OrderSearch(
            self._equilibrium, identical, self._masses, symmetric=False
        )
        self._searches[identical] = search
        start = np.full(len(positions), np.nan)
        rows, nearest, _ = search.within(positions, np.full(len(positions), np.inf), most=1)
        start[rows] = self.log_prob(positions[rows[:, None], nearest])
        cut = log_count(identical) - np.log(NEGLIGIBLE) + _VOLUME_SLACK
        peak = self.log_prob(self._equilibrium[None])
        out = []
        for first in range(0, len(positions), _AT_ONCE):
            x = positions[first : first + _AT_ONCE]
            ceilings = (peak + cut - start[first : first + _AT_ONCE]) / self._stiffness
            rows, orders, lost = search.within(x, ceilings)
            found = log_mean(self.log_prob(x[rows[:, None], orders]), rows, len(x), identical)
            out.append(np.where(lost, np.nan, found))
            warn_of_lost(lost)
        return np.where(np.isnan(start), np.nan, np.concatenate(out))

    def _supports(self, positions: NDArray[np.float64]) -> NDArray[np.bool_]:
        return np.ones(len(positions), dtype=bool)  # a normal coordinate reaches everywhere

    def spec(self) -> dict[str, Any]:
        """Return the table that makes this prior again."""
        return {
            "kind": self.kind,
            "wavenumbers": self._wavenumbers.tolist(),
            "modes": self._modes.tolist(),
            "temperature": self._temperature,
        }


def _orthonormal(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return unit rows, made exactly orthogonal (printed modes carry four digits)."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    u, s, v = np.linalg.svd(rows / np.where(length > 0, length, 1.0), full_matrices=False)
    if s.min() < 0.9:
        msg = (
            "normal modes are not orthogonal in mass-weighted coordinates; give Cartesian "
            "displacements of the vibrations only, for the masses of the molecule"
        )
        raise UsageError(msg)
    return u @ v


def _positive(values: NDArray[np.float64]) -> bool:
    return bool(values.ndim == 1 and values.size and (values > 0).all() and np.isfinite(values).all())


def _vibrating_share(
    basis: NDArray[np.float64], equilibrium: NDArray[np.float64], masses: NDArray[np.float64]
) -> float:
    """Return the least share that unit modes (F, 3N) hold of a vibration's square.

    Raises:
        UsageError: For modes that translate or turn the molecule as a whole.
    """
    root = np.sqrt(masses)[:, None]
    shifts = [(root * axis).ravel() for axis in np.eye(3)]
    turns = [(root * np.cross(axis, equilibrium)).ravel() for axis in np.eye(3)]
    u, s, _ = np.linalg.svd(np.array(shifts + turns).T, full_matrices=False)
    rigid = u[:, s > 1e-6 * s[0]]
    moved = basis @ rigid
    if np.linalg.norm(moved, axis=1).max() > _RIGID_SHARE:
        raise UsageError("a normal mode moves or turns the whole molecule; give the vibrations only")
    return max(1.0 - float(np.linalg.norm(moved, 2)) ** 2, 0.1)


def _inertia(
    x: NDArray[np.float64], reference: NDArray[np.float64], masses: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return sum m (x . r - x r^T), (B, 3, 3), of geometries x (B, N, 3)."""
    outer = np.swapaxes(x * masses[:, None], 1, 2) @ reference
    return np.trace(outer, axis1=1, axis2=2)[:, None, None] * np.eye(3) - outer
