"""Flags travel: from `sample` into files, Python, spread, modes, comparison and calibration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import ase.io
import numpy as np
import pandas as pd
import pytest
from shell import Shell

import flowcei
from flowcei.errors import DataError, FlaggedWarning, UsageError
from flowcei.posterior.flags import EXCLUDING, FLAG_BITS
from flowcei.reconstruction.limits import unlike_training

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowcei.posterior.samples import PosteriorSamples
    from flowcei.reconstruction.model import Reconstructor

pytestmark = pytest.mark.usefixtures("undrawn")

COUNT = 60
ODD = {3: "ker", 7: "momentum-sum"}


def _odd(*, seed: int = 31) -> flowcei.Events:
    """Sound events of OCS, but one has three times the momenta and one a lost momentum."""
    events = flowcei.simulate("ocs", COUNT, noise="1%", seed=seed)
    assert events.sigma is not None
    momenta, sigma = events.momenta.copy(), events.sigma.copy()
    momenta[3] *= 3.0
    sigma[3] *= 3.0
    momenta[7, 1] += 25.0
    return replace(events, momenta=momenta, sigma=sigma)


@pytest.fixture(scope="module")
def drawn() -> PosteriorSamples:
    return flowcei.load().sample(_odd(), 30, seed=1)


@pytest.fixture
def flow(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Shell:
    """`flow("sample", ...)` runs a command in an empty folder, with two odd events in `e.h5`."""
    monkeypatch.chdir(tmp_path)
    flowcei.write_events(_odd(), "e.h5")
    return Shell(monkeypatch, capsys)


def test_python_reads_the_flags_and_warns_once(drawn: PosteriorSamples) -> None:
    """Names by event; spread leaves flagged events out, arrays of all events keep them, both aloud."""
    assert {k: names[0] for k, names in enumerate(drawn.flag_names) if names} == {7: "momentum-sum", 3: "ker"}
    assert np.flatnonzero(drawn.flagged).tolist() == [3, 7]
    assert not replace(drawn, flags=None).flagged.any()
    with pytest.warns(
        FlaggedWarning, match=r"2 of 60 events are flagged \(momentum-sum 1, ker 1.*left out"
    ) as all_of:
        spread = drawn.spread()
    assert len(all_of) == 1
    assert spread.event_id.tolist() == [k for k in range(COUNT) if k not in ODD]
    assert len(spread.values) == COUNT - 2
    for aligned in (drawn.mean, drawn[2:5].modes, drawn[2:5].refine):
        with pytest.warns(FlaggedWarning, match="among these results") as all_of:
            aligned()
        assert len(all_of) == 1
    assert drawn.mean(keep_flagged=True).shape == (COUNT, 3, 3)
    assert len(drawn.spread(keep_flagged=True).event_id) == COUNT
    np.testing.assert_array_equal(drawn.unflagged().spread().values, spread.values)


def test_no_answer_where_all_are_flagged(drawn: PosteriorSamples) -> None:
    """An error instead of numbers; without a geometry there is nothing to keep either."""
    odd = drawn[np.array([3, 7])]
    with pytest.raises(DataError, match="2 of 2 events are flagged"):
        odd.spread()
    assert odd.spread(keep_flagged=True).event_id.tolist() == [3, 7]
    lost = replace(odd, positions=odd.positions.copy())
    lost.positions[0] = np.nan
    assert lost.unflagged(keep_flagged=True).event_id.tolist() == [7]


def test_poor_weights_leave_no_event_out() -> None:
    """Every other flag does: none may be forgotten when one is added."""
    assert {name for name, bit in FLAG_BITS.items() if not bit & EXCLUDING} == {
        "efficiency",
        "weights",
        "mixing",
    }


def test_joining_forgets_no_flag(drawn: PosteriorSamples) -> None:
    """Flags stay beside events that have none; a part without weights or of another molecule is refused."""
    none = replace(drawn[10:12], flags=None)
    for parts in ([none, drawn[2:5]], [drawn[2:5], none]):
        joined = flowcei.PosteriorSamples.concatenate(parts)
        assert dict(zip(joined.event_id.tolist(), joined.flagged.tolist(), strict=True))[3]
        assert joined.flagged.sum() == 1
    weighed = drawn[10:12].weigh()
    for parts in ([weighed, drawn[:2]], [drawn[:2], weighed]):
        with pytest.raises(DataError, match="some of the samples have weights"):
            flowcei.PosteriorSamples.concatenate(parts)
    with pytest.raises(DataError, match="different molecules"):
        flowcei.PosteriorSamples.concatenate([none, replace(none, molecule=flowcei.Molecule.load("co2"))])


@pytest.mark.parametrize("weigh", [[], ["--weigh"]])
def test_commands_leave_flagged_events_out(flow: Shell, weigh: list[str]) -> None:
    """Tables, pictures' event and XYZ are those of the same file without the two events."""
    assert flow("sample", "--momenta", "e.h5", "-n", "20", "--seed", "1", *weigh) == 0
    assert flow("spread", "e.samples.h5", "--xyz", "m.xyz") == 0
    evidence = ", evidence 1" * len(weigh)
    flagged = f"2 of 60 events are flagged (momentum-sum 1, ker 1, re-simulation 1{evidence}): left out"
    assert flagged in flow.err
    assert flow.err.count("flagged") == 2  # the line, and its --keep-flagged
    without = set(range(COUNT)) - set(ODD)
    assert set(pd.read_csv("e-spread/spread.csv")["event"]) == without
    assert {m.info["event"] for m in ase.io.read("m.xyz", index=":", format="extxyz")} == without
    assert flow("modes", "e.samples.h5", "--xyz", "n.xyz") == 0
    assert "left out" in flow.err
    assert "of 58 events" in flow.err
    assert set(pd.read_csv("e.modes.csv")["event"]) == without
    assert flow("refine", "e.samples.h5") == 0
    assert set(pd.read_csv("e.refined.csv")["event"]) == without
    assert flow("spread", "e.samples.h5", "--event", "3", "-o", "no") == 2
    assert "event 3 of e.samples.h5 is flagged (ker" in flow.err
    assert not Path("no").exists()
    assert flow("spread", "e.samples.h5", "--keep-flagged", "-o", "all", "--event", "3") == 0
    assert set(pd.read_csv("all/spread.csv")["event"]) == set(range(COUNT))
    assert "none left out" in flow.err


def test_momenta_times_two(flow: Shell) -> None:
    """The file is written, exit code 3, and nothing goes on with it in silence."""
    events = flowcei.simulate("ocs", 20, noise="1%", seed=5)
    flowcei.write_events(replace(events, momenta=2.0 * events.momenta, sigma=2.0 * events.sigma), "x2.h5")
    assert flow("sample", "--momenta", "x2.h5", "-n", "10", "--seed", "1") == 3
    last = flow.err.strip().splitlines()[-1]
    assert "20 of 20 events are flagged (ker 20" in last
    assert flowcei.read_samples("x2.samples.h5").flagged.all()
    for command in ("spread", "modes", "refine"):
        assert flow(command, "x2.samples.h5") == 3
        assert flow.err.strip().splitlines()[-1].endswith("--keep-flagged looks at them all the same")
    for command in ("compare", "calibrate"):
        assert flow(command, "bundled", "--data", "x2.h5", "-n", "10", "-o", command) == 3
        assert "20 of 20 events are flagged (ker 20)" in flow.err
    assert {p.name for p in Path().iterdir()} == {"e.h5", "x2.h5", "x2.samples.h5"}
    assert (
        flow("sample", "--momenta", "x2.h5", "-n", "5", "--keep-flagged", "-o", "k.csv", "--seed", "1") == 0
    )
    table = pd.read_csv("k.csv")
    assert table["flags"].str.contains("ker").all()
    assert flow("spread", "x2.samples.h5", "--keep-flagged") == 0


def test_scores_leave_flagged_events_out(flow: Shell) -> None:
    """Comparison and calibration are those of the file without them, and say so."""
    keep = np.array([k for k in range(COUNT) if k not in ODD])
    sound = _odd()[keep]
    with pytest.warns(FlaggedWarning, match="2 of 60 events are flagged"):
        table = flowcei.compare({"bundled": flowcei.load()}, _odd(), n=20).table
    expected = flowcei.compare({"bundled": flowcei.load()}, sound, n=20).table
    np.testing.assert_array_equal(table["crps"], expected["crps"])
    with pytest.warns(FlaggedWarning, match="left out"):
        found = flowcei.calibrate(flowcei.load(), _odd(), n=10)
    assert len(found.sbc) == COUNT - 2
    assert flow("compare", "bundled", "--data", "e.h5", "-n", "10") == 0
    assert "2 of 60 events are flagged (momentum-sum 1, ker 1): left out" in flow.err
    assert "58 events of e.h5" in flow.out
    assert flow("calibrate", "bundled", "--data", "e.h5", "-n", "10", "--keep-flagged") == 0
    assert "60 events of e.h5" in flow.out


@pytest.mark.parametrize("molecule", ["ch2o", "co2"])
def test_another_molecule_is_one_line(
    flow: Shell, molecule: str, tiny: Callable[[str, str], Reconstructor]
) -> None:
    """More ions, other labels: exit code 2 or 3 with one line from every command, and an error in Python."""
    tiny("cinn", "ch2o").save("four.safetensors")
    events = flowcei.simulate(molecule, 60, noise="1%", seed=1)
    flowcei.write_events(events, "other.h5")
    flowcei.write_events(events, "other.csv")
    data = ("e.h5", "four.safetensors") if molecule == "ch2o" else ("other.h5", "bundled")
    for words in (
        ("compare", "bundled", "four.safetensors", "--data", "e.h5", "-n", "10"),
        ("compare", data[1], "--data", data[0], "-n", "10"),
        ("calibrate", data[1], "--data", data[0], "-n", "10"),
        ("sample", "--model", data[1], "--momenta", data[0], "-n", "10", "--seed", "1"),
        ("sample", "--model", "bundled", "--momenta", "other.csv", "-n", "10", "--seed", "1"),
    ):
        assert flow(*words) in {2, 3}, words
        assert len([line for line in flow.err.splitlines() if "error:" in line]) == 1, flow.err
    model = flowcei.load()
    for call in (
        lambda: model.sample(events, 5),
        lambda: model.log_prob(events.positions[:, None], events),
        lambda: unlike_training(model, events),
        lambda: flowcei.compare({"a": model}, events),
        lambda: flowcei.calibrate(model, events),
    ):
        with pytest.raises(UsageError, match="the model is for ocs"):
            call()


def test_other_charges_are_another_molecule() -> None:
    """Events of charges 1, 1, 2 are not answered by a model for 2, 2, 2."""
    ocs = flowcei.Molecule.load("ocs")
    events = flowcei.simulate(replace(ocs, charges=np.array([1.0, 1.0, 2.0])), 5, noise="1%", seed=1)
    with pytest.raises(UsageError, match=r"c has charge \+1, not \+2"):
        flowcei.load().sample(events, 5)
