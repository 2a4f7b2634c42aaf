"""JSON from strangers: read in bounded time and memory, or refused in one line."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from flowcei.errors import DataError

__all__ = ["LARGEST", "MAX_DEPTH", "MAX_VALUES", "SMALLEST", "read_json", "refuse_odd_values"]

MAX_DEPTH = 32
"""Tables within tables, at the most; a prior's deepest table has six."""

MAX_VALUES = 1_000_000
"""Separators in a text, at the most: what bounds the memory that its values take."""

LARGEST, SMALLEST = 1e50, 1e-100
"""Sizes of numbers other than 0, in a description: with others arithmetic overflows."""

_MAX_DIGITS = 40  # of an integer: more than any seed has
_MAX_TEXT = 10_000  # characters of one text


def read_json(text: str, *, most: int = MAX_VALUES) -> object:
    """Return what a JSON text holds, if it has no more than `most` separators.

    Raises:
        DataError: For what is no JSON, names a key twice, holds numbers that are not finite
            or far too long, or is too large or too deep.

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
        found = json.loads(
            text,
            object_pairs_hook=_table,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_refuse_constant,
        )
    except RecursionError:
        raise DataError(f"more than {MAX_DEPTH} tables within one another") from None
    except json.JSONDecodeError as error:
        raise DataError(f"no JSON: {error}") from error
    _refuse_deep(found)
    return found


def refuse_odd_values(value: object, where: str = "") -> None:
    """Refuse text that cannot be printed or is very long and numbers of absurd size, anywhere in a value.

    What a file says of itself, keys too, is shown on terminals: it holds no control characters.

    Raises:
        DataError: Naming the place.
    """
    open_ends: list[tuple[str, object]] = [(where, value)]
    while open_ends:
        place, found = open_ends.pop()
        if isinstance(found, dict):
            for key in found:
                _refuse_text(key, place or "a key")
            open_ends += [(f"{place}.{key}" if place else key, part) for key, part in found.items()]
        elif isinstance(found, list):
            open_ends += [(place, part) for part in found]
        elif isinstance(found, str):
            _refuse_text(found, place)
        elif isinstance(found, int | float) and found and not SMALLEST <= abs(found) <= LARGEST:
            raise DataError(f"a number of absurd size at {place[:100]} ({found:g})")


def _refuse_text(text: str, place: str) -> None:
    if len(text) > _MAX_TEXT or not text.isprintable():
        raise DataError(f"text at {place[:100]} is too long or cannot be printed ({text[:30]!a})")


def _refuse_deep(value: object) -> None:
    layer = [value]
    for _ in range(MAX_DEPTH + 1):
        inner: list[object] = []
        for found in layer:
            if isinstance(found, dict):
                inner += [part for part in found.values() if isinstance(part, dict | list)]
            elif isinstance(found, list):
                inner += [part for part in found if isinstance(part, dict | list)]
        if not inner:
            return
        layer = inner
    raise DataError(f"more than {MAX_DEPTH} tables within one another")


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for k, key in enumerate(keys) if key in keys[:k]) if len(keys) < 1000 else "..."
        raise DataError(f"the key {twice[:60]!a} stands there twice")
    return found


def _integer(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise DataError(f"a number of {len(text)} digits ({text[:10]}...)")
    return int(text)


def _number(text: str) -> float:
    found = float(text)
    if not math.isfinite(found):
        raise DataError(f"a number that is not finite ({text[:20]})")
    return found


def _refuse_constant(text: str) -> NoReturn:
    raise DataError(f"a number that is not finite ({text})")
