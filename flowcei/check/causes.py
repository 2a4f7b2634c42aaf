"""Why a run is not what was predicted: what would explain it, tried on the data, best first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from flowcei.check.alternatives import alternatives_of
from flowcei.check.comparison import (
    AXES,
    Observables,
    Sums,
    axis_factors,
    compare_lab,
    compare_shapes,
    predicted_momenta,
    separations,
)
from flowcei.check.diagnostic import Cause
from flowcei.experiment.drift import measure_drift
from flowcei.physics.explosion import Coulomb, followed_momenta, kinetic_energy
from flowcei.posterior.arrays import RowArrays
from flowcei.units import MOMENTUM_UNITS

if TYPE_CHECKING:
    from flowcei.check.alternatives import Alternative
    from flowcei.check.comparison import Comparison, RunNoise
    from flowcei.molecules.molecule import Molecule
    from flowcei.physics.priors import GeometryPrior
    from flowcei.posterior.arrays import Floats

LEVEL = 0.003  # chance, over all comparisons, that a run which is what was predicted is called another
PREDICTED = 10_000  # events of a prediction
_LARGE, _FEWEST = 10.0, 500  # ions from which fewer events are predicted, and how many at least
_LARGEST_AXIS = np.log(2.0)  # of the log of the factor of one axis
_SCREENED = 500  # events with which many alternatives are tried before the best are compared with all
_BEST = 6  # alternatives that are compared with all events
_NEARLY = 0.1, 3.0  # mean distance, and how much nearer than without it, of what nearly fits
_NOT_THESE_IONS = 0.5  # distance of an energy share, beyond which other geometries are not the first thought
_OUTSIDE = 0.01  # of the events, where a wide prior predicts none
_SCALED = 0.1  # relative: how near to the factor of the momenta that of their noise must be
_UNIT = 0.03  # relative: how near to a unit a scale must be to be called that unit
_TAUS = 0.1, 100.0  # fs between which a build-up time is fitted
_BUILT_UP = 2_000  # geometries of which it is fitted
# In units of log p: of two that fit as well, that which changes less, or had fewer trials.
_PENALTY = {"order": 0.1, "build-up": 0.2, "prior": 0.3, "isotopes": 0.4, "charges": 0.5, "molecule": 0.5}


@dataclass(frozen=True, eq=False)
class Run(RowArrays):
    """Events of a run, and what they are believed to be."""

    ROWS = ("momenta", "sigma")

    molecule: Molecule
    prior: GeometryPrior
    momenta: Floats  # (B, N, 3), hbar / bohr
    noise: RunNoise
    sigma: Floats  # stated noise of each event, (B,), hbar / bohr
    seed: int  # of the predictions

    def rng(self) -> np.random.Generator:
        """Return a random stream of its own: not that of events simulated with the same seed."""
        return np.random.default_rng((0x72756E, self.seed))

    def free(self, n: int = PREDICTED) -> Floats:
        """Return noise-free momenta of the prior, (n or fewer, N, 3), hbar / bohr."""
        # An explosion of N ions costs N^2: a tenth of a second for 10, not minutes for 100.
        fewer = max(_FEWEST, int(n * min(1.0, (_LARGE / len(self.molecule)) ** 2)))
        return predicted_momenta(self.molecule, self.prior, min(n, fewer), self.rng())

    def predicted(self, free: Floats) -> Observables:
        """Return the observables of noise-free momenta as the run would have measured them."""
        return Observables.of(self.molecule, *self.noise.apply(free, self.rng()))

    def observables(self) -> Observables:
        """Return those of the run itself."""
        return Observables.of(self.molecule, self.momenta, self.sigma)


class _Trial(NamedTuple):
    """How well the shapes of a run agree with a prediction, and what was changed for it."""

    cause: Cause
    p_value: float  # smallest of the comparisons, corrected for their number
    rank: float  # mean log p, and that of the means together, less a penalty: ranks those that fit
    distance: float  # mean Kolmogorov-Smirnov distance: ranks those that do not
    farthest: float  # largest distance of an energy share

    @classmethod
    def of(cls, cause: Cause, run: Observables, predicted: Observables) -> _Trial:
        comparisons = compare_shapes(run, predicted)
        distances = {c.observable: c.distance for c in comparisons if c.distance is not None}
        log_p = np.log(np.maximum([c.p_value for c in comparisons], 1e-300))
        # Lengths of twice those of the prior are less likely than a factor of the calibration or of charges.
        penalty = _PENALTY.get(cause.kind, 0.0) + 2.0 * abs(np.log(cause.values.get("lengths", 1.0)))
        shares = [distance for name, distance in distances.items() if name.startswith("share")]
        p, mean = smallest(comparisons), float(np.mean(list(distances.values())))
        return cls(cause, p, float(log_p.mean() + log_p[-1] - penalty), mean, max(shares, default=0.0))

    def result(self, *, fits: bool) -> Cause:
        """Return the cause with how well it explains the run."""
        return replace(self.cause, p_value=self.p_value, fits=fits)


def smallest(comparisons: list[Comparison] | tuple[Comparison, ...]) -> float:
    """Return the smallest p-value of several comparisons, corrected for their number (Bonferroni)."""
    return min(1.0, len(comparisons) * min((c.p_value for c in comparisons), default=1.0))


def causes_of(run: Run, comparisons: list[Comparison]) -> list[Cause]:
    """Return what explains the comparisons of a run that differ: the laboratory first, then best first."""
    count = len(comparisons)
    suspect = {c.observable for c in comparisons if c.p_value * count < LEVEL}
    sums = Sums.of(run.observables(), len(run.molecule))
    causes = []
    if any(name.endswith("mean") for name in suspect):
        drift = measure_drift(run.momenta)
        message = f"drift: mean sum {drift.in_words(run.molecule)}; "
        message += "a molecular beam, or the zero of the detector or of time"
        todo = "nothing: sample and convert subtract it (--drift)"
        causes.append(Cause("drift", message, todo, drift.to_dict()))
    if any(name.endswith("noise") for name in suspect):
        run, noise = _noise_of_sums(run, sums)
        causes.append(noise)
    free = run.free()
    run, axes = _axes(run, run.predicted(free), sums, count)
    causes += axes
    shapes = _Shapes(run[sums.good], free, conserved=sums.conserved)
    if shapes.base.p_value < LEVEL:
        others = shapes.causes()
        factor = others[0].values.get("factor")
        if factor and np.abs(sums.ratio / factor - 1.0).max() < _SCALED:
            causes = [cause for cause in causes if cause.kind != "noise"]  # it was scaled with the momenta
        causes += others
    return causes


def _noise_of_sums(run: Run, sums: Sums) -> tuple[Run, Cause]:
    """Return the run with the noise that its sums show, and say it."""
    measured = run.noise.measured(sums.ratio)
    stated, shown = float(np.median(run.noise.levels)), float(np.median(measured.levels)) * measured.axes
    absolute = sums.ratio * float(np.median(run.observables().sigma))
    unit, factor = ("% of rms", 100.0) if measured.relative else ("hbar/bohr", 1.0)
    levels, sizes = ("/".join(f"{value:.3g}" for value in axes) for axes in (factor * shown, absolute))
    message = f"noise: {levels} {unit} on x/y/z, {factor * stated:.3g} stated; "
    message += f"from the sums, {sizes} hbar/bohr"
    todo = "state the measured noise; "
    todo += "what is more than the detector's is the source's, such as thermal motion"
    values = {"ratio": sums.ratio.tolist(), "measured": shown.tolist(), "relative": measured.relative}
    return replace(run, noise=measured), Cause("noise", message, todo, values)


def _axes(run: Run, predicted: Observables, sums: Sums, count: int) -> tuple[Run, list[Cause]]:
    """Undo different scales of up to two axes; return the run without them, and what was undone."""
    causes: list[Cause] = []
    while True:
        here = run.observables()
        lab = compare_lab(here, predicted, sums, len(run.molecule), noise_stated=False)
        factors = axis_factors(here[sums.good], predicted)[0]
        k = int(np.abs(np.log(factors)).argmax())
        factor, axis = float(factors[k]), AXES[k]
        # No calibration is wrong by 2: then the explosion itself depends on its direction.
        wrong = lab["KER by direction"].p_value * count < LEVEL and abs(np.log(factor)) <= _LARGEST_AXIS
        if not wrong or len(causes) == len(AXES) - 1:
            break
        run = replace(run, momenta=run.momenta / np.where(np.arange(3) == k, factor, 1.0))
        message = f"one axis: momenta along {axis} are {factor:.4g} times the others; "
        message += "the KER depends on the direction of the explosion (or the explosion itself does)"
        causes.append(Cause("axis", message, f"calibrate the {axis} axis", {"axis": axis, "factor": factor}))
    share = lab["directions"]
    if share.p_value * count < LEVEL:
        message = f"directions: {share.effect} {share.measured:.3g}, random 0.333; "
        message += "aligned molecules, a polarised laser, or ions lost in some directions"
        todo = "nothing where molecules were aligned: the reconstruction does not depend on directions"
        causes.append(Cause("directions", message, todo, {"share": share.measured}))
    return run, causes


class _Shapes:
    """The search for what makes KER, energy shares and angles those of the run."""

    def __init__(self, run: Run, free: Floats, *, conserved: bool) -> None:
        self.run, self.free, self.conserved = run, free, conserved
        self.here, self.predicted = run.observables(), run.predicted(free)
        self.base = _Trial.of(Cause("none", "", ""), self.here, self.predicted)
        shift = np.median(self.here.log_ker) - np.median(self.predicted.log_ker)
        self.factor = float(np.exp(0.5 * shift))

    def causes(self) -> list[Cause]:
        """Return what fits, or else what comes nearest, best first."""
        trials = [*self._scale(), *self._alternatives(), *self._noise_free(), *self._build_up()]
        most, times = _NEARLY
        fitting = sorted((t for t in trials if t.p_value >= LEVEL), key=lambda t: -t.rank)
        others = [t for t in trials if t.p_value < LEVEL]
        if fitting:
            slow = [t for t in others if t.cause.kind == "build-up" and t.distance < most]
            return [t.result(fits=True) for t in fitting] + [t.result(fits=False) for t in slow]
        near = [t for t in others if t.distance < min(most, self.base.distance / times)]
        near.sort(key=lambda t: t.distance)
        return [*(t.result(fits=False) for t in near[:3]), self._unexplained(beside=bool(near))]

    def _scale(self) -> Iterator[_Trial]:
        """Try one factor of all momenta, which no shape can tell from one factor of all lengths."""
        factor, length = self.factor, self.factor**-2
        log_ker = self.here.log_ker - 2.0 * np.log(factor)
        here = replace(self.here, shapes=self.here.shapes | {"log KER": log_ker})
        size, values = f"{factor:.4g} times those predicted", {"factor": factor}
        agreeing = "energy shares and angles are as predicted"
        if unit := _unit(factor):
            message = f"units: {unit}; momenta are {size}, {agreeing}"
            yield _Trial.of(Cause("units", message, "state the unit: --unit", values), here, self.predicted)
            return
        message = f"momentum scale: momenta {size}; {agreeing}"
        yield _Trial.of(Cause("scale", message, "calibrate the momenta", values), here, self.predicted)
        message = f"another prior: all lengths {length:.4g} times those of the prior; all charges "
        message += f"{factor:.4g} times the declared explain the same"
        todo = "take a prior that allows them, where the calibration is sure"
        yield _Trial.of(Cause("prior", message, todo, {"lengths": length}), here, self.predicted)

    def _noise_free(self) -> Iterator[_Trial]:
        """Try no noise, where sums that vanish say that there is none, or hide it."""
        if self.conserved and not self.run.noise.is_zero:
            silent = replace(self.run, noise=self.run.noise.measured(np.zeros(3)))
            message = "noise: none; the momentum sums vanish, "
            message += "and energy shares and angles are those without noise"
            cause = Cause("noise", message, "state that there is none: --noise 0%")
            yield _Trial.of(cause, self.here, silent.predicted(self.free))

    def _alternatives(self) -> Iterator[_Trial]:
        """Try other orders, charges, isotopes, molecules and priors on some events, and the best on all."""
        rows = np.linspace(0, len(self.run.momenta) - 1, min(_SCREENED, len(self.run.momenta))).astype(int)
        some, tried = self.run[rows], list(alternatives_of(self.run.molecule, self.run.prior))
        predictions: dict[tuple[int, int], Observables] = {}
        scores = np.array([separations(*_pair(some, other, _SCREENED, predictions)) for other in tried])
        best = np.argsort(scores, axis=0, kind="stable")[:_BEST].T.ravel()
        predictions = {}
        for k in dict.fromkeys(best.tolist()):
            yield _Trial.of(tried[k].cause, *_pair(self.run, tried[k], PREDICTED, predictions))

    def _build_up(self) -> Iterator[_Trial]:
        """Try charges that build up in the time that explains the KER."""
        if self.factor >= 1.0:
            return
        molecule, rng = self.run.molecule, self.run.rng()
        positions, motion = self.run.prior.sample_moving(_BUILT_UP, rng)
        ions = molecule.masses, molecule.charges

        def momenta(log_tau: float) -> Floats:
            forward = Coulomb(np.full(len(positions), np.exp(log_tau)))
            return np.asarray(
                followed_momenta(positions, *ions, forward=forward, initial_momenta=motion), np.float64
            )

        at_once = np.log(kinetic_energy(momenta(-np.inf), molecule.masses))

        def shift(log_tau: float) -> float:
            energy = kinetic_energy(momenta(log_tau), molecule.masses)
            return float(np.nanmedian(np.log(energy) - at_once)) - 2.0 * np.log(self.factor)

        from scipy.optimize import brentq

        low, high = np.log(_TAUS)
        if shift(low) <= 0.0 or shift(high) >= 0.0:
            return
        log_tau = float(brentq(shift, low, high, rtol=1e-3))
        tau = float(np.exp(log_tau))
        message = f"charge build-up: charges that build up in {tau:.3g} fs; other forces "
        message += "that are not those of the final charges do the same"
        todo = "a model that knows of the build-up is needed: lengths come out too long"
        cause = Cause("build-up", message, todo, {"tau_fs": tau})
        yield _Trial.of(cause, self.here, self.run.predicted(momenta(log_tau)))

    def _within(self) -> bool:
        """Whether each number of the run lies where the prior predicts some."""
        pairs = ((values, self.predicted.shapes[name]) for name, values in self.here.shapes.items())
        return all(np.mean((v < p.min()) | (v > p.max())) < _OUTSIDE for v, p in pairs)

    def _unexplained(self, *, beside: bool) -> Cause:
        kind, todo = "prior", "take a wider prior, or charges and forces of the experiment"
        message = f"another prior{' beside' if beside else ''}; "
        message += "geometries, charges or forces that were not tried"
        ions = f"the ions share the energy as those of {self.run.molecule.name} do in no other order and "
        ions += "with no other charges, each tried alone"
        look = "look at which ions the columns hold, in which order, and at their charges"
        if not beside and self._within():
            message = f"geometries of a part of the prior, or other ions; {ions}"
            todo = f"nothing if the prior is wider on purpose: flowcei population finds the law; else {look}"
        elif not beside and self.base.farthest > _NOT_THESE_IONS:
            message = f"another molecule or other ions; or geometries far from those of the prior: {ions}"
            kind, todo = "molecule", look
        return Cause(kind, message, todo, p_value=self.base.p_value, fits=False)


def _pair(
    run: Run, other: Alternative, n: int, predictions: dict[tuple[int, int], Observables]
) -> tuple[Observables, Observables]:
    """Return the observables of a run, as what it may be instead, and those of that prediction."""
    momenta = run.momenta[:, list(other.order)]
    as_other = replace(run, molecule=other.molecule, prior=other.prior, momenta=momenta)
    key = id(other.molecule), id(other.prior)
    if key not in predictions:
        predictions[key] = as_other.predicted(as_other.free(n))
    return as_other.observables(), predictions[key]


def _unit(factor: float) -> str:
    """Return which unit makes momenta so many times too large, "" where none does."""
    for name, atomic in MOMENTUM_UNITS.items():
        if name != "hbar/bohr" and abs(factor * atomic - 1.0) < _UNIT:
            return f"numbers in {name} read as hbar/bohr"
        if name != "hbar/bohr" and abs(factor / atomic - 1.0) < _UNIT:
            return f"numbers in hbar/bohr read as {name}"
    return ""
