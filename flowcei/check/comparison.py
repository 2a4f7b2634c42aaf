"""A run beside its prediction: one p-value for each observable."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import chi2, f, ks_2samp, t

from flowcei.units import ELECTRONVOLT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowcei.check.observables import Observables

AXES = "xyz"

MEANS = "all means"
"""The observable that stands for the means of all shapes together."""

_FAR = 5.0  # standard deviations of a sum: beyond are false coincidences, one true event in 600,000
_CLIP = 4.0  # robust standard deviations of log KER, where a slope is fitted
_ROUNDING = 0.5  # of the noise that rounding may have, below which a sum counts as none
_CONSERVED = 0.01  # of the stated noise: sums that were made to vanish show no noise
_SMALL = 1e-2  # of the largest variance: directions of less are relations between observables, not physics
_NORMAL = 1.4826  # standard deviation over median absolute deviation, of a normal distribution


@dataclass(frozen=True)
class Comparison:
    """One observable of a run beside its prediction.

    Attributes:
        observable: Such as ``KER`` or ``sum x: noise``.
        unit: Of `measured` and `predicted`.
        measured: Median over the events, or the statistic itself.
        predicted: The same of the prediction.
        p_value: How probable so large a difference is where both are the same.
        effect: How large the difference is, in words.
        distance: Kolmogorov-Smirnov distance, of distributions; else NaN.
    """

    observable: str
    unit: str
    measured: float
    predicted: float
    p_value: float
    effect: str
    distance: float = float("nan")

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and text."""
        table = asdict(self)
        return table | {"distance": None if np.isnan(self.distance) else self.distance}


@dataclass(frozen=True, eq=False)
class Sums:
    """What the momentum sums of a run say of drift and noise, without false coincidences."""

    good: NDArray[np.bool_]  # events with a sum like the others, (B,)
    mean: NDArray[np.float64]  # of their sums, (3,), hbar / bohr
    error: NDArray[np.float64]  # of the mean, (3,), hbar / bohr
    ratio: NDArray[np.float64]  # standard deviation over the stated one, (3,)
    conserved: bool  # the sums vanish: no noise, or conservation was imposed


def sums_of(observables: Observables, ions: int) -> Sums:
    """Return what the sums of momenta of `ions` ions say."""
    z = observables.total / (observables.sigma * np.sqrt(ions))[:, None]
    away = np.abs(z - np.median(z, axis=0))
    # Where sums were made to vanish their scatter is rounding (of text with six digits 1e-6 of the
    # momenta): nothing is an outlier of that.
    limit = max(_CONSERVED, _ROUNDING * float(np.median(observables.least / observables.sigma)))
    good = (away <= np.maximum(_FAR * _NORMAL * np.median(away, axis=0), limit)).all(axis=1)
    total = observables.total[good]
    count = max(len(total), 2)
    ratio = z[good].std(axis=0, ddof=1)
    error = total.std(axis=0) / np.sqrt(count - 1)
    return Sums(good, total.mean(axis=0), error, ratio, bool(ratio.max() < limit))


def compare_shapes(run: Observables, predicted: Observables, good: NDArray[np.bool_]) -> list[Comparison]:
    """Compare KER, energy shares and angles of the good (B,) events, each by a two-sample KS test."""
    out = [_distributions(name, run.shapes[name][good], other) for name, other in predicted.shapes.items()]
    return [*out, _means(run, predicted, good)]


def _distributions(name: str, run: NDArray[np.float64], other: NDArray[np.float64]) -> Comparison:
    test = ks_2samp(run, other, method="asymp")
    distance, p = float(test.statistic), float(test.pvalue)
    here, there = float(np.median(run)), float(np.median(other))
    if name != "log KER":
        return Comparison(name, "", here, there, p, f"{here - there:+.3g}, distance {distance:.2f}", distance)
    here, there = (float(np.exp(value)) / ELECTRONVOLT for value in (here, there))
    effect = f"{100.0 * (here / there - 1.0):+.3g} %, distance {distance:.2f}"
    return Comparison("KER", "eV", here, there, p, effect, distance)


def _means(run: Observables, predicted: Observables, good: NDArray[np.bool_]) -> Comparison:
    """Compare the means of all shapes together, by Hotelling's test of two samples."""
    # A mass that is wrong by a few per cent moves several of them a little, in a way in which they
    # do not vary by themselves: no single distribution shows that.
    apart, dimensions = _separation(run, predicted, good)
    n, m = int(good.sum()), len(predicted.log_ker)
    free = n + m - dimensions - 1
    statistic = n * m / (n + m) * apart**2 * free / (dimensions * (n + m - 2))
    p = float(f.sf(statistic, dimensions, free))
    return Comparison(MEANS, "deviations", apart, 0.0, p, f"{apart:.2g} standard deviations apart")


def _separation(run: Observables, predicted: Observables, good: NDArray[np.bool_]) -> tuple[float, int]:
    """Return how far the means are apart, in standard deviations, and of how many directions."""
    names = _independent(predicted)
    here = np.stack([run.shapes[name][good] for name in names], axis=1)
    there = np.stack([predicted.shapes[name] for name in names], axis=1)
    unit = there.std(axis=0)
    here, there = here / unit, there / unit
    n, m = len(here), len(there)
    pooled = (np.cov(here, rowvar=False) * (n - 1) + np.cov(there, rowvar=False) * (m - 1)) / (n + m - 2)
    variance, axes = np.linalg.eigh(np.atleast_2d(pooled))
    axes = axes[:, large := variance > _SMALL * variance.max()]
    apart = (here.mean(axis=0) - there.mean(axis=0)) @ axes / np.sqrt(variance[large])
    return float(np.sqrt((apart**2).sum())), int(large.sum())


def _independent(observables: Observables) -> list[str]:
    """Return names of shapes that do not follow from others: shares sum to 1, and fix three angles."""
    shares = [name for name in observables.shapes if name.startswith("share")]
    rest = [name for name in observables.shapes if name not in shares]
    return [*shares[:-1], *(rest if len(shares) != 3 else rest[:1])]


def separations(run: Observables, predicted: Observables) -> tuple[float, float]:
    """Return the mean KS distance of the shapes, and the distance of their means in standard deviations."""
    distances = []
    for name, other in predicted.shapes.items():
        here, there = np.sort(run.shapes[name]), np.sort(other)
        every = np.concatenate([here, there])
        rise = np.searchsorted(here, every, "right") / len(here)
        distances.append(np.abs(rise - np.searchsorted(there, every, "right") / len(there)).max())
    everything = np.ones(len(run.log_ker), dtype=bool)
    return float(np.mean(distances)), _separation(run, predicted, everything)[0]


def compare_lab(
    run: Observables, predicted: Observables, sums: Sums, ions: int, *, noise_stated: bool
) -> list[Comparison]:
    """Compare momentum sums, with the stated noise if any, and the three lab axes of a run of `ions` ions."""
    out = []
    count = int(sums.good.sum())
    if not sums.conserved:
        for k, axis in enumerate(AXES):
            p = 2.0 * float(t.sf(abs(sums.mean[k]) / max(sums.error[k], 1e-300), count - 1))
            effect = f"{sums.mean[k] / max(sums.error[k], 1e-300):+.2g} standard errors"
            out.append(Comparison(f"sum {axis}: mean", "hbar/bohr", float(sums.mean[k]), 0.0, p, effect))
    if noise_stated and not sums.conserved:
        expected = sums_of(predicted, ions)
        noise = np.median(run.sigma)
        for k, axis in enumerate(AXES):
            # Noise below rounding is stated: then the sums may show as little.
            other = max(float(expected.ratio[k]), 1.0) if expected.conserved else float(expected.ratio[k])
            ratio = float(sums.ratio[k]) / other
            p = _variances(ratio**2, count, int(expected.good.sum()), one_sided=expected.conserved)
            values = float(sums.ratio[k] * noise), other * noise
            out.append(Comparison(f"sum {axis}: noise", "hbar/bohr", *values, p, f"{ratio:.3g} times"))
    return [*out, *_directions(run, predicted, sums.good)]


def _variances(ratio: float, n: int, m: int, *, one_sided: bool) -> float:
    """Return the p-value of a ratio of the variances of n and m normal numbers."""
    above = float(f.sf(ratio, n - 1, m - 1))
    return above if one_sided else 2.0 * min(above, 1.0 - above, float(f.cdf(ratio, n - 1, m - 1)))


def _directions(run: Observables, predicted: Observables, good: NDArray[np.bool_]) -> list[Comparison]:
    """Compare KER by direction, which a scale of one axis changes, and the directions themselves."""
    slope, covariance = _slopes(run, good)
    other, more = _slopes(predicted, np.ones(len(predicted.log_ker), dtype=bool))
    factors = axis_factors(run, predicted, good)
    k = int(np.abs(np.log(factors)).argmax())
    p = _contrast(slope - other, covariance + more)
    effect = f"{AXES[k]} is {factors[k]:.4g} times the other axes"
    # Of randomly oriented molecules the KER does not depend on the direction.
    out = [Comparison("KER by direction", "", float(factors[k]), 1.0, p, effect)]
    share = run.axis_share[good]
    mean = share.mean(axis=0)
    p = _contrast(mean - 1.0 / 3.0, np.cov(share, rowvar=False) / len(share))
    k = int(np.abs(mean - 1.0 / 3.0).argmax())
    effect = f"share of the KER along {AXES[k]}"
    return [*out, Comparison("directions", "", float(mean[k]), 1.0 / 3.0, p, effect)]


def axis_factors(run: Observables, predicted: Observables, good: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the factors (3,) of momenta along each axis over the two others, which are taken to agree."""
    difference = _slopes(run, good)[0] - _slopes(predicted, np.ones(len(predicted.log_ker), dtype=bool))[0]
    # Of one axis f times too large the slopes are 2 log f and twice 0, less their mean: 4/3 log f.
    out: NDArray[np.float64] = np.exp(0.75 * (difference - difference.mean()))
    return out


def _slopes(
    observables: Observables, good: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the slopes (3,) of log KER by the shares along the axes, and their covariance (3, 3)."""
    # d log KER / d log(scale of an axis) is twice the share of that axis.
    y, share = observables.log_ker[good], observables.axis_share[good]
    middle = np.median(y)
    reach = _CLIP * _NORMAL * float(np.median(np.abs(y - middle)))
    y = np.clip(y - middle, -reach, reach)
    inverse = np.asarray(np.linalg.pinv(share.T @ share), dtype=np.float64)
    slope: NDArray[np.float64] = inverse @ (share.T @ y)
    variance = float(((y - share @ slope) ** 2).sum()) / max(len(y) - 3, 1)
    return slope, variance * inverse


def _contrast(values: NDArray[np.float64], covariance: NDArray[np.float64]) -> float:
    """Return the p-value of three numbers being equal."""
    contrast = np.array([[1.0, -1.0, 0.0], [1.0, 1.0, -2.0]])
    difference = contrast @ values
    inverse = np.linalg.pinv(contrast @ covariance @ contrast.T)
    return float(chi2.sf(max(float(difference @ inverse @ difference), 0.0), 2))
