"""Equally weighted draws from any posterior density: adapted proposals, then Markov chains that forget them.

1. The proposal's points are weighed. Where few of the weights count, a mixture of t distributions is fitted
   to points chosen by a power of the weights, drawn from, weighed in turn, and so on until the power is 1
   (adaptive importance sampling, O. Cappe et al., Stat. Comput. 18, 447 (2008), tempered).
2. The draws of proposal and mixture are weighed together (balance heuristic: E. Veach and L. J. Guibas,
   SIGGRAPH 1995, 419), which gives the evidence, and resampled.
3. From each a chain goes: in turn a draw of the mixture, which lets probability flow between modes, a random
   step with the mixture's scale and, where there is one, a symmetry. It ends when the chains do not remember
   where they began. No move needs a gradient: docs/decisions/0023 says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import logsumexp

from flowcei.posterior.adaptation import (
    CHAIN_RULES,
    Adaptation,
    ChainRules,
    Cloud,
    power_for,
    store,
    systematic,
    top_of,
)
from flowcei.posterior.arrays import RowArrays
from flowcei.posterior.weights import Weights

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowcei.posterior.adaptation import Local, LogDensity
    from flowcei.posterior.arrays import Bools, Floats, Numbers, Rows
    from flowcei.posterior.mixtures import StudentMixture

    Symmetry = Callable[[Floats, Rows, np.random.Generator], Floats]
    """Images (e, m, D) of points under maps that keep volumes and are their own inverse."""


@dataclass(frozen=True, eq=False)
class Chains(RowArrays):
    """Draws of the posteriors of E events that count alike, n of each."""

    ROWS = ("points", "height", "log_evidence", "effective", "drawn", "acceptance", "r_hat", "mixed")

    points: Floats  # (E, n, D)
    height: Floats  # log posterior density, not normalised, (E, n)
    log_evidence: Floats  # log of its integral, (E,), by the draws of the last mixture, or of the start
    effective: Floats  # number of independent draws that they are worth, (E,)
    drawn: Numbers  # points whose density was asked for, (E,)
    acceptance: Floats  # share of the mixture's draws that were accepted, (E,)
    # Of the chains grouped by where they began, the greatest of all coordinates and the density, (E,): 1
    # where nothing of the start is left, infinite where the proposal has no point that the posterior allows.
    r_hat: Floats
    mixed: Bools  # whether nothing is left, and neither means nor variances drift any more, (E,)


def run_chains(
    log_posterior: LogDensity,
    start: Floats,
    log_density: Floats | None,
    density: LogDensity | None,
    n: int,
    rng: np.random.Generator,
    *,
    budget: int,
    symmetry: Symmetry | None = None,
    local: Local | None = None,
    rules: ChainRules = CHAIN_RULES,
) -> Chains:
    """Draw n points of each of E posteriors, from the points (E, P, D) of a proposal, P >= n.

    Args:
        log_posterior: The density to draw from.
        start: Points of the proposal.
        log_density: The proposal's log density there, (E, P); None where it has none, or none is known.
        density: The same, of other points.
        n: Draws of each event.
        rng: Of all that is drawn.
        budget: Points of an event whose density may be asked for.
        symmetry: Moves to try beside the others.
        local: Finds the modes of events whose proposal does not lead to a good one.
        rules: When all is good enough.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> x = rng.normal(size=(1, 400, 2))
        >>> normal = lambda points, rows: -0.5 * ((points - 1.0) ** 2).sum(axis=2) / 0.01
        >>> chains = run_chains(normal, x, None, None, 400, rng, budget=40_000)
        >>> chains.points[0].mean(axis=0).round(1).tolist(), chains.points[0].std(axis=0).round(1).tolist()
        ([1.0, 1.0], [0.1, 0.1])
    """
    everyone = np.arange(len(start))
    flow = Cloud.of(start, log_posterior(start, everyone), log_density)
    weights = Weights.of(flow.log_weights)
    good = weights.reliable & (weights.efficiency >= rules.good) & (log_density is not None)
    out = _resampled(flow, weights, n, rng)
    hopeless = ~np.isfinite(flow.height).any(axis=1)
    out.r_hat[hopeless], out.effective[hopeless], out.mixed[hopeless] = np.inf, 0.0, False
    rest = everyone[~good & ~hopeless]
    if not len(rest):
        return out
    p = min(max(rules.most, rules.per_dimension * start.shape[2]), start.shape[1])
    fewer = Cloud(*(getattr(flow, name)[:, :p] for name in Cloud.ROWS))
    adapted = Adaptation(log_posterior, fewer[rest], rest, rng, rules)
    adapted.run(local, budget)
    for count, mixture in adapted.mixtures.items():
        chosen = np.flatnonzero(adapted.count == count)
        if len(chosen):
            rows, cloud, own = rest[chosen], adapted.best[chosen], mixture[chosen]
            if log_density is not None and density is not None:
                cloud = _balanced(fewer[rows], cloud, own, density(cloud.points, rows))
            run = _Run(log_posterior, symmetry, rows, rng, rules)
            chains = run.mix(cloud, own, p, adapted.drawn[chosen], budget, n)
            store(out, rows, chains)
    return out


def _resampled(cloud: Cloud, weights: Weights, n: int, rng: np.random.Generator) -> Chains:
    """Draws by weight, without chains: what good weights need no more than."""
    e, p = cloud.height.shape
    rows, chosen = np.arange(e)[:, None], systematic(cloud.log_weights, n, rng)
    w = np.sort(np.exp(cloud.log_weights - top_of(cloud.log_weights)), axis=1)
    # Of an independence chain: the mean over pairs of min(1, w'/w).
    pairs = (w * (2.0 * np.arange(p, 0, -1) - 1.0)).sum(axis=1)
    accepted = pairs / np.maximum(p * w.sum(axis=1), 1e-300)
    least = np.minimum(weights.ess, n)
    drawn, one, true = np.full(e, p), np.ones(e), np.ones(e, dtype=bool)
    height = cloud.height[rows, chosen]
    ends = cloud.points[rows, chosen], height, weights.log_evidence, least, drawn
    return Chains(*ends, accepted, one, true)


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

    def mix(
        self, cloud: Cloud, mixture: StudentMixture, p: int, drawn: Numbers, budget: int, n: int
    ) -> Chains:
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
        memory, before, drift = np.ones(e), np.ones(e), np.full(e, np.inf)
        accepted, tried, draws = np.zeros(e), np.zeros(e), np.zeros(e)
        # By the draws of a mixture that was fitted to the chains it is nearer than by those resampled.
        evidence, fitted_anew = np.full(e, -np.inf), np.zeros(e, dtype=bool)
        active, step, since = np.arange(e), 0, np.zeros(e, dtype=np.intp)
        while len(active := active[drawn[active] + p <= budget]):
            if step in rules.refits:  # from here they have to forget anew
                half = np.full(len(active), p / 2.0)
                store(mixture, active, mixture[active].fitted_again(state[active, :, :-1], half, rng))
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
                # Of a few points that were resampled more must be forgotten.
                repeated = before[active] * memory[active] * (copies[active] - 1.0) > 1.0
                active = active[self._going(memory[active], drift[active]) | repeated]
        mixed, r_hat = ~self._going(memory, drift), 1.0 / np.sqrt(np.maximum(1.0 - memory, 1e-9))
        several = [state]
        while p * len(several) < n:
            several.append(self._later(several[-1], mixture, since, drawn, budget))
            mixed &= drawn + p <= budget
        state = np.concatenate(several, axis=1)[:, :n]
        effective = n / (1.0 + before * memory * (copies - 1.0)) / (1.0 + 2.0 * np.sqrt(memory) * (p < n))
        log_evidence = np.where(fitted_anew, evidence - np.log(np.maximum(draws, 1.0)), weights.log_evidence)
        ends = state[..., :-1], state[..., -1], log_evidence, effective, drawn
        return Chains(*ends, accepted / np.maximum(tried, 1.0), r_hat, mixed)

    def _later(
        self, state: Floats, mixture: StudentMixture, steps: Rows, drawn: Numbers, budget: int
    ) -> Floats:
        """Where chains are after so many more steps, (e,), as many as they took to forget."""
        state, p = state.copy(), state.shape[1]
        for step in range(int(steps.max())):
            active = np.flatnonzero((steps > step) & (drawn + p <= budget))
            if len(active):
                self._move(state, mixture[active], active, step)
                drawn[active] += p
        return state

    def _going(self, memory: Floats, drift: Floats) -> Bools:
        """Which chains (E,) have not mixed."""
        return (memory > 1.0 - self.rules.r_hat**-2) | (drift > self.rules.drift)

    def _move(self, state: Floats, mixture: StudentMixture, active: Rows, step: int) -> tuple[Floats, Floats]:
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
        self, points: Floats, mixture: StudentMixture, active: Rows, step: int
    ) -> tuple[Floats, Floats | float, Floats | float]:
        """New points (e, P, D), and the log densities of proposing the way back and there, (e, P)."""
        (_, p, d), rng = points.shape, self.rng
        if step % 2 == 0:
            new = mixture.sample(p, rng)
            return new, mixture.log_density(points), mixture.log_density(new)
        if self.symmetry is not None and step % 8 == 7:
            return self.symmetry(points, self.rows[active], rng), 0.0, 0.0
        # The best scale of a normal target (G. O. Roberts et al., Ann. Appl. Probab. 7, 110 (1997)), and
        # others about it: none is best beside a fold.
        scale = 2.38 / np.sqrt(d) * np.exp(rng.normal(-0.2, 0.5, (*points.shape[:2], 1)))
        return points + scale * mixture.steps(p, rng), 0.0, 0.0


def _balanced(flow: Cloud, cloud: Cloud, mixture: StudentMixture, density: Floats) -> Cloud:
    """The points of both, with the density of drawing from one or the other."""
    others = (mixture.log_density(flow.points), density)
    own = (flow.log_density, cloud.log_density)
    # A point that the flow cannot express has NaN: density 0 there.
    both = [
        np.logaddexp(a, np.where(np.isnan(b), -np.inf, b)) - np.log(2.0)
        for a, b in zip(own, others, strict=True)
    ]
    points, height = (
        np.concatenate([getattr(c, name) for c in (flow, cloud)], axis=1) for name in ("points", "height")
    )
    return Cloud(points, height, np.concatenate(both, axis=1))


def _compared(begun: Floats, now: Floats) -> tuple[Floats, Floats]:
    """How much chains (E, P, D) remember, (E,), and how far they have drifted, (E,).

    The greatest squared correlation of a coordinate with its start, less its noise, and the greatest change
    of a mean or variance in standard errors: chains may forget where they began, and yet be on their way.
    """
    p = begun.shape[1]
    means = [x.mean(axis=1, keepdims=True) for x in (begun, now)]
    # Coordinates without a spread, but for rounding, tell nothing.
    a, b = (x - mean for x, mean in zip((begun, now), means, strict=True))
    a, b = (np.where(np.abs(x).max(axis=1, keepdims=True) > 1e-9, x, np.nan) for x in (a, b))
    size = [(x**2).mean(axis=1) for x in (a, b)]
    with np.errstate(invalid="ignore", divide="ignore"):
        square = (a * b).mean(axis=1) ** 2 / (size[0] * size[1])
        shift = np.abs(means[1] - means[0])[:, 0] * np.sqrt(p / (size[0] + size[1]))
        drift = np.maximum(shift, np.abs(np.log(size[1] / size[0])) * np.sqrt(p) / 2.0)
    # The largest of as many that are noise alone: of chi squared with one degree of freedom over p.
    noise = 2.0 * np.log(1.0 + begun.shape[2]) / p
    memory = (np.nan_to_num(square, nan=1.0).max(axis=1) - noise) / (1.0 - noise)
    return np.clip(memory, 0.0, 1.0), np.nan_to_num(drift, nan=np.inf).max(axis=1)
