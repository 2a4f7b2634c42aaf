"""Searches for the modes of events: from distinct starts, in rounds, until nothing new comes.

Half of a round's starts are the samples farthest from all starts before, which finds what lies apart, however
rare; the other half are samples at random by their share, which tells how much may be missing: were a share
m of the samples to lead elsewhere, k such starts would all miss it with the probability (1 - m)^k. Searches
go as far as the noise can tell; only the distinct ends are taken to the last digits
(`flowcei.posterior.refinement`). A sample belongs to the end of the start that is nearest to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import betaincinv

from flowcei.experiment.likelihood import nonfinite_allowed
from flowcei.physics.forward import Start
from flowcei.posterior.laplace import shape_of
from flowcei.posterior.refinement import REFINEMENT_RULES, turned

if TYPE_CHECKING:
    from flowcei.experiment.likelihood import Likelihood
    from flowcei.posterior.arrays import Bools, Floats, Numbers, Reals, Rows
    from flowcei.posterior.laplace import ModeRules

_ENOUGH = 3e-3  # of the noise: what a search may still win
_FIRST_DAMPING = 1e-4  # samples lie within the noise of an end, where steps need hardly any
_CERTAINTY = 0.95


@dataclass(frozen=True)
class SearchRules:
    """Where searches for modes begin, and when those of an event end."""

    starts: int = 8  # of the first two rounds; later ones have as many as all before
    # A round must find nothing new, and the bound on what is missed be below this: eight random starts.
    missed: float = 0.35
    most: int = 256  # starts of a round at the most


SEARCH_RULES = SearchRules()


def missed_share(random: Rows, surprises: Rows | int = 0) -> Floats:
    """Less than this share leads elsewhere, with 95 % certainty, if of so many random starts some did.

    C. J. Clopper and E. S. Pearson, Biometrika 26, 404 (1934); without surprises 1 - 0.05^(1/k).
    """
    random, surprises = np.asarray(random), np.asarray(surprises)
    bounded = random > surprises
    bound = betaincinv(surprises + 1, np.where(bounded, random - surprises, 1), _CERTAINTY)
    return np.where(bounded, bound, 1.0)


class Searches(NamedTuple):
    """How the modes of E events were searched for."""

    made: Rows  # (E,)
    random: Rows  # random starts since the last that led to something new, (E,)
    audits: Rows  # random starts of the second round, (E,)
    surprises: Rows  # those of them that led to something new, (E,)


class SearchResult(NamedTuple):
    """What the searches of E events came to: K ends, event by event."""

    event: Rows  # (K,)
    positions: Floats  # (K, N, 3), bohr, the first ion at 0
    share: Floats  # of the samples nearest to starts that led there, (K,)
    starts: Rows  # (K,)
    searches: Searches


def group_ends(event: Rows, positions: Floats, reach: Floats, metric: Floats | None = None) -> Rows:
    """The first end that each of (K, N, 3), of events (K,) one after the other, is the same as, (K,)."""
    from flowcei.physics._searches import group_first

    count, size = len(event), 3 * positions.shape[1] - 3
    group, relative = np.empty(count, dtype=np.int64), positions[:, 1:] - positions[:, :1]
    metric = np.empty((0, size, size)) if metric is None else metric
    group_first(event, shape_of(positions), reach, relative.reshape(count, size), metric, group)
    return group


class _Block:
    """The searches of some events."""

    def __init__(self, likelihood: Likelihood, positions: Reals, shares: Floats, rules: ModeRules) -> None:
        self.likelihood, self.positions, self.rules = likelihood, positions, rules
        e, n = positions.shape[:2]
        relative = (positions[:, :, 1:] - positions[:, :, :1]).reshape(e, n, -1)
        self.x = np.ascontiguousarray(relative.transpose(0, 2, 1), dtype=np.float32)
        self.shares, self.cumulated = shares, shares.cumsum(axis=1)
        usable = np.isfinite(self.x).all(axis=1)
        self.near = np.where(usable, np.float32(np.inf), np.float32(-1.0))
        self.owner = np.zeros((e, n), dtype=np.int64)
        self.count, self.drawn, self.since, self.audits, self.surprises = np.zeros((5, e), dtype=np.int64)
        # Ends so far, event by event in the order of their starts.
        self.event, self.number, self.group = np.empty((3, 0), dtype=np.int64)
        size = positions.shape[2]
        self.ends, self.norm = np.empty((0, size, 3)), np.empty(0)
        self.metric = np.empty((0, 3 * size - 3, 3 * size - 3))

    def round(self, events: Rows, starts: int) -> Bools:
        """Search from so many more starts of some events (A,): whether they led to something new, (A,)."""
        from flowcei.physics._searches import choose

        chosen = np.empty((len(events), starts), dtype=np.int64)
        tables = self.near, self.owner, self.count, self.drawn
        first, half = self.count[events], starts // 2
        choose(self.x, self.cumulated, events, starts - half, half, *tables, chosen)
        fresh = chosen >= 0
        row, column = np.nonzero(fresh)
        event = events[row]
        before = len(self.event)
        x, norm, metric = descended(self.likelihood, self.positions[event, chosen[fresh]], event)
        number = first[row] + np.cumsum(fresh, axis=1)[fresh] - 1
        self._add(event, number, x, norm, metric)
        new = np.zeros(chosen.shape, dtype=bool)
        new[row, column] = self._is_new(before)
        for k in range(starts):
            self.since[events] = np.where(new[:, k], 0, self.since[events] + (k >= starts - half))
        if before and not self.audits[events].any():
            self.audits[events] = half
            self.surprises[events] = new[:, starts - half :].sum(axis=1)
        return np.asarray(new.any(axis=1))

    def _add(self, event: Rows, number: Numbers, x: Floats, norm: Floats, metric: Floats) -> None:
        """Take in new ends (K, N, 3), and find which of all are the same."""
        self.event, self.number = np.append(self.event, event), np.append(self.number, number)
        self.ends, self.norm = np.concatenate([self.ends, x]), np.append(self.norm, norm)
        self.metric = np.concatenate([self.metric, metric])
        # Where the momenta are missed by more than the noise, there is no geometry to speak of.
        scale = (self.likelihood.size / self.likelihood.noise)[self.event]
        good = (self.norm * scale) ** 2 <= 2.0 * self.likelihood.most_misfit
        rows = np.flatnonzero(good)
        rows = rows[np.lexsort((self.number[rows], self.event[rows]))]
        # Searches end a little beside a solution, farther where its valley is flat.
        square = self.metric[rows] * scale[rows, None, None] ** 2 if self.rules.resolve else None
        group = group_ends(self.event[rows], self.ends[rows], np.full(len(rows), self.rules.same), square)
        self.group = np.full(len(self.event), -1)
        self.group[rows] = rows[group]

    def _is_new(self, before: int) -> Bools:
        """Which of the ends after the first `before` are the first of theirs."""
        rows = np.arange(before, len(self.event))
        return np.asarray(self.group[rows] == rows)

    def result(self) -> SearchResult:
        """The distinct ends; of events without any the nearest miss."""
        e = len(self.count)
        missed = np.flatnonzero(np.bincount(self.event[self.group >= 0], minlength=e) == 0)
        best = np.lexsort((self.norm, self.event))
        best = best[np.searchsorted(self.event[best], missed[self.count[missed] > 0])]
        self.group[best] = best
        order = np.lexsort((self.norm, self.group))  # the best of each group stands for it
        order = order[self.group[order] >= 0]
        distinct = order[np.flatnonzero(np.diff(self.group[order], prepend=-1))]
        distinct = distinct[np.argsort(self.event[distinct], kind="stable")]
        index = np.full(len(self.event) + 1, len(distinct))  # of the end of each search among these
        index[self.group[distinct]] = np.arange(len(distinct))
        of_search = np.where(self.group >= 0, index[self.group], len(distinct))
        table = np.full((e, int(self.count.max(initial=0)) + 1), len(distinct))
        table[self.event, self.number] = of_search
        sample = table[np.arange(e)[:, None], self.owner]
        share = np.bincount(sample.ravel(), self.shares.ravel(), minlength=len(distinct) + 1)[:-1].astype(
            np.float64
        )
        starts = np.bincount(of_search, minlength=len(distinct) + 1)[:-1].astype(np.intp)
        # Where every sample was a start, all of them are random: draws of the model.
        every = np.where((self.near > 0.0).any(axis=1), 0, (self.near == 0.0).sum(axis=1))
        searches = Searches(self.count, np.maximum(self.since, every), self.audits, self.surprises)
        share = np.asarray(share, dtype=np.float64)
        return SearchResult(self.event[distinct], self.ends[distinct], share, starts, searches)


@nonfinite_allowed
def search_ends(
    likelihood: Likelihood, positions: Reals, shares: Floats, rules: ModeRules, search: SearchRules
) -> SearchResult:
    """Search for the modes of events from their samples (E, n, N, 3), bohr, of shares (E, n)."""
    block = _Block(likelihood, positions, shares, rules)
    total = block.cumulated[:, -1] > 0.0
    events, starts, size = np.flatnonzero((block.near > 0.0).any(axis=1) & total), search.starts, 0
    while len(events):
        new = block.round(events, starts)
        again = new | (missed_share(block.since[events]) > search.missed) | (size == 0)
        events = events[again & (block.near[events] > 0.0).any(axis=1)]
        size += starts
        starts = search.starts if size < 2 * search.starts else min(size, search.most)
    return block.result()


@nonfinite_allowed
def descended(likelihood: Likelihood, start: Reals, event: Rows) -> tuple[Floats, Floats, Floats]:
    """Ends (K, N, 3) of searches from starts (K, N, 3) of events (K,), misfits (K,), and J'J (K, D, D) there.

    As far as the noise can tell, with momenta as exact as it asks for. The first ion is at 0.
    """
    from flowcei.physics._searches import USELESS, judge, linearise, propose

    rules, accuracy = REFINEMENT_RULES, likelihood.accuracy
    x = turned(likelihood, np.asarray(start, dtype=np.float64), event)
    x -= x[:, :1]
    count, ions, size = len(x), x.shape[1], 3 * x.shape[1] - 3
    noise = np.nan_to_num(likelihood.noise / likelihood.size)
    enough = np.maximum(_ENOUGH * noise, 3.0 * accuracy)
    age = np.full(count, USELESS)
    state = (
        x, np.full(count, np.inf), np.full(count, _FIRST_DAMPING), np.abs(x).max(axis=(1, 2)),
        np.zeros(count, np.int64), np.zeros(count, np.int64), age, np.empty((count, ions - 1, 3, size)),
        np.zeros((count, size)), np.zeros((count, size, size)),
    )  # fmt: skip
    target = event, likelihood.measured, likelihood.by_axis, likelihood.size, enough
    limits = float(rules.steps), float(rules.patience), rules.collision, rules.largest
    rows, trial, masses = np.arange(count), x.copy(), (likelihood.masses, likelihood.charges)
    while len(rows):
        if len(renewed := rows[age[rows] == USELESS]):
            begin = Start(x[renewed], *masses)
            linearise(renewed, likelihood.forward.follow(begin, accuracy, 1, derivatives=True), target, state)
        remaining = propose(rows, trial, target, state, limits)
        rows, trial = rows[:remaining], trial[:remaining]
        if remaining:
            momenta, _, lost = likelihood.forward.follow(Start(trial, *masses), accuracy, 1)
            judge(rows, trial, (momenta, lost), target, state)
    return x, state[1], state[9]
