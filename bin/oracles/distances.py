"""How far two clouds of samples are from one distribution: a classifier's guess, an energy distance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from flowcei.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FOLDS, _HIDDEN = 5, 64
_STEPS, _RATE, _DECAY = 300, 5e-3, 1e-2
_FEWEST = 10  # samples of a fold
_HELD = 4_000_000  # numbers held at a time


def energy_distance(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Return 2 E|X - Y| - E|X - X'| - E|Y - Y'|, the squared energy distance of two clouds.

    Unbiased: about 0, and negative as often as not, where both are of one distribution
    (G. Szekely and M. Rizzo, J. Statist. Plann. Inference 143, 1249 (2013)).

    Args:
        first: (n, D), n >= 2.
        second: (m, D), m >= 2.

    Returns:
        In the unit of the samples.

    Raises:
        DataError: For shapes that do not match or too few samples.

    Example:
        >>> round(energy_distance(np.zeros((3, 1)), np.ones((4, 1))), 6)
        2.0
    """
    x, y = _clouds(first, second, 2)
    return 2.0 * _mean_distance(x, y) - _within(x) - _within(y)


def c2st(
    first: NDArray[np.floating], second: NDArray[np.floating], *, seed: int = 0, folds: int = _FOLDS
) -> float:
    """Return how often a classifier tells two clouds of samples apart: 0.5 where nothing does.

    A classifier two-sample test (D. Lopez-Paz and M. Oquab, ICLR 2017): a network with two
    hidden layers of 64 is trained on all folds but one and asked about that one; its score is the
    share of right answers, samples of either cloud counting as much. Any difference that it
    misses, as a small network and few samples do, makes it look better. A score below 0.5 means
    0.5: a sample that is asked about is missing from its own cloud in training, and of clouds
    more even than chance, as systematic resampling makes them, that is a hint to the other.

    Args:
        first: (n, D).
        second: (m, D). Both are whitened together first: thin clouds, whose coordinates go
            together, are judged as round ones.
        seed: Of folds and weights.
        folds: Parts that are asked about in turn.

    Raises:
        DataError: For shapes that do not match, or fewer than 10 samples a fold.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> c2st(rng.normal(size=(100, 1)), rng.normal(9.0, size=(100, 1)))
        1.0
    """
    x, y = _clouds(first, second, _FEWEST * folds)
    rng = np.random.default_rng(seed)
    both = np.concatenate([x, y])
    data = torch.from_numpy(_whitened(both).astype(np.float32))
    label = np.repeat([0.0, 1.0], [len(x), len(y)])
    # Each fold holds its share of both clouds.
    fold = np.concatenate([rng.permutation(np.arange(k) % folds) for k in (len(x), len(y))])
    right = np.empty(len(both))
    for held in range(folds):
        rows = torch.from_numpy(fold == held)
        logit = _trained(data[~rows], label[fold != held], data[rows], rng)
        right[fold == held] = (logit > 0.0) == (label[fold == held] > 0.5)
    return float(0.5 * (right[label == 0.0].mean() + right[label == 1.0].mean()))


def _trained(
    x: torch.Tensor, label: NDArray[np.float64], asked: torch.Tensor, rng: np.random.Generator
) -> NDArray[np.floating]:
    """Return the log odds (K,) that rows `asked` are of the second cloud, by a network trained on x."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**31)))
        network = nn.Sequential(
            nn.Linear(x.shape[1], _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, _HIDDEN), nn.ReLU(),
            nn.Linear(_HIDDEN, 1),
        )  # fmt: skip
    target = torch.from_numpy(label.astype(np.float32))
    # Either cloud counts as much, however many samples it has.
    weight = torch.where(target > 0.5, 0.5 / target.mean(), 0.5 / (1.0 - target.mean()))
    loss = nn.BCEWithLogitsLoss(weight=weight)
    optimiser = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, _STEPS)
    batch = min(256, len(x))
    for _ in range(_STEPS):
        rows = torch.from_numpy(rng.integers(len(x), size=batch))
        optimiser.zero_grad()
        loss.weight = weight[rows]
        loss(network(x[rows])[:, 0], target[rows]).backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        out: NDArray[np.floating] = network(asked)[:, 0].numpy()
    return out


def _whitened(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return x (n, D) turned to its principal axes, each of deviation 1; flat ones stay flat."""
    _, size, axes = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    size = np.maximum(size, 1e-9 * size.max() + 1e-300) / np.sqrt(len(x))
    return np.asarray(((x - x.mean(axis=0)) @ axes.T) / size)


def _clouds(
    first: NDArray[np.floating], second: NDArray[np.floating], fewest: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x, y = (np.asarray(cloud, dtype=np.float64) for cloud in (first, second))
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < fewest:
        msg = (
            f"two clouds of samples have shapes (n, D) and (m, D) with {fewest} samples or more;"
            f" got {x.shape} and {y.shape}"
        )
        raise DataError(msg)
    return x, y


def _mean_distance(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    step = max(1, _HELD // (len(y) * x.shape[1]))
    total = 0.0
    for first in range(0, len(x), step):
        total += float(np.linalg.norm(x[first : first + step, None] - y[None], axis=-1).sum())
    return total / (len(x) * len(y))


def _within(x: NDArray[np.float64]) -> float:
    return _mean_distance(x, x) * len(x) / (len(x) - 1.0)
