"""What a trained model is worth, on fresh events of its own prior: for its card, and for who uses it."""

# The efficiency is the share of a flow's samples that count once they are weighed with the exact prior and
# likelihood; it needs no truth, but many draws: of few even a bad flow seems to have a fair share. Coverage
# and the checks of `calibrate` need the truth, which fresh events have.

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.errors import NoDensityError, UsageError
from flowcei.evaluation.calibration import calibrate
from flowcei.evaluation.comparison import FLOOR, NULL_MODELS, compare
from flowcei.evaluation.scores import SCORES
from flowcei.events.simulation import simulate

if TYPE_CHECKING:
    from flowcei.events.container import Events
    from flowcei.reconstruction.model import Reconstructor


@dataclass(frozen=True)
class JudgementRules:
    """On how much a model is judged, and what its efficiency is called."""

    events: int = 600  # for coverage and checks
    samples: int = 100  # of each
    weighed: int = 60  # events whose samples are weighed
    draws: int = 4000  # of each, 2.4e5 in all; of more than five ions fewer, so that it takes some seconds
    good: tuple[float, float] = (0.5, 0.1)  # median and 10th percentile of the efficiency, at the least
    fair: float = 0.05  # median, at the least: of 200 samples ten count


RULES = JudgementRules()
BRIEF = JudgementRules(events=100, samples=20, weighed=10, draws=500)
"""For a training that itself takes a moment."""


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
    efficiency: tuple[float, float] | None = (
        None  # median, 10th percentile; None without a density or a prior
    )
    draws: int = 0  # samples that were weighed

    @property
    def summary(self) -> str:
        """What was found, in one line."""
        share = ""
        if self.efficiency is not None:
            share = (
                f"efficiency {self.efficiency[0]:.2g} (median), {self.efficiency[1]:.2g} (10th percentile); "
            )
        low, high = (f"{100.0 * part:.0f}" for part in self.coverage)
        fails = f"checks failing: {len(self.failing)} of {self.checks}"
        floor = (
            "" if self.error_over_floor is None else f"; error {self.error_over_floor:.2g} times the floor"
        )
        return f"{self.word}: {share}the central 50 / 90 % hold {low} / {high} %; {fails}{floor}"

    @property
    def todo(self) -> str:
        """What to do about it; empty where nothing is to be done."""
        if self.word == "poor" and self.efficiency is not None:
            return f"train longer (--epochs) or for a narrower prior; worst {self.worst}"
        if self.word == "poor":
            return f"train longer (--epochs), or an architecture with a density (cinn); worst {self.worst}"
        if self.efficiency is not None and (self.word == "fair" or self.failing):
            return f"sample --weigh makes its answers exact; worst {self.worst}"
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
        rules: On how much it is judged.

    Returns:
        Efficiency, coverage, failing checks, error over the information floor, and a word.

    Raises:
        UsageError: For a model without a posterior; without a prior where no events are given.
        DataError: For events without positions, or too few of them.

    Example:
        >>> import flowcei
        >>> flowcei.judge(flowcei.load(), seed=1).word
        'good'
    """
    if model.architecture in NULL_MODELS or model.network.is_point:
        raise UsageError(f"{model.architecture} answers with one geometry: there is no posterior to judge")
    level = None if events is not None and events.sigma is not None else str(model.default_noise)
    if events is None:
        events = simulate(model.molecule, rules.events, prior=model.prior, noise=str(level), seed=seed)
    events = events[: rules.events]
    wanted = ("atom_error_median", "coverage_50", "coverage_90")
    scores = [score for score in SCORES if score.name in wanted]
    samples = max(min(rules.samples, 20), rules.samples // model.network.cost)
    drawn: dict[str, Any] = {"n": samples, "noise": level, "seed": seed, "keep_flagged": True}
    table = compare({"model": model}, events, resamples=2, scores=scores, **drawn).table
    error, low, high = (float(x) for x in table.loc["model", list(wanted)].to_numpy())
    floor = float(table["atom_error_median"].get(FLOOR, np.nan))
    checked = calibrate(model, events, **drawn)
    failing = tuple(f"{v.check} {v.quantity}" for v in checked.verdicts if not v.passed)
    regions = checked.regions.sort_values("p")
    # Densities of like atoms in any order cost most where there are many: methanol takes 20 s with all draws.
    share = max(1, len(model.molecule) - 4) ** 2 * model.network.cost
    draws = max(min(rules.draws, 500), rules.draws // share)
    efficiency = _efficiency(model, events[: rules.weighed], level, seed, draws)
    return Judgement(
        word=_word(efficiency, failing, rules),
        noise=level or "of the events",
        events=len(events),
        failing=failing,
        checks=len(checked.verdicts),
        coverage=(low, high),
        error_over_floor=error / floor if np.isfinite(floor) else None,
        worst=f"with {regions.iloc[0]['region']}" if len(regions) else "nowhere in particular",
        efficiency=efficiency,
        draws=0 if efficiency is None else draws * min(len(events), rules.weighed),
    )


def _efficiency(
    model: Reconstructor, events: Events, noise: str | None, seed: int, draws: int
) -> tuple[float, float] | None:
    """Median and 10th percentile of the share of samples that count, where they can be weighed."""
    try:
        blocks = list(model.stream(events, draws, noise=noise, seed=seed, weigh=True))
    except NoDensityError:
        return None
    share = np.concatenate([w.efficiency for s in blocks if (w := s.weights) is not None])
    return float(np.median(share)), float(np.quantile(share, 0.1))


def _word(efficiency: tuple[float, float] | None, failing: tuple[str, ...], rules: JudgementRules) -> str:
    if efficiency is None:
        return "fair" if not failing else "poor"
    if efficiency[0] >= rules.good[0] and efficiency[1] >= rules.good[1]:
        return "good"
    return "fair" if efficiency[0] >= rules.fair else "poor"
