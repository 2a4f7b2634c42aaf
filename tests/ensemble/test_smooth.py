"""The smooth law along a delay is the truth, also where the pulses blur it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from linear import OCS, Linear
from scipy.stats import norm

import flowcei
from flowcei.ensemble.coordinates import ZMatrixChart
from flowcei.ensemble.fitting import Weighted
from flowcei.ensemble.laws import NormalLaw
from flowcei.ensemble.smoothing import smooth_law
from flowcei.ensemble.splines import true_values
from flowcei.physics.priors import build_prior
from flowcei.units import FWHM

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowcei.ensemble.smooth import SmoothLaw

DELAYS = np.linspace(0.0, 140.0, 7)
CHANGE = 0.3  # bohr, over 30 fs about 70 fs


def bond(t: np.ndarray) -> np.ndarray:
    """Mean of r(CS), bohr, at true delays."""
    return 3.0 + CHANGE / (1.0 + np.exp(-(t - 70.0) / 15.0))


def swing(t: np.ndarray) -> np.ndarray:
    """A mean that returns twice: four splines are no better than two."""
    return 3.1 + 0.2 * np.sin(2.0 * np.pi * t / 70.0)


def movie(
    width: float, seed: int, bond: Callable[[np.ndarray], np.ndarray] = bond
) -> flowcei.PosteriorSamples:
    """120 events at each delay, whose true delays scatter with a full width."""
    rng, truth, blocks = np.random.default_rng(seed), Linear(), []
    for delay in DELAYS:
        lengths, bends = truth.measured(120, rng)
        true = delay + width / FWHM * rng.standard_normal(120)
        lengths[:, 1] += bond(true) - truth.mean[1]
        samples = truth.samples((lengths, bends), 120, rng)
        blocks.append(replace(samples, columns=samples.columns | {"delay": np.full(120, delay)}))
    return flowcei.PosteriorSamples.concatenate(blocks)


@pytest.mark.parametrize("width", [0.0, 60.0])
def test_the_smooth_law_is_the_truth(width: float) -> None:
    """Means and widths at true delays; each delay alone is as wide as the pulses make it."""
    how = {"by": "delay", "bootstrap": 0, "check": False}
    found = flowcei.population(movie(width, 1), **how, cross_correlation=width)
    assert found.smooth is not None, found.refused
    mean, (error, _) = found.smooth.mean(DELAYS), found.smooth.errors(DELAYS)
    assert np.sqrt(np.mean((mean[:, 1] - bond(DELAYS)) ** 2)) < 0.02
    assert np.abs((mean[:, 0] - 2.25) / error[:, 0]).max() < 4.0
    sd = found.smooth.deviation(DELAYS)
    assert np.sqrt(np.mean((sd[:, 1] / 0.1 - 1.0) ** 2)) < 0.15
    assert sd[:, 2] / np.sqrt(2.0 - np.pi / 2.0) == pytest.approx(6.0, rel=0.1)
    if width:
        assert found.deviation[2:5, 1].mean() > 1.1 * sd[3, 1]
    assert found.misfit > 1e-3
    assert len(found.smooth_table()) == 21
    if not width:
        assert found.gif(frames=3).startswith(b"GIF89a")


def test_a_bond_that_swings_is_followed() -> None:
    """More splines are tried where a few more are no better."""
    found = flowcei.population(movie(0.0, 4, swing), by="delay", bootstrap=0, check=False)
    assert found.smooth is not None, found.refused
    assert np.sqrt(np.mean((found.smooth.mean(DELAYS)[:, 1] - swing(DELAYS)) ** 2)) < 0.05


def test_a_gap_in_the_column_is_bridged() -> None:
    """Splines and covariances of delays without events are left out."""
    samples = movie(0.0, 3)
    delay = samples.columns["delay"]
    late = replace(
        samples, columns=samples.columns | {"delay": np.where(delay > 60.0, delay + 2000.0, delay)}
    )
    found = flowcei.population(late, by="delay", bootstrap=0, check=False)
    assert found.smooth is not None, found.refused
    own = DELAYS + np.where(DELAYS > 60.0, 2000.0, 0.0)
    assert found.smooth.mean(own)[[0, -1], 1] == pytest.approx(bond(DELAYS)[[0, -1]], abs=0.1)
    assert np.all((found.smooth.deviation(own)[:, 1] > 0.05) & (found.smooth.deviation(own)[:, 1] < 0.3))


def test_the_last_step_is_that_of_all_samples_and_not_too_long() -> None:
    """It puts right what few samples have wrong; an end that hardly an event tells stays."""
    rng, delays = np.random.default_rng(0), np.linspace(0.0, 140.0, 8)
    by, straight = np.repeat(delays, [60] * 7 + [3]), np.array([False])
    true = 3.0 + 0.4 * np.sin(by / 18.0)
    y = true + np.where(by < 140.0, 0.11 * rng.standard_normal(len(by)), 0.001)

    def seen(shift: float) -> Weighted:
        z = (y + shift)[:, None, None] + 0.05 * rng.standard_normal((len(y), 80, 1))
        return Weighted(z, np.zeros(z.shape[:2]), np.ones(len(y)), np.ones(len(y)))

    own, one = np.array([y[by == t].mean() for t in delays]), np.ones(1)
    laws = [NormalLaw(one, np.array([[mean]]), np.array([[[0.01]]]), straight) for mean in own]
    chart = ZMatrixChart(OCS, build_prior(OCS, "equilibrium"), ["c-s"])
    found = smooth_law(delays, laws, chart, seen(0.04), seen(0.0), by, 1.0, 0.0)
    off = found.mean(delays)[:, 0] - own
    assert abs(off[:7].mean()) < 0.01
    assert abs(off[7]) < 0.25


PULSES, FASTER, NOISE = 40.0 / FWHM, 0.0145, 0.1  # fs, bohr a fs, bohr of an event


def alone(
    bond: Callable[[np.ndarray], np.ndarray], seed: int, events: int = 200, count: int = 15
) -> tuple[SmoothLaw, np.ndarray, np.ndarray]:
    """The smooth law of r(CS) +/- 0.1 bohr alone, its noise known: samples are quantiles; delays, values."""
    rng, delays = np.random.default_rng(seed), np.linspace(0.0, 180.0, 10)
    by = np.repeat(delays, events)
    y = bond(by + PULSES * rng.standard_normal(len(by))) + np.hypot(0.1, NOISE) * rng.standard_normal(len(by))
    places = (np.arange(count) + rng.random((len(by), count))) / count
    z = (y[:, None] + NOISE * norm.ppf(places))[:, :, None]
    data = Weighted(z, np.zeros(places.shape), np.ones(len(by)), np.ones(len(by)))
    one, straight = np.ones(1), np.array([False])
    laws = [
        NormalLaw(one, np.full((1, 1), y[by == t].mean()), np.full((1, 1, 1), y[by == t].var()), straight)
        for t in delays
    ]
    chart = ZMatrixChart(OCS, build_prior(OCS, "equilibrium"), ["c-s"])
    return smooth_law(delays, laws, chart, data, data, by, 1e6, PULSES), by, y


def test_a_straight_mean_has_the_width_of_a_regression() -> None:
    """All is normal then: the residuals have the variance of the law, the noise and the pulses together."""
    found, by, y = alone(lambda t: 3.0 + FASTER * t, 0, 250, 60)
    slope, start = np.polyfit(by, y, 1)
    width = np.sqrt((y - start - slope * by).var() - NOISE**2 - (slope * PULSES) ** 2)
    assert found.coefficients.shape == (2, 1)
    assert np.sqrt(found.covariance[:, 0, 0]) == pytest.approx([width], rel=0.015)
    assert found.mean(by)[:, 0] == pytest.approx(start + slope * by, abs=0.02)


@pytest.mark.parametrize("last", [np.inf, 180.0])
def test_ends_at_which_a_bond_rests_are_as_good_as_stated(last: float) -> None:
    """It rests until the first delay, and goes on after the last one or stops there."""

    def bond(t: np.ndarray) -> np.ndarray:
        return 3.0 + FASTER * np.clip(t, 0.0, last)

    pulls = []
    for seed in range(3):
        found, by, _ = alone(bond, seed)
        ends = np.unique(by)[[0, 1, -2, -1]]
        off, (error, by_width) = found.mean(ends) - bond(ends)[:, None], found.errors(ends)
        pulls.append([off / error, np.log(found.deviation(ends) / 0.1) / by_width])
    assert np.sqrt(np.mean(np.square(pulls), axis=(0, 2, 3))).max() < 1.3


def test_true_values_have_the_variance_of_the_pulses() -> None:
    """However many there are."""
    for count in (11, 25, 61):
        nodes, shares = true_values(PULSES, count)
        assert shares @ nodes**2 == pytest.approx(PULSES**2, rel=1e-12)


def test_no_smooth_law_of_few_values() -> None:
    """Fewer than five delays have a law each, and no other; the reason is said."""
    samples = movie(0.0, 2)
    few = samples[samples.columns["delay"] < 70.0]
    found = flowcei.population(few, by="delay", bootstrap=0, check=False)
    assert found.smooth is None
    assert found.to_dict()["refused"] == "3 values are too few: 5 are needed"
    with pytest.raises(flowcei.errors.UsageError, match="no smooth law along delay to be shown: 3 values"):
        found.gif(frames=3)


def test_a_width_needs_a_column() -> None:
    """A cross-correlation is in the units of a column."""
    with pytest.raises(flowcei.errors.UsageError, match="in units of the column that by names"):
        flowcei.population(movie(0.0, 2)[:40], cross_correlation=50.0)
