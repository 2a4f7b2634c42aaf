"""Samples inside the prior: a flow puts a part of its density where the prior has none.

What lies outside is drawn again, so that what is left are independent samples of the flow
restricted to the prior's support. Their density is the flow's over the share of it that is
inside, which is counted for each event.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from flowcei.physics.priors import GeometryPrior
    from flowcei.posterior.samples import PosteriorSamples

INSIDE = "inside_prior"
"""The extra column of samples with the share of an event's draws that lay inside the prior."""

_ROUNDS = 10  # of n draws: with half of them outside, one event of 1e3 n is not filled up
_LEAST = 0.5  # share inside below which samples say what the flow does beyond the prior


def restricted(
    samples: PosteriorSamples,
    draw: Callable[[NDArray[np.intp], int], PosteriorSamples],
    prior: GeometryPrior,
) -> PosteriorSamples:
    """Draw samples that the prior excludes again, as often as that takes, but ten times at the most.

    Args:
        samples: Not weighed, n for each of E events.
        draw: (which events, how many) -> further samples of those events.
        prior: Whose support is meant.

    Returns:
        The samples, with the share of draws that lay inside as the extra column `INSIDE`. An event
        that could not be filled up keeps the samples it had: only those of its draws that lie inside
        would be too few, and repeated ones not independent.
    """
    n = samples.positions.shape[1]
    inside = _inside(samples, prior)
    filled = replace(samples, positions=samples.positions.copy())
    if samples.log_prob is not None:
        filled = replace(filled, log_prob=samples.log_prob.copy())
    drawn, accepted, answered = np.full(len(samples), n), inside.sum(axis=1), samples.answered
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
            filled.positions[row, free] = pool.positions[k, new]
            if filled.log_prob is not None and pool.log_prob is not None:
                filled.log_prob[row, free] = pool.log_prob[k, new]
            inside[row, free] = True
    left = ~inside.all(axis=1)
    filled.positions[left] = samples.positions[left]
    if filled.log_prob is not None and samples.log_prob is not None:
        filled.log_prob[left] = samples.log_prob[left]
    share = np.where(answered, accepted / drawn, np.nan)
    return replace(filled, columns={**filled.columns, INSIDE: share})


def _inside(samples: PosteriorSamples, prior: GeometryPrior) -> NDArray[np.bool_]:
    flat = samples.positions.reshape(-1, *samples.positions.shape[2:]).astype(np.float64)
    return prior.allows(flat, samples.molecule.identical).reshape(samples.positions.shape[:2])


def mostly_outside(samples: PosteriorSamples) -> NDArray[np.bool_]:
    """Tell of which events (E,) less than half of the draws lay inside the prior."""
    if INSIDE not in samples.columns:
        return np.zeros(len(samples), dtype=bool)
    return np.asarray(samples.columns[INSIDE] < _LEAST)
