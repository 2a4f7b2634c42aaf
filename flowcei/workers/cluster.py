"""Processes of other machines, behind a scheduler of Dask."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Self

from flowcei.errors import UsageError, WorkersLostError
from flowcei.workers.task import Answer, answered, program

_log = logging.getLogger("flowcei")
PATIENCE = 10  # seconds for a scheduler to answer


class ClusterWorkers:
    """The workers of a scheduler, also those that come later; it gives blocks of lost ones to others."""

    def __init__(self, address: str) -> None:
        from distributed import Client

        for name in [*logging.root.manager.loggerDict]:
            if name.startswith("distributed"):
                logging.getLogger(name).setLevel(logging.CRITICAL)  # our own line says it
        self._address = address
        try:
            self._client = Client(address, timeout=PATIENCE, set_as_default=False)
        except (OSError, ValueError, TypeError) as error:
            where = f"no scheduler of Dask answers at {address}"
            raise UsageError(f"{where}; 'dask scheduler' starts one and prints its address") from error
        if not self._client.nthreads():
            _log.warning("the scheduler at %s has no workers yet: waiting for them", address)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close(timeout=1)

    @property
    def slots(self) -> int:
        """How many tasks run at once, now."""
        return max(1, sum(self._client.nthreads().values()))

    def submit(self, function: Callable[[Any], Any], task: Any) -> _Awaited:  # noqa: ANN401
        """Begin a task as soon as a worker is free."""
        asked = self._client.submit(answered, function, task, program(), pure=False)
        return _Awaited(asked, self._address)


class _Awaited:
    """The answer to a task that a scheduler was given."""

    def __init__(self, asked: Any, address: str) -> None:  # noqa: ANN401 (of Dask)
        self._asked, self._address = asked, address

    def result(self) -> Answer:
        """Wait for it; what a task itself raises is part of an answer, so all that is raised is of Dask."""
        try:
            answer: Answer = self._asked.result()
        except ImportError as error:
            raise UsageError(f"workers at {self._address} have no flowcei that fits: {error}") from error
        except Exception as error:
            reason = getattr(error, "reason", None) or type(error).__name__
            raise WorkersLostError(f"workers at {self._address} are lost ({reason})") from error
        self._asked.release()
        return answer
