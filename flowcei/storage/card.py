"""The description of a model: what it may say, within which bounds, and in which formats."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from math import isfinite
from platform import python_version
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from flowcei.errors import DataError, UsageError
from flowcei.storage.strictjson import LARGEST, MAX_DEPTH, SMALLEST, check_values, reason

_IONS = 100
_Positive = Annotated[int, Field(ge=0)]
_Numbers = Annotated[list[float], Field(max_length=3 * _IONS)]
_LIBRARIES = ("flowcei", "torch", "FrEIA", "numpy")


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _Open(BaseModel):
    """A table that may hold more than what is checked: all of it is kept, none of it is run."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class _NoiseRange(_Closed):
    low: float = Field(ge=0)
    high: float = Field(gt=0)
    relative: bool

    @model_validator(mode="after")
    def _in_order(self) -> _NoiseRange:
        if self.low > self.high or (self.relative and self.high > 1.0):
            raise ValueError(f"noise from {self.low:g} to {self.high:g}")
        return self


class SimulationRecord(_Open):
    """How the events of a training on a prior were simulated; accuracy relative, of momenta."""

    events_per_epoch: _Positive
    accuracy: float = Field(default=0.0, ge=0)
    pilot_events: _Positive = 0
    validation_events: _Positive = 0


class DataRecord(_Open):
    """Which file a training is of: rows, split, SHA-256 of its momenta, measured noise (relative)."""

    rows: _Positive
    split_seed: _Positive
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    noise: float | None = Field(default=None, gt=0, le=1)


class RangeRecord(_Closed):
    """Conditions of training events: range of log KER (hartree), ellipsoid of the K other numbers."""

    low: float
    high: float
    mean: _Numbers
    precision: list[_Numbers] = Field(max_length=3 * _IONS)
    reach: float

    @model_validator(mode="after")
    def _square(self) -> RangeRecord:
        if [len(row) for row in self.precision] != [len(self.mean)] * len(self.mean):
            raise ValueError(f"a precision that is not {len(self.mean)} x {len(self.mean)}")
        return self


class TrainingRecord(_Open):
    """What is known of a training; all of it may be missing, and what else a file says is kept."""

    prior: dict[str, Any] | None = None
    prior_name: str | None = None
    simulation: SimulationRecord | None = None
    data: DataRecord | None = None
    forward: str = ""  # name of the forward model of its events, where it is not Coulomb's law at once
    noise_added: bool = True
    seen: RangeRecord | None = None
    plugins: dict[str, str] = Field(default={})
    seed: _Positive | None = None
    schedule: dict[str, Any] = Field(default={})
    versions: dict[str, str] = Field(default={})
    epochs_run: _Positive | None = None
    validation_loss: float | None = None
    round_trip_error: float | None = Field(default=None, ge=0)
    parameters: _Positive = 0
    rows_per_second: float | None = Field(default=None, ge=0)
    name: str = ""
    figures: dict[str, Any] = Field(default={})
    judgement: dict[str, Any] = Field(default={})  # of `flowcei.judge`

    @field_validator("simulation", "data", "seen", "seed", "epochs_run", mode="before")
    @classmethod
    def _not_null(cls, value: object) -> object:
        if value is None:
            raise ValueError("null where a value belongs")
        return value

    def to_dict(self) -> dict[str, Any]:
        """What is known, as plain values; what is wrong with them shows when they are read."""
        return self.model_dump(exclude_unset=True, warnings=False)


class ModelCard(_Closed):
    """What a model file says of itself, checked before anything is built; `checksum` is of the weights."""

    format_version: int
    flowcei: str
    architecture: str
    options: dict[str, bool | int | float | str] = Field(max_length=100)
    molecule: dict[str, Any]
    frame: dict[str, Any]
    noise: _NoiseRange
    training: TrainingRecord
    checksum: str | None = Field(pattern=r"^sha256:[0-9a-f]{64}$")

    @field_validator("frame")
    @classmethod
    def _bounded(cls, frame: dict[str, Any]) -> dict[str, Any]:
        """A frame checks itself when it is built, in a time that grows with the square of its ions."""
        if any(isinstance(column, list) and len(column) > 3 * _IONS for column in frame.values()):
            raise ValueError(f"a frame of more than {_IONS} ions")
        return frame

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the file."""
        return self.model_dump(exclude_unset=True)


def card_of(table: object) -> ModelCard:
    """The description that a table of any format holds; DataError names the first place that is damaged."""
    check_values(table)
    try:
        return ModelCard.model_validate(migrated(table))
    except ValidationError as error:
        raise DataError(f"its description is damaged {reason(error)}") from error


def versions() -> dict[str, str]:
    """Versions of what computes here."""
    return {name: version(name) for name in _LIBRARIES} | {"python": python_version()}


def describe_model(training: TrainingRecord, **tables: object) -> ModelCard:
    """The description of a model of this version: its architecture, options, molecule, frame and noise."""
    record = training.to_dict()
    if not isfinite(record.get("round_trip_error") or 0.0):  # not None: that would be no error at all
        record["round_trip_error"] = LARGEST
    table = {"format_version": FORMAT_VERSION, "flowcei": version("flowcei"), **tables, "training": record}
    try:
        return card_of(_storable({**table, "checksum": None}))
    except DataError as error:
        raise UsageError(f"the model cannot be stored: {error}") from error


def _storable(value: object, depth: int = 0) -> object:
    """A value as JSON can hold it and a terminal show it: NaN and infinity as None."""
    if depth > MAX_DEPTH:
        raise DataError(f"more than {MAX_DEPTH} tables within one another")
    match value:
        case dict():
            return {_printable(str(key)): _storable(item, depth + 1) for key, item in value.items()}
        case list() | tuple():
            return [_storable(item, depth + 1) for item in value]
        case float():
            return None if not isfinite(value) else 0.0 if abs(value) < SMALLEST else float(value)
        case str():
            return _printable(value)
    return value


def _printable(text: str) -> str:
    return "".join(sign if sign.isprintable() else "?" for sign in text)


# A format is a contract with files that people have. What changes it raises the version and adds
# a migration; the old ones stay, and so do the files of `tests/data/models-v*`.
FORMAT_VERSION = 2


def _from_1(table: dict[str, Any]) -> dict[str, Any]:
    """No checksum; versions and events per epoch stood loose in `training`."""
    training = table.get("training")
    if isinstance(training, dict):
        training = dict(training)
        if loose := {name: training.pop(name) for name in ("flowcei", "torch") if name in training}:
            training["versions"] = loose
        if "events_per_epoch" in training:
            training["simulation"] = {"events_per_epoch": training.pop("events_per_epoch")}
    return {"checksum": None} | table | {"training": training}


MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1}
"""Version -> what turns a description of it into one of the next."""


def migrated(table: object) -> dict[str, Any]:
    """A description in the newest format."""
    number = table.get("format_version") if isinstance(table, dict) else None
    if not isinstance(table, dict) or type(number) is not int or number < 1:
        raise DataError(f"its description has format_version {ascii(number)[:40]}")
    if number > FORMAT_VERSION:
        raise DataError(f"written by a newer flowcei (format {number}, known {FORMAT_VERSION}): upgrade")
    for step in range(number, FORMAT_VERSION):
        table = MIGRATIONS[step](table) | {"format_version": step + 1}
    return table
