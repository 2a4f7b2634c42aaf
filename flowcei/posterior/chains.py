"""Equally weighted draws from any posterior density: adapted proposals, then Markov chains that forget them.

1. Some points of the proposal are weighed. A mixture of t distributions, in coordinates bent as they are,
   is fitted to points chosen by a power of the weights, drawn from, weighed in turn, and so on until the
   power is 1 and most of the draws count (adaptive importance sampling, O. Cappe et al., Stat. Comput. 18,
   447 (2008), tempered).
2. Where few of the mixture's draws, chosen by weight, would repeat one another, that is all: they are
   independent, and cost less than those of a flow. Else draws of proposal and mixture are weighed together
   (balance heuristic: E. Veach and L. J. Guibas, SIGGRAPH 1995, 419).
3. Where these repeat one another too, a chain goes from each: in turn a draw of the mixture, which lets
   probability flow between modes, a random step with the mixture's scale and, where there is one, a symmetry.
   It ends when the chains do not remember where they began. No move needs a gradient: docs/decisions/0023
   says why.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import logsumexp

from flowcei.posterior.adaptation import CHAIN_RULES, Adaptation, ChainRules
from flowcei.posterior.resampling import Cloud, Draws, power_for, repeated, store, systematic
from flowcei.posterior.weights import Weights

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowcei.posterior.adaptation import Local, LogDensity
    from flowcei.posterior.arrays import Bools, Floats, Numbers, Rows
    from flowcei.posterior.bent import BentMixture

    Symmetry = Callable[[Floats, Rows, np.random.Generator], Floats]
    """Images (e, m, D) of points under maps that keep volumes and are their own inverse."""
    Draw = Callable[[Rows, int], tuple[Floats, Floats | None]]
    """So many points (e, m, D) of a proposal for events (e,), and their log density (e, m)."""


@dataclass(frozen=True)
class Proposal:
    """A flow, or whatever else gives points.

    Attributes:
        start: Points of E events, (E, P, D).
        log_density: Its log density there, (E, P); None where it has none, or none is known.
        density: The same, of other points.
        draw: Gives more points.
    """

    start: Floats
    log_density: Floats | None = None
    density: LogDensity | None = None
    draw: Draw | None = None


def run_chains(
    log_posterior: LogDensity,
    proposal: Proposal,
    n: int,
    rng: np.random.Generator,
    *,
    budget: int,
    symmetry: Symmetry | None = None,
    local: Local | None = None,
    worth: Floats | None = None,
    rules: ChainRules = CHAIN_RULES,
) -> Draws:
    """Draw n points of each of E posteriors.

    Args:
        log_posterior: The density to draw from.
        proposal: Where to begin.
        n: Draws of each event.
        rng: Of all that is drawn.
        budget: Points of an event whose density may be asked for.
        symmetry: Moves to try beside the others.
        local: Finds the modes of events whose proposal does not lead to a good one.
        worth: Log density, (E,), that the highest point of an event must have for chains to be tried.
        rules: When all is good enough.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> begin = Proposal(rng.normal(size=(1, 400, 2)))
        >>> normal = lambda points, rows: -0.5 * ((points - 1.0) ** 2).sum(axis=2) / 0.01
        >>> draws = run_chains(normal, begin, 400, rng, budget=40_000)
        >>> draws.points[0].mean(axis=0).round(1).tolist(), draws.points[0].std(axis=0).round(1).tolist()
        ([1.0, 1.0], [0.1, 0.1])
    """
    start = proposal.start
    flow = Cloud.of(start, log_posterior(start, np.arange(len(start))), proposal.log_density)
    out = Draws.none(flow, n)
    rows = np.flatnonzero(np.isfinite(flow.height).any(axis=1))
    if not len(rows):
        return out
    adapted = Adaptation(log_posterior, flow[rows], rows, rng, rules)
    adapted.run(local, budget)
    for count, mixture in adapted.mixtures.items():
        chosen = np.flatnonzero(adapted.count == count)
        if len(chosen):
            each = _Answer(
                log_posterior, rows[chosen], mixture[chosen], adapted.drawn[chosen], n, budget, rng, rules
            )
            pool = each.by_mixture(
                adapted.best[chosen], None if proposal.log_density is None else flow[rows[chosen]]
            )
            if proposal.log_density is not None and proposal.density is not None:
                pool = each.by_both(pool, flow[rows[chosen]], proposal.density, proposal.draw)
            if worth is not None:
                clouds = flow[rows[chosen]], adapted.base[chosen], adapted.best[chosen]
                top = np.max([cloud.height.max(axis=1) for cloud in clouds], axis=0)
                pool = each.without_chains(pool, top < worth[rows[chosen]])
            each.by_chains(pool, symmetry)
            store(out, rows[chosen], each.out)
    return out


class _Answer:
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
    ) -> None:
        self.log_posterior, self.rows, self.mixture, self.drawn = log_posterior, rows, mixture, drawn.copy()
        self.n, self.budget, self.rng, self.rules = n, budget, rng, rules
        self.left = np.arange(len(rows))  # events without an answer, in the order of every pool

    def by_mixture(self, pool: Cloud, flow: Cloud | None) -> Cloud:
        """Answer by draws of the mixture, of which there are some, unless it leaves out what the flow has."""
        self.out = Draws.none(pool, self.n)
        if self.n > (p := pool.height.shape[1]):
            pool = pool.joined(self._of_mixture(self.left, self.n - p))
        seen = None
        if flow is not None:
            own = Cloud(flow.points, flow.height, self.mixture.log_density(flow.points))
            seen = own.log_weights, flow.log_weights
        return self._by_weight(pool, self._of_mixture, seen)

    def by_both(self, pool: Cloud, flow: Cloud, density: LogDensity, draw: Draw | None) -> Cloud:
        """Answer by as many draws of the flow, weighed together with those of the mixture."""
        if not len(self.left):
            return pool
        own, p = flow[self.left], pool.height.shape[1]
        if draw is not None and p > own.height.shape[1]:
            own = own.joined(self._of_flow(draw, self.left, p - own.height.shape[1]))
        pool = self._balanced(self.left, own, pool, density)
        if draw is None:
            return self._by_weight(pool, None, None)

        def more(events: Rows, m: int) -> Cloud:
            own, others = self._of_flow(draw, events, m // 2), self._of_mixture(events, m - m // 2)
            return self._balanced(events, own, others, density)

        return self._by_weight(pool, more, None)

    def without_chains(self, pool: Cloud, hopeless: Bools) -> Cloud:
        """Answer some of all events by what there is; return the pool of the others."""
        given_up = hopeless[self.left]
        events = self.left[given_up]
        if len(events):
            draws = Draws.by_weight(pool[given_up], self.n, self.drawn[events], self.rng)
            store(self.out, events, replace(draws, mixed=np.zeros(len(events), dtype=bool)))
        self.left = self.left[~given_up]
        return pool[~given_up]

    def by_chains(self, pool: Cloud, symmetry: Symmetry | None) -> None:
        """Answer by chains."""
        if len(self.left):
            # However few draws are asked for: by fewer chains nobody sees that a variance still grows.
            p = max(self.rules.chains, self.rules.per_dimension * pool.points.shape[2])
            run = _Run(self.log_posterior, symmetry, self.rows[self.left], self.rng, self.rules)
            mixture, drawn = self.mixture[self.left], self.drawn[self.left]
            store(self.out, self.left, run.mix(pool, mixture, p, drawn, self.budget, self.n))

    def _by_weight(
        self, pool: Cloud, more: Callable[[Rows, int], Cloud] | None, seen: tuple[Floats, Floats] | None
    ) -> Cloud:
        """Answer those of which so few times as many draws are enough; return the pool of the others."""
        weights, (_, p) = Weights.of(pool.log_weights), pool.height.shape
        left = np.ones(len(pool), dtype=bool)
        for times in self.rules.times if more else (1,):
            draws = times * p / self.n
            share = repeated(weights.log_weights, draws, weights.log_evidence)
            if seen is not None:
                at_flow, by = seen
                share = np.maximum(share, repeated(at_flow, draws, weights.log_evidence, by))
            affordable = self.drawn[self.left] + (times - 1) * p <= self.budget
            enough = left & weights.reliable & (share <= self.rules.repeated) & affordable
            if enough.any():
                events, own = self.left[enough], pool[enough]
                if times > 1 and more:
                    own = own.joined(more(events, (times - 1) * p))
                store(self.out, events, Draws.by_weight(own, self.n, self.drawn[events], self.rng))
                left &= ~enough
        self.left = self.left[left]
        return pool[left]

    def _of_mixture(self, events: Rows, m: int) -> Cloud:
        mixture = self.mixture[events]
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


class _Run:
    """Chains of some events."""

    def __init__(
        self,
        log_posterior: LogDensity,
        symmetry: Symmetry | None,
        rows: Rows,
        rng: np.random.Generator,
        rules: ChainRules,
    ) -> None:
        self.log_posterior, self.symmetry, self.rows = log_posterior, symmetry, rows
        self.rng, self.rules = rng, rules

    def mix(self, cloud: Cloud, mixture: BentMixture, p: int, drawn: Numbers, budget: int, n: int) -> Draws:
        """Resample p weighted points, and move the chains that begin there until all is forgotten."""
        rng, rules, e = self.rng, self.rules, len(cloud)
        weights = Weights.of(cloud.log_weights)
        # Where a handful of points carries the weight, more begin: what is beside it must be forgotten, and
        # of chains that all began in one place nobody could tell whether they have.
        power = power_for(cloud.log_weights, rules.begin * p)
        chosen = rng.permuted(systematic(power[:, None] * cloud.log_weights, p, rng), axis=1)
        copies = np.stack([(np.bincount(row) ** 2).sum() / p for row in chosen])
        state = np.concatenate([cloud.points, cloud.height[..., None]], axis=2)[np.arange(e)[:, None], chosen]
        begun, mixture, drawn = state.copy(), mixture[np.arange(e)], drawn.copy()
        memory, before, drift, unfilled = np.ones(e), np.ones(e), np.full(e, np.inf), np.ones(e)
        accepted, tried, draws = np.zeros(e), np.zeros(e), np.zeros(e)
        # By the draws of a mixture that was fitted to the chains it is nearer than by those resampled.
        evidence, fitted_anew = np.full(e, -np.inf), np.zeros(e, dtype=bool)
        active, step, since = np.arange(e), 0, np.zeros(e, dtype=np.intp)
        while len(active := active[drawn[active] + p <= budget]):
            if step in rules.refits:  # from here they have to forget anew
                half = np.full(len(active), p / 2.0)
                again = mixture[active].fitted_again(state[active, :, :-1], half, rng)
                mixture = mixture.padded(again.count)
                store(mixture, active, again.padded(mixture.count))
                before[active] *= _compared(begun[active], state[active])[0]
                begun[active], fitted_anew[active] = state[active], True
                evidence[active], draws[active], since[active] = -np.inf, 0.0, 0
            share, log_mean = self._move(state, mixture[active], active, step)
            drawn[active] += p
            if step % 2 == 0:
                evidence[active] = np.logaddexp(evidence[active], log_mean)
                accepted[active] += share
                tried[active] += 1.0
                draws[active] += 1.0
            step += 1
            since[active] += 1
            if step % rules.check == 0 and step > rules.refits[rules.least]:
                memory[active], drift[active] = _compared(begun[active], state[active])
                log_mean = evidence[active] - np.log(draws[active])
                unfilled[active] = self._unfilled(state[active], mixture[active], draws[active], log_mean)
                # Of a few points that were resampled more must be forgotten.
                repeated = before[active] * memory[active] * (copies[active] - 1.0) > 1.0
                active = active[self._going(memory[active], drift[active], unfilled[active]) | repeated]
        mixed, r_hat = ~self._going(memory, drift, unfilled), 1.0 / np.sqrt(np.maximum(1.0 - memory, 1e-9))
        several = [state]
        while p * len(several) < n:
            several.append(self._later(several[-1], mixture, since, drawn, budget))
            mixed &= drawn + p <= budget
        state = np.concatenate(several, axis=1)[:, :n]
        effective = n / (1.0 + before * memory * (copies - 1.0)) / (1.0 + 2.0 * np.sqrt(memory) * (p < n))
        log_evidence = np.where(fitted_anew, evidence - np.log(np.maximum(draws, 1.0)), weights.log_evidence)
        ends = state[..., :-1], state[..., -1], log_evidence, effective, drawn
        return Draws(*ends, accepted / np.maximum(tried, 1.0), r_hat, mixed)

    def _later(self, state: Floats, mixture: BentMixture, steps: Rows, drawn: Numbers, budget: int) -> Floats:
        """Where chains are after so many more steps, (e,), as many as they took to forget."""
        state, p = state.copy(), state.shape[1]
        for step in range(int(steps.max())):
            active = np.flatnonzero((steps > step) & (drawn + p <= budget))
            if len(active):
                self._move(state, mixture[active], active, step)
                drawn[active] += p
        return state

    def _going(self, memory: Floats, drift: Floats, unfilled: Floats) -> Bools:
        """Which chains (E,) have not mixed."""
        rules = self.rules
        return (memory > 1.0 - rules.r_hat**-2) | (drift > rules.drift) | (unfilled > rules.unfilled)

    def _unfilled(self, state: Floats, mixture: BentMixture, draws: Floats, log_mean: Floats) -> Floats:
        """Share of chains (e,) that are where so many draws of the mixture had no time to come.

        A place of weight w, of mean 1, is left by a chain after w draws, and entered as slowly: memory of
        where chains began says nothing of tails that they have hardly been in.
        """
        points, height = state[..., :-1], state[..., -1]
        log_weights = height - mixture.log_density(points) - log_mean[:, None]
        return np.asarray(np.exp(-draws[:, None] * np.exp(np.minimum(-log_weights, 50.0))).mean(axis=1))

    def _move(self, state: Floats, mixture: BentMixture, active: Rows, step: int) -> tuple[Floats, Floats]:
        """Move points and heights of some events (E, P, D + 1).

        Returns the shares that moved, (e,), and of draws of the mixture their log mean weight, (e,).
        """
        points, height = state[active, :, :-1], state[active, :, -1]
        new, back, there = self._proposed(points, mixture, active, step)
        higher = self.log_posterior(new, self.rows[active])
        higher[np.isnan(higher)] = -np.inf
        with np.errstate(invalid="ignore"):  # from -inf to -inf: not moved
            moved = np.log(self.rng.random(higher.shape)) < higher - height + back - there
        ends = np.concatenate([new, higher[..., None]], axis=2)
        state[active] = np.where(moved[..., None], ends, state[active])
        return moved.mean(axis=1), logsumexp(higher - there, axis=1) - np.log(higher.shape[1])

    def _proposed(
        self, points: Floats, mixture: BentMixture, active: Rows, step: int
    ) -> tuple[Floats, Floats | float, Floats | float]:
        """New points (e, P, D), and the log densities of proposing the way back and there, (e, P)."""
        (_, p, d), rng = points.shape, self.rng
        if step % 2 == 0:
            new = mixture.sample(p, rng)
            return new, mixture.log_density(points), mixture.log_density(new)
        if self.symmetry is not None and step % 8 == 7:
            return self.symmetry(points, self.rows[active], rng), 0.0, 0.0
        # The best scale of a normal target (G. O. Roberts et al., Ann. Appl. Probab. 7, 110 (1997)), and
        # others about it: none is best beside a fold. A bent, thin density is another one at each component.
        scale = 2.38 / np.sqrt(d) * np.exp(rng.normal(-0.2, 0.5, (*points.shape[:2], 1)))
        return mixture.stepped(points, scale, rng)


def _compared(begun: Floats, now: Floats) -> tuple[Floats, Floats]:
    """How much chains (E, P, D) remember, (E,), and how far they have drifted, (E,).

    The greatest squared correlation of a coordinate with its start, less its noise, and the greatest change
    of a mean, a variance or the volume, in standard errors: chains may forget where they began, and yet be on
    their way. A thin and bent density fills slowly: 9 % in each deviation are three standard errors of 1,000
    chains, but the logarithms of all of them together have a relative error that is smaller by sqrt(D).
    """
    (_, p, d) = begun.shape
    means = [x.mean(axis=1, keepdims=True) for x in (begun, now)]
    # Coordinates without a spread, but for rounding, tell nothing.
    a, b = (x - mean for x, mean in zip((begun, now), means, strict=True))
    a, b = (np.where(np.abs(x).max(axis=1, keepdims=True) > 1e-9, x, np.nan) for x in (a, b))
    size = [(x**2).mean(axis=1) for x in (a, b)]
    with np.errstate(invalid="ignore", divide="ignore"):
        square = (a * b).mean(axis=1) ** 2 / (size[0] * size[1])
        # Chains leave tails later than the middle: how far out they are is remembered longer than where.
        u, v = (x**2 - y[:, None] for x, y in zip((a, b), size, strict=True))
        far = (u * v).mean(axis=1) ** 2 / ((u**2).mean(axis=1) * (v**2).mean(axis=1))
        square = np.concatenate([square, far], axis=1)
        shift = np.abs(means[1] - means[0])[:, 0] * np.sqrt(p / (size[0] + size[1]))
        drift = np.maximum(shift, np.abs(np.log(size[1] / size[0])) * np.sqrt(p) / 2.0)
        volume = _log_volume(b) - _log_volume(a)
    growth = np.abs(np.where(np.isfinite(volume), volume, 0.0)) * np.sqrt(p / d) / 2.0
    # The largest of as many that are noise alone: of chi squared with one degree of freedom over p.
    noise = 2.0 * np.log(1.0 + square.shape[1]) / p
    memory = (np.nan_to_num(square, nan=1.0).max(axis=1) - noise) / (1.0 - noise)
    return np.clip(memory, 0.0, 1.0), np.maximum(np.nan_to_num(drift, nan=np.inf).max(axis=1), growth)


def _log_volume(centred: Floats) -> Floats:
    """Log determinant (E,) of the covariance of points (E, P, D) with mean 0."""
    return np.asarray(np.linalg.slogdet(np.swapaxes(centred, 1, 2) @ centred / centred.shape[1])[1])
