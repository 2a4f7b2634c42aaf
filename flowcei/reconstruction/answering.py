"""What a model answers to a request: events drawn for, weighed or made exact, and flagged, block by block."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.experiment.accidents import least_of_true
from flowcei.experiment.covariance import CovarianceLikelihood
from flowcei.experiment.missing import lost_ions
from flowcei.posterior.assignments import assigned
from flowcei.posterior.samples import PosteriorSamples
from flowcei.reconstruction import lost
from flowcei.reconstruction.assigning import Assigning, under_each
from flowcei.reconstruction.limits import build_up_time, too_noisy, unlike_training
from flowcei.reconstruction.sampling import by_request

if TYPE_CHECKING:
    from flowcei.events.container import Events
    from flowcei.experiment.measurement import Measurement
    from flowcei.physics.build_up import BuildUpPrior
    from flowcei.physics.priors import GeometryPrior
    from flowcei.posterior.arrays import Bools, Floats, Rows
    from flowcei.posterior.exact import Density, Draw
    from flowcei.reconstruction.model import Entered, Reconstructor
    from flowcei.reconstruction.sampling import SamplingRequest

_NODES = 12  # times of a build-up that is not known exactly: a sample's lies within a sixth of a deviation


@dataclass(frozen=True)
class Answering:
    """A model, what is asked of it, and the prior that weighs its answers, where one does."""

    model: Reconstructor
    request: SamplingRequest
    prior: GeometryPrior | None

    @classmethod
    def of(cls, model: Reconstructor, request: SamplingRequest) -> Answering:
        """With the prior where it has a say: in weights, or as bounds of what is drawn with a density."""
        asked = request.weighs or (model.sampler.has_density and model.prior_spec)
        return cls(model, request, model.prior if asked else None)

    def block(self, events: Events, rng: np.random.Generator) -> PosteriorSamples:
        """Samples of a block of events."""
        experiment = self.request.experiment
        events = events if experiment is None else experiment.calibrated(events)
        return lost.by_completeness(events, self.request, partial(self._alike, rng), self.prior)

    def _alike(
        self, rng: np.random.Generator, events: Events, complete: lost.Completion | None
    ) -> PosteriorSamples:
        """Samples of events that are all complete, or else of what their lost momenta may have been."""
        request, stated = self.request, self.request.experiment
        own = None if stated is None else stated.of(self.model.molecule)
        if stated is None or own is None or own.orders is None:
            draw, density = self.source(rng, events, complete)
            worth = self._worth(events, own)
            return by_request(draw, self.flags(events), request, rng, self.prior, density, worth)
        # Under each assignment the experiment is one without any.
        alone = replace(self, request=replace(request, experiment=stated.told_apart()))
        each = under_each(events, own)
        draws, densities = zip(*(alone.source(rng, one, None) for one in each), strict=True)
        mixture = Assigning.of(
            events, list(draws), list(densities), self.prior, rng, corrected=request.weighs
        )
        flags = mixture.flags([alone.flags(one) for one in each])
        draw = partial(self._draw_of, mixture)
        how = self.prior, mixture.density, self._worth(events, own)
        samples = by_request(draw, flags, request, rng, *how)
        return assigned(samples, own, rng)

    def _worth(self, events: Events, own: Measurement | None) -> Floats | None:
        """What an event must reach to be no accident, (E,), where accidents are told."""
        if own is None or not self.request.exact:
            return None
        lost = lost_ions(events.columns, len(events.molecule))
        there = np.zeros(events.momenta.shape[:2], dtype=bool) if lost is None else lost
        return least_of_true(events.momenta, own, there)

    def _draw_of(self, mixture: Assigning, rows: Rows, n: int) -> PosteriorSamples:
        """Samples of the experiment as it was stated."""
        samples, stated = mixture.draw(rows, n), self.request.experiment
        return replace(samples, origin=samples.origin | {"experiment": stated and stated.to_dict()})

    def flags(self, events: Events) -> dict[str, Bools]:
        """Those that momenta raise."""
        model, request = self.model, self.request
        flags = unlike_training(model, events, request.noise, request.experiment)
        if not request.weighs:  # nothing corrects what the network makes of it
            flags["noise"] |= too_noisy(model, events, request.noise, request.experiment)
        return flags

    def source(
        self, rng: np.random.Generator, events: Events, complete: lost.Completion | None
    ) -> tuple[Draw, Density]:
        """What draws samples of some events, and their density."""
        model, request = self.model, self.request
        sigma = model.sigma(events, request.noise)
        entered = self._entered(events)  # once: a whitened chart takes a search an event

        def density(x: Floats, times: Floats | None, rows: Rows) -> Floats:
            if times is None or self.law is None:
                return model.log_prob_entered(x, *_of(entered, rows))
            each = _of(entered, self._at_nodes(rows, times))
            values = model.log_prob_entered(x.reshape(-1, 1, *x.shape[2:]), *each)
            return values.reshape(times.shape) + self.law.log_prob(times)

        if complete is not None:
            return partial(lost.drawn, self._one_each, events, complete, sigma, rng), density
        return partial(self._draw, events, sigma, entered, rng), density

    def _one_each(self, events: Events, sigma: Floats, rng: np.random.Generator) -> PosteriorSamples:
        noise = self.model.sigma(events, self.request.noise, self.request.experiment)
        time = build_up_time(self.request.experiment, self.model.molecule)
        times = None if self.law is None else self.law.draw(len(events), rng)
        entered = self.model.enter(events.momenta, noise, time if times is None else times)
        return self._draw(events, sigma, entered, rng, np.arange(len(events)), 1, times)

    @property
    def law(self) -> BuildUpPrior | None:
        """What the experiment says of its build-up time, where it does not state it."""
        stated = self.request.experiment
        return None if stated is None else stated.of(self.model.molecule).build_up_prior

    @property
    def _nodes(self) -> Floats:
        """Times at which events are entered, fs: for a sample the model is asked at the nearest."""
        stated = np.array([build_up_time(self.request.experiment, self.model.molecule)])
        return stated if self.law is None else self.law.quantile((np.arange(_NODES) + 0.5) / _NODES)

    def _at_nodes(self, rows: Rows, times: Floats) -> Rows:
        """Which of the entered events is nearest to each of times (e, m) of events (e,), (e m,)."""
        nodes = self._nodes
        nearest = np.searchsorted(0.5 * (nodes[1:] + nodes[:-1]), times)
        return np.asarray(rows[:, None] * len(nodes) + nearest).ravel()

    def _entered(self, events: Events) -> Entered:
        """Events with their noise, at each of `_nodes`.

        Where the source is known, with the momenta that this makes likely.
        """
        momenta, stated, ions = events.momenta, self.request.experiment, self.model.molecule
        if stated is not None and np.isfinite((own := stated.of(ions)).spread).any():
            momenta = CovarianceLikelihood(ions.masses, ions.charges, momenta, own).measured
        sigma, nodes = self.model.sigma(events, self.request.noise, stated), self._nodes
        several = (np.repeat(table, len(nodes), axis=0) for table in (momenta, sigma))
        return self.model.enter(next(several), next(several), np.tile(nodes, len(events)))

    @np.errstate(all="ignore")  # of absurd events, which are flagged
    def _draw(
        self,
        events: Events,
        sigma: Floats,
        entered: Entered,
        rng: np.random.Generator,
        rows: Rows,
        n: int,
        times: Floats | None = None,
    ) -> PosteriorSamples:
        """Return n samples of some events, neither weighed nor flagged; `sigma` and `entered` are of all.

        Events may have been entered with times (E,) of one sample each.
        """
        model, request = self.model, self.request
        asked = events[rows]
        each, several = rows, n
        if times is not None:
            times = times[rows, None]
        elif self.law is not None:
            times = self.law.draw((len(rows), n), rng)
            each, several = self._at_nodes(rows, times), 1
        framed, c = _of(entered, each)
        drawn, density = model.sampler.draw(c, several, latent=request.latent, generator=rng)
        charts = model.chart_standardiser.inverse(drawn)
        positions, volume = model.frame.to_positions(charts, framed)
        positions = positions.reshape(len(rows), n, -1, 3)
        # One event beyond what single precision holds (or below: all atoms in one place) must not cost the
        # others of its file their answers: all of its samples are NaN, and it is flagged. A part of them
        # would be a biased lot.
        single = positions.astype(np.float32)
        somewhere = np.any(single, axis=(2, 3)).all(axis=1)
        beyond = ~(np.all(np.isfinite(single), axis=(1, 2, 3)) & somewhere)
        single[beyond] = np.nan
        log_prob = None
        if density is not None:
            log_prob = (density + volume - model.chart_standardiser.log_scale()).reshape(len(rows), n)
            log_prob[beyond] = np.nan
            if times is not None and self.law is not None:
                log_prob += self.law.log_prob(times)
        return PosteriorSamples(
            molecule=model.molecule,
            momenta=asked.momenta,
            positions=single,
            log_prob=log_prob,
            event_id=asked.event_id,
            sigma=sigma[rows],
            origin=self._origin(events),
            columns=asked.columns,
            build_up=times,
        )

    def _origin(self, events: Events) -> dict[str, Any]:
        """What samples of events say of where they come from."""
        model, request = self.model, self.request
        by_event = request.noise is None and events.sigma is not None
        stated: dict[str, Any] = {"forward": model.training.forward} if model.training.forward else {}
        if request.experiment is not None:
            stated = {"experiment": request.experiment.to_dict()}
        return {
            "model": model.training.name or None,
            "architecture": model.architecture,
            "latent": request.latent,
            "seed": request.seed,
            "noise": "of each event" if by_event else str(request.noise),
            "noise_relative": model.noise.relative,
            "prior": model.prior_spec,
            "events": events.origin,
        } | stated


def _of(entered: Entered, rows: Rows) -> Entered:
    """Some of the events."""
    return entered[0][rows], entered[1][rows]
