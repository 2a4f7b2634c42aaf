"""Null models: what is scored by answering without looking at the momenta.

Both know the recoil frame, nothing else. They are fitted crosswise: an event of one half of
the test set is answered from the other half, never from itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def mean_samples(truth: NDArray[np.float64], n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Answer every event with the mean positions of the other half.

    Args:
        truth: (E, N, 3), recoil frame, bohr.
        n: Ignored: the answer is one geometry.
        rng: Which events make the halves.

    Returns:
        (E, 1, N, 3).
    """
    del n
    out = np.empty((len(truth), 1, *truth.shape[1:]))
    for mine, other in _halves(len(truth), rng):
        out[mine] = truth[other].mean(axis=0)
    return out


def marginal_samples(truth: NDArray[np.float64], n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Answer every event with geometries of random events of the other half.

    Args:
        truth: (E, N, 3), recoil frame, bohr.
        n: Samples an event.
        rng: Of halves and draws.

    Returns:
        (E, n, N, 3).
    """
    out = np.empty((len(truth), n, *truth.shape[1:]))
    for mine, other in _halves(len(truth), rng):
        out[mine] = truth[rng.choice(other, (len(mine), n))]
    return out


NULL_MODELS = {"mean": mean_samples, "marginal": marginal_samples}
"""Name in the tables -> how it answers."""


def _halves(n: int, rng: np.random.Generator) -> tuple[tuple[NDArray[np.intp], NDArray[np.intp]], ...]:
    order = rng.permutation(n)
    first, second = order[: n // 2], order[n // 2 :]
    return (first, second), (second, first)
