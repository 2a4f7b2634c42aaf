"""Which model is taken where none is named: the newest that is not poor; what is passed over is said."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from shell import Shell

import flowcei

if TYPE_CHECKING:
    from flowcei.reconstruction.model import Reconstructor

pytestmark = pytest.mark.usefixtures("undrawn")

POOR = "poor: efficiency 0.01 (median), 0.002 (10th percentile) by 1e5 draws"
SAMPLE = ("sample", "--momenta", "e.csv", "-n", "5", "--seed", "1", "--overwrite")


@pytest.fixture
def flow(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Shell:
    monkeypatch.chdir(tmp_path)
    flowcei.write_events(flowcei.simulate("ocs", 60, noise="1%", seed=1), "e.csv")
    return Shell(monkeypatch, capsys)


def _run(name: str, word: str, age: int, model: Reconstructor | None = None) -> None:
    """A run folder of a model with a verdict, so many seconds after 1970."""
    model = model or flowcei.load()
    model.training.name = name
    verdict = POOR if word == "poor" else f"{word}: efficiency 0.9"
    model.training.judgement = {"word": word, "summary": verdict}
    Path("runs", name).mkdir(parents=True, exist_ok=True)
    model.save(f"runs/{name}/model.safetensors", overwrite=True)
    os.utime(f"runs/{name}/model.safetensors", (age, age))


def test_a_poor_model_is_passed_over_and_that_is_said(flow: Shell) -> None:
    """For the newest that is not poor; by its name, or as the only one named, it is taken all the same."""
    words = {"old": "good", "fine": "fair", "bad": "poor", "worse": "poor"}
    for age, (name, word) in enumerate(words.items()):
        _run(name, word, age)
    assert flow(*SAMPLE) == 0, flow.err
    assert "model fine, of runs/ (" in flow.err
    said = [line for line in flow.err.splitlines() if "passed over" in line]
    assert said == [
        f"warning: the newer worse (and 1 more) is passed over, {POOR}; --model worse takes it all the same"
    ]
    assert flow(*SAMPLE, "--model", "worse") == 0
    assert "model worse (" in flow.err
    assert "passed over" not in flow.err
    _run("new", "good", 5)
    assert flow(*SAMPLE) == 0
    assert "model new, of runs/ (" in flow.err
    assert "passed over" not in flow.err


def test_where_all_are_poor_the_bundled_model_answers_for_its_ions(flow: Shell) -> None:
    """Of OCS; of other ions nothing else is there, and the poor one says of itself what it is."""
    _run("bad", "poor", 1)
    assert flow(*SAMPLE) == 0
    assert "model bundled (cinn, ocs)" in flow.err
    assert f"the newer bad is passed over, {POOR}; --model bad" in flow.err
    ocs = flowcei.load()
    single = flowcei.Molecule.from_dict(ocs.molecule.to_dict() | {"charges": [1.0, 1.0, 1.0]})
    _run("single", "poor", 2, replace(ocs, molecule=single))
    flowcei.write_events(flowcei.simulate(single, 60, noise="1%", seed=1), "e.csv", overwrite=True)
    assert flow(*SAMPLE) in (0, 3), flow.err
    assert "model single, of runs/ (" in flow.err
    assert f"warning: verdict after its training: {POOR}" in flow.err
    assert "passed over" not in flow.err


def test_models_that_nobody_judged_and_cards_that_lie_are_no_obstacle(flow: Shell) -> None:
    """A verdict of another type is none, and what it says forges no line."""
    model = flowcei.load()
    model.training.judgement = {"word": ["poor"]}
    Path("runs/odd").mkdir(parents=True)
    model.save("runs/odd/model.safetensors")
    assert flow(*SAMPLE) == 0
    assert "model odd, of runs/ (" in flow.err
    model.training.judgement = {"word": "poor", "summary": 7}
    model.save("runs/odd/model.safetensors", overwrite=True)
    assert flow(*SAMPLE) == 0
    assert "model bundled" in flow.err
    assert len([line for line in flow.err.splitlines() if "odd is passed over, 7;" in line]) == 1


def test_an_unfinished_training_is_no_model_but_is_named(flow: Shell) -> None:
    """With the command that goes on; not where all are finished."""
    _run("done", "good", 1)
    Path("runs/done/config.toml").touch()
    assert flow("models") == 0
    assert "not finished" not in flow.err
    Path("runs/half").mkdir()
    Path("runs/half/config.toml").touch()
    assert flow("models", "--json") == 0
    assert set(json.loads(flow.out)) == {"bundled", "done"}
    assert "the training in runs/half is not finished: flowcei train --resume runs/half goes on" in flow.err


def test_a_page_leaves_it_to_the_sampling_to_say_so(flow: Shell) -> None:
    """`report` looks at the molecule first; what is passed over is said once, with the samples."""
    _run("bad", "poor", 1)
    assert flow("report", "--momenta", "e.csv", "--molecule", "co2") == 2
    assert "the model is of ocs" in flow.err
    assert "passed over" not in flow.err
