"""More samples for the events that need them: to have enough that count, or enough inside the prior."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from flowcei.posterior.weights import Weights, thinned

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowcei.physics.priors import GeometryPrior
    from flowcei.posterior.arrays import Bools, Rows
    from flowcei.posterior.samples import PosteriorSamples

    Draw = Callable[[Rows, int], PosteriorSamples]
    """(which events, how many) -> samples of those events, not weighed."""

INSIDE = "inside_prior"
"""The extra column of samples with the share of an event's draws that lay inside the prior."""

_HELD = 400_000  # samples in memory
_ROUNDS = 10  # of n draws: with half of them outside, one event of 1e3 n is not filled up
_MOSTLY = 0.5  # share inside below which samples say what the flow does beyond the prior


def top_up(
    samples: PosteriorSamples,
    draw: Draw,
    *,
    min_ess: float,
    budget: int,
    rng: np.random.Generator,
    prior: GeometryPrior | None = None,
) -> PosteriorSamples:
    """Draw up to `budget` samples of events with fewer than `min_ess` effective ones; keep n (`thinned`)."""
    if samples.weights is None:
        raise ValueError("samples have no weights")
    n = samples.positions.shape[1]
    poor = np.flatnonzero(samples.weights.ess < min_ess)
    size = max(1, _HELD // max(budget, n))
    for first in range(0, len(poor), size):
        rows = poor[first : first + size]
        pool = samples[rows]
        while len(rows) and pool.positions.shape[1] < budget:
            more = min(pool.positions.shape[1], budget - pool.positions.shape[1])  # twice as many
            pool = _beside(pool, draw(rows, more).weigh(prior, rules=samples.weights.rules))
            enough = pool.weights.ess >= min_ess  # type: ignore[union-attr]
            _put(samples, rows[enough], pool[enough], n, rng)
            rows, pool = rows[~enough], pool[~enough]
        _put(samples, rows, pool, n, rng)
    return samples


def _beside(one: PosteriorSamples, other: PosteriorSamples) -> PosteriorSamples:
    """The samples of both, of the same events."""
    weights = [part.weights for part in (one, other) if part.weights is not None]
    arrays = [(p.positions, p.log_prob, w.log_weights) for p, w in zip((one, other), weights, strict=True)]
    positions, log_prob, log_weights = (np.concatenate(a, axis=1) for a in zip(*arrays, strict=True))
    weighed = Weights.of(log_weights, weights[0].rules)
    return replace(one, positions=positions, log_prob=log_prob, weights=weighed)


def _put(
    samples: PosteriorSamples, rows: Rows, pool: PosteriorSamples, n: int, rng: np.random.Generator
) -> None:
    """Write n samples of each event of a pool to its row."""
    target, source = samples.weights, pool.weights
    if target is None or source is None or samples.log_prob is None or pool.log_prob is None:
        return
    for k, (row, reliable) in enumerate(zip(rows, source.reliable, strict=True)):
        if reliable:
            chosen, log_weights = thinned(source.log_weights[k], n, rng)
        else:  # the flow's own samples stand in, which those chosen by weight are not
            chosen, log_weights = np.arange(n), source.log_weights[k, :n]
        samples.positions[row] = pool.positions[k, chosen]
        samples.log_prob[row] = pool.log_prob[k, chosen]
        for name in Weights.ROWS[1:]:
            getattr(target, name)[row] = getattr(source, name)[k]
        target.log_weights[row] = log_weights


def restricted(samples: PosteriorSamples, draw: Draw, prior: GeometryPrior) -> PosteriorSamples:
    """Replace samples outside the prior by further draws inside: the flow restricted to the prior.

    The column `INSIDE` has the share of draws inside, by which the flow's density is to be divided. An event
    that cannot be filled up keeps its samples: its few draws inside would have to be repeated.
    """
    n = samples.positions.shape[1]
    inside, answered = _inside(samples, prior), samples.answered
    drawn, accepted = np.full(len(samples), n), inside.sum(axis=1)
    arrays = {name: getattr(samples, name) for name in ("positions", "log_prob")}
    filled = {name: array.copy() for name, array in arrays.items() if array is not None}
    for _ in range(_ROUNDS):
        rows = np.flatnonzero(~inside.all(axis=1) & answered)
        if not len(rows):
            break
        pool = draw(rows, n)
        good = _inside(pool, prior)
        drawn[rows] += n
        accepted[rows] += good.sum(axis=1)
        for k, row in enumerate(rows):
            free, new = np.flatnonzero(~inside[row]), np.flatnonzero(good[k])
            free, new = free[: len(new)], new[: len(free)]
            for name, array in filled.items():
                array[row, free] = getattr(pool, name)[k, new]
            inside[row, free] = True
    short = ~inside.all(axis=1)
    for name, array in filled.items():
        array[short] = arrays[name][short]
    share = np.where(answered, accepted / drawn, np.nan)
    return replace(samples, **filled, columns={**samples.columns, INSIDE: share})


def _inside(samples: PosteriorSamples, prior: GeometryPrior) -> Bools:
    flat = samples.positions.reshape(-1, *samples.positions.shape[2:]).astype(np.float64)
    return prior.allows(flat, samples.molecule.identical).reshape(samples.positions.shape[:2])


def mostly_outside(samples: PosteriorSamples) -> Bools:
    """Which events (E,) had less than half of their draws inside the prior."""
    return np.asarray(samples.columns.get(INSIDE, np.ones(len(samples))) < _MOSTLY)
