"""Importance weights: closed forms, the flow of OCS, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import genpareto, norm

import flowcei
from flowcei.errors import DataError, FlaggedWarning, NoDensityError, UsageError
from flowcei.physics.explosion import centre_of_mass
from flowcei.posterior.resampling import systematic
from flowcei.posterior.weights import WeightRules, Weights, generalised_pareto_shape, thinned

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from flowcei.posterior.samples import PosteriorSamples
    from flowcei.reconstruction.model import Reconstructor


def _normal(width: float, *, events: int = 200, n: int = 2000, evidence: float = 3.0) -> tuple:
    """Weights of draws from a normal of another width, for a target of mass exp(evidence)."""
    x = width * np.random.default_rng(4).standard_normal((events, n))
    return x, Weights.of(evidence + norm.logpdf(x) - norm.logpdf(x, scale=width))


def test_evidence_and_effective_number_are_those_of_scipy() -> None:
    """Of weights of any size, some of which are 0."""
    log_weights = np.random.default_rng(3).normal(0.0, 3.0, (50, 80)) + np.linspace(-2000, 2000, 50)[:, None]
    log_weights[::3, 5:30] = -np.inf
    found, total = Weights.of(log_weights), logsumexp(log_weights, axis=1)
    np.testing.assert_allclose(found.log_evidence, total - np.log(80), rtol=1e-12)
    ess = np.exp(2.0 * total - logsumexp(2.0 * log_weights, axis=1))
    np.testing.assert_allclose(found.ess, ess, rtol=1e-9)


@pytest.mark.parametrize("width", [1.0, 1.3, 2.0])
def test_efficiency_and_evidence_of_a_normal(width: float) -> None:
    """ESS / n = sqrt(2 w^2 - 1) / w^2; the evidence within its error; weighted moments are right."""
    x, found = _normal(width)
    np.testing.assert_allclose(found.efficiency.mean(), np.sqrt(2 * width**2 - 1) / width**2, rtol=0.01)
    pulls = (found.log_evidence - 3.0) / np.maximum(found.log_evidence_error, 1e-12)
    if width > 1.0:
        assert 0.85 < pulls.std() < 1.15
        assert abs(pulls.mean()) < 0.25
    assert (found.normalised * x**2).sum(axis=1).mean() == pytest.approx(1.0, abs=0.01)


def test_a_heavy_tail_is_found_out() -> None:
    """A proposal too narrow has k-hat above the bound, one too wide far below."""
    assert np.median(_normal(0.35)[1].k_hat) > WeightRules().k_hat
    assert np.median(_normal(1.5)[1].k_hat) < 0.3
    assert np.isnan(Weights.of(np.zeros((2, 10))).k_hat).all()


def _narrow(ratio: float, n: int, events: int = 300) -> Weights:
    """Weights of a normal target in twelve dimensions, of draws from a normal of `ratio` times its width."""
    squares = np.random.default_rng(7).chisquare(12, (events, n))
    return Weights.of(0.5 * (1.0 - ratio**2) * squares)


@pytest.mark.parametrize(("ratio", "most"), [(0.75, 0.4), (0.65, 0.15), (0.6, 0.1)])
def test_the_effective_number_of_a_pilot_lies_and_the_rule_does_not(ratio: float, most: float) -> None:
    """The exact efficiency is ((1 - 2a)^-12 (1 - 4a)^6), a = (1 - ratio^2) / 2, and 0 below ratio^2 = 1/2.

    A thousand draws seem to have tens of times as many that count and more, ten of them in most
    events; the largest weights tell.
    """
    a = 0.5 * (1.0 - ratio**2)
    exact = max(1.0 - 4.0 * a, 0.0) ** 6 / (1.0 - 2.0 * a) ** 12
    pilot = _narrow(ratio, 1000)
    assert np.median(pilot.efficiency) > 20.0 * exact
    assert (pilot.ess >= 10.0).mean() > 0.65
    assert pilot.settled(10.0).mean() < most


@pytest.mark.parametrize("ratio", [1.0, 1.15, 1.4])
def test_bounded_weights_are_settled_when_enough_count(ratio: float) -> None:
    """A proposal as wide as the target or wider: nothing but the effective number decides."""
    pilot = _narrow(ratio, 1000)
    for least in (10.0, 100.0, 400.0):
        assert not (pilot.settled(least) & (pilot.ess < least)).any()
        assert (pilot.settled(least) == (pilot.ess >= least)).mean() > 0.99
    assert not Weights.of(np.full((2, 50), -np.inf)).settled(1.0).any()


@pytest.mark.parametrize("shape", [-0.2, 0.2, 0.5, 0.9])
def test_pareto_shape_is_recovered(shape: float) -> None:
    """Of SciPy's draws, up to the weak prior (ten of 1000 observations of 0.5)."""
    x = np.sort(genpareto.rvs(shape, size=(100, 1000), random_state=2), axis=1)
    expected = (1000 * shape + 5) / 1010
    assert generalised_pareto_shape(x).mean() == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("spread", [0.3, 2.0])
def test_thinning_is_unbiased_and_repeats_nothing(spread: float) -> None:
    """Every sample keeps its weight on average; the total is kept each time."""
    rng = np.random.default_rng(5)
    log_weights = spread * rng.standard_normal(40)
    log_weights[:3] = -np.inf
    total, square, repeats = np.zeros(40), np.zeros(40), 4000
    for _ in range(repeats):
        kept, left = thinned(log_weights, 12, rng)
        assert len(set(kept.tolist())) == 12
        assert np.exp(left).sum() == pytest.approx(np.exp(log_weights).sum())
        total[kept] += np.exp(left)
        square[kept] += np.exp(left) ** 2
    mean = total / repeats
    error = np.sqrt(np.maximum(square / repeats - mean**2, 0) / repeats) + 1e-12
    assert (np.abs(mean - np.exp(log_weights)) < 4.5 * error).all()


def test_thinning_of_few_that_count() -> None:
    """Samples without weight only fill up."""
    kept, left = thinned(np.array([-np.inf, 0.0, -np.inf, 1.0, -np.inf]), 3, np.random.default_rng(1))
    assert {1, 3} < set(kept.tolist())
    assert sorted(left.tolist())[1:] == [0.0, 1.0]
    none, _ = thinned(np.full(5, -np.inf), 3, np.random.default_rng(1))
    assert none.tolist() == [0, 1, 2]


def test_an_event_without_any_weight_is_no_nan() -> None:
    """ESS 0, evidence 0, equal weights, and the other event untouched."""
    found = Weights.of(np.array([[-np.inf] * 30, [0.0] * 30]))
    np.testing.assert_allclose(found.normalised, 1 / 30)
    assert found.ess.tolist() == pytest.approx([0.0, 30.0])
    assert found.log_evidence[0] == -np.inf
    assert found.log_evidence_error[0] == np.inf


def test_weights_of_an_event_do_not_depend_on_its_neighbours() -> None:
    """The softmax where weights can be relied on, else the same for each sample that the prior allows."""
    log_weights = np.random.default_rng(5).normal(size=(4, 60)) * np.array([0.3, 40.0, 0.5, 40.0])[:, None]
    log_weights[3, 7] = -np.inf
    before, found = log_weights.copy(), Weights.of(log_weights)
    assert found.reliable.tolist() == [True, False, True, False]
    expected = np.exp(before) / np.exp(before).sum(axis=1, keepdims=True)
    expected[[1, 3]] = 1 / 60
    expected[3] = np.where(np.arange(60) == 7, 0.0, 1 / 59)
    np.testing.assert_allclose(found.normalised, expected, rtol=1e-12)
    np.testing.assert_array_equal(found.log_weights, before)


@pytest.fixture(scope="module")
def weighed() -> PosteriorSamples:
    events = flowcei.simulate("ocs", 200, noise="1%", seed=6)
    return flowcei.load().sample(events, 300, seed=1, weigh=True)


def test_the_bundled_flow_is_nearly_the_exact_posterior(weighed: PosteriorSamples) -> None:
    """Median efficiency above 95 %, a tenth of the events below 80 % at the most, no heavy tails."""
    assert weighed.weights is not None
    assert np.median(weighed.weights.efficiency) > 0.95
    assert np.quantile(weighed.weights.efficiency, 0.1) > 0.80
    assert (weighed.weights.k_hat < WeightRules().k_hat).mean() > 0.98


def test_weights_turn_one_noise_into_another() -> None:
    """Samples for 1.5 % noise, weighed for 1 %, have the means and deviations of samples for 1 %."""
    events = flowcei.simulate("ocs", 20, noise="1%", seed=8)
    model = flowcei.load()
    wide = model.sample(events, 4000, noise="1.5%", seed=1)
    narrow = model.sample(events, 4000, noise="1%", seed=2).weigh()
    moved = replace(wide, sigma=narrow.sigma).weigh()
    assert moved.weights is not None
    assert moved.weights.efficiency.mean() < 0.6
    a, b = (np.einsum("en,enix->eix", s.weights.normalised, s.positions**2.0) for s in (moved, narrow))
    deviation = [np.sqrt(np.maximum(q - s.mean() ** 2, 0)) for q, s in ((a, moved), (b, narrow))]
    error = deviation[1] * np.sqrt(1 / moved.weights.ess + 1 / 4000)[:, None, None]
    assert (np.abs(moved.mean() - narrow.mean()) / error).max() < 5.0
    assert np.median(deviation[0] / deviation[1]) == pytest.approx(1.0, abs=0.02)


def test_samples_are_chosen_where_their_share_begins() -> None:
    """As `numpy.searchsorted` has it, weights of nothing and of everything too."""
    rng = np.random.default_rng(3)
    weights = rng.exponential(size=(50, 30)) ** 4
    weights[0, :29], weights[1, 1:], weights[2, ::2], weights[3] = 0.0, 0.0, 0.0, 0.0
    edges = weights.cumsum(axis=1)
    marks = (np.arange(20) + np.random.default_rng(4).random((50, 1))) / 20 * edges[:, -1:]
    expected = [np.searchsorted(*row).clip(0, 29) for row in zip(edges, marks, strict=True)]
    np.testing.assert_array_equal(systematic(weights, 20, np.random.default_rng(4)), expected)


def test_equally_weighted_samples_have_the_weighted_mean(weighed: PosteriorSamples) -> None:
    """Within what resampling n of them adds; and no weights are left."""
    even = weighed.equally_weighted(seed=3)
    assert even.weights is None
    error = weighed.positions.std(axis=1) / np.sqrt(300)
    assert (np.abs(even.mean() - weighed.mean()) < 2.0 * error).mean() > 0.99
    assert weighed.spread().values.shape == even.spread().values.shape


def _cloud(proposal: np.ndarray, log_weights: np.ndarray) -> PosteriorSamples:
    """Samples (E, n, 9) as positions of OCS in bohr, with weights."""
    e, n = log_weights.shape
    ocs = flowcei.Molecule.load("ocs")
    momenta = np.repeat(flowcei.simulate(ocs, 1, seed=1).momenta, e, axis=0)
    x = proposal.reshape(e, n, 3, 3).astype(np.float32)
    weights = Weights.of(log_weights)
    return flowcei.PosteriorSamples(ocs, momenta, x, None, np.arange(e), np.ones(e), weights=weights)


def test_equally_weighted_samples_of_a_wrong_proposal_are_those_of_the_target() -> None:
    """Draws from N(0, 1), weights of N(0.5, 0.6): mean and deviation become those of the target."""
    x = np.random.default_rng(3).standard_normal((40, 4000, 9))
    log_weights = norm.logpdf(x[..., 0], 0.5, 0.6) - norm.logpdf(x[..., 0])
    even = _cloud(x, log_weights).equally_weighted().positions.reshape(40, 4000, 9)
    # Within 5 standard errors of 40 x 4000 draws, of which about half count.
    np.testing.assert_allclose(even[..., 0].mean(), 0.5, atol=5 * 0.6 / np.sqrt(80_000))
    np.testing.assert_allclose(even[..., 0].std(), 0.6, atol=5 * 0.6 / np.sqrt(160_000))
    np.testing.assert_allclose(even[..., 1].mean(), 0.0, atol=5 / np.sqrt(80_000))


def _covered(samples: PosteriorSamples, truth: np.ndarray) -> list[float]:
    """How many of the coordinates of the truth lie in the central 50 and 90 % of equal samples."""
    flat = samples.equally_weighted().positions.reshape(*samples.positions.shape[:2], 9)
    ends = np.quantile(flat, (0.25, 0.75, 0.05, 0.95), axis=1)
    return [float(((truth > ends[k]) & (truth < ends[k + 1])).mean()) for k in (0, 2)]


def test_collapsed_weights_are_not_used() -> None:
    """A proposal that is right on average but has no more than a few effective samples of 400.

    In nine dimensions the posterior is N(m, 1) and the proposal N(m + 1.5 d, 1.8) with d normal:
    calibrated over events. Weighted by the few samples that count, the central 90 % would hold
    the truth half as often; as it is, the proposal holds it in 50 and 90 %.
    """
    rng = np.random.default_rng(5)
    truth, offset = rng.standard_normal((2, 300, 9))
    scale = np.sqrt(1 + 1.5**2)
    x = 1.5 * offset[:, None] + scale * rng.standard_normal((300, 400, 9))
    log_weights = (norm.logpdf(x) - norm.logpdf(x, 1.5 * offset[:, None], scale)).sum(axis=2)
    drawn = _cloud(x, log_weights)
    assert drawn.weights is not None
    assert np.median(drawn.weights.efficiency) < 0.01
    assert drawn.weights.reliable.mean() < 0.1
    np.testing.assert_allclose(_covered(drawn, truth), [0.5, 0.9], atol=0.05)
    raw = np.exp(log_weights - log_weights.max(axis=1, keepdims=True))
    rows = np.stack([rng.choice(400, 400, p=w / w.sum()) for w in raw])
    believed = replace(drawn, positions=drawn.positions[np.arange(300)[:, None], rows], weights=None)
    assert _covered(believed, truth)[1] < 0.7


def test_reliable_weights_stay_in_use_beside_those_that_are_not() -> None:
    """Event by event; log weights stay as they are; even weights are believed whatever their k-hat."""
    rng = np.random.default_rng(6)
    log_weights = rng.standard_normal((3, 400)) * np.array([0.5, 8.0, 1e-3])[:, None]
    log_weights[2] += 1e-4 * rng.pareto(1.0, 400)
    drawn = _cloud(rng.standard_normal((3, 400, 9)), log_weights)
    found = drawn.weights
    assert found is not None
    assert found.k_hat[2] > WeightRules().k_hat
    assert found.reliable.tolist() == [True, False, True]
    np.testing.assert_allclose(found.normalised[0], np.exp(log_weights[0]) / np.exp(log_weights[0]).sum())
    np.testing.assert_allclose(found.normalised[1], 1 / 400)
    np.testing.assert_array_equal(found.log_weights, log_weights)
    np.testing.assert_allclose(drawn.mean()[1], drawn.positions[1].mean(axis=0), atol=1e-5)


def test_a_poor_flow_says_so(off_flow: Callable[[float], Reconstructor]) -> None:
    """Flags and one warning where weights are not used; spread and modes are then those of the flow."""
    events = flowcei.simulate("ocs", 30, noise="1%", seed=9)
    model = off_flow(2.0)
    plain = model.sample(events, 400, seed=1)
    poor = plain.weigh()
    assert poor.weights is not None
    lost = ~poor.weights.reliable
    assert 0 < lost.sum() < 30
    drawn = model.sample(events, 400, seed=1, weigh=True)
    text = f"weights {lost.sum()}.: samples of the flow count alike"
    for some in (poor, drawn):
        assert [("weights" in names) for names in some.flag_names] == lost.tolist()
        assert not some[lost].flagged.any()
        with pytest.warns(FlaggedWarning, match=text) as said:
            spread = some.spread()
        assert len(said) == 1
        np.testing.assert_allclose(spread.values[lost], plain.spread().values[lost])
        assert not np.allclose(spread.values[~lost], plain.spread().values[~lost])
    assert set(drawn[lost].modes(keep_flagged=True).source) <= {"laplace", "samples"}


@pytest.mark.parametrize("budget", [130, 50, 30])
def test_the_budget_is_kept(budget: int, tiny_cinn: Reconstructor) -> None:
    """No power of two times n; and where the weights are poor the first draws of the flow stay."""
    events = flowcei.simulate("ocs", 8, noise="1%", seed=9)
    found = tiny_cinn.sample(events, 50, seed=1, min_ess=1e9, budget=budget)
    assert found.weights is not None
    assert found.weights.drawn.tolist() == [max(budget, 50)] * 8
    lost = ~found.weights.reliable
    first = tiny_cinn.sample(events, 50, seed=1)
    np.testing.assert_array_equal(found.positions[lost], first.positions[lost])


def test_more_samples_are_drawn_where_few_count() -> None:
    """Until 95 count or 400 are drawn; the mean and evidence stay, the number of samples too."""
    events = flowcei.simulate("ocs", 60, noise="1%", seed=5)
    model = flowcei.load()
    plain = model.sample(events, 50, seed=1, weigh=True)
    more = model.sample(events, 50, seed=1, min_ess=95.0, budget=400)
    assert plain.weights is not None
    assert more.weights is not None
    assert (plain.weights.drawn == 50).all()
    assert set(more.weights.drawn.tolist()) <= {100, 200, 400}
    assert (more.weights.ess >= 95.0).mean() > 0.95
    assert more.positions.shape == plain.positions.shape
    away = (more.weights.log_evidence - plain.weights.log_evidence) / plain.weights.log_evidence_error
    assert np.abs(away).max() < 5.0
    x = events.positions - centre_of_mass(events.positions, events.molecule.masses)
    errors = [np.linalg.norm(s.mean() - x, axis=2).mean() for s in (plain, more)]
    assert errors[1] < 1.02 * errors[0]
    with pytest.raises(UsageError, match="latent samples of the training events"):
        model.sample(events, 5, latent="training", weigh=True)


def test_more_is_drawn_until_no_draw_carries_the_rest(off_flow: Callable[[float], Reconstructor]) -> None:
    """Of a flow off in a chart, with heavy weights: events with ten effective samples go on."""
    events = flowcei.simulate("ocs", 30, noise="1%", seed=9)
    model = off_flow(1.3)
    plain = model.sample(events, 100, seed=1, weigh=True).weights
    found = model.sample(events, 100, seed=1, min_ess=10.0, budget=1600).weights
    assert plain is not None
    assert found is not None
    enough, few = plain.settled(10.0), (plain.ess >= 10.0) & ~plain.settled(10.0)
    assert (found.drawn[enough] == 100).all()
    assert few.sum() > 3
    assert (found.drawn[few] > 100).all()
    done = found.settled(10.0)
    assert (found.drawn[~done] == 1600).all()
    assert done.mean() > 0.5


@pytest.mark.parametrize("ending", [".h5", ".csv"])
def test_weights_and_flags_are_kept(weighed: PosteriorSamples, tmp_path: Path, ending: str) -> None:
    """In HDF5 as they are, in CSV as the share of each sample."""
    path = tmp_path / f"s{ending}"
    flowcei.write_samples([weighed[:80], weighed[80:]], path)
    assert weighed.weights is not None
    if ending == ".h5":
        found = flowcei.read_samples(path)
        for name in ("log_weights", "drawn", "ess", "log_evidence", "k_hat"):
            np.testing.assert_array_equal(getattr(found.weights, name), getattr(weighed.weights, name))
        np.testing.assert_array_equal(found.flags, weighed.flags)
    else:
        import pandas as pd

        table = pd.read_csv(path)
        np.testing.assert_allclose(table.groupby("event")["weight"].sum(), 1.0)
        assert table["flags"].isna().all()


def test_what_has_no_density_has_no_weights(
    tiny: Callable[[str, str], Reconstructor], weighed: PosteriorSamples
) -> None:
    """A CVAE; a model whose file stated no prior; a prior that can only be sampled."""
    events = flowcei.simulate("ocs", 2, noise="1%", seed=1)
    with pytest.raises(NoDensityError, match="density of the samples"):
        tiny("cvae", "ocs").sample(events, 3, weigh=True)
    unstated = replace(weighed, origin={})
    with pytest.raises(NoDensityError, match="nobody stated"):
        unstated.weigh()
    ensemble = flowcei.physics.priors.EnsemblePrior(events.positions)
    with pytest.raises(NoDensityError, match="only be sampled"):
        weighed.weigh(ensemble)
    with pytest.raises(DataError, match="weights of samples have shape"):
        replace(weighed[:2], weights=weighed.weights)


def test_few_samples_are_not_called_inefficient_for_one_large_weight() -> None:
    """Of 20 samples one that weighs 6 times the others leaves 11 effective; one of 40 times, 2."""
    for largest, flagged in ((6.0, False), (12.0, False), (40.0, True)):
        weights = Weights.of(np.log(np.array([[largest, *np.ones(19)]])))
        expected = (largest + 19.0) ** 2 / (largest**2 + 19.0)
        assert weights.ess[0] == pytest.approx(expected)
        assert weights.few_count.tolist() == [flagged]
