"""How far something has come; what is said and what is not."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import click
import pytest
from shell import Shell

import flowcei
from flowcei.cli import progress
from flowcei.cli.streams import log_to_stderr
from flowcei.cli.train import Duration

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def flow(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Shell:
    """`flow("simulate", "ocs")` runs a command, in an empty folder, and returns its exit code."""
    monkeypatch.chdir(tmp_path)
    return Shell(monkeypatch, capsys)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what is said of progress off a terminal."""
    said: list[str] = []
    monkeypatch.setattr(progress, "note", said.append)
    return said


def test_a_line_every_so_often_with_share_rate_and_time_left(lines: list[str]) -> None:
    """Told of every 50 ms; what was done before is part of the share, not of the rate."""
    with progress.Progress(10_000, "events", done=4000, every=0.05) as bar:
        bar.update(1000)  # at once: found in the file
        time.sleep(1.0)
        for count in (60, 30):
            time.sleep(0.06)
            bar.update(count, "loss 1.0")
    first, second = (re.fullmatch(r"(\d+) % of 10000 events, +([0-9.]+) events/s, (\S+) left, loss 1.0", line)
                     for line in lines)  # fmt: skip
    assert first is not None
    assert second is not None
    assert first[1] == second[1] == "51"
    assert 20 < float(first[2]) < 60  # 60 events since the start
    assert 200 < float(second[2]) < 501  # 30 events in 60 ms or a bit more


def test_what_ends_within_a_minute_says_nothing(lines: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """No line, and no escape sequences where stderr is no terminal."""
    with progress.Progress(100, "events") as bar:
        bar.update(100, "loss 1.0")
    assert lines == []
    assert capsys.readouterr().err == ""


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With its share, and what stands beside it; notes are lines of their own."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    log_to_stderr()
    with progress.Progress(100, "events", done=50) as bar:
        bar.note("epoch 1")
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
    """On stderr, here a line a millisecond; not under -q."""
    rules = progress.Progress.__init__.__kwdefaults__ | {"every": 1e-3}
    monkeypatch.setattr(progress.Progress.__init__, "__kwdefaults__", rules)
    assert flow("-q", "simulate", "ocs", "-n", "60", "--noise", "1%", "--seed", "3", "-o", "e.h5") == 0
    assert flow.err == ""
    line = ["simulate", "ocs", "-n", "60", "--seed", "3", "-o", "f.h5"]
    if command == "calibrate":
        line = ["calibrate", "bundled", "--data", "e.h5", "-n", "10"]
    monkeypatch.setattr(progress, "_RUN_UP", 0.0)
    assert flow(*line) == 0
    assert re.search("100 % of 60 events, .* events/s, 00:00 left", flow.err)


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
    for words in (["-v", "-q", *tiny], ["-v", *tiny, "-q"], [*tiny, "-q", "-v"]):
        assert flow(*words) == 2
        assert "not both" in flow.err


@pytest.mark.parametrize("command", ["simulate", "convert", "check", "train", "sample", "spread", "refine",
                                     "modes", "compare", "calibrate", "info", "demo"])  # fmt: skip
def test_quiet_and_verbose_may_come_after_the_command(flow: Shell, command: str) -> None:
    """Every command takes them; none needs to say so in its own help."""
    assert flow(command, "-q", "-v") == 2
    assert "not both" in flow.err
    if command == "simulate":
        assert flow(command, "ocs", "-n", "20", "--seed", "1", "-o", "a.csv", "-q") == 0
        assert flow.err == ""
