"""Which ends of searches are one mode, and how wide a mode is where two solutions meet."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_modes import ISOTOPES, triple

import flowcei
from flowcei.physics.explosion import asymptotic_momenta, centre_of_mass
from flowcei.physics.priors import build_prior
from flowcei.posterior.gathering import find_modes
from flowcei.posterior.laplace import ModeRules, covering, leaders, local_covariance
from flowcei.posterior.modes import AMBIGUOUS, UNIQUE
from flowcei.posterior.refinement import CONVERGED, STALLED, Refinement
from flowcei.posterior.samples import PosteriorSamples
from flowcei.posterior.spread import quantities
from oracles.reference import reference_posterior

# Positions of six events of OCS, bohr. The first is near the fold: two exact geometries 0.018 bohr apart.
NEAR_FOLD = np.array([
    [[-0.210181, -0.756875, -0.478298], [-1.024052, -2.926501, -0.564845], [0.589778, 1.743977, 0.461066]],
    [[1.057559, 0.312558, -0.006082], [3.057056, 0.489283, -0.493353], [-1.921777, -0.361266, 0.248478]],
    [[-0.716514, -0.582256, -0.482606], [-2.333273, -0.813383, -2.034017], [1.432816, 0.624042, 1.195846]],
    [[-0.342909, 0.210229, 0.977409], [-2.169122, 0.030824, 2.12136], [1.210932, -0.094143, -1.424807]],
    [[-0.264584, 0.05884, -1.005625], [-1.292161, 0.723646, -3.16833], [0.743955, -0.383167, 1.95785]],
    [[0.144396, -0.52085, -0.829672], [1.118584, -2.449077, -1.983676], [-0.612307, 1.417302, 1.30075]],
])  # fmt: skip


def _sampled(noise: str) -> PosteriorSamples:
    ocs = flowcei.Molecule.load("ocs")
    momenta = asymptotic_momenta(NEAR_FOLD, ocs.masses, ocs.charges, accuracy=1e-9)
    return flowcei.load().sample(momenta, 100, noise=noise, seed=1, weigh=True)


def test_what_the_noise_does_not_tell_apart_is_one_mode() -> None:
    """Two exact geometries at the fold of OCS are one at 1 %; between any two modes the posterior dips."""
    drawn = _sampled("1%")
    found = drawn.modes()
    apart = find_modes(drawn.refine(), drawn.likelihood, rules=ModeRules(resolve=False))
    assert apart.count()[0] == 2
    assert found.count()[0] == 1
    assert found.verdict[0] == UNIQUE
    assert found.probability[0] == pytest.approx(1.0)
    assert found.starts[0] == found.searches.made[0] == 16
    # Independent: chi squared by the simulator on the straight line from one mode to the next.
    masses, charges = drawn.molecule.masses, drawn.molecule.charges
    for event in np.flatnonzero(found.count() > 1):
        rows = found.of(event)
        line = np.linspace(0.0, 1.0, 41)[:, None, None]
        for other in rows[1:]:
            x = (1 - line) * found.positions[rows[0]] + line * found.positions[other]
            p = asymptotic_momenta(x, masses, charges, accuracy=1e-10)
            away = p - p[[0]] * (1 - line) - p[[-1]] * line
            dip = np.exp(-0.5 * (away**2).sum(axis=(1, 2)).max() / drawn.sigma[event] ** 2)
            assert dip < 0.8


def test_less_noise_tells_them_apart() -> None:
    """Event 2 of these (0.2 bohr): a barrier of chi squared 0.011 at 1 %, of 11 at 0.03 %."""
    drawn = _sampled("1%")
    for factor, verdict in ((1.0, UNIQUE), (0.03, AMBIGUOUS)):
        known = replace(drawn, sigma=drawn.sigma * factor).likelihood
        assert find_modes(drawn.refine(), known).verdict[2] == verdict


def test_modes_do_not_split_one_cloud() -> None:
    """Two exact geometries 1.2 bohr apart, and the posterior highest between them.

    The straight line from one to the other costs chi squared 100, the bent valley less than 1.
    """
    momenta = np.array(
        [[72.288, -56.918, -162.972], [-114.438, 281.186, -139.334], [40.761, -222.57, 308.751]]
    )
    event = flowcei.Events("ocs", momenta[None], sigma=np.array([1.80470667]))
    drawn = flowcei.load().sample(event, 400, seed=4, weigh=True)
    apart = find_modes(drawn.refine(), drawn.likelihood, rules=ModeRules(resolve=False))
    assert apart.count().tolist() == [2]
    lengths = quantities(drawn.molecule, apart.positions)[1][:, 9]  # c-o
    assert abs(lengths[1] - lengths[0]) > 0.7
    share = (quantities(drawn.molecule, drawn.positions[0])[1][:, 9] - lengths[0]) / np.diff(lengths)
    counts = np.histogram(share, 5, (-0.125, 1.125))[0]
    assert counts[2] > 2 * max(counts[0], counts[-1])
    found = drawn.modes()
    assert found.count().tolist() == [1]
    assert found.verdict.tolist() == [UNIQUE]


@pytest.mark.parametrize(("noise", "count"), [(1e-3, 3), (4e-3, 3), (6e-3, 2), (2e-2, 2), (5e-2, 1)])
def test_three_geometries_with_the_same_momenta(noise: float, count: int) -> None:
    """The barriers between them are chi squared 25.6 and 1264 at 0.1 %, and fall with the noise squared."""
    places, momenta = triple()
    sigma = np.array([noise * np.sqrt((momenta**2).mean())])
    drawn = PosteriorSamples(
        ISOTOPES, momenta[None], places[None].astype(np.float32), None, np.zeros(1, np.int64), sigma
    )
    first = leaders(drawn.likelihood, places, np.zeros(3, int), np.arange(3))
    assert len(set(first.tolist())) == count
    assert drawn.modes().count().tolist() == [count]


def test_a_mode_at_a_fold_is_as_wide_as_the_posterior() -> None:
    """The derivative all but vanishes there; samples of the exact posterior say how wide its valley is."""
    drawn = _sampled("1%")[:2]
    found = drawn.modes()
    table = found.to_dataframe()
    flat = build_prior(ISOTOPES, "wide")
    exact = reference_posterior(flat, drawn.likelihood, drawn.molecule, n=1200, seed=1, starts=100)
    for event in (0, 1):
        x = found.positions[event]
        near = exact.positions[event][np.abs(exact.positions[event] - x).max(axis=(1, 2)) < 1.0]
        assert len(near) > 1120
        names, values = quantities(drawn.molecule, near)
        centre = quantities(drawn.molecule, x)[1]
        width = np.sqrt(((values - centre) ** 2).mean(axis=0))
        for name in ("c-o", "c-s", "o-c-s"):
            k = [q.name for q in names].index(name)
            factor = (2.0, 1.15)[event]  # the valley is long and bent at the fold; elsewhere it is normal
            assert 1.0 / factor < table[f"sd_{name}"][event] / width[k] < factor
    # Closer to the fold the derivative alone would be wrong without bound.
    closer = replace(drawn, sigma=drawn.sigma * 4.0).likelihood
    both = [
        local_covariance(closer, found.positions[:1], np.zeros(1, int), bounded=bounded)[0][0]
        for bounded in (False, True)
    ]
    assert np.trace(both[0]) > 4.0 * np.trace(both[1])


def test_the_covariance_of_one_for_two_is_that_of_their_mixture() -> None:
    """Second moments about the first, of many draws from both."""
    rng = np.random.default_rng(3)
    factors, places = rng.standard_normal((2, 6, 6)), rng.standard_normal((2, 2, 3))
    each = factors @ np.swapaxes(factors, 1, 2)
    out = covering(each, places, np.array([0.7, 0.3]), np.zeros(2, int))[0]
    draws = [
        rng.multivariate_normal(x.ravel(), c, k)
        for x, c, k in zip(places, each, (70_000, 30_000), strict=True)
    ]
    away = np.concatenate(draws) - places[0].ravel()
    size = np.sqrt(np.diag(out))
    assert np.abs((away.T @ away / len(away) - out) / np.outer(size, size)).max() < 0.02


def test_laplace_mass_counts_how_badly_a_geometry_explains_the_momenta() -> None:
    """A nearest miss with chi squared 16 has exp(-8) of the mass of an exact geometry as wide."""
    places, momenta = triple()
    sigma = np.array([1e-3 * np.sqrt((momenta**2).mean())])
    drawn = PosteriorSamples(
        ISOTOPES, momenta[None], places[None].astype(np.float32), None, np.zeros(1, np.int64), sigma
    )
    known, x = drawn.likelihood, places[0] - centre_of_mass(places[:1], ISOTOPES.masses)[0]
    low, high = 1.0, 1.01
    for _ in range(60):  # a scaling that costs chi squared 16
        middle = 0.5 * (low + high)
        low, high = (
            (middle, high) if known.chi_squared((middle * x)[None, None])[0, 0] < 16 else (low, middle)
        )
    both = np.stack([x, low * x])[None]
    chi2 = known.chi_squared(both)
    assert chi2[0, 1] == pytest.approx(16.0, rel=1e-6)
    status = np.array([[CONVERGED, STALLED]], dtype=np.uint8)
    ends = Refinement(both, np.array([[1e-12, 1e-3]]), chi2, status)
    found = find_modes(
        ends, known, log_prior=lambda x: np.zeros(len(x)), rules=ModeRules(same=1e-4, resolve=False)
    )
    volume = local_covariance(known, both[0], np.zeros(2, int))[1]
    expected = np.exp(-8.0 + volume[1] - volume[0])
    assert found.status.tolist() == [CONVERGED, STALLED]
    assert found.laplace[1] / found.laplace[0] == pytest.approx(expected, rel=0.01)
