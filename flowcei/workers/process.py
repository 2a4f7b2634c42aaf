"""A worker of this machine: `python -m flowcei.workers.process HANDLE` answers what comes through a pipe."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection

from flowcei.workers.task import answered


def _end_with(parent: int) -> None:
    """End this process when its parent is gone, also in the middle of a task."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def main() -> None:
    """Answer task after task until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers
    threading.Thread(target=_end_with, args=[int(sys.argv[2])], daemon=True).start()
    with Connection(int(sys.argv[1])) as pipe, suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            pipe.send(answered(*pipe.recv()))


if __name__ == "__main__":
    main()
