"""Flags: why the answer to an event is not to be trusted, said with the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import chi2

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowcei.posterior.samples import PosteriorSamples
    from flowcei.posterior.weights import Weights

FLAGS = {
    "momentum-sum": "the momenta do not sum to zero within the noise: an ion is wrong or missing, or the "
    "noise is larger than stated",
    "ker": "the kinetic energy release is none that the model was trained on: other units, charges or prior",
    "momenta": "the momenta are far from all that the model was trained on",
    "re-simulation": "no sample gives these momenta within the noise: the model or its prior does not fit",
    "efficiency": "fewer than ten effective samples: the model is a poor proposal here, or the prior "
    "excludes the event",
    "weights": "the weights are not reliable (Pareto tail index k-hat above 0.7, or fewer than ten effective "
    "samples): the samples of the flow are used as they are",
    "evidence": "the momenta are improbable under the prior and the stated noise: other prior, charge, mass "
    "or noise, or charges that appear slowly",
    "no-geometry": "the model cannot express a geometry for these momenta: the samples are NaN",
    "outside-prior": "most samples of the model lie where the prior has no geometry",
    "noise": "the stated noise is above what the model was trained for: the samples are too narrow",
}
"""What each flag means; flag number k is bit k. New ones are appended: files hold the bits."""

FLAG_BITS = {name: 1 << k for k, name in enumerate(FLAGS)}
"""The bit of each flag."""

BY_MOMENTA = sum(FLAG_BITS[name] for name in ("momentum-sum", "ker", "momenta", "noise"))
"""The bits of the flags that momenta alone raise."""

AFTERWARDS = {name: bit for name, bit in FLAG_BITS.items() if not bit & BY_MOMENTA}
"""The flags that only samples can raise, and their bits."""

POOR_WEIGHTS = FLAG_BITS["efficiency"] | FLAG_BITS["weights"]
"""The bits of flags that say that weights are poor."""

# The other flags say that the event is none of those that the model answers for: its samples are
# geometries of something else. Where only the weights are poor the flow's own samples, which are
# right on average, stand in for them: such an event is counted aloud and stays.
EXCLUDING = sum(FLAG_BITS.values()) & ~POOR_WEIGHTS
"""The bits of the flags whose events are left out of spread, modes, comparison and pictures."""

_UNLIKELY = 1e-6  # chance that an event without fault is flagged
_FIRST = 4  # samples of an event that are simulated to see whether any explains it


def moving(momenta: NDArray[np.float64], sigma: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which events (E,) have a total momentum beyond the noise of their ions.

    Args:
        momenta: (E, N, 3), hbar / bohr.
        sigma: Of each component, (E,), hbar / bohr.

    Example:
        >>> moving(np.array([[[9.0, 0, 0], [1, 0, 0]], [[1.0, 0, 0], [-1, 0, 0]]]), np.ones(2)).tolist()
        [True, False]
    """
    total = momenta.sum(axis=1)
    return np.asarray((total**2).sum(axis=1) > chi2.isf(_UNLIKELY, 3) * momenta.shape[1] * sigma**2)


def unexplained(samples: PosteriorSamples) -> NDArray[np.bool_]:
    """Tell which events (E,) none of their samples explains within the noise.

    Most events are explained by one of their first samples: only for the others are the rest
    simulated.
    """
    lost = np.arange(len(samples))
    for some in (samples.positions[:, :_FIRST], samples.positions[:, _FIRST:]):
        if len(lost) and some.shape[1]:
            likelihood = samples[lost].likelihood
            best = likelihood.chi_squared(some[lost]).min(axis=1)
            lost = lost[best > likelihood.most_misfit]
    return np.isin(np.arange(len(samples)), lost)


def poor_weights(weights: Weights) -> NDArray[np.uint16]:
    """Return the flags of weights as bits, (E,): `efficiency` where few count, `weights` if unreliable.

    Where they are not and most samples have none, these are outside the prior, and are flagged as such.
    """
    lost = ~weights.reliable
    outside = lost & (np.isfinite(weights.log_weights).mean(axis=1) < 0.5)
    return combined(efficiency=weights.few_count, weights=lost, outside_prior=outside)


def combined(**found: NDArray[np.bool_]) -> NDArray[np.uint16]:
    """Return flags as bits, (E,); a flag's name with `_` for `-`.

    Example:
        >>> combined(ker=np.array([True, False]), efficiency=np.array([True, True])).tolist()
        [18, 16]
    """
    names = list(FLAGS)
    bits = [np.where(there, 1 << names.index(name.replace("_", "-")), 0) for name, there in found.items()]
    return np.bitwise_or.reduce(bits).astype(np.uint16)


def flag_names(flags: int) -> tuple[str, ...]:
    """Return the names of the flags of one event.

    Example:
        >>> flag_names(18)
        ('ker', 'efficiency')
    """
    return tuple(name for name, bit in FLAG_BITS.items() if int(flags) & bit)


def in_words(flags: int) -> str:
    """Return the names of the flags of one event as one text.

    Example:
        >>> in_words(18)
        'ker;efficiency'
    """
    return ";".join(flag_names(flags))


def counted(flags: NDArray[np.uint16], bits: int = EXCLUDING) -> str:
    """Say how many events (E,) have one of the flags in `bits`, and how many have each.

    Example:
        >>> counted(np.array([0, 2, 6, 16]))
        '2 of 4 events are flagged (ker 2, momenta 1)'
    """
    each = {name: int((flags & bit > 0).sum()) for name, bit in FLAG_BITS.items() if bit & bits}
    some = ", ".join(f"{name} {count}" for name, count in each.items() if count)
    return f"{int((flags & bits > 0).sum())} of {len(flags)} events are flagged ({some})"
