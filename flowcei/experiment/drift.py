"""Drift of the molecular beam, measured from the sums of momenta and subtracted."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flowcei.errors import UsageError
from flowcei.experiment.detector import NOISE_FLOOR, rms_component
from flowcei.units import KILOMETRE_PER_SECOND, momentum_factor

if TYPE_CHECKING:
    from flowcei.events.container import Events
    from flowcei.molecules.molecule import Molecule

_NORMAL_MAD = 1.4826  # standard deviation of a normal distribution over its median absolute deviation
_ALONG = 0.999  # cosine with an axis above which a drift is said to be along it
_CLIP = 3.0  # standard deviations
_CLIPPED = 0.9866  # standard deviation of a normal distribution cut at 3, over that of the whole
_SIGNIFICANT = 5.0  # standard errors on one of three axes: false once in 600,000 runs
_FEWEST = 30  # with fewer events the error itself is too uncertain: Student's t with 29 exceeds 5 at 3e-5
# A jet that turns all its enthalpy, gamma / (gamma - 1) k T for each molecule, into motion flies at
# sqrt(2 gamma / (gamma - 1) k T / m). Helium (gamma 5/3, m = 4.003 u) from 300 K: 1,765 m/s, from 500 K:
# 2,279 m/s; the fastest gas, hydrogen (7/5, 2.016 u), from 300 K: 2,943 m/s. What is seeded in it is slower.
_FASTEST = 3000.0  # m/s
_NUMBER = r"\s*([-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[-+]?[0-9]{1,2})?)\s*"
_STATED = re.compile(rf"{_NUMBER},{_NUMBER},{_NUMBER}([a-z][a-z /]*)?", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Drift:
    """Momentum that the molecules of a run had before they exploded, along the lab axes."""

    momentum: NDArray[np.float64]  # mean of the sums, (3,), hbar / bohr
    error: NDArray[np.float64]  # its standard error, (3,); 0 where it was stated
    spread: NDArray[np.float64]  # of the sums, (3,): spread^2 = sum_i sigma_i^2 (noise) + s^2 (of the source)
    floor: float = 0.0  # smaller sums are rounding, hbar / bohr
    events: int = 0  # how many it was measured on; 0 where it was stated

    @property
    def significant(self) -> bool:
        """Whether it is beyond statistics and rounding on any axis."""
        if not self.events:
            return bool(self.momentum.any())
        least = np.maximum(_SIGNIFICANT * self.error, self.floor)
        return self.events >= _FEWEST and bool((np.abs(self.momentum) > least).any())

    def velocity(self, molecule: Molecule) -> float:
        """Speed of the molecule, m/s."""
        speed = float(np.linalg.norm(self.momentum)) / float(molecule.masses.sum())
        return 1000.0 * speed / KILOMETRE_PER_SECOND

    def in_words(self, molecule: Molecule) -> str:
        """The drift with its error and as a velocity, such as ``28 hbar/bohr along x (559 m/s)``."""
        error = float(self.error.max())
        digits = max(0, 1 - math.floor(math.log10(error))) if error > 0 else 0
        axis = int(np.abs(self.momentum).argmax())
        components = [f"{p:.{digits}f}" for p in self.momentum]
        value, along = f"({', '.join(components)})", ""
        if abs(self.momentum[axis]) > _ALONG * np.linalg.norm(self.momentum):
            value, along = components[axis], f" along {'xyz'[axis]}"
        shown = f" +/- {error:.{digits}f}" if error > 0 else ""
        return f"{value}{shown} hbar/bohr{along} ({self.velocity(molecule):.0f} m/s)"

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for the origin of events."""
        table: dict[str, Any] = {
            "momentum": self.momentum.tolist(),
            "unit": "hbar/bohr",
            "events": self.events,
        }
        if self.events:
            table |= {"error": self.error.tolist(), "spread": self.spread.tolist()}
        return table


def measure_drift(momenta: NDArray[np.float64]) -> Drift:
    """Mean and spread of the sums of momenta (B, N, 3), hbar / bohr; what is not finite is left out.

    It is the mean of the sums within three standard deviations of their median on all axes: false
    coincidences, whose sums lie far out, move it little, and of a sound run it uses 99 %. The median
    itself would need 1.6 times the events.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        total, size = momenta.sum(axis=1), rms_component(momenta)
        sound = np.isfinite(size) & np.isfinite(total).all(axis=1)
        total = total[sound]
    if not len(total):
        return Drift(np.zeros(3), np.zeros(3), np.zeros(3), events=1)
    floor = NOISE_FLOOR * float(np.median(size[sound]))
    distance = np.abs(total - np.median(total, axis=0))
    width = np.maximum(_NORMAL_MAD * np.median(distance, axis=0), floor)
    core = total[(distance <= _CLIP * width).all(axis=1)]
    if not len(core):  # few events, each far out on another axis
        core = total
    spread = core.std(axis=0) / _CLIPPED
    return Drift(core.mean(axis=0), spread / np.sqrt(len(core)), spread, floor, len(core))


def parse_drift(text: str, molecule: Molecule) -> Drift | None:
    """The drift ``"28,0,0"`` (hbar / bohr) or ``"560,0,0 m/s"`` of a molecule; 0 of none, None of auto."""
    if text == "auto":
        return None
    match = _STATED.fullmatch("0,0,0" if text == "none" else text)
    if match is None:
        forms = "auto, none, X,Y,Z in hbar/bohr, or such as '560,0,0 m/s'"
        raise UsageError(f"--drift is {text!r}; it must be {forms}")
    factor, is_velocity = momentum_factor(match[4] or "hbar/bohr")
    momentum = factor * np.array([float(match[k]) for k in (1, 2, 3)])
    if is_velocity:
        momentum *= molecule.masses.sum()
    return Drift(momentum, np.zeros(3), np.zeros(3))


def without_drift(events: Events, drift: str = "auto") -> Events:
    """Return events without the drift of the beam, each ion without its share by mass.

    What was subtracted is in their `origin`. `flowcei.read_events` leaves momenta as they are; the
    commands `sample`, `convert`, `compare` and `calibrate` subtract it. Training needs no such thing:
    a model sees momenta without the motion of the centre of mass, and noise is measured about the drift.

    Args:
        events: Of one run.
        drift: ``auto`` measures it, ``none`` and ``"28,0,0"`` or ``"560,0,0 m/s"`` state it.

    Raises:
        UsageError: For a drift that cannot be understood.

    Example:
        >>> import flowcei
        >>> events = flowcei.simulate("ocs", 500, noise="1%", seed=1)
        >>> events.momenta[:] += 9.0
        >>> bool(abs(without_drift(events).momenta.sum(axis=1).mean()) < 0.5)
        True
    """
    return drift_subtracted(events, drift)[0]


def drift_subtracted(events: Events, text: str) -> tuple[Events, str]:
    """Events `without_drift`, and what a person should know of the drift, empty where there is none."""
    drift, conclusion = settled_drift(text, events.molecule, lambda: events.momenta)
    if drift is None:
        return events, conclusion
    share = (events.molecule.masses / events.molecule.masses.sum())[:, None]
    origin = events.origin | {"drift": drift.to_dict()}
    return replace(events, momenta=events.momenta - share * drift.momentum, origin=origin), conclusion


def settled_drift(
    text: str, molecule: Molecule, momenta: Callable[[], NDArray[np.float64]]
) -> tuple[Drift | None, str]:
    """The drift to subtract, None for none, and what was concluded of one that was measured."""
    stated = parse_drift(text, molecule)
    drift = stated or measure_drift(momenta())
    if stated or not drift.significant:
        return (drift if drift.significant else None), ""
    conclusion = f"drift of the beam: {drift.in_words(molecule)}"
    if drift.velocity(molecule) > _FASTEST:
        reason = "that is faster than any beam: look for a wrong ion, axis or unit"
        return None, f"{conclusion}; {reason}; not subtracted (--drift X,Y,Z would be)"
    return drift, f"{conclusion}; subtracted"
