"""Is the posterior of a model right? Its samples against truths it was not trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from flowcei.errors import DataError, UsageError
from flowcei.evaluation import verdicts
from flowcei.evaluation.comparison import NULL_MODELS, experiment_of, true_positions, warned
from flowcei.evaluation.verdicts import HPD, RULES, CalibrationRules, Ranks, Verdict
from flowcei.events.container import events_of
from flowcei.experiment.experiment import BUILD_UP_TIME
from flowcei.experiment.missing import LOST, completed, lost_column, lost_ions
from flowcei.posterior.exact import R_HAT
from flowcei.posterior.flags import FLAG_BITS
from flowcei.posterior.spread import quantities
from flowcei.posterior.weights import Weights
from flowcei.reconstruction.sampling import SamplingRequest

if TYPE_CHECKING:
    from flowcei.events.container import Events
    from flowcei.experiment.detector import Noise
    from flowcei.experiment.experiment import Experiment
    from flowcei.models.interface import Latent
    from flowcei.posterior.arrays import Floats, Reals, Rows
    from flowcei.posterior.samples import PosteriorSamples
    from flowcei.reconstruction.model import Reconstructor


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
        return pd.DataFrame([asdict(verdict) for verdict in self.verdicts])

    def coverage_table(self) -> pd.DataFrame:
        """Return a row for each quantity and level: what is held, and the band in which it passes."""
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
    if experiment is not None and not (weigh or exact):
        how_else = "--exact or --weigh; exact=True or weigh=True"
        raise UsageError(f"of an experiment exact or weighed samples are judged ({how_else})")
    events = events_of(events, model.molecule) if keep_flagged else warned([model], events, noise, own)
    check_calibrated(model, n, rules)
    how: dict[str, Any] = {"noise": noise, "latent": latent, "seed": seed, "weigh": weigh, "exact": exact}
    if missing:
        events = without_ions(events, missing, seed)
    seen = events if own is None else own.calibrated(events)
    if missing and (lost := lost_ions(events.columns, len(events.molecule))) is not None:
        seen = replace(seen, momenta=completed(seen.momenta, lost))  # as samples have them
    if own is not None and noise is None and (weigh or exact):
        # Brings momenta to their scale itself.
        drawn = model.blocks(events, SamplingRequest(n, experiment=own, **how))
    else:
        drawn = model.stream(seen, n, **how)
    return calibrated(model, seen, drawn, noise=noise, seed=seed, rules=rules, on_events=on_events)


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
    noise: Noise | str | None,
    seed: int,
    rules: CalibrationRules = RULES,
    on_events: Callable[[int], None] | None = None,
) -> Calibration:
    """Check samples of a model, of all of the events, block by block."""
    truth = true_positions(events, rules.min_events, "to check a posterior")
    # A stream of its own: a truth drawn with the same seed must not be its own reference.
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(4,)))
    chart = _chart(model, events.momenta, model.sigma(events, noise), truth[:, None])[:, 0]
    references = chart.mean(axis=0) + chart.std(axis=0) * rng.standard_normal(chart.shape)
    judge = _Judge(model, events, truth, noise, chart, references, rng)
    first, blocks, weights, useless = 0, [], [], 0
    for block in drawn:
        aside = (block.flag_bits & FLAG_BITS["experiment"]) > 0  # `sample` leaves them out, too
        useless += int(aside.sum())
        answered = np.flatnonzero(block.answered & ~aside)
        if len(answered):
            blocks.append(judge.rank(first + answered, block[answered]))
            if block.weights is not None and R_HAT not in block.columns:  # exact samples count alike
                weights.append(block.weights[answered])
        first += len(block)
        if on_events is not None:
            on_events(len(block))
    if not blocks and useless:
        raise DataError("the weights of no event are reliable; judge exact samples (--exact, exact=True)")
    if not blocks:
        raise DataError("the model can express a geometry for none of the events; are the units right?")
    ranks = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    joined = Weights.concatenate(weights) if weights else None
    return judge.calibration(ranks, joined, rules, seed, useless)


def check_calibrated(model: Reconstructor, n: int, rules: CalibrationRules = RULES) -> None:
    """Refuse a model without a posterior, and too few samples of each event."""
    name, check = repr(model.architecture), "to check a posterior"
    if model.architecture in NULL_MODELS:
        raise UsageError(f"{name} does not look at the momenta: it has no posterior to check")
    if model.network.is_point:
        raise UsageError(
            f"{name} answers with one geometry: it has no posterior to check; see flowcei compare"
        )
    if n < rules.min_samples:
        raise UsageError(f"{n} samples an event are too few {check}; {rules.min_samples} at the least")


@dataclass(frozen=True, eq=False)
class _Judge:
    """What does not depend on the samples."""

    model: Reconstructor
    events: Events
    truth: Floats  # positions (E, N, 3), bohr
    noise: Noise | str | None
    chart: Floats  # of the truth, (E, D)
    references: Floats  # random points, (E, D)
    rng: np.random.Generator

    def rank(self, rows: Rows, samples: PosteriorSamples) -> dict[str, NDArray[Any]]:
        """Return ranks (e, Q) of the truth of events `rows` (e,) by what is ranked, and errors (e, K)."""
        weights = None if samples.weights is None else samples.weights.normalised
        truth, true_chart = self.truth[rows][:, None], self.chart[rows]
        if samples.assignment is not None:  # momenta are of the likeliest assignment, and so is the frame
            true_chart = _chart(self.model, samples.momenta, samples.sigma, truth)[:, 0]
        chart = _chart(self.model, samples.momenta, samples.sigma, samples.positions)
        internal, true_internal = (
            quantities(samples.molecule, samples.labelled(x))[1][..., 3 * len(samples.molecule) :]
            for x in (samples.positions, truth)
        )
        chi2 = samples.likelihood.chi_squared(samples.positions, samples.build_up)
        true_chi2 = samples.likelihood.chi_squared(truth, _true_times(samples))
        finite = np.isfinite(true_chi2[:, 0])  # samples may have infinity: they explain nothing
        of_truth = np.concatenate([true_chart, true_internal[:, 0]], axis=1)
        scale = self.chart.std(axis=0)
        ranked = {
            "sbc": (np.concatenate([chart, internal], axis=2), of_truth, weights),
            "tarp": (*verdicts.tarp_distances(chart, true_chart, self.references[rows], scale), weights),
            "chi2": (chi2[finite, :, None], true_chi2[finite], None if weights is None else weights[finite]),
            "hpd": (*self._densities(rows, samples), weights),
        }
        mean = internal.mean(axis=1) if weights is None else np.einsum("en,enk->ek", weights, internal)
        ranks = {name: verdicts.rank(*given, self.rng) for name, given in ranked.items()}
        return ranks | {"rows": rows, "error": mean - true_internal[:, 0]}

    def _densities(self, rows: Rows, samples: PosteriorSamples) -> tuple[Floats, Floats]:
        """Return minus log densities of samples (e, n, 1) and truth (e, 1); no column without densities."""
        truth = self.truth[rows][:, None]
        if samples.log_prob is None or not self.model.network.has_density:
            return np.empty((*samples.positions.shape[:2], 0)), np.empty((len(rows), 0))
        density = samples.log_prob.astype(np.float64)
        of_truth = self.model.log_prob(truth, self.events[rows], noise=self.noise)
        if samples.weights is not None:  # regions of the exact posterior, where it is what is judged
            exact = samples.weights.reliable[:, None]
            density = density + np.where(exact, samples.weights.log_weights, 0.0)
            of_truth = np.where(exact, samples.log_posterior(truth, times=_true_times(samples)), of_truth)
        return -density[..., None], -of_truth

    def calibration(
        self,
        ranks: dict[str, NDArray[Any]],
        weights: Weights | None,
        rules: CalibrationRules,
        seed: int,
        useless: int,
    ) -> Calibration:
        """Judge the ranks of all events but some with useless weights."""
        molecule, rows, width = self.events.molecule, ranks["rows"], self.chart.shape[1]
        units = {q.name: q.unit for q in quantities(molecule, molecule.equilibrium)[0] if q.kind != "atom"}
        names, dense = (*self.model.frame.names(molecule.labels), *units), ranks["hpd"].shape[1]
        sbc, tarp, chi2 = (
            Ranks(names, ranks["sbc"]),
            Ranks(("joint",), ranks["tarp"]),
            Ranks(("chi2",), ranks["chi2"]),
        )
        coverage = Ranks((*names, *[HPD] * dense), np.concatenate([ranks["sbc"], ranks["hpd"]], axis=1))
        internal = Ranks(tuple(units), ranks["sbc"][:, width:])
        regions = verdicts.regions_of(molecule, self.events.momenta[rows], rules)
        table = verdicts.regions_table(internal, ranks["error"], regions)
        outcomes = (
            verdicts.check_sbc(sbc, rules, seed=seed)
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
            outcomes += verdicts.check_resimulation(chi2, rules, seed=seed)
        lost, closed = len(self.events) - len(rows) - useless, len(rows) - len(chi2)
        unchecked = {
            f"{self.model.architecture} has no density: no regions of highest density": not dense,
            f"{lost} events: the model can express no geometry for them": lost,
            f"{useless} events: their weights are not reliable; --exact judges all": useless,
            f"{closed} true geometries cannot be simulated: no resimulation of theirs": closed,
        }
        left_out = tuple(text for text, holds in unchecked.items() if holds)
        return Calibration(sbc, coverage, tarp, chi2, rules, tuple(outcomes), table, left_out)


def _chart(model: Reconstructor, momenta: Floats, sigma: Floats, positions: Reals) -> Floats:
    """Return the chart (E, n, D) of positions (E, n, N, 3)."""
    framed = model.frame.enter(torch.from_numpy(np.ascontiguousarray(momenta)), torch.from_numpy(sigma))
    return model.frame.to_chart(torch.from_numpy(positions.astype(np.float64)), framed).numpy()


def _true_times(samples: PosteriorSamples) -> Floats | None:
    """Build-up times of events (E, 1), fs, whose samples have some: as simulated, else the prior's mean."""
    law = samples.build_up_prior
    if samples.build_up is None or law is None:
        return None
    mean = np.full(len(samples), law.mean.times[0])
    return np.asarray(samples.columns.get(BUILD_UP_TIME, mean), dtype=np.float64)[:, None]
