"""Which share of a flow's samples counts once they are weighed, and how long to train for it."""

# Of few draws even a bad flow seems to have a fair share: the rare samples of large weight are missing. Many
# draws of many events take minutes. So few draws of many events put these in order, and many draws of those
# in the middle, and of those about the lowest tenth, say what the share is there.

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flowcei.errors import NoDensityError, UsageError
from flowcei.events.simulation import BLOCK, Simulator

if TYPE_CHECKING:
    from flowcei.events.container import Events
    from flowcei.posterior.arrays import Floats
    from flowcei.reconstruction.model import Reconstructor
    from flowcei.training.schedule import EpochRecord

UNTIL_SECONDS = 900.0
"""How long a training goes on for its efficiency where nobody says."""

LONG_TRAINING = 20_000
"""Events, over all epochs; a shorter training takes a moment and is judged on fewer."""

_STREAM = 3  # of the seed of a training, which takes 0 to 2: what a model is judged on it has not seen
_SECONDS, _TIMED = 60.0, 50  # that an efficiency may take; draws that are timed
_RUN_UP = 1.1  # epochs also validate and are kept
_VERDICT, _VERDICT_SECONDS = 0.15, 15.0  # of the time, that is left for it at the end
_TENTH = 5.0  # of a wanted median: what one event in ten may have less of
_LEAST = 0.5  # of the last round: a shorter one would hardly come back to where that one ended


@dataclass(frozen=True)
class EfficiencyRules:
    """On how much an efficiency is measured: a million draws take 5 to 12 s for three ions."""

    events: int = 60
    draws: int = 2000  # of each
    deep: int = 3  # events about the median, and about the lowest tenth; of six ions two, of more one
    deep_draws: int = 100_000  # of each of these


USUAL = EfficiencyRules()


def rules_for(rows: int) -> EfficiencyRules:
    """Rules for a training on so many events, over all epochs."""
    brief = EfficiencyRules(events=10, draws=500, deep=1, deep_draws=2000)
    return USUAL if rows > LONG_TRAINING else brief


@dataclass(frozen=True)
class Efficiency:
    """Median and 10th percentile over events, and draws of each event that stands for them."""

    median: float
    tenth: float
    draws: int

    def reaches(self, wanted: float) -> bool:
        """Whether the median is there, and the 10th percentile is a fifth of it.

        The median alone says nothing of the folds of a wide prior: CHBrClF has 0.86 and 0.005.
        """
        return self.median >= wanted and self.tenth >= wanted / _TENTH

    def __str__(self) -> str:
        draws = f"{self.draws:.0e}".replace("e+0", "e") if self.draws >= 1e4 else f"{self.draws}"
        return f"efficiency {self.median:.2g} (median), {self.tenth:.2g} (10th percentile) by {draws} draws"


def fresh_events(model: Reconstructor, count: int, seed: int) -> Events:
    """Events of the prior of a model at its usual noise, that a training of this seed has not seen."""
    source = Simulator(model.molecule, model.prior, model.default_noise, seed)
    return source.block(0, BLOCK, stream=_STREAM)[:count]  # the same ones, however many


def measured_efficiency(
    model: Reconstructor, events: Events, rules: EfficiencyRules, *, noise: str | None = None, seed: int = 0
) -> Efficiency:
    """Efficiency on events; NoDensityError without a density of model or prior."""
    ions = len(model.molecule)
    # Densities of like atoms in any order cost most where there are many: eight times as much in methanol.
    draws, deep = (
        (rules.draws, rules.deep)
        if ions < 4
        else (rules.draws // 2, max(1, min(rules.deep, rules.deep + 5 - ions)))
    )
    draws, many = (max(n // model.sampler.cost, min(n, 500)) for n in (draws, rules.deep_draws))
    events = events[: rules.events]
    # Where many orders of like atoms count, the density of a prior takes milliseconds: then there are fewer
    # draws, by powers of ten, so that how many hardly depends on how fast the machine is.
    total = draws * len(events) + 2 * deep * many
    seconds = total * _seconds_of_a_draw(model, events[:1], noise, seed)
    tenths = max(0, math.ceil(math.log10(max(seconds / _SECONDS, 1e-9))))
    draws, many = (max(n // 10**tenths, min(n, _TIMED)) for n in (draws, many))
    shares = _shares(model, events, draws, noise, seed)
    order, chosen = np.argsort(shares), list[float]()
    for level in (0.5, 0.1):
        first = round(level * (len(order) - 1)) - (deep - 1) // 2
        rows = np.sort(order[max(first, 0) :][:deep])
        chosen.append(float(np.median(_shares(model, events[rows], many, noise, seed + 1))))
    return Efficiency(chosen[0], min(chosen), many)


def _seconds_of_a_draw(model: Reconstructor, event: Events, noise: str | None, seed: int) -> float:
    """What one more draw takes: the first call compiles, and each has costs of its own."""
    taken = []
    for draws in (_TIMED, _TIMED, 5 * _TIMED):
        begun = time.perf_counter()
        _shares(model, event, draws, noise, seed)
        taken.append(time.perf_counter() - begun)
    return max(taken[2] - taken[1], 0.0) / (4 * _TIMED)


def _shares(model: Reconstructor, events: Events, draws: int, noise: str | None, seed: int) -> Floats:
    blocks = model.stream(events, draws, noise=noise, seed=seed, weigh=True)
    return np.concatenate([w.efficiency for s in blocks if (w := s.weights) is not None])


@dataclass(frozen=True)
class Round:
    """One round of a training until its efficiency is there."""

    number: int  # from 1
    epochs: int  # of it
    efficiency: Efficiency | None  # None where there was no time to measure it
    more: int  # epochs of the next; 0 where the training ends
    why: str = ""  # it ends


@dataclass
class Until:
    """Rounds of a training, each twice as long as the last, until the efficiency is there or time is up."""

    model: Reconstructor
    events: Events
    wanted: float
    rules: EfficiencyRules
    seed: int
    seconds: float
    on_round: Callable[[Round], None]
    rows: int  # of an epoch
    began: float  # when all of it did

    def __post_init__(self) -> None:
        """Refuse what could never be measured, before the first step."""
        if not 0.0 < self.wanted <= 1.0:
            raise UsageError(f"until is {self.wanted}; it is a median efficiency, above 0 and at most 1")
        try:
            _shares(self.model, self.events[:1], 10, None, self.seed)
        except NoDensityError as error:
            raise UsageError(f"until is an efficiency, which there cannot be: {error}") from error

    @property
    def seconds_left(self) -> float:
        """To train in: a verdict follows, which takes up to 15 s."""
        verdict = min(_VERDICT * self.seconds, _VERDICT_SECONDS)
        return self.seconds - verdict - (time.perf_counter() - self.began)

    def __call__(self, rounds: list[int], records: list[EpochRecord]) -> int:
        """Epochs of the next round; 0 to end."""
        judged, efficiency = time.perf_counter(), None
        if self.seconds_left > 0.0:
            self.model.network.eval()
            efficiency = measured_efficiency(self.model, self.events, self.rules, seed=self.seed)
        before = len(records) - rounds[-1]
        losses = [record.validation_loss for record in records]
        left = self.seconds_left - (time.perf_counter() - judged)  # as long as this took it will again
        more = min(2 * rounds[-1], int(left / (_RUN_UP * self.rows / records[-1].rows_per_second)))
        why = ""
        if efficiency is not None and efficiency.reaches(self.wanted):
            why = f"{self.wanted:g} is reached"
        elif efficiency is not None and len(rounds) > 1 and min(losses[before:]) >= min(losses[:before]):
            why = "it is no better than the round before: a wider or deeper network may be"
        elif more < _LEAST * rounds[-1]:
            why = "the time is up"
        more = 0 if why else more
        self.on_round(Round(len(rounds), rounds[-1], efficiency, more, why))
        return more
