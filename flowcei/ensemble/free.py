"""A law without a form: the distribution of one or two coordinates, as smooth as held-out events ask for.

The law is a sum of normal kernels of one width on a grid, whose shares are those of greatest likelihood of
all events (B. Lindsay, Ann. Statist. 11, 86 (1983)). A narrow kernel follows the chance of the events at
hand, a wide one hides what they show: the width is that under which events that were left out are likeliest.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from flowcei.ensemble.fitting import truth
from flowcei.ensemble.prediction import check_ungated, compared
from flowcei.ensemble.result import LEVEL, EnsembleLaw
from flowcei.ensemble.uncertainty import draws
from flowcei.errors import DataError, UsageError

if TYPE_CHECKING:
    from flowcei.check.run import RunCheck
    from flowcei.ensemble.coordinates import Coordinate
    from flowcei.ensemble.reduction import Ensemble
    from flowcei.molecules.molecule import Molecule
    from flowcei.posterior.arrays import Bools, Floats, Reals, Rows
    from flowcei.workers.order import Each

FEWEST = 100
"""Events, of which a law without a form is taken."""

_BINS = {1: 240, 2: 36}  # of a coordinate, by their number
_KERNELS = (2.0, 2.8, 4.0, 5.7, 8.0, 11.3, 16.0, 22.6)  # widths that are tried, bins
_FOLDS = 4  # of the events, for the width
_STEPS, _ENOUGH = 400, 1e-6  # of the search, and the gain of log likelihood an event that ends it
_BLOCK = 200_000  # samples that are looked at together
_VARIANCE = 0.1  # of the log likelihood of an event, on average, by its samples
_EDGE = 0.02  # share of a law that may lie beyond the prior


@dataclass(frozen=True, eq=False, repr=False)
class FreeLaw(EnsembleLaw):
    """The distribution of one or two coordinates over E events.

    Attributes:
        molecule: Whose geometries these are.
        coordinates: Of what, one or two.
        axes: Middles of the bins of each coordinate, bohr or degrees.
        density: Per bin volume, of the shape of the axes.
        error: Standard errors of the density, over events drawn with replacement.
        raw: The density of the samples pooled under the prior.
        widths: Of the kernel, in each coordinate.
        densities: Those of events drawn with replacement, (B, ...).
    """

    kind = "free"
    molecule: Molecule
    coordinates: tuple[Coordinate, ...]
    axes: tuple[Floats, ...]
    density: Floats
    raw: Floats
    widths: Floats
    densities: Floats
    events: int
    samples: int
    log_likelihood: float
    left_out: dict[str, int]
    check: RunCheck | None = None

    def __repr__(self) -> str:
        names = " and ".join(one.name for one in self.coordinates)
        return f"FreeLaw: distribution of {names} of {self.molecule.name}, {self.events} events"

    @property
    def error(self) -> Floats:
        """Standard errors of the density."""
        return np.asarray(self.densities.std(axis=0))

    def marginal(self, k: int, density: Floats | None = None) -> Floats:
        """The density of coordinate k alone, (bins,), or that of densities (..., bins, bins) of this grid."""
        values = self.density if density is None else density
        if len(self.axes) == 1:
            return values
        other = 1 - k
        return np.asarray(values.sum(axis=other - 2) * (self.axes[other][1] - self.axes[other][0]))

    def to_dataframe(self) -> pd.DataFrame:
        """Return a row a coordinate: mean and width of the pooled samples and of the law, with errors."""
        rows = []
        for k, one in enumerate(self.coordinates):
            raw, law = (_moments(self.axes[k], self.marginal(k, d)) for d in (self.raw, self.density))
            drawn = np.array(_moments(self.axes[k], self.marginal(k, self.densities)))
            error = drawn.std(axis=1)
            row: dict[str, Any] = {
                "quantity": one.name,
                "unit": one.unit,
                "raw_mean": raw[0],
                "raw_sd": raw[1],
            }
            row |= {"mean": law[0], "mean_error": error[0], "sd": law[1], "sd_error": error[1]}
            row |= {"sd_p05": law[1] - LEVEL * error[1], "sd_p95": law[1] + LEVEL * error[1]}
            rows.append(row | {"smoothed": self.widths[k]})
        return pd.DataFrame(rows)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return `density`, `error`, `raw` and the axes."""
        arrays = {"density": self.density, "error": self.error, "raw": self.raw}
        named = zip(self.coordinates, self.axes, strict=True)
        return arrays | {f"axis-{one.name}": axis for one, axis in named}

    def plot(self, kind: str = "unfolded", unit: str = "angstrom") -> Any:  # noqa: ANN401 (matplotlib)
        """Return a figure of the law beside the pooled samples: see `flowcei.plot.population`."""
        return import_module("flowcei.plot.population").free_figure(self, kind, unit)


@dataclass(frozen=True, eq=False)
class _Binned:
    """A density (bins,) of one or two coordinates on a grid with equal steps, about the middles of bins."""

    axes: tuple[Floats, ...]
    density: Floats

    @property
    def _steps(self) -> Floats:
        return np.array([axis[1] - axis[0] for axis in self.axes])

    def sample(self, n: int, rng: np.random.Generator) -> Floats:
        """Draw n points, (n, K)."""
        rows = rng.choice(len(self.density), n, p=self.density / self.density.sum())
        places = np.unravel_index(rows, [len(axis) for axis in self.axes])
        middle = np.stack([axis[place] for axis, place in zip(self.axes, places, strict=True)], axis=1)
        return np.asarray(middle + self._steps * (rng.random(middle.shape) - 0.5))

    def log_prob(self, z: Floats) -> Floats:
        """Log density (B,) of points (B, K)."""
        first, bins = np.array([axis[0] for axis in self.axes]), [len(axis) for axis in self.axes]
        places = np.rint((z - first) / self._steps).astype(np.intp)
        inside = ((places >= 0) & (places < bins)).all(axis=1)
        flat = np.ravel_multi_index(tuple(np.where(inside[:, None], places, 0).T), bins)
        return np.log(np.where(inside, np.maximum(self.density[flat], 1e-300), 1e-300))


def free_law(
    ensemble: Ensemble, bootstrap: int, seed: int, *, check: bool = True, each: Each = map
) -> FreeLaw:
    """The distribution of one or two coordinates; DataError where the samples do not tell it."""
    check_ungated(ensemble)
    count, k = len(ensemble.z), len(ensemble.chart.coordinates)
    if k not in _BINS:
        names = ", ".join(one.name for one in ensemble.chart.coordinates)
        raise UsageError(f"a law without a form is of one or two coordinates: name them (there are {names})")
    if count < FEWEST:
        raise DataError(f"{count} events are too few for a law without a form: {FEWEST} are needed")
    axes, bins = _grid(ensemble.z.reshape(-1, k), ensemble.weights.ravel() > 0.0, _BINS[k])
    steps = np.array([axis[1] - axis[0] for axis in axes])
    volume, shape, rng = float(np.prod(steps)), tuple(map(len, axes)), np.random.default_rng(seed)
    base = np.exp(ensemble.log_weight.astype(np.float64) - ensemble.log_prior)
    sums = _histograms(bins.reshape(count, -1), base, int(np.prod(shape))) / volume
    true, tried = ensemble.p_true, _KERNELS[:: 1 if k == 1 else 2]
    fold = rng.permutation(count) % _FOLDS
    width = max(tried, key=lambda width: _held_out(sums @ _kernels(shape, width), true, fold))
    kernels = _kernels(shape, width)
    heights = sums @ kernels
    share = _shares(heights, true, np.ones(count))
    density = kernels @ share / volume
    law = _Binned(axes, density)
    _check(ensemble, law, bins.reshape(count, -1), width, rng)
    start = 0.5 * share + 0.5 / len(share)  # a share that is 0 would stay so
    again = each(partial(_shares, heights, true, start=start), draws(count, bootstrap, rng))
    drawn = [kernels @ one / volume for one in again]
    raw = np.bincount(bins, ensemble.weights.ravel(), int(np.prod(shape)))
    # Angles rise where bends fall.
    flip = tuple(slice(None, None, -1 if bend else 1) for bend in ensemble.chart.bends)
    shown = zip(axes, ensemble.chart.bends, flip, strict=True)
    return FreeLaw(
        ensemble.molecule,
        ensemble.chart.coordinates,
        tuple((180.0 - axis if bend else axis)[way] for axis, bend, way in shown),
        density.reshape(shape)[flip],
        (raw / raw.sum() / volume).reshape(shape)[flip],
        width * steps,
        np.array(drawn or [density]).reshape(-1, *shape)[(slice(None), *flip)],
        count,
        ensemble.z.shape[1],
        float(_log_likelihood(heights @ share, true).sum()),
        ensemble.left_out,
        compared(ensemble, partial(ensemble.chart.geometries, law), seed) if check else None,
    )


def _moments(axis: Floats, density: Floats) -> tuple[Floats, Floats]:
    """Mean and deviation of densities (..., bins)."""
    weight = density / density.sum(axis=-1, keepdims=True)
    mean = weight @ axis
    return mean, np.sqrt(np.maximum(weight @ axis**2 - mean**2, 0.0))


def _grid(z: Reals, there: Bools, bins: int) -> tuple[tuple[Floats, ...], Rows]:
    """Middles of the bins of each coordinate of points (B, K) that are there, (B,); the bin of each, (B,)."""
    axes: list[Floats] = []
    places = np.zeros(len(z), dtype=np.intp)
    for column in z.T:
        low, high = float(column[there].min()), float(column[there].max())
        step = max((high - low) / bins, 1e-9)
        axes.append(np.asarray(low + step * (np.arange(bins) + 0.5), dtype=np.float64))
        places = places * bins + np.clip(((column - low) / step).astype(np.intp), 0, bins - 1)
    return tuple(axes), places


def _histograms(places: Rows, weights: Floats, bins: int) -> Floats:
    """Sums (E, bins) of the weights (E, n) of each event by bin."""
    count = len(places)
    flat = places + bins * np.arange(count)[:, None]
    return np.bincount(flat.ravel(), weights.ravel(), count * bins).reshape(count, bins).astype(np.float64)


def _kernels(shape: tuple[int, ...], width: float) -> Floats:
    """Normal kernels of a width in bins, on a grid as wide, (bins, kernels), each with the sum 1."""
    out = np.ones((1, 1))
    for bins in shape:
        centres = np.linspace(0.0, bins - 1.0, max(2, int(np.ceil(bins / width)) + 1))
        one = np.exp(-0.5 * ((np.arange(bins)[:, None] - centres) / width) ** 2)
        out = np.kron(out, one / one.sum(axis=0))
    return out


def _held_out(each: Floats, p_true: Floats, fold: Rows) -> float:
    """Log likelihood of events (E, G) under the shares of those of other folds (E,)."""
    total = 0.0
    for number in range(_FOLDS):
        own, held = fold != number, fold == number
        share = _shares(each[own], p_true[own], np.ones(int(own.sum())))
        total += float(_log_likelihood(each[held] @ share, p_true[held]).sum())
    return total


def _shares(each: Floats, p_true: Floats, count: Floats, start: Floats | None = None) -> Floats:
    """Shares (G,) of kernels of greatest likelihood of events (E, G) that count so many times (E,)."""
    share = np.full(each.shape[1], 1.0 / each.shape[1]) if start is None else start
    before = -np.inf
    for step in range(_STEPS):
        joint = p_true * (each @ share)
        total = np.maximum(joint + 1.0 - p_true, 1e-300)
        share = share * (each.T @ (count * p_true / total))
        share /= share.sum()
        if step % 10 == 9:
            now = float(count @ np.log(total))
            if now - before < _ENOUGH * len(each):
                break
            before = now
    return np.asarray(share)


def _log_likelihood(ratio: Floats, p_true: Floats) -> Floats:
    """Of events (E,), from the mean of law over prior."""
    return truth(np.log(np.maximum(ratio, 1e-300)), p_true)[0]


def _check(
    ensemble: Ensemble,
    law: _Binned,
    places: Rows,
    width: float,
    rng: np.random.Generator,
) -> None:
    """Raise DataError where samples are too few, or the law reaches beyond the prior."""
    variance, step = 0.0, max(1, _BLOCK // places.shape[1])
    for first in range(0, len(places), step):
        rows = slice(first, first + step)
        base = ensemble.log_weight[rows].astype(np.float64) - ensemble.log_prior[rows]
        share = np.exp(base) * law.density[places[rows]]
        share /= np.maximum(share.sum(axis=1, keepdims=True), 1e-300)
        variance += float(((share**2).sum(axis=1) / ensemble.distinct - 1.0 / share.shape[1]).sum())
    if (variance := variance / len(places)) > _VARIANCE:
        wanted = int(np.ceil(places.shape[1] * variance / _VARIANCE / 100.0) * 100)
        what = f"{places.shape[1]} samples an event are too few for a law without a form"
        raise DataError(f"{what}: sample with -n {wanted} or more, or under a prior nearer to the law")
    z = law.sample(5000, rng)
    z += width * np.array([axis[1] - axis[0] for axis in law.axes]) * rng.standard_normal(z.shape)
    z = np.where(ensemble.chart.bends, np.abs(z), z)
    if (outside := float(np.mean(~np.isfinite(ensemble.chart.log_prior(z))))) > _EDGE:
        what = f"the prior does not cover the law: {outside:.0%} of it lies at its ends or beyond"
        raise DataError(f"{what}; sample under a wider prior (flowcei train --prior)")
