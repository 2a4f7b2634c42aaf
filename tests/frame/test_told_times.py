"""What a network is told of charges that build up, against scaling laws and the truth of simulated events."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

import flowcei
from flowcei.frame.interface import Condition, FramedEvents
from flowcei.frame.recoil import RecoilFrame
from flowcei.frame.whitening import Whitening
from flowcei.physics.priors import build_prior
from flowcei.reconstruction.framing import ordered_frame

TIME = 8.0


def _case() -> tuple[flowcei.Events, RecoilFrame]:
    """Events of charges that build up, and their frame with whitened charts."""
    experiment = flowcei.Experiment(noise="1%", build_up=TIME)
    events = flowcei.simulate("ocs", 400, experiment=experiment, seed=1)
    whitening = Whitening.of(
        events.molecule, build_prior(events.molecule).sample(5000, np.random.default_rng(0))
    )
    return events, replace(ordered_frame(events, reflect=False), whitening=whitening, build_up=10.0)


EVENTS, FRAME = _case()


def _enter(frame: RecoilFrame, momenta: np.ndarray, sigma: np.ndarray, time: float) -> FramedEvents:
    return frame.enter(momenta, sigma, np.full(len(momenta), time))


def test_the_condition_holds_the_time_in_the_units_of_the_chart() -> None:
    """Momenta of a molecule s times as large, build-up s^(3/2) times as long, are s^(-1/2) times the same."""
    frame, scale = replace(FRAME, whitening=None), 1.7
    ions = EVENTS.molecule.masses, EVENTS.molecule.charges
    parts = []
    for size, time in ((1.0, 4.0), (scale, 4.0 * scale**1.5)):
        p = flowcei.asymptotic_momenta(EVENTS.positions[:5] * size, *ions, build_up=time, accuracy=1e-9)
        framed = _enter(frame, np.asarray(p, np.float64), np.full(5, 1e-3 * size**-0.5), time)
        parts.append(Condition.split(framed.condition, 3, build_up=True))
    for name in ("momenta", "log_noise", "build_up"):
        np.testing.assert_allclose(*(getattr(one, name) for one in parts), rtol=1e-6)
    ker = np.exp(parts[0].log_ker)
    np.testing.assert_allclose(parts[0].build_up[:, 0], 4.0 * ker**1.5)
    beyond = _enter(frame, EVENTS.momenta, EVENTS.sigma, 30.0).condition
    np.testing.assert_array_equal(beyond, _enter(frame, EVENTS.momenta, EVENTS.sigma, 10.0).condition)


def test_whitened_charts_of_true_geometries_are_normal() -> None:
    """Squared distances from the approximation are chi squared about 3N - 3, if its time is the true one."""
    x = EVENTS.positions[:, None]
    distance = [
        (FRAME.to_chart(x, _enter(FRAME, EVENTS.momenta, EVENTS.sigma, time))[:, 0] ** 2).sum(axis=1)
        for time in (TIME, 0.0)
    ]
    width = FRAME.width
    assert abs(distance[0].mean() / width - 1.0) < 5.0 * np.sqrt(2.0 / width / len(EVENTS)) + 0.05
    assert distance[1].mean() > 3.0 * width
