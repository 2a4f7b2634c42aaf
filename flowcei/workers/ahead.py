"""Kernels compiled in a second process, ahead of a command that will need them (docs/decisions/0010).

The command compiles what it needs first, the other process what is needed last; what both come to is claimed
by one of them. Run by `python -m flowcei.workers.ahead COMMAND IONS`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

from flowcei.physics.threads import usable_cores
from flowcei.storage.kernels import cache_folder, source_digest

if TYPE_CHECKING:
    from pathlib import Path

_LEAST_IONS = 3  # of two no direction of a derivative is integrated: another type of tuple
_EXPLODE = (
    "f8[::1], f8[:,:,::1], none, UniTuple(i8, {ions}), UniTuple(i8, {stages}), {directions}, "
    "UniTuple({f}[::1], 4), Tuple(({f}[:,::1], {f}[::1], {f}[:,::1], {f}, {f}, {f}[::1], {f}[:,::1])), "
    "f8, none, f8[::1], {jacobian}, u1[::1]"
)
_TARGET = "Tuple((i8[::1], f8[:,:,::1], f8[:,:,:,::1], f8[::1], f8[::1]))"
_STATE = (
    "Tuple((f8[:,:,::1], f8[::1], f8[::1], f8[::1], i8[::1], i8[::1], i8[::1], f8[:,:,:,::1], f8[:,::1], "
    "f8[:,:,::1]))"
)
_FRAMES = "Array(i8, 3, 'C', readonly=True), f8[::1], f8[:,:,::1], f8[:,:,:,::1]"

_SAMPLE = [  # by a flow of whitened charts
    (
        "frame._approaches.approach",
        (
            "i8[::1], f8[:,:,::1], Tuple((f8[:,:,::1], f8[:,:,::1], u1[::1])), "
            "UniTuple(f8[:,:,::1], 2), "
            "Tuple((f8[:,::1], f8[:,::1], f8[:,:,::1], f8[:,:,::1], f8[::1])), bool, "
            "Tuple((f8[:,:,::1], f8[::1], f8[:,::1], f8[:,:,::1], f8[::1]))"
        ),
    ),
    (
        "models._couplings.transport",
        (
            "f4[:,::1], i8[::1], f4[:,::1], f4[::1], i8[::1], i8[:,::1], Tuple((i8, i8, i8, f8)), "
            "none, bool, f4[:,::1], f4[::1]"
        ),
    ),
    (
        "frame._approaches.lengthen",
        "f8[:,:,::1], f8[:,:,::1], f8[:,:,::1], f8[::1], f8, f8[:,::1], f8[:,:,::1]",
    ),
    (
        "frame._charts.place",
        (
            "f8[:,:,::1], f8[:,::1], f8[:,:,::1], f8[::1], f8[:,:,::1], i8[:,::1], f8, f8[:,::1], "
            "f8[:,::1], f8[:,:,:,::1], f8[:,::1]"
        ),
    ),
    ("physics._placing.read_off", "f8[:,:,::1], i8[::1], f8[::1], f8[:,::1], f8[:,::1]"),
]
_MODES = [
    ("physics._searches.propose", f"i8[::1], f8[:,:,::1], {_TARGET}, {_STATE}, UniTuple(f8, 4)"),
    (
        "physics._searches.judge",
        f"i8[::1], f8[:,:,::1], Tuple((f8[:,:,::1], u1[::1])), {_TARGET}, {_STATE}",
    ),
    ("physics._searches.group_first", "i8[::1], f8[::1,:], f8[::1], f8[:,::1], f8[:,:,::1], i8[::1]"),
    (
        "storage._digits.join_cells",
        "i8[:,::1], i2[:,::1], i8, Array(u1, 1, 'C', readonly=True), i8[::1], u1[::1]",
    ),
    ("posterior._samples.first_reaching", "f8[:,::1], f8[:,::1], i8[:,::1]"),
    ("posterior._samples.enter_frame", f"f4[:,:,:,::1], {_FRAMES}"),
    ("posterior._samples.enter_frame", f"f8[:,:,:,::1], {_FRAMES}"),
    (
        "storage._digits.decimals",
        "Array(f8, 1, 'C', readonly=True), f8[::1], i8, f8[::1], i8[:], i2[:]",
    ),
    ("posterior._samples.measure", "f8[:,:,::1], i8[:,::1], i8[:,::1], f8[:,::1], f8[:,::1]"),
]


def _explode(ions: int, precision: str, *, derivatives: bool) -> tuple[str, str]:
    """The simulator, without growth."""
    stages = {"f4": 6, "f8": 9}[precision]
    directions = f"UniTuple(i8, {3 * ions - 6})" if derivatives else "Tuple(())"
    types = {"ions": ions, "stages": stages, "directions": directions, "f": precision}
    slope = "f8[:,:,::1]" if derivatives else "none"
    return "physics._kernel.explode", _EXPLODE.format(**types, jacobian=slope)


def kernels(command: str, ions: int) -> list[tuple[str, str]]:
    """Kernels that a command needs and their types, in the order in which the other process compiles them.

    What the command needs first, while the other process starts, is left to it, or comes last. What takes
    longest comes early: where both come to it, one waits.
    """
    explode = partial(_explode, ions)
    if command == "sample":
        return [*_SAMPLE, explode("f4", derivatives=False), explode("f4", derivatives=True)]
    return [explode("f8", derivatives=True), *_MODES, explode("f8", derivatives=False)]


def compile_ahead(command: str, ions: int) -> None:
    """Start a process that compiles what a command is going to need, where that may not be compiled yet.

    It ends with this process, and says nothing. None is started where there is one core, or where what is
    compiled could not be stored.
    """
    if usable_cores() < 2 or ions < _LEAST_IONS or _done(command, ions).exists():
        return
    with suppress(OSError):
        cache_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(cache_folder(), os.W_OK):
            process = subprocess.Popen(  # noqa: S603 (our own program)
                [sys.executable, "-m", "flowcei.workers.ahead", command, str(ions)],
                stdin=subprocess.PIPE,  # nothing is written: its end tells that this process is gone
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            threading.Thread(target=process.wait, daemon=True).start()


def _done(command: str, ions: int) -> Path:
    """A file that says that the kernels of a command were compiled, of these sources."""
    return cache_folder() / f"{command}-{ions}-{source_digest()[:16]}.done"


def _end_with_command() -> None:
    """End this process when that which started it is gone, also in the middle of a kernel."""
    os.read(0, 1)
    os._exit(1)


def main() -> None:
    """Compile the kernels that the arguments name, each unless it is stored already."""
    threading.Thread(target=_end_with_command, daemon=True).start()
    from numba.core.sigutils import normalize_signature  # of the other process only

    command, ions = sys.argv[1], int(sys.argv[2])
    for name, types in kernels(command, ions):
        module, _, function = name.rpartition(".")
        # As types: numba stores what is compiled under its argument, which a call gives as types.
        arguments, _ = normalize_signature(f"({types})")
        getattr(import_module(f"flowcei.{module}"), function).compile(arguments)
    _done(command, ions).touch(0o600)


if __name__ == "__main__":
    main()
