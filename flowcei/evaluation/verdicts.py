"""Ranks of the truth among posterior samples, whether they are uniform, and what it means if they are not.

For any function of a geometry and its momenta the share of samples below the truth is uniform over events, if
the posterior is right: of a coordinate that is simulation-based calibration (SBC), of the density it gives
regions of highest density, of the distance to a random point TARP, of the momenta a predictive check.
P-values are multiplied by the number of tests of a kind (Bonferroni); pictures have the verdicts' bands.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import bdtr, bdtrc, kolmogi, ndtr, ndtri
from scipy.stats import binom, kstest

from flowcei.errors import UsageError
from flowcei.posterior.weights import efficiency_in_words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from flowcei.posterior.weights import Weights

HPD = "HPD region"
"""The name of the joint region of highest density among quantities."""

_POINTS = 100  # bins of an ECDF
_DRAWS = 10_000  # of uniform ranks, at the least
_BEYOND = 20  # draws that should lie outside a band
_ROWS = 10_000  # draws held at a time
_TAIL = 1e-12


@dataclass(frozen=True)
class CalibrationRules:
    """What `calibrate` asks for, and when it says that a posterior is wrong.

    Attributes:
        level: How often a right posterior fails each kind of check.
        levels: Of the regions whose coverage is counted.
        clear: Standard errors from which a bias or a wrong width is named; of a right one 1 in 370 is.
        collapsed: Share of events without reliable weights: with more the checks are of another posterior.
        min_events: Fewer show nothing but a posterior that is grossly wrong.
        min_samples: Samples an event, at the least.
        region_events: Events of a region, at the least.
    """

    level: float = 0.01
    levels: tuple[float, ...] = tuple(k / 10 for k in range(1, 10))
    clear: float = 3.0
    collapsed: float = 0.1
    min_events: int = 50
    min_samples: int = 10
    region_events: int = 30


RULES = CalibrationRules()


@dataclass(frozen=True, eq=False)
class Ranks:
    """Share of the samples below the truth, of each quantity (Q names), (E, Q)."""

    names: tuple[str, ...]
    values: NDArray[np.float64]

    def __len__(self) -> int:
        """Return the number of events."""
        return len(self.values)

    def coverage(self, levels: Sequence[float]) -> NDArray[np.float64]:
        """Return how often central intervals, or regions of highest density, hold the truth, (L, Q)."""
        central = np.abs(2.0 * self.values - 1.0)
        needed = np.where(np.array(self.names) == HPD, self.values, central)
        return np.stack([(needed <= level).mean(axis=0) for level in levels])


def rank(
    samples: NDArray[np.float64],
    truth: NDArray[np.float64],
    weights: NDArray[np.float64] | None,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Return the ranks (E, Q) of truths (E, Q) among samples (E, n, Q) with weights (E, n), equal where None.

    One of n + 1 numbers (S. Talts et al., arXiv:1804.06788 (2018)), and a draw between its ends. Weighted
    samples count as 1 / sum(w^2): the variance is right for weights that do not depend on them.
    """
    if np.isnan(samples).any() or np.isnan(truth).any():
        raise UsageError("samples or truth are not numbers; leave such events out")
    lower, equal = samples < truth[:, None], samples == truth[:, None]
    if weights is None:
        below, tied, one = lower.mean(axis=1), equal.mean(axis=1), np.array(1.0 / samples.shape[1])
    else:
        below, tied = (np.einsum("en,enq->eq", weights, c, optimize=True) for c in (lower, equal))
        one = (weights**2).sum(axis=1)[:, None]
    return np.asarray((below + rng.random(below.shape) * (tied + one)) / (1.0 + one))


def tarp_distances(
    samples: NDArray[np.float64],
    truth: NDArray[np.float64],
    references: NDArray[np.float64],
    deviation: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return distances to random points (E, D) of samples (E, n, D), (E, n, 1), and truths (E, D), (E, 1).

    Source: P. Lemos, A. Coogan, Y. Hezaveh and L. Perreault-Levasseur, arXiv:2302.03026 (2023). TARP sees
    wrong widths and correlations; a bias that all events share hardly, which ranks of coordinates see.
    """
    scale = np.where(deviation > 0, deviation, 1.0)
    of_samples = np.linalg.norm((samples - references[:, None]) / scale, axis=2, keepdims=True)
    return of_samples, np.linalg.norm((truth - references) / scale, axis=1, keepdims=True)


@dataclass(frozen=True)
class Verdict:
    """The outcome of one check of one quantity.

    Attributes:
        check: ``sbc``, ``coverage``, ``tarp``, ``resimulation``, ``regions`` or ``weights``.
        quantity: What was looked at.
        passed: Whether it may be uniform.
        statistic: ``sbc``, ``tarp``, ``resimulation``: the largest distance of the ECDF of the
            ranks from a uniform one; ``coverage``, ``regions``: the coverage less its level, where
            that is most significant; ``weights``: the share of events whose weights are not used.
        p_value: Of a right posterior, for all tests of the kind together.
        text: What it means.
    """

    check: str
    quantity: str
    passed: bool
    statistic: float
    p_value: float
    text: str


def check_sbc(ranks: Ranks, rules: CalibrationRules = RULES, *, seed: int = 0) -> list[Verdict]:
    """Judge ranks by a simultaneous band around their ECDF, simulated with as many uniform ranks.

    Source: T. Saeilynoja, P.-C. Buerkner and A. Vehtari, Stat. Comput. 32, 32 (2022).
    """
    words = [rank_shape(values, rules) for values in ranks.values.T]
    return _uniform("sbc", ranks, _ecdf_p_values(ranks.values, rules.level, seed), words, rules)


def check_resimulation(ranks: Ranks, rules: CalibrationRules = RULES, *, seed: int = 0) -> list[Verdict]:
    """Judge whether samples explain the momenta as well as the truth does, from ranks of its misfit."""
    words = []
    for mean in ranks.values.mean(axis=0):
        above = (mean - 0.5) * math.sqrt(12 * len(ranks))
        text = "samples explain the momenta otherwise than the truth does"
        if above > rules.clear:
            text = f"too narrow: {mean:.0%} of samples fit the momenta better than the truth"
        elif above < -rules.clear:
            text = f"too wide or beside the truth: {1.0 - mean:.0%} of samples fit the momenta worse"
        words.append(text)
    return _uniform("resimulation", ranks, _ecdf_p_values(ranks.values, rules.level, seed), words, rules)


def check_tarp(ranks: Ranks, rules: CalibrationRules = RULES) -> list[Verdict]:
    """Judge TARP's ranks by Kolmogorov and Smirnov's test, and by the area between coverage and diagonal.

    Its sign is that of a too wide (positive) or too narrow posterior: one number sees that better than a
    test of all shapes.
    """
    # Of one uniform rank u the area is 1/4 - |u - 1/2|, with a variance of 1/48.
    area = 0.25 - np.abs(ranks.values - 0.5).mean(axis=0)
    z = area * math.sqrt(48 * len(ranks))
    shape = np.array([kstest(values, "uniform").pvalue for values in ranks.values.T])
    p_values = 2 * len(z) * np.minimum(shape, 2.0 * ndtr(-np.abs(z)))
    words = [
        f"too {'wide' if far > 0 else 'narrow or beside the truth'} (area {mean:+.3f})"
        if abs(far) > rules.clear
        else "wrong in shape, correlation or position"
        for mean, far in zip(area, z, strict=True)
    ]
    return _uniform("tarp", ranks, p_values, words, rules)


def _uniform(
    check: str, ranks: Ranks, p_values: NDArray[np.float64], words: list[str], rules: CalibrationRules
) -> list[Verdict]:
    """Return verdicts on ranks, with words for those that fail."""
    verdicts = []
    largest = np.abs(ecdf_difference(ranks.values)[1]).max(axis=0)
    for name, p, distance, failure in zip(ranks.names, p_values, largest, words, strict=True):
        passed = bool(p >= rules.level)
        text = f"uniform but for {distance:.1%}" if passed else failure or "wrong in shape"
        verdicts.append(Verdict(check, name, passed, float(distance), min(1.0, float(p)), text))
    return verdicts


def check_coverage(ranks: Ranks, rules: CalibrationRules = RULES) -> list[Verdict]:
    """Judge the coverage of each quantity at all levels by the binomial distribution."""
    events, shares, levels = len(ranks), ranks.coverage(rules.levels), np.asarray(rules.levels)
    p_values = _binomial_tails(np.rint(shares * events), events, levels[:, None]) * shares.size
    verdicts = []
    for name, values, share, p in zip(ranks.names, ranks.values.T, shares.T, p_values.T, strict=True):
        worst = int(p.argmin())
        missing = float(share[worst] - levels[worst])
        passed = bool(p[worst] >= rules.level)
        which = "HPD" if name == HPD else "central"
        text = f"the {which} {levels[worst]:.0%} hold the truth in {share[worst]:.1%} of events"
        if not passed:
            shape = "" if name == HPD else rank_shape(values, rules)
            text += f": {shape or ('too narrow or beside the truth' if missing < 0 else 'too wide')}"
        verdicts.append(Verdict("coverage", name, passed, missing, min(1.0, float(p[worst])), text))
    return verdicts


def check_weights(
    weights: Weights, by_region: Mapping[str, float] | None = None, rules: CalibrationRules = RULES
) -> Verdict:
    """Say whether importance weights have collapsed: no chance, p is 0 or 1. `by_region`: median efficiency.

    Where they are not reliable the flow's own samples are judged (`Weights.normalised`).
    """
    lost = int((~weights.reliable).sum())
    share = lost / len(weights.ess)
    passed = share <= rules.collapsed
    text = efficiency_in_words(weights.ess, weights.drawn)
    if lost:
        of = f"of {lost} of {len(weights.ess)} events the weights are not reliable"
        text = f"{'' if passed else 'collapsed: '}{of} and the flow is judged as it is; {text}"
    if by_region:
        worst = min(by_region, key=by_region.__getitem__)
        text += f"; lowest with {worst}: {by_region[worst]:.1%}"
    return Verdict("weights", "efficiency", passed, share, float(passed), text)


def rank_shape(values: NDArray[np.float64], rules: CalibrationRules = RULES) -> str:
    """Say which bias and width of a normal posterior gives ranks (E,); empty where neither is clear."""
    # Of a posterior that is biased otherwise in every event the width looks too narrow.
    z = ndtri(values.clip(_TAIL, 1.0 - _TAIL))
    bias, deviation, count = -float(z.mean()), float(z.std()), len(z)
    words = []
    if abs(bias) / max(deviation, _TAIL) * math.sqrt(count) > rules.clear:
        words.append(f"biased {'up' if bias > 0 else 'down'} by {abs(bias):.2g} of its deviation")
    # The deviation of the squares of normal numbers is the square root of 2.
    excess = (deviation**2 - 1.0) * math.sqrt(count / 2.0)
    if excess > rules.clear:
        words.append(f"too narrow: about {1.0 / deviation:.2g} of the right deviation")
    elif excess < -rules.clear:
        words.append(f"too wide: about {1.0 / max(deviation, _TAIL):.2g} times the right deviation")
    return "; ".join(words)


def ecdf_difference(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return points z (K,) and the ECDF of values (E, Q) at them less z, (K, Q)."""
    z = np.arange(1, _POINTS) / _POINTS
    ecdf = [np.searchsorted(np.sort(column), z, side="right") / len(values) for column in values.T]
    return z, np.stack(ecdf, axis=1) - z[:, None]


def ecdf_band(
    events: int, quantities: int, *, level: float = RULES.level, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return z, lower and upper end (K,) of the band of `ecdf_difference` that `check_sbc` uses."""
    tails = _simulated_tails(events, _draws(quantities, level), seed)
    pointwise = float(tails[int(level / quantities * len(tails))])
    z = np.arange(1, _POINTS) / _POINTS
    low, high = binom.interval(1.0 - pointwise, events, z)
    return z, low / events - z, high / events - z


def coverage_band(ranks: Ranks, rules: CalibrationRules = RULES) -> NDArray[np.float64]:
    """Return the ends (2, L) within which the coverage at each level passes."""
    tests = len(rules.levels) * len(ranks.names)
    return np.array(binom.interval(1.0 - rules.level / tests, len(ranks), np.asarray(rules.levels))) / len(
        ranks
    )


def tarp_band(events: int, *, level: float = RULES.level) -> float:
    """Return the distance from the diagonal at which `check_tarp` fails by its first test."""
    return float(kolmogi(level / 2.0)) / math.sqrt(events)


def _ecdf_p_values(values: NDArray[np.float64], level: float, seed: int) -> NDArray[np.float64]:
    """Return the corrected p-value (Q,) of ranks (E, Q)."""
    events, count = values.shape
    tails = _simulated_tails(events, _draws(count, level), seed)
    z, difference = ecdf_difference(values)
    least = _binomial_tails(np.rint((difference + z[:, None]) * events), events, z[:, None]).min(axis=0)
    beyond = np.searchsorted(tails, least * (1.0 + 1e-9), side="right")
    return np.asarray(count * (beyond + 1) / (len(tails) + 1))


def _draws(quantities: int, level: float) -> int:
    return max(_DRAWS, math.ceil(_BEYOND * quantities / level))


@lru_cache(maxsize=4)
def _simulated_tails(events: int, draws: int, seed: int) -> NDArray[np.float64]:
    """Return the smallest pointwise tail of the ECDFs of uniform ranks, sorted, (draws,)."""
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    blocks = []
    for first in range(0, draws, _ROWS):
        rows = min(_ROWS, draws - first)
        counts = rng.multinomial(events, np.full(_POINTS, 1.0 / _POINTS), size=rows).cumsum(axis=1)
        least = np.ones(rows)
        for k in range(1, _POINTS):
            met, where = np.unique(counts[:, k - 1], return_inverse=True)
            np.minimum(least, _binomial_tails(met, events, np.array(k / _POINTS))[where], out=least)
        blocks.append(least)
    tails = np.sort(np.concatenate(blocks))
    tails.flags.writeable = False
    return tails


def _binomial_tails(
    counts: NDArray[np.integer] | NDArray[np.float64], events: int, p: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return twice the smaller tail of binomial counts, in their shape."""
    counts = np.asarray(counts, dtype=np.float64)
    above = np.where(counts > 0, bdtrc((counts - 1.0).clip(0.0), events, p), 1.0)
    return np.minimum(1.0, 2.0 * np.minimum(bdtr(counts, events, p), above))
