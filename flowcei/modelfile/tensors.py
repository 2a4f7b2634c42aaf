"""Safetensors files from strangers: bounded first, then read by the library, then sealed by a checksum.

The library checks that types, shapes and offsets agree with the file. What it does not bound is
how much it takes to say so: a header may have 100 MB, name a key twice, or hold a million tensors.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from flowcei.errors import DataError, UsageError
from flowcei.modelfile.strictjson import read_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

__all__ = ["TYPES", "checksum", "read_tensors", "write_tensors"]

TYPES = {
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""What the tensors of a model may be, and what a checksum calls them: no half precision, in which a
log-determinant is wrong."""

Description = TypeVar("Description")

_MAX_BYTES = 1 << 30
_MAX_HEADER = 16 << 20
_MAX_TENSORS = 20_000
_MAX_NAME = 500  # characters


def read_tensors(
    path: Path, describe: Callable[[dict[str, str]], Description]
) -> tuple[Description, dict[str, Tensor]]:
    """Read a safetensors file (no pipe, no device).

    Args:
        path: The file.
        describe: Makes a description of the metadata, text by name, or refuses it, before any tensor
            is read.

    Returns:
        The description, and the tensors by name.

    Raises:
        OSError: For a file that cannot be opened.
        DataError: For anything but a sound file of at most 1 GiB; the message has no path.
    """
    metadata = _bounded_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            description = describe(metadata)
            # Cloned: the library's tensors are the file itself, which may change under the checksum.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise _damaged(str(error)[:200]) from error
    for name, tensor in tensors.items():
        if tensor.dtype not in TYPES:
            raise _damaged(f"tensor {name} is of type {tensor.dtype}")
    return description, tensors


def write_tensors(path: Path, metadata: dict[str, str], tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file.

    Raises:
        UsageError: For a tensor of a type that no model file holds.
    """
    for tensor in tensors.values():
        _type(tensor)
    # Cloned: the library refuses tensors that share memory, such as parts of one buffer.
    own = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    path.write_bytes(save(own, metadata))


def checksum(tensors: dict[str, Tensor]) -> str:
    """Return a SHA-256 over names, types, shapes and bytes of tensors, sorted by name.

    Raises:
        UsageError: For a tensor of a type that no model file holds.

    Example:
        >>> checksum({"a": torch.zeros(2)}) == checksum({"a": torch.zeros(1, 2)})
        False
    """
    whole = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        whole.update(json.dumps([name, _type(tensor), list(tensor.shape)]).encode() + b"\n")
        whole.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return f"sha256:{whole.hexdigest()}"


def _type(tensor: Tensor) -> str:
    if tensor.dtype not in TYPES:
        msg = f"weights of type {tensor.dtype} cannot be stored; model files hold {', '.join(TYPES.values())}"
        raise UsageError(msg)
    return TYPES[tensor.dtype]


def _bounded_header(path: Path) -> dict[str, str]:
    """Return the metadata of a file whose header is small enough to be parsed, and names nothing twice."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        if size > _MAX_BYTES:
            raise DataError("larger than 1 GiB: not a model of flowcei")
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER):
            raise _damaged(f"a header of {length} bytes in a file of {size}")
        raw = file.read(length)
    try:
        table = read_json(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _damaged(f"its header is not UTF-8 ({error.reason})") from error
    except DataError as error:
        raise _damaged(f"its header: {error}") from error
    metadata = table.pop("__metadata__", {}) if isinstance(table, dict) else None
    if not isinstance(table, dict) or not isinstance(metadata, dict):
        raise _damaged("its header or its metadata are no table")
    if len(table) > _MAX_TENSORS:
        raise _damaged(f"{len(table)} tensors, above {_MAX_TENSORS}")
    for name in table:  # they are printed where something is wrong with them
        if len(name) > _MAX_NAME or not name.isprintable():
            raise _damaged(f"a tensor is called {ascii(name)[:80]}")
    return metadata


def _damaged(what: str) -> DataError:
    return DataError(f"not a model file, or damaged ({what}); copy it again, or make it with flowcei train")
