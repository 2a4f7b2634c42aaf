"""Creating, replacing and locking files in folders that other people can write to.

A new file is made under a hidden name of its own, exclusively, and is written through its handle, never
again by name: nothing that somebody plants there in between, such as a link to another file, is ever
written to. It is locked until it takes its place by one rename. The operating system gives the lock up
with the process, so what a killed one left is replaced. The folder is held open meanwhile, and links on
the way to it are followed: it was named by the person who runs flowcei.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TextIO

from flowcei.errors import FlowceiError, UsageError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
_TEMPORARY, _LOCK = "flowcei-tmp", "flowcei-lock"  # endings of hidden names
_SAFE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # the last: a pipe must not be waited for
_KINDS = {
    stat.S_IFREG: "a file of several names",
    stat.S_IFLNK: "a link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}
_PATIENCE, _PAUSE = 1.0, 0.05  # seconds; small files are written in less


def check_output(path: Path, *, overwrite: bool) -> None:
    """Refuse a path where no file can be written, or none without being told to."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        if path.parent.is_dir():
            return
        raise UsageError(f"folder {path.parent} does not exist; make it first") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}); name another place") from error
    if not overwrite:
        raise UsageError(f"{path} exists; use --overwrite to replace it, or another -o")
    if not stat.S_ISREG(mode):
        # A link is refused, not followed: its target may be a file of somebody else's choice.
        msg = f"{path} is {_kind(mode)}, which is never replaced; remove it, or name the file itself"
        raise UsageError(msg)


def partial_path(path: Path) -> Path:
    """Name of a resumable file until all of it is there."""
    return path.with_name(path.name + ".partial")


class OutputFile:
    """A file open to read and write, in a folder that is held open, where it has the name `name` now."""

    def __init__(self, handle: int, folder: int, name: str, path: Path) -> None:
        self.file: BinaryIO = os.fdopen(handle, "r+b")
        self.path, self.name = path, name
        self._folder = folder

    def become(self, path: Path, *, overwrite: bool = True, durable: bool = False) -> None:
        """Take the place of `path`, in the same folder, in one step; from then on it is not locked.

        Where `durable`, the disk has the file before, so that a machine that goes down leaves the old
        file or the new one. Costs milliseconds.
        """
        self.file.flush()
        if durable:
            os.fsync(self.file.fileno())
        check_output(path, overwrite=overwrite)  # meanwhile somebody may have made one
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
def create_file(path: Path, ending: str = _TEMPORARY) -> Iterator[OutputFile]:
    """Make a new, locked file with a hidden name beside `path`; it goes, unless it has become something."""
    name = f".{path.name}.{ending}"
    with _folder_of(path) as folder:
        output = OutputFile(_claim(name, folder, path), folder, name, path)
        try:
            yield output
        finally:
            if output.name == name:
                output.remove()
            with suppress(OSError):  # a full disk, again
                output.file.close()


def output_lock(path: Path) -> AbstractContextManager[OutputFile]:
    """Hold the right to write `path`, for something that lasts."""
    return create_file(path, _LOCK)


@contextmanager
def reopen_file(path: Path) -> Iterator[OutputFile]:
    """Open a file that an earlier run has begun, to go on writing into it."""
    with _folder_of(path) as folder:
        try:
            handle = _open(path, folder, os.O_RDWR)
        except FileNotFoundError:
            raise UsageError(f"no file {str(path)!r}") from None
        output = OutputFile(handle, folder, path.name, path)
        with output.file:
            yield output


@contextmanager
def atomic_write(path: Path, *, overwrite: bool = True, durable: bool = False) -> Iterator[BinaryIO]:
    """Yield an open file that becomes `path` when the block ends well; else all is as before."""
    check_output(path, overwrite=overwrite)
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
    """Open a text file (UTF-8) to append to, made where it is missing, and lock it until it is closed."""
    with _folder_of(path) as folder:
        handle = _open(path, folder, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    if not _lock(handle):
        os.close(handle)
        raise UsageError(f"another process is writing {path}; wait for it, or stop it first")
    return os.fdopen(handle, "a", encoding="utf-8")


def remove_stale(folder: Path) -> None:
    """Remove hidden files of processes that are gone from a folder."""
    with _folder_of(folder / "*") as handle:
        for name in os.listdir(handle):  # noqa: PTH208 (of the folder that is open, whatever is moved)
            if name.startswith(".") and name.endswith((f".{_TEMPORARY}", f".{_LOCK}")):
                with suppress(UsageError):
                    _remove_stale(folder / name, handle)


@contextmanager
def _folder_of(path: Path) -> Iterator[int]:
    """Hold a folder open: what is done in it is done there, whatever is moved meanwhile."""
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"cannot write to folder {path.parent} ({error.strerror})") from error
    try:
        yield folder
    finally:
        os.close(folder)


def _claim(name: str, folder: int, path: Path) -> int:
    """Handle of a new file that is locked, once no other process holds one of its name."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        handle = -1
        try:
            if _remove_stale(path.with_name(name), folder):
                handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | _SAFE, 0o666, dir_fd=folder)
        except FileExistsError:
            pass
        except OSError as error:
            raise UsageError(f"cannot write to folder {path.parent} ({error.strerror})") from error
        if handle >= 0:
            if _lock(handle) and _is_at(handle, name, folder):
                return handle
            os.close(handle)  # another process took it for a stale one
        if time.monotonic() > deadline:
            raise UsageError(f"another process is writing {path}; wait for it, or name another file")
        time.sleep(_PAUSE)


def _remove_stale(path: Path, folder: int) -> bool:
    """Remove the file of a process that is gone; False where it is not gone."""
    try:
        handle = _open(path, folder, os.O_RDWR)
    except FileNotFoundError:
        return True
    try:
        locked = _lock(handle)
        if locked and _is_at(handle, path.name, folder):
            os.unlink(path.name, dir_fd=folder)
        return locked
    finally:
        os.close(handle)


def _open(path: Path, folder: int, flags: int) -> int:
    """Open a file that is no link and has no second name; FileNotFoundError where there is none."""
    with suppress(FileNotFoundError):  # to name what is there; what counts is what has been opened
        _check_kind(path, os.stat(path.name, dir_fd=folder, follow_symlinks=False))
    try:
        handle = os.open(path.name, flags | _SAFE, 0o666, dir_fd=folder)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UsageError(f"cannot write {path} ({error.strerror})") from error
    try:
        _check_kind(path, os.fstat(handle))
    except UsageError:
        os.close(handle)
        raise
    return handle


def _check_kind(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        raise UsageError(f"{path} is {_kind(status.st_mode)}: nothing is written to it; remove it")


def _kind(mode: int) -> str:
    return _KINDS.get(stat.S_IFMT(mode), "a device")


def _lock(handle: int) -> bool:
    """Lock a file until it is closed, however the process ends; False where another process has it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _is_at(handle: int, name: str, folder: int) -> bool:
    """Whether a folder has an open file under a name."""
    try:
        return os.path.samestat(os.stat(name, dir_fd=folder, follow_symlinks=False), os.fstat(handle))
    except FileNotFoundError:
        return False
