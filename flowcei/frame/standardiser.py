"""Zero mean and unit deviation for the numbers a network sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flowcei.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowcei.physics.forward import Floats, Reals

_CONSTANT = 1e-5  # of the largest: less is rounding, of single precision or of a text file


@dataclass(eq=False)
class Standardiser:
    """An affine map of each of W columns, of training data only."""

    mean: Floats  # (W,)
    scale: Floats  # (W,)

    @classmethod
    def of(cls, rows: Floats) -> Standardiser:
        """Take mean and deviation from rows (B, W); a constant column keeps scale 1."""
        deviation = rows.std(axis=0, ddof=1)
        constant = deviation <= _CONSTANT * max(np.abs(rows).max(), 1e-300)
        return cls(rows.mean(axis=0), np.where(constant, 1.0, deviation))

    def __call__(self, rows: Floats) -> NDArray[np.float32]:
        """Return standardised rows (..., W), in single precision; infinite beyond what that holds."""
        with np.errstate(all="ignore"):
            return ((rows - self.mean) / self.scale).astype(np.float32)

    def inverse(self, rows: Reals) -> Floats:
        """Return rows (..., W) in their own units."""
        out: Floats = np.multiply(rows, self.scale, dtype=np.float64)
        out += self.mean
        return out

    def log_scale(self) -> float:
        """Return log|d rows / d standardised rows|."""
        return float(np.log(self.scale).sum())


def check_varying(rows: Floats, names: Sequence[str]) -> None:
    """DataError for a constant column of rows (B, W), by name: a flow's likelihood would be unbounded."""
    deviation = rows.std(axis=0)
    constant = deviation <= _CONSTANT * deviation.max()
    if constant.any() or not np.isfinite(deviation).all():
        raise DataError(
            f"model coordinate {names[int(constant.argmax())]} is the same in all training events, "
            "so its density is unbounded; train with --noise above 0, or on data that vary there"
        )
