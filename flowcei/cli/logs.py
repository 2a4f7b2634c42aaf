"""Where words go: notes and the library's log to stderr, and to a log file while there is one."""

from __future__ import annotations

import contextlib
import logging
import time
from typing import TYPE_CHECKING

from flowcei.errors import UsageError

try:
    import fcntl
except ImportError:  # no locks on this system
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["NOTES", "log_file", "refuse_busy", "show_library_log"]

NOTES = "flowcei.notes"
"""The logger of what `note` and `warn` have already shown on stderr."""

_LIBRARY = "flowcei"


def show_library_log(level: int = logging.INFO) -> None:
    """Show what the library logs, such as that it compiles the simulator, on stderr."""
    log = logging.getLogger(_LIBRARY)
    log.setLevel(min(level, logging.INFO))  # a log file holds the notes, also under --quiet
    log.propagate = False
    shown = logging.StreamHandler()
    shown.setLevel(level)
    shown.setFormatter(logging.Formatter("%(message)s"))
    shown.addFilter(lambda record: record.name != NOTES)
    log.handlers = [shown]


@contextlib.contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Append every note, and what the library logs, to a file, each line with its time (UTC).

    The file is locked: one process at a time works on what it tells of.

    Raises:
        UsageError: Where the file cannot be written, or another process holds it.
    """
    try:
        handler = _Handler(path, encoding="utf-8")
    except OSError as error:
        msg = f"cannot write {path} ({error.strerror})"
        raise UsageError(msg) from error
    log = logging.getLogger(_LIBRARY)
    try:
        _lock(handler, path)
        log.addHandler(handler)
        yield
    finally:
        log.removeHandler(handler)
        with contextlib.suppress(OSError):  # a full disk: what is worth an error has raised one
            handler.close()


def refuse_busy(path: Path) -> None:
    """Refuse to touch what another process is logging to a file.

    Raises:
        UsageError: As `log_file`.
    """
    if path.exists():
        with log_file(path):
            pass


class _Handler(logging.FileHandler):
    """Stamps lines; a log that cannot be written ends nothing."""

    def __init__(self, path: Path, *, encoding: str) -> None:
        super().__init__(path, encoding=encoding)
        stamp = logging.Formatter("%(asctime)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%SZ")
        stamp.converter = time.gmtime
        self.setFormatter(stamp)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        del record


def _lock(handler: logging.FileHandler, path: Path) -> None:
    """Hold the file until it is closed, however the process ends."""
    if fcntl is None or handler.stream is None:
        return
    try:
        fcntl.flock(handler.stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        msg = f"another process is training in {path.parent}; wait for it, or stop it first"
        raise UsageError(msg) from error
    except OSError:  # a file system without locks
        return
