"""Safetensors files from strangers: bounded first, then read by the library, sealed by checksums.

The library checks that types, shapes and offsets agree with the file. What it does not bound is
how much it takes to say so: a header may have 100 MB, or hold a million tensors.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Annotated, BinaryIO, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load, save

from flowcei.errors import DataError, UsageError
from flowcei.storage.strictjson import read_json, reason

if TYPE_CHECKING:
    from torch import Tensor

_TYPES = {  # no half precision, in which a log-determinant is wrong
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_MAX_HEADER, _MAX_TENSORS, _MAX_NAME = 16 << 20, 20_000, 500  # bytes, number, characters


class _Claim(BaseModel):
    model_config = ConfigDict(strict=True)
    dtype: Literal["F32", "F64", "I64", "I32", "U8", "BOOL"]
    data_offsets: Annotated[list[int], Field(min_length=2, max_length=2)]


class _Header(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")
    metadata: dict[str, str] = Field(default={}, alias="__metadata__")
    __pydantic_extra__: dict[str, _Claim]


def read_tensors(file: BinaryIO, *, most: int = 1 << 30) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of an open safetensors file of at most `most` bytes; errors without its path."""
    size = file.seek(0, 2)
    if size > most:
        raise DataError(f"larger than {most >> 30} GiB: not a file of flowcei")
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, _MAX_HEADER):
        raise _damaged(f"a header of {length} bytes in a file of {size}")
    try:
        header = _Header.model_validate(read_json(file.read(length).decode()))
        _check_claims(header.__pydantic_extra__, size - 8 - length)
    except ValueError as error:
        raise _damaged(f"its header: {reason(error)}") from error
    file.seek(0)
    try:
        return header.metadata, load(file.read(size))  # in memory: what the checksum is of cannot change
    except (SafetensorError, RuntimeError, ValueError, OverflowError) as error:
        raise _damaged(" ".join(str(error).split())[:200]) from error


def _check_claims(claims: dict[str, _Claim], size: int) -> None:
    if len(claims) > _MAX_TENSORS:
        raise DataError(f"{len(claims)} tensors, above {_MAX_TENSORS}")
    for name in claims:  # names are printed where something is wrong with them
        if len(name) > _MAX_NAME or not name.isprintable():
            raise DataError(f"a tensor is called {ascii(name)[:80]}")
    end = max((claim.data_offsets[1] for claim in claims.values()), default=0)
    if end != size:  # before a gigabyte of nothing is read
        raise DataError(f"its tensors end at byte {str(end)[:20]} of {size}")


def write_tensors(file: BinaryIO, metadata: dict[str, str], tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file to an open one; a type that it cannot hold is a UsageError."""
    # Cloned: the library refuses tensors that share memory, such as parts of one buffer.
    copies = {k: t.detach().cpu().clone(memory_format=torch.contiguous_format) for k, t in tensors.items()}
    file.write(save(copies, metadata))


def checksum(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of tensors, sorted by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        if tensor.dtype not in _TYPES:
            types = ", ".join(_TYPES.values())
            raise UsageError(f"weights of type {tensor.dtype} cannot be stored; model files hold {types}")
        digest.update(json.dumps([name, _TYPES[tensor.dtype], list(tensor.shape)]).encode() + b"\n")
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"


def text_digest(text: str) -> str:
    """SHA-256 of a text, which may hold halves of surrogate pairs."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _damaged(what: str) -> DataError:
    return DataError(f"not a model file, or damaged ({what}); copy it again, or make it with flowcei train")
