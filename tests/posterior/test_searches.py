"""Searches for modes: distinct starts, until nothing new comes, and what that may miss."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import least_squares
from scipy.stats import binom
from test_modes import ISOTOPES, _mixture, triple

import flowcei
from flowcei.experiment.likelihood import Likelihood
from flowcei.physics._searches import choose
from flowcei.posterior.gathering import find_modes
from flowcei.posterior.laplace import leaders
from flowcei.posterior.samples import PosteriorSamples
from flowcei.posterior.searches import SearchRules, descended, missed_share


def test_few_searches_find_what_all_find_with_the_same_probabilities() -> None:
    """The triple of OCS: 900 searches and a few, geometries to 1e-8 bohr and shares of basins to 0.02."""
    drawn, places = _mixture(3e-3, 300)
    for samples in (drawn, drawn.weigh()):
        few, every = (
            samples.modes(),
            find_modes(samples.refine(), samples.likelihood, weights=samples.weights),
        )
        assert every.searches.made.tolist() == [900]
        assert few.searches.made[0] < 60
        assert few.count().tolist() == every.count().tolist() == [3]
        mine, theirs = (
            modes.probability[np.abs(modes.positions[:, None] - places).max(axis=(2, 3)).argmin(axis=0)]
            for modes in (few, every)
        )
        assert 0.5 * np.abs(mine - theirs).sum() < 0.02


def test_one_sample_in_a_thousand_that_lies_apart_is_found() -> None:
    """A random search of 16 would miss it with 98 %."""
    places, momenta = triple()
    rng = np.random.default_rng(1)
    x = places[0] + 0.01 * rng.standard_normal((1000, 3, 3))
    x[567] = places[2] + 0.01 * rng.standard_normal((3, 3))
    sigma = np.array([1e-3 * np.sqrt((momenta**2).mean())])
    drawn = PosteriorSamples(
        ISOTOPES, momenta[None], x[None].astype(np.float32), None, np.zeros(1, np.int64), sigma
    )
    found = drawn.modes()
    assert found.count().tolist() == [2]
    assert found.probability[1] == pytest.approx(1e-3)
    assert np.abs(found.positions[1] - places[2]).max() < 1e-6


@pytest.mark.parametrize(("random", "surprises"), [(8, 0), (300, 0), (40, 3), (4000, 1)])
def test_the_bound_is_what_the_binomial_law_says(random: int, surprises: int) -> None:
    """Were the bound the truth, so few surprises would come in one case of twenty."""
    bound = float(missed_share(np.array(random), np.array(surprises)))
    assert binom.cdf(surprises, random, bound) == pytest.approx(0.05, rel=1e-6)
    if not surprises:
        assert bound == pytest.approx(1.0 - 0.05 ** (1.0 / random))


def test_searches_go_on_until_the_bound_is_met() -> None:
    """299 random starts without anything new bound what is missed to 1 %; without any nothing is known."""
    drawn, _ = _mixture(1e-3, 300)
    few, many = drawn.modes(), drawn.modes(search=SearchRules(missed=0.01))
    assert few.missed[0] < 0.35
    assert many.missed[0] < 0.01
    assert many.searches.random[0] >= 299
    assert missed_share(np.array([0])).tolist() == [1.0]
    table = many.to_dataframe()
    assert table["missed"].tolist() == [many.missed[0]] * 3


def test_starts_are_the_farthest_and_random_ones_by_share() -> None:
    """Against the same by brute force; a sample with nine tenths of the weight is drawn nine times in ten."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((1, 4, 50)).astype(np.float32)
    share = np.full(50, 0.1 / 49)
    share[20] = 0.9
    tables = np.full((1, 50), np.float32(np.inf)), np.zeros((1, 50), np.int64), np.zeros(1, np.int64)
    chosen = np.empty((1, 1000 + 6), np.int64)
    choose(x, share.cumsum()[None], np.zeros(1, np.int64), 6, 1000, *tables, np.zeros(1, np.int64), chosen)
    starts = [0]
    for _ in range(5):
        away = [min(((x[0, :, k] - x[0, :, j]) ** 2).sum() for j in starts) for k in range(50)]
        starts.append(int(np.argmax(away)))
    assert chosen[0, :6].tolist() == starts
    number = np.cumsum(chosen[0] >= 0) - 1  # of the start of each row
    first = next(k for k in range(6, 1006) if chosen[0, k] == 20) if 20 not in starts else starts.index(20)
    again = chosen[0, 6:] == -1 - number[first]
    assert abs(again.mean() - 0.9) < 0.01


@pytest.mark.parametrize("name", ["ocs", "ch2o"])
def test_a_search_ends_where_that_of_scipy_does(name: str) -> None:
    """At the exact geometry, to a hundredth of what the noise leaves open."""
    events = flowcei.simulate(name, 12, noise="0.3%", seed=5)
    assert events.positions is not None
    known = Likelihood(events.molecule.masses, events.molecule.charges, events.momenta, events.sigma)
    rng = np.random.default_rng(1)
    start = events.positions + 0.02 * rng.standard_normal(events.positions.shape)
    ends, misfit, square = descended(known, start, np.arange(12))
    scale = known.size / known.noise
    close = []
    for row in range(12):

        def residual(y: np.ndarray, row: int = row) -> np.ndarray:
            return known.residual(np.concatenate([np.zeros(3), y]).reshape(1, -1, 3), np.array([row]))[0]

        ours = (ends[row, 1:] - ends[row, :1]).ravel()
        other = least_squares(residual, ours + 1e-3, x_scale="jac", xtol=1e-12, ftol=1e-12)
        assert misfit[row] * scale[row] < np.linalg.norm(other.fun) * scale[row] + 0.02
        step = other.x - ours
        close.append(np.sqrt(step @ square[row] @ step) * scale[row] < 0.05)
    assert np.mean(close) > 0.9


def test_an_event_has_the_same_modes_alone_and_in_company() -> None:
    """Starts are chosen event by event, and random ones are no stream that others draw from."""
    events = flowcei.simulate("ocs", 5, noise="1%", seed=3)
    drawn = flowcei.load().sample(events, 40, seed=1)
    whole = drawn.modes()
    alone = drawn[3].modes()
    np.testing.assert_allclose(whole[whole.of(3)].positions, alone.positions, rtol=1e-9, atol=1e-9)
    assert alone.searches.made[0] == whole.searches.made[3]


def test_a_hundred_geometries_of_an_event_are_no_thousands_of_paths() -> None:
    """Each is compared with the nearest only."""
    places, momenta = triple()
    sigma = np.array([1e-3 * np.sqrt((momenta**2).mean())])
    known = Likelihood(ISOTOPES.masses, ISOTOPES.charges, momenta[None], sigma)
    asked = []

    class Counting(Likelihood):
        def residual(self, positions: np.ndarray, rows: np.ndarray, **more: float) -> np.ndarray:
            asked.append(len(positions))
            return known.residual(positions, rows, **more)

    counting = Counting(ISOTOPES.masses, ISOTOPES.charges, momenta[None], sigma)
    rng = np.random.default_rng(2)
    many = places[rng.integers(3, size=100)] * np.exp(0.3 * rng.standard_normal((100, 1, 1)))
    leaders(counting, many, np.zeros(100, np.intp), np.arange(100))
    assert asked[0] == 21 * sum(min(k, 4) for k in range(100))


def test_a_sample_that_is_no_geometry_is_nobodys_start() -> None:
    """NaN among the samples, and an event of nothing else, take nothing from the others."""
    drawn, _ = _mixture(1e-3, 20)
    broken = np.array(drawn.positions)
    broken[0, ::2] = np.nan
    both = PosteriorSamples.concatenate(
        [replace(drawn, positions=broken), replace(drawn, positions=np.full_like(broken, np.nan))]
    )
    found = both.modes()
    assert found.count().tolist() == [3, 0]
    assert found.searches.made[1] == 0
    assert found.missed[1] == 1.0
    assert found.probability.sum() == pytest.approx(1.0)
