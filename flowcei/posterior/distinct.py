"""Which geometries are one: the same however they are turned, or not told apart by the noise."""

from __future__ import annotations

from itertools import combinations, islice
from typing import TYPE_CHECKING

import numpy as np

from flowcei.physics.likelihood import nonfinite_allowed
from flowcei.posterior.laplace import misfit, momentum_slope

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowcei.physics.likelihood import Likelihood

__all__ = ["covering", "leaders", "shape_of"]

_QUADRUPLES = 100  # of atoms, whose handedness is compared
# Two geometries are one to the detector where their momenta, by the derivative, differ by less than 3
# deviations, and chi squared on the line between them rises by less than 1. Of two solutions beside
# a fold, where they meet, the rise is the distance squared over 16: at 3 the posterior dips to
# exp(-0.28) = 0.75 in between, where two lines of a spectrum begin to be resolved (Rayleigh: 0.74).
_SAME_NOISE, _SAME_RISE = 3.0, 1.0
_LINE = np.linspace(0.0, 1.0, 11)[:, None, None]


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
) -> NDArray[np.intp]:
    """Return for each of M geometries the one that the noise does not tell it from, itself if none.

    Args:
        likelihood: Of the events.
        positions: (M, N, 3), bohr.
        event: Whose each is, (M,).
        order: All of them, (M,), event by event; a geometry leads those that come after it.

    Returns:
        (M,) numbers of geometries, each of which leads itself.

    Example:
        >>> import flowcei
        >>> e = flowcei.simulate("ocs", 1, noise="1%", seed=1)
        >>> known = flowcei.load().sample(e, 2, seed=1).likelihood
        >>> x = e.positions * np.array([1.0, 1.001, 1.2])[:, None, None]
        >>> leaders(known, x, np.zeros(3, int), np.arange(3)).tolist()
        [0, 0, 2]
    """
    leader = np.arange(len(event))
    several = np.isin(event, np.flatnonzero(np.bincount(event) > 1)) if len(event) else leader > 0
    slope = np.zeros((len(event), 3 * positions.shape[1] - 3, 3 * positions.shape[1]))
    slope[several] = momentum_slope(likelihood, positions[several], event[several])
    near = _near(positions, slope, [rows for rows in _events(event, order) if len(rows) > 1])
    if not len(near):
        return leader
    line = positions[near[:, 0], None] * (1.0 - _LINE) + positions[near[:, 1], None] * _LINE
    along = misfit(likelihood, line, event[near[:, 0]])
    joined = along.max(axis=1) - np.maximum(along[:, 0], along[:, -1]) < _SAME_RISE
    for first, second in near[joined]:
        if leader[second] == second and leader[first] == first:
            leader[second] = first
    return leader


def _events(event: NDArray[np.intp], order: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """Return the geometries of each event, in their order."""
    return np.split(order, np.flatnonzero(np.diff(event[order])) + 1) if len(order) else []


def _near(
    positions: NDArray[np.float64], slope: NDArray[np.float64], events: list[NDArray[np.intp]]
) -> NDArray[np.intp]:
    """Return pairs (P, 2) whose momenta differ by less than the noise, by the derivative of either.

    The wider of two peaks decides: it is for the rise between them to say whether they are two.
    """
    pairs = [np.empty((0, 2), dtype=np.intp)]
    flat = positions.reshape(len(positions), -1)
    for rows in events:
        step = flat[rows, None] - flat[rows]
        away = np.linalg.norm(np.einsum("ird,ijd->ijr", slope[rows], step), axis=2)
        first, second = np.nonzero(np.triu(np.fmin(away, away.T) < _SAME_NOISE, 1))
        pairs.append(np.stack([rows[first], rows[second]], axis=1))
    return np.concatenate(pairs)


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
