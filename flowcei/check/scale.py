"""Momentum scale and build-up time of a run whose prior is trusted, from the means of its shapes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import chdtrc

from flowcei.check.comparison import Observables, predicted_momenta
from flowcei.errors import UsageError
from flowcei.physics.build_up import BuildUp, BuildUpPrior
from flowcei.physics.explosion import Coulomb

if TYPE_CHECKING:
    from scipy.interpolate import CubicSpline

    from flowcei.events.container import Events
    from flowcei.experiment.experiment import Experiment
    from flowcei.molecules.molecule import Molecule
    from flowcei.physics.priors import GeometryPrior
    from flowcei.posterior.arrays import Floats

FITS = ("both", "scale", "build_up")
"""What may be measured."""

_TIMES = 0.0, 0.5, 1.0, 2.0, 3.5, 5.0, 7.0, 10.0, 14.0, 20.0, 28.0, 40.0  # fs
_SIMULATED = 20_000  # events of the prior at each time
_LEAST = 1e-3  # deviation of a time, fs
_UNLIKELY = 1e-3
_DEGENERATE = 0.9  # correlation from which on two numbers are said to be one


@dataclass(frozen=True)
class ScaleFit:
    """Momentum scale and build-up time with errors, their correlation, and whether the prior holds."""

    quantities: dict[str, tuple[float, float, str]]
    correlation: float | None
    p_value: float  # chance of shapes so unlike those of the prior at its best
    remarks: tuple[str, ...]
    entries: dict[str, Any]  # of an experiment


def fit_scale(
    events: Events, experiment: Experiment, prior: GeometryPrior, fit: str = "both", seed: int = 0
) -> ScaleFit:
    """Fit scale and time to the mean log KER, energy shares and cosines of true events.

    Momenta that are c times as large have 2 log c more of log KER and all else the same; a build-up takes
    energy from the light ions first, so that shares tell it apart, the more the lighter an ion.
    """
    if fit not in FITS:
        raise UsageError(f"fit is {fit!r}; it must be one of {', '.join(FITS)}")
    means = _Means.of(events, experiment, prior, seed)
    estimates = _fitted(means, fit)
    time, error, _ = estimates.quantities.get("build_up", (1.0, 0.0, ""))
    if time > 2.0 * error:
        return estimates
    below = f"charges build up in less than {time + 1.645 * error:.2g} fs (95 %), which is taken as at once"
    estimates = _fitted(means, "scale") if fit == "both" else replace(estimates, quantities={}, entries={})
    return replace(estimates, remarks=(below, *estimates.remarks))


def _fitted(means: _Means, fit: str) -> ScaleFit:
    """The numbers that are wanted, with what is to be said of them."""
    free = {"both": (True, True), "scale": (True, False), "build_up": (False, True)}[fit]
    best = means.best_time(scaled=free[0]) if free[1] else 0.0
    square, log_scale = means.misfit(best, scaled=free[0])
    slopes = {"momentum_scale": means.by_scale, "build_up": means.by_time(best)}
    chosen = [name for name, wanted in zip(slopes, free, strict=True) if wanted]
    slope = np.stack([slopes[name] for name in chosen], axis=1)
    covariance = np.linalg.pinv(slope.T @ means.inverse(best) @ slope)
    errors = np.sqrt(np.diagonal(covariance))
    numbers = {"momentum_scale": (float(np.exp(log_scale)), ""), "build_up": (best, "fs")}
    quantities = {n: (numbers[n][0], float(e), numbers[n][1]) for n, e in zip(chosen, errors, strict=True)}
    correlation = float(covariance[0, 1] / errors.prod()) if len(chosen) == 2 else None
    p_value = float(chdtrc(means.rank - len(chosen), square))
    entries: dict[str, Any] = {"momentum_scale": round(float(np.exp(log_scale)), 6)} if free[0] else {}
    if best > 0.0:
        mean, deviation, _ = quantities["build_up"]
        deviation = max(float(f"{deviation:.2g}"), _LEAST)
        entries["build_up"] = BuildUpPrior(round(mean, 3), deviation=deviation).to_dict()
    entries = entries if p_value >= _UNLIKELY else {}
    return ScaleFit(quantities, correlation, p_value, tuple(_remarks(correlation, p_value, best)), entries)


def _remarks(correlation: float | None, p_value: float, time: float) -> list[str]:
    """What a person should know of a fit."""
    out = []
    if correlation is not None and abs(correlation) > _DEGENERATE:
        out.append(
            f"momentum scale and build-up time are nearly one number (correlation {correlation:.3f}): both "
            "shift the KER; shares of light ions tell them apart, a calibration of the spectrometer better"
        )
    if p_value < _UNLIKELY:
        out.append(
            f"no scale and build-up time give the shapes of the run with this prior (p {p_value:.1g}): it is "
            "not that of the molecules, or noise and charges are others; no experiment has these numbers"
        )
    if time >= 0.99 * _TIMES[-1]:
        out.append(f"the build-up takes {_TIMES[-1]:g} fs or more, which is as far as it was looked for")
    return out


@dataclass(frozen=True, eq=False)
class _Means:
    """Means of F shapes of a run, and their prediction at any build-up time."""

    measured: Floats  # (F,)
    predicted: CubicSpline  # of the time, fs -> (F,)
    covariance: CubicSpline  # of the difference of both, (F, F)
    by_scale: Floats  # derivative by the log of the scale, (F,)

    @classmethod
    def of(cls, events: Events, experiment: Experiment, prior: GeometryPrior, seed: int) -> _Means:
        """Simulate the prior, with the same geometries and noise at each time."""
        molecule, own = events.molecule, replace(experiment, drift=None).of(events.molecule)
        own = replace(own, accidents=0.0, spread=np.zeros(3))  # the source moves no shapes
        momenta = experiment.of(molecule).calibrated(events.momenta)
        data, means, covariances = _shapes(momenta, molecule), [], []
        for time in _TIMES:
            rng = np.random.default_rng(seed)
            exact = predicted_momenta(
                molecule, prior, _SIMULATED, rng, Coulomb(BuildUp((time,)) if time else None)
            )
            shapes = _shapes(own.apply(exact, rng)[0], molecule)
            means.append(shapes.mean(axis=0))
            covariances.append(np.cov(shapes.T) * (1.0 / len(data) + 1.0 / len(shapes)))
        by_scale = np.zeros(data.shape[1])
        by_scale[0] = 2.0
        from scipy.interpolate import CubicSpline

        tables = CubicSpline(_TIMES, means), CubicSpline(_TIMES, covariances)
        return cls(data.mean(axis=0), *tables, by_scale)

    @property
    def rank(self) -> int:
        """How many of the shapes are independent."""
        return int(np.linalg.matrix_rank(self.covariance(0.0), hermitian=True))

    def inverse(self, time: float) -> Floats:
        """Inverse of the covariance at a time."""
        return np.asarray(np.linalg.pinv(self.covariance(time), hermitian=True))

    def by_time(self, time: float) -> Floats:
        """Derivative of the prediction by the time, (F,)."""
        return np.asarray(self.predicted(time, 1))

    def misfit(self, time: float, *, scaled: bool) -> tuple[float, float]:
        """Chi squared at a time, with the log of the best scale, 0 unless it is free."""
        residual, inverse = self.measured - self.predicted(time), self.inverse(time)
        weight = inverse @ self.by_scale
        log_scale = float(weight @ residual / (weight @ self.by_scale)) if scaled else 0.0
        residual = residual - log_scale * self.by_scale
        return float(residual @ inverse @ residual), log_scale

    def best_time(self, *, scaled: bool) -> float:
        """The time of the least chi squared."""
        from scipy.optimize import minimize_scalar

        k = int(np.argmin([self.misfit(time, scaled=scaled)[0] for time in _TIMES]))
        bounds = _TIMES[max(0, k - 1)], _TIMES[min(len(_TIMES) - 1, k + 1)]
        minimum = minimize_scalar(
            lambda time: self.misfit(time, scaled=scaled)[0],
            bounds=bounds,
            method="bounded",
            options={"xatol": 1e-4},
        )
        return float(minimum.x)


def _shapes(momenta: Floats, molecule: Molecule) -> Floats:
    """Log KER, energy shares but one, and cosines of events, (B, F)."""
    shapes = Observables.of(molecule, momenta, np.zeros(len(momenta))).shapes
    last = f"share of {molecule.labels[-1]}"  # the others less than 1
    return np.stack([values for name, values in shapes.items() if name != last], axis=1)
