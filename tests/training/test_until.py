"""Rounds of a training until its efficiency is there: lengths, rates, end, and interruptions."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from quick import QUICK
from shell import Shell

import flowcei
from flowcei.errors import UsageError
from flowcei.reconstruction.efficiency import Efficiency, Round
from flowcei.storage.modelfile import read_model
from flowcei.training.schedule import EpochRecord, Schedule

SCHEDULE = Schedule(epochs=1, batch=50, learning_rate=1e-2)
STILL = ("--learning-rate", "1e-12", "--epochs", "1", "--events", "200", "--prior", "ball", "--hidden", "8")


class _Stop(Exception):  # noqa: N818 (not an error of flowcei's)
    """Stands for whatever ends a training."""


def _train(**given: Any) -> flowcei.Reconstructor:
    small: dict[str, Any] = {"options": {"couplings": 2, "hidden": 8, "context": 2}, "schedule": SCHEDULE}
    return flowcei.train(**({"events_per_epoch": 400, "rules": QUICK, "seed": 4} | small | given))


def test_every_round_is_twice_as_long_and_anneals_by_itself() -> None:
    """Rates rise towards their peak and fall to nearly nothing."""
    records: list[EpochRecord] = []
    rounds: list[Round] = []

    def enough(ended: Round) -> None:
        rounds.append(ended)
        if ended.number == 3:
            raise _Stop

    with pytest.raises(_Stop):
        _train(until=1.0, on_epoch=records.append, on_round=enough)
    assert [r.epochs for r in rounds] == [1, 2, 4]
    assert [r.more for r in rounds] == [2, 4, 8]
    rates = np.array([r.learning_rate for r in records])
    for ends in (slice(1, 3), slice(3, 7)):
        assert rates[ends][-1] < 0.02 * SCHEDULE.learning_rate
        assert rates[ends].max() > 0.3 * SCHEDULE.learning_rate
    assert [r.epoch for r in records] == list(range(1, 8))


def test_a_training_in_rounds_that_is_interrupted_is_the_same(tmp_path: Path) -> None:
    """Within a round and after one: the weights, and what was said of each round."""
    said: list[Round] = []
    expected = _train(prior="broad", until=0.15, seed=9, on_round=said.append)
    assert [r.more for r in said] == [2, 4, 0]
    reached, before = said[-1].efficiency, said[-2].efficiency
    assert reached is not None
    assert before is not None
    assert reached.median >= 0.15 > before.median
    assert expected.training.epochs_run == sum(r.epochs for r in said)
    place, again, stops, model = tmp_path / "c.safetensors", list[Round](), {2, 5, -1, -3}, None

    def stop(of: EpochRecord | Round) -> None:
        if isinstance(of, Round):
            again.append(of)
        number = -of.number if isinstance(of, Round) else of.epoch
        if number in stops:
            stops.remove(number)
            raise _Stop

    while model is None:
        how: dict[str, Any] = {"checkpoint": place, "resume": place.exists(), "on_epoch": stop}
        with suppress(_Stop):
            model = _train(prior="broad", until=0.15, seed=9, on_round=stop, **how)
    assert sorted(set(again), key=lambda r: r.number) == said
    tensors = model.network.state_dict()
    assert all(torch.equal(tensors[k], v) for k, v in expected.network.state_dict().items())


def test_rounds_become_as_short_as_the_time_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock ticks once a step: of 40 s 6 are for the verdict; of ten epochs of eight steps four fit."""
    clock, records, rounds = [0.0], list[EpochRecord](), list[Round]()
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    def tick(*_: object) -> None:
        clock[0] += 1.0

    how: dict[str, Any] = {"on_step": tick, "on_epoch": records.append, "on_round": rounds.append}
    ten = Schedule(epochs=10, batch=50, learning_rate=1e-2)
    _train(until=1.0, max_seconds=40.0, schedule=ten, **how)
    assert [(r.epochs, r.why) for r in rounds] == [(4, "the time is up")]
    assert (clock[0], len(records)) == (32.0, 4)
    assert records[1].learning_rate > 0.5 * ten.learning_rate
    assert records[-1].learning_rate < 0.02 * ten.learning_rate


def test_without_time_for_a_round_there_is_a_model_of_one_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says what it is, as where an efficiency is not reached."""
    rounds, steps = list[Round](), list[int]()
    model = _train(until=1.0, max_seconds=1e-9, on_round=rounds.append, on_step=lambda n, _: steps.append(n))
    assert (steps, model.training.epochs_run) == ([50], 1)
    assert [(r.efficiency, r.more, r.why) for r in rounds] == [(None, 0, "the time is up")]
    assert np.isfinite(model.training.validation_loss)
    monkeypatch.chdir(tmp_path)
    flow = Shell(monkeypatch, capsys)
    words = ("train", *STILL, "--until", "0.9", "--max-time", "0.001s", "--seed", "1", "-o", "run")
    assert flow(*words) == 0, flow.err
    assert "efficiency not measured; the time is up" in flow.err
    assert (
        "0.9 was wanted: not reached"
        in read_model(Path("run/model.safetensors"))[0].training.judgement["summary"]
    )


def test_one_event_in_ten_counts_too() -> None:
    """A median that is reached is not enough where the lowest tenth has less than a fifth of it."""
    assert Efficiency(0.86, 0.1, 1000).reaches(0.5)
    assert not Efficiency(0.86, 0.09, 1000).reaches(0.5)
    assert not Efficiency(0.49, 0.4, 1000).reaches(0.5)


def test_what_is_quoted_of_a_round_is_that_of_its_model() -> None:
    """By other draws of the same events of the prior."""
    rounds: list[Round] = []
    model = _train(until=1e-6, on_round=rounds.append)
    assert [(r.more, r.why) for r in rounds] == [(0, "1e-06 is reached")]
    assert rounds[0].efficiency is not None
    events = flowcei.simulate("ocs", 200, noise=model.default_noise, seed=77)
    weights = model.sample(events, 2000, weigh=True, seed=3).weights
    assert weights is not None
    low, high = np.quantile(weights.efficiency, (0.1, 0.9))
    assert low < rounds[0].efficiency.median < high


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"until": 1.5}, "until is 1.5"),
        ({"until": 0.0}, "until is 0.0"),
        ({"until": 0.5, "architecture": "cvae", "options": {}}, "which there cannot be"),
        ({"until": 0.5, "prior": {"kind": "cube", "half_width": 4.0}}, "which there cannot be"),
        ({"until": 0.5, "max_seconds": 0.0}, "max_seconds is 0.0"),
    ],
)
def test_what_can_never_be_reached_is_refused_before_the_first_step(given: dict[str, Any], what: str) -> None:
    """An efficiency that is none, and models or priors without a density."""
    with pytest.raises(UsageError, match=what):
        _train(**given, on_step=lambda *_: pytest.fail("a step was made"))


def test_what_was_not_reached_is_said_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is learned: after a second round that brings nothing the command ends, with exit code 0."""
    monkeypatch.chdir(tmp_path)
    flow = Shell(monkeypatch, capsys)
    assert flow("train", *STILL, "--until", "0.9", "--seed", "1", "-o", "run") == 0, flow.err
    assert "round 1, 1 epochs: efficiency 0.0" in flow.err
    assert "it is no better than the round before" in flow.err
    assert "0.9 was wanted: not reached" in flow.err
    assert len(pd.read_csv("run/metrics.csv")) == 3
    judgement = read_model(Path("run/model.safetensors"))[0].training.judgement
    assert "0.9 was wanted: not reached" in judgement["summary"]
    last = next(line for line in flow.err.splitlines() if "round 2" in line)
    assert last.split("efficiency ")[1].split(" by")[0] in judgement["summary"]
    assert flow("train", *STILL, "--until", "90%") == 2
    assert flow("train", *STILL[:6], "--arch", "cvae", "--until", "0.9") == 2
    assert "which there cannot be" in flow.err
    assert not Path("runs").exists()
