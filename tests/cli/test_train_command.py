"""`flowcei train` when it is stopped, killed, out of room, or pointed at what is there already."""

from __future__ import annotations

import os
import re
import shutil
import tomllib
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from runfolders import FINISHED, LINE, TINY, assert_same_runs, names_in
from shell import Shell

import flowcei
from flowcei.cli.runs import RunFolder
from flowcei.cli.streams import log_file
from flowcei.errors import UsageError
from flowcei.storage.modelfile import read_model
from flowcei.training import loop
from flowcei.training.steps import Steps

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def flow(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Shell:
    """`flow("train", ...)` runs a command, in an empty folder, and returns its exit code."""
    monkeypatch.chdir(tmp_path)
    return Shell(monkeypatch, capsys)


def _interrupt_after(monkeypatch: pytest.MonkeyPatch, epochs: int) -> None:
    """Ctrl-C, so many epochs into every training that follows."""
    write = RunFolder.write_metrics

    def stop(self: RunFolder, records: list) -> None:
        write(self, records)
        if len(records) == epochs:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "write_metrics", stop)


def test_an_interrupted_training_says_how_to_go_on(flow: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C: exit code 5 and a line to type; what it gives is what one run gives."""
    assert flow(*LINE[:-1], "whole") == 0
    with monkeypatch.context() as patch:
        _interrupt_after(patch, 2)
        assert flow(*LINE) == 5
    assert flow.err.splitlines()[-1] == (
        "flowcei: error: interrupted: 2 of 4 epochs are saved; go on with: flowcei train --resume run"
    )
    assert names_in("run") == {"config.toml", "checkpoint.safetensors", "metrics.csv", "train.log"}
    assert len(pd.read_csv("run/metrics.csv")) == 2
    assert flow("train", "--resume", "run") == 0
    assert "going on with cinn" in flow.err
    assert names_in("run") == FINISHED
    assert_same_runs("run", "whole")


def test_a_log_tells_what_was_done_and_when(flow: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands, versions, seed and every note of both parts, each line with its time; also under -q."""
    with monkeypatch.context() as patch:
        _interrupt_after(patch, 2)
        flow("-q", *LINE, "--prior", "ball")  # of a small flow a poor model
    assert len(flow.err.splitlines()) == 1
    flow("-q", "train", "--resume", "run")
    assert flow.err.startswith("warning: verdict on 100 events unseen: poor")
    assert len(flow.err.splitlines()) == 1
    lines = Path("run/train.log").read_text().splitlines()
    assert all(re.match(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ \S", line) for line in lines)
    text = "\n".join(line.split(" ", 1)[1] for line in lines)
    assert [n for n in range(1, 5) if f"epoch   {n}/4" in text] == [1, 2, 3, 4]
    assert "$ flowcei -q train --hidden 8" in text
    assert "$ flowcei -q train --resume run" in text
    assert text.count(f"flowcei {flowcei.__version__}, Python") == 2
    assert text.count(f"torch {torch.__version__}, seed 1") == 2
    assert "model in run" in text


def test_time_that_is_up_ends_with_code_5(flow: Shell) -> None:
    """A limit below an epoch keeps nothing and says so; the run can still be resumed."""
    assert flow(*LINE, "--max-time", "0.000001s") == 5
    assert "0 of 4 epochs are saved (--max-time is shorter than an epoch: give more)" in flow.err
    assert "flowcei train --resume run" in flow.err
    assert flow("train", "--resume", "run", "--max-time", "2h") == 0
    assert flow(*LINE[:-1], "whole") == 0
    assert_same_runs("run", "whole")
    assert flow(*LINE, "--max-time", "soon") == 2


def test_resume_takes_the_newest_unfinished_run(flow: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a name; by its name in runs/; none left is said, and a finished one is complete."""
    line = ["train", *TINY, "--epochs", "2", "--events", "200"]
    with monkeypatch.context() as patch:
        _interrupt_after(patch, 1)
        for k in (1, 2):
            assert flow(*line) == 5
            os.utime(f"runs/ocs-cinn-{k}", (k, k))
    assert flow("train", "--resume", "--max-time", "1h") == 0
    assert "model in runs/ocs-cinn-2" in flow.err
    assert flow("train", "--resume", "ocs-cinn-1") == 0
    assert_same_runs("runs/ocs-cinn-1", "runs/ocs-cinn-2")
    for words, said in (
        ([], "no unfinished training in runs"),
        (["ocs-cinn-1"], "is complete"),
        (["x"], "'x'"),
    ):
        assert flow("train", "--resume", *words) == 2
        assert said in flow.err


OTHERS = [
    (["--batch", "512"], "--batch is 512; the run was begun with 50; leave it out"),
    (["--epochs", "9"], "--epochs is 9; the run was begun with 4"),
    (["--seed", "2"], "--seed is 2; the run was begun with 1"),
    (["--hidden", "16"], "--hidden is 16; the run was begun with 8"),
    (["--latent", "3"], "--latent is 3; the run was begun without"),
    (["--arch", "cvae"], "--arch is cvae; the run was begun with cinn"),
    (["--data", "x.csv"], "--data is x.csv; the run was begun without"),
    (["-o", "other"], "leave --output and --overwrite out"),
    (["--overwrite"], "leave --output and --overwrite out"),
]


def test_options_beside_resume_must_be_the_same(flow: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """What differs is refused by name, and the run is as it was; what is the same does no harm."""
    Path("x.csv").write_text("a\n1\n")
    with monkeypatch.context() as patch:
        _interrupt_after(patch, 1)
        flow(*LINE)
    before = {p.name: p.read_bytes() for p in Path("run").iterdir()}
    for words, said in OTHERS:
        assert flow("train", "--resume", "run", *words) == 2, words
        assert said in flow.err
        assert {p.name: p.read_bytes() for p in Path("run").iterdir()} == before
    monkeypatch.setenv("FLOWCEI_TRAIN_BATCH", "512")  # a default, not an order
    assert flow("train", "--resume", "run", "--batch", "50", "--hidden", "8") == 0


@pytest.mark.parametrize(
    ("molecule", "more", "chosen"),
    [
        ("ch2o", (), (20_000, 256, 8, "glow")),
        ("ch2o", ("--events", "300"), (300, 256, 8, "glow")),
        ("ch2o", ("--prior", "ball"), (100_000, 1024, 8, "glow")),
        ("ocs", ("--prior", "broad"), (40_000, 256, 4, "spline")),
        ("ocs", ("--prior", "broad", "--couplings", "8", "--batch", "9"), (40_000, 9, 8, "spline")),
        ("iodopyridine", ("--arch", "latent-cinn"), (100_000, 1024, 8, None)),
    ],
)
def test_defaults_follow_molecule_and_prior(
    flow: Shell,
    monkeypatch: pytest.MonkeyPatch,
    molecule: str,
    more: tuple[str, ...],
    chosen: tuple[Any, ...],
) -> None:
    """Events of an epoch and of a step, and couplings, as `flowcei.train` is asked for them."""
    asked: dict[str, Any] = {}

    def train(_: str, **how: Any) -> None:
        asked.update(how)
        raise UsageError("enough")

    monkeypatch.setattr(flowcei, "train", train)
    assert flow("train", "--molecule", molecule, *more, "--seed", "1", "-o", "run") == 2
    options = asked["options"]
    sizes = asked["events_per_epoch"], asked["schedule"].batch
    assert (*sizes, options["couplings"], options.get("coupling")) == chosen


def test_configuration_holds_every_option(flow: Shell) -> None:
    """Defaults of architecture, noise and prior too: as a configuration file it makes the same run."""
    assert flow(*LINE) == 0
    table = tomllib.loads(Path("run/config.toml").read_text())["train"]
    assert table == {
        "arch": "cinn", "couplings": 2, "coupling": "glow", "hidden": 8, "depth": 2, "context": 16,
        "bins": 8, "frame": "recoil", "epochs": 4, "events": 200, "batch": 50, "learning_rate": 3e-3,
        "patience": 10, "seed": 1, "device": "auto", "molecule": "ocs", "noise": "0.1%..5%/axis",
        "prior": "equilibrium",
    }  # fmt: skip
    assert flow("--config", "run/config.toml", "train", "-o", "again") == 0
    assert_same_runs("run", "again")


def test_a_file_that_has_moved_is_found_and_one_that_has_changed_is_refused(
    flow: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The content counts: under another name it is the same, with another number it is not."""
    flow("simulate", "ocs", "-n", "300", "--noise", "1%", "--seed", "3", "-o", "d.csv")
    line = ["train", *TINY, "--epochs", "3", "--data", "d.csv", "-o"]
    assert flow(*line, "whole") == 0
    with monkeypatch.context() as patch:
        _interrupt_after(patch, 2)
        assert flow(*line, "run") == 5
    Path("d.csv").rename("moved.csv")
    assert flow("train", "--resume", "run") == 2
    assert "no file 'd.csv'" in flow.err
    table = pd.read_csv("moved.csv")
    table.loc[7, "cx"] += 1e-6
    table.to_csv("d.csv", index=False)
    assert flow("train", "--resume", "run") == 3
    assert "data are not those of the training that was begun" in flow.err
    assert flow("train", "--resume", "run", "--data", "moved.csv") == 0
    assert_same_runs("run", "whole")


def test_an_old_run_stays_until_there_is_a_new_one(flow: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """--overwrite keeps the old model in use while the new training goes on, or fails."""
    assert flow(*LINE) == 0
    old = Path("run/model.safetensors").read_bytes()
    other = [*LINE, "--overwrite", "--context", "4"]
    assert flow(*other, "--learning-rate", "1e30") == 4
    assert names_in("run") == FINISHED
    with monkeypatch.context() as patch:
        _interrupt_after(patch, 2)
        assert flow(*other) == 5
    assert names_in("run") == FINISHED | {"unfinished"}
    assert Path("run/model.safetensors").read_bytes() == old
    flow("simulate", "ocs", "-n", "5", "--noise", "1%", "--seed", "5", "-o", "e.csv")
    sampling = ["--momenta", "e.csv", "--model", "run", "-n", "2", "--seed", "1", "--keep-flagged"]
    assert flow("sample", *sampling) == 0
    assert flow(*LINE) == 2
    assert "unfinished training: --resume run goes on, --overwrite begins anew" in flow.err
    assert flow("train", "--resume", "run") == 0
    assert names_in("run") == FINISHED
    assert tomllib.loads(Path("run/config.toml").read_text())["train"]["context"] == 4
    assert read_model(Path("run/model.safetensors"))[0].options["context"] == 4


def test_an_unfinished_run_can_be_begun_anew(flow: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only with --overwrite, and then with the new options; a folder of another kind never."""
    with monkeypatch.context() as patch:
        _interrupt_after(patch, 2)
        flow(*LINE)
    assert flow(*LINE) == 2
    assert "--overwrite begins anew" in flow.err
    assert flow(*LINE, "--context", "4", "--overwrite") == 0
    assert names_in("run") == FINISHED
    assert len(pd.read_csv("run/metrics.csv")) == 4
    Path("mine").mkdir()
    Path("mine/thesis.tex").write_text("precious")
    assert flow(*LINE[:-1], "mine", "--overwrite") == 2
    assert "holds no model, so --overwrite will not replace it" in flow.err


def test_only_finished_runs_are_models(flow: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unfinished one is not the newest model, and by name it says how to finish it."""
    with monkeypatch.context() as patch:
        _interrupt_after(patch, 2)
        flow(*LINE[:-2])
    flow("simulate", "ocs", "-n", "5", "--noise", "1%", "--seed", "5", "-o", "e.csv")
    assert flow("sample", "--momenta", "e.csv", "-n", "2", "--seed", "1") == 0
    assert "bundled" in flow.err
    assert flow("sample", "--momenta", "e.csv", "--model", "ocs-cinn-1", "--overwrite") == 2
    assert "is not finished: flowcei train --resume runs/ocs-cinn-1 goes on with it" in flow.err


def test_damaged_run_folders_are_refused_in_one_line(flow: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint or a configuration that is not whole: exit code 3, the file named."""
    with monkeypatch.context() as patch:
        _interrupt_after(patch, 2)
        flow(*LINE)
    sound = {name: Path(f"run/{name}").read_bytes() for name in ("checkpoint.safetensors", "config.toml")}
    bad = [
        ("checkpoint.safetensors", sound["checkpoint.safetensors"][:5000]),
        ("config.toml", b"[train"),
        ("config.toml", b"[simulate]\ncount = 3"),
        ("config.toml", sound["config.toml"] + b"colour = 3\n"),
        ("config.toml", sound["config.toml"].replace(b"batch", b"# batch")),
    ]
    for name, content in bad:
        Path(f"run/{name}").write_bytes(content)
        assert flow("train", "--resume", "run") == 3, content[-30:]
        assert f"run/{name}" in flow.err.splitlines()[-1]
        Path(f"run/{name}").write_bytes(sound[name])
    Path("run/config.toml").write_bytes(sound["config.toml"].replace(b"batch = 50", b"batch = 40"))
    assert flow("train", "--resume", "run") == 2
    assert "batch is 40; the training was begun with 50" in flow.err
    Path("run/config.toml").write_bytes(sound["config.toml"])
    assert flow("train", "--resume", "run") == 0


def test_two_processes_do_not_train_in_one_folder(flow: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither resumes nor replaces what another works on."""
    with monkeypatch.context() as patch:
        _interrupt_after(patch, 2)
        flow(*LINE)
    before = Path("run/checkpoint.safetensors").read_bytes()
    with log_file(Path("run/train.log")):
        for words in (["train", "--resume", "run"], [*LINE, "--overwrite"]):
            assert flow(*words) == 2
            assert "another process is writing run/train.log" in flow.err
    assert Path("run/checkpoint.safetensors").read_bytes() == before
    assert flow("train", "--resume", "run") == 0


def test_places_that_cannot_be_written_leave_nothing(flow: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under a file, or where the system refuses: one line, exit code 2."""
    Path("file").write_text("here")
    assert flow(*LINE[:-1], "file/run") == 2
    assert "cannot make folder file/run" in flow.err.splitlines()[-1]

    def refuse(*_: object, **__: object) -> str:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert flow(*LINE[:-1], "new/run") == 2
    assert flow.err.splitlines()[-1] == (
        "flowcei: error: cannot make folder new/run (Read-only file system); name another place with -o"
    )
    assert names_in(".") == {"file"}


def test_a_full_disk_ends_in_one_line_and_can_be_resumed(
    flow: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the third checkpoint, the second line of metrics, or the model: exit code 1, then as before."""
    assert flow(*LINE[:-1], "whole") == 0
    # The untrained model is written first, to see that it can be read again.
    for owner, name, call in (
        (loop, "write_checkpoint", 3),
        (pd.DataFrame, "to_csv", 2),
        (flowcei.Reconstructor, "save", 2),
    ):
        real, calls = getattr(owner, name), count(1)

        def full(
            *args: object, real: Any = real, calls: Any = calls, call: int = call, **more: object
        ) -> Any:
            if next(calls) == call:
                raise OSError(28, "No space left on device")
            return real(*args, **more)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, full)
            assert flow(*LINE) == 1
        last = flow.err.splitlines()[-1]
        assert last.startswith("flowcei: error: ")
        assert "No space left on device" in last
        assert "--resume run" in flow.err
        assert not [name for name in names_in("run") if name.startswith(".")]
        assert flow("train", "--resume", "run") == 0
        assert_same_runs("run", "whole")
        shutil.rmtree("run")


def test_a_molecule_of_two_atoms_is_sampled(flow: Shell) -> None:
    """Of two ions the frame leaves no momentum but the size: nothing to be unlike, and no error."""
    Path("no.xyz").write_text("2\n\nN 0 0 0\nO 0 0 1.15\n")
    short = ("--epochs", "1", "--events", "2000", "--seed", "1", "-o", "two")
    assert flow("train", "--molecule", "no.xyz", *short) == 0, flow.err
    assert flow("simulate", "no.xyz", "-n", "20", "--noise", "1%", "--seed", "2", "-o", "e.csv") == 0
    assert flow("sample", "--momenta", "e.csv", "-n", "10", "--model", "two", "-o", "s.h5") == 0, flow.err
    assert np.isfinite(flowcei.read_samples("s.h5").positions).all()


def test_a_loss_is_called_by_its_name(flow: Shell) -> None:
    """That of flow matching is no NLL, and nobody calls it one."""
    small = ("--steps", "2", "--hidden", "8", "--depth", "1", "--context", "2", "--seed", "1")
    assert flow("train", "--arch", "fm", "--epochs", "1", "--events", "500", *small, "-o", "run") == 0
    assert re.search(r"validation loss \d+\.\d+ \(epoch 1: squared error of the velocity\)", flow.err)
    assert flow("info", "run") == 0
    assert re.search(r"validation loss +\S+ squared error of the velocity, in standardised", flow.out)
    assert not any(re.search(r"loss.*\bnat\b", line) for line in flow.out.splitlines())


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nGPU 0 has"),
            "flowcei: error: the GPU is out of memory; give --device cpu, or less of --batch, --hidden or -n",
        ),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4e12 bytes"),
            "flowcei: error: out of memory; use fewer events or samples, or less of --batch",
        ),
    ],
)
def test_a_device_without_memory_ends_in_one_line_and_can_be_resumed(
    error: RuntimeError, advice: str, flow: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the second epoch, or in the first, which leaves nothing; exit code 1."""
    step, write = Steps.differentiate, RunFolder.write_metrics
    for epochs in (2, 0):
        written = [0]

        def count_epochs(self: RunFolder, records: list, written: list = written) -> None:
            write(self, records)
            written[0] = len(records)

        def refuse(*args: Any, epochs: int = epochs, written: list = written, **more: Any) -> Any:
            if written[0] == epochs:
                raise error
            return step(*args, **more)

        with monkeypatch.context() as patch:
            patch.setattr(RunFolder, "write_metrics", count_epochs)
            patch.setattr(Steps, "differentiate", refuse)
            assert flow(*LINE) == 1
        assert flow.err.splitlines()[-1] == advice
        assert ("--resume run" in flow.err) == (epochs == 2)
        if epochs:
            assert flow("train", "--resume", "run") == 0
            shutil.rmtree("run")
    assert names_in(".") == set()
