"""Processes of this machine. One that is killed is replaced, and its block done again."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection, Pipe
from typing import Any, Self

from flowcei.errors import WorkersLostError
from flowcei.physics.threads import usable_cores
from flowcei.workers.task import Answer, program

# Libraries that would each start as many threads as there are cores. PyTorch goes by the first.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
_DEATHS = 5  # of workers, one after the other, with the same block


class LocalWorkers:
    """So many processes, each with its share of the cores, started when they are first needed.

    Not `ProcessPoolExecutor`: the death of one process ends all of those, and they import the script of the
    caller again.
    """

    def __init__(self, count: int) -> None:
        self.slots = count
        self._share = max(1, usable_cores() // count)
        self._threads = ThreadPoolExecutor(count)  # each waits for a process of its own
        self._own = threading.local()
        self._lock, self._closed = threading.Lock(), False
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._closed = True
            for process in self._started:
                process.kill()
        self._threads.shutdown(cancel_futures=True)
        for process in self._started:
            process.wait()

    @property
    def pids(self) -> list[int]:
        """Of the processes that live."""
        return [process.pid for process in self._started if process.poll() is None]

    def submit(self, function: Callable[[Any], Any], task: Any) -> Future[Answer]:  # noqa: ANN401
        """Begin a task as soon as a process is free."""
        return self._threads.submit(self._answer, function, task)

    def _answer(self, function: Callable[[Any], Any], task: Any) -> Answer:  # noqa: ANN401
        ends: list[int] = []
        while len(ends) < _DEATHS and not self._closed:
            process, pipe = getattr(self._own, "worker", None) or self._start()
            try:
                pipe.send((function, task, program()))
                answer: Answer = pipe.recv()
            except (EOFError, OSError):
                pipe.close()
                self._own.worker = None
                ends.append(process.wait())
            else:
                return answer
        how = (
            "killed, as the system does when memory runs out"
            if ends[-1:] == [-9]
            else f"exit code {ends[-1:]}"
        )
        raise WorkersLostError(f"{len(ends)} workers ended with the same block ({how}); use fewer --workers")

    def _start(self) -> tuple[subprocess.Popen[bytes], Connection]:
        """Start the process of this thread."""
        ours, theirs = Pipe()
        with self._lock, theirs:
            if self._closed:
                raise WorkersLostError("the workers were ended")
            process = subprocess.Popen(  # noqa: S603 (our own program)
                [sys.executable, "-m", "flowcei.workers.process", str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # that of the command is for results
                env=os.environ | dict.fromkeys(_THREADS, str(self._share)),
            )
            self._started.append(process)
        self._own.worker = process, ours
        return process, ours
