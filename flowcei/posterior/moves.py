"""Markov chains from weighted points, until nothing is left of where they began.

In turn a draw of the mixture, which lets probability flow between modes, a random step with the mixture's
scale and, where there is one, a symmetry. No move needs a gradient: docs/decisions/0023 says why.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import logsumexp

from flowcei.posterior.resampling import Cloud, Draws, power_for, relative, store, systematic
from flowcei.posterior.weights import Weights

if TYPE_CHECKING:
    from flowcei.posterior.adaptation import ChainRules, LogDensity
    from flowcei.posterior.arrays import Bools, Floats, Numbers, Rows
    from flowcei.posterior.bent import BentMixture, GuardedMixture

    Mixture = BentMixture | GuardedMixture

    Symmetry = Callable[[Floats, Rows, np.random.Generator], Floats]
    """Images (e, m, D) of points under maps that keep volumes and are their own inverse."""


class Chains:
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

    def mix(self, cloud: Cloud, mixture: Mixture, p: int, drawn: Numbers, budget: int, n: int) -> Draws:
        """Resample p weighted points, and move the chains that begin there until all is forgotten."""
        rng, rules, e = self.rng, self.rules, len(cloud)
        weights = Weights.of(cloud.log_weights)
        # Where a handful of points carries the weight, more begin: what is beside it must be forgotten, and
        # of chains that all began in one place nobody could tell whether they have.
        power = power_for(cloud.log_weights, rules.begin * p)
        chosen = rng.permuted(systematic(relative(power[:, None] * cloud.log_weights), p, rng), axis=1)
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
            share, log_mean = self.move(state, mixture[active], active, step)
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

    def _later(self, state: Floats, mixture: Mixture, steps: Rows, drawn: Numbers, budget: int) -> Floats:
        """Where chains are after so many more steps, (e,), as many as they took to forget."""
        state, p = state.copy(), state.shape[1]
        for step in range(int(steps.max())):
            active = np.flatnonzero((steps > step) & (drawn + p <= budget))
            if len(active):
                self.move(state, mixture[active], active, step)
                drawn[active] += p
        return state

    def _going(self, memory: Floats, drift: Floats, unfilled: Floats) -> Bools:
        """Which chains (E,) have not mixed."""
        rules = self.rules
        return (memory > 1.0 - rules.r_hat**-2) | (drift > rules.drift) | (unfilled > rules.unfilled)

    def _unfilled(self, state: Floats, mixture: Mixture, draws: Floats, log_mean: Floats) -> Floats:
        """Share of chains (e,) that are where so many draws of the mixture had no time to come.

        A place of weight w, of mean 1, is left by a chain after w draws, and entered as slowly: memory of
        where chains began says nothing of tails that they have hardly been in.
        """
        points, height = state[..., :-1], state[..., -1]
        log_weights = height - mixture.log_density(points) - log_mean[:, None]
        return np.asarray(np.exp(-draws[:, None] * np.exp(np.minimum(-log_weights, 50.0))).mean(axis=1))

    def move(self, state: Floats, mixture: Mixture, active: Rows, step: int) -> tuple[Floats, Floats]:
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
        self, points: Floats, mixture: Mixture, active: Rows, step: int
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
