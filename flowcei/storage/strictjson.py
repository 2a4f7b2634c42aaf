"""JSON from strangers: read in bounded time and memory, or refused in one line."""

from __future__ import annotations

import json
import math

from pydantic import ValidationError

from flowcei.errors import DataError

MAX_DEPTH = 32  # tables within tables; a prior's deepest table has six
LARGEST, SMALLEST = 1e50, 1e-100  # sizes of numbers other than 0: with others arithmetic overflows
_MAX_VALUES = 1_000_000  # separators: they bound the memory that values take
_MAX_TEXT = 10_000  # characters of one text


def read_json(text: str) -> object:
    """Content of a JSON text of at most a million values, with finite numbers and no key twice in a table."""
    if sum(text.count(sign) for sign in ",:[{") > _MAX_VALUES:
        raise DataError(f"more than {_MAX_VALUES:,} values")
    try:
        # Not pydantic's parser, which takes the last of two values of a key: a reader that takes
        # the first would see another description under the same checksum.
        return json.loads(text, object_pairs_hook=_table, parse_float=_finite, parse_constant=_finite)
    except RecursionError:
        raise DataError(f"more than {MAX_DEPTH} tables within one another") from None
    except DataError:
        raise
    except ValueError as error:
        raise DataError(f"no JSON: {error}") from None


def _table(pairs: list[tuple[str, object]]) -> dict[str, object]:
    table: dict[str, object] = {}
    for key, value in pairs:
        if key in table:
            raise DataError(f"the key {key[:60]!a} stands there twice")
        table[key] = value
    return table


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise DataError(f"a number that is not finite ({text[:20]})")
    return number


def check_values(table: object) -> None:
    """Refuse tables too deep, numbers of absurd size, text that is very long or that terminals obey."""
    stack: list[tuple[str, int, object]] = [("", 0, table)]
    while stack:
        path, depth, value = stack.pop()
        if depth > MAX_DEPTH:
            raise DataError(f"more than {MAX_DEPTH} tables within one another")
        if isinstance(value, dict):
            stack += [("a key", depth, key) for key in value]
            stack += [(f"{path}.{key}".lstrip("."), depth + 1, item) for key, item in value.items()]
        elif isinstance(value, list):
            stack += [(path, depth + 1, item) for item in value]
        elif isinstance(value, str) and (len(value) > _MAX_TEXT or not value.isprintable()):
            raise DataError(f"text at {path[:100]!a} is too long or cannot be printed ({value[:30]!a})")
        elif isinstance(value, int | float) and value and not SMALLEST <= abs(value) <= LARGEST:
            raise DataError(f"a number of absurd size at {path[:100]!a} ({str(value)[:20]})")


def reason(error: ValueError) -> str:
    """What is wrong, in one line; of a schema the first fault and its place."""
    if not isinstance(error, ValidationError):
        return " ".join(str(error).split())[:200]
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    path = ascii(".".join(map(str, first["loc"]))[:100])[1:-1]
    return f"at {path}: {first['msg']}" if path else first["msg"]
