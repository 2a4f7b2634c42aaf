"""What positions show without momenta: their centre, their volume, and which prior they resemble."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.stats import ks_2samp

from flowcei.check.agreement import needed_positions, stated_sigma
from flowcei.check.diagnostic import Diagnostic, percent
from flowcei.errors import FlowceiError
from flowcei.events.extracolumns import component_names
from flowcei.experiment.likelihood import centred_momenta
from flowcei.physics.explosion import centre_of_mass
from flowcei.physics.priors import build_prior
from flowcei.posterior.labels import label_by_geometry, relabel
from flowcei.posterior.spread import angle_between

if TYPE_CHECKING:
    from flowcei.check.diagnostic import Severity
    from flowcei.events.container import Events
    from flowcei.molecules.molecule import Molecule
    from flowcei.posterior.arrays import Floats

_CENTRED = 1e-6  # of the size of the molecule
_SHIFTED = 0.01  # bohr, rms: below it no model notices
_CONSTANT = 1e-6  # of the size of the block: zeros are often written as 1e-10
_FEWEST = 3  # events
_MANY = 20  # events a geometry, above which geometries are a short list
_DRAWS = 4000  # of a prior
_COMPARED = 50  # events, at least, that are compared with priors
_TOLERATED = 0.03  # of a Kolmogorov-Smirnov distance, beyond what counting explains
_CRITICAL = 1.95  # the distance that chance exceeds once in a thousand times, in its units
_NO_VOLUME = "the geometries fill no volume: the likelihood of a flow has no upper bound"


def centre(events: Events) -> Diagnostic:
    """Say where the centre of mass is."""
    x, masses = needed_positions(events), events.molecule.masses
    middle = centre_of_mass(x, masses)[:, 0]
    squares = float((middle**2).sum(axis=1).mean())
    rms, floor = float(np.sqrt(squares)), squares / 3.0
    values = {"rms": rms, "floor": floor, "mean": middle.mean(axis=0).tolist()}
    if rms <= _CENTRED * float(np.sqrt(((x - middle[:, None]) ** 2).mean())):
        message = "the centre of mass is at 0 in every event"
        means = "nothing in the positions is invisible to the momenta"
        return Diagnostic("note", "centred", message, means, values=values)
    message = f"the centre of mass lies {rms:.4g} bohr (rms) from 0"
    means = "momenta cannot see it: a model of raw coordinates cannot have a mean squared error below "
    means += f"{floor:.3g} bohr^2 per coordinate; flowcei itself trains on relative positions"
    todo = "subtract it from the positions: flowcei check FILE --repair OUT"
    severity: Severity = "warning" if rms > _SHIFTED else "note"
    return Diagnostic(severity, "centre-of-mass", message, means, todo, values=values)


def constant_columns(events: Events) -> Iterator[Diagnostic]:
    """Name the columns that are the same in every event."""
    if len(events) < _FEWEST:
        return
    for kind, block, prefix in (("columns", events.positions, ""), ("momenta", events.momenta, "p")):
        if block is None:
            continue
        constant = np.ptp(block, axis=0).ravel() <= _CONSTANT * np.sqrt((block**2).mean())
        columns = component_names(events.molecule.labels, prefix)
        names = [name for name, is_constant in zip(columns, constant, strict=True) if is_constant]
        if not names:
            continue
        message = f"column{'s' * (len(names) > 1)} {', '.join(names)} hardly vary from event to event"
        values = {"columns": names}
        if kind == "momenta":
            means = "events were rotated, or a detector measures less than three components"
            yield Diagnostic("note", "constant-momenta", message, means, values=values)
        else:
            means = "a flow on the raw columns has no upper bound to its likelihood; its loss means nothing"
            todo = "train in the recoil frame, as flowcei does, or drop these columns"
            yield Diagnostic("warning", "constant-columns", message, means, todo, "raw", values)


def degeneracies(events: Events) -> Iterator[Diagnostic]:
    """Say which geometries or relations leave the positions no volume."""
    if events.positions is None or len(events) < _FEWEST:
        return
    x = events.positions - centre_of_mass(events.positions, events.molecule.masses)
    extent = np.linalg.svd(x, compute_uv=False)
    extent /= np.maximum(extent[:, :1], np.finfo(float).tiny)
    ions, todo = len(events.molecule), "use a prior in which the ions leave it, however little"
    for code, space, rank in (("collinear", "on a line", 1), ("planar", "in a plane", 2)):
        if ions > rank + 1 and (extent[:, rank] <= _CONSTANT).all():
            message = f"all ions of every event lie {space}"
            yield Diagnostic("error", code, message, _NO_VOLUME, todo, "chart")
            break
    rigid = _rigid(events, x)
    if rigid is not None:
        yield rigid
    if rigid is None or rigid.code != "few-geometries":
        yield from _in_plane_of_momenta(events, x)
    yield from _linear_relations(events)


def _rigid(events: Events, x: Floats) -> Diagnostic | None:
    """Return lengths that never change, or that there are few geometries."""
    labels = events.molecule.labels
    first, second = np.triu_indices(len(labels), 1)
    distances = np.linalg.norm(x[:, first] - x[:, second], axis=2)
    tolerance = _CONSTANT * float(np.sqrt((distances**2).mean()))
    distinct = len(pd.DataFrame(np.round(distances / (10.0 * tolerance))).drop_duplicates())
    if distinct * _MANY <= len(events) or distinct == 1:
        message = f"there are only {distinct} different geometries in {len(events)} events"
        todo, values = "use a prior with a density, or displace the geometries a little", {"count": distinct}
        return Diagnostic("warning", "few-geometries", message, _NO_VOLUME, todo, "chart", values)
    constant = np.ptp(distances, axis=0) <= tolerance
    if not constant.any():
        return None
    names = [f"{labels[i]}-{labels[j]}" for i, j in zip(first[constant], second[constant], strict=True)]
    message = f"the distance {', '.join(names)} is the same in every event"
    todo = "use a prior in which it varies"
    return Diagnostic("error", "rigid", message, _NO_VOLUME, todo, "chart", {"distances": names})


def _in_plane_of_momenta(events: Events, x: Floats) -> Iterator[Diagnostic]:
    """Find three ions that lie exactly in the plane of momenta that are said to be noisy."""
    if len(events.molecule) != 3 or stated_sigma(events) is None:
        return
    p = centred_momenta(events.momenta, events.molecule.masses)
    normal = np.cross(p[:, 0], p[:, 1])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), np.finfo(float).tiny)
    height = np.abs(np.einsum("bni,bi->bn", x, normal)).max(axis=1)
    share = float((height <= _CONSTANT * np.linalg.norm(x, axis=(1, 2))).mean())
    if share >= 0.5:
        those = f"in {percent(share)} of the events the positions lie exactly in their plane"
        means = "three coordinates in the recoil frame are 0: the likelihood of a flow has no upper bound; "
        means += "and the truth was turned along with the noise"
        todo = "remove the column sigma and let training add the noise (--noise), or simulate the file anew"
        message = f"sigma says the momenta are noisy, but {those}"
        yield Diagnostic("warning", "in-plane", message, means, todo, "chart")


def _linear_relations(events: Events) -> Iterator[Diagnostic]:
    """Count the linear relations that the raw position columns fulfil."""
    x = needed_positions(events)
    flat, size = x.reshape(len(x), -1), float(np.sqrt((x**2).mean()))
    varying = flat[:, np.ptp(flat, axis=0) > _CONSTANT * size]
    if len(flat) <= 2 * flat.shape[1] or not varying.size:
        return
    covariance = np.atleast_2d(np.cov(varying / size, rowvar=False))
    # Of a covariance, whose eigenvalues are squares and rounded at 1e-16.
    if count := int((np.linalg.eigvalsh(covariance) <= _CONSTANT**2).sum()):
        middle = centre_of_mass(x, events.molecule.masses)
        fixed = np.ptp(middle, axis=0).max() <= _CONSTANT * size
        message = f"the position columns fulfil {count} linear relation{'s' if count > 1 else ''}"
        message += ": the centre of mass is fixed" if fixed else ""
        means = "a flow on the raw columns has no upper bound to its likelihood; one in the recoil frame has"
        yield Diagnostic("note", "linear-relations", message, means, unbounded="raw", values={"count": count})


def likeness(events: Events) -> Diagnostic:
    """Compare lengths and angles of events with those of each named prior of the molecule."""
    molecule = events.molecule
    if len(events) < _COMPARED or not molecule.priors:
        few, none = f"{len(events)} events are too few to", f"{molecule.name} has no priors to"
        message = f"{few if molecule.priors else none} compare with priors"
        means = "say which geometries are possible when you train"
        return Diagnostic("note", "prior", message, means, values={"prior": None})
    own = internal_coordinates(molecule, needed_positions(events))
    distances = {}
    for name in molecule.priors:
        try:
            drawn = build_prior(molecule, name).sample(_DRAWS, np.random.default_rng(0))
        except FlowceiError:
            continue  # a prior that cannot be built is not what the events came from
        other = internal_coordinates(molecule, drawn)
        # The distance alone is asked for: an exact p-value would take a hundred times as long.
        distances[name] = max(float(ks_2samp(own[key], other[key], method="asymp").statistic) for key in own)
    nearest = min(distances, key=distances.__getitem__, default="")
    limit = _TOLERATED + _CRITICAL * np.sqrt(1.0 / len(events) + 1.0 / _DRAWS)
    values = {"prior": None, "distances": distances}
    listed = ", ".join(f"{name} {d:.2f}" for name, d in distances.items())
    if not nearest or distances[nearest] > limit:
        message = f"the geometries resemble none of the priors of {molecule.name} "
        message += f"(largest KS distance: {listed})"
        means = "a posterior is relative to the geometries of its training set: these, not a named prior"
        todo = "train on the file itself: --data FILE"
        return Diagnostic("note", "prior", message, means, todo, values=values)
    message = f"the geometries resemble {nearest} (largest KS distance {distances[nearest]:.2f}; {listed})"
    means = f"fresh simulations with --prior {nearest} may replace or extend the file"
    return Diagnostic("note", "prior", message, means, values=values | {"prior": nearest})


def internal_coordinates(molecule: Molecule, positions: Floats) -> dict[str, Floats]:
    """Return distances (bohr) and bond angles (degrees) by names such as ``o-c-s``, like ions pooled.

    Positions are (B, N, 3), bohr, identical atoms in any order; bonds are assigned by geometry.
    """
    order = label_by_geometry(molecule, np.zeros_like(positions), positions[:, None])
    positions = relabel(positions[:, None], order)[:, 0]
    kinds = [symbol.lower() for symbol, _, _ in molecule.kinds]
    pooled: dict[str, list[Floats]] = {}
    for i, j in combinations(range(len(kinds)), 2):
        name = "-".join(sorted((kinds[i], kinds[j])))
        pooled.setdefault(name, []).append(np.linalg.norm(positions[:, i] - positions[:, j], axis=1))
    for i, vertex, j in molecule.angles:
        ends = sorted((kinds[i], kinds[j]))
        a, b = positions[:, i] - positions[:, vertex], positions[:, j] - positions[:, vertex]
        angle = angle_between(a, b)
        pooled.setdefault(f"{ends[0]}-{kinds[vertex]}-{ends[1]}", []).append(angle)
    return {name: np.concatenate(values) for name, values in pooled.items()}
