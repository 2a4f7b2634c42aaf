"""Many samples at a time go through a compiled kernel, few through torch: the answers are the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from flowcei.errors import UsageError
from flowcei.models.freia import MANY
from flowcei.models.fused import CompiledFlow
from flowcei.models.registry import build_model
from flowcei.models.stack import cinn_claims

if TYPE_CHECKING:
    from flowcei.models.interface import InverseModel

FEW = MANY // 2  # rows that torch takes


def _model(width: int = 6, condition: int = 5, **options: object) -> InverseModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model("cinn", width, condition, {"couplings": 3, "hidden": 16, "context": 4} | options)
        for p in model.parameters():
            if p.requires_grad:
                p.data += 0.25 * torch.randn_like(p) / model.options.hidden**0.5
    return model.eval()


def _conditions(events: int, width: int = 5) -> torch.Tensor:
    return torch.randn(events, width, generator=torch.Generator().manual_seed(1))


def _in_pieces(model: InverseModel, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    pieces = zip(x.split(FEW), c.split(FEW), strict=True)
    return torch.cat([model.log_prob(*piece) for piece in pieces])


@pytest.mark.parametrize("coupling", ["glow", "spline"])
@pytest.mark.parametrize(
    ("width", "n", "options"),
    [
        (6, 100, {}),
        (6, 7, {"couplings": 1, "hidden": 1, "context": 1}),
        (2, 1, {"couplings": 5, "depth": 1, "bins": 2}),
        (3, 500, {"depth": 4, "hidden": 30, "bins": 1}),
        (9, 20, {"couplings": 8, "hidden": 32, "context": 16}),
        (12, 50, {"couplings": 2, "hidden": 128, "bins": 4, "context": 16}),
    ],
)
def test_many_samples_are_those_of_few(coupling: str, width: int, n: int, options: dict) -> None:
    """Samples and densities, with every option, whether events share a block of lanes or not."""
    model, c = _model(width, coupling=coupling, **options), _conditions(-(-MANY // n))
    with torch.no_grad():
        x, density = model.sample_with_log_prob(c, n, generator=np.random.default_rng(2))
        rng = np.random.default_rng(2)
        pieces = [model.sample_with_log_prob(few, n, generator=rng) for few in c.split(FEW // n)]
        torch.testing.assert_close(x, torch.cat([p[0] for p in pieces]), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(density, torch.cat([p[1] for p in pieces]), rtol=0, atol=1e-4)
        flat, rows = x.reshape(-1, width), c.repeat_interleave(n, dim=0)
        torch.testing.assert_close(
            model.log_prob(flat, rows), _in_pieces(model, flat, rows), rtol=0, atol=1e-4
        )


@pytest.mark.parametrize("coupling", ["glow", "spline"])
def test_what_splines_and_networks_do_not_hold(coupling: str) -> None:
    """Far outside, where splines are the identity, and beyond numbers: a lost row is lost alone."""
    model, c = _model(coupling=coupling), _conditions(MANY)
    x = 4.0 * torch.randn(MANY, 6, generator=torch.Generator().manual_seed(3))
    x[5, 2], c[40, 1], c[41, 0] = torch.nan, torch.nan, torch.inf
    with torch.no_grad():
        z, log_det = model.encode(x, c)
        few = [model.encode(*both) for both in zip(x.split(FEW), c.split(FEW), strict=True)]
        torch.testing.assert_close(z, torch.cat([f[0] for f in few]), rtol=1e-5, atol=1e-5, equal_nan=True)
        torch.testing.assert_close(log_det, torch.cat([f[1] for f in few]), rtol=0, atol=1e-4, equal_nan=True)
    lost = torch.isnan(z).any(dim=1) | torch.isnan(log_det)
    assert torch.equal(lost.nonzero()[:, 0], torch.tensor([5, 40, 41]))


def test_weights_that_change_between_calls_are_the_new_ones() -> None:
    """Whoever writes them, and however: torch counts neither what NumPy writes nor what `data` does."""
    model, c = _model(), _conditions(MANY)
    x = torch.randn(MANY, 6, generator=torch.Generator().manual_seed(3))
    weight = next(p for p in model.couplings.parameters() if p.ndim == 2)
    with torch.no_grad():
        for write in (weight.data.mul_, weight.numpy().__imul__, weight.mul_):
            before = model.log_prob(x, c)
            write(1.2)
            after = model.log_prob(x, c)
            assert (after - before).abs().max() > 1e-3
            torch.testing.assert_close(after, _in_pieces(model, x, c), rtol=0, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"coupling": "spline", "bins": 3}, {"depth": 1, "context": 1}])
@pytest.mark.parametrize("width", [2, 3, 5, 6, 7])
def test_a_flow_without_torch_is_that_of_its_tensors(width: int, options: dict) -> None:
    """The names, shapes and types that its options ask for are torch's; samples and densities too."""
    model, c = _model(width, **options), _conditions(FEW // 10)
    model.remember(torch.randn(30, width, generator=torch.manual_seed(5)), _conditions(30))
    arrays = model.arrays()
    claims = dict(cinn_claims(width, 5, model.options, 30))
    assert claims == {name: (array.shape, array.dtype.name) for name, array in arrays.items()}
    flow = CompiledFlow(width, 5, model.options, arrays, lambda: model)
    for latent in ("prior", "training"):
        how = [{"latent": latent, "generator": np.random.default_rng(2)} for _ in range(2)]
        with torch.no_grad():
            x, density = model.sample_with_log_prob(c, 10, **how[0])
            flat, rows = x.reshape(-1, width), c.repeat_interleave(10, dim=0)
            again = model.log_prob(flat, rows)
        found, log_prob = flow.draw(c.numpy(), 10, **how[1])
        np.testing.assert_allclose(found, x, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(log_prob, density, rtol=0, atol=1e-4)
        log_prob = flow.density(flat.numpy(), rows.numpy())
        np.testing.assert_allclose(log_prob, again, rtol=0, atol=1e-4)
        np.testing.assert_array_equal(model.density(flat.numpy(), rows.numpy()), log_prob)
    assert flow.device == str(model.device)
    for name in ("architecture", "has_density", "has_latent", "is_point", "cost"):
        assert getattr(flow, name) == getattr(model, name)


def test_latents_that_are_not_there_are_missed() -> None:
    """As by torch."""
    model = _model()
    flow = CompiledFlow(6, 5, model.options, model.arrays(), lambda: model)
    for one in (flow, model):
        with pytest.raises(UsageError, match="no latent samples of training events"):
            one.draw(np.zeros((1, 5), np.float32), 2, latent="training", generator=np.random.default_rng(0))


def test_threads_change_no_bit_and_gradients_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are shared out among threads; with gradients torch does the work."""
    model, c = _model(), _conditions(200)
    answers = []
    for threads in (1, 3):
        monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
        with torch.no_grad():
            answers.append(model.sample_with_log_prob(c, 100, generator=np.random.default_rng(1)))
    assert torch.equal(answers[0][0], answers[1][0])
    assert torch.equal(answers[0][1], answers[1][1])
    assert model.log_prob(answers[0][0].flatten(0, 1), c.repeat_interleave(100, dim=0)).requires_grad
