"""Processes of this machine. One that is killed is replaced, and its block done again."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection, Pipe
from multiprocessing.reduction import send_handle
from typing import Any, Self

from flowcei.errors import WorkersLostError
from flowcei.physics.threads import usable_cores
from flowcei.workers.task import Answer, program

# Libraries that would each start as many threads as there are cores. PyTorch goes by the first.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
_DEATHS = 5  # of workers, one after the other, with the same block


class LocalWorkers:
    """So many processes, each with its share of the cores: copies of one that imports `modules` meanwhile.

    Not `ProcessPoolExecutor`: the death of one process ends all of those, and they import the script of the
    caller again.
    """

    def __init__(self, count: int, modules: Sequence[str] = ()) -> None:
        self.slots = count
        self._share, self._modules = max(1, usable_cores() // count), modules
        self._threads = ThreadPoolExecutor(count)  # each waits for a process of its own
        self._own = threading.local()
        self._lock, self._closed = threading.Lock(), False
        self._serve()

    def _serve(self) -> None:
        """Start the process that starts workers."""
        self._pipe, theirs = Pipe()
        with theirs:
            name = ["-m", "flowcei.workers.process", str(theirs.fileno())]
            self._server = subprocess.Popen(  # noqa: S603 (our own program)
                [sys.executable, *name, *self._modules],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # that of the command is for results
                env=os.environ | dict.fromkeys(_THREADS, str(self._share)),
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        self._server.kill()  # its workers end with it
        with self._lock:
            self._server.kill()  # one that was begun meanwhile
            self._server.wait()
            self._pipe.close()
        self._threads.shutdown(cancel_futures=True)

    def submit(self, function: Callable[[Any], Any], task: Any) -> Future[Answer]:  # noqa: ANN401
        """Begin a task as soon as a process is free."""
        return self._threads.submit(self._answer, function, task)

    def _answer(self, function: Callable[[Any], Any], task: Any) -> Answer:  # noqa: ANN401
        ends: list[int] = []
        while len(ends) < _DEATHS and not self._closed:
            worker, pipe = getattr(self._own, "worker", None) or self._start()
            try:
                pipe.send((function, task, program()))
                answer: Answer = pipe.recv()
            except (EOFError, OSError):
                pipe.close()
                self._own.worker = None
                ends.append(self._asked(worker))
            else:
                return answer
        how = (
            "killed, as the system does when memory runs out"
            if ends[-1:] == [-9]
            else f"exit code {ends[-1:]}"
        )
        raise WorkersLostError(f"{len(ends)} workers ended with the same block ({how}); use fewer --workers")

    def _start(self) -> tuple[int, Connection]:
        """Start the process of this thread."""
        ours, theirs = Pipe()
        with theirs:
            self._own.worker = self._asked(None, theirs.fileno()), ours
        worker: tuple[int, Connection] = self._own.worker
        return worker

    def _asked(self, worker: int | None, handle: int | None = None) -> int:
        """The number of a new worker, which gets a handle, or the exit code of one that ended."""
        for _ in range(_DEATHS):
            with self._lock:
                if self._closed:
                    raise WorkersLostError("the workers were ended")
                try:
                    self._pipe.send(worker)
                    if handle is not None:
                        send_handle(self._pipe, handle, self._server.pid)
                    answer: int = self._pipe.recv()
                except (EOFError, OSError):
                    self._pipe.close()
                    self._server.wait()
                    self._serve()
                else:
                    return answer
        raise WorkersLostError(f"the process that starts workers ended {_DEATHS} times; use fewer --workers")
