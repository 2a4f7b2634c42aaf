"""An independent oracle: Newton's equations in plain time, by SciPy, to 1e-13."""

from __future__ import annotations

import numpy as np
from scipy.integrate import solve_ivp


def momenta(
    positions: np.ndarray, masses: np.ndarray, charges: np.ndarray, initial: np.ndarray | None = None
) -> np.ndarray:
    """Return asymptotic momenta (N, 3) of one geometry (N, 3), with momenta at the start.

    DOP853 to t = 1e12, then the exact impulse that each pair, now in straight motion at
    distance r and velocity v, still gives: q q' (r^ + v^) / (|r||v| + r.v).
    """
    n = len(masses)
    x = positions - masses @ positions / masses.sum()

    def slope(_: float, state: np.ndarray) -> np.ndarray:
        r = state[: 3 * n].reshape(n, 3)
        gap = r[:, None] - r[None]
        distance = np.linalg.norm(gap, axis=-1)
        np.fill_diagonal(distance, 1.0)
        force = ((charges[:, None] * charges / distance**3)[..., None] * gap).sum(axis=1)
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


def built_up_momenta(
    positions: np.ndarray, masses: np.ndarray, charges: np.ndarray, tau: float
) -> np.ndarray:
    """Return momenta (B, N, 3) of ions whose charges build up as 1 - exp(-t / tau), to about 1e-5.

    The classical Runge-Kutta method in steps that grow with time, t = 40 (exp(s) - 1).
    """
    own = np.eye(len(masses))

    def force(x: np.ndarray, t: float) -> np.ndarray:
        gap = x[:, :, None] - x[:, None]
        distance = np.linalg.norm(gap, axis=-1) + own
        size = np.outer(charges, charges) * (1.0 - np.exp(-t / tau)) ** 2 / distance**3
        return (size[..., None] * gap).sum(axis=2)

    def slope(s: float, x: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        t, rate = 40.0 * np.expm1(s), 40.0 * np.exp(s)
        return rate * p / masses[:, None], rate * force(x, t)

    x, p, h = positions.copy(), np.zeros_like(positions), 0.05
    for s in h * np.arange(260):  # to t = 2e7
        a = slope(s, x, p)
        b = slope(s + h / 2, x + h / 2 * a[0], p + h / 2 * a[1])
        c = slope(s + h / 2, x + h / 2 * b[0], p + h / 2 * b[1])
        d = slope(s + h, x + h * c[0], p + h * c[1])
        x = x + h / 6 * (a[0] + 2 * b[0] + 2 * c[0] + d[0])
        p = p + h / 6 * (a[1] + 2 * b[1] + 2 * c[1] + d[1])
    return p
