"""Importance weights: from the samples of a flow to those of the exact posterior.

A flow draws x from its own density q(x | P). The posterior is known up to a constant: the
prior p(x) times the likelihood L(P | x) of the simulator and the detector. Samples with the
weights p(x) L(P | x) / q(x | P) are samples of it, and the mean weight is the evidence, the
probability of the momenta themselves. How many samples the weights leave,
ESS = (sum w)^2 / sum w^2, measures how good the flow is, event by event, without the truth
(DINGO-IS: M. Dax et al., Phys. Rev. Lett. 130, 171403 (2023)).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import logsumexp

from flowcei.experiment.detector import rms_component
from flowcei.experiment.likelihood import centred_momenta

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

K_HAT_BOUND = 0.7
"""Above it the largest weights have no finite mean to speak of: more samples, or a better flow."""

_FEWEST_IN_TAIL = 5
_FEWEST = 10.0
"""Effective samples; of fewer no deviation is known to a quarter of itself."""
_EVEN = 0.5
"""Efficiency from which on weights are those of many samples."""


@dataclass(frozen=True, eq=False)
class Weights:
    """Importance weights of the samples of events.

    Attributes:
        log_weights: log prior + log likelihood - log q of each sample, (E, n); -inf for a
            geometry that the prior excludes or nothing can follow.
        drawn: Samples that were drawn of each event, (E,): n, or more where some were dropped.
        ess: Effective number of samples, (E,), of all that were drawn; 0 where no sample counts.
        log_evidence: Log of the mean weight, (E,), of all that were drawn.
        k_hat: Shape of the tail of the weights, (E,): reliable below 0.7 (A. Vehtari et al.,
            JMLR 25, 72 (2024)); NaN where there are too few samples to say.
    """

    log_weights: NDArray[np.float64]
    drawn: NDArray[np.int64]
    ess: NDArray[np.float64]
    log_evidence: NDArray[np.float64]
    k_hat: NDArray[np.float64]

    @classmethod
    def of(cls, log_weights: NDArray[np.float64]) -> Weights:
        """Judge raw weights (E, n), all that were drawn.

        Example:
            >>> w = Weights.of(np.array([[0.0, 0.0, np.log(2.0), -np.inf]]))
            >>> w.normalised.tolist(), w.ess.round(3).tolist()
            ([[0.25, 0.25, 0.5, 0.0]], [2.667])
        """
        e, n = log_weights.shape
        with np.errstate(divide="ignore", invalid="ignore"):  # where no sample counts
            total = logsumexp(log_weights, axis=1)
            ess = np.exp(2.0 * total - logsumexp(2.0 * log_weights, axis=1))
        return cls(
            log_weights,
            np.full(e, n),
            np.where(np.isfinite(total), ess, 0.0),
            total - np.log(n),
            _k_hat(log_weights),
        )

    def __getitem__(self, rows: slice | NDArray) -> Weights:
        """Return those of some of the events."""
        return Weights(
            self.log_weights[rows],
            self.drawn[rows],
            self.ess[rows],
            self.log_evidence[rows],
            self.k_hat[rows],
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Weights]) -> Weights:
        """Join the weights of different events."""
        names = ("log_weights", "drawn", "ess", "log_evidence", "k_hat")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    @property
    def few_count(self) -> NDArray[np.bool_]:
        """Which events (E,) have fewer effective samples than anything can be said from.

        Of few that were drawn one large weight can leave half: of 4,000 sound events of OCS the fewest
        effective of 20 (of 10) samples are 11.3 (3.8), so that a quarter is asked.
        """
        return self.ess < np.minimum(_FEWEST, 0.25 * self.drawn)

    @property
    def reliable(self) -> NDArray[np.bool_]:
        """Which events (E,) have weights to be used.

        Beyond the bound of k-hat the few samples that carry the weight are where the flow happened
        to reach, so means and deviations of them lie beside the posterior and are too narrow. The
        flow itself is too wide or too narrow there, but right on average.
        """
        # Where half of the samples count, no few carry the weight, and k-hat is that of the small
        # differences between nearly equal ones: of 1,000 sound events with 40 (100, 300) samples
        # 61 (10, 1) have k-hat above 0.7, all with an efficiency above 0.85.
        carried_by_few = (self.k_hat > K_HAT_BOUND) & (self.efficiency < _EVEN)
        return ~self.few_count & ~carried_by_few

    @property
    def normalised(self) -> NDArray[np.float64]:
        """Weights (E, n) that sum to 1 for each event; equal where they are not `reliable`.

        Samples that the prior excludes then have none either, unless fewer than ten would be left.
        """
        possible = np.isfinite(self.log_weights)
        alike = np.where(possible | (possible.sum(axis=1, keepdims=True) < _FEWEST), 0.0, -np.inf)
        known = np.where(self.reliable[:, None], self.log_weights, alike)
        weights = np.exp(known - known.max(axis=1, keepdims=True))
        return np.asarray(weights / weights.sum(axis=1, keepdims=True))

    @property
    def efficiency(self) -> NDArray[np.float64]:
        """ESS over the number drawn, (E,): 1 where the flow is the exact posterior."""
        return self.ess / self.drawn

    @property
    def log_evidence_error(self) -> NDArray[np.float64]:
        """Standard error of `log_evidence`, (E,), by the delta method; infinite where none counts."""
        with np.errstate(divide="ignore"):
            return np.sqrt(np.maximum(1.0 / self.ess - 1.0 / self.drawn, 0.0))


def efficiency_in_words(ess: NDArray[np.float64], drawn: NDArray[np.integer]) -> str:
    """Say how many samples count, from the effective (E,) and the drawn (E,) of each event.

    Example:
        >>> efficiency_in_words(np.array([50.0, 90.0, 94.0]), np.full(3, 100))
        'sample efficiency 90.0% (median; a tenth of the events below 58.0%), 90 effective of 100 drawn'
    """
    low, middle = np.quantile(ess / drawn, (0.1, 0.5))
    return (
        f"sample efficiency {middle:.1%} (median; a tenth of the events below {low:.1%}), "
        f"{np.median(ess):.3g} effective of {drawn.mean():.0f} drawn"
    )


def scaled_evidence(
    log_evidence: NDArray[np.float64], momenta: NDArray[np.float64], masses: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return log evidence + (3N - 3) log rms(centred momenta), (E,): how probable momenta are, without unit.

    Args:
        log_evidence: Of `Weights`, (E,); -inf where no sample counts.
        momenta: (E, N, 3), hbar / bohr.
        masses: (N,), electron masses.

    Example:
        >>> p = np.array([[[2.0, 0, 0], [-2.0, 0, 0]]])
        >>> t = [scaled_evidence(np.array([-3 * np.log(s)]), s * p, np.ones(2)) for s in (1.0, 5.0)]
        >>> bool(np.isclose(*t).item())
        True
    """
    size = rms_component(centred_momenta(momenta, masses))
    return np.asarray(log_evidence + (3 * len(masses) - 3) * np.log(size))


def thinned(
    log_weights: NDArray[np.float64], n: int, rng: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Choose n of m weighted samples of one event, without bias and none twice.

    The heavy ones are kept with their weights, of the others some are chosen, evenly, and
    get one and the same weight: the choice with the least variance (P. Fearnhead and
    P. Clifford, J. R. Statist. Soc. B 65, 887 (2003)).

    Args:
        log_weights: (m,), m >= n.
        n: Samples to keep.
        rng: Of the choice.

    Returns:
        Which are kept, (n,), and their log weights (n,); all n may have weight 0.

    Example:
        >>> kept, left = thinned(np.log([8.0, 1, 1, 1, 1]), 3, np.random.default_rng(1))
        >>> bool(0 in kept), np.exp(left).round(6).tolist()
        (True, [8.0, 2.0, 2.0])
    """
    top = log_weights.max()
    if len(log_weights) <= n or not np.isfinite(top):
        kept = np.arange(min(n, len(log_weights)))
        return kept, log_weights[kept]
    weights = np.exp(log_weights - top)
    counted = np.flatnonzero(weights > 0.0)
    if len(counted) <= n:  # some without weight fill up
        kept = np.sort(np.concatenate([counted, np.flatnonzero(weights == 0.0)[: n - len(counted)]]))
        # The mean over fewer samples must not change: it is the evidence.
        return kept, log_weights[kept]
    order = counted[np.argsort(-weights[counted])]
    falling = weights[order]
    rest = np.concatenate([np.cumsum(falling[::-1])[::-1][1:], [0.0]])
    # The k heaviest are kept, and the others share the weight c = their sum / (n - k).
    heavy = np.arange(len(order))
    with np.errstate(divide="ignore", invalid="ignore"):
        level = np.concatenate([[falling.sum() / n], rest[:-1] / (n - heavy[:-1] - 1.0)])
    k = int(np.argmax((falling <= level) & (heavy < n)))
    light, share = order[k:], level[k]
    steps = np.cumsum(falling[k:]) / share
    marks = np.floor(steps - rng.random())  # systematic: one in every unit of weight
    chosen = light[np.diff(marks, prepend=-1.0) > 0][: n - k]
    kept = np.concatenate([order[:k], chosen])
    left = np.concatenate([log_weights[order[:k]], np.full(len(chosen), np.log(share) + top)])
    return kept, left


def _k_hat(log_weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Pareto shape of the largest weights of each event, (E,)."""
    n = log_weights.shape[1]
    count = int(np.ceil(min(0.2 * n, 3.0 * np.sqrt(n))))
    if count < _FEWEST_IN_TAIL:
        return np.full(len(log_weights), np.nan)
    ordered = np.sort(log_weights, axis=1)
    tail, cut = ordered[:, -count:], ordered[:, -count - 1]
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = tail[:, -1:]
        excess = np.exp(tail - scale) - np.exp(cut[:, None] - scale)
        return generalised_pareto_shape(excess)


def generalised_pareto_shape(excess: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the shape k of generalised Pareto distributions, from rising excesses over a threshold.

    The estimate of J. Zhang and M. A. Stephens (Technometrics 51, 316 (2009)) with the weak
    prior, ten observations of 0.5, of A. Vehtari et al.

    Args:
        excess: (E, M), each row sorted, 0 or more.

    Returns:
        (E,); NaN for rows without spread, -inf excluded.

    Example:
        >>> from scipy.stats import genpareto
        >>> x = np.sort(genpareto.rvs(0.3, size=(1, 4000), random_state=1))
        >>> bool(abs(generalised_pareto_shape(x)[0] - 0.3) < 0.05)
        True
    """
    count = excess.shape[1]
    grid = 30 + int(np.sqrt(count))
    quarter = excess[:, int(count / 4 + 0.5) - 1]
    largest = excess[:, -1]
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):  # rows without spread
        steps = 1.0 - np.sqrt(grid / (np.arange(1, grid + 1) - 0.5))
        theta = 1.0 / largest[:, None] + steps / (3.0 * quarter[:, None])
        shape = np.log1p(-theta[:, :, None] * excess[:, None, :]).mean(axis=2)
        likelihood = count * (np.log(-theta / shape) - shape - 1.0)
        share = 1.0 / np.exp(likelihood[:, None, :] - likelihood[:, :, None]).sum(axis=2)
        best = (theta * share).sum(axis=1)
        k = np.log1p(-best[:, None] * excess).mean(axis=1)
    weak = (k * count + 0.5 * 10.0) / (count + 10.0)
    return np.where(np.isfinite(weak), weak, np.nan)
