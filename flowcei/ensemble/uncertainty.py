"""How certain a law is: Fisher information, bootstrap over events, and the guard of the Monte Carlo sums.

The likelihood of an event is a sum over its samples. Its error moves the law: by chance, with the covariance
V of the scores, and to one side, with their bias b, of a ratio of two sums. In units of the information I of
the law both must stay small: 1 is an error as large as that of the events themselves. The variance of the
total log likelihood, which R. Golomb and C. Talbot (arXiv:2106.15745) bound, is larger: most of it is common
to all laws near the best (R. Essick and W. Farr, arXiv:2204.00461), and a law that is wrong by it is no less
likely than before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from flowcei.ensemble.fitting import counted, drawn, maximised, responsibilities, truth
from flowcei.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowcei.ensemble.coordinates import Chart
    from flowcei.ensemble.fitting import Selection, Weighted
    from flowcei.ensemble.laws import NormalLaw
    from flowcei.posterior.arrays import Floats, Rows
    from flowcei.workers.order import Each

EFFECTIVE = 5.0
"""Samples of an event: of fewer, which law it is of is the chance of what was drawn."""

_MISTAKEN = 0.6  # of the error of a share, in events, that may have fewer
_MOST = 0.5  # variance of the Monte Carlo sums over the information, in the worst direction
# Standard errors that a bias may have, which is taken off to first order: of OCS at 3 % noise under a wide
# prior, where a few events have hardly a sample within the law, what is left is twice as much and more.
_MOST_BIAS = 0.6
_NONE = 1e-12  # of an event: samples that have less of it say nothing of a law
_DRAWS, _BEYOND, _OUTSIDE = 2000, 20.0, 0.01  # of the law; nats; share that the prior may not cover
_STEPS, _SHORTEST = 90, 0.02  # of the search in a bootstrap, and its last step, about in errors of the law


@dataclass(frozen=True, eq=False)
class MonteCarlo:
    """What the finite number of samples does to a law, in units of its own error."""

    variance: float  # in the worst direction: 1 doubles the variance of the law
    bias: float  # in standard errors
    samples: int  # an event
    total: float = np.nan  # variance of the log likelihood, summed over events

    @classmethod
    def of(
        cls, covariance: Floats, noise: Floats, bias: Floats, samples: int, total: float = np.nan
    ) -> MonteCarlo:
        """Of numbers with a covariance (P, P), noise (P, P) and bias (P,) of their scores."""
        values, vectors = np.linalg.eigh(covariance)
        root = vectors * np.sqrt(values.clip(0.0))
        worst = float(np.linalg.eigvalsh(root.T @ noise @ root)[-1])
        return cls(worst, float(np.linalg.norm(root.T @ bias)), samples, total)

    @property
    def wanted(self) -> int:
        """Samples an event with which both would be small enough."""
        factor = max(self.variance / _MOST, self.bias / _MOST_BIAS)
        return math.ceil(self.samples * factor / 100.0) * 100

    def check(self) -> None:
        """Raise DataError where a law is no better known than its sums."""
        if self.variance > _MOST or self.bias > _MOST_BIAS:
            what = f"{self.samples} samples an event are too few: their chance moves the law by"
            size = f"{math.sqrt(self.variance):.2g} of its error, and their bias by {self.bias:.2g}"
            raise DataError(
                f"{what} {size}; sample with -n {self.wanted} or more, or under a prior nearer to the law"
            )


def check_told(few: float, events: int, error: float) -> None:
    """Raise DataError where too many events have too few effective samples for a share with an error.

    Of a normal law, the error that a share of as many events would have. The sums themselves do not show
    it: where one sample is all there is, no other contradicts it.
    """
    if few > max(1.0, _MISTAKEN * error * events):
        what = f"{few:.0f} of {events} events have fewer than {EFFECTIVE:.0f} effective samples"
        what += " under the law: sample with a larger -n, or under a prior nearer to it"
        raise DataError(f"{what}; or name a wider law")


def significant(shares: Floats) -> tuple[Rows, Rows]:
    """Events and places of samples, of shares (e, n), that count at all: hardly any beyond a narrow law."""
    event, place = np.nonzero(shares > _NONE)
    return event, place


def scored(
    scores: Floats, shares: Floats, event: Rows, true: Floats, distinct: float, most: int | None = None
) -> tuple[Floats, Floats, Floats]:
    """Scores (e, P) of events, means over samples of scores (S, P); their covariance (Q, Q) and bias (P,).

    Samples have shares (S,) of their events (S,), in order, which count as so much true (e,); the covariance
    is of the first `most` numbers. A share is a ratio of sums of independent samples: the delta method.
    """
    mean = np.zeros((len(true), scores.shape[1]))
    first = np.flatnonzero(np.diff(event, prepend=-1))
    mean[event[first]] = np.add.reduceat(shares[:, None] * scores, first)
    away = (scores - mean[event]) * (shares * true[event] / np.sqrt(distinct))[:, None]
    return true[:, None] * mean, away[:, :most].T @ away[:, :most], -(shares @ away) / np.sqrt(distinct)


@dataclass(frozen=True, eq=False)
class Information:
    """Covariance (P, P) of the numbers of a law: means, log deviations, correlations of pairs."""

    covariance: Floats  # with the variance of the Monte Carlo sums
    chance: Floats  # variance of each number, (P,), by these sums: of means and widths, 0 of correlations
    bias: Floats  # of each number, (P,), by these sums
    monte_carlo: MonteCarlo
    few: float = 0.0  # events that have fewer than so many effective samples under the law

    def check(self, law: NormalLaw, events: int) -> None:
        """Raise DataError where the samples of so many events are too few to tell the law."""
        self.monte_carlo.check()
        error = np.sqrt(np.diagonal(self.covariance))[: 2 * law.mean.size].reshape(len(law.mean), 2, -1)
        over = np.stack([law.deviation, np.ones_like(law.mean)], axis=1)
        # One event may move a mean by a deviation, a width by itself, over as many events as tell of them.
        told = np.divide(over, error, out=np.full_like(over, np.inf), where=error > 0)
        check_told(self.few, events, float(told.min()) / events)


def information(
    law: NormalLaw, data: Weighted, distinct: float, selection: Selection | None = None
) -> Information:
    """Of the events, by products of their scores, with the errors of the Monte Carlo sums added."""
    pairs, most = law.pairs, law.widths
    numbers = most + len(law.share) * len(pairs[0])
    scores: list[Floats] = []
    noise, bias, total, few = np.zeros((most, most)), np.zeros(numbers), 0.0, 0.0
    for rows, z, base in data.blocks(numbers):
        log_r, each = responsibilities(law.components, z, base)
        true, shares = truth(log_r, data.p_true[rows])[1], each.sum(axis=2)
        event, place = significant(shares)
        slopes = law.scores(z[event, place], pairs)
        own, *more = scored(slopes, shares[event, place], event, true, distinct, most)
        scores.append(own)
        noise, bias = noise + more[0], bias + more[1]
        effective = (shares**2).sum(axis=1) / distinct
        few += float(true @ (EFFECTIVE * effective > 1.0))
        total += float((true**2 * np.maximum(effective - 1.0 / base.shape[1], 0.0)).sum())
    every = np.concatenate(scores)
    if selection is not None:
        weight = selection.weights(law)
        every -= (weight / weight.sum()) @ law.scores(selection.z[selection.kept], pairs)
    fisher = every.T @ every
    covariance = inverted(fisher)
    some = covariance[:most, :most]
    sums = MonteCarlo.of(np.asarray(some), noise, bias[:most], data.z.shape[1], total)
    shift = covariance @ bias
    chance = some @ noise @ some
    covariance[:most, :most] += chance
    chance = np.append(np.diagonal(chance), np.zeros(numbers - most))
    return Information(np.asarray(covariance), chance, np.asarray(shift), sums, few)


def inverted(fisher: Floats) -> Floats:
    """Covariance (P, P) of numbers of some information, which may be 0: of the mean of a bend."""
    size = np.sqrt(np.diagonal(fisher))
    unit = np.divide(1.0, size, out=np.zeros_like(size), where=size > 0)
    return np.asarray(np.linalg.pinv(fisher * unit * unit[:, None], hermitian=True) * unit * unit[:, None])


def resampled(
    law: NormalLaw,
    data: Weighted,
    images: Floats,
    count: int,
    seed: int,
    selection: Selection | None,
    each: Each = map,
) -> list[NormalLaw]:
    """Laws of as many events, drawn with replacement: `count` times; `each` maps a function over the draws.

    Each event stands with some samples drawn by a law that is a little wider. Over their density under it
    the ratio of a law near it hardly changes, so that few are enough.
    """
    rng = np.random.default_rng(seed)
    short = drawn(law, data, rng)
    laws = each(partial(_another, law, short, images, selection), draws(len(short.z), count, rng))
    return [one for one in laws if one is not None]


def draws(events: int, count: int, rng: np.random.Generator) -> Iterator[Floats]:
    """How often each event (E,) is among as many, drawn with replacement: `count` times."""
    for _ in range(count):
        yield np.bincount(rng.integers(events, size=events), minlength=events).astype(np.float64)


def _another(
    law: NormalLaw, short: Weighted, images: Floats, selection: Selection | None, times: Floats
) -> NormalLaw | None:
    """The law of events that count so many times each; None where they have none."""
    shortest = _SHORTEST / np.sqrt(len(short.z))
    try:
        return maximised(law, counted(short, times), images, selection, _STEPS, shortest)[0]
    except (DataError, np.linalg.LinAlgError):  # of few events a draw may have no width
        return None


def check_covered(chart: Chart, law: NormalLaw, seed: int) -> None:
    """Raise DataError where the prior holds a part of a law for impossible."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(8,)))
    least = chart.log_prior(chart.drawn(_DRAWS, rng)[1]).min() - _BEYOND
    outside = float(np.mean(chart.log_prior(law.sample(_DRAWS, rng)) < least))
    if outside > _OUTSIDE:
        what = f"the prior does not cover the law: {outside:.0%} of it lies where the prior has no geometries"
        raise DataError(f"{what}; sample under a wider prior (flowcei train --prior)")
