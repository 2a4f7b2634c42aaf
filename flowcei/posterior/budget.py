"""More samples for the events that need them: until enough count, or a budget is spent."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from flowcei.posterior.weights import Weights, thinned

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from flowcei.physics.priors import GeometryPrior
    from flowcei.posterior.samples import PosteriorSamples

_HELD = 400_000  # samples held at a time


def top_up(
    samples: PosteriorSamples,
    draw: Callable[[NDArray[np.intp], int], PosteriorSamples],
    *,
    min_ess: float,
    budget: int,
    rng: np.random.Generator,
    prior: GeometryPrior | None = None,
) -> PosteriorSamples:
    """Draw more samples for events with too few effective ones, and keep n of them.

    Args:
        samples: Weighed, n for each of E events.
        draw: (which events, how many) -> samples of those events, not weighed.
        min_ess: Effective samples an event should have.
        budget: Samples drawn of an event, at the most.
        rng: For the choice of those that are kept.
        prior: As of `PosteriorSamples.weigh`.

    Returns:
        n samples of every event again. Of an event that got more, those that were kept carry
        what the others weighed (`thinned`), and `weights.drawn` and `ess` tell of all.

    Raises:
        ValueError: For samples that were not weighed.
    """
    if samples.weights is None:
        msg = "samples have no weights"
        raise ValueError(msg)
    n = samples.positions.shape[1]
    poor = np.flatnonzero(samples.weights.ess < min_ess)
    size = max(1, _HELD // max(budget, n))
    for first in range(0, len(poor), size):
        rows = poor[first : first + size]
        pool = samples[rows]
        while len(rows) and pool.positions.shape[1] < budget:
            more = min(pool.positions.shape[1], budget - pool.positions.shape[1])  # twice as many
            pool = _beside(pool, draw(rows, more).weigh(prior))
            enough = pool.weights.ess >= min_ess  # type: ignore[union-attr]
            _put(samples, rows[enough], pool[enough], n, rng)
            rows, pool = rows[~enough], pool[~enough]
        _put(samples, rows, pool, n, rng)
    return samples


def _beside(one: PosteriorSamples, other: PosteriorSamples) -> PosteriorSamples:
    """Return the samples of both, of the same events."""
    tables = [(p.positions, p.log_prob, p.weights.log_weights) for p in (one, other) if p.weights]
    positions, log_prob, log_weights = (np.concatenate(t, axis=1) for t in zip(*tables, strict=True))
    return replace(one, positions=positions, log_prob=log_prob, weights=Weights.of(log_weights))


def _put(
    samples: PosteriorSamples,
    rows: NDArray[np.intp],
    pool: PosteriorSamples,
    n: int,
    rng: np.random.Generator,
) -> None:
    """Write n samples of each event of a pool to its row."""
    into, known = samples.weights, pool.weights
    if into is None or known is None or samples.log_prob is None or pool.log_prob is None:
        return
    for k, row in enumerate(rows):
        if known.reliable[k]:
            kept, left = thinned(known.log_weights[k], n, rng)
        else:  # the flow's own samples stand in, which those chosen by weight are not
            kept, left = np.arange(n), known.log_weights[k, :n]
        samples.positions[row] = pool.positions[k, kept]
        samples.log_prob[row] = pool.log_prob[k, kept]
        into.log_weights[row] = left
        for name in ("drawn", "ess", "log_evidence", "k_hat"):
            getattr(into, name)[row] = getattr(known, name)[k]
