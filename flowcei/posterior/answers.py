"""Equally weighted draws of events: by what costs least of that which is good enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from flowcei.posterior.bent import BentMixture, GuardedMixture
from flowcei.posterior.moves import Chains
from flowcei.posterior.resampling import Cloud, Draws, effective_number, repeated, store
from flowcei.posterior.weights import Weights

if TYPE_CHECKING:
    from flowcei.posterior.adaptation import ChainRules, LogDensity
    from flowcei.posterior.arrays import Bools, Floats, Numbers, Rows
    from flowcei.posterior.moves import Mixture, Symmetry

    Draw = Callable[[Rows, int], tuple[Floats, Floats | None]]
    """So many points (e, m, D) of a proposal for events (e,), and their log density (e, m)."""


class Answers:
    """What each of some events is answered by: that which costs least, of what is good enough."""

    def __init__(
        self,
        log_posterior: LogDensity,
        rows: Rows,
        mixture: BentMixture,
        drawn: Numbers,
        n: int,
        budget: int,
        rng: np.random.Generator,
        rules: ChainRules,
        *,
        several: bool,  # whether the events have more than one mode
    ) -> None:
        self.log_posterior, self.rows, self.drawn = log_posterior, rows, drawn.copy()
        self.adapted, self.several = mixture, several
        self.mixture: Mixture = mixture
        self.n, self.budget, self.rng, self.rules = n, budget, rng, rules
        self.unanswered = np.arange(len(rows))  # events without an answer, in the order of every pool

    def by_mixture(self, pool: Cloud, flow: Cloud | None) -> Cloud:
        """Answer by draws of the mixture, of which there are some, unless it leaves out what the flow has."""
        self.out = Draws.none(pool, self.n)
        if self.n > (p := pool.height.shape[1]):
            pool = pool.joined(self._of_mixture(self.unanswered, self.n - p))
        seen = None
        if flow is not None:
            own = Cloud(flow.points, flow.height, self.mixture.log_density(flow.points))
            seen = own.log_weights, flow.log_weights
        # Without the density of a flow nothing better follows but chains.
        return self._by_weight(pool, self._of_mixture, seen, self._least(pool) if seen else 0.0)

    def by_both(self, pool: Cloud, flow: Cloud, density: LogDensity, draw: Draw | None) -> Cloud:
        """Answer by as many draws of the flow, weighed together with those of the mixture."""
        if not len(self.unanswered):
            return pool
        own, p = flow[self.unanswered], pool.height.shape[1]
        if draw is not None and p > own.height.shape[1]:
            own = own.joined(self._of_flow(draw, self.unanswered, p - own.height.shape[1]))
        pool = self._balanced(self.unanswered, own, pool, density)
        if draw is None:
            return self._by_weight(pool, None, None, self._least(pool))

        def more(events: Rows, m: int) -> Cloud:
            own, others = self._of_flow(draw, events, m // 2), self._of_mixture(events, m - m // 2)
            return self._balanced(events, own, others, density)

        return self._by_weight(pool, more, None, self._least(pool))

    def given_up(self, pool: Cloud, hopeless: Bools) -> Cloud:
        """Answer some of all events by what there is, unmixed; return the pool of the others."""
        now = hopeless[self.unanswered]
        events = self.unanswered[now]
        if len(events):
            draws = Draws.by_weight(pool[now], self.n, self.drawn[events], self.rng)
            store(self.out, events, replace(draws, mixed=np.zeros(len(events), dtype=bool)))
        self.unanswered = self.unanswered[~now]
        return pool[~now]

    def by_refits(self, pool: Cloud) -> Cloud:
        """Answer by many draws of a mixture that is fitted, again and again, to those before.

        A few hundred points do not show how twelve dimensions are bent; thousands do, for less than chains
        cost. Those of the pool, by their weights, show what the draws of a mixture leave out.
        """
        rules, best, witness = self.rules, np.zeros(len(self.unanswered)), pool
        self.mixture = GuardedMixture(self.adapted[np.arange(len(self.rows))], self.adapted)
        m = rules.wider * max(self.n, rules.chains)
        for turn in range(rules.refitted):
            rows = self.unanswered
            if not len(rows) or (self.drawn[rows] + m > self.budget).any():
                break
            last, points = self.mixture[rows], self._scattered(pool)
            # Begun anew, the components of several modes would lose some.
            again = last.moved(*points) if self.several else last.fitted_again(*points, self.rng)
            cloud = self._of_mixture(rows, m, again)
            efficiency = effective_number(cloud.log_weights)
            better = efficiency > best
            self.mixture = self.mixture.padded(again.count)
            store(self.mixture, rows[better], again.padded(self.mixture.count)[better])
            if turn == 0:
                pool = cloud
            else:
                store(pool, np.flatnonzero(better), cloud[better])
            there = self.mixture[rows].log_density(witness.points)
            own = Cloud(witness.points, witness.height, there)
            seen = own.log_weights, witness.log_weights
            times = *rules.times, rules.times_of_refit
            pool = self._by_weight(pool, self._of_mixture, seen, times_allowed=times)
            waits = np.isin(rows, self.unanswered)
            best, witness = np.maximum(best, efficiency)[waits], witness[waits]
        return pool

    def _scattered(self, pool: Cloud) -> tuple[Floats, Floats]:
        """Points (e, P, D) to fit a mixture to: chosen by weight, and a few random steps from there.

        Steps make of copies different points, and go where no draw has been.
        """
        rules = self.rules
        chosen, effective = pool.chosen(rules.fitted * rules.tempered, rules.fitted, self.rng)
        state = np.concatenate([chosen.points, chosen.height[..., None]], axis=2)
        run = Chains(self.log_posterior, None, self.rows[self.unanswered], self.rng, rules)
        for _ in range(rules.scattered):
            run.move(state, self.mixture[self.unanswered], np.arange(len(state)), 1)
        self.drawn[self.unanswered] += rules.scattered * rules.fitted
        return state[..., :-1], effective

    def by_chains(self, pool: Cloud, symmetry: Symmetry | None) -> None:
        """Answer by chains."""
        if len(self.unanswered):
            # However few draws are asked for: by fewer chains nobody sees that a variance still grows.
            p = max(self.rules.chains, self.rules.per_dimension * pool.points.shape[2])
            run = Chains(self.log_posterior, symmetry, self.rows[self.unanswered], self.rng, self.rules)
            mixture, drawn = self.mixture[self.unanswered], self.drawn[self.unanswered]
            store(self.out, self.unanswered, run.mix(pool, mixture, p, drawn, self.budget, self.n))

    def _least(self, pool: Cloud) -> float:
        return self.rules.least_efficiency(pool.points.shape[2])

    def _by_weight(
        self,
        pool: Cloud,
        more: Callable[[Rows, int], Cloud] | None,
        seen: tuple[Floats, Floats] | None,
        least: float = 0.0,  # efficiency
        times_allowed: tuple[float, ...] | None = None,
    ) -> Cloud:
        """Answer those of which so few times as many draws are enough; return the pool of the others."""
        weights, (_, p) = Weights.of(pool.log_weights), pool.height.shape
        waits, sound = np.ones(len(pool), dtype=bool), weights.reliable & (weights.efficiency >= least)
        for times in (times_allowed or self.rules.times) if more else (1,):
            draws = times * p / self.n
            share = repeated(weights.log_weights, draws, weights.log_evidence)
            if seen is not None:
                at_flow, by = seen
                share = np.maximum(share, repeated(at_flow, draws, weights.log_evidence, by))
            affordable = self.drawn[self.unanswered] + (times - 1) * p <= self.budget
            enough = waits & sound & (share <= self.rules.repeated) & affordable
            if enough.any():
                events, own = self.unanswered[enough], pool[enough]
                if times > 1 and more:
                    own = own.joined(more(events, round((times - 1) * p)))
                store(self.out, events, Draws.by_weight(own, self.n, self.drawn[events], self.rng))
                waits &= ~enough
        self.unanswered = self.unanswered[waits]
        return pool[waits]

    def _of_mixture(self, events: Rows, m: int, other: Mixture | None = None) -> Cloud:
        mixture = self.mixture[events] if other is None else other
        points = mixture.sample(m, self.rng)
        self.drawn[events] += m
        return Cloud.of(points, self.log_posterior(points, self.rows[events]), mixture.log_density(points))

    def _of_flow(self, draw: Draw, events: Rows, m: int) -> Cloud:
        points, log_density = draw(self.rows[events], m)
        self.drawn[events] += m
        return Cloud.of(points, self.log_posterior(points, self.rows[events]), log_density)

    def _balanced(self, events: Rows, flow: Cloud, others: Cloud, density: LogDensity) -> Cloud:
        """The points of both, with the density of drawing from one or the other."""
        share = flow.height.shape[1] / (flow.height.shape[1] + others.height.shape[1])
        by_flow = np.concatenate([flow.log_density, density(others.points, self.rows[events])], axis=1)
        by_mixture = np.concatenate(
            [self.mixture[events].log_density(flow.points), others.log_density], axis=1
        )
        # A point that the flow cannot express has NaN: density 0 there.
        by_flow = np.where(np.isnan(by_flow), -np.inf, by_flow)
        joined = flow.joined(others)
        return replace(
            joined, log_density=np.logaddexp(by_flow + np.log(share), by_mixture + np.log1p(-share))
        )
