"""`sample --weigh`, `refine` and `modes` as a person types them."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pandas as pd
import pytest
from shell import Shell

import flowcei
from flowcei.physics.explosion import asymptotic_momenta
from flowcei.posterior.flags import FLAGS
from flowcei.units import ANGSTROM


@pytest.fixture
def flow(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Shell:
    """`flow("sample", ...)` runs a command in an empty folder, with 20 events in `e.csv`."""
    monkeypatch.chdir(tmp_path)
    events = flowcei.simulate("ocs", 20, noise="1%", seed=31)
    flowcei.write_events(events, "e.csv")
    return Shell(monkeypatch, capsys)


def test_from_momenta_to_modes(flow: Shell) -> None:
    """Weighed samples, refined, gathered: geometries that explode into the momenta of the file."""
    assert (
        flow("sample", "--momenta", "e.csv", "-n", "40", "--noise", "1%", "--min-ess", "38", "--seed", "1")
        == 0
    )
    assert "sample efficiency" in flow.err
    assert "warning" not in flow.err
    assert flow("refine", "e.samples.h5") == 0
    assert "converged" in flow.out
    table = pd.read_csv("e.refined.csv")
    assert len(table) == 800
    assert table.loc[table["status"] == "converged", "error"].max() <= 1e-9
    assert flow("modes", "e.samples.h5", "-o", "modes.csv", "--xyz", "modes.xyz", "--event", "3") == 0
    assert "unique" in flow.err
    assert {"modes.csv", "modes-event.png", "modes-map.png", "modes.xyz"} < {p.name for p in Path().iterdir()}
    modes = pd.read_csv("modes.csv")
    assert set(modes["event"]) == set(range(20))
    np.testing.assert_allclose(modes.groupby("event")["probability"].sum(), 1.0, rtol=1e-9)
    assert set(modes["source"]) == {"weights"}
    assert "of the samples' weight on average" in flow.err
    assert modes["missed"].max() < 0.35
    assert flow("modes", "e.samples.h5", "-o", "more.csv", "--missed", "0.1") == 0
    assert pd.read_csv("more.csv")["missed"].max() < 0.1
    found = modes[modes["status"] == "converged"]
    x = found[[a + b for a in "cos" for b in "xyz"]].to_numpy().reshape(-1, 3, 3)
    ocs, events = flowcei.Molecule.load("ocs"), flowcei.read_events("e.csv")
    p = asymptotic_momenta(x, ocs.masses, ocs.charges, accuracy=1e-9)
    measured = events.momenta - (ocs.masses / ocs.masses.sum())[:, None] * events.momenta.sum(
        1, keepdims=True
    )
    np.testing.assert_allclose(p, measured[found["event"]], atol=1e-5)
    assert len(ase.io.read("modes.xyz", index=":", format="extxyz")) == len(modes)
    assert flow("spread", "e.samples.h5", "--xyz", "means.xyz") == 0
    assert "times what the data allow" in flow.err
    assert "means in means.xyz" in flow.err
    means = ase.io.read("means.xyz", index=":", format="extxyz")
    expected = flowcei.read_samples("e.samples.h5").mean()
    np.testing.assert_allclose([m.positions * ANGSTROM for m in means], expected, atol=2e-8)
    assert flow("spread", "e.samples.h5", "--xyz", "means.xyz", "-o", "again") == 2
    assert "means.xyz exists" in flow.err
    assert not Path("again").exists()


def test_nothing_is_overwritten_or_half_written(flow: Shell) -> None:
    """Exit code 2, one line; an event that is not there; a file that holds no samples."""
    flow("sample", "--momenta", "e.csv", "-n", "5", "--noise", "1%", "--seed", "1")
    assert flow("modes", "e.samples.h5", "-o", "m.csv") == 0
    before = {p: p.stat().st_mtime_ns for p in Path().iterdir()}
    for words, say in (
        (("modes", "e.samples.h5", "-o", "m.csv"), "exists"),
        (("modes", "e.samples.h5", "-o", "n.csv", "--event", "77"), "no event 77"),
        (("modes", "e.samples.h5", "-o", "n.csv", "--prior", "nonsense"), "nonsense"),
        (("sample", "--momenta", "e.csv", "--noise", "9%", "-o", "n.h5"), "above what the model was trained"),
        (("sample", "--momenta", "e.csv", "--weigh", "--latent", "training", "-o", "n.h5"), "latent"),
    ):
        assert flow(*words) == 2
        assert say in flow.err
        assert len(flow.err.strip().splitlines()[-1]) < 200
    assert flow("refine", "e.csv") == 3
    assert {p: p.stat().st_mtime_ns for p in Path().iterdir()} == before


def test_events_that_are_not_to_be_trusted_are_named(flow: Shell) -> None:
    """Another molecule's energy, a lost momentum: warnings with the first event, and flags in the files."""
    events = flowcei.read_events("e.csv")
    momenta = events.momenta.copy()
    momenta[4] *= 3.0
    momenta[7, 1] += 25.0
    flowcei.write_events(flowcei.Events(events.molecule, momenta), "odd.csv")
    assert flow("sample", "--momenta", "odd.csv", "-n", "30", "--noise", "1%", "--weigh", "--seed", "1") == 0
    for word, first in (("ker", 4), ("momentum-sum", 7), ("re-simulation", 4)):
        line = next(line for line in flow.err.splitlines() if f": {word}: " in line)
        assert f"(first: {first})" in line
        assert FLAGS[word] in line
    flags = flowcei.read_samples("odd.samples.h5").flags
    assert flags is not None
    assert set(np.flatnonzero(flags)) == {4, 7}
    assert flow("modes", "odd.samples.h5", "-o", "m.csv") == 0
    assert not pd.read_csv("m.csv")["probability"].isna().any()


def test_without_a_density_the_modes_are_still_given(flow: Shell) -> None:
    """Of a CVAE: shares of its samples, said to be that; weights are refused."""
    tiny = ["--epochs", "4", "--events", "4000", "--hidden", "8", "--seed", "1"]
    assert flow("train", "--arch", "cvae", *tiny, "-o", "runs/v") == 0
    assert flow("sample", "--momenta", "e.csv", "-n", "10", "--model", "runs/v", "--weigh", "-o", "a.h5") == 2
    assert "density" in flow.err
    assert (
        flow("sample", "--momenta", "e.csv", "-n", "100", "--model", "runs/v", "-o", "v.h5", "--seed", "1")
        == 0
    )
    assert flow("modes", "v.h5", "-o", "m.csv") == 0
    assert "not exact" in flow.err
    assert set(pd.read_csv("m.csv")["source"]) == {"samples"}
