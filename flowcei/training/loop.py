"""The training loop: of any model, on any source of batches; it knows no molecules."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch.nn.utils import clip_grad_norm_

from flowcei.errors import DataError, StoppedError, TrainingDivergedError, UsageError
from flowcei.training.checkpoint import (
    Checkpoint,
    Keeping,
    plain_copy,
    random_state,
    restore,
    write_checkpoint,
)
from flowcei.training.schedule import EpochRecord, Schedule

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from flowcei.models.interface import InverseModel

_log = logging.getLogger("flowcei")

_VALIDATION_CHUNK = 8192
_RISE = 0.2 + 1e-9  # share of the steps in which the rate rises; with 1/5 of 5 torch divides by zero


class Batches(Protocol):
    """Where training data come from: x (B, D) and conditions c (B, C), standardised."""

    def epoch(self, index: int) -> tuple[Tensor, Tensor]:
        """Return the data of an epoch."""

    def validation(self) -> tuple[Tensor, Tensor]:
        """Return data that no epoch sees."""


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
    keeping: Keeping | None = None,
    on_step: Callable[[int, float], None] | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> list[EpochRecord]:
    """Train a model in place and leave it with the weights of its best epoch.

    On one machine the result depends on the arguments alone: not on what the process drew
    before, and not on whether the training was interrupted. It does depend on the batch size,
    the device and the number of torch's threads, since sums then round in another order.

    Args:
        model: The model.
        batches: Its data.
        schedule: Epochs, batch size, rates.
        seed: Of the order of rows and of the noise inside a loss.
        device: Where to train.
        keeping: Where to keep what a later call goes on from; nothing is kept where None.
        on_step: Called after each step with its rows and its loss.
        on_epoch: Called after each epoch, when it is kept.

    Returns:
        A record per epoch, those before an interruption included.

    Raises:
        TrainingDivergedError: When a loss is not finite.
        StoppedError: When the time is up; the epochs so far are kept.
        DataError: For a checkpoint of another model.
    """
    # The caller's random state is put back: nothing here seeds the process.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        return _Run(
            model.to(device), batches, schedule, device, keeping or Keeping(), on_step, on_epoch
        ).fit()


@dataclass
class _Phase:
    """One phase of a training, as far as it has come."""

    number: int
    epochs: int
    optimiser: torch.optim.Optimizer
    best_weights: dict[str, Tensor]
    cycle: torch.optim.lr_scheduler.OneCycleLR | None = None
    done: int = 0
    best: float = math.inf
    best_index: int = 0

    def lasts(self, patience: int) -> bool:
        return self.done < self.epochs and (self.done - 1 - self.best_index < patience)

    def begin_cycle(self, steps: int, peak: float) -> None:
        """Set the rates of all steps, once it is known how many an epoch has; those done are behind."""
        self.cycle = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser, peak, total_steps=steps * self.epochs, pct_start=_RISE
        )
        if self.done:  # rates are a function of the number of the step: no need to keep any
            past = steps * self.done
            # One more than torch would count: after the first it asks whether the optimiser has moved.
            self.cycle.load_state_dict({"last_epoch": past - 1, "_step_count": past + 1})
            self.cycle.step()


class _Run:
    """One training: what all of its epochs share."""

    def __init__(
        self,
        model: InverseModel,
        batches: Batches,
        schedule: Schedule,
        device: torch.device,
        keeping: Keeping,
        on_step: Callable[[int, float], None] | None,
        on_epoch: Callable[[EpochRecord], None] | None,
    ) -> None:
        self.model = model
        self.records: list[EpochRecord] = []
        self._batches = batches
        self._schedule = schedule
        self._device = device
        self._keeping = keeping
        self._on_step = on_step
        self._on_epoch = on_epoch
        self._held = self._moved(batches.validation())
        self._began = self._start = time.perf_counter()

    def fit(self) -> list[EpochRecord]:
        """Train all phases, from the beginning or from where a checkpoint was made."""
        model, begun = self.model, self._keeping.begun
        trainable = any(p.requires_grad for p in model.parameters())
        if begun and begun.phase >= model.phases:
            raise DataError(f"is in phase {begun.phase + 1} of {model.phases}", path=self._keeping.path)
        for number in range(begun.phase if begun else 0, model.phases if trainable else 0):
            phase = self._phase(number)
            if begun and number == begun.phase:
                self._go_on(phase, begun)
            elif number == 0:
                self._keep(phase)
            while phase.lasts(self._schedule.patience):
                self._epoch(phase)
            model.load_state_dict(phase.best_weights)
        model.eval()
        if model.stored:
            with torch.no_grad():
                model.remember(*self._rows(0))
        if not trainable:
            self._note(self._record(0, math.nan, 0.0, math.nan))
        return self.records

    def _moved(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return pair[0].to(self._device), pair[1].to(self._device)

    def _rows(self, index: int) -> tuple[Tensor, Tensor]:
        return self._moved(self._batches.epoch(index))

    def _phase(self, number: int) -> _Phase:
        model, schedule = self.model, self._schedule
        model.begin_phase(number)
        optimiser = torch.optim.AdamW(
            [p for p in model.parameters() if p.requires_grad],
            lr=schedule.learning_rate,
            weight_decay=schedule.weight_decay,
            betas=(0.9, 0.99),
            fused=self._device.type in {"cpu", "cuda"},
        )
        epochs = _share(schedule.epochs, model.phases, number)
        return _Phase(number, epochs, optimiser, plain_copy(model.state_dict()))

    def _epoch(self, phase: _Phase) -> None:
        """Run an epoch, and keep it."""
        model, schedule, began = self.model, self._schedule, time.perf_counter()
        x, c = self._rows(len(self.records))
        steps = -(-len(x) // schedule.batch)
        if phase.cycle is None:
            phase.begin_cycle(steps, schedule.learning_rate)
        loss = _finite(self._steps(phase, x, c, steps))
        rate = len(x) / (time.perf_counter() - began)
        last_rate = float(phase.optimiser.param_groups[0]["lr"])
        record = self._record(phase.number, loss, last_rate, rate)
        if record.validation_loss < phase.best:
            phase.best, phase.best_index = record.validation_loss, phase.done
            phase.best_weights = plain_copy(model.state_dict())
        phase.done += 1
        self._keep(phase)
        self._note(record)

    def _steps(self, phase: _Phase, x: Tensor, c: Tensor, steps: int) -> float:
        """Train on each row once and return the mean loss."""
        model, optimiser, cycle = self.model, phase.optimiser, phase.cycle
        # Parameters that rest in this phase may still have the last gradient of the one before.
        moving = [p for p in model.parameters() if p.requires_grad]
        model.train()
        # Indexing tensors in memory: a DataLoader that collates rows would be the bottleneck.
        order = torch.randperm(len(x)).to(x.device)
        total = 0.0
        for rows in order.tensor_split(steps):
            self._stop_in_time()
            optimiser.zero_grad(set_to_none=True)
            loss = model.loss(x[rows], c[rows]).mean()
            loss.backward()
            clip_grad_norm_(moving, self._schedule.clip)
            value = _finite(loss.item())
            optimiser.step()
            if cycle is not None:
                cycle.step()
            total += value * len(rows)
            if self._on_step is not None:
                self._on_step(len(rows), value)
        return total / len(x)

    def _record(self, phase: int, loss: float, rate: float, rows_per_second: float) -> EpochRecord:
        """Measure the validation loss and return the record of the epoch."""
        self.model.eval()
        record = EpochRecord(
            epoch=len(self.records) + 1,
            phase=phase + 1,
            train_loss=loss,
            validation_loss=_finite(_mean_loss(self.model, *self._held)),
            learning_rate=rate,
            rows_per_second=rows_per_second,
            seconds=time.perf_counter() - self._start,
        )
        self.records.append(record)
        return record

    def _note(self, record: EpochRecord) -> None:
        if self._on_epoch is not None:
            self._on_epoch(record)

    def _stop_in_time(self) -> None:
        limit = self._keeping.max_seconds
        if limit is not None and time.perf_counter() - self._began >= limit:
            msg = f"the time is up: {len(self.records)} of {self._schedule.epochs} epochs are saved"
            raise StoppedError(msg)

    def _keep(self, phase: _Phase) -> None:
        """Write the state to the checkpoint, where there is one."""
        if self._keeping.path is None:
            return
        moments = phase.optimiser.state_dict()["state"]
        state = Checkpoint(
            settings=self._keeping.settings,
            machine=_machine(self._device),
            records=self.records,
            model=dict(self.model.state_dict()),
            best=phase.best_weights,
            moments={f"{k}.{name}": t for k, one in moments.items() for name, t in one.items()},
            random=random_state(self._device),
        )
        write_checkpoint(state, self._keeping.path)
        _log.debug("epoch %d saved in %s", len(self.records), self._keeping.path)

    def _go_on(self, phase: _Phase, begun: Checkpoint) -> None:
        """Put everything into the state of a checkpoint."""
        other = [k for k, v in _machine(self._device).items() if begun.machine.get(k) != v]
        if other:
            changes = ", ".join(f"{k} {begun.machine.get(k)}, now {_machine(self._device)[k]}" for k in other)
            _log.warning("warning: begun elsewhere (%s): the last digits of the result will differ", changes)
        try:
            restore(begun, self.model, phase.optimiser, self._device)
        except DataError as error:
            raise DataError(f"does not fit the model ({error})", path=self._keeping.path) from error
        self.records[:] = begun.records
        phase.best_weights, phase.done = begun.best, len(begun.losses)
        if begun.losses:
            phase.best = min(begun.losses)
            phase.best_index = begun.losses.index(phase.best)
            self._start -= begun.records[-1].seconds


def _machine(device: torch.device) -> dict[str, Any]:
    """Return what the last digits of a sum depend on."""
    return {"torch": str(torch.__version__), "device": device.type, "threads": torch.get_num_threads()}


def _share(epochs: int, phases: int, phase: int) -> int:
    """Return the epochs of a phase: all the same, what is left over to the last; one at the least.

    Example:
        >>> [_share(5, 2, k) for k in range(2)]
        [2, 3]
    """
    each = max(1, epochs // phases)
    return max(1, epochs - each * (phases - 1)) if phase == phases - 1 else each


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
