"""Training data from a file: which rows train, which noise they carry and which is added.

A model is trained for the noise that its data have: it is read from a column, or measured from
the sums of momenta and from the positions, exploded anew. What is added comes on top of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from flowcei.check.agreement import ROUNDING, compare_with_simulation
from flowcei.check.alignment import residuals
from flowcei.check.conservation import noisiness
from flowcei.errors import DataError, UsageError
from flowcei.experiment.detector import DEFAULT_NOISE, NOISE_FLOOR, Noise, rms_component
from flowcei.frame.raw import RawFrame
from flowcei.frame.recoil import RecoilFrame
from flowcei.physics.priors import build_prior
from flowcei.storage.card import DataRecord, TrainingRecord
from flowcei.training.schedule import MIN_EVENTS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowcei.check.conservation import Noisiness
    from flowcei.events.container import Events
    from flowcei.frame.interface import Frame

_MOST = 2000  # events that noise is measured on: to 1 %
_TURNED = 0.5  # share of events in another frame, beyond which distances say nothing
_TOLERANCE = 1.1  # what is stated may be this much below what is measured


class RecordedSource:
    """Events of a file; noise that is added is drawn anew in every epoch.

    Args:
        training: Events with positions.
        validation: Others.
        noise: What the momenta have in the end, or None to leave them as they are.
        seed: Of the noise.
        own: What they have already, relative to the rms momentum component.
    """

    def __init__(
        self, training: Events, validation: Events, noise: Noise | None, seed: int, own: float = 0.0
    ) -> None:
        self._training = training
        self._validation = validation
        self._noise = noise
        self._seed = seed
        self._own = own

    @property
    def draws_noise(self) -> bool:
        """Whether all noise is drawn anew in every epoch, so that no event is learned by heart."""
        return self._noise is not None and not self._own

    def pilot(self) -> Events:
        """Return the events that frame and standardisers are fitted on."""
        return self._noisy(self._training, 2, 0)

    def epoch(self, index: int) -> Events:
        """Return the training events with the noise of an epoch."""
        return self._noisy(self._training, 0, index)

    def validation(self) -> Events:
        """Return the validation events."""
        return self._noisy(self._validation, 1, 0)

    def frame(self, kind: str, pilot: Events) -> Frame:
        """Return the frame of a training: raw is that of the file before noise is added."""
        if kind == RawFrame.kind:
            events = self._training
            tables = (events.molecule.masses, events.positions, events.momenta)
            return RawFrame.of(*(torch.from_numpy(np.asarray(t)) for t in tables))
        return RecoilFrame.of(pilot.molecule, torch.from_numpy(pilot.momenta), reflect=False)

    def _noisy(self, events: Events, stream: int, index: int) -> Events:
        if self._noise is None:
            return events
        rng = np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=(stream, index)))
        momenta, sigma = _raised(events.momenta, self._noise, self._own, rng)
        return type(events)(events.molecule, momenta, events.positions, sigma=sigma)


def _raised(
    momenta: NDArray[np.float64], noise: Noise, own: float, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Add what momenta (B, N, 3) lack of a level of noise; independent noises add in squares."""
    if not own:
        return noise.apply(momenta, rng)
    rms = rms_component(momenta)
    unit = rms if noise.relative else np.ones(len(momenta))
    present = own * rms / unit
    level = np.maximum(noise.draw(len(momenta), rng), present)
    added = np.sqrt(level**2 - present**2) * unit
    noisy = momenta + added[:, None, None] * rng.standard_normal(momenta.shape)
    return noisy, level * (rms_component(noisy) if noise.relative else 1.0)


def split_rows(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rows of a file for training, validation and test: 80, 10 and 10 %.

    Example:
        >>> [len(rows) for rows in split_rows(1000, seed=3)]
        [800, 100, 100]
    """
    order = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(9,))).permutation(n)
    first, second = int(0.8 * n), int(0.9 * n)
    return order[:first], order[first:second], order[second:]


def recorded(data: Events, noise: Noise | None, seed: int) -> tuple[RecordedSource, Noise, TrainingRecord]:
    """Return the source of a training on data, the noise it trains for, and what a model says of both.

    Args:
        data: Events with positions; split into training, validation and test rows.
        noise: To train for; from what is measured to 5 % where None.
        seed: Of the split and of the noise.

    Raises:
        DataError: As `settled_noise`, as is UsageError.
    """
    level, own = settled_noise(data, noise)
    training, validation, _ = (data[np.sort(rows)] for rows in split_rows(len(data), seed))
    prior = data.origin.get("prior")
    if prior is not None:
        if not isinstance(prior, dict):
            msg = f"the events name a prior {prior!r:.60}; a table that tells how to draw belongs there"
            raise UsageError(msg)
        build_prior(data.molecule, prior)  # a model would carry it
    about = DataRecord(rows=len(data), split_seed=seed, digest=data.digest())
    record = TrainingRecord(prior=prior, data=about, noise_added=own is not None)
    if own is None:
        return RecordedSource(training, validation, None, seed), level, record
    about.noise = max(own.level, NOISE_FLOOR)
    return RecordedSource(training, validation, level, seed, own.level), level, record


def settled_noise(data: Events, noise: Noise | str | None) -> tuple[Noise, MeasuredNoise | None]:
    """Return the noise to train for, and what the data have of it; None where a column says so.

    Args:
        data: Events with positions.
        noise: What is asked for; from what is measured to 5 % where None.

    Raises:
        DataError: For too few events, or none with positions.
        UsageError: For `noise` beside a column of it, or below what the data show.
    """
    if data.positions is None:
        msg = "the data have momenta only; training needs the positions too"
        raise DataError(msg)
    if len(data) < MIN_EVENTS:
        msg = f"{len(data)} events are too few to train on; {MIN_EVENTS} at the least"
        raise DataError(msg)
    wanted = None if noise is None else Noise.parse(noise)
    if data.sigma is not None and (data.sigma > 0).all():
        if wanted is not None:
            msg = "the data carry noise of their own; leave --noise out, or give data without"
            raise UsageError(msg)
        relative = data.sigma / rms_component(data.momenta)
        return floored(Noise(float(relative.min()), float(relative.max()))), None
    own = measure_noise(data)
    level = floored(wanted or noise_for(own.level))
    if not level.relative:
        return level, own
    if level.high < own.level / _TOLERANCE:
        msg = f"the data show noise of {own}, more than --noise {level}"
        raise UsageError(msg)
    return Noise(max(level.low, min(own.level, level.high)), level.high), own


def noise_for(own: float) -> Noise:
    """Return the range to train for on data with noise of `own`: from there to 5 %, or twice as much.

    Example:
        >>> str(noise_for(0.0)), str(noise_for(0.01)), str(noise_for(0.04))
        ('0.01%..5%', '1%..5%', '4%..8%')
    """
    return Noise(max(own, NOISE_FLOOR), min(1.0, max(DEFAULT_NOISE.high, 2.0 * own)))


@dataclass(frozen=True)
class MeasuredNoise:
    """Noise of a momentum component of data, relative to the rms component.

    Attributes:
        level: What training takes it for, three digits; 0 where there is none.
        sums: As the sums of momenta show it.
        positions: As the positions, exploded anew, show it; None where they do not explain the momenta.
    """

    level: float
    sums: float
    positions: float | None

    def __str__(self) -> str:
        """Return the level and what it was measured from."""
        level = f"{100 * self.level:.3g} %" if self.level else f"none, below {100 * NOISE_FLOOR:g} %"
        return f"{level} ({'sums' if self.positions is None else 'sums and re-simulated positions'})"


def measure_noise(events: Events) -> MeasuredNoise:
    """Measure the noise that momenta carry, from their sums and from their positions exploded anew.

    Where positions explain the momenta, what is left is the noise of what a model sees, momenta
    without the motion of the centre of mass: it decides. Sums also hold the motion of the source,
    and hold nothing where momentum conservation was imposed.

    Example:
        >>> import flowcei
        >>> from dataclasses import replace
        >>> events = replace(flowcei.simulate("ocs", 2000, noise="1%", seed=1), sigma=None)
        >>> round(measure_noise(events).level, 3)
        0.01
    """
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
    """Return the noise that explains the distance of momenta from those of the positions."""
    agreement = compare_with_simulation(events, sums)
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
    """Return noise, raised to the floor where it is relative: without any, no density exists.

    Raises:
        UsageError: For none, in atomic units.
    """
    if not noise.relative:
        if noise.low == 0:
            msg = "noise in a.u. must be above 0: without noise the posterior has no density"
            raise UsageError(msg)
        return noise
    return Noise(max(noise.low, NOISE_FLOOR), max(noise.high, NOISE_FLOOR))
