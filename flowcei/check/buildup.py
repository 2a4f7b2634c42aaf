"""Charges that build up during the explosion: what they do to the momenta.

With charges q_i(t) = Q_i (1 - exp(-t / tau)) the forces are those of the final charges times
(1 - exp(-t / tau))^2. Of ions that explode faster than they are charged the KER is lower; light
ions lose most (the model: K. Motomura et al., J. Phys. Chem. Lett. 6, 2944 (2015)).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.integrate import solve_ivp

if TYPE_CHECKING:
    from numpy.typing import NDArray

FEMTOSECOND = 41.341373
"""In atomic units of time."""

_END = 1e7  # 0.24 ns: what is left of the energy then is 1e-5


def built_up_momenta(
    positions: NDArray[np.float64],
    masses: NDArray[np.float64],
    charges: NDArray[np.float64],
    tau: float,
) -> NDArray[np.float64]:
    """Return the momenta (B, N, 3), hbar / bohr, to about 1e-4, of ions at positions (B, N, 3), bohr.

    Masses (N,), final charges (N,) and the time constant tau > 0 are in atomic units.
    """
    shape, size = positions.shape, positions.size
    products = charges[:, None] * charges
    own = np.eye(len(charges))

    def slope(time: float, state: NDArray[np.float64]) -> NDArray[np.float64]:
        x = state[:size].reshape(shape)
        gap = x[:, :, None] - x[:, None]
        distance = np.sqrt(np.einsum("bijx,bijx->bij", gap, gap)) + own
        force = np.einsum("bij,bijx->bix", products / distance**3, gap)
        force *= np.expm1(-time / tau) ** 2
        return np.concatenate([state[size:], (force / masses[:, None]).ravel()])

    start = np.concatenate([positions.ravel(), np.zeros(size)])
    end = solve_ivp(slope, (0.0, _END), start, method="DOP853", rtol=1e-5, atol=1e-6).y[size:, -1]
    out: NDArray[np.float64] = end.reshape(shape) * masses[:, None]
    return out
