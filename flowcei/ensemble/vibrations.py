"""The law of normal modes from the momenta of many events, without a model: for molecules of many atoms.

The most probable geometry of each event, under the law as it is known so far, is found by Gauss-Newton. Where
its likelihood is taken for normal there, a first law of all events has a closed form (A. Dempster, N. Laird
and D. Rubin, J. R. Statist. Soc. B 39, 1 (1977)). Under it the exact posteriors are sampled, and the law is
sought that makes these samples, weighed by its ratio to the first, likeliest, until the law stays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from flowcei.ensemble.components import Moments
from flowcei.ensemble.coordinates import ModesChart
from flowcei.ensemble.fitting import Weighted, accelerated, maximised
from flowcei.ensemble.laws import NormalLaw
from flowcei.ensemble.population import Population, check_count
from flowcei.ensemble.reduction import UNMIXED
from flowcei.ensemble.uncertainty import Information, information
from flowcei.ensemble.vibrating import Vibrating
from flowcei.errors import DataError, UsageError
from flowcei.experiment.detector import Noise
from flowcei.experiment.experiment import Experiment, has_accidents
from flowcei.experiment.missing import completed, lost_ions
from flowcei.physics.priors import NormalModesPrior, build_prior
from flowcei.physics.threads import in_threads
from flowcei.posterior.samples import PosteriorSamples

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from flowcei.events.container import Events
    from flowcei.posterior.arrays import Bools, Floats, Reals, Rows

IMPROBABLE = "improbable"
"""Events that no geometry explains: they are left out."""

_BLOCK = 500  # events whose geometries are searched together
_UNLIKELY = 1e-5  # the chance of a geometry that condemns it
_STEPS, _SMALL = 600, 1e-4  # of the search for a law, and the one that ends it
_MOST_CHANCE = 1.0  # variance of a law by the chance of samples over that by the number of events
_FEWEST = 4  # samples of an event
_ROUNDS_OF_DRAWS, _STILL = 8, 0.8  # before the last, at the most; a move over the one before that ends them
_APART = 10, 20  # steps of a chain between draws: for the first laws, and for the last
_MOVED = 0.02  # least share of draws that differ from the one before
_MOST_IMPROBABLE = 0.1  # share of events that no geometry explains

Use: TypeAlias = "Callable[[Rows, Vibrating, np.random.Generator], None]"


@dataclass(frozen=True, eq=False)
class Told:
    """What E events tell of K normal coordinates: log likelihood h z - z F z / 2."""

    linear: Floats  # h, (E, K)
    information: Floats  # F, (E, K, K)
    usable: Bools  # (E,)

    def given(self, law: NormalLaw, rows: Rows | slice = slice(None)) -> tuple[Floats, Floats, Floats]:
        """Mean (E, K) and covariance (E, K, K) of the coordinates under a law, and log likelihoods (E,)."""
        inverse = np.linalg.inv(law.covariance[0])
        precision = self.information[rows] + inverse
        linear = self.linear[rows] + inverse @ law.mean[0]
        covariance = np.linalg.inv(precision)
        mean = np.einsum("ekl,el->ek", covariance, linear)
        own = 0.5 * (np.linalg.slogdet(inverse)[1] - law.mean[0] @ inverse @ law.mean[0])
        peak = (mean * linear).sum(axis=1) - np.linalg.slogdet(precision)[1]
        return mean, np.asarray(covariance, float), np.asarray(own + 0.5 * peak, float)

    def of_coordinates(self, chosen: Rows) -> Told:
        """The same of some coordinates (K',), where the others are as in the prior."""
        others = np.setdiff1d(np.arange(self.linear.shape[1]), chosen)
        if not len(others):
            return self
        own, both = self.information[:, chosen], self.information[:, others][:, :, others]
        gain = np.linalg.solve(both + np.eye(len(others)), self.information[:, others][:, :, chosen])
        linear = self.linear[:, chosen] - np.einsum("eba,eb->ea", gain, self.linear[:, others])
        information = own[:, :, chosen] - own[:, :, others] @ gain
        return Told(linear, information, self.usable)


def vibrational_law(
    events: Events,
    coordinates: Sequence[str] = (),
    *,
    prior: str | dict[str, Any] | NormalModesPrior | None = None,
    noise: str | None = None,
    experiment: Experiment | str | Path | None = None,
    samples: int = 48,
    seed: int = 0,
) -> Population:
    """Find the normal law of all normal modes of a molecule, without a model.

    The most probable geometry of each event is searched, and the exact posterior is sampled about it, so the
    molecule must be stiff enough that an event has one. Ions are taken to be those that the events say they
    are, like ones too, and any number of them may be lost where an experiment states its source. Eleven atoms
    take 30 ms an event.

    Args:
        events: Measured events, three for each number of the law.
        coordinates: Modes that the law is of, such as ``mode-1``; all where none. Others are as in the prior.
        prior: A name or table of the molecule's, or a prior, of normal modes, its default where None: of its
            modes the law is; the search for geometries begins with it.
        noise: As of `simulate`; that of the events where None.
        experiment: Instead of `noise`.
        samples: Of the posterior of each event, that follow each other in a chain.
        seed: Of the samples.

    Returns:
        The law. Events that no geometry explains are left out, and counted. A noise larger than stated is
        found in the widths: there are as many modes as momenta that tell of them.

    Raises:
        UsageError: For another prior, or an experiment with assignments.
        DataError: For too few events or samples, or a tenth of the events that no geometry explains.

    Example:
        >>> import flowcei
        >>> e = flowcei.simulate("iodopyridine", 30, noise="1%", seed=1)
        >>> flowcei.vibrational_law(e, ["mode-1"])
        Population: normal law of mode-1 of iodopyridine, 30 events
    """
    law = prior if isinstance(prior, NormalModesPrior) else build_prior(events.molecule, prior)
    if samples < _FEWEST:
        raise UsageError(f"a law of vibrations takes {_FEWEST} samples an event or more; got {samples}")
    if not isinstance(law, NormalModesPrior) or not law.has_density or law.motion:
        raise UsageError(
            "a law of vibrations needs a prior of all normal modes of a molecule at rest that is not straight"
        )
    blank = unsampled(events, law, noise, None if experiment is None else Experiment.load(experiment))
    chart = ModesChart(events.molecule, law, coordinates)
    chosen = np.array([int(one.name.removeprefix("mode-")) - 1 for one in chart.coordinates])
    check_count(len(blank), len(chosen))
    flat = NormalLaw(np.ones(1), np.zeros((1, len(chosen))), np.eye(len(chosen))[None], chart.bends)
    geometries = _Geometries(blank, law, chosen, seed)
    told = geometries.told(flat)
    fitted = _law_of(told, flat, chart.images)
    fitted, known, data = sought(fitted, geometries.drawn, chart.images, samples)
    return _population(blank, chart, (fitted, flat), known, told, data)


def unsampled(
    events: Events, prior: NormalModesPrior, noise: str | None = None, experiment: Experiment | None = None
) -> PosteriorSamples:
    """Samples of events that are not drawn, which know their likelihood."""
    molecule = events.molecule
    stated: dict[str, Any] = {"noise": noise or "of each event", "noise_relative": True}
    if experiment is not None:
        if noise is not None:
            raise UsageError("the experiment states its noise; leave the other out")
        if experiment.of(molecule).orders is not None or has_accidents(experiment.to_dict()):
            raise UsageError(
                "a law of vibrations takes true events of known ions: no accidents or assignments"
            )
        events, stated = experiment.calibrated(events), {"experiment": experiment.to_dict()}
    momenta, lost = events.momenta, lost_ions(events.columns, len(molecule))
    if lost is not None:
        if experiment is None or np.isinf(experiment.of(molecule).spread).any():
            raise UsageError(
                "events that lack an ion need an experiment whose source is known (spread or temperature)"
            )
        momenta = completed(momenta, lost)
    sigma = events.sigma if noise is None else Noise.parse(noise).sigma(momenta)
    if experiment is not None:
        sigma = experiment.of(molecule).sigma(momenta)
    if sigma is None or not (sigma > 0.0).all():
        raise UsageError("the events state no noise, or 0: name it")
    origin = stated | {"prior": prior.spec(), "events": events.origin}
    x = np.zeros((len(events), 1, *momenta.shape[1:]), np.float32)
    return PosteriorSamples(
        molecule, momenta, x, None, events.event_id, sigma, origin, columns=events.columns
    )


class _Geometries:
    """Geometries of events under laws of some normal coordinates, and the prior's of the others."""

    def __init__(self, blank: PosteriorSamples, prior: NormalModesPrior, chosen: Rows, seed: int) -> None:
        self.blank, self.prior, self.chosen, self.seed = blank, prior, chosen, seed
        self.z, self.rotation = np.zeros((len(blank), prior.mode_count)), np.zeros((len(blank), 3, 3))
        self.usable, self.passed = np.ones(len(blank), bool), 0
        self.last: Floats | None = None  # of chains, (E, K + 3), over z and rotation

    def told(self, law: NormalLaw) -> Told:
        """What events tell of the coordinates, about the most probable geometries under a law."""
        e, k = self.z.shape
        out = Told(np.zeros((e, k)), np.zeros((e, k, k)), self.usable)

        def use(rows: Rows, search: Vibrating, _: np.random.Generator) -> None:
            linear, information = search.told(self.z[rows], self.rotation[rows])
            self.usable[rows] = np.isfinite(linear).all(axis=1) & np.isfinite(information).all(axis=(1, 2))
            out.linear[rows], out.information[rows] = linear, information

        self._searched(law, use)
        return out.of_coordinates(self.chosen)

    def drawn(self, law: NormalLaw, count: int, apart: int) -> Weighted:
        """Draws of posteriors under a law, weighed back, so many steps apart; chains go on from the last."""
        z = np.zeros((len(self.z), count, len(self.chosen)), np.float32)
        base = np.zeros(z.shape[:2], np.float32)
        last = np.zeros((len(self.z), self.prior.mode_count + 3))

        def use(rows: Rows, search: Vibrating, rng: np.random.Generator) -> None:
            start = None if self.last is None else self.last[rows]
            own, last[rows] = search.draws(
                self.z[rows], self.rotation[rows], count, rng, apart=apart, start=start
            )
            own = own[:, :, self.chosen]
            each = law.log_prob(own.reshape(-1, own.shape[2]).astype(np.float64))
            z[rows], base[rows] = own, -each.reshape(own.shape[:2]) - np.log(count)

        self._searched(law, use)
        self.last = last
        ones = np.ones(self.usable.sum())
        return Weighted(z[self.usable], base[self.usable], ones, ones)

    def _searched(self, law: NormalLaw, use: Use) -> None:
        mean, precision = np.zeros(self.prior.mode_count), np.eye(self.prior.mode_count)
        mean[self.chosen] = law.mean[0]
        precision[np.ix_(self.chosen, self.chosen)] = np.linalg.inv(law.covariance[0])
        self.passed += 1

        def work(first: int) -> None:
            rows = np.arange(first, min(first + _BLOCK, len(self.z)))
            rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(self.passed, first)))
            search = Vibrating(self.blank[rows], self.prior, mean, precision)
            if self.passed <= 2:  # laws change little then
                start = None if self.passed == 1 else self.z[rows]
                self.z[rows], self.rotation[rows], height = search.best(start, rng)
                self.usable[rows] = height < search.bound(_UNLIKELY)
            good = self.usable[rows]
            if good.any():
                use(rows[good], search.of(good), rng)

        in_threads(work, range(0, len(self.z), _BLOCK), None)
        improbable = float(np.mean(~self.usable))
        if improbable > _MOST_IMPROBABLE:
            what = f"{improbable:.0%} of the events are explained by no geometry near the equilibrium"
            raise DataError(f"{what}: another molecule, labels, charges, or a larger noise?")


def sought(
    law: NormalLaw, drawn: Callable[[NormalLaw, int, int], Weighted], images: Floats, samples: int
) -> tuple[NormalLaw, Information, Weighted]:
    """The law of draws of posteriors, from another; how well it is known; and the draws.

    A few draws of an event do not let a law go far from that which they were drawn under, and chains begin
    where posteriors are not: events are drawn anew until it is the chance of draws that moves the law. To its
    variance is added a quarter of the square of its last move, where that is more than its chance.
    """
    step = np.inf
    for _ in range(_ROUNDS_OF_DRAWS):
        before = law.vector
        law, _ = maximised(law, drawn(law, samples // 2, _APART[0]), images)
        if (moved := float(np.linalg.norm(law.vector - before))) > _STILL * step:
            break
        step = moved
    last, data = law, drawn(law, samples, _APART[1])
    law, _ = maximised(law, data, images)
    known = information(law, data, _distinct(data.z))
    numbers = [
        np.concatenate([one.mean[0], np.log(one.deviation[0]), one.correlation[0][one.pairs]])
        for one in (last, law)
    ]
    more = np.maximum(0.25 * (numbers[1] - numbers[0]) ** 2 - known.chance, 0.0)
    return law, replace(known, covariance=known.covariance + np.diag(more)), data


def _law_of(told: Told, law: NormalLaw, images: Floats) -> NormalLaw:
    """The most likely law of usable events, from another."""

    def step(law: NormalLaw) -> tuple[NormalLaw, float]:
        k = len(law.bends)
        sums, total = Moments(np.zeros(1), np.zeros((1, k)), np.zeros((1, k, k))), 0.0
        for rows, z, covariance, each in _given(told, law):
            second = z.T @ z + covariance.sum(axis=0)
            sums += Moments(np.array([float(len(rows))]), z.sum(axis=0)[None], second[None])
            total += float(each.sum())
        return NormalLaw.of(sums.imaged(images), law.bends), total

    def close(law: NormalLaw, after: NormalLaw, _: float) -> bool:
        return bool(np.abs(after.vector - law.vector).max() < _SMALL)

    return accelerated(law, step, close, _STEPS)


def _given(told: Told, law: NormalLaw) -> Iterator[tuple[Rows, Floats, Floats, Floats]]:
    """Usable events, block by block: their rows, and `Told.given`."""
    every = np.flatnonzero(told.usable)
    for rows in np.array_split(every, -(-len(every) // _BLOCK)):
        yield rows, *told.given(law, rows)


def _population(
    blank: PosteriorSamples,
    chart: ModesChart,
    laws: tuple[NormalLaw, NormalLaw],
    known: Information,
    told: Told,
    data: Weighted,
) -> Population:
    """The first of two laws with its errors; under the second events are pooled."""
    law, flat = laws
    raw, within, log_likelihood = [], [], 0.0
    for rows, _, _, after in _given(told, law):
        mean, own, before = told.given(flat, rows)
        raw.append(mean)
        within.append(np.einsum("ekk->ek", own))
        log_likelihood += float((after - before).sum())
    pooled, variance = np.concatenate(raw), np.concatenate(within)
    total = np.sqrt(pooled.var(axis=0) + variance.mean(axis=0))
    chance = known.monte_carlo
    if chance.variance > _MOST_CHANCE:
        wanted = math.ceil(chance.samples * chance.variance / _MOST_CHANCE)
        what = f"{chance.samples} samples an event are too few: their chance moves the law by its error"
        raise DataError(f"{what}; take samples={wanted} or more, or the law of fewer modes")
    return Population(
        blank.molecule,
        chart,
        law.shifted(-known.bias, law.pairs),
        raw=np.array([pooled.mean(axis=0), total]),
        blur=np.median(np.sqrt(variance), axis=0),
        pooled=pooled + np.sqrt(variance) * np.random.default_rng(0).standard_normal(pooled.shape),
        events=len(data.z),
        samples=chance.samples,
        log_likelihood=log_likelihood,
        information=known,
        left_out={IMPROBABLE: int((~told.usable).sum()), UNMIXED: _unmixed(data.z)},
    )


def _distinct(z: Reals) -> float:
    """Share of independent ones among draws (E, n, K), if they forget alike."""
    half = z.shape[1] // 2
    near, far = (((z[:, k:] - z[:, :-k]) ** 2).mean(axis=(0, 1)) for k in (1, half))
    rho = np.clip(1.0 - near / far, 0.0, 1.0 - 1.0 / z.shape[1])
    return float(((1.0 - rho) / (1.0 + rho)).min())


def _unmixed(z: Reals) -> int:
    """How many events have draws (E, n, K) that hardly move."""
    moved = (np.diff(z, axis=1) != 0.0).any(axis=2).mean(axis=1)
    return int((moved < _MOVED).sum())
