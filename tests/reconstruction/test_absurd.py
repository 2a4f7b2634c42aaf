"""Nothing that one event holds ends a run, or makes it warn: 10,000 such events by `bin/fuzz answers`."""

from __future__ import annotations

import numpy as np
import pytest
from absurd import absurd_events, absurd_samples, answer

import flowcei
from flowcei.physics.leastsquares import levenberg_marquardt


@pytest.mark.parametrize("seed", [1, 2, 9, 17])
def test_absurd_geometries_charges_and_noise(seed: int) -> None:
    """Lengths of 1e-40 to 1e30 bohr, charges of 0.1 to 50, momenta and noise of any size."""
    samples = absurd_samples(seed)
    answer(samples)
    weighed = samples.weigh()
    assert weighed.weights is not None
    assert not np.isnan(weighed.weights.log_weights).any()
    answer(weighed)


@pytest.mark.parametrize(("seed", "rules"), [(1, {}), (3, {"weigh": True}), (2, {"min_ess": 4.0})])
def test_absurd_momenta_through_a_model(seed: int, rules: dict) -> None:
    """The bundled flow answers each with samples, or with a flag that says why not."""
    model = flowcei.load()
    samples = model.sample(absurd_events(seed, model.molecule), 6, seed=1, **rules)
    assert samples.flags is not None
    assert (samples.flags[~samples.answered] > 0).all()
    answer(samples)


def test_a_singular_search_stalls_and_leaves_the_others_alone() -> None:
    """A Jacobian without rank, one of 1e200 and one of NaN beside a sound problem: x^2 = 2."""

    def residual(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return np.where(rows[:, None] == 0, x**2 - 2.0, np.where(rows[:, None] == 1, x.sum() * 0 + 1.0, x))

    def jacobian(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        kinds = [np.diag(2.0 * x[k]) if row == 0 else [0.0, 1e200, np.nan][row - 1] * np.ones((2, 2))
                 for k, row in enumerate(rows)]  # fmt: skip
        return np.array(kinds)

    fit = levenberg_marquardt(residual, jacobian, np.ones((4, 2)))
    np.testing.assert_allclose(fit.x[0], np.sqrt(2.0), rtol=1e-9)
    assert np.isfinite(fit.x).all()
