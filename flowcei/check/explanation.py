"""Whether positions explain momenta, said in words; and if not, what would."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from flowcei.check.agreement import HARMLESS, ROUNDING, shape_difference
from flowcei.check.alignment import residuals, resimulated
from flowcei.check.finding import Finding, percent
from flowcei.check.scale import explain_scale, scale_of
from flowcei.physics.priors.orders import all_orders, log_count

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from flowcei.check.agreement import Agreement
    from flowcei.molecules.molecule import Molecule

_FEWEST = 20  # events from which other charges or orders are inferred
_TRIALS = 60  # events on which other charges are tried
_MOST_COMBINATIONS = 4096
_MOST_CHARGE = 4
_MOST_ORDERS = 24


def agreement_findings(found: Agreement) -> list[Finding]:
    """Say whether positions explain momenta, and if not, why not."""
    out = []
    if found.lost:
        what = f"in {found.lost} of {found.lost + len(found.events)} events ions coincide"
        means = "they have no finite energy and no momenta"
        out.append(Finding("error", "coincident", what, means, "remove these events"))
    order = _other_order(found)
    if order is not None:
        return [order, *out]
    out += _frame_findings(found) if found.one_shape else []
    return [*_shape_findings(found), *out]


def _shape_findings(found: Agreement) -> list[Finding]:
    error, allowed = float(np.median(found.shape)), float(np.median(found.shape_of_noise))
    values = {"median": error, "of_noise": allowed, "noise": found.noise}
    compared = f"p_i.p_j of momenta and of re-simulated positions differ by {percent(error)} (median)"
    if error > found.tolerated and len(found.shape) >= _FEWEST:
        cause = _other_charges(found)
        if cause is not None:
            return [cause]
    if not found.one_shape:
        energy = found.correlation
        what = f"{compared}; KE and U0 of the events are correlated by {energy:.2f}"
        means = "the positions do not explain the momenta: no network can learn one from the other"
        todo = "look for rows or columns in another order, velocities, other charges or other forces"
        return [Finding("error", "unexplained", what, means, todo, values=values | {"correlation": energy})]
    out = explain_scale(found.events, found.scale, max(found.spread, 1.5 * found.noise * found.slack))
    if error > found.tolerated:
        what = f"{compared}, of which noise explains {percent(allowed)}"
        means = "noise that the sum does not show, ions that moved at the start, or other forces or masses"
        todo = "say how large the noise is (column sigma), or check masses and the model of the explosion"
        out.append(Finding("warning", "unexplained", what, means, todo, values=values))
    else:
        what = compared + (f", as noise does ({percent(allowed)})" if allowed > ROUNDING else "")
        means = "up to orientation and scale the positions explain the momenta"
        out.append(Finding("note", "explained", what, means, values=values))
    odd = found.shape > np.maximum(0.3, 10.0 * np.maximum(error, found.shape_of_noise))
    if odd.any():
        what = f"{int(odd.sum())} of {len(odd)} re-simulated events do not fit at all, the others do"
        means = "wrong pairs teach a model to be vague"
        out.append(
            Finding("warning", "misfits", what, means, "remove them", values={"count": int(odd.sum())})
        )
    return out


def _frame_findings(found: Agreement) -> list[Finding]:
    out = []
    share = float(found.mirrored.mean())
    if share:
        what = f"{percent(share)} of the events fit only as mirror images"
        means = "positions and momenta have opposite handedness: a coordinate changed its sign"
        todo = "turn the sign of one axis of the positions back in these events; no rotation can repair them"
        out.append(Finding("error", "mirrored", what, means, todo, values={"share": share}))
    rotated = found.rotated
    angle = found.angle[rotated]
    if rotated.any():
        middle, low, high = float(np.median(angle)), float(angle.min()), float(angle.max())
        share = float(rotated.mean())
        which = "in every event" if share == 1 else f"in {percent(share)} of the events"
        what = (
            f"{which} positions and momenta are rotated apart, by {middle:.4g} degrees "
            f"(median; {low:.3g} to {high:.3g})"
        )
        means = "a model of raw coordinates learns next to nothing; one in the recoil frame learns it wrong"
        todo = "rotate both by the same matrix, or repair the file: flowcei check FILE --repair OUT"
        values = {"median": middle, "least": low, "greatest": high, "share": share}
        out.append(Finding("error", "frames", what, means, todo, values=values))
    elif not share:
        middle, usual = float(np.median(found.angle)), float(np.median(found.angle_of_noise))
        what = f"positions and momenta are in one frame: turned by {middle:.2g} degrees (median)"
        what += f", as noise does ({usual:.2g})" if usual > 0.01 else ""
        means = "they may be rotated together, by one matrix"
        out.append(Finding("note", "one-frame", what, means, values={"median": middle, "of_noise": usual}))
    return out


def _other_order(found: Agreement) -> Finding | None:
    """Look for identical ions that are numbered differently in positions and momenta."""
    orders = _orders(found.events.molecule)
    if not orders or len(found.shape) < _FEWEST:
        return None
    shape = np.min([shape_difference(found.simulated, found.recorded[:, o]) for o in orders], axis=0)
    apart = np.min([residuals(found.simulated, found.recorded[:, o]) for o in orders], axis=0)
    allowed = 5.0 * found.slack * found.apart_of_noise + 2.0 * ROUNDING
    # Either every event falls into place, or, where frames differ as well, its shape does.
    swapped = (found.apart > allowed) & (apart < found.apart / 4.0)
    if (np.minimum(apart, found.apart) > allowed).mean() > 0.1 * swapped.mean():
        middle, before = float(np.median(shape)), float(np.median(found.shape))
        if before <= found.tolerated or middle > max(found.tolerated, min(HARMLESS, before / 5.0)):
            return None
        swapped = found.shape > np.maximum(5.0 * shape, found.tolerated)
    share = float(swapped.mean())
    if share < 0.01:
        return None
    molecule = found.events.molecule
    names = ", ".join(molecule.labels[i] for group in molecule.identical for i in group)
    what = f"in {percent(share)} of the events {names} are in another order in positions and momenta"
    means = "each ion is shown the momentum of another one"
    todo = "sort positions and momenta of identical ions by the same rule, together"
    return Finding("error", "order", what, means, todo, values={"share": share})


def _orders(molecule: Molecule) -> list[NDArray[np.int64]]:
    """Return the ways to exchange identical ions, each (N,); none where there are too many."""
    groups = molecule.identical
    if not groups or log_count(groups) > math.log(_MOST_ORDERS) + 1e-9:
        return []
    return list(all_orders(len(molecule), groups, _MOST_ORDERS))


def _other_charges(found: Agreement) -> Finding | None:
    """Look for small integer charges with which the positions explain the momenta."""
    rows = np.linspace(0, len(found.events) - 1, min(_TRIALS, len(found.events))).astype(int)
    few, recorded = found.events[rows], found.recorded[rows]
    molecule = found.events.molecule
    trials = [
        (float(np.median(shape_difference(resimulated(few, charges), recorded))), charges)
        for charges in _charge_ratios(len(molecule))
    ]
    if not trials:
        return None
    _, charges = min(trials, key=lambda trial: trial[0])
    shape = shape_difference(resimulated(found.events, charges), found.recorded)
    if not _explains(shape, found):
        return None
    scale, spread = scale_of(replace(found.events, molecule=replace(molecule, charges=charges)), None)
    factor = round(np.sqrt(scale)) if abs(np.sqrt(scale) - round(np.sqrt(scale))) < 0.02 else 0
    fits = ", ".join(f"{k} {q * (factor or 1):+g}" for k, q in zip(molecule.labels, charges, strict=True))
    declared = ", ".join(f"{k} {q:+g}" for k, q in zip(molecule.labels, molecule.charges, strict=True))
    what = (
        f"the momenta are those of charges {fits}{'' if factor else f' times {np.sqrt(scale):.3g}'}, "
        f"not of {declared} (p_i.p_j differ by {percent(float(np.median(shape)))}, "
        f"with {declared} by {percent(float(np.median(found.shape)))})"
    )
    means = "simulations of the declared charges give other momenta: models and checks would be wrong"
    todo = "declare these charges in a molecule file (--molecule my.toml)"
    values = {"charges": (charges * (factor or 1)).tolist(), "ratio": scale, "spread": spread}
    return Finding("error", "charges", what, means, todo, values=values)


def _explains(shape: NDArray[np.float64], found: Agreement) -> bool:
    middle, before = float(np.median(shape)), float(np.median(found.shape))
    return middle <= found.tolerated or (middle < HARMLESS and middle < before / 5.0)


def _charge_ratios(n: int) -> Iterator[NDArray[np.float64]]:
    """Yield all small integer charges that are not multiples of others."""
    most = next((q for q in range(_MOST_CHARGE, 1, -1) if q**n <= _MOST_COMBINATIONS), 0)
    for charges in product(range(1, most + 1), repeat=n):
        if np.gcd.reduce(charges) == 1:
            yield np.array(charges, dtype=np.float64)
