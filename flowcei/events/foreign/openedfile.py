"""A file of events, opened once, and its format: by content, not by name."""

from __future__ import annotations

import io
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from flowcei.errors import DataError
from flowcei.storage.files import check_end, check_readable

_MAX_LINE = 1 << 20  # bytes
_SIGNATURES = {b"\x89HDF\r\n\x1a\n": "hdf5", b"\x93NUMPY": "npy", b"PAR1": "parquet", b"root": "root"}
_PACKED = "compressed with {}; unpack it first"
_REFUSED = {
    b"PK\x03\x04": "a zip archive (.npz, .xlsx or a torch file?); export the numbers as CSV, .npy or HDF5",
    b"\x1f\x8b": _PACKED.format("gzip"),
    b"BZh": _PACKED.format("bzip2"),
    b"\xfd7zXZ": _PACKED.format("xz"),
    b"\x28\xb5\x2f\xfd": _PACKED.format("zstd"),
    b"\x80": "a pickle, which flowcei never opens: it may run any program; export the numbers as CSV or .npy",
    b"\xff\xfe": "text in UTF-16; save it as UTF-8",
    b"\xfe\xff": "text in UTF-16; save it as UTF-8",
}


class OpenedFile:
    """An existing file with a known format; every pass over its text has a position of its own."""

    def __init__(self, path: Path, stated: str | None = None) -> None:
        """Open the file; its format is the one that a `Reading` states, or else that of its content."""
        check_readable(path)
        self.path, self.descriptor = path, os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.descriptor)
        self.format, self.size = stated or self._format(), os.fstat(self.descriptor).st_size

    def _format(self) -> str:
        start = os.pread(self.descriptor, 8, 0)
        for signature, name in _SIGNATURES.items():
            if start.startswith(signature):
                return name
        for signature, message in _REFUSED.items():
            if start.startswith(signature):
                raise DataError(message, path=self.path)
        try:
            lines = self.lines()
            first, _, third = (next(lines, "").split() for _ in range(3))
        except UnicodeDecodeError:
            return "text"  # whose reader says what is wrong
        # XYZ: a number of atoms alone on its first line.
        xyz = len(first) == 1 and first[0].isdigit() and len(third) > 3 and third[0][:1].isalpha()
        return "xyz" if xyz else "text"

    def stream(self, *, guarded: bool = False) -> io.BufferedReader:
        """The bytes; a line without end is refused, if `guarded` a zero byte too."""
        return cast("io.BufferedReader", io.BufferedReader(_Stream(self, guarded=guarded), 1 << 18))

    def lines(self) -> Iterator[str]:
        """The lines of text."""
        with io.TextIOWrapper(self.stream(), encoding="utf-8") as text:
            yield from text

    def check_end(self, remedy: str) -> None:
        """Refuse text whose last line has no end."""
        with os.fdopen(os.dup(self.descriptor), "rb") as file:
            check_end(self.path, remedy, file)


class _Stream(io.RawIOBase):
    """A pass over an opened file. Of zero bytes and endless lines pandas would take all memory."""

    def __init__(self, file: OpenedFile, *, guarded: bool) -> None:
        self._file, self._guarded, self._length = file, guarded, 0
        self._offset = 3 if os.pread(file.descriptor, 3, 0) == b"\xef\xbb\xbf" else 0  # some editors' mark

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = os.pread(self._file.descriptor, len(buffer), self._offset)
        self._offset += len(data)
        buffer[: len(data)] = data
        if self._guarded and b"\0" in data:
            raise ValueError("bytes of 0")
        end = max(data.rfind(b"\n"), data.rfind(b"\r"))
        self._length = len(data) - end - 1 if end >= 0 else self._length + len(data)
        if self._length > _MAX_LINE:
            raise DataError("a line of more than a million characters; is it a table?", path=self._file.path)
        return len(data)
