"""Events of which some hits may be those of other ions: a model is asked under each assignment."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import logsumexp, softmax

from flowcei.errors import NoDensityError

if TYPE_CHECKING:
    from flowcei.events.container import Events
    from flowcei.experiment.measurement import Measurement
    from flowcei.physics.priors import GeometryPrior
    from flowcei.posterior.arrays import Bools, Floats, Rows
    from flowcei.posterior.exact import Density, Draw
    from flowcei.posterior.samples import PosteriorSamples

_PILOT = 200  # samples of each assignment by which its evidence is known
_EVEN = 0.1  # share of the samples that all assignments have alike, where weights correct the others


def under_each(events: Events, own: Measurement) -> list[Events]:
    """Calibrated events under each assignment of their hits."""
    level = replace(own, noise=own.levels)
    return [replace(events, momenta=p, sigma=level.sigma(p)) for p in own.assigned(events.momenta)]


@dataclass(eq=False)
class Assigning:
    """Answers of a model under each of K assignments, as draws from their mixture."""

    events: Events
    draws: list[Draw]  # of each assignment
    densities: list[Density]
    shares: Floats  # of the assignments, (E, K)
    rng: np.random.Generator

    @classmethod
    def of(
        cls,
        events: Events,
        draws: list[Draw],
        densities: list[Density],
        prior: GeometryPrior | None,
        rng: np.random.Generator,
        *,
        corrected: bool,
    ) -> Assigning:
        """With shares that a first look at their evidence gives; `corrected` where samples are weighed."""
        every, out = np.arange(len(events)), np.full((len(events), len(draws)), 1.0 / len(draws))
        pilots = [draw(every, _PILOT) for draw in draws]
        if pilots[0].log_prob is not None:
            weights = [pilot.weigh(prior).weights for pilot in pilots]
            evidence = np.stack([w.log_evidence for w in weights if w is not None], axis=1)
            out = softmax(np.where(np.isneginf(evidence).all(axis=1, keepdims=True), 0.0, evidence), axis=1)
        elif not corrected:
            raise NoDensityError(
                "the probability of an assignment needs the model's density; it has none: --exact"
            )
        even = np.stack([pilot.answered for pilot in pilots], axis=1).astype(float) + 1e-300
        even = even / even.sum(axis=1, keepdims=True)
        return cls(events, draws, densities, (1.0 - _EVEN) * out + _EVEN * even if corrected else out, rng)

    def flags(self, each: list[dict[str, Bools]]) -> dict[str, Bools]:
        """Flags (E,) of the likeliest of the assignments, of those of each."""
        best, rows = self.shares.argmax(axis=1), np.arange(len(self.events))
        return {name: np.stack([flags[name] for flags in each])[best, rows] for name in each[0]}

    def draw(self, rows: Rows, n: int) -> PosteriorSamples:
        """Return n samples of some events, of each assignment by its share."""
        parts = [draw(rows, n) for draw in self.draws]
        # Of each assignment its share of n, rounded up or down, in any order.
        marks = (np.arange(n) + self.rng.random((len(rows), 1, 1))) / n
        number = (self.shares[rows].cumsum(axis=1)[:, :-1, None] < marks).sum(axis=1)
        number = self.rng.permuted(number, axis=1)  # (e, n)
        positions = np.stack([part.positions for part in parts])
        positions = positions[number, np.arange(len(rows))[:, None], np.arange(n)]
        some = self.events[rows]
        facts = {"momenta": some.momenta, "sigma": some.sigma, "positions": positions}
        log_prob = None if parts[0].log_prob is None else self.density(positions.astype(float), None, rows)
        return replace(parts[0], **facts, log_prob=log_prob)

    def density(self, x: Floats, times: Floats | None, rows: Rows) -> Floats:
        """Log density (e, m) of geometries (e, m, N, 3)."""
        with np.errstate(divide="ignore"):
            logs = [
                d(x, times, rows) + np.log(self.shares[rows, k, None]) for k, d in enumerate(self.densities)
            ]
        return np.asarray(logsumexp(np.where(np.isnan(logs), -np.inf, logs), axis=0))
