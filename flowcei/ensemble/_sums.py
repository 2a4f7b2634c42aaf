"""The compiled sums over samples behind `flowcei.ensemble.components`."""

from __future__ import annotations

import math

import numpy as np

from flowcei.physics._compilation import compiled, kernel

_NONE = 1e-16  # of an event: samples that have less of it count nothing


@compiled
def _log_density(point, mean, height) -> float:
    """Log density of a normal component at a point (K,), both over its deviation."""
    square = 0.0
    for k in range(len(mean)):
        away = point[k] - mean[k]
        square += away * away
    return height - 0.5 * square


@kernel
def log_densities(y, row, which, mean, height) -> np.ndarray:
    """Log densities (e, n, C): points y (J, e, n, K) over deviations, rows (e,) of means (S, C, K)."""
    out = np.full((y.shape[1], y.shape[2], len(which)), -np.inf)
    for i in range(y.shape[1]):
        s = row[i]
        for k in range(y.shape[2]):
            for c in range(len(which)):
                if height[s, c] > -np.inf:
                    out[i, k, c] = _log_density(y[which[c], i, k], mean[s, c], height[s, c])
    return out


@kernel
def weighted_moments(y, z, base, p_true, times, row, slot, slots, which, mean, height) -> tuple:
    """Log R (e,), and the sums of weights, z and z z' of C components in each slot.

    Samples are z (e, n, K), over deviations y (J, e, n, K), and have log weights base (e, n). Events are true
    with p_true, count so many times, have the means of a row and are summed in a slot, (e,) each.
    """
    (e, n, size), components = z.shape, len(which)
    log_r = np.full(e, -np.inf)
    total = np.zeros((slots, components))
    first = np.zeros((slots, components, size))
    second = np.zeros((slots, components, size, size))
    each = np.empty((n, components))
    for i in range(e):
        s, top = row[i], -np.inf
        for k in range(n):
            for c in range(components):
                each[k, c] = -np.inf
                if height[s, c] > -np.inf:
                    each[k, c] = base[i, k] + _log_density(y[which[c], i, k], mean[s, c], height[s, c])
                    top = max(top, each[k, c])
        if not top > -np.inf:
            continue
        whole = 0.0
        for k in range(n):
            for c in range(components):
                each[k, c] = math.exp(each[k, c] - top) if each[k, c] > top - 40.0 else 0.0
                whole += each[k, c]
        log_r[i] = top + math.log(whole)
        accident = (1.0 - p_true[i]) * math.exp(-log_r[i])
        factor = times[i] * p_true[i] / (p_true[i] + accident) / whole
        t = slot[i]
        for k in range(n):
            for c in range(components):
                if each[k, c] > _NONE * whole:
                    weight = factor * each[k, c]
                    total[t, c] += weight
                    for a in range(size):
                        own = weight * z[i, k, a]
                        first[t, c, a] += own
                        for b in range(size):
                            second[t, c, a, b] += own * z[i, k, b]
    return log_r, total, first, second
