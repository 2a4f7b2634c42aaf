"""Distances of clouds of samples where they are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import energy_distance as scipy_energy_distance
from scipy.stats import norm

from flowcei.errors import DataError
from oracles.distances import c2st, energy_distance


def clouds(shift: float, width: int, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    # Thin and tilted: the shift is along the thin direction, and no coordinate shows it alone.
    turn = np.linalg.qr(rng.normal(size=(width, width)))[0]
    scale = np.linspace(1.0, 30.0, width)
    x, y = rng.normal(size=(2, n, width))
    y[:, 0] += shift
    return (x * scale) @ turn, (y * scale) @ turn


# A shift that no coordinate shows alone is the harder one to find, and six are easier to over-fit than one.
@pytest.mark.parametrize(("shift", "width"), [(0.0, 6), (1.0, 1), (2.0, 6)])
def test_accuracy_is_that_of_the_best_classifier_of_shifted_normals(shift: float, width: int) -> None:
    """Phi(shift / 2), within its error; a trained network stays a little below it."""
    n = 1000
    found = c2st(*clouds(shift, width, n, seed=3), seed=1)
    best = norm.cdf(0.5 * shift)
    error = np.sqrt(best * (1.0 - best) / (2 * n))
    assert found < best + 4.0 * error
    assert found > best - 4.0 * error - 0.02


def test_more_of_one_cloud_than_of_the_other_tells_nothing() -> None:
    rng = np.random.default_rng(0)
    assert c2st(rng.normal(size=(300, 2)), rng.normal(size=(1500, 2))) == pytest.approx(0.5, abs=0.08)


def test_a_wider_cloud_with_the_same_mean_is_told_apart() -> None:
    """Normals of deviations 1 and 3: they are equally dense at |x| = sqrt(9/4 ln 3)."""
    rng = np.random.default_rng(1)
    cut = np.sqrt(2.25 * np.log(3.0))
    best = 0.5 * (2.0 * norm.cdf(cut) - 1.0) + norm.sf(cut / 3.0)
    found = c2st(rng.normal(size=(1000, 1)), 3.0 * rng.normal(size=(1000, 1)))
    assert found == pytest.approx(best, abs=0.04)


def test_c2st_is_fixed_by_its_seed() -> None:
    x, y = clouds(0.5, 2, 100, seed=2)
    assert c2st(x, y, seed=4, folds=2) == c2st(x, y, seed=4, folds=2)


def test_energy_distance_of_one_dimension_is_that_of_scipy() -> None:
    """SciPy's is the square root of the biased one: all pairs, each sample with itself too."""
    x, y = clouds(1.0, 1, 200, seed=5)
    n = len(x)
    biased = scipy_energy_distance(x[:, 0], y[:, 0]) ** 2
    own = [np.abs(z - z[:, 0]).mean() for z in (x, y)]
    expected = biased + sum(own) - sum(own) * n / (n - 1)
    assert energy_distance(x, y) == pytest.approx(expected, rel=1e-9)


def test_energy_distance_of_one_distribution_is_zero_on_average() -> None:
    found = [energy_distance(*np.random.default_rng(k).normal(size=(2, 60, 3))) for k in range(100)]
    assert abs(np.mean(found)) < 4.0 * np.std(found) / 10.0
    assert min(found) < 0.0


def test_clouds_that_do_not_match_are_refused() -> None:
    with pytest.raises(DataError, match=r"\(60, 2\) and \(60, 3\)"):
        c2st(np.zeros((60, 2)), np.zeros((60, 3)))
    with pytest.raises(DataError, match="50 samples"):
        c2st(np.zeros((49, 2)), np.zeros((60, 2)))
    with pytest.raises(DataError, match="2 samples"):
        energy_distance(np.zeros((1, 2)), np.zeros((6, 2)))
