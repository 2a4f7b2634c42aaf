"""How good answers are, against positions that are known: scores, their columns, intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flowcei.posterior.spread import quantities

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from flowcei.molecules.molecule import Molecule

STILL = 1e-6
"""Bohr: a coordinate that varies less is left out of standardised errors."""

_SAME = 1e-7  # bohr: samples nearer to each other than this are one point
_PAIRS = 2_000_000  # distances held at a time
_LEVEL = 0.95  # of `within_samples`


@dataclass(frozen=True)
class Metric:
    """A column of the table of a comparison.

    Attributes:
        block: ``errors``, ``posterior`` or ``run``: where it is printed.
        unit: Of its numbers.
        text: What it is.
        of: The score of each event that it summarises.
        quantile: Which quantile over all events (and atoms, samples) it is; None for the mean.
    """

    block: str
    unit: str
    text: str
    of: str = ""
    quantile: float | None = None


METRICS = {
    "mse_mean": Metric("errors", "bohr^2", "squared error per coordinate of the posterior mean"),
    "mae_mean": Metric("errors", "bohr", "absolute error per coordinate of the posterior mean"),
    "mse_sample": Metric("errors", "bohr^2", "mse_mean of one random sample instead"),
    "mae_sample": Metric("errors", "bohr", "mae_mean of one random sample instead"),
    "std_mse_mean": Metric("errors", "", "mse_mean, each coordinate over its deviation in the test set"),
    "std_mae_mean": Metric("errors", "", "mae_mean, each coordinate over its deviation in the test set"),
    "std_mse_sample": Metric("errors", "", "std_mse_mean of one random sample instead"),
    "std_mae_sample": Metric("errors", "", "std_mae_mean of one random sample instead"),
    "atom_error_mean": Metric("errors", "bohr", "mean distance of an atom of the posterior mean", "atom"),
    "atom_error_median": Metric("errors", "bohr", "its median over atoms and events", "atom", 0.5),
    "atom_error_p95": Metric("errors", "bohr", "its 95th percentile", "atom", 0.95),
    "atom_error_sample": Metric("errors", "bohr", "mean distance of an atom of one sample", "atom_sample"),
    "atom_error_sample_median": Metric("errors", "bohr", "its median", "atom_sample", 0.5),
    "bond_mae": Metric("errors", "bohr", "absolute error of the mean sampled bond length"),
    "angle_mae": Metric("errors", "deg", "absolute error of the mean sampled bond angle"),
    "coverage_50": Metric("posterior", "", "share of coordinates in the central 50 % of samples"),
    "coverage_90": Metric("posterior", "", "share of coordinates in the central 90 % of samples"),
    "within_samples": Metric("posterior", "", "share of events within the samples; 0.95 is right"),
    "energy_score": Metric("posterior", "bohr", "energy score of all 3N coordinates"),
    "crps": Metric("posterior", "bohr", "continuous ranked probability score of a coordinate"),
    "nll": Metric("posterior", "nats", "negative log density at the truth, per bohr^(3N-3)"),
    "nll_bound": Metric("posterior", "nats", "upper bound on it, of models without a density"),
    "resimulation": Metric("posterior", "%", "median momentum error of simulated samples", "momenta", 0.5),
    "resimulation_truth": Metric("posterior", "%", "the same of the true positions", "momenta_truth", 0.5),
    "parameters": Metric("run", "", "numbers that were trained"),
    "training_rate": Metric("run", "1/s", "events a second in training"),
    "sampling_rate": Metric("run", "1/s", "samples a second in this run"),
}
"""Name of a column -> what it is. Those of `run` have no interval."""


def score(
    truth: NDArray[np.float64],
    samples: NDArray[np.floating],
    *,
    deviation: NDArray[np.float64] | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Judge the samples of each event against the truth.

    Args:
        truth: Positions in the recoil frame, centre of mass 0, (E, N, 3), bohr.
        samples: (E, n, N, 3), bohr, in the same frame. The first of each event serves as
            the random sample; a single one is taken as a point: it has no interval, and
            its energy score and CRPS are its distance.
        deviation: Of each coordinate over the whole test set, (N, 3), bohr; that of `truth`
            where None.

    Returns:
        Scores of each event, (E,), and `atom`, `atom_sample`, (E, N), the distance of each
        atom from the truth: the names that `METRICS` summarise.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(500, 1, 3))
        >>> round(float(score(x, np.zeros((500, 1, 1, 3)))["std_mse_mean"].mean()))
        1
    """
    scale = truth.std(axis=0) if deviation is None else deviation
    moving = scale > STILL
    found: dict[str, list[NDArray[np.float64]]] = {}
    for rows in _chunks(len(truth), samples[:1].size):
        x, drawn = truth[rows], samples[rows].astype(np.float64)
        flat, points = x.reshape(len(x), -1), drawn.reshape(*drawn.shape[:2], -1)
        part = _errors(drawn.mean(axis=1) - x, scale, moving, "mean", "atom")
        part |= _errors(drawn[:, 0] - x, scale, moving, "sample", "atom_sample")
        part |= {f"coverage_{k}": central_coverage(flat, points, k / 100).mean(axis=1) for k in (50, 90)}
        part |= {"crps": crps(flat, points).mean(axis=1)}
        part["energy_score"], part["within_samples"] = distance_scores(flat, points)
        for name, values in part.items():
            found.setdefault(name, []).append(values)
    return {name: np.concatenate(values) for name, values in found.items()}


def _errors(
    difference: NDArray[np.float64],
    scale: NDArray[np.float64],
    moving: NDArray[np.bool_],
    kind: str,
    atoms: str,
) -> dict[str, NDArray[np.float64]]:
    standard = difference[:, moving] / scale[moving]
    if not moving.any():
        standard = np.full((len(difference), 1), np.nan)
    return {
        f"mse_{kind}": (difference**2).mean(axis=(1, 2)),
        f"mae_{kind}": np.abs(difference).mean(axis=(1, 2)),
        f"std_mse_{kind}": (standard**2).mean(axis=1),
        f"std_mae_{kind}": np.abs(standard).mean(axis=1),
        atoms: np.linalg.norm(difference, axis=-1),
    }


def internal_errors(
    molecule: Molecule, truth: NDArray[np.float64], samples: NDArray[np.floating]
) -> dict[str, NDArray[np.float64]]:
    """Return how far the mean sampled bonds and angles of each event are from the true ones.

    Args:
        molecule: Its bonds and angles.
        truth: (E, N, 3), bohr, in any frame, identical ions labelled by the geometry.
        samples: (E, n, N, 3), bohr, alike.

    Returns:
        `bond_mae` (E,), bohr, and `angle_mae` (E,), degrees; NaN without bonds or angles.

    Example:
        >>> import flowcei
        >>> ocs = flowcei.Molecule.load("ocs")
        >>> x = ocs.equilibrium[None]
        >>> round(float(internal_errors(ocs, x, 1.1 * x[:, None])["bond_mae"][0]), 3)
        0.257
    """
    found: dict[str, list[NDArray[np.float64]]] = {"bond": [], "angle": []}
    for rows in _chunks(len(truth), samples[:1].size):
        names, values = quantities(molecule, samples[rows])
        away = np.abs(values.mean(axis=1) - quantities(molecule, truth[rows])[1])
        for kind, parts in found.items():
            chosen = [k for k, q in enumerate(names) if q.kind == kind]
            parts.append(away[:, chosen].mean(axis=1) if chosen else np.full(len(away), np.nan))
    return {f"{kind}_mae": np.concatenate(parts) for kind, parts in found.items()}


def central_coverage(
    truth: NDArray[np.float64], samples: NDArray[np.floating], level: float
) -> NDArray[np.float64]:
    """Return how much of each truth counts as inside the central interval of its samples, (E, K).

    The rank of the truth among n samples of the right posterior is uniform on 0 ... n; an
    interval is whole ranks, and the two at its ends count by the share that lies inside,
    so that a perfect posterior scores exactly `level` on average for any n.

    Args:
        truth: (E, K).
        samples: (E, n, K).
        level: Such as 0.9.

    Returns:
        Numbers from 0 to 1; NaN for n = 1.
    """
    n = samples.shape[1]
    if n < 2:
        return np.full(truth.shape, np.nan)
    rank = (samples < truth[:, None]).sum(axis=1)
    # Rank k stands for the interval [k, k + 1] / (n + 1) of the cumulative distribution.
    low, high = 0.5 - level / 2, 0.5 + level / 2
    left, right = rank / (n + 1), (rank + 1) / (n + 1)
    inside: NDArray[np.float64] = (np.minimum(right, high) - np.maximum(left, low)).clip(0.0) * (n + 1)
    return inside


def crps(truth: NDArray[np.float64], samples: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the continuous ranked probability score of each coordinate, (E, K).

    Unbiased for any number of samples: E|X - x| - E|X - X'| / 2 over distinct pairs, which
    sorted samples give in one sum. Source: C. Ferro, Q. J. R. Meteorol. Soc. 140, 1917 (2014).

    Args:
        truth: (E, K).
        samples: (E, n, K); n = 1 is a point, and its score the distance.

    Example:
        >>> crps(np.array([[0.0]]), np.array([[[-1.0], [1.0]]])).tolist()
        [[0.0]]
    """
    x = np.sort(samples.astype(np.float64), axis=1)
    n = x.shape[1]
    away = np.abs(x - truth[:, None]).mean(axis=1)
    if n < 2:
        return away
    weights = 2.0 * np.arange(1, n + 1) - n - 1.0
    halved_gap: NDArray[np.float64] = np.einsum("i,eik->ek", weights, x) / (n * (n - 1))
    return away - halved_gap


def distance_scores(
    truth: NDArray[np.float64], samples: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the energy score of each event, (E,), and whether its truth is within its samples, (E,).

    The energy score is the CRPS of K coordinates together, unbiased: E|X - x| - E|X - X'| / 2 over
    distinct pairs. Smaller is better, and no answer has a smaller expectation than the true
    posterior. Source: T. Gneiting and A. E. Raftery, J. Am. Stat. Assoc. 102, 359 (2007).

    Within means: no farther from its nearest sample than 95 % of the samples are from
    theirs. A sample sees more of its like where the density is higher, so this asks whether
    the truth lies in the region of highest density that holds 95 %. Of the right posterior
    the share is 0.95; of one too narrow or beside the truth less, of one too wide more. With
    fewer than 19 samples the largest of their distances is the bound, and n / (n + 1) right.

    Args:
        truth: (E, K).
        samples: (E, n, K).

    Returns:
        Scores; 1, 0, or NaN for n = 1 and for samples that are all one point.

    Example:
        >>> distance_scores(np.array([[0.0, 0.0]]), np.array([[[3.0, 4.0], [3.0, 4.0]]]))[0].tolist()
        [5.0]
        >>> cloud = np.random.default_rng(0).normal(size=(1, 200, 2))
        >>> [float(distance_scores(np.full((1, 2), r), cloud)[1][0]) for r in (0.0, 9.0)]
        [1.0, 0.0]
    """
    events, n = samples.shape[:2]
    away = np.linalg.norm(samples - truth[:, None], axis=-1)
    if n < 2:
        return away[:, 0], np.full(events, np.nan)
    gap, nearest = np.empty(events), np.empty((events, n))
    for rows in _chunks(events, n**2):
        gap[rows], nearest[rows] = _pairs(samples[rows].astype(np.float64))
    # The plotting position k / (n + 1), which makes the share right for any n.
    bound = np.quantile(nearest, _LEVEL, axis=1, method="weibull")
    within = np.where(bound > _SAME, away.min(axis=1) <= bound, np.nan)
    return away.mean(axis=1) - gap / 2.0, within


def _pairs(x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean distance of distinct samples (E,) and that of each to its nearest (E, n)."""
    events, n = x.shape[:2]
    x = x - x.mean(axis=1, keepdims=True)  # the smaller the numbers, the less the squares cancel
    squares = (x**2).sum(axis=-1)
    total, nearest = np.zeros(events), np.empty((events, n))
    step = max(1, _PAIRS // (events * n))
    for first in range(0, n, step):
        rows = slice(first, first + step)
        square = squares[:, rows, None] + squares[:, None] - 2.0 * x[:, rows] @ np.swapaxes(x, 1, 2)
        distance = np.sqrt(square.clip(0.0))
        itself = np.arange(first, min(first + step, n))
        distance[:, itself - first, itself] = 0.0
        total += distance.sum(axis=(1, 2))
        distance[:, itself - first, itself] = np.inf
        nearest[:, rows] = distance.min(axis=2)
    return total / (n * (n - 1)), nearest


def summarise(
    scores: dict[str, NDArray[np.float64]], *, resamples: int = 500, seed: int = 0
) -> dict[str, float]:
    """Return the columns of `METRICS` that scores of events allow, with 95 % intervals.

    Args:
        scores: Of each event, (E,) or (E, k): NaN where there is none.
        resamples: Bootstrap samples of events that the intervals are percentiles of; the
            events are what is drawn, with all of their atoms.
        seed: Of the draws, which are the same for every model of a comparison.

    Returns:
        `name`, `name_low` and `name_high` for each column.

    Example:
        >>> row = summarise({"crps": np.random.default_rng(0).normal(size=400)}, seed=1)
        >>> row["crps_low"] < row["crps"] < row["crps_high"]
        True
    """
    names = [name for name, metric in METRICS.items() if (metric.of or name) in scores]
    levels = {n: q for n in names if (q := METRICS[n].quantile) is not None}
    means = [n for n in names if n not in levels]
    sums = _Sums.of([scores[METRICS[n].of or n] for n in means])
    ordered = {of: _Sorted.of(scores[of]) for of in {METRICS[n].of for n in levels}}

    def columns(weight: NDArray[np.float64]) -> list[float]:
        found = dict(zip(means, sums.means(weight).tolist(), strict=True))
        found |= {n: ordered[METRICS[n].of].quantile(weight, q) for n, q in levels.items()}
        return [found[n] for n in names]

    count = len(next(iter(scores.values())))
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2,)))
    whole = columns(np.ones(count))
    drawn = (np.bincount(rng.integers(count, size=count), minlength=count) for _ in range(resamples))
    spread = np.array([columns(weight.astype(np.float64)) for weight in drawn])
    row: dict[str, float] = {}
    for name, value, values in zip(names, whole, spread.T, strict=True):
        known = values[~np.isnan(values)]
        # No interpolation: between infinities there is none.
        ends = np.quantile(known, (0.025, 0.975), method="nearest") if len(known) else (np.nan, np.nan)
        row |= {name: value, f"{name}_low": float(ends[0]), f"{name}_high": float(ends[1])}
    return row


@dataclass(frozen=True)
class _Sums:
    """Scores that are averaged, side by side: (E, K) each; what is not finite counts apart."""

    values: NDArray[np.float64]
    known: NDArray[np.float64]
    infinite: NDArray[np.float64]

    @classmethod
    def of(cls, scores: list[NDArray[np.float64]]) -> _Sums:
        columns = [s.reshape(len(s), -1) for s in scores]
        known = [np.isfinite(s).sum(axis=1) for s in columns]
        infinite = [np.isinf(s).any(axis=1) for s in columns]
        sums = [np.where(np.isfinite(s), s, 0.0).sum(axis=1) for s in columns]
        stacked = (np.array(part, dtype=np.float64).T for part in (sums, known, infinite))
        return cls(*stacked)

    def means(self, weight: NDArray[np.float64]) -> NDArray[np.float64]:
        if not self.values.size:
            return np.zeros(0)
        count = weight @ self.known
        mean = np.where(count > 0, weight @ self.values / np.where(count > 0, count, 1.0), np.nan)
        return np.where(weight @ self.infinite > 0, np.inf, mean)


@dataclass(frozen=True)
class _Sorted:
    """A score in rising order, and which event each value belongs to."""

    values: NDArray[np.float64]
    event: NDArray[np.intp]

    @classmethod
    def of(cls, scores: NDArray[np.float64]) -> _Sorted:
        flat = scores.reshape(-1)
        order = np.argsort(flat)[: int((~np.isnan(flat)).sum())]  # NaN comes last
        return cls(flat[order], order // (flat.size // len(scores)))

    def quantile(self, weight: NDArray[np.float64], level: float) -> float:
        total = np.cumsum(weight[self.event])
        if not len(total) or not total[-1]:
            return float("nan")
        return float(self.values[np.searchsorted(total, level * total[-1])])


def _chunks(events: int, size: int) -> Iterator[slice]:
    """Yield rows of events, so that each holds about `_PAIRS` numbers of `size` an event."""
    step = max(1, _PAIRS // max(1, size))
    return (slice(first, first + step) for first in range(0, events, step))
