"""Model files: one `.safetensors` with a validated description; nothing is ever unpickled."""

from __future__ import annotations

import json
from importlib.metadata import version
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from flowcei.errors import DataError
from flowcei.files import check_readable, whole_file

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import Tensor

__all__ = [
    "FORMAT_VERSION",
    "ModelCard",
    "bundled_model",
    "describe_model",
    "read_card",
    "read_model",
    "write_model",
]

FORMAT_VERSION = 1
"""Of the files written here; older ones are migrated, newer ones refused."""

_KEY = "flowcei"
_MAX_BYTES = 1 << 30


class _Frame(BaseModel):
    model_config = ConfigDict(extra="forbid")
    masses: list[float] = Field(min_length=2, max_length=100)
    identical: list[list[int]]
    axes: list[int]
    reflect: bool
    tree: list[list[int]]


class _RawFrame(BaseModel):
    model_config = ConfigDict(extra="forbid")
    masses: list[float] = Field(min_length=2, max_length=100)
    fixed: list[float | None] = Field(max_length=300)
    seen: list[int] = Field(max_length=300)


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
        frame: Table of the recoil frame, or of a raw one.
        noise: Range of detector noise in training.
        training: Prior, schedule, seed, data and metrics.
    """

    model_config = ConfigDict(extra="forbid")
    format_version: int
    flowcei: str
    architecture: str
    options: dict[str, int | float | str]
    molecule: dict[str, Any]
    frame: _Frame | _RawFrame
    noise: _NoiseRange
    training: dict[str, Any]


def describe_model(
    architecture: str,
    options: dict[str, Any],
    molecule: dict[str, Any],
    frame: dict[str, Any],
    noise: dict[str, Any],
    training: dict[str, Any],
) -> ModelCard:
    """Return the description of a model made with this version: see `ModelCard`."""
    return ModelCard(
        format_version=FORMAT_VERSION,
        flowcei=version("flowcei"),
        architecture=architecture,
        options=options,
        molecule=molecule,
        frame=_RawFrame(**frame) if "fixed" in frame else _Frame(**frame),
        noise=_NoiseRange(**noise),
        training=training,
    )


def write_model(
    card: ModelCard, tensors: dict[str, Tensor], path: str | Path, *, overwrite: bool = False
) -> None:
    """Write a model.

    Args:
        card: What it says of itself.
        tensors: Its weights.
        path: Where, ending in `.safetensors`.
        overwrite: Whether an existing file may be replaced.

    Raises:
        UsageError: Where the file exists or cannot be written.
    """
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with whole_file(Path(path), overwrite=overwrite) as temporary:
        save_file(whole, temporary, metadata={_KEY: card.model_dump_json()})


def read_card(path: str | Path) -> ModelCard:
    """Read what a model file says of itself, without building anything.

    Raises:
        UsageError: For a missing file.
        DataError: For a file that is no model of flowcei, or damaged.
    """
    return read_model(Path(path))[0]


def bundled_model() -> AbstractContextManager[Path]:
    """Return a context in which the OCS model that comes with flowcei is a file.

    Example:
        >>> with bundled_model() as path:
        ...     path.name
        'ocs.safetensors'
    """
    return as_file(files("flowcei") / "assets" / "ocs.safetensors")


def read_model(path: Path) -> tuple[ModelCard, dict[str, Tensor]]:
    """Read the description and the tensors of a model file.

    Raises:
        UsageError: For a missing file.
        DataError: For a file that is no model of flowcei, or damaged.
    """
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
