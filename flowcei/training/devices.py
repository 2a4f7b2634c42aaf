"""Where a training runs: its device, and other processes that train the same model (`torchrun`)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import distributed

from flowcei.errors import StoppedError, UsageError

if TYPE_CHECKING:
    from torch import Tensor


def resolve_device(name: str) -> torch.device:
    """Device that ``auto``, ``cpu``, ``cuda`` or ``mps`` means here; UsageError for one it lacks.

    Each rank of a training has a GPU of its own.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    name = next(kind for kind, there in available.items() if there) if name == "auto" else name
    if not available.get(name.split(":", maxsplit=1)[0], False):
        raise UsageError(f"device {name!r} is not available here; use auto or cpu")
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if name == "cuda" and local >= (count := torch.cuda.device_count()):
        raise UsageError(f"more ranks than GPUs here: start {count} a machine, or give --device cpu")
    return torch.device("cuda", local) if name == "cuda" and local else torch.device(name)


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this one is; without `torch.distributed` the only one."""

    rank: int = 0
    count: int = 1

    @classmethod
    def current(cls) -> Ranks:
        """Those of torch's process group, where it has been started."""
        if distributed.is_available() and distributed.is_initialized():
            return cls(distributed.get_rank(), distributed.get_world_size())
        return cls()

    @property
    def first(self) -> bool:
        """Whether this is the process that keeps files and tells of the training."""
        return self.rank == 0

    def average(self, values: Tensor) -> None:
        """Put the mean over all ranks in the place of `values`; StoppedError where another has ended."""
        if self.count == 1:
            return
        with _together():
            if self.count == 2 and values.device.type == "cpu":
                values += self._exchanged(values)  # in one go, where gloo's sum of many takes twice as long
            else:
                distributed.all_reduce(values)
        values /= self.count

    def _exchanged(self, values: Tensor) -> Tensor:
        """Values of the other of two ranks, which gets these."""
        other, theirs = 1 - self.rank, torch.empty_like(values)
        sent = distributed.isend(values, other)
        distributed.recv(theirs, other)
        if sent is not None:
            sent.wait()
        return theirs

    def agreed(self, number: int, device: torch.device) -> int:
        """The number (below 2^64) that the first rank has."""
        if self.count == 1:
            return number
        table = torch.tensor([number >> 32, number & 0xFFFFFFFF], device=device)
        with _together():
            distributed.broadcast(table, 0)
        return int(table[0]) << 32 | int(table[1])


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo says so at once; where NCCL waits, torchrun ends the others
        raise StoppedError("another rank of the training has ended") from error


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """Join the other processes that `torchrun` has started, for a training on `device`.

    UsageError where they cannot be reached, or where a machine has fewer GPUs than ranks.
    """
    kind = resolve_device(device).type
    if kind == "mps":
        raise UsageError("several ranks train on the CPU or on CUDA; give --device cpu")
    try:
        distributed.init_process_group("nccl" if kind == "cuda" else "gloo")
    except (RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise UsageError(f"the other ranks cannot be reached ({reason}); start with torchrun") from error
    try:
        yield Ranks.current()
    finally:
        distributed.destroy_process_group()
