"""The law of many events is that of closed forms, where posteriors are normal; and what is refused."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from linear import OCS, Linear, samples_of, with_origin
from scipy.optimize import minimize
from scipy.stats import multivariate_normal as normal
from scipy.stats import rayleigh, truncnorm

import flowcei
from flowcei import population
from flowcei.ensemble.fitting import Selection, Weighted, maximised, pooled_start, searched
from flowcei.ensemble.laws import Moments, NormalLaw
from flowcei.ensemble.reduction import gathered
from flowcei.errors import DataError, NoDensityError, UsageError

EVENTS, DRAWS = 800, 150
Toy = tuple[Linear, tuple[np.ndarray, np.ndarray], flowcei.PosteriorSamples]


@pytest.fixture(scope="module")
def toy() -> Toy:
    rng, truth = np.random.default_rng(1), Linear()
    measured = truth.measured(EVENTS, rng)
    return truth, measured, truth.samples(measured, DRAWS, rng)


@pytest.fixture(scope="module")
def fit(toy: Toy) -> flowcei.Population:
    return population(toy[2], bootstrap=12, check=False, seed=1)


def test_law_is_the_most_likely(toy: Toy, fit: flowcei.Population) -> None:
    """Samples cost a little: less than half of the error of the events, beside the closed form."""
    truth, measured, _ = toy
    mean, covariance, bend = truth.oracle(measured)
    errors = fit.errors()
    assert np.all(np.abs(fit.law.mean[0, :2] - mean) < 0.5 * errors["mean"][:2])
    sd = np.append(np.sqrt(np.diag(covariance)), bend)
    assert np.all(np.abs(np.log(fit.law.deviation[0] / sd)) < 0.5 * errors["log_sd"])
    correlation = covariance[0, 1] / np.sqrt(np.prod(np.diag(covariance)))
    assert abs(fit.correlation[0, 1] - correlation) < 0.5 * errors["correlation"][0]


def test_errors_are_those_of_closed_forms(toy: Toy, fit: flowcei.Population) -> None:
    """Fisher information and bootstrap agree with the errors of moments of normal data."""
    truth, _, _ = toy
    total = truth.covariance + np.diag(truth.noise**2)
    errors = fit.errors()
    mean = np.sqrt(np.diag(total) / EVENTS)
    width = np.sqrt(2.0 / EVENTS) * np.diag(total) / (2.0 * np.diag(truth.covariance))
    bend = np.sqrt(1.0 / EVENTS) * (truth.bend**2 + truth.bend_noise**2) / (2.0 * truth.bend**2)
    assert errors["mean"][:2] == pytest.approx(mean, rel=0.15)
    assert errors["log_sd"] == pytest.approx([*width, bend], rel=0.2)
    assert errors["bootstrap_mean"][:2] == pytest.approx(mean, rel=0.6)  # of 12: each to 20 %
    assert errors["bootstrap_log_sd"] == pytest.approx([*width, bend], rel=0.6)


def test_pooled_samples_are_the_priors_as_well(toy: Toy, fit: flowcei.Population) -> None:
    """The table holds what pooling gives: neither the mean nor the width of what was there."""
    truth, measured, _ = toy
    table = fit.to_dataframe().set_index("quantity")
    shrunk = 0.18**2 / (0.18**2 + truth.noise[1] ** 2)
    assert table.loc["c-s", "raw_mean"] == pytest.approx(
        2.95 + shrunk * (measured[0][:, 1].mean() - 2.95), abs=0.003
    )
    assert table.loc["c-s", "blur"] == pytest.approx(np.sqrt(shrunk) * truth.noise[1], rel=0.03)
    assert table.loc["c-s", "mean_p05"] < 3.3 < table.loc["c-s", "mean_p95"]
    assert table.loc["o-c-s", "mean"] == pytest.approx(180.0 - 6.0 * np.sqrt(np.pi / 2), abs=0.6)
    assert table.loc["o-c-s", "sd"] == pytest.approx(6.0 * np.sqrt(2 - np.pi / 2), rel=0.1)


def test_some_coordinates_leave_the_others_to_the_prior(toy: Toy) -> None:
    """One coordinate has the law that it has among others, since here nothing ties them together."""
    alone = population(toy[2], ["s-c"], bootstrap=0, check=False)
    lengths, noise = toy[1][0][:, 1], toy[0].noise[1]
    assert [one.name for one in alone.coordinates] == ["c-s"]
    assert alone.mean[0] == pytest.approx(lengths.mean(), abs=0.0025)
    assert alone.deviation[0] == pytest.approx(np.sqrt(lengths.var() - noise**2), rel=0.02)


def test_files_are_streamed(toy: Toy, fit: flowcei.Population, tmp_path: Path) -> None:
    """Of two files, block by block, the same law as of what is in memory; and it can be written."""
    paths = [tmp_path / "a.h5", tmp_path / "b.h5"]
    for path, rows in zip(paths, (slice(0, 700), slice(700, None)), strict=True):
        flowcei.write_samples([toy[2][rows]], path)
    streamed = population(paths, bootstrap=0, check=False)
    assert streamed.mean == pytest.approx(fit.mean, rel=1e-4)
    streamed.write(tmp_path / "law.h5")
    with h5py.File(tmp_path / "law.h5") as file:
        assert file["mean"][:2] == pytest.approx(streamed.mean[:2])
        assert json.loads(file.attrs["summary"])["events"] == EVENTS


def test_little_of_each_sample_is_held(toy: Toy) -> None:
    """Three coordinates, weight and prior density in single precision; joined one array after the other."""
    blocks = [toy[2][first : first + 10] for first in range(0, EVENTS, 10)]
    gathered(blocks[:1])  # imports what it needs
    tracemalloc.start()
    ensemble = gathered(blocks)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    size = EVENTS * DRAWS * (3 + 1 + 1) * 4
    assert ensemble.z.shape == (EVENTS, DRAWS, 3)
    assert held < 1.2 * size
    assert peak < 2.0 * size


def test_accidents_count_by_their_probability() -> None:
    """P(true) under the prior becomes that under the law: the maximum of the exact likelihood."""
    rng, truth = np.random.default_rng(2), Linear()
    lengths, bends = truth.measured(400, rng)
    lengths[:100] = rng.uniform([1.6, 2.0], [2.8, 3.9], (100, 2))
    true = np.where(np.arange(400) < 100, 0.3, 0.9)
    samples = truth.samples((lengths, bends), 300, rng)
    samples = replace(samples, columns=samples.columns | {"p_true": true})
    found = population(samples, ["c-o", "c-s"], bootstrap=0, check=False)
    prior = normal([2.19, 2.95], np.diag(np.array([0.15, 0.18]) ** 2 + truth.noise**2)).pdf(lengths)

    def loss(v: np.ndarray) -> float:
        root = np.array([[np.exp(v[2]), 0.0], [v[3], np.exp(v[4])]])
        law = normal(v[:2], root @ root.T + np.diag(truth.noise**2)).pdf(lengths)
        return -float(np.log(true * law / prior + 1.0 - true).sum())

    best = minimize(loss, [2.25, 3.3, -2.5, 0.0, -2.5], method="Nelder-Mead", options={"maxiter": 2000}).x
    assert found.law.mean[0] == pytest.approx(best[:2], abs=0.003)
    assert found.law.deviation[0, 1] == pytest.approx(np.hypot(best[3], np.exp(best[4])), rel=0.03)


def test_a_search_by_few_samples_ends_where_that_by_all_does() -> None:
    """Also of two laws, of events that may be accidents, and far from the start."""
    rng = np.random.default_rng(5)
    centre = np.where(rng.random(300) < 0.3, 4.0, 3.0) + np.hypot(0.1, 0.1) * rng.standard_normal(300)
    z = centre[:, None, None] + 0.1 * rng.standard_normal((300, 200, 1))
    flat, found, looks = np.full((300, 200), np.log(3.0 / 200)), [], [0]

    class Watched(Weighted):
        def blocks(self, numbers: int = 1) -> Any:
            looks[-1] += self.z.shape[1] == 200
            return super().blocks(numbers)

    data = Watched(z, flat, rng.uniform(0.6, 1.0, 300), np.ones(300))
    start = pooled_start(data, np.ones((300, 200)), np.array([False]), 2)
    for way in (searched, maximised):
        found.append(way(start, data, np.eye(1)[None]))
        looks.append(0)
    assert found[0][1] == pytest.approx(found[1][1], abs=1e-6)
    assert found[0][0].vector == pytest.approx(found[1][0].vector, abs=1e-3)
    assert looks[0] < 0.5 * looks[1]


def test_sums_tell_how_likely_their_points_are() -> None:
    """Of points that are each of a known component, beside SciPy: the same but for a constant."""
    rng, bends = np.random.default_rng(2), np.array([False, False, True])
    z, member = np.abs(rng.normal(2.0, 1.0, (30, 3))), rng.integers(2, size=30)
    sums, heights = Moments.of(z, np.eye(2)[member]), []
    for shift in (0.0, 0.3):
        mean = np.array([[2.0, 2.2, 0.0], [1.5 + shift, 2.0, 0.0]])
        covariance = np.array([np.diag([0.5, 0.4, 0.8 - shift]), np.diag([0.3, 0.9, 1.0])])
        covariance[:, 0, 1] = covariance[:, 1, 0] = 0.1 + shift
        law = NormalLaw(np.array([0.4 + shift, 0.6 - shift]), mean, covariance, bends)
        each = [
            np.log(law.share[c])
            + normal(mean[c, :2], covariance[c, :2, :2]).logpdf(at[:2])
            + rayleigh(scale=np.sqrt(covariance[c, 2, 2])).logpdf(at[2])
            for c, at in zip(member, z, strict=True)
        ]
        heights.append(law.log_complete(sums) - sum(each))
    assert heights[0] == pytest.approx(heights[1], abs=1e-9)


def test_sums_of_no_width_are_refused() -> None:
    """Also such that leave a negative square, as sums that lack others may."""
    for square in (4.0, 3.9):
        sums = Moments(np.array([1.0]), np.array([[2.0]]), np.array([[[square]]]))
        with pytest.raises(DataError, match="shrinks to a point"):
            NormalLaw.of(sums, np.array([False]))


def test_gates_are_undone() -> None:
    """Of events that a gate leaves over, the law of all: the likelihood of a cut normal."""
    rng = np.random.default_rng(3)
    z = rng.normal(0.4, 0.6, 4000)
    z = z[z > 0.3]
    flat = -np.log(8.0)  # a prior that is uniform in -4 to 4
    data = Weighted(z[:, None, None], np.full((len(z), 1), -flat), np.ones(len(z)), np.ones(len(z)))
    draws = rng.uniform(-4.0, 4.0, (40_000, 1))
    cut = Selection(draws, np.full(len(draws), flat), draws[:, 0] > 0.3)
    start = pooled_start(data, np.ones((len(z), 1)), np.array([False]), 1)
    law, _ = maximised(start, data, np.eye(1)[None], cut)
    assert law.mean[0, 0] == pytest.approx(0.4, abs=0.08)
    assert law.deviation[0, 0] == pytest.approx(0.6, abs=0.04)
    assert cut.chance(law) == pytest.approx(0.566, abs=0.05)


def test_a_gate_needs_simulated_events_of_the_law(toy: Toy) -> None:
    """Far from the prior too few of them say what it leaves out: it is refused."""
    gated = with_origin(toy[2], events={"selection": {"ker_ev": [0.0, 1000.0]}})
    with pytest.raises(DataError, match="too far from the prior to say what the gate on the KER"):
        population(gated, bootstrap=0)


def test_scores_are_derivatives() -> None:
    """Of the log density of a mixture of two laws, by finite differences."""
    law = NormalLaw(
        np.array([0.3, 0.7]),
        np.array([[2.0, 3.0, 0.0], [2.1, 3.2, 0.0]]),
        np.stack([np.diag([0.01, 0.02, 9.0]), np.diag([0.02, 0.02, 16.0])]),
        np.array([0, 0, 1], bool),
    )
    law = law.shifted(np.array([0.0] * 13 + [0.4, -0.2]), law.pairs)
    z = law.sample(5, np.random.default_rng(0))
    for k, column in enumerate(law.scores(z, law.pairs).T):
        if k not in (2, 8):  # a bend has no mean
            step = 1e-5 * np.eye(15)[k]
            ends = [law.shifted(sign * step, law.pairs).log_prob(z) for sign in (1, -1)]
            assert column == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-4, abs=1e-6)


def test_too_few_samples_are_refused() -> None:
    """Where each event knows far less than its samples say, more of them are asked for; and it is enough."""
    rng = np.random.default_rng(4)
    truth = Linear(covariance=np.diag([0.0004, 0.0004]), noise=np.array([0.14, 0.16]))
    measured = truth.measured(2000, rng)
    with pytest.raises(
        DataError, match=r"10 samples an event are too few.*-n \d+ or more.*about c-o 2\.\d+ "
    ):
        population(truth.samples(measured, 10, rng), bootstrap=0, check=False)


def test_events_of_one_sample_are_refused() -> None:
    """Chains that found one geometry of the law by chance contradict no one, and pull the law away."""
    truth, rng = Linear(), np.random.default_rng(5)
    lengths, bends = truth.measured(400, rng)
    z = truth.samples((lengths, bends), 100, rng)
    astray = replace(truth, noise=np.array([0.03, 0.03]))
    lost = astray.samples((np.tile([2.25, 2.5], (16, 1)), bends[:16]), 99, rng)
    one = astray.samples((np.tile([2.25, 3.1], (16, 1)), bends[:16]), 1, rng)
    x = np.concatenate([np.concatenate([lost.positions, one.positions], axis=1), z.positions[16:]])
    with pytest.raises(DataError, match="16 of 400 events have fewer than 5 effective samples"):
        flowcei.population(replace(z, positions=x), bootstrap=0, check=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s[:10], "10 events are too few"),
        (
            lambda s: [s, with_origin(s, prior=OCS.prior_table("broad"))],
            r"different priors \(.*normal.* and .*uniform",
        ),
        (lambda s: [s, with_origin(s, experiment={"noise": "2%"})], "different experiments"),
        (lambda s: [s, replace(s, molecule=replace(OCS, charges=OCS.charges - 1.0))], "different molecules"),
        (lambda s: replace(s, columns={}), "no density to weigh"),
        (lambda s: replace(s, flags=np.full(EVENTS, 2, np.uint16)), "nothing to take a law from"),
    ],
)
def test_bad_samples_are_refused(toy: Toy, change: Callable[[Any], Any], message: str) -> None:
    with pytest.raises((DataError, NoDensityError), match=message):
        population(change(toy[2]), bootstrap=0, check=False)


def test_unknown_coordinates_are_refused(toy: Toy) -> None:
    with pytest.raises(UsageError, match="no coordinate 'c-h'; this prior has c-o, c-s, o-c-s"):
        population(toy[2], ["c-h"])


def test_a_law_beyond_the_prior_is_refused() -> None:
    """A truth beyond the end of the prior piles up there: the law reaches over it."""
    rng = np.random.default_rng(5)
    measured = rng.normal(5.0, 0.15, (100, 1))
    cut = truncnorm((2.4 - measured) / 0.08, (5.0 - measured) / 0.08, measured, 0.08)
    z = np.stack([rng.normal(2.2, 0.1, (100, 100)), cut.rvs((100, 100), rng)], axis=2)
    samples = with_origin(samples_of(z, rng.rayleigh(6.0, (100, 100)) + 1e-3), prior=OCS.prior_table("broad"))
    with pytest.raises(DataError, match="the prior does not cover the law"):
        population(samples, bootstrap=0, check=False)
