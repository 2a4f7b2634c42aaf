"""Whether positions explain momenta, said in words; and if not, which charges, units or order would."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.check.agreement import (
    HARMLESS,
    ROUNDING,
    centred_variances,
    released_energy,
    residuals,
    resimulated,
    shape_difference,
)
from flowcei.check.diagnostic import Diagnostic, percent
from flowcei.experiment.experiment import stated_forward
from flowcei.experiment.likelihood import centred_momenta
from flowcei.physics.explosion import PLAIN, kinetic_energy
from flowcei.physics.priors.orders import all_orders, log_count
from flowcei.units import LENGTH_UNITS, MOMENTUM_UNITS

if TYPE_CHECKING:
    from flowcei.check.agreement import Agreement
    from flowcei.check.diagnostic import Severity
    from flowcei.events.container import Events
    from flowcei.posterior.arrays import Floats

_FEWEST = 20  # events from which other charges or orders are inferred
_TRIALS = 60  # events on which other charges are tried
_MOST_COMBINATIONS = 4096  # of charges
_MOST_CHARGE = 4
_MOST_ORDERS = 24
_TOLERANCE = 0.01  # of KE / U0
_LOOSEST = 0.05  # tolerance within which a unit is named
_CONSTANT = 0.3  # spread of KE / U0, above which no unit explains it
_SLIGHT = 0.05  # of KE / U0
_NEAR = 0.8, 1.25  # no unit is that close to another: a calibration is off, or a mass
_MOST_FACTOR = 8  # of the charges
_DECLARE = "declare these charges in a molecule file (--molecule my.toml)"


def explanation(agreement: Agreement) -> Iterator[Diagnostic]:
    """Say whether positions explain momenta, and if not, why not."""
    order = _other_order(agreement)
    if order is not None:
        yield order
    else:
        yield from _shapes(agreement)
        if agreement.one_shape:
            yield from _frames(agreement)
    if agreement.lost:
        message = f"in {agreement.lost} of {agreement.lost + len(agreement.events)} events ions coincide"
        means = "they have no finite energy and no momenta"
        yield Diagnostic("error", "coincident", message, means, "remove these events")


def _shapes(agreement: Agreement) -> Iterator[Diagnostic]:
    error, allowed = float(np.median(agreement.shape)), float(np.median(agreement.shape_of_noise))
    values = {"median": error, "of_noise": allowed, "noise": agreement.noise}
    compared = f"p_i.p_j of momenta and of re-simulated positions differ by {percent(error)} (median)"
    explained = error <= agreement.tolerated
    if not explained and len(agreement.shape) >= _FEWEST and (charges := _other_charges(agreement)):
        yield charges
        return
    if not agreement.one_shape:
        values["correlation"] = agreement.correlation
        message = f"{compared}; KE and U0 of the events are correlated by {agreement.correlation:.2f}"
        means = "the positions do not explain the momenta: no network can learn one from the other"
        todo = "look for rows or columns in another order, velocities, other charges or other forces"
        yield Diagnostic("error", "unexplained", message, means, todo, values=values)
        return
    yield _energies(agreement)
    if explained:
        message = compared + (f", {_as_noise(agreement)} ({percent(allowed)})" if allowed > ROUNDING else "")
        means = "up to orientation and scale the positions explain the momenta"
        yield Diagnostic("note", "explained", message, means, values=values)
    else:
        causes = "noise and motion at the start explain" if agreement.motion else "noise explains"
        message = f"{compared}, of which {causes} {percent(allowed)}"
        means = "noise that the sum does not show, ions that moved at the start, or other forces or masses"
        todo = "say how large the noise is (column sigma), or check masses and the model of the explosion"
        yield Diagnostic("warning", "unexplained", message, means, todo, values=values)
    odd = agreement.shape > np.maximum(0.3, 10.0 * np.maximum(error, agreement.shape_of_noise))
    if count := int(odd.sum()):
        message = f"{count} of {len(odd)} re-simulated events do not fit at all, the others do"
        means = "wrong pairs teach a model to be vague"
        yield Diagnostic("warning", "misfits", message, means, "remove them", values={"count": count})


def _frames(agreement: Agreement) -> Iterator[Diagnostic]:
    mirrored, rotated = float(agreement.mirrored.mean()), agreement.rotated
    if mirrored:
        message = f"{percent(mirrored)} of the events fit only as mirror images"
        means = "positions and momenta have opposite handedness: a coordinate changed its sign"
        todo = "turn the sign of one axis of the positions back in these events; no rotation can repair them"
        yield Diagnostic("error", "mirrored", message, means, todo, values={"share": mirrored})
    if rotated.any():
        angle, share = agreement.angle[rotated], float(rotated.mean())
        median, least, greatest = float(np.median(angle)), float(angle.min()), float(angle.max())
        which = "in every event" if share == 1 else f"in {percent(share)} of the events"
        size = f"{median:.4g} degrees (median; {least:.3g} to {greatest:.3g})"
        message = f"{which} positions and momenta are rotated apart, by {size}"
        means = "a model of raw coordinates learns next to nothing; one in the recoil frame learns it wrong"
        todo = "rotate both by the same matrix, or repair the file: flowcei check FILE --repair OUT"
        values = {"median": median, "least": least, "greatest": greatest, "share": share}
        yield Diagnostic("error", "frames", message, means, todo, values=values)
    elif not mirrored:
        median, of_noise = float(np.median(agreement.angle)), float(np.median(agreement.angle_of_noise))
        message = f"positions and momenta are in one frame: turned by {median:.2g} degrees (median)"
        message += f", {_as_noise(agreement)} ({of_noise:.2g})" if of_noise > 0.01 else ""
        means = "they may be rotated together, by one matrix"
        values = {"median": median, "of_noise": of_noise}
        yield Diagnostic("note", "one-frame", message, means, values=values)


def _as_noise(agreement: Agreement) -> str:
    return "as noise and motion at the start do" if agreement.motion else "as noise does"


def _other_order(agreement: Agreement) -> Diagnostic | None:
    """Look for identical ions that are numbered differently in positions and momenta."""
    molecule = agreement.events.molecule
    groups = molecule.identical
    if not groups or log_count(groups) > math.log(_MOST_ORDERS) + 1e-9 or len(agreement.shape) < _FEWEST:
        return None
    exchanged = [agreement.recorded[:, order] for order in all_orders(len(molecule), groups, _MOST_ORDERS)]
    shape = np.min([shape_difference(agreement.simulated, p) for p in exchanged], axis=0)
    apart = np.min([residuals(agreement.simulated, p) for p in exchanged], axis=0)
    allowed = 5.0 * agreement.slack * agreement.apart_of_noise + 2.0 * ROUNDING
    # Either every event falls into place, or, where frames differ as well, its shape does.
    swapped = (agreement.apart > allowed) & (apart < agreement.apart / 4.0)
    if (np.minimum(apart, agreement.apart) > allowed).mean() > 0.1 * swapped.mean():
        if agreement.tolerated >= np.median(agreement.shape) or not _explains(shape, agreement):
            return None
        swapped = agreement.shape > np.maximum(5.0 * shape, agreement.tolerated)
    share = float(swapped.mean())
    if share < 0.01:
        return None
    names = ", ".join(molecule.labels[i] for group in groups for i in group)
    message = f"in {percent(share)} of the events {names} are in another order in positions and momenta"
    means = "each ion is shown the momentum of another one"
    todo = "sort positions and momenta of identical ions by the same rule, together"
    return Diagnostic("error", "order", message, means, todo, values={"share": share})


def _explains(shape: Floats, agreement: Agreement) -> bool:
    """Whether differences (B,) of shapes are those of noise, or far smaller than they were."""
    median, before = float(np.median(shape)), float(np.median(agreement.shape))
    return median <= max(agreement.tolerated, min(HARMLESS, before / 5.0))


def _other_charges(agreement: Agreement) -> Diagnostic | None:
    """Look for small integer charges with which the positions explain the momenta."""
    events, molecule = agreement.events, agreement.events.molecule
    rows = np.linspace(0, len(events) - 1, min(_TRIALS, len(events))).astype(int)
    some, recorded = events[rows], agreement.recorded[rows]
    most = next((q for q in range(_MOST_CHARGE, 1, -1) if q ** len(molecule) <= _MOST_COMBINATIONS), 0)
    # Charges that are multiples of others give the same shape.
    ratios = (q for q in product(range(1, most + 1), repeat=len(molecule)) if math.gcd(*q) == 1)
    trials = [np.array(q, dtype=np.float64) for q in ratios]
    if not trials:
        return None
    charges = min(trials, key=lambda q: np.median(shape_difference(resimulated(some, q), recorded)))
    shape = shape_difference(resimulated(events, charges), agreement.recorded)
    if not _explains(shape, agreement):
        return None
    scale, spread = scale_of(replace(events, molecule=replace(molecule, charges=charges)), None)
    root = float(np.sqrt(scale))
    factor = round(root) if abs(root - round(root)) < 0.02 else 0
    whole = charges * (factor or 1)
    named, declared = (
        ", ".join(f"{label} {q:+g}" for label, q in zip(molecule.labels, values, strict=True))
        for values in (whole, molecule.charges)
    )
    now, before = percent(float(np.median(shape))), percent(float(np.median(agreement.shape)))
    message = f"the momenta are those of charges {named}{'' if factor else f' times {root:.3g}'}, "
    message += f"not of {declared} (p_i.p_j differ by {now}, with {declared} by {before})"
    means = "simulations of the declared charges give other momenta: models and checks would be wrong"
    values = {"charges": whole.tolist(), "ratio": scale, "spread": spread}
    return Diagnostic("error", "charges", message, means, _DECLARE, values=values)


def scale_of(events: Events, sigma: Floats | None) -> tuple[float, float]:
    """Return median and relative spread of KE / U0; the energy of the noise sigma (B,) is subtracted."""
    masses = events.molecule.masses
    kinetic = kinetic_energy(centred_momenta(events.momenta, masses), masses)
    if sigma is not None:
        kinetic = kinetic - sigma**2 * float((1.5 * centred_variances(masses) / masses).sum())
    ratio = kinetic / released_energy(events)
    low, median, high = np.percentile(ratio, (25, 50, 75))
    return float(median), float((high - low) / 1.349 / abs(median))


def _energies(agreement: Agreement) -> Diagnostic:
    """Say which charges or units make KE the potential energy U0."""
    charges = agreement.events.molecule.charges
    ratio, spread = scale_of(agreement.events, agreement.sigma)
    spread = max(spread, 1.5 * agreement.noise * agreement.slack)
    tolerance = _TOLERANCE + 6.0 * spread / np.sqrt(len(agreement.events))
    values: dict[str, Any] = {"ratio": ratio, "spread": spread}
    plain = stated_forward(agreement.events).name == PLAIN and not agreement.motion
    of = "U0" if plain else "the simulated KE"
    message = f"KE / {of} is {ratio:.4g} (median; spread up to {percent(spread)})"
    if abs(ratio - 1.0) <= tolerance:
        means = "charges, masses and units are those declared"
        return Diagnostic("note", "energy", message, means, values=values)
    severity: Severity = "error"
    best = _simplest(charges, ratio, min(tolerance, _LOOSEST)) if spread < _CONSTANT else []
    if best:
        message += ": as for " + ", or ".join(" and ".join(changes) for changes, *_ in best)
        changes, length, momentum, factor = best[0]
        if factor != 1.0:
            values["charges"] = (charges * factor).tolist()
        values |= {"length": length, "momentum": momentum}
        code, todo = "units", "convert positions to bohr and momenta to hbar/bohr"
        if factor != 1.0 and len(changes) == 1:
            code, todo = "charges", _DECLARE
    elif spread > _CONSTANT:
        code, message = "scale", f"{message}: it is not the same in every event"
        todo = "check masses and the pairing of rows; charges and units cannot explain it"
    else:
        code, todo, factor = "scale", "check charges, masses and units", float(np.sqrt(max(ratio, 0.0)))
        severity = "warning" if abs(ratio - 1.0) < _SLIGHT else "error"
        message += f": as for charges {factor:.3g} times the declared, "
        message += f"or momenta {factor:.3g} times too large"
        values["charge_factor"] = factor
    means = "re-simulated geometries do not give the momenta: weights, refinement and checks are wrong"
    return Diagnostic(severity, code, message, means, todo, values=values)


def _simplest(charges: Floats, ratio: float, tolerance: float) -> list[tuple[list[str], str, str, float]]:
    """Return what makes KE = U0 with one or two changes: in words, units of length and momentum, factor."""
    if _NEAR[0] < ratio < _NEAR[1]:
        return []
    factors = np.arange(1, _MOST_FACTOR + 1) / np.abs(charges).min()
    whole = [float(f) for f in factors if np.allclose(charges * f, np.round(charges * f))] or [1.0]
    fitting = []
    for length, momentum, factor in product(LENGTH_UNITS, MOMENTUM_UNITS, whole):
        expected = factor**2 / (LENGTH_UNITS[length] * MOMENTUM_UNITS[momentum] ** 2)
        if abs(ratio / expected - 1.0) <= tolerance:
            changes = [f"positions in {length}"] * (length != "bohr")
            changes += [f"momenta in {momentum}"] * (momentum != "hbar/bohr")
            changes += [f"charges {', '.join(f'{q * factor:+g}' for q in charges)}"] * (factor != 1.0)
            fitting.append((changes, length, momentum, factor))
    fewest = min((len(changes) for changes, *_ in fitting), default=3)
    return [other for other in fitting if len(other[0]) == fewest][:3] if fewest < 3 else []
