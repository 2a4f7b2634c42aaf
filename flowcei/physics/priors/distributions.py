"""One-dimensional distributions of lengths and angles, as a molecule's TOML names them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import log_ndtr

from flowcei.errors import UsageError

if TYPE_CHECKING:
    from flowcei.physics.priors.orders import Floats

_COUNTS = {"normal": 2, "uniform": 2, "truncated_normal": 4, "bend": 1}
_LEAST_SHARE = 1e-6  # of a normal distribution within its limits: beyond it rounding is all that is left


@dataclass(frozen=True)
class Distribution:
    """A normalised density on [low, high], in the units of its table."""

    form: str  # uniform, normal (cut at the ends) or bend
    low: float
    high: float
    mean: float = 0.0  # of the normal before it is cut
    deviation: float = 1.0  # of the normal before it is cut, or of each of the two directions of a bend

    @property
    def _ends(self) -> Floats:
        """Shares of the uncut normal below the two ends, (2,)."""
        return np.exp(log_ndtr((np.array([self.low, self.high]) - self.mean) / self.deviation))

    @property
    def share(self) -> float:
        """Share of the uncut distribution between the ends."""
        if self.form == "bend":
            return float(-np.expm1(-0.5 * (self.high / self.deviation) ** 2))
        return float(self._ends[1] - self._ends[0])

    @property
    def law(self) -> tuple[float, ...]:
        """The numbers from which `_placing.place` draws values, by inverting the distribution function."""
        from flowcei.physics._placing import BEND, NORMAL, UNIFORM  # numba takes half a second

        form = {"uniform": UNIFORM, "normal": NORMAL, "bend": BEND}[self.form]
        return form, self.low, self.high, self.mean, self.deviation, float(self._ends[0]), self.share

    def log_prob(self, value: Floats) -> Floats:
        """Log density at values, -inf outside the support."""
        with np.errstate(divide="ignore", invalid="ignore"):  # outside the support
            if self.form == "uniform":
                inside = np.full_like(value, -np.log(self.high - self.low))
            elif self.form == "bend":
                bend = (self.high - value) / self.deviation
                inside = np.log(bend / self.deviation / self.share) - 0.5 * bend**2
            else:
                u = (value - self.mean) / self.deviation
                inside = -0.5 * u**2 - np.log(np.sqrt(2.0 * np.pi) * self.deviation * self.share)
        return np.where((value >= self.low) & (value <= self.high), inside, -np.inf)


def distribution(table: dict[str, Any], limits: tuple[float, float]) -> Distribution:
    """The distribution of a table such as ``{"normal": [2.19, 0.15]}``, within limits; UsageError for none.

    ``normal = [mean, deviation]``, cut at the limits, ``uniform = [low, high]``, ``truncated_normal =
    [mean, deviation, low, high]`` or ``bend = deviation``: the bend of a linear chain, a two-dimensional
    normal, so that 180 degrees minus the angle is Rayleigh distributed.
    """
    if len(table) != 1 or next(iter(table)) not in _COUNTS:
        raise UsageError(f"a distribution is one of {', '.join(_COUNTS)}; got {table}")
    return _made(*next(iter(table.items())), limits)


def _made(form: str, raw: Any, limits: tuple[float, float]) -> Distribution:  # noqa: ANN401 (of a file)
    """The distribution of a form and its numbers."""
    p = [float(v) for v in (raw if isinstance(raw, list | tuple) else [raw])]
    if len(p) != _COUNTS[form] or not np.isfinite(p).all():
        raise UsageError(f"{form} takes {_COUNTS[form]} finite number(s); got {raw}")
    if form == "bend":
        if p[0] <= 0 or limits != (0.0, 180.0):
            rule = "one positive deviation in degrees from a straight angle, for angles only"
            raise UsageError(f"bend = {p}: {rule}")
        return Distribution(form, *limits, deviation=p[0])
    low, high = p if form == "uniform" else p[2:] or limits
    if not limits[0] <= low < high <= limits[1]:
        raise UsageError(f"{form} = {p}: low and high must rise and lie within {list(limits)}")
    if form == "uniform":
        return Distribution(form, low, high)
    if p[1] <= 0:
        raise UsageError(f"{form} = {p}: the standard deviation must be positive")
    cut = Distribution("normal", low, high, *p[:2])
    if cut.share < _LEAST_SHARE:
        raise UsageError(f"{form} = {p}: hardly any of it lies within {[low, high]}")
    return cut
