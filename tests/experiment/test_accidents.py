"""Accidents: their density, share and its error, and P(true), against closed forms and known mixtures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import kstest, norm, rankdata
from shell import Shell

import flowcei
from flowcei import Experiment
from flowcei.cli.experiment_options import note_accidents
from flowcei.errors import UsageError
from flowcei.experiment.accidents import (
    Isotropic,
    Mixture,
    counted_as_true,
    least_of_true,
    mixed_sums,
    tell_by_sums,
)
from flowcei.experiment.covariance import CovarianceLikelihood
from flowcei.plot.geometry import predicted, structure
from flowcei.report.sections import Material, geometry_section
from flowcei.units import ANGSTROM

OCS = flowcei.Molecule.load("ocs")


def test_isotropic_density_is_that_of_the_vectors() -> None:
    """Of normal vectors it is the normal density, to 10 % where nine tenths of them are; it has no holes."""
    vectors = 7.0 * np.random.default_rng(0).standard_normal((20_000, 3))
    lengths = np.linalg.norm(vectors, axis=1)
    density = Isotropic(lengths)
    at = np.quantile(lengths, np.linspace(0.05, 0.95, 50))
    expected = -0.5 * (at / 7.0) ** 2 - 1.5 * np.log(2.0 * np.pi * 49.0)
    np.testing.assert_allclose(density.log_prob(at), expected, atol=0.1)
    r = np.linspace(1e-3, 60.0, 20_001)
    total = np.trapezoid(4.0 * np.pi * r**2 * np.exp(density.log_prob(r)), r)
    assert total == pytest.approx(1.0, abs=1e-3)
    assert np.isfinite(density.log_prob(np.array([0.0, 1e9]))).all()


def _mixed(count: int, share: float, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Numbers, some of N(0.5, 1.5^2), the others of N(0, 6^2); their log density; which they are."""
    accident = rng.random(count) < share
    t = np.where(accident, 6.0 * rng.standard_normal(count), 0.5 + 1.5 * rng.standard_normal(count))
    return t[:, None], norm.logpdf(t, 0.0, 6.0), accident


def test_mixture_is_the_most_likely_one_and_its_errors_hold() -> None:
    """Against SciPy's search for the maximum; over 40 runs of mixtures that overlap, pulls are normal."""
    rng, pulls = np.random.default_rng(1), []
    for run in range(40):
        t, log_accident, _ = _mixed(1000, 0.4, rng)
        one = Mixture.fitted(np.zeros(1000), log_accident, t, np.ones_like(t), np.ones_like(t))
        values = np.array([one.mean[0], one.theta[0], one.share])
        pulls.append((values - [0.5, 1.25, 0.4]) / np.sqrt(np.diag(one.covariance())))
        if run == 0:

            def cost(x: np.ndarray, t: np.ndarray = t, log_accident: np.ndarray = log_accident) -> float:
                true = norm.pdf(t[:, 0], x[0], np.sqrt(1.0 + x[1]))
                prior = 0.5 * np.log(x[2]) + 0.5 * np.log1p(-x[2])
                return -np.log((1.0 - x[2]) * true + x[2] * np.exp(log_accident)).sum() - prior

            best = minimize(cost, [0.0, 1.0, 0.5], bounds=[(-2, 2), (0.1, 9), (0.01, 0.99)]).x
            np.testing.assert_allclose(values, best, atol=3e-3)
    for pull in np.transpose(pulls):
        assert kstest(pull, "norm").pvalue > 1e-3
    nothing = Mixture.fitted(np.zeros(500), np.zeros(500), *np.zeros((3, 500, 0)))
    assert nothing.share_error > 0.1  # densities that are the same tell nothing
    clean = Mixture.fitted(np.zeros(500), np.full(500, -50.0), *np.zeros((3, 500, 0)))
    assert clean.share < 2e-3 > clean.share_error


def test_evidence_and_sum_are_one_density() -> None:
    """Density of centred momenta times that of the sum is that of all, with a wide source."""
    events = flowcei.simulate("ocs", 20, seed=1)
    known = Experiment(noise=0.5, spread=30.0).of(OCS)
    unknown = replace(known, spread=np.full(3, np.inf))
    momenta = events.momenta + known.shares[:, None] * 50.0
    one, other = (
        CovarianceLikelihood(OCS.masses, OCS.charges, momenta, m).log_prob(events.positions[:, None])[:, 0]
        for m in (known, unknown)
    )
    total = norm.logpdf(momenta.sum(axis=1), 0.0, np.hypot(30.0, 0.5 * np.sqrt(3.0))).sum(axis=1)
    np.testing.assert_allclose(other + total, one, atol=1e-3)


def test_sums_alone_tell_share_drift_and_spread() -> None:
    """Of 2,000 events, 30 % of them accidents, in a beam whose spread is twice the noise."""
    experiment = Experiment(noise=2.0, spread=7.0, drift=[28, 0, -5], accidents=0.3)
    events = flowcei.simulate("ocs", 2000, experiment=experiment, seed=1)
    accident = events.columns["accident"] == 1
    base, slope = np.full((2, 2000, 3), [[[12.0]], [[1.0]]])
    one = tell_by_sums(events.momenta, base, slope)
    assert one.share == pytest.approx(accident.mean(), abs=3e-3)
    errors = np.sqrt(np.diag(one.covariance()))
    assert (np.abs(one.mean - [28, 0, -5]) < 4.0 * errors[:3]).all()
    assert (np.abs(one.theta - 49.0) < 4.0 * errors[3:6]).all()
    assert one.p_true[accident].max() < 0.9
    mixed = mixed_sums(events.momenta)
    assert len(mixed) >= 20_000
    np.testing.assert_allclose(mixed.std(axis=0), events.momenta[accident].sum(axis=1).std(axis=0), rtol=0.1)


@pytest.mark.parametrize("source", [{}, {"temperature": 300}])
def test_true_events_are_told_and_averages_are_of_them(source: dict) -> None:
    """Half of the events are accidents, their source known or not: share, ranks of P(true), averages."""
    table = {"noise": "1%"} | source
    events = flowcei.simulate("ocs", 400, experiment=Experiment(**table, accidents=0.5), seed=2)
    accident = events.columns["accident"] == 1
    stated = Experiment(**table, accidents="unknown")
    samples = flowcei.load().sample(events, 30, weigh=True, experiment=stated, seed=1)
    true, found = samples.columns["p_true"], samples.origin["accidents"]["complete"]
    assert found["share"] == pytest.approx(accident.mean(), abs=0.01)
    assert found["error"] == pytest.approx(0.5 / np.sqrt(400), rel=0.1)
    ranks, count = rankdata(true), (~accident).sum()
    assert (ranks[~accident].sum() - count * (count + 1) / 2) / (count * accident.sum()) > 0.99
    assert ((samples.flag_bits & 1 << 12 > 0) == (true < 0.01)).all()
    all_of_them = samples.equally_weighted().spread(keep_flagged=True).overall().set_index("quantity")
    own = samples[~accident].equally_weighted().spread(keep_flagged=True)
    for name in ("c-o", "c-s", "o-c-s"):
        values = own.rows()[next(q for q in own.names if q.name == name)]
        assert all_of_them.loc[name, "mean"] == pytest.approx(values.mean(), abs=0.02 * values.std())
        assert all_of_them.loc[name, "p84"] == pytest.approx(
            np.quantile(values, 0.84), abs=0.1 * values.std()
        )


def test_whatever_takes_events_together_counts_them_by_p_true() -> None:
    """Tables, medians, pictures and the page: 40 true events beside as many that are true with 10 %."""
    model, events = flowcei.load(), flowcei.simulate("ocs", 80, noise="1%", seed=3)
    plain = model.sample(events, 30, seed=1)
    own, true = plain[:40], np.repeat([1.0, 0.1], 40)
    samples = replace(plain, columns={"p_true": true})
    samples.positions[40:] *= 1.5  # geometries that no picture of true events has
    few = counted_as_true(samples.columns, 80)
    assert (few[:40] == np.arange(40)).all()
    assert 0 < len(few) - 40 < 12
    counted = samples.positions[few]  # a few of the others among them
    length = float(np.median(np.linalg.norm(counted[:, :, 1] - counted[:, :, 0], axis=2)))
    one, other = samples.spread(keep_flagged=True), own.spread(keep_flagged=True)
    assert one.overall().set_index("quantity").loc["c-o", "p50"] == pytest.approx(length, abs=0.02)
    np.testing.assert_allclose(one.principal_axes()[0], other.principal_axes()[0], rtol=0.15)
    words = one.covariance_in_words()[0], other.covariance_in_words()[0]
    assert float(words[0][-5:]) == pytest.approx(float(words[1][-5:]), abs=0.03)
    (row,) = (r for r in geometry_section(Material(samples, "file")).tables[0].rows if r[0] == "c-o")
    assert row[2] * ANGSTROM == pytest.approx(length, abs=0.02)
    assert len(predicted(samples)["re-simulated"]) == len(few)
    shown = float(samples.plot("corner").axes[0].get_title().split()[-3])
    assert shown == pytest.approx(length / ANGSTROM, abs=0.02)
    middle = structure(samples, unit="bohr").lines
    drawn = np.array([line.get_xydata()[0] for line in middle if line.get_label() == "c"])
    assert np.abs(drawn - np.median(other.positions[:, :, 0, :2], axis=(0, 1))).max() < 0.05


def test_a_stream_tells_the_accidents_of_each_block() -> None:
    """Blocks have P(true) by their own events, and files of blocks too; too few have none."""
    events = flowcei.simulate("ocs", 150, experiment=Experiment(noise="1%", accidents=0.4), seed=2)
    stated = Experiment(noise="1%", accidents="unknown")
    blocks = list(flowcei.load().stream(events, 2000, weigh=True, experiment=stated, seed=1))
    assert [len(block) for block in blocks] == [100, 50]
    true = np.concatenate([block.columns["p_true"] for block in blocks])
    assert ((true < 0.5) == (events.columns["accident"] == 1)).all()
    assert blocks[1].origin["accidents"]["complete"]["events"] == 50


@pytest.mark.parametrize("source", [{}, {"temperature": 300}])
def test_no_true_event_is_below_what_accidents_reach(source: dict) -> None:
    """Where chains are given up: true geometries are 40 nats above it, accidents mostly far below."""
    experiment = Experiment(**{"noise": "1%"} | source, accidents=0.3)
    events = flowcei.simulate("ocs", 1000, experiment=experiment, seed=3)
    own, accident = experiment.of(OCS), events.columns["accident"] == 1
    least = least_of_true(events.momenta, own, np.zeros((1000, 3), dtype=bool))
    assert least is not None
    likelihood = CovarianceLikelihood(OCS.masses, OCS.charges, events.momenta, own)
    height = likelihood.log_prob(events.positions[:, None])[:, 0]
    height += flowcei.load().prior.log_prob(events.positions)
    assert (height - least)[~accident].min() > 30.0
    assert np.mean(height[accident] < least[accident]) > 0.95
    assert least_of_true(events.momenta[:9], own, np.zeros((9, 3), dtype=bool)) is None


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Shell:
    monkeypatch.chdir(tmp_path)
    return Shell(monkeypatch, capsys)


def test_a_share_that_nothing_tells_is_said_to_be_so(caplog: pytest.LogCaptureFixture) -> None:
    """An error above a tenth is a warning; so is a share that differs from what sums alone say."""
    one = {"events": 50, "share": 0.4, "error": 0.3, "share_by_sums": 0.3, "error_by_sums": 0.2}
    note_accidents({"complete": one})
    assert "neither their sums nor their evidence" in caplog.text
    assert "by their sums alone" not in caplog.text
    assert "nothing but the prior" not in caplog.text
    note_accidents({"lacking an ion": {"events": 50, "share": 0.7, "error": 0.1}})
    assert "nothing but the prior tells their share" in caplog.text


def test_the_commands(shell: Shell) -> None:
    """P(true) and the share stand in the file; what is stated wrongly, vague or too little is said."""
    for name, entries in {
        "made": {"noise": "1%", "accidents": 0.3},
        "e": {"noise": "1%", "accidents": "unknown"},
        "wrong": {"noise": "1%", "accidents": 0.02},
        "loud": {"noise": "40%", "accidents": "unknown"},
    }.items():
        Path(f"{name}.toml").write_text(Experiment(**entries).to_toml())
    assert shell("simulate", "ocs", "-n", "90", "--experiment", "e.toml", "-o", "a.h5") == 2
    assert "state it as a number" in shell.err
    assert not list(Path().glob("a.*"))
    assert shell("simulate", "ocs", "-n", "90", "--experiment", "made.toml", "--seed", "1", "-o", "a.h5") == 0
    words = ["sample", "--momenta", "a.h5", "-n", "20", "--seed", "1", "--weigh", "--overwrite"]
    assert shell(*words, "--experiment", "e.toml", "-o", "s.h5") == 0
    assert "accidents: 0." in shell.err, shell.err
    assert "by their sums" not in shell.err
    samples, accident = flowcei.read_samples("s.h5"), flowcei.read_events("a.h5").columns["accident"]
    assert ((samples.columns["p_true"] < 0.5) == accident).all()
    assert samples.origin["accidents"]["complete"]["events"] == 90
    assert shell(*words, "--experiment", "wrong.toml", "-o", "s.csv") == 0
    assert "0.02 of them are stated to be accidents" in shell.err
    assert "p_true" in Path("s.csv").read_text().splitlines()[0].split(",")
    assert shell(*words, "--experiment", "loud.toml", "-o", "s.h5", "--keep-flagged") == 0
    assert "are by their sums alone accidents; the prior or the noise does not hold" in shell.err
    assert shell(*words, "--experiment", "e.toml", "-o", "s.h5", "--ker", "1..900") == 2
    assert "state accidents as a number" in shell.err
    assert shell(*words, "--experiment", "wrong.toml", "-o", "s.h5", "--ker", "1..900") == 0
    assert "accidents: 0.02 of complete events as stated" in shell.err
    assert "share" not in flowcei.read_samples("s.h5").origin["accidents"]["complete"]
    few = flowcei.simulate("ocs", 5, noise="1%", seed=1)
    flowcei.write_events(few, "few.h5")
    words[2] = "few.h5"
    assert shell(*words, "--experiment", "e.toml", "-o", "s.h5") == 0
    assert "too few events" in shell.err
    assert np.isnan(flowcei.read_samples("s.h5").columns["p_true"]).all()
    with pytest.raises(UsageError, match="accidents"):
        Experiment(noise="1%", accidents="many")
