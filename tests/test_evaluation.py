"""Metrics on answers that are known to be right, and on some known to be wrong."""

from __future__ import annotations

import numpy as np
import pytest

from flowcei.errors import DataError
from flowcei.evaluation.comparison import compare, unseen
from flowcei.evaluation.metrics import central_coverage, score
from flowcei.evaluation.nulls import marginal_samples, mean_samples
from flowcei.events.container import Events
from flowcei.events.simulation import simulate
from flowcei.fitting import train
from flowcei.training import Schedule


def _gaussian(bias: float = 0.0, width: float = 1.0, n: int = 99) -> tuple[np.ndarray, np.ndarray]:
    """Return truths and samples of a posterior with the given faults; (0, 1) is right."""
    rng = np.random.default_rng(5)
    centre = rng.normal(0.0, 3.0, (4000, 1, 2))
    truth = centre[:, 0] + rng.normal(size=(4000, 2))
    return truth, centre + bias + width * rng.normal(size=(4000, n, 2))


def test_coverage_of_the_right_posterior_is_its_level() -> None:
    """50 and 90 %, within two standard errors of 4,000 events."""
    truth, samples = _gaussian()
    for level in (0.5, 0.9):
        error = 2.5 * np.sqrt(level * (1 - level) / 4000)
        np.testing.assert_allclose(central_coverage(truth, samples, level), level, atol=error)


@pytest.mark.parametrize("n", [2, 3, 7, 50])
def test_coverage_is_unbiased_for_any_number_of_samples(n: int) -> None:
    """Few samples widen nothing and narrow nothing: the ranks are counted exactly."""
    truth, samples = _gaussian(n=n)
    for level in (0.5, 0.9):
        np.testing.assert_allclose(central_coverage(truth, samples, level), level, atol=0.025)


@pytest.mark.parametrize(
    ("bias", "width", "low", "high"), [(0.0, 0.5, 0.2, 0.35), (0.0, 2.0, 0.75, 0.9), (1.5, 1.0, 0.1, 0.3)]
)
def test_coverage_finds_wrong_posteriors(bias: float, width: float, low: float, high: float) -> None:
    """Too narrow, too wide and biased posteriors miss 50 % by far."""
    truth, samples = _gaussian(bias, width)
    found = central_coverage(truth, samples, 0.5)
    assert ((found > low) & (found < high)).all()


def test_one_sample_has_twice_the_squared_error_of_the_mean() -> None:
    """For a perfect posterior: why one sample must not be called the model's error."""
    truth, samples = _gaussian()
    scores = score(truth[:, :, None], samples[:, :, :, None])
    assert scores.mse_sample / scores.mse_mean == pytest.approx(2.0, rel=0.05)


def test_standardised_errors_leave_out_what_does_not_move() -> None:
    """A coordinate that is always 0 must not divide by zero, nor dilute the others."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(500, 2, 3))
    truth[:, :, 2] = 0.0
    scores = score(truth, np.zeros((500, 1, 2, 3)))
    assert scores.std_mse_mean == pytest.approx(1.0, rel=0.02)
    assert np.isnan(scores.coverage_50)


def test_null_models_score_what_they_must() -> None:
    """Standardised MSE 1 for the mean, 2 for a marginal sample, whose coverage is right."""
    rng = np.random.default_rng(1)
    truth = rng.normal(2.0, 0.7, (3000, 3, 3))
    mean = score(truth, mean_samples(truth, 1, rng))
    marginal = score(truth, marginal_samples(truth, 50, rng))
    assert mean.std_mse_mean == pytest.approx(1.0, abs=0.01)
    assert marginal.std_mse_sample == pytest.approx(2.0, abs=0.05)
    assert marginal.coverage_90 == pytest.approx(0.9, abs=0.01)


def test_null_models_never_answer_an_event_with_itself() -> None:
    """Two halves, each answered from the other: a lone outlier cannot be found."""
    truth = np.zeros((100, 1, 3))
    truth[17] = 1.0
    for answer in (mean_samples, marginal_samples):
        assert (answer(truth, 20, np.random.default_rng(0))[17] == 0.0).all()


def test_comparison_needs_positions_and_enough_events() -> None:
    """Momenta alone cannot be scored; three events are no statistics."""
    events = simulate("ocs", 20, seed=1)
    with pytest.raises(DataError, match="momenta only"):
        compare({}, Events(events.molecule, events.momenta))
    with pytest.raises(DataError, match="too few"):
        compare({}, events[:3])


def test_training_rows_are_left_out_of_a_comparison() -> None:
    """Of the file a model was trained on, only the 10 % test rows remain; of others, all."""
    events = simulate("ocs", 400, seed=3)
    model = train(
        "cinn",
        data=events,
        options={"couplings": 1, "hidden": 8, "context": 4},
        schedule=Schedule(epochs=1, batch=100),
        seed=2,
    )
    rest = unseen(model, events)
    assert len(rest) == 40
    other = simulate("ocs", 400, seed=4)
    assert unseen(model, other) is other
    training = set(map(tuple, events.momenta[:, 0])) - set(map(tuple, rest.momenta[:, 0]))
    assert len(training) == 360
