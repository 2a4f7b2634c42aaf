"""Tasks for workers, which import this file themselves."""

from __future__ import annotations

import os
import signal
import sys
import time
import warnings
from pathlib import Path


def square(number: int) -> int:
    return number * number


def square_at_last(task: tuple[Path, int]) -> int:
    """The square of a number, where the process is killed when it is first asked for it."""
    folder, number = task
    mark = folder / str(number)
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def square_without_parent(task: tuple[Path, int]) -> int:
    """The same, where the process that made this one is killed, and this one with it."""
    folder, number = task
    mark = folder / str(number)
    if not mark.exists():
        mark.touch()
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600.0)
    return number * number


def own_number(_: object) -> int:
    return os.getpid()


def is_imported(module: str) -> bool:
    return module in sys.modules


def die(_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def complain(number: int) -> float:
    warnings.warn(f"number {number}", UserWarning, stacklevel=1)
    return 1 / number


def tell_and_sleep(path: Path) -> None:
    path.with_suffix(".new").write_text(str(os.getpid()))
    path.with_suffix(".new").rename(path)
    time.sleep(600.0)
