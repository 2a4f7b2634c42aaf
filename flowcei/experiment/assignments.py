"""Hits that may be of other ions: which assignments there are."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flowcei.errors import UsageError

if TYPE_CHECKING:
    from flowcei.molecules.molecule import Molecule

    Groups = tuple[tuple[str, ...], ...]

_SAME_FLIGHT = 2e-3  # relative difference of mass over charge: O+ and S2+ 6e-4, CO+ and N2+ 4e-4
_MOST = 24


def parse_groups(value: object) -> Groups:
    """Groups of the labels of two and more ions, none of them in two."""
    groups: list[Any] = list(value) if isinstance(value, (list, tuple)) and value else [None]
    sound = all(
        isinstance(group, (list, tuple)) and len(group) > 1 and all(isinstance(x, str) for x in group)
        for group in groups
    )
    labels = [label for group in groups for label in group] if sound else []
    if not sound or len(set(labels)) < len(labels):
        example = 'groups of two or more ions, each ion once: [["o", "s"]]'
        raise UsageError(f"assignments is {str(value)[:60]!r}; it must be {example}")
    return tuple(tuple(group) for group in groups)


def orders_of(groups: Groups, molecule: Molecule, arrival: Sequence[float] | None) -> NDArray[np.intp]:
    """Whose hit each ion may have, (K, N): all orders within each group, the first that of the file.

    `arrival` is the field, the length and the resolution in time of a detector, atomic units.
    """
    labels, out = molecule.labels, np.arange(len(molecule))[None]
    for group in groups:
        named = f"assignments of {', '.join(group)}"
        if unknown := [label for label in group if label not in labels]:
            raise UsageError(f"assignments name {unknown[0]}; {molecule.name} has {', '.join(labels)}")
        members = np.array([labels.index(label) for label in group])
        if any(np.isin(like, members).any() for like in molecule.identical):
            raise UsageError(f"{named}: some are of like ions, which are never told apart")
        ratio = molecule.masses[members] / molecule.charges[members]
        if ratio.max() > (1.0 + _SAME_FLIGHT) * ratio.min():
            apart = f"their mass over charge differs by {ratio.max() / ratio.min() - 1.0:.2g}"
            raise UsageError(f"{named}: {apart}, so times of flight tell them apart")
        if arrival is not None:
            field, length, time = arrival
            later = float(np.ptp(np.sqrt(2.0 * ratio * length / field))) / time
            if later > 1.0:
                what = f"ions at rest arrive {later:.2g} times sigma_t apart"
                raise UsageError(f"{named}: {what}, more than hits of the same velocity may")
        several = np.array(list(permutations(members)))
        out = np.repeat(out, len(several), axis=0)
        out[:, members] = np.tile(several, (len(out) // len(several), 1))
        if len(out) > _MOST:
            raise UsageError(f"more than {_MOST} assignments: state fewer or smaller groups")
    return out
