"""Shares of several laws along a column, such as a delay: at each value, and smooth in it.

The shares of C pathways at the true delay t are those of logits that are splines of t; events of the nominal
delay T are of true ones about it, as in `flowcei.ensemble.smooth`. Sought are the logits under which all
events are likeliest, where each has the evidences of the laws at its own delay.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import softmax

from flowcei.ensemble.fitting import accident_weight
from flowcei.ensemble.result import LEVEL
from flowcei.ensemble.series import LawsAlong, grouped
from flowcei.ensemble.smoothing import FEWEST
from flowcei.ensemble.splines import ends_of, spline_basis, true_values
from flowcei.ensemble.uncertainty import inverted
from flowcei.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowcei.ensemble.laws import NormalLaw
    from flowcei.ensemble.mixture import Mixture
    from flowcei.ensemble.reduction import Ensemble
    from flowcei.posterior.arrays import Floats

_SPLINES = (1, 2, 3, 4, 6, 9, 13)  # of a logit, that are tried
_WIDE = 5.0  # deviation of logits before anything is known: shares of 0 and 1 stay within the numbers
_TINY = 1e-6  # share
_TOLD = 0.94  # mean probability of the likeliest law of an event: below it laws overlap


@dataclass(frozen=True, eq=False)
class SmoothShares:
    """Shares of C laws along a column, at true values.

    Attributes:
        values: At which laws were separate, (V,).
        coefficients: Of the splines of logits against the last law, (M, C - 1).
        error: Their covariance (M (C - 1), M (C - 1)).
        cross_correlation: Its deviation, in units of the column.
    """

    values: Floats
    coefficients: Floats
    error: Floats
    cross_correlation: float

    def _basis(self, t: Floats) -> Floats:
        ends = ends_of(self.values, self.cross_correlation)
        return spline_basis(t, len(self.coefficients), ends)

    def share(self, t: Floats) -> Floats:
        """Shares at true values (B,), (B, C)."""
        logits = self._basis(t) @ self.coefficients
        return np.asarray(softmax(np.pad(logits, ((0, 0), (0, 1))), axis=1))

    def slopes(self, t: Floats) -> Floats:
        """Derivatives (B, C, M (C - 1)) of the shares by the coefficients."""
        share, basis = self.share(t), self._basis(t)
        by_logit = share[:, :, None] * (np.eye(share.shape[1]) - share[:, None])[:, :, :-1]
        return np.asarray(np.einsum("bm,bcd->bcmd", basis, by_logit).reshape(*share.shape, -1))

    def seen(self, values: Floats, of: Callable[[Floats], Floats] | None = None) -> Floats:
        """Shares at nominal values (B,), (B, C), or what else `of` says of true ones."""
        nodes, weights = true_values(self.cross_correlation)
        at = zip(nodes, weights, strict=True)
        each = [weight * (of or self.share)(values + node) for node, weight in at]
        return np.asarray(np.sum(each, axis=0))

    def errors(self, t: Floats) -> Floats:
        """Standard errors of the shares at true values, (B, C)."""
        slopes = self.slopes(t)
        return np.sqrt(np.einsum("bcp,pq,bcq->bc", slopes, self.error, slopes).clip(0.0))

    def interval(self, t: Floats) -> tuple[Floats, Floats]:
        """Ends of the 90 % intervals at true values, (B, C) each."""
        share = self.share(t).clip(_TINY, 1.0 - _TINY)
        step = LEVEL * self.errors(t) / (share * (1.0 - share))
        ends = [1.0 / (1.0 + (1.0 - share) / share * np.exp(-sign * step)) for sign in (-1.0, 1.0)]
        return ends[0], ends[1]


@dataclass(frozen=True, eq=False, repr=False)
class Pathways(LawsAlong):
    """Shares of C normal laws along a column of the events.

    Attributes:
        by: Name of the column.
        values: At which the laws are separate, (V,).
        laws: A `Mixture` for each of these values.
        smooth: Shares that change smoothly, at true values; None where fewer than five values have some.
        refused: Why there are no shares, for each of the other values.
    """

    kind = "pathways"
    laws: tuple[Mixture, ...]
    smooth: SmoothShares | None = None
    refused: dict[float, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        names = ", ".join(self.names)
        return f"Pathways: shares of {names} of {self.molecule.name} at {len(self.laws)} values of {self.by}"

    @property
    def names(self) -> tuple[str, ...]:
        """Of the laws."""
        return self.laws[0].names

    @property
    def share(self) -> Floats:
        """Shares at each value, (V, C)."""
        return np.array([law.share for law in self.laws])

    @property
    def overlapping(self) -> list[float]:
        """Values at which events are hardly told apart: shares hold there if each law is normal indeed."""
        told = [float(law.probability.max(axis=1).mean()) for law in self.laws]
        return [float(value) for value, one in zip(self.values, told, strict=True) if one < _TOLD]

    def components(self) -> pd.DataFrame:
        """Return a row a value, law and coordinate: mean and width with errors."""
        return self.joined("components")

    def smooth_table(self, t: Floats | None = None) -> pd.DataFrame:
        """Return a row a true value and law: smooth share, standard error and 90 % interval."""
        if self.smooth is None:
            return pd.DataFrame()
        t = self.values if t is None else t
        share, (low, high) = self.smooth.share(t), self.smooth.interval(t)
        table = {self.by: np.repeat(t, share.shape[1]), "law": list(self.names) * len(t)}
        table |= {"share": share.ravel(), "error": self.smooth.errors(t).ravel()}
        return pd.DataFrame(table | {"p05": low.ravel(), "p95": high.ravel()})

    @property
    def misfit(self) -> float:
        """How probable shares as far from the smooth ones as those of each value are, were these true."""
        if self.smooth is None:
            return 1.0
        chances = self.apart(self.share, "error")
        return float(min(1.0, chances.min() * (len(chances) - 1)))

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the values, the shares at each, and the smooth ones."""
        arrays = {self.by: self.values, "share": self.share}
        return arrays | ({} if self.smooth is None else {"smooth/share": self.smooth.share(self.values)})

    def facts(self) -> dict[str, Any]:
        """Return the normal laws, the smooth shares, and where there are none."""
        facts: dict[str, Any] = {"components": self.components().to_dict("records")}
        refused = {f"{value:.6g}": why for value, why in self.refused.items()}
        return facts | {"smooth": self.smooth_table().to_dict("records"), "refused": refused}

    def plot(self, kind: str = "shares", unit: str = "angstrom") -> Any:  # noqa: ANN401 (matplotlib)
        """Return a figure of shares along the column: see `flowcei.plot.population`."""
        return import_module("flowcei.plot.population").pathways_figure(self, kind, unit)


def pathways(
    ensemble: Ensemble, by: str, law_of: Callable[[Ensemble, NormalLaw | None], Mixture], width: float
) -> Pathways:
    """Shares along a column of an ensemble, of laws that are sought at each value from those of the next.

    Raises:
        DataError: Where events have no value of it, or the laws are separate nowhere.
    """
    values, laws, refused = list[float](), list["Mixture"](), dict[float, str]()
    last = None
    for value, rows in reversed(grouped(ensemble, by)):  # what has parted is known best
        try:
            one = law_of(ensemble.of_events(rows), last)
        except DataError as error:
            refused[value] = str(error)
            continue
        values, laws, last = [value, *values], [one, *laws], one.law
    if not laws:
        value, why = next(iter(refused.items()))
        raise DataError(f"the laws are separate at no value of {by}; at {value:.4g}: {why}")
    at = np.array(values)
    smooth = _smooth_shares(at, laws, width) if len(at) >= FEWEST else None
    return Pathways(by, at, tuple(laws), ensemble.flagged, smooth, dict(sorted(refused.items())))


def _smooth_shares(values: Floats, laws: list[Mixture], width: float) -> SmoothShares:
    """The smooth shares of as many splines as H. Akaike's criterion asks for."""
    # Of a law that is not well known itself an event says less of the share: its likelihood counts so much.
    trust = [min(1.0, float(((one.known / one.uncertainty) ** 2).min())) for one in laws]
    free = len(laws[0].share) - 1
    tried = [
        _fitted(SmoothShares(values, np.zeros((number, free)), np.empty(0), width), laws, np.array(trust))
        for number in _SPLINES
        if number <= len(values)
    ]
    return max(tried, key=lambda one: one[1] - one[0].coefficients.size)[0]


def _fitted(law: SmoothShares, laws: list[Mixture], trust: Floats) -> tuple[SmoothShares, float]:
    """The likeliest law of the shape of another, and its log likelihood."""
    top = [one.log_ratio.max(axis=1, keepdims=True) for one in laws]
    ratio = [np.exp(one.log_ratio - height) for one, height in zip(laws, top, strict=True)]
    accident = [accident_weight(one.p_true, height[:, 0]) for one, height in zip(laws, top, strict=True)]

    def of(numbers: Floats) -> tuple[SmoothShares, float, Floats]:
        """The law, its log likelihood less a constant, and the scores of events."""
        own = replace(law, coefficients=numbers.reshape(law.coefficients.shape))
        share, slopes = own.seen(law.values), own.seen(law.values, own.slopes)
        height, scores = 0.0, []
        for v, one in enumerate(laws):
            joint = one.p_true[:, None] * ratio[v]
            total = joint @ share[v] + accident[v]
            height += float(trust[v] * np.log(np.maximum(total, 1e-300)).sum())
            scores.append(np.sqrt(trust[v]) * (joint / total[:, None]) @ slopes[v])
        return own, height, np.concatenate(scores)

    roots = np.sqrt(np.repeat(trust, [one.events for one in laws]))

    def loss(numbers: Floats) -> tuple[float, Floats]:
        _, height, scores = of(numbers)
        return 0.5 * float(numbers @ numbers) / _WIDE**2 - height, numbers / _WIDE**2 - roots @ scores

    start = np.tile(np.log(laws[-1].share[:-1] / laws[-1].share[-1]), len(law.coefficients))
    found, height, scores = of(minimize(loss, start, jac=True, method="BFGS").x)
    information = scores.T @ scores + np.eye(scores.shape[1]) / _WIDE**2
    return replace(found, error=inverted(information)), height
