"""The description of a model: what it may say, and within which bounds."""

from __future__ import annotations

import json
from importlib.metadata import version
from math import isfinite
from platform import python_version
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from flowcei.errors import DataError, UsageError
from flowcei.storage.migrations import FORMAT_VERSION
from flowcei.storage.strictjson import LARGEST, MAX_DEPTH, SMALLEST, read_json, refuse_odd_values, validated

_IONS = 100
_ABSENT: Any = None  # of tables that may be missing, but not null
_Positive = Annotated[int, Field(ge=0)]
_Numbers = Annotated[list[float], Field(max_length=3 * _IONS)]
_Pairs = Annotated[list[list[int]], Field(max_length=_IONS)]
_MOST_TEXT, _MOST_VALUES = 12 << 20, 700_000  # before training: the rest is for results and tensors
_LIBRARIES = ("flowcei", "torch", "FrEIA", "numpy")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _Open(BaseModel):
    """A table that may hold more than what is checked: all of it is kept, none of it is run."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class _Frame(_Part):
    masses: list[float] = Field(min_length=2, max_length=_IONS)
    identical: _Pairs
    axes: list[int] = Field(max_length=3)
    reflect: bool
    tree: _Pairs


class _RawFrame(_Part):
    masses: list[float] = Field(min_length=2, max_length=_IONS)
    fixed: list[float | None] = Field(max_length=3 * _IONS)
    seen: list[int] = Field(max_length=3 * _IONS)


class _NoiseRange(_Part):
    low: float = Field(ge=0)
    high: float = Field(gt=0)
    relative: bool

    @model_validator(mode="after")
    def _in_order(self) -> _NoiseRange:
        if self.low > self.high or (self.relative and self.high > 1.0):
            msg = f"noise from {self.low:g} to {self.high:g}"
            raise ValueError(msg)
        return self


class _Data(_Open):
    rows: _Positive
    split_seed: _Positive
    noise: float | None = Field(default=None, gt=0, le=1)
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")


class _Simulation(_Open):
    events_per_epoch: _Positive
    pilot_events: _Positive = 0
    validation_events: _Positive = 0
    accuracy: float = Field(default=0.0, ge=0)


class _Seen(_Part):
    low: float
    high: float
    mean: _Numbers
    precision: list[_Numbers] = Field(max_length=3 * _IONS)
    reach: float

    @model_validator(mode="after")
    def _square(self) -> _Seen:
        if [len(row) for row in self.precision] != [len(self.mean)] * len(self.mean):
            msg = f"a precision that is not {len(self.mean)} x {len(self.mean)}"
            raise ValueError(msg)
        return self


class _Training(_Open):
    """What code reads back of a training, or `flowcei info` shows; all of it may be missing."""

    name: str = ""
    prior: dict[str, Any] | None = None
    prior_name: str | None = None
    seed: _Positive = 0
    simulation: _Simulation = Field(default=_ABSENT)
    data: _Data = Field(default=_ABSENT)
    noise_added: bool = True
    schedule: dict[str, Any] = Field(default={})
    versions: dict[str, str] = Field(default={})
    plugins: dict[str, str] = Field(default={})
    epochs_run: _Positive = 0
    validation_loss: float | None = None
    round_trip_error: float | None = Field(default=None, ge=0)
    parameters: _Positive = 0
    rows_per_second: float | None = Field(default=None, ge=0)
    seen: _Seen = Field(default=_ABSENT)
    figures: dict[str, Any] = Field(default={})


class ModelCard(_Part):
    """What a model file says of itself, checked before anything is built from it.

    Attributes:
        format_version: Of the file; what is older is migrated.
        flowcei: Version that wrote it.
        architecture: Name in the registry.
        options: Options of the architecture.
        molecule: Table of the molecule.
        frame: Table of the recoil frame, or of a raw one.
        noise: Range of detector noise in training.
        training: Prior, schedule, seed, data, versions and metrics.
        checksum: Of the weights; None for a file of format 1.
    """

    format_version: int
    flowcei: str
    architecture: str
    options: dict[str, bool | int | float | str] = Field(max_length=100)
    molecule: dict[str, Any]
    frame: _Frame | _RawFrame
    noise: _NoiseRange
    training: dict[str, Any]
    checksum: str | None = Field(pattern=r"^sha256:[0-9a-f]{64}$")


def card_of(table: object) -> ModelCard:
    """Return the description that a table in the newest format holds.

    Raises:
        DataError: Naming the first place that is damaged.
    """
    refuse_odd_values(table)
    card = validated(ModelCard, table)
    validated(_Training, card.training, "training.")
    return card


def versions() -> dict[str, str]:
    """Return the versions of what computes here.

    Example:
        >>> sorted(versions())
        ['FrEIA', 'flowcei', 'numpy', 'python', 'torch']
    """
    return {name: version(name) for name in _LIBRARIES} | {"python": python_version()}


def describe_model(
    architecture: str,
    options: dict[str, Any],
    molecule: dict[str, Any],
    frame: dict[str, Any],
    noise: dict[str, Any],
    training: dict[str, Any],
) -> ModelCard:
    """Return the description of a model made with this version: see `ModelCard`.

    Raises:
        UsageError: For what cannot be described.
    """
    error = training.get("round_trip_error")
    if isinstance(error, float) and not isfinite(error):  # not None: that would be no error at all
        training = training | {"round_trip_error": LARGEST}
    table = {
        "format_version": FORMAT_VERSION,
        "flowcei": version("flowcei"),
        "architecture": architecture,
        "options": options,
        "molecule": molecule,
        "frame": frame,
        "noise": noise,
        "training": training,
        "checksum": None,
    }
    try:
        return card_of(_storable(table))
    except DataError as error:
        msg = f"the model cannot be stored: {error}"
        raise UsageError(msg) from error


def refuse_undescribable(molecule: dict[str, Any], training: dict[str, Any]) -> None:
    """Refuse, before hours of training, what no model file could say of it.

    Raises:
        UsageError: Naming the place.
    """
    try:
        table = _storable({"molecule": molecule, "training": training})
        text = json.dumps(table)
        if len(text) > _MOST_TEXT:
            raise DataError(f"its prior or molecule takes {len(text):,} characters, above {_MOST_TEXT:,}")
        refuse_odd_values(read_json(text, most=_MOST_VALUES))
        validated(_Training, _storable(training), "training.")
    except DataError as error:
        msg = f"a model trained like this could not be stored: {error}"
        raise UsageError(msg) from error


def _storable(value: object, depth: int = 0) -> object:
    """Return a value as JSON can hold it and a terminal show it: NaN and infinity as None."""
    if depth > MAX_DEPTH - 4:  # the description stands within other tables
        raise DataError(f"more than {MAX_DEPTH} tables within one another")
    if isinstance(value, dict):
        return {_printable(str(key)): _storable(part, depth + 1) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(part, depth + 1) for part in value]
    if isinstance(value, float):
        if not isfinite(value):
            return None
        return 0.0 if abs(value) < SMALLEST else float(value)
    return _printable(value) if isinstance(value, str) else value


def _printable(text: str) -> str:
    return "".join(sign if sign.isprintable() else "?" for sign in text)
