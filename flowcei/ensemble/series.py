"""Laws along a column, such as the delay between two pulses: one for each value, or ranges of them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.special import chdtrc

from flowcei.ensemble.fitting import Weighted, drawn
from flowcei.ensemble.result import EnsembleLaw, added
from flowcei.ensemble.smoothing import FEWEST, smooth_law
from flowcei.errors import DataError, UsageError
from flowcei.units import FWHM

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowcei.ensemble.laws import NormalLaw
    from flowcei.ensemble.population import Population
    from flowcei.ensemble.reduction import Ensemble
    from flowcei.ensemble.smooth import SmoothLaw
    from flowcei.posterior.arrays import Bools, Floats

_VALUES = 60  # of a column that have a law each; of more, ranges with as many events
_RANGES = 20
_COPIES = 16  # samples of an event by which a smooth law is sought


@dataclass(frozen=True, eq=False, repr=False)
class LawsAlong(EnsembleLaw):
    """Laws along a column of the events: at each of some values, and a smooth one where it can be found."""

    by: str
    values: Floats
    laws: tuple[Any, ...]
    flagged: int = 0
    smooth: Any = None

    def __post_init__(self) -> None:
        """Take over what all laws have in common."""
        for name, value in added(self.laws, self.flagged).items():
            object.__setattr__(self, name, value)

    def to_dataframe(self) -> pd.DataFrame:
        """Return the tables of all laws, with the value of the column before them, and the events of each."""
        return self.joined("to_dataframe")

    def joined(self, method: str) -> pd.DataFrame:
        """The tables that a method of each law returns, likewise."""
        tables = []
        for value, law in zip(self.values, self.laws, strict=True):
            table = getattr(law, method)()
            table.insert(0, "events", law.events)
            table.insert(0, self.by, value)
            tables.append(table)
        return pd.concat(tables, ignore_index=True)

    def apart(self, numbers: Floats, error: str) -> Floats:
        """Chances (K,) of numbers (V, K) of the laws, with errors of a column, under the smooth law."""
        errors = np.array([law.to_dataframe()[error] for law in self.laws])
        square = (((numbers - self.smooth.seen(self.values)) / errors) ** 2).sum(axis=0)
        return np.asarray(chdtrc(max(len(self.values) - len(self.smooth.coefficients), 1), square))


@dataclass(frozen=True, eq=False, repr=False)
class Series(LawsAlong):
    """Normal laws along a column of the events, such as a delay.

    Attributes:
        by: Name of the column.
        values: Its value at each law, (V,): the mean over the events of the law.
        laws: A `Population` for each.
        smooth: One law of all events that changes smoothly along the column, at true delays; None where it
            is `refused`, which says why.
    """

    kind = "series"
    laws: tuple[Population, ...]
    smooth: SmoothLaw | None = None
    refused: str = ""

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

    def smooth_table(self) -> pd.DataFrame:
        """Return the table of the smooth law at true values; none where there is no such law."""
        return pd.DataFrame() if self.smooth is None else self.smooth.to_dataframe(self.by)

    @property
    def misfit(self) -> float:
        """How probable means as far from the smooth law as those of the laws at each value are, were it true.

        Of the coordinate where it is least, times their number; 1 where there is no smooth law.
        """
        if self.smooth is None:
            return 1.0
        chances = self.apart(self.mean, "mean_error")
        return float(min(1.0, chances.min() * len(chances)))

    def gif(self, unit: str = "angstrom", frames: int = 30) -> bytes:
        """Return an animated picture of the smooth law: see `flowcei.plot.movie`."""
        return bytes(import_module("flowcei.plot.movie").movie_gif(self, unit, frames))

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the values of the column, means and covariances."""
        laws = [law.law for law in self.laws]
        covariance = np.array([law.covariance[0] for law in laws])
        arrays = {self.by: self.values, "covariance": covariance}
        arrays["mean"] = np.array([law.mean[0] for law in laws])
        if self.smooth is not None:
            arrays |= {"smooth/mean": self.smooth.mean(self.values)}
            arrays |= {"smooth/deviation": self.smooth.deviation(self.values)}
        return arrays

    def facts(self) -> dict[str, Any]:
        """Return the smooth law, or why there is none."""
        if self.smooth is None:
            return {"smooth": None, "refused": self.refused}
        return {"smooth": self.smooth_table().to_dict("records"), "misfit": self.misfit}

    def plot(self, kind: str = "series", unit: str = "angstrom") -> Any:  # noqa: ANN401 (matplotlib)
        """Return a figure of means and widths along the column: see `flowcei.plot.population`."""
        return import_module("flowcei.plot.population").series_figure(self, kind, unit)


def series(
    ensemble: Ensemble, by: str, law_of: Callable[[Ensemble], Population], width: float, seed: int
) -> Series:
    """Laws along a column of an ensemble, and the smooth one with the deviation of a cross-correlation.

    Raises:
        DataError: Where events have no value of it, or a law is refused: with the value where.
    """
    groups = grouped(ensemble, by)
    values, laws = np.array([value for value, _ in groups]), []
    for value, rows in groups:
        try:
            laws.append(law_of(ensemble.of_events(rows)))
        except DataError as error:
            raise DataError(f"at {by} = {value:.4g}: {error}") from error
    smooth, refused = None, ""
    if laws[0].chance is not None:
        refused = "its events passed a gate on the KER"
    elif len(values) < FEWEST:
        refused = f"{len(values)} values are too few: {FEWEST} are needed"
    else:
        try:
            own = [rows for _, rows in groups], values, [law.law for law in laws]
            smooth = _smooth(ensemble, *own, width, seed)
        except DataError as error:
            refused = str(error)
    return Series(by, values, tuple(laws), ensemble.flagged, smooth, refused)


def _smooth(
    ensemble: Ensemble, groups: list[Bools], values: Floats, laws: list[NormalLaw], width: float, seed: int
) -> SmoothLaw:
    """The smooth law of the events of some groups, each with its law."""
    rng, order = np.random.default_rng(seed), np.concatenate([np.flatnonzero(rows) for rows in groups])
    full = ensemble.of_events(order)
    each = [
        drawn(law, ensemble.of_events(rows).weighted, rng, _COPIES)
        for rows, law in zip(groups, laws, strict=True)
    ]
    named = {
        one.name: np.concatenate([getattr(short, one.name) for short in each]) for one in fields(Weighted)
    }
    how = ensemble.chart, Weighted(**named), full.weighted, full.by, ensemble.distinct, width
    return smooth_law(values, laws, *how)


def deviation_of(cross_correlation: float, by: str | None) -> float:
    """Deviation of a cross-correlation, of its full width in units of a column; UsageError."""
    if not 0.0 <= cross_correlation < np.inf or (cross_correlation and by is None):
        raise UsageError("a cross-correlation is a width, 0 or more, in units of the column that by names")
    return cross_correlation / FWHM


def grouped(ensemble: Ensemble, by: str) -> list[tuple[float, Bools]]:
    """Values of a column, and which events (E,) are of each; of very many values those of ranges of it.

    Raises:
        DataError: Where events have no value of it.
    """
    column = ensemble.by
    if len(gaps := ensemble.event_id[~np.isfinite(column)]):
        which = f"{len(gaps)} of {len(column)} events have no value (the first is event {gaps[0]})"
        raise DataError(f"{which}: leave them out of the file of momenta, and sample again", column=by)
    distinct = np.unique(column)
    if len(distinct) <= _VALUES:
        return [(float(value), column == value) for value in distinct]
    place = np.searchsorted(np.quantile(column, np.linspace(0.0, 1.0, _RANGES + 1)[1:-1]), column, "right")
    groups = [rows for k in range(_RANGES) if (rows := place == k).any()]
    return [(float(column[rows].mean()), rows) for rows in groups]
