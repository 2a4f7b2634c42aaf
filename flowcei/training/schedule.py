"""How long and how fast a training goes, and what is noted of every epoch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from flowcei.errors import UsageError

MIN_EVENTS = 100
"""Fewest events, of a file or of an epoch, that are trained on."""

_STEPS = 4800  # brought OCS from 1,200 noise-free events to 3e-3 to 5e-3 bohr per atom; ten steps, to 0.1
_FEWEST_STEPS, _MOST_STEPS = 8, 300  # of a pass, where the batch can be chosen
_PASSES, _PASSES_OF_FIXED_NOISE = 600, 30  # the latter are learned by heart in a few dozen
_RISE = 0.2  # share of the steps in which the rate rises
_FIRST, _LAST = 1 / 25, 1 / 250_000  # rates at the ends, of the peak
_MOMENTA = 0.95, 0.85  # at the ends and at the peak, as usual with torch


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        epochs: Passes at the most.
        batch: Rows of a step.
        learning_rate: Peak of the one-cycle schedule (L. N. Smith and N. Topin,
            arXiv:1708.07120).
        weight_decay: Of AdamW.
        clip: Bound on the norm of the gradient.
        patience: Epochs without a better validation loss before the training ends.

    Example:
        >>> Schedule(epochs=3).batch
        1024
    """

    epochs: int = 10
    batch: int = 1024
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    clip: float = 5.0
    patience: int = 10

    def __post_init__(self) -> None:
        """UsageError for what cannot train."""
        for name, value in asdict(self).items():
            if not (value > 0 or (name == "weight_decay" and value == 0)):
                raise UsageError(f"{name.replace('_', ' ')} of a training is {value}; it must be positive")

    @classmethod
    def for_rows(cls, rows: int, *, fresh_noise: bool, **given: Any) -> Schedule:  # noqa: ANN401
        """Return a schedule for the rows of a file; whatever is given stays.

        Few rows need small batches and many passes, fewer where their noise is always the same. Learning
        rates fall at the end of all passes only, so patience is a third of them.

        Args:
            rows: Training rows.
            fresh_noise: Whether the noise of a row is drawn anew in every pass.
            **given: Attributes that are settled.

        Example:
            >>> Schedule.for_rows(960, fresh_noise=True)
            Schedule(epochs=600, batch=128, learning_rate=0.003, weight_decay=0.0001, clip=5.0, patience=200)
        """
        wanted = min(max(rows / _MOST_STEPS, 128), 1024)
        batch = int(given.get("batch") or 2 ** round(math.log2(max(min(wanted, rows / _FEWEST_STEPS), 32))))
        steps = -(-rows // batch)
        most = _PASSES if fresh_noise else _PASSES_OF_FIXED_NOISE
        epochs = int(given.get("epochs") or min(max(-(-_STEPS // steps), cls.epochs), most))
        return cls(**{"epochs": epochs, "batch": batch, "patience": max(cls.patience, epochs // 3)} | given)


def one_cycle(step: int, steps: int, peak: float) -> tuple[float, float]:
    """Return the learning rate, which rises to a peak and falls, and the momentum, which does the opposite.

    L. N. Smith and N. Topin, arXiv:1708.07120, along cosines.

    Args:
        step: From 0.
        steps: Of the whole cycle.
        peak: Learning rate.

    Example:
        >>> [round(one_cycle(step, 10, 1.0)[0], 3) for step in (0, 1, 5, 9)]
        [0.04, 1.0, 0.5, 0.0]
    """
    top, end = _RISE * steps - 1.0, steps - 1.0
    rising = step < top
    angle = 1.0 - step / top if rising else (step - top) / (end - top)
    height = 0.5 + 0.5 * math.cos(math.pi * angle)
    lowest, (ends, middle) = _FIRST if rising else _LAST, _MOMENTA
    return peak * (lowest + (1.0 - lowest) * height), ends + (middle - ends) * height


@dataclass(frozen=True)
class EpochRecord:
    """One row of the metrics file."""

    epoch: int  # from 1
    phase: int  # from 1; most architectures have one; losses of different phases are not comparable
    train_loss: float  # mean over the epoch; NaN where nothing has a gradient
    validation_loss: float  # mean over the validation data, after the epoch
    learning_rate: float  # at its end
    rows_per_second: float  # training rate, data included
    seconds: float  # since the training began


def best_of(records: list[EpochRecord]) -> EpochRecord:
    """Best epoch of the last phase: that whose weights were kept."""
    return min((r for r in records if r.phase == records[-1].phase), key=lambda r: r.validation_loss)
