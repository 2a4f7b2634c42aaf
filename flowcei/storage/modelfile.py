"""Model files: one `.safetensors` with a validated description; nothing is ever unpickled."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from flowcei.errors import DataError, UsageError
from flowcei.storage.card import ModelCard, card_of
from flowcei.storage.creation import atomic_write
from flowcei.storage.files import check_readable
from flowcei.storage.strictjson import read_json
from flowcei.storage.tensors import checksum, read_tensors, text_digest, write_tensors

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import Tensor

_CARD = "flowcei"
_SEAL = "sha256"  # of the card, which holds that of the weights: together of the whole model


def bundled_model() -> AbstractContextManager[Path]:
    """A context in which the OCS model that comes with flowcei is a file."""
    return as_file(files("flowcei") / "assets" / "ocs.safetensors")


def write_model(
    card: ModelCard, tensors: dict[str, Tensor], path: str | Path, *, overwrite: bool = False
) -> None:
    """Write a model, and read it back and have it on the disk before the file gets its name."""
    text, seal = sealed(card, tensors)
    with atomic_write(Path(path), overwrite=overwrite, durable=True) as file:
        write_tensors(file, {_CARD: text, _SEAL: seal}, tensors)
        try:
            _read(file)
        except DataError as error:
            raise UsageError(f"the model cannot be stored: {error}") from error


def sealed(card: ModelCard, tensors: dict[str, Tensor]) -> tuple[str, str]:
    """The description of a model with the checksum of its weights, and the digest of that text."""
    text = card.model_copy(update={"checksum": checksum(tensors)}).model_dump_json(exclude_unset=True)
    return text, text_digest(text)


def read_model(path: Path) -> tuple[ModelCard, dict[str, Tensor]]:
    """Description and tensors of a model file; checksums are compared, which format 1 does not have."""
    check_readable(path)
    try:
        with path.open("rb") as file:
            return _read(file)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", path=path) from error
    except DataError as error:
        raise DataError(str(error), path=path) from error


def _read(file: BinaryIO) -> tuple[ModelCard, dict[str, Tensor]]:
    metadata, tensors = read_tensors(file)
    text, seal = metadata.pop(_CARD, None), metadata.pop(_SEAL, None)
    if text is None:
        raise DataError("a safetensors file, but not a model of flowcei")
    if metadata:
        raise DataError(f"unknown metadata {ascii(min(metadata))[:60]}")
    if seal not in (None, text_digest(text)):
        raise DataError("damaged: its description does not match its checksum; copy it again")
    try:
        table = read_json(text)
    except DataError as error:
        raise DataError(f"its description is damaged: {error}") from error
    card = card_of(table)
    old = isinstance(table, dict) and table["format_version"] == 1
    if not old and None in (seal, card.checksum):
        raise DataError("damaged: it has lost its checksum; copy it again")
    if card.checksum not in (None, checksum(tensors)):
        raise DataError("damaged: its weights do not match their checksum; copy it again")
    return card, tensors
