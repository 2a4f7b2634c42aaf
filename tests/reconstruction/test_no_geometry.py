"""One event that no model can express: it is flagged, and the others of its file are answered."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pandas as pd
import pytest
from shell import Shell

import flowcei
from flowcei.errors import DataError
from flowcei.evaluation.calibration import calibrate
from flowcei.evaluation.comparison import compare
from flowcei.posterior.files import read_samples, write_samples
from flowcei.posterior.flags import FLAG_BITS
from flowcei.posterior.modes import UNANSWERED
from flowcei.posterior.samples import PosteriorSamples
from flowcei.posterior.structures import write_means_xyz

LOST = 2


def _events(count: int = 6) -> flowcei.Events:
    """Events at 1 % noise, one of which with ions that hardly move: its geometry is 1e60 bohr wide."""
    events = flowcei.simulate("ocs", count, noise="1%", seed=5)
    momenta, sigma = events.momenta.copy(), np.array(events.sigma)
    momenta[LOST] *= 1e-30
    sigma[LOST] *= 1e-30
    return replace(events, momenta=momenta, sigma=sigma)


def _sampled(*, weigh: bool = False) -> PosteriorSamples:
    return flowcei.load().sample(_events(), 20, seed=1, weigh=weigh)


@pytest.mark.parametrize("weigh", [False, True])
def test_the_event_is_flagged_and_the_others_are_answered(*, weigh: bool) -> None:
    """NaN positions and density, no weight; what the others get is what they get without it."""
    drawn = _sampled(weigh=weigh)
    others = np.arange(6) != LOST
    assert drawn.answered.tolist() == others.tolist()
    assert drawn.flags is not None
    assert ((drawn.flags & FLAG_BITS["no-geometry"]) > 0).tolist() == (~others).tolist()
    assert drawn.log_prob is not None
    for array in (drawn.positions, drawn.log_prob):
        assert np.isnan(array[LOST]).all()
        assert np.isfinite(array[others]).all()
    sound = flowcei.load().sample(flowcei.simulate("ocs", 6, noise="1%", seed=5), 20, seed=1)
    np.testing.assert_allclose(drawn.positions[others], sound.positions[others], atol=1e-4)
    if weigh:
        assert drawn.weights is not None
        assert np.isneginf(drawn.weights.log_weights[LOST]).all()
        assert drawn.weights.ess[LOST] == 0.0
        assert (drawn.weights.ess[others] > 5).all()
        more = flowcei.load().sample(_events(), 20, seed=1, min_ess=30)
        assert more.weights is not None
        assert (more.weights.ess[others] >= 30).all()
        assert np.isnan(more.positions[LOST]).all()


def test_everything_that_follows_leaves_it_out() -> None:
    """Refinement, modes, means and floor say NaN or nothing of it, and the same of the others as ever."""
    drawn = _sampled(weigh=True)
    others = np.arange(6) != LOST
    found, alone = drawn.modes(keep_flagged=True), drawn[others].modes()
    assert found.count()[LOST] == 0
    assert found.verdict[LOST] == UNANSWERED
    np.testing.assert_array_equal(found.verdict[others], alone.verdict)
    np.testing.assert_array_equal(found.positions, alone.positions)
    assert np.isnan(drawn.mean(keep_flagged=True)[LOST]).all()
    assert np.isnan(drawn.floor()[LOST]).all()
    np.testing.assert_array_equal(drawn.floor()[others], drawn[others].floor())
    assert np.isfinite(drawn.mean(keep_flagged=True)[others]).all()
    file = io.StringIO()
    write_means_xyz(drawn, file)
    file.seek(0)
    frames = ase.io.read(file, index=":", format="extxyz")
    assert [frame.info["event"] for frame in frames] == [0, 1, 3, 4, 5]


def test_files_hold_it_and_are_read_again(tmp_path: Path) -> None:
    """NaN is refused where nothing says why; CSV has empty cells."""
    drawn = _sampled(weigh=True)
    write_samples([drawn], tmp_path / "s.h5")
    again = read_samples(tmp_path / "s.h5")
    np.testing.assert_array_equal(again.positions, drawn.positions)
    write_samples([replace(drawn, flags=np.zeros(6, np.uint16))], tmp_path / "unsaid.h5")
    with pytest.raises(DataError, match="not finite"):
        read_samples(tmp_path / "unsaid.h5")
    write_samples([drawn], tmp_path / "s.csv")
    table = pd.read_csv(tmp_path / "s.csv").set_index("event")
    numbers = [name for name in table if name not in ("sample", "flags")]
    assert table.loc[LOST, numbers].isna().all().all()
    assert table.drop(index=LOST)[numbers].notna().all().all()
    assert table.loc[LOST, "flags"].str.contains("no-geometry").all()


def test_the_command_line_says_so_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`sample`, `refine`, `modes` and `spread` of a file that holds such an event end with 0."""
    monkeypatch.chdir(tmp_path)
    shell = Shell(monkeypatch, capsys)
    flowcei.write_events(_events(), "e.csv")
    assert shell("sample", "--momenta", "e.csv", "-n", "20", "--seed", "1", "--weigh") == 0
    assert f"1 of 6 events (first: {LOST}): no-geometry" in shell.err
    for command in ("spread", "refine", "modes"):
        assert shell(command, "e.samples.h5") == 0
        assert "nan" not in shell.out.lower()
    line = ("plot", "e.samples.h5", "--kind", "corner", "--event", LOST, "--keep-flagged")
    assert shell(*map(str, line)) == 2
    assert "no-geometry); it has no samples" in shell.err
    assert np.isfinite(pd.read_csv("e-spread/overall.csv")["mean"]).all()
    assert set(pd.read_csv("e.modes.csv")["event"]) == {0, 1, 3, 4, 5}


def test_calibration_and_comparison_leave_it_out() -> None:
    """They count it, and judge the others."""
    events = _events(60)
    model = flowcei.load()
    judged = calibrate(model, events, n=20, keep_flagged=True)
    assert len(judged.sbc) == 59
    table = compare({"bundled": model}, events, n=20, resamples=10, keep_flagged=True).table
    assert np.isfinite(table.loc["bundled", "atom_error_mean"])
    assert table.loc["bundled", "atom_error_mean"] < 0.1
