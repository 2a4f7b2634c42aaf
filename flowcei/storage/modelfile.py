"""Model files: safetensors with a validated description, bounded first, sealed by checksums, never unpickled.

The library checks that types, shapes and offsets agree with the file. It does not bound how much it takes to
say so: a header may have 100 MB, or hold a million tensors. Checkpoints are such files too.
"""

from __future__ import annotations

import hashlib
import json
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from flowcei.errors import DataError, UsageError, printable
from flowcei.storage.card import ModelCard, card_of
from flowcei.storage.creation import atomic_write
from flowcei.storage.files import check_readable
from flowcei.storage.strictjson import read_json

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    Tensors = dict[str, NDArray[Any]]

_CARD = "flowcei"
_SEAL = "sha256"  # of the card, which holds that of the weights: together of the whole model
_TYPES = {  # no half precision, in which a log-determinant is wrong
    "float32": "F32",
    "float64": "F64",
    "int64": "I64",
    "int32": "I32",
    "uint8": "U8",
    "bool": "BOOL",
}
_MAX_HEADER, _MAX_TENSORS, _MAX_NAME = 16 << 20, 20_000, 500  # bytes, number, characters
_HDF5 = b"\x89HDF\r\n\x1a\n"  # how such files begin
_MALFORMED = (
    SafetensorError,
    RuntimeError,
    ValueError,
    ArithmeticError,
    LookupError,
    AttributeError,
    TypeError,
)


def read_tensors(file: BinaryIO, *, most: int = 1 << 30) -> tuple[dict[str, str], Tensors]:
    """Metadata and tensors of an open safetensors file of at most `most` bytes; errors without its path."""
    size = file.seek(0, 2)
    if size > most:
        raise DataError(f"larger than {most >> 30} GiB: not a file of flowcei")
    file.seek(0)
    first = file.read(8)
    if first == _HDF5:
        raise DataError("an HDF5 file, of events or samples, and no model")
    length = int.from_bytes(first, "little")
    if size < 8 or length > min(size - 8, _MAX_HEADER):
        raise _damaged(f"a header of {length} bytes in a file of {size}")
    try:
        header: Any = read_json(file.read(length).decode())
        metadata = header.pop("__metadata__", {})
        _check_claims(header, size - 8 - length)
        file.seek(0)
        tensors = load(file.read(size))  # in memory: what the checksum is of cannot change
    except _MALFORMED as error:
        reason = printable(" ".join(str(error).split())[:200])  # it may quote control characters of the file
        raise _damaged(f"its header: {reason}") from error
    if other := [name for tensor in tensors.values() if (name := tensor.dtype.name) not in _TYPES]:
        raise _damaged(f"tensors of type {other[0]}, not {', '.join(_TYPES.values())}")
    return metadata, tensors


def _check_claims(claims: dict[str, Any], size: int) -> None:
    if len(claims) > _MAX_TENSORS:
        raise DataError(f"{len(claims)} tensors, above {_MAX_TENSORS}")
    for name in claims:  # names are printed where something is wrong with them
        if len(name) > _MAX_NAME or not name.isprintable():
            raise DataError(f"a tensor is called {ascii(name)[:80]}")
    end = max((claim["data_offsets"][1] for claim in claims.values()), default=0)
    if end != size:  # before a gigabyte of nothing is read
        raise DataError(f"its tensors end at byte {str(end)[:20]} of {size}")


def write_tensors(file: BinaryIO, metadata: dict[str, str], tensors: Tensors) -> None:
    """Write a safetensors file to an open one; a type that it cannot hold is a UsageError."""
    file.write(save({name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}, metadata))


def checksum(tensors: Tensors) -> str:
    """SHA-256 over names, types, shapes and bytes of tensors, sorted by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        if tensor.dtype.name not in _TYPES:
            types = ", ".join(_TYPES.values())
            raise UsageError(f"weights of type {tensor.dtype} cannot be stored; model files hold {types}")
        digest.update(json.dumps([name, _TYPES[tensor.dtype.name], list(tensor.shape)]).encode() + b"\n")
        digest.update(tensor.tobytes())
    return f"sha256:{digest.hexdigest()}"


def text_digest(text: str) -> str:
    """SHA-256 of a text, which may hold halves of surrogate pairs."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _damaged(what: str) -> DataError:
    return DataError(f"not a model file, or damaged ({what}); copy it again, or make it with flowcei train")


def bundled_model() -> AbstractContextManager[Path]:
    """A context in which the OCS model that comes with flowcei is a file."""
    return as_file(files("flowcei") / "assets" / "ocs.safetensors")


def write_model(card: ModelCard, tensors: Tensors, path: str | Path, *, overwrite: bool = False) -> None:
    """Write a model, and read it back and have it on the disk before the file gets its name."""
    text, seal = sealed(card, tensors)
    with atomic_write(Path(path), overwrite=overwrite, durable=True) as file:
        write_tensors(file, {_CARD: text, _SEAL: seal}, tensors)
        try:
            _read(file)
        except DataError as error:
            raise UsageError(f"the model cannot be stored: {error}") from error


def sealed(card: ModelCard, tensors: Tensors) -> tuple[str, str]:
    """The description of a model with the checksum of its weights, and the digest of that text."""
    text = card.model_copy(update={"checksum": checksum(tensors)}).model_dump_json(exclude_unset=True)
    return text, text_digest(text)


def read_model(path: Path) -> tuple[ModelCard, Tensors]:
    """Description and tensors of a model file; checksums are compared, which format 1 does not have."""
    check_readable(path)
    try:
        with path.open("rb") as file:
            return _read(file)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", path=path) from error
    except DataError as error:
        raise DataError(str(error), path=path) from error


def _read(file: BinaryIO) -> tuple[ModelCard, Tensors]:
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
