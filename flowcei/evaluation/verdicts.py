"""Ranks of the truth among posterior samples: are they uniform, and what does it mean if they are not?"""

# For any function of a geometry and its momenta the share of samples below the truth is uniform over events,
# if the posterior is right: of a coordinate that is simulation-based calibration (SBC), of the density it
# gives regions of highest density, of the distance to a random point TARP, of the momenta a predictive check.
# That holds also among events that are chosen by their momenta alone: a posterior that is too low in one
# place and too high in another is right on average, and wrong by regions. P-values are multiplied by the
# number of tests of a kind (Bonferroni); pictures have the verdicts' bands.

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import kolmogorov, ndtr, ndtri

from flowcei.errors import UsageError
from flowcei.evaluation.uniformity import (
    binomial_interval,
    binomial_tails,
    ecdf_difference,
    ecdf_p_values,
    kolmogorov_scale,
)
from flowcei.experiment.likelihood import centred_momenta
from flowcei.physics.explosion import kinetic_energy
from flowcei.posterior.spread import angle_between
from flowcei.posterior.weights import efficiency_in_words
from flowcei.units import ANGSTROM, ELECTRONVOLT

if TYPE_CHECKING:
    import pandas as pd

    from flowcei.molecules.molecule import Molecule
    from flowcei.posterior.arrays import Bools, Floats
    from flowcei.posterior.weights import Weights

HPD = "HPD region"  # name of the joint region of highest density among quantities

_TAIL = 1e-12
_THIRDS = ((0.0, 1 / 3), (1 / 3, 2 / 3), (2 / 3, 1.0))
# Of OCS `broad` 12 % are straighter than 165 degrees: in the third with the largest angles their
# efficiency of 0.14 would pass for 0.31.
_TENTHS = ((0.0, 0.1), (0.9, 1.0))
_CENTRAL = 0.5  # the interval counted in a region: its coverage moves most with a bias or a wrong width

CHECKS = {
    "weights": "Importance weights",
    "sbc": "Ranks of the truth (SBC)",
    "coverage": "Coverage",
    "tarp": "All coordinates together (TARP)",
    "resimulation": "Momenta of samples, simulated again",
    "regions": "By regions of kinetic energy and angle between the two largest momenta",
}
"""Kinds of check, and what they are of."""


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
    values: Floats

    def __len__(self) -> int:
        return len(self.values)

    def coverage(self, levels: Sequence[float]) -> Floats:
        """Return how often central intervals, or regions of highest density, hold the truth, (L, Q)."""
        central = np.abs(2.0 * self.values - 1.0)
        needed = np.where(np.array(self.names) == HPD, self.values, central)
        return np.stack([(needed <= level).mean(axis=0) for level in levels])


def rank(samples: Floats, truth: Floats, weights: Floats | None, rng: np.random.Generator) -> Floats:
    """Return the ranks (E, Q) of truths (E, Q) among samples (E, n, Q) with weights (E, n), or equal ones."""
    if np.isnan(samples).any() or np.isnan(truth).any():
        raise UsageError("samples or truth are not numbers; leave such events out")
    lower, equal = samples < truth[:, None], samples == truth[:, None]
    if weights is None:
        below, tied, one = lower.mean(axis=1), equal.mean(axis=1), np.array(1.0 / samples.shape[1])
    else:
        below, tied = (np.einsum("en,enq->eq", weights, c, optimize=True) for c in (lower, equal))
        # They count as 1 / sum(w^2) samples: the variance is right for weights that do not depend on them.
        one = (weights**2).sum(axis=1)[:, None]
    # One of n + 1 numbers (S. Talts et al., arXiv:1804.06788 (2018)), and a draw between its ends.
    return np.asarray((below + rng.random(below.shape) * (tied + one)) / (1.0 + one))


def tarp_distances(
    samples: Floats, truth: Floats, references: Floats, deviation: Floats
) -> tuple[Floats, Floats]:
    """Return distances of samples (E, n, D) and truths (E, D) to random points (E, D), (E, n, 1), (E, 1)."""
    # P. Lemos, A. Coogan, Y. Hezaveh and L. Perreault-Levasseur, arXiv:2302.03026 (2023). It sees wrong
    # widths and correlations; a bias that all events share hardly, which ranks of coordinates see.
    scale = np.where(deviation > 0, deviation, 1.0)
    of_samples = np.linalg.norm((samples - references[:, None]) / scale, axis=2, keepdims=True)
    return of_samples, np.linalg.norm((truth - references) / scale, axis=1, keepdims=True)


@dataclass(frozen=True)
class Verdict:
    """The outcome of one check of one quantity."""

    check: str  # sbc, coverage, tarp, resimulation, regions or weights
    quantity: str
    passed: bool
    # Largest distance of the ECDF of the ranks from a uniform one; of coverage and regions the coverage less
    # its level, where that is most significant; of weights the share of events whose weights are not used.
    statistic: float
    p_value: float  # of a right posterior, for all tests of the kind together
    text: str  # what it means


def check_sbc(ranks: Ranks, rules: CalibrationRules = RULES, *, seed: int = 0) -> list[Verdict]:
    """Judge ranks by a simultaneous band around their ECDF, simulated with as many uniform ranks."""
    # T. Saeilynoja, P.-C. Buerkner and A. Vehtari, Stat. Comput. 32, 32 (2022).
    words = [rank_shape(values, rules) for values in ranks.values.T]
    return _uniform("sbc", ranks, ecdf_p_values(ranks.values, rules.level, seed), words, rules)


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
    return _uniform("resimulation", ranks, ecdf_p_values(ranks.values, rules.level, seed), words, rules)


def check_tarp(ranks: Ranks, rules: CalibrationRules = RULES) -> list[Verdict]:
    """Judge TARP's ranks by Kolmogorov and Smirnov's test, and by the area between coverage and diagonal."""
    # The sign of the area is that of a too wide (positive) or too narrow posterior: one number sees that
    # better than a test of all shapes. Of one uniform rank u the area is 1/4 - |u - 1/2|, with a variance of
    # 1/48.
    area = 0.25 - np.abs(ranks.values - 0.5).mean(axis=0)
    z = area * math.sqrt(48 * len(ranks))
    ordered, places = np.sort(ranks.values, axis=0), np.arange(len(ranks) + 1)[:, None] / len(ranks)
    farthest = np.maximum(places[1:] - ordered, ordered - places[:-1]).max(axis=0)
    shape = kolmogorov(farthest * kolmogorov_scale(len(ranks)))
    p_values = 2 * len(z) * np.minimum(shape, 2.0 * ndtr(-np.abs(z)))
    words = [
        f"too {'wide' if far > 0 else 'narrow or beside the truth'} (area {mean:+.3f})"
        if abs(far) > rules.clear
        else "wrong in shape, correlation or position"
        for mean, far in zip(area, z, strict=True)
    ]
    return _uniform("tarp", ranks, p_values, words, rules)


def _uniform(
    check: str, ranks: Ranks, p_values: Floats, words: list[str], rules: CalibrationRules
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
    p_values = binomial_tails(np.rint(shares * events), events, levels[:, None]) * shares.size
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
    weights: Weights, by_region: Mapping[str, float], rules: CalibrationRules = RULES
) -> Verdict:
    """Say whether importance weights have collapsed; no chance: p is 0 or 1. By region: median efficiency."""
    lost = int((~weights.reliable).sum())
    share = lost / len(weights.ess)
    passed = share <= rules.collapsed
    text = efficiency_in_words(weights.ess, weights.drawn)
    if lost:  # of these events `Weights.normalised` takes the flow's own samples
        of = f"of {lost} of {len(weights.ess)} events the weights are not reliable"
        text = f"{'' if passed else 'collapsed: '}{of} and the flow is judged as it is; {text}"
    if by_region:
        worst = min(by_region, key=by_region.__getitem__)
        text += f"; lowest with {worst}: {by_region[worst]:.1%}"
    return Verdict("weights", "efficiency", passed, share, float(passed), text)


def rank_shape(values: Floats, rules: CalibrationRules = RULES) -> str:
    """Say which bias and width of a normal posterior gives ranks (E,); empty where neither is clear."""
    # Of a posterior that is biased otherwise in every event the width looks too narrow.
    z = ndtri(values.clip(_TAIL, 1.0 - _TAIL))
    bias, deviation, count = -float(z.mean()), max(float(z.std()), _TAIL), len(z)
    words = []
    if abs(bias) / deviation * math.sqrt(count) > rules.clear:
        words.append(f"biased {'up' if bias > 0 else 'down'} by {abs(bias):.2g} of its deviation")
    # The deviation of the squares of normal numbers is the square root of 2.
    excess = (deviation**2 - 1.0) * math.sqrt(count / 2.0)
    if excess > rules.clear:
        words.append(f"too narrow: about {1.0 / deviation:.2g} of the right deviation")
    elif excess < -rules.clear:
        words.append(f"too wide: about {1.0 / deviation:.2g} times the right deviation")
    return "; ".join(words)


class Region(NamedTuple):
    """What events (E,) have in common by their momenta, and which they are."""

    name: str
    events: Bools


def regions_of(molecule: Molecule, momenta: Floats, rules: CalibrationRules = RULES) -> list[Region]:
    """Return the regions of events (E, N, 3), hbar / bohr, that have enough events to be judged."""
    p = centred_momenta(momenta, molecule.masses)
    regions = energies = _bands("KER", kinetic_energy(p, molecule.masses) / ELECTRONVOLT, "eV")
    if len(molecule) > 2:  # two momenta are opposite
        # The two largest, of whatever ions: no label of identical ions matters.
        size = np.linalg.norm(p, axis=2)
        a, b = np.moveaxis(np.take_along_axis(p, np.argsort(-size, axis=1)[:, :2, None], axis=1), 1, 0)
        angles = _bands("angle of momenta", angle_between(a, b), "deg")
        pairs = itertools.product(energies[: len(_THIRDS)], angles[: len(_THIRDS)])
        both = [Region(f"{k.name} and {j.name}", k.events & j.events) for k, j in pairs]
        regions = [*energies, *angles, *both]
    return [region for region in regions if region.events.sum() >= rules.region_events]


def _bands(name: str, values: Floats, unit: str) -> list[Region]:
    """Return thirds, then outer tenths."""
    regions = []
    for low, high in (*_THIRDS, *_TENTHS):
        start, end = np.quantile(values, (low, high))
        text = f"of {start:.3g} to {end:.3g}"
        if low == 0.0 or high == 1.0:
            text = f"below {end:.3g}" if low == 0.0 else f"above {start:.3g}"
        inside = ((values >= start) | (low == 0.0)) & ((values < end) | (high == 1.0))
        regions.append(Region(f"{name} {text} {unit}", inside))
    return regions


def regions_table(ranks: Ranks, errors: Floats, regions: list[Region]) -> pd.DataFrame:
    """Return a row for each region and quantity, from ranks and errors (posterior mean less truth) (E, Q).

    `events` in it, `coverage_50` of the central half, `rank` and `error`, the means of ranks and errors, and
    `p`: for a right posterior, of mean rank and coverage, not corrected.
    """
    rows = []
    for name, inside in regions:
        count = int(inside.sum())
        for quantity, u, error in zip(ranks.names, ranks.values[inside].T, errors[inside].T, strict=True):
            central = int((np.abs(2.0 * u - 1.0) <= _CENTRAL).sum())
            above = (u.mean() - 0.5) * np.sqrt(12.0 * count)
            covers = float(binomial_tails(np.array(central), count, np.array(_CENTRAL)))
            p = 2.0 * min(2.0 * float(ndtr(-abs(above))), covers)
            rows.append((name, quantity, count, central / count, u.mean(), error.mean(), min(p, 1.0)))
    columns = ["region", "quantity", "events", "coverage_50", "rank", "error", "p"]
    import pandas as pd

    return pd.DataFrame(rows, columns=columns)


def check_regions(
    ranks: Ranks,
    table: pd.DataFrame,
    regions: list[Region],
    units: Mapping[str, str],
    rules: CalibrationRules = RULES,
) -> list[Verdict]:
    """Judge each quantity, with its unit, by its worst region in the table."""
    inside = dict(regions)
    verdicts = []
    for name, values in zip(ranks.names, ranks.values.T, strict=True):
        worst = table[table["quantity"] == name].sort_values("p").iloc[0]
        p = min(1.0, float(worst["p"]) * len(table))
        passed, share = p >= rules.level, float(worst["coverage_50"])
        region = f"with {worst['region']} ({worst['events']} events)"
        text = f"{region} the central 50 % hold {100.0 * share:.0f} %"
        if passed:
            text = f"worst region: {100.0 * share:.0f} % in the central 50 %"
        else:
            shape = rank_shape(values[inside[worst["region"]]], rules) or "wrong in shape"
            scale, unit = (ANGSTROM, "angstrom") if units.get(name) == "bohr" else (1.0, units.get(name, ""))
            text = f"{text}: {shape}; mean error {worst['error'] / scale:+.2g} {unit}".rstrip()
        verdicts.append(Verdict("regions", name, passed, share - _CENTRAL, p, text))
    return verdicts


def coverage_band(ranks: Ranks, rules: CalibrationRules = RULES) -> Floats:
    """Return the ends (2, L) within which the coverage at each level passes."""
    inside = 1.0 - rules.level / (len(rules.levels) * len(ranks.names))
    return binomial_interval(inside, len(ranks), np.asarray(rules.levels)) / len(ranks)
