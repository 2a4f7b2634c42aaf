"""What one shot of a pulsed source gives: how many molecules, of which ions are seen, and so accidents.

The number of molecules that are ionised in a shot is Poisson, each ion is detected by its efficiency, and
an event is one hit of each ion that is not lost; hits of like ions are not told apart. As each molecule
gives some ions and loses the others, all depends on x = rate * product of (1 - e_k): of how many molecules
of a shot no ion is seen. Of n different ions the share of accidents is 1 - x / T_n(x), T_n(x) = sum over b
of S(n, b) x^b with the Stirling numbers of the second kind (J. Touchard): about (2^(n-1) - 1) x where x is
small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

if TYPE_CHECKING:
    from flowcei.physics.forward import Floats

    Bools = NDArray[np.bool_]

_MOST = 1e3  # x beyond all experiments
_MARGIN = 12.0  # standard deviations of a Poisson number, that sums go beyond their largest term


def kinds_of(ions: Sequence[object]) -> tuple[tuple[int, ...], ...]:
    """Ions (N) that are equal, as groups of their numbers."""
    return tuple(tuple(i for i, ion in enumerate(ions) if ion == kind) for kind in dict.fromkeys(ions))


def patterns(ions: int, most: int) -> Bools:
    """Which ions (P, N) events may lack: up to `most`, but for two that have to be there."""
    several = (combinations(range(ions), k) for k in range(min(most, ions - 2) + 1))
    return np.array([np.isin(np.arange(ions), chosen) for kind in several for chosen in kind])


@dataclass(frozen=True, eq=False)
class Shots:
    """A source that is pulsed, and what is seen of it."""

    kinds: tuple[tuple[int, ...], ...]  # ions that are alike, of each kind
    efficiency: Floats  # chance of each ion to be detected, (N,)
    rate: float  # molecules that are ionised in a shot, on average

    @classmethod
    def of_share(cls, kinds: tuple[tuple[int, ...], ...], efficiency: Floats, share: float) -> Shots | None:
        """Those that make such a share of complete events accidents; None where no rate does."""
        complete = np.zeros((1, len(efficiency)), bool)

        missed = float((1.0 - efficiency).prod())
        if not missed:
            return None

        def beyond(log_x: float) -> float:
            return float(cls(kinds, efficiency, float(np.exp(log_x)) / missed).share(complete)[0]) - share

        from scipy.optimize import brentq  # half a second, of every command, if it stood above

        low, high = np.log(1e-12), np.log(_MOST)
        if beyond(low) > 0.0 or beyond(high) < 0.0:
            return None
        return cls(kinds, efficiency, float(np.exp(brentq(beyond, low, high))) / missed)

    @classmethod
    def of_accidents(cls, ions: Sequence[object], share: float) -> Shots | None:
        """Those of `of_share` for ions (N), of any efficiency: alone the accidents depend on x."""
        return cls.of_share(kinds_of(ions), np.full(len(ions), 0.5), share)

    @property
    def unseen(self) -> float:
        """Molecules of a shot of which no ion is detected, on average: x."""
        return self.rate * float((1.0 - self.efficiency).prod())

    def in_words(self, most: int) -> str:
        """How many shots give an event that lacks up to `most` ions, and how many of these are accidents."""
        ions = np.eye(len(self.efficiency), dtype=bool)
        out = f"{self.rate:.3g} molecules a shot: {self.share(ions[:1] & False)[0]:.2g} of complete events"
        if most:
            low, high = (f"{end(self.share(ions)):.2g}" for end in (np.min, np.max))
            out += f", {low if low == high else f'{low} to {high}'} of those that lack an ion"
        events = self.chance(patterns(len(ions), most)).sum()
        return f"{out} are accidents; one event in {1.0 / events:.3g} shots"

    def share(self, lost: Bools) -> Floats:
        """Share of accidents (E,) of events that lack these ions (E, N)."""
        kinds, inverse = np.unique(lost, axis=0, return_inverse=True)
        logs = [self._log_true(one) - np.logaddexp.reduce(self._log_weights(one)) for one in kinds]
        return np.maximum(1.0 - np.exp(logs), 0.0)[inverse.ravel()]

    def chance(self, lost: Bools) -> Floats:
        """Chance (P,) of a shot to be an event that lacks these ions (P, N)."""
        single = np.where(lost, 1.0 - self.efficiency, self.efficiency).prod(axis=1)
        return np.asarray(self.rate * np.exp(self.unseen - self.rate) * single / (1.0 - self.share(lost)))

    def mixed(self, lost: Bools, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of accidents that lack ions (A, N): which molecule of the shot, and which of its ions, a hit is."""
        molecule, ion = np.zeros(lost.shape, np.int64), np.tile(np.arange(lost.shape[1]), (len(lost), 1))
        kinds, inverse = np.unique(lost, axis=0, return_inverse=True)
        for number, pattern in enumerate(kinds):
            rows = np.flatnonzero(inverse.ravel() == number)
            logs = self._log_weights(pattern)
            counts = np.arange(1.0, len(logs) + 1.0)
            # All of one molecule is no accident: b of the equally likely ways.
            same = self._log_terms(counts) + np.log(counts) + self._log_ways(pattern, np.ones(1))[0]
            weights = np.maximum(np.exp(logs - logs.max()) - np.exp(same - logs.max()), 0.0)
            several = rng.choice(counts.astype(np.int64), len(rows), p=weights / weights.sum())
            while len(rows):
                for kind in self.kinds:
                    slots = np.array([k for k in kind if not pattern[k]], np.int64)
                    keys = rng.random((len(rows), int(several.max()) * len(kind)))
                    keys[np.arange(keys.shape[1]) >= several[:, None] * len(kind)] = 2.0
                    chosen = np.argsort(keys, axis=1)[:, : len(slots)]
                    molecule[np.ix_(rows, slots)] = chosen // len(kind)
                    ion[np.ix_(rows, slots)] = np.array(kind)[chosen % len(kind)]
                there = molecule[rows][:, ~pattern]
                again = (there == there[:, :1]).all(axis=1)
                rows, several = rows[again], several[again]
        return molecule, ion

    def _log_true(self, pattern: Bools) -> float:
        """Log of the summed weights of events of one molecule."""
        return self.unseen + float(self._log_ways(pattern, np.ones(1))[0])

    def _log_weights(self, pattern: Bools) -> Floats:
        """Log weight of each number of molecules in a shot, (b,) from 1, of events that lack these ions."""
        middle = self.unseen + 2.0 * len(pattern)
        counts = np.arange(1.0, 2.0 + middle + _MARGIN * np.sqrt(middle))
        return np.asarray(self._log_terms(counts) + self._log_ways(pattern, counts))

    def _log_terms(self, counts: Floats) -> Floats:
        """Log of x^(b - 1) / b!, where x may be 0."""
        power = (counts - 1.0) * np.log(self.unseen) if self.unseen else np.where(counts > 1.0, -np.inf, 0.0)
        return np.asarray(power - gammaln(counts + 1.0))

    def _log_ways(self, pattern: Bools, counts: Floats) -> Floats:
        """Log of the number of ways in which hits are ions of so many molecules, (b,)."""
        total = np.zeros(len(counts))
        for kind in self.kinds:
            ions, hits = counts * len(kind), sum(not pattern[k] for k in kind)
            total += gammaln(ions + 1.0) - gammaln(hits + 1.0) - gammaln(ions - hits + 1.0)
        return total
