"""What the simulator takes of charges that build up: times and amounts of exponentials."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from flowcei.physics.build_up import LONGEST, BuildUp
from flowcei.units import FEMTOSECOND

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]
    Growth = tuple[Floats, Floats]


def growth_of(
    build_up: str | ArrayLike | BuildUp | None, count: int, masses: Floats, charges: Floats
) -> Growth | None:
    """Build-up times (B, K), in units of the molecule but for its size, and amounts (N, K) of `_growth`."""
    if build_up is None:
        return None
    n = len(masses)
    if isinstance(build_up, str | BuildUp):
        times = np.tile(BuildUp.parse(build_up).of_ions(n), (count, 1))
    else:
        given = np.asarray(build_up, np.float64)
        if given.shape not in ((), (count,), (count, n)):
            shapes = f"expected (), ({count},) or ({count}, {n})"
            raise ValueError(f"build-up times have shape {given.shape}; {shapes}")
        times = given if given.ndim == 2 else np.broadcast_to(given[..., None], (count, 1))
    wrong = ~((times >= 0.0) & (times <= LONGEST)).all(axis=1)
    if wrong.any():
        row = int(np.argmax(wrong))
        allowed = f"they must be 0 to {LONGEST:g} fs"
        raise ValueError(f"row {row} has build-up times of {times[row].tolist()} fs; {allowed}")
    if not times.any():
        return None
    unit = FEMTOSECOND * float(np.abs(charges).max() / np.sqrt(masses.sum()))
    return np.ascontiguousarray(times * unit), np.ones((n, 1)) if times.shape[1] == 1 else np.eye(n)
