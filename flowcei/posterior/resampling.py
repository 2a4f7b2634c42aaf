"""Points of a proposal, what they weigh, and equally weighted ones chosen from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from flowcei.posterior.arrays import RowArrays

if TYPE_CHECKING:
    from flowcei.posterior.arrays import Bools, Floats, Numbers, Rows


@dataclass(frozen=True, eq=False)
class Cloud(RowArrays):
    """Points of a proposal."""

    ROWS = ("points", "height", "log_density")

    points: Floats  # (E, P, D)
    height: Floats  # log posterior density, (E, P)
    log_density: Floats  # of the proposal, (E, P)

    @classmethod
    def of(cls, points: Floats, height: Floats, log_density: Floats | None) -> Cloud:
        """With -inf where a density is not known; points without a density of their own count alike."""
        allowed = np.where(np.isnan(height), -np.inf, height)
        own = np.zeros(allowed.shape) if log_density is None else log_density
        return cls(points, allowed, own)

    @property
    def log_weights(self) -> Floats:
        """Log posterior over proposal, (E, P): -inf where the posterior allows nothing."""
        with np.errstate(invalid="ignore"):
            return np.where(np.isneginf(self.height), -np.inf, self.height - self.log_density)

    def first(self, n: int) -> Self:
        """Return the first n points of each event."""
        return type(self)(*(getattr(self, name)[:, :n] for name in self.ROWS))

    def chosen(self, wanted: float, count: int, rng: np.random.Generator) -> tuple[Cloud, Floats]:
        """Choose points by the power of the weights that leaves as many as wanted; also these, (E,)."""
        log_weights = power_for(self.log_weights, wanted)[:, None] * self.log_weights
        rows = systematic(relative(log_weights), count, rng)
        chosen = np.take_along_axis(self.points, rows[..., None], axis=1)
        flat = (np.take_along_axis(x, rows, axis=1) for x in (self.height, self.log_density))
        return Cloud(chosen, *flat), effective_number(log_weights)

    def joined(self, other: Cloud) -> Self:
        """Return the points of both."""
        pairs = ((getattr(self, name), getattr(other, name)) for name in self.ROWS)
        return type(self)(*(np.concatenate(pair, axis=1) for pair in pairs))


def store(target: RowArrays, rows: Rows, source: RowArrays) -> None:
    """Put the rows of one into some of another."""
    for name in target.ROWS:
        mine, its = getattr(target, name), getattr(source, name)
        if isinstance(mine, RowArrays):
            store(mine, rows, its)
        else:
            mine[rows] = its


def effective_number(log_weights: Floats) -> Floats:
    """Effective number (E,) of weights (E, P); 0 where none counts."""
    w = relative(log_weights)
    return np.asarray(w.sum(axis=1) ** 2 / np.maximum((w**2).sum(axis=1), 1e-300))


def top_of(log_weights: Floats) -> Floats:
    """Greatest log weight (E, 1) of each event; 0 where none counts."""
    top = log_weights.max(axis=1, keepdims=True)
    return np.where(np.isfinite(top), top, 0.0)


def relative(log_weights: Floats) -> Floats:
    """Weights (E, P) over the greatest of their event."""
    return np.exp(log_weights - top_of(log_weights))


def power_for(log_weights: Floats, wanted: Floats | float) -> Floats:
    """Greatest power (E,), at most 1, of weights (E, P) that leaves so many effective points."""
    low, high = np.zeros(len(log_weights)), np.ones(len(log_weights))
    level = np.where(np.isfinite(log_weights), log_weights, -1e300)
    whole = effective_number(level) >= wanted
    for _ in range(20):
        middle = 0.5 * (low + high)
        enough = effective_number(middle[:, None] * level) >= wanted
        low, high = np.where(enough, middle, low), np.where(enough, high, middle)
    return np.where(whole, 1.0, np.maximum(low, 1e-6))


def systematic(weights: Floats, n: int, rng: np.random.Generator) -> Rows:
    """Indices (E, n) of points, each as often as its share of the weights (E, P), rounded up or down."""
    from flowcei.posterior._samples import first_reaching

    edges = weights.cumsum(axis=1)
    marks = (np.arange(n) + rng.random((len(edges), 1))) / n * edges[:, -1:]
    chosen = np.empty(marks.shape, dtype=np.intp)
    first_reaching(edges, marks, chosen)
    return chosen


def repeated(
    log_weights: Floats, draws: Floats | float, log_mean: Floats, by: Floats | None = None
) -> Floats:
    """Share (E,) of the chosen that would repeat others, were they chosen from `draws` times as many points.

    A point of weight w is chosen w / (draws * mean weight) times. The points of `log_weights` (E, P) are
    draws of the proposal whose weights they are, or, weighed `by` (E, P), of the posterior.
    """
    ratio = np.exp(np.minimum(log_weights - log_mean[:, None], 700.0))
    if by is None:
        return np.asarray(np.maximum(ratio - draws, 0.0).mean(axis=1))
    share = relative(by)
    over = np.maximum(1.0 - draws / np.maximum(ratio, 1e-300), 0.0)
    return np.asarray((share * over).sum(axis=1) / share.sum(axis=1))


@dataclass(frozen=True, eq=False)
class Draws(RowArrays):
    """Draws of the posteriors of E events that count alike, n of each."""

    ROWS = ("points", "height", "log_evidence", "effective", "drawn", "acceptance", "r_hat", "mixed")

    points: Floats  # (E, n, D)
    height: Floats  # log posterior density, not normalised, (E, n)
    log_evidence: Floats  # log of its integral, (E,), by the draws of the last proposal
    effective: Floats  # number of independent draws that they are worth, (E,)
    drawn: Numbers  # points whose density was asked for, (E,)
    acceptance: Floats  # share of the proposal's draws that a chain would accept, or accepted, (E,)
    # Of the chains grouped by where they began, the greatest of all coordinates and the density, (E,): 1
    # where nothing of the start is left, infinite where the proposal has no point that the posterior allows.
    r_hat: Floats
    mixed: Bools  # whether nothing is left, and neither means nor variances drift any more, (E,)

    @classmethod
    def none(cls, cloud: Cloud, n: int) -> Self:
        """What is said where the posterior allows no point of a proposal."""
        (e, p), d = cloud.height.shape, cloud.points.shape[2]
        blank = np.zeros((e, n, d)), np.full((e, n), -np.inf), np.full(e, -np.inf), np.zeros(e)
        return cls(*blank, np.full(e, p), np.zeros(e), np.full(e, np.inf), np.zeros(e, dtype=bool))

    @classmethod
    def by_weight(cls, cloud: Cloud, n: int, drawn: Numbers, rng: np.random.Generator) -> Self:
        """Choose n points of each event by weight: independent draws, where few are chosen twice."""
        e, p = cloud.height.shape
        log_weights = cloud.log_weights
        w = relative(log_weights)
        total = w.sum(axis=1)
        effective = np.minimum(total**2 / np.maximum((w**2).sum(axis=1), 1e-300), n)
        ordered = np.sort(w[:, :: max(1, p // 400)], axis=1)
        # Of an independence chain: the mean over pairs of min(1, w'/w), of few hundred points.
        count = ordered.shape[1]
        pairs = (ordered * (2.0 * np.arange(count, 0, -1) - 1.0)).sum(axis=1)
        accepted = pairs / np.maximum(count * ordered.sum(axis=1), 1e-300)
        chosen = systematic(w, n, rng)
        points = np.take_along_axis(cloud.points, chosen[..., None], axis=1)
        height = np.take_along_axis(cloud.height, chosen, axis=1)
        log_evidence = np.log(total / p) + top_of(log_weights)[:, 0]
        mixed = np.ones(e, dtype=bool)
        return cls(points, height, log_evidence, effective, drawn, accepted, np.ones(e), mixed)
