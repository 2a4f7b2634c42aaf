"""Plug-ins: architectures and priors of other packages, which name them as entry points."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from flowcei.errors import UsageError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ARCHITECTURES = "flowcei.architectures"
"""Entry points of subclasses of `InverseModel`, by the name after ``--arch``."""

PRIORS = "flowcei.priors"
"""Entry points of functions (molecule, **parameters) -> `GeometryPrior`, by the kind of the prior."""


def plugin_names(group: str) -> tuple[str, ...]:
    """Return the names of a group, without importing anything.

    Example:
        >>> plugin_names("flowcei.no-such-group")
        ()
    """
    return tuple(sorted({point.name for point in entry_points(group=group)}))


def plugin_package(group: str, name: str) -> str | None:
    """Return the package of a plug-in with its version, or None where no package has it."""
    point = _only(group, name)
    if point is None or point.dist is None:
        return None
    return f"{point.dist.name} {point.dist.version}"


def load_plugin(group: str, name: str) -> Any:  # noqa: ANN401
    """Return what the entry point of a name stands for, or None where there is none.

    Raises:
        UsageError: Where two packages have the name, or it cannot be imported.
    """
    point = _only(group, name)
    if point is None:
        return None
    try:
        return point.load()
    except Exception as error:
        msg = f"plug-in {name!r} of {plugin_package(group, name)} cannot be imported: {error!r:.200}"
        raise UsageError(msg) from error


def _only(group: str, name: str) -> EntryPoint | None:
    points = {point.value: point for point in entry_points(group=group, name=name)}
    if len(points) > 1:
        msg = f"plug-in {name!r} is there {len(points)} times ({', '.join(sorted(points))}); uninstall one"
        raise UsageError(msg)
    return next(iter(points.values()), None)
