"""Checkpoints: all that a training needs to go on as if it had never stopped.

A checkpoint is the state after a whole epoch. It is written to the disk before it takes the
place of the one before, so that there is a sound one at every moment. It holds numbers, words
and tensors only, with a digest of them behind, and nothing in it is ever unpickled.
"""

from __future__ import annotations

import hashlib
import io
import pickle  # only for the name of what torch raises: nothing is unpickled here
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import torch

from flowcei._version import __version__
from flowcei.errors import DataError, UsageError
from flowcei.files import check_readable, whole_file

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

__all__ = [
    "CHECKPOINT_VERSION",
    "Checkpoint",
    "Keeping",
    "begun_at",
    "plain_copy",
    "random_state",
    "read_checkpoint",
    "refuse_other",
    "set_random_state",
    "write_checkpoint",
]

CHECKPOINT_VERSION = 1
"""Of the files written here. Others are refused: a training that goes on must be the same one."""

_UNREADABLE = (
    pickle.UnpicklingError, EOFError, OSError, RuntimeError, AttributeError, LookupError,
    TypeError, ValueError,
)  # fmt: skip
_DIGEST = 32  # bytes, of SHA-256, at the end of a file
_DAMAGED = "is damaged; begin the training anew with --overwrite"


@dataclass
class Checkpoint:
    """The state of a training after a whole epoch, or before the first.

    Attributes:
        settings: What was asked for, in plain values: a training of other settings cannot go on
            from here.
        machine: Versions, device and threads, in words: elsewhere sums may round differently.
        records: Of all epochs so far, as plain values.
        seconds: That they took.
        phase: From 0.
        done: Epochs of the phase.
        steps: Of an epoch of the phase; 0 before its first.
        best: Lowest validation loss of the phase.
        best_index: Its epoch, from 0 where the phase began.
        model: Weights and buffers.
        best_weights: Those of the best epoch.
        optimiser: State of the optimiser.
        cycle: State of the schedule of the learning rate; empty before the first epoch.
        random: State of the generators, by the name of the device.
    """

    settings: dict[str, Any]
    machine: dict[str, Any]
    records: list[dict[str, Any]]
    seconds: float
    phase: int
    done: int
    steps: int
    best: float
    best_index: int
    model: dict[str, Tensor]
    best_weights: dict[str, Tensor]
    optimiser: dict[str, Any]
    cycle: dict[str, Any] = field(default_factory=dict)
    random: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Keeping:
    """How a training is kept so that it survives an interruption.

    Attributes:
        path: The checkpoint, written before the first epoch and after every one.
        settings: What the caller will compare before going on: plain values.
        begun: The checkpoint to go on from; the beginning where None.
        max_seconds: Time after which to stop, before the next step.
    """

    path: Path | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    begun: Checkpoint | None = None
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        """Refuse a limit that would lose everything."""
        if self.max_seconds is not None and (self.path is None or not self.max_seconds > 0):
            msg = f"max_seconds is {self.max_seconds}; it must be positive, with a checkpoint"
            raise UsageError(msg)


_KINDS: dict[str, type | tuple[type, ...]] = {
    "seconds": float,
    "records": list,
    "best": float,
    **dict.fromkeys(("phase", "done", "steps", "best_index"), int),
    **dict.fromkeys(("settings", "machine", "model", "best_weights", "optimiser", "cycle", "random"), dict),
}


def write_checkpoint(state: Checkpoint, path: Path) -> None:
    """Write a checkpoint in the place of the one before.

    Raises:
        UsageError: Where the folder is missing or cannot be written.
        FlowceiError: Where the disk is full; the old checkpoint is as it was.
    """
    table = {f.name: getattr(state, f.name) for f in fields(state)}
    # Into memory first: torch reports a full disk with an error of its own, several lines long.
    whole = io.BytesIO()
    torch.save({"format_version": CHECKPOINT_VERSION, "flowcei": __version__, **table}, whole)
    content = whole.getvalue()
    with whole_file(path, durable=True) as temporary:
        temporary.write_bytes(content + hashlib.sha256(content).digest())


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint, all of it on the CPU.

    Raises:
        UsageError: For a missing file.
        DataError: For a file that is damaged, of another kind or of another version.
    """
    check_readable(path)
    try:
        whole = path.read_bytes()
        content, digest = whole[:-_DIGEST], whole[-_DIGEST:]
        # torch does not look at the check sums of the archive that it writes.
        if hashlib.sha256(content).digest() != digest:
            raise DataError(f"is no checkpoint, or {_DAMAGED}", path=path)
        table = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except DataError:
        raise
    except _UNREADABLE as error:
        raise DataError(f"is no checkpoint, or {_DAMAGED}", path=path) from error
    if not isinstance(table, dict) or "format_version" not in table:
        raise DataError("is no checkpoint of flowcei", path=path)
    found, writer = table.pop("format_version"), table.pop("flowcei", "another version")
    if found != CHECKPOINT_VERSION:
        what = (
            f"was written by flowcei {writer} (format {found}, known {CHECKPOINT_VERSION}): go on with that"
        )
        raise DataError(what, path=path)
    if table.keys() != _KINDS.keys() or not all(isinstance(table[k], kind) for k, kind in _KINDS.items()):
        raise DataError(_DAMAGED, path=path)
    return Checkpoint(**table)


def begun_at(checkpoint: Path | None, *, resume: bool) -> Checkpoint | None:
    """Return the checkpoint to go on from, or None for a new training, which must find none there.

    Raises:
        UsageError: For a checkpoint that is missing, or there and not meant.
        DataError: As `read_checkpoint`.
    """
    if resume:
        if checkpoint is None:
            msg = "resume needs the checkpoint to go on from"
            raise UsageError(msg)
        return read_checkpoint(checkpoint)
    if checkpoint is not None and checkpoint.exists():
        msg = f"{checkpoint} holds an unfinished training: resume it, or remove it"
        raise UsageError(msg)
    return None


def refuse_other(begun: Checkpoint, settings: dict[str, Any]) -> None:
    """Refuse to go on with a training of other settings, or on other data.

    Raises:
        UsageError: Naming the setting.
        DataError: Where the digests of the data differ.
    """
    for key in sorted(begun.settings.keys() | settings.keys()):
        was, now = begun.settings.get(key), settings.get(key)
        if was == now:
            continue
        if key == "data" and was is not None and now is not None:
            msg = (
                f"the data are not those that the training was begun with (digest {now[:12]}, then "
                f"{was[:12]}); put them back as they were, or begin anew"
            )
            raise DataError(msg)
        msg = f"{key.replace('_', ' ')} is {now}; the training was begun with {was}"
        raise UsageError(msg)


def plain_copy(table: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return copies of tensors, which later steps leave alone."""
    return {name: tensor.detach().clone() for name, tensor in table.items()}


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the state of torch's generators, of the CPU and of the device."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Put the generators into the state of `random_state`; one that is not in it is left alone."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    elif device.type == "mps" and "mps" in state:
        torch.mps.set_rng_state(state["mps"])
