"""The sum of the momenta of an event: what it says about the noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flowcei.check.finding import Finding, percent
from flowcei.experiment.detector import NOISE_FLOOR, rms_component
from flowcei.experiment.drift import measure_drift

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowcei.check.finding import Severity
    from flowcei.events.container import Events

_CHI2_MEDIAN = 2.36597  # of three degrees of freedom
_CHI2_FAR = 27.9  # exceeded by one event in 260,000
_ENOUGH = 100  # for a share of 1 % to mean something
_TRAINED = 0.05  # the most noise that models are trained for where nobody says otherwise
_HOPELESS = 0.5


@dataclass(frozen=True)
class Noisiness:
    """Noise of a momentum component, from the momentum sum: each component of it has sigma sqrt(N)."""

    relative: float  # over the rms momentum component; median event
    absolute: float  # hbar / bohr; median event
    offset: NDArray[np.float64]  # mean of the sum, (3,), hbar / bohr, where significant; else 0
    far: float  # share of events whose sum is out of proportion

    def sigma(self, events: Events) -> NDArray[np.float64]:
        """Return the noise (B,), hbar / bohr: what is stated, else what the sum shows."""
        if events.sigma is not None and (events.sigma > 0).all():
            return events.sigma
        return self.relative * rms_component(events.momenta)


def noisiness(events: Events) -> Noisiness:
    """Estimate the noise of momenta from their sum."""
    total = events.momenta.sum(axis=1)
    drift = measure_drift(events.momenta)
    offset = drift.momentum if drift.significant else np.zeros(3)
    squares = ((total - offset) ** 2).sum(axis=1) / len(events.molecule)
    relative = squares / rms_component(events.momenta) ** 2
    level = float(np.median(relative)) / _CHI2_MEDIAN
    # Of a level that differs from event to event, the far ones are judged by what is stated.
    known = events.sigma is not None and (events.sigma > 0).all()
    scale = (
        events.sigma**2 if known and events.sigma is not None else level * rms_component(events.momenta) ** 2
    )
    # A level of its own in every event reaches further than the median one.
    reach = 1.0 if known else 25.0
    far = squares > _CHI2_FAR * reach * np.maximum(scale, (NOISE_FLOOR * rms_component(events.momenta)) ** 2)
    absolute = float(np.sqrt(np.median(squares) / _CHI2_MEDIAN))
    return Noisiness(float(np.sqrt(level)), absolute, offset, float(far.mean()))


def sum_findings(events: Events, noise: Noisiness) -> list[Finding]:
    """Say what the sum of the momenta shows."""
    values = {"relative": noise.relative, "absolute": noise.absolute}
    out = []
    if noise.relative < NOISE_FLOOR:
        what = f"the momenta of an event sum to 0 (to {noise.relative:.1e} of the rms component)"
        means = "simulated without noise, or conservation was imposed: the sums then say nothing of the noise"
        todo = "of measured momenta state the noise: --noise"
        out.append(Finding("note", "conserved-sums", what, means, todo, values=values))
    elif velocities := _velocities(events, noise.relative):
        return [velocities]
    else:
        what = (
            f"the sum of the momenta shows noise of {percent(noise.relative)} of the rms component, "
            f"{noise.absolute:.3g} hbar/bohr, on each component"
        )
        means = "a model must be trained for this level"
        out.append(
            Finding(*_how_bad(noise.relative), what, means, _what_to_do(noise.relative), values=values)
        )
    out += _stated(events, noise)
    if noise.offset.any():
        size = float(np.linalg.norm(noise.offset))
        what = f"the total momentum has a mean: {measure_drift(events.momenta).in_words(events.molecule)}"
        means = "the molecules flew, or the detector's zero is off; convert and sample subtract it (--drift)"
        out.append(Finding("note", "momentum-offset", what, means, values={"offset": size}))
    if noise.far > 0.01 and len(events) >= _ENOUGH and noise.relative < _HOPELESS:
        what = f"in {percent(noise.far)} of the events the momenta sum to far more than in the others"
        means = "false coincidences or lost ions: no geometry explains such an event"
        todo = "remove events with a large total momentum"
        out.append(
            Finding("warning", "momentum-sum-outliers", what, means, todo, values={"share": noise.far})
        )
    return out


def _velocities(events: Events, relative: float) -> Finding | None:
    """Whether velocities conserve momentum where the numbers of the file do not."""
    masses = events.molecule.masses
    momenta = events.momenta * (masses / masses.mean())[:, None]
    total = np.linalg.norm(momenta.sum(axis=1), axis=1) / np.sqrt(len(masses))
    as_velocities = float(np.median(total / rms_component(momenta)))
    if as_velocities > relative / 3.0:
        return None
    what = "the numbers sum to 0 only when multiplied by the masses: they are velocities"
    means = "every momentum is wrong by the mass of its ion"
    return Finding("error", "velocities", what, means, "multiply each by its mass, in electron masses")


def _how_bad(relative: float) -> tuple[Severity, str]:
    if relative > _HOPELESS:
        return "error", "momentum-sum"
    return ("warning" if relative > _TRAINED * 1.1 else "note"), "noise"


def _what_to_do(relative: float) -> str:
    if relative > _HOPELESS:
        return "look for a missing ion, a column in another unit, or ions of different events in one row"
    if relative > _TRAINED * 1.1:
        return f"train for it: --noise {100 * relative:.3g}% (the default ends at 5 %)"
    return ""


def _stated(events: Events, noise: Noisiness) -> list[Finding]:
    """Compare the stated sigma with the sum."""
    if events.sigma is None or not (events.sigma > 0).all():
        return []
    squares = ((events.momenta.sum(axis=1) - noise.offset) ** 2).sum(axis=1) / len(events.molecule)
    ratio = float(np.sqrt(np.median(squares / events.sigma**2) / _CHI2_MEDIAN))
    if abs(ratio - 1.0) < 0.1 + 3.0 / np.sqrt(len(events)):
        return []
    shown = f"{ratio:.2g} times the noise" if ratio > 0.01 else "none of the noise"
    what = f"the sum of the momenta shows {shown} that the column sigma states"
    means = "a model told too little noise is overconfident, told too much it is vague"
    if ratio < 0.5:
        means += "; or momentum conservation was imposed on the noisy momenta, which hides their noise"
    return [Finding("warning", "sigma", what, means, "correct sigma", values={"ratio": ratio})]
