"""Samples where hits of some ions may be those of others: which assignment each is of, and modes under each.

Like ions need none of this: their exchange changes nothing but names, which the prior adds up
(`GeometryPrior.log_prob_unlabelled`). Ions of the same mass over charge that differ explode in another way
under each assignment, so their likelihood is added up (`flowcei.experiment.covariance.AssignedLikelihood`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import softmax

from flowcei.posterior.gathering import search_modes
from flowcei.posterior.modes import AMBIGUOUS, UNANSWERED, UNEXPLAINED, UNIQUE, Modes
from flowcei.posterior.searches import Searches

if TYPE_CHECKING:
    from flowcei.experiment.covariance import AssignedLikelihood
    from flowcei.experiment.measurement import Measurement
    from flowcei.posterior.arrays import Floats, Reals
    from flowcei.posterior.samples import PosteriorSamples
    from flowcei.posterior.weights import Weights

P_ASSIGNMENT = "p_assignment_"
"""Extra columns of samples: the probability of each assignment, by its number."""

_LEAST = 1e-3  # probability of an assignment whose modes are searched for


def assigned(
    samples: PosteriorSamples, measurement: Measurement, rng: np.random.Generator
) -> PosteriorSamples:
    """Samples with their assignments and the probabilities of these; momenta are of the most probable.

    Given a geometry an assignment has a probability by its likelihood, by which it is drawn.
    """
    likelihood: AssignedLikelihood = samples.likelihood  # type: ignore[assignment]
    logs = likelihood.log_probs(samples.positions)
    each = softmax(np.where(np.isneginf(logs).all(axis=0), 0.0, logs), axis=0)  # (K, E, n)
    below = np.cumsum(each, axis=0)[:-1] < rng.random(each.shape[1:])
    n = samples.positions.shape[1]
    shares = np.full(each.shape[1:], 1.0 / n) if samples.weights is None else samples.weights.normalised
    probability = (each * shares).sum(axis=2)
    best = probability.argmax(axis=0)
    momenta = measurement.assigned(samples.momenta)[best, np.arange(len(samples))]
    columns = {f"{P_ASSIGNMENT}{k}": one for k, one in enumerate(probability)}
    return replace(
        samples,
        momenta=momenta,
        sigma=replace(measurement, noise=measurement.levels).sigma(momenta),
        columns=samples.columns | columns,
        assignment=below.sum(axis=0).astype(np.uint8),
    )


def modes_of_assignments(
    likelihood: AssignedLikelihood,
    positions: Reals,
    weights: Weights | None,
    **how: Any,  # noqa: ANN401 (of `search_modes`)
) -> Modes:
    """Modes of events from samples (E, n, N, 3), each searched under its likeliest assignment."""
    (e, n), every = positions.shape[:2], np.arange(len(positions))
    shares = np.full((e, n), 1.0 / n) if weights is None else weights.normalised
    best = likelihood.log_probs(positions).argmax(axis=0)
    parts, totals, rows_of = list[Modes](), [], []
    for k in range(likelihood.assignments):
        own = np.where(best == k, shares, 0.0)
        rows = every[own.sum(axis=1) > _LEAST]
        if not len(rows):
            continue
        steps = own[rows].cumsum(axis=1)
        marks = (np.arange(n) + 0.5) / n * steps[:, -1:]
        chosen = np.stack([np.searchsorted(s, m).clip(0, n - 1) for s, m in zip(steps, marks, strict=True)])
        parts.append(search_modes(likelihood.under(k, rows), positions[rows[:, None], chosen], **how))
        totals.append(steps[:, -1])
        rows_of.append(rows)
    used = np.zeros(e, dtype=bool) if weights is None else weights.reliable
    return _joined(parts, rows_of, totals, np.where(used, "weights", "samples"))


def _joined(parts: list[Modes], rows_of: list[Any], totals: list[Floats], source: Any) -> Modes:  # noqa: ANN401
    """The modes of all assignments, those of an event by falling probability."""
    e, moved = len(source), list[Modes]()
    searches = Searches(*np.zeros((4, e), dtype=np.intp))
    for part, rows, total in zip(parts, rows_of, totals, strict=True):
        weight = total[part.event]
        probability, laplace = part.probability * weight, part.laplace * weight
        moved.append(replace(part, event=rows[part.event], probability=probability, laplace=laplace))
        for count, more in zip(searches, part.searches, strict=True):
            count[rows] += more
    out = Modes.concatenate(moved)
    order = np.lexsort((out.chi_squared, -out.probability, out.event))
    out = out[order]
    event = out.event
    number = np.arange(len(event)) - np.searchsorted(event, event) + 1
    explained = np.bincount(event, out.probability, minlength=e)[event]
    probability = out.probability / np.maximum(explained, 1e-300)
    counting = (probability >= out.rules.counts) & (probability > 0.0)
    count = np.bincount(event[counting], minlength=e)
    nothing = np.where(searches.made > 0, UNEXPLAINED, UNANSWERED)
    verdict = np.where(count > 1, AMBIGUOUS, np.where(count == 1, UNIQUE, nothing)).astype(np.uint8)
    facts: dict[str, Any] = {"number": number, "probability": probability, "verdict": verdict}
    return replace(out, **facts, source=source, searches=searches)
