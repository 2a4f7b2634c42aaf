"""Scores of answers against known positions: one table of them, an entry a score, with 95 % intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.check.agreement import moving_prior
from flowcei.experiment.covariance import CovarianceLikelihood
from flowcei.experiment.experiment import BUILD_UP_TIME, stated_forward
from flowcei.experiment.likelihood import centred_momenta
from flowcei.frame.recoil import RecoilFrame
from flowcei.physics.explosion import COULOMB, followed_momenta, forward_of
from flowcei.posterior.arrays import RowArrays
from flowcei.posterior.labels import label_by_geometry, relabel
from flowcei.posterior.spread import quantities
from flowcei.units import length_in_bohr

if TYPE_CHECKING:
    from flowcei.events.container import Events
    from flowcei.experiment.experiment import Experiment
    from flowcei.molecules.molecule import Molecule
    from flowcei.physics.forward import ForwardModel
    from flowcei.physics.priors import GeometryPrior
    from flowcei.posterior.arrays import Bools, Floats, Reals, Rows

STILL = 1e-6  # bohr: a coordinate that varies less is left out of standardised errors
_COINCIDENT = 1e-7  # bohr: samples nearer to each other than this are one point
_HELD = 2_000_000  # numbers held at a time
_WITHIN = 0.95  # of `within_samples`
_RESIMULATED_EVENTS = 500  # whose samples are simulated again, at the most
_RESIMULATED_SAMPLES = 20  # of each


@dataclass(frozen=True, eq=False)
class TestSet(RowArrays):
    """The truth of E events, in the frames that scores need; centre of mass 0, bohr."""

    ROWS = ("momenta", "explained", "lab", "recoil", "rotation", "order", "resimulated")
    __test__ = False  # pytest takes the name for its own

    molecule: Molecule
    momenta: Floats  # (E, N, 3), hbar / bohr
    explained: Floats  # what a geometry explains, of sum 0: `Likelihood.measured`, (E, N, 3)
    lab: Floats  # positions (E, N, 3) in the frame and with the labels of the momenta
    recoil: Floats  # (E, N, 3), identical ions labelled by the geometry
    rotation: Floats  # from the first to the second, (E, 3, 3)
    order: Rows  # which ion of the truth has each label there, (E, N)
    resimulated: Bools  # whose samples are simulated again, (E,)
    deviation: Floats  # of each coordinate in the recoil frame over the whole test set, (N, 3)
    forward: ForwardModel = COULOMB
    prior: GeometryPrior | None = None  # of events that began with momenta, where re-simulated ones begin too

    @classmethod
    def of(cls, events: Events, positions: Floats, experiment: Experiment | None = None) -> TestSet:
        """Turn positions (E, N, 3) of events, calibrated by their experiment, into the recoil frame."""
        molecule, count = events.molecule, len(events)
        ions = molecule.masses, molecule.charges
        explained, forward = centred_momenta(events.momenta, molecule.masses), stated_forward(events)
        if experiment is not None:
            likelihood = CovarianceLikelihood(*ions, events.momenta, experiment.of(molecule))
            explained = likelihood.measured
            forward = forward if BUILD_UP_TIME in events.columns else likelihood.forward
        # One frame for all events: that of a few might span other ions.
        rotation = RecoilFrame.of(molecule, events.momenta, reflect=False).rotation(events.momenta)
        lab = positions - (molecule.masses / molecule.masses.sum() @ positions)[:, None]
        order = label_by_geometry(molecule, events.momenta, positions[:, None])
        recoil = (relabel(lab[:, None], order) @ np.swapaxes(rotation, 1, 2)[:, None])[:, 0]
        resimulated = np.zeros(count, dtype=np.bool_)
        resimulated[np.linspace(0, count - 1, min(count, _RESIMULATED_EVENTS)).astype(int)] = True
        return cls(
            molecule,
            events.momenta,
            explained,
            lab,
            recoil,
            rotation,
            order[:, 0],
            resimulated,
            recoil.std(axis=0),
            forward,
            moving_prior(events),
        )

    def __getitem__(self, rows: Any) -> TestSet:  # noqa: ANN401 (a slice)
        """Return some of the events."""
        return replace(super().__getitem__(rows), forward=forward_of(self.forward, rows))


@dataclass(frozen=True, eq=False)
class Answers:
    """Samples of some events beside the truth, bohr: what a score is a function of."""

    test: TestSet
    given: Reals  # (E, n, N, 3): the first of each event is the random sample; a single one is a point
    in_recoil_frame: bool = False  # identical ions labelled as there; or all as the momenta are

    @cached_property
    def samples(self) -> Floats:
        """Samples in the recoil frame, (E, n, N, 3), identical ions labelled by the bond list."""
        x = self.given.astype(np.float64)
        if self.in_recoil_frame:
            return x
        # Not by a prior: those of several models would label one truth in several ways.
        order = label_by_geometry(self.test.molecule, self.test.momenta, self.given)
        return relabel(x, order) @ np.swapaxes(self.test.rotation, 1, 2)[:, None]

    @cached_property
    def lab_samples(self) -> Reals:
        """Samples in the frame of the momenta, (E, n, N, 3)."""
        if not self.in_recoil_frame:
            return self.given
        # The mean of many geometries is none: labels chosen by its bonds would be those of other ions.
        lab = np.empty_like(self.given)
        order = self.test.order[:, None, :, None]
        np.put_along_axis(lab, order, self.given @ self.test.rotation[:, None], axis=2)
        return lab

    @cached_property
    def error(self) -> dict[str, Floats]:
        """The posterior `mean` and one random `sample` less the truth, (E, N, 3)."""
        x, truth = self.samples, self.test.recoil
        return {"mean": x.mean(axis=1) - truth, "sample": x[:, 0] - truth}

    @cached_property
    def standardised(self) -> dict[str, Floats]:
        """The same over the deviation of each coordinate that moves, (E, K)."""
        moving = self.test.deviation > STILL
        if not moving.any():
            return dict.fromkeys(self.error, np.full((len(self.given), 1), np.nan))
        return {name: error[:, moving] / self.test.deviation[moving] for name, error in self.error.items()}

    @cached_property
    def internal(self) -> dict[str, Floats]:
        """Errors (E,) of the mean sampled `bond` (bohr) and `angle` (degrees); NaN without any."""
        names, values = quantities(self.test.molecule, self.samples)
        error = np.abs(values.mean(axis=1) - quantities(self.test.molecule, self.test.recoil)[1])
        chosen = {kind: [q.kind == kind for q in names] for kind in ("bond", "angle")}
        unknown = np.full(len(error), np.nan)
        return {kind: error[:, k].mean(axis=1) if any(k) else unknown for kind, k in chosen.items()}

    @cached_property
    def flat(self) -> tuple[Floats, Floats]:
        """Truth (E, 3N) and samples (E, n, 3N)."""
        x = self.samples
        return self.test.recoil.reshape(len(x), -1), x.reshape(*x.shape[:2], -1)

    @cached_property
    def distances(self) -> tuple[Floats, Floats]:
        """Energy score, and whether the truth is within the samples, (E,) each."""
        return distance_scores(*self.flat)


@dataclass(frozen=True)
class Score:
    """A column of a comparison: an entry of `SCORES` is all that table, picture and JSON need."""

    name: str
    unit: str  # empty for a pure number
    text: str  # what it is
    # From answers to the value of each event, (E,) or (E, k), NaN where there is none; None for densities and
    # numbers of the run, which are no functions of samples.
    of: Callable[[Answers], Floats] | None = None
    quantile: float | None = None  # over all events (and atoms, samples); None for the mean
    better: str | float = "smaller"  # or larger, or what a right posterior has; empty where none is
    block: str = (
        "errors"  # posterior or run (without an interval): where it is printed; empty for files alone
    )
    picture: tuple[str, str] | None = None  # axis label of its panel, and its name in the legend

    @property
    def columns(self) -> tuple[str, ...]:
        """Its columns in a table, with the ends of its interval."""
        return (self.name,) if self.block == "run" else (self.name, f"{self.name}_low", f"{self.name}_high")

    def shown_in(self, length: str) -> tuple[str, float]:
        """Its unit with another length in place of bohr, and how much of its own that is."""
        power = {"bohr": 1, "bohr^2": 2}.get(self.unit, 0)
        return self.unit.replace("bohr", length), length_in_bohr(length) ** power


def _power(power: int, answer: str, *, standard: bool = False) -> Callable[[Answers], Floats]:
    """Mean over coordinates of |error| to a power."""

    def of(answers: Answers) -> Floats:
        error = (answers.standardised if standard else answers.error)[answer]
        return np.asarray((np.abs(error) ** power).reshape(len(error), -1).mean(axis=1))

    return of


def _atom(answer: str) -> Callable[[Answers], Floats]:
    return lambda answers: np.linalg.norm(answers.error[answer], axis=-1)


def _resimulation(answer: str) -> Callable[[Answers], Floats]:
    """|p(x) - p| / |p| in % (E, k); infinite where x cannot be simulated, NaN where nothing is."""

    def of(answers: Answers) -> Floats:
        test = answers.test
        masses, chosen = test.molecule.masses, test.resimulated
        positions = test.lab[:, None] if answer == "truth" else answers.lab_samples[:, :_RESIMULATED_SAMPLES]
        # Not the measured ones, whose sum is noise that no geometry can follow: it would count against every
        # sample.
        x, p = positions[chosen].astype(np.float64), test.explained[chosen]
        ions = masses, test.molecule.charges
        forward = forward_of(test.forward, np.repeat(np.flatnonzero(chosen), x.shape[1]))
        x = x.reshape(-1, *x.shape[2:])
        rng, prior = np.random.default_rng(0), test.prior
        motion = None if prior is None else prior.momenta_of(x, test.molecule.identical, rng)
        again = followed_momenta(x, *ions, forward=forward, initial_momenta=motion)
        miss = np.linalg.norm(again.reshape(len(p), -1, *p.shape[1:]) - p[:, None], axis=(2, 3))
        relative = miss / np.linalg.norm(p, axis=(1, 2))[:, None]
        error = np.full(positions.shape[:2], np.nan)
        error[chosen] = np.where(np.isnan(relative), np.inf, 100.0 * relative)
        return error

    return of


def _coverage(percent: int) -> Score:
    return Score(
        f"coverage_{percent}",
        "",
        f"share of coordinates in the central {percent} % of samples",
        lambda answers: central_coverage(*answers.flat, percent / 100).mean(axis=1),
        better=percent / 100,
        block="posterior",
        picture=("coverage (%), dotted: wanted", f"coverage of {percent} %"),
    )


_standard = partial(_power, standard=True)
_filed, _right = partial(Score, block=""), partial(Score, block="posterior")
_run, _median = partial(Score, block="run", better="larger"), partial(Score, quantile=0.5)
_SCALED = "each coordinate over its deviation in the test set"
_INSTEAD = "of one random sample instead"
_MSE, _MAE, _ATOM = (
    ((label, "posterior mean"), (label, "one random sample"))
    for label in ("MSE (standardised units)", "MAE (standardised units)", "median error per atom")
)

SCORES: tuple[Score, ...] = (  # in the order of the columns
    Score("mse_mean", "bohr^2", "squared error per coordinate of the posterior mean", _power(2, "mean")),
    Score("mae_mean", "bohr", "absolute error per coordinate of the posterior mean", _power(1, "mean")),
    _filed("mse_sample", "bohr^2", f"mse_mean {_INSTEAD}", _power(2, "sample")),
    _filed("mae_sample", "bohr", f"mae_mean {_INSTEAD}", _power(1, "sample")),
    Score("std_mse_mean", "", f"mse_mean, {_SCALED}", _standard(2, "mean"), picture=_MSE[0]),
    Score("std_mae_mean", "", f"mae_mean, {_SCALED}", _standard(1, "mean"), picture=_MAE[0]),
    _filed("std_mse_sample", "", f"std_mse_mean {_INSTEAD}", _standard(2, "sample"), picture=_MSE[1]),
    _filed("std_mae_sample", "", f"std_mae_mean {_INSTEAD}", _standard(1, "sample"), picture=_MAE[1]),
    Score("atom_error_mean", "bohr", "mean distance of an atom of the posterior mean", _atom("mean")),
    _median("atom_error_median", "bohr", "its median over atoms and events", _atom("mean"), picture=_ATOM[0]),
    Score("atom_error_p95", "bohr", "its 95th percentile", _atom("mean"), 0.95),
    Score("atom_error_sample", "bohr", "mean distance of an atom of one sample", _atom("sample")),
    _filed("atom_error_sample_median", "bohr", "its median", _atom("sample"), 0.5, picture=_ATOM[1]),
    Score("bond_mae", "bohr", "absolute error of the mean sampled bond length", lambda a: a.internal["bond"]),
    Score("angle_mae", "deg", "absolute error of the mean sampled bond angle", lambda a: a.internal["angle"]),
    _coverage(50),
    _coverage(90),
    _right(
        "within_samples",
        "",
        "share of events within the samples; 0.95 is right",
        lambda a: a.distances[1],
        better=_WITHIN,
    ),
    _right("energy_score", "bohr", "energy score of all 3N coordinates", lambda a: a.distances[0]),
    _right(
        "crps",
        "bohr",
        "continuous ranked probability score of a coordinate",
        lambda a: crps(*a.flat).mean(axis=1),
    ),
    _right("nll", "nats", "negative log density at the truth, per bohr^(3N-3)"),
    _right("nll_bound", "nats", "upper bound on it, of models without a density"),
    _right("resimulation", "%", "median momentum error of simulated samples", _resimulation("samples"), 0.5),
    _right("resimulation_truth", "%", "the same of the true positions", _resimulation("truth"), 0.5),
    _run("parameters", "", "numbers that were trained", better=""),
    _run("training_rate", "1/s", "events a second in training"),
    _run("sampling_rate", "1/s", "samples a second in this run"),
)


def evaluate(scores: Sequence[Score], answers: Answers, *, held: int = _HELD) -> dict[str, Floats]:
    """Return the value of each event, (E,) or (E, k), by the name of the score; `held` bounds the memory."""
    test, given = answers.test, answers.given
    step = max(1, held // given[0].size)
    cuts = [slice(k, k + step) for k in range(0, len(given), step)]
    blocks = [Answers(test[rows], given[rows], answers.in_recoil_frame) for rows in cuts]
    functions = {score.name: score.of for score in scores if score.of is not None}
    parts = [[of(block) for of in functions.values()] for block in blocks]
    return dict(zip(functions, map(np.concatenate, zip(*parts, strict=True)), strict=True))


def central_coverage(truth: Floats, samples: Reals, level: float) -> Floats:
    """Return how much of truths (E, K) is inside the central interval of samples (E, n, K); NaN for n = 1."""
    n = samples.shape[1]
    if n < 2:
        return np.full(truth.shape, np.nan)
    rank = (samples < truth[:, None]).sum(axis=1)
    # Rank k stands for the interval [k, k + 1] / (n + 1) of the cumulative distribution; those at the ends
    # count by the share that lies inside, which is right on average for any n.
    first, last = rank / (n + 1), (rank + 1) / (n + 1)
    inside: Floats = np.minimum(last, 0.5 + level / 2) - np.maximum(first, 0.5 - level / 2)
    return inside.clip(0.0) * (n + 1)


def crps(truth: Floats, samples: Reals) -> Floats:
    """Return the CRPS (E, K) of truths (E, K) and samples (E, n, K), unbiased; of n = 1 the distance."""
    # E|X - x| - E|X - X'| / 2 over distinct pairs: C. Ferro, Q. J. R. Meteorol. Soc. 140, 1917 (2014).
    x = np.sort(samples.astype(np.float64), axis=1)
    n = x.shape[1]
    distance: Floats = np.abs(x - truth[:, None]).mean(axis=1)
    if n < 2:
        return distance
    weights = 2.0 * np.arange(1, n + 1) - n - 1.0
    return distance - np.einsum("i,eik->ek", weights, x) / (n * (n - 1))


def distance_scores(truth: Floats, samples: Reals, *, held: int = _HELD) -> tuple[Floats, Floats]:
    """Return the energy score of truths (E, K), and whether they are within samples (E, n, K), (E,) each.

    Within (1, 0, NaN for a point): no farther from the nearest sample than 95 % of the samples are from
    theirs, see docs/comparing.md.
    """
    # E|X - x| - E|X - X'| / 2 over distinct pairs: T. Gneiting and A. E. Raftery, J. Am. Stat. Assoc. 102,
    # 359 (2007).
    from scipy.spatial.distance import cdist  # a fifth of a second, of calibrate too, if it stood above

    events, n = samples.shape[:2]
    distance = np.linalg.norm(samples - truth[:, None], axis=-1)
    if n < 2:
        return distance[:, 0], np.full(events, np.nan)
    total, nearest = np.zeros(events), np.empty((events, n))
    step = max(1, held // n)
    for event, x in enumerate(samples):
        for first in range(0, n, step):
            between = cdist(x[first : first + step], x)
            total[event] += between.sum()
            np.fill_diagonal(between[:, first:], np.inf)
            nearest[event, first : first + step] = between.min(axis=1)
    # The plotting position k / (n + 1), which makes the share right for any n.
    bound = np.quantile(nearest, _WITHIN, axis=1, method="weibull")
    within = np.where(bound > _COINCIDENT, distance.min(axis=1) <= bound, np.nan)
    return distance.mean(axis=1) - total / (2 * n * (n - 1)), within
