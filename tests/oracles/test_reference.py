"""Reference posteriors against brute force, against a flow's weights, and as they lie in files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from oracle import momenta
from scipy.special import logsumexp
from scipy.stats import kstest, multivariate_normal, multivariate_t

import flowcei
from flowcei.errors import DataError, NoDensityError
from flowcei.experiment.likelihood import Likelihood
from flowcei.physics.priors import build_prior
from flowcei.posterior.laplace import local_covariance, shape_of
from flowcei.posterior.refinement import CONVERGED
from oracles.mixtures import StudentMixture
from oracles.reference import ProposalRules, exhaustive_modes, reference_posterior, turned_starts

DATA = Path(__file__).parents[1] / "data"
NAMES = ("ocs-equilibrium", "ocs-broad", "ch2o")


def _log_average_of_rotations(matrices: np.ndarray) -> np.ndarray:
    from inner import from_python

    from flowcei.physics._rotations import log_average, proper_singular_values

    average, values = from_python(log_average), from_python(proper_singular_values)
    return np.array([average(*values(matrix.copy())) for matrix in matrices])


def read(name: str) -> flowcei.PosteriorSamples:
    return flowcei.read_samples(DATA / f"reference-{name}.h5")


def internal(x: np.ndarray) -> np.ndarray:
    """Return all distances of geometries (..., N, 3)."""
    first, second = np.triu_indices(x.shape[-2], 1)
    return np.linalg.norm(x[..., first, :] - x[..., second, :], axis=-1)


@dataclass
class BruteForce:
    """The posterior of the distances of OCS, by weighing draws of the prior."""

    shape: np.ndarray
    weight: np.ndarray
    log_evidence: float
    error: float

    @property
    def ess(self) -> float:
        return 1.0 / (self.weight**2).sum()


def brute_force(sample: flowcei.PosteriorSamples, event: int, draws: int) -> BruteForce:
    """Weigh draws of the prior by their likelihood, averaged over all orientations.

    The noise of centred momenta is the same along each axis, so the likelihood of a turn R is
    exp(trace(R^T M)), whose mean over all R is the constant of the matrix Fisher
    distribution (tested against quadrature in test_priors). No search, no mode, no proposal.
    """
    molecule, known = sample.molecule, sample.likelihood
    x = sample.prior.sample(draws, np.random.default_rng(event))
    f = flowcei.asymptotic_momenta(x.astype(np.float32), molecule.masses, molecule.charges, accuracy=3e-6)
    f, q = known.whitening @ f.astype(np.float64), known.whitening @ known.measured[event]
    level = sample.sigma[event] / np.sqrt((sample.momenta[event] ** 2).mean())
    # rms of all components of centred momenta, and so the noise, from the momenta themselves.
    plain = np.linalg.pinv(known.whitening) @ f
    sigma = level * np.sqrt((plain**2).mean(axis=(1, 2)))
    squares = (f**2).sum(axis=(1, 2)) + (q**2).sum()
    overlap = np.einsum("ria,ib->rab", f, q)
    # trace of the best turn, at most the nuclear norm: only draws near the event are averaged.
    top = np.linalg.svd(overlap, compute_uv=False).sum(axis=1)
    near = (squares - 2.0 * top) / sigma**2 < 80.0
    s = sigma[near]
    log_weight = (
        _log_average_of_rotations(overlap[near] / s[:, None, None] ** 2)
        - 0.5 * squares[near] / s**2
        - 6.0 * (np.log(s) + 0.5 * np.log(2.0 * np.pi))
        + known._log_volume
    )
    total = logsumexp(log_weight)
    weight = np.exp(log_weight - total)
    error = np.sqrt((weight**2).sum())
    return BruteForce(internal(x[near]), weight, total - np.log(draws), error)


@pytest.mark.parametrize(("name", "event"), [("ocs-equilibrium", 2), ("ocs-equilibrium", 0)])
def test_equilibrium_events_against_brute_force(name: str, event: int) -> None:
    check_brute_force(name, event, 1_000_000)


@pytest.mark.parametrize("event", [1, 12])
def test_broad_events_with_two_geometries_against_brute_force(event: int) -> None:
    check_brute_force("ocs-broad", event, 2_000_000)


def check_brute_force(name: str, event: int, draws: int) -> None:
    """Evidence, means, deviations and shares of either mode agree within their errors."""
    sample = read(name)
    truth = brute_force(sample, event, draws)
    assert truth.ess > 150
    origin = sample.origin
    off = origin["log_evidence"][event] - truth.log_evidence
    assert abs(off) < 4.0 * np.hypot(truth.error, origin["log_evidence_error"][event])
    found = internal(sample.positions[event].astype(np.float64))
    mean = truth.weight @ truth.shape
    deviation = np.sqrt(truth.weight @ (truth.shape - mean) ** 2)
    tolerance = 4.0 * np.sqrt(1.0 / truth.ess + 1.0 / len(found))
    np.testing.assert_array_less(np.abs(found.mean(axis=0) - mean), tolerance * deviation)
    # The error of a deviation is that of a mean times sqrt((kurtosis - 1) / 4).
    fourth = truth.weight @ ((truth.shape - mean) / deviation) ** 4
    bound = tolerance * np.sqrt(0.25 * (fourth - 1.0))
    np.testing.assert_array_less(np.abs(found.std(axis=0) / deviation - 1.0), bound)
    for level in (0.25, 0.5, 0.75):  # quantiles see where a second mode has too much
        for k in range(3):
            order = np.argsort(truth.shape[:, k])
            cut = truth.shape[order[np.searchsorted(truth.weight[order].cumsum(), level)], k]
            assert (
                abs((found[:, k] <= cut).mean() - level) < tolerance * np.sqrt(level * (1.0 - level)) + 1e-3
            )


def test_brute_force_fails_on_a_wrong_posterior() -> None:
    """Samples of another event, or the noise of another detector, are noticed."""
    sample = read("ocs-equilibrium")
    wrong = replace(sample, sigma=1.3 * sample.sigma)
    truth = brute_force(wrong, 0, 1_000_000)
    off = sample.origin["log_evidence"][0] - truth.log_evidence
    assert abs(off) > 4.0 * np.hypot(truth.error, sample.origin["log_evidence_error"][0])


def test_formaldehyde_against_markov_chains() -> None:
    """Random-walk Metropolis in all nine dimensions, 200 chains: means and deviations of distances."""
    sample = read("ch2o")[:1]
    known, prior, rng = sample.likelihood, sample.prior, np.random.default_rng(8)
    chains, steps, burn = 200, 300, 150
    truth = np.array(sample.origin["truth"])[:1]
    covariance, _ = local_covariance(known, truth, np.arange(1))
    # Positions with the centre of mass at 0: a symmetric step of nine dimensions, in twelve numbers.
    values, axes = np.linalg.eigh(covariance)
    factor = (2.38 / 3.0) * axes * np.sqrt(values.clip(0.0))[:, None]

    def log_target(x: np.ndarray) -> np.ndarray:
        return prior.log_prob(x.reshape(-1, 4, 3)).reshape(1, chains) + known.log_prob(x, threads=1)

    x = np.repeat(truth[:, None], chains, axis=1)
    level, kept = log_target(x), []
    for step in range(steps):
        trial = x + (rng.standard_normal((1, chains, 12)) @ np.swapaxes(factor, 1, 2)).reshape(x.shape)
        found = log_target(trial)
        taken = np.log(rng.random((1, chains))) < found - level
        x, level = np.where(taken[..., None, None], trial, x), np.where(taken, found, level)
        if step >= burn:
            kept.append(internal(x))
    walked = np.stack(kept, axis=2)  # (1, chains, steps, 6): chains are independent
    exact = internal(sample.positions.astype(np.float64))
    deviation = exact.std(axis=1)
    of_chains = walked.mean(axis=2)
    error = np.hypot(of_chains.std(axis=1) / np.sqrt(chains), deviation / np.sqrt(exact.shape[1]))
    z = (of_chains.mean(axis=1) - exact.mean(axis=1)) / error
    assert np.abs(z).max() < 4.0
    np.testing.assert_allclose(walked.std(axis=(1, 2)) / deviation, 1.0, atol=0.15)


@pytest.mark.parametrize("name", NAMES)
def test_fixtures_hold_what_they_say(name: str) -> None:
    """Shapes, centre of mass, density: samples weigh the same, and that is the evidence."""
    sample = read(name)
    e, n = sample.positions.shape[:2]
    assert (e, n) == (5 if name == "ch2o" else 20, 500)
    centre = np.einsum("i,enix->enx", sample.molecule.masses, sample.positions) / sample.molecule.masses.sum()
    assert np.abs(centre).max() < 1e-5
    weights = sample.weigh().weights
    assert weights is not None
    expected = np.array(sample.origin["log_evidence"])[:, None]
    # Single precision of positions, and of the simulator at this noise, moves densities a little.
    np.testing.assert_allclose(weights.log_weights, np.broadcast_to(expected, (e, n)), atol=0.02)
    assert min(sample.origin["ess"]) > 4 * n
    assert max(sample.origin["k_hat"]) < 0.7
    assert max(sample.origin["log_evidence_error"]) < 0.02
    # Few are drawn twice: the samples are as good as independent.
    distinct = [len(np.unique(x.reshape(n, -1), axis=0)) for x in sample.positions]
    assert min(distinct) > 0.98 * n


def test_fixtures_are_small() -> None:
    assert sum(path.stat().st_size for path in DATA.glob("reference-*.h5")) < 1.5e6


@pytest.mark.parametrize("name", NAMES)
def test_the_truth_is_a_sample_of_the_reference_posterior(name: str) -> None:
    """Of the log density of 20 (or 5) truths among their samples every rank is as likely."""
    sample = read(name)
    truth = np.array(sample.origin["truth"])[:, None]
    log_prob = (
        sample.prior.log_prob(truth[:, 0])
        + sample.likelihood.log_prob(truth)[:, 0]
        - np.array(sample.origin["log_evidence"])
    )
    rank = (sample.log_prob < log_prob[:, None]).mean(axis=1)
    assert abs(rank.mean() - 0.5) < 4.0 / np.sqrt(12.0 * len(rank))
    assert (rank > 0.0).all()


@pytest.mark.parametrize("name", NAMES)
def test_modes_of_the_fixture_are_found_again(name: str) -> None:
    """By other and fewer starts; and each explains the momenta to the last digits (SciPy)."""
    sample = read(name)
    found = exhaustive_modes(sample.prior, sample.likelihood, sample.molecule, starts=300, seed=99, threads=1)
    for mode in sample.origin["modes"]:
        own = found.of(mode["event"])
        own = own[found.status[own] == CONVERGED]
        off = np.abs(shape_of(found.positions[own]) - shape_of(np.array(mode["positions"])[None])).max(axis=1)
        assert off.min() < 1e-4
    mode = sample.origin["modes"][0]
    masses, charges = sample.molecule.masses, sample.molecule.charges
    simulated = momenta(np.array(mode["positions"]), masses, charges)
    measured = sample.likelihood.measured[mode["event"]]
    assert np.linalg.norm(simulated - measured) < 1e-6 * np.linalg.norm(measured)


def test_two_geometries_have_their_shares_of_the_samples() -> None:
    """Laplace's masses of the two modes, each normal about it, are the shares of the samples."""
    sample, event = read("ocs-broad"), 1
    modes = [m for m in sample.origin["modes"] if m["event"] == event]
    assert len(modes) == 2
    form = internal(sample.positions[event].astype(np.float64))
    off = [np.abs(form - internal(np.array(m["positions"]))).max(axis=1) for m in modes]
    share = (off[0] < off[1]).mean()
    mass = np.array([m["mass"] for m in modes])
    assert share == pytest.approx(mass[0] / mass.sum(), abs=0.08)


def test_the_flow_has_the_same_evidence_and_means() -> None:
    """The bundled flow's importance weights: an independent proposal for the same posterior."""
    sample = read("ocs-equilibrium")
    events = flowcei.Events(sample.molecule, sample.momenta, sigma=sample.sigma)
    drawn = flowcei.load().sample(events, 4_000, seed=3).weigh()
    assert drawn.weights is not None
    error = np.hypot(drawn.weights.log_evidence_error, sample.origin["log_evidence_error"])
    z = (drawn.weights.log_evidence - np.array(sample.origin["log_evidence"])) / error
    assert np.abs(z).max() < 4.0
    assert 0.4 < (z**2).mean() < 2.0  # 20 degrees of freedom: the errors themselves are right
    deviation = sample.positions.std(axis=1, dtype=np.float64)
    left = (drawn.mean() - sample.mean()) / deviation
    expected = np.sqrt(1.0 / drawn.weights.ess + 1.0 / sample.positions.shape[1])
    z = left / expected[:, None, None]
    assert np.abs(z).max() < 4.5
    assert (z**2).mean() < 1.5


def test_too_few_effective_samples_are_said() -> None:
    """One bad proposal that nothing adapts: the answer says that it is none."""
    sample = read("ocs-broad")[:2]
    rules = ProposalRules(rounds=0, near=0.1, wide=0.1, samples=2_000)
    exact = reference_posterior(
        sample.prior, sample.likelihood, sample.molecule, n=200, seed=1, starts=50, threads=1, rules=rules
    )
    assert not exact.succeeded.any()


def test_a_seed_fixes_the_answer_and_another_agrees() -> None:
    sample = read("ocs-broad")[:2]
    tables = (sample.prior, sample.likelihood, sample.molecule)
    first, again, other = (
        reference_posterior(*tables, n=50, seed=seed, starts=100, threads=1) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.positions, again.positions)
    error = np.hypot(first.weights.log_evidence_error, other.weights.log_evidence_error)
    assert (np.abs(first.log_evidence - other.log_evidence) < 4.0 * error).all()


def test_starts_have_the_measured_energy_and_the_best_turn() -> None:
    """Turned by any other small rotation, the momenta of a start are farther from the measured."""
    sample = read("ch2o")[:2]
    molecule, measured = sample.molecule, sample.likelihood.measured
    x = turned_starts(sample.prior, sample.likelihood, molecule, starts=6, seed=1)
    p = flowcei.asymptotic_momenta(x.reshape(-1, 4, 3), molecule.masses, molecule.charges).reshape(x.shape)

    def energy(q: np.ndarray) -> np.ndarray:
        return (0.5 * (q**2).sum(axis=-1) / molecule.masses).sum(axis=-1)

    np.testing.assert_allclose(energy(p), np.broadcast_to(energy(measured)[:, None], (2, 6)), rtol=1e-5)
    best = ((p - measured[:, None]) ** 2).sum(axis=(2, 3))
    for axis in np.eye(3):
        for angle in (-0.02, 0.02):
            turn = np.eye(3) + np.sin(angle) * np.cross(np.eye(3), axis)
            turn += (1.0 - np.cos(angle)) * (np.outer(axis, axis) - np.eye(3))
            assert (((p @ turn - measured[:, None]) ** 2).sum(axis=(2, 3)) > best).all()


def test_priors_without_density_and_events_without_noise_are_refused() -> None:
    sample = read("ocs-equilibrium")[:1]
    ball = build_prior(sample.molecule, "cube")
    with pytest.raises(NoDensityError, match="cube"):
        reference_posterior(ball, sample.likelihood, sample.molecule, seed=1)
    silent = Likelihood(sample.molecule.masses, sample.molecule.charges, sample.momenta, np.zeros(1))
    with pytest.raises(DataError, match="event 0 has no noise"):
        reference_posterior(sample.prior, silent, sample.molecule, seed=1)
    assert exhaustive_modes(ball, sample.likelihood, sample.molecule, starts=20, seed=1).count()[0] >= 1


def test_a_mixture_has_the_density_of_scipy_and_of_its_draws() -> None:
    rng = np.random.default_rng(5)
    centre, scale = rng.normal(size=(3, 4)), np.stack([np.diag(rng.uniform(0.5, 2.0, 4)) for _ in range(3)])
    scale[1] += 0.3
    share = np.array([0.2, 0.3, 0.5])
    mixture = StudentMixture.of(centre, scale, share)
    x = rng.normal(size=(50, 4))
    known = sum(
        s * multivariate_t.pdf(x, loc=c, shape=a, df=5) for s, c, a in zip(share, centre, scale, strict=True)
    )
    np.testing.assert_allclose(mixture.log_prob(x), np.log(known), rtol=1e-10)
    # Importance sampling of a normal density integrates to one: draws belong to the density.
    y = mixture.draw(200_000, rng)
    weight = multivariate_normal.pdf(y, np.zeros(4), 0.5 * np.eye(4)) / np.exp(mixture.log_prob(y))
    assert weight.mean() == pytest.approx(1.0, abs=4.0 * weight.std() / np.sqrt(len(y)))


def test_likelihood_of_the_file_is_that_of_the_events() -> None:
    """Momenta of the file are those of its true geometries, by the oracle, with noise of 1 %."""
    sample = read("ocs-broad")
    ocs, truth = sample.molecule, np.array(sample.origin["truth"])
    exact = np.array([momenta(x, ocs.masses, ocs.charges) for x in truth])
    pull = (sample.momenta - exact) / (0.01 * np.sqrt((exact**2).mean(axis=(1, 2))))[:, None, None]
    assert kstest(pull.ravel(), "norm").pvalue > 1e-3
    sigma = 0.01 * np.sqrt((sample.momenta**2).mean(axis=(1, 2)))
    own = Likelihood(ocs.masses, ocs.charges, sample.momenta, sigma)
    np.testing.assert_allclose(sample.likelihood.measured, own.measured, rtol=1e-6)
    np.testing.assert_allclose(sample.sigma, sigma, rtol=1e-6)
