"""What would explain a run that is not what was predicted: tried on the data, best first."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import brentq

from flowcei.check.alternatives import alternatives_of
from flowcei.check.buildup import FEMTOSECOND, built_up_momenta
from flowcei.check.causes import LEVEL, PREDICTED, Cause, Trial
from flowcei.check.comparison import compare_shapes, separations, sums_of
from flowcei.check.laboratory import axes_of, drift_of, noise_of_sums
from flowcei.physics.explosion import potential_energy
from flowcei.units import MOMENTUM_UNITS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowcei.check.alternatives import Alternative
    from flowcei.check.causes import Run
    from flowcei.check.comparison import Comparison
    from flowcei.check.observables import Observables

_SCREENED = 500  # events with which many alternatives are tried before the best are compared with all
_BEST = 6  # alternatives that are compared with all events
_NEARLY = 0.1, 3.0  # mean distance, and how much nearer than without it, of what nearly fits
_NOT_THESE_IONS = 0.5  # distance of an energy share, beyond which other geometries are not the first thought
_SCALED = 0.1  # relative: how near to the factor of the momenta that of their noise must be
_UNIT = 0.03  # relative: how near to a unit a scale must be to be called that unit
_TAUS = 0.1 * FEMTOSECOND, 100.0 * FEMTOSECOND  # between which a build-up time is fitted
_FITTED = 100  # geometries, at least, of which a build-up time is fitted
_VIOLENT = 10.0  # times the median energy
_BUILT_UP, _FEWEST = 2_000, 300  # geometries that are compared: of three ions, and at least
# In units of log p: of two that fit as well, that which changes less, or had fewer trials.
_PENALTY = {"order": 0.1, "build-up": 0.2, "prior": 0.3, "isotopes": 0.4, "charges": 0.5, "molecule": 0.5}


def causes_of(run: Run, comparisons: list[Comparison]) -> list[Cause]:
    """Return what explains the comparisons of a run that differ: the laboratory first, then best first."""
    count = len(comparisons)
    suspect = {c.observable for c in comparisons if c.p_value * count < LEVEL}
    sums = sums_of(run.observables(), len(run.molecule))
    causes = []
    if any(name.endswith("mean") for name in suspect):
        causes.append(drift_of(run))
    if any(name.endswith("noise") for name in suspect):
        run, noise = noise_of_sums(run, sums)
        causes.append(noise)
    free = run.free()
    run, lab = axes_of(run, run.predicted(free), sums, count)
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
        size, rest = f"{self.factor:.4g} times those predicted", "energy shares and angles are as predicted"
        values = {"factor": self.factor}
        unit = _unit(self.factor)
        if unit:
            what = f"units: {unit}; momenta are {size}, {rest}"
            return [(trial, Cause("units", what, 1.0, True, "state the unit: --unit", values))]
        length = self.factor**-2
        scale = Cause(
            "scale", f"momentum scale: momenta {size}; {rest}", 1.0, True, "calibrate the momenta", values
        )
        what = (
            f"another prior: all lengths {length:.4g} times those of the prior; all charges "
            f"{self.factor:.4g} times the declared explain the same"
        )
        todo = "take a prior that allows them, where the calibration is sure"
        return [(trial, scale), (trial, Cause("prior", what, 1.0, True, todo, {"lengths": length}))]

    def _noise_free(self) -> tuple[Trial, Cause]:
        """Try no noise, where sums that vanish say that there is none, or hide it."""
        silent = replace(self.run, noise=self.run.noise.measured(np.zeros(3)))
        trial = Trial.of(compare_shapes(self.here, silent.predicted(self.free), self.all))
        what = "noise: none; the momentum sums vanish, and energy shares and angles are those without noise"
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
        count = max(_FEWEST, int(_BUILT_UP * (3.0 / len(molecule)) ** 2))  # it costs N^2 an event
        positions = self.run.prior.sample(count, rng)
        energy = np.abs(potential_energy(positions, molecule.charges))
        # The steps of all are those of the most violent: ions that nearly coincide are left out.
        positions = positions[energy < _VIOLENT * np.median(energy)]
        few = positions[: max(_FITTED, count // 8)]

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
            f"charge build-up: charges that build up in {tau / FEMTOSECOND:.3g} fs; other forces "
            "that are not those of the final charges do the same"
        )
        todo = "a model that knows of the build-up is needed: lengths come out too long"
        return [(trial, Cause("build-up", what, 1.0, True, todo, {"tau_fs": tau / FEMTOSECOND}))]

    def _unexplained(self, near: list[tuple[Trial, Cause]]) -> Cause:
        p, rest = self.base.p_value, " beside" if near else ""
        if self.base.farthest > _NOT_THESE_IONS and not near:
            what = (
                "another molecule or other ions; or geometries far from those of the prior: the ions share "
                f"the energy as those of {self.run.molecule.name} do in no other order and with no other "
                "charges, each tried alone"
            )
            todo = "look at which ions the columns hold, in which order, and at their charges"
            return Cause("molecule", what, p, False, todo)
        what = f"another prior{rest}; geometries, charges or forces that were not tried"
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
