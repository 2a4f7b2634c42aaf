"""The search for the law of greatest likelihood."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from flowcei.ensemble.fitting import accelerated
from flowcei.errors import DataError

BEST = np.array([1.0, -2.0, 3.0, 0.5])
SHARES = np.array([0.01, 0.05, 0.3, 0.9])  # of the way to the best that a step goes: what events tell


@dataclass(frozen=True)
class _Point:
    """A law of four numbers, which has no width beyond 4."""

    vector: np.ndarray

    def from_vector(self, vector: np.ndarray) -> _Point:
        if np.abs(vector).max() > 4.0:
            raise DataError("no width")
        return _Point(vector)


@pytest.mark.parametrize("bent", [0.0, 0.3])
def test_short_steps_are_extrapolated(bent: float) -> None:
    """Steps that go a hundredth of the way: alone they would take 1,400, by two at a time 100 and more."""
    heights = list[float]()

    def step(law: _Point) -> tuple[_Point, float]:
        away = BEST - law.vector
        heights.append(-float(away @ (SHARES * away)))
        return _Point(law.vector + SHARES * away / (1.0 + bent * away**2)), heights[-1]

    def close(law: _Point, after: _Point, _: float) -> bool:
        return float(np.abs(after.vector - law.vector).max()) < 1e-8

    reached = accelerated(_Point(np.zeros(4)), step, close, 900)
    np.testing.assert_allclose(reached.vector, BEST, atol=1e-6)
    assert len(heights) < 40


def test_a_search_never_gets_worse() -> None:
    """Where the height is not what the steps climb an extrapolation may fall: it is not taken."""
    rng, taken = np.random.default_rng(1), list[float]()

    def height(vector: np.ndarray) -> float:
        return float(-((vector - BEST) ** 2).sum() + np.cos(9.0 * vector).sum())

    def step(law: _Point) -> tuple[_Point, float]:
        tries = law.vector + 0.1 * rng.standard_normal((20, 4))
        best = max([law.vector, *tries[np.abs(tries).max(axis=1) < 4.0]], key=height)
        return _Point(best), height(law.vector)

    def close(law: _Point, _: _Point, here: float) -> bool:
        assert here == height(law.vector)
        taken.append(here)
        return False

    accelerated(_Point(np.zeros(4)), step, close, 120)
    assert (np.diff(taken) >= 0.0).all()
    assert taken[-1] > taken[0]
