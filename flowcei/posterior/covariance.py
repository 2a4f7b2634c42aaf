"""How bonds and angles vary together within an event: covariance, correlation, principal axes.

Momenta fix some combinations of bonds much better than each bond alone: of OCS at 1 % noise the
correlation of the two lengths is -0.87, and their sum is known four times better than either.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowcei.posterior.spread import Quantity, Spread

_NAMED = 0.3  # correlation from which on a pair is worth a line
_LINES = 3
_PART = 0.1  # of a direction: a bond with a smaller part in it is not named


def correlated(covariance: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return standard deviations (..., Q) and correlations (..., Q, Q) of covariances (..., Q, Q).

    NaN where the covariance is not finite, and the correlation of what does not vary.

    Example:
        >>> deviation, correlation = correlated(np.array([[4.0, -3.0], [-3.0, 9.0]]))
        >>> deviation.tolist(), correlation[0].tolist()
        ([2.0, 3.0], [1.0, -0.5])
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        deviation = np.sqrt(np.diagonal(covariance, axis1=-2, axis2=-1))
        correlation = covariance / (deviation[..., :, None] * deviation[..., None, :])
    finite = np.isfinite(deviation)
    return np.where(finite, deviation, np.nan), np.where(np.isfinite(correlation), correlation, np.nan)


@dataclass(frozen=True, eq=False)
class Covariation:
    """How the bonds and angles of each event vary together.

    Attributes:
        names: The K bonds and angles.
        covariance: Of the samples of each event, (E, K, K), in the units of the quantities.
        ids: The number of each event, (E,).
    """

    names: list[Quantity]
    covariance: NDArray[np.float64]
    ids: NDArray[np.int64]

    @classmethod
    def of(cls, spread: Spread) -> Covariation:
        """Compute the covariance of the samples of each event, divided by their number.

        Example:
            >>> import flowcei
            >>> s = flowcei.load().sample(flowcei.simulate("ocs", 2, noise="1%", seed=1), 50, seed=1)
            >>> Covariation.of(s.spread()).covariance.shape
            (2, 3, 3)
        """
        chosen = [k for k, q in enumerate(spread.names) if q.kind != "atom"]
        values = spread.values[:, :, chosen]
        values = values - values.mean(axis=1, keepdims=True)
        covariance = np.einsum("enk,enl->ekl", values, values) / values.shape[1]
        return cls([spread.names[k] for k in chosen], covariance, spread.ids)

    @property
    def bonds(self) -> list[int]:
        """Which of the quantities are bonds."""
        return [k for k, q in enumerate(self.names) if q.kind == "bond"]

    def table(self) -> pd.DataFrame:
        """Return a row per event and pair of quantities: covariance, its unit, and correlation."""
        pairs = list(combinations(range(len(self.names)), 2))
        first, second = (np.array([pair[k] for pair in pairs], dtype=np.intp) for k in (0, 1))
        names = np.array([q.name for q in self.names], dtype=object)
        units = np.array([f"{self.names[i].unit}*{self.names[j].unit}" for i, j in pairs], dtype=object)
        correlation = correlated(self.covariance)[1]
        events = len(self.ids)
        return pd.DataFrame(
            {
                "event": np.repeat(self.ids, len(pairs)),
                "quantity": np.tile(names[first], events),
                "with": np.tile(names[second], events),
                "unit": np.tile(units, events),
                "covariance": self.covariance[:, first, second].reshape(-1),
                "correlation": correlation[:, first, second].reshape(-1),
            }
        )

    def typical_correlation(self) -> NDArray[np.float64]:
        """Return the median over events of each correlation, (K, K); NaN where no event varies."""
        correlation = correlated(self.covariance)[1]
        some = correlation[np.isfinite(correlation).all(axis=(1, 2))]
        size = len(self.names)
        return np.median(some, axis=0) if len(some) else np.full((size, size), np.nan)

    def principal_axes(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the principal axes of the bonds: deviations (B,), bohr, rising, and directions (B, B).

        Medians over events of the deviations within an event; row k is the direction that axis k
        has in most of the events.
        """
        block = self.covariance[:, self.bonds][:, :, self.bonds]
        block = block[np.isfinite(block).all(axis=(1, 2))]
        values, vectors = np.linalg.eigh(block)
        deviation = np.median(np.sqrt(values.clip(0.0)), axis=0)
        # A direction has no sign: the mean of its projectors, not of its vectors.
        projector = np.einsum("eik,ejk->kij", vectors, vectors)
        direction = np.linalg.eigh(projector)[1][:, :, -1]
        return deviation, direction * np.sign(direction.sum(axis=1, keepdims=True) + 1e-12)

    def in_words(self) -> list[str]:
        """Return lines on what varies together within one event; none where nothing does."""
        typical = self.typical_correlation()
        pairs = [pair for pair in combinations(range(len(typical)), 2) if abs(typical[pair]) > _NAMED]
        pairs.sort(key=lambda pair: -abs(typical[pair]))
        lines = [
            f"correlation of {self.names[i].name} and {self.names[j].name}: {typical[i, j]:.2f}"
            for i, j in pairs[:_LINES]
        ]
        if len(self.bonds) > 1 and np.isfinite(typical).all():
            deviation, direction = self.principal_axes()
            axes = (f"{deviation[k]:.2g} bohr along {self._named(direction[k])}" for k in (0, -1))
            lines.append(f"principal axes of the bonds: {' and '.join(axes)}")
        return lines

    def _named(self, direction: NDArray[np.float64]) -> str:
        parts = [
            f"{x:+.2f} {self.names[k].name}"
            for x, k in zip(direction, self.bonds, strict=True)
            if abs(x) > _PART
        ]
        return " ".join(parts).removeprefix("+")
