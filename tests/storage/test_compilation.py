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


# Two kernels of one function for each process: numbers of two types.
STORED = """
import sys
import numpy as np
from flowcei.storage._compilation import kernel

@kernel
def first(x):
    return x[0]

for kind in sys.argv[1:]:
    first(np.ones(1, kind))
print(sum(first.stats.cache_misses.values()))
"""


def test_processes_that_store_kernels_of_one_function_at_once_forget_none(tmp_path: Path) -> None:
    """The index of the function has those of all, each with a file of its own."""
    program = tmp_path / "program.py"
    program.write_text(STORED)
    home = os.environ | {"FLOWCEI_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    kinds = "f4", "f8", "i1", "i2", "i4", "i8"
    processes = [subprocess.Popen([sys.executable, program, kind], env=home) for kind in kinds]
    assert [process.wait() for process in processes] == [0] * len(kinds)
    told = subprocess.run([sys.executable, program, *kinds], env=home, capture_output=True, check=True)
    assert told.stdout == b"0\n"
