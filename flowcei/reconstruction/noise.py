"""The trained noise: which detector noise a model may assume of an event.

A model is told the noise with the momenta, and answers within the range that it was trained
for. Less than that is raised to the least it knows, which errs towards caution. More is refused
where one level is asked for; where each event states its own, those events are flagged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from flowcei.errors import UsageError
from flowcei.experiment.detector import Noise, rms_component

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowcei.events.container import Events

_DEFAULT = 0.01  # of the rms momentum component
_ROUNDING = 1.01


def default_noise(trained: Noise, usual: float | None = None) -> Noise:
    """Return the level that is assumed where nobody says: the usual one, or the nearest trained one.

    Example:
        >>> str(default_noise(Noise(0.001, 0.05))), str(default_noise(Noise(0.02, 0.05)))
        ('1%', '2%')
    """
    level = trained.high
    if trained.relative:
        level = min(max(_DEFAULT if usual is None else usual, trained.low), level)
    return Noise(level, level, relative=trained.relative)


def stated_sigma(events: Events, noise: str | Noise | None, default: Noise) -> NDArray[np.float64]:
    """Return the noise that is stated of events, (E,), hbar / bohr, whatever a model knows.

    Args:
        events: Whose noise it is.
        noise: What to take; what the events say where None, else `default`.
        default: Where nobody says.
    """
    if noise is None and events.sigma is not None:
        return events.sigma
    return Noise.parse(noise or default).sigma(events.momenta)


def above_trained(
    sigma: NDArray[np.float64], momenta: NDArray[np.float64], trained: Noise
) -> NDArray[np.bool_]:
    """Tell where noise (E,) is above the range that was trained for, of momenta (E, N, 3)."""
    return np.asarray(sigma > trained.high * _unit(momenta, trained) * _ROUNDING)


def within_trained(
    sigma: NDArray[np.float64], momenta: NDArray[np.float64], noise: str | Noise | None, trained: Noise
) -> NDArray[np.float64]:
    """Return stated noise (E,) within the trained range, hbar / bohr.

    Raises:
        UsageError: For a `noise` above it, of all events alike.
    """
    # A level of the kind that was trained is above the range in every event or in none. Levels that
    # events state, or that are of the other kind, may be above it in one event of thousands.
    level = None if noise is None else Noise.parse(noise)
    if level is not None and level.relative == trained.relative and level.high > trained.high * _ROUNDING:
        msg = f"noise of {level} is above what the model was trained for ({trained})"
        raise UsageError(msg)
    unit = _unit(momenta, trained)
    return np.clip(sigma, trained.low * unit, trained.high * unit)


def _unit(momenta: NDArray[np.float64], trained: Noise) -> NDArray[np.float64]:
    return rms_component(momenta) if trained.relative else np.ones(len(momenta))
