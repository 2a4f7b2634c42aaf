"""Molecule, frame, standardisers and network under one name: what a training leaves."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from flowcei.errors import NoDensityError, UsageError
from flowcei.events.container import events_of
from flowcei.frame.recoil import RecoilFrame
from flowcei.frame.resimulation import Resimulation
from flowcei.physics.priors import build_prior
from flowcei.posterior.flags import moving
from flowcei.reconstruction.noise import above_trained, assumed_sigma, default_noise, stated_sigma
from flowcei.reconstruction.seen import TrainedRange
from flowcei.storage.modelfile import describe_model, write_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

    from flowcei.events.container import Events
    from flowcei.experiment.detector import Noise
    from flowcei.frame.raw import RawFrame
    from flowcei.frame.recoil import FramedEvents
    from flowcei.frame.standardiser import Standardiser
    from flowcei.models.interface import InverseModel
    from flowcei.molecules.molecule import Molecule
    from flowcei.physics.priors import GeometryPrior

__all__ = ["ROUND_TRIP_BOUND", "TrainedModel"]

ROUND_TRIP_BOUND = 1e-2
"""Largest encode-decode error, in standardised units, at which a flow is still used."""

_FAR = 10.0  # standard deviations


@dataclass(eq=False)
class TrainedModel:
    """What a training leaves: how densely it believes in a geometry, and what it has never seen.

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
        spec = self.card.get("prior")
        return spec if isinstance(spec, dict) and isinstance(self.frame, RecoilFrame) else None

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(chain(self.model.parameters(), self.model.buffers())).device

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
        events = events_of(momenta, self.molecule)
        x = np.asarray(positions, dtype=np.float64)
        if x.ndim != 4 or x.shape[::2] != (len(events), len(self.molecule)) or x.shape[3] != 3:
            msg = f"positions have shape {x.shape}; expected ({len(events)}, n, {len(self.molecule)}, 3)"
            raise UsageError(msg)
        framed, c = self.enter(events.momenta, self.sigma(events, noise))
        chart = self.chart_standardiser(self.frame.to_chart(torch.from_numpy(x), framed))
        flat = chart.reshape(-1, self.frame.width).to(self.device)
        found = density(flat, c.repeat_interleave(x.shape[1], dim=0))
        volume = self.log_volume(framed)[:, None]
        return (found.cpu().double().reshape(x.shape[:2]) + volume).numpy()

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
        return assumed_sigma(events, self._assumed(events, noise), self.noise)

    def stated_sigma(self, events: Events, noise: str | Noise | None) -> NDArray[np.float64]:
        """Return what `sigma` starts from (E,), whatever the model was trained for."""
        return stated_sigma(events, self._assumed(events, noise), self.noise)

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
        if isinstance(self.frame, RecoilFrame) and "seen" in self.card:
            ker, farther = TrainedRange.from_dict(self.card["seen"]).outside(framed.condition.numpy())
            far = farther | far
        stated = np.maximum(sigma, self.stated_sigma(events, noise))
        loud = above_trained(events, self._assumed(events, noise), self.noise)
        moves = moving(events.momenta, stated)
        return {"momentum_sum": moves, "ker": ker, "momenta": far & ~ker, "noise": loud}

    @property
    def default_noise(self) -> Noise:
        """The level that is assumed where nobody says: that of the training data, else 1 %; in the range."""
        measured = self.card.get("data", {}).get("noise")
        return default_noise(self.noise) if measured is None else default_noise(self.noise, measured)

    def _assumed(self, events: Events, noise: str | Noise | None) -> str | Noise | None:
        return self.default_noise if noise is None and events.sigma is None else noise

    def refuse_inexact(self) -> None:
        """Refuse a flow whose couplings do not invert themselves.

        Raises:
            UsageError: Saying how wrong it is.
        """
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
