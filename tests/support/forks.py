"""A warm process that forks a child for each command, to be killed: Python takes seconds to start."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_SERVE = """
import os, sys
from flowcei.cli.main import main
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        sys.argv = ["flowcei", *line.split()]
        main()
        os._exit(0)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


class Forks(subprocess.Popen[str]):
    """Runs commands of flowcei in a folder, after some lines of Python that import what they need."""

    def __init__(self, folder: Path, warm: str) -> None:
        super().__init__(
            [sys.executable, "-c", warm + _SERVE],
            cwd=folder,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            bufsize=1,
        )

    def begin(self, *words: str) -> int:
        """Begin a command; return the process that runs it."""
        assert self.stdin is not None
        self.stdin.write(" ".join(words) + "\n")
        return int(self._line())

    def end(self) -> int:
        """Wait for it; return its status."""
        return int(self._line())

    def _line(self) -> str:
        assert self.stdout is not None
        return self.stdout.readline()


def lives(child: int) -> bool:
    """Whether a process is there still."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, 0)
        return True
    return False


def kill(child: int) -> None:
    """End a process without any chance to tidy up, if it is there still."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
