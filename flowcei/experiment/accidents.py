"""Accidents: events whose ions are of different molecules, told from true ones by a mixture of two densities.

p(y) = (1 - f) Z(y) + f A(y), with the share f of accidents. Z is what is known of true events: the evidence
of their momenta, or of their sum alone, that it is normal. A is that of ions which know nothing of each
other, measured on the file itself by event mixing (P. Rumetshofer et al., arXiv:1709.04456).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from flowcei.experiment.detector import NOISE_FLOOR, rms_component
from flowcei.experiment.likelihood import nonfinite_allowed

if TYPE_CHECKING:
    from flowcei.experiment.measurement import Measurement
    from flowcei.experiment.shots import Shots

    Floats = NDArray[np.float64]

P_TRUE = "p_true"
"""Extra column of samples: the probability that the ions of the event are of one molecule."""

ACCIDENT = 0.01
"""P(true) below which an event is flagged."""

COMPLETE, LACKING = "complete", "lacking an ion"
"""Kinds of events, which have a share of accidents each."""

FEWEST = 30
"""Events, of which a share is measured."""

VAGUE = 0.1
"""Error of the share beyond which sums and evidence do not tell accidents from true events."""


def counted_as_true(columns: Mapping[str, NDArray[Any]], count: int) -> NDArray[np.intp]:
    """Rows of `count` events, each kept with its P(true), if known: what is shown of them together.

    A single event is kept. Which are kept does not depend on chance: the same events give the same rows.
    """
    true = columns.get(P_TRUE)
    every = np.arange(count)
    if true is None or count == 1:
        return every
    kept = np.random.default_rng(0).random(count) < np.where(np.isnan(true), 1.0, true)
    return every[kept] if kept.any() else every


_HOPELESS = 40.0  # nats, by which an event is less probable than as an accident, whatever geometry is found
_MIXED = 20_000  # sums of ions of different events, at least
_BINS_A_WIDTH = 8  # of the kernel: the step of the table is then below 1 % of the density
_MOST_BINS = 4096
_STARTS = 0.02, 0.1, 0.5, 0.9  # quantiles of the distance of a sum from the median: starts of its width
_STARTED = 20_000  # events at most by which starts are judged
_STEPS, _ENOUGH = 2000, 1e-9  # of the search, and nats an event


class Isotropic:
    """Density of vectors of any direction, from the lengths (M,) of some: normal kernels in log length."""

    def __init__(self, lengths: Floats) -> None:
        from scipy.ndimage import gaussian_filter1d

        x = np.log(np.maximum(lengths, 1e-300))
        low, high = np.quantile(x, (0.25, 0.75))
        # Silverman's rule, which a few outliers do not widen.
        spread = min(float(x.std()), (high - low) / 1.34) or float(x.std()) or 1e-3
        width = 0.9 * spread * len(x) ** -0.2
        first, last = x.min() - 6.0 * width, x.max() + 6.0 * width
        count = int(np.clip(_BINS_A_WIDTH * (last - first) / width, 16, _MOST_BINS))
        step = (last - first) / count
        counts = np.histogram(x, count, (first, last))[0] / (len(x) * step)
        self._at = first + step * (np.arange(count) + 0.5)
        # The least is that of a length far from all others: nothing is impossible for an accident.
        self._log = np.log(gaussian_filter1d(counts, width / step, mode="constant") + 1e-12 / len(x))

    def log_prob(self, lengths: Floats) -> Floats:
        """Log density of vectors with these lengths, per volume."""
        x = np.log(np.maximum(lengths, 1e-300))
        return np.asarray(np.interp(x, self._at, self._log) - 3.0 * x - np.log(4.0 * np.pi))


@dataclass(frozen=True, eq=False)
class Mixture:
    """True and accidental events, and K numbers t (E, K) that of true events are normal.

    They have the mean m and the variance base + slope theta, (E, K) each; m and theta (K,) are found.
    """

    log_true: Floats  # log density of true events but for t, (E,)
    log_accident: Floats  # of accidents, (E,)
    t: Floats
    base: Floats
    slope: Floats
    mean: Floats  # m
    theta: Floats
    share: float = 0.5  # f

    @classmethod
    def fitted(
        cls, log_true: Floats, log_accident: Floats, t: Floats, base: Floats, slope: Floats
    ) -> Mixture:
        """The most likely one, by expectation and maximisation from a few widths of t."""
        middle, ends, thin = np.median(t, axis=0), list[Mixture](), slice(None, None, 1 + len(t) // _STARTED)
        for quantile in _STARTS if t.size else _STARTS[:1]:
            width = np.quantile(np.abs(t - middle), quantile, axis=0) if t.size else middle
            theta = np.maximum((width**2 - base.mean(axis=0)) / slope.mean(axis=0), 1e-6)
            some = [array[thin] for array in (log_true, log_accident, t, base, slope)]
            ends.append(_searched(cls(*some, mean=middle, theta=theta)))  # type: ignore[misc, arg-type]
        best = max(ends, key=lambda end: end.log_likelihood)
        if thin.step == 1:
            return best
        every = cls(log_true, log_accident, t, base, slope, best.mean, best.theta, best.share)
        return _searched(every)

    @property
    def variance(self) -> Floats:
        """Variance of t of true events, (E, K)."""
        return np.maximum(self.base + self.slope * self.theta, 1e-12 * (self.base + self.slope))

    @property
    @nonfinite_allowed
    def logs(self) -> tuple[Floats, Floats]:
        """Logs (E,) of (1 - f) times the density of true events, and of f times that of accidents."""
        variance = self.variance
        normal = -0.5 * ((self.t - self.mean) ** 2 / variance + np.log(2.0 * np.pi * variance)).sum(axis=1)
        true = np.nan_to_num(self.log_true + normal, nan=-np.inf, neginf=-np.inf)
        return np.log1p(-self.share) + true, np.log(self.share) + self.log_accident

    @property
    @nonfinite_allowed
    def p_true(self) -> Floats:
        """Probability of each event (E,) to be true."""
        true, accident = self.logs
        return np.asarray(1.0 / (1.0 + np.exp(np.clip(accident - true, -700.0, 700.0))))

    @property
    def log_likelihood(self) -> float:
        """Of all events."""
        return float(np.logaddexp(*self.logs).sum())

    @property
    def share_error(self) -> float:
        """Standard error of f."""
        return float(np.sqrt(self.covariance()[-1, -1]))

    def covariance(self) -> Floats:
        """Of m, theta and f, (2K + 1, 2K + 1), by the information of the events: products of scores."""
        true, away = self.p_true, (self.t - self.mean) / self.variance
        by_theta = 0.5 * self.slope * (away**2 - 1.0 / self.variance)
        by_share = (1.0 - true) / self.share - true / (1.0 - self.share)
        scores = np.concatenate([true[:, None] * away, true[:, None] * by_theta, by_share[:, None]], axis=1)
        information = scores.T @ scores
        information[-1, -1] += 0.5 / self.share**2 + 0.5 / (1.0 - self.share) ** 2
        unit = 1.0 / np.sqrt(np.maximum(np.diagonal(information), 1e-300))
        unit = unit * unit[:, None]
        return np.asarray(np.linalg.pinv(information * unit, hermitian=True) * unit)


def _searched(one: Mixture) -> Mixture:
    """The nearest maximum of the likelihood."""
    before = -np.inf
    for _ in range(_STEPS):
        one = _step(one)
        if abs((now := one.log_likelihood) - before) < _ENOUGH * len(one.t):
            break
        before = now
    return one


def _step(one: Mixture) -> Mixture:
    """A step of expectation and maximisation; of Fisher's scoring in theta."""
    true, variance = one.p_true, one.variance
    # Half an event of each kind more: a share is never 0 or 1, and has an error.
    share = (float((1.0 - true).sum()) + 0.5) / (len(true) + 1.0)
    weight = true[:, None] / variance
    mean = (weight * one.t).sum(axis=0) / np.maximum(weight.sum(axis=0), 1e-300)
    excess = ((one.t - mean) ** 2 - variance) / variance
    curvature = np.maximum((weight * one.slope**2 / variance).sum(axis=0), 1e-300)
    theta = one.theta + (weight * one.slope * excess).sum(axis=0) / curvature
    if one.t.size:  # below it the variance of an event would be 0
        theta = np.maximum(theta, -0.9 * (one.base / one.slope).min(axis=0))
    return replace(one, share=share, mean=mean, theta=theta)


def tell_accidents(
    log_evidence: Floats, momenta: Floats, measurement: Measurement, lost: NDArray[np.bool_]
) -> Mixture:
    """True and accidental events by their evidence (E,) and calibrated momenta (E, N, 3), hbar / bohr.

    The evidence is a density of all momenta on axes where the spread of the source is known, of centred ones
    on others (`CovarianceLikelihood.log_prob`). There the sum t of momenta is taken beside it (y = q + u t
    has the volume dq dt), normal, by the noise and by the spread of the source, which is found with f. An ion
    of `lost` (E, N) has no momentum. Hits may be those of other ions, by any assignment alike.
    """
    log_accident = log_accidental(momenta, measurement, lost)
    unknown = np.isinf(measurement.spread)
    noise = replace(measurement, spread=np.zeros(3)).width(momenta)[:, unknown] ** 2
    sums = momenta.sum(axis=1)[:, unknown]
    return Mixture.fitted(log_evidence, log_accident, sums, noise, np.ones_like(noise))


def log_accidental(momenta: Floats, measurement: Measurement, lost: NDArray[np.bool_]) -> Floats:
    """Log density (E,) of calibrated momenta (E, N, 3) of ions that know nothing of each other."""
    each = np.linalg.norm(measurement.assigned(momenta), axis=3)  # the first as they stand
    logs = np.zeros(each.shape[:2])
    for ion in range(momenta.shape[1]):
        there = ~lost[:, ion]
        if there.any():
            density = Isotropic(each[0, there, ion])
            logs[:, there] += density.log_prob(each[:, there, ion])
    return np.asarray(logsumexp(logs, axis=0) - np.log(len(logs)))


def least_of_true(momenta: Floats, measurement: Measurement, lost: NDArray[np.bool_]) -> Floats | None:
    """Log posterior (E,), not normalised, that no geometry of an accident reaches; None of too few events.

    The evidence is at most the highest posterior times its volume, here 1 bohr^(3N - 3), a thousand times and
    more what it is; where the source is unknown the density of the sum, at its mean, comes with it.
    """
    if not measurement.accidents or len(momenta) < FEWEST:
        return None
    noise = replace(measurement, spread=np.zeros(3)).width(momenta)
    of_sum = np.where(np.isinf(measurement.spread), 0.5 * np.log(2.0 * np.pi * noise**2), 0.0).sum(axis=1)
    return np.asarray(log_accidental(momenta, measurement, lost) + of_sum - _HOPELESS)


def tell_by_sums(momenta: Floats, base: Floats, slope: Floats) -> Mixture:
    """True and accidental events by the sums of momenta (E, N, 3) alone, of variance base + slope theta.

    Sums of accidents have any direction about the drift: those of ions of different events.
    """
    sums, none = momenta.sum(axis=1), np.zeros(len(momenta))
    # Sums that were rounded or made to vanish have no density: at no less than this width they have one.
    base = base + (NOISE_FLOOR * float(np.median(rms_component(momenta)))) ** 2
    mixed, centre = mixed_sums(momenta), np.median(sums, axis=0)
    for _ in range(2):  # about a first drift, and about that of the true ones
        density = Isotropic(np.linalg.norm(mixed - centre, axis=1))
        accident = density.log_prob(np.linalg.norm(sums - centre, axis=1))
        mixture = Mixture.fitted(none, accident, sums, base, slope)
        centre = mixture.mean
    return mixture


def mixed_sums(momenta: Floats, shots: Shots | None = None, seed: int = 0) -> Floats:
    """Sums (M, 3) of the momenta of ions of as many different events of (E, N, 3), or of those of a shot."""
    count, ions = momenta.shape[:2]
    rng, times = np.random.default_rng(seed), max(1, _MIXED // count)
    if shots is None:
        shifts = rng.integers(1, max(2, count // ions), times)
        moved = [sum(np.roll(momenta[:, k], k * shift, axis=0) for k in range(ions)) for shift in shifts]
        return np.concatenate(moved)
    molecule, ion = shots.mixed(np.zeros((count * times, ions), bool), rng)
    apart = molecule * rng.integers(1, max(2, count // ions))
    return np.asarray(momenta[(np.arange(count * times)[:, None] + 1 + apart) % count, ion].sum(axis=1))
