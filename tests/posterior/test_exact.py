"""Exact samples: those of stored reference posteriors, from proposals that know next to nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ks_2samp, norm
from shell import Shell

import flowcei
from flowcei.errors import DataError, NoDensityError, UsageError
from flowcei.physics.priors import build_prior
from flowcei.posterior.arrays import Floats, Rows
from flowcei.posterior.exact import ACCEPTANCE, R_HAT, exact_samples
from flowcei.posterior.flags import FLAG_BITS
from flowcei.posterior.samples import PosteriorSamples
from flowcei.reconstruction.limits import check_density
from flowcei.reconstruction.model import Reconstructor

DATA = Path(__file__).parent.parent / "data"
AWAY, WIDE = 0.1, 0.3  # bohr: of a proposal from the middle of the posterior, and its deviation


def _relative(x: Floats) -> Floats:
    return (x[:, :, 1:] - x[:, :, :1]).reshape(*x.shape[:2], -1)


@pytest.mark.parametrize(("name", "count"), [("ocs-broad", 6), ("ocs-equilibrium", 4), ("ch2o", 3)])
def test_a_poor_proposal_gives_the_reference_posterior(name: str, count: int) -> None:
    """Every coordinate by the test of Kolmogorov and Smirnov, and the evidence.

    The references are of brute-force importance sampling (`bin/make-reference-posteriors`).
    """
    reference = flowcei.read_samples(DATA / f"reference-{name}.h5")[:count]
    rng = np.random.default_rng(1)
    middle = _relative(reference.positions.astype(np.float64)).mean(axis=1, keepdims=True) + AWAY

    def density(x: Floats, _: Floats | None, rows: Rows) -> Floats:
        return np.asarray(norm(middle[rows], WIDE).logpdf(_relative(x)).sum(axis=2))

    def draw(rows: Rows, n: int) -> PosteriorSamples:
        y = middle[rows] + WIDE * rng.standard_normal((len(rows), n, middle.shape[2]))
        x = np.pad(y, ((0, 0), (0, 0), (3, 0))).reshape(len(rows), n, -1, 3)
        given = {"positions": x.astype(np.float32), "log_prob": density(x, None, rows)}
        return replace(reference[rows], **given, weights=None)

    weighed = draw(np.arange(count), 500).weigh()
    assert np.median(weighed.weights.efficiency) < 0.05
    found = exact_samples(draw, density, count, 2000, reference.prior, rng)
    assert not found.flagged.any()
    assert (found.columns[R_HAT] <= 1.02).all()
    exact, given = (_relative(s.positions.astype(np.float64)) for s in (found, reference))
    p_values = np.array(
        [
            ks_2samp(a, b).pvalue
            for x, y in zip(exact, given, strict=True)
            for a, b in zip(x.T, y.T, strict=True)
        ]
    )
    assert p_values.min() > 1e-3 / p_values.size
    assert np.median(p_values) > 0.1
    ratio = np.log(exact.std(axis=1) / given.std(axis=1))
    assert np.abs(ratio).max() < 0.35
    assert abs(ratio.mean()) < 0.05  # 2,000 samples: the chance left is that of the stored reference
    density_of = found.log_posterior(found.positions) - found.log_prob
    evidence = reference.log_posterior(reference.positions) - reference.log_prob
    np.testing.assert_allclose(density_of - found.weights.log_evidence[:, None], 0.0, atol=2e-2)
    np.testing.assert_allclose(found.weights.log_evidence, np.median(evidence, axis=1), atol=0.25)


def _event(
    molecule: str, spec: str | dict, momenta: str, sigma: float, order: tuple[int, ...] = (0, 1, 2)
) -> PosteriorSamples:
    """One event of three ions, in an order, without samples."""
    mol, p = flowcei.Molecule.load(molecule), np.array(momenta.split(), float).reshape(1, 3, 3)
    blank, number, spec = np.zeros((1, 1, 3, 3), np.float32), np.zeros(1, int), build_prior(mol, spec).spec()
    noise = np.array([sigma])
    return PosteriorSamples(mol, p[:, order], blank, None, number, noise, origin={"prior": spec})


def _from_one_mode(given: PosteriorSamples, x: Floats) -> PosteriorSamples:
    """2,000 exact samples of an event, where the proposal knows one geometry (3, 3) alone."""
    middle, rng = _relative(x[None, None]) + AWAY, np.random.default_rng(1)

    def density(x: Floats, _: Floats | None, rows: Rows) -> Floats:
        return np.asarray(norm(middle[rows], WIDE).logpdf(_relative(x)).sum(axis=2))

    def draw(rows: Rows, n: int) -> PosteriorSamples:
        y = middle[rows] + WIDE * rng.standard_normal((len(rows), n, 6))
        x = np.pad(y, ((0, 0), (0, 0), (3, 0))).reshape(len(rows), n, 3, 3)
        return replace(given[rows], positions=x.astype(np.float32), log_prob=density(x, None, rows))

    return exact_samples(draw, density, 1, 2000, given.prior, rng)


def test_what_lies_beside_a_mode_outside_the_prior_is_found() -> None:
    """Of OCS: an exact geometry just beyond the longest bonds of the prior, a fifth of the posterior within.

    By weighing four million draws of the prior (`brute_force` of tests/oracles/test_reference.py): share
    0.1925, log evidence -33.90 +- 0.04; by `oracles.reference`, of 4,000 samples, 0.195 and -33.89.
    """
    event = _event("ocs", "broad", "-119.7 -182.65 -84.13 244.06 6.12 -29.54 -122.61 175.02 110.44", 1.3868)
    drawn = event.prior.sample(500, np.random.default_rng(1))[None].astype(np.float32)
    found = _from_one_mode(event, replace(event, positions=drawn).modes().positions[0])
    bond, other = _relative(found.positions.astype(float)).reshape(-1, 2, 3).swapaxes(0, 1)
    assert ((bond * other).sum(axis=1) > 0.0).mean() == pytest.approx(0.195, abs=0.03)
    assert found.weights.log_evidence[0] == pytest.approx(-33.89, abs=0.1)


def test_a_mode_that_nothing_bounds_ends_no_run() -> None:
    """Near a fold a covariance is 1e4 bohr squared and more, and 0 of the centre of mass."""
    event = _event("ocs", "broad", "8.04 79.74 -19.97 271.73 40.48 -163.07 -276.37 -114.59 185.27", 4.8242)
    rng = np.random.default_rng(1)

    def draw(rows: Rows, n: int) -> PosteriorSamples:
        x = event.prior.sample(len(rows) * n, rng).reshape(len(rows), n, 3, 3)
        return replace(event[rows], positions=x.astype(np.float32))

    found = exact_samples(draw, lambda x, *_: np.zeros(x.shape[:2]), 1, 100, event.prior, rng)
    assert np.isfinite(found.weights.log_evidence).all()


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2)])
def test_the_order_of_like_ions_changes_no_evidence(order: tuple[int, ...]) -> None:
    """Nitrogens of N2O, of which the prior has one in the middle: searches begin with either of them there.

    By `oracles.reference`, of 500 samples, -31.700 in both orders.
    """
    length, other = {"uniform": [1.8, 4.0]}, {"uniform": [1.8, 4.5]}
    rows = [{"atom": "n1"}, {"atom": "n2", "from": "n1", "length": length}]
    rows += [{"atom": "o", "from": "n1", "length": other, "angle_to": "n2", "angle": {"uniform": [60, 180]}}]
    momenta = "126.06 9.23 34.85 -80.98 4.47 98.62 -43.35 -11.72 -136.45"
    event = _event("n2o", {"kind": "internal", "zmatrix": rows}, momenta, 2.3266, order)
    drawn = event.prior.sample(64, np.random.default_rng(1))[None][:, :, order].astype(np.float32)
    modes = replace(event, positions=drawn).modes()
    found = _from_one_mode(event, modes.positions[np.flatnonzero(modes.probability > 0.0)[0]])
    assert found.weights.log_evidence[0] == pytest.approx(-31.7, abs=0.12)


def test_modes_lead_where_no_sample_does() -> None:
    """Draws of a prior with many geometries, of which none counts: what searches find does the rest.

    Log evidences of importance sampling at all modes of 1,000 searches, 100,000 draws (`oracles.reference`:
    `ProposalRules(samples=100_000, rounds=6, round_samples=10_000)`).
    """
    first = "227.07 -36.8 38.3 61.17 15.47 9.29 -66.25 147.79 36.57 -240.38 54.38 -178.56 15.98 -185.37 91.62"
    other = "-94.52 119.54 -96.04 -30.46 46.51 10.11 -130.79 -118.56 143.88 150.64 105.6 72.92"
    momenta = np.array(f"{first} {other} 105.15 -153.3 -129.7".split(), float).reshape(2, 5, 3)
    events = flowcei.Events("chbrclf", momenta, sigma=np.array([1.2156, 1.0895]))
    prior, rng = build_prior(events.molecule, "ball"), np.random.default_rng(1)
    blank = np.zeros((2, 1, 5, 3), np.float32)
    sigma = np.asarray(events.sigma)
    given = PosteriorSamples(
        events.molecule, events.momenta, blank, None, events.event_id, sigma, origin={"prior": "ball"}
    )

    def draw(rows: Rows, n: int) -> PosteriorSamples:
        x = prior.sample(len(rows) * n, rng).reshape(len(rows), n, 5, 3)
        return replace(given[rows], positions=x.astype(np.float32))

    found = exact_samples(draw, lambda x, *_: np.zeros(x.shape[:2]), 2, 300, prior, rng)
    np.testing.assert_allclose(found.weights.log_evidence, [-70.2, -61.8], atol=0.3)
    assert not found.flagged.any()


@pytest.fixture(scope="module")
def bundled() -> Reconstructor:
    return flowcei.load()


def test_samples_count_alike_and_repeat(bundled: Reconstructor, tmp_path: Path) -> None:
    """The same seed gives the same; files keep what tells of the chains; the evidence is that of weights."""
    events = flowcei.simulate("ocs", 6, noise="1%", seed=1)
    one, again = (bundled.sample(events, 40, seed=3, exact=True) for _ in range(2))
    np.testing.assert_array_equal(one.positions, again.positions)
    weights = one.weights
    assert weights is not None
    np.testing.assert_allclose(weights.normalised, 1.0 / 40)
    assert (weights.ess > 20.0).all()
    weighed = bundled.sample(events, 2000, seed=4, weigh=True)
    assert weighed.weights is not None
    np.testing.assert_allclose(weights.log_evidence, weighed.weights.log_evidence, atol=0.1)
    np.testing.assert_allclose(one.weigh().weights.normalised, 1.0 / 40, rtol=1e-2)
    assert repr(one) == "PosteriorSamples: 6 events x 40 samples of ocs, exact"
    assert one.exact
    assert not weighed.exact
    assert "of the exact posterior" in one._repr_html_()
    assert repr(weights).startswith("Weights: 6 events x 40 samples, efficiency ")
    flowcei.write_samples([one], tmp_path / "s.h5")
    read = flowcei.read_samples(tmp_path / "s.h5")
    for name in (R_HAT, ACCEPTANCE):
        np.testing.assert_array_equal(read.columns[name], one.columns[name])
    blocks = list(bundled.stream([events[:2], events[2:]], 40, seed=3, exact=True))
    np.testing.assert_array_equal(blocks[0].positions, one.positions)


def test_chains_that_do_not_mix_are_flagged(bundled: Reconstructor) -> None:
    """An event of momenta that no geometry of the prior makes, and a budget of nothing."""
    events = flowcei.simulate("ocs", 2, noise="1%", prior="broad", seed=2)
    odd = bundled.sample(events, 20, seed=1, exact=True, budget=1)
    assert (odd.flag_bits & FLAG_BITS["mixing"] > 0).any()
    mirrored = replace(events, momenta=np.cross(events.momenta, [1.0, 2.0, 3.0]) * [1.0, 5.0, 0.2])
    none = bundled.sample(mirrored, 20, seed=1, exact=True)
    assert none.flagged.all()


def test_what_cannot_be_asked(bundled: Reconstructor) -> None:
    """Weights beside it; a prior that can only be sampled."""
    events = flowcei.simulate("ocs", 1, noise="1%", seed=1)
    with pytest.raises(UsageError, match="count alike"):
        bundled.sample(events, 10, exact=True, weigh=True)
    cube = {"kind": "cube", "half_width": 4.0, "minimal_separation": 0.5}
    training = bundled.training.model_copy(update={"prior": cube})
    with pytest.raises(NoDensityError, match="can only be sampled"):
        replace(bundled, training=training).sample(events, 10, exact=True)


def test_many_like_ions_are_refused_at_once() -> None:
    """The orders of twelve would be added up for hours; a ball, which treats all alike, adds up none."""
    angles = np.arange(12) * np.pi / 6.0
    ring = np.stack([4.0 * np.cos(angles), 4.0 * np.sin(angles), 0.0 * angles], axis=1)
    labels, ones = tuple(f"h{k}" for k in range(12)), np.ones(12)
    twelve = flowcei.Molecule("h12", ("h",) * 12, ones, 1837.0 * ones, ring, labels, ())
    ball = build_prior(twelve, {"kind": "ball", "radius": 8.0})
    check_density(ball, twelve)
    with pytest.raises(UsageError, match="12 like ions"):
        check_density(build_prior(twelve, {"kind": "displaced", "sigma": 0.1}), twelve)


def test_an_event_that_no_geometry_of_the_prior_explains_costs_no_other_its_answer(
    tmp_path: Path, bundled: Reconstructor
) -> None:
    """Its samples are those of the model, of no density; the file is read as it was written."""
    prior = build_prior(bundled.molecule, "broad")
    events = flowcei.simulate("ocs", 3, noise="1%", prior="broad", seed=2)
    events.momenta[1] = [[72.0, 44.0, 119.8], [342.1, -173.2, 26.3], [-412.2, 133.8, -146.3]]
    drawn = replace(bundled, training=bundled.training.model_copy(update={"prior": prior.spec()}))
    samples = drawn.sample(events, 20, exact=True, seed=1)
    assert np.isnan(samples.log_prob).any(axis=1).tolist() == [False, True, False]
    assert (samples.flag_bits & FLAG_BITS["mixing"] != 0).tolist() == [False, True, False]
    flowcei.write_samples([samples], tmp_path / "s.h5")
    again = flowcei.read_samples(tmp_path / "s.h5")
    assert np.array_equal(again.log_prob, samples.log_prob, equal_nan=True)
    samples.log_prob[0, 3] = np.nan
    flowcei.write_samples([samples], tmp_path / "damaged.h5")
    with pytest.raises(DataError, match="not finite"):
        flowcei.read_samples(tmp_path / "damaged.h5")


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says what samples are worth, and refuses weights beside it."""
    shell = Shell(monkeypatch, capsys)
    monkeypatch.chdir(tmp_path)
    assert shell("simulate", "ocs", "-n", "3", "--noise", "1%", "--seed", "1", "-o", "e.csv") == 0
    assert shell("sample", "--momenta", "e.csv", "-n", "30", "--exact", "--seed", "1", "-o", "s.csv") == 0
    assert "samples of the exact posterior" in shell.err
    assert "r_hat" in Path("s.csv").read_text(encoding="utf-8").partition("\n")[0]
    assert shell("sample", "--momenta", "e.csv", "-n", "9", "--exact", "--seed", "1", "-o", "s.h5") == 0
    assert shell("info", "s.h5") == 0
    assert "samples of the exact posterior: " in shell.out
    assert shell("sample", "--momenta", "e.csv", "--exact", "--weigh", "-o", "t.csv") == 2
    assert "count alike" in shell.err
