"""Where words go: notes and the library's log to stderr, and to a log file while there is one."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from typing import TYPE_CHECKING, TextIO

from flowcei.errors import printable
from flowcei.storage.creation import append_to

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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
    shown.setFormatter(_Line("%(message)s"))
    shown.addFilter(lambda record: record.name != NOTES)
    log.handlers = [shown]


@contextlib.contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Append every note, and what the library logs, to a file, each line with its time (UTC).

    The file is locked: one process at a time works on what it tells of.

    Raises:
        UsageError: Where the file is a link or no file, cannot be written, or another process holds it.
    """
    handler = _Handler(append_to(path))
    log = logging.getLogger(_LIBRARY)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        with contextlib.suppress(OSError):  # a full disk: what is worth an error has raised one
            handler.stream.close()


def refuse_busy(path: Path) -> None:
    """Refuse to touch what another process is logging to a file.

    Raises:
        UsageError: As `log_file`.
    """
    if os.path.lexists(path):
        with log_file(path):
            pass


class _Line(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """Return one line: what names of files hold can neither end it nor move a cursor."""
        return printable(super().format(record)).replace("\n", "\\n")


class _Handler(logging.StreamHandler[TextIO]):
    """Stamps lines; a log that cannot be written ends nothing."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        stamp = _Line("%(asctime)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%SZ")
        stamp.converter = time.gmtime
        self.setFormatter(stamp)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        del record
