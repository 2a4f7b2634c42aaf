"""Checkpoints: safetensors files with all that a training needs to go on as if it had never stopped."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from flowcei import __version__
from flowcei.errors import DataError, UsageError
from flowcei.storage.creation import atomic_write
from flowcei.storage.files import check_readable
from flowcei.storage.modelfile import checksum, read_tensors, text_digest, write_tensors
from flowcei.storage.strictjson import check_values, read_json
from flowcei.training.schedule import EpochRecord  # noqa: TC001 (pydantic reads it)

if TYPE_CHECKING:
    from torch import Tensor, nn

CHECKPOINT_VERSION = 4  # others are refused: a training that goes on must be the same one
_ABOUT, _SEAL = "flowcei-checkpoint", "sha256"
_PARTS = ("model", "best", "moments", "random")  # names of tensors begin with one
_MOST = 5 << 30  # bytes: weights twice, two moments of each, of a model of 1 GiB
_DAMAGED = "is damaged; begin the training anew with --overwrite"


class Checkpoint(BaseModel):
    """The state of a training after an epoch, or before the first; rates are a function of it."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
    format_version: int = CHECKPOINT_VERSION
    flowcei: str = __version__
    settings: dict[str, Any]  # what was asked for, which a training that goes on must share
    machine: dict[str, Any]  # versions, device and threads: elsewhere sums may round differently
    records: list[EpochRecord]
    rounds: list[Annotated[int, Field(gt=0)]] = []  # epochs of each, where there may be several
    model: dict[str, torch.Tensor] = Field(default={}, exclude=True)  # weights and buffers
    best: dict[str, torch.Tensor] = Field(default={}, exclude=True)  # those of the best epoch of the phase
    moments: dict[str, torch.Tensor] = Field(default={}, exclude=True)  # of the steps: of the gradients
    random: dict[str, torch.Tensor] = Field(default={}, exclude=True)  # states of generators by device

    @model_validator(mode="after")
    def _sound(self) -> Checkpoint:
        check_values([self.settings, self.machine])
        seed, phases = self.settings.get("seed"), [1, *(record.phase for record in self.records)]
        epochs = [record.epoch for record in self.records]
        ordered = epochs == list(range(1, len(phases))) and all(b in (a, a + 1) for a, b in pairwise(phases))
        fitting = not self.rounds or sum(self.rounds[:-1]) <= len(epochs) <= sum(self.rounds)
        if not (ordered and fitting) or type(seed) is not int or not 0 <= seed < 1 << 64:
            raise ValueError("a seed that is none, or epochs out of order")
        return self

    @property
    def phase(self) -> int:
        """The phase of the last epoch, from 0."""
        return self.records[-1].phase - 1 if self.records else 0

    @property
    def losses(self) -> list[float]:
        """Validation losses of its epochs."""
        return [record.validation_loss for record in self.records if record.phase == self.phase + 1]


@dataclass(frozen=True)
class Keeping:
    """How a training survives an interruption: written to `path` after every epoch, stopped after a time."""

    path: Path | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    begun: Checkpoint | None = None
    max_seconds: float | None = None


def write_checkpoint(state: Checkpoint, path: Path) -> None:
    """Write a checkpoint, all of it on the disk before it replaces the last; that stays where this fails."""
    tensors = {
        f"{part}.{name}": t.numpy(force=True) for part in _PARTS for name, t in getattr(state, part).items()
    }
    text = state.model_dump_json(warnings=False)
    with atomic_write(path, durable=True) as file:
        write_tensors(file, {_ABOUT: text, _SEAL: text_digest(text + checksum(tensors))}, tensors)


def read_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint, all of it on the CPU; DataError where it is damaged, or of another version."""
    check_readable(path)
    try:
        with path.open("rb") as file:
            metadata, tensors = read_tensors(file, most=_MOST)
        if metadata.get(_SEAL) != text_digest(metadata.get(_ABOUT, "") + checksum(tensors)):
            raise DataError("its checksum is another")
        table = read_json(metadata[_ABOUT])
    except (OSError, KeyError, DataError) as error:
        raise DataError(f"is no checkpoint of flowcei, or {_DAMAGED}", path=path) from error
    version = table.get("format_version") if isinstance(table, dict) else None
    if version != CHECKPOINT_VERSION:
        message = f"has format {version}, and {CHECKPOINT_VERSION} is read here; begin the training anew"
        raise DataError(message, path=path)
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in _PARTS}
    try:
        for key, tensor in tensors.items():
            part, _, name = key.partition(".")
            parts[part][name] = torch.tensor(tensor)
        return Checkpoint.model_validate_json(metadata[_ABOUT]).model_copy(update=parts)
    except (KeyError, ValueError) as error:
        raise DataError(_DAMAGED, path=path) from error


def begun_at(checkpoint: Path | None, *, resume: bool) -> Checkpoint | None:
    """The checkpoint to go on from, or None for a new training, which must find none there."""
    if resume:
        if checkpoint is None:
            raise UsageError("resume needs the checkpoint to go on from")
        return read_checkpoint(checkpoint)
    if checkpoint is not None and checkpoint.exists():
        raise UsageError(f"{checkpoint} holds an unfinished training: resume it, or remove it")
    return None


def check_settings(begun: Checkpoint | None, settings: dict[str, Any]) -> None:
    """Refuse to go on with a training of other settings, or on other data."""
    if begun is None:
        return
    for key in sorted(begun.settings.keys() | settings.keys()):
        alone = 1 if key == "ranks" else None
        was, now = begun.settings.get(key, alone), settings.get(key, alone)
        if was != now and key == "data" and was is not None and now is not None:
            digests = f"(digest {now[:12]}, then {was[:12]})"
            message = f"the data are not those of the training that was begun {digests}"
            raise DataError(f"{message}; put them back as they were, or begin anew")
        if was != now:
            raise UsageError(f"{key.replace('_', ' ')} is {now}; the training was begun with {was}")


def restore(begun: Checkpoint, model: nn.Module, moments: dict[str, Tensor], device: torch.device) -> None:
    """Put a model, the moments of its steps and the random generators into the state of a checkpoint."""
    # All is compared before any is used: a kernel handed a tensor of another shape writes past its end.
    weights, generators = model.state_dict(), random_state(device)
    for tensors in (begun.model, begun.best):
        _check_tensors(tensors, weights)
        # Integers may say where to look: as permutations do, of which a flow has many.
        for name in weights:
            if _is_permutation(weights[name]) and not _is_permutation(tensors[name]):
                raise DataError(f"tensor {name} is no permutation")
    _check_tensors(begun.moments, moments)
    for name in ("steps", "mean_square"):
        if bool((begun.moments[name] < 0).any()):
            raise DataError(f"state of the optimiser below 0 for {name}")
    drawn = {k: begun.random.get(k, state) for k, state in generators.items()}  # of another device: of no use
    _check_tensors(drawn, generators)
    try:
        torch.set_rng_state(drawn["cpu"])
        if device.type == "cuda":
            torch.cuda.set_rng_state(drawn["cuda"], device)
        elif device.type == "mps":
            torch.mps.set_rng_state(drawn["mps"])
        model.load_state_dict(begun.model)
        for name, tensor in moments.items():
            tensor.copy_(begun.moments[name])
    except RuntimeError as error:
        raise DataError(str(error).splitlines()[0]) from error


def _check_tensors(tensors: dict[str, Tensor], reference: dict[str, Tensor]) -> None:
    """Refuse tensors of other names, types or shapes than those of reference, or that are not finite."""
    if tensors.keys() != reference.keys():
        raise DataError(f"tensor {min(tensors.keys() ^ reference.keys())} is missing, or one too many")
    for name, tensor in tensors.items():
        expected = (str(reference[name].dtype), tuple(reference[name].shape))
        if (actual := (str(tensor.dtype), tuple(tensor.shape))) != expected:
            raise DataError(f"tensor {name} is {actual}, where the model has {expected}")
        if not bool(torch.isfinite(tensor).all()):
            raise DataError(f"tensor {name} holds numbers that are not finite")


def _is_permutation(tensor: Tensor) -> bool:
    integers = not tensor.is_floating_point() and tensor.dtype != torch.bool and tensor.numel() > 1
    return integers and bool((tensor.flatten().sort().values.cpu() == torch.arange(tensor.numel())).all())


def random_state(device: torch.device) -> dict[str, Tensor]:
    """State of torch's generators, of the CPU and of the device."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state
