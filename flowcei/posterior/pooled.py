"""What the spread of all events of a file comes to, block by block: sums, and a few numbers of each event."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from flowcei.experiment.accidents import P_TRUE, counted_as_true
from flowcei.posterior._samples import count_bins
from flowcei.posterior.arrays import Bools, Floats
from flowcei.posterior.spread import PERCENTILES, covariance_in_words, overall_table, true_weights, weighed

if TYPE_CHECKING:
    import pandas as pd

    from flowcei.posterior.samples import PosteriorSamples
    from flowcei.posterior.spread import Quantity, Spread

_BINS = 2**16  # on either side of zero
_MOST = 20_000  # events whose covariances and floors are asked for, evenly over the file


class Percentiles:
    """Percentiles of values that come block by block, to 2^-16 of the largest, whatever the blocks."""

    def __init__(self) -> None:
        self._counts, self._exponent, self._empty = np.zeros(2 * _BINS), -1000, True
        self._low, self._high = math.inf, -math.inf

    def add(self, values: Floats, extremes: Floats, weights: Floats | None = None) -> None:
        """Count values (E, n) between extremes (2,), those of an event with its weight (E,)."""
        low, high = map(float, extremes)
        # Not Python's, which pass over NaN.
        self._low, self._high = float(np.minimum(self._low, low)), float(np.maximum(self._high, high))
        if not math.isfinite(low + high):
            return
        needed = math.frexp(max(abs(low), abs(high)))[1]  # the largest is below this power of two
        if self._exponent + 2 * _BINS < needed or self._empty:
            self._exponent, self._empty = max(self._exponent, needed), False
        while self._exponent < needed:  # two bins become one
            pairs = self._counts.reshape(-1, 2).sum(axis=1)
            self._counts = np.pad(pairs, _BINS // 2)
            self._exponent += 1
        each = np.ones(len(values)) if weights is None else weights
        count_bins(values, each, _BINS / 2.0**self._exponent, self._counts)

    def of(self, levels: tuple[int, ...]) -> Floats:
        """Percentiles (L,) at levels (L,), linear within a bin; NaN where values were not finite."""
        if not math.isfinite(self._low + self._high):
            return np.full(len(levels), np.nan)
        total = np.cumsum(self._counts)
        wanted = np.array(levels) / 100.0 * total[-1]
        place = np.searchsorted(total, wanted)
        share = (wanted - total[place] + self._counts[place]) / self._counts[place]
        values = (place - _BINS + share) * (2.0**self._exponent / _BINS)
        return np.asarray(values.clip(self._low, self._high))


class PooledSpread:
    """The spread of E events, block by block."""

    def __init__(self, events: int) -> None:
        self._every = -(-events // _MOST)
        self._seen = 0
        self._rows: dict[Quantity, Percentiles] = {}
        self.first: Spread  # the first block's
        self._sums = np.zeros((0, 3))
        self._shift: Floats = np.zeros(0)
        self._deviation, self._covariance, self._true = list[Floats](), list[Floats](), list[Floats]()
        self._width, self._floor = list[Floats](), list[Floats]()

    def add(self, block: Spread, samples: PosteriorSamples) -> None:
        """Take in the spread of the next events, and what their momenta alone fix each atom to.

        ValueError for positions in another frame than those before: means of both would be of neither.
        """
        if self._rows and block.frame.axes != self.first.frame.axes:
            raise ValueError(f"positions are in another frame: x along {block.along}, not {self.first.along}")
        rows, weights = block.rows(), true_weights(block.columns)
        mean, deviation = block.statistics["mean"], block.statistics["sd"]  # (R, E)
        if not self._rows:
            self.first = block
            self._rows = {quantity: Percentiles() for quantity in rows}
            self._shift, self._sums = mean[:, 0].copy(), np.zeros((3, len(rows)))
        for percentiles, values, ends in zip(self._rows.values(), rows.values(), block.extremes, strict=True):
            percentiles.add(values, ends, weights)
        share = np.ones(len(block.values)) if weights is None else weights
        away = mean - self._shift[:, None]
        self._sums += share.sum() * np.ones(len(rows)), away @ share, (deviation**2 + away**2) @ share
        self._deviation.append(deviation.T)
        if weights is not None:
            self._true.append(block.columns[P_TRUE])
        chosen = slice(-self._seen % self._every, None, self._every)
        self._seen += len(block.values)
        if range(len(block.values))[chosen]:  # of a short block there may be none
            self._covariance.append(block.covariance(chosen))
            self._width.append(np.sqrt((block.per_atom()[chosen] ** 2).mean(axis=1)))
            self._floor.append(np.sqrt((samples[chosen].floor() ** 2).mean(axis=1)))

    def overall(self) -> pd.DataFrame:
        """As `Spread.overall`, percentiles to 2^-16 of the largest value."""
        columns, deviation = self._columns(), np.concatenate(self._deviation)
        weights, (count, total, square) = true_weights(columns), self._sums
        mean = total / count
        table = {"mean": self._shift + mean, "sd": np.sqrt((square / count - mean**2).clip(0.0))}
        levels = np.stack([percentiles.of(PERCENTILES) for percentiles in self._rows.values()], axis=1)
        table |= {f"p{p:02d}": row for p, row in zip(PERCENTILES, levels, strict=True)}
        typical = [weighed(one[:, None], weights)["p50"][0] for one in deviation.T]
        return overall_table(list(self._rows), table, typical)

    def _columns(self) -> dict[str, Floats]:
        return {P_TRUE: np.concatenate(self._true)} if self._true else {}

    def widths(self) -> tuple[Floats, Floats]:
        """Rms distance from the mean, and what the momenta fix it to, bohr, of some true events (K,)."""
        counted = self._counted()
        return np.concatenate(self._width)[counted], np.concatenate(self._floor)[counted]

    def covariance_in_words(self, unit: str = "bohr") -> list[str]:
        """As of `Spread`, of some events."""
        covariance = np.concatenate(self._covariance)[self._counted()]
        return covariance_in_words(self.first.molecule, self.first.names, covariance, unit)

    def _counted(self) -> Bools:
        """Which of the events whose covariances are held count as true, (K,)."""
        counted = np.zeros(self._seen, dtype=bool)
        counted[counted_as_true(self._columns(), self._seen)] = True
        return counted[:: self._every]
