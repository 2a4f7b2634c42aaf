"""Safetensors files from strangers: bounded first, then read by the library, then sealed by a checksum.

The library checks that types, shapes and offsets agree with the file. What it does not bound is
how much it takes to say so: a header may have 100 MB, or hold a million tensors.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Annotated, BinaryIO, Literal, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save

from flowcei.errors import DataError, UsageError
from flowcei.storage.strictjson import read_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

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


class _Claim(BaseModel):
    model_config = ConfigDict(strict=True)
    dtype: Literal["F32", "F64", "I64", "I32", "U8", "BOOL"]
    shape: list[int]
    data_offsets: Annotated[list[int], Field(min_length=2, max_length=2)]


class _Header(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")
    metadata: dict[str, str] = Field(default={}, alias="__metadata__")
    __pydantic_extra__: dict[str, _Claim]


_MAX_HEADER = 16 << 20
_MAX_TENSORS = 20_000
_MAX_NAME = 500  # characters


def read_tensors(
    file: BinaryIO, describe: Callable[[dict[str, str]], Description], *, most: int = 1 << 30
) -> tuple[Description, dict[str, Tensor]]:
    """Read a safetensors file from its beginning.

    Args:
        file: Open; no pipe, no device.
        describe: Makes a description of the metadata, text by name, or refuses it.
        most: Bytes of the file, at the most.

    Returns:
        The description, and the tensors by name.

    Raises:
        OSError: For a file that cannot be read.
        DataError: For anything but a sound file of at most `most` bytes; the message has no path.
    """
    size = file.seek(0, 2)
    if size > most:
        raise DataError(f"larger than {most >> 30} GiB: not a file of flowcei")
    file.seek(0)
    metadata = _header(file, size).metadata
    file.seek(0)
    try:
        tensors = load(file.read(size))  # in memory, so that what the checksum is of does not change
    except (SafetensorError, RuntimeError, ValueError, OverflowError) as error:
        raise _damaged(" ".join(str(error).split())[:200]) from error
    return describe(metadata), tensors


def write_tensors(file: BinaryIO, metadata: dict[str, str], tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file to an open one.

    Raises:
        UsageError: For a tensor of a type that no model file holds.
    """
    for tensor in tensors.values():
        _type(tensor)
    # Cloned: the library refuses tensors that share memory, such as parts of one buffer.
    own = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    file.write(save(own, metadata))


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


def _header(file: BinaryIO, size: int) -> _Header:
    """Return a header that is small and accounts for the size of its file."""
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, _MAX_HEADER):
        raise _damaged(f"a header of {length} bytes in a file of {size}")
    try:
        header = _Header.model_validate(read_json(file.read(length).decode()))
    except ValidationError as error:
        raise _damaged(f"its header: {error.errors(include_url=False)[0]['msg']}") from error
    except UnicodeDecodeError as error:
        raise _damaged("its header is not UTF-8") from error
    except DataError as error:
        raise _damaged(f"its header: {error}") from error
    claims = header.__pydantic_extra__
    if len(claims) > _MAX_TENSORS:
        raise _damaged(f"{len(claims)} tensors, above {_MAX_TENSORS}")
    for name in claims:  # names are printed where something is wrong with them
        if len(name) > _MAX_NAME or not name.isprintable():
            raise _damaged(f"a tensor is called {ascii(name)[:80]}")
    end = max((claim.data_offsets[1] for claim in claims.values()), default=0)
    if end != size - 8 - length:  # before a gigabyte of nothing is read
        raise _damaged(f"its tensors end at byte {str(end)[:20]} of {size - 8 - length}")
    return header


def _damaged(what: str) -> DataError:
    return DataError(f"not a model file, or damaged ({what}); copy it again, or make it with flowcei train")
