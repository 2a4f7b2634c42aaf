"""Hits that may be of other ions: against sums written out by hand, importance sampling, and frequencies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import SMALL
from quick import QUICK
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, multivariate_t
from shell import Shell

import flowcei
from flowcei import Experiment
from flowcei.errors import DataError, UsageError
from flowcei.reconstruction import fitting
from flowcei.training.schedule import Schedule
from flowcei.units import DALTON

OCS = flowcei.Molecule.load("ocs")
SULFUR = OCS.with_charges("1,1,2")
LIKE = replace(OCS, name="like", charges=np.ones(3), masses=np.array([12.0, 28.0, 28.01]) * DALTON)
GROUP = [["o", "s"]]
WARM = Experiment(noise="4%", spread=5.0, assignments=GROUP)


@pytest.fixture(scope="module")
def model() -> flowcei.Reconstructor:
    """Return a small flow for a molecule whose ends have nearly the same mass."""
    return fitting.train(
        "cinn",
        molecule=LIKE,
        options=SMALL["cinn"],
        noise="0.5%..5%",
        schedule=Schedule(epochs=2, batch=128, learning_rate=5e-3),
        events_per_epoch=3000,
        rules=QUICK,
        seed=11,
    )


def test_hits_keep_their_velocity() -> None:
    """S2+ taken for O+ has half its momentum; what was shuffled is undone by the assignment that is right."""
    experiment = Experiment(noise=1.0, assignments=GROUP)
    own, p = experiment.of(SULFUR), np.random.default_rng(0).normal(size=(4, 3, 3))
    ratio = SULFUR.masses[2] / SULFUR.masses[1]
    assert ratio == pytest.approx(2.0, rel=5e-3)
    swapped = np.stack([p[:, 0], p[:, 2] / ratio, p[:, 1] * ratio], axis=1)
    np.testing.assert_allclose(own.assigned(p), [p, swapped], rtol=1e-12)
    events = flowcei.simulate(SULFUR, 60, experiment=experiment, seed=1)
    exact = flowcei.simulate(SULFUR, 60, experiment=experiment.told_apart(), seed=1)
    right = events.columns["assignment"]
    assert 15 < right.sum() < 45
    np.testing.assert_allclose(own.assigned(events.momenta)[right, np.arange(60)], exact.momenta, rtol=1e-12)
    three = replace(LIKE, masses=np.array([28.0, 28.01, 28.02]) * DALTON)
    own = Experiment(noise=1.0, assignments=[["s", "c", "o"]]).of(three)
    assert own.orders is not None
    assert len(own.orders) == 6
    shuffled, number = own.shuffled(p, np.random.default_rng(5))
    np.testing.assert_allclose(own.assigned(shuffled)[number, np.arange(4)], p, rtol=1e-12)


@pytest.mark.parametrize(
    ("entries", "molecule", "words"),
    [
        ({"assignments": [["o", "s"], ["s", "c"]]}, LIKE, "each ion once"),
        ({"assignments": ["o", "s"]}, LIKE, "groups of two or more"),
        ({"assignments": [["o", "x"]]}, LIKE, "name x; like has c, o, s"),
        ({"assignments": GROUP}, OCS, "times of flight tell them apart"),
        ({"assignments": [["c", "o1"]]}, flowcei.Molecule.load("co2"), "like ions"),
        ({"assignments": GROUP, "accidents": 0.2}, LIKE, "state the spread"),
        (
            {
                "assignments": GROUP,
                "noise": None,
                "detector": {
                    "field": "20 V/cm",
                    "length": "10 cm",
                    "sigma_t": "0.5 ns",
                    "sigma_x": "0.1 mm",
                },
            },
            SULFUR,
            "arrive .* times sigma_t apart",
        ),
    ],
)
def test_what_nobody_can_assign_is_refused(entries: dict, molecule: flowcei.Molecule, words: str) -> None:
    """A line each, for groups that are none, and for ions that a detector tells apart."""
    with pytest.raises(UsageError, match=words):
        Experiment(**{"noise": "1%"} | entries).of(molecule)


def test_commands_and_files(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    model: flowcei.Reconstructor,
) -> None:
    """What is simulated, sampled and searched; probabilities in the file; what does not go is said."""
    monkeypatch.chdir(tmp_path)
    shell = Shell(monkeypatch, capsys)
    model.save("m.safetensors")
    Path("e.toml").write_text(Experiment(**WARM.to_dict(), drift=[0, 0, 0]).to_toml())
    flowcei.write_events(flowcei.simulate(LIKE, 30, experiment=WARM, seed=2), "a.h5")
    words = ["sample", "--momenta", "a.h5", "--model", "m.safetensors", "-n", "40", "--seed", "1"]
    words += ["--overwrite", "--experiment", "e.toml"]
    assert shell(*words, "-o", "s.h5", "--weigh", "--keep-flagged") == 0, shell.err
    assert "hits that o s have, as the file names them, are 0: o s; 1: s o" in shell.err
    samples, events = flowcei.read_samples("s.h5"), flowcei.read_events("a.h5")
    assert samples.assignment is not None
    p = np.stack([samples.columns[f"p_assignment_{k}"] for k in (0, 1)])
    np.testing.assert_allclose(p.sum(axis=0), 1.0)
    weights = samples.weights.normalised
    np.testing.assert_allclose((samples.assignment * weights).sum(axis=1), p[1], atol=0.3)
    own = WARM.of(LIKE).assigned(events.momenta)
    np.testing.assert_allclose(samples.momenta, own[p.argmax(axis=0), np.arange(30)])
    assert samples.equally_weighted().assignment is not None
    # Ends of searches give the momenta under one assignment or the other.
    ends = samples[:10].refine(keep_flagged=True)
    x = ends.positions[ends.status == 0][:, None]
    rows = np.nonzero(ends.status == 0)[0]
    assert len(rows) > 100
    q = flowcei.asymptotic_momenta(x[:, 0], LIKE.masses, LIKE.charges, accuracy=1e-9)
    u = LIKE.masses / LIKE.masses.sum()
    sums = own[:, rows].sum(axis=2, keepdims=True)
    miss = np.abs(own[:, rows] - u[:, None] * sums - q).max(axis=(2, 3)).min(axis=0)
    assert np.median(miss) < 2.0  # but for what a sum that is known moves
    modes = samples.modes(keep_flagged=True)
    assert (modes.verdict == 1).any()
    total = np.bincount(modes.event, modes.probability)
    np.testing.assert_allclose(total, modes.verdict < 2)
    assert shell(*words, "-o", "s.csv", "--weigh", "--keep-flagged") == 0, shell.err
    header = Path("s.csv").read_text().splitlines()[0].split(",")
    assert {"assignment", "p_assignment_0", "p_assignment_1", "file_assignment"} <= set(header)
    assert "positions explain the momenta" in flowcei.check_file("a.h5").verdict  # of the right hits
    assert shell(*words, "-o", "t.h5", "--exact", "--max-sum", "4") == 2
    assert "leave out them, or assignments" in shell.err
    Path("e.toml").write_text(WARM.to_toml())
    assert shell(*words, "-o", "t.h5", "--exact") == 2
    assert "tell no drift" in shell.err
    assert shell("experiment", "a.h5", "--experiment", "e.toml") == 2
    with pytest.raises(DataError, match="were shuffled"):
        flowcei.measure_experiment(events, noise=1.0)


def _oracle(p: np.ndarray, prior: object, start: np.ndarray) -> tuple[float, np.ndarray]:
    """Log evidence and mean of both bonds of hits (3, 3) as they stand: a Student, adapted eight times."""
    m, rng = LIKE.masses, np.random.default_rng(0)
    u = m / m.sum()
    mean, cov = (start[1:] - start[:1]).ravel(), 0.1**2 * np.eye(6)
    for count in [2500] * 8 + [10_000]:
        law = multivariate_t(mean, cov, df=5, seed=rng)
        y = law.rvs(count)
        x = np.pad(y, ((0, 0), (3, 0))).reshape(-1, 3, 3)
        q = flowcei.asymptotic_momenta(x, m, LIKE.charges, accuracy=1e-5).astype(float)
        level = 0.04 * np.sqrt((q**2).mean(axis=(1, 2)))
        log_weight = prior.log_prob(x) - law.logpdf(y)  # type: ignore[attr-defined]
        for axis in range(3):
            covariance = level[:, None, None] ** 2 * np.eye(3) + 25.0 * np.outer(u, u)
            white = np.linalg.solve(np.linalg.cholesky(covariance), (p[:, axis] - q[:, :, axis])[..., None])
            log_weight += multivariate_normal(np.zeros(3)).logpdf(white[..., 0])
            log_weight -= 0.5 * np.linalg.slogdet(covariance)[1]
        for power in (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01):
            weight = np.exp(power * (log_weight - log_weight.max()))
            if weight.sum() ** 2 / (weight**2).sum() > 300:
                break
        mean, cov = np.average(y, weights=weight, axis=0), np.cov(y.T, aweights=weight) + 1e-8 * np.eye(6)
    assert weight.sum() ** 2 / (weight**2).sum() > 800
    bonds = np.linalg.norm(y.reshape(-1, 2, 3), axis=2)
    return float(logsumexp(log_weight) - np.log(count)), np.average(bonds, weights=weight, axis=0)


def test_posterior_is_that_of_both_assignments(model: flowcei.Reconstructor) -> None:
    """Probability, evidence and mean bonds of exact and weighed samples, of two open events not flagged."""
    events = flowcei.simulate(LIKE, 40, experiment=WARM, seed=3)
    first = model.sample(events, 50, seed=1, experiment=WARM, weigh=True)
    events = events[np.flatnonzero(np.abs(first.columns["p_assignment_0"] - 0.5) < 0.3)[:8]]
    weighed = model.sample(events, 400, seed=1, experiment=WARM, weigh=True, min_ess=300, budget=16_000)
    chosen = np.flatnonzero(~weighed.flagged)[:2]
    events, weighed = events[chosen], weighed[chosen]
    exact = model.sample(events, 400, seed=1, experiment=WARM, exact=True)
    own = WARM.of(LIKE).assigned(events.momenta)
    for event in (0, 1):
        x, right = events.positions[event], events.columns["assignment"][event]
        arms = x[1:] - x[:1]  # the other way round: the directions of the hits, the lengths of the ions
        lengths = np.linalg.norm(arms, axis=1)
        turned = arms[::-1] * (lengths / lengths[::-1])[:, None]
        exchanged = np.concatenate([np.zeros((1, 3)), turned])
        both = [_oracle(own[k, event], model.prior, x if k == right else exchanged) for k in (0, 1)]
        evidence = np.array([one[0] for one in both])
        p = np.exp(evidence - logsumexp(evidence))
        means = np.array([one[1] for one in both])
        for samples in (exact, weighed):
            assert samples.weights is not None
            found = samples.columns["p_assignment_0"][event]
            error = 4.0 * np.sqrt(p[0] * p[1] / min(samples.weights.ess[event], 400))
            assert found == pytest.approx(p[0], abs=error + 0.01)
            assert samples.weights.log_evidence[event] == pytest.approx(
                logsumexp(evidence) - np.log(2.0), abs=0.15
            )
            bonds = np.linalg.norm(samples.positions[event, :, 1:] - samples.positions[event, :, :1], axis=2)
            off = samples.weights.normalised[event] @ bonds - p @ means
            assert (np.abs(off) < 0.03 + error * np.abs(means[1] - means[0])).all()


@pytest.mark.parametrize("how", [{}, {"weigh": True}])
def test_probabilities_are_frequencies(model: flowcei.Reconstructor, how: dict) -> None:
    """Of 500 events those to which an assignment has a probability p are right p of the time."""
    experiment = WARM if how else Experiment(noise="4%", assignments=GROUP)
    events = flowcei.simulate(LIKE, 500, experiment=experiment, seed=4)
    samples = model.sample(events, 60, seed=1, experiment=experiment, **how)
    p, right = samples.columns["p_assignment_1"], events.columns["assignment"]
    edges = np.array([-1.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        some = (p > low) & (p <= high)
        assert some.sum() > 18
        error = np.sqrt((p[some] * (1.0 - p[some])).sum()) / some.sum()
        assert right[some].mean() == pytest.approx(p[some].mean(), abs=4.0 * error + 0.02)


def test_accidents_beside_assignments(model: flowcei.Reconstructor) -> None:
    """The share of accidents, and P(true), of hits that are not told apart."""
    made = replace(WARM, accidents=0.4)
    events = flowcei.simulate(LIKE, 250, experiment=made, seed=5)
    stated = replace(WARM, accidents="unknown")
    samples = model.sample(events, 60, seed=1, experiment=stated, weigh=True)
    accident = events.columns["accident"] == 1
    found = samples.origin["accidents"]["complete"]
    assert found["share"] == pytest.approx(accident.mean(), abs=0.035)
    true = samples.columns["p_true"]
    assert true[accident].mean() < 0.1
    assert true[~accident].mean() > 0.9


def test_ranks_are_those_of_the_posterior(model: flowcei.Reconstructor) -> None:
    """Calibration of exact samples of shuffled hits; comparison sees them as they are."""
    events = flowcei.simulate(LIKE, 60, experiment=WARM, seed=6)
    result = flowcei.calibrate(model, events, n=20, exact=True, keep_flagged=True)
    assert result.passed, [v for v in result.verdicts if not v.passed]
    table = flowcei.compare({"m": model}, events[:20], n=20, keep_flagged=True).to_dataframe()
    exact = flowcei.simulate(LIKE, 20, experiment=WARM.told_apart(), seed=6)
    other = flowcei.compare({"m": model}, exact, n=20, keep_flagged=True).to_dataframe()
    np.testing.assert_allclose(table.iloc[:, 0], other.iloc[:, 0], rtol=1e-6)
