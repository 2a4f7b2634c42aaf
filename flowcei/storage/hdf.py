"""HDF5: the only way in which a file is opened or made.

What is read is watched, so that damage is an error and not an endless loop. What is written goes
through a file that is open already: the library opens nothing by name, and no disk that is full
meets it, since it does not survive one (2.0 ends with a segmentation fault when it closes).
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import h5py

from flowcei.errors import DataError, FlowceiError
from flowcei.storage.files import check_held, check_readable

_MAX_CHUNK = 1 << 28  # bytes, unpacked
_MAX_JSON = 1 << 24  # characters
_MAX_DESCRIPTION = 1 << 16  # bytes that are read at once of what describes an object
# An attribute that is one text of any length: its type, its single place, and how long it is.
_TEXT = re.compile(
    rb"[\x19\x39\x49][\x01\x11].\0\x10\0\0\0.{4}\x01\0\0\0.{4}(?:\0{4})?(?:\x01\0.{6}|\x02\0..)(.{4})",
    re.DOTALL,
)
_HEAP, _HEADER, _ENTRY = b"GCOL\x01", 16, struct.Struct("<HHxxxxQ")


@contextmanager
def opened(path: Path, file: BinaryIO | None = None) -> Iterator[h5py.File]:
    """Open an HDF5 file to read, or one that is open already and stays so.

    What h5py stumbles over in the block is a fault of the file.
    """
    if file is None:
        check_readable(path)
    try:
        with (
            _Watched(path if file is None else file.fileno(), closefd=file is None) as raw,
            h5py.File(raw, "r") as content,
        ):
            yield content
    except DataError as error:
        if str(error).startswith(str(path)):
            raise
        raise DataError(str(error), path=path) from error
    except FlowceiError:
        raise
    except (ArithmeticError, KeyError, MemoryError, OSError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise DataError(f"not an HDF5 file, or damaged ({reason})", path=path) from error


@contextmanager
def writing(file: BinaryIO, mode: str = "w", **options: Any) -> Iterator[h5py.File]:  # noqa: ANN401 (of h5py)
    """Make an HDF5 file in one that is open to read and write, or change it (r+); OSError from the disk."""
    raw = _Patient(file.fileno(), "r+", closefd=False)
    try:
        with h5py.File(raw, mode, **options) as content:
            yield content
    except (OSError, RuntimeError, ValueError):
        if raw.error is None:
            raise
    finally:
        raw.close()
    if raw.error is not None:  # its own words are those of the disk, in one line
        raise raw.error


class _Patient(io.FileIO):
    """A file that remembers the first error of the disk, and lets the library end in peace."""

    error: OSError | None = None

    def write(self, data: Any) -> int:  # noqa: ANN401 (a buffer)
        view = memoryview(data).cast("B")
        done = 0
        try:
            while self.error is None and done < len(view):  # a write may stop short, at 2 GiB or at a signal
                done += super().write(view[done:])
        except OSError as error:
            self.error = error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size) if self.error is None else 0
        except OSError as error:
            self.error = error
            return 0


class _Watched(io.FileIO):
    """A file that looks at what the HDF5 library reads.

    Texts of any length lie in heaps. The library (2.0 and before) goes through a heap by the sizes of
    its entries, and never ends where one says 0, or so much that the sum overflows; and it takes as
    much memory as an attribute says its text is long, up to 4 GB, before it looks at the heap.
    """

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        start, size = self.tell(), os.fstat(self.fileno()).st_size
        view, done = memoryview(buffer), 0  # h5py's own kind of view compares with nothing
        while count := super().readinto(view[done:]) if done < len(view) else 0:
            done += count
        if view[: len(_HEAP)] == _HEAP:
            length = int.from_bytes(view[8:_HEADER], "little")
            self.seek(start)  # the library reads a long heap in two parts
            _check_heap(self.read(min(length, size)), length)
        if done <= _MAX_DESCRIPTION:
            for text in _TEXT.finditer(view[:done]):
                if int.from_bytes(text[1], "little") > size:
                    raise DataError("not an HDF5 file, or damaged (a text longer than the file)")
        return done


def _check_heap(heap: bytes, length: int) -> None:
    """Refuse a heap that says it has `length` bytes, with an entry that does not lead to the next."""
    offset = _HEADER
    while offset + _ENTRY.size <= length:
        # Entry 0 is the room that is left, and counts its own beginning; others are padded to 8 bytes.
        number, _, size = _ENTRY.unpack_from(heap, offset) if offset + _ENTRY.size <= len(heap) else (0, 0, 0)
        step = size if number == 0 else _ENTRY.size + (size + 7) // 8 * 8
        offset += step
        if step < _ENTRY.size or offset > length:
            raise DataError("not an HDF5 file, or damaged (a heap of texts that goes nowhere)")


def numbers_of(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    """A dataset of numbers, no larger than the file can hold; no link is followed, no other file opened."""
    link = file.get(name, getlink=True)
    data = file[name] if isinstance(link, h5py.HardLink) else None
    if not isinstance(data, h5py.Dataset) or data.dtype.kind not in "fiu" or data.shape is None:
        raise DataError(f"/{name} is not a dataset of numbers", path=path)
    if data.external or data.is_virtual:
        raise DataError(f"/{name} lies in another file; copy it into this one", path=path)
    check_held(path, data.size, f"/{name}", file.id.get_filesize())
    check_chunks(data, path)
    return data


def check_chunks(data: h5py.Dataset, path: Path) -> None:
    """Refuse a dataset in chunks of more than 256 MB: each is unpacked in memory."""
    chunk = math.prod(data.chunks or ()) * data.dtype.itemsize
    if data.chunks and chunk > _MAX_CHUNK:
        raise DataError(f"{data.name} lies in chunks of {chunk} bytes; write it in smaller ones", path=path)


def read_json_attribute(file: h5py.File, name: str) -> dict | None:
    """An attribute that holds a JSON table, or None where it is not there."""
    if name not in file.attrs:
        return None
    try:
        text = text_attribute(file, name)
        table = json.loads(text) if len(text) <= _MAX_JSON else None
    except RecursionError as error:
        raise DataError(f"attribute {name} is nested too deep") from error
    except ValueError as error:  # also where it is no text
        raise DataError(f"attribute {name} is not JSON") from error
    if not isinstance(table, dict):
        raise DataError(f"attribute {name} is too large, or no table")
    return table


def text_attribute(owner: h5py.Group | h5py.Dataset, name: str) -> str:
    """An attribute that is one text, or nothing where it is not there.

    Many texts are not even read: they may all be the same one, and large.
    """
    if name not in owner.attrs:
        return ""
    attribute = owner.attrs.get_id(name)
    if attribute.shape != () or attribute.get_type().get_class() != h5py.h5t.STRING:
        raise DataError(f"attribute {name} is not a text")
    text = owner.attrs[name]
    return text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
