"""What a model answers to a request: events drawn for, weighed or made exact, and flagged, block by block."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from flowcei.experiment.covariance import CovarianceLikelihood
from flowcei.posterior.samples import PosteriorSamples
from flowcei.reconstruction import lost
from flowcei.reconstruction.sampling import by_request

if TYPE_CHECKING:
    from flowcei.events.container import Events
    from flowcei.physics.priors import GeometryPrior
    from flowcei.posterior.arrays import Floats, Rows
    from flowcei.reconstruction.model import Entered, Reconstructor
    from flowcei.reconstruction.sampling import SamplingRequest


@dataclass(frozen=True)
class Answering:
    """A model, what is asked of it, and the prior that weighs its answers, where one does."""

    model: Reconstructor
    request: SamplingRequest
    prior: GeometryPrior | None

    def block(self, events: Events, rng: np.random.Generator) -> PosteriorSamples:
        """Samples of a block of events."""
        experiment = self.request.experiment
        events = events if experiment is None else experiment.calibrated(events)
        return lost.by_completeness(events, self.request, partial(self._alike, rng), self.prior)

    def _alike(
        self, rng: np.random.Generator, events: Events, complete: lost.Completion | None
    ) -> PosteriorSamples:
        """Samples of events that are all complete, or else of what their lost momenta may have been."""
        model, request = self.model, self.request
        sigma = model.sigma(events, request.noise)
        entered = self._entered(events)  # once: a whitened chart takes a search an event
        draw = partial(self._draw, events, sigma, entered, rng)
        if complete is not None:
            draw = partial(lost.drawn, self._one_each, events, complete, sigma, rng)
        flags = model.unlike_training(events, request.noise, request.experiment)
        if not request.weighs:  # nothing corrects what the network makes of it
            flags["noise"] |= model.loud(events, request.noise, request.experiment)

        def density(x: Floats, rows: Rows) -> Floats:
            return model.log_prob_entered(x, *_of(entered, rows), model.network.log_prob)

        return by_request(draw, flags, request, rng, self.prior, density)

    def _one_each(self, events: Events, sigma: Floats, rng: np.random.Generator) -> PosteriorSamples:
        noise = self.model.sigma(events, self.request.noise, self.request.experiment)
        entered = self.model.enter(events.momenta, noise, self.model.build_up_time(self.request.experiment))
        return self._draw(events, sigma, entered, rng, np.arange(len(events)), 1)

    def _entered(self, events: Events) -> Entered:
        """Events with their noise; where the source is known, with the momenta that this makes likely."""
        momenta, stated, ions = events.momenta, self.request.experiment, self.model.molecule
        if stated is not None and np.isfinite((own := stated.of(ions)).spread).any():
            momenta = CovarianceLikelihood(ions.masses, ions.charges, momenta, own).measured
        sigma, time = self.model.sigma(events, self.request.noise, stated), self.model.build_up_time(stated)
        return self.model.enter(momenta, sigma, time)

    @torch.no_grad()
    def _draw(
        self, events: Events, sigma: Floats, entered: Entered, rng: np.random.Generator, rows: Rows, n: int
    ) -> PosteriorSamples:
        """Return n samples of some events, neither weighed nor flagged; `sigma` and `entered` are of all."""
        model, request = self.model, self.request
        asked, by_event = events[rows], request.noise is None and events.sigma is not None
        framed, c = _of(entered, rows)
        charts, density = model.network.sample_with_log_prob(c, n, latent=request.latent, generator=rng)
        charts = model.chart_standardiser.inverse(charts.cpu())
        positions = model.frame.to_positions(charts, framed)
        # One event beyond what single precision holds must not cost the others of its file their
        # answers: all of its samples are NaN, and it is flagged. A part of them would be a biased lot.
        beyond = ~(positions.abs().amax(dim=(1, 2, 3)) < torch.finfo(torch.float32).max)
        positions[beyond] = torch.nan
        if density is not None:
            density = density.cpu().double() + model.log_volume(charts, framed)
            density = density.masked_fill(beyond[:, None], torch.nan)
        origin = {
            "model": model.training.name or None,
            "architecture": model.architecture,
            "latent": request.latent,
            "seed": request.seed,
            "noise": "of each event" if by_event else str(request.noise),
            "noise_relative": model.noise.relative,
            "prior": model.prior_spec,
            "events": events.origin,
        }
        stated: dict[str, Any] = {"forward": model.training.forward} if model.training.forward else {}
        if request.experiment is not None:
            stated = {"experiment": request.experiment.to_dict()}
        return PosteriorSamples(
            molecule=model.molecule,
            momenta=asked.momenta,
            positions=positions.numpy().astype(np.float32),
            log_prob=None if density is None else density.numpy(),
            event_id=asked.event_id,
            sigma=sigma[rows],
            origin=origin | stated,
            columns=asked.columns,
        )


def _of(entered: Entered, rows: Rows) -> Entered:
    """Some of the events."""
    chosen = torch.from_numpy(rows)
    return entered[0][chosen], entered[1][chosen.to(entered[1].device)]
