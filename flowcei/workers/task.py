"""What a worker does with a task, wherever it runs."""

from __future__ import annotations

import hashlib
import socket
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flowcei.errors import FlowceiError, UsageError


@dataclass(frozen=True)
class Answer:
    """What became of a task: its result or its error, and what it warned of."""

    result: Any = None
    error: Exception | None = None
    warned: tuple[tuple[str, type[Warning]], ...] = ()


@cache
def program() -> str:
    """Version of flowcei, and a digest of its files: blocks of two programs do not belong in one file."""
    digest, folder = hashlib.sha256(), Path(__file__).parents[1]
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return f"{version('flowcei')} ({digest.hexdigest()[:8]})"


def answered(function: Callable[[Any], Any], task: Any, asked_by: str) -> Answer:  # noqa: ANN401
    """Do a task for a program; errors and warnings go to who asked."""
    result: Any = None
    error: Exception | None = None
    with warnings.catch_warnings(record=True) as caught:
        try:
            if program() != asked_by:
                here = f"a worker on {socket.gethostname()} runs flowcei {program()}"
                raise UsageError(f"{here}, this is {asked_by}; install the same there")
            result = function(task)
        except MemoryError:
            words = f"a worker on {socket.gethostname()} is out of memory; give it more, or use fewer workers"
            error = FlowceiError(words)
        except Exception as raised:  # noqa: BLE001 (raised again by who asked)
            raised.add_note(f"in a worker: {traceback.format_exc()}")
            error = raised
    return Answer(result, error, tuple((str(one.message), one.category) for one in caught))
