"""What momenta show without positions: noise and false coincidences in their sums, units in their energy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from flowcei.check.agreement import CHI2_MEDIAN, Noisiness, stated_sigma, sum_squares
from flowcei.check.diagnostic import Diagnostic, percent
from flowcei.experiment.detector import NOISE_FLOOR, rms_component
from flowcei.experiment.drift import measure_drift
from flowcei.physics.explosion import kinetic_energy, potential_energy
from flowcei.units import ELECTRONVOLT, MOMENTUM_UNITS

if TYPE_CHECKING:
    from flowcei.events.container import Events
    from flowcei.experiment.experiment import Experiment
    from flowcei.posterior.arrays import Bools, Floats

EXTREME = 1e-50, 1e50  # beyond which products of a few numbers over- or underflow
_CHI2_ONE = 0.45494  # median of one degree of freedom
_ENOUGH = 100  # events, for a share of 1 % to mean something
_TRAINED = 0.05  # the most noise that models are trained for where nobody says otherwise
_HOPELESS = 0.5  # noise over the rms component
_USUAL = 0.4, 1.4  # KER over U0 of the equilibrium: few molecules explode from elsewhere
_ENERGIES = 0.05, 20.0  # KER over U0 of the equilibrium: beyond, a unit is wrong


def extremes(events: Events) -> Iterator[Diagnostic]:
    """Say where numbers are so large or so small that nothing can be computed from them."""
    least, most = EXTREME
    size = np.abs(events.momenta).max(axis=(1, 2))
    bad = (size < least) | (size > most)
    if events.positions is not None:
        size = np.abs(events.positions).max(axis=(1, 2))
        bad |= (size > most) | ((size > 0) & (size < least))
    if bad.any():
        values = {"count": int(bad.sum()), "first": int(np.argmax(bad)) + 1}
        message = f"{bad.sum()} of {len(events)} events hold numbers beyond 1e50, or none above 1e-50"
        means = "no unit makes momenta or positions of them; nothing else was looked at"
        yield Diagnostic("error", "extreme", message, means, "remove the events", values=values)


def momentum_sums(events: Events, noise: Noisiness) -> Iterator[Diagnostic]:
    """Say what the sums of the momenta show."""
    values = {"relative": noise.relative, "absolute": noise.absolute}
    if noise.relative < NOISE_FLOOR:
        message = f"the momenta of an event sum to 0 (to {noise.relative:.1e} of the rms component)"
        means = "simulated without noise, or conservation was imposed: the sums then say nothing of the noise"
        todo = "of measured momenta state the noise: --noise"
        yield Diagnostic("note", "conserved-sums", message, means, todo, values=values)
    elif _are_velocities(events, noise.relative):
        message = "the numbers sum to 0 only when multiplied by the masses: they are velocities"
        means = "every momentum is wrong by the mass of its ion"
        todo = "multiply each by its mass, in electron masses"
        yield Diagnostic("error", "velocities", message, means, todo)
        return
    else:
        size = f"{percent(noise.relative)} of the rms component, {noise.absolute:.3g} hbar/bohr"
        message = f"the sum of the momenta shows noise of {size}, on each component"
        means = "a model must be trained for this level"
        if noise.relative > _HOPELESS:
            todo = "look for a missing ion, a column in another unit, or ions of different events in one row"
            yield Diagnostic("error", "momentum-sum", message, means, todo, values=values)
        elif noise.relative > 1.1 * _TRAINED:
            todo = f"train for it: --noise {100 * noise.relative:.3g}% (the default ends at 5 %)"
            yield Diagnostic("warning", "noise", message, means, todo, values=values)
        else:
            yield Diagnostic("note", "noise", message, means, values=values)
    yield from _stated_noise(events, noise)
    if noise.offset.any():
        message = f"the total momentum has a mean: {measure_drift(events.momenta).in_words(events.molecule)}"
        means = "the molecules flew, or the detector's zero is off; convert and sample subtract it (--drift)"
        values = {"offset": float(np.linalg.norm(noise.offset))}
        yield Diagnostic("note", "momentum-offset", message, means, values=values)
    if noise.far > 0.01 and len(events) >= _ENOUGH and noise.relative < _HOPELESS:
        message = f"in {percent(noise.far)} of the events the momenta sum to far more than in the others"
        means = "false coincidences or lost ions: no geometry explains such an event"
        todo, values = "remove events with a large total momentum", {"share": noise.far}
        yield Diagnostic("warning", "momentum-sum-outliers", message, means, todo, values=values)


def of_experiment(events: Events, experiment: Experiment) -> Iterator[Diagnostic]:
    """Compare the sums of calibrated momenta with the experiment that the file states."""
    sums = experiment.of(events.molecule).sums(events.momenta)
    measured = sums[:, (sums != 0).any(axis=0)]
    message = "the file states an experiment: momenta were brought to their true scale, without its drift"
    means = "noise and sums of momenta are judged by it, and a build-up of the charges is simulated"
    if not measured.size:
        yield Diagnostic("note", "experiment", f"{message}; its source is not known", means)
        return
    ratio = float(np.sqrt(np.median(measured**2) / _CHI2_ONE))
    message += f"; the sums of momenta spread {ratio:.2g} times as widely as it says"
    off = abs(ratio - 1.0) >= 0.1 + 3.0 / np.sqrt(measured.size)
    todo = "correct noise and source of the experiment" if off else ""
    yield Diagnostic(
        "warning" if off else "note", "experiment", message, means, todo, values={"ratio": ratio}
    )


def _are_velocities(events: Events, relative: float) -> bool:
    """Whether velocities conserve momentum where the numbers of the file do not."""
    masses = events.molecule.masses
    momenta = events.momenta * (masses / masses.mean())[:, None]
    total = np.linalg.norm(momenta.sum(axis=1), axis=1) / np.sqrt(len(masses))
    return float(np.median(total / rms_component(momenta))) <= relative / 3.0


def _stated_noise(events: Events, noise: Noisiness) -> Iterator[Diagnostic]:
    """Compare the stated sigma with the sums."""
    sigma = stated_sigma(events)
    if sigma is None:
        return
    ratio = float(np.sqrt(np.median(sum_squares(events, noise.offset) / sigma**2) / CHI2_MEDIAN))
    if abs(ratio - 1.0) >= 0.1 + 3.0 / np.sqrt(len(events)):
        shown = f"{ratio:.2g} times the noise" if ratio > 0.01 else "none of the noise"
        message = f"the sum of the momenta shows {shown} that the column sigma states"
        means = "a model told too little noise is overconfident, told too much it is vague"
        if ratio < 0.5:
            means += "; or momentum conservation was imposed on the noisy momenta, which hides their noise"
        yield Diagnostic("warning", "sigma", message, means, "correct sigma", values={"ratio": ratio})


def duplicates(events: Events) -> Iterator[Diagnostic]:
    """Count events that are there twice."""
    repeated = _repeated(events.momenta)
    if not repeated.any():
        return
    count, first = int(repeated.sum()), int(np.argmax(repeated)) + 1
    values = {"count": count, "first": first}
    message = f"{count} of {len(events)} events have the momenta of an earlier one (first: event {first})"
    if events.positions is not None:
        both = int(_repeated(np.concatenate([events.momenta, events.positions], axis=1)).sum())
        message += f", {count - both} of them with other positions" if both < count else ""
        values["identical"] = both
    means = "the same event in training and test rows makes a model look better than it is"
    yield Diagnostic("warning", "duplicates", message, means, "keep each event once", values=values)


def _repeated(array: Floats) -> Bools:
    import pandas as pd

    return pd.DataFrame(array.reshape(len(array), -1)).duplicated().to_numpy()


def identical_ions(events: Events) -> Iterator[Diagnostic]:
    """Say in which order ions stand that no detector tells apart."""
    for group in events.molecule.identical:
        names = ", ".join(events.molecule.labels[i] for i in group)
        steps = np.diff(np.linalg.norm(events.momenta[:, list(group)], axis=2), axis=1)
        falling, rising = float((steps <= 0).all(axis=1).mean()), float((steps >= 0).all(axis=1).mean())
        if max(falling, rising) == 1.0 and len(events) > 1:
            order = f"sorted by {'falling' if falling == 1.0 else 'rising'} momentum"
        else:
            order = f"not sorted by momentum ({100 * falling:.3g} % of the events have it falling)"
        message = f"{names} are identical ions, {order}"
        means = "flowcei sorts them itself; a model that does not would average over their order"
        values = {"falling": falling, "rising": rising}
        yield Diagnostic("note", "identical-ions", message, means, values=values)


def plausible_energy(events: Events) -> Diagnostic:
    """Judge the unit of momenta without positions: the KER beside U0 of the equilibrium."""
    molecule = events.molecule
    rest = abs(float(potential_energy(molecule.equilibrium, molecule.charges)))
    energy = float(np.median(kinetic_energy(events.momenta, molecule.masses)))
    ratio, values = energy / rest, {"ratio": energy / rest}
    times = f"{ratio:.3g} times the Coulomb energy of the equilibrium ({rest / ELECTRONVOLT:.4g} eV)"
    message = f"the KER is {energy / ELECTRONVOLT:.4g} eV (median), {times}"
    if _USUAL[0] < ratio < _USUAL[1]:
        return Diagnostic("note", "energy", message, "the momenta have a plausible size", values=values)
    if _ENERGIES[0] < ratio < _ENERGIES[1]:
        means = "another unit that is close, other charges, ions exchanged, or geometries far from rest"
        todo = "check units, charges and which ion is which"
        return Diagnostic("warning", "energy", message, means, todo, values=values)
    units = [name for name, atomic in MOMENTUM_UNITS.items() if 0.2 < ratio * atomic**2 < 2.0]
    message += f": as for momenta in {' or '.join(units)}" if units else ""
    means = "momenta in another unit, or other charges: every reconstructed length would be wrong"
    code = "units" if units else "scale"
    return Diagnostic("error", code, message, means, "convert momenta to hbar/bohr", values=values)
