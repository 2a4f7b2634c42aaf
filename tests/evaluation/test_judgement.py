"""What a trained model says of itself, beside calibrations on other events."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shell import Shell

import flowcei
from flowcei.errors import UsageError
from flowcei.evaluation.judgement import Judgement, JudgementRules
from flowcei.reconstruction.efficiency import EfficiencyRules
from flowcei.reconstruction.fitting import train
from flowcei.training.schedule import Schedule

BRIEF = JudgementRules.of(2000)
SMALL = JudgementRules(300, 50, EfficiencyRules(events=20, draws=1000, deep=3, deep_draws=4000))


def _model(architecture: str, prior: str = "equilibrium", **options: int) -> flowcei.Reconstructor:
    """One short epoch."""
    schedule = Schedule(epochs=1, batch=256)
    return train(architecture, prior=prior, options=options, seed=1, schedule=schedule, events_per_epoch=2000)


def test_a_good_model_is_called_that() -> None:
    """The bundled flow: nearly all of its samples count, as weights of other events say."""
    found = flowcei.judge(flowcei.load(), seed=3, rules=SMALL)
    assert (found.word, found.failing, found.todo) == ("good", (), "")
    events = flowcei.simulate("ocs", 100, noise=found.noise, seed=11)
    weights = flowcei.load().sample(events, 1000, weigh=True, seed=4).weights
    assert weights is not None
    assert found.efficiency is not None
    assert found.efficiency[0] == pytest.approx(np.median(weights.efficiency), abs=0.03)
    assert np.abs(np.subtract(found.coverage, (0.5, 0.9))).max() < 0.05


def test_an_untrained_model_is_called_poor() -> None:
    """A small flow of a ball, whose charts are not whitened: the word, failing checks, a low efficiency."""
    model = _model("cinn", "ball", couplings=2, hidden=16)
    found = flowcei.judge(model, seed=3, rules=SMALL)
    assert found.word != "good"
    assert found.todo
    assert found.efficiency is not None
    assert found.efficiency[0] < 0.4
    events = flowcei.simulate("ocs", 300, prior="ball", noise=found.noise, seed=12)
    other = flowcei.calibrate(model, events, n=50)
    assert bool(found.failing) == (not other.passed)


def test_a_model_without_density_is_judged_by_its_checks() -> None:
    """A CVAE has no efficiency; one that fails its checks is poor."""
    found = flowcei.judge(_model("cvae"), seed=3, rules=SMALL)
    assert (found.efficiency, found.draws, found.word) == (None, 0, "poor")
    assert found.failing
    assert "efficiency" not in found.summary


def test_no_weights_are_advised_where_there_can_be_none() -> None:
    """Of a model without a density that passes its checks nothing is to be done; of a flow --weigh helps."""
    sound: dict[str, Any] = {
        "noise": "1%",
        "events": 100,
        "failing": (),
        "checks": 23,
        "coverage": (0.5, 0.9),
    }
    about = sound | {"error_over_floor": 1.0, "worst": "with KER below 106 eV"}
    assert Judgement("fair", **about).todo == ""
    assert "--exact" in Judgement("fair", **about, efficiency=(0.2, 0.01)).todo
    failing = about | {"failing": ("marginal r(C-O)",)}
    assert "--weigh" in Judgement("good", **failing, efficiency=(0.9, 0.8)).todo


def test_a_model_without_posterior_is_not_judged() -> None:
    """A point has no width to be right about."""
    with pytest.raises(UsageError, match="no posterior to judge"):
        flowcei.judge(_model("mlp"))


def test_the_same_seed_gives_the_same_judgement() -> None:
    """Plain values, equal each time."""
    model = flowcei.load()
    one, two = (flowcei.judge(model, seed=5, rules=BRIEF).to_dict() for _ in range(2))
    assert json.dumps(one) == json.dumps(two)
    assert one != flowcei.judge(model, seed=6, rules=BRIEF).to_dict()
    assert replace(BRIEF, events=50) != BRIEF


def test_a_verdict_goes_with_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Said by train, kept in the card, shown by info and models, and at the head of sample."""
    monkeypatch.chdir(tmp_path)
    flow = Shell(monkeypatch, capsys)
    small = ("--prior", "ball", "--couplings", "2", "--hidden", "16")
    short = ("--epochs", "1", "--events", "2000", "--seed", "1")
    assert flow("train", *small, *short) == 0, flow.err
    assert "verdict on 100 events unseen: " in flow.err
    word = flow.err.split("events unseen: ")[1].split(":")[0]
    assert word in ("fair", "poor")
    assert flow("info", "runs/ocs-cinn-1") == 0
    assert re.search(rf"verdict +{word}: efficiency", flow.out)
    assert flow("models", "--json") == 0
    listed = json.loads(flow.out)
    assert list(listed) == ["bundled", "ocs-cinn-1"]
    assert listed["ocs-cinn-1"]["verdict"].startswith(word)
    flowcei.write_events(flowcei.simulate("ocs", 3, noise="1%", seed=1), "e.csv")
    # 3: its answers are all flagged
    assert flow("sample", "--momenta", "e.csv", "-n", "5", "--model", "ocs-cinn-1") in (0, 3)
    assert f"verdict after its training: {word}" in flow.err
    assert ("warning" in flow.err.split("verdict after")[0].splitlines()[-1]) == (word == "poor")
    assert flow("train", "--arch", "mlp", *short) == 0, flow.err
    assert "verdict" not in flow.err
