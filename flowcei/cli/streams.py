"""What is said: results on stdout, notes and warnings on stderr and in a log file."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from flowcei.errors import FlowceiError, printable
from flowcei.storage.creation import append_to, atomic_text, atomic_write
from flowcei.units import length_in_bohr

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger("flowcei")  # the library's: notes stand beside what it says of itself


def complete_streams() -> None:
    """Stand in for streams that the caller has closed, since a file that is opened would get their number."""
    # What is written to a closed stdout fails: no result is lost without a word. Stderr has nobody to tell.
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_WRONLY if number == 2 else os.O_RDONLY)  # takes the lowest number
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def silence(streams: Iterable[TextIO]) -> None:
    """Let streams go on into nothing where they cannot be written: at its end Python would try again."""
    for stream in streams:
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                nothing = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nothing, stream.fileno())
                os.close(nothing)
                stream.flush()


def say(text: str) -> None:
    """Write a line to stderr, its control characters escaped; that nobody can read it ends no work."""
    try:
        click.echo(_line(text), err=True)
    except OSError:
        silence([sys.stderr])


def _line(text: str) -> str:
    """Escape line breaks, but for those at the beginning, which are ours: a name could forge a line."""
    line = text.lstrip("\n")
    return "\n" * (len(text) - len(line)) + printable(line).replace("\n", "\\n")


def show(text: str) -> None:
    """Print results on stdout, their control characters escaped; FlowceiError where that fails."""
    try:
        click.echo(printable(text))
        sys.stdout.flush()
    except OSError as error:
        silence([sys.stdout])
        if not isinstance(error, BrokenPipeError):  # such as `head`, which has seen enough
            raise FlowceiError(f"stdout cannot be written ({error.strerror})") from error


def show_json(table: Mapping[str, object], path: Path | None = None, *, overwrite: bool = False) -> None:
    """Print a table as JSON, and write it to a file where one is named."""
    text = json.dumps(table, indent=1, allow_nan=False)
    if path is not None:
        with atomic_text(path, overwrite=overwrite) as file:
            file.write(text + "\n")
    show(text)


def text_table(table: pd.DataFrame, digits: int = 4) -> str:
    """Table for a terminal, numbers with so many significant digits."""
    return table.to_string(float_format=lambda v: f"{v:.{digits}g}", index=table.index.name is not None)


def with_lengths_in(unit: str, table: pd.DataFrame) -> pd.DataFrame:
    """A table whose rows have a `unit`, with those in bohr in another unit of length."""
    rows, numbers = table["unit"] == "bohr", table.select_dtypes("float").columns
    shown = table.assign(unit=table["unit"].mask(rows, unit))
    shown.loc[rows, numbers] = shown.loc[rows, numbers] / length_in_bohr(unit)
    return shown


def show_table(table: pd.DataFrame, *, as_json: bool) -> None:
    """Print a table, or its rows as JSON, with null where a number is not known."""
    show(table.to_json(orient="records", indent=1) if as_json else text_table(table))


def write_results(results: Mapping[str, Any], folder: Path, *, overwrite: bool, digits: int = 6) -> None:
    """Write bytes, each figure as PNG, by the ending of its name, and each table as CSV, its index named."""
    from flowcei.storage.cells import write_table

    for name, result in results.items():
        if isinstance(result, bytes):
            with atomic_write(folder / name, overwrite=overwrite) as target:
                target.write(result)
            continue
        if name.endswith(".png"):
            from flowcei.plot.style import save

            save(result, folder / name, overwrite=overwrite)
            continue
        with atomic_text(folder / name, overwrite=overwrite) as file:
            write_table(result, file, index=result.index.name is not None, float_format=f"%.{digits}g")


def note(text: str) -> None:
    """Say something on stderr, unless --quiet, and in the log file while there is one."""
    _log.info(text)


def warn(text: str, code: str = "") -> None:
    """Say what is or may be wrong, as `note`, also under --quiet."""
    _log.warning(f"warning ({code}): {text}" if code else f"warning: {text}")


def log(text: str) -> None:
    """Write a line to the log file; it is on stderr under --verbose only."""
    _log.debug(text)


class _Stderr(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


def log_to_stderr(level: int = logging.INFO) -> None:
    """Show notes, and what the library logs, on stderr, from a level of `logging` on."""
    _log.setLevel(logging.DEBUG)
    _log.propagate = False
    _log.handlers = [_Stderr(level)]


def is_quiet() -> bool:
    """Whether notes are left out."""
    return bool(_log.handlers) and _log.handlers[0].level > logging.INFO


class _LogFile(logging.StreamHandler[TextIO]):
    """Stamps each line with its time (UTC); a log that cannot be written ends nothing."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        return f"{stamp} {_line(record.getMessage().lstrip())}"

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        del record


@contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Append all that is said or logged to a file, which is locked: one process works on what it tells of."""
    handler = _LogFile(append_to(path))
    _log.addHandler(handler)
    try:
        yield
    finally:
        _log.removeHandler(handler)
        with suppress(OSError):  # a full disk
            handler.stream.close()
