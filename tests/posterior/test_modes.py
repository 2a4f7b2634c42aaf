"""Modes: every distinct geometry of an event, with its probability."""

from __future__ import annotations

import io
from dataclasses import replace

import ase.io
import numpy as np
import pandas as pd
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

import flowcei
from flowcei.molecules.molecule import Molecule
from flowcei.physics.explosion import asymptotic_momenta, centre_of_mass
from flowcei.physics.priors import build_prior
from flowcei.posterior.gathering import find_modes
from flowcei.posterior.laplace import ModeRules, local_covariance, shape_of
from flowcei.posterior.modes import AMBIGUOUS, UNEXPLAINED, UNIQUE, Modes
from flowcei.posterior.refinement import CONVERGED, OUTSIDE, STALLED, refine
from flowcei.posterior.samples import PosteriorSamples
from flowcei.posterior.spread import quantities
from flowcei.posterior.structures import write_means_xyz, write_modes_xyz
from flowcei.units import ANGSTROM, DALTON

APART = ModeRules(resolve=False)
ISOTOPES = replace(
    Molecule.load("ocs"), name="ocs-isotopes", masses=np.array([12.0, 15.9949146, 31.9720707]) * DALTON
)
TRIPLE = (
    (1.8949, 1.2990, 160.601),
    (2.4867739876466066, 1.075257818100003, 164.5746329841263),
    (0.9828330292144174, 2.931679982361075, 168.3020480061613),
)


def triple() -> tuple[np.ndarray, np.ndarray]:
    """The three geometries (3, 3, 3), bohr, all turned so that their momenta are one (3, 3)."""
    turned = []
    for co, cs, angle in TRIPLE:
        a = np.radians(angle)
        x = np.array([[0, 0, 0], [co, 0, 0], [cs * np.cos(a), cs * np.sin(a), 0]]) * ANGSTROM
        p = asymptotic_momenta(x, ISOTOPES.masses, ISOTOPES.charges, accuracy=1e-10)
        first = p[2] / np.linalg.norm(p[2])
        side = p[0] - (p[0] @ first) * first
        second = side / np.linalg.norm(side)
        axes = np.stack([first, second, np.cross(first, second)])
        turned.append((x - centre_of_mass(x, ISOTOPES.masses)) @ axes.T)
        momenta = p @ axes.T
    return np.array(turned), momenta


def _mixture(noise: float, n: int) -> tuple[PosteriorSamples, np.ndarray]:
    """Samples around each of the three, with their exact density: a flow that is nearly right."""
    places, momenta = triple()
    sigma = np.array([noise * np.sqrt((momenta**2).mean())])
    empty = PosteriorSamples(
        ISOTOPES, momenta[None], np.zeros((1, 0, 3, 3), np.float32), None, np.array([7]), sigma,
        origin={"prior": build_prior(ISOTOPES, "wide").spec(), "noise_relative": True},
    )  # fmt: skip
    covariance = local_covariance(empty.likelihood, places, np.zeros(3, int))[0]
    # Relative to the first ion, where densities are per bohr^6.
    shift = np.kron(np.array([[-1.0, 1, 0], [-1, 0, 1]]), np.eye(3))
    normals = [
        multivariate_normal(shift @ x.ravel(), shift @ c @ shift.T * 2.0)
        for x, c in zip(places, covariance, strict=True)
    ]
    rng = np.random.default_rng(1)
    y = np.concatenate([normal.rvs(n, random_state=rng) for normal in normals])
    log_prob = logsumexp([normal.logpdf(y) for normal in normals], axis=0) - np.log(3.0)
    x = np.concatenate([np.zeros((3 * n, 3)), y], axis=1).reshape(-1, 3, 3)
    x -= centre_of_mass(x, ISOTOPES.masses)
    order = rng.permutation(3 * n)
    drawn = replace(empty, positions=x[None, order].astype(np.float32), log_prob=log_prob[None, order])
    return drawn, places


def test_the_triple_comes_out_with_its_probabilities() -> None:
    """Each geometry to 1e-6 bohr; importance weights and prior times local volume agree."""
    drawn, places = _mixture(1e-3, 1500)
    weighed = drawn.weigh()
    found = weighed.modes()
    assert found.count().tolist() == [3]
    assert found.verdict.tolist() == [AMBIGUOUS]
    assert found.source.tolist() == ["weights"]
    away = np.abs(found.positions[:, None] - places).max(axis=(2, 3))
    assert away.min(axis=1).max() < 1e-6
    assert sorted(away.argmin(axis=1).tolist()) == [0, 1, 2]
    assert found.probability.sum() == pytest.approx(1.0)
    assert (np.diff(found.probability) <= 0).all()
    assert weighed.weights is not None
    assert weighed.weights.efficiency[0] > 0.2
    np.testing.assert_allclose(found.probability, found.laplace, atol=0.03)
    assert found.laplace.min() > 0.02
    # The model's own shares, a third each, are not the probabilities.
    shares = drawn.modes()
    assert shares.source.tolist() == ["samples"]
    np.testing.assert_allclose(shares.probability, 1 / 3, atol=0.02)


def test_a_prior_without_room_for_one_leaves_two() -> None:
    """The geometry that the prior excludes is found, said to be outside, and gets no probability."""
    drawn, _ = _mixture(1e-3, 300)
    rows = build_prior(ISOTOPES, "wide").spec()["zmatrix"]
    rows = [rows[0], rows[1] | {"length": {"uniform": [2.5, 5.0]}}, rows[2]]  # one has 0.98 angstrom
    prior = build_prior(ISOTOPES, {"kind": "internal", "zmatrix": rows})
    for samples in (drawn.weigh(prior), drawn):
        found = samples.modes(prior)
        outside = found.status == OUTSIDE
        assert outside.sum() == 1
        assert found.probability[outside].max() < 1e-6
        assert found.probability.sum() == pytest.approx(1.0)
        assert found.count(CONVERGED).tolist() == [2]


def test_few_samples_that_count_leave_the_probabilities_to_the_prior() -> None:
    """Where fewer than ten samples count, prior times local volume is what is believed."""
    drawn, _ = _mixture(1e-3, 300)
    spoiled = replace(drawn, log_prob=drawn.log_prob - 40.0 * (np.arange(900) == 5))
    found = spoiled.weigh().modes(keep_flagged=True)
    assert found.source.tolist() == ["laplace"]
    np.testing.assert_allclose(found.probability, found.laplace)


def test_local_covariance_is_that_of_refined_noise() -> None:
    """Solve many noisy measurements of one geometry: their scatter is the Laplace covariance."""
    e = flowcei.simulate("chbrclf", 1, seed=3, accuracy=1e-10)
    assert e.positions is not None
    noise = 1e-4 * np.sqrt((e.momenta**2).mean())
    rng = np.random.default_rng(2)
    noisy = e.momenta + noise * rng.standard_normal((3000, 5, 3))
    x = e.positions - centre_of_mass(e.positions, e.molecule.masses)
    drawn = PosteriorSamples(
        e.molecule, noisy, np.repeat(x[None], 3000, axis=0).astype(np.float32), None,
        np.arange(3000), np.full(3000, noise),
    )  # fmt: skip
    solved = drawn.refine()
    assert (solved.status == CONVERGED).all()
    scatter = np.cov(solved.positions[:, 0].reshape(3000, -1), rowvar=False)
    expected = local_covariance(drawn.likelihood, x, np.zeros(1, int))[0][0]
    size = np.sqrt(np.diag(expected))
    assert np.abs((scatter - expected) / np.outer(size, size)).max() < 0.1


def test_mirror_images_are_two_geometries() -> None:
    """CHBrClF and its mirror image have the same distances, but not the same momenta."""
    e = flowcei.simulate("chbrclf", 2, seed=3, accuracy=1e-10)
    assert e.positions is not None
    x = e.positions - centre_of_mass(e.positions, e.molecule.masses)
    both = np.stack([x[0], x[0] * [1.0, 1.0, -1.0]])
    momenta = np.stack([e.momenta[0], e.momenta[0] * [1.0, 1.0, -1.0]])
    drawn = PosteriorSamples(
        e.molecule, momenta, np.repeat(both[:, None], 2, axis=1).astype(np.float32), None,
        np.arange(2), np.ones(2),
    )  # fmt: skip
    found = drawn.modes()
    assert found.count().tolist() == [1, 1]
    forms = shape_of(found.positions)
    assert np.abs(forms[0] - forms[1]).max() > 0.1
    assert np.abs(forms[0, :10] - forms[1, :10]).max() < 1e-6


def test_events_near_equilibrium_are_unique() -> None:
    """Also those beside the fold of OCS at 162 degrees, where two meet: their posterior has one peak."""
    events = flowcei.simulate("ocs", 40, seed=21, accuracy=1e-9)
    assert events.positions is not None
    found = flowcei.load().sample(events.momenta, 50, noise="0.3%", seed=1, weigh=True).modes()
    assert (found.verdict == UNIQUE).all()
    x = events.positions - centre_of_mass(events.positions, events.molecule.masses)
    first = found.positions[[found.of(k)[0] for k in range(40)]]
    assert (np.abs(first - x).max(axis=(1, 2)) < 1e-5).mean() > 0.9


def test_momenta_that_nothing_can_make_are_unexplained() -> None:
    """Sulphur at rest while carbon and oxygen fly apart; exactly collinear; hardly any energy."""
    momenta = np.array(
        [
            [[200.0, 0, 0], [-200.0, 0, 0], [0, 0, 0]],
            [[1e-6, 0, 0], [1e-6, 0, 0], [-2e-6, 0, 0]],
        ]
    )
    drawn = flowcei.load().sample(momenta, 20, noise="1%", seed=1, weigh=True)
    found = drawn.modes(keep_flagged=True)
    assert (found.verdict == UNEXPLAINED).all()
    assert found.count().tolist() == [1, 1]
    assert not np.isnan(found.probability).any()
    assert drawn.flags is not None
    assert (drawn.flags > 0).all()


def _found() -> tuple[PosteriorSamples, Modes]:
    drawn, _ = _mixture(1e-3, 100)
    weighed = drawn.weigh()
    return weighed, weighed.modes()


def test_tables_say_what_was_found() -> None:
    """One row a mode: bonds in bohr, angles in degrees, deviations; positions that make the momenta."""
    drawn, found = _found()
    table = found.to_dataframe()
    assert table["event"].tolist() == [7, 7, 7]
    assert table["mode"].tolist() == [1, 2, 3]
    bonds = sorted(table["c-o"] / ANGSTROM)
    np.testing.assert_allclose(bonds, sorted(t[0] for t in TRIPLE), atol=2e-6)
    np.testing.assert_allclose(sorted(table["o-c-s"]), sorted(t[2] for t in TRIPLE), atol=2e-4)
    # Deviation of a bond by the samples around it, where they are many.
    names, values = quantities(ISOTOPES, drawn.positions[0].astype(float))
    bond = next(k for k, q in enumerate(names) if q.name == "c-o")
    row = table.iloc[0]
    near = np.abs(values[:, bond] - row["c-o"]) < 0.5
    weights = drawn.weights.normalised[0] * near  # type: ignore[union-attr]
    mean = (weights * values[:, bond]).sum() / weights.sum()
    deviation = np.sqrt((weights * (values[:, bond] - mean) ** 2).sum() / weights.sum())
    assert row["sd_c-o"] == pytest.approx(deviation, rel=0.25)
    refined = drawn.refine().to_dataframe()
    assert len(refined) == 300
    assert set(refined["status"]) == {"converged"}


def test_xyz_is_read_by_ase() -> None:
    """Symbols, angstrom, and what is known of each."""
    drawn, found = _found()
    file = io.StringIO()
    write_modes_xyz(found, file)
    file.seek(0)
    frames = ase.io.read(file, index=":", format="extxyz")
    assert len(frames) == 3
    for k, frame in enumerate(frames):
        assert frame.get_chemical_symbols() == ["C", "O", "S"]
        assert not frame.pbc.any()
        np.testing.assert_allclose(frame.positions * ANGSTROM, found.positions[k], atol=2e-8)
        known = {name: frame.info[name] for name in ("event", "mode", "unit")}
        number = int(found.number[k])
        assert known == {"event": drawn.event_id[found.event[k]], "mode": number, "unit": "angstrom"}
        for name in ("probability", "chi_squared"):
            assert frame.info[name] == pytest.approx(float(getattr(found, name)[k]), rel=1e-5)


@pytest.mark.parametrize("weigh", [True, False])
def test_means_as_xyz_are_read_by_ase(*, weigh: bool) -> None:
    """Weighted where samples were weighed; the spread is the rms distance of an atom from its mean."""
    events = flowcei.simulate("ocs", 4, noise="1%", seed=3)
    drawn = replace(flowcei.load().sample(events, 30, seed=1, weigh=weigh), event_id=np.array([2, 4, 6, 9]))
    assert drawn.flags is not None
    drawn.flags[1] = 18
    file = io.StringIO()
    write_means_xyz(drawn, file)
    file.seek(0)
    frames = ase.io.read(file, index=":", format="extxyz")
    even = np.full((4, 30), 1 / 30) if drawn.weights is None else drawn.weights.normalised
    for k, frame in enumerate(frames):
        mean = np.einsum("n,nix->ix", even[k], drawn.positions[k].astype(float))
        np.testing.assert_allclose(frame.positions * ANGSTROM, mean, atol=2e-8)
        away = ((drawn.positions[k] - mean) ** 2).sum(axis=2).mean(axis=1)
        expected = np.sqrt(even[k] @ away) / ANGSTROM
        assert frame.info["spread"] == pytest.approx(float(expected), rel=1e-5)
        assert frame.info["flags"] == ("ker;efficiency" if k == 1 else "none")
        known = {name: frame.info[name] for name in ("event", "samples", "unit")}
        assert known == {"event": drawn.event_id[k], "samples": 30, "unit": "angstrom"}


def test_table_is_plain_numbers_and_words() -> None:
    """It goes through CSV and back."""
    _, found = _found()
    table = found.to_dataframe()
    text = table.to_csv(index=False)
    again = pd.read_csv(io.StringIO(text))
    pd.testing.assert_frame_equal(again, table, check_dtype=False)


@pytest.fixture(scope="module")
def beyond_the_fold() -> PosteriorSamples:
    """Events of OCS whose noise has carried the momenta to where no geometry has them exactly."""
    events = flowcei.simulate("ocs", 500, noise="2%", seed=3)
    assert events.positions is not None
    spec = build_prior(events.molecule).spec()
    drawn = PosteriorSamples(
        events.molecule, events.momenta, events.positions[:, None].astype(np.float32), None,
        events.event_id, events.sigma, origin={"prior": spec, "noise_relative": True},
    )  # fmt: skip
    drawn = drawn[drawn.refine().status[:, 0] == STALLED]
    # From the one sample of an event a search may also go on to an exact geometry that the prior excludes.
    ends = drawn.modes()
    assert (ends.count() == 1).all()
    assert (ends.chi_squared[ends.status == OUTSIDE] < 1e-6).all()
    return drawn[ends.status == STALLED]


def test_a_nearest_miss_outside_the_prior_explains_nothing(beyond_the_fold: PosteriorSamples) -> None:
    """`unique` for the prior that has it; `unexplained` everywhere, and without probability, for another."""
    drawn = beyond_the_fold
    assert len(drawn) > 20
    found = drawn.modes()
    assert (found.verdict == UNIQUE).mean() > 0.9
    rows = build_prior(drawn.molecule, "broad").spec()["zmatrix"]
    rows = [rows[0], rows[1] | {"length": {"uniform": [3.0, 3.5]}}, rows[2]]
    other = drawn.modes(build_prior(drawn.molecule, {"kind": "internal", "zmatrix": rows}))
    assert (other.verdict == UNEXPLAINED).all()
    assert (other.probability == 0.0).all()
    assert set(other.status.tolist()) <= {OUTSIDE, STALLED}
    assert (other.status == OUTSIDE).mean() > 0.9
    assert set(other.to_dataframe()["verdict"]) == {"unexplained"}
    file = io.StringIO()
    write_modes_xyz(other, file)
    file.seek(0)
    frames = ase.io.read(file, index=":", format="extxyz")
    assert {frame.info["verdict"] for frame in frames} == {"unexplained"}
    assert {frame.info["status"] for frame in frames} <= {"left the prior", "did not converge"}


def test_a_nearest_miss_has_no_deviation_and_is_no_example(beyond_the_fold: PosteriorSamples) -> None:
    """Its derivative says how flat the miss is (2e6 bohr): cells are empty, pictures show another event."""
    sound = flowcei.load().sample(flowcei.simulate("ocs", 2, noise="1%", seed=1), 1, seed=1)
    missed = replace(beyond_the_fold, flags=None)
    plain = replace(sound, molecule=missed.molecule, log_prob=None, flags=None, origin=missed.origin)
    both = PosteriorSamples.concatenate([missed, plain])
    found = both.modes()
    table = found.to_dataframe()
    stalled = table["status"] == "did not converge"
    assert stalled.sum() == len(missed)
    uncertain = [name for name in table if name.startswith(("sd_", "corr_"))]
    assert len(uncertain) == 6
    assert table.loc[stalled, uncertain].isna().all().all()
    assert table.loc[~stalled, uncertain].notna().all().all()
    assert table.loc[~stalled, "sd_c-o"].between(0.01, 1.0).all()
    assert found.most_ambiguous >= len(missed)


def test_correlations_are_those_of_samples_around_the_mode() -> None:
    """numpy.corrcoef of samples of the local posterior, bonds and angle."""
    _, found = _found()
    table = found.to_dataframe()
    rng = np.random.default_rng(5)
    for row in range(len(found)):
        x = rng.multivariate_normal(found.positions[row].ravel(), found.covariance[row], 20_000)
        names, values = quantities(ISOTOPES, x.reshape(-1, 3, 3))
        chosen = [k for k, q in enumerate(names) if q.kind != "atom"]
        expected = np.corrcoef(values[:, chosen].T)
        for i, j in ((0, 1), (0, 2), (1, 2)):
            name = f"corr_{names[chosen[i]].name}_{names[chosen[j]].name}"
            assert table[name][row] == pytest.approx(expected[i, j], abs=0.03)


def test_a_geometry_that_misses_the_momenta_has_less_mass() -> None:
    """By exp(-chi squared / 2): Laplace's integral over a Gaussian whose peak is that much lower."""
    drawn, places = _mixture(1e-3, 60)
    ends = refine(drawn.likelihood, drawn.positions)
    first = np.abs(ends.positions - places[0]).max(axis=(2, 3)) < 1e-3
    misses = replace(ends, chi_squared=ends.chi_squared + 2.0 * first)
    odds = []
    for refinement in (ends, misses):
        found = find_modes(refinement, drawn.likelihood, log_prior=lambda x: np.zeros(len(x)), rules=APART)
        place = np.abs(found.positions[:, None] - places).max(axis=(2, 3)).argmin(axis=1)
        mass = np.bincount(place, found.laplace, minlength=3)
        odds.append(mass[0] / mass[1])
    assert 0 < first.sum() < first.size
    assert odds[1] / odds[0] == pytest.approx(np.exp(-1.0), rel=1e-6)
