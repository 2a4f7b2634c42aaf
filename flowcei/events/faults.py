"""Faults of a file: the reader stops at the first, or collects them, so that all can be reported."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowcei.errors import DataError

_SAMPLE = 100  # errors of a kind that are stored: a file may have a fault in each of its rows


@dataclass
class Fault:
    """One kind of fault."""

    count: int = 0  # events or columns concerned
    first: list[DataError] = field(default_factory=list)
    columns: Counter[str] = field(default_factory=Counter)  # how often each is named


class Faults(dict[str, Fault]):
    """Faults by kind: ``fields``, ``cells``, ``columns``, ..."""

    def count(self, *kinds: str) -> int:
        """Events, or columns, that faults of some kinds concern."""
        return sum(self[kind].count for kind in kinds if kind in self)


def report_fault(error: DataError, kind: str, faults: Faults | None, count: int = 1) -> None:
    """Raise an error that concerns `count` events, or add it to the faults where they are collected."""
    if faults is None:
        raise error
    fault = faults.setdefault(kind, Fault())
    fault.count += count
    if error.column is not None:
        fault.columns[error.column] += count
    if len(fault.first) < _SAMPLE:
        fault.first.append(error)
