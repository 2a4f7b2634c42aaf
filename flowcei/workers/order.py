"""Answers in the order of their tasks, whoever works on them."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

from flowcei.errors import UsageError

if TYPE_CHECKING:
    from flowcei.workers.task import Answer

Each = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]
"""As Python's `map`: a function that can be sent by name, and tasks; results in their order."""

_AHEAD = 2  # tasks begun a worker: the next is there when one is done, and memory is bounded


class _Awaited(Protocol):
    def result(self) -> Answer:
        """Wait for the answer."""


class Workers(Protocol):
    """What answers tasks."""

    @property
    def slots(self) -> int:
        """How many tasks run at once."""

    def submit(self, function: Callable[[Any], Any], task: Any) -> _Awaited:  # noqa: ANN401
        """Begin a task."""


def check_sharing(count: int, cluster: str | None) -> None:
    """UsageError for both several processes and a cluster, or for a cluster without Dask."""
    if cluster is not None and count > 1:
        raise UsageError("--workers or --cluster, not both: a cluster has workers of its own")
    if cluster is not None and find_spec("distributed") is None:
        raise UsageError("--cluster needs Dask: pip install 'flowcei[cluster]'")


@contextmanager
def each_of(count: int = 1, cluster: str | None = None, modules: Sequence[str] = ()) -> Iterator[Each]:
    """Yield what maps a function over tasks: `map` itself, several processes, or those of a cluster.

    Processes of this machine begin to import the `modules` of the tasks at once. UsageError as of
    `check_sharing`, and for a cluster that does not answer.
    """
    check_sharing(count, cluster)
    if cluster is not None:
        from flowcei.workers.cluster import ClusterWorkers

        with ClusterWorkers(cluster) as workers:
            yield partial(ordered, workers)
    elif count > 1:
        from flowcei.workers.local import LocalWorkers

        with LocalWorkers(count, modules) as processes:
            yield partial(ordered, processes)
    else:
        yield map


def ordered(workers: Workers, function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
    """Yield what `function` makes of each task, in their order, a few tasks ahead."""
    begun: deque[_Awaited] = deque()
    for task in tasks:
        begun.append(workers.submit(function, task))
        if len(begun) >= _AHEAD * workers.slots:
            yield _result(begun.popleft().result())
    while begun:
        yield _result(begun.popleft().result())


def _result(answer: Answer) -> Any:  # noqa: ANN401
    for words, category in answer.warned:
        warnings.warn(words, category, stacklevel=2)
    if answer.error is not None:
        raise answer.error
    return answer.result
