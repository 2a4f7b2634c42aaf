"""Flow matching: its density is that of the differential equation, and of the steps that are taken."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from flowcei.models.flow_matching import FlowMatching
from flowcei.models.registry import build_model


def _model(steps: int, stir: float = 0.1) -> FlowMatching:
    """Return a model of two numbers given one, moved off its start, in double precision."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = (
            build_model("fm", 2, 1, {"steps": steps, "hidden": 8, "depth": 2, "context": 2}).double().eval()
        )
        for p in model.parameters():
            p.data += stir * torch.randn_like(p)
    assert isinstance(model, FlowMatching)
    return model


def _velocity(model: FlowMatching, x: torch.Tensor, t: float, c: torch.Tensor) -> torch.Tensor:
    """Return what the loss compares with the straight path: its definition, written again."""
    h = torch.cat([torch.tensor([t]), c, model.condition_net(c)])
    numbers = model.linear_net(h)
    return model.velocity_net(torch.cat([x, h])) + numbers[:2] + numbers[2:].reshape(2, 2) @ x


def test_many_steps_are_the_differential_equation() -> None:
    """Its density by SciPy's DOP853 and the integral of the trace by autograd; more steps come nearer."""
    c, x = torch.tensor([[0.7]]).double(), torch.tensor([[0.4, -1.1]]).double()
    model = _model(1)

    def rates(t: float, y: np.ndarray) -> np.ndarray:
        place = torch.from_numpy(y[:2])
        slope = torch.autograd.functional.jacobian(lambda v: _velocity(model, v, t, c[0]), place)
        with torch.no_grad():
            return np.append(_velocity(model, place, t, c[0]).numpy(), float(torch.trace(slope)))

    end = solve_ivp(rates, (1.0, 0.0), [*x[0].tolist(), 0.0], method="DOP853", rtol=1e-5, atol=1e-7).y[:, -1]
    expected = end[2] - 0.5 * (end[:2] ** 2).sum() - np.log(2.0 * np.pi)
    with torch.no_grad():
        errors = [abs(float(_model(n).log_prob(x, c)) - expected) for n in (8, 16, 64)]
    assert errors[2] < 1e-3
    assert errors[1] < 0.5 * errors[0]


def test_one_step_has_the_density_of_its_own_samples() -> None:
    """A histogram of samples of a single coarse step against the density that comes with them."""
    model, c = _model(1), torch.tensor([[0.7]]).double()
    with torch.no_grad():
        x, density = model.sample_with_log_prob(c, 60_000, generator=np.random.default_rng(5))
    assert density is not None
    low, high = x[0].quantile(0.2, dim=0), x[0].quantile(0.8, dim=0)
    inside = ((x[0] > low) & (x[0] < high)).all(dim=1)
    # The volume of a box is the mean of 1 / density over the samples in it.
    volume = float(torch.where(inside, torch.exp(-density[0]), 0.0).mean())
    assert volume == pytest.approx(float((high - low).prod()), rel=0.02)


def test_a_step_without_an_end_gives_no_answer() -> None:
    """Slopes beyond what the steps can follow: NaN, not a sample with a wrong density."""
    model, c = _model(2), torch.zeros(1, 1).double()
    with torch.no_grad():
        model.linear_net[-1].bias[2] = -60.0
        x, density = model.sample_with_log_prob(c, 5, generator=np.random.default_rng(0))
        assert x.isnan().any(dim=2).all()
        assert density is not None
        assert density.isnan().all()
        assert model.log_prob(torch.ones(1, 2).double(), c).isnan().all()


def test_validation_sees_the_same_noise_every_time() -> None:
    """So that the best epoch is the best; training draws its own."""
    model, x, c = _model(2), torch.ones(6, 2).double(), torch.ones(6, 1).double()
    assert torch.equal(model.loss(x, c), model.loss(x, c))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model.train()
        assert not torch.equal(model.loss(x, c), model.loss(x, c))
