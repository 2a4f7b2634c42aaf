"""Faults of a file: the reader stops at the first, or collects them, so that all can be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowcei.errors import DataError

__all__ = ["Faults", "refuse"]


@dataclass
class Faults:
    """What a reader would refuse.

    Attributes:
        kinds: Kind (``fields``, ``cells``, ...) -> row, or column, of a fault -> what it is, and how many
            events it is about. A part of a file that is read twice gives each fault once.
    """

    kinds: dict[str, dict[int | str, tuple[DataError, int]]] = field(default_factory=dict)

    def rows(self, *kinds: str) -> int:
        """Return how many events have faults of some kinds."""
        return sum(count for kind in kinds for _, count in self.kinds.get(kind, {}).values())


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
    known = faults.kinds.setdefault(kind, {})
    key = error.column or "" if error.row is None else error.row
    before = known[key][1] if key in known and error.row is None else 0
    known[key] = error, before + count
