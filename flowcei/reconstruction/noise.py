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

__all__ = ["above_trained", "assumed_sigma", "default_noise", "stated_sigma"]

_DEFAULT = 0.01  # of the rms momentum component
_ROUNDING = 1.01


def default_noise(trained: Noise, usual: float = _DEFAULT) -> Noise:
    """Return the level that is assumed where nobody says: the usual one, or the nearest trained one.

    Example:
        >>> str(default_noise(Noise(0.001, 0.05))), str(default_noise(Noise(0.02, 0.05)))
        ('1%', '2%')
    """
    level = trained.high
    if trained.relative:
        level = min(max(usual, trained.low), level)
    return Noise(level, level, relative=trained.relative)


def stated_sigma(events: Events, noise: str | Noise | None, trained: Noise) -> NDArray[np.float64]:
    """Return the noise that is stated of events, (E,), hbar / bohr, whatever a model knows.

    Args:
        events: Whose noise it is.
        noise: What to take; what the events say where None, else `default_noise`.
        trained: The range of the model.
    """
    if noise is not None:
        level = noise if isinstance(noise, Noise) else Noise.parse(noise)
        return level.sigma(events.momenta)
    return events.sigma if events.sigma is not None else default_noise(trained).sigma(events.momenta)


def above_trained(events: Events, noise: str | Noise | None, trained: Noise) -> NDArray[np.bool_]:
    """Tell which events (E,) have a stated noise above the trained range."""
    return np.asarray(
        stated_sigma(events, noise, trained) > trained.high * _unit(events, trained) * _ROUNDING
    )


def assumed_sigma(events: Events, noise: str | Noise | None, trained: Noise) -> NDArray[np.float64]:
    """Return `stated_sigma` within the trained range, (E,), hbar / bohr.

    Raises:
        UsageError: For a `noise` above it, of all events alike.
    """
    sigma, unit = stated_sigma(events, noise, trained), _unit(events, trained)
    # A level of the kind that was trained is above the range in every event or in none. Levels that
    # events state, or that are of the other kind, may be above it in one event of thousands.
    level = Noise.parse(noise) if isinstance(noise, str) else noise
    if level is not None and level.relative == trained.relative and level.high > trained.high * _ROUNDING:
        msg = f"noise of {level} is above what the model was trained for ({trained})"
        raise UsageError(msg)
    return np.clip(sigma, trained.low * unit, trained.high * unit)


def _unit(events: Events, trained: Noise) -> NDArray[np.float64]:
    return rms_component(events.momenta) if trained.relative else np.ones(len(events))
