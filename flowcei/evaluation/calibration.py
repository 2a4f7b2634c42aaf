"""Is the posterior of a model right? Its samples against truths it was not trained on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from flowcei.errors import DataError, UsageError
from flowcei.evaluation.comparison import warned
from flowcei.evaluation.nulls import NULL_MODELS
from flowcei.evaluation.ranks import (
    Coverage,
    Ranks,
    highest_density,
    run_resimulation,
    run_sbc,
    run_tarp,
)
from flowcei.evaluation.regions import check_regions, regions_of, regions_table
from flowcei.evaluation.verdicts import (
    LEVEL,
    Verdict,
    check_coverage,
    check_resimulation,
    check_sbc,
    check_tarp,
    check_weights,
    coverage_band,
)
from flowcei.events.container import events_of
from flowcei.posterior.spread import quantities
from flowcei.posterior.weights import Weights

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from flowcei.events.container import Events
    from flowcei.experiment.detector import Noise
    from flowcei.models.interface import Latent
    from flowcei.molecules.molecule import Molecule
    from flowcei.posterior.samples import PosteriorSamples
    from flowcei.reconstruction.model import Reconstructor

_MIN_EVENTS = 50  # fewer show nothing but a posterior that is grossly wrong
_MIN_SAMPLES = 10


@dataclass(frozen=True, eq=False)
class Calibration:
    """Ranks of the truth among the samples of a model, and what they say.

    Attributes:
        sbc: Ranks of chart coordinates, bonds and angles, (E, Q).
        coverage: Of their central intervals, and of regions of highest density.
        tarp: Ranks of the distance of the chart to a random point, (E, 1).
        resimulation: Ranks of the misfit of the momenta, (E', 1), of events whose true
            geometry can be simulated.
        level: How often a right posterior fails each kind of check.
        verdicts: One for each check and quantity.
        regions: Ranks and errors of bonds and angles by regions of the momenta: see
            `flowcei.evaluation.regions`.
        left_out: What could not be checked, in words.
    """

    sbc: Ranks
    coverage: Coverage
    tarp: Ranks
    resimulation: Ranks
    level: float
    verdicts: tuple[Verdict, ...]
    regions: pd.DataFrame
    left_out: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(verdict.passed for verdict in self.verdicts)

    def table(self) -> pd.DataFrame:
        """Return a row for each verdict."""
        return pd.DataFrame([asdict(verdict) for verdict in self.verdicts])

    def coverage_table(self) -> pd.DataFrame:
        """Return a row for each quantity and level: what is held, and the band in which it passes."""
        held = self.coverage
        levels = np.asarray(held.levels)
        low, high = coverage_band(len(held.ranks), levels, held.share.size, level=self.level)
        rows = [
            {"quantity": name, "level": level, "coverage": share, "low": left, "high": right}
            for name, shares in zip(held.names, held.share.T, strict=True)
            for level, share, left, right in zip(levels, shares, low, high, strict=True)
        ]
        return pd.DataFrame(rows)

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and words, for JSON."""
        return {
            "passed": self.passed,
            "level": self.level,
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
    level: float = LEVEL,
    weigh: bool = False,
    keep_flagged: bool = False,
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
            that are found.
        n: Samples an event, 10 or more.
        noise: As for `Reconstructor.sample`.
        latent: As for `Reconstructor.sample`.
        seed: Of samples, ties, points of reference and bands.
        level: How often a right posterior fails each of the five kinds of check.
        weigh: Whether to judge the samples with their importance weights, which a model with a
            density and a prior can have, or as the model drew them.
        keep_flagged: Whether to judge events that `flowcei.evaluation.comparison.trusted` leaves
            out, of which a `FlaggedWarning` is given.
        on_events: Called with the number of events that were judged, part by part.

    Raises:
        UsageError: For a model without a posterior, one of another molecule, or n < 10.
        DataError: For events without positions, or too few, or flagged all of them.

    Example:
        >>> import flowcei
        >>> events = flowcei.simulate("ocs", 100, noise="1%", seed=3)
        >>> found = calibrate(flowcei.load(), events, n=20)
        >>> sorted(set(found.table()["check"]))
        ['coverage', 'regions', 'resimulation', 'sbc', 'tarp']
    """
    events = events_of(events, model.molecule) if keep_flagged else warned([model], events, noise)
    truth = _known(model, events, n)
    judge = _Judge.of(model, events, truth, noise, seed)
    first, parts, rows, weights = 0, [], [], []
    for drawn in model.stream(events, n, noise=noise, latent=latent, seed=seed, weigh=weigh):
        answered = np.flatnonzero(drawn.answered)
        if len(answered):
            parts.append(judge.ranks(first + answered, drawn[answered]))
            rows.append(first + answered)
            weights += [] if drawn.weights is None else [drawn.weights[answered]]
        first += len(drawn)
        if on_events is not None:
            on_events(len(drawn))
    if not parts:
        raise DataError("the model can express a geometry for none of the events; are the units right?")
    sbc, tarp, resimulation = (
        Ranks.concatenate([part[k] for part in parts]) for k in ("sbc", "tarp", "chi2")
    )
    dense = "hpd" in parts[0]
    coverage = Coverage.of(sbc, Ranks.concatenate([part["hpd"] for part in parts]) if dense else None)
    verdicts = [
        *check_sbc(sbc, level=level, seed=seed),
        *check_coverage(coverage, level=level),
        *check_tarp(tarp, level=level),
    ]
    inner, errors = (Ranks.concatenate([part[k] for part in parts]) for k in ("inner", "error"))
    regions = regions_of(events.molecule, events.momenta[np.concatenate(rows)])
    by_region = regions_table(inner, errors.values, regions)
    if len(by_region):
        verdicts += check_regions(inner, by_region, regions, _units(events.molecule), level=level)
    if weights:
        joined = Weights.concatenate(weights)
        lowest = {region.name: float(np.median(joined.efficiency[region.events])) for region in regions}
        by_region["efficiency"] = by_region["region"].map(lowest)
        verdicts.insert(0, check_weights(joined, lowest))
    left_out = [] if dense else [f"{model.architecture} has no density: no regions of highest density"]
    if len(resimulation):
        verdicts += check_resimulation(resimulation, level=level, seed=seed)
    judged = len(sbc)
    if judged < len(events):
        left_out.append(f"{len(events) - judged} events: the model can express no geometry for them")
    if len(resimulation) < judged:
        count = judged - len(resimulation)
        left_out.append(f"{count} true geometries cannot be simulated: no resimulation of theirs")
    return Calibration(sbc, coverage, tarp, resimulation, level, tuple(verdicts), by_region, tuple(left_out))


def _known(model: Reconstructor, events: Events, n: int) -> NDArray[np.float64]:
    """Return the true positions, or refuse what cannot be judged."""
    name = model.architecture
    if name in NULL_MODELS:
        msg = f"{name!r} does not look at the momenta: it has no posterior to check"
        raise UsageError(msg)
    if model.network.is_point:
        msg = f"{name!r} answers with one geometry: it has no posterior to check; see flowcei compare"
        raise UsageError(msg)
    if n < _MIN_SAMPLES:
        msg = f"{n} samples an event are too few to check a posterior; {_MIN_SAMPLES} at the least"
        raise UsageError(msg)
    if events.positions is None:
        raise DataError("the data have momenta only; a check of posteriors needs the true positions")
    if len(events) < _MIN_EVENTS:
        msg = f"{len(events)} events are too few to check a posterior; {_MIN_EVENTS} at the least"
        raise DataError(msg)
    return events.positions


@dataclass(frozen=True, eq=False)
class _Judge:
    """What does not depend on the samples, for all events."""

    model: Reconstructor
    events: Events
    truth: NDArray[np.float64]
    noise: Noise | str | None
    chart: NDArray[np.float64]  # of the truth, (E, D)
    references: NDArray[np.float64]  # of TARP, (E, D)
    rng: np.random.Generator

    @classmethod
    def of(
        cls,
        model: Reconstructor,
        events: Events,
        truth: NDArray[np.float64],
        noise: Noise | str | None,
        seed: int,
    ) -> _Judge:
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(4,)))
        chart = _chart(model, events.momenta, model.sigma(events, noise), truth[:, None])[:, 0]
        references = chart.mean(axis=0) + chart.std(axis=0) * rng.standard_normal(chart.shape)
        return cls(model, events, truth, noise, chart, references, rng)

    def ranks(self, rows: NDArray[np.intp], drawn: PosteriorSamples) -> dict[str, Ranks]:
        """Return the ranks of some events by the name of what is ranked."""
        weights = None if drawn.weights is None else drawn.weights.normalised
        molecule, momenta = drawn.molecule, drawn.momenta
        truth, known = self.truth[rows], self.chart[rows]
        chart = _chart(self.model, momenta, drawn.sigma, drawn.positions)
        names, inner = _internal(drawn, drawn.positions)
        of_truth = _internal(drawn, truth[:, None])[1][:, 0]
        share = np.full(inner.shape[:2], 1.0 / inner.shape[1]) if weights is None else weights
        found = {
            "error": Ranks(tuple(names), np.einsum("en,enk->ek", share, inner) - of_truth),
            "sbc": run_sbc(
                np.concatenate([chart, inner], axis=2),
                np.concatenate([known, of_truth], axis=1),
                weights=weights,
                names=[*self.model.frame.names(molecule.labels), *names],
                seed=self.rng,
            ),
            "tarp": run_tarp(
                chart,
                known,
                weights=weights,
                references=self.references[rows],
                deviation=self.chart.std(axis=0),
                seed=self.rng,
            ),
            "chi2": self._misfits(drawn, truth, weights),
        }
        found["inner"] = Ranks(tuple(names), found["sbc"].values[:, chart.shape[2] :])
        if drawn.log_prob is not None and self.model.network.has_density:
            density, of_truth = (
                drawn.log_prob,
                self.model.log_prob(truth[:, None], self.events[rows], noise=self.noise),
            )
            if drawn.weights is not None:  # regions of the exact posterior, where it is what is judged
                exact = drawn.weights.reliable[:, None]
                density = density + np.where(exact, drawn.weights.log_weights, 0.0)
                of_truth = np.where(exact, drawn.log_posterior(truth[:, None]), of_truth)
            found["hpd"] = highest_density(density, of_truth[:, 0], weights=weights, seed=self.rng)
        return found

    def _misfits(
        self, drawn: PosteriorSamples, truth: NDArray[np.float64], weights: NDArray[np.float64] | None
    ) -> Ranks:
        likelihood = drawn.likelihood
        of_truth = likelihood.chi_squared(truth[:, None])[:, 0]
        chi2 = likelihood.chi_squared(drawn.positions)  # infinite: what cannot explode explains nothing
        sound = np.isfinite(of_truth)
        if not sound.any():
            return Ranks(("chi2",), np.empty((0, 1)))
        return run_resimulation(
            chi2[sound],
            of_truth[sound],
            weights=None if weights is None else weights[sound],
            seed=self.rng,
        )


def _chart(
    model: Reconstructor,
    momenta: NDArray[np.float64],
    sigma: NDArray[np.float64],
    positions: NDArray[np.floating],
) -> NDArray[np.float64]:
    """Return the chart (E, n, D) of positions (E, n, N, 3)."""
    framed = model.frame.enter(torch.from_numpy(np.ascontiguousarray(momenta)), torch.from_numpy(sigma))
    return model.frame.to_chart(torch.from_numpy(positions.astype(np.float64)), framed).numpy()


def _units(molecule: Molecule) -> dict[str, str]:
    """Return the unit of each bond and angle."""
    return {q.name: q.unit for q in quantities(molecule, molecule.equilibrium)[0]}


def _internal(
    drawn: PosteriorSamples, positions: NDArray[np.floating]
) -> tuple[list[str], NDArray[np.float64]]:
    """Return names and values (E, n, K) of bonds and angles; truth and samples are labelled alike."""
    names, values = quantities(drawn.molecule, drawn.labelled(positions))
    chosen = [k for k, q in enumerate(names) if q.kind != "atom"]
    return [names[k].name for k in chosen], values[..., chosen]
