"""Which geometries are one: the same however they are turned, or two points of one peak of the posterior."""

from __future__ import annotations

from itertools import combinations, islice
from typing import TYPE_CHECKING

import numpy as np

from flowcei.experiment.likelihood import nonfinite_allowed
from flowcei.posterior.laplace import misfit, momentum_slope, residuals

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from flowcei.experiment.likelihood import Likelihood

_QUADRUPLES = 100  # of atoms, whose handedness is compared
# Two geometries are one where a path from one to the other exists along which -2 log posterior rises by
# less than 1 above its value at the less probable end. Of two solutions beside a fold, where they meet,
# chi squared rises by their distance squared over 16: they are two from 4 deviations apart, about where
# two lines of a spectrum begin to be resolved.
_SAME_RISE = 1.0
# The valley between two solutions is bent: of 30 pairs of OCS at 1 % the straight line rises by 1 to 800,
# the valley by 0.01 to 8. Gauss-Newton steps across the line carry it there; 3 suffice for all of them.
_STEPS = 4
_FAR = 1e5  # chi squared at which a line is given up; ten times less after each step, all of which gain more
_MOST_PAIRS = 20_000  # at once: 100 MB of derivatives of five ions
_LINE = np.linspace(0.0, 1.0, 11)[:, None, None]
_LAST = len(_LINE) - 1


@nonfinite_allowed
def shape_of(positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what makes a geometry the same however it is turned, (K, F), bohr.

    All distances, and for the handedness the heights of quadruples of atoms: six volumes over
    the square of the size.

    Args:
        positions: (K, N, 3), bohr.

    Example:
        >>> shape_of(np.array([[[0.0, 0, 0], [3, 0, 0], [3, 4, 0]]])).tolist()
        [[3.0, 5.0, 4.0]]
    """
    ions = positions.shape[1]
    first, second = np.triu_indices(ions, 1)
    distance = np.linalg.norm(positions[:, first] - positions[:, second], axis=-1)
    if ions < 4:
        return distance
    corners = np.array(list(islice(combinations(range(ions), 4), _QUADRUPLES)))
    edges = positions[:, corners[:, 1:]] - positions[:, corners[:, :1]]
    height = np.linalg.det(edges) / distance.max(axis=1, keepdims=True) ** 2
    return np.concatenate([distance, np.nan_to_num(height)], axis=1)


@nonfinite_allowed
def leaders(
    likelihood: Likelihood,
    positions: NDArray[np.float64],
    event: NDArray[np.intp],
    order: NDArray[np.intp],
    log_prior: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None = None,
) -> NDArray[np.intp]:
    """Return for each of M geometries the one that the noise does not tell it from, itself if none.

    Args:
        likelihood: Of the events.
        positions: (M, N, 3), bohr.
        event: Whose each is, (M,).
        order: All of them, (M,), event by event; a geometry leads those that come after it.
        log_prior: Log density (B,) of geometries (B, N, 3); flat where None.

    Returns:
        (M,) numbers of geometries, each of which leads itself.

    Example:
        >>> import flowcei
        >>> e = flowcei.simulate("ocs", 1, noise="1%", seed=1)
        >>> known = flowcei.load().sample(e, 2, seed=1).likelihood
        >>> x = e.positions * np.array([1.0, 1.001])[:, None, None]
        >>> leaders(known, x, np.zeros(2, int), np.arange(2)).tolist()
        [0, 0]
    """
    leader = np.arange(len(event))
    groups = np.split(order, np.flatnonzero(np.diff(event[order])) + 1)
    near = np.array([pair for rows in groups for pair in combinations(rows.tolist(), 2)], dtype=np.intp)
    for start in range(0, len(near), _MOST_PAIRS):
        pairs = near[start : start + _MOST_PAIRS]
        for first, second in pairs[_joined(likelihood, positions[pairs], event[pairs[:, 0]], log_prior)]:
            if leader[second] == second and leader[first] == first:
                leader[second] = first
    return leader


def _joined(
    likelihood: Likelihood,
    ends: NDArray[np.float64],
    event: NDArray[np.intp],
    log_prior: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None,
) -> NDArray[np.bool_]:
    """Return for which of P pairs of geometries (P, 2, N, 3) a path joins them without a rise.

    Tried are the straight line and what Gauss-Newton steps at right angles to it make of it. Any
    path is a witness, so that a search which fails leaves two geometries apart.
    """
    joined = np.zeros(len(ends), dtype=bool)
    todo = np.arange(len(ends))
    path = ends[:, :1] * (1.0 - _LINE) + ends[:, 1:] * _LINE
    path -= path[:, :, :1]
    for step in range(_STEPS + 1):
        between = 0.5 * (path[:, 1:] + path[:, :-1])  # a path that is torn rises here
        points = np.concatenate([path, between], axis=1)
        height = misfit(likelihood, points, event[todo])
        if log_prior is not None:
            with np.errstate(invalid="ignore"):
                height -= 2.0 * log_prior(points.reshape(-1, *points.shape[2:])).reshape(height.shape)
        with np.errstate(invalid="ignore"):  # inf - inf: an end that the prior excludes joins nothing
            low = height.max(axis=1) - np.maximum(height[:, 0], height[:, _LAST]) < _SAME_RISE
            far = height.max(axis=1) > _FAR / 10.0**step
        joined[todo[low]] = True
        todo, path = todo[~(low | far)], path[~(low | far)]
        if step == _STEPS or not len(todo):
            break
        path[:, 1:-1, 1:] += _towards_valley(likelihood, path, event[todo])
    return joined


def _towards_valley(
    likelihood: Likelihood, path: NDArray[np.float64], event: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return steps (P, K - 2, N - 1, 3) of the inner points of paths (P, K, N, 3) across their chords."""
    pairs, count, ions = path.shape[:3]
    rows, inner = np.repeat(event, count - 2), path[:, 1:-1].reshape(-1, ions, 3)
    slope = momentum_slope(likelihood, inner, rows)[:, :, 3:]
    residual = residuals(likelihood, inner[:, None], rows)[:, 0]
    bad = ~(np.isfinite(slope).all(axis=(1, 2)) & np.isfinite(residual).all(axis=1))
    slope[bad], residual[bad] = 0.0, 0.0
    chord = (path[:, -1] - path[:, 0])[:, 1:].reshape(pairs, -1)
    length = np.linalg.norm(chord, axis=1)
    along = np.repeat(chord / np.maximum(length, np.finfo(float).tiny)[:, None], count - 2, axis=0)
    across = slope - np.einsum("krd,kd,ke->kre", slope, along, along)
    step = -np.einsum("kdr,kr->kd", np.linalg.pinv(across, rcond=1e-6), residual)
    reach = np.repeat(length, count - 2) / np.maximum(np.linalg.norm(step, axis=1), np.finfo(float).tiny)
    return np.asarray((step * np.minimum(1.0, reach)[:, None]).reshape(pairs, count - 2, ions - 1, 3))


@nonfinite_allowed
def covering(
    covariance: NDArray[np.float64],
    positions: NDArray[np.float64],
    share: NDArray[np.float64],
    leader: NDArray[np.intp],
) -> NDArray[np.float64]:
    """Return covariances about leaders that cover all that they lead: those of the mixtures.

    Args:
        covariance: Of each geometry about itself, (M, D, D), bohr^2.
        positions: (M, N, 3), bohr.
        share: Of each in the mixture, (M,); those led by one count alike where all are 0.
        leader: As of `leaders`.

    Example:
        >>> x = np.array([[[0.0, 0, 0]], [[2.0, 0, 0]]])
        >>> c = covering(np.zeros((2, 3, 3)), x, np.array([0.75, 0.25]), np.array([0, 0]))
        >>> float(c[0, 0, 0])
        1.0
    """
    out = covariance.copy()
    for first in np.unique(leader[leader != np.arange(len(leader))]):
        rows = np.flatnonzero(leader == first)
        part = share[rows] if share[rows].sum() > 0 else np.ones(len(rows))
        step = (positions[rows] - positions[first]).reshape(len(rows), -1)
        each = covariance[rows] + step[:, :, None] * step[:, None]
        out[first] = np.einsum("k,kij->ij", part / part.sum(), each)
    return out
