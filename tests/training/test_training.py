"""The training loop: when it ends, what it keeps, and what it leaves alone."""

from __future__ import annotations

import math
from dataclasses import fields
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

from flowcei.errors import TrainingDivergedError, UsageError
from flowcei.models.registry import ARCHITECTURES, build_model, options_type
from flowcei.training.devices import resolve_device
from flowcei.training.loop import fit
from flowcei.training.schedule import EpochRecord, Schedule, one_cycle
from flowcei.training.steps import Steps

if TYPE_CHECKING:
    from flowcei.models.interface import InverseModel

CPU = torch.device("cpu")
RECALL = {"nearest", "mean", "marginal"}
UNTRAINED = RECALL | {"solver"}
trainable = pytest.mark.parametrize("name", sorted(set(ARCHITECTURES) - UNTRAINED))


class _Toy:
    """x = c + noise; 150 rows an epoch, the same in each."""

    def __init__(self, shift: float = 0.0) -> None:
        generator = torch.Generator().manual_seed(0)
        self.c = torch.randn(250, 2, generator=generator)
        self.x = self.c + 0.3 * torch.randn(250, 2, generator=generator)
        self.shift = shift
        self.asked: list[int] = []

    def epoch(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.asked.append(index)
        return self.x[:150], self.c[:150]

    def validation(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.x[150:] + self.shift, self.c[150:]


class _Point(nn.Module):
    """One number, fitted to x by squared error: what training does to it can be foreseen."""

    phases = 1
    stored = ()

    def __init__(self, start: float = 0.0) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.tensor(start))
        self.steps = 0

    def begin_phase(self, phase: int) -> None:
        assert phase == 0

    def loss(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        self.steps += self.training
        return ((x - self.place) ** 2).mean(dim=1)


class _Explodes(_Point):
    """The same with one batch, early on, whose loss explodes and points away from x."""

    def loss(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        loss = super().loss(x, c)
        return -1e6 * loss if self.training and self.steps == 10 else loss


class _Constant:
    """All x of training at one place, all x of validation at another."""

    def __init__(self, training: float, validation: float, rows: int = 64) -> None:
        self._x = [torch.full((rows, 1), v) for v in (training, validation)]

    def epoch(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:  # noqa: ARG002
        return self._x[0], self._x[0]

    def validation(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self._x[1], self._x[1]


def _model(name: str = "cinn") -> InverseModel:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        known = {f.name for f in fields(options_type(name))}
        small = {"hidden": 8, "couplings": 2, "depth": 1}
        return build_model(name, 2, 2, {k: v for k, v in small.items() if k in known})


def test_one_cycle_runs_to_its_end() -> None:
    """Every epoch is asked for once; the rate climbs to its peak and ends far below."""
    toy, schedule = _Toy(), Schedule(epochs=10, batch=50, learning_rate=1e-2)
    records = fit(_model(), toy, schedule, seed=1, device=CPU)
    assert toy.asked == [*range(10), 0]  # the last to remember latents
    assert [r.epoch for r in records] == list(range(1, 11))
    rates = [r.learning_rate for r in records]
    assert max(rates) == pytest.approx(1e-2, rel=0.02)
    assert int(np.argmax(rates)) == 1  # after 20 % of the steps
    assert rates[-1] < 1e-2 * max(rates)
    assert records[-1].validation_loss < records[0].validation_loss
    assert all(a.seconds < b.seconds for a, b in pairwise(records))
    assert all(r.rows_per_second > 0 for r in records)


def test_steps_cover_every_row_once_an_epoch() -> None:
    """150 rows in batches of at most 40: four steps, told to `on_step` with their losses."""
    told: list[tuple[int, float]] = []
    epochs: list[EpochRecord] = []
    model = _model()
    records = fit(
        model,
        _Toy(),
        Schedule(epochs=2, batch=40),
        seed=1,
        device=CPU,
        on_step=lambda rows, loss: told.append((rows, loss)),
        on_epoch=epochs.append,
    )
    assert len(told) == 2 * 4
    assert sum(rows for rows, _ in told) == 2 * 150
    assert max(rows for rows, _ in told) <= 40
    mean = sum(rows * loss for rows, loss in told[:4]) / 150
    assert records[0].train_loss == pytest.approx(mean)
    assert epochs == records
    assert not model.training


def test_training_stops_when_validation_grows_worse() -> None:
    """Validation opposite to training is best after epoch 1; patience 3 ends it after epoch 4."""
    records = fit(
        _Point(),
        _Constant(1.0, -1.0),
        Schedule(epochs=50, batch=64, patience=3),
        seed=1,
        device=CPU,
    )
    assert len(records) == 1 + 3
    assert all(a.validation_loss < b.validation_loss for a, b in pairwise(records))


def test_the_weights_of_the_best_epoch_are_kept() -> None:
    """A point on its way from 0 to 1 is kept where it came closest to validation at 0.4."""
    model, seen = _Point(), []
    records = fit(
        model,
        _Constant(1.0, 0.4),
        Schedule(epochs=40, batch=8, learning_rate=0.02, patience=40, weight_decay=0),
        seed=1,
        device=CPU,
        on_epoch=lambda _: seen.append(model.place.item()),
    )
    best = int(np.argmin([r.validation_loss for r in records]))
    assert 0 < best < len(records) - 1
    assert model.place.item() == seen[best]
    assert abs(seen[best] - 0.4) == min(abs(place - 0.4) for place in seen)
    assert abs(seen[-1] - 1.0) < abs(seen[best] - 1.0)


@pytest.mark.parametrize("training", [True, False])
def test_a_loss_that_is_not_finite_ends_the_training(*, training: bool) -> None:
    """NaN in training or in validation: TrainingDivergedError, exit code 4, with advice."""
    data = _Constant(math.nan, 0.0) if training else _Constant(0.0, math.inf)
    with pytest.raises(TrainingDivergedError, match=r"--learning-rate") as caught:
        fit(_Point(), data, Schedule(epochs=2), seed=1, device=CPU)
    assert caught.value.exit_code == 4


def test_a_diverged_step_is_never_taken() -> None:
    """The weights before the bad step stay finite."""
    model = _Point(0.5)
    with pytest.raises(TrainingDivergedError):
        fit(model, _Constant(math.inf, 0.0), Schedule(epochs=1), seed=1, device=CPU)
    assert model.place.item() == 0.5


@trainable
def test_a_seed_repeats_a_training(name: str) -> None:
    """The same seed: the same weights, to the bit; another seed: others."""
    states = []
    for seed in (1, 1, 2):
        model = _model(name)
        fit(model, _Toy(), Schedule(epochs=2, batch=32), seed=seed, device=CPU)
        states.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@trainable
def test_training_leaves_the_callers_random_state_alone(name: str) -> None:
    """The global generators of torch and NumPy are as before, also after a divergence."""
    model = _model(name)
    before, legacy = torch.get_rng_state(), np.random.get_state()[1].copy()
    fit(model, _Toy(), Schedule(epochs=1), seed=1, device=CPU)
    with pytest.raises(TrainingDivergedError):
        fit(model, _Toy(shift=math.nan), Schedule(epochs=1), seed=1, device=CPU)
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(legacy, np.random.get_state()[1])


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", 0), ("batch", -1), ("learning_rate", 0.0), ("clip", math.nan), ("weight_decay", -0.1)],
)
def test_a_schedule_that_cannot_train_is_refused(name: str, value: float) -> None:
    """Zero, negative numbers and NaN, named; no weight decay at all is fine."""
    with pytest.raises(UsageError, match=name.replace("_", " ")):
        Schedule(**{name: value})
    assert Schedule(weight_decay=0).weight_decay == 0


def test_devices_are_resolved_or_refused() -> None:
    """`auto` always finds one; one that is not there is refused by name."""
    assert resolve_device("auto").type in {"cpu", "cuda", "mps"}
    assert resolve_device("cpu") == CPU
    for name in ("tpu", "", *(["cuda"] if not torch.cuda.is_available() else [])):
        with pytest.raises(UsageError, match="not available"):
            resolve_device(name)


@pytest.mark.parametrize("batch", [150, 50, 30, 15])
def test_few_steps_are_trained_too(batch: int) -> None:
    """One, three, five and ten steps in all; the rate has its peak at the first of five."""
    records = fit(_Point(), _Toy(), Schedule(epochs=1, batch=batch), seed=1, device=CPU)  # type: ignore[arg-type]
    assert math.isfinite(records[0].validation_loss)


@pytest.mark.parametrize("total", [1, 2, 7, 60])
def test_steps_are_those_of_torch(total: int) -> None:
    """Weights, rates and momenta of AdamW and of its one cycle, in double precision."""
    generator = torch.Generator().manual_seed(1)
    model = torch.nn.Linear(3, 2).double()
    peer = torch.nn.Linear(3, 2).double()
    peer.load_state_dict(model.state_dict())
    steps = Steps(model, Schedule(weight_decay=0.1), CPU)  # type: ignore[arg-type]
    optimiser = torch.optim.AdamW(peer.parameters(), weight_decay=0.1, betas=(0.9, 0.99))
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.03, total_steps=total, pct_start=0.2)
    for k in range(total):
        rate, momentum = one_cycle(k, total, 0.03)
        group = optimiser.param_groups[0]
        assert (rate, momentum) == pytest.approx((group["lr"], group["betas"][0]), rel=1e-12)
        for own, other in zip(model.parameters(), peer.parameters(), strict=True):
            assert own.grad is not None
            other.grad = own.grad.copy_(torch.randn(own.shape, generator=generator, dtype=torch.float64))
        steps.move(rate, momentum)
        optimiser.step()
        cycle.step()
    for own, other in zip(model.parameters(), peer.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", sorted(RECALL))
def test_what_has_nothing_to_train_is_ready_at_once(name: str) -> None:
    """One record, no steps; the loss is that of the training rows against the validation rows."""
    toy, model = _Toy(), _model(name)
    (record,) = fit(model, toy, Schedule(epochs=5), seed=1, device=CPU)
    assert toy.asked == [0]
    assert math.isnan(record.train_loss)
    held, (x, _) = toy.validation()[0], toy.epoch(0)
    if name == "mean":
        assert record.validation_loss == pytest.approx(float(((held - x.mean(dim=0)) ** 2).mean()), rel=1e-4)
    if name == "marginal":
        every = ((held[:, None] - x[None]) ** 2).mean()
        assert record.validation_loss == pytest.approx(float(every), rel=1e-4)


def test_a_batch_that_explodes_moves_no_more_than_any_other() -> None:
    """Its gradient of 2e6 is cut to 5: the next steps still count, and x = 1 is reached.

    AdamW divides by the root mean square of the gradients of about the last 100 steps. With 2e6
    among them, steps are a millionth of what they were for the rest of the training.
    """
    model = _Explodes()
    schedule = Schedule(epochs=10, batch=64, learning_rate=0.05, weight_decay=0.0)
    fit(model, _Constant(1.0, 1.0, rows=640), schedule, seed=1, device=CPU)  # type: ignore[arg-type]
    assert model.steps == 100
    assert abs(float(model.place.detach()) - 1.0) < 0.02
