"""An independent oracle: Newton's equations in plain time, by SciPy, to 1e-13."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.integrate import solve_ivp

if TYPE_CHECKING:
    from collections.abc import Callable


def momenta(
    positions: np.ndarray,
    masses: np.ndarray,
    charges: np.ndarray,
    initial: np.ndarray | None = None,
    *,
    share: Callable[[float], np.ndarray | float] = lambda _: 1.0,
) -> np.ndarray:
    """Return asymptotic momenta (N, 3) of one geometry (N, 3), with momenta at the start.

    DOP853 to t = 1e12, then the exact impulse that each pair, now in straight motion at
    distance r and velocity v, still gives: q q' (r^ + v^) / (|r||v| + r.v). `share` tells how
    much of its charge each ion has at a time; at the end all of it.
    """
    n = len(masses)
    x = positions - masses @ positions / masses.sum()

    def slope(time: float, state: np.ndarray) -> np.ndarray:
        r = state[: 3 * n].reshape(n, 3)
        gap = r[:, None] - r[None]
        distance = np.linalg.norm(gap, axis=-1)
        np.fill_diagonal(distance, 1.0)
        q = charges * share(time)
        force = ((q[:, None] * q / distance**3)[..., None] * gap).sum(axis=1)
        return np.concatenate([state[3 * n :], (force / masses[:, None]).ravel()])

    speeds = np.zeros((n, 3)) if initial is None else initial / masses[:, None]
    start = np.concatenate([x.ravel(), speeds.ravel()])
    end = solve_ivp(slope, (0.0, 1e12), start, method="DOP853", rtol=1e-13, atol=1e-14).y[:, -1]
    r, v = end[: 3 * n].reshape(n, 3), end[3 * n :].reshape(n, 3)
    p = masses[:, None] * v
    for i in range(n):
        for j in range(i + 1, n):
            gap, speed = r[i] - r[j], v[i] - v[j]
            far, fast = np.linalg.norm(gap), np.linalg.norm(speed)
            impulse = charges[i] * charges[j] * (gap / far + speed / fast) / (far * fast + gap @ speed)
            p[i] += impulse
            p[j] -= impulse
    return p
