"""Model files: one `.safetensors` with a validated description; nothing is ever unpickled."""

from __future__ import annotations

import hashlib
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from flowcei.errors import DataError, UsageError
from flowcei.storage.card import ModelCard, card_of
from flowcei.storage.creation import atomic_write
from flowcei.storage.files import check_readable
from flowcei.storage.migrations import migrated
from flowcei.storage.strictjson import read_json
from flowcei.storage.tensors import checksum, read_tensors, write_tensors

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import Tensor

_CARD = "flowcei"
_SEAL = "sha256"  # of the card, which holds that of the weights: together of the whole model


def write_model(
    card: ModelCard, tensors: dict[str, Tensor], path: str | Path, *, overwrite: bool = False
) -> None:
    """Write a model, and read it back and have it on the disk before the file gets its name.

    Args:
        card: What it says of itself; its checksum becomes that of `tensors`.
        tensors: Its weights.
        path: Where, ending in `.safetensors`.
        overwrite: Whether an existing file may be replaced.

    Raises:
        UsageError: Where the file exists or cannot be written, or could not be read again.
    """
    text, seal = sealed(card, tensors)
    with atomic_write(Path(path), overwrite=overwrite, durable=True) as file:
        write_tensors(file, {_CARD: text, _SEAL: seal}, tensors)
        try:
            _read(file)
        except DataError as error:
            msg = f"the model cannot be stored: {error}"
            raise UsageError(msg) from error


def sealed(card: ModelCard, tensors: dict[str, Tensor]) -> tuple[str, str]:
    """Return the description of a model with the checksum of its weights, and the checksum of both."""
    text = card.model_copy(update={"checksum": checksum(tensors)}).model_dump_json()
    return text, _digest(text)


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

    Description and tensors are checked against their checksums, which files of format 1 do not have.

    Raises:
        UsageError: For a missing file, a folder, a pipe or a device.
        DataError: For a file that is no model of flowcei, or damaged.
    """
    check_readable(path)
    try:
        with path.open("rb") as file:
            return _read(file)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", path=path) from error
    except DataError as error:
        raise DataError(str(error), path=path) from error


def _read(file: BinaryIO) -> tuple[ModelCard, dict[str, Tensor]]:
    card, tensors = read_tensors(file, _card)
    if card.checksum is not None and checksum(tensors) != card.checksum:
        raise DataError("damaged: its weights do not match their checksum; copy it again")
    return card, tensors


def _card(metadata: dict[str, str]) -> ModelCard:
    """Return the description in the newest format."""
    text, seal = metadata.get(_CARD), metadata.get(_SEAL)
    if text is None:
        raise DataError("a safetensors file, but not a model of flowcei")
    if seal is not None and seal != _digest(text):
        raise DataError("damaged: its description does not match its checksum; copy it again")
    unknown = set(metadata) - {_CARD, _SEAL}
    if unknown:
        raise DataError(f"unknown metadata {ascii(min(unknown))[:60]}")
    try:
        table = read_json(text)
    except DataError as error:
        raise DataError(f"its description is damaged: {error}") from error
    card = card_of(migrated(table))
    old = isinstance(table, dict) and table["format_version"] == 1
    if not old and (seal is None or card.checksum is None):
        raise DataError("damaged: it has lost its checksum; copy it again")
    return card


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
