"""Importance weights: from the samples of a flow to those of the exact posterior.

A flow draws x from its own density q(x | P). The posterior is, up to a constant, prior p(x) times likelihood
L(P | x): samples with the weights p L / q are samples of it, their mean weight is the evidence, and the
effective number of samples, ESS = (sum w)^2 / sum w^2, measures the flow without the truth (DINGO-IS: M. Dax
et al., Phys. Rev. Lett. 130, 171403 (2023)).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flowcei.experiment.detector import rms_component
from flowcei.experiment.likelihood import centred_momenta
from flowcei.posterior.arrays import RowArrays
from flowcei.posterior.resampling import relative, top_of

if TYPE_CHECKING:
    from flowcei.posterior.arrays import Bools, Floats, Numbers, Rows


_NOTHING = 1e4  # nats


@dataclass(frozen=True)
class WeightRules:
    """When weights are reliable; files hold no rules: weigh again after reading for others than these."""

    # Pareto tail index above which the largest weights have no finite mean to speak of (A. Vehtari et al.,
    # JMLR 25, 72 (2024)).
    k_hat: float = 0.7
    min_ess: float = 10.0  # effective samples; fewer give no deviation to a quarter of itself
    # Effective share that is enough where few were drawn: of 4,000 sound events of OCS the least ESS of 20
    # (10) samples is 11.3 (3.8), of one large weight.
    min_efficiency: float = 0.25
    # Efficiency from which on no few samples carry the weight, so that k-hat, then of the small differences
    # of nearly equal weights, does not count: of 1,000 sound events with 40 (100, 300) samples 61 (10, 1)
    # exceed 0.7, all with an efficiency above 0.85.
    even: float = 0.5
    # Share of the largest weight in the sum of squares of which ESS is made, max(w)^2 ESS / (sum w)^2, up to
    # which ESS is that of many draws: its relative error is then below 1/2, and one draw moves a mean by
    # less than 1/2 of the error that ESS promises. Where tails are heavy it mostly stays above.
    largest: float = 0.25


WEIGHT_RULES = WeightRules()


@dataclass(frozen=True, eq=False, repr=False)
class Weights(RowArrays):
    """Importance weights of n samples of each of E events; `ROWS` are their names in files, too."""

    ROWS = ("log_weights", "drawn", "ess", "log_evidence", "k_hat")

    log_weights: Floats  # log prior + log likelihood - log q, (E, n); -inf: excluded, or not to be simulated
    drawn: Numbers  # samples drawn, (E,): n, or more where some were dropped
    ess: Floats  # effective number of all samples drawn, (E,); 0 where no sample counts
    log_evidence: Floats  # log of the mean weight of all samples drawn, (E,)
    k_hat: Floats  # shape of the tail of the weights, (E,); NaN where there are too few samples
    rules: WeightRules = WEIGHT_RULES

    def __repr__(self) -> str:
        efficiency = f", efficiency {np.median(self.efficiency):.2g} (median)" if len(self.drawn) else ""
        return f"Weights: {len(self.drawn)} events x {self.log_weights.shape[-1]} samples{efficiency}"

    @classmethod
    def of(cls, log_weights: Floats, rules: WeightRules = WEIGHT_RULES) -> Weights:
        """Judge raw weights (E, n), all that were drawn."""
        e, n = log_weights.shape
        with np.errstate(divide="ignore", invalid="ignore"):  # where no sample counts
            weights = relative(log_weights)
            total = np.log(weights.sum(axis=1)) + top_of(log_weights)[:, 0]
            ess = weights.sum(axis=1) ** 2 / (weights**2).sum(axis=1)
        ess = np.where(np.isfinite(total), ess, 0.0)
        return cls(log_weights, np.full(e, n), ess, total - np.log(n), _k_hat(log_weights), rules)

    @property
    def few_count(self) -> Bools:
        """Which events (E,) have too few effective samples to say anything."""
        return self.ess < np.minimum(self.rules.min_ess, self.rules.min_efficiency * self.drawn)

    @property
    def reliable(self) -> Bools:
        """Which events (E,) have weights to be used.

        Beyond the bound of k-hat the few samples that carry the weight are where the flow happened to reach:
        their moments are biased and too narrow. The flow itself is right on average.
        """
        return ~self.few_count & ~self.carried_by_few

    @property
    def carried_by_few(self) -> Bools:
        """Which events (E,) have k-hat beyond its bound, and less than `even` efficiency."""
        return (self.k_hat > self.rules.k_hat) & (self.efficiency < self.rules.even)

    def settled(self, min_ess: float) -> Bools:
        """Which events (E,) have so many effective samples, by weights that one more draw hardly changes."""
        with np.errstate(invalid="ignore"):  # where no sample counts
            largest = np.exp(self.log_weights.max(axis=1) - self.log_evidence) / self.drawn
        return (self.ess >= min_ess) & ~self.carried_by_few & (largest**2 * self.ess <= self.rules.largest)

    @property
    def normalised(self) -> Floats:
        """Weights (E, n) that sum to 1 for each event; equal where they are not `reliable`.

        Samples that the prior excludes then have none either, unless too few would remain.
        """
        log_weights, others = self.log_weights, np.flatnonzero(~self.reliable)
        if len(others):
            log_weights = log_weights.copy()
            # Nor have those that a flow throws to where nothing is: at e^-10000 momenta are 50 % off.
            with np.errstate(invalid="ignore"):
                top = log_weights[others].max(axis=1, keepdims=True)
                possible = np.isfinite(log_weights[others]) & (log_weights[others] > top - _NOTHING)
            few = possible.sum(axis=1, keepdims=True) < self.rules.min_ess
            log_weights[others] = np.where(possible | few, 0.0, -np.inf)
        weights = np.exp(log_weights - log_weights.max(axis=1, keepdims=True))
        return np.asarray(weights / weights.sum(axis=1, keepdims=True))

    @property
    def efficiency(self) -> Floats:
        """ESS over the number drawn, (E,): 1 where the flow is the exact posterior."""
        return self.ess / self.drawn

    @property
    def log_evidence_error(self) -> Floats:
        """Standard error of `log_evidence`, (E,), by the delta method; infinite where none counts."""
        with np.errstate(divide="ignore"):
            return np.sqrt(np.maximum(1.0 / self.ess - 1.0 / self.drawn, 0.0))


def efficiency_in_words(ess: Floats, drawn: NDArray[np.integer]) -> str:
    """Say how many samples count, from the effective (E,) and the drawn (E,) of each event."""
    low, middle = np.quantile(ess / drawn, (0.1, 0.5))
    return (
        f"sample efficiency {middle:.1%} (median; a tenth of the events below {low:.1%}), "
        f"{np.median(ess):.3g} effective of {drawn.mean():.0f} drawn"
    )


def scaled_evidence(log_evidence: Floats, momenta: Floats, masses: Floats) -> Floats:
    """How probable momenta (E, N, 3) are, without unit: log evidence + (3N - 3) log rms(centred), (E,)."""
    size = rms_component(centred_momenta(momenta, masses))
    return np.asarray(log_evidence + (3 * len(masses) - 3) * np.log(size))


def thinned(log_weights: Floats, n: int, rng: np.random.Generator) -> tuple[Rows, Floats]:
    """Choose n of m weighted samples of one event, without bias and none twice: rows, log weights (n,).

    With the least variance: P. Fearnhead and P. Clifford, J. R. Statist. Soc. B 65, 887 (2003).
    """
    top = log_weights.max()
    weights = np.exp(log_weights - top) if np.isfinite(top) else np.zeros(len(log_weights))
    order = np.argsort(-weights)[: np.count_nonzero(weights)]
    if len(order) <= n or len(weights) <= n:  # some without weight fill up
        # The mean over fewer samples must not change: it is the evidence.
        rows = np.sort(np.concatenate([order, np.flatnonzero(weights == 0.0)])[:n])
        return rows, log_weights[rows]
    falling, heavy = weights[order], np.arange(len(order))
    remainder = np.concatenate([np.cumsum(falling[::-1])[::-1][1:], [0.0]])
    # The k heaviest keep theirs, and the others share the weight c = their sum / (n - k).
    with np.errstate(divide="ignore", invalid="ignore"):
        level = np.concatenate([[falling.sum() / n], remainder[:-1] / (n - heavy[:-1] - 1.0)])
    k = int(np.argmax((falling <= level) & (heavy < n)))
    # Systematic: one in every unit of weight.
    marks = np.floor(np.cumsum(falling[k:]) / level[k] - rng.random())
    light = order[k:][np.diff(marks, prepend=-1.0) > 0][: n - k]
    light_weight = np.full(len(light), np.log(level[k]) + top)
    return np.concatenate([order[:k], light]), np.concatenate([log_weights[order[:k]], light_weight])


def _k_hat(log_weights: Floats, fewest_in_tail: int = 5) -> Floats:
    """Pareto shape of the largest of weights (E, n), (E,)."""
    n = log_weights.shape[1]
    count = int(np.ceil(min(0.2 * n, 3.0 * np.sqrt(n))))
    if count < fewest_in_tail:
        return np.full(len(log_weights), np.nan)
    ordered = np.sort(log_weights, axis=1)
    tail, cut = ordered[:, -count:], ordered[:, [-count - 1]]
    with np.errstate(invalid="ignore", divide="ignore"):
        return generalised_pareto_shape(np.exp(tail - tail[:, -1:]) - np.exp(cut - tail[:, -1:]))


def generalised_pareto_shape(excess: Floats) -> Floats:
    """Shape k (E,) of generalised Pareto distributions of rising excesses (E, M); NaN without spread.

    J. Zhang and M. A. Stephens, Technometrics 51, 316 (2009), with the weak prior, ten times 0.5, of A.
    Vehtari et al.
    """
    count = excess.shape[1]
    grid = 30 + int(np.sqrt(count))
    quarter = excess[:, int(count / 4 + 0.5) - 1]
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):  # rows without spread
        steps = 1.0 - np.sqrt(grid / (np.arange(1, grid + 1) - 0.5))
        theta = 1.0 / excess[:, -1:] + steps / (3.0 * quarter[:, None])
        shape = np.log1p(-theta[:, :, None] * excess[:, None, :]).mean(axis=2)
        likelihood = count * (np.log(-theta / shape) - shape - 1.0)
        share = np.exp(likelihood - likelihood.max(axis=1, keepdims=True))
        share /= share.sum(axis=1, keepdims=True)
        best = (theta * share).sum(axis=1)
        k = np.log1p(-best[:, None] * excess).mean(axis=1)
    weak = (k * count + 0.5 * 10.0) / (count + 10.0)
    return np.where(np.isfinite(weak), weak, np.nan)
