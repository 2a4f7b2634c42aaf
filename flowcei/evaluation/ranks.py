"""Where the truth stands among posterior samples: one number per event, uniform if all is right.

Truth and samples of a right posterior are drawn from one distribution. So for any function of
a geometry (and of what was measured) the share of samples below the truth is uniform between 0
and 1 over events: a coordinate gives simulation-based calibration, the density of the model
its regions of highest density, the distance to a random point TARP, and the misfit of the
momenta a posterior predictive check. Every `run_` here has its `check_` in
`flowcei.evaluation.verdicts`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flowcei.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

LEVELS = tuple(k / 10 for k in range(1, 10))
"""Of the regions whose coverage is counted."""

HPD = "HPD region"
"""The name of the joint region of highest density among quantities."""

_SUM = 1e-6  # by which weights of an event may miss 1


@dataclass(frozen=True, eq=False)
class Ranks:
    """Share of the samples below the truth, with ties and ends drawn at random.

    Attributes:
        names: Of the Q quantities.
        values: (E, Q), uniform between 0 and 1 for a right posterior.
    """

    names: tuple[str, ...]
    values: NDArray[np.float64]

    def __len__(self) -> int:
        """Return the number of events."""
        return len(self.values)

    @classmethod
    def concatenate(cls, parts: Sequence[Ranks]) -> Ranks:
        """Join ranks of different events."""
        return cls(parts[0].names, np.concatenate([part.values for part in parts]))


@dataclass(frozen=True, eq=False)
class Coverage:
    """How often regions of the posterior hold the truth.

    Attributes:
        names: Of the quantities with central intervals; last `HPD`, where there are densities.
        levels: What the regions should hold, (L,).
        share: What they hold, (L, Q).
        ranks: Of the truth, (E, Q); of `HPD` the share of samples with more density.
    """

    names: tuple[str, ...]
    levels: tuple[float, ...]
    share: NDArray[np.float64]
    ranks: NDArray[np.float64]

    @classmethod
    def of(cls, central: Ranks, highest: Ranks | None, levels: Sequence[float] = LEVELS) -> Coverage:
        """Count from ranks that are known.

        Args:
            central: As `run_sbc` returns them.
            highest: One quantity: the share of samples with more density than the truth.
            levels: Between 0 and 1.
        """
        inner = np.abs(2.0 * central.values - 1.0)
        names, ranks = central.names, central.values
        if highest is not None:
            inner = np.concatenate([inner, highest.values], axis=1)
            names, ranks = (*names, HPD), np.concatenate([ranks, highest.values], axis=1)
        share = np.stack([(inner <= level).mean(axis=0) for level in levels])
        return cls(names, tuple(levels), share, ranks)


def run_sbc(
    samples: ArrayLike,
    truth: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    names: Sequence[str] | None = None,
    seed: int | np.random.Generator = 0,
) -> Ranks:
    """Rank the truth among the samples: simulation-based calibration.

    Source: S. Talts et al., arXiv:1804.06788 (2018). The rank of n samples is one of n + 1
    numbers; a draw between its ends makes it a continuous one, so that shares of whatever n
    are uniform. Weighted samples count as 1 / sum(w^2) ones: exact for equal weights, and of the
    right variance for any that do not depend on the samples. Weights that one or two samples carry
    make every rank uniform, whatever the posterior: `flowcei.evaluation.verdicts.check_weights`
    says so, and `Weights.normalised` are equal where they are not reliable.

    Args:
        samples: Q quantities of n samples of each event, (E, n, Q).
        truth: The same of the truth, (E, Q).
        weights: Importance weights that sum to 1 in each event, (E, n); equal where None.
        names: Of the quantities.
        seed: Of the draws that break ties.

    Raises:
        UsageError: For shapes that do not match, numbers that are not finite, or weights
            that are negative or do not sum to 1.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> ranks = run_sbc(rng.normal(size=(4000, 50, 1)), rng.normal(size=(4000, 1)))
        >>> abs(float(ranks.values.mean()) - 0.5) < 0.02
        True
    """
    x, true = np.asarray(samples, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    _refuse_shapes(x, true)
    names = tuple(f"q{k}" for k in range(x.shape[2])) if names is None else tuple(names)
    if len(names) != x.shape[2]:
        msg = f"{len(names)} names for {x.shape[2]} quantities; give one for each"
        raise UsageError(msg)
    if np.isnan(x).any() or np.isnan(true).any():
        raise UsageError("samples or truth are not numbers; leave such events out")
    rng = _generator(seed)
    w = _checked_weights(weights, (x.shape[0], x.shape[1]))
    below = _share(x < true[:, None], w)
    tied = _share(x == true[:, None], w)
    one = 1.0 / x.shape[1] if w is None else (w**2).sum(axis=1)[:, None]
    values = (below + rng.random(below.shape) * (tied + one)) / (1.0 + one)
    return Ranks(names, values)


def highest_density(
    log_prob: ArrayLike,
    truth_log_prob: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    seed: int | np.random.Generator = 0,
) -> Ranks:
    """Return the share of samples with more density than the truth, one quantity.

    Args:
        log_prob: Of samples, (E, n).
        truth_log_prob: Of the truth, (E,).
        weights: (E, n), as for `run_sbc`.
        seed: Of the draws that break ties.
    """
    depth, of_truth = -np.asarray(log_prob, dtype=np.float64), -np.asarray(truth_log_prob, dtype=np.float64)
    return run_sbc(depth[..., None], of_truth[..., None], weights=weights, names=(HPD,), seed=seed)


def run_tarp(
    samples: ArrayLike,
    truth: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    references: ArrayLike | None = None,
    deviation: ArrayLike | None = None,
    seed: int | np.random.Generator = 0,
) -> Ranks:
    """Rank the truth by its distance from a random point: coverage of all dimensions together.

    Tests of accuracy with random points: the ball around a point of reference that reaches to
    the truth holds a uniform share of a right posterior. Source: P. Lemos, A. Coogan,
    Y. Hezaveh and L. Perreault-Levasseur, arXiv:2302.03026 (2023). It sees wrong widths and
    correlations well; a bias that is the same in all events hardly, which `run_sbc` sees.

    Args:
        samples: D coordinates, (E, n, D).
        truth: (E, D).
        weights: (E, n), as for `run_sbc`.
        references: Points, (E, D); drawn where None, normal with mean and deviation of `truth`.
        deviation: What each dimension is divided by, (D,); that of `truth` where None.
        seed: Of points and ties.

    Returns:
        One quantity, ``joint``.

    Raises:
        UsageError: As `run_sbc`.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> ranks = run_tarp(rng.normal(size=(4000, 50, 3)), rng.normal(size=(4000, 3)))
        >>> abs(float(ranks.values.mean()) - 0.5) < 0.02
        True
    """
    x, true = np.asarray(samples, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    _refuse_shapes(x, true)
    rng = _generator(seed)
    scale = true.std(axis=0) if deviation is None else np.asarray(deviation, dtype=np.float64)
    if references is None:
        point = true.mean(axis=0) + scale * rng.standard_normal(true.shape)
    else:
        point = np.asarray(references, dtype=np.float64)
    if point.shape != true.shape or scale.shape != true.shape[1:]:
        msg = f"references {point.shape} and deviation {scale.shape} do not fit a truth {true.shape}"
        raise UsageError(msg)
    scale = np.where(scale > 0, scale, 1.0)
    away = np.linalg.norm((x - point[:, None]) / scale, axis=2)
    of_truth = np.linalg.norm((true - point) / scale, axis=1)
    return run_sbc(away[..., None], of_truth[:, None], weights=weights, names=("joint",), seed=rng)


def run_resimulation(
    chi2_samples: ArrayLike,
    chi2_truth: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    seed: int | np.random.Generator = 0,
) -> Ranks:
    """Rank the misfit of the truth among those of samples: a posterior predictive check.

    Whatever measure of misfit is taken, such as the squared distance of measured momenta
    from simulated ones over the variance of the noise: samples of a right posterior explain
    the momenta as well as the truth does, neither better nor worse.

    Args:
        chi2_samples: Of samples, (E, n); inf where one cannot be simulated.
        chi2_truth: Of the truth, (E,).
        weights: (E, n), as for `run_sbc`.
        seed: Of the draws that break ties.

    Returns:
        One quantity, ``chi2``: the share of samples that fit better than the truth.

    Raises:
        UsageError: As `run_sbc`.

    Example:
        >>> run_resimulation([[1.0, 2.0, 4.0]], [3.0]).names
        ('chi2',)
    """
    x, true = np.asarray(chi2_samples, dtype=np.float64), np.asarray(chi2_truth, dtype=np.float64)
    return run_sbc(x[..., None], true[..., None], weights=weights, names=("chi2",), seed=seed)


def _generator(seed: int | np.random.Generator) -> np.random.Generator:
    """Return a stream of its own: a truth drawn with the same seed must not be its own reference."""
    if isinstance(seed, np.random.Generator):
        return seed
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(4,)))


def _refuse_shapes(samples: NDArray[np.float64], truth: NDArray[np.float64]) -> None:
    sound = samples.ndim == 3 and samples.size > 0 and truth.shape == (samples.shape[0], samples.shape[2])
    if not sound:
        msg = f"samples have shape {samples.shape} and truth {truth.shape}; expected (E, n, Q) and (E, Q)"
        raise UsageError(msg)


def _checked_weights(weights: ArrayLike | None, shape: tuple[int, int]) -> NDArray[np.float64] | None:
    if weights is None:
        return None
    w = np.asarray(weights, dtype=np.float64)
    if w.shape != shape:
        msg = f"weights have shape {w.shape}; expected {shape}"
        raise UsageError(msg)
    bad = ~((w >= 0).all(axis=1) & (np.abs(w.sum(axis=1) - 1.0) < _SUM))
    if bad.any():
        msg = f"weights of event {int(bad.argmax())} are negative or do not sum to 1"
        raise UsageError(msg)
    return w


def _share(chosen: NDArray[np.bool_], weights: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Return the weighted share (E, Q) of samples (E, n, Q) that are chosen."""
    if weights is None:
        return chosen.mean(axis=1)
    share: NDArray[np.float64] = np.einsum("en,enq->eq", weights, chosen, optimize=True)
    return share
