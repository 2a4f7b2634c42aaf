"""A normal law that changes smoothly along a column, such as the delay between two pulses.

At the true delay t the law has the mean sum_m c_m phi_m(t), of B-splines, and the covariance
sum_j h_j(t) S_j, of hat functions: it is a mixture of normal laws S_j about one mean, with the shares
h_j(t). The pulses have a length: an event of the nominal delay T is of true delays t that are normal
about T, with the deviation of the cross-correlation, and its law is the mean over these (a step becomes
an error function). Sums over t are Gauss and Hermite's. Expectation and maximisation is in closed form,
first of S, then of c (X.-L. Meng and D. Rubin, Biometrika 80, 267 (1993)); how many splines there are
H. Akaike's criterion decides.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.interpolate import BSpline
from scipy.special import logsumexp

from flowcei.ensemble.fitting import Weighted, accelerated, truth
from flowcei.ensemble.laws import RAYLEIGH, NormalLaw
from flowcei.ensemble.uncertainty import MonteCarlo, score_noise

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from flowcei.ensemble.coordinates import Chart, Coordinate
    from flowcei.posterior.arrays import Bools, Floats

FEWEST = 5
"""Values of a column along which a law is smoothed."""

_SPLINES = (2, 4, 6, 9, 13, 18)  # that are tried, one after the other
_HATS, _MOST_HATS = {8: 2, 16: 3}, 4  # covariances, of fewer values than these; of more
_TRUE = 5  # true delays of a nominal one
_BEYOND = 2.5  # deviations of the cross-correlation to which splines reach beyond the column
_ROUNDS, _ENOUGH = 30, 3e-2  # of the search, and the gain of log likelihood that ends it
_BLOCK = 100_000  # samples at a time, times true delays


@dataclass(frozen=True, eq=False)
class SmoothLaw:
    """The law along a column of K coordinates.

    Attributes:
        values: At which it is tabulated, (V,).
        coefficients: Of the splines of the mean, (M, K); 0 of bends.
        covariance: At each of J equally spaced values between the ends, (J, K, K).
        cross_correlation: Its deviation, in units of the column.
        error: Covariance of coefficients (M K) and log deviations (J K), from the Fisher information and
            the Monte Carlo sums.
    """

    coordinates: tuple[Coordinate, ...]
    bends: Bools
    values: Floats
    coefficients: Floats
    covariance: Floats
    cross_correlation: float
    images: Floats  # (G, K, K), by which like ions make coordinates alike
    error: Floats

    @property
    def ends(self) -> tuple[float, float]:
        """Between which the law changes; beyond it stays."""
        reach = _BEYOND * self.cross_correlation
        return float(self.values.min() - reach), float(self.values.max() + reach)

    @property
    def vector(self) -> Floats:
        """All numbers of the law as a vector without bounds, which `from_vector` reads."""
        return np.concatenate([self.coefficients.ravel(), self._about.vector])

    def from_vector(self, vector: Floats) -> SmoothLaw:
        """Return the law of the same shape with these numbers."""
        own, other = np.split(vector, [self.coefficients.size])
        covariance = self._about.from_vector(other).covariance
        return replace(self, coefficients=own.reshape(self.coefficients.shape), covariance=covariance)

    @property
    def _about(self) -> NormalLaw:
        """Laws about a mean of 0 with each of the covariances."""
        zero = np.zeros(self.covariance.shape[:2])
        return NormalLaw(np.ones(len(zero)), zero, self.covariance, self.bends)

    def log_each(self, d: Floats, c: int) -> Floats:
        """Log density (B,) of a covariance at deviations from the mean (B, K)."""
        about = self._about
        one = NormalLaw(about.share[[c]], about.mean[[c]], about.covariance[[c]], about.bends)
        return one.log_each(d)[:, 0]

    def splines(self, t: Floats) -> Floats:
        """Of true values (B,), (B, M)."""
        return _splines(t, len(self.coefficients), self.ends)

    def hats(self, t: Floats) -> Floats:
        """Shares of the covariances at true values (B,), (B, J)."""
        return _hats(t, len(self.covariance), self.ends)

    def mean(self, t: Floats) -> Floats:
        """Means (B, K) at true values; of straight angles the mean angle."""
        width = np.sqrt(np.einsum("jkk->jk", self.covariance))
        angle = 180.0 - RAYLEIGH[0] * self.hats(t) @ width
        return np.where(self.bends, angle, self.splines(t) @ self.coefficients)

    def deviation(self, t: Floats) -> Floats:
        """Widths (B, K) at true values; of straight angles that of the angle."""
        variance = self.hats(t) @ np.einsum("jkk->jk", self.covariance)
        return np.where(self.bends, RAYLEIGH[1], 1.0) * np.sqrt(variance)

    def seen(self, values: Floats) -> Floats:
        """Means (B, K) at nominal values: over the true ones of each; of straight angles the mean angle."""
        nodes, shares = _nodes(self.cross_correlation)
        each = [share * self.mean(values + shift) for shift, share in zip(nodes, shares, strict=True)]
        return np.asarray(np.sum(each, axis=0))

    def law(self, t: float) -> NormalLaw:
        """The law at a true value."""
        share = self.hats(np.array([t]))[0]
        mean = np.repeat(self.splines(np.array([t])) @ self.coefficients, len(share), axis=0)
        kept = share > 0
        return NormalLaw(share[kept], mean[kept], self.covariance[kept], self.bends)

    def errors(self, t: Floats) -> tuple[Floats, Floats]:
        """Standard errors of means and of log widths, (B, K) each."""
        m, k = self.coefficients.shape
        splines, hats = self.splines(t), self.hats(t)
        variance = np.einsum("jkk->jk", self.covariance)
        share = hats[:, :, None] * variance / (hats @ variance)[:, None]  # of d log width by d log S_j
        blocks = self.error[: m * k, : m * k].reshape(m, k, m, k), self.error[m * k :, m * k :]
        of_mean = np.einsum("bm,mknk,bn->bk", splines, blocks[0], splines)
        widths = blocks[1].reshape(len(variance), k, len(variance), k)
        of_width = np.einsum("bjk,jkik,bik->bk", share, widths, share)
        width = np.sqrt(of_width.clip(0.0))
        bend = RAYLEIGH[0] * self.deviation(t) / RAYLEIGH[1] * width
        return np.where(self.bends, bend, np.sqrt(of_mean.clip(0.0))), width

    def to_dataframe(self, by: str = "delay", t: Floats | None = None) -> pd.DataFrame:
        """Return a row a value and coordinate: mean and width at true values, with standard errors."""
        t = self.values if t is None else t
        mean, sd, (by_mean, by_width) = self.mean(t), self.deviation(t), self.errors(t)
        shape = mean.shape
        names = [one.name for one in self.coordinates] * shape[0]
        table = {by: np.repeat(t, shape[1]), "quantity": names}
        table |= {"unit": [one.unit for one in self.coordinates] * shape[0]}
        table |= {"mean": mean.ravel(), "mean_error": by_mean.ravel(), "sd": sd.ravel()}
        return pd.DataFrame(table | {"sd_error": (sd * by_width).ravel()})


def _splines(t: Floats, count: int, ends: tuple[float, float]) -> Floats:
    degree = min(3, count - 1)
    inner = np.linspace(*ends, count - degree + 1)
    knots = np.concatenate([[ends[0]] * degree, inner, [ends[1]] * degree])
    distinct, rows = np.unique(np.clip(t, *ends), return_inverse=True)
    return np.asarray(BSpline.design_matrix(distinct, knots, degree).toarray())[rows]


def _nodes(deviation: float) -> tuple[Floats, Floats]:
    """True values about a nominal one, (G,), and their shares, (G,)."""
    if not deviation > 0.0:
        return np.zeros(1), np.ones(1)
    nodes, weights = np.polynomial.hermite_e.hermegauss(_TRUE)
    return deviation * nodes, weights / weights.sum()


def _hats(t: Floats, count: int, ends: tuple[float, float]) -> Floats:
    place = (np.clip(t, *ends) - ends[0]) / (ends[1] - ends[0]) * (count - 1)
    return np.maximum(1.0 - np.abs(place[:, None] - np.arange(count)), 0.0)


@dataclass(frozen=True, eq=False)
class _Events:
    """Samples of events, and the true values that each may be of."""

    samples: Weighted
    by: Floats  # (E,)

    def blocks(self, law: SmoothLaw, each: int = 1) -> Iterator[tuple[slice, Floats, Floats, Floats, Floats]]:
        """Rows, coordinates (e, n, K), base (e, n), true values (e, G), log of their shares (G,)."""
        n, k = self.samples.z.shape[1:]
        nodes, shares = _nodes(law.cross_correlation)
        step = max(1, _BLOCK // (n * len(nodes) * each))
        for first in range(0, len(self.by), step):
            rows = slice(first, first + step)
            true = self.by[rows, None] + nodes
            z, base = self.samples.z[rows].astype(np.float64), self.samples.log_base[rows].astype(np.float64)
            yield rows, z.reshape(-1, n, k), base, true, np.log(shares)


def _densities(law: SmoothLaw, z: Floats, true: Floats, log_share: Floats) -> tuple[Floats, list[Floats]]:
    """Log density (e, n, G, J) of true values and covariances, and deviations (e, n, K) from each mean."""
    out, away = [], []
    for g, share in enumerate(log_share):
        d = z - (law.splines(true[:, g]) @ law.coefficients)[:, None]
        hats = law.hats(true[:, g])
        each = np.full((*z.shape[:2], hats.shape[1]), -np.inf)
        for c, near in enumerate((hats > 0.0).T):  # most are far from most values
            if near.any():
                own = law.log_each(d[near].reshape(-1, z.shape[2]), c).reshape(-1, z.shape[1])
                each[near, :, c] = own + np.log(hats[near, c])[:, None] + share
        out.append(each)
        away.append(d)
    return np.stack(out, axis=2), away


def _step(law: SmoothLaw, events: _Events) -> tuple[SmoothLaw, float]:
    """One step of expectation and maximisation, and the log likelihood before it."""
    (j, k), m = law.covariance.shape[:2], len(law.coefficients)
    count, second = np.zeros(j), np.zeros((j, k, k))
    design, first = np.zeros((j, m, m)), np.zeros((j, m, k))
    height = 0.0
    for rows, z, base, true, log_share in events.blocks(law):
        each, away = _densities(law, z, true, log_share)
        each += base[:, :, None, None]
        log_r = logsumexp(each, axis=(1, 2, 3))
        total, is_true = truth(log_r, events.samples.p_true[rows])
        times = events.samples.count[rows]
        height += float(times @ total)
        share = np.exp(each - log_r[:, None, None, None]) * (times * is_true)[:, None, None, None]
        for g, d in enumerate(away):
            splines = law.splines(true[:, g])
            for c in range(j):
                near = np.flatnonzero(np.isfinite(each[:, 0, g, c]))
                own, basis = share[near, :, g, c], splines[near]
                by_event = own.sum(axis=1)
                count[c] += by_event.sum()
                flat = d[near].reshape(-1, k)
                second[c] += (flat * own.reshape(-1, 1)).T @ flat
                design[c] += (basis * by_event[:, None]).T @ basis
                first[c] += basis.T @ np.einsum("en,enk->ek", own, z[near])
    straight = ~law.bends
    covariance = second / count[:, None, None] * (straight[:, None] & straight)
    squares = np.einsum("jkk->jk", second) / count[:, None]
    covariance += np.eye(k) * np.where(law.bends, 0.5 * squares, 0.0)[:, None]
    inverse = np.linalg.inv(covariance[:, straight][:, :, straight])
    size = m * int(straight.sum())
    left = np.einsum("jmn,jkl->mknl", design, inverse).reshape(size, size)
    right = np.einsum("jmk,jkl->ml", first[:, :, straight], inverse).ravel()
    coefficients = np.zeros((m, k))
    coefficients[:, straight] = np.linalg.solve(left, right).reshape(m, -1)
    # Of events whose like ions are exchanged, as of those at hand.
    coefficients = np.einsum("gkl,ml->mk", law.images, coefficients) / len(law.images)
    covariance = np.einsum("gkl,jlm,gnm->jkn", law.images, covariance, law.images) / len(law.images)
    return replace(law, coefficients=coefficients, covariance=covariance), height


def _maximised(law: SmoothLaw, events: _Events) -> tuple[SmoothLaw, float]:
    """The most likely law that a search from another finds, and its log likelihood."""
    heights = [-np.inf]

    def close(_: SmoothLaw, __: SmoothLaw, ___: SmoothLaw, height: float) -> bool:
        heights.append(height)
        return height - heights[-2] < _ENOUGH

    law = accelerated(law, partial(_step, events=events), close, _ROUNDS)
    return law, heights[-1]


def smooth_law(
    values: Floats,
    laws: Sequence[NormalLaw],
    chart: Chart,
    short: Weighted,
    full: Weighted,
    by: Floats,
    distinct: float,
    cross_correlation: float,
) -> SmoothLaw:
    """The smooth law of events with values `by` (E,) of a column, from laws at some values.

    `short` are a few samples of each event, near the law, and `full` all of them, by which its errors are
    known. The cross-correlation is its deviation.

    Raises:
        DataError: Where the samples of each event are too few.
    """
    hats = next((hats for few, hats in _HATS.items() if len(values) < few), _MOST_HATS)
    k, events = len(chart.bends), _Events(short, by)
    means = np.array([one.mean[0] for one in laws])
    own = np.repeat(np.mean([one.covariance for one in laws], axis=0), hats, axis=0)
    first = np.zeros((_SPLINES[0], k))
    law = SmoothLaw(
        chart.coordinates, chart.bends, values, first, own, cross_correlation, chart.images, np.empty(0)
    )
    best, reached = law, -np.inf
    for number in (number for number in _SPLINES if number <= len(values)):
        start = np.linalg.lstsq(_splines(values, number, law.ends), means, rcond=None)[0]
        law, height = _maximised(replace(law, coefficients=start), events)
        score = height - number * int((~law.bends).sum())  # H. Akaike's criterion
        if score < reached:
            break
        best, reached = law, score
    return _with_errors(best, _Events(full, by), distinct)


def _with_errors(law: SmoothLaw, events: _Events, distinct: float) -> SmoothLaw:
    """A law with the covariance of its numbers, from the scores of events, less the bias of their sums."""
    m, k = law.coefficients.shape
    size = m * k + law.covariance.shape[0] * k
    noise, bias, scores = np.zeros((size, size)), np.zeros(size), []
    for rows, z, base, true, log_share in events.blocks(law, each=max(1, size // 8)):
        each, away = _densities(law, z, true, log_share)
        density = logsumexp(each, axis=(2, 3))
        log_r = logsumexp(density + base, axis=1)
        shares = np.exp(density + base - log_r[:, None])
        slopes = _scores(law, np.exp(each - density[:, :, None, None]), away, true)
        is_true = truth(log_r, events.samples.p_true[rows])[1]
        scores.append(is_true[:, None] * np.einsum("en,enp->ep", shares, slopes))
        more = score_noise(slopes, shares, is_true, distinct)
        noise, bias = noise + more[0], bias + more[1]
    every = np.concatenate(scores)
    fisher = every.T @ every
    unit = np.sqrt(np.diagonal(fisher))
    unit = np.divide(1.0, unit, out=np.zeros_like(unit), where=unit > 0)
    covariance = np.linalg.pinv(fisher * unit * unit[:, None], hermitian=True) * unit * unit[:, None]
    MonteCarlo.of(covariance, noise, bias, events.samples.z.shape[1]).check()
    shift = -covariance @ bias
    scale = np.exp(shift[m * k :].reshape(-1, k))
    return replace(
        law,
        coefficients=law.coefficients + shift[: m * k].reshape(m, k),
        covariance=law.covariance * scale[:, None] * scale[:, :, None],
        error=covariance + covariance @ noise @ covariance,
    )


def _scores(law: SmoothLaw, member: Floats, away: list[Floats], true: Floats) -> Floats:
    """Derivatives (e, n, P) of the log density by coefficients and log deviations of each covariance."""
    inverse = np.linalg.inv(law.covariance)
    e, n, _, j = member.shape
    by_mean = np.zeros((e, n, *law.coefficients.shape))
    by_width = np.zeros((e, n, j, law.coefficients.shape[1]))
    for g, d in enumerate(away):
        splines = law.splines(true[:, g])
        for c in range(j):
            own = member[:, :, g, c, None]
            y = d @ inverse[c]
            mean = own * np.where(law.bends, 0.0, y)
            by_mean += splines[:, None, :, None] * mean[:, :, None]
            by_width[:, :, c] += own * (d * y - np.where(law.bends, 2.0, 1.0))
    return np.concatenate([by_mean.reshape(e, n, -1), by_width.reshape(e, n, -1)], axis=2)
