"""Creating, replacing and locking files in folders that other people can write to.

A new file is made under a hidden name of its own, exclusively, and is written through its
handle, never again by name: nothing that somebody plants there in between, such as a link to
another file, is ever written to. It is locked until it takes its place by one rename. The
operating system gives the lock up with the process, so what a killed one left is replaced.
The folder is held open meanwhile, and links on the way to it are followed: it was named by
the person who runs flowcei.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import stat
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, BinaryIO, TextIO

from flowcei.errors import FlowceiError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
_TEMPORARY, _LOCK = "flowcei-tmp", "flowcei-lock"  # endings of hidden names
_SAFE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # the last: a pipe must not be waited for
_KINDS = (
    (stat.S_ISLNK, "a link"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
)
_PATIENCE, _PAUSE = 1.0, 0.05  # seconds; small files are written in less


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Refuse a place where no file can be written, or none without being told to.

    Raises:
        UsageError: Where `path` exists, or its folder does not; with `overwrite`, where it is a
            link, a folder, a pipe or a device, since only a file is replaced.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        if path.parent.is_dir():
            return
        msg = f"folder {path.parent} does not exist; make it first"
        raise UsageError(msg) from None
    except OSError as error:
        msg = f"{path} cannot be written ({error.strerror}); name another place"
        raise UsageError(msg) from error
    if not overwrite:
        msg = f"{path} exists; use --overwrite to replace it, or another -o"
        raise UsageError(msg)
    if not stat.S_ISREG(mode):
        # A link is refused, not followed: its target may be a file of somebody else's choice.
        msg = f"{path} is {_kind(mode)}, which is never replaced; remove it, or name the file itself"
        raise UsageError(msg)


def partial_path(path: Path) -> Path:
    """Name of a resumable file until all of it is there."""
    return path.with_name(path.name + ".partial")


class OutputFile:
    """A file that this process made, or opened again, in a folder that is held open.

    Attributes:
        file: Open for reading and writing.
        path: What it will be, or is, called.
        name: What it is called in its folder now.
    """

    def __init__(self, handle: int, folder: int, name: str, path: Path) -> None:
        self.file: BinaryIO = os.fdopen(handle, "r+b")
        self.path = path
        self._folder = folder
        self.name = name

    def become(self, path: Path, *, overwrite: bool = True, durable: bool = False) -> None:
        """Take the place of `path`, in the same folder, in one step; from then on it is not locked.

        Args:
            path: The new name.
            overwrite: Whether a file may have it; meanwhile somebody may have made one.
            durable: Whether the disk must have the file before, so that a machine that goes down
                leaves the old file or the new one. Costs milliseconds.

        Raises:
            UsageError: As `refuse_existing`.
            FlowceiError: Where somebody else has moved the file away.
        """
        self.file.flush()
        if durable:
            os.fsync(self.file.fileno())
        refuse_existing(path, overwrite=overwrite)
        if not _is_at(self.file.fileno(), self.name, self._folder):
            msg = f"{path} cannot be written: another process has moved its temporary file {self.name}"
            raise FlowceiError(msg)
        os.replace(self.name, path.name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        self.name, self.path = path.name, path
        if durable:
            os.fsync(self._folder)
        # HDF5 locks what it reads, and an unfinished file may be read.
        with suppress(OSError):
            fcntl.flock(self.file.fileno(), fcntl.LOCK_UN)

    def remove(self) -> None:
        """Remove the file, if it still has its name."""
        if _is_at(self.file.fileno(), self.name, self._folder):
            os.unlink(self.name, dir_fd=self._folder)


@contextmanager
def create_file(path: Path) -> Iterator[OutputFile]:
    """Make a new, locked file with a hidden name beside `path`; it goes, unless it has become something.

    Raises:
        UsageError: Where the folder cannot be written, where a link or anything but a file has the
            hidden name, and where another process is writing a file for `path`.
    """
    name = f".{path.name}.{_TEMPORARY}"
    with _folder_of(path) as folder:
        output = OutputFile(_claim(name, folder, path), folder, name, path)
        try:
            yield output
        finally:
            if output.name == name:
                output.remove()
            with suppress(OSError):  # a full disk, again
                output.file.close()


@contextmanager
def reopen_file(path: Path) -> Iterator[OutputFile]:
    """Open a file that an earlier run has begun, to go on writing into it.

    Raises:
        UsageError: For a link, also a hard one, a folder, a pipe or a device, and where it is not
            there or may not be written.
    """
    with _folder_of(path) as folder:
        try:
            handle = _opened(path, folder, os.O_RDWR)
        except FileNotFoundError:
            msg = f"no file {str(path)!r}"
            raise UsageError(msg) from None
        output = OutputFile(handle, folder, path.name, path)
        try:
            yield output
        finally:
            output.file.close()


@contextmanager
def output_lock(path: Path) -> Iterator[None]:
    """Hold the right to write `path`, for something that lasts.

    Raises:
        UsageError: Where another process has it.
    """
    name = f".{path.name}.{_LOCK}"
    with _folder_of(path) as folder:
        lock = OutputFile(_claim(name, folder, path), folder, name, path)
        try:
            yield
        finally:
            lock.remove()
            lock.file.close()


@contextmanager
def atomic_write(path: Path, *, overwrite: bool = True, durable: bool = False) -> Iterator[BinaryIO]:
    """Yield an open file that becomes `path` when the block ends well.

    On any error, an interrupt included, the new file goes and `path` is as before.

    Args:
        path: The file.
        overwrite: Whether it may be there already.
        durable: See `OutputFile.become`.

    Raises:
        UsageError: As `refuse_existing` and `create_file`.
        FlowceiError: Where the disk is full, or refuses for another reason.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> target = Path(tempfile.mkdtemp()) / "a.txt"
        >>> with atomic_write(target) as file:
        ...     _ = file.write(b"all of it")
        >>> target.read_text()
        'all of it'
    """
    refuse_existing(path, overwrite=overwrite)
    with create_file(path) as output:
        try:
            yield output.file
            output.become(path, overwrite=overwrite, durable=durable)
        except OSError as error:
            if error.errno not in _DISK:
                raise
            msg = f"{path} cannot be written ({error.strerror}); make room there, or name another place"
            raise FlowceiError(msg) from error


@contextmanager
def atomic_text(path: Path, *, overwrite: bool = True, durable: bool = False) -> Iterator[TextIO]:
    """Yield an open text file (UTF-8, line ends as written): see `atomic_write`."""
    with atomic_write(path, overwrite=overwrite, durable=durable) as file, as_text(file) as text:
        yield text


@contextmanager
def as_text(file: BinaryIO) -> Iterator[TextIO]:
    """Yield a file that is open for bytes as one for text (UTF-8, line ends as written); it stays open."""
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    try:
        yield text
        text.flush()
    finally:
        with suppress(OSError):  # it flushes again; what failed before has been raised
            text.detach()


def append_to(path: Path) -> TextIO:
    """Open a text file (UTF-8) to append to, and lock it until it is closed; made where it is missing.

    Raises:
        UsageError: For a link, also a hard one, a folder, a pipe or a device; where it cannot be
            written; and where another process has locked it.
    """
    with _folder_of(path) as folder:
        handle = _opened(path, folder, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        _lock(handle)
    except BlockingIOError:
        os.close(handle)
        msg = f"another process is writing {path}; wait for it, or stop it first"
        raise UsageError(msg) from None
    return os.fdopen(handle, "a", encoding="utf-8")


def remove_left_over(folder: Path) -> None:
    """Remove hidden files of processes that are gone from a folder."""
    with _folder_of(folder / "*") as handle:
        for name in os.listdir(handle):  # noqa: PTH208 (of the folder that is open, whatever is moved)
            if name.startswith(".") and name.endswith((f".{_TEMPORARY}", f".{_LOCK}")):
                with suppress(BlockingIOError, UsageError):
                    _remove_one(folder / name, handle)


@contextmanager
def _folder_of(path: Path) -> Iterator[int]:
    """Hold a folder open: what is done in it is done there, whatever is moved meanwhile."""
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        msg = f"cannot write to folder {path.parent} ({error.strerror})"
        raise UsageError(msg) from error
    try:
        yield folder
    finally:
        os.close(folder)


def _claim(name: str, folder: int, path: Path) -> int:
    """Return the handle of a new file that is locked, once no other process holds one of its name."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | _SAFE, 0o666, dir_fd=folder)
        except FileExistsError:
            handle = -1
        except OSError as error:
            msg = f"cannot write to folder {path.parent} ({error.strerror})"
            raise UsageError(msg) from error
        try:
            if handle >= 0:
                _lock(handle)
                if _is_at(handle, name, folder):
                    return handle
                os.close(handle)  # another process took it for left over: once more
                continue
            _remove_one(path.with_name(name), folder)
        except BlockingIOError:
            if handle >= 0:
                os.close(handle)
            if time.monotonic() > deadline:
                msg = f"another process is writing {path}; wait for it, or name another file"
                raise UsageError(msg) from None
            time.sleep(_PAUSE)


def _remove_one(place: Path, folder: int) -> None:
    """Remove the file of a process that is gone; BlockingIOError where it is not."""
    try:
        handle = _opened(place, folder, os.O_RDWR)
    except FileNotFoundError:  # removed meanwhile
        return
    try:
        _lock(handle)
        if _is_at(handle, place.name, folder):
            os.unlink(place.name, dir_fd=folder)
    finally:
        os.close(handle)


def _opened(path: Path, folder: int, flags: int) -> int:
    """Open a file that is no link and has no second name; FileNotFoundError where there is none."""
    try:
        handle = os.open(path.name, flags | _SAFE, 0o666, dir_fd=folder)
    except FileNotFoundError:
        raise
    except OSError as error:
        with suppress(OSError):
            mode = os.stat(path.name, dir_fd=folder, follow_symlinks=False).st_mode
            if not stat.S_ISREG(mode):
                msg = f"{path} is {_kind(mode)}, not a file: nothing is written to it; remove it"
                raise UsageError(msg) from error
        msg = f"cannot write {path} ({error.strerror})"
        raise UsageError(msg) from error
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(handle)
        what = _kind(found.st_mode) if not stat.S_ISREG(found.st_mode) else "a file of several names"
        msg = f"{path} is {what}: nothing is written to it; remove it"
        raise UsageError(msg)
    return handle


def _lock(handle: int) -> None:
    """Lock a file until it is closed, however the process ends; BlockingIOError where another has it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # a file system without locks
        return


def _is_at(handle: int, name: str, folder: int) -> bool:
    """Whether a folder has an open file under a name."""
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(handle))


def _kind(mode: int) -> str:
    """Return what is there in place of a file."""
    return next((word for test, word in _KINDS if test(mode)), "a device")
