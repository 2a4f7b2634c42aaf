"""Molecules that vibrate as they explode: Wigner's momenta, and what a likelihood makes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import ks_2samp, multivariate_normal

import flowcei
from flowcei.check.comparison import predicted_momenta
from flowcei.check.file import check_file
from flowcei.ensemble.coordinates import chart_of
from flowcei.ensemble.laws import NormalLaw
from flowcei.ensemble.prediction import LawPrior, selection_of
from flowcei.errors import UsageError
from flowcei.evaluation.floor import information_floor
from flowcei.evaluation.scores import SCORES, Answers, TestSet, evaluate
from flowcei.experiment.covariance import AssignedLikelihood
from flowcei.experiment.measurement import Measurement
from flowcei.experiment.missing import completed, lost_column
from flowcei.experiment.moving import MovingLikelihood
from flowcei.physics.explosion import COULOMB, kinetic_energy
from flowcei.physics.priors import NormalModesPrior, build_prior
from flowcei.plot.geometry import predicted
from flowcei.posterior.samples import PosteriorSamples

WATER = flowcei.Molecule.load("h2o")
Knows = Callable[[flowcei.Events, flowcei.Events], tuple[bool, bool]]
HARTREE_PER_WAVENUMBER, KELVIN = 4.556335252912e-6, 3.1668115634556e-6


def _spec(temperature: float = 0.0) -> dict:
    """Return modes of water with springs for bonds and angle, by differences of their energy."""
    x0, root = WATER.equilibrium, np.repeat(np.sqrt(WATER.masses), 3)

    def shape(y: np.ndarray) -> np.ndarray:
        a, b = y.reshape(3, 3)[1:] - y.reshape(3, 3)[0]
        ra, rb = np.linalg.norm(a), np.linalg.norm(b)
        return np.array([ra, rb, np.arccos(a @ b / (ra * rb))])

    steps = 1e-4 * np.eye(9)
    slope = np.array([(shape(x0.ravel() + s) - shape(x0.ravel() - s)) / 2e-4 for s in steps])
    hessian = slope @ np.diag([0.54, 0.54, 0.16]) @ slope.T / root / root[:, None]
    square, vectors = np.linalg.eigh(hessian)
    numbers = np.sqrt(square[-3:]) / HARTREE_PER_WAVENUMBER
    modes = (vectors[:, -3:].T / root).reshape(3, 3, 3)
    table = {"kind": "normal_modes", "wavenumbers": numbers.tolist(), "modes": modes.tolist()}
    return table | {"temperature": temperature, "motion": True}


@pytest.mark.parametrize("temperature", [0.0, 3000.0])
def test_quadratures_are_those_of_wigner(temperature: float) -> None:
    """Of each mode mean, variance and independence; half of the energy is kinetic, at 0 K of h omega / 2."""
    spec = _spec(temperature)
    prior = build_prior(WATER, spec)
    assert isinstance(prior, NormalModesPrior)
    assert build_prior(WATER, prior.spec()).spec() == spec
    n = 40_000
    x, p = prior.sample_moving(n, np.random.default_rng(1))
    rest = build_prior(WATER, spec | {"motion": False})
    np.testing.assert_allclose(rest.sample(n, np.random.default_rng(1)), x, atol=1e-12)
    omega = np.array(spec["wavenumbers"]) * HARTREE_PER_WAVENUMBER
    warm = 1.0 / np.tanh(omega / (2.0 * KELVIN * temperature)) if temperature else np.ones(3)
    kinetic = (p**2 / (2.0 * WATER.masses[:, None])).sum(axis=(1, 2))
    assert kinetic.mean() == pytest.approx((omega * warm).sum() / 4.0, rel=0.01)
    np.testing.assert_allclose(p.sum(axis=1), 0.0, atol=1e-9)
    # Back in the frame of the equilibrium, by the rotation that both share.
    mass = WATER.masses[:, None]
    outer = np.swapaxes(x * mass, 1, 2) @ prior.equilibrium
    u, _, vt = np.linalg.svd(outer)
    u[..., -1] *= np.linalg.det(u @ vt)[:, None]
    turn = u @ vt
    rows = np.array(spec["modes"]).reshape(3, -1) * np.repeat(np.sqrt(WATER.masses), 3)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    q = ((x @ turn - prior.equilibrium) * np.sqrt(mass)).reshape(n, -1) @ rows.T
    pace = (p @ turn / np.sqrt(mass)).reshape(n, -1) @ rows.T
    several = 5.0 / np.sqrt(n)
    np.testing.assert_allclose(pace.var(axis=0), omega * warm / 2.0, rtol=2.0 * several)
    np.testing.assert_allclose(q.var(axis=0), warm / (2.0 * omega), rtol=2.0 * several + 0.01)  # curvature
    assert np.abs(np.corrcoef(np.hstack([q, pace]).T) - np.eye(6)).max() < several
    np.testing.assert_allclose(np.trace(prior.momentum_covariance), (p**2).sum(axis=(1, 2)).mean(), rtol=0.01)


def _samples(
    events: flowcei.Events,
    spec: dict,
    bonds: np.ndarray,
    log_prob: np.ndarray,
    own: flowcei.Experiment | None = None,
) -> PosteriorSamples:
    """Return bond vectors (E, n, 6) and their log density as if a model had drawn them."""
    x = np.pad(bonds.reshape(*bonds.shape[:2], 2, 3), ((0, 0), (0, 0), (1, 0), (0, 0)))
    x -= np.einsum("i,enij->enj", WATER.masses / WATER.masses.sum(), x)[:, :, None]
    origin = {"prior": spec, "noise_relative": True} | ({"experiment": own.to_dict()} if own else {})
    number, columns = np.arange(len(events)), events.columns
    return PosteriorSamples(
        WATER, events.momenta, x, log_prob, number, events.sigma, origin=origin, columns=columns
    )


def _draws(
    events: flowcei.Events, spec: dict, own: flowcei.Experiment | None = None, n: int = 200
) -> PosteriorSamples:
    """Return Student draws about the truth, made as wide as the posterior in some rounds of weighing."""
    rng = np.random.default_rng(2)
    mean = (events.positions[:, 1:] - events.positions[:, :1]).reshape(len(events), 6)
    root = np.tile(0.08 * np.eye(6), (len(events), 1, 1))
    for _ in range(5):
        unit = rng.standard_normal((len(events), n, 6)) * np.sqrt(
            5.0 / rng.chisquare(5.0, (len(events), n, 1))
        )
        bonds = mean[:, None] + np.einsum("eij,enj->eni", root, unit)
        log_prob = -5.5 * np.log1p((unit**2).sum(axis=2) / 5.0) - np.linalg.slogdet(root)[1][:, None]
        out = _samples(events, spec, bonds, log_prob, own)
        weight = out.log_posterior(out.positions) - log_prob
        for power in (1.0, 0.5, 0.25, 0.12, 0.06, 0.03):
            w = np.exp(power * (weight - weight.max(axis=1, keepdims=True)))
            w /= w.sum(axis=1, keepdims=True)
            if np.median(1.0 / (w**2).sum(axis=1)) > 40.0:
                break
        mean = np.einsum("en,eni->ei", w, bonds)
        away = bonds - mean[:, None]
        root = np.linalg.cholesky(np.einsum("en,eni,enj->eij", w, away, away) + 1e-5 * np.eye(6))
    return out


def _covered(samples: PosteriorSamples, truth: np.ndarray) -> tuple[float, float]:
    """Return the share of true distances in the central 50 and 90 % of weighed draws."""
    weights = samples.weights
    assert weights is not None
    w = np.exp(weights.log_weights - weights.log_weights.max(axis=1, keepdims=True))
    w /= w.sum(axis=1, keepdims=True)
    pairs = [(0, 1), (0, 2), (1, 2)]
    far = [
        [np.linalg.norm(x[..., i, :] - x[..., j, :], axis=-1) for i, j in pairs]
        for x in (samples.positions, truth)
    ]
    rank = np.array([((d < t[:, None]) * w).sum(axis=1) for d, t in zip(*far, strict=True)])
    return float((np.abs(rank - 0.5) < 0.25).mean()), float((np.abs(rank - 0.5) < 0.45).mean())


def test_weights_cover_the_truth_where_motion_is_stated() -> None:
    """Near 50 and 90 % with the motion, far below as if at rest; the flow is not asked.

    Of molecules at rest, of which every second event lacks a hydrogen.
    """
    spec, own = _spec(), flowcei.Experiment(noise="1%", spread=0.0)
    events = flowcei.simulate(WATER, 100, prior=spec, experiment=own, seed=5)
    lost = np.zeros((100, 3), bool)
    lost[::2, 1] = True
    events = replace(events, momenta=completed(events.momenta, lost), columns={"lost_ion": lost_column(lost)})
    half, most = _covered(_draws(events, spec, own).weigh(), events.positions)
    assert abs(half - 0.5) < 0.11  # three deviations of 300 distances, as if of 200
    assert abs(most - 0.9) < 0.065
    still = spec | {"motion": False}
    assert _covered(_draws(events[:30], still, own).weigh(), events.positions[:30])[1] < 0.6


@pytest.fixture(scope="module")
def exploded() -> tuple[np.ndarray, np.ndarray]:
    """Return a geometry and exact momenta of 20,000 explosions of it with drawn motion."""
    prior = build_prior(WATER, _spec())
    rng = np.random.default_rng(7)
    x, p = prior.sample_moving(20_000, rng)
    turn = _turns(x, x[0])  # motion is of the frame of the equilibrium, which all share
    many = np.tile(x[0], (len(x), 1, 1))
    ions = WATER.masses, WATER.charges
    return x[0], flowcei.asymptotic_momenta(many, *ions, initial_momenta=p @ turn, accuracy=1e-6)


def _turns(x: np.ndarray, to: np.ndarray) -> np.ndarray:
    """Return rotations (B, 3, 3) of rows that bring geometries nearest to one, by way of the equilibrium."""

    def turn(y: np.ndarray) -> np.ndarray:
        u, _, vt = np.linalg.svd(np.swapaxes(y * WATER.masses[:, None], -2, -1) @ WATER.equilibrium)
        u[..., -1] *= np.linalg.det(u @ vt)[..., None]
        return u @ vt

    return turn(x) @ np.swapaxes(turn(to), -2, -1)


@pytest.mark.parametrize(
    ("spread", "lost"),
    [
        ([0.0, 1.5, 3.0], []),
        ([0.0, np.inf, 3.0], []),
        ([np.inf] * 3, []),
        ([1.0, 1.5, 0.0], [1]),
        ([1.0, 1.5, 0.0], [0, 1]),
    ],
)
def test_the_density_is_the_mean_over_all_motions(
    exploded: tuple[np.ndarray, np.ndarray], spread: list[float], lost: list[int]
) -> None:
    """Of all momenta, or of those of the ions that were detected, for a known source or a wide one."""
    x, ends = exploded
    rng, noise = np.random.default_rng(8), np.array([[4.0, 3.0, 5.0], [2.5, 3.0, 2.0], [3.0, 2.0, 2.5]])
    shares, wide = WATER.masses / WATER.masses.sum(), 1e5
    own = Measurement(shares, noise, relative=False, drift=np.zeros(3), spread=np.array(spread))
    width = np.where(np.isinf(spread), wide, spread)
    y = ends[:3] + noise * rng.standard_normal((3, 3, 3)) + shares[:, None] * np.minimum(width, 5.0)
    gone = np.isin(np.arange(3), lost)
    missing = np.tile(gone, (3, 1)) if lost else None
    found = MovingLikelihood(WATER, y, own, _spec(), missing).log_prob(np.tile(x, (3, 1, 1, 1)))[:, 0]
    seen = np.repeat(~gone, 3)
    source = np.kron(shares[:, None], np.eye(3)) * width
    law = multivariate_normal(cov=(np.diag(noise.ravel() ** 2) + source @ source.T)[np.ix_(seen, seen)])
    each = law.logpdf((y.reshape(3, 1, 9) - ends.reshape(1, -1, 9))[..., seen])
    expected = logsumexp(each, axis=1) - np.log(len(ends))
    expected += np.isinf(spread).sum() * np.log(wide * np.sqrt(2.0 * np.pi))
    np.testing.assert_allclose(found, expected, atol=0.15)


def test_floors_have_the_motion(exploded: tuple[np.ndarray, np.ndarray]) -> None:
    """Of samples and of true positions: the information of momenta with the covariance of drawn ones."""
    x, ends = exploded
    own = flowcei.Experiment(noise="2", spread=0.0)
    slope = flowcei.momenta_jacobian(x, WATER.masses, WATER.charges)[:, 3:]
    covariance = np.linalg.inv(
        slope.T @ np.linalg.inv(np.cov(ends.reshape(-1, 9).T) + 4.0 * np.eye(9)) @ slope
    )
    shift = (np.eye(3) - WATER.masses / WATER.masses.sum())[:, 1:]
    covariance = np.kron(shift, np.eye(3)) @ covariance @ np.kron(shift, np.eye(3)).T
    expected = np.sqrt(np.diag(covariance).reshape(3, 3).sum(axis=1))
    events = flowcei.Events(WATER, ends[:1].astype(float), sigma=np.full(1, 2.0))
    bonds = (x[1:] - x[:1]).reshape(1, 1, 6)
    np.testing.assert_allclose(
        _samples(events, _spec(), bonds, np.zeros((1, 1)), own).floor()[0], expected, rtol=0.03
    )
    true = information_floor(WATER, x[None], 2.0, motion=_spec()).variance[0].sum(axis=1)
    np.testing.assert_allclose(np.sqrt(true), expected, rtol=0.03)


def test_the_likelihood_is_that_of_drawn_momenta() -> None:
    """Chi squared of explosions with drawn motion is of six numbers; turned, all is the same.

    Where noise is a twentieth of the motion, to first order 20, without the mean of the second 6.3.
    """
    spec = _spec()
    prior = build_prior(WATER, spec)
    x, ions, rng = prior.equilibrium, (WATER.masses, WATER.charges), np.random.default_rng(4)
    start = rng.multivariate_normal(np.zeros(9), prior.momentum_covariance, 20_000).reshape(-1, 3, 3)
    many = np.tile(x, (len(start), 1, 1))
    ends = flowcei.asymptotic_momenta(many, *ions, initial_momenta=start, accuracy=1e-8)
    ends, level = ends + 0.1 * rng.standard_normal(ends.shape), np.full(len(ends), 0.1)
    square = MovingLikelihood.of_level(WATER, ends, level, spec).chi_squared(many[:, None])
    assert abs(square.mean() - 6.0) < 3.0 * square.std() / np.sqrt(len(square)) < 0.15
    turn = np.linalg.qr(np.random.default_rng(5).standard_normal((3, 3)))[0]
    turn *= np.linalg.det(turn)
    once = MovingLikelihood.of_level(WATER, ends[:3], np.full(3, 0.3), spec)
    turned = MovingLikelihood.of_level(WATER, ends[:3] @ turn.T, np.full(3, 0.3), spec)
    many = x + 0.1 * np.random.default_rng(6).standard_normal((3, 5, 3, 3))
    np.testing.assert_allclose(once.log_prob(many), turned.log_prob(many @ turn.T), atol=1e-3)


@pytest.mark.parametrize("lost", [[], [0, 1]])
def test_trials_far_away_end_nothing(lost: list[int]) -> None:
    """Whatever a chain tries: ions that hardly repel each other, at one place, or nowhere."""
    own, gone = flowcei.Experiment(noise="1%", spread=0.0).of(WATER), np.isin(np.arange(3), lost)[None]
    y = flowcei.asymptotic_momenta(WATER.equilibrium[None], WATER.masses, WATER.charges)
    likelihood = MovingLikelihood(WATER, y, own, _spec(), gone if lost else None)
    scales = [1.0, 1e2, 1e4, 1e8, 1e15, 1e300, 0.0]
    x = [*(WATER.equilibrium * scale for scale in scales), np.full((3, 3), np.inf), np.full((3, 3), np.nan)]
    found = likelihood.log_prob(np.array([x]))[0]
    assert found[0] > -10.0
    assert (found[1:] < found[0] - 20.0).all()


def test_what_motion_adds_changes_with_the_geometry() -> None:
    """Chi squared of true geometries that vibrate is of six numbers: with that of the equilibrium 9.4."""
    spec = _spec()
    events = flowcei.simulate(WATER, 1000, prior=spec, noise="0.1%", seed=3)
    own = MovingLikelihood.of_level(WATER, events.momenta, events.sigma, spec)
    square = own.chi_squared(events.positions[:, None])
    assert abs(square.mean() - 6.0) < 3.0 * square.std() / np.sqrt(len(square))


def test_predictions_of_samples_move() -> None:
    """Exploded again, true geometries have momenta that scatter as those of the events do."""
    spec = _spec()
    events = flowcei.simulate(WATER, 400, prior=spec, noise="0.01%", seed=3)
    bonds = (events.positions[:, 1:] - events.positions[:, :1]).reshape(400, 1, 6)
    sets = predicted(_samples(events, spec, bonds, np.zeros((400, 1))))
    rest = flowcei.asymptotic_momenta(events.positions, WATER.masses, WATER.charges)
    far = [((one.momenta - rest) ** 2).mean(axis=(0, 2)) for one in sets.values()]
    np.testing.assert_allclose(far[0], far[1], rtol=0.25)  # five deviations of 1,200 squares


def _checked(events: flowcei.Events, _: flowcei.Events) -> tuple[bool, bool]:
    """Return whether positions explain momenta; and momenta 5 % too large, or those that began at rest."""
    others = replace(events, momenta=1.05 * events.momenta), replace(events, origin={})
    clean = [check_file(each).verdict.startswith("sound: 0 errors, 0 w") for each in (events, *others)]
    return clean[0], any(clean[1:])


def _compared(events: flowcei.Events, own: flowcei.Events) -> tuple[bool, bool]:
    """Return whether re-simulated true geometries are off by as much as momenta of another explosion are."""
    truth = next(score for score in SCORES if score.name == "resimulation_truth")
    off = [
        evaluate([truth], Answers(test := TestSet.of(e, e.positions), test.lab[:, None]))[truth.name]
        for e in (events, replace(events, origin={}))
    ]
    again = np.linalg.norm(own.momenta - events.momenta, axis=(1, 2)) / np.linalg.norm(
        events.momenta, axis=(1, 2)
    )
    same = [abs(np.nanmedian(each) / np.median(100.0 * again) - 1.0) < 0.08 for each in off]
    return same[0], same[1]


def _predicted(events: flowcei.Events, _: flowcei.Events) -> tuple[bool, bool]:
    """Return whether a law with the widths of the prior predicts the run, and one of atoms at rest does."""
    energies, rng = [kinetic_energy(events.momenta, WATER.masses)], np.random.default_rng(3)
    for spec in (_spec(), _spec() | {"motion": False}):
        chart = chart_of(WATER, build_prior(WATER, spec), ())
        normal = NormalLaw(np.ones(1), np.zeros((1, 3)), np.eye(3)[None], chart.bends)
        law = LawPrior(partial(chart.geometries, normal), chart.prior)
        energies.append(kinetic_energy(predicted_momenta(WATER, law, 20_000, rng), WATER.masses))
    same = [ks_2samp(energies[0], each).pvalue > 0.01 for each in energies[1:]]
    return same[0], same[1]


def _gated(_: flowcei.Events, own: flowcei.Events) -> tuple[bool, bool]:
    """Return whether the share of events that a gate keeps is right, with motion and without."""
    energy = kinetic_energy(own.momenta, WATER.masses) * 27.211386
    window, out = [float(np.quantile(energy, 0.5)), 1e3], []
    for spec in (_spec(), _spec() | {"motion": False}):
        origin = {"prior": spec, "events": {"selection": {"ker_ev": window}}}
        chart = chart_of(WATER, build_prior(WATER, spec), ())
        ensemble = SimpleNamespace(
            origin=origin, chart=chart, molecule=WATER, forward=COULOMB, momenta=own.momenta, sigma=own.sigma
        )
        kept = selection_of(ensemble, 0).kept  # type: ignore[arg-type, union-attr]
        out.append(abs(kept.mean() - 0.5) < 2.0 / np.sqrt(len(energy)))
    return out[0], out[1]


@pytest.mark.parametrize("knows", [_checked, _compared, _predicted, _gated])
def test_commands_that_simulate_or_test_know_of_motion(knows: Knows) -> None:
    """What `check`, `compare` and `population` say is right with motion, and would be wrong without it."""
    prior, rng = build_prior(WATER, _spec()), np.random.default_rng(2)
    x, p = prior.sample_moving(4000, rng)
    # Two explosions of the same geometry: the momenta at the start of another, turned into its frame.
    other = prior.sample_moving(4000, rng)
    p = [p, np.einsum("bij,bjk->bik", other[1], _turns(other[0], x))]
    ends = [flowcei.asymptotic_momenta(x, WATER.masses, WATER.charges, initial_momenta=each) for each in p]
    ends = [each + 0.1 * rng.standard_normal(each.shape) for each in ends]
    made = {"sigma": np.full(len(x), 0.1), "origin": {"prior": _spec()}}
    events, again = (flowcei.Events(WATER, each, x, **made) for each in ends)
    assert knows(events, again) == (True, False)


def test_assignments_are_summed() -> None:
    """The likelihood is the mean of those of both assignments, of hits that keep their velocity."""
    spec, spread = _spec(), [1.0, 1.5, np.inf]
    events = flowcei.simulate(WATER, 3, prior=spec, noise="1%", seed=1)
    shares, orders = WATER.masses / WATER.masses.sum(), np.array([[0, 1, 2], [1, 0, 2]])
    own = Measurement(
        shares, np.full((3, 3), 0.4), relative=False, drift=np.zeros(3), spread=np.array(spread)
    )
    several = replace(own, orders=orders)
    other = events.momenta[:, [1, 0, 2]] * (shares / shares[[1, 0, 2]])[:, None]
    x = events.positions[:, None] + 0.05 * np.random.default_rng(2).standard_normal((3, 4, 3, 3))
    x[:, 2:] = x[:, 2:, [1, 0, 2]]
    each = [MovingLikelihood(WATER, p, own, spec).log_prob(x) for p in (events.momenta, other)]
    found = AssignedLikelihood(
        WATER.masses, WATER.charges, events.momenta, several, lambda p: MovingLikelihood(WATER, p, own, spec)
    ).of(np.array([0, 1, 2]))
    np.testing.assert_allclose(found.log_prob(x), logsumexp(each, axis=0) - np.log(2.0), rtol=1e-9)
    np.testing.assert_allclose(found.log_probs(x), np.array(each) - np.log(2.0), rtol=1e-9)


def test_what_motion_cannot_do_is_said() -> None:
    """Other entries and other priors are refused."""
    spec = _spec()
    with pytest.raises(UsageError, match="true or false"):
        build_prior(WATER, spec | {"motion": "yes"})
    with pytest.raises(UsageError, match="does not fit"):
        build_prior(WATER, {"kind": "displaced", "sigma": 0.1, "motion": True})
