"""What the laboratory adds to a run: drift, noise, and axes of different scale."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from flowcei.check.causes import LEVEL, Cause
from flowcei.check.comparison import AXES, axis_factors, compare_lab
from flowcei.experiment.drift import measure_drift

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowcei.check.causes import Run
    from flowcei.check.comparison import Sums
    from flowcei.check.observables import Observables

_LARGEST_AXIS = float(np.log(2.0))  # of the log of a factor


def drift_of(run: Run) -> Cause:
    """Return the mean of the momentum sums."""
    drift = measure_drift(run.momenta)
    what = (
        f"drift: mean sum {drift.in_words(run.molecule)}; "
        "a molecular beam, or the zero of the detector or of time"
    )
    todo = "nothing: sample and convert subtract it (--drift)"
    return Cause("drift", what, 1.0, True, todo, drift.to_dict())


def noise_of_sums(run: Run, sums: Sums) -> tuple[Run, Cause]:
    """Return the run with the noise that its sums show, and say it."""
    measured = run.noise.measured(sums.ratio)
    stated, shown = float(np.median(run.noise.levels)), float(np.median(measured.levels)) * measured.axes
    absolute = sums.ratio * float(np.median(run.observables().sigma))
    unit, factor = ("% of rms", 100.0) if measured.relative else ("hbar/bohr", 1.0)
    what = (
        f"noise: {_listed(factor * shown)} {unit} on x/y/z, {factor * stated:.3g} stated; from the sums, "
        f"{_listed(absolute)} hbar/bohr"
    )
    todo = (
        "state the measured noise; what is more than the detector's is the source's, such as thermal motion"
    )
    values = {"ratio": sums.ratio.tolist(), "measured": shown.tolist(), "relative": measured.relative}
    return replace(run, noise=measured), Cause("noise", what, 1.0, True, todo, values)


def _listed(values: NDArray[np.float64]) -> str:
    return "/".join(f"{value:.3g}" for value in values)


def axes_of(run: Run, predicted: Observables, sums: Sums, count: int) -> tuple[Run, list[Cause]]:
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
        if abs(np.log(factors[k])) > _LARGEST_AXIS:
            break  # no calibration is that wrong: the explosion itself depends on its direction
        scale = np.where(np.arange(3) == k, factors[k], 1.0)
        run = replace(run, momenta=run.momenta / scale)
        what = (
            f"one axis: momenta along {AXES[k]} are {factors[k]:.4g} times the others; "
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
            f"directions: {share.effect} {share.measured:.3g}, random 0.333; "
            f"aligned molecules, a polarised laser, or ions lost in some directions"
        )
        todo = "nothing where molecules were aligned: the reconstruction does not depend on directions"
        causes.append(Cause("directions", what, 1.0, True, todo, {"share": share.measured}))
    return run, causes
