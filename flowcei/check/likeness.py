"""Which of a molecule's priors the geometries of events resemble."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import ks_2samp

from flowcei.check.alignment import needed_positions
from flowcei.check.finding import Finding
from flowcei.errors import FlowceiError
from flowcei.physics.priors import build_prior
from flowcei.posterior.labels import label_by_geometry, relabel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowcei.events.container import Events
    from flowcei.molecules.molecule import Molecule

_DRAWS = 4000
_FEWEST = 50
_TOLERATED = 0.03  # of a Kolmogorov-Smirnov distance, beyond what counting explains
_CRITICAL = 1.95  # the distance that chance exceeds once in a thousand times, in its units


def likeness(events: Events) -> list[Finding]:
    """Compare lengths and angles of events with those of each named prior of the molecule."""
    molecule = events.molecule
    if len(events) < _FEWEST or not molecule.priors:
        why = (
            f"{len(events)} events are too few to" if molecule.priors else f"{molecule.name} has no priors to"
        )
        what, means = f"{why} compare with priors", "say which geometries are possible when you train"
        return [Finding("note", "prior", what, means, values={"prior": None})]
    own = internal_coordinates(molecule, needed_positions(events))
    distances = {}
    for name in molecule.priors:
        try:
            drawn = build_prior(molecule, name).sample(_DRAWS, np.random.default_rng(0))
        except FlowceiError:
            continue  # a prior that cannot be built is not what the events came from
        other = internal_coordinates(molecule, drawn)
        distances[name] = max(float(ks_2samp(own[key], other[key]).statistic) for key in own)
    nearest = min(distances, key=distances.__getitem__, default="")
    limit = _TOLERATED + _CRITICAL * np.sqrt(1.0 / len(events) + 1.0 / _DRAWS)
    values = {"prior": None, "distances": distances}
    listed = ", ".join(f"{name} {d:.2f}" for name, d in distances.items())
    if not nearest or distances[nearest] > limit:
        what = (
            f"the geometries resemble none of the priors of {molecule.name} (largest KS distance: {listed})"
        )
        means = "a posterior is relative to the geometries of its training set: these, not a named prior"
        return [Finding("note", "prior", what, means, "train on the file itself: --data FILE", values=values)]
    what = f"the geometries resemble {nearest} (largest KS distance {distances[nearest]:.2f}; {listed})"
    means = f"fresh simulations with --prior {nearest} may replace or extend the file"
    return [Finding("note", "prior", what, means, values=values | {"prior": nearest})]


def internal_coordinates(
    molecule: Molecule, positions: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Return distances (bohr) and bond angles (degrees) by names such as ``o-c-s``, like ions pooled.

    Positions are (B, N, 3), bohr, identical atoms in any order; bonds are assigned by geometry.
    """
    order = label_by_geometry(molecule, np.zeros_like(positions), positions[:, None])
    positions = relabel(positions[:, None], order)[:, 0]
    kinds = [symbol.lower() for symbol, _, _ in molecule.kinds]
    pooled: dict[str, list[NDArray[np.float64]]] = {}
    for i, j in combinations(range(len(kinds)), 2):
        name = "-".join(sorted((kinds[i], kinds[j])))
        pooled.setdefault(name, []).append(np.linalg.norm(positions[:, i] - positions[:, j], axis=1))
    for i, vertex, j in molecule.angles:
        ends = sorted((kinds[i], kinds[j]))
        a, b = positions[:, i] - positions[:, vertex], positions[:, j] - positions[:, vertex]
        sine = np.linalg.norm(np.cross(a, b), axis=1)
        angle = np.degrees(np.arctan2(sine, (a * b).sum(axis=1)))
        pooled.setdefault(f"{ends[0]}-{kinds[vertex]}-{ends[1]}", []).append(angle)
    return {name: np.concatenate(values) for name, values in pooled.items()}
