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
    """Names of a group, without importing anything."""
    return tuple(sorted({point.name for point in entry_points(group=group)}))


def plugin_package(group: str, name: str) -> str | None:
    """The package of a plug-in with its version, or None where no package has it."""
    point = _entry_point(group, name)
    return None if point is None or point.dist is None else f"{point.dist.name} {point.dist.version}"


def load_plugin(group: str, name: str) -> Any:  # noqa: ANN401
    """What the entry point of a name stands for, or None where there is none."""
    point = _entry_point(group, name)
    if point is None:
        return None
    try:
        return point.load()
    except Exception as error:
        msg = f"plug-in {name!r} of {plugin_package(group, name)} cannot be imported: {error!r:.200}"
        raise UsageError(msg) from error


def _entry_point(group: str, name: str) -> EntryPoint | None:
    points = {point.value: point for point in entry_points(group=group, name=name)}
    if len(points) > 1:
        msg = f"plug-in {name!r} is there {len(points)} times ({', '.join(sorted(points))}); uninstall one"
        raise UsageError(msg)
    return next(iter(points.values()), None)
