"""Kernels that several processes need at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# Which kernels a process compiles, as numba tells.
PROCESS = """
import sys, time
import numpy as np
from numba.core import event
from flowcei.storage._digits import decimals, join_cells

class Listener(event.Listener):
    count = 0
    def on_start(self, event):
        self.count += event.data["dispatcher"] is decimals
    def on_end(self, event):
        pass

seen = Listener()
sys.stdin.readline()  # all are ready
with event.install_listener("numba:compile", seen):
    decimals(np.ones(1), np.zeros(1), 3, 10.0 ** np.arange(23), np.zeros(1, np.int64), np.zeros(1, np.int16))
print(seen.count, bool(decimals.stats.cache_hits))
"""


def together(folder: Path, count: int) -> list[str]:
    """Return what processes that begin at once say of one kernel."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"FLOWCEI_CACHE_DIR": str(folder)},
            text=True,
        )
        for _ in range(count)
    ]
    for process in processes:
        if process.stdin is not None:
            process.stdin.write("\n")
            process.stdin.flush()
    return sorted(process.communicate()[0] for process in processes)


def test_a_kernel_is_compiled_by_one_process_for_all(tmp_path: Path) -> None:
    """The others wait and read what it stored; nothing of the waiting is left over."""
    assert together(tmp_path, 2) == ["0 True\n", "1 False\n"]
    assert not [path for path in (tmp_path / "kernels").iterdir() if path.suffix == ".claim"]


def test_a_folder_that_cannot_be_written_is_waited_for_by_nobody(tmp_path: Path) -> None:
    """Each process compiles what it needs."""
    (tmp_path / "kernels").write_text("a file in its place")
    assert together(tmp_path, 2) == ["1 False\n", "1 False\n"]
