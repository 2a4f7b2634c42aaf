"""Array types, and dataclasses of arrays that have a row for each event."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from flowcei.errors import DataError
from flowcei.events.container import one_row
from flowcei.events.extracolumns import joined_columns

Floats: TypeAlias = NDArray[np.float64]
Reals: TypeAlias = NDArray[np.floating]
Bools: TypeAlias = NDArray[np.bool_]
Rows: TypeAlias = NDArray[np.intp]
Numbers: TypeAlias = NDArray[np.int64]


class RowArrays:
    """A dataclass whose attributes `ROWS` share their first axis: arrays, dicts of them, or None."""

    ROWS: ClassVar[tuple[str, ...]]
    ROW: ClassVar[str] = "event"  # what a row is, for messages

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(getattr(self, self.ROWS[0]))

    def __iter__(self) -> Iterator[Self]:
        """Yield the rows one by one."""
        return (self[k] for k in range(len(self)))

    def __getitem__(self, rows: int | slice | NDArray[Any]) -> Self:
        """Return some of the rows; of an integer that row alone."""
        chosen = one_row(rows, len(self), self.ROW)
        each: dict[str, Any] = {}
        for name in self.ROWS:
            value = getattr(self, name)
            if isinstance(value, dict):
                each[name] = {key: column[chosen] for key, column in value.items()}
            elif value is not None:
                each[name] = value[chosen]
        return replace(self, **each)  # type: ignore[type-var]

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Join the rows of several; DataError where some lack what others have."""
        joined: dict[str, Any] = {}
        for name in cls.ROWS:
            values = [getattr(part, name) for part in parts]
            if any(v is None for v in values) and any(v is not None for v in values):
                raise DataError(f"some of the samples have {name} and others do not; they cannot be joined")
            if isinstance(values[0], dict):
                joined[name] = joined_columns(values)
            elif isinstance(values[0], RowArrays):
                joined[name] = values[0].concatenate(values)
            elif values[0] is not None:
                joined[name] = np.concatenate(values)
        return replace(parts[0], **joined)  # type: ignore[type-var]
