"""Safetensors files from strangers: what the header claims is checked before memory is taken.

The format is eight bytes with the length of a header, the header as JSON (a table of dtype,
shape and offsets for each tensor, and text under `__metadata__`), then the bytes of all
tensors without gaps. A file is opened once and read from front to back: what was checked
is what is used.
"""

from __future__ import annotations

import hashlib
import json
import math
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard

import torch

from flowcei.errors import DataError, UsageError
from flowcei.modelfile.strictjson import read_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedReader
    from pathlib import Path

    from torch import Tensor

__all__ = ["TensorFile", "checksum", "open_tensors", "write_tensors"]

_MAX_BYTES = 1 << 30
_MAX_HEADER = 16 << 20
_MAX_TENSORS = 20_000
_MAX_NAME = 500  # characters
_MAX_AXES = 8
_MAX_EMPTY = 1 << 20  # product of the other axes of a tensor without elements
_TYPES = {"F32": torch.float32, "F64": torch.float64, "I64": torch.int64}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}


@dataclass(frozen=True)
class _Entry:
    """Where a tensor stands, and what it is."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


class TensorFile:
    """A file whose header is sound; its tensors are not yet read.

    Attributes:
        metadata: Text by name.
    """

    def __init__(self, file: BufferedReader, metadata: dict[str, str], entries: list[_Entry]) -> None:
        self.metadata = metadata
        self._file = file
        self._entries = entries

    def read(self) -> dict[str, Tensor]:
        """Return the tensors by name; called once.

        Raises:
            DataError: For a file that ends too early.
        """
        found = {}
        for entry in self._entries:
            content = bytearray(entry.end - entry.begin)
            if self._file.readinto(content) != len(content):
                raise _damaged("the file ends within its tensors")
            # PyTorch makes no tensor of an empty buffer.
            flat = torch.frombuffer(content, dtype=entry.dtype) if content else torch.empty(0)
            found[entry.name] = flat.to(entry.dtype).reshape(entry.shape)
        return found


@contextmanager
def open_tensors(path: Path) -> Iterator[TensorFile]:
    """Open a safetensors file (no pipe, no device) and check all that its header claims.

    Raises:
        OSError: For a file that cannot be opened.
        DataError: For anything but a sound file of at most 1 GiB; the message has no path.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        if size > _MAX_BYTES:
            raise DataError("larger than 1 GiB: not a model of flowcei")
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise _damaged(f"a header of {length} bytes in a file of {size}")
        if length > _MAX_HEADER:
            raise _damaged(f"a header of {length} bytes, above {_MAX_HEADER}")
        yield TensorFile(file, *_header(file.read(length), size - 8 - length))


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
        whole.update(_bytes(tensor))
    return f"sha256:{whole.hexdigest()}"


def write_tensors(path: Path, metadata: dict[str, str], tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file; the same contents are always the same bytes.

    Raises:
        UsageError: For a tensor of a type that no model file holds.
    """
    # Wide numbers first and a header of whole words, so that each tensor is aligned.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, object] = {"__metadata__": metadata}
    place = 0
    for name in names:
        size = tensors[name].numel() * tensors[name].element_size()
        shape = list(tensors[name].shape)
        header[name] = {"dtype": _type(tensors[name]), "shape": shape, "data_offsets": [place, place + size]}
        place += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            file.write(_bytes(tensors[name]))


def _type(tensor: Tensor) -> str:
    if tensor.dtype not in _NAMES:
        msg = f"weights of type {tensor.dtype} cannot be stored; model files hold {', '.join(_TYPES)}"
        raise UsageError(msg)
    return _NAMES[tensor.dtype]


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().numpy().tobytes()


def _header(raw: bytes, room: int) -> tuple[dict[str, str], list[_Entry]]:
    """Return metadata and tensors, in the order of their bytes, that fill `room` exactly."""
    try:
        table = read_json(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _damaged(f"its header is not UTF-8 ({error.reason})") from error
    except DataError as error:
        raise _damaged(f"its header: {error}") from error
    if not isinstance(table, dict):
        raise _damaged("its header is no table")
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise _damaged("its metadata are no texts")
    if len(table) > _MAX_TENSORS:
        raise _damaged(f"{len(table)} tensors, above {_MAX_TENSORS}")
    entries = sorted((_entry(*item) for item in table.items()), key=lambda e: (e.begin, e.end))
    place = 0
    for entry in entries:
        if entry.begin != place:
            raise _damaged(f"tensor {_short(entry.name)} begins at byte {entry.begin}, not at {place}")
        place = entry.end
    if place != room:
        raise _damaged(f"its tensors take {place} bytes; there are {room}")
    return metadata, entries


def _entry(name: str, claims: object) -> _Entry:
    """Return where a tensor stands, if its size is what type and shape ask for."""
    if len(name) > _MAX_NAME or not name.isprintable():
        raise _damaged(f"a tensor is called {_short(name)}")
    if not isinstance(claims, dict) or set(claims) != {"dtype", "shape", "data_offsets"}:
        raise _damaged(f"tensor {_short(name)} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = claims["dtype"], claims["shape"], claims["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _TYPES:
        raise _damaged(f"tensor {_short(name)} is not of type {', '.join(_TYPES)}")
    if not _are_sizes(shape) or len(shape) > _MAX_AXES or not _are_sizes(offsets) or len(offsets) != 2:
        raise _damaged(f"shape or offsets of tensor {_short(name)} are no sizes")
    count = math.prod(shape)
    if offsets[1] - offsets[0] != count * _TYPES[dtype].itemsize:
        raise _damaged(f"the size of tensor {_short(name)} is not that of its shape")
    if not count and math.prod(size for size in shape if size) > _MAX_EMPTY:
        raise _damaged(f"tensor {_short(name)} is empty, with axes of {max(shape)}")
    return _Entry(name, _TYPES[dtype], tuple(shape), *offsets)


def _damaged(what: str) -> DataError:
    return DataError(f"not a model file, or damaged ({what}); copy it again, or make it with flowcei train")


def _are_sizes(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(size) is int and 0 <= size <= _MAX_BYTES for size in value)


def _short(name: str) -> str:
    return ascii(name if len(name) <= 80 else name[:77] + "...")
