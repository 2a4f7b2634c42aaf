"""Files that are whole or not there: written beside their place, then renamed."""

from __future__ import annotations

import errno
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from flowcei.errors import DataError, FlowceiError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["check_readable", "flush", "refuse_existing", "whole_file"]

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Refuse to write over a file unless told to.

    Raises:
        UsageError: Where `path` exists, or its folder does not.
    """
    if path.exists() and not overwrite:
        msg = f"{path} exists; use --overwrite to replace it, or another -o"
        raise UsageError(msg)
    if not path.parent.is_dir():
        msg = f"folder {path.parent} does not exist; make it first"
        raise UsageError(msg)


@contextmanager
def whole_file(path: Path, *, overwrite: bool = True, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path that becomes `path` when the block ends well.

    On any error, an interrupt included, the temporary file goes and `path` is as before.

    Args:
        path: The file.
        overwrite: Whether it may be there already.
        durable: Whether the disk must have it before it takes its place, so that a machine that
            goes down leaves the old file or the new one. Costs milliseconds.

    Raises:
        UsageError: As `refuse_existing`, and where the folder cannot be written.
        FlowceiError: Where the disk is full, or refuses for another reason.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "a.txt"
        >>> with whole_file(target) as path:
        ...     _ = path.write_text("all of it")
        >>> target.read_text()
        'all of it'
    """
    refuse_existing(path, overwrite=overwrite)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    except OSError as error:
        msg = f"cannot write to folder {path.parent} ({error.strerror})"
        raise UsageError(msg) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files that only their owner can read; results are to be shared.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        if durable:
            flush(temporary)
        temporary.replace(path)
        if durable and os.name == "posix":  # elsewhere a folder cannot be opened
            flush(path.parent)
    except OSError as error:
        if error.errno not in _DISK:
            raise
        msg = f"{path} cannot be written ({error.strerror}); make room there, or name another place"
        raise FlowceiError(msg) from error
    finally:
        temporary.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Wait until the disk has what was written to a file, or the names in a folder."""
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_readable(path: Path) -> None:
    """Refuse a path that is not a readable file with something in it.

    Raises:
        UsageError: For a missing file or a folder.
        DataError: For an empty or unreadable file.
    """
    if not path.exists():
        msg = f"no file {str(path)!r}"
        raise UsageError(msg)
    if not path.is_file():
        msg = f"{str(path)!r} is not a file"
        raise UsageError(msg)
    if path.stat().st_size == 0:
        raise DataError("the file is empty", path=path)
    if not os.access(path, os.R_OK):
        raise DataError("no permission to read the file", path=path)
