"""What is measured of an experiment, against the experiment that made the events."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest
from shell import Shell

import flowcei
from flowcei import Experiment
from flowcei.errors import DataError, UsageError
from flowcei.physics.build_up import BuildUpPrior

BEAM = {"noise": [3.0, 1.5, 1.0], "spread": [2.0, 2.0, 6.0], "drift": [28.0, 0.0, -5.0]}


@pytest.fixture(scope="module")
def exact() -> flowcei.Events:
    """Exact momenta, to which noise is added anew in each run."""
    return flowcei.simulate("ocs", 5000, seed=1)


def test_intervals_hold_the_truth(exact: flowcei.Events) -> None:
    """Drift, spread, noise and accidents of 12 runs: 90 % intervals hold about 90 % of 120 numbers."""
    own, inside, ratios = Experiment(**BEAM, accidents=0.3).of(exact.molecule), [], []
    for run in range(12):
        rng = np.random.default_rng(run)
        events = flowcei.Events("ocs", own.apply(exact.momenta[rng.permutation(5000)[:1500]], rng)[0])
        by_noise = flowcei.measure_experiment(events, noise=BEAM["noise"])
        by_source = flowcei.measure_experiment(events, spread=BEAM["spread"])
        for name, one, truth in (
            ("drift", by_noise, BEAM["drift"]),
            ("spread", by_noise, BEAM["spread"]),
            ("noise", by_source, BEAM["noise"]),
            ("accidents", by_noise, 0.3),
        ):
            number = one.quantities[name]
            inside += np.atleast_1d(
                np.abs(np.subtract(number.value, truth)) < 1.645 * np.array(number.error)
            ).tolist()
        ratios.append(np.array(by_source.quantities["noise"].value[:2]) / BEAM["noise"][:2])
        assert not by_noise.remarks
    assert binomtest(sum(inside), len(inside), 0.9).pvalue > 1e-3
    assert np.abs(np.mean(ratios, axis=0) - 1.0).max() < 0.03


def test_what_does_not_fit_is_said(exact: flowcei.Events) -> None:
    """Noise and source that are alone, too much or too little; sums that are not normal, or of no width."""
    rng = np.random.default_rng(0)
    own = Experiment(**BEAM).of(exact.molecule)
    events = flowcei.Events("ocs", own.apply(exact.momenta, rng)[0])
    alone = flowcei.measure_experiment(events)
    assert alone.experiment is None
    assert "together" in alone.remarks[0]
    width = np.sqrt(3.0 * np.square(BEAM["noise"]) + np.square(BEAM["spread"]))
    np.testing.assert_allclose(alone.quantities["width"].value, width, rtol=0.04)
    assert alone.quantities["accidents"].below < 2e-3
    much = flowcei.measure_experiment(events, noise=[3.0, 3.0, 3.0])
    assert [r for r in much.remarks if "along y are narrower" in r]
    little = flowcei.measure_experiment(events, noise=[3.0, 1.5, 1.0], spread=[2.0, 2.0, 2.0])
    assert [r for r in little.remarks if "along z are wider" in r]
    two = events.momenta + np.where(np.arange(5000) < 1500, 0.0, 8.0)[:, None, None]
    assert [
        r
        for r in flowcei.measure_experiment(flowcei.Events("ocs", two), noise=1.0).remarks
        if "not normal" in r
    ]
    with pytest.raises(DataError, match="sum to zero"):
        flowcei.measure_experiment(exact, noise=1.0)
    with pytest.raises(DataError, match="99 complete events"):
        flowcei.measure_experiment(events[:99], noise=1.0)
    with pytest.raises(UsageError, match="unknown along an axis"):
        flowcei.measure_experiment(events, spread=[1.0, "unknown", 1.0])
    with pytest.raises(UsageError, match="state it"):
        flowcei.measure_experiment(events, prior="equilibrium")


def test_scale_and_build_up_of_a_trusted_prior() -> None:
    """Both to four errors, nearly one number; the source on the true scale; another prior is no fit."""
    table = {"noise": 1.0, "spread": 3.0, "drift": [28.0, 0.0, 0.0], "accidents": 0.2}
    made = Experiment(**table, momentum_scale=1.03, build_up="5fs")
    events = flowcei.simulate("ocs", 1500, experiment=made, seed=3)
    one = flowcei.measure_experiment(events, noise=1.0, prior="equilibrium")
    assert one.fit is not None
    for name, truth in (("momentum_scale", 1.03), ("build_up", 5.0)):
        number = one.quantities[name]
        assert abs(number.value - truth) < 4.0 * number.error
    assert one.fit.correlation > 0.9
    assert one.fit.p_value > 1e-3
    assert "nearly one number" in one.remarks[-1]
    stated = one.experiment.to_dict()
    time = BuildUpPrior.from_dict(stated["build_up"])
    assert (time.low, time.deviation) == pytest.approx((number.value, number.error), rel=0.05)
    np.testing.assert_allclose(stated["spread"], 3.0, rtol=0.1)
    np.testing.assert_allclose(stated["drift"], table["drift"], atol=0.6)
    assert flowcei.measure_experiment(events, noise=1.0, prior="broad", fit="scale").fit.p_value < 1e-6


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Shell:
    monkeypatch.chdir(tmp_path)
    return Shell(monkeypatch, capsys)


def test_the_command(shell: Shell, exact: flowcei.Events) -> None:
    """From raw events, some without an ion, to an experiment.toml that sample takes."""
    rng = np.random.default_rng(1)
    momenta = Experiment(**BEAM, accidents=0.2).of(exact.molecule).apply(exact.momenta[:2000], rng)[0]
    momenta[rng.random((2000, 3)) > [0.8, 0.6, 0.7]] = np.nan
    frame = replace(exact[:2000], positions=None).to_dataframe()
    frame[[c for c in frame if c.startswith("p")]] = momenta.reshape(2000, 9)
    frame.to_csv("a.csv", index=False)
    words = ["experiment", "a.csv", "--molecule", "ocs"]
    assert shell(*words) == 0
    assert "together" in shell.err
    assert "drift x" in shell.out
    for wrong, why in (
        (["-o", "e.toml"], "add up in sums"),
        (["--noise", "1,2", "-o", "e.toml"], "entry for each"),
        (["--noise", "much"], "not understood"),
        (["--fit", "scale"], "name one"),
        (["--noise", "3,1.5,1", "-o", "e.csv"], ".toml"),
    ):
        assert shell(*words, *wrong) == 2
        assert why in shell.err
        assert not list(Path().glob("e.*"))
    assert shell(*words, "--noise", "3,1.5,1", "-o", "e.toml") == 0
    stated = Experiment.load("e.toml").to_dict()
    assert stated["accidents"] == pytest.approx(0.2, abs=0.06)
    np.testing.assert_allclose(stated["spread"], BEAM["spread"], atol=0.6)
    assert shell(*words, "--experiment", "e.toml") == 0  # what is known from before
    assert shell(*words, "--experiment", "e.toml", "--noise", "1") == 2
    assert shell(*words, "--noise", "3,1.5,1", "-o", "e.toml") == 2
    assert "exists" in shell.err
    assert shell(*words, "--temperature", "20", "--json") == 0
    told = json.loads(shell.out)["measured"]["efficiency"]
    for ion, truth in {"c": 0.8, "o": 0.6, "s": 0.7}.items():
        assert abs(told["value"][ion] - truth) < 4.0 * told["error"][ion]
    assert shell(
        "sample", "--momenta", "a.csv", "--experiment", "e.toml", "--weigh", "-n", "20", "-o", "s.h5"
    ) in (0, 3)
    assert "accidents: 0.2" in shell.err


def test_a_run_without_true_events_makes_no_experiment(
    exact: flowcei.Events, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """All are accidents: there is no peak, or one that no source is as hot for, and no file is written."""
    monkeypatch.chdir(tmp_path)
    shell = Shell(monkeypatch, capsys)
    for seed, said in ((2, "no source is as hot"), (4, "hardly an event is true")):
        rng = np.random.default_rng(seed)
        mixed = np.stack([exact.momenta[rng.permutation(5000)[:400], k] for k in range(3)], axis=1)
        measured = flowcei.measure_experiment(flowcei.Events("ocs", mixed), noise="1%")
        assert measured.experiment is None
        assert [remark for remark in measured.remarks if said in remark]
    flowcei.write_events(flowcei.Events("ocs", mixed), "m.h5")
    assert shell("experiment", "m.h5", "--noise", "1%", "-o", "m.toml") == 3
    assert "m.toml is not written" in shell.err
    assert not Path("m.toml").exists()
