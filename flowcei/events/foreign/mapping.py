"""What the columns of a file mean: which are the momenta of which ion, in what unit."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from flowcei.errors import DataError
from flowcei.events.extracolumns import MOST_COLUMNS
from flowcei.storage.files import read_toml
from flowcei.units import LENGTH_UNITS, momentum_factor

_Name = Annotated[str, Field(min_length=1)]
Component = _Name | float
"""A column, or the number that stands for one that the file leaves out."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Vectors(_Table):
    """Three columns for every ion, or three for all where a row is one ion.

    Attributes:
        unit: Of the numbers; of momenta, or of velocities, which are multiplied by the masses.
        ions: Columns for x, y and z by label of the ion; a number stands for a component
            that the file leaves out.
        columns: Columns for x, y and z where a row is one ion.
    """

    unit: str = Field(max_length=40)
    ions: dict[str, tuple[Component, Component, Component]] = Field(default={}, max_length=100)
    columns: tuple[_Name, _Name, _Name] | None = None

    @model_validator(mode="after")
    def _check(self) -> Vectors:
        if not all(isinstance(part, str) or math.isfinite(part) for part in self.components):
            msg = "a component that is not a column must be a finite number"
            raise ValueError(msg)
        return self

    @property
    def components(self) -> list[Component]:
        """The columns, and the numbers that stand for others."""
        return [*(self.columns or ()), *(part for row in self.ions.values() for part in row)]


class Ions(_Table):
    """How a row says which ion it is, where a row is one ion.

    Attributes:
        column: That tells; the order of the rows of an event where empty.
        values: Of the column, by label. Numbers match to 2 %, so that masses may be rounded.
    """

    column: str = ""
    values: dict[str, Component] = Field(default={}, max_length=100)

    @model_validator(mode="after")
    def _check(self) -> Ions:
        if not all(math.isfinite(v) for v in self.values.values() if not isinstance(v, str)):
            msg = "the value of an ion must be text or a finite number"
            raise ValueError(msg)
        return self


class Channel(_Table):
    """Which events of a file are meant, where it holds several kinds.

    Attributes:
        column: That tells.
        value: Of the events that are read; others are left out and counted.
    """

    column: _Name
    value: float = Field(allow_inf_nan=False)


class Mapping(_Table):
    """What the columns of a file mean.

    Attributes:
        rows: Whether a row is an event or an ion.
        momenta: Their columns.
        positions: Columns of what is known of the start, if anything is.
        event: Column of event numbers; where a row is one ion, rows with the same number
            belong together.
        sigma: Column of the noise of a momentum component, in the unit of the momenta.
        columns: Extra columns that are carried along, one value an event; all further columns of
            numbers where None.
        ions: Where a row is one ion: which.
        channel: Which events are meant.
        separator: Of a text file: one of ``, ; tab blank``; found in the file where empty.
        decimal: What separates the decimals of a number in a text file; found in the file where empty.
        header: Whether the first line of a text file names the columns; columns without a
            name are called ``#1``, ``#2``, ...; found in the file where None.
        skip: Lines at the top of a text file that are no part of the table.
        tree: Group of an HDF5 file or tree of a ROOT file that holds the columns.
    """

    rows: Literal["event", "ion"] = "event"
    momenta: Vectors
    positions: Vectors | None = None
    event: str = ""
    sigma: str = ""
    columns: tuple[_Name, ...] | None = Field(default=None, max_length=MOST_COLUMNS)
    ions: Ions = Ions()
    channel: Channel | None = None
    separator: Literal["", ",", ";", "tab", "blank"] = ""
    decimal: Literal["", ".", ","] = ""
    header: bool | None = None
    skip: int = Field(default=0, ge=0, le=50)
    tree: str = Field(default="", max_length=200)

    @model_validator(mode="after")
    def _check(self) -> Mapping:
        momentum_factor(self.momenta.unit)
        columns = [*self._components, self.event, self.sigma, *(self.columns or ())]
        names = Counter(part for part in columns if isinstance(part, str) and part not in ("", "?"))
        name, count = next(iter(names.most_common(1)), ("", 0))
        if count > 1:
            msg = f"column {name[:40]!r} is named {count} times; a column is one component of one ion"
            raise ValueError(msg)
        if self.positions is not None and self.positions.unit not in LENGTH_UNITS:
            msg = f"unknown unit of positions {self.positions.unit!r}; use one of {', '.join(LENGTH_UNITS)}"
            raise ValueError(msg)
        for name, vectors in self.vectors.items():
            if self.rows == "ion" and (vectors.columns is None or vectors.ions):
                msg = f"where a row is an ion, {name} have columns = [x, y, z]"
                raise ValueError(msg)
            if self.rows == "event" and (vectors.columns is not None or not vectors.ions):
                msg = f"where a row is an event, {name} have three columns for every ion"
                raise ValueError(msg)
        if self.rows == "ion" and not self.event:
            msg = "where a row is an ion, event names the column whose number its event shares"
            raise ValueError(msg)
        return self

    @property
    def vectors(self) -> dict[str, Vectors]:
        """The momenta and, where they are there, the positions."""
        return {"momenta": self.momenta} | ({} if self.positions is None else {"positions": self.positions})

    @property
    def _components(self) -> list[Component]:
        return [part for vectors in self.vectors.values() for part in vectors.components]

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that are read, each once."""
        channel = self.channel.column if self.channel else ""
        names = [*self._components, self.event, self.sigma, self.ions.column, channel, *(self.columns or ())]
        return tuple(dict.fromkeys(name for name in names if isinstance(name, str) and name))

    def with_units(self, momenta: str = "", positions: str = "") -> Mapping:
        """Return the mapping with other units; where none is given it stays."""
        units = {"momenta": momenta, "positions": positions}
        changes = {n: v.model_copy(update={"unit": units[n] or v.unit}) for n, v in self.vectors.items()}
        return self.model_copy(update=changes)

    def to_dict(self) -> dict[str, Any]:
        """Return what differs from the defaults, as `from_dict` takes it."""
        return self.model_dump(mode="json", exclude_defaults=True)

    @classmethod
    def from_dict(cls, table: dict[str, Any]) -> Mapping:
        """Check a table and return it as a mapping.

        Raises:
            DataError: Naming the first entry that is not right.

        Example:
            >>> ions = {"c": ["a", "b", "c"], "o": ["d", "e", "f"]}
            >>> mapping = Mapping.from_dict({"momenta": {"unit": "hbar/bohr", "ions": ions}})
            >>> mapping.names
            ('a', 'b', 'c', 'd', 'e', 'f')
        """
        try:
            return cls.model_validate_json(json.dumps(table))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])[:80]
            reason = str(first["msg"]).removeprefix("Value error, ")[:200]
            raise DataError(f"a mapping with a fault at {where or 'the top'}: {reason}") from error
        except (TypeError, ValueError, RecursionError) as error:
            raise DataError("a mapping holds text, numbers and tables, nothing else") from error

    def to_toml(self, about: str = "") -> str:
        """Return the text of a mapping file, which `read_mapping` reads.

        Args:
            about: A comment for its top.
        """
        printable = ("".join(c if c.isprintable() else " " for c in line) for line in about.splitlines())
        lines = [f"# {line}" for line in printable]
        table = self.to_dict()
        lines += [f"{key} = {_toml(value)}" for key, value in table.items() if not isinstance(value, dict)]
        for key, value in table.items():
            if isinstance(value, dict):
                inner = {k: v for k, v in value.items() if not isinstance(v, dict)}
                lines += ["", f"[{key}]", *(f"{_key(k)} = {_toml(v)}" for k, v in inner.items())]
                for name, part in value.items():
                    if isinstance(part, dict):
                        rows = (f"{_key(k)} = {_toml(v)}" for k, v in part.items())
                        lines += ["", f"[{key}.{name}]", *rows]
        return "\n".join(lines) + "\n"


def read_mapping(path: str | Path) -> Mapping:
    """Read a mapping file, as `flowcei convert --guess` writes it.

    Raises:
        UsageError: For a missing file.
        DataError: For a file that is no mapping, naming the first entry that is not right.
    """
    place = Path(path)
    table = read_toml(place)
    try:
        return Mapping.from_dict(table)
    except DataError as error:
        raise DataError(str(error), path=place) from error


def _key(name: str) -> str:
    return name if name.isascii() and name.replace("_", "").replace("-", "").isalnum() else _toml(name)


def _toml(value: object) -> str:
    """Return a TOML literal: JSON's are, but for two ways to write characters."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
