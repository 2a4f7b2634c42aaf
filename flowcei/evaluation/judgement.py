"""What a trained model is worth, on fresh events of its own prior: for its card, and for who uses it."""

# The efficiency is the share of a flow's samples that count once they are weighed with the exact prior and
# likelihood; it needs no truth, but many draws: of few even a bad flow seems to have a fair share. Coverage
# and the checks of `calibrate` need the truth, which fresh events have.

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.errors import NoDensityError, UsageError
from flowcei.evaluation.calibration import calibrated, check_calibrated
from flowcei.evaluation.comparison import (
    NULL_MODELS,
    floor_scores,
    summarise,
    true_positions,
)
from flowcei.evaluation.scores import SCORES, TestSet
from flowcei.evaluation.scoring import scores_of
from flowcei.reconstruction.efficiency import (
    LONG_TRAINING,
    USUAL,
    Efficiency,
    EfficiencyRules,
    fresh_events,
    measured_efficiency,
    rules_for,
)

if TYPE_CHECKING:
    from flowcei.events.container import Events
    from flowcei.posterior.arrays import Floats
    from flowcei.reconstruction.model import Reconstructor


@dataclass(frozen=True)
class JudgementRules:
    """On how much a model is judged, and what its efficiency is called."""

    events: int = 8000  # for coverage and checks: the more, the smaller the faults that are seen
    samples: int = 25  # of each
    efficiency: EfficiencyRules = USUAL
    good: tuple[float, float] = (0.5, 0.1)  # median and 10th percentile of the efficiency, at the least
    fair: float = 0.05  # median, at the least: of 200 samples ten count

    @classmethod
    def of(cls, rows: int) -> JudgementRules:
        """Rules for a training on so many events, over all epochs: a short one is judged on fewer."""
        events, samples = (cls.events, cls.samples) if rows > LONG_TRAINING else (100, 20)
        return cls(events, samples, rules_for(rows))


RULES = JudgementRules()


@dataclass(frozen=True)
class Judgement:
    """What a model is worth at one noise, on events that it has not seen."""

    word: str  # good, fair or poor
    noise: str
    events: int
    failing: tuple[str, ...]  # checks of `calibrate`, kind and quantity
    checks: int
    coverage: tuple[float, float]  # of the central 50 and 90 % of samples
    error_over_floor: float | None  # median error per atom over that of an efficient estimate without a prior
    worst: str  # region of momenta in which bonds and angles are farthest from right
    # Median and 10th percentile, and draws of each event that they are of; None without a density or a prior.
    efficiency: tuple[float, float] | None = None
    draws: int = 0
    wanted: float | None = None  # median efficiency that was trained for

    @property
    def summary(self) -> str:
        """What was found, in one line."""
        share = "" if self.efficiency is None else f"{Efficiency(*self.efficiency, self.draws)}; "
        if self.wanted is not None:
            share += f"{self.wanted:g} was wanted: {'reached' if self.reached else 'not reached'}; "
        low, high = (f"{100.0 * share_inside:.0f}" for share_inside in self.coverage)
        fails = f"checks failing: {len(self.failing)} of {self.checks}"
        ratio = self.error_over_floor
        floor = "" if ratio is None else f"; error {ratio:.2g} times the floor of a flat prior"
        return f"{self.word}: {share}the central 50 / 90 % hold {low} / {high} %; {fails}{floor}"

    @property
    def reached(self) -> bool:
        """Whether the efficiency is what was wanted, if anything was."""
        if self.wanted is None or self.efficiency is None:
            return self.wanted is None
        return Efficiency(*self.efficiency, self.draws).reaches(self.wanted)

    @property
    def todo(self) -> str:
        """What to do about it; empty where nothing is to be done."""
        if self.word == "poor" and self.efficiency is not None:
            better = "train longer (--epochs) or for a narrower prior"
            return f"sample --exact is right all the same; {better}; worst {self.worst}"
        if self.word == "poor":
            return f"train longer (--epochs), or an architecture with a density (cinn); worst {self.worst}"
        if self.efficiency is not None and (self.word == "fair" or self.failing):
            option = "--exact" if self.word == "fair" else "--weigh"
            return f"sample {option} makes its answers exact; worst {self.worst}"
        return ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and words, for the card of the model."""
        table = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items() if v is not None}
        return table | {"summary": self.summary, "todo": self.todo}


def judge(
    model: Reconstructor, events: Events | None = None, *, seed: int = 0, rules: JudgementRules = RULES
) -> Judgement:
    """Judge a model on fresh events of its prior, at its usual noise.

    Args:
        model: With a posterior.
        events: With positions, that the model was not trained on; simulated from its prior where None.
        seed: Of events and samples.
        rules: On how much it is judged: some seconds' worth.

    Returns:
        Efficiency, coverage, failing checks, error over the information floor, and a word.

    Raises:
        UsageError: For a model without a posterior; without a prior where no events are given.
        DataError: For events without positions, or too few of them.

    Example:
        >>> import flowcei
        >>> from flowcei.evaluation.judgement import JudgementRules
        >>> few = flowcei.simulate("ocs", 400, noise="1%", seed=9)
        >>> flowcei.judge(flowcei.load(), few, seed=1, rules=JudgementRules.of(0)).word
        'good'
    """
    if model.architecture in NULL_MODELS or model.sampler.is_point:
        raise UsageError(f"{model.architecture} answers with one geometry: there is no posterior to judge")
    level = None if events is not None and events.sigma is not None else str(model.default_noise)
    if events is None:
        events = fresh_events(model, rules.events, seed)
    # Of four ions and more samples cost more: fewer events take as long.
    events = events[: rules.events if len(model.molecule) < 4 else max(rules.events // 4, 100)]
    check_calibrated(model, rules.samples)
    samples = max(min(rules.samples, 20), rules.samples // model.sampler.cost)
    blocks = list(model.stream(events, samples, noise=level, seed=seed))
    checked = calibrated(model, events, blocks, seed=seed)
    test = TestSet.of(events, true_positions(events, 1, "to judge on"))
    scores = [score for score in SCORES if score.name in ("atom_error_median", "coverage_50", "coverage_90")]
    values = summarise(scores_of(model, blocks, test, scores), scores, resamples=2)
    failing = tuple(f"{v.check} {v.quantity}" for v in checked.verdicts if not v.passed)
    regions = checked.regions.sort_values("p")
    efficiency, draws = _efficiency(model, events, rules.efficiency, level, seed)
    return Judgement(
        word=_word(efficiency, failing, rules),
        noise=level or "of the events",
        events=len(events),
        failing=failing,
        checks=len(checked.verdicts),
        coverage=(values["coverage_50"], values["coverage_90"]),
        error_over_floor=_over(values["atom_error_median"], floor_scores(events, test, level, seed)),
        worst=f"with {regions.iloc[0]['region']}" if len(regions) else "nowhere in particular",
        efficiency=efficiency,
        draws=draws,
    )


def _efficiency(
    model: Reconstructor, events: Events, rules: EfficiencyRules, level: str | None, seed: int
) -> tuple[tuple[float, float] | None, int]:
    """Median and 10th percentile, and draws of each event; None and 0 without a density or a prior."""
    try:
        measured = measured_efficiency(model, events, rules, noise=level, seed=seed)
    except NoDensityError:
        return None, 0
    return (measured.median, measured.tenth), measured.draws


def _over(error: float, floor: dict[str, Floats] | None) -> float | None:
    """An error over the median of the floor; None where there is none."""
    least = np.nan if floor is None else np.median(floor["atom_error_median"])
    return float(error / least) if np.isfinite(least) else None


def _word(efficiency: tuple[float, float] | None, failing: tuple[str, ...], rules: JudgementRules) -> str:
    if efficiency is None:
        return "fair" if not failing else "poor"
    if efficiency[0] >= rules.good[0] and efficiency[1] >= rules.good[1]:
        return "good"
    return "fair" if efficiency[0] >= rules.fair else "poor"
