"""The model inside the package is what its description says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import flowcei
from flowcei.evaluation.comparison import compare
from flowcei.evaluation.scores import central_coverage
from flowcei.posterior.spread import in_recoil_frame
from flowcei.storage.modelfile import read_model, sealed

PATH = Path(flowcei.__file__).parent / "assets" / "ocs.safetensors"


@pytest.fixture(scope="module")
def model() -> flowcei.Reconstructor:
    """Return the bundled model."""
    return flowcei.load()


def test_it_is_small_and_a_flow_of_eight_couplings(model: flowcei.Reconstructor) -> None:
    """Under 4 MB, cinn, 8 couplings, trained for 0.1 % to 5 % noise."""
    assert PATH.stat().st_size < 4e6
    assert model.architecture == "cinn"
    assert model.sampler.options.to_dict()["couplings"] == 8
    assert (model.noise.low, model.noise.high) == (0.001, 0.05)
    assert model.training.round_trip_error < 1e-4


def test_its_network_answers_alike_and_from_then_on() -> None:
    """Kernels and torch agree, both are stored as the file has them, and whoever changes weights is heard."""
    model, events = flowcei.load(), flowcei.simulate("ocs", 20, noise="1%", seed=1)
    before, stored = model.sample(events, 40, seed=2), model.stored()
    network = model.network
    assert network is model.network is model.sampler
    after = model.sample(events, 40, seed=2)
    np.testing.assert_array_equal(after.positions, before.positions)
    np.testing.assert_array_equal(after.log_prob, before.log_prob)
    assert sealed(*model.stored()) == sealed(*stored) == sealed(*read_model(PATH))
    next(network.parameters()).data += 0.1
    assert np.abs(model.sample(events, 40, seed=2).positions - before.positions).max() > 1e-3


def test_its_figures_are_those_of_its_description(model: flowcei.Reconstructor) -> None:
    """Per-atom error, coverage and the null model, measured again on other unseen events."""
    said = model.training.figures["at noise 1%"]
    events = flowcei.simulate("ocs", 4000, noise="1%", seed=4322)
    table = compare({"model": model}, events, n=100).table
    for row in ("model", "mean"):
        found = table.loc[row, "atom_error_mean"]
        assert found == pytest.approx(said[row]["atom_error_mean"], rel=0.04)
    assert table.loc["model", "atom_error_mean"] <= 0.042
    assert table.loc["mean", "atom_error_mean"] > 0.16


@pytest.mark.parametrize("noise", ["0.3%", "1%", "3%"])
def test_every_chart_coordinate_is_covered(model: flowcei.Reconstructor, noise: str) -> None:
    """50 % and 90 % intervals hold the truth within 2.5 points, over 4,000 unseen events."""
    events = flowcei.simulate("ocs", 4000, noise=noise, seed=77)
    assert events.positions is not None
    drawn = model.sample(events, 100, seed=1)
    bonds = [(j, i) for i, j in model.frame.tree]

    def chart(x: np.ndarray) -> np.ndarray:
        turned = in_recoil_frame(events.molecule, events.momenta, x)
        return np.concatenate([turned[:, :, a] - turned[:, :, b] for a, b in bonds], axis=-1)

    truth, samples = chart(events.positions[:, None])[:, 0], chart(drawn.positions)
    for level in (0.5, 0.9):
        np.testing.assert_allclose(central_coverage(truth, samples, level).mean(axis=0), level, atol=0.025)


def test_events_that_differ_are_entered_anew() -> None:
    """Whatever was entered before, also where an array holds other numbers by now; the same only once."""
    model, events = flowcei.load(), flowcei.simulate("ocs", 10, noise="1%", seed=1)
    momenta, sigma = events.momenta.copy(), model.sigma(events, None)
    before = model.enter(momenta, sigma)
    assert model.enter(events.momenta, sigma) is before
    for change in (np.s_[:], np.s_[3:4]):
        momenta[change] *= 1.1
        for noise, time in ((sigma, 0.0), (1.5 * sigma, 0.0), (1.5 * sigma, 2.0)):
            framed, told = model.enter(momenta, noise, time)
            alone, told_alone = flowcei.load().enter(momenta, noise, time)
            np.testing.assert_array_equal(framed.condition, alone.condition)
            np.testing.assert_array_equal(told, told_alone)
            assert not np.array_equal(told, before[1])
