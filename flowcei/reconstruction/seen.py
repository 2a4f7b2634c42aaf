"""The trained range: which measured momenta a model has seen the like of.

A network answers anything, also momenta in other units, of another molecule or from
geometries that its prior excludes. What it was trained on is remembered as the range of
the KER and the ellipsoid of the other numbers of the condition.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from flowcei.frame.interface import Condition
from flowcei.storage.card import RangeRecord

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MARGIN = 0.1  # of the range of log KER, on either side
_FARTHER = 1.5  # times the largest squared distance in training


@dataclass(frozen=True, eq=False)
class TrainedRange:
    """What conditions of training events were like: see `flowcei.frame.interface.Condition`.

    Attributes:
        low: Of log KER (hartree), with a margin.
        high: Of log KER, with a margin.
        mean: Of the other numbers, (K,): momenta over sqrt(KER) in the recoil frame.
        precision: The inverse of their covariance, (K, K).
        reach: The squared distance that no training event came near to.
    """

    low: float
    high: float
    mean: NDArray[np.float64]
    precision: NDArray[np.float64]
    reach: float

    @classmethod
    def of(cls, condition: NDArray[np.float64]) -> TrainedRange:
        """Remember training conditions (B, C), not standardised.

        Example:
            >>> seen = TrainedRange.of(np.random.default_rng(1).normal(size=(1000, 5)))
            >>> far = seen.outside(np.array([[0.0, 0, 0, 0, 0], [0, 0, 0, 9, 0], [9, 0, 0, 0, 0]]))
            >>> [kind.tolist() for kind in far]
            [[False, True, False], [False, False, True]]
        """
        known, energy, _ = Condition.split(condition)
        margin = _MARGIN * float(np.ptp(energy))
        mean: NDArray[np.float64] = known.mean(axis=0)
        covariance = np.cov(known, rowvar=False).reshape(known.shape[1], known.shape[1])
        precision = np.asarray(np.linalg.pinv(covariance, hermitian=True), dtype=np.float64)
        reach = _FARTHER * _distance(known, mean, precision).max(initial=0.0)
        return cls(float(energy.min()) - margin, float(energy.max()) + margin, mean, precision, float(reach))

    def outside(self, condition: NDArray[np.float64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Tell of which conditions (B, C) the KER (B,), the other momenta (B,) are unlike all training."""
        momenta, energy, _ = Condition.split(condition)
        ker = ~((energy >= self.low) & (energy <= self.high))
        far = ~(_distance(momenta, self.mean, self.precision) <= self.reach)
        return ker, far

    def to_record(self) -> RangeRecord:
        """As the description of a model has it."""
        return RangeRecord(
            **{field.name: np.asarray(getattr(self, field.name)).tolist() for field in fields(self)}
        )

    @classmethod
    def of_record(cls, record: RangeRecord) -> TrainedRange:
        """From the description of a model."""
        return cls(record.low, record.high, np.array(record.mean), np.array(record.precision), record.reach)


def _distance(
    known: NDArray[np.float64], mean: NDArray[np.float64], precision: NDArray[np.float64]
) -> NDArray[np.float64]:
    away = known - mean
    return np.asarray(np.einsum("bi,ij,bj->b", away, precision, away))
