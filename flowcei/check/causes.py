"""Why a run is not what was predicted: what would explain it, tried on the data, best first."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import brentq

from flowcei.check.alternatives import alternatives_of
from flowcei.check.buildup import FEMTOSECOND, built_up_momenta
from flowcei.check.comparison import (
    AXES,
    axis_factors,
    compare_lab,
    compare_shapes,
    separations,
    sums_of,
)
from flowcei.check.observables import observables_of
from flowcei.check.prediction import predict, predicted_momenta
from flowcei.experiment.drift import measure_drift
from flowcei.physics.explosion import potential_energy
from flowcei.units import MOMENTUM_UNITS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowcei.check.alternatives import Alternative
    from flowcei.check.comparison import Comparison, Sums
    from flowcei.check.observables import Observables
    from flowcei.check.prediction import RunNoise
    from flowcei.molecule import Molecule
    from flowcei.physics.priors import GeometryPrior

__all__ = ["LEVEL", "PREDICTED", "Cause", "Run", "Trial", "causes_of", "smallest"]

LEVEL = 0.003
"""The chance, over all comparisons, that a run which is what was predicted is called another."""

PREDICTED = 10_000
"""Events of a prediction."""

_SCREENED = 500  # events with which many alternatives are tried before the best are compared with all
_BEST = 6  # alternatives that are compared with all events
_NEARLY = 0.1, 3.0  # mean distance, and how much nearer than without it, of what nearly fits
_NOT_THESE_IONS = 0.5  # distance of an energy share, beyond which other geometries are not the first thought
_SCALED = 0.1  # relative: how near to the factor of the momenta that of their noise must be
_UNIT = 0.03  # relative: how near to a unit a scale must be to be called that unit
_TAUS = 0.1 * FEMTOSECOND, 100.0 * FEMTOSECOND  # between which a build-up time is fitted
_FITTED = 300  # geometries of which a build-up time is fitted
_BUILT_UP = 2_000  # and that are compared

# In units of log p: of two that fit as well, that which changes less, or had fewer trials.
_PENALTY = {"order": 0.1, "build-up": 0.2, "prior": 0.3, "isotopes": 0.4, "charges": 0.5, "molecule": 0.5}
_ERRORS = ("units", "order", "charges", "molecule")  # every answer is wrong
_FAR = 1.25  # factor of the momenta: lengths are wrong by half


@dataclass(frozen=True)
class Cause:
    """What may make a run another than the predicted one.

    Attributes:
        kind: ``drift``, ``noise``, ``axis``, ``directions``, ``scale``, ``units``, ``order``,
            ``charges``, ``isotopes``, ``molecule``, ``build-up`` or ``prior``.
        what: In words, with its numbers.
        p_value: Of the comparisons that are left with this cause taken into account, together.
        fits: Whether it explains all of them; else it comes nearest.
        todo: What to do.
        values: The numbers of `what`.
    """

    kind: str
    what: str
    p_value: float
    fits: bool
    todo: str
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def severity(self) -> str:
        """``error`` where every answer would be wrong, ``note`` where none is, else ``warning``."""
        if self.kind in ("directions", "drift"):
            return "note"
        far = self.kind == "scale" and abs(np.log(self.values["factor"])) > np.log(_FAR)
        return "error" if self.kind in _ERRORS or far else "warning"

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and text."""
        return asdict(self) | {"severity": self.severity}


@dataclass(frozen=True, eq=False)
class Run:
    """Events of a run, and what they are believed to be.

    Attributes:
        molecule: What exploded.
        prior: Its geometries.
        momenta: (B, N, 3), hbar / bohr.
        noise: Of the momenta.
        sigma: The stated noise of each event, (B,), hbar / bohr.
        seed: Of the predictions.
    """

    molecule: Molecule
    prior: GeometryPrior
    momenta: NDArray[np.float64]
    noise: RunNoise
    sigma: NDArray[np.float64]
    seed: int

    def rng(self) -> np.random.Generator:
        """Return a random stream of its own: not that of events simulated with the same seed."""
        return np.random.default_rng((0x72756E, self.seed))

    def free(self, n: int = PREDICTED) -> NDArray[np.float64]:
        """Return noise-free momenta (n, N, 3) of the prior, hbar / bohr."""
        return predicted_momenta(self.molecule, self.prior, n, self.rng())

    def predicted(self, free: NDArray[np.float64]) -> Observables:
        """Return the observables of noise-free momenta as the run would have measured them."""
        return predict(self.molecule, free, self.noise, self.rng())

    def observables(self) -> Observables:
        """Return those of the run itself."""
        return observables_of(self.molecule, self.momenta, self.sigma)


@dataclass(frozen=True)
class Trial:
    """How well the shapes of a run agree with a prediction.

    Attributes:
        p_value: The smallest of the comparisons, corrected for their number.
        rank: Mean log p, and that of the means together: what ranks those that fit.
        distance: Mean Kolmogorov-Smirnov distance: what ranks those that do not.
        farthest: The largest distance of an energy share.
    """

    p_value: float
    rank: float
    distance: float
    farthest: float

    @classmethod
    def of(cls, comparisons: list[Comparison]) -> Trial:
        """Sum up comparisons of shapes."""
        log_p = np.log(np.maximum([c.p_value for c in comparisons], 1e-300))
        shares = [c.distance for c in comparisons if c.observable.startswith("share")]
        return cls(
            smallest(comparisons),
            float(log_p.mean() + log_p[-1]),
            float(np.nanmean([c.distance for c in comparisons])),
            max(shares, default=0.0),
        )


def smallest(comparisons: list[Comparison]) -> float:
    """Return the smallest p-value of several comparisons, corrected for their number (Bonferroni)."""
    return min(1.0, len(comparisons) * min((c.p_value for c in comparisons), default=1.0))


def causes_of(run: Run, comparisons: list[Comparison]) -> list[Cause]:
    """Return what explains the comparisons of a run that differ, the laboratory first, then best first.

    Args:
        run: Its events.
        comparisons: All of them, as of the run with what is stated.
    """
    count = len(comparisons)
    suspect = {c.observable for c in comparisons if c.p_value * count < LEVEL}
    sums = sums_of(run.observables(), len(run.molecule))
    causes = []
    if any(name.endswith("mean") for name in suspect):
        causes.append(_drift(run))
    if any(name.endswith("noise") for name in suspect):
        run, noise = _noise(run, sums)
        causes.append(noise)
    free = run.free()
    run, lab = _axes(run, run.predicted(free), sums, count)
    causes += lab
    good = replace(run, momenta=run.momenta[sums.good], sigma=run.sigma[sums.good])
    shapes = _Shapes(good, free, conserved=sums.conserved)
    if shapes.base.p_value < LEVEL:
        found = shapes.causes()
        factor = found[0].values.get("factor")
        if factor and np.abs(sums.ratio / factor - 1.0).max() < _SCALED:
            causes = [cause for cause in causes if cause.kind != "noise"]  # it was scaled with the momenta
        causes += found
    return causes


def _drift(run: Run) -> Cause:
    drift = measure_drift(run.momenta)
    what = (
        f"drift: the momentum sums have a mean of {drift.in_words(run.molecule)}: "
        "a molecular beam, or the zero of the detector or of time"
    )
    todo = "nothing: sample and convert subtract it (--drift)"
    return Cause("drift", what, 1.0, True, todo, drift.to_dict())


def _noise(run: Run, sums: Sums) -> tuple[Run, Cause]:
    """Return the run with the noise that its sums show, and say it."""
    measured = run.noise.measured(sums.ratio)
    stated, shown = float(np.median(run.noise.levels)), float(np.median(measured.levels)) * measured.axes
    absolute = sums.ratio * float(np.median(run.observables().sigma))
    unit, factor = ("% of the rms component", 100.0) if measured.relative else ("hbar/bohr", 1.0)
    what = (
        f"noise: the momentum sums show {_listed(factor * shown)} {unit} "
        f"({_listed(absolute)} hbar/bohr) on x/y/z where {factor * stated:.3g} is stated or assumed"
    )
    todo = (
        "state the measured noise; what is more than the detector's is the source's, such as thermal motion"
    )
    values = {"ratio": sums.ratio.tolist(), "measured": shown.tolist(), "relative": measured.relative}
    return replace(run, noise=measured), Cause("noise", what, 1.0, True, todo, values)


def _listed(values: NDArray[np.float64]) -> str:
    return "/".join(f"{value:.3g}" for value in values)


def _axes(run: Run, predicted: Observables, sums: Sums, count: int) -> tuple[Run, list[Cause]]:
    """Undo different scales of the axes; return the run without them, and what was undone."""
    causes: list[Cause] = []
    for _ in AXES[1:]:
        here = run.observables()
        lab = {
            c.observable: c for c in compare_lab(here, predicted, sums, len(run.molecule), noise_stated=False)
        }
        if lab["KER by direction"].p_value * count >= LEVEL:
            break
        factors = axis_factors(here, predicted, sums.good)
        k = int(np.abs(np.log(factors)).argmax())
        scale = np.where(np.arange(3) == k, factors[k], 1.0)
        run = replace(run, momenta=run.momenta / scale)
        what = (
            f"one axis: momenta along {AXES[k]} are {factors[k]:.4g} times too large against the others: "
            f"the KER depends on the direction of the explosion (or the explosion itself does)"
        )
        todo = f"calibrate the {AXES[k]} axis"
        values = {"axis": AXES[k], "factor": float(factors[k])}
        causes.append(Cause("axis", what, 1.0, True, todo, values))
    lab = {
        c.observable: c
        for c in compare_lab(run.observables(), predicted, sums, len(run.molecule), noise_stated=False)
    }
    if lab["directions"].p_value * count < LEVEL:
        share = lab["directions"]
        what = (
            f"directions: the {share.effect} is {share.measured:.3g} where random directions have 0.333: "
            f"aligned molecules, a polarised laser, or ions lost in some directions"
        )
        todo = "nothing where molecules were aligned: the reconstruction does not depend on directions"
        causes.append(Cause("directions", what, 1.0, True, todo, {"share": share.measured}))
    return run, causes


class _Shapes:
    """The search for what makes KER, energy shares and angles those of the run."""

    def __init__(self, run: Run, free: NDArray[np.float64], *, conserved: bool) -> None:
        self.run, self.free, self.conserved = run, free, conserved
        self.here, self.predicted = run.observables(), run.predicted(free)
        self.all = np.ones(len(run.momenta), dtype=bool)
        self.base = Trial.of(compare_shapes(self.here, self.predicted, self.all))
        shift = np.median(self.here.log_ker) - np.median(self.predicted.log_ker)
        self.factor = float(np.exp(0.5 * shift))

    def causes(self) -> list[Cause]:
        """Return what fits, or else what comes nearest, best first."""
        trials = [*self._scale(), *self._alternatives()]
        if self.conserved and not self.run.noise.is_zero:
            trials.append(self._noise_free())
        if self.factor < 1.0:
            trials += self._build_up()
        fitting = [(t, c) for t, c in trials if t.p_value >= LEVEL]
        if fitting:
            fitting.sort(key=lambda pair: _penalty(pair[1]) - pair[0].rank)
            less = [(t, replace(c, fits=False)) for t, c in trials if c.kind == "build-up"]
            less = [(t, c) for t, c in less if t.p_value < LEVEL and t.distance < _NEARLY[0]]
            return [replace(c, p_value=t.p_value) for t, c in [*fitting, *less]]
        most, times = _NEARLY
        near = [(t, c) for t, c in trials if t.distance < min(most, self.base.distance / times)]
        near.sort(key=lambda pair: pair[0].distance)
        return [replace(c, p_value=t.p_value, fits=False) for t, c in near[:3]] + [self._unexplained(near)]

    def _scale(self) -> list[tuple[Trial, Cause]]:
        """Try one factor of all momenta, which no shape can tell from one factor of all lengths."""
        moved = dict(self.here.shapes)
        moved["log KER"] = self.here.log_ker - 2.0 * np.log(self.factor)
        trial = Trial.of(compare_shapes(replace(self.here, shapes=moved), self.predicted, self.all))
        size = f"{self.factor:.4g} times what is predicted, energy shares and angles as predicted"
        values = {"factor": self.factor}
        unit = _unit(self.factor)
        if unit:
            what = f"units: momenta are {size}: as for {unit}"
            return [(trial, Cause("units", what, 1.0, True, "state the unit: --unit", values))]
        length = self.factor**-2
        scale = Cause(
            "scale", f"momentum scale: momenta are {size}", 1.0, True, "calibrate the momenta", values
        )
        what = (
            f"another prior: all lengths {length:.4g} times those of the prior, or all charges "
            f"{self.factor:.4g} times the declared, explain the same"
        )
        todo = "take a prior that allows them, where the calibration is sure"
        return [(trial, scale), (trial, Cause("prior", what, 1.0, True, todo, {"lengths": length}))]

    def _noise_free(self) -> tuple[Trial, Cause]:
        """Try no noise, where sums that vanish say that there is none, or hide it."""
        silent = replace(self.run, noise=self.run.noise.measured(np.zeros(3)))
        trial = Trial.of(compare_shapes(self.here, silent.predicted(self.free), self.all))
        what = "noise: the momentum sums vanish, and the shapes are those of momenta without noise"
        return trial, Cause("noise", what, 1.0, True, "state that there is none: --noise 0%")

    def _alternatives(self) -> list[tuple[Trial, Cause]]:
        """Try other orders, charges, isotopes, molecules and priors on some events, and the best on all."""
        rows = np.linspace(0, len(self.all) - 1, min(_SCREENED, len(self.all))).astype(int)
        some = replace(self.run, momenta=self.run.momenta[rows], sigma=self.run.sigma[rows])
        tried = list(alternatives_of(self.run.molecule, self.run.prior))
        predictions: dict[tuple[int, int], Observables] = {}
        scores = np.array([separations(*_pair(some, other, _SCREENED, predictions)) for other in tried])
        best = np.argsort(scores, axis=0, kind="stable")[:_BEST].T.ravel()
        predictions = {}
        out = []
        for k in dict.fromkeys(best.tolist()):
            other = tried[k]
            trial = Trial.of(compare_shapes(*_pair(self.run, other, PREDICTED, predictions), self.all))
            out.append((trial, Cause(other.kind, other.what, 1.0, True, _todo(other), other.values)))
        return out

    def _build_up(self) -> list[tuple[Trial, Cause]]:
        """Try charges that build up in the time that explains the KER."""
        molecule, rng = self.run.molecule, self.run.rng()
        positions = self.run.prior.sample(_BUILT_UP, rng)
        few = positions[:_FITTED]

        def shift(log_tau: float) -> float:
            momenta = built_up_momenta(few, molecule.masses, molecule.charges, float(np.exp(log_tau)))
            energy = np.log((momenta**2 / (2.0 * molecule.masses[:, None])).sum(axis=(1, 2)))
            return float(np.median(energy - at_once)) - 2.0 * np.log(self.factor)

        at_once = np.log(np.abs(potential_energy(few, molecule.charges)))
        low, high = np.log(_TAUS)
        if shift(low) <= 0.0 or shift(high) >= 0.0:
            return []
        tau = float(np.exp(brentq(shift, low, high, rtol=1e-3)))
        momenta = built_up_momenta(positions, molecule.masses, molecule.charges, tau)
        trial = Trial.of(compare_shapes(self.here, self.run.predicted(momenta), self.all))
        what = (
            f"charge build-up: charges that build up in {tau / FEMTOSECOND:.3g} fs, or other forces "
            "that are not those of the final charges"
        )
        todo = "a model that knows of the build-up is needed: lengths come out too long"
        return [(trial, Cause("build-up", what, 1.0, True, todo, {"tau_fs": tau / FEMTOSECOND}))]

    def _unexplained(self, near: list[tuple[Trial, Cause]]) -> Cause:
        p, rest = self.base.p_value, " beside" if near else ""
        if self.base.farthest > _NOT_THESE_IONS and not near:
            what = (
                "another molecule or other ions (or geometries far from those of the prior): the ions share "
                f"the energy as those of {self.run.molecule.name} do in no order and with no charges tried"
            )
            todo = "look at which ions the columns hold, and at their charges"
            return Cause("molecule", what, p, False, todo)
        what = f"another prior{rest}: geometries, charges or forces that were not tried"
        todo = "take a wider prior, or charges and forces of the experiment"
        return Cause("prior", what, p, False, todo)


def _pair(
    run: Run, other: Alternative, n: int, predictions: dict[tuple[int, int], Observables]
) -> tuple[Observables, Observables]:
    """Return the observables of a run, as what it may be instead, and those of that prediction."""
    as_other = replace(
        run, molecule=other.molecule, prior=other.prior, momenta=run.momenta[:, list(other.order)]
    )
    key = id(other.molecule), id(other.prior)
    if key not in predictions:
        predictions[key] = as_other.predicted(as_other.free(n))
    return as_other.observables(), predictions[key]


def _todo(other: Alternative) -> str:
    return {
        "order": "give the ions in the order of the columns: --columns, or a mapping",
        "charges": "state these charges: --charges",
        "isotopes": f"state them: --isotopes {other.values.get('isotopes')}",
        "molecule": "give that molecule: --molecule",
        "prior": "take that prior, and a model trained for it",
    }[other.kind]


def _penalty(cause: Cause) -> float:
    """Return what a cause must fit better, in log p, to be likelier than one factor of the momenta."""
    # Lengths of twice those of the prior are less likely than a factor of the calibration or of charges.
    return _PENALTY.get(cause.kind, 0.0) + 2.0 * abs(float(np.log(cause.values.get("lengths", 1.0))))


def _unit(factor: float) -> str:
    """Return which unit makes momenta so many times too large, "" where none does."""
    for name, atomic in MOMENTUM_UNITS.items():
        if abs(factor * atomic - 1.0) < _UNIT and name != "hbar/bohr":
            return f"numbers in {name} read as hbar/bohr"
        if abs(factor / atomic - 1.0) < _UNIT and name != "hbar/bohr":
            return f"numbers in hbar/bohr read as {name}"
    return ""
