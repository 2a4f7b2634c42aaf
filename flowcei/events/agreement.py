"""Whether the positions of events explain their momenta: shape, scale and frame.

Momenta are re-simulated from the positions and compared with the recorded ones through what
does not depend on orientation, the Gram matrices p_i . p_j. Divided by their trace they do
not depend on units and on a common factor of the charges either.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import permutations, product
from typing import TYPE_CHECKING

import numpy as np

from flowcei.events.alignment import angles_of, best_rotations, needed_positions, residuals, resimulated
from flowcei.events.finding import Finding, percent
from flowcei.events.scale import explain_scale, scale_of
from flowcei.physics.detector import rms_component
from flowcei.physics.explosion import kinetic_energy, potential_energy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from flowcei.events.conservation import Noisiness
    from flowcei.events.container import Events
    from flowcei.molecule import Molecule

__all__ = ["Agreement", "agreement_findings", "compare_with_simulation"]

_ROUNDING = 1e-3  # of momenta: less than this is no disagreement (rounded columns, other masses)
_HARMLESS = 0.1
_PAIRED = 0.5  # correlation of energies, below which rows do not belong together
_DRAWS = 200  # of the noise, over all events
_FEWEST = 20  # events from which other charges or orders are inferred
_TRIALS = 60  # events on which other charges are tried
_MOST_COMBINATIONS = 4096
_MOST_CHARGE = 4
_MOST_ORDERS = 24


@dataclass(frozen=True, eq=False)
class Agreement:
    """Recorded momenta beside those re-simulated from the positions.

    Attributes:
        events: Those that could be followed.
        lost: How many could not: ions that coincide.
        recorded: Momenta without the motion of the centre of mass, (B, N, 3), hbar / bohr.
        simulated: Re-simulated, scaled to the size of the recorded ones, (B, N, 3).
        scale: Median of KE / U0.
        spread: Relative spread of KE / U0 from event to event.
        noise: Median relative noise.
        slack: By what factor few events may exceed what noise explains.
        shape: Relative difference of the Gram matrices over their traces, (B,).
        shape_of_noise: The same of the re-simulated momenta before and after noise, (B,).
        apart: Distance of recorded and re-simulated momenta, over their size, (B,).
        turned: The same after the best rotation, (B,).
        apart_of_noise: What noise alone does to `apart`, (B,).
        angle: Of the best rotation, (B,), degrees.
        angle_of_noise: What noise alone does to `angle`, (B,), degrees.
        mirrored: Whether only a reflection makes them agree, (B,).
    """

    events: Events
    lost: int
    recorded: NDArray[np.float64]
    simulated: NDArray[np.float64]
    scale: float
    spread: float
    noise: float
    slack: float
    shape: NDArray[np.float64]
    shape_of_noise: NDArray[np.float64]
    apart: NDArray[np.float64]
    turned: NDArray[np.float64]
    apart_of_noise: NDArray[np.float64]
    angle: NDArray[np.float64]
    angle_of_noise: NDArray[np.float64]
    mirrored: NDArray[np.bool_]

    @property
    def tolerated(self) -> float:
        """The median `shape` up to which noise explains it."""
        return float((0.5 + self.slack) * np.median(self.shape_of_noise) + _ROUNDING)

    @property
    def one_shape(self) -> bool:
        """Whether the positions explain the momenta up to orientation and scale."""
        middle = float(np.median(self.shape))
        # Near an equilibrium all shapes are alike: there rows in another order show in the energies.
        paired = len(self.shape) < _FEWEST or self.correlation > _PAIRED
        return middle <= self.tolerated or (middle <= _HARMLESS and paired)

    @property
    def correlation(self) -> float:
        """The correlation of log KE and log U0 over the events."""
        molecule = self.events.molecule
        kinetic = np.log(kinetic_energy(self.recorded, molecule.masses))
        potential = np.log(np.abs(potential_energy(needed_positions(self.events), molecule.charges)))
        if np.ptp(kinetic) == 0 or np.ptp(potential) == 0:
            return 0.0
        return float(np.corrcoef(kinetic, potential)[0, 1])

    @property
    def rotated(self) -> NDArray[np.bool_]:
        """Which events have positions and momenta in different frames, (B,)."""
        usual = float(np.percentile(self.turned, 95))
        far = self.apart > 5.0 * np.maximum(self.slack * self.apart_of_noise, usual) + _ROUNDING
        # All of them by a little: invisible in one event, plain in the median.
        middle = float(np.median(self.apart))
        all_apart = middle > 2.0 * self.slack * float(np.median(self.apart_of_noise)) + _ROUNDING
        if all_apart and middle > 2.5 * float(np.median(self.turned)):
            far = far | (self.apart > 2.5 * self.turned)
        return far & ~self.mirrored


def compare_with_simulation(events: Events, noise: Noisiness) -> Agreement | None:
    """Re-simulate events and compare.

    Args:
        events: With positions.
        noise: What their sums show.

    Returns:
        The comparison, or None where no event can be followed.

    Raises:
        DataError: For events that have momenta only.

    Example:
        >>> import flowcei
        >>> from flowcei.events.conservation import noisiness
        >>> events = flowcei.simulate("ocs", 20, seed=1)
        >>> found = compare_with_simulation(events, noisiness(events))
        >>> found.one_shape, bool(found.rotated.any())
        (True, False)
    """
    simulated = resimulated(events)
    followed = np.asarray(np.isfinite(simulated).all(axis=(1, 2)))
    if not followed.any():
        return None
    kept, sigma = events[followed], noise.sigma(events)[followed]
    scale, spread = scale_of(kept, sigma)
    recorded = _without_total(kept.momenta, kept.molecule.masses)
    level = float(np.median(sigma / rms_component(kept.momenta)))
    fitted = simulated[followed]
    fitted *= np.sqrt((recorded**2).sum(axis=(1, 2)) / (fitted**2).sum(axis=(1, 2)))[:, None, None]
    noisy = _noisy(kept, fitted, sigma)
    shape_of_noise = np.mean([_shape_difference(draw, fitted) for draw in noisy], axis=0)
    apart_of_noise = np.mean([residuals(draw, fitted) for draw in noisy], axis=0)
    slack = _slack(len(kept), known=kept.sigma is not None and bool((kept.sigma > 0).all()))
    rotation = best_rotations(fitted, recorded, noise=level)
    turned = residuals(fitted @ np.swapaxes(rotation, 1, 2), recorded)
    reflected = best_rotations(fitted, recorded, mirror=True)
    mirrored = residuals(fitted @ np.swapaxes(reflected, 1, 2), recorded)
    usual = float(np.percentile(np.minimum(turned, mirrored), 95))
    allowed = 5.0 * np.maximum(slack * apart_of_noise, usual)
    return Agreement(
        events=kept,
        lost=int((~followed).sum()),
        recorded=recorded,
        simulated=fitted,
        scale=scale,
        spread=spread,
        noise=level,
        slack=slack,
        shape=_shape_difference(fitted, recorded),
        shape_of_noise=shape_of_noise,
        apart=residuals(fitted, recorded),
        turned=turned,
        apart_of_noise=apart_of_noise,
        angle=angles_of(rotation),
        angle_of_noise=angles_of(best_rotations(fitted, noisy[0], noise=level)),
        mirrored=(turned > allowed + _ROUNDING) & (mirrored <= allowed),
    )


def _noisy(
    events: Events, momenta: NDArray[np.float64], sigma: NDArray[np.float64]
) -> list[NDArray[np.float64]]:
    """Draw what noise alone would do, often enough for few events."""
    # Drawn, not derived: it depends on the shape of the explosion.
    rng, masses = np.random.default_rng(0), events.molecule.masses
    draws = max(1, _DRAWS // len(events))
    return [
        _without_total(momenta + sigma[:, None, None] * rng.standard_normal(momenta.shape), masses)
        for _ in range(draws)
    ]


def _slack(count: int, *, known: bool) -> float:
    """Return how far above its expectation the median of `count` events may lie.

    A sigma that is estimated from the sums of few events may itself be far too small.
    """
    few = 1.0 / np.sqrt(count)
    return float((1.0 + 4.0 * few) * (1.0 if known else 1.0 + 3.0 * few))


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


def _without_total(p: NDArray[np.float64], masses: NDArray[np.float64]) -> NDArray[np.float64]:
    total = p.sum(axis=1, keepdims=True)
    out: NDArray[np.float64] = p - (masses / masses.sum())[:, None] * total
    return out


def _shape_difference(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the relative difference (B,) of the Gram matrices over their traces."""
    first, second = _shape(a), _shape(b)
    out: NDArray[np.float64] = np.linalg.norm(first - second, axis=(1, 2)) / np.linalg.norm(
        second, axis=(1, 2)
    )
    return out


def _shape(p: NDArray[np.float64]) -> NDArray[np.float64]:
    gram = p @ np.swapaxes(p, 1, 2)
    out: NDArray[np.float64] = gram / np.trace(gram, axis1=1, axis2=2)[:, None, None]
    return out


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
        what = compared + (f", as noise does ({percent(allowed)})" if allowed > _ROUNDING else "")
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
    shape = np.min([_shape_difference(found.simulated, found.recorded[:, o]) for o in orders], axis=0)
    apart = np.min([residuals(found.simulated, found.recorded[:, o]) for o in orders], axis=0)
    allowed = 5.0 * found.slack * found.apart_of_noise + 2.0 * _ROUNDING
    # Either every event falls into place, or, where frames differ as well, its shape does.
    swapped = (found.apart > allowed) & (apart < found.apart / 4.0)
    if (np.minimum(apart, found.apart) > allowed).mean() > 0.1 * swapped.mean():
        middle, before = float(np.median(shape)), float(np.median(found.shape))
        if before <= found.tolerated or middle > max(found.tolerated, min(_HARMLESS, before / 5.0)):
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
    if not groups or np.prod([math.factorial(len(group)) for group in groups]) > _MOST_ORDERS:
        return []
    orders = []
    for choice in product(*(permutations(group) for group in groups)):
        order = np.arange(len(molecule))
        for group, places in zip(groups, choice, strict=True):
            order[list(group)] = places
        orders.append(order)
    return orders


def _other_charges(found: Agreement) -> Finding | None:
    """Look for small integer charges with which the positions explain the momenta."""
    rows = np.linspace(0, len(found.events) - 1, min(_TRIALS, len(found.events))).astype(int)
    few, recorded = found.events[rows], found.recorded[rows]
    molecule = found.events.molecule
    trials = [
        (float(np.median(_shape_difference(resimulated(few, charges), recorded))), charges)
        for charges in _charge_ratios(len(molecule))
    ]
    if not trials:
        return None
    _, charges = min(trials, key=lambda trial: trial[0])
    shape = _shape_difference(resimulated(found.events, charges), found.recorded)
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
    return middle <= found.tolerated or (middle < _HARMLESS and middle < before / 5.0)


def _charge_ratios(n: int) -> Iterator[NDArray[np.float64]]:
    """Yield all small integer charges that are not multiples of others."""
    most = next((q for q in range(_MOST_CHARGE, 1, -1) if q**n <= _MOST_COMBINATIONS), 0)
    for charges in product(range(1, most + 1), repeat=n):
        if np.gcd.reduce(charges) == 1:
            yield np.array(charges, dtype=np.float64)
