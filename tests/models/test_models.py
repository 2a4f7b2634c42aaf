"""One contract, every architecture."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from flowcei.errors import NoDensityError, UsageError
from flowcei.models.interface import InverseModel
from flowcei.models.networks import LatentStore
from flowcei.models.registry import ARCHITECTURES, build_model, find_architecture
from flowcei.models.splines import parameter_count, spline
from flowcei.models.variational import CVAE, VariationalModel
from flowcei.training.loop import fit
from flowcei.training.schedule import EpochRecord, Schedule

if TYPE_CHECKING:
    from collections.abc import Callable

SMALL = {
    "cinn": ("cinn", {"couplings": 3, "hidden": 16, "context": 4}),
    "spline-cinn": ("cinn", {"couplings": 3, "hidden": 16, "context": 4, "coupling": "spline"}),
    "fm": ("fm", {"steps": 6, "hidden": 32, "depth": 2, "context": 4}),
    "latent-cinn": ("latent-cinn", {"couplings": 3, "hidden": 32, "context": 8, "latent": 3}),
    "cvae": ("cvae", {"hidden": 16, "depth": 2, "latent": 3}),
    "ae-cvae": ("ae-cvae", {"hidden": 16, "depth": 2, "latent": 3}),
    "fixed-ae-cvae": ("ae-cvae", {"hidden": 16, "depth": 2, "latent": 3, "decoder_noise": "fixed"}),
    "mlp": ("mlp", {"hidden": 16}),
    "solver": ("solver", {"starts": 3, "steps": 10}),
    "nearest": ("nearest", {"neighbours": 2}),
    "mean": ("mean", {}),
    "marginal": ("marginal", {}),
}
"""Every architecture, by a name in this file, with options that make it small."""


def _those(wanted: Callable[[type[InverseModel]], bool]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", [k for k, (a, _) in SMALL.items() if wanted(find_architecture(a))])


every = _those(lambda _: True)
flows = _those(lambda m: m.has_density)
with_latent = _those(lambda m: m.has_latent)
variational = _those(lambda m: issubclass(m, VariationalModel))


def test_every_architecture_is_under_contract() -> None:
    """A new one without an entry here fails."""
    assert {architecture for architecture, _ in SMALL.values()} == set(ARCHITECTURES)


def _model(name: str, width: int = 4, condition: int = 3, *, stirred: bool = True) -> InverseModel:
    """Return a small model; `stirred` moves it off its start, where couplings do nothing."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(SMALL[name][0], width, condition, SMALL[name][1])
        if stirred:
            for p in model.parameters():
                if p.requires_grad:
                    p.data += 0.15 * torch.randn_like(p)
    if not model.has_latent:
        model.remember(*_data(64, width, condition))
    model.attach(_Forward())
    return model.eval()


def name_of(model: InverseModel) -> str:
    """Return how the weight of an auto-encoder is set."""
    return str(model.options.to_dict().get("decoder_noise", ""))


def _data(n: int = 64, width: int = 4, condition: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, width, generator=generator), torch.randn(n, condition, generator=generator)


class _Forward:
    """The simulator of the linear problem: the first two numbers of x decide those of c."""

    BACK = np.linalg.inv([[1.0, 0.5], [-0.7, 0.2]])

    def residual(self, x: np.ndarray, c: np.ndarray) -> np.ndarray:
        return x[:, :2] @ self.BACK.T - c[:, :2]

    def jacobian(self, x: np.ndarray, c: np.ndarray) -> np.ndarray:
        slope = np.zeros((len(c), 2, x.shape[1]))
        slope[:, :, :2] = self.BACK
        return slope


class _Linear:
    """x = A c + noise: a posterior that is known exactly; the last column of c says nothing."""

    A = torch.tensor([[1.0, 0.5], [-0.7, 0.2]])
    SIGMA = 0.3

    def epoch(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(index)
        c = torch.randn(4000, 3, generator=generator)
        return c[:, :2] @ self.A.T + self.SIGMA * torch.randn(4000, 2, generator=generator), c

    def validation(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.epoch(1000)

    def log_prob(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return torch.distributions.Normal(c[:, :2] @ self.A.T, self.SIGMA).log_prob(x).sum(dim=1)


@pytest.fixture(scope="module", params=list(SMALL))
def trained(request: pytest.FixtureRequest) -> tuple[InverseModel, _Linear, list]:
    """Return each architecture, trained on the linear problem."""
    model, toy = _model(request.param, 2, 3, stirred=False), _Linear()
    epochs, rate = (40, 1e-2) if request.param == "fm" else (12 * model.phases, 5e-3)
    long = Schedule(epochs=epochs, batch=200, learning_rate=rate)
    records = fit(model, toy, long, seed=1, device=torch.device("cpu"))
    return model, toy, records


@every
def test_shapes_and_types(name: str) -> None:
    """Loss (B,), samples (B, n, D), densities (B, n) or none."""
    model, (x, c) = _model(name), _data()
    assert model.loss(x, c).shape == (64,)
    samples, density = model.sample_with_log_prob(c, 7, generator=np.random.default_rng(0))
    assert samples.shape == (64, 7, 4)
    assert samples.dtype == torch.float32
    assert (density is not None) == model.has_density
    assert density is None or density.shape == (64, 7)
    assert model.sample(c, 2, generator=np.random.default_rng(0)).shape == (64, 2, 4)


@every
def test_samples_do_not_depend_on_batches(name: str) -> None:
    """The same generator, cut differently: the same samples."""
    model, (_, c) = _model(name), _data(30)
    with torch.no_grad():
        whole = model.sample(c, 5, generator=np.random.default_rng(4))
        generator = np.random.default_rng(4)
        parts = [model.sample(part, 5, generator=generator) for part in c.split(7)]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-4, atol=1e-5)


@with_latent
def test_samples_from_stored_latents_do_not_depend_on_batches(name: str) -> None:
    """Rows of stored latents come from the same stream as all the rest, in the same order."""
    model, (x, c) = _model(name), _data(30)
    with torch.no_grad():
        model.remember(x, c)
        whole = model.sample(c, 5, latent="training", generator=np.random.default_rng(4))
        generator = np.random.default_rng(4)
        parts = [model.sample(part, 5, latent="training", generator=generator) for part in c.split(7)]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-4, atol=1e-5)


@with_latent
def test_stored_latents_are_drawn_evenly(name: str) -> None:
    """Every row of four is drawn a quarter of the time, with its own mean and deviation."""
    latents = _model(name).latents
    assert isinstance(latents, LatentStore)
    width = latents.mean.shape[1]
    place = torch.tensor([0.0, 10.0, 20.0, 30.0])[:, None].expand(4, width)
    latents.store(place, torch.full((4, width), 0.5))
    normals = torch.from_numpy(np.random.default_rng(0).standard_normal((4000, width + 1))).float()
    drawn = latents.draw(normals)
    row = (drawn / 10).round()
    assert torch.equal(row, row[:, :1].expand_as(row))
    share = torch.bincount(row[:, 0].long(), minlength=4) / 4000
    torch.testing.assert_close(share, torch.full((4,), 0.25), atol=0.03, rtol=0)
    torch.testing.assert_close((drawn - 10 * row).std(dim=0), torch.full((width,), 0.5), atol=0.03, rtol=0)


@every
def test_the_callers_random_state_is_left_alone(name: str) -> None:
    """Building and sampling seed nothing: torch's and NumPy's global state stay."""
    legacy, modern = np.random.get_state(), torch.get_rng_state()
    model, (_, c) = _model(name), _data(5)
    a = model.sample(c, 3, generator=np.random.default_rng(1))
    b = model.sample(c, 3, generator=np.random.default_rng(1))
    torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert all(np.array_equal(x, y) for x, y in zip(legacy, np.random.get_state(), strict=True))
    assert torch.equal(modern, torch.get_rng_state())


@every
def test_every_weight_is_trained(name: str) -> None:
    """In one phase or another a gradient reaches every parameter: none is dead, none forgotten."""
    model, (x, c) = _model(name), _data()
    trainable, moved = {label for label, p in model.named_parameters() if p.requires_grad}, set()
    for phase in range(model.phases):
        model.begin_phase(phase)
        model.zero_grad(set_to_none=True)
        if any(p.requires_grad for p in model.parameters()):
            model.loss(x, c).mean().backward()
        for label, p in model.named_parameters():
            if p.requires_grad:
                assert p.grad is not None, label
                assert p.grad.abs().max() > 0, label
                moved.add(label)
            else:
                assert p.grad is None, label
    assert moved == trainable


@_those(lambda m: m.architecture not in {"mean", "marginal"})
def test_the_condition_is_used(name: str) -> None:
    """Another condition, another answer: FrEIA drops one silently if told wrongly."""
    model, (x, c) = _model(name), _data()
    generator = torch.random.get_rng_state()
    one = model.loss(x, c)
    torch.random.set_rng_state(generator)
    assert (one - model.loss(x, c + 1.0)).abs().max() > 1e-3
    a = model.sample(c, 1, generator=np.random.default_rng(0))
    b = model.sample(c + 1.0, 1, generator=np.random.default_rng(0))
    assert (a - b).abs().max() > 1e-3


@every
def test_wrong_widths_are_refused(name: str) -> None:
    """Seven columns where four belong, in x and in c."""
    model, (x, c) = _model(name), _data()
    for bad_x, bad_c in ((torch.randn(64, 7), c), (x, torch.randn(64, 7)), (x[0], c), (x, c[0])):
        with pytest.raises(ValueError, match="expected"):
            model.loss(bad_x, bad_c)
    with pytest.raises(ValueError, match="expected"):
        model.sample(torch.randn(5, 9), 2, generator=np.random.default_rng(0))


@every
def test_options_are_checked(name: str) -> None:
    """Unknown names, zero, negative numbers and booleans."""
    architecture, known = SMALL[name]
    bad: list[dict[str, object]] = [{"wings": 2}]
    for option in known:
        bad += [{option: value} for value in (0, -1, True, "8")]
    for options in bad:
        with pytest.raises(UsageError, match="option"):
            build_model(architecture, 4, 3, options)
    with pytest.raises(UsageError, match="no architecture"):
        build_model("transformer", 4, 3)


@with_latent
def test_latents_of_the_training_set(name: str) -> None:
    """Refused before any are stored, used afterwards, and part of the weights."""
    model, (x, c) = _model(name), _data()
    with pytest.raises(UsageError, match="no latent samples"):
        model.sample(c, 2, latent="training", generator=np.random.default_rng(0))
    with torch.no_grad():
        model.remember(x, c)
        a = model.sample(c, 50, latent="training", generator=np.random.default_rng(0))
    assert torch.isfinite(a).all()
    state = model.state_dict()
    assert len(state["latents.mean"]) == 64
    other = _model(name, stirred=False)
    other.make_room(64)
    other.load_state_dict(state)
    with torch.no_grad():
        b = other.sample(c, 50, latent="training", generator=np.random.default_rng(0))
    torch.testing.assert_close(a, b, rtol=0, atol=0)


@_those(lambda m: not m.has_latent)
def test_latents_of_training_are_refused_where_there_are_none(name: str) -> None:
    """A clear line, not another answer."""
    with pytest.raises(UsageError, match="has no latent"):
        _model(name).sample(_data()[1], 2, latent="training", generator=np.random.default_rng(0))


@_those(lambda m: m.is_point)
def test_a_point_model_has_one_answer(name: str) -> None:
    """However many samples are asked for, and whoever draws."""
    model, (_, c) = _model(name), _data(9)
    drawn = model.sample(c, 4, generator=np.random.default_rng(0))
    again = model.sample(c, 1, generator=np.random.default_rng(1))
    torch.testing.assert_close(drawn, again.expand(9, 4, 4), rtol=0, atol=0)


@_those(lambda m: bool(m.stored))
def test_what_is_remembered_is_saved(name: str) -> None:
    """A model that is given the state of another answers like it."""
    model, other, (x, c) = _model(name), _model(name), _data(40)
    with torch.no_grad():
        model.remember(x, c)
    other.make_room(len(model.state_dict()[model.stored[0]]))
    other.load_state_dict(model.state_dict())
    a, b = (m.sample(c, 3, generator=np.random.default_rng(0)) for m in (model, other))
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_flow_draws_the_stored_latents_themselves() -> None:
    """Sampling the training events with their latents gives training positions back."""
    model, (x, c) = _model("cinn"), _data(1)
    with torch.no_grad():
        model.remember(x, c)
        drawn = model.sample(c, 3, latent="training", generator=np.random.default_rng(0))
    torch.testing.assert_close(drawn, x[:, None].expand(1, 3, 4), rtol=1e-4, atol=1e-4)


@flows
def test_round_trip_and_log_determinant(name: str) -> None:
    """decode(encode(x)) = x, and log|det| is that of autograd, in float64."""
    model, (x, c) = _model(name).double(), _data(5)
    x, c = x.double(), c.double()
    z, log_det = model.encode(x, c)
    torch.testing.assert_close(model.decode(z, c), x, rtol=1e-9, atol=1e-9)
    for k in range(5):
        jacobian = torch.func.jacrev(lambda v, k=k: model.encode(v[None], c[k : k + 1])[0][0])(x[k])
        torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], log_det[k], rtol=1e-8, atol=1e-8)


def _stirred_spline(scale: float) -> InverseModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model("cinn", 4, 3, SMALL["spline-cinn"][1] | {"couplings": 4, "bins": 4})
        for p in model.parameters():
            if p.requires_grad:
                p.data += scale * torch.randn_like(p)
    return model.eval()


def test_a_row_that_a_flow_would_never_draw_does_not_make_it_useless() -> None:
    """Single precision loses such a row on its way back; all that is drawn has the density of float64."""
    model, (x, c) = _stirred_spline(0.1), _data(2000)
    double = deepcopy(model).double()
    x, exact = 10.0 * x[:1], c[:1].double()
    with torch.no_grad():
        assert (model.decode(model.encode(x, c[:1])[0], c[:1]) - x).abs().max() > 0.01
        assert (double.decode(double.encode(x.double(), exact)[0], exact) - x).abs().max() < 1e-8
        drawn, density = model.sample_with_log_prob(c, 1, generator=np.random.default_rng(0))
        apart = density[:, 0] - double.log_prob(drawn[:, 0].double(), c.double())
    assert apart.abs().max() < 1e-3
    assert model.round_trip_error(c) < 1e-4


def test_a_flow_whose_samples_have_other_densities_is_found() -> None:
    """Slopes so steep that densities of samples are wrong, and a decoder that inverts another encoder."""
    model, (_, c) = _stirred_spline(0.25), _data(2000)
    assert not model.round_trip_error(c) <= 0.01
    model = _stirred_spline(0.1)
    own = model.encode
    model.encode = lambda x, c: (torch.roll(own(x, c)[0], 1, dims=1), own(x, c)[1])
    assert model.round_trip_error(c) > 0.1  # and the densities agree


@flows
def test_sampled_densities_are_log_prob(name: str) -> None:
    """What `sample_with_log_prob` says is what `log_prob` says."""
    model, (_, c) = _model(name), _data(20)
    with torch.no_grad():
        x, density = model.sample_with_log_prob(c, 6, generator=np.random.default_rng(0))
        again = model.log_prob(x.flatten(0, 1), c.repeat_interleave(6, dim=0)).reshape(20, 6)
    assert density is not None
    torch.testing.assert_close(density, again, rtol=1e-3, atol=1e-3)


@flows
def test_density_integrates_to_one(name: str) -> None:
    """In two dimensions, on a grid."""
    model = _model(name, 2, 2)
    axis = torch.linspace(-12, 12, 300)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        density = model.log_prob(grid, torch.tensor([[0.3, -0.8]]).expand(len(grid), 2)).exp()
    assert float(density.sum() * (axis[1] - axis[0]) ** 2) == pytest.approx(1.0, abs=2e-3)


def test_training_finds_a_known_posterior(
    trained: tuple[InverseModel, _Linear, list[EpochRecord]],
) -> None:
    """Mean and deviation of the linear problem; a flow's NLL within 0.03 nats of exact."""
    model, toy, records = trained
    x, c = toy.validation()
    with torch.no_grad():
        drawn = model.sample(c[:300], 400, generator=np.random.default_rng(0))
    centre = c[:300, :2] @ toy.A.T
    error = float((drawn.mean(dim=1) - centre).abs().mean())
    width = float(drawn.std(dim=1).mean())
    if model.architecture in {"mean", "marginal"}:  # answer all events alike
        assert float((drawn.mean(dim=1) - x.mean(dim=0)).abs().mean()) < 0.06
        assert width == pytest.approx(
            0.0 if model.is_point else float(x.std(dim=0).mean()), rel=0.05, abs=1e-6
        )
        return
    if model.architecture == "solver":  # x = A c exactly, from every start
        assert error < 1e-4
        assert width < 1e-4
        return
    if model.architecture == "nearest":  # one neighbour's noise, or the mean of two
        assert error < toy.SIGMA
        assert width < 1e-6
        return
    assert records[-1].validation_loss < records[0].validation_loss or records[-1].phase > 1
    assert error < 0.06
    if model.is_point:
        assert width < 1e-6
        return
    if name_of(model) == "fixed":  # samples carry the noise that it was told, sqrt(2 / 2)
        assert width > 0.9
        return
    # The encoder of the study's CVAE does not see the condition, so its latents keep what
    # the momenta already say, and latents of the prior answer too widely: never too narrowly.
    assert width > 0.9 * toy.SIGMA
    if model.has_density:
        assert width == pytest.approx(toy.SIGMA, rel=0.05)
        exact = -float(toy.log_prob(x, c).mean())
        with torch.no_grad():
            assert exact - 0.01 < -float(model.log_prob(x, c).mean()) < exact + 0.03


def test_flow_against_zuko() -> None:
    """An independent flow library on the same data: ours no worse, neither below the exact NLL."""
    zuko = pytest.importorskip("zuko")
    toy = _Linear()
    model = _model("cinn", 2, 3, stirred=False)
    fit(model, toy, Schedule(epochs=10, batch=200, learning_rate=5e-3), seed=2, device=torch.device("cpu"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        other = zuko.flows.MAF(2, 3, transforms=2, hidden_features=(32, 32))
        optimiser = torch.optim.Adam(other.parameters(), 5e-3)
        for epoch in range(10):
            for x, c in zip(*(t.split(200) for t in toy.epoch(epoch)), strict=True):
                optimiser.zero_grad()
                (-other(c).log_prob(x).mean()).backward()
                optimiser.step()
    x, c = toy.validation()
    with torch.no_grad():
        ours, theirs = -model.log_prob(x, c).mean(), -other(c).log_prob(x).mean()
    exact = -float(toy.log_prob(x, c).mean())
    assert exact - 0.02 < float(ours) < float(theirs) + 0.02
    assert exact - 0.02 < float(theirs) < exact + 0.15


@variational
def test_a_bound_is_a_bound(name: str) -> None:
    """Below the exact log density on average, and tighter with more draws."""
    toy, model = _Linear(), _model(name, 2, 3, stirred=False)
    fit(model, toy, Schedule(epochs=6, batch=200, learning_rate=5e-3), seed=1, device=torch.device("cpu"))
    assert isinstance(model, VariationalModel)
    x, c = toy.validation()
    with torch.no_grad():
        bounds = [
            float(model.iwae_bound(x, c, draws=k, generator=np.random.default_rng(0)).mean()) for k in (1, 50)
        ]
    exact = float(toy.log_prob(x, c).mean())
    assert bounds[0] < bounds[1] < exact + 0.02
    with pytest.raises(NoDensityError):
        model.log_prob(x, c)


def test_bound_of_a_linear_cvae_nears_its_exact_density() -> None:
    """With a linear decoder p(x | c) is a known normal: bounds rise towards it, never above."""
    model = _model("cvae", 3, 2)
    assert isinstance(model, CVAE)
    rng = torch.Generator().manual_seed(2)
    decoder = torch.nn.Linear(model.latent_width + 2, 3)
    with torch.no_grad():
        decoder.weight.copy_(0.6 * torch.randn(3, model.latent_width + 2, generator=rng))
        model.decoder = decoder
        model.log_noise.copy_(torch.tensor([-0.5, 0.0, -0.3]))
        c = torch.randn(500, 2, generator=rng)
        w, a = decoder.weight.split([model.latent_width, 2], dim=1)
        covariance = w @ w.T + torch.diag(torch.exp(2.0 * model.log_noise))
        mean = c @ a.T + decoder.bias
        exact = torch.distributions.MultivariateNormal(mean, covariance)
        x = mean + torch.randn(500, 3, generator=rng) @ torch.linalg.cholesky(covariance).T
        bounds = [
            float(model.iwae_bound(x, c, draws=k, generator=np.random.default_rng(0)).mean())
            for k in (1, 4, 32, 1000)
        ]
    log_prob = float(exact.log_prob(x).mean())
    assert bounds[0] < bounds[1] < bounds[2] < bounds[3] < log_prob + 0.01
    assert bounds[3] == pytest.approx(log_prob, abs=0.03)


@with_latent
def test_reconstruction_never_encodes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The safeguard of the study: with every encoder gone, an event is still answered."""
    model, (x, c) = _model(name), _data()
    with torch.no_grad():
        model.remember(x, c)

    def forbidden(*_: object) -> None:
        pytest.fail("an encoder was used to reconstruct an event")

    monkeypatch.setattr(model, "encode", forbidden)
    for label, module in model.named_children():
        if "encoder" in label or label == "position_decoder":
            monkeypatch.setattr(module, "forward", forbidden)
    for latent in ("prior", "training"):
        model.sample(c, 3, latent=latent, generator=np.random.default_rng(0))


def test_phases_follow_one_another() -> None:
    """The auto-encoder of positions learns first and is then held; epochs are counted through."""
    toy, model = _Linear(), _model("ae-cvae", 2, 3, stirred=False)
    before = {k: p.detach().clone() for k, p in model.named_parameters()}
    held: dict[str, torch.Tensor] = {}

    def note(record: EpochRecord) -> None:
        if record.phase == 1:
            held.update({k: p.detach().clone() for k, p in model.named_parameters()})

    records = fit(
        model, toy, Schedule(epochs=5, batch=400), seed=1, device=torch.device("cpu"), on_epoch=note
    )
    assert [(r.epoch, r.phase) for r in records] == [(1, 1), (2, 1), (3, 2), (4, 2), (5, 2)]
    for label, p in model.named_parameters():
        first = label.startswith("position_")
        assert torch.equal(held[label], before[label]) != first, label
        if not first:
            assert not torch.equal(p, before[label]), label


@pytest.mark.parametrize("bins", [2, 8])
def test_spline_against_zuko(bins: int) -> None:
    """zuko's monotone rational-quadratic transform, given the same knots."""
    zuko = pytest.importorskip("zuko")
    generator = torch.Generator().manual_seed(3)
    raw = torch.randn(50, 4, parameter_count(bins), generator=generator, dtype=torch.float64)
    x = 4.0 * torch.randn(50, 4, generator=generator, dtype=torch.float64)
    y, log_slope = spline(x, raw, bound=5.0)
    width, height, slope = raw.split([bins, bins, bins - 1], dim=-1)
    other = zuko.transforms.MonotonicRQSTransform(width, height, slope, bound=5.0)
    least = 1e-3  # of ours, for a bin and for a slope
    for name, v in (("horizontal", width), ("vertical", height)):
        share = least + (1.0 - least * bins) * v.softmax(dim=-1)
        edges = torch.nn.functional.pad(share.cumsum(dim=-1), (1, 0))
        setattr(other, name, 10.0 * edges - 5.0)
    inner = least + torch.nn.functional.softplus(slope + np.log(np.expm1(1.0 - least)))
    other.derivatives = torch.nn.functional.pad(inner, (1, 1), value=1.0)
    torch.testing.assert_close(y, other(x), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(log_slope, other.log_abs_det_jacobian(x, y), rtol=1e-5, atol=1e-5)


def test_spline_inverts_itself_and_is_the_identity_outside() -> None:
    """In single precision too, also where parameters are far from zero."""
    generator = torch.Generator().manual_seed(5)
    raw = torch.randn(2000, 3, parameter_count(8), generator=generator)
    x = 4.0 * torch.randn(2000, 3, generator=generator)
    y, forward = spline(x, raw, bound=5.0)
    back, backward = spline(y, raw, bound=5.0, inverse=True)
    assert ((back - x).abs() < 2e-5 * forward.abs().exp()).all()
    torch.testing.assert_close(backward, -forward, rtol=0, atol=1e-2)
    outside = x.abs() >= 5.0
    assert torch.equal(y[outside], x[outside])
    assert (forward[outside] == 0).all()
    ones = torch.linspace(-4.999, 4.999, 500)[:, None]
    flat, log_slope = spline(ones, torch.zeros(500, 1, parameter_count(8)), bound=5.0)
    torch.testing.assert_close(flat, ones, rtol=0, atol=2e-6)
    assert log_slope.abs().max() < 1e-5


def test_the_fixed_weight_is_mean_squared_error_plus_divergence() -> None:
    """Up to a constant: what the first study minimised."""
    model = build_model("cvae", 6, 3, {"decoder_noise": "fixed", "hidden": 8})
    assert isinstance(model, VariationalModel)
    x, mean = torch.randn(5, 6), torch.randn(5, 6)
    with torch.no_grad():
        gap = model.log_likelihood(x, x) - model.log_likelihood(x, mean)
    torch.testing.assert_close(gap, ((x - mean) ** 2).mean(dim=1), rtol=1e-5, atol=1e-5)
