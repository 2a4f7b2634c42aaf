"""Which events of a file are worth a reconstruction, and how many are left out, and why."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtrc, chdtri

from flowcei.errors import DataError, UsageError
from flowcei.events.extracolumns import chosen_rows
from flowcei.events.faults import report_fault
from flowcei.experiment.detector import Noise
from flowcei.experiment.measurement import Measurement
from flowcei.experiment.missing import LOST, completed, lost_column, lost_ions
from flowcei.physics.explosion import kinetic_energy
from flowcei.units import ELECTRONVOLT

if TYPE_CHECKING:
    from flowcei.events.faults import Faults
    from flowcei.events.foreign.table import Arrays
    from flowcei.molecules.molecule import Molecule

_MISSING_ION = "lacking an ion (zeros, blank or NaN), which only --missing takes, where two are left"
_NOT_FINITE = "with a number that is blank, not finite or too large"
_AT_REST = "without kinetic energy"
_INCOMPLETE = "incomplete"  # rows of ions other than those of the molecule
_UNUSABLE = (_MISSING_ION, _NOT_FINITE, _AT_REST, _INCOMPLETE)
_ROUNDING = 1e-6  # of the largest momentum: files of six digits round the sum of momenta to this
_AXES = 3  # the length of a vector of three normal components is chi-distributed with as many


def sum_chance(bound: float) -> float:
    """Share of true events whose total momentum exceeds `bound` standard deviations: one in 882 exceeds 4."""
    return float(chdtrc(_AXES, bound**2))


def sum_bound(chance: float) -> float:
    """Bound, in standard deviations, that true events exceed with a chance: 4.59 with 1e-4."""
    if not 0.0 < chance < 1.0:
        raise UsageError(f"the chance to lose a true event is {chance}; it must be between 0 and 1")
    return float(np.sqrt(chdtri(_AXES, chance)))


@dataclass(frozen=True)
class Selection:
    """Rules for events; what cannot be reconstructed is left out without any."""

    max_sum: float | None = None  # bound on the total momentum, in standard deviations (`sum_chance`)
    # Of a momentum component, for that bound, or all of an experiment; else the file's column.
    noise: Noise | Measurement | None = None
    ker: tuple[float, float] | None = None  # least and most kinetic energy release, eV
    missing: int = 0  # ions that an event may lack, beside two: see `flowcei.experiment.missing`

    def __post_init__(self) -> None:
        """Refuse bounds that no event can be within."""
        if self.max_sum is not None and not self.max_sum > 0:
            raise UsageError(f"the bound on the momentum sum is {self.max_sum}; it must be above 0")
        if self.ker is not None and not 0 <= self.ker[0] < self.ker[1]:
            raise UsageError(f"the KER window is {self.ker[0]}..{self.ker[1]} eV; the least comes first")

    def rejected(self, arrays: Arrays, molecule: Molecule) -> dict[str, NDArray[np.bool_]]:
        """Which events (B,) are left out, by reason; an event is named by the first reason only."""
        p, m = arrays.momenta, molecule.masses
        finite = np.ones(len(p), dtype=bool)
        for array in (p, arrays.positions, arrays.sigma):
            if array is not None and not np.isfinite(array).all():  # at once: by rows it takes far longer
                finite &= np.isfinite(array).all(axis=tuple(range(1, array.ndim)))
        with np.errstate(invalid="ignore", over="ignore"):
            relative = p - np.einsum("bni->bi", p)[:, None] / len(molecule)
            squares = np.einsum("bni,bni->b", relative, relative)
            total = np.linalg.norm(p.sum(axis=1), axis=1)
        finite &= np.isfinite(squares)
        reasons = {
            _MISSING_ION: _lost(arrays).any(axis=1),
            _NOT_FINITE: ~finite,
            _AT_REST: finite & (squares == 0),
        }
        if self.max_sum is not None:  # a false coincidence or a lost ion exceeds it by far
            if isinstance(self.noise, Measurement):
                with np.errstate(invalid="ignore", over="ignore"):
                    total = np.linalg.norm(self.noise.sums(self.noise.calibrated(p)), axis=1)
                sigma = np.ones(len(p))
            else:
                sigma = self._sigma(arrays) * np.sqrt(len(molecule))  # of a sum of N independent components
            reasons["momentum sum"] = finite & (total > self.max_sum * sigma)
        if self.ker is not None:
            with np.errstate(invalid="ignore", over="ignore"):
                energy = kinetic_energy(p, m) / ELECTRONVOLT
            reasons["KER"] = finite & ~((energy >= self.ker[0]) & (energy <= self.ker[1]))
        named = np.zeros(len(p), dtype=bool)
        for reason, events in reasons.items():
            reasons[reason] = events & ~named
            named |= events
        return reasons

    def _sigma(self, arrays: Arrays) -> NDArray[np.float64]:
        if isinstance(self.noise, Noise):
            return self.noise.sigma(np.where(np.isfinite(arrays.momenta), arrays.momenta, 0.0))
        if arrays.sigma is not None:
            return arrays.sigma
        raise UsageError("a bound on the momentum sum needs the detector's noise: state it with --noise")

    def to_dict(self) -> dict[str, Any]:
        """The rules that are set."""
        noise = str(self.noise) if self.max_sum is not None and isinstance(self.noise, Noise) else None
        rules = {
            "max_sum": self.max_sum,
            "noise": noise,
            "missing": self.missing or None,
            "ker_ev": self.ker and list(self.ker),
        }
        return {name: value for name, value in rules.items() if value is not None}


def _with_lost(arrays: Arrays, most: int) -> Arrays:
    """Events of which those that lack up to `most` ions are completed, and say so in a column."""
    lost, ions = _lost(arrays), arrays.momenta.shape[1]
    few = np.asarray(lost.sum(axis=1) <= min(most, ions - 2))
    lost = lost & few[:, None]
    momenta = np.where(lost.any(axis=1)[:, None, None], completed(arrays.momenta, lost), arrays.momenta)
    stated = lost_ions(arrays.columns, ions)
    column = lost_column(lost if stated is None else lost | stated)
    return replace(arrays, momenta=momenta, columns=arrays.columns | {LOST: column})


def _lost(arrays: Arrays) -> NDArray[np.bool_]:
    """Which ions (B, N) were lost: a program writes zeros, blanks or NaN for them."""
    p = arrays.momenta
    blank, zero = np.asarray(np.isnan(p).all(axis=2)), np.asarray((p == 0).all(axis=2))
    if not (zero | blank).any():
        return np.zeros(p.shape[:2], dtype=bool)
    # An ion that truly stays at rest, such as the middle one of a straight CO2 without noise, leaves the
    # others with a total momentum of 0; a lost ion leaves them with its own, turned round.
    with np.errstate(all="ignore"):
        measured = np.where(blank[..., None], 0.0, p)
        moving = np.abs(measured.sum(axis=1)).max(axis=1) > _ROUNDING * np.abs(measured).max(axis=(1, 2))
    return np.asarray(blank | (zero & moving[:, None]))


@dataclass
class Tally:
    """How many events were read, and how many of them were left out."""

    read: int = 0
    rejected: dict[str, int] = field(default_factory=dict)  # by reason
    first: dict[str, str] = field(default_factory=dict)  # where the first of a reason is

    def count(self, reason: str, number: int, first: str = "") -> None:
        """Add events that were left out."""
        if number:
            self.rejected[reason] = self.rejected.get(reason, 0) + number
            self.first.setdefault(reason, first)

    @property
    def unasked(self) -> dict[str, int]:
        """Numbers of events, by reason, that were left out without a rule: none can be reconstructed."""
        return {reason: n for reason, n in self.rejected.items() if reason in _UNUSABLE}

    @property
    def accepted(self) -> int:
        """The number of events that were not left out."""
        return self.read - sum(self.rejected.values())

    def __str__(self) -> str:
        """Return a line for a person."""
        count = f"{self.read} event{'' if self.read == 1 else 's'}"
        if not self.rejected:
            return f"{count} read, none left out"
        why = ", ".join(f"{number} {self.in_words(reason)}" for reason, number in self.rejected.items())
        return f"{count} read, {self.read - self.accepted} left out: {why}"

    def in_words(self, reason: str) -> str:
        """A reason, and where the first event is that was left out for it."""
        return f"{reason} (first: {self.first[reason]})" if self.first.get(reason) else reason

    def to_dict(self) -> dict[str, Any]:
        """The counts."""
        return {"read": self.read, "kept": self.accepted, "rejected": dict(self.rejected)}


@dataclass(eq=False)
class EventFilter:
    """Leaves out events of one file, chunk after chunk, and counts them."""

    path: Path
    molecule: Molecule
    selection: Selection
    drift: ArrayLike = 0.0  # (3,), hbar / bohr, subtracted first, each ion's share by mass
    faults: Faults | None = None
    numbered: bool = False

    def __post_init__(self) -> None:
        self.tally, self._event_ids = Tally(), _EventIds()
        self._drift = (self.molecule.masses / self.molecule.masses.sum())[:, None] * self.drift

    def __call__(self, arrays: Arrays) -> Arrays:
        """Return the events that are not left out, with an event_id: that of the file, or the row from 0."""
        start, tally, self.numbered = self.tally.read, self.tally, arrays.event_id is not None
        tally.read += len(arrays) + arrays.incomplete + arrays.elsewhere
        tally.count(_INCOMPLETE, arrays.incomplete)
        tally.count("of another channel", arrays.elsewhere)
        if self._drift.any():
            arrays = replace(arrays, momenta=arrays.momenta - self._drift)
        if self.selection.missing:
            arrays = _with_lost(arrays, self.selection.missing)
        accepted = np.ones(len(arrays), dtype=bool)
        for reason, events in self.selection.rejected(arrays, self.molecule).items():
            if events.any():
                k = int(events.argmax())
                where = f"row {start + k + 1}" if arrays.event_id is None else f"event {arrays.event_id[k]}"
                tally.count(reason, int(events.sum()), where)
            accepted &= ~events
        if arrays.sigma is not None and (negative := accepted & (arrays.sigma < 0)).any():
            count, row = int(negative.sum()), start + int(negative.argmax()) + 1
            message = f"sigma is not a number >= 0 ({count} of {len(arrays)} events)"
            report_fault(DataError(message, path=self.path, row=row), "events", self.faults, count)
            tally.count("with a negative sigma", count)
            accepted &= ~negative
        event_id = np.arange(start, start + len(arrays)) if arrays.event_id is None else arrays.event_id
        if self.numbered and len(repeated := self._event_ids.repeated(event_id)):
            error = DataError(f"event number {repeated[0]} is there twice", path=self.path, column="event")
            report_fault(error, "repeated", self.faults, len(repeated))
        rows = slice(None) if accepted.all() else accepted  # a view where nothing is left out
        chosen = chosen_rows(arrays, ("momenta", "positions", "sigma"), rows)
        return replace(arrays, **chosen, event_id=event_id[rows])


class _EventIds:
    """The event numbers of a file so far: of chunks that only count up, the first and the last are enough."""

    def __init__(self) -> None:
        self._chunks: list[tuple[int, int, NDArray[np.int64] | None]] = []

    def repeated(self, event_id: NDArray[np.int64]) -> NDArray[np.int64]:
        """Add the numbers of a chunk; return those that came before."""
        if not len(event_id):
            return event_id
        ordered = np.sort(event_id)
        steps = np.diff(ordered)
        repeated = ordered[1:][steps == 0]
        for low, high, numbers in self._chunks:
            among = ordered[np.searchsorted(ordered, low) : np.searchsorted(ordered, high, "right")]
            repeated = np.append(repeated, among if numbers is None else among[np.isin(among, numbers)])
        gapless = bool((steps == 1).all())
        self._chunks.append((int(ordered[0]), int(ordered[-1]), None if gapless else ordered))
        return repeated
