"""Every error flowcei raises on purpose, each with the exit code its command ends with.

An error says what is wrong, where, and what to do, in one line: the person
who reads it stands at a beam line, not in a debugger.
"""

from __future__ import annotations

_MAX_NAME = 60  # characters


def printable(text: str) -> str:
    """Text that a terminal only shows: what a file holds may else move its cursor or its title."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def memory_advice(error: BaseException) -> str | None:
    """What to do where an error says that memory is out, of the machine or of a GPU; None for others.

    Those of torch are known by their names and words: to import it would take two seconds.
    """
    if type(error).__name__ == "OutOfMemoryError":
        return "the GPU is out of memory; give --device cpu, or less of --batch, --hidden or -n"
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return "out of memory; use fewer events or samples, or less of --batch"
    return None


class FlowceiError(Exception):
    """Something failed that the user can act on (exit code 1)."""

    exit_code = 1


class UsageError(FlowceiError, ValueError):
    """The call itself cannot be carried out: an option, a name, a shape (exit code 2)."""

    exit_code = 2


class NoDensityError(UsageError):
    """A density was asked of a prior or a model that has none (exit code 2)."""


class DataError(FlowceiError, ValueError):
    """A file or an array was rejected (exit code 3).

    Args:
        what: What is wrong, and what to do about it.
        path: The file, where there is one.
        row: One-based row of the data, not counting the header.
        column: Name of the column.

    Example:
        >>> print(DataError("text where a number belongs", path="a.csv", row=3, column="pcx"))
        a.csv, row 3, column 'pcx': text where a number belongs
    """

    exit_code = 3

    def __init__(
        self, what: str, *, path: object = None, row: int | None = None, column: str | None = None
    ) -> None:
        self.what, self.row, self.column = what, row, column
        where = [
            *([" ".join(str(path).split())] if path is not None else []),
            *([f"row {row}"] if row is not None else []),
            *([f"column '{column[:_MAX_NAME]}'"] if column is not None else []),
        ]
        super().__init__(f"{', '.join(where)}: {what}" if where else what)


class TrainingDivergedError(FlowceiError):
    """The loss stopped being a number (exit code 4)."""

    exit_code = 4


class StoppedError(FlowceiError):
    """Something long was stopped before its end and can be resumed (exit code 5)."""

    exit_code = 5


class WorkersLostError(FlowceiError):
    """Processes that shared the work are gone (exit code 1, or 5 where what they made can be resumed)."""


class FlaggedWarning(UserWarning):
    """Events whose answers are not to be trusted are among those asked for, or were left out."""
