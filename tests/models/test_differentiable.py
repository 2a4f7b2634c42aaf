"""Training on a CPU goes through compiled kernels: losses and gradients are those of autograd in float64."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import pytest
import torch

from flowcei.models.registry import build_model
from flowcei.training.schedule import Schedule
from flowcei.training.steps import Steps

if TYPE_CHECKING:
    from flowcei.models.interface import InverseModel


def _model(width: int, options: dict) -> InverseModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model("cinn", width, 5, {"hidden": 16, "context": 4, "couplings": 3} | options)
        for p in model.parameters():
            if p.requires_grad:
                p.data += 0.5 * torch.randn_like(p) / model.options.hidden**0.5
    return model.train()


def _batch(rows: int, width: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(rows)
    spread = 2.5  # some are beyond the ends of the splines
    draw = [torch.randn(rows, n, generator=generator) for n in (width, 5, 1)]
    return spread * draw[0], draw[1], draw[2][:, 0]


def _gradients(model: InverseModel) -> dict[str, torch.Tensor]:
    return {name: p.grad.double() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("coupling", ["glow", "spline"])
@pytest.mark.parametrize(
    ("width", "rows", "options"),
    [
        (6, 64, {}),
        (2, 1, {"couplings": 5, "depth": 1, "bins": 2}),
        (3, 77, {"depth": 4, "hidden": 30, "bins": 1}),
        (9, 40, {"hidden": 1, "context": 1}),
        (12, 33, {"couplings": 2, "hidden": 50, "bins": 4}),
    ],
)
def test_losses_and_gradients_are_those_of_autograd(
    coupling: str, width: int, rows: int, options: dict
) -> None:
    """Of every weight and bias, whatever the share of a row in the mean, for batches that fill no block."""
    model = _model(width, {"coupling": coupling} | options)
    reference = deepcopy(model).double().eval()
    x, c, share = _batch(rows, width)
    loss, exact = model.loss(x, c), reference.loss(x.double(), c.double())
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=1e-4)
    (share * loss).sum().backward()
    (share.double() * exact).sum().backward()
    expected = _gradients(reference)
    for name, gradient in _gradients(model).items():
        off = (gradient - expected[name]).norm() / (expected[name].norm() + 1e-3 * share.norm())
        assert off < 1e-5, name
    assert _gradients(model).keys() == expected.keys()


def test_two_losses_can_be_computed_before_their_gradients() -> None:
    """Neither takes what was kept of the other."""
    model, batches = _model(6, {}), [_batch(48, 6), _batch(48, 6)]
    batches[1] = tuple(-t for t in batches[1])
    apart = []
    for x, c, _ in batches:
        model.zero_grad()
        model.loss(x, c).mean().backward()
        apart.append(_gradients(model))
    model.zero_grad()
    losses = [model.loss(x, c).mean() for x, c, _ in batches]
    for loss in losses:
        loss.backward()
    for name, gradient in _gradients(model).items():
        torch.testing.assert_close(gradient, apart[0][name] + apart[1][name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("threads", [1, 2])
def test_steps_of_a_training_have_the_gradient_of_autograd(threads: int) -> None:
    """Of all weights in one vector, in as many parts of a batch as there are, and anew at every step."""
    model, (x, c, _) = _model(6, {"hidden": 32}), _batch(300, 6)
    reference = deepcopy(model).double().eval()
    reference.loss(x.double(), c.double()).mean().backward()
    expected = _gradients(reference)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        steps = Steps(model, Schedule(clip=1e9), torch.device("cpu"))
        for _ in range(2):
            steps.differentiate(x, c, stop=False)
    finally:
        torch.set_num_threads(before)
    for name, gradient in _gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5)


def test_weights_that_do_not_train_keep_the_gradients_of_the_others() -> None:
    """Those of a first block, say: they get none, and all are no longer parts of one vector."""
    model, (x, c, _) = _model(6, {"hidden": 32}), _batch(100, 6)
    reference = deepcopy(model)
    for p in list(model.couplings.parameters())[:5]:  # type: ignore[union-attr]
        p.requires_grad_(requires_grad=False)
    for own in (model, reference):
        Steps(own, Schedule(clip=1e9), torch.device("cpu")).differentiate(x, c, stop=False)
    some, every = _gradients(model), _gradients(reference)
    assert 0 < len(some) < len(every)
    for name, gradient in some.items():
        torch.testing.assert_close(gradient, every[name])


def test_gradients_of_geometries_are_there_too() -> None:
    """Of x, as of a loss that is not trained on: by torch, in training and out of it."""
    model, (x, c, _) = _model(6, {}), _batch(20, 6)
    found = []
    for training in (True, False):
        x = x.detach().requires_grad_()
        model.train(training).loss(x, c).sum().backward()
        found.append(x.grad)
    torch.testing.assert_close(*found)


def test_a_gradient_of_a_gradient_is_refused() -> None:
    """It would be wrong: what the kernel computes has no history."""
    model, (x, c, _) = _model(6, {}), _batch(20, 6)
    weights = [p for p in model.couplings.parameters() if p.requires_grad]  # type: ignore[union-attr]
    gradient = torch.autograd.grad(model.loss(x, c).mean(), weights, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        sum(g.square().sum() for g in gradient).backward()
