"""Descriptions of models in older formats, brought to the newest one step at a time.

A format is a contract with files that people have. What changes it raises `FORMAT_VERSION`
and adds a function here; the old ones stay, and so do the files of `tests/data/models-v*`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowcei.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

FORMAT_VERSION = 2
"""Of the files written here; older ones are migrated, newer ones refused."""


def _from_1(table: dict[str, Any]) -> dict[str, Any]:
    """No checksum; versions and events per epoch stood loose in `training`."""
    training = table.get("training")
    if isinstance(training, dict):
        training = dict(training)
        versions = {name: training.pop(name) for name in ("flowcei", "torch") if name in training}
        if versions:
            training["versions"] = versions
        if "events_per_epoch" in training:
            training["simulation"] = {"events_per_epoch": training.pop("events_per_epoch")}
    return {"checksum": None} | table | {"training": training}


MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1}
"""Version -> what turns a description of it into one of the next."""


def migrated(table: object) -> dict[str, Any]:
    """Return a description in the newest format.

    Args:
        table: As it stood in a file; it may be anything.

    Raises:
        DataError: For a description without a version, or with one of the future.

    Example:
        >>> migrated({"format_version": 1, "training": {"torch": "2.13"}})["training"]
        {'versions': {'torch': '2.13'}}
    """
    found = table.get("format_version") if isinstance(table, dict) else None
    if not isinstance(table, dict) or type(found) is not int or found < 1:
        raise DataError(f"its description has format_version {ascii(found)[:40]}")
    if found > FORMAT_VERSION:
        raise DataError(f"written by a newer flowcei (format {found}, known {FORMAT_VERSION}): upgrade")
    for version in range(found, FORMAT_VERSION):
        table = MIGRATIONS[version](table) | {"format_version": version + 1}
    return table
