"""A run beside its prediction: what is compared of both, and one p-value for each observable."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import chdtrc, fdtr, fdtrc, stdtr

from flowcei.errors import UsageError
from flowcei.experiment.detector import NOISE_FLOOR, Noise, rms_component
from flowcei.experiment.likelihood import centred_momenta
from flowcei.physics.explosion import COULOMB, followed_momenta
from flowcei.posterior.arrays import RowArrays
from flowcei.units import ELECTRONVOLT

if TYPE_CHECKING:
    from flowcei.events.container import Events
    from flowcei.molecules.molecule import Molecule
    from flowcei.physics.forward import ForwardModel
    from flowcei.physics.priors import GeometryPrior
    from flowcei.posterior.arrays import Bools, Floats

AXES = "xyz"
MEANS = "all means"  # the observable that stands for the means of all shapes together
MOST_EVENTS = 20_000  # with more, differences too small to matter become significant
_ALL_PAIRS = 10  # ions: of larger molecules only angles between bonded ions are compared
_DITHER = 1e-4  # noise-free rigid molecules differ by rounding alone, which is no difference
_WHOLE = 1.0  # of the rms momentum component
_ACCURACY = 3e-6  # as of simulated events
_FAR = 5.0  # standard deviations of a sum: beyond are false coincidences, one true event in 600,000
_ODD = 10.0  # standard deviations of all shapes together, farther than which no event counts for the means
_CLIP = 4.0  # robust standard deviations of log KER, where a slope is fitted
_ROUNDING = 0.5  # of the noise that rounding may have, below which a sum counts as none
_CONSERVED = 0.01  # of the stated noise: sums that were made to vanish show no noise
_SMALL = 1e-2  # of the largest variance: directions of less are relations between observables, not physics
_NORMAL = 1.4826  # standard deviation over median absolute deviation, of a normal distribution


@dataclass(frozen=True, eq=False)
class Observables(RowArrays):
    """Numbers of B events that can be compared with a prediction: of their momenta alone."""

    ROWS = ("total", "shapes", "sigma", "axis_share", "least")

    # log KER (hartree), share of c (of the KER), cos(c, o) -> (B,); like ions are sorted by momentum
    shapes: dict[str, Floats]
    total: Floats  # sum of the momenta, (B, 3), hbar / bohr
    sigma: Floats  # stated noise of a component, (B,), hbar / bohr
    axis_share: Floats  # share of the KER along each lab axis, (B, 3)
    least: Floats  # noise that rounding may have, (B,), hbar / bohr

    @classmethod
    def of(cls, molecule: Molecule, momenta: Floats, sigma: Floats) -> Observables:
        """Return the observables of momenta (B, N, 3) with stated noise sigma (B,), hbar / bohr."""
        n, labels = len(molecule), molecule.labels
        p = _sorted(centred_momenta(momenta, molecule.masses), molecule.identical)
        energy = p**2 / (2.0 * molecule.masses[:, None])
        ker = energy.sum(axis=(1, 2))
        shapes = {"log KER": np.log(ker)}
        if n > 2:  # two ions share the energy by their masses, back to back
            share = energy.sum(axis=2) / ker[:, None]
            shapes |= {f"share of {label}": share[:, k] for k, label in enumerate(labels)}
            size = np.maximum(np.linalg.norm(p, axis=2), 1e-300)
            for i, j in combinations(range(n), 2) if n <= _ALL_PAIRS else molecule.bonds:
                cosine = np.einsum("bx,bx->b", p[:, i], p[:, j]) / (size[:, i] * size[:, j])
                shapes[f"cos({labels[i]}, {labels[j]})"] = cosine
        rng = np.random.default_rng(len(p))
        shapes = {name: values + _DITHER * rng.random(len(p)) for name, values in shapes.items()}
        least = NOISE_FLOOR * rms_component(momenta)
        axis_share = energy.sum(axis=1) / ker[:, None]
        return cls(shapes, momenta.sum(axis=1), np.maximum(sigma, least), axis_share, least)

    @property
    def log_ker(self) -> Floats:
        """Log of the KER in hartree, (B,)."""
        return self.shapes["log KER"]


def _sorted(p: Floats, identical: tuple[tuple[int, ...], ...]) -> Floats:
    """Return momenta with identical ions in the order of falling size: labels of a file are arbitrary."""
    p = p.copy()
    for group in map(list, identical):
        order = np.argsort(-np.linalg.norm(p[:, group], axis=2), axis=1, kind="stable")
        p[:, group] = np.take_along_axis(p[:, group], order[:, :, None], axis=1)
    return p


@dataclass(frozen=True, eq=False)
class RunNoise:
    """The detector noise of a run, as it is stated or measured."""

    levels: Floats  # of its events, (K,): shares of the rms momentum component, or hbar / bohr
    relative: bool  # which of the two
    axes: Floats  # noise along each lab axis over the level, (3,)
    stated: bool = True  # by somebody; else measured from the sums

    @classmethod
    def of(cls, events: Events, noise: str | Noise | None) -> RunNoise:
        """Return what `noise` says, else what the events say, else what their sums show.

        UsageError for a range of noise: the sums are judged by one level.
        """
        rms, ones, sigma = rms_component(events.momenta), np.ones(3), events.sigma
        if noise is not None:
            asked = Noise.parse(noise)
            if asked.low != asked.high:
                raise UsageError(f"noise {asked} is a range; the run is compared with one level")
            return cls(np.array([asked.low]), asked.relative, ones)
        # Noise larger than the momenta is nobody's statement of them: they are in another unit.
        if sigma is not None and np.median(share := sigma / rms) < _WHOLE:
            # Which of the two somebody had in mind: what varies less from event to event.
            relative = bool(np.std(share) * np.mean(sigma) <= np.std(sigma) * np.mean(share))
            return cls(share if relative else sigma, relative, ones)
        total = events.momenta.sum(axis=1)
        shares = np.abs(total - np.median(total, axis=0)) / (rms * np.sqrt(len(events.molecule)))[:, None]
        measured = _NORMAL * np.median(shares, axis=0)
        level = max(float(np.sqrt((measured**2).mean())), 1e-12)
        return cls(np.array([level]), True, measured / level, stated=False)

    @property
    def is_zero(self) -> bool:
        """Whether less noise than rounding is meant."""
        return self.relative and float(np.median(self.levels * self.axes.max())) < NOISE_FLOOR

    def sigma(self, momenta: Floats) -> Floats:
        """Return the level of measured events (B, N, 3) in hbar / bohr, (B,), one for each event."""
        unit = rms_component(momenta) if self.relative else 1.0
        return np.broadcast_to(self.levels, len(momenta)) * unit

    def apply(self, momenta: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Add noise of random levels of the run to momenta (B, N, 3): with the sigma (B,) to be stated."""
        level = rng.choice(self.levels, len(momenta))
        sigma = level * rms_component(momenta) if self.relative else level
        noisy = momenta + sigma[:, None, None] * rng.standard_normal(momenta.shape) * self.axes
        return noisy, level * rms_component(noisy) if self.relative else level

    def measured(self, ratio: Floats) -> RunNoise:
        """Return the noise whose size along each axis is `ratio` (3,) times this."""
        levels = np.array([NOISE_FLOOR]) if self.is_zero else self.levels
        return replace(self, levels=levels, axes=self.axes * ratio)


def predicted_momenta(
    molecule: Molecule,
    prior: GeometryPrior,
    n: int,
    rng: np.random.Generator,
    forward: ForwardModel = COULOMB,
) -> Floats:
    """Return noise-free momenta (about n, N, 3), hbar / bohr, of geometries drawn from a prior."""
    positions, motion = prior.sample_moving(n, rng)
    how = {"forward": forward, "initial_momenta": motion, "accuracy": _ACCURACY}
    momenta = followed_momenta(positions, molecule.masses, molecule.charges, **how)  # type: ignore[arg-type]
    return np.asarray(momenta[np.isfinite(momenta).all(axis=(1, 2))], dtype=np.float64)


@dataclass(frozen=True)
class Comparison:
    """One observable of a run beside its prediction."""

    observable: str  # such as KER or sum x: noise
    unit: str  # of measured and predicted
    measured: float  # median over the events, or the statistic itself
    predicted: float  # the same of the prediction
    p_value: float  # chance of so large a difference where both are the same
    effect: str  # how large the difference is, in words
    distance: float | None = None  # Kolmogorov-Smirnov distance, of distributions


@dataclass(frozen=True, eq=False)
class Sums:
    """What the momentum sums of a run say of drift and noise, without false coincidences."""

    good: Bools  # events with a sum like the others, (B,)
    mean: Floats  # of their sums, (3,), hbar / bohr
    error: Floats  # of the mean, (3,), hbar / bohr
    ratio: Floats  # standard deviation over the stated one, (3,)
    conserved: bool  # the sums vanish: no noise, or conservation was imposed

    @classmethod
    def of(cls, observables: Observables, ions: int) -> Sums:
        """Return what the sums of momenta of `ions` ions say."""
        z = observables.total / (observables.sigma * np.sqrt(ions))[:, None]
        deviation = np.abs(z - np.median(z, axis=0))
        # Where sums were made to vanish their scatter is rounding (of text with six digits 1e-6 of the
        # momenta): nothing is an outlier of that.
        limit = max(_CONSERVED, _ROUNDING * float(np.median(observables.least / observables.sigma)))
        good = (deviation <= np.maximum(_FAR * _NORMAL * np.median(deviation, axis=0), limit)).all(axis=1)
        total = observables.total[good]
        ratio = z[good].std(axis=0, ddof=1)
        error = total.std(axis=0) / np.sqrt(max(len(total), 2) - 1)
        return cls(good, total.mean(axis=0), error, ratio, bool(ratio.max() < limit))


def compare_shapes(run: Observables, predicted: Observables) -> list[Comparison]:
    """Compare KER, energy shares and angles, each by a two-sample KS test, and their means together."""
    from scipy.stats import ks_2samp  # a second, of every command, if it stood above

    out = []
    for name, values in predicted.shapes.items():
        test = ks_2samp(run.shapes[name], values, method="asymp")
        here, there = float(np.median(run.shapes[name])), float(np.median(values))
        observable, unit, effect = name, "", f"{here - there:+.3g}"
        if name == "log KER":
            observable, unit = "KER", "eV"
            here, there = float(np.exp(here)) / ELECTRONVOLT, float(np.exp(there)) / ELECTRONVOLT
            effect = f"{100.0 * (here / there - 1.0):+.3g} %"
        distance, p = float(test.statistic), float(test.pvalue)
        effect += f", distance {distance:.2f}"
        out.append(Comparison(observable, unit, here, there, p, effect, distance))
    # A mass that is wrong by a few per cent moves several of them a little, in a way in which they
    # do not vary by themselves: no single distribution shows that. Hotelling's test of two samples does.
    apart, dimensions = _separation(run, predicted)
    n, m = len(run.log_ker), len(predicted.log_ker)
    free = n + m - dimensions - 1
    p = float(fdtrc(dimensions, free, n * m / (n + m) * apart**2 * free / (dimensions * (n + m - 2))))
    return [*out, Comparison(MEANS, "deviations", apart, 0.0, p, f"{apart:.2g} standard deviations apart")]


def _separation(run: Observables, predicted: Observables) -> tuple[float, int]:
    """Return how far the means are apart, in standard deviations, and of how many directions."""
    # Shares sum to 1, and fix the angles of three ions.
    shares = [name for name in predicted.shapes if name.startswith("share")]
    others = [name for name in predicted.shapes if name not in shares]
    names = [*shares[:-1], *(others[:1] if len(shares) == 3 else others)]
    here, there = (np.stack([o.shapes[name] for name in names], axis=1) for o in (run, predicted))
    middle, unit = there.mean(axis=0), there.std(axis=0)
    variance, axes = np.linalg.eigh(np.atleast_2d(np.cov(there / unit, rowvar=False)))
    large = variance > _SMALL * variance.max()
    white = axes[:, large] / np.sqrt(variance[large])
    here, there = (_drawn_in((x - middle) / unit @ white) for x in (here, there))
    n, m = len(here), len(there)
    pooled = (np.cov(here, rowvar=False) * (n - 1) + np.cov(there, rowvar=False) * (m - 1)) / (n + m - 2)
    apart = here.mean(axis=0) - there.mean(axis=0)
    return float(np.sqrt(apart @ np.linalg.solve(np.atleast_2d(pooled), apart))), int(large.sum())


def _drawn_in(z: Floats) -> Floats:
    """Points (B, k), in standard deviations, those beyond `_ODD` drawn in: one odd event is no other run."""
    return np.asarray(z * np.minimum(1.0, _ODD / np.maximum(np.linalg.norm(z, axis=1), 1.0))[:, None])


def separations(run: Observables, predicted: Observables) -> tuple[float, float]:
    """Return the mean KS distance of the shapes, and the distance of their means in standard deviations."""
    # Not by SciPy: it takes ten times as long, for hundreds of alternatives with some ten shapes each.
    distances = []
    for name, other in predicted.shapes.items():
        here, there = np.sort(run.shapes[name]), np.sort(other)
        ends = np.concatenate([here, there])
        rise = np.searchsorted(here, ends, "right") / len(here)
        distances.append(np.abs(rise - np.searchsorted(there, ends, "right") / len(there)).max())
    return float(np.mean(distances)), _separation(run, predicted)[0]


def compare_lab(
    run: Observables, predicted: Observables, sums: Sums, ions: int, *, noise_stated: bool
) -> dict[str, Comparison]:
    """Compare momentum sums, with the stated noise if any, and the three lab axes of a run of `ions` ions."""
    out, count = [], int(sums.good.sum())
    for k, axis in enumerate(AXES) if not sums.conserved else ():
        deviation = float(sums.mean[k] / max(sums.error[k], 1e-300))
        p, effect = 2.0 * float(stdtr(count - 1, -abs(deviation))), f"{deviation:+.2g} standard errors"
        out.append(Comparison(f"sum {axis}: mean", "hbar/bohr", float(sums.mean[k]), 0.0, p, effect))
    if noise_stated and not sums.conserved:
        expected, noise = Sums.of(predicted, ions), np.median(run.sigma)
        # Noise below rounding is stated: then the sums may show as little.
        other = np.maximum(expected.ratio, 1.0) if expected.conserved else expected.ratio
        degrees = count - 1, int(expected.good.sum()) - 1
        for k, axis in enumerate(AXES):
            ratio = float(sums.ratio[k] / other[k])
            above, below = float(fdtrc(*degrees, ratio**2)), float(fdtr(*degrees, ratio**2))
            p = above if expected.conserved else 2.0 * min(above, below)
            sizes = float(sums.ratio[k] * noise), float(other[k] * noise)
            out.append(Comparison(f"sum {axis}: noise", "hbar/bohr", *sizes, p, f"{ratio:.3g} times"))
    run = run[sums.good]
    factors, difference, covariance = axis_factors(run, predicted)
    k = int(np.abs(np.log(factors)).argmax())
    p, effect = _equal(difference, covariance), f"{AXES[k]} is {factors[k]:.4g} times the other axes"
    # Of randomly oriented molecules the KER does not depend on the direction.
    out.append(Comparison("KER by direction", "", float(factors[k]), 1.0, p, effect))
    mean = run.axis_share.mean(axis=0)
    k = int(np.abs(mean - 1.0 / 3.0).argmax())
    p = _equal(mean, np.cov(run.axis_share, rowvar=False) / count)
    effect = f"share of the KER along {AXES[k]}"
    out.append(Comparison("directions", "", float(mean[k]), 1.0 / 3.0, p, effect))
    return {comparison.observable: comparison for comparison in out}


def axis_factors(run: Observables, predicted: Observables) -> tuple[Floats, Floats, Floats]:
    """Return factors of momenta along each axis over the two others, which are taken to agree.

    With the difference of the slopes that they follow from, (3,), and its covariance, (3, 3).
    """
    (slope, covariance), (other, more) = _slopes(run), _slopes(predicted)
    difference = slope - other
    # Of one axis f times too large the slopes are 2 log f and twice 0, less their mean: 4/3 log f.
    return np.exp(0.75 * (difference - difference.mean())), difference, covariance + more


def _slopes(observables: Observables) -> tuple[Floats, Floats]:
    """Return the slopes (3,) of log KER by the shares along the axes, and their covariance (3, 3)."""
    # d log KER / d log(scale of an axis) is twice the share of that axis.
    share, y = observables.axis_share, observables.log_ker - np.median(observables.log_ker)
    reach = _CLIP * _NORMAL * float(np.median(np.abs(y)))
    y = np.clip(y, -reach, reach)
    inverse = np.linalg.pinv(share.T @ share)
    slope = inverse @ (share.T @ y)
    variance = float(((y - share @ slope) ** 2).sum()) / max(len(y) - 3, 1)
    return slope, np.asarray(variance * inverse, np.float64)


def _equal(values: Floats, covariance: Floats) -> float:
    """Return the p-value of three numbers being equal."""
    contrast = np.array([[1.0, -1.0, 0.0], [1.0, 1.0, -2.0]])
    difference = contrast @ values
    inverse = np.linalg.pinv(contrast @ covariance @ contrast.T)
    return float(chdtrc(2, max(float(difference @ inverse @ difference), 0.0)))
