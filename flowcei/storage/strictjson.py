"""JSON from strangers: read in bounded time and memory, or refused in one line."""

from __future__ import annotations

import json
import math
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from flowcei.errors import DataError

MAX_DEPTH = 32
"""Tables within tables, at the most; a prior's deepest table has six."""

LARGEST, SMALLEST = 1e50, 1e-100
"""Sizes of numbers other than 0, in a description: with others arithmetic overflows."""

_MAX_VALUES = 1_000_000  # separators: they bound the memory that values take
_MAX_TEXT = 10_000  # characters of one text
_Kind = TypeVar("_Kind", bound=BaseModel)


def read_json(text: str, *, most: int = _MAX_VALUES) -> object:
    """Return what a JSON text holds, if it has no more than `most` separators.

    Raises:
        DataError: For what is no JSON, names a key twice, holds numbers that are not finite, or
            is too large or too deep.

    Example:
        >>> read_json('{"a": [1, 2.5]}')
        {'a': [1, 2.5]}
        >>> read_json('{"a": 1, "a": 2}')
        Traceback (most recent call last):
            ...
        flowcei.errors.DataError: the key 'a' stands there twice
    """
    if sum(text.count(sign) for sign in ",:[{") > most:
        raise DataError(f"more than {most:,} values")
    try:
        # Not pydantic's parser, which takes the last of two values of a key: a reader that takes
        # the first would see another description under the same checksum.
        value = json.loads(text, object_pairs_hook=_table, parse_float=_finite, parse_constant=_finite)
    except RecursionError:
        raise DataError(f"more than {MAX_DEPTH} tables within one another") from None
    except DataError:
        raise
    except ValueError as error:
        raise DataError(f"no JSON: {error}") from None
    layer = [value]
    for _ in range(MAX_DEPTH + 1):
        tables = (t.values() if isinstance(t, dict) else t for t in layer if isinstance(t, dict | list))
        layer = [inner for table in tables for inner in table]
    if layer:
        raise DataError(f"more than {MAX_DEPTH} tables within one another")
    return value


def _table(pairs: list[tuple[str, object]]) -> dict[str, object]:
    table: dict[str, object] = {}
    for key, value in pairs:
        if key in table:
            raise DataError(f"the key {key[:60]!a} stands there twice")
        table[key] = value
    return table


def _finite(text: str) -> float:
    if not math.isfinite(float(text)):
        raise DataError(f"a number that is not finite ({text[:20]})")
    return float(text)


def validated(kind: type[_Kind], table: object, place: str = "") -> _Kind:
    """Return a table as a record.

    Raises:
        DataError: Naming the first place, within `place`, that is damaged.
    """
    try:
        return kind.model_validate(table)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ascii((place + ".".join(map(str, first["loc"])))[:100])[1:-1]
        raise DataError(f"its description is damaged at {where}: {first['msg']}") from error


def refuse_odd_values(value: object) -> None:
    """Refuse text that cannot be printed or is very long and numbers of absurd size, anywhere in a value.

    What a file says of itself, keys too, is shown on terminals: it holds no control characters.

    Raises:
        DataError: Naming the place.
    """
    open_ends: list[tuple[str, object]] = [("", value)]
    while open_ends:
        place, found = open_ends.pop()
        if isinstance(found, dict):
            open_ends += [("a key", key) for key in found]
            open_ends += [(f"{place}.{key}".lstrip("."), inner) for key, inner in found.items()]
        elif isinstance(found, list):
            open_ends += [(place, inner) for inner in found]
        elif isinstance(found, str) and (len(found) > _MAX_TEXT or not found.isprintable()):
            raise DataError(f"text at {place[:100]!a} is too long or cannot be printed ({found[:30]!a})")
        elif isinstance(found, int | float) and found and not SMALLEST <= abs(found) <= LARGEST:
            raise DataError(f"a number of absurd size at {place[:100]!a} ({str(found)[:20]})")
