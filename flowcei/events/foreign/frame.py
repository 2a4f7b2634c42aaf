"""A DataFrame, read as a file with the same columns would be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from flowcei.errors import DataError
from flowcei.events.extracolumns import exact_numbers
from flowcei.events.foreign.assembly import mapped_chunks
from flowcei.events.foreign.interpretation import Reading, interpret, is_native_header
from flowcei.events.foreign.table import Table
from flowcei.events.selection import EventFilter

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from flowcei.events.foreign.table import Arrays
    from flowcei.molecules.molecule import Molecule

_NAME = Path("DataFrame")  # what messages call it


class FrameTable(Table):
    """A DataFrame as a table."""

    titled = True

    def __init__(self, frame: pd.DataFrame) -> None:
        """Column names become text."""
        super().__init__(_NAME, [str(name) for name in frame.columns])
        self._frame = frame.set_axis(list(self.names), axis=1)

    def numeric(self, names: Sequence[str]) -> list[str]:
        """Those columns whose type is one of numbers."""
        return [name for name in names if self._frame[name].dtype.kind in "fiub"]

    def _chunks(self, used: list[str], text: Collection[str], rows: int) -> Iterator[pd.DataFrame]:
        columns = {}
        for name in used:
            try:
                values = self._frame[name].to_numpy()
                if name not in text and values.dtype.kind not in "fiub":
                    values = values.astype(np.float64)
                columns[name] = values if name in text else exact_numbers(values, name)
            except (TypeError, ValueError) as error:
                raise DataError("text where numbers belong", path=self.path, column=name) from error
        table = pd.DataFrame(columns)
        for first in range(0, len(table), rows):
            yield table[first : first + rows]


def frame_arrays(
    frame: pd.DataFrame, molecule: Molecule, reading: Reading
) -> tuple[list[Arrays], dict[str, Any], list[str]]:
    """The events of a DataFrame, their origin, and lines for a person: what was concluded, and left out.

    There is no event_id where the frame has none and nothing is left out.
    """
    table = FrameTable(frame)
    meaning = interpret(table, molecule, reading)
    select = EventFilter(_NAME, molecule, reading.selection)
    chunks = mapped_chunks(table, meaning.mapping, molecule, rows=max(1, len(frame)))
    arrays = [events for events in map(select, chunks) if len(events)]
    if not arrays:
        raise DataError(f"no event is left ({select.tally})", path=_NAME)
    lines = [*meaning.conclusions, *([str(select.tally)] if select.tally.unasked else [])]
    origin = {} if is_native_header(table, molecule) else {"mapping": meaning.mapping.to_dict()}
    if not select.numbered and not select.tally.rejected:
        arrays = [replace(events, event_id=None) for events in arrays]
    return arrays, origin, lines
