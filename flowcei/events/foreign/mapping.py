"""What the columns of a file mean: which are the momenta of which ion, in what unit."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from flowcei.errors import DataError
from flowcei.events.extracolumns import MOST_COLUMNS
from flowcei.storage.files import read_toml
from flowcei.units import LENGTH_UNITS, momentum_factor

_Name = Annotated[str, Field(min_length=1)]
Component = _Name | Annotated[float, Field(allow_inf_nan=False)]
"""A column, or the number that stands for one that the file leaves out."""
Triple = tuple[Component, Component, Component]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Vectors(_Section):
    """Three columns for every ion, or three for all where a row is one ion."""

    unit: str = Field(max_length=40)  # velocities are multiplied by the masses
    ions: dict[str, Triple] = Field(default={}, max_length=100)  # by label
    columns: tuple[_Name, _Name, _Name] | None = None  # where a row is one ion

    @property
    def components(self) -> list[Component]:
        """The columns, and the numbers that stand for others."""
        return [*(self.columns or ()), *(component for row in self.ions.values() for component in row)]


class Ions(_Section):
    """How a row says which ion it is: values of a column by label, or the order of the rows of an event.

    Numbers match to 2 %, so that masses may be rounded.
    """

    column: str = ""
    values: dict[str, Component] = Field(default={}, max_length=100)


class Channel(_Section):
    """Which events of a file are meant, where it holds several kinds; others are left out and counted."""

    column: _Name
    value: float = Field(allow_inf_nan=False)


class Mapping(_Section):
    """What the columns of a file mean."""

    rows: Literal["event", "ion"] = "event"  # what a row is
    momenta: Vectors
    positions: Vectors | None = None
    event: str = ""  # column of event numbers; rows of ions with the same number are an event
    sigma: str = ""  # column of the noise of a momentum component, in the unit of the momenta
    columns: tuple[_Name, ...] | None = Field(
        default=None, max_length=MOST_COLUMNS
    )  # extra; None: the others
    ions: Ions = Ions()
    channel: Channel | None = None
    separator: Literal["", ",", ";", "tab", "blank"] = ""  # of a text file, as decimal, header and skip
    decimal: Literal["", ".", ","] = ""
    header: bool | None = None  # whether the first line names the columns; else they are #1, #2, ...
    skip: int = Field(default=0, ge=0, le=50)  # lines at the top
    tree: str = Field(default="", max_length=200)  # group of an HDF5 file or tree of a ROOT file

    @model_validator(mode="after")
    def _check(self) -> Mapping:
        momentum_factor(self.momenta.unit)
        columns = [*self._components, self.event, self.sigma, *(self.columns or ())]
        names = Counter(name for name in columns if isinstance(name, str) and name not in ("", "?"))
        for name, count in names.most_common(1):
            if count > 1:
                message = f"column {name[:40]!r} is named {count} times; a column is one component of one ion"
                raise ValueError(message)
        if self.positions is not None and self.positions.unit not in LENGTH_UNITS:
            units = ", ".join(LENGTH_UNITS)
            raise ValueError(f"unknown unit of positions {self.positions.unit!r}; use one of {units}")
        for name, vectors in self.vectors.items():
            shape = (vectors.columns is not None, bool(vectors.ions))
            if self.rows == "ion" and shape != (True, False):
                raise ValueError(f"where a row is an ion, {name} have columns = [x, y, z]")
            if self.rows == "event" and shape != (False, True):
                raise ValueError(f"where a row is an event, {name} have three columns for every ion")
        if self.rows == "ion" and not self.event:
            raise ValueError("where a row is an ion, event names the column whose number its event shares")
        return self

    @property
    def vectors(self) -> dict[str, Vectors]:
        """The momenta and, if there are any, the positions."""
        return {"momenta": self.momenta} | ({} if self.positions is None else {"positions": self.positions})

    @property
    def _components(self) -> list[Component]:
        return [component for vectors in self.vectors.values() for component in vectors.components]

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that are read, each once."""
        channel = self.channel.column if self.channel else ""
        names = [*self._components, self.event, self.sigma, self.ions.column, channel, *(self.columns or ())]
        return tuple(dict.fromkeys(name for name in names if isinstance(name, str) and name))

    def with_units(self, momenta: str = "", positions: str = "") -> Mapping:
        """The mapping with other units; an empty one changes nothing."""
        units = {"momenta": momenta, "positions": positions}
        changes = {n: v.model_copy(update={"unit": units[n] or v.unit}) for n, v in self.vectors.items()}
        return self.model_copy(update=changes)

    def to_dict(self) -> dict[str, Any]:
        """What differs from the defaults, as `from_dict` takes it."""
        return self.model_dump(mode="json", exclude_defaults=True)

    @classmethod
    def from_dict(cls, table: dict[str, Any]) -> Mapping:
        """Check a table; DataError names the first entry that is not right."""
        try:
            return cls.model_validate_json(json.dumps(table))
        except ValidationError as error:
            # A component may be text or a finite number: of the two complaints the second says more.
            first = min(error.errors(), key=lambda fault: fault["type"] != "finite_number")
            where = ".".join(str(key) for key in first["loc"])[:80]
            reason = str(first["msg"]).removeprefix("Value error, ")[:200]
            raise DataError(f"a mapping with a fault at {where or 'the top'}: {reason}") from error
        except (TypeError, ValueError, RecursionError) as error:
            raise DataError("a mapping holds text, numbers and tables, nothing else") from error

    def to_toml(self, about: str = "") -> str:
        """The text of a mapping file, which `read_mapping` reads, below a comment."""
        printable = ("".join(c if c.isprintable() else " " for c in line) for line in about.splitlines())
        lines = [*(f"# {line}" for line in printable), *_toml_lines(self.to_dict())]
        return "\n".join(lines) + "\n"


def read_mapping(path: Path) -> Mapping:
    """Read a mapping file, as `flowcei convert --guess` writes it."""
    table = read_toml(path)
    try:
        return Mapping.from_dict(table)
    except DataError as error:
        raise DataError(str(error), path=path) from error


def _toml_lines(table: dict[str, Any], header: str = "") -> Iterator[str]:
    if header:
        yield from ("", f"[{header}]")
    for key, value in table.items():
        if not isinstance(value, dict):
            plain = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
            yield f"{key if plain else _toml(key)} = {_toml(value)}"
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _toml_lines(value, f"{header}.{key}".lstrip("."))


def _toml(value: object) -> str:
    """TOML literal of a value: as JSON writes it, but for one character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
