"""KE = U0: what a constant ratio other than 1 says about charges and units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.check.alignment import needed_positions, without_total
from flowcei.check.finding import Finding, percent
from flowcei.physics.explosion import kinetic_energy, potential_energy
from flowcei.units import ELECTRONVOLT, LENGTH_UNITS, MOMENTUM_UNITS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from flowcei.check.finding import Severity
    from flowcei.events.container import Events

_TOLERANCE = 0.01
_LOOSEST = 0.05
_CONSTANT = 0.3
_SLIGHT = 0.05
_NEAR = (0.8, 1.25)
_MOST_CHARGE = 8
_USUAL = (0.4, 1.4)  # KER over U0 of the equilibrium: few molecules explode from elsewhere
_ENERGIES = (0.05, 20.0)  # KER over U0 of the equilibrium: beyond, a unit is wrong


def scale_of(events: Events, sigma: NDArray[np.float64] | None) -> tuple[float, float]:
    """Return median and relative spread of KE / U0; the energy of the noise sigma (B,) is subtracted."""
    molecule = events.molecule
    m, share = molecule.masses, molecule.masses / molecule.masses.sum()
    kinetic = kinetic_energy(without_total(events.momenta, m), m)
    if sigma is not None:
        kept = 1.0 - 2.0 * share + len(m) * share**2  # of the variance, without the total
        kinetic = kinetic - sigma**2 * float((1.5 * kept / m).sum())
    ratio = kinetic / np.abs(potential_energy(needed_positions(events), molecule.charges))
    middle = float(np.median(ratio))
    low, high = np.percentile(ratio, (25, 75))
    return middle, float((high - low) / 1.349 / abs(middle))


@dataclass(frozen=True)
class _Guess:
    """A set of units and a factor of the charges that would make KE = U0."""

    length: str
    momentum: str
    factor: float
    ratio: float

    @property
    def changes(self) -> int:
        return (self.length != "bohr") + (self.momentum != "hbar/bohr") + (self.factor != 1.0)

    def text(self, charges: NDArray[np.float64]) -> str:
        parts = [f"positions in {self.length}"] * (self.length != "bohr")
        parts += [f"momenta in {self.momentum}"] * (self.momentum != "hbar/bohr")
        scaled = ", ".join(f"{q * self.factor:+g}" for q in charges)
        parts += [f"charges {scaled}"] * (self.factor != 1.0)
        return " and ".join(parts)


def _guesses(charges: NDArray[np.float64]) -> Iterator[_Guess]:
    least = float(np.abs(charges).min())
    factors = [k / least for k in range(1, _MOST_CHARGE + 1)]
    whole = [f for f in factors if np.allclose(charges * f, np.round(charges * f))] or [1.0]
    for length, bohr in LENGTH_UNITS.items():
        for momentum, atomic in MOMENTUM_UNITS.items():
            for factor in whole:
                yield _Guess(length, momentum, factor, factor**2 / (bohr * atomic**2))


def explain_scale(events: Events, ratio: float, spread: float) -> list[Finding]:
    """Say which charges or units make KE the potential energy U0: median of KE / U0, relative spread."""
    tolerance = _TOLERANCE + 6.0 * spread / np.sqrt(len(events))
    values: dict[str, Any] = {"ratio": ratio, "spread": spread}
    fact = f"KE / U0 is {ratio:.4g} (median; spread up to {percent(spread)})"
    if abs(ratio - 1.0) <= tolerance:
        means = "charges, masses and units are those declared"
        return [Finding("note", "energy", fact, means, values=values)]
    best = _simplest(events.molecule.charges, ratio, min(tolerance, _LOOSEST)) if spread < _CONSTANT else []
    severity: Severity = "error"
    if best:
        guess, charges = best[0], events.molecule.charges
        code = "charges" if guess.factor != 1.0 and guess.changes == 1 else "units"
        what = f"{fact}: as for " + ", or ".join(g.text(charges) for g in best)
        if guess.factor != 1.0:
            values |= {"charges": (charges * guess.factor).tolist()}
        values |= {"length": guess.length, "momentum": guess.momentum}
        todo = (
            "declare these charges in a molecule file (--molecule my.toml)"
            if code == "charges"
            else "convert positions to bohr and momenta to hbar/bohr"
        )
    elif spread > _CONSTANT:
        code, what = "scale", f"{fact}: it is not the same in every event"
        todo = "check masses and the pairing of rows; charges and units cannot explain it"
    else:
        code, factor = "scale", float(np.sqrt(max(ratio, 0.0)))
        severity = "warning" if abs(ratio - 1.0) < _SLIGHT else "error"
        what = (
            f"{fact}: as for charges {factor:.3g} times the declared, or momenta {factor:.3g} times too large"
        )
        todo = "check charges, masses and units"
        values |= {"charge_factor": factor}
    means = "re-simulated geometries do not give the momenta: weights, refinement and checks are wrong"
    return [Finding(severity, code, what, means, todo, values=values)]


def _simplest(charges: NDArray[np.float64], ratio: float, tolerance: float) -> list[_Guess]:
    """Return the guesses with the fewest changes that make KE = U0, one or two changes."""
    if _NEAR[0] < ratio < _NEAR[1]:
        return []  # no unit is that close to another: a calibration is off, or a mass
    fitting = [g for g in _guesses(charges) if abs(ratio / g.ratio - 1.0) <= tolerance]
    fewest = min((g.changes for g in fitting), default=3)
    return [g for g in fitting if g.changes == fewest][:3] if fewest < 3 else []


def plausible_energy(events: Events) -> list[Finding]:
    """Judge the unit of momenta without positions: the KER beside U0 of the equilibrium."""
    molecule = events.molecule
    rest = abs(float(potential_energy(molecule.equilibrium, molecule.charges)))
    energy = float(np.median(kinetic_energy(events.momenta, molecule.masses)))
    ratio = energy / rest
    fact = (
        f"the KER is {energy / ELECTRONVOLT:.4g} eV (median), {ratio:.3g} times the Coulomb energy "
        f"of the equilibrium ({rest / ELECTRONVOLT:.4g} eV)"
    )
    values = {"ratio": ratio}
    if _ENERGIES[0] < ratio < _ENERGIES[1] and not _USUAL[0] < ratio < _USUAL[1]:
        means = "another unit that is close, other charges, ions exchanged, or geometries far from rest"
        todo = "check units, charges and which ion is which"
        return [Finding("warning", "energy", fact, means, todo, values=values)]
    if _ENERGIES[0] < ratio < _ENERGIES[1]:
        return [Finding("note", "energy", fact, "the momenta have a plausible size", values=values)]
    fitting = [name for name, atomic in MOMENTUM_UNITS.items() if 0.2 < ratio * atomic**2 < 2.0]
    what = fact + (f": as for momenta in {' or '.join(fitting)}" if fitting else "")
    means = "momenta in another unit, or other charges: every reconstructed length would be wrong"
    code = "units" if fitting else "scale"
    return [Finding("error", code, what, means, "convert momenta to hbar/bohr", values=values)]
