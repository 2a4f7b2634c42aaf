"""stdout and stderr, which may be closed, full, or a pipe whose reader has gone."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

import click

from flowcei.errors import FlowceiError, printable

if TYPE_CHECKING:
    from collections.abc import Iterable


def complete_streams() -> None:
    """Stand in for streams that the caller has closed, since a file that is opened would get their number.

    What is written to a closed stdout fails, so that results are not lost without a word; without
    stderr there is nobody to tell.
    """
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
    """Say something on stderr, its control characters escaped; that nobody can hear it ends no work.

    Line breaks belong to us only at the beginning: a name with one could forge a line of its own.
    """
    line = text.lstrip("\n")
    try:
        click.echo("\n" * (len(text) - len(line)) + printable(line).replace("\n", "\\n"), err=True)
    except OSError:
        silence([sys.stderr])


def show(text: str) -> None:
    """Print results on stdout, their control characters escaped.

    A reader that has gone, such as `head`, has seen enough; the command goes on to its own end.

    Raises:
        FlowceiError: Where they cannot be printed.
    """
    try:
        click.echo(printable(text))
        sys.stdout.flush()
    except BrokenPipeError:
        silence([sys.stdout])
    except OSError as error:
        silence([sys.stdout])
        msg = f"stdout cannot be written ({error.strerror})"
        raise FlowceiError(msg) from error
