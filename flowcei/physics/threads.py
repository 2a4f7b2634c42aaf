"""Work shared by threads."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")

CHUNK = 16_384  # rows a thread takes at a time, at the most


def usable_cores() -> int:
    """The number of cores that this process may use: those it may run on, or OMP_NUM_THREADS if fewer."""
    # Where the system tells it; macOS does not.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # As libraries do, and as each of several processes is told its share.
    stated = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return min(cores, int(stated)) if stated.isdecimal() and int(stated) else cores


def shares(count: int, least: int, threads: int | None) -> list[slice]:
    """Slices of `count` rows, each of at least `least`, as many for every thread.

    Example:
        >>> shares(100, 40, 2)
        [slice(0, 50, None), slice(50, 100, None)]
    """
    workers = threads or usable_cores()
    rounds = max(min(8, count // (workers * max(1, least))), -(-count // (workers * CHUNK)), 1)
    size = max(1, -(-count // (workers * rounds if count > least else 1)))
    return [slice(first, min(first + size, count)) for first in range(0, count, size)]


def in_threads(work: Callable[[_Task], None], tasks: Sequence[_Task], threads: int | None) -> None:
    """Call `work` for every task, in `threads` threads, or in all the process may run on."""
    workers = min(threads or usable_cores(), len(tasks))
    if workers <= 1:
        for task in tasks:
            work(task)
        return
    # Python's threads, not numba's: a kernel releases the lock, and numba's own pool would go on spinning
    # next to torch's.
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, tasks))


def mapped(
    work: Callable[[_Task], _Result], tasks: Iterable[_Task], threads: int | None = None
) -> Iterator[_Result]:
    """Yield what `work` makes of each task, in their order; one more than there are threads is begun."""
    count, begun = threads or usable_cores(), deque[Future[_Result]]()
    if count <= 1:
        yield from map(work, tasks)
        return
    with ThreadPoolExecutor(count) as pool:
        for task in tasks:
            begun.append(pool.submit(work, task))
            if len(begun) > count:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
