"""What the training loop is fed: events of the simulator or of a file, as charts and conditions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from flowcei.errors import DataError, UsageError
from flowcei.events.simulation import Simulator
from flowcei.frame.raw import RawFrame
from flowcei.frame.recoil import RecoilFrame
from flowcei.molecules.molecule import Molecule
from flowcei.physics.priors import GeometryPrior, build_prior
from flowcei.reconstruction.storable import check_prior
from flowcei.storage.card import SimulationRecord, TrainingRecord
from flowcei.training.schedule import MIN_EVENTS

if TYPE_CHECKING:
    from torch import Tensor

    from flowcei.events.container import Events
    from flowcei.experiment.detector import Noise
    from flowcei.frame.interface import Frame
    from flowcei.reconstruction.model import Reconstructor
    from flowcei.reconstruction.recorded import RecordedSource

PILOT_EVENTS = 20_000
"""Fresh events that frame and standardisers are fitted on: their deviations are known to 0.5 %."""

VALIDATION_EVENTS = 10_000
"""Fresh events that choose the best epoch."""

_TRAINING_ACCURACY = 1e-4  # of momenta in training: far below any noise, and fast


class FreshSource:
    """Events simulated as they are needed: no epoch sees one twice."""

    def __init__(self, simulator: Simulator, per_epoch: int) -> None:
        self._simulator = simulator
        self._per_epoch = per_epoch

    @classmethod
    def of(
        cls,
        molecule: Molecule | str,
        prior: str | dict[str, Any] | GeometryPrior | None,
        noise: Noise,
        per_epoch: int,
        seed: int,
    ) -> tuple[FreshSource, TrainingRecord]:
        """Return the source of a training on a prior, and what a model says of it."""
        if per_epoch < MIN_EVENTS:
            msg = f"{per_epoch} events an epoch are too few; use {MIN_EVENTS} or more"
            raise UsageError(msg)
        mol = molecule if isinstance(molecule, Molecule) else Molecule.load(molecule)
        geometry = prior if isinstance(prior, GeometryPrior) else build_prior(mol, prior)
        if isinstance(prior, GeometryPrior):
            check_prior(mol, prior)
        simulation = SimulationRecord(
            events_per_epoch=per_epoch,
            accuracy=_TRAINING_ACCURACY,
            pilot_events=PILOT_EVENTS,
            validation_events=VALIDATION_EVENTS,
        )
        name = prior if isinstance(prior, str) else None if prior else mol.default_prior
        about = TrainingRecord(prior=geometry.spec(), prior_name=name, simulation=simulation)
        return cls(Simulator(mol, geometry, noise, seed, _TRAINING_ACCURACY), per_epoch), about

    def frame(self, kind: str, pilot: Events) -> Frame:
        """Return the frame of a training: mirror images are folded where the prior has both."""
        if kind == RawFrame.kind:
            msg = "frame is raw only with data of a file"
            raise UsageError(msg)
        momenta, reflect = torch.from_numpy(pilot.momenta), self._simulator.prior.mirror_symmetric
        return RecoilFrame.of(pilot.molecule, momenta, reflect=reflect)

    def pilot(self) -> Events:
        """Return events that frame and standardisers are fitted on."""
        return self._simulator.block(0, PILOT_EVENTS, stream=2)

    def epoch(self, index: int) -> Events:
        """Return the fresh events of an epoch."""
        return self._simulator.block(index, self._per_epoch)

    def validation(self) -> Events:
        """Return the validation events."""
        return self._simulator.block(0, VALIDATION_EVENTS, stream=1)


@dataclass
class Charts:
    """A source of events as the training loop wants it: standardised charts and conditions."""

    source: FreshSource | RecordedSource
    model: Reconstructor

    def epoch(self, index: int) -> tuple[Tensor, Tensor]:
        """Return standardised charts (B, D) and conditions (B, C) of an epoch."""
        return self.standardised(*self.raw(self.source.epoch(index)))

    def validation(self) -> tuple[Tensor, Tensor]:
        """Return those of the validation events."""
        return self.standardised(*self.raw(self.source.validation()))

    def raw(self, events: Events) -> tuple[Tensor, Tensor]:
        """Return chart (B, D) and condition (B, C), not standardised."""
        if events.positions is None or events.sigma is None:
            msg = "training needs events with positions"
            raise DataError(msg)
        frame = self.model.frame
        framed = frame.enter(torch.from_numpy(events.momenta), torch.from_numpy(events.sigma))
        positions = torch.from_numpy(events.positions)[:, None]
        return frame.to_chart(positions, framed)[:, 0], framed.condition

    def standardised(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Return charts (B, D) and conditions (B, C) as the network sees them."""
        return self.model.chart_standardiser(x), self.model.condition_standardiser(c)

    @torch.no_grad()
    def round_trip_error(self) -> float | None:
        """Return the largest |decode(encode(x)) - x| of a flow over validation data, standardised units."""
        network = self.model.network
        if not network.has_density:
            return None
        x, c = (t.to(self.model.device) for t in self.validation())
        return float((network.decode(network.encode(x, c)[0], c) - x).abs().max())  # type: ignore[operator]
