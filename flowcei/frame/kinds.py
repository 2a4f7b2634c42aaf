"""Every frame by its name, and back from the table that a file holds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from flowcei.frame.raw import RawFrame
from flowcei.frame.recoil import RecoilFrame

if TYPE_CHECKING:
    from flowcei.frame.interface import Frame

FRAMES = (RecoilFrame.kind, RawFrame.kind)
"""Names of the frames that a model may be trained in."""

_TABLE: TypeAdapter[Frame] = TypeAdapter(
    RecoilFrame | RawFrame, config=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
)


def frame_from_dict(table: dict[str, Any]) -> Frame:
    """Frame whose fields (as `dataclasses.asdict` gives them) are these; ValueError where there is none."""
    try:
        return _TABLE.validate_json(json.dumps(table))
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"frame {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
