"""The likelihood of an experiment, against SciPy's normal density of momenta from Newton's equations."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
from scipy.stats import chi2, kstest, multivariate_normal

import flowcei
from flowcei import Experiment
from flowcei.experiment.covariance import CovarianceLikelihood
from flowcei.experiment.likelihood import Likelihood
from flowcei.experiment.missing import completed
from flowcei.posterior.refinement import CONVERGED, refine

ROUGH = {"c": [4.0, 0.5, 0.6], "o": [3.0, 0.5, 1.0], "s": [9.0, 0.4, 0.5]}
SOURCES = [
    {},
    {"spread": 0.0},
    {"temperature": 300},
    {"spread": [3.0, "unknown", 0.0]},
]


def _likelihood(events: flowcei.Events, experiment: Experiment) -> CovarianceLikelihood:
    molecule = events.molecule
    return CovarianceLikelihood(molecule.masses, molecule.charges, events.momenta, experiment.of(molecule))


@pytest.mark.parametrize("noise", ["0.02%", 0.05])
@pytest.mark.parametrize("name", ["ocs", "chbrclf"])
def test_an_unknown_source_is_the_centred_likelihood(name: str, noise: str | float) -> None:
    """Density, misfit and what is searched for agree to 1e-10 where noise is that of `Likelihood`."""
    e = flowcei.simulate(name, 4, noise=str(noise), seed=3)
    own = _likelihood(e, Experiment(noise=noise))
    usual = Likelihood(e.molecule.masses, e.molecule.charges, e.momenta, e.sigma, relative=noise == "0.02%")
    if noise == "0.02%":  # the level of noise is stated, not its share of the measured rms with its motion
        usual.level = np.full(4, 2e-4)
    x = e.positions[:, None] * np.array([1.0, 0.99, 1.02])[:, None, None]
    np.testing.assert_allclose(own.log_prob(x), usual.log_prob(x), rtol=1e-10)
    np.testing.assert_allclose(own.chi_squared(x), usual.chi_squared(x), rtol=1e-10)
    for attribute in ("measured", "noise", "size"):
        np.testing.assert_allclose(getattr(own, attribute), getattr(usual, attribute), rtol=1e-10)
    rows = np.arange(4)
    one, other = (like.slope(x[:, 1], rows, accuracy=1e-9) for like in (own, usual))
    np.testing.assert_allclose(*(np.einsum("kri,krj->kij", s, s) for s in (one, other)), atol=1e-10)
    far = Experiment(noise=noise, spread=[1e-3, 1e-3, 1e-3])  # known, so that all 3N components count
    assert (_likelihood(e, far).log_prob(x) != own.log_prob(x)).all()


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("relative", [True, False])
def test_density_is_that_of_scipy(source: dict, *, relative: bool) -> None:
    """N(p(x), D + s^2 u u') of all components; on an axis without a source, N - 1 that are centred."""
    noise = {ion: [f"{level}%" for level in ROUGH[ion]] for ion in ROUGH} if relative else ROUGH
    experiment = Experiment(noise=noise, **source)
    e = flowcei.simulate("ocs", 2, experiment=experiment, seed=3)
    m, u = e.molecule.masses, e.molecule.masses / e.molecule.masses.sum()
    known, spread = _likelihood(e, experiment), experiment.of(e.molecule).spread
    x = e.positions[:, None] * np.array([1.0, 1.01])[:, None, None]
    centred = np.eye(3) - u[:, None]
    found, misfit = known.log_prob(x), known.chi_squared(x)
    for k, j in np.ndindex(2, 2):
        p = oracle.momenta(x[k, j], m, e.molecule.charges)
        unit = 0.01 * np.sqrt((p**2).mean()) if relative else 1.0
        total, sums = 0.0, 0.0
        for axis in range(3):
            sigma = unit * np.array([ROUGH[ion][axis] for ion in "cos"])
            away, covariance = (e.momenta[k] - p)[:, axis], np.diag(sigma**2)
            if np.isinf(spread[axis]):
                away, covariance = (centred @ away)[1:], (centred @ covariance @ centred.T)[1:, 1:]
            else:
                covariance = covariance + spread[axis] ** 2 * np.outer(u, u)
                sums += away.sum() ** 2 / covariance.sum()
            total += multivariate_normal(cov=covariance).logpdf(away)
            sums -= away @ np.linalg.solve(covariance, away)
        assert found[k, j] == pytest.approx(total, rel=1e-5, abs=1e-2)
        assert misfit[k, j] == pytest.approx(-sums, rel=1e-5, abs=1e-2)


@pytest.mark.parametrize("ion", [0, 2])
@pytest.mark.parametrize("source", [{"spread": 0.0}, {"temperature": 300}])
def test_a_lost_ion_is_a_missing_row(source: dict, ion: int) -> None:
    """Density and misfit of the others' momenta alone, whatever stands for its own; searches end there."""
    experiment = Experiment(noise=ROUGH, **source)
    e = flowcei.simulate("ocs", 3, experiment=experiment, seed=3)
    m, u = e.molecule.masses, e.molecule.masses / e.molecule.masses.sum()
    lost = np.zeros((3, 3), dtype=bool)
    lost[:2, ion] = True
    spread = experiment.of(e.molecule).spread
    known = CovarianceLikelihood(
        m, e.molecule.charges, completed(e.momenta, lost), experiment.of(e.molecule), lost
    )
    whole, left = _likelihood(e, experiment), np.delete(np.arange(3), ion)
    x = e.positions[:, None] * np.array([1.0, 1.01])[:, None, None]
    found, misfit = known.log_prob(x), known.chi_squared(x)
    np.testing.assert_allclose(found[2], whole.log_prob(x)[2])
    for k, j in np.ndindex(2, 2):
        p, total, square = oracle.momenta(x[k, j], m, e.molecule.charges), 0.0, 0.0
        for axis in range(3):
            covariance = np.diag([ROUGH[name][axis] ** 2 for name in "cos"]) + spread[axis] ** 2 * np.outer(
                u, u
            )
            away, covariance = (e.momenta[k] - p)[left, axis], covariance[np.ix_(left, left)]
            total += multivariate_normal(cov=covariance).logpdf(away)
            square += away @ np.linalg.solve(covariance, away)
        assert found[k, j] == pytest.approx(total, rel=1e-4, abs=1e-2)
        assert misfit[k, j] == pytest.approx(square, rel=1e-4, abs=1e-2)
    residual = known.residual(e.positions, np.arange(3), accuracy=1e-5)
    square = (residual**2).sum(axis=1) * (known.size / known.noise) ** 2
    np.testing.assert_allclose(square, misfit[:, 0], rtol=5e-3, atol=0.05)


@pytest.mark.parametrize("source", SOURCES)
def test_misfit_and_residual_are_one(source: dict) -> None:
    """|residual|^2 is chi squared, of 3N - 3 degrees of freedom for the truth; unwhitened it is momenta."""
    experiment = Experiment(noise=ROUGH, **source)
    e = flowcei.simulate("ocs", 2000, experiment=experiment, seed=4)
    known, rows = _likelihood(e, experiment), np.arange(2000)
    misfit = known.chi_squared(e.positions[:, None])[:, 0]
    assert kstest(misfit, chi2(6).cdf).pvalue > 1e-3
    residual = known.residual(e.positions, rows, accuracy=1e-5)
    square = (residual**2).sum(axis=1) * (known.size / known.noise) ** 2
    np.testing.assert_allclose(square, misfit, rtol=2e-3, atol=0.05)
    p = flowcei.asymptotic_momenta(e.positions, e.molecule.masses, e.molecule.charges, accuracy=1e-5)
    plain = known.unwhitened(residual, rows) * known.size[:, None, None]
    np.testing.assert_allclose(plain, p - known.measured, atol=0.02)
    some = np.array([7, 3, 7])
    np.testing.assert_array_equal(
        known.of(some).log_prob(e.positions[some, None])[:2], known.log_prob(e.positions[:, None])[some[:2]]
    )


@pytest.mark.parametrize("source", SOURCES)
def test_slope_is_that_of_the_residual(source: dict) -> None:
    """Against central differences, with noise that is relative."""
    experiment = Experiment(noise=["4%", "0.5%", "0.5%"], **source)
    e = flowcei.simulate("ocs", 3, experiment=experiment, seed=4)
    known, rows, step = _likelihood(e, experiment), np.arange(3), 1e-4
    slope = known.slope(e.positions, rows, accuracy=1e-9)
    for d in range(9):
        shift = np.zeros(9)
        shift[d] = step
        ends = [known.residual(e.positions + s * shift.reshape(3, 3), rows) for s in (1, -1)]
        np.testing.assert_allclose(slope[:, :, d], (ends[0] - ends[1]) / (2 * step), atol=2e-4)


def test_what_cannot_explode_is_impossible_and_spoils_nothing() -> None:
    """-inf and infinite, never NaN."""
    experiment = Experiment(noise=["4%", "0.5%", "0.5%"], temperature=5)
    e = flowcei.simulate("ocs", 2, experiment=experiment, seed=4)
    known = _likelihood(e, experiment)
    x = np.stack([e.positions, np.zeros_like(e.positions), e.positions * np.nan], axis=1)
    assert np.isneginf(known.log_prob(x)[:, 1:]).all()
    assert np.isposinf(known.chi_squared(x)[:, 1:]).all()
    np.testing.assert_array_equal(known.log_prob(x)[:, :1], known.log_prob(e.positions[:, None]))


def test_charges_that_build_up_are_in_the_likelihood() -> None:
    """Momenta of Newton's equations at 8 fs: their geometry fits and is found; not without."""
    stated = Experiment(noise=0.1, build_up="8fs")
    clean = flowcei.simulate("ocs", 3, seed=5)
    ions = clean.molecule.masses, clean.molecule.charges
    share = lambda t: -np.expm1(-t / (8.0 * 41.341373))  # noqa: E731
    truth = np.array([oracle.momenta(x, *ions, share=share) for x in clean.positions])
    known = _likelihood(flowcei.Events(clean.molecule, truth), stated)
    assert known.chi_squared(clean.positions[:, None]).max() < 1e-3
    start = clean.positions[:, None] + 0.02 * np.random.default_rng(1).standard_normal((3, 2, 3, 3))
    found = refine(known, start)
    assert (found.status == CONVERGED).all()
    np.testing.assert_allclose(found.positions, np.repeat(clean.positions[:, None], 2, axis=1), atol=1e-5)
    without = _likelihood(flowcei.Events(clean.molecule, truth), Experiment(noise=0.1))
    assert without.chi_squared(clean.positions[:, None]).min() > 1e4
