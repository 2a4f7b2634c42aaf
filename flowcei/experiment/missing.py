"""Events of which one ion was not detected: its momentum follows from those of the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

LOST = "lost_ion"
"""Extra column of events: 0 where all ions were detected, else the number of the one that was not, from 1."""


def lost_ions(columns: Mapping[str, NDArray[Any]], ions: int) -> NDArray[np.bool_] | None:
    """Which ions (E, N) were not detected; None where all were."""
    if LOST not in columns or not (columns[LOST] > 0).any():
        return None
    return np.asarray(columns[LOST][:, None] == np.arange(1, ions + 1))


def completed(momenta: NDArray[np.float64], lost: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Momenta (E, N, 3) whose lost ions (E, N), one of an event at the most, bring the sum to 0."""
    others = np.where(lost[..., None], 0.0, momenta)
    return np.where(lost[..., None], -others.sum(axis=1, keepdims=True), others)
