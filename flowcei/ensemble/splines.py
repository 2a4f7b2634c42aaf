"""Functions of a column of the events, such as a delay, and true values about nominal ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.interpolate import BSpline

if TYPE_CHECKING:
    from flowcei.posterior.arrays import Floats

FEWEST_TRUE = 11
"""True values of a nominal one, at the least."""
REACH = 3.0
"""Deviations of the cross-correlation between which these are."""
_BEYOND = 2.5  # deviations of the cross-correlation to which splines reach beyond the column


def ends_of(values: Floats, deviation: float) -> tuple[float, float]:
    """Ends of splines along some values: true ones scatter about these."""
    reach = _BEYOND * deviation
    return float(values.min() - reach), float(values.max() + reach)


def spline_basis(t: Floats, count: int, ends: tuple[float, float]) -> Floats:
    """Splines (B, M) between two ends at values (B,)."""
    degree = min(3, count - 1)
    inner = np.linspace(*ends, count - degree + 1)
    knots = np.concatenate([[ends[0]] * degree, inner, [ends[1]] * degree])
    distinct, rows = np.unique(np.clip(t, *ends), return_inverse=True)
    return np.asarray(BSpline.design_matrix(distinct, knots, degree).toarray())[rows]


def mean_basis(t: Floats, count: int, ends: tuple[float, float], straight: tuple[bool, bool]) -> Floats:
    """Splines (B, M) that beyond each end go on straight, or stay."""
    basis = spline_basis(t, count, ends)
    degree = min(3, count - 1)
    slope = degree * (count - degree) / (ends[1] - ends[0])  # at an end that of its first two coefficients
    beyond = np.minimum(t - ends[0], 0.0) * straight[0], np.maximum(t - ends[1], 0.0) * straight[1]
    for first, second, way in ((0, 1, beyond[0]), (-2, -1, beyond[1])):
        basis[:, first] -= slope * way
        basis[:, second] += slope * way
    return basis


def true_values(deviation: float, count: int = FEWEST_TRUE) -> tuple[Floats, Floats]:
    """True values about a nominal one, (G,), and their shares, (G,): with the variance of all of them.

    Without what is beyond the reach they would have 1 to 2 % less of it, and a law be so much wider.
    """
    if not deviation > 0.0:
        return np.zeros(1), np.ones(1)
    nodes = np.linspace(-REACH, REACH, count)
    weights = np.exp(-0.5 * nodes**2)
    weights /= weights.sum()
    return deviation * nodes / np.sqrt(weights @ nodes**2), weights


def hat_basis(t: Floats, count: int, ends: tuple[float, float]) -> Floats:
    """Hat functions (B, J), equally spaced between two ends, at values (B,)."""
    place = (np.clip(t, *ends) - ends[0]) / (ends[1] - ends[0]) * (count - 1)
    return np.maximum(1.0 - np.abs(place[:, None] - np.arange(count)), 0.0)
