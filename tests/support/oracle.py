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
    law: Callable[[np.ndarray], np.ndarray] | None = None,
    tail: float = 1.0,
) -> np.ndarray:
    """Return asymptotic momenta (N, 3) of one geometry (N, 3), with momenta at the start.

    DOP853 to t = 1e12, then the exact impulse that each pair, now in straight motion at
    distance r and velocity v, still gives: q q' (r^ + v^) / (|r||v| + r.v). `share` tells how
    much of its charge each ion has at a time; at the end all of it. `law` is -U'(r) / r over q q', 1 / r^3
    where None, and `tail` what of q q' / r is left of it far away.
    """
    n = len(masses)
    x = positions - masses @ positions / masses.sum()

    itself = np.eye(n)
    ones, products, weight = np.ones(n), np.outer(charges, charges), masses[:, None]

    def slope(time: float, state: np.ndarray) -> np.ndarray:
        r = state[: 3 * n].reshape(n, 3)
        gap = r[:, None] - r
        distance = np.sqrt(np.einsum("ijk,ijk->ij", gap, gap) + itself)  # of an ion to itself: 1
        strength = products / distance**3 if law is None else products * law(distance)
        q = ones * share(time)
        force = q[:, None] * np.einsum("ij,ijk->ik", strength * q, gap)
        out = np.empty_like(state)
        out[: 3 * n], out[3 * n :] = state[3 * n :], (force / weight).ravel()
        return out

    speeds = np.zeros((n, 3)) if initial is None else initial / masses[:, None]
    start = np.concatenate([x.ravel(), speeds.ravel()])
    end = solve_ivp(slope, (0.0, 1e12), start, method="DOP853", rtol=1e-13, atol=1e-14).y[:, -1]
    r, v = end[: 3 * n].reshape(n, 3), end[3 * n :].reshape(n, 3)
    p = masses[:, None] * v
    for i in range(n):
        for j in range(i + 1, n):
            gap, speed = r[i] - r[j], v[i] - v[j]
            far, fast = np.linalg.norm(gap), np.linalg.norm(speed)
            impulse = tail * charges[i] * charges[j] * (gap / far + speed / fast) / (far * fast + gap @ speed)
            p[i] += impulse
            p[j] -= impulse
    return p
