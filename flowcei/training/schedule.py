"""How long and how fast a training goes, and what is noted of every epoch."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from flowcei.errors import UsageError

__all__ = ["EpochRecord", "Schedule", "best_of"]


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
    """

    epochs: int = 10
    batch: int = 1024
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    clip: float = 5.0
    patience: int = 10

    def __post_init__(self) -> None:
        """Refuse what cannot train."""
        for name, value in asdict(self).items():
            if not (value > 0 or (name == "weight_decay" and value == 0)):
                msg = f"{name.replace('_', ' ')} of a training is {value}; it must be positive"
                raise UsageError(msg)


@dataclass(frozen=True)
class EpochRecord:
    """One row of the metrics file.

    Attributes:
        epoch: From 1.
        phase: From 1; most architectures have one. Losses of different phases are not comparable.
        train_loss: Mean over the epoch; NaN where nothing has a gradient.
        validation_loss: Mean over the validation data, after the epoch.
        learning_rate: At its end.
        rows_per_second: Training rate, data included.
        seconds: Since the training began.
    """

    epoch: int
    phase: int
    train_loss: float
    validation_loss: float
    learning_rate: float
    rows_per_second: float
    seconds: float


def best_of(records: list[EpochRecord]) -> EpochRecord:
    """Return the best epoch of the last phase: that whose weights were kept."""
    return min((r for r in records if r.phase == records[-1].phase), key=lambda r: r.validation_loss)
