"""How far something has come, by a clock of the test's own; what is said and what is not."""

from __future__ import annotations

import re
from itertools import count
from pathlib import Path

import click
import pytest
from shell import Shell

import flowcei
from flowcei.cli.options import Duration
from flowcei.cli.progress import Progress


class _Clock:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def flow(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Shell:
    """`flow("simulate", "ocs")` runs a command, in an empty folder, and returns its exit code."""
    monkeypatch.chdir(tmp_path)
    return Shell(monkeypatch, capsys)


def test_a_line_a_minute_with_share_rate_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    """100 events a second, of 36,000, told every 10 s for three minutes."""
    clock = _Clock()
    with Progress(36_000, "events", clock=clock, terminal=False) as progress:
        for _ in range(18):
            clock.now += 10.0
            progress.update(1000)
    assert capsys.readouterr().err.splitlines() == [
        "16 % of 36000 events, 100 events/s, 5 min left",
        "33 % of 36000 events, 100 events/s, 4 min left",
        "50 % of 36000 events, 100 events/s, 3 min left",
    ]


def test_a_line_tells_the_rate_of_its_own_minute(capsys: pytest.CaptureFixture[str]) -> None:
    """What an earlier run did is part of the share and not of the rate; a slower minute is slower."""
    clock = _Clock()
    progress = Progress(10_000, "events", done=4000, clock=clock, terminal=False)
    progress.update(1000)  # at once: found in the file
    for done in (60, 30, 0):
        clock.now += 60.0
        progress.update(done)
    assert capsys.readouterr().err.splitlines() == [
        "50 % of 10000 events, 1 events/s, 82 min left",
        "50 % of 10000 events, 0.5 events/s, 2.7 h left",
        "50 % of 10000 events, 0 events/s",
    ]


def test_what_ends_within_a_minute_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """No line, and no escape sequences where stderr is no terminal."""
    clock = _Clock()
    with Progress(100, "events", clock=clock) as progress:
        clock.now += 59.0
        progress.update(100, "loss 1.0")
    assert capsys.readouterr().err == ""


def test_a_bar_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """With its share, and what stands beside it; notes are lines of their own."""
    with Progress(100, "events", done=50, terminal=True) as progress:
        progress.update(25, "loss 1.234")
        progress.note("epoch 1")
    said = capsys.readouterr().err
    assert "50%" in said
    assert "epoch 1\n" in said
    assert "events/s" in said


def test_a_calibration_tells_how_far_it_is() -> None:
    """All events are told of, once."""
    told: list[int] = []
    flowcei.calibrate(
        flowcei.load(), flowcei.simulate("ocs", 60, noise="1%", seed=3), n=10, on_events=told.append
    )
    assert sum(told) == 60


@pytest.mark.parametrize("command", ["simulate", "calibrate"])
def test_long_commands_say_a_line_a_minute(
    flow: Shell, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """On stderr, through a clock that goes on by two minutes a look; not under -q."""
    minutes = count()
    monkeypatch.setattr(Progress.__init__, "__kwdefaults__", {
        "done": 0, "terminal": None, "clock": lambda: 120.0 * next(minutes),
    })  # fmt: skip
    assert flow("-q", "simulate", "ocs", "-n", "60", "--noise", "1%", "--seed", "3", "-o", "e.h5") == 0
    assert flow.err == ""
    line = ["simulate", "ocs", "-n", "60", "--seed", "3", "-o", "f.h5"]
    if command == "calibrate":
        line = ["calibrate", "bundled", "--data", "e.h5", "-n", "10"]
    assert flow(*line) == 0
    assert "100 % of 60 events, 0.5 events/s, 0 s left" in flow.err


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("45m", 2700), ("2h", 7200), ("1.5 h", 5400), ("1d", 86400), (7, 7)],
)
def test_time_spans_are_read(text: str, seconds: float) -> None:
    """A number is seconds."""
    assert Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "0", "0h", "-5", "2 hours", "h", "1e3", "nan", "1:30"])
def test_what_is_no_time_span_is_refused(text: str) -> None:
    """Words, zero and negative numbers."""
    with pytest.raises(click.BadParameter, match="write 90s, 45m, 2h"):
        Duration().convert(text, None, None)


def test_quiet_is_silent_but_for_data_warnings_and_errors(flow: Shell) -> None:
    """Notes go, data on stdout stay, and so do a warning and an error."""
    line = ["simulate", "ocs", "-n", "20", "--seed", "1", "-o"]
    assert flow("-q", *line, "a.csv") == 0
    assert (flow.out, flow.err) == ("", "")
    assert flow("--quiet", *line, "-") == 0
    assert flow.out.startswith("cx,cy,cz")
    assert flow.err == ""
    lines = Path("a.csv").read_text().splitlines()
    order = [*range(3, 9), *range(3), *range(12, 18), *range(9, 12)]  # o, s, c: not what it says
    rows = [",".join(row.split(",")[k] for k in order) for row in lines[1:]]
    Path("wrong.csv").write_text("\n".join([lines[0], *rows, ""]))
    assert flow("-q", "sample", "--momenta", "wrong.csv", "-n", "2", "--seed", "1", "--keep-flagged") == 0
    assert all(line.startswith("warning: ") for line in flow.err.splitlines())
    assert "of 20 events (first: 0): ker" in flow.err
    assert flow("-q", *line, "a.csv") == 2
    assert flow.err.startswith("flowcei: error:")
    assert len(flow.err.splitlines()) == 1


def test_verbose_says_more_and_not_beside_quiet(flow: Shell) -> None:
    """What the library does: here, that an epoch was kept; both options together are refused."""
    tiny = ["train", "--epochs", "1", "--events", "200", "--hidden", "8", "--couplings", "2", "--seed", "1"]
    assert flow(*tiny) == 0
    assert "kept in" not in flow.err
    assert flow("-v", *tiny) == 0
    assert re.search(r"epoch 1 saved in runs/ocs-cinn-2/checkpoint\.safetensors", flow.err)
    assert flow("-v", "-q", *tiny) == 2
    assert "not both" in flow.err
