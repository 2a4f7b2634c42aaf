"""Trainings in processes of their own that are killed, terminated, or refused by the system."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what became of trainings that ended in many ways: see `nursery.py`.

    It checks after every death that the folder can be read, and at the end that the result is, to the
    bit, that of a training without interruption.
    """
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "support" / "nursery.py"), "3"],
        cwd=tmp_path_factory.mktemp("nursery"),
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_a_request_to_terminate_keeps_the_epochs(found: dict[str, Any]) -> None:
    """SIGTERM, as a batch system sends it: exit code 5, and then the same result."""
    assert found["terminated"]["code"] == 5
    words = "2 of 6 epochs are saved; go on with: flowcei train --resume run"
    assert words in found["terminated"]["said"]


def test_a_disk_that_takes_no_checkpoint_leaves_nothing(found: dict[str, Any]) -> None:
    """A real refusal by the system, of the first checkpoint: one line, no folder."""
    assert found["limited"]["code"] == 1
    last = found["limited"]["said"].splitlines()[-1]
    assert last.startswith("flowcei: error: run/checkpoint.safetensors cannot be written (File too large)")
    assert found["limited"]["left"] == []


def test_trainings_killed_at_every_moment_are_the_same(found: dict[str, Any]) -> None:
    """Some at random moments of their lives, one again and again before file operations of its own."""
    assert sum(found["states"].values()) == 3
    assert {"nothing", "nothing kept", "1 epochs kept", "6 epochs kept"} <= set(found["operations"])
    # Until the last file has moved up it is not the new run.
    replacing = [state.removeprefix("replacing, ") for state in found["replacing"]]
    assert replacing[1:3] == ["finished", "nothing kept"]
    assert replacing[-4:] == [*["6 epochs kept"] * 3, "finished"]
