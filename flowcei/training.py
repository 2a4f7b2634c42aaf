"""The training loop: of any model, on any source of batches; it knows no molecules."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch.nn.utils import clip_grad_norm_

from flowcei.errors import TrainingDivergedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from flowcei.models.interface import InverseModel

__all__ = ["Batches", "EpochRecord", "Schedule", "best_of", "fit", "resolve_device"]

_VALIDATION_CHUNK = 8192
_RISE = 0.2 + 1e-9  # share of the steps in which the rate rises; with 1/5 of 5 torch divides by zero


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


class Batches(Protocol):
    """Where training data come from: x (B, D) and conditions c (B, C), standardised."""

    def epoch(self, index: int) -> tuple[Tensor, Tensor]:
        """Return the data of an epoch."""

    def validation(self) -> tuple[Tensor, Tensor]:
        """Return data that no epoch sees."""


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


def resolve_device(name: str) -> torch.device:
    """Return the device that ``auto``, ``cpu``, ``cuda`` or ``mps`` means here.

    Raises:
        UsageError: For a device this machine lacks.

    Example:
        >>> resolve_device("cpu")
        device(type='cpu')
    """
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(kind for kind, here in there.items() if here))
    if not there.get(name.split(":", maxsplit=1)[0], False):
        msg = f"device {name!r} is not available here; use auto or cpu"
        raise UsageError(msg)
    return torch.device(name)


def fit(
    model: InverseModel,
    batches: Batches,
    schedule: Schedule,
    *,
    seed: int,
    device: torch.device,
    on_step: Callable[[int, float], None] | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> list[EpochRecord]:
    """Train a model in place and leave it with the weights of its best epoch.

    Args:
        model: The model.
        batches: Its data.
        schedule: Epochs, batch size, rates.
        seed: Of the order of rows and of the noise inside a loss.
        device: Where to train.
        on_step: Called after each step with its rows and its loss.
        on_epoch: Called after each epoch.

    Returns:
        A record per epoch.

    Raises:
        TrainingDivergedError: When a loss is not finite.
    """
    # The caller's random state is put back: nothing here seeds the process.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        return _fit(model.to(device), batches, schedule, device, on_step, on_epoch)


def _fit(
    model: InverseModel,
    batches: Batches,
    schedule: Schedule,
    device: torch.device,
    on_step: Callable[[int, float], None] | None,
    on_epoch: Callable[[EpochRecord], None] | None,
) -> list[EpochRecord]:
    run = _Run(model, batches, schedule, device, on_step, on_epoch)
    trainable = any(p.requires_grad for p in model.parameters())
    for phase in range(model.phases if trainable else 0):
        model.begin_phase(phase)
        run.train(phase)
    model.eval()
    if model.stored:
        with torch.no_grad():
            model.remember(*run.rows(0))
    if not trainable:
        run.record(0, math.nan, 0.0, math.nan)
    return run.records


class _Run:
    """One training: what all of its epochs share."""

    def __init__(
        self,
        model: InverseModel,
        batches: Batches,
        schedule: Schedule,
        device: torch.device,
        on_step: Callable[[int, float], None] | None,
        on_epoch: Callable[[EpochRecord], None] | None,
    ) -> None:
        self.model = model
        self.records: list[EpochRecord] = []
        self._batches = batches
        self._schedule = schedule
        self._device = device
        self._on_step = on_step
        self._on_epoch = on_epoch
        self._held = self._moved(batches.validation())
        self._start = time.perf_counter()

    def _moved(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return pair[0].to(self._device), pair[1].to(self._device)

    def rows(self, index: int) -> tuple[Tensor, Tensor]:
        return self._moved(self._batches.epoch(index))

    def train(self, phase: int) -> None:
        """Run the epochs of one phase and leave the model with the weights of the best."""
        model, schedule = self.model, self._schedule
        optimiser = torch.optim.AdamW(
            [p for p in model.parameters() if p.requires_grad],
            lr=schedule.learning_rate,
            weight_decay=schedule.weight_decay,
            betas=(0.9, 0.99),
            fused=self._device.type in {"cpu", "cuda"},
        )
        cycle: torch.optim.lr_scheduler.OneCycleLR | None = None
        epochs = _share(schedule.epochs, model.phases, phase)
        best, best_epoch, best_weights = math.inf, 0, _copy(model)
        for index in range(epochs):
            began = time.perf_counter()
            x, c = self.rows(len(self.records))
            steps = -(-len(x) // schedule.batch)
            if cycle is None:
                cycle = torch.optim.lr_scheduler.OneCycleLR(
                    optimiser, schedule.learning_rate, total_steps=steps * epochs, pct_start=_RISE
                )
            model.train()
            loss = _epoch(model, x, c, steps, optimiser, cycle, schedule.clip, self._on_step)
            rate = len(x) / (time.perf_counter() - began)
            held = self.record(phase, _finite(loss), float(cycle.get_last_lr()[0]), rate)
            if held < best:
                best, best_epoch, best_weights = held, index, _copy(model)
            elif index - best_epoch >= schedule.patience:
                break
        model.load_state_dict(best_weights)

    def record(self, phase: int, loss: float, rate: float, rows_per_second: float) -> float:
        """Measure the validation loss, note it, and return it."""
        self.model.eval()
        held = _finite(_mean_loss(self.model, *self._held))
        record = EpochRecord(
            epoch=len(self.records) + 1,
            phase=phase + 1,
            train_loss=loss,
            validation_loss=held,
            learning_rate=rate,
            rows_per_second=rows_per_second,
            seconds=time.perf_counter() - self._start,
        )
        self.records.append(record)
        if self._on_epoch is not None:
            self._on_epoch(record)
        return held


def _share(epochs: int, phases: int, phase: int) -> int:
    """Return the epochs of a phase: all the same, what is left over to the last; one at the least.

    Example:
        >>> [_share(5, 2, k) for k in range(2)]
        [2, 3]
    """
    each = max(1, epochs // phases)
    return max(1, epochs - each * (phases - 1)) if phase == phases - 1 else each


def _epoch(
    model: InverseModel,
    x: Tensor,
    c: Tensor,
    steps: int,
    optimiser: torch.optim.Optimizer,
    cycle: torch.optim.lr_scheduler.OneCycleLR,
    clip: float,
    on_step: Callable[[int, float], None] | None,
) -> float:
    # Indexing tensors in memory: a DataLoader that collates rows would be the bottleneck.
    order = torch.randperm(len(x)).to(x.device)
    total = 0.0
    for rows in order.tensor_split(steps):
        optimiser.zero_grad(set_to_none=True)
        loss = model.loss(x[rows], c[rows]).mean()
        loss.backward()
        clip_grad_norm_(model.parameters(), clip)
        value = _finite(loss.item())
        optimiser.step()
        cycle.step()
        total += value * len(rows)
        if on_step is not None:
            on_step(len(rows), value)
    return total / len(x)


@torch.no_grad()
def _mean_loss(model: InverseModel, x: Tensor, c: Tensor) -> float:
    pairs = zip(x.split(_VALIDATION_CHUNK), c.split(_VALIDATION_CHUNK), strict=True)
    return sum(float(model.loss(a, b).sum()) for a, b in pairs) / len(x)


def _finite(loss: float) -> float:
    if not math.isfinite(loss):
        msg = (
            f"the loss became {loss}: try a lower --learning-rate, a larger --noise, "
            "or look at the data for events far from the rest"
        )
        raise TrainingDivergedError(msg)
    return loss


def _copy(model: InverseModel) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
