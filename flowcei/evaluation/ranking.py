"""The truth of events among their posterior samples, block by block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.evaluation import verdicts
from flowcei.evaluation.comparison import true_positions
from flowcei.experiment.experiment import BUILD_UP_TIME
from flowcei.posterior.exact import R_HAT
from flowcei.posterior.flags import FLAG_BITS
from flowcei.posterior.spread import quantities

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowcei.events.container import Events
    from flowcei.posterior.arrays import Floats, Rows
    from flowcei.posterior.samples import PosteriorSamples
    from flowcei.posterior.weights import Weights
    from flowcei.reconstruction.model import Entered, Reconstructor


@dataclass(frozen=True, eq=False)
class RankedBlock:
    """What a block of events tells."""

    events: int
    useless: int  # events with useless weights
    ranks: dict[str, NDArray[Any]]  # by what is ranked, of events `rows` of the block
    weights: Weights | None


@dataclass(frozen=True, eq=False)
class TruthOfEvents:
    """What does not depend on the samples, of all events or of a block."""

    events: Events
    truth: Floats  # positions (E, N, 3), bohr
    seed: int
    index: int = 0  # of the block

    @classmethod
    def of(cls, events: Events, seed: int, least: int) -> TruthOfEvents:
        """That of events, so many at the least."""
        return cls(events, true_positions(events, least, "to check a posterior"), seed)

    def of_rows(self, rows: slice | Rows, index: int) -> TruthOfEvents:
        """Some of the events, whose references and ties are of the stream of block `index`."""
        return TruthOfEvents(self.events[rows], self.truth[rows], self.seed, index)

    def of_block(self, index: int, size: int) -> TruthOfEvents:
        """A block of `size` events."""
        return self.of_rows(slice(index * size, (index + 1) * size), index)

    def rank(self, model: Reconstructor, samples: PosteriorSamples) -> RankedBlock:
        """Rank the truth of a block of events among their samples."""
        aside = (samples.flag_bits & FLAG_BITS["experiment"]) > 0  # `sample` leaves them out, too
        rows = np.flatnonzero(samples.answered & ~aside)
        ranks, weights = {}, None
        if len(rows):
            some = samples[rows]
            ranks = self.of_rows(rows, self.index).ranks_of(model, some) | {"rows": rows}
            if some.weights is not None and R_HAT not in samples.columns:  # exact samples count alike
                weights = some.weights
        return RankedBlock(len(samples), int(aside.sum()), ranks, weights)

    def ranks_of(self, model: Reconstructor, samples: PosteriorSamples) -> dict[str, NDArray[Any]]:
        """Return ranks (e, Q) of the truth by what is ranked, and errors (e, K)."""
        # A stream of its own: a truth drawn with the same seed must not be its own reference.
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(4, self.index)))
        weights = None if samples.weights is None else samples.weights.normalised
        truth = self.truth[:, None]
        # Once, and of the momenta of the samples, which are those of the likeliest assignment.
        entered = model.enter(samples.momenta, samples.sigma)
        chart, true_chart = (
            model.frame.to_chart(x.astype(np.float64), entered[0]) for x in (samples.positions, truth)
        )
        true_chart, charts = true_chart[:, 0], model.chart_standardiser
        references = charts.inverse(rng.standard_normal(true_chart.shape))
        internal, true_internal = (
            quantities(samples.molecule, samples.labelled(x))[1][..., 3 * len(samples.molecule) :]
            for x in (samples.positions, truth)
        )
        chi2 = samples.likelihood.chi_squared(samples.positions, samples.build_up)
        true_chi2 = samples.likelihood.chi_squared(truth, _true_times(samples))
        finite = np.isfinite(true_chi2[:, 0])  # samples may have infinity: they explain nothing
        of_truth = np.concatenate([true_chart, true_internal[:, 0]], axis=1)
        ranked = {
            "sbc": (np.concatenate([chart, internal], axis=2), of_truth, weights),
            "tarp": (*verdicts.tarp_distances(chart, true_chart, references, charts.scale), weights),
            "chi2": (chi2[finite, :, None], true_chi2[finite], None if weights is None else weights[finite]),
            "hpd": (*self._densities(model, samples, entered), weights),
        }
        mean = internal.mean(axis=1) if weights is None else np.einsum("en,enk->ek", weights, internal)
        ranks = {name: verdicts.rank(*given, rng) for name, given in ranked.items()}
        return ranks | {"error": mean - true_internal[:, 0]}

    def _densities(
        self, model: Reconstructor, samples: PosteriorSamples, entered: Entered
    ) -> tuple[Floats, Floats]:
        """Return minus log densities of samples (e, n, 1) and truth (e, 1); no column without densities."""
        truth = self.truth[:, None]
        if samples.log_prob is None or not model.sampler.has_density:
            return np.empty((*samples.positions.shape[:2], 0)), np.empty((len(samples), 0))
        density = samples.log_prob.astype(np.float64)
        of_truth = model.log_prob_entered(truth, *entered)
        if samples.weights is not None:  # regions of the exact posterior, where it is what is judged
            exact = samples.weights.reliable[:, None]
            density = density + np.where(exact, samples.weights.log_weights, 0.0)
            of_truth = np.where(exact, samples.log_posterior(truth, times=_true_times(samples)), of_truth)
        return -density[..., None], -of_truth


def _true_times(samples: PosteriorSamples) -> Floats | None:
    """Build-up times of events (E, 1), fs, whose samples have some: as simulated, else the prior's mean."""
    law = samples.build_up_prior
    if samples.build_up is None or law is None:
        return None
    mean = np.full(len(samples), law.mean.times[0])
    return np.asarray(samples.columns.get(BUILD_UP_TIME, mean), dtype=np.float64)[:, None]
