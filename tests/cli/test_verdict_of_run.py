"""What `sample` found wrong with a run travels with its samples: every command that reads them says so."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from shell import Shell

import flowcei
from flowcei.cli.main import main

pytestmark = pytest.mark.usefixtures("undrawn")

COMMANDS = {
    "spread": ["spread", "{}"],
    "modes": ["modes", "{}", "--event", "0"],
    "refine": ["refine", "{}", "-o", "refined-{}"],
    "population": ["population", "{}", "--bootstrap", "0"],
    "compare-priors": ["compare-priors", "{}", "--prior", "equilibrium", "--prior", "broad"],
    "plot": ["plot", "{}", "--kind", "corner", "--event", "0"],
    "plot of events": ["plot", "{}", "--kind", "ker"],
    "report": ["report", "{}"],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Samples of events on their scale, 5 % above it, and with a fifth of ions of other molecules."""
    folder, out = tmp_path_factory.mktemp("runs"), dict[str, Path]()
    events = flowcei.simulate("ocs", 200, noise="1%", seed=3)
    assert events.sigma is not None
    foreign = events.momenta.copy()
    foreign[:40, 2] = np.roll(foreign[:40, 2], 1, axis=0)
    momenta = {"honest": events.momenta, "scaled": 1.05 * events.momenta, "foreign": foreign}
    for name, p in momenta.items():
        scale = 1.05 if name == "scaled" else 1.0
        run = replace(events, momenta=p, sigma=scale * events.sigma)
        flowcei.write_events(run, folder / f"{name}.events.h5")
        out[name] = folder / f"{name}.h5"
        words = ["sample", "--momenta", folder / f"{name}.events.h5", "-n", "20", "--weigh", "--seed", "1"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [str(w) for w in ("flowcei", *words, "-o", out[name])])
            main()
    return out


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Shell:
    monkeypatch.chdir(tmp_path)
    return Shell(monkeypatch, capsys)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_says_it_of_a_wrong_run_and_nothing_of_an_honest_one(
    command: str, runs: dict[str, Path], shell: Shell
) -> None:
    """Of a part of the samples, too: the events of another scale are named, in one line."""
    slow = command in ("report", "spread")
    for name in ("scaled",) if slow else ("honest", "scaled"):
        some = flowcei.read_samples(runs[name])[:4]
        some.origin["model"] = "gone"  # a page without the calibration of the model, which takes seconds
        flowcei.write_samples([some], f"{name}.h5")
        assert shell(*(word.format(f"{name}.h5") for word in COMMANDS[command])) in (0, 3)  # too few
        said = [line for line in shell.err.splitlines() if "when it was sampled" in line]
        assert len(said) == (name == "scaled")
        assert all("momenta 1.05" in line and "times those predicted" in line for line in said)


def test_samples_have_the_verdict_and_those_joined_the_worst(runs: dict[str, Path]) -> None:
    """In Python: one line, or none; None where nobody looked; its numbers in `origin`."""
    honest, scaled, foreign = (flowcei.read_samples(runs[name]) for name in ("honest", "scaled", "foreign"))
    assert honest.verdict == ""
    assert scaled.verdict is not None
    assert "momentum scale" in scaled.verdict
    (cause,) = scaled.origin["verdict"]["causes"]
    assert cause["kind"] == "scale"
    assert cause["factor"] == pytest.approx(1.05, rel=0.01)
    assert foreign.verdict is not None
    assert "accidental coincidences" in foreign.verdict
    assert "flowcei experiment" in foreign.verdict
    assert foreign.origin["verdict"]["flagged"] > 30
    joined = flowcei.PosteriorSamples.concatenate([honest, scaled])
    assert joined.verdict == scaled.verdict
    drawn = flowcei.load().sample(np.asarray(honest.momenta[:2]), 5, noise="1%", seed=1)
    assert drawn.verdict is None


def test_files_of_several_runs_keep_what_is_wrong_with_one(runs: dict[str, Path], tmp_path: Path) -> None:
    """Whatever the order of its parts."""
    parts = [flowcei.read_samples(runs[name]) for name in ("honest", "scaled", "honest")]
    flowcei.write_samples(parts, tmp_path / "all.h5")
    assert flowcei.read_samples(tmp_path / "all.h5").verdict == parts[1].verdict
