"""Where data fill no volume, so that the likelihood of a flow has no upper bound."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from flowcei.check.alignment import without_total
from flowcei.check.finding import Finding, percent
from flowcei.events.extracolumns import component_names as columns
from flowcei.physics.explosion import centre_of_mass

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowcei.events.container import Events

_CONSTANT = 1e-6  # of the size of the block: zeros are often written as 1e-10
_FEWEST = 3
_MANY = 20  # events a geometry, above which geometries are a short list


def constant_columns(events: Events) -> list[Finding]:
    """Name the columns that are the same in every event."""
    if len(events) < _FEWEST:
        return []
    labels = events.molecule.labels
    out = []
    if events.positions is not None and (names := _constant(events.positions, columns(labels))):
        what = f"{_listed(names)} hardly vary from event to event"
        means = "a flow on the raw columns has no upper bound to its likelihood; its loss means nothing"
        todo = "train in the recoil frame, as flowcei does, or drop these columns"
        found = Finding("warning", "constant-columns", what, means, todo, "raw", {"columns": names})
        out.append(found)
    if names := _constant(events.momenta, columns(labels, "p")):
        what = f"{_listed(names)} hardly vary from event to event"
        means = "events were rotated, or a detector measures less than three components"
        out.append(Finding("note", "constant-momenta", what, means, values={"columns": names}))
    return out


def _listed(names: list[str]) -> str:
    return f"{'columns' if len(names) > 1 else 'column'} {', '.join(names)}"


def _constant(block: NDArray[np.float64], names: list[str]) -> list[str]:
    flat = block.reshape(len(block), -1)
    size = float(np.sqrt((block**2).mean()))
    return [
        name for name, spread in zip(names, np.ptp(flat, axis=0), strict=True) if spread <= _CONSTANT * size
    ]


def degeneracies(events: Events) -> list[Finding]:
    """Say which geometries or relations leave the positions no volume."""
    if events.positions is None or len(events) < _FEWEST:
        return []
    x = events.positions - centre_of_mass(events.positions, events.molecule.masses)
    shape = np.linalg.svd(x, compute_uv=False)
    shape /= np.maximum(shape[:, :1], np.finfo(float).tiny)
    out = []
    if len(events.molecule) > 2 and (shape[:, 1] <= _CONSTANT).all():
        out.append(_flat("collinear", "all ions of every event lie on a line"))
    elif len(events.molecule) > 3 and (shape[:, 2] <= _CONSTANT).all():
        out.append(_flat("planar", "all ions of every event lie in a plane"))
    out += _rigid(events, x)
    if not any(f.code == "few-geometries" for f in out):
        out += _in_plane_of_momenta(events, x)
    return [*out, *_linear_relations(events)]


def _flat(code: str, what: str) -> Finding:
    means = "the geometries fill no volume: the likelihood of a flow has no upper bound"
    todo = "use a prior in which the ions leave it, however little"
    return Finding("error", code, what, means, todo, "chart")


def _rigid(events: Events, x: NDArray[np.float64]) -> list[Finding]:
    """Find lengths that never change, and lists of few geometries."""
    labels = events.molecule.labels
    first, second = np.triu_indices(len(labels), 1)
    gap = np.linalg.norm(x[:, first] - x[:, second], axis=2)
    means = "the geometries fill no volume: the likelihood of a flow has no upper bound"
    size = float(np.sqrt((gap**2).mean()))
    distinct = len(pd.DataFrame(np.round(gap / (10.0 * _CONSTANT * size))).drop_duplicates())
    if distinct * _MANY <= len(events) or distinct == 1:
        what = f"there are only {distinct} different geometries in {len(events)} events"
        todo = "use a prior with a density, or displace the geometries a little"
        values = {"count": distinct}
        return [Finding("warning", "few-geometries", what, means, todo, "chart", values)]
    still = np.ptp(gap, axis=0) <= _CONSTANT * size
    if not still.any():
        return []
    names = [f"{labels[i]}-{labels[j]}" for i, j in zip(first[still], second[still], strict=True)]
    what = f"the distance {', '.join(names)} is the same in every event"
    todo = "use a prior in which it varies"
    return [Finding("error", "rigid", what, means, todo, "chart", {"distances": names})]


def _in_plane_of_momenta(events: Events, x: NDArray[np.float64]) -> list[Finding]:
    """Find three ions that lie exactly in the plane of momenta that are said to be noisy."""
    if len(events.molecule) != 3 or events.sigma is None or not (events.sigma > 0).all():
        return []
    p = without_total(events.momenta, events.molecule.masses)
    normal = np.cross(p[:, 0], p[:, 1])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), np.finfo(float).tiny)
    out_of_it = np.abs(np.einsum("bni,bi->bn", x, normal)).max(axis=1)
    share = float((out_of_it <= _CONSTANT * np.linalg.norm(x, axis=(1, 2))).mean())
    if share < 0.5:
        return []
    what = (
        f"sigma says the momenta are noisy, but in {percent(share)} of the events "
        "the positions lie exactly in their plane"
    )
    means = (
        "three coordinates in the recoil frame are 0: the likelihood of a flow has no upper bound; "
        "and the truth was turned along with the noise"
    )
    todo = "remove the column sigma and let training add the noise (--noise), or simulate the file anew"
    return [Finding("warning", "in-plane", what, means, todo, "chart")]


def _linear_relations(events: Events) -> list[Finding]:
    """Count the linear relations that the raw position columns fulfil."""
    if events.positions is None:
        return []
    flat = events.positions.reshape(len(events), -1)
    if len(flat) <= 2 * flat.shape[1]:
        return []
    size = float(np.sqrt((flat**2).mean()))
    varying = flat[:, np.ptp(flat, axis=0) > _CONSTANT * size]
    if not varying.size:
        return []
    covariance = np.cov(varying / size, rowvar=False).reshape(varying.shape[1], -1)
    # Of a covariance, whose eigenvalues are squares and rounded at 1e-16.
    count = int((np.linalg.eigvalsh(covariance) <= _CONSTANT**2).sum())
    if not count:
        return []
    centre = centre_of_mass(events.positions, events.molecule.masses)
    fixed = float(np.ptp(centre, axis=0).max()) <= _CONSTANT * size
    what = f"the position columns fulfil {count} linear relation{'s' if count > 1 else ''}"
    what += ": the centre of mass is fixed" if fixed else ""
    means = "a flow on the raw columns has no upper bound to its likelihood; one in the recoil frame has"
    return [Finding("note", "linear-relations", what, means, unbounded="raw", values={"count": count})]
