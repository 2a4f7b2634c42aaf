"""The interface of sbi gives the numbers of the model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import flowcei
from flowcei.reconstruction.sbi import DirectPosterior


def test_samples_and_densities_are_those_of_the_model() -> None:
    """The same seed, the same samples; the density at a geometry is that of `log_prob`."""
    model, events = flowcei.load(), flowcei.simulate("ocs", 3, noise="1%", seed=1)
    x = torch.from_numpy(events.momenta.reshape(3, -1))
    posterior = DirectPosterior(model, noise="1%")
    drawn = posterior.sample_batched((6,), x=x, seed=4)
    expected = model.sample(events.momenta, 6, noise="1%", seed=4)
    np.testing.assert_array_equal(drawn.numpy().reshape(6, 3, 3, 3).swapaxes(0, 1), expected.positions)
    density = posterior.log_prob(drawn[:, 1], x=x[1])
    np.testing.assert_allclose(density, expected.log_prob[1], rtol=1e-4, atol=2e-3)  # type: ignore[index]
    assert posterior.set_default_x(x[2]).sample((2, 3), seed=4).shape == (2, 3, 9)


def test_torch_decides_where_no_seed_is_given() -> None:
    """As in sbi: the same state of the generator, the same samples."""
    events = flowcei.simulate("ocs", 1, noise="1%", seed=1)
    posterior = DirectPosterior(flowcei.load(), noise="1%").set_default_x(
        torch.from_numpy(events.momenta[0]).flatten()
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        first, second = posterior.sample((4,)), posterior.sample((4,))
        torch.manual_seed(1)
        again = posterior.sample((4,))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    with pytest.raises(ValueError, match="one event"):
        DirectPosterior(flowcei.load()).sample((4,))
