"""The law of normal modes from the momenta of many events, without samples: for molecules of many atoms.

A geometry is R (x_eq + B z): z are normal coordinates over their deviations under the prior, R its rotation.
The most probable z and R of an event, under the law as it is known so far, are found by Gauss-Newton. There
the likelihood is taken for normal in z, with the information F that is left when R is unknown; so the law of
all events is found by expectation and maximisation in closed form (A. Dempster, N. Laird and D. Rubin, J. R.
Statist. Soc. B 39, 1 (1977), with the approximation of Laplace). Search and law alternate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial.transform import Rotation
from scipy.stats import chi2

from flowcei.ensemble.components import Moments
from flowcei.ensemble.coordinates import ModesChart
from flowcei.ensemble.fitting import accelerated
from flowcei.ensemble.laws import NormalLaw
from flowcei.ensemble.population import Population, check_count
from flowcei.ensemble.uncertainty import Information, MonteCarlo, inverted
from flowcei.errors import DataError, UsageError
from flowcei.experiment.detector import Noise
from flowcei.experiment.experiment import Experiment, has_accidents
from flowcei.experiment.missing import completed, lost_ions
from flowcei.physics.explosion import followed_momenta
from flowcei.physics.priors import NormalModesPrior, build_prior
from flowcei.physics.priors.orders import nearest_rotations
from flowcei.physics.threads import in_threads
from flowcei.posterior.samples import PosteriorSamples

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from flowcei.events.container import Events
    from flowcei.posterior.arrays import Bools, Floats, Rows

IMPROBABLE = "improbable"
"""Events that no geometry explains: they are left out."""

_BLOCK = 500  # events whose geometries are searched together
_STEPS, _SHORTENED, _CLOSE = 15, 6, 1e-3  # to the most probable geometry; nats that end a search
_RESTARTS, _IMPROBABLE, _UNLIKELY = (
    8,
    1e-2,
    1e-5,
)  # other searches, and the chances that begin and condemn them
_OPEN = 1e-6  # inverse variance of a rotation that momenta leave open
_ROUNDS, _SMALL = 200, 1e-4  # of the search for a law, and the step that ends it
_PASSES = 2  # of search and law
_OF_SLOPES = 1e-4  # accuracy of derivatives, far below what curvature makes of them
_MOST_IMPROBABLE = 0.1  # share of events that no geometry explains


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
    seed: int = 0,
) -> Population:
    """Find the normal law of all normal modes of a molecule, without a model and without samples.

    Posteriors are taken for normal about their most probable geometries, so they must be narrow beside what
    is curved: fine resolution, a stiff molecule. Errors do not know of that; events of the law, simulated
    and treated alike, do. Ions are taken to be those that the events say they are, like ones too, and any
    number of them may be lost where an experiment states its source. Eleven atoms take 10 ms an event.

    Args:
        events: Measured events, three for each number of the law.
        coordinates: Modes that the law is of, such as ``mode-1``; all where none. Others are as in the prior.
        prior: A name or table of the molecule's, or a prior, of normal modes, its default where None: of its
            modes the law is; the search for geometries begins with it.
        noise: As of `simulate`; that of the events where None.
        experiment: Instead of `noise`.
        seed: Of searches that begin anew.

    Returns:
        The law. Events that no geometry explains are left out, and counted. A noise larger than stated is
        found in the widths: there are as many modes as momenta that tell of them.

    Raises:
        UsageError: For another prior, or an experiment with assignments.
        DataError: For too few events, or a tenth of them that no geometry explains.

    Example:
        >>> import flowcei
        >>> e = flowcei.simulate("iodopyridine", 30, noise="1%", seed=1)
        >>> flowcei.vibrational_law(e, ["mode-1"])
        Population: normal law of mode-1 of iodopyridine, 30 events
    """
    law = prior if isinstance(prior, NormalModesPrior) else build_prior(events.molecule, prior)
    if not isinstance(law, NormalModesPrior) or not law.has_density or law.motion:
        raise UsageError(
            "a law of vibrations needs a prior of all normal modes of a molecule at rest that is not straight"
        )
    blank = _blank(events, law, noise, None if experiment is None else Experiment.load(experiment))
    chart = ModesChart(events.molecule, law, coordinates)
    chosen = np.array([int(one.name.removeprefix("mode-")) - 1 for one in chart.coordinates])
    check_count(len(blank), len(chosen))
    flat = NormalLaw(np.ones(1), np.zeros((1, len(chosen))), np.eye(len(chosen))[None], chart.bends)
    fitted, z = flat, None
    for _ in range(_PASSES):
        mean, precision = np.zeros(law.mode_count), np.eye(law.mode_count)
        mean[chosen], precision[np.ix_(chosen, chosen)] = fitted.mean[0], np.linalg.inv(fitted.covariance[0])
        z, every = _searched(blank, law, mean, precision, z, seed)
        _check(every)
        told = every.of_coordinates(chosen)
        fitted = _law_of(told, fitted, chart.images)
    return _population(blank, chart, fitted, flat, told)


def _check(told: Told) -> None:
    """Raise DataError where events are not of the molecule near its equilibrium."""
    improbable = float(np.mean(~told.usable))
    if improbable > _MOST_IMPROBABLE:
        what = f"{improbable:.0%} of the events are explained by no geometry near the equilibrium"
        raise DataError(f"{what}: another molecule, labels, charges, or a larger noise?")


def _blank(
    events: Events, prior: NormalModesPrior, noise: str | None, experiment: Experiment | None
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
    if sigma is None:
        raise UsageError("the events state no noise: name it")
    origin = stated | {"prior": prior.spec(), "events": events.origin}
    x = np.zeros((len(events), 1, *momenta.shape[1:]), np.float32)
    return PosteriorSamples(
        molecule, momenta, x, None, events.event_id, sigma, origin, columns=events.columns
    )


def _searched(
    blank: PosteriorSamples,
    prior: NormalModesPrior,
    mean: Floats,
    precision: Floats,
    start: Floats | None,
    seed: int,
) -> tuple[Floats, Told]:
    """Most probable coordinates (E, K) under a law, sought from others, and what events tell."""
    e, k = len(blank), prior.mode_count
    z, told = np.empty((e, k)), Told(np.empty((e, k)), np.empty((e, k, k)), np.empty(e, bool))

    def work(first: int) -> None:
        rows = slice(first, first + _BLOCK)
        search = _Search(blank[rows], prior, mean, precision)
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(first,)))
        z[rows], rotation, height = search.best(None if start is None else start[rows], rng)
        linear, information = search.told(z[rows], rotation)
        told.linear[rows], told.information[rows] = linear, information
        finite = np.isfinite(linear).all(axis=1) & np.isfinite(information).all(axis=(1, 2))
        told.usable[rows] = finite & (height < search.bound(_UNLIKELY))

    in_threads(work, range(0, e, _BLOCK), None)
    return z, told


class _Search:
    """Events whose most probable geometries are sought together, under a law of normal coordinates."""

    def __init__(
        self, blank: PosteriorSamples, prior: NormalModesPrior, mean: Floats, precision: Floats
    ) -> None:
        self.blank, self.prior, self.mean, self.precision = blank, prior, mean, precision
        self.likelihood = blank.likelihood
        self.accuracy = max(self.likelihood.accuracy, 1e-6)
        self.unit = (self.likelihood.size / self.likelihood.noise)[:, None]
        self.rows, self.k = np.arange(len(blank)), prior.mode_count

    def best(self, start: Floats | None, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
        """Coordinates (E, K), rotations (E, 3, 3) and minus log posteriors (E,), those above 0.

        Searches begin at given coordinates or at the law's mean; where that ends at an improbable geometry,
        in draws of the law.
        """
        z, rotation, height = self.search(
            np.tile(self.mean, (len(self.rows), 1)) if start is None else start.copy()
        )
        root = np.linalg.cholesky(np.linalg.inv(self.precision))
        for _ in range(_RESTARTS):
            bad = np.flatnonzero(height > self.bound(_IMPROBABLE))
            if not len(bad):
                break
            again = _Search(self.blank[bad], self.prior, self.mean, self.precision)
            other = again.search(self.mean + rng.standard_normal((len(bad), self.k)) @ root.T)
            better = other[2] < height[bad]
            for own, new in zip((z, rotation, height), other, strict=True):
                own[bad[better]] = new[better]
        return z, rotation, height

    def bound(self, p: float) -> Floats:
        """Height (E,) of the most probable geometry that is exceeded with a chance."""
        lost = np.zeros((len(self.rows), 1)) if self.blank.lost is None else self.blank.lost
        return np.asarray(0.5 * chi2.isf(p, 3.0 * (len(self.blank.molecule) - lost.sum(axis=1)) - 3.0))

    def search(self, z: Floats) -> tuple[Floats, Floats, Floats]:
        """Where Gauss-Newton leads from coordinates (E, K): these, rotations, and heights (E,)."""
        rotation, rows = self._first_rotation(z), self.rows
        height, misfit = self._height(z, rotation, rows)
        for _ in range(_STEPS):
            slope, inverse = self._slope(z[rows], rotation[rows], rows)
            inverse[:, : self.k, : self.k] += self.precision
            gradient = np.einsum("edk,ed->ek", slope, misfit[rows])
            gradient[:, : self.k] += (z[rows] - self.mean) @ self.precision
            step = -np.linalg.solve(inverse, gradient[..., None])[..., 0]
            before, short = height.copy(), np.arange(len(rows))
            for _ in range(_SHORTENED):
                own, s = rows[short], step[short]
                turned = Rotation.from_rotvec(s[:, self.k :]).as_matrix() @ rotation[own]
                moved = z[own] + s[:, : self.k]
                lower, other = self._height(moved, turned, own)
                better = lower < height[own]
                to = own[better]
                z[to], rotation[to], height[to] = moved[better], turned[better], lower[better]
                misfit[to] = other[better]
                short, step = short[~better], 0.3 * step
                if not len(short):
                    break
            rows = rows[(before - height)[rows] > _CLOSE]
            if not len(rows):
                break
        return z, rotation, height

    def told(self, z: Floats, rotation: Floats) -> tuple[Floats, Floats]:
        """What events tell of coordinates near some, whatever their rotation: h (E, K) and F (E, K, K)."""
        slope, inverse = self._slope(z, rotation, self.rows)
        gradient = np.einsum("edk,ed->ek", slope, self._height(z, rotation, self.rows)[1])
        k = self.k
        gain = np.linalg.solve(inverse[:, k:, k:], inverse[:, k:, :k])
        information = inverse[:, :k, :k] - inverse[:, :k, k:] @ gain
        pull = gradient[:, :k] - np.einsum("eba,eb->ea", gain, gradient[:, k:])
        return np.einsum("ekl,el->ek", information, z) - pull, information

    def _first_rotation(self, z: Floats) -> Floats:
        """Rotations (E, 3, 3) of geometries whose momenta are nearest to those that were detected."""
        ions = self.blank.molecule
        exact = followed_momenta(self.prior.at(z), ions.masses, ions.charges, forward=self.likelihood.forward)
        there = np.ones(self.blank.momenta.shape[:2]) if self.blank.lost is None else ~self.blank.lost
        momenta = self.blank.momenta * there[..., None]
        return nearest_rotations(np.swapaxes(momenta, 1, 2) @ exact.astype(np.float64))

    def _height(self, z: Floats, rotation: Floats, rows: Rows) -> tuple[Floats, Floats]:
        """Minus log posteriors (E,) of a geometry of each event, but for a constant, and misfits (E, D)."""
        x = self.prior.at(z) @ np.swapaxes(rotation, 1, 2)
        misfit = self.likelihood.residual(x, rows, accuracy=self.accuracy) * self.unit[rows]
        away = z - self.mean
        height = 0.5 * (misfit**2).sum(axis=1) + 0.5 * ((away @ self.precision) * away).sum(axis=1)
        return np.where(np.isfinite(height), height, np.inf), misfit

    def _slope(self, z: Floats, rotation: Floats, rows: Rows) -> tuple[Floats, Floats]:
        """Derivatives (E, D, K + 3) of the misfit by coordinates and rotation, and their information."""
        x = self.prior.at(z) @ np.swapaxes(rotation, 1, 2)
        by_position = self.likelihood.slope(x, rows, accuracy=_OF_SLOPES) * self.unit[rows, :, None]
        modes = self.prior.at(np.eye(self.k)) - self.prior.equilibrium
        by_z = np.einsum("kna,eba->enbk", modes, rotation).reshape(len(z), -1, self.k)
        by_turn = np.stack([np.cross(axis, x) for axis in np.eye(3)], axis=-1).reshape(len(z), -1, 3)
        slope = by_position @ np.concatenate([by_z, by_turn], axis=2)
        return slope, np.swapaxes(slope, 1, 2) @ slope + np.diag([0.0] * self.k + [_OPEN] * 3)


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

    def close(law: NormalLaw, first: NormalLaw, second: NormalLaw, _: float) -> bool:
        del second
        return bool(np.abs(first.vector - law.vector).max() < _SMALL)

    return accelerated(law, step, close, _ROUNDS)


def _given(told: Told, law: NormalLaw) -> Iterator[tuple[Rows, Floats, Floats, Floats]]:
    """Usable events, block by block: their rows, and `Told.given`."""
    every = np.flatnonzero(told.usable)
    for rows in np.array_split(every, -(-len(every) // _BLOCK)):
        yield rows, *told.given(law, rows)


def _population(
    blank: PosteriorSamples, chart: ModesChart, law: NormalLaw, flat: NormalLaw, told: Told
) -> Population:
    """The law with its errors, by products of the scores of events (Fisher's identity)."""
    inverse, sd, pairs = np.linalg.inv(law.covariance[0]), law.deviation[0], law.pairs
    fisher, log_likelihood, raw, within = 0.0, 0.0, [], []
    unit = sd[pairs[0]] * sd[pairs[1]]
    for rows, z, covariance, each in _given(told, law):
        away = z - law.mean[0]
        square = inverse @ (covariance + away[:, :, None] * away[:, None] - law.covariance[0]) @ inverse
        widths = np.einsum("ekl,lk->ek", square, law.covariance[0])
        score = np.concatenate([away @ inverse, widths, square[:, *pairs] * unit], axis=1)
        fisher = fisher + score.T @ score
        mean, own, before = told.given(flat, rows)
        raw.append(mean)
        within.append(np.einsum("ekk->ek", own))
        log_likelihood += float((each - before).sum())
    pooled, variance = np.concatenate(raw), np.concatenate(within)
    total = np.sqrt(pooled.var(axis=0) + variance.mean(axis=0))
    covariance = inverted(np.asarray(fisher))
    return Population(
        blank.molecule,
        chart,
        law,
        raw=np.array([pooled.mean(axis=0), total]),
        blur=np.median(np.sqrt(variance), axis=0),
        pooled=pooled + np.sqrt(variance) * np.random.default_rng(0).standard_normal(pooled.shape),
        events=len(pooled),
        samples=0,
        log_likelihood=log_likelihood,
        information=Information(covariance, np.zeros(len(covariance)), MonteCarlo(0.0, 0.0, 0)),
        left_out={IMPROBABLE: int((~told.usable).sum())},
    )
