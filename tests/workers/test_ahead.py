"""Kernels that a second process compiles, ahead of the command that needs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flowcei.storage.kernels import source_digest
from flowcei.workers import ahead

CHILD = """
import sys
from flowcei.workers import ahead

ahead.kernels = lambda *_: [(
    "storage._digits.join_cells",
    "i8[:,::1], i2[:,::1], i8, Array(u1, 1, 'C', readonly=True), i8[::1], u1[::1]",
)]
sys.argv = ["ahead", "modes", "3"]
ahead.main()
"""

PARENT = """
import numpy as np
from numba.core import event
from flowcei.storage._digits import join_cells

class Listener(event.Listener):
    def on_start(self, event):
        print("compiled here", event.data["dispatcher"].py_func.__name__)
    def on_end(self, event):
        pass

event.register("numba:compile", Listener())
empty = np.zeros(0, "i8"), np.zeros(0, "u1")
join_cells(np.zeros((0, 1), "i8"), np.zeros((0, 1), "i2"), 1, np.frombuffer(b"-", "u1"), *empty)
"""

# What `flowcei sample --weigh` and `flowcei modes` compile or load, as text.
COMMANDS = """
import sys
from importlib import import_module
from pathlib import Path
from flowcei.cli.main import main
from flowcei.workers.ahead import kernels

def run(*words):
    sys.argv = ["flowcei", *words]
    main()

run("-q", "simulate", "ocs", "-n", "3", "--noise", "1%", "-o", "three.h5", "--seed", "1")
run("-q", "sample", "--momenta", "three.h5", "-n", "50", "--weigh", "--model", "bundled", "--seed", "1")
run("-q", "modes", "three.samples.h5")
for command in ("sample", "modes"):
    for name, types in kernels(command, 3):
        from numba.core.sigutils import normalize_signature
        module, _, function = name.rpartition(".")
        kernel = getattr(import_module(f"flowcei.{module}"), function)
        if normalize_signature(f"({types})")[0] not in kernel.signatures:
            print("never called", name, types)
"""


def _python(*words: str, folder: Path, cache: Path | None = None) -> str:
    """What a process says; its stdin stays open, as that of the one which compiles ahead."""
    more = {} if cache is None else {"FLOWCEI_CACHE_DIR": str(cache)}
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])} | more
    with subprocess.Popen(
        [sys.executable, *words],
        cwd=folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        said = process.stdout.read()
        assert process.wait() == 0
    return said


def test_what_is_compiled_ahead_is_what_the_commands_call(tmp_path: Path) -> None:
    assert "never called" not in _python("-c", COMMANDS, folder=tmp_path)


def test_a_command_loads_what_the_other_process_compiled(tmp_path: Path) -> None:
    _python("-c", CHILD, folder=tmp_path, cache=tmp_path)
    endings = [path.suffix for path in (tmp_path / "kernels").iterdir()]
    assert endings.count(".nbc") == endings.count(".done") == 1
    assert not _python("-c", PARENT, folder=tmp_path, cache=tmp_path)


def test_it_ends_with_its_command_and_nothing_is_lost(tmp_path: Path) -> None:
    environment = os.environ | {"FLOWCEI_CACHE_DIR": str(tmp_path)}
    words = [sys.executable, "-m", "flowcei.workers.ahead", "modes", "3"]
    ended = subprocess.run(words, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert ended.returncode == 1
    assert not ended.stdout + ended.stderr
    assert "compiled here join_cells" in _python("-c", PARENT, folder=tmp_path, cache=tmp_path)


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The processes that are started, which do nothing, by one that may use two cores."""
    begun: list[list[str]] = []

    class Process:
        def __init__(self, words: list[str], **_: object) -> None:
            begun.append(words[2:])

        def wait(self) -> int:
            return 0

    monkeypatch.setattr(subprocess, "Popen", Process)
    monkeypatch.setattr(ahead, "usable_cores", lambda: 2)
    monkeypatch.setenv("FLOWCEI_CACHE_DIR", str(tmp_path))
    return begun


def test_it_is_started_where_nothing_is_compiled_yet(started: list[list[str]], tmp_path: Path) -> None:
    ahead.compile_ahead("modes", 3)
    assert started == [["flowcei.workers.ahead", "modes", "3"]]
    (tmp_path / "kernels" / f"modes-3-{source_digest()[:16]}.done").touch()
    ahead.compile_ahead("modes", 3)
    ahead.compile_ahead("modes", 2)
    assert len(started) == 1
    ahead.compile_ahead("modes", 4)
    assert len(started) == 2


def test_none_is_started_on_one_core(started: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "usable_cores", lambda: 1)
    ahead.compile_ahead("modes", 3)
    assert not started


def test_none_is_started_where_nothing_can_be_stored(started: list[list[str]], tmp_path: Path) -> None:
    (tmp_path / "kernels").touch()
    ahead.compile_ahead("modes", 3)
    assert not started
