"""Every frame by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowcei.frame.raw import RawFrame
from flowcei.frame.recoil import RecoilFrame

if TYPE_CHECKING:
    from flowcei.frame.interface import Frame

FRAMES = (RecoilFrame.kind, RawFrame.kind)
"""Names of the frames that a model may be trained in."""


def frame_from_dict(table: dict[str, Any]) -> Frame:
    """Build a frame from what its `to_dict` returned: only a raw one has `fixed` columns.

    Raises:
        ValueError: For a table that describes no frame.
    """
    return RawFrame.from_dict(table) if "fixed" in table else RecoilFrame.from_dict(table)
