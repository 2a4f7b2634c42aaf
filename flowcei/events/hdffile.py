"""HDF5 files, opened so that damage in them is an error and not an endless loop."""

from __future__ import annotations

import io
import math
import os
import re
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING

import h5py

from flowcei.errors import DataError, FlowceiError
from flowcei.files import check_readable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["opened", "refuse_large_chunks"]

_MAX_CHUNK = 1 << 28  # bytes, unpacked
_MAX_DESCRIPTION = 1 << 16  # bytes that are read at once of what describes an object
# An attribute that is one text of any length: its type, its single place, and how long it is.
_TEXT = re.compile(
    rb"[\x19\x39\x49][\x01\x11].\0\x10\0\0\0.{4}\x01\0\0\0.{4}(?:\0{4})?(?:\x01\0.{6}|\x02\0..)(.{4})",
    re.DOTALL,
)
_HEAP, _HEADER, _ENTRY = b"GCOL\x01", 16, struct.Struct("<HHxxxxQ")


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file; what h5py stumbles over in the block is a fault of the file.

    Raises:
        UsageError: For a missing file.
        DataError: For a damaged file.
    """
    check_readable(path)
    try:
        with _Watched(path) as raw, h5py.File(raw, "r") as file:
            yield file
    except DataError as error:
        if str(error).startswith(str(path)):
            raise
        raise DataError(str(error), path=path) from error
    except FlowceiError:
        raise
    except (ArithmeticError, KeyError, MemoryError, OSError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise DataError(f"not an HDF5 file, or damaged ({reason})", path=path) from error


class _Watched(io.FileIO):
    """A file that looks at what the HDF5 library reads.

    Texts of any length lie in heaps. The library (2.0 and before) goes through a heap by the sizes of
    its entries, and never ends where one says 0, or so much that the sum overflows; and it takes as
    much memory as an attribute says its text is long, up to 4 GB, before it looks at the heap.
    """

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        start, size = self.tell(), os.fstat(self.fileno()).st_size
        view, done = memoryview(buffer), 0  # h5py's own kind of view compares with nothing
        while done < len(view):
            count = super().readinto(view[done:])
            if not count:
                break
            done += count
        if view[: len(_HEAP)] == _HEAP:
            whole = int.from_bytes(view[8:_HEADER], "little")
            self.seek(start)  # the library reads a long heap in two parts
            _refuse_endless(self.read(min(whole, size)), whole)
        if done <= _MAX_DESCRIPTION:
            for text in _TEXT.finditer(view[:done]):
                if int.from_bytes(text[1], "little") > size:
                    raise DataError("not an HDF5 file, or damaged (a text longer than the file)")
        return done


def _refuse_endless(heap: bytes, whole: int) -> None:
    """Refuse a heap that says it has `whole` bytes, with an entry that does not lead to the next."""
    place = _HEADER
    while place + _ENTRY.size <= whole:
        # Entry 0 is the room that is left, and counts its own beginning; others are padded to 8 bytes.
        number, _, size = _ENTRY.unpack_from(heap, place) if place + _ENTRY.size <= len(heap) else (0, 0, 0)
        step = size if number == 0 else _ENTRY.size + (size + 7) // 8 * 8
        place += step
        if step < _ENTRY.size or place > whole:
            raise DataError("not an HDF5 file, or damaged (a heap of texts that goes nowhere)")


def refuse_large_chunks(data: h5py.Dataset, path: Path) -> None:
    """Refuse a dataset in chunks that may not fit in memory: each is unpacked as a whole.

    Raises:
        DataError: For chunks of more than 256 MB.
    """
    chunk = math.prod(data.chunks or ()) * data.dtype.itemsize
    if data.chunks and chunk > _MAX_CHUNK:
        raise DataError(f"{data.name} lies in chunks of {chunk} bytes; write it in smaller ones", path=path)
