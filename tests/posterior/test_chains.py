"""Chains: equally weighted draws of any density, from proposals however poor; against closed forms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy.linalg import eigh
from scipy.stats import multivariate_normal, norm

from flowcei.posterior.adaptation import CHAIN_RULES, ChainRules
from flowcei.posterior.bent import BentMixture
from flowcei.posterior.chains import Proposal, run_chains
from flowcei.posterior.resampling import Draws, repeated

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowcei.posterior.arrays import Floats, Rows

    Target = Callable[[Floats, Rows], Floats]

P, BUDGET = 600, 100_000


def _normal_start(mean: float, deviation: float, d: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points (2, P, D) of a normal proposal, and their log density."""
    rng = np.random.default_rng(seed)
    x = mean + deviation * rng.standard_normal((2, P, d))
    return x, norm(mean, deviation).logpdf(x).sum(axis=2)


def _run(
    target: Target, start: Floats, log_density: Floats, mean: float, deviation: float, **more: Any
) -> Draws:
    def density(x: Floats, _: Rows) -> Floats:
        return np.asarray(norm(mean, deviation).logpdf(x).sum(axis=2))

    more = {"budget": BUDGET} | more
    return run_chains(target, Proposal(start, log_density, density), P, np.random.default_rng(5), **more)


class _Normal:
    """Mean 0, deviations from 0.02 to 0.3, correlated."""

    def __init__(self, d: int) -> None:
        axes = np.linalg.qr(np.random.default_rng(1).standard_normal((d, d)))[0]
        self.cov = (axes * np.geomspace(0.02, 0.3, d) ** 2) @ axes.T
        self._law = multivariate_normal(np.zeros(d), self.cov)

    def logpdf(self, x: Floats) -> Floats:
        return np.asarray(self._law.logpdf(x)).reshape(x.shape[:-1])


@pytest.mark.parametrize(("mean", "deviation"), [(0.1, 0.3), (0.2, 0.4), (0.0, 0.1)])
def test_a_normal_density_of_twelve_dimensions(mean: float, deviation: float) -> None:
    """Too wide, beside it, too narrow: moments and evidence are those of the closed form."""
    d, shift = 12, 1.25
    exact = _Normal(d)
    chains = _run(
        lambda x, _: exact.logpdf(x) + shift, *_normal_start(mean, deviation, d, 2), mean, deviation
    )
    assert chains.mixed.all()
    assert (chains.r_hat <= 1.02).all()
    assert (chains.effective > 300).all()
    z = chains.points.mean(axis=1) / np.sqrt(np.diag(exact.cov) / chains.effective[:, None])
    assert np.abs(z).max() < 5.0  # of 24, by proposals whose efficiency is 1e-5 and less: 0.2 deviations
    ratio = eigh(np.cov(chains.points.reshape(-1, d).T), exact.cov, eigvals_only=True)
    assert 0.7 < ratio.min() < ratio.max() < 1.3
    np.testing.assert_allclose(chains.log_evidence, shift, atol=0.25)
    np.testing.assert_allclose(chains.height, exact.logpdf(chains.points) + shift)


def test_a_bent_density() -> None:
    """A banana (H. Haario et al., Comput. Stat. 14, 375 (1999)): its moments are known."""

    def banana(x: Floats, _: Rows) -> Floats:
        bent = x[..., 1] + 0.7 * (x[..., 0] ** 2 - 1.0)
        return np.asarray(norm.logpdf(x[..., 0]) + norm(0, 0.3).logpdf(bent) + norm.logpdf(x[..., 2]))

    def density(x: Floats, _: Rows) -> Floats:
        return np.asarray(norm(1.0, 2.0).logpdf(x).sum(axis=2))

    rng = np.random.default_rng(3)
    start = 1.0 + 2.0 * rng.standard_normal((8, P, 3))
    begin = Proposal(start, density(start, np.arange(8)), density)
    chains = run_chains(banana, begin, P, rng, budget=BUDGET)
    assert (chains.r_hat <= 1.02).all()
    points = chains.points.reshape(-1, 3)
    np.testing.assert_allclose(points.mean(axis=0), 0.0, atol=0.15)
    # What bends is a square, of which few draws far out make the deviation.
    np.testing.assert_allclose(points.std(axis=0), [1.0, np.sqrt(0.09 + 0.98), 1.0], rtol=0.2)
    np.testing.assert_allclose(chains.log_evidence, 0.0, atol=0.1)


def test_probability_flows_between_modes_that_no_step_joins() -> None:
    """Shares 0.8 and 0.2, 60 deviations apart; the proposal has nine tenths of its points at the smaller."""
    d, places = 6, np.array([-1.5, 1.5])
    rng = np.random.default_rng(4)
    at = (rng.random((2, P)) < 0.1).astype(int)
    start = places[at][..., None] + 0.2 * rng.standard_normal((2, P, d))

    def density(x: Floats, _: Rows) -> Floats:
        low, high = (norm(place, 0.2).logpdf(x).sum(axis=2) for place in places)
        return np.logaddexp(np.log(0.9) + low, np.log(0.1) + high)

    def target(x: Floats, _: Rows) -> Floats:
        low, high = (norm(place, 0.05).logpdf(x).sum(axis=2) for place in places)
        return np.logaddexp(np.log(0.2) + low, np.log(0.8) + high)

    rows = np.arange(2)
    chains = run_chains(target, Proposal(start, density(start, rows), density), P, rng, budget=BUDGET)
    assert chains.mixed.all()
    assert (chains.r_hat <= 1.02).all()
    share = (chains.points[..., 0] > 0.0).mean(axis=1)
    np.testing.assert_allclose(share, 0.8, atol=4.0 * np.sqrt(0.16 / chains.effective.min()))
    np.testing.assert_allclose(chains.log_evidence, 0.0, atol=0.15)


def test_without_the_density_of_the_proposal() -> None:
    """Of a model that can only be sampled the draws are where the search begins, and no more."""
    exact = _Normal(6)
    start, _ = _normal_start(0.3, 0.5, 6, 6)
    chains = run_chains(
        lambda x, _: exact.logpdf(x), Proposal(start), P, np.random.default_rng(7), budget=BUDGET
    )
    assert chains.mixed.all()
    assert (chains.r_hat <= 1.02).all()
    z = chains.points.mean(axis=1) / np.sqrt(np.diag(exact.cov) / chains.effective[:, None])
    assert np.abs(z).max() < 4.0
    np.testing.assert_allclose(chains.log_evidence, 0.0, atol=0.15)


def test_few_draws_of_what_is_bent_do_not_answer() -> None:
    """An arc, of which the proposal has too little at the ends, while no weight is bad.

    However few draws are asked for, thousands of a mixture that is fitted anew decide.
    """
    events = np.arange(20)

    def arc(x: Floats, along: Any, across: float, beside: float) -> Floats:
        r = np.maximum(np.hypot(x[..., 0], x[..., 1]), 1e-9)
        out = along.logpdf(np.arctan2(x[..., 1], x[..., 0])) + norm(1.0, across).logpdf(r) - np.log(r)
        return np.asarray(out + norm(0.0, beside).logpdf(x[..., 2]))

    def density(x: Floats, _: Rows) -> Floats:
        return arc(x, norm(0.1, 0.5), 0.05, 0.6)

    def draw(rows: Rows, m: int) -> tuple[Floats, Floats]:
        z = rng.standard_normal((3, len(rows), m))
        a, r = 0.1 + 0.5 * z[0], 1.0 + 0.05 * z[1]
        x = np.stack([r * np.cos(a), r * np.sin(a), 0.6 * z[2]], axis=-1)
        return x, density(x, rows)

    rng = np.random.default_rng(1)
    start, rules = Proposal(*draw(events, 400), density, draw), ChainRules()
    found = run_chains(
        lambda x, _: arc(x, norm(0.0, 0.8), 0.03, 0.5), start, 200, np.random.default_rng(3), budget=150_000
    )
    assert found.mixed.all()
    assert np.median(found.drawn) > rules.wider * rules.chains
    angle = np.arctan2(found.points[..., 1], found.points[..., 0])
    assert 0.7 < angle.std() < 0.85


def test_efficiency_asked_for_is_that_of_each_dimension() -> None:
    """Of eleven atoms half of the draws counted, and all were drawn anew, for six times as long."""
    assert [CHAIN_RULES.least_efficiency(d) for d in (3, 6)] == [0.6, 0.6]
    assert CHAIN_RULES.least_efficiency(27) == pytest.approx(0.6**4.5)


def test_what_cannot_be_answered_is_said() -> None:
    """No point that the posterior allows; a budget that ends before the chains have forgotten anything."""
    start, log_density = _normal_start(0.5, 0.6, 12, 8)
    nothing = _run(lambda x, _: np.full(x.shape[:2], -np.inf), start, log_density, 0.5, 0.6)
    assert np.isinf(nothing.r_hat).all()
    assert not nothing.mixed.any()
    assert not nothing.effective.any()
    exact = _Normal(12)
    short = _run(lambda x, _: exact.logpdf(x), start, log_density, 0.5, 0.6, budget=4 * P)
    assert (short.r_hat > 1.02).all()
    assert (short.drawn <= 4 * P).all()
    near = _normal_start(0.1, 0.3, 12, 8)
    # Half a density, of a wall: the proposals beyond count for nothing.
    wall = _run(lambda x, _: np.where(x[..., 0] > 0.0, exact.logpdf(x), -np.inf), *near, 0.1, 0.3)
    assert (wall.points[..., 0] > 0.0).all()
    np.testing.assert_allclose(wall.log_evidence, np.log(0.5), atol=0.35)


def test_where_moves_do_not_reach_the_start_is_remembered() -> None:
    """Chains that the moves do not mix have a large R-hat, whatever they look like."""
    start, log_density = _normal_start(0.0, 1.0, 2, 9)

    def islands(x: Floats, _: Rows) -> Floats:
        return np.asarray(-0.5 * (((x - np.round(x)) / 1e-4) ** 2).sum(axis=2))

    chains = _run(islands, start, log_density, 0.0, 1.0, rules=ChainRules(components=(1,)))
    assert not chains.mixed.any()
    assert (chains.r_hat > 1.02).all()


def test_a_mixture_has_the_density_of_what_it_draws() -> None:
    """Its density integrates to 1 against an independent proposal, and each component has its share."""
    rng = np.random.default_rng(10)
    points = np.concatenate([rng.normal(-2.0, 0.3, (1, 300, 2)), rng.normal(2.0, 0.6, (1, 900, 2))], axis=1)
    mixture = BentMixture.fit(points, np.array([1200.0]), rng, 2)
    np.testing.assert_allclose(np.sort(np.exp(mixture.mixture.log_share[0])), [0.1, 0.225, 0.675], atol=0.05)
    wide = norm(0.0, 4.0)
    x = wide.rvs(size=(1, 40_000, 2), random_state=rng)
    weights = np.exp(mixture.log_density(x) - wide.logpdf(x).sum(axis=2))
    np.testing.assert_allclose(weights.mean(), 1.0, atol=4.0 * weights.std() / 200.0)
    drawn = mixture.sample(20_000, rng)
    assert abs((drawn[..., 0] > 0.0).mean() - 0.75) < 0.05
    expected = np.average(x[0], axis=0, weights=weights[0])
    np.testing.assert_allclose(drawn[0].mean(axis=0), expected, atol=0.1)


def test_one_point_is_all_there_is() -> None:
    """Of momenta far outside the prior one geometry can carry all weight: events beside it are not lost."""
    rng = np.random.default_rng(1)
    points = rng.normal(size=(2, 300, 6))
    points[0] = 2.0 ** np.arange(15, 21)  # bohr: the mean of so many is exactly the same
    for count in (1, 3):
        mixture = BentMixture.fit(points, np.array([1.0, 300.0]), np.random.default_rng(2), count)
        drawn = mixture.sample(200, rng)
        assert np.abs(drawn[0] - points[0, 0]).max() < 1e-3
        assert 0.7 < np.quantile(np.abs(drawn[1]), 0.68) < 1.4
        assert np.isfinite(mixture.log_density(drawn)).all()


@pytest.mark.parametrize("rules", [ChainRules(), ChainRules(components=(1,), rounds=1)])
def test_what_a_mixture_leaves_out_of_the_flow_is_noticed(rules: ChainRules) -> None:
    """A twentieth of the posterior is elsewhere: draws of flow and mixture together have it."""
    d, places = 3, np.array([0.0, 2.0])

    def parts(x: Floats, width: float) -> tuple[Floats, Floats]:
        return tuple(norm(place, width).logpdf(x).sum(axis=2) for place in places)

    def target(x: Floats, _: Rows) -> Floats:
        one, other = parts(x, 0.05)
        return np.logaddexp(np.log(0.95) + one, np.log(0.05) + other)

    def density(x: Floats, _: Rows) -> Floats:
        one, other = parts(x, 0.06)
        return np.logaddexp(np.log(0.95) + one, np.log(0.05) + other)

    rng = np.random.default_rng(11)

    def draw(rows: Rows, n: int) -> tuple[Floats, Floats]:
        at = (rng.random((len(rows), n)) < 0.05).astype(int)
        points = places[at][..., None] + 0.06 * rng.standard_normal((len(rows), n, d))
        return points, density(points, rows)

    begin = Proposal(*draw(np.arange(20), P), density, draw)
    draws = run_chains(target, begin, P, rng, budget=BUDGET, rules=rules)
    share = (draws.points[..., 0] > 1.0).mean()
    assert draws.mixed.all()
    assert share == pytest.approx(0.05, abs=4.0 * np.sqrt(0.05 * 0.95 / (20 * P)))
    np.testing.assert_allclose(draws.log_evidence, 0.0, atol=0.2)


def test_draws_by_weight_hardly_repeat() -> None:
    """What is answered by weight is nearly without repeats, whose share is predicted from fewer draws."""
    exact = _Normal(6)
    start, log_density = _normal_start(0.0, 0.1, 6, 12)
    chains = _run(lambda x, _: exact.logpdf(x), start, log_density, 0.0, 0.1)
    for points in chains.points:
        assert len(np.unique(points[:, 0])) >= 0.98 * P
    log_weights = np.log(np.array([[0.5, 0.5, 1.0, 2.0]]))
    at_once = repeated(log_weights, 1.5, np.zeros(1))
    assert at_once[0] == pytest.approx(0.125)  # only the last is chosen 2 / 1.5 times
    by = np.log(np.array([[0.5, 0.5, 1.0, 2.0]]))
    assert repeated(log_weights, 1.5, np.zeros(1), by)[0] == pytest.approx(0.125)  # by the posterior's draws


def test_an_event_that_is_hopeless_gets_no_chains() -> None:
    """Of a rugged density that is low everywhere few points are asked for; a bent one has all its own."""
    asked = np.zeros(2, dtype=int)

    def density(points: np.ndarray, rows: np.ndarray) -> np.ndarray:
        np.add.at(asked, rows, points.shape[1])
        bent = -0.5 * (points[..., 0] ** 2 + ((points[..., 1] - points[..., 0] ** 2) / 0.5) ** 2)
        rugged = -1e3 - 0.5 * (points**2).sum(axis=2) + 60.0 * np.sin(3e4 * points).sum(axis=2)
        return np.where(rows[:, None] == 0, bent, rugged)

    def drawn(worth: np.ndarray | None) -> tuple[Draws, int]:
        rng = np.random.default_rng(1)
        asked[:] = 0
        begin = Proposal(rng.normal(size=(2, 400, 2)))
        return run_chains(density, begin, 1000, rng, budget=100_000, worth=worth), int(asked[1])

    (every, most), (some, few) = drawn(None), drawn(np.array([-500.0, -500.0]))
    assert few < most / 10
    assert some.mixed.tolist() == [True, False]
    for draws in (every, some):
        assert draws.points[0, :, 0].std() == pytest.approx(1.0, abs=0.1)
        assert draws.log_evidence[0] == pytest.approx(np.log(2.0 * np.pi * 0.5), abs=0.05)
