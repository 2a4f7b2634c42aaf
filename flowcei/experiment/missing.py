"""Events of which ions were not detected: of one its momentum follows from those of the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LOST = "lost_ion"
"""Extra column of events: 0 where all ions were detected, else the number of the one that was not, from 1; of
several the numbers, two digits each, as 203 for the second and the third."""
_DIGITS = 100


def lost_ions(columns: Mapping[str, NDArray[Any]], ions: int) -> NDArray[np.bool_] | None:
    """Which ions (E, N) were not detected; None where all were."""
    if LOST not in columns or not (columns[LOST] > 0).any():
        return None
    code, lost = np.maximum(columns[LOST], 0).astype(np.int64), np.zeros((len(columns[LOST]), ions), bool)
    while code.any():
        lost |= (code % _DIGITS)[:, None] == np.arange(1, ions + 1)
        code //= _DIGITS
    return lost


def lost_column(lost: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The column (E,) of ions (E, N) that were not detected."""
    code = np.zeros(len(lost), np.int64)
    for k in range(lost.shape[1]):
        code = np.where(lost[:, k], _DIGITS * code + k + 1, code)
    return code


def completed(momenta: Floats, lost: NDArray[np.bool_]) -> Floats:
    """Momenta (E, N, 3) whose lost ions (E, N) bring the sum to 0, each with the same share."""
    others = np.where(lost[..., None], 0.0, momenta)
    share = -others.sum(axis=1, keepdims=True) / np.maximum(lost.sum(axis=1), 1)[:, None, None]
    return np.where(lost[..., None], share, others)


def blanked(momenta: Floats, columns: Mapping[str, NDArray[Any]]) -> tuple[Floats, dict[str, NDArray[Any]]]:
    """Momenta (E, N, 3) as files have them, NaN for ions that were not detected, and the other columns."""
    lost = lost_ions(columns, momenta.shape[1])
    if lost is not None:
        momenta = np.where(lost[..., None], np.nan, momenta)
    return momenta, {name: values for name, values in columns.items() if name != LOST}


def unsure_motion(prior: Mapping[str, Any] | None, most: int) -> str | None:
    """What is off in samples of events that lack `most` ions at most, of atoms that move at the start.

    Measured of CH2O without its hydrogens (docs/decisions/0030); None where one ion is lost, or none.
    """
    if most < 2 or (prior or {}).get("motion") is not True:
        return None
    what = "of events that lack several ions the motion at the start is taken for normal noise of momenta"
    return f"{what}: lengths that are left open may be shifted, and up to 1.7 times too uncertain"
