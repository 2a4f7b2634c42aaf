"""What a training takes where nobody says: by ions, prior and architecture, or which rows of a file."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.experiment.detector import DEFAULT_NOISE
from flowcei.frame.whitening import LIKE_MOMENTA
from flowcei.models.registry import options_type

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowcei.experiment.detector import Noise
    from flowcei.physics.priors import GeometryPrior

NEAR = ("displaced", "internal", "normal_modes")
"""Kinds of priors with a middle, where a normal approximation of each event's posterior can be looked for."""

# Where a prior says more than momenta, posteriors are closer to normal in lengths: charts like momenta, of
# OCS `broad`, leave a 10th percentile of efficiency of 0.26 (0.45), of CHBrClF a median of 0.55 (0.7 to 0.9).
_WIDE = 0.15  # standard deviation of a distance over its mean: OCS near equilibrium 0.07, CHBrClF 0.19
_GEOMETRIES = 2_000  # that it is measured on
_FEW_IONS = 6  # a search takes 0.1 ms of three ions, 0.3 of six; then it grows with their fourth power


@dataclass(frozen=True)
class Defaults:
    """Whether charts are whitened, fresh events, rows of a step, and options of the architecture."""

    whitened: bool = False
    power: float = 1.0  # of the lengths of bonds in whitened charts
    events: int = 100_000  # of an epoch
    batch: int = 1024
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        charts = "whitened charts, " if self.whitened else ""
        options = "".join(f"{name} {value}, " for name, value in self.options.items())
        return f"{charts}{options}{self.events} events an epoch in steps of {self.batch}"


def usual_noise(ions: int, prior: GeometryPrior, architecture: str) -> Noise:
    """Noise to train for where nobody says: of each axis where whitened charts make it easy."""
    # Of other charts a network would have to learn how posteriors turn and stretch with it: OCS has 0.6 then.
    # Where a prior is wide bent posteriors take all that it can learn.
    usual = usual_training(ions, prior, architecture, more=True)
    return replace(DEFAULT_NOISE, by_axis=usual.whitened and usual.power == LIKE_MOMENTA)


def usual_training(ions: int, prior: GeometryPrior, architecture: str, *, more: bool = False) -> Defaults:
    """What a training of so many ions takes, for a level of noise or more: that of each axis, a build-up.

    Of whitened charts a network has little to learn, and each event costs a search. What is left where a
    prior is wide are folds and second solutions, which affine couplings cannot bend to.
    """
    about = options_type(architecture)
    if ions < 3 or prior.kind not in NEAR or not about.whitened:
        return Defaults()
    x = prior.sample(_GEOMETRIES, np.random.default_rng(0))
    i, j = np.triu_indices(ions, 1)
    distance = np.linalg.norm(x[:, i] - x[:, j], axis=2)
    wide = bool((distance.std(axis=0) > _WIDE * distance.mean(axis=0)).any())
    # Of one level of noise couplings learn all there is: OCS 0.91 / 0.84, water 0.97 / 0.95.
    if ions == 3 and not wide and not more:
        return Defaults()
    # Of iodopyridine 3,200 take three minutes on two cores; of 1,800 the loss is 0.9 nats higher.
    events = 20_000 * min(1.0, _FEW_IONS / ions) ** 3.5
    # Steps of splines take as long as the searches: with 12,000 CHBrClF has 0.87 / 0.09.
    splines = 1.0 if not wide else 2.0 if ions == 3 else 1.6
    return Defaults(
        True,
        1.0 if wide else LIKE_MOMENTA,
        round(events * splines),
        256 if ions <= _FEW_IONS else 64,
        dict(about.wide) if wide else dict(about.few) if ions == 3 else {},
    )


def split_rows(n: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Rows of a file for training, validation and test: 80, 10 and 10 %."""
    order = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(9,))).permutation(n)
    first, second = int(0.8 * n), int(0.9 * n)
    return order[:first], order[first:second], order[second:]
