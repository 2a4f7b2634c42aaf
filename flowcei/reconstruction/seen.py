"""The trained range: which measured momenta a model has seen the like of.

A network answers anything, also momenta in other units, of another molecule or from geometries that its
prior excludes. What it was trained on is remembered as the range of the KER and the ellipsoid of the other
numbers of the condition.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from flowcei.frame.interface import Condition
from flowcei.storage.card import RangeRecord

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MARGIN = 0.1  # of the range of log KER, on either side
_FARTHER = 1.5  # times the largest squared distance in training


def trained_range(condition: NDArray[np.float64]) -> RangeRecord:
    """Range of training conditions (B, C), not standardised."""
    momenta, energy, _ = Condition.split(condition)
    margin = _MARGIN * float(np.ptp(energy))
    mean: NDArray[np.float64] = momenta.mean(axis=0)
    covariance = np.cov(momenta, rowvar=False).reshape(len(mean), len(mean))
    precision = np.asarray(np.linalg.pinv(covariance, hermitian=True), dtype=np.float64)
    return RangeRecord(
        low=float(energy.min()) - margin,
        high=float(energy.max()) + margin,
        mean=mean.tolist(),
        precision=precision.tolist(),
        reach=float(_FARTHER * _distance(momenta, mean, precision).max(initial=0.0)),
    )


def outside(
    record: RangeRecord, condition: NDArray[np.float64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Of which conditions (B, C) the KER, (B,), and the other momenta, (B,), are unlike all training."""
    momenta, energy, _ = Condition.split(condition)
    ker = ~((energy >= record.low) & (energy <= record.high))
    distance = _distance(momenta, np.array(record.mean), np.array(record.precision))
    return ker, ~(distance <= record.reach)


def _distance(
    momenta: NDArray[np.float64], mean: NDArray[np.float64], precision: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Squared Mahalanobis distance, (B,)."""
    residual = momenta - mean
    return np.asarray(np.einsum("bi,ij,bj->b", residual, precision, residual))
