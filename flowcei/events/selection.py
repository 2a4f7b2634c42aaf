"""Which events of a file are worth a reconstruction, and how many were left out, and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import chi

from flowcei.errors import UsageError
from flowcei.events.container import relative_squares
from flowcei.physics.explosion import kinetic_energy
from flowcei.units import ELECTRONVOLT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowcei.events.mapped import Arrays
    from flowcei.molecule import Molecule
    from flowcei.physics.detector import Noise

__all__ = ["INCOMPLETE", "Selection", "Tally", "sum_bound", "sum_chance"]

INCOMPLETE = "incomplete"
"""Why an event is left out whose rows are not those of all ions."""

_LOST = "lacking an ion (zeros or NaN), which flowcei cannot yet reconstruct"
_NO_ENERGY = "without kinetic energy (all momenta alike, such as zeros)"
_AT_REST = 1e-6  # of the largest momentum: files of six digits round the sum of momenta to this
_AXES = 3  # the length of a vector of three normal components is chi-distributed with as many


def sum_chance(bound: float) -> float:
    """Return the share of true events whose total momentum exceeds `bound` standard deviations.

    Example:
        >>> round(1 / sum_chance(4.0))
        882
    """
    return float(chi.sf(bound, _AXES))


def sum_bound(chance: float) -> float:
    """Return the bound, in standard deviations, that true events exceed with a chance.

    Raises:
        UsageError: For a chance that is not between 0 and 1.

    Example:
        >>> round(sum_bound(1e-4), 2)
        4.59
    """
    if not 0.0 < chance < 1.0:
        msg = f"the chance to lose a true event is {chance}; it must be between 0 and 1"
        raise UsageError(msg)
    return float(chi.isf(chance, _AXES))


@dataclass(frozen=True)
class Selection:
    """Rules for events; without any, an event that cannot be used is an error.

    Attributes:
        max_sum: Bound on the total momentum, in standard deviations: a component of the sum of N
            momenta with independent noise sigma has sigma sqrt(N). Of true events `sum_chance(4)`,
            one in 882, exceed 4; a false coincidence or a lost ion exceeds it by far.
        noise: Of a momentum component, for that bound, where the file has no column for it.
        ker: Least and most kinetic energy release, eV.
        finite: Whether events with a number that is missing, or not finite, are left out.
    """

    max_sum: float | None = None
    noise: Noise | None = None
    ker: tuple[float, float] | None = None
    finite: bool = False

    def __post_init__(self) -> None:
        """Refuse what selects nothing.

        Raises:
            UsageError: For bounds that no event can be within.
        """
        if self.max_sum is not None and not self.max_sum > 0:
            msg = f"the bound on the momentum sum is {self.max_sum}; it must be above 0"
            raise UsageError(msg)
        if self.ker is not None and not 0 <= self.ker[0] < self.ker[1]:
            msg = f"the KER window is {self.ker[0]}..{self.ker[1]} eV; the least comes first"
            raise UsageError(msg)

    def rejected(self, arrays: Arrays, molecule: Molecule) -> dict[str, NDArray[np.bool_]]:
        """Tell for each rule which events (B,) it leaves out; an event is named by the first only.

        Events that lack an ion, or have no kinetic energy, are left out without a rule: none of them can
        be reconstructed, and one of them must not cost the others their answer.

        Raises:
            UsageError: For a bound on the momentum sum of events without a known noise.
        """
        p, m = arrays.momenta, molecule.masses
        squares = relative_squares(p)
        out = {_LOST: _without_ion(arrays), _NO_ENERGY: squares == 0}
        if not self.to_dict():
            return {name: rows for name, rows in out.items() if rows.any()}
        finite = np.isfinite(p).all(axis=(1, 2))
        for more in (arrays.positions, arrays.sigma):
            if more is not None:
                finite &= np.isfinite(more).all(axis=tuple(range(1, more.ndim)))
        with np.errstate(invalid="ignore", over="ignore"):
            energy = kinetic_energy(p, m) / ELECTRONVOLT
            total = np.linalg.norm(p.sum(axis=1), axis=1)
        finite &= np.isfinite(squares) & np.isfinite(energy)
        if self.finite:
            out["not finite"] = ~finite
        if self.max_sum is not None:
            sigma = self._sigma(arrays) * np.sqrt(len(molecule))
            out["momentum sum"] = finite & (total > self.max_sum * sigma)
        if self.ker is not None:
            out["KER"] = finite & ~((energy >= self.ker[0]) & (energy <= self.ker[1]))
        taken = np.zeros(len(p), dtype=bool)
        for name, rows in out.items():
            out[name] = rows & ~taken
            taken |= rows
        return out

    def _sigma(self, arrays: Arrays) -> NDArray[np.float64]:
        if self.noise is not None:
            good = np.where(np.isfinite(arrays.momenta), arrays.momenta, 0.0)
            return self.noise.sigma(good)
        if arrays.sigma is not None:
            return arrays.sigma
        msg = "a bound on the momentum sum needs the detector's noise: state it with --noise"
        raise UsageError(msg)

    def to_dict(self) -> dict[str, Any]:
        """Return the rules that are set."""
        table: dict[str, Any] = {}
        if self.max_sum is not None:
            table["max_sum"] = self.max_sum
            if self.noise is not None:
                table["noise"] = str(self.noise)
        if self.ker is not None:
            table["ker_ev"] = list(self.ker)
        if self.finite:
            table["finite"] = True
        return table


def _without_ion(arrays: Arrays) -> NDArray[np.bool_]:
    """Return which events lack an ion, (B,): a program writes zeros or NaN for one that was lost.

    An ion that truly stays at rest, such as the middle one of a straight CO2 without noise, leaves the
    others with a total momentum of 0; a lost ion leaves them with its own, turned round.
    """
    p = arrays.momenta
    blank = np.asarray((~np.isfinite(p)).all(axis=2))
    zero = np.asarray((p == 0).all(axis=2))
    if not (zero | blank).any():
        return np.zeros(len(p), dtype=bool)
    with np.errstate(all="ignore"):
        total = np.abs(np.where(blank[..., None], 0.0, p).sum(axis=1)).max(axis=1)
        size = np.abs(np.where(blank[..., None], 0.0, p)).max(axis=(1, 2))
        moving = total > _AT_REST * size
    some = ~(zero | blank).all(axis=1)
    return np.asarray(some & (blank.any(axis=1) | (zero.any(axis=1) & moving)))


@dataclass
class Tally:
    """How many events were read, and how many of them were left out, and why.

    Attributes:
        read: Events of the file so far.
        rejected: Number by reason.
    """

    read: int = 0
    rejected: dict[str, int] = field(default_factory=dict)

    def count(self, reason: str, number: int) -> None:
        """Add events that were left out."""
        if number:
            self.rejected[reason] = self.rejected.get(reason, 0) + number

    @property
    def unasked(self) -> dict[str, int]:
        """How many events were left out without a rule: they lack an ion or energy, or have other ions."""
        return {reason: n for reason, n in self.rejected.items() if reason in (_LOST, _NO_ENERGY, INCOMPLETE)}

    @property
    def kept(self) -> int:
        """The number of events that were not left out."""
        return self.read - sum(self.rejected.values())

    def __str__(self) -> str:
        """Return a line for a person."""
        count = f"{self.read} event{'' if self.read == 1 else 's'}"
        if not self.rejected:
            return f"{count} read, none left out"
        why = ", ".join(f"{number} {reason}" for reason, number in self.rejected.items())
        return f"{count} read, {self.read - self.kept} left out: {why}"

    def to_dict(self) -> dict[str, Any]:
        """Return the counts."""
        return {"read": self.read, "kept": self.kept, "rejected": dict(self.rejected)}
