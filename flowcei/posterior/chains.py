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

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import logsumexp

from flowcei.posterior.arrays import RowArrays
from flowcei.posterior.mixtures import StudentMixture
from flowcei.posterior.weights import Weights

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowcei.posterior.arrays import Bools, Floats, Numbers, Rows

    LogDensity = Callable[[Floats, Rows], Floats]
    """Log density (e, m), up to a constant, of points (e, m, D) of the events (e,)."""
    Symmetry = Callable[[Floats, Rows, np.random.Generator], Floats]
    """Images (e, m, D) of points under maps that keep volumes and are their own inverse."""
    Local = Callable[[Rows, Floats], StudentMixture]
    """Mixture with a component at each mode of events (e,), found from points (e, m, D)."""


@dataclass(frozen=True)
class ChainRules:
    """When proposals are good enough and chains have mixed."""

    points: int = 400  # of an event at the least, and so many times its dimensions:
    per_dimension: int = 25
    most: int = 1000  # chains of an event; where more is asked for, each gives several draws
    components: tuple[int, ...] = (1, 2, 4)  # of the mixtures of successive rounds
    rounds: int = 15  # at the most
    tempered: float = 0.2  # effective share of the points that a mixture is fitted to
    gain: float = 0.02  # in power plus efficiency, that a round must bring;
    patience: int = 3  # rounds that may bring less
    # Efficiency of the proposal at which its points, resampled, need no chains: at 0.78 so many are repeated
    # that a classifier tells them from independent ones (C2ST 0.555).
    good: float = 0.9
    enough: float = 0.4  # efficiency at which no further round is needed
    poor: float = 0.1  # efficiency below which modes are searched for
    # Greatest R-hat of chains that have mixed: their correlation with where they began is then 0.2.
    r_hat: float = 1.02
    begin: float = 0.05  # effective share of the points that chains begin at, at the least
    drift: float = 3.0  # standard errors by which a mean may have changed since the start
    # What a first fit misses of the tails, steps find, and the next has: with one fit the deviations of OCS
    # are 2 % too small, with three 1 %.
    least: int = 1  # the last of the refits before which no chains end, from 0
    refits: tuple[int, ...] = (4, 10, 26, 58, 106)  # steps before which the mixture is fitted to the chains
    check: int = 2  # steps between two looks at R-hat


CHAIN_RULES = ChainRules()


@dataclass(frozen=True, eq=False)
class Chains(RowArrays):
    """Draws of the posteriors of E events that count alike, n of each."""

    ROWS = ("points", "height", "log_evidence", "effective", "drawn", "acceptance", "r_hat", "mixed")

    points: Floats  # (E, n, D)
    height: Floats  # log posterior density, not normalised, (E, n)
    log_evidence: Floats  # log of its integral, (E,), by the weights before the chains
    effective: Floats  # number of independent draws that they are worth, (E,)
    drawn: Numbers  # points whose density was asked for, (E,)
    acceptance: Floats  # share of the mixture's draws that were accepted, (E,)
    # Of the chains grouped by where they began, the greatest of all coordinates and the density, (E,): 1
    # where nothing of the start is left, infinite where the proposal has no point that the posterior allows.
    r_hat: Floats
    mixed: Bools  # whether nothing is left, and the means do not drift any more, (E,)


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
    flow = _Cloud.of(start, log_posterior(start, everyone), log_density)
    weights = Weights.of(flow.log_weights)
    good = weights.reliable & (weights.efficiency >= rules.good) & (log_density is not None)
    out = _resampled(flow, weights, n, rng)
    hopeless = ~np.isfinite(flow.height).any(axis=1)
    out.r_hat[hopeless], out.effective[hopeless], out.mixed[hopeless] = np.inf, 0.0, False
    rest = everyone[~good & ~hopeless]
    if not len(rest):
        return out
    p = min(max(rules.most, rules.per_dimension * start.shape[2]), start.shape[1])
    fewer = _Cloud(*(getattr(flow, name)[:, :p] for name in _Cloud.ROWS))
    adapted = _Adaptation(log_posterior, fewer[rest], rest, rng, rules)
    adapted.run(local, budget)
    for count, mixture in adapted.mixtures.items():
        chosen = np.flatnonzero(adapted.count == count)
        if len(chosen):
            rows, cloud, own = rest[chosen], adapted.best[chosen], mixture[chosen]
            if log_density is not None and density is not None:
                cloud = _balanced(fewer[rows], cloud, own, density(cloud.points, rows))
            run = _Run(log_posterior, symmetry, rows, rng, rules)
            chains = run.mix(cloud, own, p, adapted.drawn[chosen], budget, n)
            _store(out, rows, chains)
    return out


@dataclass(frozen=True, eq=False)
class _Cloud(RowArrays):
    """Points of a proposal."""

    ROWS = ("points", "height", "log_density")

    points: Floats  # (E, P, D)
    height: Floats  # log posterior density, (E, P)
    log_density: Floats  # of the proposal, (E, P)

    @classmethod
    def of(cls, points: Floats, height: Floats, log_density: Floats | None) -> _Cloud:
        """With -inf where a density is not known; points without a density of their own count alike."""
        allowed = np.where(np.isnan(height), -np.inf, height)
        own = np.zeros(allowed.shape) if log_density is None else log_density
        return cls(points, allowed, own)

    @property
    def log_weights(self) -> Floats:
        """Log posterior over proposal, (E, P): -inf where the posterior allows nothing."""
        with np.errstate(invalid="ignore"):
            return np.where(np.isneginf(self.height), -np.inf, self.height - self.log_density)


def _resampled(cloud: _Cloud, weights: Weights, n: int, rng: np.random.Generator) -> Chains:
    """Draws by weight, without chains: what good weights need no more than."""
    e, p = cloud.height.shape
    rows, chosen = np.arange(e)[:, None], _systematic(cloud.log_weights, n, rng)
    w = np.sort(np.exp(cloud.log_weights - _top(cloud.log_weights)), axis=1)
    # Of an independence chain: the mean over pairs of min(1, w'/w).
    pairs = (w * (2.0 * np.arange(p, 0, -1) - 1.0)).sum(axis=1)
    accepted = pairs / np.maximum(p * w.sum(axis=1), 1e-300)
    least = np.minimum(weights.ess, n)
    drawn, one, true = np.full(e, p), np.ones(e), np.ones(e, dtype=bool)
    height = cloud.height[rows, chosen]
    ends = cloud.points[rows, chosen], height, weights.log_evidence, least, drawn
    return Chains(*ends, accepted, one, true)


class _Adaptation:
    """The search for a mixture that is a good proposal for each of E events."""

    def __init__(
        self, log_posterior: LogDensity, flow: _Cloud, rows: Rows, rng: np.random.Generator, rules: ChainRules
    ) -> None:
        e, p, d = flow.points.shape
        self.log_posterior, self.rows, self.rng, self.rules = log_posterior, rows, rng, rules
        self.wanted = min(max(rules.tempered * p, 6.0 * d), 0.5 * p)  # effective points of a fit
        self.base, self.best = flow[np.arange(e)], flow[np.arange(e)]  # copies
        self.reached, self.gained = _score(flow.log_weights, self.wanted), np.full(e, -np.inf)
        self.wide = flow.points
        self.doubtful = _effective(flow.log_weights) < rules.poor * p  # a mode may have been missed
        self.count = np.zeros(e, dtype=np.intp)  # of components of the best
        self.mixtures: dict[int, StudentMixture] = {}
        self.drawn, self.stale = np.full(e, p), np.zeros(e, dtype=np.intp)

    def run(self, local: Local | None, budget: int) -> None:
        """Go on until all proposals are good or do not get better."""
        p, rules = self.base.points.shape[1], self.rules
        active = np.arange(len(self.base))
        for turn in range(rules.rounds):
            count = rules.components[turn % len(rules.components)]
            self._try(active, StudentMixture.fit(*self._chosen(active), self.rng, count))
            going = (self.gained[active] < 1.0 + rules.enough) & (self.stale[active] < rules.patience)
            active = active[going & (self.drawn[active] + 2 * p <= budget)]
            if not len(active):
                break
        if local is not None:
            poor = (self.gained < 1.0 + rules.poor) | self.doubtful
            self._join_modes(local, np.flatnonzero(poor & (self.drawn + 2 * p <= budget)))

    def _join_modes(self, local: Local, rows: Rows) -> None:
        """Give the modes of some events that no component of their mixture covers one of their own."""
        if not len(rows):
            return
        # From where the proposal went, and from where the weights are: a mode may be far from these.
        points = np.concatenate([self.wide[rows], self._chosen(rows)[0]], axis=1)
        modes = local(self.rows[rows], points)
        for count in np.unique(self.count[rows]):
            mine = self.count[rows] == count
            own = self.mixtures[count][rows[mine]]
            new = ~own.covers(modes.mean[mine]) & np.isfinite(modes.log_share[mine])
            some = new.any(axis=1)
            if some.any():
                log_share = np.where(new, modes.log_share[mine], -np.inf)[some]
                self._try(
                    rows[mine][some],
                    own[some].joined(replace(modes[mine][some], log_share=log_share)),
                    join=True,
                )

    def _chosen(self, active: Rows) -> tuple[Floats, Floats]:
        """Points (e, P, D) to fit a mixture to, and how many independent ones they stand for, (e,)."""
        base = self.base[active]
        log_weights = _power(base.log_weights, self.wanted)[:, None] * base.log_weights
        chosen = _systematic(log_weights, base.points.shape[1], self.rng)
        return base.points[np.arange(len(active))[:, None], chosen], _effective(log_weights)

    def _try(self, active: Rows, mixture: StudentMixture, *, join: bool = False) -> None:
        """Draw from a mixture, and keep it where it is better than those before, or one of them and more."""
        (_, k, d), p = mixture.mean.shape, self.base.points.shape[1]
        points = mixture.sample(p, self.rng)
        height = self.log_posterior(points, self.rows[active])
        cloud = _Cloud.of(points, height, mixture.log_density(points))
        self.drawn[active] += p
        score, total = _score(cloud.log_weights, self.wanted), len(self.base)
        self.stale[active] = np.where(
            score > self.gained[active] + self.rules.gain, 0, self.stale[active] + 1
        )
        better = (score > self.gained[active]) | join
        if k not in self.mixtures:
            blank = np.zeros((total, k, d)), np.tile(np.eye(d), (total, k, 1, 1)), np.zeros((total, k))
            self.mixtures[k] = StudentMixture(*blank)
        self.count[active[better]] = k
        for target, source in ((self.best, cloud), (self.mixtures[k], mixture)):
            _store(target, active[better], source[better])
        self.gained[active[better]] = score[better]
        better = score > self.reached[active]
        _store(self.base, active[better], cloud[better])
        self.reached[active[better]] = score[better]


def _store(target: RowArrays, rows: Rows, source: RowArrays) -> None:
    for name in target.ROWS:
        getattr(target, name)[rows] = getattr(source, name)


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
        self, cloud: _Cloud, mixture: StudentMixture, p: int, drawn: Numbers, budget: int, n: int
    ) -> Chains:
        """Resample p weighted points, and move the chains that begin there until all is forgotten."""
        rng, rules, e = self.rng, self.rules, len(cloud)
        weights = Weights.of(cloud.log_weights)
        # Where a handful of points carries the weight, more begin: what is beside it must be forgotten, and
        # of chains that all began in one place nobody could tell whether they have.
        power = _power(cloud.log_weights, rules.begin * p)
        chosen = rng.permuted(_systematic(power[:, None] * cloud.log_weights, p, rng), axis=1)
        copies = np.stack([(np.bincount(row) ** 2).sum() / p for row in chosen])
        state = np.concatenate([cloud.points, cloud.height[..., None]], axis=2)[np.arange(e)[:, None], chosen]
        begun, mixture, drawn = state.copy(), mixture[np.arange(e)], drawn.copy()
        memory, before, drift = np.ones(e), np.ones(e), np.full(e, np.inf)
        accepted, tried = np.zeros(e), np.zeros(e)
        # By the draws of the mixtures since the last fit, which are nearer than those that were resampled.
        evidence, draws = np.full(e, -np.inf), np.zeros(e)
        active, step, since = np.arange(e), 0, np.zeros(e, dtype=np.intp)
        while len(active := active[drawn[active] + p <= budget]):
            if step in rules.refits:  # from here they have to forget anew
                half = np.full(len(active), p / 2.0)
                fitted = mixture[active].fitted_again(state[active, :, :-1], half, rng)
                _store(mixture, active, fitted)
                begun[active], before[active] = state[active], before[active] * memory[active]
                evidence[active], draws[active], since[active] = -np.inf, 0.0, 0
            share, log_mean = self._move(state, mixture[active], active, step)
            drawn[active] += p
            if step % 2 == 0:
                accepted[active] += share
                tried[active] += 1.0
                evidence[active] = np.logaddexp(evidence[active], log_mean)
                draws[active] += 1.0
            step += 1
            since[active] += 1
            if step % rules.check == 0 and step > rules.refits[rules.least]:
                memory[active], drift[active] = _compared(begun[active], state[active])
                # Of a few points that were resampled more must be forgotten.
                repeated = before[active] * memory[active] * (copies[active] - 1.0) > 1.0
                active = active[self._going(memory[active], drift[active]) | repeated]
        with np.errstate(divide="ignore"):
            r_hat = 1.0 / np.sqrt(1.0 - memory)
        mixed = ~self._going(memory, drift)
        several = [state]
        while p * len(several) < n:
            several.append(self._later(several[-1], mixture, since, drawn, budget))
            mixed &= drawn + p <= budget
        state = np.concatenate(several, axis=1)[:, :n]
        effective = n / (1.0 + before * memory * (copies - 1.0)) / (1.0 + 2.0 * np.sqrt(memory) * (p < n))
        fitted_anew = np.isfinite(evidence) & (before < 1.0)
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


def _balanced(flow: _Cloud, cloud: _Cloud, mixture: StudentMixture, density: Floats) -> _Cloud:
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
    return _Cloud(points, height, np.concatenate(both, axis=1))


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


def _effective(log_weights: Floats) -> Floats:
    """Effective number (E,) of weights (E, P); 0 where none counts."""
    w = np.exp(log_weights - _top(log_weights))
    return np.asarray(w.sum(axis=1) ** 2 / np.maximum((w**2).sum(axis=1), 1e-300))


def _top(log_weights: Floats) -> Floats:
    top = log_weights.max(axis=1, keepdims=True)
    return np.where(np.isfinite(top), top, 0.0)


def _power(log_weights: Floats, wanted: Floats | float) -> Floats:
    """Greatest power (E,), at most 1, of weights (E, P) that leaves so many effective points."""
    low, high = np.zeros(len(log_weights)), np.ones(len(log_weights))
    level = np.where(np.isfinite(log_weights), log_weights, -1e300)
    whole = _effective(level) >= wanted
    for _ in range(20):
        middle = 0.5 * (low + high)
        enough = _effective(middle[:, None] * level) >= wanted
        low, high = np.where(enough, middle, low), np.where(enough, high, middle)
    return np.where(whole, 1.0, np.maximum(low, 1e-6))


def _score(log_weights: Floats, wanted: Floats | float) -> Floats:
    """How good a proposal is, (E,): the power of its weights that leaves enough points, and efficiency."""
    return _power(log_weights, wanted) + _effective(log_weights) / log_weights.shape[1]


def _systematic(log_weights: Floats, n: int, rng: np.random.Generator) -> Rows:
    """Indices (E, n) of points, each about as often as its share of the weights (E, P)."""
    edges = np.exp(log_weights - _top(log_weights)).cumsum(axis=1)
    marks = (np.arange(n) + rng.random((len(edges), 1))) / n * edges[:, -1:]
    last = log_weights.shape[1] - 1
    return np.stack(
        [np.searchsorted(row, mark).clip(0, last) for row, mark in zip(edges, marks, strict=True)]
    )
