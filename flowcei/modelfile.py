"""Model files: one `.safetensors` with a validated description; nothing is ever unpickled."""

from __future__ import annotations

import json
from importlib.metadata import version
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from flowcei.errors import DataError, FlowceiError
from flowcei.files import check_readable, whole_file
from flowcei.frame import RecoilFrame
from flowcei.models.registry import build_model
from flowcei.molecule import Molecule
from flowcei.physics.detector import Noise
from flowcei.reconstructor import Reconstructor
from flowcei.standardiser import Standardiser

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import Tensor

    from flowcei.models.interface import InverseModel

__all__ = ["FORMAT_VERSION", "ModelCard", "load", "read_card", "write_model"]

FORMAT_VERSION = 1
"""Of the files written here; older ones are migrated, newer ones refused."""

_KEY = "flowcei"
_MAX_BYTES = 1 << 30
_MAX_WIDTH = 4096  # bound on every option, so that a lying file cannot ask for all memory
_LATENTS = ("model.latents.mean", "model.latents.deviation")


class _Frame(BaseModel):
    model_config = ConfigDict(extra="forbid")
    masses: list[float] = Field(min_length=2, max_length=100)
    identical: list[list[int]]
    axes: list[int]
    reflect: bool
    tree: list[list[int]]


class _NoiseRange(BaseModel):
    model_config = ConfigDict(extra="forbid")
    low: float = Field(ge=0)
    high: float = Field(gt=0)
    relative: bool


class ModelCard(BaseModel):
    """What a model file says of itself, checked before anything is built from it.

    Attributes:
        format_version: Of the file.
        flowcei: Version that wrote it.
        architecture: Name in the registry.
        options: Options of the architecture.
        molecule: Table of the molecule.
        frame: Table of the recoil frame.
        noise: Range of detector noise in training.
        training: Prior, schedule, seed, data and metrics.
    """

    model_config = ConfigDict(extra="forbid")
    format_version: int
    flowcei: str
    architecture: str
    options: dict[str, int | float]
    molecule: dict[str, Any]
    frame: _Frame
    noise: _NoiseRange
    training: dict[str, Any]


def write_model(model: Reconstructor, path: str | Path, *, overwrite: bool = False) -> None:
    """Write a model.

    Args:
        model: What to write.
        path: Where, ending in `.safetensors`.
        overwrite: Whether an existing file may be replaced.

    Raises:
        UsageError: Where the file exists or cannot be written.
    """
    card = ModelCard(
        format_version=FORMAT_VERSION,
        flowcei=version("flowcei"),
        architecture=model.architecture,
        options=model.model.options.to_dict(),
        molecule=model.molecule.to_dict(),
        frame=_Frame(**model.frame.to_dict()),
        noise=_NoiseRange(low=model.noise.low, high=model.noise.high, relative=model.noise.relative),
        training=model.card,
    )
    tensors = {
        f"{part}.{name}": tensor.detach().cpu().contiguous()
        for part, module in _parts(model).items()
        for name, tensor in module.state_dict().items()
    }
    with whole_file(Path(path), overwrite=overwrite) as temporary:
        save_file(tensors, temporary, metadata={_KEY: card.model_dump_json()})


def _parts(model: Reconstructor) -> dict[str, torch.nn.Module]:
    return {
        "model": model.model,
        "chart": model.chart_standardiser,
        "condition": model.condition_standardiser,
    }


def read_card(path: str | Path) -> ModelCard:
    """Read what a model file says of itself, without building anything.

    Raises:
        UsageError: For a missing file.
        DataError: For a file that is no model of flowcei, or damaged.
    """
    return _read(Path(path))[0]


def bundled_model() -> AbstractContextManager[Path]:
    """Return a context in which the OCS model that comes with flowcei is a file.

    Example:
        >>> with bundled_model() as path:
        ...     path.name
        'ocs.safetensors'
    """
    return as_file(files("flowcei") / "assets" / "ocs.safetensors")


def load(path: str | Path | None = None, *, device: str = "cpu") -> Reconstructor:
    """Load a model.

    Args:
        path: A model file or the folder of a run; the OCS model that comes with
            flowcei where None.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.

    Returns:
        The model, ready to sample.

    Raises:
        UsageError: For a missing file or device.
        DataError: For a file that is no model of flowcei, or damaged.

    Example:
        >>> load().molecule.name
        'ocs'
    """
    from flowcei.training import resolve_device

    where = resolve_device(device)
    if path is None:
        with bundled_model() as bundled:
            return _build(*_read(bundled), bundled, where)
    place = Path(path)
    if place.is_dir():
        place = place / "model.safetensors"
    return _build(*_read(place), place, where)


def _read(path: Path) -> tuple[ModelCard, dict[str, Tensor]]:
    check_readable(path)
    if path.stat().st_size > _MAX_BYTES:
        raise DataError("larger than 1 GiB: not a model of flowcei", path=path)
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_KEY)
            if text is None:
                raise DataError("a safetensors file, but not a model of flowcei", path=path)
            card = ModelCard.model_validate(_migrated(json.loads(text), path))
            return card, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        what = f"not a model file, or damaged ({error}); make it again with flowcei train"
        raise DataError(what, path=path) from error
    except ValidationError as error:
        first = error.errors()[0]
        what = f"its description is damaged at {'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise DataError(what, path=path) from error


def _migrated(table: object, path: Path) -> object:
    """Return the description in the newest format."""
    found = table.get("format_version") if isinstance(table, dict) else None
    if not isinstance(found, int) or found < 1:
        raise DataError(f"its description has format_version {found!r}", path=path)
    if found > FORMAT_VERSION:
        what = f"written by a newer flowcei (format {found}, known {FORMAT_VERSION}): upgrade"
        raise DataError(what, path=path)
    return table


def _model(card: ModelCard, frame: RecoilFrame, tensors: dict[str, Tensor]) -> InverseModel:
    """Return an untrained model with the options of a file, if its tensors can bear them out."""
    sizes = (size for name, t in tensors.items() if name not in _LATENTS for size in t.shape)
    largest = min(_MAX_WIDTH, max(len(tensors), *sizes, 1))
    if any(not 0 < value <= largest for value in card.options.values()):
        msg = f"an option of the model is not in 0 to {largest}, where its tensors end"
        raise DataError(msg)
    model = build_model(card.architecture, frame.width, frame.condition_width, card.options)
    model.resize_latents(len(tensors.get(_LATENTS[0], ())))
    return model


def _refuse_other_shapes(model: InverseModel, tensors: dict[str, Tensor]) -> None:
    for name, tensor in model.state_dict().items():
        found = tensors.get(f"model.{name}")
        if found is None or found.shape != tensor.shape:
            what = "is missing" if found is None else f"has shape {tuple(found.shape)}"
            msg = f"tensor {name} {what}; the options ask for {tuple(tensor.shape)}"
            raise DataError(msg)


def _build(card: ModelCard, tensors: dict[str, Tensor], path: Path, device: torch.device) -> Reconstructor:
    try:
        frame = RecoilFrame.from_dict(card.frame.model_dump())
        molecule = Molecule.from_dict(card.molecule)
        if frame.masses != tuple(molecule.masses.tolist()):
            msg = "the frame is of another molecule"
            raise DataError(msg)
        with torch.device("meta"):  # shapes without memory: a lying file gets none
            _refuse_other_shapes(_model(card, frame, tensors), tensors)
        model = _model(card, frame, tensors)
        built = Reconstructor(
            molecule=molecule,
            frame=frame,
            model=model,
            noise=Noise(card.noise.low, card.noise.high, relative=card.noise.relative),
            chart_standardiser=Standardiser(frame.width),
            condition_standardiser=Standardiser(frame.condition_width),
            card=card.training,
        )
        for part, module in _parts(built).items():
            own = {k.removeprefix(f"{part}."): v for k, v in tensors.items() if k.startswith(f"{part}.")}
            module.load_state_dict(own, strict=True)
    except (FlowceiError, RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"its parts do not fit together ({reason})", path=path) from error
    if any(not bool(torch.isfinite(t).all()) for t in tensors.values() if t.is_floating_point()):
        raise DataError("the model holds weights that are not finite", path=path)
    built.model.to(device).eval()
    return built
