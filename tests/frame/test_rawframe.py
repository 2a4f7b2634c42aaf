"""Coordinates of a file as they are."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from flowcei.errors import DataError, NoDensityError, UsageError
from flowcei.events.simulation import simulate
from flowcei.frame.kinds import frame_from_dict
from flowcei.frame.raw import RawFrame
from flowcei.reconstruction.fitting import train
from flowcei.reconstruction.loading import load
from flowcei.training.schedule import Schedule

if TYPE_CHECKING:
    from pathlib import Path

    from flowcei.events.container import Events

ONCE = Schedule(epochs=1, batch=100)


@pytest.fixture
def oriented() -> Events:
    """Return OCS whose S lies on +x and whose O lies in the xy plane, about a shifted origin."""
    events = simulate("ocs", 400, seed=3)
    assert events.positions is not None
    x = events.positions + np.random.default_rng(0).normal(size=(400, 1, 3))
    first = x[:, 2] / np.linalg.norm(x[:, 2], axis=1, keepdims=True)
    third = np.cross(first, x[:, 1])
    third /= np.linalg.norm(third, axis=1, keepdims=True)
    turn = np.stack([first, np.cross(third, first), third], axis=1)
    return replace(events, positions=x @ turn.transpose(0, 2, 1))


def test_what_varies_is_kept_and_the_rest_given_back(oriented: Events) -> None:
    """Six of nine columns vary; chart and back are the identity."""
    x, p = oriented.positions, oriented.momenta
    assert x is not None
    frame = RawFrame.of(oriented.molecule.masses, x, p)
    assert frame.names(oriented.molecule.labels) == ["c.x", "c.y", "c.z", "o.x", "o.y", "s.x"]
    assert (frame.width, frame.condition_width) == (6, 10)
    events = frame.enter(p, np.ones(400))
    chart = frame.to_chart(x[:, None], events)
    back = frame.to_positions(chart, events)[0][:, 0]
    np.testing.assert_allclose(back, x, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(events.condition[:, :9], p.reshape(400, -1))
    assert frame_from_dict(asdict(frame)) == frame
    np.testing.assert_array_equal(frame.log_jacobian(chart, events), np.zeros((400, 1)))


@pytest.mark.parametrize(
    "change",
    [
        {"fixed": [None] * 8},
        {"fixed": [0.0] * 9},
        {"seen": [0, 0]},
        {"seen": [9]},
        {"seen": []},
        {"fixed": ["x"] * 9},
    ],
)
def test_tables_that_are_no_frame_are_refused(change: dict) -> None:
    """Of another number of ions, with nothing to learn, with columns that are not there."""
    table = {"masses": [1.0, 2.0, 3.0], "fixed": [None] * 9, "seen": [0, 1]} | change
    with pytest.raises(ValueError, match=r"frame|number"):
        frame_from_dict(table)


def test_events_that_are_all_the_same_are_refused() -> None:
    """Nothing varies, nothing is learned."""
    same = np.ones((50, 3, 3))
    with pytest.raises(DataError, match="nothing to learn"):
        RawFrame.of(np.ones(3), same, same)


def test_a_raw_model_trains_saves_and_answers(oriented: Events, tmp_path: Path) -> None:
    """Samples lie where the file's positions lie, not around the centre of mass; a flow has a density."""
    options = {"couplings": 2, "hidden": 8, "context": 2}
    model = train("cinn", data=oriented, frame="raw", noise="0%", options=options, schedule=ONCE, seed=1)
    model.save(tmp_path / "raw.safetensors")
    again = load(tmp_path / "raw.safetensors")
    assert again.frame == model.frame
    drawn = again.sample(oriented[:5], 40, seed=2)
    assert np.array_equal(drawn.positions, model.sample(oriented[:5], 40, seed=2).positions)
    assert np.abs(drawn.positions[:, :, 2, 1:]).max() < 1e-6  # S stays on its axis
    masses = oriented.molecule.masses / oriented.molecule.masses.sum()
    assert np.abs(np.einsum("i,enix->enx", masses, drawn.positions)).max() > 0.1
    assert drawn.log_prob is not None
    found = again.log_prob(drawn.positions, oriented[:5])
    np.testing.assert_allclose(found, drawn.log_prob, rtol=1e-3, atol=2e-2)
    assert drawn.log_prob.shape == (5, 40)
    with pytest.raises(NoDensityError, match="frame of their own"):  # its orientation is no prior's
        again.sample(oriented[:5], 40, seed=2, weigh=True)


def test_a_raw_frame_needs_a_file() -> None:
    """Fresh simulations are in the recoil frame; other words are refused."""
    with pytest.raises(UsageError, match="raw only with data"):
        train("cinn", frame="raw", schedule=ONCE)
    with pytest.raises(UsageError, match="frame is recoil or raw"):
        train("cinn", frame="lab", schedule=ONCE)
