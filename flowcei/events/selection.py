"""Which events of a file are worth a reconstruction, and how many were left out, and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import chi

from flowcei.errors import UsageError
from flowcei.physics.explosion import kinetic_energy
from flowcei.units import ELECTRONVOLT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowcei.events.foreign.mapped import Arrays
    from flowcei.experiment.detector import Noise
    from flowcei.molecules.molecule import Molecule

INCOMPLETE = "incomplete"
"""Why an event is left out whose rows are not those of all ions."""

_LOST = "lacking an ion (zeros, blank or NaN), which flowcei cannot yet reconstruct"
_BROKEN = "with a number that is blank, not finite or too large"
_STILL = "without kinetic energy"
_UNASKED = (_LOST, _BROKEN, _STILL, INCOMPLETE)
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
    """Rules for events; one that cannot be used, as `rejected` says, is left out without any.

    Attributes:
        max_sum: Bound on the total momentum, in standard deviations: a component of the sum of N
            momenta with independent noise sigma has sigma sqrt(N). Of true events `sum_chance(4)`,
            one in 882, exceed 4; a false coincidence or a lost ion exceeds it by far.
        noise: Of a momentum component, for that bound, where the file has no column for it.
        ker: Least and most kinetic energy release, eV.
    """

    max_sum: float | None = None
    noise: Noise | None = None
    ker: tuple[float, float] | None = None

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

        Events that lack an ion, hold a number that is blank, not finite or too
        large, or have no kinetic energy are
        left out without a rule: none of them can be reconstructed.

        Raises:
            UsageError: For a bound on the momentum sum of events without a known noise.
        """
        p, m = arrays.momenta, molecule.masses
        finite = np.ones(len(p), dtype=bool)
        for array in (p, arrays.positions, arrays.sigma):
            if array is not None and not np.isfinite(array).all():  # at once: by rows it takes far longer
                finite &= np.isfinite(array).all(axis=tuple(range(1, array.ndim)))
        with np.errstate(invalid="ignore", over="ignore"):
            spread = p - np.einsum("bni->bi", p)[:, None] / len(molecule)
            squares = np.einsum("bni,bni->b", spread, spread)
            total = np.linalg.norm(p.sum(axis=1), axis=1)
        finite &= np.isfinite(squares)
        out = {_LOST: _without_ion(arrays), _BROKEN: ~finite, _STILL: finite & (squares == 0)}
        if self.max_sum is not None:
            sigma = self._sigma(arrays) * np.sqrt(len(molecule))
            out["momentum sum"] = finite & (total > self.max_sum * sigma)
        if self.ker is not None:
            with np.errstate(invalid="ignore", over="ignore"):
                energy = kinetic_energy(p, m) / ELECTRONVOLT
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
        return table


def _without_ion(arrays: Arrays) -> NDArray[np.bool_]:
    """Return which events lack an ion, (B,): a program writes zeros, blanks or NaN for one that was lost.

    An ion that truly stays at rest, such as the middle one of a straight CO2 without noise, leaves the
    others with a total momentum of 0; a lost ion leaves them with its own, turned round.
    """
    p = arrays.momenta
    blank = np.asarray(np.isnan(p).all(axis=2))
    zero = np.asarray((p == 0).all(axis=2))
    if not (zero | blank).any():
        return np.zeros(len(p), dtype=bool)
    with np.errstate(all="ignore"):
        total = np.abs(np.where(blank[..., None], 0.0, p).sum(axis=1)).max(axis=1)
        size = np.abs(np.where(blank[..., None], 0.0, p)).max(axis=(1, 2))
        moving = total > _AT_REST * size
    return np.asarray(blank.any(axis=1) | (zero.any(axis=1) & moving))


@dataclass
class Tally:
    """How many events were read, and how many of them were left out, and why.

    Attributes:
        read: Events of the file so far.
        rejected: Number by reason.
        first: Where the first event of a reason is.
    """

    read: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def count(self, reason: str, number: int, first: str = "") -> None:
        """Add events that were left out; `first` says where the first of them is."""
        if number:
            self.rejected[reason] = self.rejected.get(reason, 0) + number
            self.first.setdefault(reason, first)

    @property
    def unasked(self) -> dict[str, int]:
        """How many events were left out without a rule, by reason: none can be reconstructed."""
        return {reason: n for reason, n in self.rejected.items() if reason in _UNASKED}

    @property
    def kept(self) -> int:
        """The number of events that were not left out."""
        return self.read - sum(self.rejected.values())

    def __str__(self) -> str:
        """Return a line for a person."""
        count = f"{self.read} event{'' if self.read == 1 else 's'}"
        if not self.rejected:
            return f"{count} read, none left out"
        why = ", ".join(f"{number} {self.in_words(reason)}" for reason, number in self.rejected.items())
        return f"{count} read, {self.read - self.kept} left out: {why}"

    def in_words(self, reason: str) -> str:
        """Return a reason, and where the first event is that was left out for it."""
        return f"{reason} (first: {self.first[reason]})" if self.first.get(reason) else reason

    def to_dict(self) -> dict[str, Any]:
        """Return the counts."""
        return {"read": self.read, "kept": self.kept, "rejected": dict(self.rejected)}
