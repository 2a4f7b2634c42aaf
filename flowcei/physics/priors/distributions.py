"""One-dimensional distributions of lengths and angles, as a molecule's TOML names them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import log_ndtr, ndtri

from flowcei.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_LOG_SQRT_2PI = 0.5 * np.log(2.0 * np.pi)
_LEAST_SHARE = 1e-6  # of a normal distribution within its limits


@dataclass(frozen=True)
class Distribution:
    """A normalised density on [low, high].

    Attributes:
        form: ``normal``, ``uniform``, ``truncated_normal`` or ``bend``.
        parameters: As written, in the units of the quantity.
        low: Lower end of the support.
        high: Upper end of the support.
    """

    form: str
    parameters: tuple[float, ...]
    low: float
    high: float

    def sample(self, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw `n` values by inverting the distribution function."""
        u = rng.random(n)
        p = self.parameters
        if self.form == "uniform":
            return p[0] + (p[1] - p[0]) * u
        if self.form == "bend":
            whole = -np.expm1(-0.5 * (self.high / p[0]) ** 2)
            return self.high - p[0] * np.sqrt(-2.0 * np.log1p(-u * whole))
        below, above = _ndtr((self.low - p[0]) / p[1]), _ndtr((self.high - p[0]) / p[1])
        return np.clip(p[0] + p[1] * ndtri(below + u * (above - below)), self.low, self.high)

    def log_prob(self, value: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the log density at `value`, -inf outside the support."""
        p = self.parameters
        with np.errstate(divide="ignore", invalid="ignore"):  # outside the support
            if self.form == "uniform":
                inside = np.full_like(value, -np.log(p[1] - p[0]))
            elif self.form == "bend":
                bend = self.high - value
                whole = -np.expm1(-0.5 * (self.high / p[0]) ** 2)
                inside = np.log(bend / p[0] ** 2 / whole) - 0.5 * (bend / p[0]) ** 2
            else:
                u = (value - p[0]) / p[1]
                whole = _ndtr((self.high - p[0]) / p[1]) - _ndtr((self.low - p[0]) / p[1])
                inside = -0.5 * u**2 - _LOG_SQRT_2PI - np.log(p[1] * whole)
        return np.where((value >= self.low) & (value <= self.high), inside, -np.inf)


def _ndtr(x: float) -> float:
    return float(np.exp(log_ndtr(x)))


def _normal(p: list[float], limits: tuple[float, float]) -> tuple[float, float]:
    if p[1] <= 0:
        raise UsageError(f"normal = {p}: the standard deviation must be positive")
    _refuse_empty("normal", p, limits)
    return limits


def _uniform(p: list[float], limits: tuple[float, float]) -> tuple[float, float]:
    if not limits[0] <= p[0] < p[1] <= limits[1]:
        raise UsageError(f"uniform = {p}: must rise and lie within {list(limits)}")
    return p[0], p[1]


def _truncated(p: list[float], limits: tuple[float, float]) -> tuple[float, float]:
    if p[1] <= 0 or not limits[0] <= p[2] < p[3] <= limits[1]:
        raise UsageError(f"truncated_normal = {p}: [mean, deviation > 0, low, high], within {list(limits)}")
    _refuse_empty("truncated_normal", p, (p[2], p[3]))
    return p[2], p[3]


def _refuse_empty(form: str, p: list[float], limits: tuple[float, float]) -> None:
    """Refuse limits so far out on a tail that rounding is all that is left of it."""
    if _ndtr((limits[1] - p[0]) / p[1]) - _ndtr((limits[0] - p[0]) / p[1]) < _LEAST_SHARE:
        raise UsageError(f"{form} = {p}: hardly any of it lies within {list(limits)}")


def _bend(p: list[float], limits: tuple[float, float]) -> tuple[float, float]:
    if p[0] <= 0 or limits != (0.0, 180.0):
        msg = f"bend = {p}: one positive deviation in degrees from a straight angle, for angles only"
        raise UsageError(msg)
    return limits


_FORMS: dict[str, tuple[int, Callable[[list[float], tuple[float, float]], tuple[float, float]]]] = {
    "normal": (2, _normal),
    "uniform": (2, _uniform),
    "truncated_normal": (4, _truncated),
    "bend": (1, _bend),
}


def distribution(table: dict[str, Any], limits: tuple[float, float]) -> Distribution:
    """Read a distribution from a table of one entry, such as ``{"normal": [2.19, 0.15]}``.

    Args:
        table: ``normal = [mean, deviation]``, ``uniform = [low, high]``,
            ``truncated_normal = [mean, deviation, low, high]`` or ``bend = deviation``:
            the bend of a linear chain, a two-dimensional normal, so that 180 degrees minus
            the angle is Rayleigh distributed.
        limits: What the quantity can be; a normal distribution is cut there.

    Returns:
        The distribution, in the units of the table.

    Raises:
        UsageError: For an unknown form or impossible parameters.

    Example:
        >>> distribution({"uniform": [1.8, 4.0]}, (0.0, 9.0)).log_prob(np.array([2.0, 5.0]))
        array([-0.78845736,        -inf])
    """
    if len(table) != 1 or next(iter(table)) not in _FORMS:
        raise UsageError(f"a distribution is one of {', '.join(_FORMS)}; got {table}")
    form, raw = next(iter(table.items()))
    values = [float(v) for v in (raw if isinstance(raw, list | tuple) else [raw])]
    count, check = _FORMS[form]
    if len(values) != count or not np.isfinite(values).all():
        raise UsageError(f"{form} takes {count} finite number(s); got {raw}")
    low, high = check(values, limits)
    return Distribution(form, tuple(values), low, high)
