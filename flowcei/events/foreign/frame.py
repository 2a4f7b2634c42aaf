"""A DataFrame, read as a file with the same columns would be."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from flowcei.errors import DataError
from flowcei.events.foreign.assembly import mapped_chunks
from flowcei.events.foreign.binary import FrameTable
from flowcei.events.foreign.interpretation import Reading, interpret, is_native_header
from flowcei.events.selection import EventFilter

if TYPE_CHECKING:
    import pandas as pd

    from flowcei.events.foreign.table import Arrays
    from flowcei.molecules.molecule import Molecule


def frame_arrays(
    frame: pd.DataFrame, molecule: Molecule, reading: Reading
) -> tuple[list[Arrays], dict[str, Any], list[str]]:
    """The events of a DataFrame, their origin, and lines for a person: what was concluded, and left out.

    There is no event_id where the frame has none and nothing is left out.
    """
    table = FrameTable(frame)
    meaning = interpret(table, molecule, reading)
    select = EventFilter(table.path, molecule, reading.selection)
    chunks = mapped_chunks(table, meaning.mapping, molecule, rows=max(1, len(frame)))
    arrays = [events for events in map(select, chunks) if len(events)]
    if not arrays:
        raise DataError(f"no event is left ({select.tally})", path=table.path)
    lines = [*meaning.conclusions, *([str(select.tally)] if select.tally.unasked else [])]
    origin = {} if is_native_header(table, molecule) else {"mapping": meaning.mapping.to_dict()}
    if not select.numbered and not select.tally.rejected:
        arrays = [replace(events, event_id=None) for events in arrays]
    return arrays, origin, lines
