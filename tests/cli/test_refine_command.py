"""Refined samples in files: the same numbers in each format, and what was stopped goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from shell import Shell

import flowcei
from flowcei.cli import inputs
from flowcei.cli.sharing import Sharing
from flowcei.errors import WorkersLostError
from flowcei.events.extracolumns import component_names


@pytest.fixture
def flow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    """A shell beside samples `s.h5` of seven events with a delay, read two at a time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(inputs, "SAMPLES_AT_ONCE", 20)
    events = flowcei.simulate("ocs", 7, noise="1%", seed=31)
    events.columns["delay"] = np.arange(7.0)
    flowcei.write_samples([flowcei.load().sample(events, 10, noise="1%", seed=1)], "s.h5")
    return Shell(monkeypatch, capsys)


def _interrupted(function: Callable[[Any], Any], blocks: Iterable[Any]) -> Iterator[Any]:
    """Two blocks, and then no workers."""
    yield from map(function, list(blocks)[:2])
    raise WorkersLostError("the workers are gone")


def test_hdf5_holds_what_csv_does(flow: Shell) -> None:
    """Every number, and how often each end came."""
    assert flow("refine", "s.h5", "-o", "r.csv") == 0
    said = flow.out
    assert flow("refine", "s.h5", "-o", "r.h5") == 0
    assert flow.out == said
    table = pd.read_csv("r.csv").set_index(["event", "sample"])
    refined = flowcei.read_samples("s.h5").refine().to_dataframe().set_index(["event", "sample"])
    pd.testing.assert_frame_equal(table, refined, rtol=1e-11, atol=1e-25, check_dtype=False)
    with h5py.File("r.h5") as file:
        assert file["positions"].attrs["unit"] == "bohr"
        np.testing.assert_array_equal(file["columns/delay"][()], np.arange(7.0))
        ends = table[component_names(["c", "o", "s"])].to_numpy()
        np.testing.assert_allclose(file["positions"][()].reshape(-1, 9), ends, rtol=1e-11)
        np.testing.assert_allclose(file["error"][()].ravel(), table["error"], rtol=1e-11)
        np.testing.assert_allclose(file["chi_squared"][()].ravel(), table["chi_squared"], rtol=1e-11)
        assert ((file["status"][()].ravel() == 0) == (table["status"] == "converged")).all()


@pytest.mark.parametrize("ending", ["h5", "csv"])
def test_what_was_stopped_goes_on(flow: Shell, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    """To the same bytes and the same counts; not with other samples."""
    assert flow("refine", "s.h5", "-o", f"whole.{ending}") == 0
    said = flow.out
    with monkeypatch.context() as patch:
        patch.setattr(Sharing, "each", lambda *_: _interrupted)
        assert flow("refine", "s.h5", "-o", f"r.{ending}") == 5
    assert "after 4 of 7 events" in flow.err
    assert not Path(f"r.{ending}").exists()
    assert flow("refine", "s.h5", "-o", f"r.{ending}") == 2
    flowcei.write_samples([flowcei.read_samples("s.h5")[::-1]], "other.h5")
    assert flow("refine", "other.h5", "-o", f"r.{ending}", "--resume") == 2
    assert "was begun with samples" in flow.err
    assert flow("refine", "s.h5", "-o", f"r.{ending}", "--resume") == 0
    assert flow.out == said
    assert Path(f"r.{ending}").read_bytes() == Path(f"whole.{ending}").read_bytes()
    assert not Path(f"r.{ending}.partial").exists()
    assert flow("refine", "s.h5", "-o", f"r.{ending}", "--resume") == 0
    assert "is there already" in flow.err
