"""Scores of answers against known positions: one table of them, an entry a score, with 95 % intervals."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from flowcei.experiment.likelihood import centred_momenta
from flowcei.frame.recoil import RecoilFrame
from flowcei.physics.explosion import followed_momenta
from flowcei.posterior.labels import label_by_geometry, relabel
from flowcei.posterior.spread import quantities

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from flowcei.events.container import Events
    from flowcei.molecules.molecule import Molecule

STILL = 1e-6
"""Bohr: a coordinate that varies less is left out of standardised errors."""

_COINCIDENT = 1e-7  # bohr: samples nearer to each other than this are one point
_HELD = 2_000_000  # numbers held at a time
_WITHIN = 0.95  # of `within_samples`
_RESIMULATED_EVENTS = 500  # whose samples are simulated again, at the most
_RESIMULATED_SAMPLES = 20  # of each


@dataclass(frozen=True, eq=False)
class TestSet:
    """The truth of E events, in the frames that scores need; centre of mass 0, bohr."""

    __test__ = False  # pytest takes the name for its own

    molecule: Molecule
    momenta: NDArray[np.float64]  # (E, N, 3), hbar / bohr
    lab: NDArray[np.float64]  # positions (E, N, 3) in the frame and with the labels of the momenta
    recoil: NDArray[np.float64]  # (E, N, 3), identical ions labelled by the geometry
    rotation: NDArray[np.float64]  # from the first to the second, (E, 3, 3)
    order: NDArray[np.intp]  # which ion of the truth has each label there, (E, N)
    resimulated: NDArray[np.bool_]  # whose samples are simulated again, (E,)
    deviation: NDArray[np.float64]  # of each coordinate in the recoil frame over the whole test set, (N, 3)

    @classmethod
    def of(cls, events: Events, positions: NDArray[np.float64]) -> TestSet:
        """Turn positions (E, N, 3) of events into the recoil frame."""
        molecule, count = events.molecule, len(events)
        p = torch.from_numpy(np.ascontiguousarray(events.momenta, dtype=np.float64))
        # One frame for all events: that of a few might span other ions.
        framed = RecoilFrame.of(molecule, p, reflect=False).enter(p, torch.ones(count, dtype=p.dtype))
        rotation = framed.rotation.numpy()
        lab = positions - (molecule.masses / molecule.masses.sum() @ positions)[:, None]
        order = label_by_geometry(molecule, events.momenta, positions[:, None])
        recoil = (relabel(lab[:, None], order) @ np.swapaxes(rotation, 1, 2)[:, None])[:, 0]
        resimulated = np.zeros(count, dtype=np.bool_)
        resimulated[np.linspace(0, count - 1, min(count, _RESIMULATED_EVENTS)).astype(int)] = True
        return cls(
            molecule, events.momenta, lab, recoil, rotation, order[:, 0], resimulated, recoil.std(axis=0)
        )

    def __getitem__(self, rows: slice) -> TestSet:
        """Return some of the events."""
        arrays = ("momenta", "lab", "recoil", "rotation", "order", "resimulated")
        return replace(self, **{name: getattr(self, name)[rows] for name in arrays})


@dataclass(frozen=True, eq=False)
class Answers:
    """Samples of some events beside the truth: what a score is a function of.

    Attributes:
        test: The truth.
        given: Samples (E, n, N, 3), bohr. The first of each event is the random sample; a single one is a
            point, without an interval.
        in_recoil_frame: Whether they are given there, identical ions labelled alike, or as the momenta are.
    """

    test: TestSet
    given: NDArray[np.floating]
    in_recoil_frame: bool = False

    @property
    def truth(self) -> NDArray[np.float64]:
        """Positions in the recoil frame, (E, N, 3), bohr."""
        return self.test.recoil

    @cached_property
    def samples(self) -> NDArray[np.float64]:
        """Samples in the recoil frame, (E, n, N, 3), bohr, identical ions labelled by the bond list.

        Priors of several models would label one truth in several ways.
        """
        x = self.given.astype(np.float64)
        if self.in_recoil_frame:
            return x
        order = label_by_geometry(self.test.molecule, self.test.momenta, self.given)
        return relabel(x, order) @ np.swapaxes(self.test.rotation, 1, 2)[:, None]

    @cached_property
    def lab_samples(self) -> NDArray[np.floating]:
        """Samples in the frame of the momenta, (E, n, N, 3), bohr."""
        if not self.in_recoil_frame:
            return self.given
        # The mean of many geometries is none: labels chosen by its bonds would be those of other ions.
        lab = np.empty_like(self.given)
        order = self.test.order[:, None, :, None]
        np.put_along_axis(lab, order, self.given @ self.test.rotation[:, None], axis=2)
        return lab

    @cached_property
    def error(self) -> dict[str, NDArray[np.float64]]:
        """The posterior `mean` and one random `sample` less the truth, (E, N, 3), bohr."""
        return {"mean": self.samples.mean(axis=1) - self.truth, "sample": self.samples[:, 0] - self.truth}

    @cached_property
    def standardised(self) -> dict[str, NDArray[np.float64]]:
        """The same over the deviation of each coordinate that moves, (E, K)."""
        moving = self.test.deviation > STILL
        if not moving.any():
            return dict.fromkeys(self.error, np.full((len(self.truth), 1), np.nan))
        return {name: error[:, moving] / self.test.deviation[moving] for name, error in self.error.items()}

    @cached_property
    def internal(self) -> dict[str, NDArray[np.float64]]:
        """Errors (E,) of the mean sampled `bond` (bohr) and `angle` (degrees); NaN without any."""
        names, values = quantities(self.test.molecule, self.samples)
        error = np.abs(values.mean(axis=1) - quantities(self.test.molecule, self.truth)[1])
        chosen = {kind: [q.kind == kind for q in names] for kind in ("bond", "angle")}
        unknown = np.full(len(error), np.nan)
        return {kind: error[:, k].mean(axis=1) if any(k) else unknown for kind, k in chosen.items()}

    @cached_property
    def flat(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Truth (E, 3N) and samples (E, n, 3N)."""
        x = self.samples
        return self.truth.reshape(len(x), -1), x.reshape(*x.shape[:2], -1)

    @cached_property
    def distances(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Energy score, and whether the truth is within the samples, (E,) each."""
        return distance_scores(*self.flat)


@dataclass(frozen=True)
class Score:
    """A column of a comparison: an entry of `SCORES` is all that table, picture and JSON need.

    Attributes:
        name: Of the column.
        unit: Of its numbers; empty for a pure number.
        text: What it is.
        of: From answers to the value of each event, (E,) or (E, k), NaN where there is none; None for
            densities and numbers of the run, which are no functions of samples.
        quantile: Which quantile over all events (and atoms, samples) the column is; None for the mean.
        better: ``smaller``, ``larger``, what a right posterior has, or empty where none is.
        block: ``errors``, ``posterior`` or ``run``: where it is printed; empty for files alone. Those of
            ``run`` have no interval.
        picture: Axis label of the panel that shows it, and its name in the legend; None for no panel.
    """

    name: str
    unit: str
    text: str
    of: Callable[[Answers], NDArray[Any]] | None = None
    quantile: float | None = None
    better: str | float = "smaller"
    block: str = "errors"
    picture: tuple[str, str] | None = None


def _power(power: int, answer: str, *, standard: bool = False) -> Callable[[Answers], NDArray[Any]]:
    """Mean over coordinates of |error| to a power."""

    def of(answers: Answers) -> NDArray[Any]:
        error = (answers.standardised if standard else answers.error)[answer]
        return np.asarray((np.abs(error) ** power).reshape(len(error), -1).mean(axis=1))

    return of


def _atom(answer: str) -> Callable[[Answers], NDArray[Any]]:
    return lambda answers: np.linalg.norm(answers.error[answer], axis=-1)


def _resimulation(answer: str) -> Callable[[Answers], NDArray[Any]]:
    """|p(x) - p| / |p| in % (E, k); infinite where x cannot be simulated, NaN where nothing is.

    p are centred: simulated momenta always are, so the measured sum, which is noise that no geometry can
    follow, would count against every sample.
    """

    def of(answers: Answers) -> NDArray[Any]:
        test = answers.test
        masses, chosen = test.molecule.masses, test.resimulated
        positions = test.lab[:, None] if answer == "truth" else answers.lab_samples[:, :_RESIMULATED_SAMPLES]
        x, p = positions[chosen].astype(np.float64), centred_momenta(test.momenta[chosen], masses)
        again = followed_momenta(x.reshape(-1, *x.shape[2:]), masses, test.molecule.charges)
        miss = np.linalg.norm(again.reshape(x.shape) - p[:, None], axis=(2, 3))
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
    for label in ("MSE (standardised units)", "MAE (standardised units)", "median error per atom (bohr)")
)

SCORES: tuple[Score, ...] = (
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
        better=0.95,
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
"""Every score of a comparison, in the order of its columns."""


def evaluate(
    scores: Sequence[Score], answers: Answers, *, held: int = _HELD
) -> dict[str, NDArray[np.float64]]:
    """Return the value of each event, (E,) or (E, k), by the name of the score; `held` bounds the memory."""
    test, given = answers.test, answers.given
    blocks = [
        Answers(test[rows], given[rows], answers.in_recoil_frame)
        for rows in _blocks(len(given), given[:1].size, held)
    ]
    functions = {score.name: score.of for score in scores if score.of is not None}
    parts = [[of(block) for of in functions.values()] for block in blocks]
    return dict(zip(functions, map(np.concatenate, zip(*parts, strict=True)), strict=True))


def central_coverage(
    truth: NDArray[np.float64], samples: NDArray[np.floating], level: float
) -> NDArray[np.float64]:
    """Return how much of truths (E, K) is inside the central interval of samples (E, n, K); NaN for n = 1."""
    n = samples.shape[1]
    if n < 2:
        return np.full(truth.shape, np.nan)
    rank = (samples < truth[:, None]).sum(axis=1)
    # Rank k stands for the interval [k, k + 1] / (n + 1) of the cumulative distribution; those at the ends
    # count by the share that lies inside, which is right on average for any n.
    low, high = 0.5 - level / 2, 0.5 + level / 2
    left, right = rank / (n + 1), (rank + 1) / (n + 1)
    inside: NDArray[np.float64] = (np.minimum(right, high) - np.maximum(left, low)).clip(0.0) * (n + 1)
    return inside


def crps(truth: NDArray[np.float64], samples: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the CRPS (E, K) of truths (E, K) and samples (E, n, K), unbiased; of n = 1 it is the distance.

    E|X - x| - E|X - X'| / 2 over distinct pairs: C. Ferro, Q. J. R. Meteorol. Soc. 140, 1917 (2014).
    """
    x = np.sort(samples.astype(np.float64), axis=1)
    n = x.shape[1]
    distance = np.abs(x - truth[:, None]).mean(axis=1)
    if n < 2:
        return distance
    weights = 2.0 * np.arange(1, n + 1) - n - 1.0
    halved_gap: NDArray[np.float64] = np.einsum("i,eik->ek", weights, x) / (n * (n - 1))
    return distance - halved_gap


def distance_scores(
    truth: NDArray[np.float64], samples: NDArray[np.floating], *, held: int = _HELD
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the energy score of truths (E, K), and whether they are within samples (E, n, K), (E,) each.

    E|X - x| - E|X - X'| / 2 over distinct pairs: T. Gneiting and A. E. Raftery, J. Am. Stat. Assoc. 102, 359
    (2007). Within (1, 0, NaN for a point): no farther from the nearest sample than 95 % of the samples are
    from theirs, see docs/comparing.md.
    """
    events, n = samples.shape[:2]
    distance = np.linalg.norm(samples - truth[:, None], axis=-1)
    if n < 2:
        return distance[:, 0], np.full(events, np.nan)
    gap, nearest = np.empty(events), np.empty((events, n))
    for rows in _blocks(events, n**2, held):
        gap[rows], nearest[rows] = _pairs(samples[rows].astype(np.float64), held)
    # The plotting position k / (n + 1), which makes the share right for any n.
    bound = np.quantile(nearest, _WITHIN, axis=1, method="weibull")
    within = np.where(bound > _COINCIDENT, distance.min(axis=1) <= bound, np.nan)
    return distance.mean(axis=1) - gap / 2.0, within


def _pairs(x: NDArray[np.float64], held: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean distance of distinct samples (E,) and that of each to its nearest (E, n)."""
    events, n = x.shape[:2]
    x = x - x.mean(axis=1, keepdims=True)  # the smaller the numbers, the less the squares cancel
    squares = (x**2).sum(axis=-1)
    total, nearest = np.zeros(events), np.empty((events, n))
    for rows in _blocks(n, events * n, held):
        square = squares[:, rows, None] + squares[:, None] - 2.0 * x[:, rows] @ np.swapaxes(x, 1, 2)
        distance = np.sqrt(square.clip(0.0))
        itself = np.arange(n)[rows]
        distance[:, itself - rows.start, itself] = 0.0
        total += distance.sum(axis=(1, 2))
        distance[:, itself - rows.start, itself] = np.inf
        nearest[:, rows] = distance.min(axis=2)
    return total / (n * (n - 1)), nearest


def _blocks(rows: int, size: int, held: int) -> Iterator[slice]:
    """Yield slices of rows that hold about `held` numbers, at `size` a row."""
    step = max(1, held // max(1, size))
    return (slice(first, min(first + step, rows)) for first in range(0, rows, step))
