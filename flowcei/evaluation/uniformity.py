"""How far shares of uniform ranks go: bands and p-values of their ECDF, tails of binomial counts."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import bdtr, bdtrik, betainc, kolmogi

if TYPE_CHECKING:
    from flowcei.posterior.arrays import Floats

_POINTS = 100  # bins of an ECDF
_DRAWS = 20_000  # of uniform ranks, at the least: as many for one quantity as for ten, which share them
_BEYOND = 20  # draws that should lie outside a band
_ROWS = 20_000  # draws held at a time


def ecdf_difference(values: Floats) -> tuple[Floats, Floats]:
    """Return points z (K,) and the ECDF of values (E, Q) at them less z, (K, Q)."""
    z = np.arange(1, _POINTS) / _POINTS
    ecdf = [np.searchsorted(np.sort(column), z, side="right") / len(values) for column in values.T]
    return z, np.stack(ecdf, axis=1) - z[:, None]


def ecdf_band(events: int, quantities: int, *, level: float) -> tuple[Floats, Floats, Floats]:
    """Return z, lower and upper end (K,) of the band of `ecdf_difference` that `check_sbc` uses."""
    tails = _simulated_tails(events, _draws(quantities, level), 0)
    pointwise = float(tails[int(level / quantities * len(tails))])
    z = np.arange(1, _POINTS) / _POINTS
    low, high = binomial_interval(1.0 - pointwise, events, z)
    return z, low / events - z, high / events - z


def tarp_band(events: int, *, level: float) -> float:
    """Return the distance from the diagonal at which `check_tarp` fails by its first test."""
    return float(kolmogi(level / 2.0)) / kolmogorov_scale(events)


def kolmogorov_scale(events: int) -> float:
    """What makes the distance of an ECDF one of Kolmogorov's limit: M. A. Stephens, JRSS B 32, 115 (1970)."""
    root = math.sqrt(events)
    return root + 0.12 + 0.11 / root


def ecdf_p_values(values: Floats, level: float, seed: int) -> Floats:
    """Return the corrected p-value (Q,) of ranks (E, Q)."""
    events, count = values.shape
    tails = _simulated_tails(events, _draws(count, level), seed)
    z, difference = ecdf_difference(values)
    least = binomial_tails(np.rint((difference + z[:, None]) * events), events, z[:, None]).min(axis=0)
    beyond = np.searchsorted(tails, least * (1.0 + 1e-9), side="right")
    return np.asarray(count * (beyond + 1) / (len(tails) + 1))


def _draws(quantities: int, level: float) -> int:
    return max(_DRAWS, math.ceil(_BEYOND * quantities / level))


@lru_cache(maxsize=4)
def _simulated_tails(events: int, draws: int, seed: int) -> Floats:
    """Return the smallest pointwise tail of the ECDFs of uniform ranks, sorted, (draws,)."""
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    blocks = []
    for first in range(0, draws, _ROWS):
        rows = min(_ROWS, draws - first)
        counts = rng.multinomial(events, np.full(_POINTS, 1.0 / _POINTS), size=rows).cumsum(axis=1)
        least = np.ones(rows)
        for k in range(1, _POINTS):
            column, low = counts[:, k - 1], counts[:, k - 1].min()
            each = binomial_tails(np.arange(low, column.max() + 1), events, np.array(k / _POINTS))
            np.minimum(least, each[column - low], out=least)
        blocks.append(least)
    tails = np.sort(np.concatenate(blocks))
    tails.flags.writeable = False
    return tails


def binomial_tails(counts: Floats, events: int, p: Floats) -> Floats:
    """Return twice the smaller tail of binomial counts, in their shape, 1 at the most."""
    low = counts <= events * p  # on the other side of the mean a tail is half of all, or more
    a, b = np.where(low, events - counts, counts), np.where(low, counts + 1, events - counts + 1)
    return np.minimum(1.0, 2.0 * betainc(a, b, np.where(low, 1.0 - p, p)))


def binomial_interval(inside: float, events: int, p: Floats) -> Floats:
    """Return the ends (2, ...) of the central counts that hold so much of a binomial distribution."""
    ends = []
    for level in (0.5 * (1.0 - inside), 0.5 * (1.0 + inside)):
        count = np.ceil(bdtrik(level, events, p))
        less = np.maximum(count - 1.0, 0.0)  # where rounding made it one too many
        ends.append(np.where(bdtr(less, events, p) >= level, less, count))
    return np.array(ends)
