"""Model files taken apart and put together again, with checksums that are right."""

from __future__ import annotations

import hashlib
import json
import struct
from typing import TYPE_CHECKING, Any

from safetensors import safe_open
from safetensors.numpy import save_file

from flowcei.storage.modelfile import checksum

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    Tensors = dict[str, NDArray[np.generic]]


def parts(path: Path) -> tuple[dict[str, Any], Tensors]:
    """Return the description and the tensors of a model file."""
    with safe_open(path, framework="np") as file:
        return json.loads(file.metadata()["flowcei"]), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118


def sealed(card: object, tensors: Tensors) -> dict[str, str]:
    """Return metadata with a description, a table or its text, and both checksums."""
    if isinstance(card, dict) and card.get("checksum"):
        card = card | {"checksum": checksum(tensors)}
    text = card if isinstance(card, str) else json.dumps(card)
    return {"flowcei": text, "sha256": hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()}


def forge(path: Path, card: object, tensors: Tensors) -> Path:
    """Write a model file as flowcei would, whatever it says."""
    save_file(tensors, path, metadata=sealed(card, tensors))
    return path


def laid_out(header: object, content: bytes = b"", *, length: int | None = None) -> bytes:
    """Return the bytes of a safetensors file with a header, a table or its text, as it is."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + content


def edited(card: dict[str, Any], place: str, value: object) -> dict[str, Any]:
    """Return a copy of a description with another value at a place such as `frame.axes`."""
    *path, last = place.split(".")
    table = card = json.loads(json.dumps(card))
    for key in path:
        table = table[key]
    table[last] = value
    return card
