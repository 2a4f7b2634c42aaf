"""What is asked of a file before it is read."""

from __future__ import annotations

import os
import re
import tomllib
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from flowcei.errors import DataError, UsageError

_MAX_TOML = _MAX_LINE = 1 << 20
_LARGE, _MOST_PACKED = 1 << 26, 2000  # bytes; no packing of HDF5 or Parquet saves more than 1 in 1030
# A key of sixteen parts or more. The parser takes time and memory with the square of their number.
_DEEP_KEY = re.compile(r"""(?<![\w-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){16}""")


def same_file(one: Path, other: Path) -> bool:
    """Whether two paths are of one file, also by way of links; links that go in a circle are of none."""
    try:
        return one.resolve() == other.resolve() or (one.exists() and other.exists() and one.samefile(other))
    except (OSError, RuntimeError):
        return False


def check_readable(path: Path) -> None:
    """Refuse what is no readable file with something in it: reading a pipe or a device may never end."""
    try:
        exists, regular = path.exists(), path.is_file()
    except OSError as error:
        raise UsageError(f"{str(path)!r}: not a file that can be opened ({error.strerror})") from error
    if not regular:
        raise UsageError(f"{str(path)!r} is not a file" if exists else f"no file {str(path)!r}")
    if path.stat().st_size == 0:
        raise DataError("the file is empty", path=path)
    if not os.access(path, os.R_OK):
        raise DataError("no permission to read the file", path=path)


def check_end(path: Path, remedy: str, file: BinaryIO | None = None) -> None:
    """Refuse a file whose last line has no end: a number that is cut reads as a shorter one."""
    with path.open("rb") if file is None else nullcontext(file) as file:  # noqa: PLR1704
        file.seek(max(0, path.stat().st_size - _MAX_LINE))
        lines = file.read().replace(b"\r", b"\n").rsplit(b"\n", 1)
        if len(lines) == 1 or not lines[1].strip():  # a header alone holds no number
            return
        file.seek(0)
        line = 1 + sum(block.count(b"\n") for block in iter(partial(file.read, 1 << 20), b""))
    message = f"line {line}, the last one, has no line end: the file may be cut in the middle of a number"
    raise DataError(f"{message}; if it is whole, {remedy}", path=path)


def check_held(path: Path, numbers: int, what: str, size: int | None = None) -> None:
    """Refuse a claim of more than 64 MB of numbers, and 2000 times the bytes of the file (`size` if open)."""
    if 8 * numbers > max(_LARGE, _MOST_PACKED * (path.stat().st_size if size is None else size)):
        raise DataError(f"{what} claims {numbers} numbers, which the file does not hold", path=path)


def read_toml(path: Path) -> dict[str, Any]:
    """Content of a TOML file of at most 1 MiB."""
    check_readable(path)
    if path.stat().st_size > _MAX_TOML:
        raise DataError("larger than 1 MiB: not a file of this kind", path=path)
    try:
        text = path.read_text("utf-8")
        if _DEEP_KEY.search(text):
            raise DataError("keys nested too deep", path=path)
        return tomllib.loads(text)
    except RecursionError as error:
        raise DataError("not a TOML file that can be read (nested too deep)", path=path) from error
    except DataError:
        raise
    except (OSError, ValueError) as error:  # also for what is no UTF-8, and numbers of 5000 digits
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"not a TOML file that can be read ({reason})", path=path) from error
