"""How good answers are, against positions that are known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Scores", "central_coverage", "score"]

_STILL = 1e-6  # bohr: a coordinate that varies less is left out of standardised errors


@dataclass(frozen=True)
class Scores:
    """Errors of one way to answer, over all events of a test set.

    Attributes:
        mse_mean: Squared error per coordinate of the posterior mean, bohr^2.
        mae_mean: Absolute error per coordinate of the posterior mean, bohr.
        mse_sample: The same of one random sample, bohr^2.
        mae_sample: The same of one random sample, bohr.
        std_mse_mean: `mse_mean` with each coordinate divided by its deviation over the
            test set: the units of the first study, in which predicting the mean scores 1.
        std_mae_mean: The same for `mae_mean`.
        std_mse_sample: The same for `mse_sample`.
        std_mae_sample: The same for `mae_sample`.
        atom_error_mean: Distance of an atom of the posterior mean from the truth, averaged
            over atoms and events, bohr.
        atom_error_sample: The same for one random sample, bohr.
        coverage_50: Share of coordinates whose truth lies within the central 50 % of samples.
        coverage_90: The same for 90 %.
    """

    mse_mean: float
    mae_mean: float
    mse_sample: float
    mae_sample: float
    std_mse_mean: float
    std_mae_mean: float
    std_mse_sample: float
    std_mae_sample: float
    atom_error_mean: float
    atom_error_sample: float
    coverage_50: float
    coverage_90: float


def score(truth: NDArray[np.float64], samples: NDArray[np.floating]) -> Scores:
    """Judge samples against the truth.

    Args:
        truth: Positions in the recoil frame, centre of mass 0, (E, N, 3), bohr.
        samples: (E, n, N, 3), bohr, in the same frame. The first of each event serves as
            the random sample; with n = 1 there is no interval and coverage is NaN.

    Returns:
        The scores.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(500, 1, 3))
        >>> round(score(x, np.zeros((500, 1, 1, 3))).std_mse_mean)
        1
    """
    mean = samples.mean(axis=1, dtype=np.float64) - truth
    one = samples[:, 0].astype(np.float64) - truth
    deviation = truth.std(axis=0)
    moving = deviation > _STILL
    scale = np.where(moving, deviation, 1.0)

    def errors(difference: NDArray[np.float64]) -> tuple[float, float, float, float]:
        standard = (difference / scale)[:, moving]
        return (
            float((difference**2).mean()),
            float(np.abs(difference).mean()),
            float((standard**2).mean()) if moving.any() else float("nan"),
            float(np.abs(standard).mean()) if moving.any() else float("nan"),
        )

    mean_errors, one_errors = errors(mean), errors(one)
    flat, drawn = truth.reshape(len(truth), -1), samples.reshape(*samples.shape[:2], -1)
    coverage = [float(central_coverage(flat, drawn, level).mean()) for level in (0.5, 0.9)]
    return Scores(
        mse_mean=mean_errors[0],
        mae_mean=mean_errors[1],
        mse_sample=one_errors[0],
        mae_sample=one_errors[1],
        std_mse_mean=mean_errors[2],
        std_mae_mean=mean_errors[3],
        std_mse_sample=one_errors[2],
        std_mae_sample=one_errors[3],
        atom_error_mean=float(np.linalg.norm(mean, axis=-1).mean()),
        atom_error_sample=float(np.linalg.norm(one, axis=-1).mean()),
        coverage_50=coverage[0],
        coverage_90=coverage[1],
    )


def central_coverage(
    truth: NDArray[np.float64], samples: NDArray[np.floating], level: float
) -> NDArray[np.float64]:
    """Return how often the truth lies in the central interval of the samples, (K,).

    The rank of the truth among n samples of the right posterior is uniform on 0 ... n; an
    interval is whole ranks, and the two at its ends count by the share that lies inside,
    so that a perfect posterior scores exactly `level` for any n.

    Args:
        truth: (E, K).
        samples: (E, n, K).
        level: Such as 0.9.

    Returns:
        Coverage of each of the K coordinates; NaN for n = 1.
    """
    n = samples.shape[1]
    if n < 2:
        return np.full(truth.shape[1], np.nan)
    rank = (samples < truth[:, None]).sum(axis=1)
    # Rank k stands for the interval [k, k + 1] / (n + 1) of the cumulative distribution.
    low, high = 0.5 - level / 2, 0.5 + level / 2
    left, right = rank / (n + 1), (rank + 1) / (n + 1)
    inside = (np.minimum(right, high) - np.maximum(left, low)).clip(0.0) * (n + 1)
    coverage: NDArray[np.float64] = inside.mean(axis=0)
    return coverage
