"""The whole way of an event: molecule, frame, standardisers and model under one name."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch

from flowcei.errors import DataError, NoDensityError, UsageError
from flowcei.events.container import Events
from flowcei.events.simulation import fresh_seed
from flowcei.frame import RecoilFrame
from flowcei.modelfile import describe_model, write_model
from flowcei.models.interface import Latent
from flowcei.physics.detector import Noise, rms_component
from flowcei.physics.priors import build_prior
from flowcei.posterior.budget import top_up
from flowcei.posterior.flags import combined, few_count, moving, unexplained
from flowcei.posterior.samples import PosteriorSamples
from flowcei.resimulation import Resimulation
from flowcei.trainedrange import TrainedRange

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

    from flowcei.frame import FramedEvents
    from flowcei.models.interface import InverseModel
    from flowcei.molecule import Molecule
    from flowcei.physics.priors import GeometryPrior
    from flowcei.rawframe import RawFrame
    from flowcei.standardiser import Standardiser

__all__ = ["ROUND_TRIP_BOUND", "Reconstructor"]

ROUND_TRIP_BOUND = 1e-2
"""Largest encode-decode error, in standardised units, at which a flow is still used."""

_FAR = 10.0  # standard deviations

_BUDGET = 100  # times n: samples drawn of one event, at the most

_ROWS = 200_000  # samples held at a time while streaming


@dataclass(eq=False)
class Reconstructor:
    """Answers which geometries explain measured momenta.

    Attributes:
        molecule: Whose ions they are.
        frame: Its recoil frame and chart, or the raw coordinates of a file.
        model: The trained network.
        noise: The range of detector noise it was trained for.
        chart_standardiser: Of the chart.
        condition_standardiser: Of the condition.
        card: What else is known of the training: prior, schedule, seed, data, metrics.
    """

    molecule: Molecule
    frame: RecoilFrame | RawFrame
    model: InverseModel
    noise: Noise
    chart_standardiser: Standardiser
    condition_standardiser: Standardiser
    card: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Give the model the simulator."""
        if isinstance(self.frame, RecoilFrame):
            tables = (self.chart_standardiser, self.condition_standardiser)
            self.model.attach(Resimulation(self.molecule, self.frame, *tables))

    @property
    def architecture(self) -> str:
        """Name of the model's architecture."""
        return self.model.architecture

    @property
    def prior(self) -> GeometryPrior:
        """The geometry prior it was trained for.

        Raises:
            NoDensityError: Where it was trained on a file that states none, or in the raw
                coordinates of a file, whose orientation belongs to what it learned.
        """
        spec = self._prior_spec
        if spec is None:
            msg = (
                "the model was trained on data whose prior nobody stated, or in a frame of their own; "
                "flowcei modes takes a --prior"
            )
            raise NoDensityError(msg)
        return build_prior(self.molecule, spec)

    @property
    def _prior_spec(self) -> dict[str, Any] | None:
        spec = self.card.get("prior")
        return spec if isinstance(spec, dict) and isinstance(self.frame, RecoilFrame) else None

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(chain(self.model.parameters(), self.model.buffers())).device

    def sample(
        self,
        momenta: ArrayLike | Events,
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
            momenta: (E, N, 3) or (N, 3), hbar / bohr, ions in the molecule's order; or events.
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
            DataError: For momenta of the wrong shape or not finite.

        Example:
            >>> import flowcei
            >>> events = flowcei.simulate("ocs", 2, noise="1%", seed=1)
            >>> flowcei.load().sample(events, 50, seed=2).positions.shape
            (2, 50, 3, 3)
        """
        options: dict[str, Any] = {"noise": noise, "latent": latent, "seed": seed}
        options |= {"weigh": weigh, "min_ess": min_ess, "budget": budget}
        parts = list(self.stream(momenta, n, **options))
        return PosteriorSamples.concatenate(parts)

    def stream(
        self,
        momenta: ArrayLike | Events,
        n: int = 100,
        *,
        noise: str | Noise | None = None,
        latent: Latent = "prior",
        seed: int | None = None,
        weigh: bool = False,
        min_ess: float = 0.0,
        budget: int | None = None,
    ) -> Iterator[PosteriorSamples]:
        """Yield what `sample` returns, some events at a time, in bounded memory."""
        if n < 1:
            msg = f"the number of samples is {n}; it must be 1 or more"
            raise UsageError(msg)
        if latent not in get_args(Latent):
            msg = f"latent is {' or '.join(map(repr, get_args(Latent)))}; got {latent!r}"
            raise UsageError(msg)
        weigh = weigh or min_ess > 0
        if weigh and latent != "prior":
            msg = "latents of the training set have no density; weights need latent 'prior'"
            raise UsageError(msg)
        self._refuse_inexact()
        events = self._events(momenta)
        if not len(events):
            msg = "there is no event to reconstruct"
            raise DataError(msg)
        sigma = self.sigma(events, noise)
        seed = fresh_seed() if seed is None else seed
        generator = np.random.default_rng(np.random.SeedSequence(seed))
        origin = {
            "model": self.card.get("name"),
            "architecture": self.architecture,
            "latent": latent,
            "seed": seed,
            "noise": "of each event" if noise is None and events.sigma is not None else str(noise),
            "noise_relative": self.noise.relative,
            "prior": self._prior_spec,
            "events": events.origin,
        }
        step = max(1, _ROWS // n)
        prior = self.prior if weigh else None
        for first in range(0, len(events), step):
            rows = slice(first, first + step)
            part, level = events[rows], sigma[rows]
            found = self._sample(part, level, n, latent, generator, origin)
            if weigh:
                found = found.weigh(prior)
                draw = partial(self._draw_more, part, level, latent, generator, origin)
                rules: dict[str, Any] = {"min_ess": min_ess, "budget": budget or _BUDGET * n}
                found = top_up(found, draw, **rules, rng=generator, prior=prior)
            yield self._flagged(found, part, level)

    def _flagged(
        self, samples: PosteriorSamples, events: Events, sigma: NDArray[np.float64]
    ) -> PosteriorSamples:
        """Return samples with what speaks against each event."""
        found = self.unlike_training(replace(events, sigma=sigma))
        found["re_simulation"] = unexplained(samples.likelihood, samples.positions)
        if samples.weights is not None:
            found["efficiency"] = few_count(samples.weights)
        return replace(samples, flags=combined(**found))

    def _draw_more(
        self,
        events: Events,
        sigma: NDArray[np.float64],
        latent: Latent,
        generator: np.random.Generator,
        origin: dict[str, Any],
        rows: NDArray[np.intp],
        n: int,
    ) -> PosteriorSamples:
        return self._sample(events[rows], sigma[rows], n, latent, generator, origin)

    @torch.no_grad()
    def _sample(
        self,
        events: Events,
        sigma: NDArray[np.float64],
        n: int,
        latent: Latent,
        generator: np.random.Generator,
        origin: dict[str, Any],
    ) -> PosteriorSamples:
        framed, c = self._enter(events.momenta, sigma)
        drawn, density = self.model.sample_with_log_prob(c, n, latent=latent, generator=generator)
        chart = self.chart_standardiser.inverse(drawn.cpu())
        positions = self.frame.to_positions(chart, framed)
        size = positions.abs().amax(dim=(1, 2, 3))
        if not bool((size < torch.finfo(torch.float32).max).all()):
            worst = int((~(size < torch.finfo(torch.float32).max)).int().argmax())
            msg = (
                f"event {events.numbers[worst]} has no geometry the model can express; "
                "are the momenta in hbar/bohr?"
            )
            raise DataError(msg)
        log_prob = None
        if density is not None:
            log_prob = (density.cpu().double() + self._log_volume(framed)[:, None]).numpy()
        return PosteriorSamples(
            molecule=self.molecule,
            momenta=events.momenta,
            positions=positions.numpy().astype(np.float32),
            log_prob=log_prob,
            ids=events.numbers,
            sigma=sigma,
            origin=origin,
        )

    @torch.no_grad()
    def log_prob(
        self,
        positions: ArrayLike,
        momenta: ArrayLike | Events,
        *,
        noise: str | Noise | None = None,
    ) -> NDArray[np.float64]:
        """Return the log posterior density of geometries, per bohr^(3N-3).

        Args:
            positions: (E, n, N, 3), bohr, n geometries for each event; where they are in
                space does not matter, how they are turned does.
            momenta: (E, N, 3), hbar / bohr, or events.
            noise: As for `sample`.

        Returns:
            (E, n).

        Raises:
            NoDensityError: For architectures without an exact density.
            DataError: For positions that do not match the events.

        Example:
            >>> import flowcei
            >>> events = flowcei.simulate("ocs", 2, noise="1%", seed=1)
            >>> flowcei.load().log_prob(events.positions[:, None], events).shape
            (2, 1)
        """
        if not self.model.has_density:
            msg = f"architecture {self.architecture!r} has no exact density"
            raise NoDensityError(msg)
        return self._density_of(positions, momenta, noise, self.model.log_prob)

    @torch.no_grad()
    def log_prob_bound(
        self,
        positions: ArrayLike,
        momenta: ArrayLike | Events,
        *,
        noise: str | Noise | None = None,
        draws: int = 64,
        seed: int = 0,
    ) -> NDArray[np.float64]:
        """Return a lower bound on the log posterior density, for models that know no better.

        Args:
            positions: As for `log_prob`, (E, n, N, 3), bohr.
            momenta: (E, N, 3), hbar / bohr, or events.
            noise: As for `sample`.
            draws: Latents of each geometry; the more, the tighter the bound.
            seed: Of the latents.

        Returns:
            (E, n), per bohr^(3N-3). Its expectation over latents lies below the log density
            of the model: a bound on averages, not on each number.

        Raises:
            NoDensityError: For architectures without a bound.
            UsageError: For positions that do not match the events.
        """
        bound = getattr(self.model, "iwae_bound", None)
        if bound is None:
            msg = f"architecture {self.architecture!r} has no bound on its density"
            raise NoDensityError(msg)
        generator = np.random.default_rng(np.random.SeedSequence(seed))
        return self._density_of(
            positions, momenta, noise, lambda x, c: bound(x, c, draws=draws, generator=generator)
        )

    def _density_of(
        self,
        positions: ArrayLike,
        momenta: ArrayLike | Events,
        noise: str | Noise | None,
        density: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> NDArray[np.float64]:
        """Return a log density of standardised charts, (E, n), as one of positions."""
        events = self._events(momenta)
        x = np.asarray(positions, dtype=np.float64)
        if x.ndim != 4 or x.shape[::2] != (len(events), len(self.molecule)) or x.shape[3] != 3:
            msg = f"positions have shape {x.shape}; expected ({len(events)}, n, {len(self.molecule)}, 3)"
            raise UsageError(msg)
        framed, c = self._enter(events.momenta, self.sigma(events, noise))
        chart = self.chart_standardiser(self.frame.to_chart(torch.from_numpy(x), framed))
        flat = chart.reshape(-1, self.frame.width).to(self.device)
        found = density(flat, c.repeat_interleave(x.shape[1], dim=0))
        volume = self._log_volume(framed)[:, None]
        return (found.cpu().double().reshape(x.shape[:2]) + volume).numpy()

    def _log_volume(self, framed: FramedEvents) -> torch.Tensor:
        """Return log|d standardised chart / d positions|, (B,)."""
        return self.frame.log_jacobian(framed) - self.chart_standardiser.log_scale()

    def _enter(
        self, momenta: NDArray[np.float64], sigma: NDArray[np.float64]
    ) -> tuple[FramedEvents, torch.Tensor]:
        framed = self.frame.enter(torch.from_numpy(momenta), torch.from_numpy(sigma))
        return framed, self.condition_standardiser(framed.condition).to(self.device)

    def _events(self, momenta: ArrayLike | Events) -> Events:
        if not isinstance(momenta, Events):
            array = np.asarray(momenta, dtype=np.float64)
            return Events(self.molecule, array[None] if array.ndim == 2 else array)
        if not momenta.molecule.same_ions(self.molecule):
            msg = (
                f"the events are of {momenta.molecule.name} ({', '.join(momenta.molecule.labels)}), "
                f"the model is for {self.molecule.name} ({', '.join(self.molecule.labels)})"
            )
            raise UsageError(msg)
        return momenta

    def sigma(self, events: Events, noise: str | Noise | None) -> NDArray[np.float64]:
        """Return the standard deviation (E,) of each event's momentum components, hbar / bohr.

        What `noise` says; else what the events say; else 1 %, or the trained level nearest
        to it. Less noise than the model was trained for is raised to the least it knows,
        which errs towards caution; more is refused.

        Raises:
            UsageError: For noise above the trained range.
        """
        sigma = self.stated_sigma(events, noise)
        unit = rms_component(events.momenta) if self.noise.relative else np.ones(len(events))
        above = sigma > self.noise.high * unit * 1.01
        if above.any():
            worst = Noise(*2 * (float((sigma / unit).max()),), relative=self.noise.relative)
            msg = f"noise of {worst} is above what the model was trained for ({self.noise})"
            raise UsageError(msg)
        return np.clip(sigma, self.noise.low * unit, self.noise.high * unit)

    def stated_sigma(self, events: Events, noise: str | Noise | None) -> NDArray[np.float64]:
        """Return what `sigma` starts from (E,), whatever the model was trained for."""
        if noise is not None:
            level = noise if isinstance(noise, Noise) else Noise.parse(noise)
            return level.sigma(events.momenta)
        return events.sigma if events.sigma is not None else self.default_noise.sigma(events.momenta)

    def unlike_training(
        self, events: Events, noise: str | Noise | None = None
    ) -> dict[str, NDArray[np.bool_]]:
        """Tell which events (E,) are unlike all that the model was trained on.

        Returns:
            For each flag of `flowcei.posterior.flags` that momenta alone can raise, which
            events it is raised for.
        """
        sigma = self.sigma(events, noise)
        framed, standardised = self._enter(events.momenta, sigma)
        far = (~(standardised.abs() < _FAR)).any(dim=1).cpu().numpy()
        ker = np.zeros(len(events), dtype=bool)
        if isinstance(self.frame, RecoilFrame) and "seen" in self.card:
            ker, farther = TrainedRange.from_dict(self.card["seen"]).outside(framed.condition.numpy())
            far = farther | far
        stated = np.maximum(sigma, self.stated_sigma(events, noise))
        return {"momentum_sum": moving(events.momenta, stated), "ker": ker, "momenta": far & ~ker}

    @property
    def default_noise(self) -> Noise:
        """The level that is assumed where nobody says: 1 %, or the nearest trained one."""
        level = self.noise.high
        if self.noise.relative:
            level = min(max(0.01, self.noise.low), level)
        return Noise(level, level, relative=self.noise.relative)

    def _refuse_inexact(self) -> None:
        error = self.card.get("round_trip_error")
        if error is not None and not error <= ROUND_TRIP_BOUND:
            msg = (
                f"the flow does not invert itself (error {error:.2g} of a standard deviation, "
                f"bound {ROUND_TRIP_BOUND}): train again with a lower --learning-rate"
            )
            raise UsageError(msg)

    def parts(self) -> dict[str, torch.nn.Module]:
        """Return what has tensors, by the name it has in a model file."""
        return {
            "model": self.model,
            "chart": self.chart_standardiser,
            "condition": self.condition_standardiser,
        }

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the model to a `.safetensors` file, which `flowcei.load` reads.

        Raises:
            UsageError: Where the file exists or cannot be written.
        """
        noise = {"low": self.noise.low, "high": self.noise.high, "relative": self.noise.relative}
        card = describe_model(
            self.architecture,
            self.model.options.to_dict(),
            self.molecule.to_dict(),
            self.frame.to_dict(),
            noise,
            self.card,
        )
        tensors = {
            f"{part}.{name}": tensor
            for part, module in self.parts().items()
            for name, tensor in module.state_dict().items()
        }
        write_model(card, tensors, path, overwrite=overwrite)
