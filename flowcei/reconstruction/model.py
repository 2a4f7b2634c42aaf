"""The whole way of an event: from momenta to posterior samples."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from flowcei.errors import DataError, NoDensityError, UsageError
from flowcei.events.container import events_of
from flowcei.events.simulation import fresh_seed
from flowcei.physics.priors import build_prior
from flowcei.posterior.files import Quality, arrays_of
from flowcei.posterior.flags import moving
from flowcei.posterior.samples import PosteriorSamples
from flowcei.reconstruction.noise import above_trained, default_noise, stated_sigma, within_trained
from flowcei.reconstruction.sampling import (
    SamplingRequest,
    by_request,
    chunks_of,
    judged,
    sampled_blocks,
)
from flowcei.reconstruction.seen import outside
from flowcei.storage.card import TrainingRecord, describe_model
from flowcei.storage.modelfile import sealed, write_model

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

    from flowcei.check.evidence import EvidenceCheck
    from flowcei.events.container import Events
    from flowcei.experiment.detector import Noise
    from flowcei.frame.interface import Frame, FramedEvents
    from flowcei.frame.standardiser import Standardiser
    from flowcei.models.interface import InverseModel, Latent
    from flowcei.molecules.molecule import Molecule
    from flowcei.physics.priors import GeometryPrior
    from flowcei.storage.card import ModelCard

ROUND_TRIP_BOUND = 1e-2
"""Largest encode-decode error, in standardised units, at which a flow is still used."""

_FAR = 10.0  # standard deviations


@dataclass(eq=False, repr=False)
class Reconstructor:
    """Answers which geometries explain measured momenta: what a training leaves.

    Attributes:
        molecule: Whose ions they are.
        frame: Its recoil frame and chart, or the raw coordinates of a file.
        network: The trained one.
        noise: The range of detector noise it was trained for.
        chart_standardiser: Of the chart.
        condition_standardiser: Of the condition.
        training: What else is known of the training: prior, schedule, seed, data, metrics.
    """

    molecule: Molecule
    frame: Frame
    network: InverseModel
    noise: Noise
    chart_standardiser: Standardiser
    condition_standardiser: Standardiser
    training: TrainingRecord = field(default_factory=TrainingRecord)

    def __post_init__(self) -> None:
        """Give the model the simulator."""
        tables = (self.chart_standardiser, self.condition_standardiser)
        simulator = self.frame.simulator(self.molecule, *tables)
        if simulator is not None:
            self.network.attach(simulator)

    def __repr__(self) -> str:
        """Say in a line what it is a model of."""
        prior = self.training.prior_name or ("unnamed" if self.prior_spec else "unknown")
        return (
            f"Reconstructor: {self.architecture} of {self.molecule.name}, prior {prior}, noise {self.noise}"
        )

    def sample(
        self,
        momenta: ArrayLike | Events | Iterable[Events | ArrayLike],
        n: int = 100,
        *,
        noise: str | Noise | None = None,
        latent: Latent = "prior",
        seed: int | None = None,
        weigh: bool = False,
        min_ess: float = 0.0,
        budget: int | None = None,
    ) -> PosteriorSamples:
        """Draw geometries that explain measured momenta.

        Args:
            momenta: (E, N, 3) or (N, 3), hbar / bohr, ions in the molecule's order; or events,
                also in chunks.
            n: Samples of each event.
            noise: The detector's, such as ``"1%"``; what the events say where None, else
                1 % or the nearest level the model was trained for.
            latent: ``"prior"``, or ``"training"`` for latents of the training set.
            seed: Of the samples; drawn where None.
            weigh: Whether to give the samples importance weights, which make them those of the
                exact posterior: see `flowcei.posterior.weights`.
            min_ess: Effective samples an event should have; for one with fewer more are
                drawn. Above 0 it implies `weigh`.
            budget: Samples drawn of one event, at the most; 100 n where None.

        Returns:
            Positions (E, n, N, 3), bohr, in the frame of the momenta with the centre of
            mass at 0, and their log density per bohr^(3N-3) where the model has one.

        Raises:
            UsageError: For n < 1 or noise outside the trained range.
            NoDensityError: For weights, where the model or its prior has no density.
            DataError: For momenta of the wrong shape or not finite, or where the model can express
                a geometry for none of them. One such event of many is flagged, its samples NaN.

        Example:
            >>> import flowcei
            >>> events = flowcei.simulate("ocs", 2, noise="1%", seed=1)
            >>> flowcei.load().sample(events, 50, seed=2).positions.shape
            (2, 50, 3, 3)
        """
        rules: dict[str, Any] = {"weigh": weigh, "min_ess": min_ess, "budget": budget}
        blocks = self.stream(momenta, n, seed=seed, noise=noise, latent=latent, **rules)
        samples = PosteriorSamples.concatenate(list(blocks))
        if not samples.answered.any():
            msg = f"event {samples.event_id[0]} has no geometry the model can express, nor has any other; "
            raise DataError(f"{msg}are the momenta in hbar/bohr?")
        return samples

    def stream(
        self,
        momenta: ArrayLike | Events | Iterable[Events | ArrayLike],
        n: int = 100,
        *,
        seed: int | None = None,
        start: int = 0,
        **settings: Any,  # noqa: ANN401 (those of `sample`, which SamplingRequest checks)
    ) -> Iterator[PosteriorSamples]:
        """Yield what `sample` returns, block by block, in bounded memory.

        A block holds `flowcei.reconstruction.sampling.block_size(n)` events. What is drawn of an
        event depends on the seed, on n, and on the events before it in its block; not on chunks,
        threads or where the stream begins. Another device, or other events after it in the last
        block, change the rounding (1e-5); with `min_ess` further samples are those of the whole block.

        Args:
            momenta: As for `sample`, or anything that yields events or arrays, chunk by chunk:
                a file of any size. Events without numbers are numbered through.
            n: Samples of each event.
            seed: Of all blocks; the number of a block chooses its stream.
            start: Events to skip at the beginning, a whole number of blocks: what follows is
                what it would have been after them.
            settings: ``noise``, ``latent``, ``weigh``, ``min_ess`` and ``budget`` as for `sample`.

        Yields:
            The samples of a block of events.

        Raises:
            UsageError: For a bad argument, at once; for noise or events that do not fit, with their block.
            DataError: For no events at all.

        Example:
            >>> import flowcei
            >>> events = flowcei.simulate("ocs", 5, noise="1%", seed=1)
            >>> [len(part) for part in flowcei.load().stream([events[:3], events[3:]], 10, seed=2)]
            [5]
        """
        request = SamplingRequest(n, fresh_seed() if seed is None else seed, **settings)
        return self.blocks(momenta, request, start)

    def blocks(
        self,
        momenta: ArrayLike | Events | Iterable[Events | ArrayLike],
        request: SamplingRequest,
        start: int = 0,
    ) -> Iterator[PosteriorSamples]:
        """Yield the samples that a request asks for: see `stream`."""
        self._refuse_inexact()
        # By the prior samples are weighed, or else, where it excludes anything and a flow draws, they
        # must lie in it: what is weighed needs no bounds, since outside there is no weight.
        prior = None
        if request.weighs or (self.network.has_density and self.prior_spec is not None):
            prior = self.prior
            if not (request.weighs or (prior.has_density and prior.bounded)):
                prior = None
        chunks = (events_of(chunk, self.molecule) for chunk in chunks_of(momenta))
        return sampled_blocks(chunks, request, partial(self._answer, request, prior), start)

    def _answer(
        self, request: SamplingRequest, prior: GeometryPrior | None, events: Events, rng: np.random.Generator
    ) -> PosteriorSamples:
        """Return the samples of a block of events, with weights and flags."""
        draw = partial(self._draw, request, events, self.sigma(events, request.noise), rng)
        return by_request(draw, self.unlike_training(events, request.noise), request, rng, prior)

    @torch.no_grad()
    def _draw(
        self,
        request: SamplingRequest,
        events: Events,
        sigma: NDArray[np.float64],
        rng: np.random.Generator,
        rows: NDArray[np.intp],
        n: int,
    ) -> PosteriorSamples:
        """Return n samples of some of the events, neither weighed nor flagged."""
        asked = events[rows]
        framed, c = self.enter(asked.momenta, sigma[rows])
        drawn, density = self.network.sample_with_log_prob(c, n, latent=request.latent, generator=rng)
        positions = self.frame.to_positions(self.chart_standardiser.inverse(drawn.cpu()), framed)
        # One event beyond what single precision holds must not cost the others of its file their
        # answers: all of its samples are NaN, and it is flagged. A part of them would be a biased lot.
        lost = ~(positions.abs().amax(dim=(1, 2, 3)) < torch.finfo(torch.float32).max)
        positions[lost] = torch.nan
        log_prob = None
        if density is not None:
            log_prob = (density.cpu().double() + self.log_volume(framed)[:, None]).numpy()
            log_prob[lost.numpy()] = np.nan
        stated = request.noise is None and events.sigma is not None
        return PosteriorSamples(
            molecule=self.molecule,
            momenta=asked.momenta,
            positions=positions.numpy().astype(np.float32),
            log_prob=log_prob,
            event_id=asked.numbers,
            sigma=sigma[rows],
            origin={
                "model": self.training.name or None,
                "architecture": self.architecture,
                "latent": request.latent,
                "seed": request.seed,
                "noise": "of each event" if stated else str(request.noise),
                "noise_relative": self.noise.relative,
                "prior": self.prior_spec,
                "events": events.origin,
            },
            columns=asked.columns,
        )

    def describe(self, request: SamplingRequest) -> dict[str, Any]:
        """Return all that the samples of given events depend on, as plain numbers and words."""
        name = self.training.name or self.architecture
        about = {"model": name, "model checksum": sealed(*self._stored())[1][:16]}
        return about | {"flowcei": version("flowcei")} | request.to_dict()

    def judge(self, quality: Quality, request: SamplingRequest) -> tuple[Quality, EvidenceCheck | None]:
        """Compare the evidence of a run with that of its prior: `flowcei.reconstruction.sampling.judged`."""
        if quality.statistic is None:
            return quality, None
        relative = self.noise.relative
        return judged(quality, request, self.molecule, self.prior, self.blocks, relative=relative)

    def check_evidence(self, samples: PosteriorSamples, *, seed: int = 0) -> EvidenceCheck:
        """Compare how probable the momenta of weighed samples are with those of events of the prior.

        Args:
            samples: Of this model, weighed, without `min_ess`.
            seed: Of 100 to 500 events that are simulated, sampled and weighed alike.

        Returns:
            p-values of each event and of the run: see `flowcei.check.evidence`.

        Raises:
            UsageError: For samples that were not weighed.

        Example:
            >>> import flowcei
            >>> model, events = flowcei.load(), flowcei.simulate("ocs", 60, noise="1%", seed=1)
            >>> model.check_evidence(model.sample(events, 20, weigh=True, seed=1)).sound
            True
        """
        request = SamplingRequest(samples.positions.shape[1], seed, weigh=True)
        check = self.judge(Quality.of(arrays_of(samples), samples.molecule), request)[1]
        if check is None:
            msg = "the samples have no weights: sample with weigh=True"
            raise UsageError(msg)
        return check

    @property
    def architecture(self) -> str:
        """Name of the model's architecture."""
        return self.network.architecture

    @property
    def prior(self) -> GeometryPrior:
        """The geometry prior it was trained for.

        Raises:
            NoDensityError: Where it was trained on a file that states none, or in the raw
                coordinates of a file, whose orientation belongs to what it learned.
        """
        spec = self.prior_spec
        if spec is None:
            msg = (
                "the model was trained on data whose prior nobody stated, or in a frame of their own; "
                "flowcei modes takes a --prior"
            )
            raise NoDensityError(msg)
        return build_prior(self.molecule, spec)

    @property
    def prior_spec(self) -> dict[str, Any] | None:
        """The table of the prior, or None where `prior` would be refused."""
        return self.training.prior if self.frame.invariant else None

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(chain(self.network.parameters(), self.network.buffers())).device

    @property
    def default_noise(self) -> Noise:
        """The level that is assumed where nobody says: that of the training data, else 1 %; in the range."""
        data = self.training.data
        return default_noise(self.noise, None if data is None else data.noise)

    @torch.no_grad()
    def log_prob(
        self,
        positions: ArrayLike,
        momenta: ArrayLike | Events,
        *,
        noise: str | Noise | None = None,
        draws: int = 0,
        seed: int = 0,
    ) -> NDArray[np.float64]:
        """Return the log posterior density of geometries, per bohr^(3N-3), or a bound on it.

        Args:
            positions: (E, n, N, 3), bohr, n geometries for each event; where they are in
                space does not matter, how they are turned does.
            momenta: (E, N, 3), hbar / bohr, or events.
            noise: As for `sample`.
            draws: Of an architecture without an exact density, latents for a lower bound, which holds
                on average over them; the more, the tighter.
            seed: Of the latents.

        Returns:
            (E, n).

        Raises:
            NoDensityError: Without an exact density, where `draws` is 0 or there is no bound either.
            UsageError: For positions that do not match the events.

        Example:
            >>> import flowcei
            >>> events = flowcei.simulate("ocs", 2, noise="1%", seed=1)
            >>> flowcei.load().log_prob(events.positions[:, None], events).shape
            (2, 1)
        """
        events = events_of(momenta, self.molecule)
        x = np.asarray(positions, dtype=np.float64)
        if x.ndim != 4 or x.shape[::2] != (len(events), len(self.molecule)) or x.shape[3] != 3:
            msg = f"positions have shape {x.shape}; expected ({len(events)}, n, {len(self.molecule)}, 3)"
            raise UsageError(msg)
        density, bound = self.network.log_prob, getattr(self.network, "iwae_bound", None)
        if draws and not self.network.has_density and bound is not None:
            rng = np.random.default_rng(np.random.SeedSequence(seed))
            density = partial(bound, draws=draws, generator=rng)
        framed, c = self.enter(events.momenta, self.sigma(events, noise))
        chart = self.chart_standardiser(self.frame.to_chart(torch.from_numpy(x), framed))
        flat = chart.reshape(-1, self.frame.width).to(self.device)
        values = density(flat, c.repeat_interleave(x.shape[1], dim=0)).cpu().double()
        return (values.reshape(x.shape[:2]) + self.log_volume(framed)[:, None]).numpy()

    def log_volume(self, framed: FramedEvents) -> torch.Tensor:
        """Return log|d standardised chart / d positions|, (B,)."""
        return self.frame.log_jacobian(framed) - self.chart_standardiser.log_scale()

    def enter(
        self, momenta: NDArray[np.float64], sigma: NDArray[np.float64]
    ) -> tuple[FramedEvents, torch.Tensor]:
        """Return events (E, N, 3) in the frame, and their standardised conditions (E, C)."""
        framed = self.frame.enter(torch.from_numpy(momenta), torch.from_numpy(sigma))
        return framed, self.condition_standardiser(framed.condition).to(self.device)

    def sigma(self, events: Events, noise: str | Noise | None) -> NDArray[np.float64]:
        """Return the standard deviation (E,) of each event's momentum components, hbar / bohr.

        What `noise` says; else what the events say; else `default_noise`; within the trained
        range: see `flowcei.reconstruction.noise`.

        Raises:
            UsageError: For one level of noise above the trained range.
        """
        return within_trained(self.stated_sigma(events, noise), events.momenta, noise, self.noise)

    def stated_sigma(self, events: Events, noise: str | Noise | None) -> NDArray[np.float64]:
        """Return what `sigma` starts from (E,), whatever the model was trained for."""
        return stated_sigma(events, noise, self.default_noise)

    def unlike_training(
        self, events: Events, noise: str | Noise | None = None
    ) -> dict[str, NDArray[np.bool_]]:
        """Tell which events (E,) are unlike all that the model was trained on.

        Returns:
            For each flag of `flowcei.posterior.flags` that momenta alone can raise, which
            events it is raised for.

        Raises:
            UsageError: For events of another molecule.
        """
        sigma = self.sigma(events_of(events, self.molecule), noise)
        framed, standardised = self.enter(events.momenta, sigma)
        far = (~(standardised.abs() < _FAR)).any(dim=1).cpu().numpy()
        ker = np.zeros(len(events), dtype=bool)
        if self.frame.invariant and self.training.seen is not None:
            ker, farther = outside(self.training.seen, framed.condition.numpy())
            far = farther | far
        stated = self.stated_sigma(events, noise)
        loud = above_trained(stated, events.momenta, self.noise)
        moves = moving(events.momenta, np.maximum(sigma, stated))
        return {"momentum_sum": moves, "ker": ker, "momenta": far & ~ker, "noise": loud}

    def _refuse_inexact(self) -> None:
        """Refuse a flow whose couplings do not invert themselves."""
        error = self.training.round_trip_error
        if error is not None and not error <= ROUND_TRIP_BOUND:
            msg = (
                f"the flow does not invert itself (error {error:.2g} of a standard deviation, "
                f"bound {ROUND_TRIP_BOUND}): train again with a lower --learning-rate"
            )
            raise UsageError(msg)

    def parts(self) -> dict[str, torch.nn.Module]:
        """Return what has tensors, by the name it has in a model file."""
        tables = {"chart": self.chart_standardiser, "condition": self.condition_standardiser}
        return {"model": self.network, **tables}

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the model to a `.safetensors` file, which `flowcei.load` reads.

        Raises:
            UsageError: Where the file exists or cannot be written.
        """
        write_model(*self._stored(), path, overwrite=overwrite)

    def _stored(self) -> tuple[ModelCard, dict[str, torch.Tensor]]:
        """Return what a file holds of it."""
        card = describe_model(
            self.training,
            architecture=self.architecture,
            options=self.network.options.to_dict(),
            molecule=self.molecule.to_dict(),
            frame=asdict(self.frame),
            noise=asdict(self.noise),
        )
        parts = ((p, module.state_dict()) for p, module in self.parts().items())
        return card, {f"{part}.{name}": tensor for part, state in parts for name, tensor in state.items()}
