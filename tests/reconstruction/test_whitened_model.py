"""A model of whitened charts: exact densities, and good with hardly any training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import flowcei
from flowcei.reconstruction.model import Reconstructor
from flowcei.reconstruction.training_data import TrainingRules
from flowcei.training.schedule import Schedule

NOISE = "1%"


@pytest.fixture(scope="module")
def model() -> Reconstructor:
    """Methane, three epochs of eight steps."""
    return flowcei.train(
        "cinn",
        molecule="ch4",
        options={"couplings": 2, "hidden": 16},
        schedule=Schedule(epochs=3, batch=128),
        events_per_epoch=1000,
        rules=TrainingRules(pilot_events=1000, validation_events=300),
        seed=1,
    )


def test_weights_are_even_after_a_short_training(model: Reconstructor) -> None:
    """Exact prior and likelihood of 20 events: the approximation alone has 0.9, couplings of bonds 0.001."""
    events = flowcei.simulate("ch4", 20, noise=NOISE, seed=5)
    samples = model.sample(events, 500, seed=1, weigh=True)
    assert samples.weights is not None
    assert np.median(samples.weights.efficiency) > 0.8
    assert samples.weights.efficiency.min() > 0.5


def test_the_density_belongs_to_the_samples_and_to_no_labels(model: Reconstructor, tmp_path: Path) -> None:
    """Asked again for the density of its samples, by its file, and of ions in another order."""
    events = flowcei.simulate("ch4", 4, noise=NOISE, seed=6)
    samples = model.sample(events, 50, noise=NOISE, seed=1)
    found = model.log_prob(samples.positions, events.momenta, noise=NOISE)
    assert samples.log_prob is not None
    np.testing.assert_allclose(found, samples.log_prob, atol=0.02)  # positions are of single precision
    model.save(tmp_path / "ch4.safetensors")
    stored = flowcei.load(tmp_path / "ch4.safetensors")
    np.testing.assert_allclose(
        stored.log_prob(samples.positions, events.momenta, noise=NOISE), found, atol=1e-5
    )
    order = [0, 3, 1, 4, 2]
    mixed = model.log_prob(samples.positions[:, :, order], events.momenta[:, order], noise=NOISE)
    np.testing.assert_allclose(mixed, found, atol=1e-3)


def test_only_fresh_events_and_densities_have_whitened_charts() -> None:
    """Another architecture, and the events of a file, see bonds."""
    small = {"schedule": Schedule(epochs=1), "seed": 1, "options": {"hidden": 8, "depth": 1}}
    rules = TrainingRules(pilot_events=200, validation_events=100)
    mlp = flowcei.train("mlp", molecule="ch4", events_per_epoch=200, rules=rules, **small)
    events = flowcei.simulate("ch4", 200, noise=NOISE, seed=2)
    of_a_file = flowcei.train("cinn", data=events, **small)
    for trained in (mlp, of_a_file):
        assert trained.frame.told_width == trained.frame.condition_width == 11
