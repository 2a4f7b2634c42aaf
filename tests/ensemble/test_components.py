"""The compiled sums over samples are those of plain loops and of SciPy's densities."""

from __future__ import annotations

import numpy as np
from scipy.stats import multivariate_normal, rayleigh

from flowcei.ensemble.components import Components

SHARE = np.array([[0.3, 0.7], [1.0, 0.0]])  # of two components, in two rows
BENDS = np.array([False, False, True])


def test_sums_are_those_of_plain_loops() -> None:
    """Two rows of means and shares, two covariances, one bend, accidents, events that count twice."""
    rng = np.random.default_rng(1)
    mean = rng.normal(2.0, 0.3, (2, 2, 3)) * ~BENDS
    covariance = np.array([[[0.09, 0.03, 0], [0.03, 0.04, 0], [0, 0, 36.0]], np.diag([0.2, 0.1, 64.0])])
    z = np.abs(rng.normal([2.0, 2.0, 6.0], [0.4, 0.4, 4.0], (4, 7, 3)))
    base, row = rng.normal(size=(4, 7)), np.array([0, 1, 1, 0])
    p_true, times = np.array([1.0, 0.5, 0.9, 0.0]), np.array([1.0, 2.0, 0.0, 1.0])
    with np.errstate(divide="ignore"):
        own = Components.of(mean, np.log(SHARE), covariance, np.array([0, 1]), BENDS)

    def density(r: int, c: int, at: np.ndarray) -> float:
        normal = multivariate_normal(mean[r, c, :2], covariance[c, :2, :2]).pdf(at[:2])
        return float(SHARE[r, c] * normal * rayleigh(scale=np.sqrt(covariance[c, 2, 2])).pdf(at[2]))

    each = np.array(
        [[[density(r, c, at) for c in (0, 1)] for at in event] for r, event in zip(row, z, strict=True)]
    )
    np.testing.assert_allclose(np.exp(own.log_each(z, row)), each, rtol=1e-10)
    log_r, sums = own.moments(z, base, p_true, times, row)
    joint = each * np.exp(base)[:, :, None]
    ratio = joint.sum(axis=(1, 2))
    np.testing.assert_allclose(log_r, np.log(ratio), rtol=1e-10)
    true = times * p_true * ratio / (p_true * ratio + 1.0 - p_true)
    weight = joint * (true / ratio)[:, None, None]
    for r in (0, 1):
        some, points = weight[row == r], z[row == r]
        np.testing.assert_allclose(sums.count[r], some.sum(axis=(0, 1)), atol=1e-12)
        np.testing.assert_allclose(sums.first[r], np.einsum("enc,enk->ck", some, points), atol=1e-12)
        square = np.einsum("enc,enk,enl->ckl", some, points, points)
        np.testing.assert_allclose(sums.second[r], square, atol=1e-10)
