"""Whether ranks are uniform: bands, tests, and a line that says what a failure means.

Every kind of check fails for a right posterior with the probability `level`, 1 % unless told,
over all of its quantities and levels together: p-values are multiplied by the number of tests
(Bonferroni), and the bands of pictures are those the verdicts use.
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
from flowcei.evaluation.ranks import HPD
from flowcei.posterior.weights import efficiency_in_words

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from flowcei.evaluation.ranks import Coverage, Ranks
    from flowcei.posterior.weights import Weights

LEVEL = 0.01
"""How often a right posterior fails one kind of check."""

_POINTS = 100  # bins of an ECDF
_DRAWS = 10_000  # of uniform ranks, at the least
_BEYOND = 20  # draws that should lie outside a band
_ROWS = 10_000  # draws held at a time
_CLEAR = 3.0  # deviations from which a bias or a wrong width is named
_TAIL = 1e-12
_COLLAPSED = 0.1  # of the events: with more, the checks are those of another posterior


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


def check_sbc(ranks: Ranks, *, level: float = LEVEL, seed: int = 0) -> list[Verdict]:
    """Judge the ranks of each quantity by a simultaneous band around their ECDF.

    Source: T. Saeilynoja, P.-C. Buerkner and A. Vehtari, Stat. Comput. 32, 32 (2022); the
    coverage of the band is simulated with as many uniform ranks as there are events. Bias
    and width are those of a normal posterior with such ranks: of one that is biased otherwise
    in every event the width looks too narrow.

    Args:
        ranks: As `flowcei.evaluation.ranks.run_sbc` returns them, (E, Q).
        level: How often one of all quantities of a right posterior fails.
        seed: Of the simulated ranks.

    Example:
        >>> from flowcei.evaluation.ranks import Ranks
        >>> u = (np.arange(1000)[:, None] + 0.5) / 1000
        >>> [v.text for v in check_sbc(Ranks(("x",), ndtr(ndtri(u) + 0.5)))]
        ['biased down by 0.5 of its deviation']
    """
    return [
        _of_ecdf("sbc", name, values, p, level, rank_shape(values))
        for name, values, p in _ecdf_tests(ranks, level, seed)
    ]


def check_resimulation(ranks: Ranks, *, level: float = LEVEL, seed: int = 0) -> list[Verdict]:
    """Judge whether samples explain the momenta as well as the truth does.

    Args:
        ranks: As `flowcei.evaluation.ranks.run_resimulation` returns them.
        level: How often a right posterior fails.
        seed: Of the simulated ranks.
    """
    found = []
    for name, values, p in _ecdf_tests(ranks, level, seed):
        above = (values.mean() - 0.5) * math.sqrt(12 * len(values))
        text = "samples explain the momenta otherwise than the truth does"
        if above > _CLEAR:
            text = f"too narrow: {values.mean():.0%} of samples fit the momenta better than the truth"
        elif above < -_CLEAR:
            worse = 1.0 - values.mean()
            text = f"too wide or beside the truth: {worse:.0%} of samples fit the momenta worse"
        found.append(_of_ecdf("resimulation", name, values, p, level, text))
    return found


def check_coverage(coverage: Coverage, *, level: float = LEVEL) -> list[Verdict]:
    """Judge the coverage of each quantity at all levels by the binomial distribution.

    Args:
        coverage: Of central intervals and regions of highest density.
        level: How often one of all quantities and levels of a right posterior fails.

    Example:
        >>> from flowcei.evaluation.ranks import Coverage, Ranks
        >>> u = np.random.default_rng(0).random((1000, 1))
        >>> v = check_coverage(Coverage.of(Ranks(("x",), 0.25 + 0.5 * u), None))[0]
        >>> v.passed, v.text.split(": ")[1]
        (False, 'too wide')
    """
    events = len(coverage.ranks)
    found = []
    for k, name in enumerate(coverage.names):
        counts = np.rint(coverage.share[:, k] * events)
        p = _binomial_tails(counts, events, np.asarray(coverage.levels)) * coverage.share.size
        worst = int(p.argmin())
        wanted, share = coverage.levels[worst], float(coverage.share[worst, k])
        passed = bool(p[worst] >= level)
        which = "HPD" if name == HPD else "central"
        text = f"the {which} {wanted:.0%} hold the truth in {share:.1%} of events"
        if not passed:
            words = rank_shape(coverage.ranks[:, k]) if which == "central" else ""
            rarely = "too narrow or beside the truth"
            text += f": {words or (rarely if share < wanted else 'too wide')}"
        found.append(Verdict("coverage", name, passed, share - wanted, min(1.0, float(p[worst])), text))
    return found


def check_tarp(ranks: Ranks, *, level: float = LEVEL) -> list[Verdict]:
    """Judge TARP's ranks: Kolmogorov and Smirnov's test, and one of the signed area.

    The area between the coverage and the diagonal, above the middle less below it, is that
    of Lemos et al.'s curve of a too wide (positive) or too narrow (negative) posterior, and
    one number sees it better than a test of all shapes.

    Args:
        ranks: As `flowcei.evaluation.ranks.run_tarp` returns them.
        level: How often a right posterior fails.
    """
    found = []
    for name, values in zip(ranks.names, ranks.values.T, strict=True):
        # Of one uniform rank u the area is 1/4 - |u - 1/2|, with a variance of 1/48.
        area = 0.25 - float(np.abs(values - 0.5).mean())
        z = area * math.sqrt(48 * len(values))
        tests = 2 * len(ranks.names)
        p = tests * min(float(kstest(values, "uniform").pvalue), 2.0 * float(ndtr(-abs(z))))
        words = (
            f"too narrow or beside the truth (area {area:+.3f})" if z < 0 else f"too wide (area {area:+.3f})"
        )
        text = words if abs(z) > _CLEAR else "wrong in shape, correlation or position"
        found.append(_of_ecdf("tarp", name, values, p, level, text))
    return found


def check_weights(weights: Weights, by_region: Mapping[str, float] | None = None) -> Verdict:
    """Say whether importance weights have collapsed: whether they are reliable in nine of ten events.

    Where they are not the flow's own samples are judged (`Weights.normalised`), so that the other
    checks say nothing of the exact posterior. There is no chance in it: p is 0 or 1.

    Args:
        weights: Of all the events.
        by_region: Median efficiency in each region: the lowest is named.

    Example:
        >>> from flowcei.posterior.weights import Weights
        >>> v = check_weights(Weights.of(30.0 * np.random.default_rng(0).normal(size=(50, 100))))
        >>> v.passed, v.text.split(";")[0]
        (False, 'collapsed: of 50 of 50 events the weights are not reliable and the flow is judged as it is')
    """
    lost = int((~weights.reliable).sum())
    share = lost / len(weights.ess)
    passed = share <= _COLLAPSED
    text = efficiency_in_words(weights.ess, weights.drawn)
    if lost:
        of = f"of {lost} of {len(weights.ess)} events the weights are not reliable"
        text = f"{'' if passed else 'collapsed: '}{of} and the flow is judged as it is; {text}"
    if by_region:
        worst = min(by_region, key=by_region.__getitem__)
        text += f"; lowest with {worst}: {by_region[worst]:.1%}"
    return Verdict("weights", "efficiency", passed, share, float(passed), text)


def ecdf_difference(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return points z (K,) and the ECDF of values (E, ...) at them less z, (K, ...)."""
    z = np.arange(1, _POINTS) / _POINTS
    ordered = np.sort(values.reshape(len(values), -1), axis=0)
    ecdf = [np.searchsorted(column, z, side="right") / len(values) for column in ordered.T]
    return z, np.stack(ecdf, axis=-1).reshape(-1, *values.shape[1:]) - z.reshape(-1, *[1] * (values.ndim - 1))


def ecdf_band(
    events: int, quantities: int, *, level: float = LEVEL, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return z, lower and upper end (K,) of the band of `ecdf_difference` that `check_sbc` uses.

    Args:
        events: Number of ranks.
        quantities: That are checked together.
        level: How often one of all of them leaves the band where all is right.
        seed: Of the simulated ranks.

    Example:
        >>> z, low, high = ecdf_band(1000, 1)
        >>> u = np.random.default_rng(1).random(1000)
        >>> bool(((ecdf_difference(u)[1] > low) & (ecdf_difference(u)[1] < high)).all())
        True
    """
    tails = _simulated_tails(events, _draws(quantities, level), seed)
    pointwise = float(tails[int(level / quantities * len(tails))])
    z = np.arange(1, _POINTS) / _POINTS
    low, high = binom.interval(1.0 - pointwise, events, z)
    return z, low / events - z, high / events - z


def coverage_band(
    events: int, levels: NDArray[np.float64], tests: int, *, level: float = LEVEL
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the ends (L,) within which the coverage at levels (L,) passes, of `tests` in all."""
    low, high = binom.interval(1.0 - level / tests, events, levels)
    return low / events, high / events


def tarp_band(events: int, *, level: float = LEVEL) -> float:
    """Return the distance from the diagonal at which `check_tarp` fails by its first test."""
    return float(kolmogi(level / 2.0)) / math.sqrt(events)


def _of_ecdf(
    check: str, name: str, values: NDArray[np.float64], p: float, level: float, failed: str
) -> Verdict:
    most = float(np.abs(ecdf_difference(values)[1]).max())
    passed = bool(p >= level)
    text = f"uniform but for {most:.1%}" if passed else failed or "wrong in shape"
    return Verdict(check, name, passed, most, min(1.0, p), text)


def rank_shape(values: NDArray[np.float64]) -> str:
    """Say which bias and width of a normal posterior gives ranks (E,); empty where neither is clear.

    Example:
        >>> rank_shape(ndtr(ndtri((np.arange(200) + 0.5) / 200) + 0.5))
        'biased down by 0.5 of its deviation'
    """
    z = ndtri(values.clip(_TAIL, 1.0 - _TAIL))
    bias, deviation, count = -float(z.mean()), float(z.std()), len(z)
    words = []
    if abs(bias) / max(deviation, _TAIL) * math.sqrt(count) > _CLEAR:
        words.append(f"biased {'up' if bias > 0 else 'down'} by {abs(bias):.2g} of its deviation")
    # The deviation of the squares of normal numbers is the square root of 2.
    off = (deviation**2 - 1.0) * math.sqrt(count / 2.0)
    if off > _CLEAR:
        words.append(f"too narrow: about {1.0 / deviation:.2g} of the right deviation")
    elif off < -_CLEAR:
        words.append(f"too wide: about {1.0 / max(deviation, _TAIL):.2g} times the right deviation")
    return "; ".join(words)


def _ecdf_tests(ranks: Ranks, level: float, seed: int) -> Iterator[tuple[str, NDArray[np.float64], float]]:
    """Yield name, ranks and corrected p-value of each quantity."""
    events, count = ranks.values.shape
    if events < 1 or count < 1:
        raise UsageError("there are no ranks to check")
    tails = _simulated_tails(events, _draws(count, level), seed)
    z, difference = ecdf_difference(ranks.values)
    for name, values, above in zip(ranks.names, ranks.values.T, difference.T, strict=True):
        own = _binomial_tails(np.rint((above + z) * events), events, z).min()
        beyond = int(np.searchsorted(tails, own * (1.0 + 1e-9), side="right"))
        yield name, values, count * (beyond + 1) / (len(tails) + 1)


def _draws(quantities: int, level: float) -> int:
    return max(_DRAWS, math.ceil(_BEYOND * quantities / level))


@lru_cache(maxsize=4)
def _simulated_tails(events: int, draws: int, seed: int) -> NDArray[np.float64]:
    """Return the smallest pointwise tail of the ECDFs of uniform ranks, sorted, (draws,)."""
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    found = []
    for first in range(0, draws, _ROWS):
        rows = min(_ROWS, draws - first)
        counts = rng.multinomial(events, np.full(_POINTS, 1.0 / _POINTS), size=rows).cumsum(axis=1)
        least = np.ones(rows)
        for k in range(1, _POINTS):
            met, where = np.unique(counts[:, k - 1], return_inverse=True)
            np.minimum(least, _binomial_tails(met, events, np.full(len(met), k / _POINTS))[where], out=least)
        found.append(least)
    tails = np.sort(np.concatenate(found))
    tails.flags.writeable = False
    return tails


def _binomial_tails(
    counts: NDArray[np.integer] | NDArray[np.float64], events: int, p: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return twice the smaller tail of binomial counts, (K,)."""
    counts = np.asarray(counts, dtype=np.float64)
    above = np.where(counts > 0, bdtrc((counts - 1.0).clip(0.0), events, p), 1.0)
    return np.minimum(1.0, 2.0 * np.minimum(bdtr(counts, events, p), above))
