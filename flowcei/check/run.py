"""Is a run what a model predicts?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.check.causes import LEVEL, Run, causes_of, smallest
from flowcei.check.comparison import MEANS, MOST_EVENTS, RunNoise, Sums, compare_lab, compare_shapes
from flowcei.check.diagnostic import FAR, SEVERITIES, as_table
from flowcei.check.momenta import EXTREME
from flowcei.physics.priors import GeometryPrior, build_prior

if TYPE_CHECKING:
    import pandas as pd

    from flowcei.check.comparison import Comparison
    from flowcei.check.diagnostic import Cause, Severity
    from flowcei.events.container import Events
    from flowcei.experiment.detector import Noise

FEWEST = 50  # events below which a run is not compared
OF_EXPERIMENT = (
    "the events are of an experiment: sample --experiment, weighed or exact, compares their evidence with "
    "that of events of the prior"
)
"""Why a run is not compared."""
# Kinds of causes that are measured and taken into account before others are tried.
LABORATORY = "drift", "noise", "axis", "directions"


@dataclass(frozen=True, eq=False)
class RunCheck:
    """How a run of events compares with what a prior predicts of it."""

    molecule: str  # its name
    labels: tuple[str, ...]  # of its ions
    prior: str  # name or kind
    events: int  # of the run
    compared: int = 0  # events that were compared: 0 where there are too few
    outlying: float = 0.0  # share of the compared whose momentum sum is unlike all others, left out
    comparisons: tuple[Comparison, ...] = ()
    causes: tuple[Cause, ...] = ()  # of the differences: in the laboratory first, then best first
    remarks: tuple[str, ...] = ()  # what was not compared, and why

    @property
    def p_value(self) -> float:
        """The smallest p-value, corrected for the number of comparisons."""
        return smallest(self.comparisons)

    @property
    def sound(self) -> bool:
        """Whether the run was compared and is what was predicted."""
        return self.compared > 0 and self.p_value >= LEVEL

    @property
    def severity(self) -> Severity:
        """``error``, ``warning`` or ``note``: the worst of what the likeliest causes do to answers."""
        # Whatever the cause: a KER so far off makes every length wrong by half.
        ratios = [c.measured / c.predicted for c in self.comparisons if c.observable == "KER"]
        if any(abs(np.log(ratio)) > 2.0 * np.log(FAR) for ratio in ratios):
            return "error"
        return min((c.severity for c in self.likely), key=SEVERITIES.index, default="note")

    @property
    def summary(self) -> str:
        """Whether the run agrees, or what differs most, in one line."""
        count = len(self.comparisons)
        if not self.compared:
            return f"the run was not compared with the prior {self.prior}: {'; '.join(self.remarks)}"
        if self.sound:
            least = min(c.p_value for c in self.comparisons)
            return f"the run agrees with the prior {self.prior}: {count} comparisons, smallest p {least:.2g}"
        differing = [c for c in self.comparisons if c.p_value * count < LEVEL]
        # The means together are for the machine: said where nothing else differs.
        single = [c for c in differing if c.observable != MEANS] or differing
        worst = min(single, key=lambda c: (c.p_value, -(c.distance or 0.0)))
        p = "< 1e-9" if worst.p_value < 1e-9 else f"{worst.p_value:.1g}"
        size = f"p {p}" if worst.distance is None else f"KS distance {worst.distance:.2f}"
        unit = f" {worst.unit}" if worst.unit else ""
        numbers = f"{worst.observable} {worst.measured:.4g}{unit}, predicted {worst.predicted:.4g}, {size}"
        return f"not as the prior {self.prior} predicts: {numbers}"

    @property
    def likely(self) -> tuple[Cause, ...]:
        """The causes in the laboratory, and the likeliest of the others, which explain the same shapes."""
        lab = [c for c in self.causes if c.kind in LABORATORY]
        return (*lab, *[c for c in self.causes if c.kind not in LABORATORY][:1])

    @property
    def verdict(self) -> str:
        """What the comparison comes to, and the likeliest cause of a difference, in one short line."""
        # One in the laboratory that needs no action is named after one that makes answers wrong.
        first = sorted(self.likely, key=lambda cause: SEVERITIES.index(cause.severity))[:1]
        return "; likely ".join([self.summary, *(cause.brief for cause in first)])

    def table(self) -> pd.DataFrame:
        """Return a row for each comparison: observable, measured, predicted, unit, p, effect."""
        import pandas as pd

        columns = ["observable", "measured", "predicted", "unit", "p_value", "effect"]
        return pd.DataFrame(map(as_table, self.comparisons), columns=columns).rename(columns={"p_value": "p"})

    def to_dict(self) -> dict[str, Any]:
        """Return a table of plain numbers and text."""
        stored = ("molecule", "prior", "events", "compared", "outlying")
        table = {name: getattr(self, name) for name in (*stored, "sound", "severity", "p_value", "verdict")}
        table["comparisons"] = [as_table(c) for c in self.comparisons]
        table["causes"] = [as_table(c) | {"severity": c.severity} for c in self.causes]
        return table | {"remarks": list(self.remarks)}


def check_run(
    events: Events,
    prior: GeometryPrior | dict[str, Any] | str | None = None,
    noise: str | Noise | None = None,
    *,
    seed: int = 0,
    causes: bool = True,
) -> RunCheck:
    """Compare a run of events with what a prior predicts of it, and name what would explain differences.

    Compared are the distributions over events of the KER, of each ion's share of it and of the
    angles between momenta, the momentum sums along each axis, and the directions, with 10,000
    events of the prior and the noise of the run. Positions, where there are any, play no part.

    Args:
        events: Of one molecule; of more than 20,000 as many from the whole length of the run.
        prior: A name or table of the molecule's, or a prior; its default where None.
        noise: Of the detector; what the events say where None, else what their sums show.
        seed: Of the prediction.
        causes: Whether to seek what would explain differences, which takes seconds.

    Returns:
        The comparison.

    Raises:
        UsageError: For an unknown prior, or a range of noise.

    Example:
        >>> import flowcei
        >>> events = flowcei.simulate("ocs", 1000, noise="1%", seed=1)
        >>> check_run(events).sound
        True
        >>> from dataclasses import replace
        >>> [cause.kind for cause in check_run(replace(events, momenta=1.05 * events.momenta)).causes][0]
        'scale'
    """
    molecule = events.molecule
    own = build_prior(molecule, prior)
    spec = own.spec()
    named = (name for name, table in molecule.priors.items() if table == spec)
    name = prior if isinstance(prior, str) else next(named, own.kind)
    names = molecule.name, molecule.labels, name, len(events)
    if len(events) < FEWEST:
        return RunCheck(*names, remarks=(f"{len(events)} events are too few, {FEWEST} are needed",))
    rows = np.unique(np.linspace(0, len(events) - 1, min(len(events), MOST_EVENTS)).astype(np.int64))
    some, (least, most) = events[rows], EXTREME
    size = np.abs(some.momenta).max(axis=(1, 2))
    some = some[(size > least) & (size < most)]
    if len(some) < FEWEST:
        beyond = f"momenta beyond {most:g}, or none above {least:g} hbar/bohr"
        return RunCheck(*names, remarks=(beyond,))
    level = RunNoise.of(some, noise)
    run = Run(molecule, own, some.momenta, level, level.sigma(some.momenta), seed)
    here, predicted = run.observables(), run.predicted(run.free())
    sums = Sums.of(here, len(molecule))
    lab = compare_lab(here, predicted, sums, len(molecule), noise_stated=level.stated)
    comparisons = [*compare_shapes(here[sums.good], predicted), *lab.values()]
    remarks = []
    if sums.conserved and not (level.stated and level.is_zero):
        assumed = "the stated noise was believed" if level.stated else "none was assumed: state it (--noise)"
        remarks.append(f"the momentum sums are 0: the noise cannot be measured from them; {assumed}")
    elif not level.stated:
        remarks.append("no noise is stated: it was taken from the momentum sums")
    why = causes_of(run, comparisons) if causes and smallest(comparisons) < LEVEL else []
    outlying = float(1.0 - sums.good.mean())
    return RunCheck(*names, len(some), outlying, tuple(comparisons), tuple(why), tuple(remarks))
