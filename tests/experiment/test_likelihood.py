"""The likelihood of measured momenta, against SciPy's normal density and random noise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2, kstest, multivariate_normal

from flowcei.events.simulation import simulate
from flowcei.experiment.detector import rms_component
from flowcei.experiment.likelihood import Likelihood, centred_momenta, whitening
from flowcei.molecules.molecule import Molecule
from flowcei.physics.explosion import asymptotic_momenta

MOLECULES = ["co2", "ocs", "ch2o", "chbrclf"]


def _likelihood(name: str, events: int, noise: str = "1%", *, relative: bool = True) -> tuple:
    e = simulate(name, events, noise=noise, seed=3)
    known = Likelihood(e.molecule.masses, e.molecule.charges, e.momenta, e.sigma, relative=relative)
    return e, known


@pytest.mark.parametrize("name", MOLECULES)
def test_whitened_noise_is_independent_and_of_unit_size(name: str) -> None:
    """W C W^T = 1 for the noise of centred momenta, and W loses nothing but the sum."""
    masses = Molecule.load(name).masses
    noise = np.random.default_rng(1).standard_normal((400_000, len(masses), 1))
    white = np.matmul(whitening(masses), centred_momenta(noise, masses))[:, :, 0]
    np.testing.assert_allclose(np.cov(white, rowvar=False), np.eye(len(masses) - 1), atol=0.01)
    assert np.linalg.matrix_rank(np.vstack([whitening(masses), np.ones(len(masses))])) == len(masses)


@pytest.mark.parametrize("name", MOLECULES)
@pytest.mark.parametrize("relative", [True, False])
def test_density_is_that_of_scipy(name: str, *, relative: bool) -> None:
    """The normal density of all but one ion's centred momenta, with their correlated noise."""
    e, known = _likelihood(name, 3, relative=relative)
    x = e.positions[:, None] * np.array([1.0, 0.99, 1.02])[:, None, None]
    n, w = len(e.molecule), e.molecule.masses / e.molecule.masses.sum()
    covariance = np.eye(n) - w[:, None] - w + n * np.outer(w, w)
    found = known.log_prob(x)
    for k in range(3):
        for j in range(3):
            p = asymptotic_momenta(x[k, j], e.molecule.masses, e.molecule.charges, accuracy=1e-9)
            sigma = e.sigma[k]
            if relative:
                sigma = sigma / rms_component(e.momenta[k]) * rms_component(p)
            away = (centred_momenta(e.momenta[k], e.molecule.masses) - p)[1:]
            normal = multivariate_normal(cov=np.kron(covariance[1:, 1:], np.eye(3)) * sigma**2)
            assert found[k, j] == pytest.approx(normal.logpdf(away.ravel()), rel=1e-4, abs=0.02)


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("n", [70, 12_000])
def test_events_have_the_density_that_each_has_alone(n: int, *, relative: bool) -> None:
    """Of many, which are not all worked on at once."""
    e, known = _likelihood("ocs", 300 if n == 70 else 3, relative=relative)
    simulated = np.random.default_rng(2).normal(1.0, 0.02, (len(e), n, 1, 1)) * e.momenta[:, None]
    found = known.chi_squared_at(simulated.astype(np.float32), simulated)
    for k in range(len(e)):
        alone = known.of(slice(k, k + 1)).chi_squared_at(simulated[k : k + 1].astype(np.float32), simulated)
        np.testing.assert_allclose(found[k], alone[0], rtol=1e-12)


@pytest.mark.parametrize("name", ["ocs", "chbrclf"])
def test_misfit_of_the_truth_is_chi_squared(name: str) -> None:
    """With 3N - 3 degrees of freedom; as if the noise were independent it would not be."""
    e, known = _likelihood(name, 4000)
    misfit = known.chi_squared(e.positions[:, None])[:, 0]
    assert kstest(misfit, chi2(3 * len(e.molecule) - 3).cdf).pvalue > 1e-3
    left = centred_momenta(e.momenta, e.molecule.masses) - asymptotic_momenta(
        e.positions, e.molecule.masses, e.molecule.charges
    )
    naive = (left**2).sum(axis=(1, 2)) / e.sigma**2
    assert kstest(naive, chi2(3 * len(e.molecule) - 3).cdf).pvalue < 1e-6


@pytest.mark.parametrize("name", ["ocs", "chbrclf"])
def test_slope_is_that_of_the_residual(name: str) -> None:
    """Against central differences."""
    e, known = _likelihood(name, 4)
    rows, step = np.arange(4), 1e-4
    slope = known.slope(e.positions, rows, accuracy=1e-9)
    for d in range(3 * len(e.molecule)):
        shift = np.zeros(3 * len(e.molecule))
        shift[d] = step
        shift = shift.reshape(-1, 3)
        ends = known.residual(e.positions + shift, rows) - known.residual(e.positions - shift, rows)
        np.testing.assert_allclose(slope[:, :, d], ends / (2 * step), atol=2e-5)


def test_what_cannot_explode_is_impossible_and_spoils_nothing() -> None:
    """-inf and infinite, never NaN; the others keep their values."""
    e, known = _likelihood("ocs", 2)
    x = np.stack([e.positions, np.zeros_like(e.positions), e.positions * np.nan], axis=1)
    assert np.isneginf(known.log_prob(x)[:, 1:]).all()
    assert np.isposinf(known.chi_squared(x)[:, 1:]).all()
    np.testing.assert_array_equal(known.log_prob(x)[:, :1], known.log_prob(e.positions[:, None]))
    assert np.isnan(known.residual(x[:, 1], np.arange(2))).all()
