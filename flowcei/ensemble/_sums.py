"""The compiled sums over samples behind `flowcei.ensemble.components`."""

from __future__ import annotations

import math

import numpy as np

from flowcei.storage._compilation import compiled, kernel

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


@compiled
def _log_weights(z, base, s, root, which, mean, height, bends, y, each) -> float:
    """The largest of the log weights each (n, C) of samples z (n, K) of an event, in row s; y is room."""
    top = -np.inf
    for k in range(len(z)):
        known = base[k]
        for a in range(z.shape[1]):
            if bends[a]:
                known += math.log(z[k, a]) if z[k, a] > 0.0 else -np.inf
            for j in range(len(root)):
                y[j, a] = 0.0
                for b in range(a + 1):
                    y[j, a] += root[j, a, b] * z[k, b]
        for c in range(len(which)):
            each[k, c] = -np.inf
            if height[s, c] > -np.inf:
                each[k, c] = known + _log_density(y[which[c]], mean[s, c], height[s, c])
                top = max(top, each[k, c])
    return top


@compiled
def _add(z, weights, least, factor, which, total, first, second, own) -> None:
    """Add samples z (n, K) with weights (n, C), none below the least, times a factor; own (J,) is room."""
    for k in range(len(z)):
        own[:] = 0.0
        for c in range(len(which)):
            if weights[k, c] > least:
                weight = factor * weights[k, c]
                total[c] += weight
                own[which[c]] += weight
                for a in range(z.shape[1]):
                    first[c, a] += weight * z[k, a]
        for j in range(len(own)):
            if own[j] > 0.0:
                for a in range(z.shape[1]):
                    for b in range(z.shape[1]):
                        second[j, a, b] += own[j] * z[k, a] * z[k, b]


@kernel
def weighted_moments(z, base, p_true, times, row, root, which, mean, height, bends) -> tuple:
    """Log R (e,), in each row sums (S, C, ...) of weights and z of C components, of z z' of J covariances.

    Samples are z (e, n, K) and have log weights base (e, n); root (J, K, K) are the inverse Cholesky factors
    of the covariances. Events are true with p_true, count so many times, have the means of a row, (e,) each.
    """
    (e, n, size), components, covariances = z.shape, len(which), len(root)
    log_r = np.full(e, -np.inf)
    total, first = np.zeros(mean.shape[:2]), np.zeros(mean.shape)
    second = np.zeros((len(mean), covariances, size, size))
    each, y, own = np.empty((n, components)), np.empty((covariances, size)), np.empty(covariances)
    for i in range(e):
        s = row[i]
        top = _log_weights(z[i], base[i], s, root, which, mean, height, bends, y, each)
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
        _add(z[i], each, _NONE * whole, factor, which, total[s], first[s], second[s], own)
    return log_r, total, first, second
