"""Many small nonlinear least-squares problems at once: Levenberg-Marquardt, row by row.

K. Levenberg, Q. Appl. Math. 2, 164 (1944); D. Marquardt, SIAM J. Appl. Math. 11, 431 (1963).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
OfRows: TypeAlias = Callable[[Floats, NDArray[np.intp]], Floats]

_LESS, _MORE = 0.2, 5.0  # factors of the damping after a step that was taken, or refused
_MOST_DAMPING = 1e12
_LEAST_DAMPING = 1e-13  # 50 times the rounding of a matrix of 3N - 3 rows: below, LU can meet a zero
_LEAST_COLUMN = 1e-6  # of the longest: a direction that changes nothing
_ENDING = 1e-2  # of the residual before, and of one: a step that leaves less has as good as arrived
_PROGRESS = 0.9  # of the residual


class Fit(NamedTuple):
    """Where least squares ended."""

    x: Floats  # (B, D)
    norm: Floats  # |residual| there, (B,)
    steps: NDArray[np.intp]  # tried, (B,)


def levenberg_marquardt(
    residual: OfRows,
    jacobian: OfRows,
    start: Floats,
    *,
    tolerance: float = 1e-9,
    steps: int = 50,
    patience: int | None = None,
    damping: float = 1e-2,
) -> Fit:
    """Minimise |residual| of every row of `start` (B, D), in `steps` steps at the most.

    residual(x (K, D), rows (K,)) -> (K, R), of some rows of `start`, and jacobian(x, rows) -> (K, R, D). A
    step to where the residual is not finite is refused. A row ends when |residual| <= `tolerance`, when
    `patience` steps made no residual less by a tenth, or when its steps change nothing any more.
    """
    x = np.array(start, dtype=np.float64)
    rows = np.arange(len(x))
    value = _finite(residual(x, rows))
    norm = np.linalg.norm(value, axis=1)
    damped = np.full(len(x), damping)
    tried, slow = np.zeros(len(x), dtype=np.intp), np.zeros(len(x), dtype=np.intp)
    slope = np.empty((*value.shape, x.shape[1]))
    stale = np.ones(len(x), dtype=bool)
    active = rows[np.isfinite(norm) & (norm > tolerance)]
    for _ in range(steps):
        if not len(active):
            break
        renew = active[stale[active]]
        if len(renew):
            slope[renew] = jacobian(x[renew], renew)
        step = _step(slope[active], value[active], damped[active])
        trial = x[active] + step
        moved = _finite(residual(trial, active))
        length, before = np.linalg.norm(moved, axis=1), norm[active]
        better = length < before
        small = np.linalg.norm(step, axis=1) <= 1e-14 * (1.0 + np.linalg.norm(x[active], axis=1))
        tried[active] += 1
        taken = active[better]
        x[taken], value[taken], norm[taken] = trial[better], moved[better], length[better]
        # The derivative is the dearest part. After a refused step it is the same, and after
        # one that all but ended the search it is near enough for the last.
        stale[active] = better & ((length > _ENDING * before) | (length > _ENDING))
        damped[active] *= np.where(better, _LESS, _MORE)
        slow[active] = np.where(length < _PROGRESS * before, 0, slow[active] + 1)
        stay = (norm[active] > tolerance) & ~small & (damped[active] < _MOST_DAMPING)
        active = active[stay & (slow[active] < (patience or steps))]
    return Fit(x, norm, tried)


def _step(slope: Floats, value: Floats, damping: Floats) -> Floats:
    """Solve (J'J + damping diag(J'J)) step = -J'r for every row."""
    # In units of the columns' lengths (Marquardt's scaling) the damped matrix has no eigenvalue below
    # the damping: neither lengths of 1e30 bohr nor a direction that changes nothing make it singular.
    length = np.sqrt(np.einsum("bri,bri->bi", slope, slope))
    length = np.maximum(length, _LEAST_COLUMN * length.max(axis=1, keepdims=True) + 1e-300)
    unit = slope / length[:, None]
    square = np.einsum("bri,brj->bij", unit, unit)
    gradient = np.einsum("bri,br->bi", unit, value)
    diagonal = np.einsum("bii->bi", square)
    diagonal += np.maximum(damping, _LEAST_DAMPING)[:, None]
    return -np.linalg.solve(square, gradient[:, :, None])[:, :, 0] / length


def _finite(values: Floats) -> Floats:
    """Rows of values (B, R), infinite as a whole where one is not finite."""
    return np.where(np.isfinite(values).all(axis=1, keepdims=True), values, np.inf)
