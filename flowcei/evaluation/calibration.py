"""Is the posterior of a model right? Its samples against truths it was not trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flowcei.errors import DataError, UsageError
from flowcei.evaluation import verdicts
from flowcei.evaluation.comparison import NULL_MODELS, experiment_of, warned
from flowcei.evaluation.ranking import RankedBlock, TruthOfEvents
from flowcei.evaluation.verdicts import HPD, RULES, CalibrationRules, Ranks, Verdict
from flowcei.events.container import events_of
from flowcei.experiment.missing import LOST, completed, lost_column, lost_ions
from flowcei.posterior.spread import quantities
from flowcei.posterior.weights import Weights
from flowcei.reconstruction.sampling import SamplingRequest, block_size
from flowcei.reconstruction.sharing import StoredModel, shared_blocks

if TYPE_CHECKING:
    import pandas as pd

    from flowcei.events.container import Events
    from flowcei.experiment.detector import Noise
    from flowcei.experiment.experiment import Experiment
    from flowcei.models.options import Latent
    from flowcei.posterior.samples import PosteriorSamples
    from flowcei.reconstruction.model import Reconstructor
    from flowcei.workers.order import Each


@dataclass(frozen=True, eq=False, repr=False)
class Calibration:
    """Ranks of the truth among the samples of a model, and what they say.

    Attributes:
        sbc: Ranks of chart coordinates, bonds and angles, (E, Q).
        coverage: The same, last of the density, where the model has one.
        tarp: Ranks of the distance of the chart to a random point, (E, 1).
        resimulation: Ranks of the misfit of the momenta, (E', 1), of events whose true
            geometry can be simulated.
        rules: When a check fails.
        verdicts: One for each check and quantity.
        regions: Ranks and errors of bonds and angles by regions of the momenta.
        left_out: What could not be checked, in words.

    Example:
        >>> import flowcei
        >>> events = flowcei.simulate("ocs", 100, noise="1%", seed=3)
        >>> flowcei.calibrate(flowcei.load(), events, n=20)
        Calibration: 100 events, none of 24 checks fails
    """

    sbc: Ranks
    coverage: Ranks
    tarp: Ranks
    resimulation: Ranks
    rules: CalibrationRules
    verdicts: tuple[Verdict, ...]
    regions: pd.DataFrame
    left_out: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}: {len(self.sbc)} events, {self.outcome}"

    def _repr_html_(self) -> str:
        html: str = self.to_dataframe().to_html(index=False, border=0, float_format="{:.2g}".format)
        return html

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(verdict.passed for verdict in self.verdicts)

    @property
    def outcome(self) -> str:
        """How many checks failed, in words."""
        failed, count = sum(not v.passed for v in self.verdicts), len(self.verdicts)
        return f"{failed} of {count} checks fail" if failed else f"none of {count} checks fails"

    def to_dataframe(self) -> pd.DataFrame:
        """Return a row for each verdict."""
        import pandas as pd

        return pd.DataFrame([asdict(verdict) for verdict in self.verdicts])

    def coverage_table(self) -> pd.DataFrame:
        """Return a row for each quantity and level: what is held, and the band in which it passes."""
        import pandas as pd

        index = pd.MultiIndex.from_product(
            [self.coverage.names, self.rules.levels], names=["quantity", "level"]
        )
        shares = self.coverage.coverage(self.rules.levels)
        low, high = (
            np.tile(ends, shares.shape[1]) for ends in verdicts.coverage_band(self.coverage, self.rules)
        )
        return pd.DataFrame({"coverage": shares.T.ravel(), "low": low, "high": high}, index).reset_index()

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and words, for JSON."""
        return {
            "passed": self.passed,
            "level": self.rules.level,
            "verdicts": [asdict(verdict) for verdict in self.verdicts],
            "coverage": self.coverage_table().to_dict("records"),
            "regions": self.regions.to_dict("records"),
            "left_out": list(self.left_out),
        }


def calibrate(
    model: Reconstructor,
    events: Events,
    *,
    n: int = 200,
    noise: Noise | str | None = None,
    latent: Latent = "prior",
    seed: int = 0,
    weigh: bool = False,
    exact: bool = False,
    keep_flagged: bool = False,
    experiment: Experiment | None = None,
    missing: int = 0,
    rules: CalibrationRules = RULES,
    on_events: Callable[[int], None] | None = None,
    each: Each = map,
) -> Calibration:
    """Check the posterior of a model on events whose positions are known.

    A posterior is that of a prior and a noise: the events must be drawn from the prior the
    model was trained with, and say their noise, or what is judged is the difference. Events a
    model was trained on are for the caller to leave out, with
    `flowcei.evaluation.comparison.unseen`.

    Args:
        model: With a posterior: not a point, not a null model.
        events: With positions, 50 or more; the more there are, the smaller the faults
            that are seen.
        n: Samples an event, 10 or more.
        noise: As for `Reconstructor.sample`.
        latent: As for `Reconstructor.sample`.
        seed: Of samples, ties, points of reference and bands.
        weigh: Whether to judge the samples with their importance weights, which a model with a
            density and a prior can have, or as the model drew them.
        exact: Whether to judge samples of the exact posterior, as of `Reconstructor.sample`.
        keep_flagged: Whether to judge events that a model flags, of which a `FlaggedWarning` is given.
        experiment: Of the events, whose exact or weighed samples are judged; where None, the one that
            simulated events state. Without `exact` and `weigh` it only brings momenta to their true scale.
        missing: Ions that are taken away from each event, at random, to judge exact samples of what is left;
            the source of the experiment must be known.
        rules: How often a right posterior may fail each of the five kinds of check, and other thresholds.
        on_events: Called with the number of events that were judged, block by block.
        each: What maps a function over blocks: see `flowcei.workers.order.each_of`.

    Raises:
        UsageError: For a model without a posterior, one of another molecule, or too few samples.
        DataError: For events without positions, or too few, or flagged all of them.

    Example:
        >>> import flowcei
        >>> events = flowcei.simulate("ocs", 100, noise="1%", seed=3)
        >>> result = flowcei.calibrate(flowcei.load(), events, n=20)
        >>> sorted(set(result.to_dataframe()["check"]))
        ['coverage', 'regions', 'resimulation', 'sbc', 'tarp']
    """
    own = experiment_of(events, experiment, noise)
    _check_weighed(experiment, weighed=weigh or exact)
    events = events_of(events, model.molecule) if keep_flagged else warned([model], events, noise, own)
    check_calibrated(model, n, rules)
    if missing:
        events = without_ions(events, missing, seed)
    seen = events if own is None else own.calibrated(events)
    if missing and (lost := lost_ions(events.columns, len(events.molecule))) is not None:
        seen = replace(seen, momenta=completed(seen.momenta, lost))  # as samples have them
    # Exact and weighed samples bring momenta to their scale themselves.
    of_experiment = own is not None and noise is None and (weigh or exact)
    stated = own if of_experiment else None
    request = SamplingRequest(n, seed, noise, latent, weigh, exact=exact, experiment=stated)
    asked = events if of_experiment else seen
    if each is map:
        drawn = model.blocks(asked, request)
        return calibrated(model, seen, drawn, seed=seed, rules=rules, on_events=on_events)
    judge, size = TruthOfEvents.of(seen, seed, rules.min_events), block_size(n)
    stored = StoredModel.of(model)

    def ranked_by(answer: Callable[[Any], PosteriorSamples], blocks: Iterable[Any]) -> Iterator[Any]:
        tasks = ((block, judge.of_block(k, size)) for k, block in enumerate(blocks))
        return each(partial(_ranked, stored, answer), tasks)

    ranked: Iterator[Any] = shared_blocks(model, ranked_by)(asked, request)
    return _gathered(model, judge, ranked, rules, on_events)


def _check_weighed(experiment: Experiment | None, *, weighed: bool) -> None:
    if experiment is not None and not weighed:
        how_else = "--exact or --weigh; exact=True or weigh=True"
        raise UsageError(f"of an experiment exact or weighed samples are judged ({how_else})")


def without_ions(events: Events, missing: int, seed: int) -> Events:
    """Events that lack so many ions each, at random; UsageError where fewer than two would be left."""
    ions = len(events.molecule)
    if not 0 < missing <= ions - 2:
        raise UsageError(f"{missing} of {ions} ions are missing: two of an event must be there")
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(10,)))
    lost = rng.random((len(events), ions)).argsort(axis=1) < missing
    return replace(events, columns=events.columns | {LOST: lost_column(lost)})


def calibrated(
    model: Reconstructor,
    events: Events,
    drawn: Iterable[PosteriorSamples],
    *,
    seed: int,
    rules: CalibrationRules = RULES,
    on_events: Callable[[int], None] | None = None,
) -> Calibration:
    """Check samples of a model, of all of the events, block by block."""
    judge, first = TruthOfEvents.of(events, seed, rules.min_events), 0

    def ranked() -> Iterator[RankedBlock]:
        nonlocal first
        for index, samples in enumerate(drawn):
            yield judge.of_rows(slice(first, first + len(samples)), index).rank(model, samples)
            first += len(samples)

    return _gathered(model, judge, ranked(), rules, on_events)


def _gathered(
    model: Reconstructor,
    judge: TruthOfEvents,
    blocks: Iterable[RankedBlock],
    rules: CalibrationRules,
    on_events: Callable[[int], None] | None,
) -> Calibration:
    """Judge the ranks of all blocks."""
    first, useless, several, weights = 0, 0, list[dict[str, NDArray[Any]]](), list[Weights]()
    for block in blocks:
        useless += block.useless
        if block.ranks:
            several.append(block.ranks | {"rows": first + block.ranks["rows"]})
        weights += [] if block.weights is None else [block.weights]
        first += block.events
        if on_events is not None:
            on_events(block.events)
    if not several and useless:
        raise DataError("the weights of no event are reliable; judge exact samples (--exact, exact=True)")
    if not several:
        raise DataError("the model can express a geometry for none of the events; are the units right?")
    ranks = {name: np.concatenate([block[name] for block in several]) for name in several[0]}
    joined = Weights.concatenate(weights) if weights else None
    return _judged(judge, model, ranks, joined, rules, useless)


def _ranked(
    stored: StoredModel, answer: Callable[[Any], PosteriorSamples], task: tuple[Any, TruthOfEvents]
) -> RankedBlock:
    """Draw samples of a block and rank the truth among them."""
    block, judge = task
    return judge.rank(stored.load(), answer(block))


def check_calibrated(model: Reconstructor, n: int, rules: CalibrationRules = RULES) -> None:
    """Refuse a model without a posterior, and too few samples of each event."""
    name, check = repr(model.architecture), "to check a posterior"
    if model.architecture in NULL_MODELS:
        raise UsageError(f"{name} does not look at the momenta: it has no posterior to check")
    if model.sampler.is_point:
        raise UsageError(
            f"{name} answers with one geometry: it has no posterior to check; see flowcei compare"
        )
    if n < rules.min_samples:
        raise UsageError(f"{n} samples an event are too few {check}; {rules.min_samples} at the least")


def _judged(
    judge: TruthOfEvents,
    model: Reconstructor,
    ranks: dict[str, NDArray[Any]],
    weights: Weights | None,
    rules: CalibrationRules,
    useless: int,
) -> Calibration:
    """Judge the ranks of all events but some with useless weights."""
    molecule, rows, width = judge.events.molecule, ranks["rows"], model.frame.width
    units = {q.name: q.unit for q in quantities(molecule, molecule.equilibrium)[0] if q.kind != "atom"}
    names, dense = (*model.frame.names(molecule.labels), *units), ranks["hpd"].shape[1]
    sbc, tarp, chi2 = (
        Ranks(names, ranks["sbc"]),
        Ranks(("joint",), ranks["tarp"]),
        Ranks(("chi2",), ranks["chi2"]),
    )
    coverage = Ranks((*names, *[HPD] * dense), np.concatenate([ranks["sbc"], ranks["hpd"]], axis=1))
    internal = Ranks(tuple(units), ranks["sbc"][:, width:])
    regions = verdicts.regions_of(molecule, judge.events.momenta[rows], rules)
    table = verdicts.regions_table(internal, ranks["error"], regions)
    outcomes = (
        verdicts.check_sbc(sbc, rules, seed=judge.seed)
        + verdicts.check_coverage(coverage, rules)
        + verdicts.check_tarp(tarp, rules)
    )
    if len(table):
        outcomes += verdicts.check_regions(internal, table, regions, units, rules)
    if weights is not None:
        medians = {name: float(np.median(weights.efficiency[inside])) for name, inside in regions}
        table["efficiency"] = table["region"].map(medians)
        outcomes.insert(0, verdicts.check_weights(weights, medians, rules))
    if len(chi2):
        outcomes += verdicts.check_resimulation(chi2, rules, seed=judge.seed)
    lost, closed = len(judge.events) - len(rows) - useless, len(rows) - len(chi2)
    unchecked = {
        f"{model.architecture} has no density: no regions of highest density": not dense,
        f"{lost} events: the model can express no geometry for them": lost,
        f"{useless} events: their weights are not reliable; --exact judges all": useless,
        f"{closed} true geometries cannot be simulated: no resimulation of theirs": closed,
    }
    left_out = tuple(text for text, holds in unchecked.items() if holds)
    return Calibration(sbc, coverage, tarp, chi2, rules, tuple(outcomes), table, left_out)
