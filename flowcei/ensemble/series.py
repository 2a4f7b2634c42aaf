"""Laws along a column, such as the delay between two pulses: one for each value, or ranges of them."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from flowcei.ensemble.result import EnsembleLaw
from flowcei.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowcei.ensemble.population import Population
    from flowcei.ensemble.reduction import Ensemble
    from flowcei.posterior.arrays import Bools, Floats

_VALUES = 60  # of a column that have a law each; of more, ranges with as many events
_RANGES = 20


@dataclass(frozen=True, eq=False, repr=False)
class Series(EnsembleLaw):
    """Normal laws along a column of the events, such as a delay.

    Attributes:
        by: Name of the column.
        values: Its value at each law, (V,): the mean over the events of the law.
        laws: A `Population` for each.
    """

    kind = "series"
    by: str
    values: Floats
    laws: tuple[Population, ...]
    flagged: int = 0

    def __post_init__(self) -> None:
        """Take over what all laws have in common."""
        first = self.laws[0]
        poor = sum(law.left_out["unreliable weights"] for law in self.laws)
        left = {"flagged": self.flagged, "unreliable weights": poor}
        for name, value in {
            "molecule": first.molecule,
            "events": sum(law.events for law in self.laws),
            "samples": first.samples,
            "left_out": left,
            "log_likelihood": sum(law.log_likelihood for law in self.laws),
        }.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return f"Series: {len(self.laws)} normal laws of {self.molecule.name} along {self.by}"

    def __len__(self) -> int:
        return len(self.laws)

    def __getitem__(self, k: int) -> Population:
        return self.laws[k]

    @property
    def mean(self) -> Floats:
        """Means of the laws, (V, K)."""
        return np.array([law.mean for law in self.laws])

    @property
    def deviation(self) -> Floats:
        """Widths of the laws, (V, K)."""
        return np.array([law.deviation for law in self.laws])

    def to_dataframe(self) -> pd.DataFrame:
        """Return the tables of all laws, with the value of the column before them, and the events of each."""
        tables = []
        for value, law in zip(self.values, self.laws, strict=True):
            table = law.to_dataframe()
            table.insert(0, "events", law.events)
            table.insert(0, self.by, value)
            tables.append(table)
        return pd.concat(tables, ignore_index=True)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the values of the column, means and covariances."""
        laws = [law.law for law in self.laws]
        covariance = np.array([law.covariance[0] for law in laws])
        return {
            self.by: self.values,
            "mean": np.array([law.mean[0] for law in laws]),
            "covariance": covariance,
        }

    def plot(self, kind: str = "series", unit: str = "angstrom") -> Any:  # noqa: ANN401 (matplotlib)
        """Return a figure of means and widths along the column: see `flowcei.plot.population`."""
        return import_module("flowcei.plot.population").series_figure(self, kind, unit)


def series(ensemble: Ensemble, by: str, law_of: Callable[[Ensemble], Population]) -> Series:
    """Laws along a column of an ensemble.

    Raises:
        DataError: Where events have no value of it, or a law is refused: with the value where.
    """
    column = ensemble.by
    if gaps := int((~np.isfinite(column)).sum()):
        raise DataError(f"{gaps} of {len(column)} events have no value of {by!r}: leave them out", column=by)
    values, laws = [], []
    for rows in _groups(column):
        value = float(column[rows].mean())
        try:
            laws.append(law_of(ensemble.of_events(rows)))
        except DataError as error:
            raise DataError(f"at {by} = {value:.4g}: {error}") from error
        values.append(value)
    return Series(by, np.array(values), tuple(laws), ensemble.flagged)


def _groups(column: Floats) -> list[Bools]:
    """Which events (E,) are of each value of a column, or of each of some ranges of it."""
    distinct = np.unique(column)
    if len(distinct) <= _VALUES:
        return [column == value for value in distinct]
    place = np.searchsorted(np.quantile(column, np.linspace(0.0, 1.0, _RANGES + 1)[1:-1]), column, "right")
    return [rows for k in range(_RANGES) if (rows := place == k).any()]
