"""Checkpoints: all that a training needs to go on as if it had never stopped.

A checkpoint is the state after a whole epoch. It is written to the disk before it takes the
place of the one before, so that there is a sound one at every moment. It is a safetensors file,
as a model is: numbers, and JSON that describes them, with a checksum over both. What follows
from the settings and the records, such as the rate of the next step, is not in it, and what is
in it is compared with the model before it is used: a kernel that is handed a tensor of another
shape writes past its end.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from flowcei._version import __version__
from flowcei.errors import DataError, UsageError
from flowcei.storage.creation import atomic_write
from flowcei.storage.files import check_readable
from flowcei.storage.strictjson import read_json, refuse_odd_values
from flowcei.storage.tensors import checksum, read_tensors, write_tensors
from flowcei.training.schedule import EpochRecord  # noqa: TC001 (pydantic reads it)

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

CHECKPOINT_VERSION = 2
"""Of the files written here. Others are refused: a training that goes on must be the same one."""

_ABOUT, _SEAL = "flowcei-checkpoint", "sha256"
_PARTS = ("model", "best", "moments", "random")  # names of tensors begin with one
_MOST = 5 << 30  # bytes: weights twice, two moments of each, of a model of 1 GiB
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what AdamW keeps of a parameter
_DAMAGED = "is damaged; begin the training anew with --overwrite"


@dataclass
class Checkpoint:
    """The state of a training after a whole epoch, or before the first.

    Attributes:
        settings: What was asked for, in plain values: a training of other settings cannot go on
            from here.
        machine: Versions, device and threads, in words: elsewhere sums may round differently.
        records: Of all epochs so far.
        model: Weights and buffers.
        best: Those of the best epoch of the phase.
        moments: State of the optimiser, by the number of the parameter and its name: `3.exp_avg`.
        random: State of the generators, by the name of the device.
    """

    settings: dict[str, Any]
    machine: dict[str, Any]
    records: list[EpochRecord]
    model: dict[str, Tensor]
    best: dict[str, Tensor]
    moments: dict[str, Tensor]
    random: dict[str, Tensor]

    @property
    def phase(self) -> int:
        """The phase of the last epoch, from 0."""
        return self.records[-1].phase - 1 if self.records else 0

    @property
    def losses(self) -> list[float]:
        """Validation losses of its epochs."""
        return [record.validation_loss for record in self.records if record.phase == self.phase + 1]


class _Description(BaseModel):
    """What a checkpoint says beside its tensors."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    format_version: int
    flowcei: str
    settings: dict[str, Any]
    machine: dict[str, Any]
    records: list[EpochRecord]


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


def write_checkpoint(state: Checkpoint, path: Path) -> None:
    """Write a checkpoint in the place of the one before.

    Raises:
        UsageError: Where the folder is missing or cannot be written, and for weights of a type that
            no file holds.
        FlowceiError: Where the disk is full; the old checkpoint is as it was.
    """
    tensors = {f"{part}.{k}": v for part in _PARTS for k, v in getattr(state, part).items()}
    about = {"format_version": CHECKPOINT_VERSION, "flowcei": __version__}
    about |= {"settings": state.settings, "machine": state.machine}
    text = json.dumps(about | {"records": [asdict(record) for record in state.records]})
    with atomic_write(path, durable=True) as file:
        write_tensors(file, {_ABOUT: text, _SEAL: _digest(text, tensors)}, tensors)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint, all of it on the CPU.

    Raises:
        UsageError: For a missing file.
        DataError: For a file that is damaged, of another kind or of another version.
    """
    check_readable(path)
    try:
        with path.open("rb") as file:
            (text, seal), tensors = read_tensors(file, _texts, most=_MOST)
        if seal != _digest(text, tensors):
            raise DataError("its checksum is another")
        table = read_json(text)
    except (OSError, DataError) as error:
        raise DataError(f"is no checkpoint of flowcei, or {_DAMAGED}", path=path) from error
    version = table.get("format_version") if isinstance(table, dict) else None
    if version != CHECKPOINT_VERSION:
        what = f"has format {version}, and {CHECKPOINT_VERSION} is read here; begin the training anew"
        raise DataError(what, path=path)
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in _PARTS}
    try:
        for name, tensor in tensors.items():
            part, _, own = name.partition(".")
            parts[part][own] = tensor
        about = _Description.model_validate_json(text)
        refuse_odd_values([about.settings, about.machine])
        seed, phases = about.settings.get("seed"), [1, *(record.phase for record in about.records)]
        if type(seed) is not int or not 0 <= seed < 1 << 64:
            raise DataError("a seed that is none")
        if [record.epoch for record in about.records] != list(range(1, len(phases))):
            raise DataError("epochs out of order")
        if any(b not in (a, a + 1) for a, b in pairwise(phases)):
            raise DataError("phases out of order")
    except (DataError, KeyError, ValidationError) as error:
        raise DataError(_DAMAGED, path=path) from error
    return Checkpoint(about.settings, about.machine, about.records, **parts)


def _texts(metadata: dict[str, str]) -> tuple[str, str]:
    if metadata.keys() != {_ABOUT, _SEAL}:
        raise DataError("no checkpoint")
    return metadata[_ABOUT], metadata[_SEAL]


def _digest(text: str, tensors: dict[str, Tensor]) -> str:
    return hashlib.sha256((text + checksum(tensors)).encode("utf-8", "surrogatepass")).hexdigest()


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


def restore(
    begun: Checkpoint, model: nn.Module, optimiser: torch.optim.Optimizer, device: torch.device
) -> None:
    """Put a model, its optimiser and the random generators into the state of a checkpoint.

    All of it is compared with what is there before any of it is used.

    Raises:
        DataError: For tensors of other names, shapes or types, or with numbers that cannot be.
    """
    own = model.state_dict()
    for part in (begun.model, begun.best):
        _refuse_other_tensors(part, own)
    parameters = optimiser.param_groups[0]["params"]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in begun.moments.items():
        index, _, key = name.partition(".")
        if key not in _MOMENTS or not index.isdecimal() or int(index) >= len(parameters):
            raise DataError(f"state of the optimiser for {name}, which the model does not have")
        like = parameters[int(index)]
        _refuse_unlike(name, tensor, torch.zeros(()) if key == "step" else like)
        if key != "exp_avg" and bool((tensor < 0).any()):
            raise DataError(f"state of the optimiser below 0 for {name}")
        state.setdefault(int(index), {})[key] = tensor
    if any(set(one) != set(_MOMENTS) for one in state.values()):
        raise DataError("the state of the optimiser is not whole")
    now = random_state(device)
    for name, tensor in begun.random.items():
        if name in now:  # begun on another device, its generator is of no use here
            _refuse_unlike(name, tensor, now[name])
    try:
        _set_random_state({**now, **begun.random}, device)
        model.load_state_dict(begun.model)
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    except RuntimeError as error:
        raise DataError(str(error).splitlines()[0]) from error


def _refuse_other_tensors(tensors: dict[str, Tensor], own: dict[str, Tensor]) -> None:
    if tensors.keys() != own.keys():
        raise DataError(f"tensor {min(tensors.keys() ^ own.keys())} is missing, or one too many")
    for name, tensor in tensors.items():
        _refuse_unlike(name, tensor, own[name])
        # Integers may say where to look: as permutations do, of which a flow has many.
        if _is_permutation(own[name]) and not _is_permutation(tensor):
            raise DataError(f"tensor {name} is no permutation")


def _refuse_unlike(name: str, tensor: Tensor, other: Tensor) -> None:
    if tensor.shape != other.shape or tensor.dtype != other.dtype:
        found, wanted = ((str(t.dtype), tuple(t.shape)) for t in (tensor, other))
        raise DataError(f"tensor {name} is {found}, where the model has {wanted}")
    if not bool(torch.isfinite(tensor).all()):
        raise DataError(f"tensor {name} holds numbers that are not finite")


def _is_permutation(tensor: Tensor) -> bool:
    whole = not tensor.is_floating_point() and tensor.dtype != torch.bool and tensor.numel() > 1
    return whole and bool((tensor.flatten().sort().values.cpu() == torch.arange(tensor.numel())).all())


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


def _set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
    elif device.type == "mps":
        torch.mps.set_rng_state(state["mps"])
