"""Flags: why the answer to an event is not to be trusted, said with the answer."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri

from flowcei.errors import FlaggedWarning

if TYPE_CHECKING:
    from flowcei.posterior.arrays import Bools, Floats
    from flowcei.posterior.samples import PosteriorSamples
    from flowcei.posterior.weights import Weights

FLAGS = {
    "momentum-sum": "the momenta do not sum to zero within the noise: an ion is another molecule's or "
    "missing, or the noise is larger than stated",
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
    "mixing": "the chains of --exact did not mix within the budget (a larger --budget or a better model), "
    "or the prior cannot say the density of a geometry (too many orders of like atoms count)",
    "experiment": "the weights are not reliable, and nothing else makes the samples those of the experiment: "
    "--exact answers",
    "accident": "its ions are of different molecules (P(true) below 1 %)",
}
"""What each flag means; flag number k is bit k. New flags are appended: files hold the bits."""

# Bits, of each flag and of sets of them.
FLAG_BITS = {name: 1 << k for k, name in enumerate(FLAGS)}
BY_MOMENTA = sum(FLAG_BITS[name] for name in ("momentum-sum", "ker", "momenta", "noise"))
AFTERWARDS = {name: bit for name, bit in FLAG_BITS.items() if not bit & BY_MOMENTA}  # only samples raise them
POOR_WEIGHTS = FLAG_BITS["efficiency"] | FLAG_BITS["weights"]
NOT_MIXED = FLAG_BITS["mixing"]
# Events with these are left out of spread, modes, comparison, pictures: the model does not answer for them.
# Where only the weights are poor the flow's own samples, right on average, stand in for them: such an event
# is counted aloud and stays; so do chains that have not mixed, which are nearer to the posterior than these.
EXCLUDING = sum(FLAG_BITS.values()) & ~POOR_WEIGHTS & ~NOT_MIXED

_UNLIKELY = 1e-6  # chance that an event without fault is flagged
_FIRST = 4  # samples of an event that are simulated first: most events are explained by one of them


def moving_source(sums: Floats) -> Bools:
    """Which events (E,) have sums of momenta, over noise and source (E, 3), that are too large."""
    return np.asarray((sums**2).sum(axis=1) > chdtri(3, _UNLIKELY))


def moving(momenta: Floats, sigma: Floats) -> Bools:
    """Which events (E,) have a sum of momenta (E, N, 3) beyond the noise (E,) of a component, hbar / bohr."""
    total = momenta.sum(axis=1)
    return np.asarray((total**2).sum(axis=1) > chdtri(3, _UNLIKELY) * momenta.shape[1] * sigma**2)


def unexplained(samples: PosteriorSamples) -> Bools:
    """Which events (E,) none of their samples explains within the noise; none of unstated forces."""
    rows = np.arange(0 if "forward" in samples.origin else len(samples))
    for chosen in (slice(_FIRST), slice(_FIRST, None)):
        positions = samples.positions[:, chosen]
        if len(rows) and positions.shape[1]:
            likelihood = samples[rows].likelihood
            times = None if samples.build_up is None else samples.build_up[rows, chosen]
            best = likelihood.chi_squared(positions[rows], times).min(axis=1)
            rows = rows[best > likelihood.most_misfit]
    return np.isin(np.arange(len(samples)), rows)


def poor_weights(weights: Weights, *, stand_in: bool = True) -> NDArray[np.uint16]:
    """Flags of weights as bits, (E,): `outside-prior` where unreliable and most samples have none.

    And `experiment`, where the samples of the flow cannot stand in.
    """
    unreliable = ~weights.reliable
    outside = unreliable & (np.isfinite(weights.log_weights).mean(axis=1) < 0.5)
    flags = {"efficiency": weights.few_count, "weights": unreliable, "outside_prior": outside}
    return combined(**flags, experiment=unreliable & (not stand_in))


def combined(**flags: Bools) -> NDArray[np.uint16]:
    """Flags as bits, (E,), from arrays (E,) by the names of flags, with `_` for `-`."""
    bits = [np.where(events, FLAG_BITS[name.replace("_", "-")], 0) for name, events in flags.items()]
    return np.bitwise_or.reduce(bits).astype(np.uint16)


def flag_names(flags: int) -> tuple[str, ...]:
    """Names of the flags of one event: 18 is ker, efficiency."""
    return tuple(name for name, bit in FLAG_BITS.items() if int(flags) & bit)


def in_words(flags: int) -> str:
    """Names of the flags of one event as the text of a cell: 18 is ker;efficiency."""
    return ";".join(flag_names(flags))


def counted(flags: NDArray[np.uint16], bits: int = EXCLUDING) -> str:
    """How many events (E,) have one of the flags in `bits`, and how many have each, in words."""
    each = {name: int((flags & bit > 0).sum()) for name, bit in FLAG_BITS.items() if bit & bits}
    listed = ", ".join(f"{name} {count}" for name, count in each.items() if count)
    return f"{int((flags & bits > 0).sum())} of {len(flags)} events are flagged ({listed})"


def standing(flags: NDArray[np.uint16]) -> list[str]:
    """What is to be said of flagged events (E,) that are not left out."""
    words = {POOR_WEIGHTS: "samples of the flow count alike there", NOT_MIXED: "their chains have not mixed"}
    return [f"{counted(flags, bits)}: {text}" for bits, text in words.items() if (flags & bits).any()]


def warn_of_flagged(flags: NDArray[np.uint16], outcome: str, *, keep_flagged: bool) -> None:
    """Warn the caller of the method that calls this of flags (E,), unless flagged events are meant."""
    lines = [f"{counted(flags)}{outcome}"] if (flags & EXCLUDING).any() else []
    lines += standing(flags)
    if lines and not keep_flagged:
        text = f"{'; '.join(lines)}; keep_flagged=True says nothing of it"
        warnings.warn(text, FlaggedWarning, stacklevel=3)
