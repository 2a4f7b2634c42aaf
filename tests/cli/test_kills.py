"""Trainings in processes of their own that are killed, terminated, or refused by the system."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runfolders import FINISHED, LINE, TINY, assert_same_runs, names_in
from shell import Shell

from flowcei.cli import runs

ROOT = Path(__file__).parents[2]


@pytest.fixture
def flow(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Shell:
    """`flow("train", ...)` runs a command, in an empty folder, and returns its exit code."""
    monkeypatch.chdir(tmp_path)
    return Shell(monkeypatch, capsys)


def _start(*words: str, script: str | None = None, cwd: Path) -> subprocess.Popen:
    program = ["-c", script] if script else ["-m", "flowcei"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, *program, *words], cwd=cwd, env=environment, stderr=subprocess.PIPE, text=True
    )


SIGNALLED = """
import os, signal, sys
from flowcei.cli import main, runs
write = runs.RunFolder.write_metrics
def stop(self, records):
    write(self, records)
    if len(records) == 2:
        os.kill(os.getpid(), signal.SIGTERM)
runs.RunFolder.write_metrics = stop
main.main()
"""


def test_a_request_to_terminate_keeps_the_epochs(flow: Shell, tmp_path: Path) -> None:
    """SIGTERM, as a batch system sends it, to a process of its own: exit code 5, and the same result."""
    child = _start(*LINE, script=SIGNALLED, cwd=tmp_path)
    said = child.communicate()[1]
    assert child.returncode == 5, said
    assert "2 of 4 epochs are saved; go on with: flowcei train --resume run" in said
    assert flow("train", "--resume", "run") == 0
    assert flow(*LINE[:-1], "whole") == 0
    assert_same_runs("run", "whole")


LIMITED = """
import resource, sys
from flowcei.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
main.main()
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no limits on this system")
def test_a_disk_that_takes_no_checkpoint_leaves_nothing(tmp_path: Path) -> None:
    """A real refusal by the system, of the first checkpoint: one line, no folder."""
    child = _start(*LINE, script=LIMITED, cwd=tmp_path)
    last = child.communicate()[1].splitlines()[-1]
    assert child.returncode == 1
    assert last.startswith("flowcei: error: run/checkpoint.safetensors cannot be written (File too large)")
    assert list(tmp_path.iterdir()) == []


def test_two_processes_are_killed_and_the_training_is_the_same(flow: Shell, tmp_path: Path) -> None:
    """SIGKILL once a checkpoint is there, and once some epochs are."""
    line = ["train", *TINY, "--epochs", "6", "--events", "400", "-o"]
    for k, sign in enumerate(("checkpoint.safetensors", "metrics.csv")):
        child = _start(*([*line, "run"] if k == 0 else ["train", "--resume", "run"]), cwd=tmp_path)
        while child.poll() is None and not Path("run", sign).exists():
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        if not runs.unfinished_work(Path("run")):  # it was faster
            break
    else:
        assert flow("train", "--resume", "run") == 0
    assert names_in("run") == FINISHED
    assert flow(*line, "whole") == 0
    assert_same_runs("run", "whole")


def test_trainings_killed_at_every_moment_are_the_same(tmp_path: Path) -> None:
    """Some at random moments of their lives, one again and again before file operations of its own.

    Each in a folder that another was killed in before: see `nursery.py`, which checks after
    every death that the folder can be read, and at the end that the result is, to the bit,
    that of a training without interruption.
    """
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "support" / "nursery.py"), "5"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert sum(found["states"].values()) == 5
    assert {"nothing", "nothing kept", "1 epochs kept", "6 epochs kept"} <= set(found["operations"])
    # Until the last file has moved up it is not the new run.
    replacing = [state.removeprefix("replacing, ") for state in found["replacing"]]
    assert replacing[1:3] == ["finished", "nothing kept"]
    assert replacing[-4:] == [*["6 epochs kept"] * 3, "finished"]
