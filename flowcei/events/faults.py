"""Faults of a file: the reader stops at the first, or collects them, so that all can be told."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowcei.errors import DataError

_KEPT = 100  # errors of a kind: a file may have a fault in each of its rows


@dataclass
class Fault:
    """What is wrong with a file in one way.

    Attributes:
        count: Events, or columns, that it is about.
        first: The first errors.
        columns: How often each column is named.
    """

    count: int = 0
    first: list[DataError] = field(default_factory=list)
    columns: Counter[str] = field(default_factory=Counter)


class Faults(dict[str, Fault]):
    """What a reader would refuse, by kind: ``fields``, ``cells``, ``columns``, ..."""

    def count(self, *kinds: str) -> int:
        """Return how many events, or columns, faults of some kinds are about."""
        return sum(self[kind].count for kind in kinds if kind in self)


def refuse(error: DataError, kind: str, faults: Faults | None, count: int = 1) -> None:
    """Raise an error, or add it to the faults where they are collected.

    Args:
        error: With its row or column.
        kind: Of the fault.
        faults: Where to collect it.
        count: How many events it is about.

    Raises:
        DataError: Where faults are not collected.
    """
    if faults is None:
        raise error
    fault = faults.setdefault(kind, Fault())
    fault.count += count
    if error.column is not None:
        fault.columns[error.column] += count
    if len(fault.first) < _KEPT:
        fault.first.append(error)
