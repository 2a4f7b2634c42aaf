"""Runs a command of flowcei and tells in which of its rooms the time goes; a script by itself.

    python bin/benchmarks/watch.py sample --momenta events.h5

A thread looks every 5 ms where the command is. It imports nothing of its own: imports are looked at, too.
"""

from __future__ import annotations

import runpy
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from types import FrameType

_EVERY = 0.005  # seconds
_LEAST = 0.02  # of the time of a command: smaller shares are shown together


def room_of(frame: FrameType | None) -> str:
    """Return in which room of flowcei a stack of calls is, or that it imports."""
    room = "other"
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith("<frozen importlib"):
            return "imports"
        if room == "other" and "/flowcei/" in name:
            room = Path(name.rpartition("/flowcei/")[2]).parts[0].removesuffix(".py")
        frame = frame.f_back
    return room


def watched(words: list[str]) -> None:
    """Run a command in this process, and print its CPU time and the shares of rooms on stderr."""
    spent, main, gone = defaultdict[str, float](float), threading.get_ident(), threading.Event()

    def look() -> None:
        before = 0.0
        while not gone.wait(_EVERY):
            room, now = room_of(sys._current_frames().get(main)), time.process_time()  # noqa: SLF001
            spent[room] += now - before
            before = now

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    sys.argv = ["flowcei", "-q", *words]
    try:
        runpy.run_module("flowcei", run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
    gone.set()
    watcher.join()
    total = sum(spent.values())
    shown = sorted(((s, room) for room, s in spent.items() if s > _LEAST * total), reverse=True)
    shown.append((total - sum(s for s, _ in shown), "the rest"))
    shares = (f"{room} {100 * s / total:.0f} %" for s, room in shown)
    print("|".join([f"{total}", *shares]), file=sys.stderr)


if __name__ == "__main__":
    watched(sys.argv[1:])
