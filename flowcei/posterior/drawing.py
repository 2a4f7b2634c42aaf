"""More samples for the events that need them: to have enough that count, or enough inside the prior."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.posterior.weights import Weights, thinned

if TYPE_CHECKING:
    from flowcei.physics.priors import GeometryPrior
    from flowcei.posterior.arrays import Bools, Rows
    from flowcei.posterior.samples import PosteriorSamples

    Draw = Callable[[Rows, int], PosteriorSamples]
    """(which events, how many) -> samples of those events, not weighed."""

INSIDE = "inside_prior"
"""The extra column of samples with the share of an event's draws that lay inside the prior."""

_HELD = 400_000  # samples in memory
_ROUNDS = 10  # of n draws: with half of them outside, one event of 1e3 n is not filled up
_REACH, _DRAWS = 5.0, 200  # times the extent of so many draws, beyond which a normal prior has nothing
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
    """Draw up to `budget` samples of events that are not `settled` with `min_ess`; keep n (`thinned`)."""
    n, weights = samples.positions.shape[1], _weights(samples)
    poor = np.flatnonzero(~weights.settled(min_ess)) if min_ess else np.arange(0)
    size = max(1, _HELD // max(budget, n))
    for first in range(0, len(poor), size):
        rows = poor[first : first + size]
        pool = samples[rows]
        while len(rows) and pool.positions.shape[1] < budget:
            more = min(pool.positions.shape[1], budget - pool.positions.shape[1])  # twice as many
            pool = _beside(pool, draw(rows, more).weigh(prior, rules=weights.rules))
            enough = _weights(pool).settled(min_ess)
            _put(samples, rows[enough], pool[enough], n, rng)
            rows, pool = rows[~enough], pool[~enough]
        _put(samples, rows, pool, n, rng)
    return samples


def _weights(samples: PosteriorSamples) -> Weights:
    if samples.weights is None:
        raise ValueError("samples have no weights")
    return samples.weights


def _beside(pool: PosteriorSamples, more: PosteriorSamples) -> PosteriorSamples:
    """The samples of both, of the same events."""
    names = _drawn(pool)
    both: dict[str, Any] = {n: np.concatenate([getattr(s, n) for s in (pool, more)], axis=1) for n in names}
    log_weights = np.concatenate([_weights(s).log_weights for s in (pool, more)], axis=1)
    return replace(pool, **both, weights=Weights.of(log_weights, _weights(pool).rules))


def _drawn(samples: PosteriorSamples) -> list[str]:
    """The arrays of samples that there are, which have a value for each."""
    return [n for n in ("positions", "log_prob", "build_up") if getattr(samples, n) is not None]


def _put(
    samples: PosteriorSamples, rows: Rows, pool: PosteriorSamples, n: int, rng: np.random.Generator
) -> None:
    """Write n samples of each event of a pool to its row."""
    target, source = _weights(samples), _weights(pool)
    for k, (row, reliable) in enumerate(zip(rows, source.reliable, strict=True)):
        # Where the weights are not reliable the flow's own samples stand in, which those chosen by weight
        # are not.
        drawn = source.log_weights[k]
        chosen, target.log_weights[row] = thinned(drawn, n, rng) if reliable else (np.arange(n), drawn[:n])
        for name in _drawn(samples):
            getattr(samples, name)[row] = getattr(pool, name)[k, chosen]
    for name in Weights.ROWS[1:]:
        getattr(target, name)[rows] = getattr(source, name)


def restricted(samples: PosteriorSamples, draw: Draw, prior: GeometryPrior) -> PosteriorSamples:
    """Replace samples outside the prior by further draws inside: the flow restricted to the prior.

    The column `INSIDE` has the share of draws inside, by which the flow's density is to be divided. An event
    that cannot be filled up keeps its samples: its few draws inside would have to be repeated.
    """
    n = samples.positions.shape[1]
    inside, answered = _inside(samples, prior), samples.answered
    drawn, accepted = np.full(len(samples), n), inside.sum(axis=1)
    filled = {name: getattr(samples, name).copy() for name in _drawn(samples)}
    for _ in range(_ROUNDS):
        rows = np.flatnonzero(~inside.all(axis=1) & answered)
        if not len(rows):
            break
        pool = draw(rows, n)
        good = _inside(pool, prior)
        drawn[rows] += n
        accepted[rows] += good.sum(axis=1)
        for k, row in enumerate(rows):
            new = np.flatnonzero(good[k])
            free = np.flatnonzero(~inside[row])[: len(new)]
            for name, array in filled.items():
                array[row, free] = getattr(pool, name)[k, new[: len(free)]]
            inside[row, free] = True
    short = ~inside.all(axis=1)
    for name, array in filled.items():
        array[short] = getattr(samples, name)[short]
    share = np.where(answered, accepted / drawn, np.nan)
    return replace(samples, **filled, columns=samples.columns | ({INSIDE: share} if prior.bounded else {}))


def _inside(samples: PosteriorSamples, prior: GeometryPrior) -> Bools:
    if not prior.bounded:
        # Couplings throw one latent of a thousand to 1e15 bohr, and a mean is lost with it.
        reach = _REACH * np.abs(prior.sample(_DRAWS, np.random.default_rng(0))).max()
        far = np.abs(samples.positions).max(axis=(2, 3)) > reach
        return ~far
    flat = samples.positions.reshape(-1, *samples.positions.shape[2:]).astype(np.float64)
    return prior.allows(flat, samples.molecule.identical).reshape(samples.positions.shape[:2])


def mostly_outside(samples: PosteriorSamples) -> Bools:
    """Which events (E,) had less than half of their draws inside the prior."""
    return np.asarray(samples.columns.get(INSIDE, np.ones(len(samples))) < _MOSTLY)
