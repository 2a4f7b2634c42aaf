"""The posterior near one geometry, and which geometries belong to one of its peaks.

Laplace's approximation for a flat prior: the covariance is the inverse of S'S, with S the derivative of the
momenta in units of the noise. Where two solutions meet (a fold) S is singular; there the width is where the
momenta themselves have changed by one deviation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations, islice
from typing import TYPE_CHECKING

import numpy as np

from flowcei.experiment.likelihood import nonfinite_allowed

if TYPE_CHECKING:
    from flowcei.experiment.likelihood import Likelihood
    from flowcei.posterior.arrays import Bools, Floats, Rows

    LogPrior = Callable[[Floats], Floats]
    """Log density (B,) of geometries (B, N, 3)."""

_QUADRUPLES = 100  # of atoms, whose handedness is compared
_NEIGHBOURS = 4  # that an end may be one with: an event of a hundred ends has no 4,950 paths to try
_MOST_PAIRS = 20_000  # at once: 100 MB of derivatives of five ions
_LINE = np.linspace(0.0, 1.0, 11)[:, None, None]
_DAMPING = 1e-12  # of the trace
_RANK = 1e-12  # of the largest singular value: below lies rounding, not information
# At one deviation of a normal posterior the momenta have changed by 1, squared. Where it is above 4
# the approximation is too wide, and a width is sought at which it is between 1 and 1.5.
_TOO_HIGH, _HIGH = 4.0, 1.5
_SHORTENINGS, _CORRECTIONS = 40, 4


def residuals(likelihood: Likelihood, positions: Floats, event: Rows) -> Floats:
    """Whitened residuals over the noise, (M, K, 3N-3), of K geometries (M, K, N, 3) of each event of (M,)."""
    rows = np.repeat(event, positions.shape[1])
    flat = positions.reshape(-1, *positions.shape[2:])
    residual = likelihood.residual(flat, rows, accuracy=likelihood.accuracy)
    return (residual * (likelihood.size / likelihood.noise)[rows, None]).reshape(*positions.shape[:2], -1)


@nonfinite_allowed
def local_covariance(
    likelihood: Likelihood, positions: Floats, event: Rows, *, bounded: bool = False
) -> tuple[Floats, Floats]:
    """Covariance (M, 3N, 3N), bohr^2, of geometries (M, N, 3) of events (M,), and the log of its volume (M,).

    The volume is that of one deviation of the 3N - 3 relative positions. NaN and -inf where a geometry cannot
    be simulated, infinite where momenta leave a direction open; `bounded` is for the neighbourhood of folds.
    """
    ions = positions.shape[1]
    how = likelihood.slope_over_noise if bounded else likelihood.information_root
    slope = how(positions, event)[:, :, 3:]
    bad = ~np.isfinite(slope).all(axis=(1, 2))
    slope[bad] = 0.0
    change, size, axes = np.linalg.svd(slope)
    scale = np.where(size > _RANK * size[:, :1], 1.0 / size, np.inf)
    if bounded:
        turned = np.swapaxes(change, 1, 2)[~bad]
        scale[~bad] = _bounded(likelihood, positions[~bad], event[~bad], axes[~bad], turned, scale[~bad])
    log_volume = np.log(scale).sum(axis=1)
    shift = np.eye(ions) - likelihood.masses / likelihood.masses.sum()
    relative = np.kron(shift[:, 1:], np.eye(3))
    closed = np.asarray(np.isfinite(scale).all(axis=1))
    factor = np.matmul(relative, np.swapaxes(axes, 1, 2)) * np.where(closed[:, None], scale, 1.0)[:, None]
    covariance = np.matmul(factor, np.swapaxes(factor, 1, 2))
    covariance[~closed] = np.inf
    covariance[bad] = np.nan
    return covariance, np.where(bad, -np.inf, log_volume)


def _bounded(
    likelihood: Likelihood, positions: Floats, event: Rows, axes: Floats, change: Floats, scale: Floats
) -> Floats:
    """Lengths of axes (M, D), bohr, shortened to where the momenta change by about one deviation.

    Rows of `axes` and `change` (M, D, D) are directions of positions relative to the first ion and of
    momenta.
    """
    start = residuals(likelihood, positions[:, None], event)
    size = np.abs(positions - positions[:, :1]).max(axis=(1, 2))
    first = np.minimum(scale, size[:, None])  # a width beyond the molecule itself is not sought
    stiffer = np.tril(np.ones(scale.shape[1:] * 2), -1)  # axes of rising length: those before one's own

    def changed(rows: Rows, width: Floats) -> Floats:
        """Squares of the changes of momenta (K, D) at steps along the axes of some."""
        step = width[:, :, None] * axes[rows]
        for _ in range(_CORRECTIONS):
            shift = np.pad(step, ((0, 0), (0, 0), (3, 0)))  # the first ion stays
            ends = positions[rows, None] + shift.reshape(*step.shape[:2], -1, 3)
            change_of_momenta = residuals(likelihood, ends, event[rows]) - start[rows]
            moved = np.matmul(change_of_momenta, np.swapaxes(change[rows], 1, 2))
            # A valley may be bent: what the stiffer axes can compensate does not count for this one.
            step -= np.matmul(moved * stiffer * scale[rows, None], axes[rows])
        return np.einsum("mkk->mk", moved) ** 2

    widths = []
    for sign in (1.0, -1.0):
        width, limit, rows = sign * first, np.full(scale.shape, _TOO_HIGH), np.arange(len(scale))
        for _ in range(_SHORTENINGS):
            above = changed(rows, width[rows])
            high = ~(above <= limit[rows])
            open_rows = high.any(axis=1)
            if not open_rows.any():
                break
            rows, above, high = rows[open_rows], above[open_rows], high[open_rows]
            # Of what rises as the fourth power, as at a fold, exact; of what rises as the second, a step.
            shorter = np.where(np.isfinite(above), above, 16.0).clip(_HIGH) ** -0.25
            width[rows] *= np.where(high, shorter, 1.0)
            limit[rows] = np.where(high, _HIGH, limit[rows])
        widths.append(np.abs(width))
    mean = np.mean(widths, axis=0)
    return np.where(mean < first, mean, scale)


@dataclass(frozen=True)
class ModeRules:
    """When two geometries are one mode, and when an event is ambiguous."""

    same: float = 0.01  # bohr: geometries whose distances all differ by less are one
    flat: float = 10.0  # times `same` for inexact ends: where two solutions meet, the valley is flat
    counts: float = 0.01  # probability from which on a mode makes an event ambiguous
    # Whether geometries that the noise does not tell apart are one mode: the most probable of them, with a
    # covariance that covers all.
    resolve: bool = True
    # Of -2 log posterior along a path, above its less probable end, below which the ends are one. Beside a
    # fold chi squared rises by the distance squared over 16: two are told apart from 4 deviations on, about
    # where two lines of a spectrum begin to be resolved.
    rise: float = 1.0
    # Gauss-Newton steps that bend a straight path into the valley between two solutions: of 30 pairs of OCS
    # at 1 % the line rises by 1 to 800, the valley by 0.01 to 8, and 3 steps suffice for all.
    steps: int = 4
    far: float = 1e5  # chi squared at which a path is given up; ten times less after each step


MODE_RULES = ModeRules()


@nonfinite_allowed
def shape_of(positions: Floats) -> Floats:
    """Distances and, for the handedness, heights of quadruples of atoms, (K, F), of geometries (K, N, 3)."""
    ions = positions.shape[1]
    first, second = np.triu_indices(ions, 1)
    distance = np.linalg.norm(positions[:, first] - positions[:, second], axis=-1)
    if ions < 4:
        return distance
    corners = np.array(list(islice(combinations(range(ions), 4), _QUADRUPLES)))
    edges = positions[:, corners[:, 1:]] - positions[:, corners[:, :1]]
    # Six volumes over the squared size.
    height = np.linalg.det(edges) / distance.max(axis=1, keepdims=True) ** 2
    return np.concatenate([distance, np.nan_to_num(height)], axis=1)


@nonfinite_allowed
def leaders(
    likelihood: Likelihood,
    positions: Floats,
    event: Rows,
    order: Rows,
    log_prior: LogPrior | None = None,
    rules: ModeRules = MODE_RULES,
) -> Rows:
    """The geometry of which the noise does not tell each of (M, N, 3), events (M,), or itself, (M,).

    `order` (M,) lists all, event by event: a geometry leads those after it.
    """
    leader = np.arange(len(event))
    groups = np.split(order, np.flatnonzero(np.diff(event[order])) + 1)
    near = np.array([pair for rows in groups for pair in _near_pairs(rows, positions)], dtype=np.intp)
    for start in range(0, len(near), _MOST_PAIRS):
        pairs = near[start : start + _MOST_PAIRS]
        joined = _joined(likelihood, positions[pairs], event[pairs[:, 0]], log_prior, rules)
        for first, second in pairs[joined]:
            if leader[second] == second:
                leader[second] = leader[first]
    return leader


def _near_pairs(rows: Rows, positions: Floats) -> list[tuple[int, int]]:
    """Pairs of some of the geometries (M, N, 3), each with the nearest of those before it."""
    pairs: list[tuple[int, int]] = []
    for k in range(1, len(rows)):
        before = rows[:k]
        if k > _NEIGHBOURS:
            square = ((positions[before] - positions[rows[k]]) ** 2).sum(axis=(1, 2))
            before = before[np.sort(np.argpartition(square, _NEIGHBOURS)[:_NEIGHBOURS])]
        pairs += [(int(first), int(rows[k])) for first in before]
    return pairs


def _joined(
    likelihood: Likelihood, ends: Floats, event: Rows, log_prior: LogPrior | None, rules: ModeRules
) -> Bools:
    """Which of P pairs of geometries (P, 2, N, 3) a path joins without a rise, (P,).

    Any path is a witness, so that a search which fails leaves two geometries apart.
    """
    joined, open_pairs = np.zeros(len(ends), dtype=bool), np.arange(len(ends))
    path = ends[:, :1] * (1.0 - _LINE) + ends[:, 1:] * _LINE
    path -= path[:, :, :1]
    for step in range(rules.steps + 1):
        between = 0.5 * (path[:, 1:] + path[:, :-1])  # a path that is torn rises here
        points = np.concatenate([path, between], axis=1)
        height = (residuals(likelihood, points, event[open_pairs]) ** 2).sum(axis=2)
        height[np.isnan(height)] = np.inf  # cannot be simulated
        if log_prior is not None:
            height -= 2.0 * log_prior(points.reshape(-1, *points.shape[2:])).reshape(height.shape)
        # inf - inf, not below: an end that the prior excludes joins nothing.
        low = height.max(axis=1) - np.maximum(height[:, 0], height[:, len(_LINE) - 1]) < rules.rise
        far = height.max(axis=1) > rules.far / 10.0**step
        joined[open_pairs[low]] = True
        open_pairs, path = open_pairs[~(low | far)], path[~(low | far)]
        if step == rules.steps or not len(open_pairs):
            break
        path[:, 1:-1, 1:] += _towards_valley(likelihood, path, event[open_pairs])
    return joined


def _towards_valley(likelihood: Likelihood, path: Floats, event: Rows) -> Floats:
    """Steps (P, K - 2, N - 1, 3) of the inner points of paths (P, K, N, 3) across their chords."""
    pairs, count, ions = path.shape[:3]
    rows, inner = np.repeat(event, count - 2), path[:, 1:-1].reshape(-1, ions, 3)
    slope = likelihood.slope_over_noise(inner, rows)[:, :, 3:]
    residual = residuals(likelihood, inner[:, None], rows)[:, 0]
    bad = ~(np.isfinite(slope).all(axis=(1, 2)) & np.isfinite(residual).all(axis=1))
    slope[bad], residual[bad] = 0.0, 0.0
    chord = (path[:, -1] - path[:, 0])[:, 1:].reshape(pairs, -1)
    length = np.linalg.norm(chord, axis=1)
    tiny = np.finfo(float).tiny
    along = np.repeat(chord / np.maximum(length, tiny)[:, None], count - 2, axis=0)
    across = slope - np.einsum("krd,kd,ke->kre", slope, along, along)
    # The chord itself changes nothing any more: damped as little as rounding allows, its step is 0.
    square = np.matmul(np.swapaxes(across, 1, 2), across)
    square += _DAMPING * np.einsum("kdd->k", square)[:, None, None] * np.eye(len(along[0])) + tiny * np.eye(1)
    step = -np.linalg.solve(square, np.einsum("krd,kr->kd", across, residual)[:, :, None])[:, :, 0]
    reach = np.repeat(length, count - 2) / np.maximum(np.linalg.norm(step, axis=1), tiny)
    return np.asarray((step * np.minimum(1.0, reach)[:, None]).reshape(pairs, count - 2, ions - 1, 3))


@nonfinite_allowed
def covering(covariance: Floats, positions: Floats, share: Floats, leader: Rows) -> Floats:
    """Covariances (M, D, D) about leaders (M,) of the mixtures, with shares (M,), of all that they lead."""
    out = covariance.copy()
    for first in np.unique(leader[leader != np.arange(len(leader))]):
        rows = np.flatnonzero(leader == first)
        weight = share[rows] if share[rows].sum() > 0 else np.ones(len(rows))
        step = (positions[rows] - positions[first]).reshape(len(rows), -1)
        each = covariance[rows] + step[:, :, None] * step[:, None]
        out[first] = np.einsum("k,kij->ij", weight / weight.sum(), each)
    return out
