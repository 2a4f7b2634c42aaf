"""The command line as a person types it: what it does, says, and leaves behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from shell import Shell

import flowcei
from flowcei.models.registry import ARCHITECTURES, find_architecture, listed_options
from flowcei.reconstruction.defaults import split_rows
from flowcei.storage.kernels import cache_folder

TINY = ["--epochs", "1", "--events", "1000", "--hidden", "8", "--seed", "1"]


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def flow(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    """`flow("simulate", "ocs")` runs a command and returns its exit code."""
    return Shell(monkeypatch, capsys)


def _files() -> set[str]:
    return {str(p) for p in Path().rglob("*")}


def test_help_answers_without_torch() -> None:
    """`flowcei --help` imports neither torch nor numba, NumPy or matplotlib."""
    code = (
        "import sys; sys.argv = ['flowcei', '--help']\n"
        "from flowcei.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numba', 'numpy', 'matplotlib', 'pandas'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("simulate", "train", "sample", "spread", "compare", "calibrate", "info", "demo"):
        assert command in done.stdout


def test_samples_are_drawn_without_what_takes_a_second_to_import(tmp_path: Path) -> None:
    """No torch, tables, statistics, pictures or plug-ins of numba; nor torch where samples are looked at.

    A process goes from what may import least to what may import most; weights are the odd one out. From the
    second command on files of pictures hold a word, as in `undrawn`.
    """
    for name, count in (("e", 3), ("more", 50)):
        flowcei.write_events(flowcei.simulate("ocs", count, seed=1, noise="1%"), tmp_path / f"{name}.h5")
    heavy = "torch,FrEIA,pandas,scipy.stats,scipy.spatial,scipy.ndimage,matplotlib,awkward,IPython,dask"
    sample = "sample --momenta e.h5 -n 5 --device cpu --model bundled -o"
    for steps in (
        [(f"{sample} w.h5 --weigh", "torch,pandas")],
        [
            (f"{sample} s.h5", heavy),
            ("calibrate bundled --data more.h5 -n 10 -o calibration", "torch,scipy.stats,scipy.spatial"),
            ("modes s.h5 -o m.csv", "torch,scipy.stats"),
            ("spread s.h5 -o spread", "torch,scipy.stats"),
            ("compare bundled --data more.h5 -n 10 -o comparison", "torch,scipy.stats"),
            ("report s.h5 -o r.html", "torch"),
        ],
    ):
        code = (
            "import sys; from flowcei.cli.main import main\n"
            f"for words, unwanted in {steps}:\n"
            "    sys.argv = ['flowcei', *words.split()]\n"
            "    try: main()\n"
            "    except SystemExit as leave: assert not leave.code, words\n"
            "    heavy = set(unwanted.split(',')) & set(sys.modules)\n"
            "    assert not heavy, (words, heavy)\n"
            "    from matplotlib.figure import Figure\n"
            "    Figure.savefig = lambda _, file, **__: file.write(b'picture')"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "command", ["simulate", "check", "train", "sample", "spread", "compare", "calibrate", "info", "demo"]
)
def test_every_command_explains_itself(flow: Shell, command: str) -> None:
    """-h works everywhere and shows an example or what it does."""
    assert flow(command, "-h") == 0
    assert "Usage: flowcei" in flow.out


def test_the_two_lines_work_as_typed(flow: Shell) -> None:
    """Train (made small), then sample with what was trained: near an equilibrium charts do most of it."""
    assert flow("train", "--arch", "cinn", "--couplings", "8", *TINY) == 0
    run = Path("runs/ocs-cinn-1")
    assert {p.name for p in run.iterdir()} == {
        "model.safetensors", "metrics.csv", "config.toml", "loss.png", "train.log"
    }  # fmt: skip
    assert tomllib.loads((run / "config.toml").read_text())["train"]["couplings"] == 8
    assert list(pd.read_csv(run / "metrics.csv")["epoch"]) == [1]
    assert flow("simulate", "ocs", "-n", "20", "--noise", "1%", "-o", "file.csv") == 0
    assert "seed" in flow.err
    assert flow("sample", "--momenta", "file.csv", "-n", "100") == 0
    assert "model ocs-cinn-1, of runs/" in flow.err
    drawn = flowcei.read_samples("file.samples.h5")
    assert drawn.positions.shape == (20, 100, 3, 3)
    assert drawn.log_prob is not None
    assert flow.out == ""


def test_without_a_run_the_bundled_model_answers(flow: Shell) -> None:
    """In an empty folder `sample` needs no training, and finds the bond lengths."""
    flow("simulate", "ocs", "-n", "50", "--noise", "1%", "--seed", "5", "-o", "file.csv")
    assert flow("sample", "--momenta", "file.csv", "-n", "100", "--seed", "1") == 0
    assert "bundled" in flow.err
    events = flowcei.read_events("file.csv")
    assert events.positions is not None
    error = flowcei.read_samples("file.samples.h5").mean() - events.positions
    assert np.linalg.norm(error, axis=-1).mean() < 0.05


def test_samples_to_a_pipe_are_csv_and_nothing_else(flow: Shell) -> None:
    """`-o -`: data on stdout, words on stderr."""
    flow("simulate", "ocs", "-n", "3", "--seed", "5", "-o", "file.csv")
    assert flow("sample", "--momenta", "file.csv", "-n", "2", "--seed", "1", "-o", "-") == 0
    lines = flow.out.splitlines()
    assert lines[0].startswith("event,sample,cx,cy,cz,ox")
    assert len(lines) == 1 + 6
    assert _files() == {"file.csv"}
    for words in ([], ["--weigh"]):  # weighed: with the chance of the evidence, which all events tell
        asked = ("sample", "--momenta", "file.csv", "-n", "9", "--seed", "1", "--keep-flagged", *words)
        assert flow(*asked, "-o", "-") == 0
        piped = flow.out
        assert ("evidence_p" in piped) == bool(words)
        assert flow(*asked, "-o", "same.csv", "--overwrite") == 0
        assert Path("same.csv").read_text() == piped
    assert flow("simulate", "ocs", "-n", "2", "--seed", "1", "-o", "-") == 0
    assert flow.out.startswith("cx,cy,cz")


def test_the_same_seed_gives_the_same_files(flow: Shell) -> None:
    """Simulation and samples are reproducible to the last digit."""
    for name in ("a", "b"):
        flow("simulate", "ocs", "-n", "5", "--noise", "1%", "--seed", "9", "-o", f"{name}.csv")
        flow("sample", "--momenta", f"{name}.csv", "-n", "3", "--seed", "2", "-o", f"{name}-s.csv")
    assert Path("a.csv").read_bytes() == Path("b.csv").read_bytes()
    assert Path("a-s.csv").read_bytes() == Path("b-s.csv").read_bytes()


def test_spread_compare_and_info(flow: Shell) -> None:
    """Tables on stdout, files where they are said to be."""
    flow("simulate", "ocs", "-n", "30", "--noise", "1%", "--seed", "5", "-o", "e.h5")
    flow("sample", "--momenta", "e.h5", "-n", "50", "--model", "bundled", "-o", "s.h5", "--seed", "1")
    assert flow("spread", "s.h5", "--event", "3") == 0
    assert "o-c-s" in flow.out
    assert "s-spread/event-3-clouds.png" in _files()
    assert len(pd.read_csv("s-spread/spread.csv")) == 30 * 12
    assert flow("spread", "s.h5", "--event", "99", "-o", "x") == 2
    assert flow("compare", "bundled", "--data", "e.h5", "-n", "20") == 0
    table = pd.read_csv("comparison/comparison.csv", index_col="model")
    assert list(table.index) == ["bundled", "mean", "marginal", "floor"]
    assert table.loc["bundled", "atom_error_mean"] < 0.5 * table.loc["mean", "atom_error_mean"]
    for name, word in (("e.h5", "events"), ("s.h5", "posterior samples")):
        assert flow("info", name, "--json") == 0
        assert json.loads(flow.out)["content"] == word
    model = Path(flowcei.__file__).parent / "assets" / "ocs.safetensors"
    assert flow("info", str(model)) == 0
    assert "cinn" in flow.out
    assert "None" not in flow.out
    assert "verdict            not judged" in flow.out


def test_configuration_file_environment_and_flag_in_order(
    flow: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flag before environment before --config before default."""
    Path("run.toml").write_text('[simulate]\ncount = 3\nnoise = "2%"\nseed = 4\n')
    flow("--config", "run.toml", "simulate", "ocs", "-o", "a.csv")
    assert len(flowcei.read_events("a.csv")) == 3
    monkeypatch.setenv("FLOWCEI_SIMULATE_COUNT", "5")
    flow("--config", "run.toml", "simulate", "ocs", "-o", "b.csv")
    assert len(flowcei.read_events("b.csv")) == 5
    flow("--config", "run.toml", "simulate", "ocs", "-n", "7", "-o", "c.csv")
    assert len(flowcei.read_events("c.csv")) == 7
    Path("bad.toml").write_text("[simulate]\nevents = 3\n")
    assert flow("--config", "bad.toml", "simulate", "ocs") == 2
    assert "no option 'events'" in flow.err
    monkeypatch.delenv("FLOWCEI_SIMULATE_COUNT")
    Path("typed.toml").write_text('[simulate]\nn = 5\nlength-unit = "bohr"\n')
    assert flow("--config", "typed.toml", "simulate", "ocs", "-o", "typed.csv") == 0
    assert len(Path("typed.csv").read_text().splitlines()) == 6


def test_demo_makes_everything(flow: Shell) -> None:
    """Tables and pictures of all steps, in one folder; a second time only with --overwrite."""
    assert flow("demo", "--quick") == 0
    expected = {
        "events.csv", "events.png", "samples.h5", "cinn/model.safetensors", "cvae/model.safetensors",
        "spread/overall.csv", "spread/clouds.png", "comparison/comparison.csv",
        "comparison/comparison.png",
    }  # fmt: skip
    assert {f"demo/{name}" for name in expected} <= _files()
    table = pd.read_csv("demo/comparison/comparison.csv", index_col="model")
    assert list(table.index) == ["cinn", "cvae", "mean", "marginal", "floor"]
    before = _files()
    assert flow("demo", "--quick") == 2
    assert _files() == before


HEADER = "pcx,pcy,pcz,pox,poy,poz,psx,psy,psz"
ROW = "1,2,3,100,-5,6,-101,3,-9"
BAD_EVENTS = {
    "missing column": (HEADER[:-4] + "\n" + ROW[:-3], "psz"),
    "duplicate column": (HEADER + ",pcx\n" + ROW + ",1", "pcx"),
    "unknown column": (HEADER + ",Sigma\n" + ROW + ",1", "Sigma"),
    "component of an ion": (HEADER + ",px_c\n" + ROW + ",1", "px_c"),
    "text": (HEADER + f"\n{ROW}\n1,2,x3,100,-5,6,-101,3,-9", "row 2, column 'pcz'"),
    "nan": (HEADER + "\n1,2,nan,100,-5,6,-101,3,-9", "no event is left (1 event read, 1 left out"),
    "no rows": (HEADER + "\n", "no event"),
    "other molecule": ("pox,poy,poz,ph1x,ph1y,ph1z,ph2x,ph2y,ph2z\n" + ROW, "pcx"),
    "empty": ("", "empty"),
}


@pytest.mark.parametrize(("text", "where"), BAD_EVENTS.values(), ids=BAD_EVENTS)
def test_bad_event_files_are_rejected_in_one_line(flow: Shell, text: str, where: str) -> None:
    """Exit code 3, one line that names the file and the place, and nothing written."""
    Path("bad.csv").write_text(text and f"{text}\n")
    assert flow("sample", "--momenta", "bad.csv", "-n", "5", "--seed", "1") == 3
    last = flow.err.strip().splitlines()
    assert last[-1].startswith("flowcei: error: bad.csv")
    assert where in last[-1]
    assert _files() == {"bad.csv"}


def test_wrong_use_is_refused_with_code_2_and_leaves_nothing(flow: Shell) -> None:
    """Options, names and files that cannot be meant."""
    Path("good.csv").write_text(f"{HEADER}\n{ROW}\n")
    refused = [
        ["sample", "--momenta", "good.csv", "-n", "0"],
        ["sample", "--momenta", "missing.csv"],
        ["sample", "--momenta", "good.csv", "--model", "nowhere"],
        ["sample", "--momenta", "good.csv", "--noise", "much"],
        ["sample", "--momenta", "good.csv", "--noise", "50%"],
        ["sample", "--momenta", "good.csv", "-o", "x.docx"],
        ["sample", "--momenta", "good.csv", "-o", "no/such/folder.h5"],
        ["simulate", "unobtainium"],
        ["simulate", "ocs", "-n", "0"],
        ["simulate", "ocs", "--prior", "nonsense"],
        ["simulate", "ocs", "--accuracy", "1e-20"],
        ["train", "--arch", "transformer"],
        ["train", "--arch", "cvae", "--couplings", "8"],
        ["train", "--couplings", "0"],
        ["train", "--epochs", "0"],
        ["train", "--events", "5"],
        ["train", "--device", "abacus"],
        ["compare", "bundled", "bundled", "--data", "good.csv"],
        ["frobnicate"],
    ]
    for words in refused:
        assert flow(*words) == 2, words
        assert flow.err.strip().splitlines()[-1].startswith("flowcei: error:"), words
        assert "Traceback" not in flow.err
        assert _files() == {"good.csv"}, words


def test_a_model_of_another_molecule_is_refused(flow: Shell) -> None:
    """Water events, given the OCS model: by columns (CSV) and by what the file says (HDF5)."""
    for name in ("w.csv", "w.h5"):
        flow("simulate", "h2o", "-n", "3", "--seed", "1", "-o", name)
        assert flow("sample", "--momenta", name, "--model", "bundled", "--seed", "1") == 3
        assert name in flow.err


def test_what_exists_is_kept_unless_told(flow: Shell) -> None:
    """Outputs that exist are refused before any work, and replaced by --overwrite."""
    line = ["simulate", "ocs", "-n", "2", "--seed", "1", "-o", "e.csv"]
    assert flow(*line) == 0
    before = Path("e.csv").read_bytes()
    assert flow("simulate", "ocs", "-n", "3", "--seed", "2", "-o", "e.csv") == 2
    assert "--overwrite" in flow.err
    assert Path("e.csv").read_bytes() == before
    assert flow("simulate", "ocs", "-n", "3", "--seed", "2", "-o", "e.csv", "--overwrite") == 0
    assert len(flowcei.read_events("e.csv")) == 3


def test_damaged_models_are_rejected(flow: Shell) -> None:
    """Text, a truncated file and a foreign one: exit code 3, naming the file."""
    good = (Path(flowcei.__file__).parent / "assets" / "ocs.safetensors").read_bytes()
    Path("good.csv").write_text(f"{HEADER}\n{ROW}\n")
    for name, content in {"text": b"hello", "cut": good[: len(good) // 2], "zero": bytes(4000)}.items():
        path = Path(f"{name}.safetensors")
        path.write_bytes(content)
        assert flow("sample", "--momenta", "good.csv", "--model", str(path), "--seed", "1") == 3
        assert path.name in flow.err


def test_training_that_diverges_ends_with_code_4(flow: Shell) -> None:
    """A mad learning rate: one line that says what to try, and no run folder."""
    code = flow("train", "--learning-rate", "1e30", "--epochs", "3", "--events", "2000", "--batch", "100",
                "--seed", "1", "--couplings", "2")  # fmt: skip
    assert code == 4
    assert "--learning-rate" in flow.err
    assert _files() == set()


def test_training_on_a_file_and_comparing_on_it(flow: Shell) -> None:
    """`train --data` keeps its test rows for `compare`."""
    flow("simulate", "ocs", "-n", "500", "--seed", "3", "-o", "d.csv")
    assert flow("train", "--data", "d.csv", "--epochs", "2", "--hidden", "8", "--seed", "1", "-o", "r") == 0
    assert flow("compare", "r", "--data", "d.csv", "-n", "10", "--noise", "1%") == 0
    assert "only its 50 test events" in flow.err
    assert flow("train", "--data", "d.csv", "--prior", "broad") == 2


def test_no_model_is_judged_on_rows_that_another_has_seen(flow: Shell) -> None:
    """Two trainings split one file differently: only what both left out is used."""
    flow("simulate", "ocs", "-n", "1000", "--noise", "1%", "--seed", "5", "-o", "d.csv")
    kept = []
    for seed in (1, 2):
        line = ["--arch", "nearest", "--data", "d.csv", "-o", f"m{seed}", "--seed", str(seed)]
        assert flow("train", *line) == 0
        kept.append(set(split_rows(1000, seed)[2].tolist()))
    count = len(kept[0] & kept[1])
    assert flow("compare", "m1", "m2", "--data", "d.csv", "-n", "1") == (0 if count >= 10 else 3)
    assert f"{count} events" in flow.out + flow.err


def test_training_says_what_a_check_would_say(flow: Shell) -> None:
    """Positions and momenta turned apart: a warning; few events for many parameters: another."""
    flow(
        "simulate",
        "--like",
        "cei_traning_orient_1",
        "--as-published",
        "-n",
        "300",
        "-o",
        "p.csv",
        "--seed",
        "1",
    )
    line = ["train", "--data", "p.csv", "--arch", "cvae", "--epochs", "1", "--seed", "1", "-o", "m"]
    assert flow(*line) == 0
    assert "warning (" in flow.err
    assert "240 training events for" in flow.err


def test_every_option_of_an_architecture_can_be_typed(flow: Shell) -> None:
    """And every architecture is named in the help."""
    assert flow("train", "--help") == 0
    words = flow.out.replace(",", " ").replace(".", " ").split()
    for name, kind in listed_options().items():
        options = {f"--{field.name.replace('_', '-')}" for field in fields(kind)}
        assert options | {name} <= set(words), name
    assert {name: find_architecture(name).options_type for name in ARCHITECTURES} == listed_options()


def test_traceback_only_on_request(flow: Shell) -> None:
    """One line by default; the whole story with --traceback."""
    assert flow("simulate", "unobtainium") == 2
    assert len(flow.err.strip().splitlines()) == 1
    with pytest.raises(flowcei.errors.UsageError):
        flow("--traceback", "simulate", "unobtainium")


def test_alone_it_explains_itself(flow: Shell) -> None:
    """`flowcei` without a command prints the help, not an error."""
    assert flow() == 2
    assert flow.err.startswith("Usage: flowcei")
    assert len(flow.err.splitlines()) > 10


def test_measured_momenta_are_never_overwritten(flow: Shell) -> None:
    """Not even with --overwrite: samples are no substitute for a measurement."""
    flow("simulate", "ocs", "-n", "5", "-o", "m.csv", "--seed", "1")
    before = Path("m.csv").read_bytes()
    assert flow("sample", "--momenta", "m.csv", "-o", "m.csv", "--overwrite") == 2
    assert Path("m.csv").read_bytes() == before


def test_what_is_assumed_is_said(flow: Shell) -> None:
    """Less noise than the model knows, momenta it never saw, and which run it found."""
    flow("simulate", "ocs", "-n", "20", "-o", "m.csv", "--seed", "1")
    assert flow("sample", "--momenta", "m.csv", "-n", "2", "--noise", "0.001%", "--seed", "1") == 0
    assert "noise below 0.10%" in flow.err
    assert flow("compare", "bundled", "--data", "m.csv", "-n", "5") == 0
    assert "noise assumed: 1%" in flow.err
    events = flowcei.simulate("ocs", 20, seed=1)
    table = pd.read_csv("m.csv")[[f"p{ion}{axis}" for ion in "cos" for axis in "xyz"]]
    table.columns = [f"p{ion}{axis}" for ion in "ocs" for axis in "xyz"]
    table.to_csv("s.csv", index=False)
    assert flow("sample", "--momenta", "s.csv", "-n", "2", "--seed", "1") == 3
    assert f"warning: {len(events)} of {len(events)} events" in flow.err


def test_files_of_the_wrong_kind_are_named(flow: Shell) -> None:
    """Samples given as events, a picture to info; a refused comparison leaves no folder."""
    flow("simulate", "ocs", "-n", "20", "-o", "m.csv", "--seed", "1")
    flow("sample", "--momenta", "m.csv", "-n", "2", "--seed", "1", "-o", "m.samples.h5")
    assert flow("sample", "--momenta", "m.samples.h5") == 3
    assert "posterior samples" in flow.err
    assert flow("info", "bundled") == 0
    assert "content              model" in flow.out
    Path("x.toml").write_text("a = 1")
    assert flow("info", "x.toml") == 3
    assert flow("compare", "bundled", "--data", "m.csv", "--noise", "90%", "-o", "new") == 2
    assert not Path("new").exists()


def test_simulation_into_hdf5_can_be_resumed(flow: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends with code 5 and says how to go on; what is resumed is what one run gives."""
    line = ["simulate", "ocs", "-n", "20000", "--noise", "1%", "-o"]
    assert flow(*line, "whole.h5", "--seed", "4") == 0
    assert "events/s" in flow.err
    assert flow(*line, "a.h5", "--resume") == 2
    assert "no unfinished simulation a.h5.partial" in flow.err

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("flowcei.cli.progress.Progress.update", stop)
        assert flow(*line, "a.h5", "--seed", "4") == 5
    assert "--resume goes on" in flow.err
    assert flow(*line, "a.h5") == 2
    assert flow(*line, "a.h5", "--resume") == 0
    assert Path("a.h5").read_bytes() == Path("whole.h5").read_bytes()
    assert not Path("a.h5.partial").exists()


def test_the_command_line_says_that_it_compiles(tmp_path: Path) -> None:
    """What no one has compiled yet takes seconds, and says why; the second run has the same, at once."""
    flowcei.simulate("ocs", 10, seed=1)
    kernels = tmp_path / "cache" / "kernels"
    kernels.mkdir(parents=True)
    # The largest kernel is there, the small ones are not: it alone would take ten seconds.
    for path in cache_folder().glob("_kernel.explode-*.nb[ic]"):
        shutil.copy(path, kernels)
    first, second = (
        subprocess.run(
            [sys.executable, "-m", "flowcei", "simulate", "ocs", "-n", "10", "-o", "-", "--seed", "1"],
            env=os.environ | {"FLOWCEI_CACHE_DIR": str(kernels.parent)},
            capture_output=True,
            text=True,
            check=True,
        )
        for _ in range(2)
    )
    assert first.stderr.count("compiling the simulator") == 1
    assert "compiling" not in second.stderr
    assert first.stdout.startswith("cx,cy,cz")
    assert first.stdout == second.stdout
