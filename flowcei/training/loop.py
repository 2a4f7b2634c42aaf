"""The training loop: of any model, on any source of batches; it knows no molecules."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from flowcei.errors import DataError, StoppedError, TrainingDivergedError, UsageError
from flowcei.training.checkpoint import Checkpoint, Keeping, random_state, restore, write_checkpoint
from flowcei.training.devices import Ranks
from flowcei.training.schedule import EpochRecord, Schedule, one_cycle
from flowcei.training.steps import Steps

if TYPE_CHECKING:
    from torch import Tensor

    from flowcei.models.interface import InverseModel

    More = Callable[[list[int], list[EpochRecord]], int]
    """(epochs of each round, records) -> epochs of another round; 0 for none."""

_log = logging.getLogger("flowcei")

_VALIDATION_CHUNK = 8192
_EVERY = 50  # steps of a GPU between two looks at the loss


class Batches(Protocol):
    """Where training data come from: x (B, D) and conditions c (B, C), standardised."""

    def epoch(self, index: int) -> tuple[Tensor, Tensor]:
        """Data of an epoch."""

    def validation(self) -> tuple[Tensor, Tensor]:
        """Data that no epoch sees."""


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
    more: More | None = None,
) -> list[EpochRecord]:
    """Train a model in place, leave it with the weights of its best epoch, and return a record per epoch.

    On one machine the result depends on the arguments alone: not on what the process drew before, and not on
    whether the training was interrupted. It does depend on the batch size, the device and the number of
    torch's threads, since sums then round in another order. `on_step` is called with rows and loss; of a GPU,
    which is not waited for at every step, with those of some steps.

    Where torch has a process group each rank calls this with the same arguments and batches of its own, whose
    rows together make a step. The first rank keeps the checkpoint and calls `on_step`, `on_epoch` and `more`.

    `more`, for models of one phase, adds rounds: each has rates of its own, which rise and fall to zero. A
    round for which the time is too short is made shorter; when it is up all ends, with what is best so far.
    """
    told = on_step or (lambda *_: None), on_epoch or (lambda _: None)
    # The caller's random state is put back: nothing here seeds the process.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        run = _Run(model.to(device), batches, schedule, device, keeping or Keeping(), *told, more, seed)
        with run.ahead or nullcontext():
            return run.fit()


@dataclass
class _Phase:
    """One phase of a training, as far as it has come."""

    number: int
    rounds: list[int]  # epochs of each; of the last at the most
    steps: Steps
    best_weights: dict[str, Tensor]
    losses: list[float] = field(default_factory=list)  # of validation, an epoch each

    def lasts(self, patience: int) -> bool:
        """Whether the round does; patience is of the first: where rates rise again, losses do too."""
        losses = self.losses[sum(self.rounds[:-1]) :]
        patience = patience if len(self.rounds) == 1 else self.rounds[-1]
        done = len(losses)
        return not done or (done < self.rounds[-1] and done - 1 - losses.index(min(losses)) < patience)

    def shorten(self, seconds: float, epoch: float) -> None:
        """Leave the round so many more epochs as fit into the time, with rates that fall to zero until then.

        epoch: what one takes, seconds.
        """
        done = len(self.losses) - sum(self.rounds[:-1])
        if (fits := done + int(max(0.0, min(seconds / epoch, 1e9)))) < self.rounds[-1]:
            self.rounds[-1] = fits

    def begin(self, epochs: int) -> None:
        """Begin another round."""
        self.rounds[-1] = len(self.losses) - sum(self.rounds[:-1])
        self.rounds.append(epochs)


@dataclass
class _Run:
    """One training: what all of its epochs share."""

    model: InverseModel
    batches: Batches
    schedule: Schedule
    device: torch.device
    keeping: Keeping
    on_step: Callable[[int, float], None]
    on_epoch: Callable[[EpochRecord], None]
    more: More | None
    seed: int
    records: list[EpochRecord] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ranks, every = Ranks.current(), self._moved(self.batches.validation())
        self._validation = [t[self._ranks.rank :: self._ranks.count] for t in every]
        self._judged = len(every[0])
        # Where steps leave cores idle the next epoch is simulated beside them.
        idle = self.device.type != "cpu" or torch.get_num_threads() > 1
        self.ahead = ThreadPoolExecutor(1) if idle else None
        self._next: Future[tuple[Tensor, Tensor]] | None = None
        self._began = self._start = time.perf_counter()

    def fit(self) -> list[EpochRecord]:
        """Train all phases, from the beginning or from where a checkpoint was made."""
        model, begun = self.model, self.keeping.begun
        trainable, first = any(p.requires_grad for p in model.parameters()), begun.phase if begun else 0
        if first >= model.phases:
            raise DataError(f"is in phase {first + 1} of {model.phases}", path=self.keeping.path)
        if not trainable and self._ranks.count > 1:
            raise UsageError(f"there is nothing to train by {self._ranks.count} ranks: start one process")
        for number in range(first, model.phases if trainable else 0):
            phase = self._phase(number)
            if begun and number == first:
                self._resume(phase, begun)
            elif number == 0:
                self._save(phase)
            while self._round(phase):
                pass
            phase.steps.part()
        model.eval()
        if model.stored:
            with torch.no_grad():
                model.remember(*self._moved(self.batches.epoch(0)))
        if not trainable:
            self.on_epoch(self._record(0, math.nan, 0.0, math.nan))
        return self.records

    def _round(self, phase: _Phase) -> bool:
        """Train to the end of a round, with the best weights so far; whether another has begun."""
        while phase.lasts(self.schedule.patience):
            begun = time.perf_counter()
            self._epoch(phase)
            if self.more is not None:
                phase.shorten(self._seconds_left, time.perf_counter() - begun)
                phase.rounds[-1] = self._ranks.agreed(phase.rounds[-1], self.device)
        self.model.load_state_dict(phase.best_weights)
        epochs = self.more(phase.rounds, self.records) if self.more and self._ranks.first else 0
        epochs = self._ranks.agreed(epochs, self.device)
        if epochs:
            phase.begin(epochs)
        return epochs > 0

    def _moved(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return pair[0].to(self.device), pair[1].to(self.device)

    def _phase(self, number: int) -> _Phase:
        model, schedule = self.model, self.schedule
        model.begin_phase(number)
        steps = Steps(model, schedule, self.device, self._ranks)
        each = max(1, schedule.epochs // model.phases)  # what is left over goes to the last
        last = number == model.phases - 1
        epochs = max(1, schedule.epochs - each * (model.phases - 1)) if last else each
        return _Phase(number, [epochs], steps, _copy(model.state_dict()))

    def _epoch(self, phase: _Phase) -> None:
        """Train on each row once, and save what came of it."""
        start, model, index = time.perf_counter(), self.model, len(self.records)
        x, c = self._next.result() if self._next else self._moved(self.batches.epoch(index))
        follows = self.ahead if len(phase.losses) + 1 < sum(phase.rounds) else None
        self._next = (
            None if follows is None else follows.submit(lambda: self._moved(self.batches.epoch(index + 1)))
        )
        if not self._ranks.first:  # whose state is that of the checkpoint
            words = np.random.SeedSequence(self.seed, spawn_key=(self._ranks.rank, index)).generate_state(2)
            torch.manual_seed(int(words[0]) << 32 | int(words[1]))
        model.train()
        loss, rows, rate = self._steps(phase, x, c)
        record = self._record(phase.number, _finite(loss), rate, rows / (time.perf_counter() - start))
        if record.validation_loss < min(phase.losses, default=math.inf):
            phase.best_weights = _copy(model.state_dict())
        phase.losses.append(record.validation_loss)
        self._save(phase)
        if self._ranks.first:
            self.on_epoch(record)

    def _steps(self, phase: _Phase, x: Tensor, c: Tensor) -> tuple[float, int, float]:
        """Step over all rows once; return the mean loss, rows of all ranks, and the last learning rate."""
        ranks, steps = self._ranks, -(-len(x) * self._ranks.count // self.schedule.batch)
        before = steps * (len(phase.losses) - sum(phase.rounds[:-1]))  # of this round
        peak, waits, rate = self.schedule.learning_rate, self.device.type != "cpu", math.nan
        total, done, told, since = 0.0, 0, 0, torch.zeros((), device=self.device)
        # Indexing tensors in memory: a DataLoader that collates rows would be the bottleneck.
        for k, rows in enumerate(torch.randperm(len(x)).to(x.device).tensor_split(steps), 1):
            stop = ranks.first and self._seconds_left <= 0.0 and (self.more is None or done > 0)
            if stop and ranks.count == 1:
                self._stop()
                break
            phase.steps.differentiate(x[rows], c[rows], stop=stop)
            count = len(rows) * ranks.count
            since += phase.steps.loss * count
            if not waits or k % _EVERY == 0 or k == steps:  # to look is to wait for the device
                summed, seen = float(since), done + count - told
                total, told = total + summed, done + count
                since.zero_()
                if phase.steps.stopped:
                    self._stop()
                    break
                value = _finite(summed / seen)
                if ranks.first:
                    self.on_step(seen, value)
            rate, momentum = one_cycle(before + k - 1, steps * phase.rounds[-1], peak)
            phase.steps.move(rate, momentum)
            done += count
        return total / told, done, rate

    @torch.no_grad()
    def _record(self, phase: int, loss: float, rate: float, rows_per_second: float) -> EpochRecord:
        """Measure the validation loss and return the record of the epoch."""
        self.model.eval()
        x, c = self._validation
        chunks = zip(x.split(_VALIDATION_CHUNK), c.split(_VALIDATION_CHUNK), strict=True)
        summed = torch.stack([self.model.loss(a, b).sum() for a, b in chunks]).sum()
        self._ranks.average(summed)
        validation = _finite(float(summed) * self._ranks.count / self._judged)
        epoch, seconds = len(self.records) + 1, time.perf_counter() - self._start
        self.records.append(EpochRecord(epoch, phase + 1, loss, validation, rate, rows_per_second, seconds))
        return self.records[-1]

    @property
    def _seconds_left(self) -> float:
        limit, kept = self.keeping.max_seconds, self.keeping.path is not None or self.more is not None
        return math.inf if limit is None or not kept else limit - (time.perf_counter() - self._began)

    def _stop(self) -> None:
        """Say that the time is up, unless what there is shall do."""
        if self.more is None:
            epochs = self.schedule.epochs
            raise StoppedError(f"the time is up: {len(self.records)} of {epochs} epochs are saved")

    def _save(self, phase: _Phase) -> None:
        """Write the state to the checkpoint, where there is one."""
        if self.keeping.path is None or not self._ranks.first:
            return
        state = Checkpoint(
            settings=self.keeping.settings,
            machine=_machine(self.device),
            records=self.records,
            rounds=phase.rounds if self.more else [],
            model=dict(self.model.state_dict()),
            best=phase.best_weights,
            moments=phase.steps.moments,
            random=random_state(self.device),
        )
        write_checkpoint(state, self.keeping.path)
        _log.debug("epoch %d saved in %s", len(self.records), self.keeping.path)

    def _resume(self, phase: _Phase, begun: Checkpoint) -> None:
        """Put everything into the state of a checkpoint."""
        before, now = begun.machine, _machine(self.device)
        changes = [f"{k} {before.get(k)}, now {v}" for k, v in now.items() if before.get(k) != v]
        if changes:
            text = f"begun elsewhere ({', '.join(changes)}): the last digits of the result will differ"
            warnings.warn(text, stacklevel=2)
        try:
            restore(begun, self.model, phase.steps.moments, self.device)
        except DataError as error:
            raise DataError(f"does not fit the model ({error})", path=self.keeping.path) from error
        self.records[:] = begun.records
        phase.best_weights, phase.losses = begun.best, begun.losses
        phase.rounds = begun.rounds or phase.rounds
        self._start -= begun.records[-1].seconds if begun.records else 0.0


def _copy(table: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies of tensors, which later steps leave alone."""
    return {name: tensor.detach().clone() for name, tensor in table.items()}


def _machine(device: torch.device) -> dict[str, Any]:
    """What the last digits of a sum depend on."""
    return {"torch": str(torch.__version__), "device": device.type, "threads": torch.get_num_threads()}


def _finite(loss: float) -> float:
    if not math.isfinite(loss):
        raise TrainingDivergedError(
            f"the loss became {loss}: try a lower --learning-rate, a larger --noise, "
            "or look at the data for events far from the rest"
        )
    return loss
