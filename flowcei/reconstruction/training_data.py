"""What the training loop is fed: events of the simulator or of a file, as charts and conditions."""

# A model is trained for the noise that its data have: it is read from a column, or measured from the sums of
# momenta and from the positions, exploded anew. What is added comes on top of it.

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from flowcei.check.agreement import ROUNDING, compare_with_simulation, moving_prior, noisiness, residuals
from flowcei.errors import DataError, UsageError
from flowcei.events.container import Events
from flowcei.events.simulation import Simulator, by_axis
from flowcei.experiment.detector import DEFAULT_NOISE, NOISE_FLOOR, Noise, rms_component
from flowcei.experiment.experiment import stated_forward
from flowcei.frame.raw import RawFrame
from flowcei.molecules.molecule import Molecule
from flowcei.physics.build_up import BuildUpPrior
from flowcei.physics.explosion import PLAIN
from flowcei.physics.priors import GeometryPrior, build_prior
from flowcei.physics.threads import usable_cores
from flowcei.reconstruction.defaults import Defaults, split_rows, usual_noise, usual_training
from flowcei.reconstruction.framing import charts_of, ordered_frame, whitened_frame
from flowcei.reconstruction.storable import check_prior
from flowcei.storage.card import DataRecord, SimulationRecord, TrainingRecord
from flowcei.training.devices import Ranks
from flowcei.training.schedule import MIN_EVENTS, Schedule

if TYPE_CHECKING:
    from torch import Tensor

    from flowcei.check.agreement import Noisiness
    from flowcei.frame.interface import Frame, FramedEvents
    from flowcei.posterior.arrays import Floats
    from flowcei.reconstruction.model import Reconstructor

_FEW = 2000  # events that fit a frame of whitened charts, at the least: it is all but standard already
_MOST = 2000  # events that noise is measured on: to 1 %
_TURNED = 0.5  # share of events in another frame, beyond which distances say nothing
_TOLERANCE = 1.1  # what is stated may be this much below what is measured


@dataclass(frozen=True)
class TrainingRules:
    """How many events a training takes, and how exact they are.

    Attributes:
        pilot_events: Fresh events that frame and standardisers are fitted on; 20,000 give their
            deviations to 0.5 %.
        validation_events: Fresh events that choose the best epoch.
        accuracy: Of fresh momenta: far below any noise, and fast.

    Example:
        >>> TrainingRules(pilot_events=1500, validation_events=500).accuracy
        0.0001
    """

    pilot_events: int = 20_000
    validation_events: int = 10_000
    accuracy: float = 1e-4


RULES = TrainingRules()


class Source(ABC):
    """Where the events of a training come from, with positions and noise: three independent streams."""

    @abstractmethod
    def events(self, stream: int, index: int) -> Events:
        """Events of an epoch (stream 0), for validation (1), or to fit frame and standardisers on (2)."""

    def epoch(self, index: int, ranks: Ranks | None = None) -> Events:
        """Training events of an epoch, or the share of a rank: as many for each."""
        events = self.events(0, index)
        if ranks is None or ranks.count == 1:
            return events
        return events[np.arange(ranks.rank, len(events) // ranks.count * ranks.count, ranks.count)]

    def validation(self) -> Events:
        """Events that no epoch sees."""
        return self.events(1, 0)

    def pilot(self) -> Events:
        """Events that frame and standardisers are fitted on."""
        return self.events(2, 0)


@dataclass(frozen=True)
class FreshSource(Source):
    """Events simulated as they are needed: no epoch sees one twice."""

    simulator: Simulator
    rows: int  # of an epoch
    rules: TrainingRules = RULES
    defaults: Defaults = field(default_factory=Defaults)

    def events(self, stream: int, index: int) -> Events:
        """As many fresh events as the stream has."""
        counts = (self.rows, self.rules.validation_events, self.rules.pilot_events)
        return self.simulator.block(index, counts[stream], stream=stream)

    def epoch(self, index: int, ranks: Ranks | None = None) -> Events:
        """As `Source.epoch`; each rank simulates a stream of its own."""
        if ranks is None or ranks.count == 1:
            return super().epoch(index)
        number, threads = index * ranks.count + ranks.rank, max(1, usable_cores() // ranks.count)
        return self.simulator.block(number, self.rows // ranks.count, threads=threads)

    def schedule(self) -> Schedule:
        """The usual one, with steps of its size."""
        return Schedule(batch=self.defaults.batch)

    @property
    def options(self) -> dict[str, Any]:
        """Of the architecture, where nobody says."""
        return self.defaults.options

    def frame(self, kind: str, pilot: Events) -> Frame:  # noqa: ARG002 (raw ones are of files)
        """Recoil frame, in which mirror images are folded where the prior has both."""
        prior = self.simulator.prior
        frame = ordered_frame(pilot, reflect=prior.mirror_symmetric)
        growth = self.simulator.build_up
        longest = growth.high if isinstance(growth, BuildUpPrior) else 0.0
        frame = replace(frame, by_axis=self.simulator.noise.by_axis, build_up=longest)
        if not self.defaults.whitened:
            return frame
        return whitened_frame(frame, pilot.molecule, prior, self.defaults.power)


def fresh(
    molecule: Molecule | str,
    prior: str | dict[str, Any] | GeometryPrior | None,
    noise: Noise | str | None,
    per_epoch: int | None,
    seed: int,
    rules: TrainingRules | None,
    architecture: str,
    build_up: BuildUpPrior | str | None = None,
) -> tuple[FreshSource, Noise, TrainingRecord]:
    """Source of a training on a prior, the noise it trains for, and what a model says of both."""
    if per_epoch is not None and per_epoch < MIN_EVENTS:
        raise UsageError(f"{per_epoch} events an epoch are too few; use {MIN_EVENTS} or more")
    mol = molecule if isinstance(molecule, Molecule) else Molecule.load(molecule)
    geometry = build_prior(mol, prior)
    if isinstance(prior, GeometryPrior):
        check_prior(mol, prior)
    level = floored(Noise.parse(noise or usual_noise(len(mol), geometry, architecture)))
    name = prior if isinstance(prior, str) else None if prior else mol.default_prior
    name = name and Path(name).name.removesuffix(".toml")
    growth = None if build_up is None else BuildUpPrior.to_train_for(build_up)
    more = level.by_axis or growth is not None
    usual = usual_training(len(mol), geometry, architecture, more=more)
    rows = per_epoch or usual.events
    if rules is None:
        most = max(rows, _FEW) if usual.whitened else RULES.pilot_events  # each costs a search
        rules = TrainingRules(min(RULES.pilot_events, most), min(RULES.validation_events, most))
    simulation = SimulationRecord(events_per_epoch=rows, **asdict(rules))
    record = TrainingRecord(prior=geometry.spec(), prior_name=name, simulation=simulation)
    simulator = Simulator(mol, geometry, level, seed, rules.accuracy, build_up=growth)
    return FreshSource(simulator, rows, rules, usual), level, record


@dataclass(frozen=True)
class RecordedSource(Source):
    """Events of a file; noise that is added is drawn anew in every epoch."""

    training: Events
    held_out: Events  # for validation
    noise: Noise | None  # what the momenta have in the end, or None to leave them as they are
    seed: int  # of the noise
    own: float = 0.0  # noise that they have already, relative to the rms momentum component

    def events(self, stream: int, index: int) -> Events:
        """Rows of the file, with noise of their own in each epoch."""
        events = self.held_out if stream == 1 else self.training
        if self.noise is None:
            return events
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(stream, index)))
        momenta, sigma = _raised(events.momenta, self.noise, self.own, rng)
        sigma, columns = by_axis(sigma) if sigma.ndim == 2 else (sigma, {})
        return Events(events.molecule, momenta, events.positions, sigma=sigma, columns=columns)

    @property
    def rows(self) -> int:
        """Events of an epoch."""
        return len(self.training)

    @property
    def options(self) -> dict[str, Any]:
        """Of the architecture, where nobody says: its own."""
        return {}

    def schedule(self) -> Schedule:
        """By the rows; noise that comes with them is the same in every epoch, and is learned by heart."""
        return Schedule.for_rows(self.rows, fresh_noise=self.noise is not None and not self.own)

    def frame(self, kind: str, pilot: Events) -> Frame:
        """Frame of the training: raw is that of the file before noise is added."""
        by_axis = self.noise is not None and self.noise.by_axis
        if kind == RawFrame.kind:
            if by_axis:
                raise UsageError(f"noise {self.noise} is told in the recoil frame; leave out --frame raw")
            events = self.training
            tables = (events.molecule.masses, events.positions, events.momenta)
            return RawFrame.of(*(np.asarray(t) for t in tables))
        return replace(ordered_frame(pilot, reflect=False), by_axis=by_axis)


def _raised(momenta: Floats, noise: Noise, own: float, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Add what momenta (B, N, 3) lack of a level of noise; independent noises add in squares."""
    if not own:
        return noise.apply(momenta, rng)
    rms = rms_component(momenta)
    unit = rms if noise.relative else np.ones(len(momenta))
    present = own * rms / unit
    level = np.maximum(noise.draw(len(momenta), rng).T, present)  # (B,) or (3, B)
    added = np.sqrt(level**2 - present**2) * unit
    added = added.T[:, None] if noise.by_axis else added[:, None, None]
    noisy = momenta + added * rng.standard_normal(momenta.shape)
    return noisy, (level * (rms_component(noisy) if noise.relative else 1.0)).T


def recorded(
    data: Events, noise: Noise | str | None, seed: int
) -> tuple[RecordedSource, Noise, TrainingRecord]:
    """Source of a training on data, the noise it trains for, and what a model says of both."""
    level, own = settled_noise(data, noise)
    training, validation, _ = (data[np.sort(rows)] for rows in split_rows(len(data), seed))
    prior = data.origin.get("prior")
    if not isinstance(prior, dict | None):
        raise UsageError(
            f"the events name a prior {prior!r:.60}; a table that tells how to draw belongs there"
        )
    if prior is not None:
        build_prior(data.molecule, prior)  # a model would carry it
    about = DataRecord(rows=len(data), split_seed=seed, digest=data.digest())
    record = TrainingRecord(prior=prior, data=about, noise_added=own is not None)
    if (forward := stated_forward(data).name) != PLAIN:
        record.forward = forward
    if own is None:
        return RecordedSource(training, validation, None, seed), level, record
    about.noise = max(own.level, NOISE_FLOOR)
    return RecordedSource(training, validation, level, seed, own.level), level, record


def settled_noise(data: Events, noise: Noise | str | None) -> tuple[Noise, MeasuredNoise | None]:
    """Noise to train for (what is measured to 5 % where None), and what the data have: None if stated."""
    if data.positions is None:
        raise DataError("the data have momenta only; training needs the positions too")
    if len(data) < MIN_EVENTS:
        raise DataError(f"{len(data)} events are too few to train on; {MIN_EVENTS} at the least")
    wanted = None if noise is None else Noise.parse(noise)
    if data.sigma is not None and (data.sigma > 0).all():
        if wanted is not None:
            raise UsageError("the data carry noise of their own; leave --noise out, or give data without")
        relative = data.sigma / rms_component(data.momenta)
        return floored(Noise(float(relative.min()), float(relative.max()))), None
    own = measure_noise(data)
    usual = Noise(max(own.level, NOISE_FLOOR), min(1.0, max(DEFAULT_NOISE.high, 2.0 * own.level)))
    level = floored(wanted or usual)
    if not level.relative:
        return level, own
    if level.high < own.level / _TOLERANCE:
        raise UsageError(f"the data show noise of {own}, more than --noise {level}")
    return replace(level, low=max(level.low, min(own.level, level.high))), own


@dataclass(frozen=True)
class MeasuredNoise:
    """Noise of a momentum component of data, relative to the rms component."""

    level: float  # what training takes it for, three digits; 0 where there is none
    sums: float  # as the sums of momenta show it
    positions: float | None  # as the positions, exploded anew, show it; None where they explain nothing

    def __str__(self) -> str:
        level = f"{100 * self.level:.3g} %" if self.level else f"none, below {100 * NOISE_FLOOR:g} %"
        return f"{level} ({'sums' if self.positions is None else 'sums and re-simulated positions'})"


def measure_noise(events: Events) -> MeasuredNoise:
    """Noise that momenta carry, from their sums and from their positions exploded anew."""
    # Where positions explain the momenta, the residual is the noise of what a model sees, momenta without the
    # motion of the centre of mass: it decides. Sums also hold the motion of the source, and hold nothing
    # where momentum conservation was imposed.
    bare = replace(events, sigma=None)
    if len(bare) > _MOST:
        bare = bare[np.linspace(0, len(bare) - 1, _MOST).astype(np.int64)]
    sums = noisiness(bare)
    positions = _residual(bare, sums)
    level = sums.relative if positions is None else positions
    if sums.relative < NOISE_FLOOR and level < ROUNDING:
        level = 0.0  # exact sums and a little off: masses or digits of another program, no noise
    level = 0.0 if level < NOISE_FLOOR else float(f"{level:.3g}")
    return MeasuredNoise(min(level, 1.0), sums.relative, positions)


def _residual(events: Events, sums: Noisiness) -> float | None:
    """Noise that explains the distance of momenta from those of the positions."""
    agreement = None if moving_prior(events) else compare_with_simulation(events, sums)
    if agreement is None or not agreement.one_shape or agreement.rotated.mean() > _TURNED:
        return None
    # What noise of the whole rms component does to that distance: drawn, since the median of a sum
    # of squares with unequal weights has no formula.
    p, masses = agreement.recorded, events.molecule.masses
    drawn = np.random.default_rng(0).standard_normal(p.shape) * rms_component(p)[:, None, None]
    drawn -= (masses / masses.sum())[:, None] * drawn.sum(axis=1, keepdims=True)
    along = np.einsum("bni,bni->b", drawn, p) / np.einsum("bni,bni->b", p, p)  # the scale was fitted
    unit = residuals(p + drawn - along[:, None, None] * p, p)
    return float(np.median(agreement.apart) / np.median(unit))


def floored(noise: Noise) -> Noise:
    """Noise, raised to the floor where it is relative: without any, no density exists."""
    if noise.relative:
        return replace(noise, low=max(noise.low, NOISE_FLOOR), high=max(noise.high, NOISE_FLOOR))
    if noise.low == 0:
        raise UsageError("noise in a.u. must be above 0: without noise the posterior has no density")
    return noise


@dataclass(frozen=True)
class Charts:
    """A source of events for the training loop: standardised charts (B, D) and conditions (B, C)."""

    source: Source
    model: Reconstructor
    ranks: Ranks = field(default_factory=Ranks.current)

    def epoch(self, index: int) -> tuple[Tensor, Tensor]:
        """Those of an epoch, of this rank."""
        return self.standardised(*charts_of(self.model.frame, self.source.epoch(index, self.ranks)))

    def validation(self) -> tuple[Tensor, Tensor]:
        """Those of the validation events."""
        return self.standardised(*charts_of(self.model.frame, self.source.validation()))

    def standardised(self, charts: Floats, framed: FramedEvents) -> tuple[Tensor, Tensor]:
        """Charts (B, D) and what is told of events, (B, T), as the network sees them."""
        x, c = self.model.chart_standardiser(charts), self.model.condition_standardiser(framed.told)
        return torch.from_numpy(x), torch.from_numpy(c)

    def round_trip_error(self) -> float | None:
        """How far samples of validation events are off, where the model is a flow: see `InverseModel`."""
        network = self.model.network
        c = self.validation()[1].to(network.device)
        return network.round_trip_error(c) if network.has_density else None
