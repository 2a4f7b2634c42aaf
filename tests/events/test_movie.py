"""Movies: geometries of each delay are those of the frames, blurred by the cross-correlation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flowcei
from flowcei.errors import UsageError
from flowcei.units import FWHM


def frame(delay: float, length: float) -> dict[str, Any]:
    """OCS with a bond C-S of a length (bohr)."""
    rows = [{"atom": "c"}, {"atom": "o", "from": "c", "length": {"normal": [2.2, 0.01]}}]
    last = {"atom": "s", "from": "c", "length": {"normal": [length, 0.01]}, "angle_to": "o"}
    return {"delay": delay, "kind": "internal", "zmatrix": [*rows, last | {"angle": {"bend": 5.0}}]}


def lengths(events: flowcei.Events) -> np.ndarray:
    """Bonds C-S (E,)."""
    return np.linalg.norm(events.positions[:, 2] - events.positions[:, 0], axis=1)


def test_a_bond_breaks_on_one_of_two_pathways() -> None:
    """Shares, means between frames, and the blur of the pulses: the variance of a linear motion."""
    moving = {"share": 0.3, "frames": [frame(100.0, 5.0), frame(0.0, 3.0)]}
    still = {"share": 0.7, "frames": [frame(0.0, 3.0)]}
    movie = {"delays": [50.0, -200.0], "events": 2000, "cross_correlation": 20.0, "pathways": [moving, still]}
    events = flowcei.simulate_movie("ocs", movie, noise="1%", seed=1)
    delay, pathway = events.columns["delay"], events.columns["pathway"]
    assert np.bincount(pathway)[1] == pytest.approx(1200, abs=120)
    r = lengths(events)
    broken = r[(delay == 50.0) & (pathway == 1)]
    assert broken.mean() == pytest.approx(4.0, abs=0.03)
    assert broken.std() == pytest.approx(np.hypot(20.0 / FWHM * 0.02, 0.01), rel=0.1)
    assert r[pathway == 2].mean() == pytest.approx(3.0, abs=0.002)
    assert r[delay < 0.0].mean() == pytest.approx(3.0, abs=0.002)
    again = flowcei.simulate_movie("ocs", movie, noise="1%", seed=1)
    assert np.array_equal(again.momenta, events.momenta)


def test_the_example_is_a_movie() -> None:
    """Twenty delays, in which 30 % of the molecules break."""
    path = Path(__file__).parents[2] / "examples" / "movie.toml"
    events = flowcei.simulate_movie("ocs", path, noise="1%", seed=1)
    last = events.columns["delay"] == 190.0
    assert (len(events), np.mean(lengths(events[last]) > 4.0)) == (10_000, pytest.approx(0.3, abs=0.08))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"delay": 1}, "a movie has no 'delay'; it has"),
        ({"delays": "soon"}, "delays of a movie are a list of numbers"),
        ({"delays": {"from": 0, "to": 1, "count": 0}}, "count of a movie is 0; it must be 1 or more"),
        ({"events": 10**8}, "more than 10,000,000"),
        ({"cross_correlation": -1}, "cross_correlation of a movie is -1"),
        ({"events": 2.5}, "events of a movie is 2.5; it must be a whole number"),
        (
            {"pathways": [{"shares": 0.3, "frames": [frame(0.0, 3.0)]}]},
            "a pathway of a movie has no 'shares'",
        ),
        ({"pathways": []}, "a movie needs pathways"),
        ({"pathways": [{"share": 0.5, "frames": [frame(0.0, 3.0)]}]}, "sum to 0.5; they must sum to 1"),
        ({"pathways": [{"frames": [{"kind": "internal"}]}]}, "delay of a frame of a movie is 'None'"),
        ({"pathways": [{"frames": [frame(0.0, 3.0), {"delay": 1, "kind": "ball"}]}]}, "more than numbers"),
    ],
)
def test_faults(change: dict[str, Any], message: str) -> None:
    movie = {"delays": [0.5], "events": 3, "pathways": [{"frames": [frame(0.0, 3.0)]}]}
    with pytest.raises(UsageError, match=message):
        flowcei.simulate_movie("ocs", movie | change, seed=1)
