"""The workers of this machine: `python -m flowcei.workers.process HANDLE MODULE ...`.

This process imports the modules, once. Then it makes a copy of itself, a worker, for each pipe that the
command sends it: a copy takes a hundredth of a second, where imports take seconds. It has one thread only,
which a copy needs.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle

from flowcei.workers.task import answered, program

_GONE = (EOFError, BrokenPipeError, ConnectionResetError)  # what is at the other end of a pipe


def main() -> None:
    """Start workers until the command is gone, or, in a worker, answer task after task until then."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command, which ends its workers
    with suppress(*_GONE), Connection(int(sys.argv[1])) as command:
        program()
        if sys.platform != "darwin":  # where what NumPy is built on does not bear to be copied
            for name in sys.argv[2:]:
                import_module(name)
        with Connection(_pipe_of_worker(command)) as pipe:
            while True:
                pipe.send(answered(*pipe.recv()))


def _pipe_of_worker(command: Connection) -> int:
    """Start a worker for each pipe that comes, where this returns; tell how workers ended."""
    life, held = os.pipe()  # nothing is written: its end tells a worker that this process is gone
    while True:
        ended = command.recv()
        if ended is not None:
            command.send(_exit_code(ended))
            continue
        handle = recv_handle(command)
        # Python may warn of threads: those of OpenBLAS, which ends them before a copy is made.
        with warnings.catch_warnings(action="ignore"):
            worker = os.fork()
        if worker == 0:
            os.close(held)
            command.close()
            threading.Thread(target=_end_with, args=[life], daemon=True).start()
            return handle
        os.close(handle)
        command.send(worker)


def _exit_code(worker: int) -> int:
    """That of a worker which ends; as if killed where it was not made by this process."""
    try:
        return os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
    except ChildProcessError:
        return -signal.SIGKILL


def _end_with(life: int) -> None:
    """End this process when that which made it is gone, also in the middle of a task."""
    os.read(life, 1)
    os._exit(1)


if __name__ == "__main__":
    main()
