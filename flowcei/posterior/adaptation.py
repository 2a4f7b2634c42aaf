"""Proposals adapted to a posterior: mixtures fitted, round after round, to what weighs most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flowcei.posterior.bent import BentMixture
from flowcei.posterior.mixtures import StudentMixture
from flowcei.posterior.resampling import Cloud, effective_number, power_for, store

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowcei.posterior.arrays import Bools, Floats, Rows

    LogDensity = Callable[[Floats, Rows], Floats]
    """Log density (e, m), up to a constant, of points (e, m, D) of the events (e,)."""
    Local = Callable[[Rows, Floats], StudentMixture]
    """Mixture with a component at each mode of events (e,), found from points (e, m, D)."""

_DIMENSIONS = 6  # of which `ChainRules.efficient` is


@dataclass(frozen=True)
class ChainRules:
    """When proposals are good enough and chains have mixed."""

    points: int = 400  # of an event at the least, and so many times its dimensions:
    per_dimension: int = 25
    chains: int = 1000  # of an event, at the least; where more draws are asked for, each gives several
    # Components of the mixtures of successive rounds; 0: those of the best, moved to where points are.
    components: tuple[int, ...] = (1, 2, 4, 0)
    rounds: int = 15  # at the most
    tempered: float = 0.2  # effective share of the points that a mixture is fitted to
    gain: float = 0.02  # in power plus efficiency, that a round must bring;
    patience: int = 4  # rounds that may bring less
    # Efficiency of a few hundred points in six dimensions, below which a mixture is fitted anew where that is
    # possible: weights do not tell that they leave out the ends of what is thin and bent.
    efficient: float = 0.6
    repeated: float = 0.03  # share of the chosen that may repeat others
    # So many times the draws there are, are weighed and chosen from,
    times: tuple[float, ...] = (1.0, 1.5, 2.0, 3.0, 4.0)
    times_of_refit: float = 8.0  # and these of a mixture fitted anew, after which only chains remain.
    # Where these are not enough, a mixture is fitted anew so often, each time to so many points, chosen from
    # so many times as many draws as are wanted, or as there are chains.
    refitted: int = 9
    fitted: int = 1500
    scattered: int = 1  # random steps of these points
    wider: int = 4
    enough: float = 0.4  # efficiency at which no further round is needed
    poor: float = 0.1  # efficiency of the proposal below which modes are searched for
    # Greatest R-hat of chains that have mixed: their correlation with where they began is then 0.2.
    r_hat: float = 1.02
    begin: float = 0.05  # effective share of the points that chains begin at, at the least
    unfilled: float = 0.02  # share of chains that are where the mixture's draws had no time to come
    drift: float = 3.0  # standard errors by which a mean may have changed since the start
    # What a first fit misses of the tails, steps find, and the next has: with one fit the deviations of OCS
    # are 2 % too small, with three 1 %.
    least: int = 1  # the last of the refits before which no chains end, from 0
    refits: tuple[int, ...] = (4, 10, 26, 58, 106)  # steps before which the mixture is fitted to the chains
    check: int = 2  # steps between two looks at R-hat

    def least_efficiency(self, dimensions: int) -> float:
        """`efficient` in so many dimensions: beyond six as much for each, since efficiencies multiply."""
        return float(self.efficient ** max(1.0, dimensions / _DIMENSIONS))


CHAIN_RULES = ChainRules()


class Adaptation:
    """The search for a mixture that is a good proposal for each of E events."""

    def __init__(
        self, log_posterior: LogDensity, flow: Cloud, rows: Rows, rng: np.random.Generator, rules: ChainRules
    ) -> None:
        e, p, d = flow.points.shape
        self.log_posterior, self.rows, self.rng, self.rules = log_posterior, rows, rng, rules
        self.wanted = min(max(rules.tempered * p, 6.0 * d), 0.5 * p)  # effective points of a fit
        self.base, self.best = flow[np.arange(e)], flow[np.arange(e)]  # copies
        self.reached, self.gained = _score(flow.log_weights, self.wanted), np.full(e, -np.inf)
        self.wide = flow.points
        self.doubtful = effective_number(flow.log_weights) < rules.poor * p  # a mode may have been missed
        self.searched, self.several = np.zeros((2, e), dtype=bool)  # several: have more than one mode
        self.modes = StudentMixture(np.zeros((e, 0, d)), np.zeros((e, 0, d, d)), np.zeros((e, 0)))
        self.count = np.zeros(e, dtype=np.intp)  # of components of the best
        self.mixtures: dict[int, BentMixture] = {}
        self.drawn, self.stale = np.full(e, p), np.zeros(e, dtype=np.intp)

    def run(self, local: Local | None, budget: int) -> None:
        """Go on until all proposals are good or do not get better."""
        p, rules = self.base.points.shape[1], self.rules
        active = np.arange(len(self.base))
        if local is not None:
            self._search(local, np.flatnonzero(self.doubtful & (self.drawn + 2 * p <= budget)))
            rows = np.flatnonzero(self.searched)
            if len(rows):
                self._join(rows, BentMixture.fit(*self._chosen(rows), self.rng, 1), self.has_mode[rows])
        for turn in range(rules.rounds):
            count = rules.components[turn % len(rules.components)]
            if count:
                self._try(active, BentMixture.fit(*self._chosen(active), self.rng, count))
            else:
                self._move(active)
            going = (self.gained[active] < 1.0 + rules.enough) & (self.stale[active] < rules.patience)
            active = active[going & (self.drawn[active] + 2 * p <= budget)]
            if not len(active):
                break
        self._join_modes(np.flatnonzero(self.searched))

    def _move(self, active: Rows) -> None:
        """Try the components of the best mixtures as the points now have them."""
        for count in np.unique(self.count[active]):
            rows = active[self.count[active] == count]
            self._try(rows, self.mixtures[count][rows].moved(*self._chosen(rows)))

    def _search(self, local: Local, rows: Rows) -> None:
        """Search for modes: from where the proposal went, and from where the weights are."""
        if not len(rows):
            return
        modes = local(self.rows[rows], np.concatenate([self.wide[rows], self._chosen(rows)[0]], axis=1))
        self.modes = self.modes.padded(modes.mean.shape[1])
        store(self.modes, rows, modes)
        self.searched[rows] = True
        self.several[rows] = self.has_mode[rows].sum(axis=1) > 1

    @property
    def has_mode(self) -> Bools:
        """Which of the components (E, K) of `modes` are modes of the events."""
        return np.isfinite(self.modes.log_share) & self.searched[:, None]

    def _join_modes(self, rows: Rows) -> None:
        """Give the modes of some events that no component of their mixture covers one of their own."""
        for count in np.unique(self.count[rows]):
            mine = rows[self.count[rows] == count]
            own = self.mixtures[count][mine]
            self._join(mine, own, self.has_mode[mine] & ~own.covers(self.modes[mine].mean), join=True)

    def _join(self, rows: Rows, own: BentMixture, chosen: Bools, *, join: bool = False) -> None:
        """Try mixtures with components at the chosen (e, K) of the modes."""
        number = chosen.sum(axis=1)
        for several in np.unique(number[number > 0]):
            some = number == several
            modes = self.modes[rows[some]].components(np.nonzero(chosen[some])[1].reshape(-1, several))
            self._try(rows[some], own[some].joined(modes), join=join)

    def _chosen(self, rows: Rows) -> tuple[Floats, Floats]:
        """Points (e, P, D) to fit a mixture to, and how many independent ones they stand for, (e,)."""
        chosen, effective = self.base[rows].chosen(self.wanted, self.base.points.shape[1], self.rng)
        return chosen.points, effective

    def _try(self, active: Rows, mixture: BentMixture, *, join: bool = False) -> None:
        """Draw from a mixture, and keep it where it is better than those before, or one of them and more."""
        k, p = mixture.count, self.base.points.shape[1]
        points = mixture.sample(p, self.rng)
        height = self.log_posterior(points, self.rows[active])
        cloud = Cloud.of(points, height, mixture.log_density(points))
        self.drawn[active] += p
        score, total = _score(cloud.log_weights, self.wanted), len(self.base)
        self.stale[active] = np.where(
            score > self.gained[active] + self.rules.gain, 0, self.stale[active] + 1
        )
        better = (score > self.gained[active]) | join
        if k not in self.mixtures:
            self.mixtures[k] = mixture[np.zeros(total, dtype=np.intp)]  # rows that wait for one of theirs
        self.count[active[better]] = k
        for target, source in ((self.best, cloud), (self.mixtures[k], mixture)):
            store(target, active[better], source[better])
        self.gained[active[better]] = score[better]
        better = score > self.reached[active]
        store(self.base, active[better], cloud[better])
        self.reached[active[better]] = score[better]


def _score(log_weights: Floats, wanted: Floats | float) -> Floats:
    """How good a proposal is, (E,): the power of its weights that leaves enough points, and efficiency."""
    return power_for(log_weights, wanted) + effective_number(log_weights) / log_weights.shape[1]
