"""Folders that others can write to, files that they made, and streams that are closed or full."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest
from shell import Shell

import flowcei
from flowcei.errors import DataError, FlowceiError, StoppedError, UsageError
from flowcei.events.simulation import make_simulator, simulate_to_file
from flowcei.storage.creation import (
    append_to,
    atomic_text,
    atomic_write,
    create_file,
    output_lock,
    remove_stale,
    reopen_file,
)
from flowcei.storage.hdf import opened, writing
from flowcei.storage.resumable import PreallocatedFile, preallocate

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder, which is the current one, beside a file that nobody may touch."""
    here = tmp_path / "shared"
    here.mkdir()
    (tmp_path / "victim").write_text("precious")
    monkeypatch.chdir(here)
    return here


@pytest.fixture
def shell(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    """`shell("simulate", ...)` runs a command in `folder` and returns its exit code."""
    del folder
    return Shell(monkeypatch, capsys)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _victim(folder: Path) -> str:
    return (folder.parent / "victim").read_text()


def _plant(kind: str, place: Path) -> None:
    """Put something that is no file of ours under a name."""
    if kind == "link":
        place.symlink_to("../victim")
    elif kind == "dangling":
        place.symlink_to("../new")
    elif kind == "hard link":
        place.hardlink_to(place.parent / "../victim")
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        place.mkdir()


KINDS = ("link", "dangling", "hard link", "pipe", "folder")
kinds = pytest.mark.parametrize("kind", KINDS)


# Creation


@kinds
@pytest.mark.parametrize("name", [".a.txt.flowcei-tmp", ".a.txt.flowcei-lock"])
def test_nothing_that_was_planted_under_a_hidden_name_is_written(folder: Path, kind: str, name: str) -> None:
    """One line that names it and says what to do; what it leads to is as it was."""
    _plant(kind, folder / name)
    make = output_lock if name.endswith("lock") else atomic_write
    with (
        pytest.raises(UsageError, match=rf"{name} is a .*: nothing is written to it; remove it"),
        make(Path("a.txt")),
    ):
        pass
    assert _victim(folder) == "precious"
    assert _names(folder) == [name]
    assert not (folder.parent / "new").exists()


@kinds
def test_what_is_planted_while_a_file_is_written_is_not_written_either(folder: Path, kind: str) -> None:
    """The temporary file is swapped for something else in the middle: nothing goes through it."""
    hidden = folder / ".a.txt.flowcei-tmp"

    def swapped() -> None:
        with atomic_text(Path("a.txt")) as file:
            hidden.unlink()
            _plant(kind, hidden)
            file.write("ours")

    with pytest.raises(FlowceiError, match="another process has moved"):
        swapped()
    assert _victim(folder) == "precious"
    assert not (folder / "a.txt").exists()


@kinds
def test_only_a_file_is_replaced(folder: Path, kind: str) -> None:
    """A link at the output is refused with --overwrite and without; a second name keeps the old content."""
    _plant(kind, folder / "a.txt")
    with pytest.raises(UsageError, match="exists"), atomic_write(Path("a.txt"), overwrite=False):
        pass
    if kind == "hard link":
        with atomic_write(Path("a.txt")) as file:
            file.write(b"ours")
        assert (folder / "a.txt").read_text() == "ours"
    else:
        with (
            pytest.raises(UsageError, match=r"is a .*, which is never replaced"),
            atomic_write(Path("a.txt")),
        ):
            pass
    assert _victim(folder) == "precious"
    assert _names(folder) == ["a.txt"]


def test_a_file_is_locked_while_it_is_written(folder: Path) -> None:
    """A second writer is refused in one line, and the first one's content stands."""
    with atomic_text(Path("a.txt")) as file:
        file.write("first")
        with (
            pytest.raises(UsageError, match=r"another process is writing a\.txt"),
            atomic_text(Path("a.txt")),
        ):
            pass
    assert (folder / "a.txt").read_text() == "first"


def test_what_a_killed_process_left_is_replaced(folder: Path) -> None:
    """The lock goes with the process: its temporary file is no obstacle, and can be tidied away."""
    code = "import os, signal\nfrom pathlib import Path\nfrom flowcei.storage.creation import *\n"
    code += "with output_lock(Path('a.txt')), atomic_text(Path('a.txt')) as file:\n"
    code += "    file.write('half')\n    file.flush()\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    for _ in range(2):
        ended = subprocess.run([sys.executable, "-c", code], env=_environment(), check=False)
        assert ended.returncode == -signal.SIGKILL
        assert _names(folder) == [".a.txt.flowcei-lock", ".a.txt.flowcei-tmp"]
    remove_stale(folder)
    assert _names(folder) == []
    subprocess.run([sys.executable, "-c", code], env=_environment(), check=False)
    with output_lock(Path("a.txt")), atomic_text(Path("a.txt")) as file:
        remove_stale(folder)  # not what is in use
        file.write("whole")
    assert _names(folder) == ["a.txt"]
    assert Path("a.txt").read_text() == "whole"


def test_permissions_are_those_of_an_ordinary_file(folder: Path) -> None:
    """As the mask of the user says, also while it is written."""
    before = os.umask(0o027)
    try:
        with create_file(Path("a.txt")) as output:
            assert stat.S_IMODE(os.fstat(output.file.fileno()).st_mode) == 0o640
            output.become(Path("a.txt"))
    finally:
        os.umask(before)
    assert stat.S_IMODE((folder / "a.txt").stat().st_mode) == 0o640


def test_a_file_that_came_meanwhile_is_not_replaced(folder: Path) -> None:
    """Without --overwrite, somebody else's file stays, however late it came."""

    def late() -> None:
        with atomic_text(Path("a.txt"), overwrite=False) as file:
            file.write("ours")
            Path("a.txt").write_text("theirs")

    with pytest.raises(UsageError, match="exists"):
        late()
    assert {p.name: p.read_text() for p in folder.iterdir()} == {"a.txt": "theirs"}


@kinds
def test_only_a_file_is_appended_to(folder: Path, kind: str) -> None:
    """Logs, and files that are gone on with: no links, no second names, no waiting for a pipe."""
    _plant(kind, folder / "train.log")
    with pytest.raises(UsageError, match=r"train\.log is a .*: nothing is written to it"):
        append_to(Path("train.log"))
    with pytest.raises(UsageError, match=r"train\.log is a "), reopen_file(Path("train.log")):
        pass
    assert _victim(folder) == "precious"
    assert not (folder.parent / "new").exists()


# Commands in a shared folder


@kinds
@pytest.mark.parametrize(
    "name", [".ev.h5.partial", ".ev.h5.partial.flowcei-tmp", ".ev.h5.flowcei-lock", "ev.h5.partial", "ev.h5"]
)
def test_a_simulation_into_a_shared_folder_follows_nothing(
    shell: Shell, folder: Path, kind: str, name: str
) -> None:
    """What other people plant under any name that a simulation may use: their target stays as it is."""
    _plant(kind, folder / name)
    for words in ([], ["--overwrite"], ["--resume"]):
        code = shell("simulate", "ocs", "-n", "20", "--seed", "1", "-o", "ev.h5", *words)
        assert len([line for line in shell.err.splitlines() if "error" in line]) == (code != 0)
        assert code in (0, 2, 3)
        assert _victim(folder) == "precious"
        assert not (folder.parent / "new").exists()
    if name == ".ev.h5.partial":  # a name that nothing uses
        assert len(flowcei.read_events("ev.h5")) == 20


def _begun(name: str = "ev.h5") -> Path:
    """Return a simulation that was stopped after a block."""

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    simulator = make_simulator("ocs", seed=1)
    with pytest.raises(StoppedError):
        simulate_to_file(simulator, 20, Path(name), on_block=stop)
    return Path(f"{name}.partial")


RESUME = ("simulate", "ocs", "-n", "20", "--seed", "1", "-o", "ev.h5", "--resume")


def _heap(partial: Path) -> None:
    data = bytearray(partial.read_bytes())
    place = data.index(b"GCOL") + 16
    data[place + 8 : place + 16] = bytes(8)
    partial.write_bytes(bytes(data))


def _edited(change: Callable[[h5py.File], None]) -> Callable[[Path], None]:
    def edit(partial: Path) -> None:
        with h5py.File(partial, "r+") as file:
            change(file)

    return edit


def _external(file: h5py.File) -> None:
    del file["momenta"]
    file["momenta"] = h5py.ExternalLink("../victim.h5", "/momenta")


def _soft(file: h5py.File) -> None:
    del file["momenta"]
    file["momenta"] = h5py.SoftLink("/positions")


def _elsewhere(file: h5py.File) -> None:
    del file["momenta"]
    file.create_dataset("momenta", (20, 3, 3), "f8", external=[("../victim", 0, 20 * 9 * 8)])


def _group(file: h5py.File) -> None:
    del file["sigma"]
    file.create_group("sigma")


def _no_request(file: h5py.File) -> None:
    file.attrs["request"] = "many"


def _cut(partial: Path) -> None:
    partial.write_bytes(partial.read_bytes()[:-4096])


PARTIALS: dict[str, Callable[[Path], None]] = {
    "external link": _edited(_external),
    "soft link": _edited(_soft),
    "external storage": _edited(_elsewhere),
    "group": _edited(_group),
    "no request": _edited(_no_request),
    "endless heap": _heap,
    "cut": _cut,
}


@pytest.mark.parametrize("kind", PARTIALS)
def test_a_planted_partial_file_is_opened_with_the_same_care(shell: Shell, folder: Path, kind: str) -> None:
    """No link is followed, nothing hangs: one line, exit code 3, and the file stays for its owner."""
    with h5py.File(folder.parent / "victim.h5", "w") as file:
        file["momenta"] = np.zeros((20, 3, 3))
    before = (folder.parent / "victim.h5").read_bytes()
    partial = _begun()
    PARTIALS[kind](partial)
    planted = partial.read_bytes()
    assert shell(*RESUME) == 3
    assert "remove it" in shell.err
    assert len(shell.err.splitlines()) <= 2
    assert (folder.parent / "victim.h5").read_bytes() == before
    assert _victim(folder) == "precious"
    assert partial.read_bytes() == planted
    assert _names(folder) == ["ev.h5.partial"]


def test_places_beyond_the_file_are_refused(folder: Path) -> None:
    """A dataset that says it lies past the end of the file would make it grow without end."""
    path = folder / "a.h5"
    with atomic_write(path) as file:
        preallocate(file, path, {"x": ((40, 4), np.dtype("f8"))}, 4, lambda _: None)
    data = bytearray(path.read_bytes())
    with h5py.File(path) as read:
        offset = read["x"].id.get_offset()
    place = data.index(offset.to_bytes(8, "little"))
    data[place : place + 8] = (len(data) - 8).to_bytes(8, "little")
    path.write_bytes(bytes(data))
    with path.open("r+b") as raw, pytest.raises(DataError, match="is damaged; remove it"):
        PreallocatedFile(raw, path)


def test_two_simulations_into_one_file_do_not_mix(shell: Shell, folder: Path) -> None:
    """The second one is refused in one line while the first is at work, and the file is the first one's."""
    codes: list[tuple[int, str]] = []

    def second(_: int) -> None:
        if not codes:
            code = shell("simulate", "ocs", "-n", "30", "--seed", "2", "-o", "ev.h5", "--overwrite")
            codes.append((code, shell.err))

    simulate_to_file(make_simulator("ocs", seed=1), 20, Path("ev.h5"), on_block=second)
    assert codes[0][0] == 2
    assert "another process is writing ev.h5; wait for it" in codes[0][1]
    found = flowcei.read_events("ev.h5")
    np.testing.assert_array_equal(found.momenta, flowcei.simulate("ocs", 20, seed=1).momenta)
    assert _names(folder) == ["ev.h5"]


def test_an_unfinished_file_can_be_read_by_others(folder: Path) -> None:
    """The lock is not on the file itself, which HDF5 would not open then."""
    seen: list[int] = []

    def read(_: int) -> None:
        with h5py.File("ev.h5.partial") as file:
            seen.append(len(file["momenta"]))

    simulate_to_file(make_simulator("ocs", seed=1), 20, Path("ev.h5"), on_block=read)
    assert seen == [20]
    assert _names(folder) == ["ev.h5"]


# Run folders

TINY = [
    "--hidden",
    "8",
    "--couplings",
    "2",
    "--batch",
    "50",
    "--epochs",
    "2",
    "--events",
    "100",
    "--seed",
    "1",
]


@pytest.fixture
def stranger(folder: Path) -> Path:
    """Return a run folder, unfinished, with a data path of two lines and control characters."""
    flowcei.write_events(flowcei.simulate("ocs", 120, noise="1%", seed=2), "e.csv")
    Path("a\nforged line\x1b[2J.csv").write_bytes(Path("e.csv").read_bytes())
    run = folder / "run"
    run.mkdir()
    options = {"arch": "cinn", "frame": "recoil", "device": "cpu", "learning_rate": 0.003, "patience": 10}
    options |= {"epochs": 1, "batch": 20, "events": 100, "seed": 1, "hidden": 8, "couplings": 2, "context": 2}
    options["data"] = "a\nforged line\x1b[2J.csv"
    lines = [f"{k} = {json.dumps(v)}\n" for k, v in options.items()]
    (run / "config.toml").write_text("[train]\n" + "".join(lines))
    return run


def test_names_in_a_run_folder_are_escaped(shell: Shell, stranger: Path) -> None:
    """On the screen and in the log: each entry is one line, which only flowcei begins."""
    assert shell("train", "--resume", "run") == 0, shell.err
    log = (stranger / "train.log").read_text()
    for text in (shell.err, log):
        assert "a\\nforged line\\x1b[2J.csv" in text
        assert "\x1b" not in text
        assert not any(line.startswith("forged") for line in text.splitlines())
    assert all(line.startswith("20") for line in log.splitlines())


@kinds
@pytest.mark.parametrize(
    "name", ["train.log", "metrics.csv", "checkpoint.safetensors", "loss.png", "config.toml"]
)
def test_nothing_outside_a_run_folder_is_written(shell: Shell, stranger: Path, kind: str, name: str) -> None:
    """A run folder of somebody else, in which one of the files is something else: refused before any work."""
    folder = stranger.parent
    config = (stranger / "config.toml").read_text()
    if name == "config.toml":
        (folder.parent / "victim").write_text(config)
        (stranger / name).unlink()
    victim = _victim(folder)
    if kind in ("link", "dangling"):
        (stranger / name).symlink_to(folder.parent / ("victim" if kind == "link" else "new"))
    elif kind == "hard link":
        (stranger / name).hardlink_to(folder.parent / "victim")
    else:
        _plant(kind, stranger / name)
    code = shell("train", "--resume", "run")
    assert _victim(folder) == victim
    assert not (folder.parent / "new").exists()
    if kind != "hard link" or name == "train.log":  # a second name is replaced, not written to
        assert code in (2, 3)
        assert len([line for line in shell.err.splitlines() if "error" in line]) == 1


def test_a_linked_folder_of_an_unfinished_run_is_refused(shell: Shell, stranger: Path) -> None:
    """`unfinished`, in which a run is trained that is to replace another, leads somewhere else."""
    away = stranger.parent.parent / "away"
    shutil.move(stranger, away)
    stranger.mkdir()
    (stranger / "model.safetensors").write_bytes(b"a model")
    (stranger / "unfinished").symlink_to(away)
    before = sorted(p.name for p in away.iterdir())
    assert shell("train", "--resume", "run") == 2
    assert shell("train", *TINY, "-o", "run", "--overwrite") == 2
    assert "unfinished is a link" in shell.err
    assert sorted(p.name for p in away.iterdir()) == before


def test_no_folder_beside_a_run_is_removed(shell: Shell, stranger: Path) -> None:
    """A run may be called *: what is tidied up are the folders of its own name that hold nothing else."""
    folder = stranger.parent
    stranger.rename(folder / "*")
    for name in (".run-abcdefgh", ".*-abcdefgh"):
        (folder / name).mkdir()
        (folder / name / "thesis.tex").write_text("precious")
    assert shell("train", "--resume", "*") == 0, shell.err
    assert (folder / ".run-abcdefgh" / "thesis.tex").exists()
    assert (folder / ".*-abcdefgh" / "thesis.tex").exists()


# Disks and streams


def test_hdf5_survives_a_full_disk(folder: Path) -> None:
    """The library ends with a segmentation fault where its own file cannot grow; ours does not let it see."""
    path = folder / "a.h5"

    def full() -> None:
        with atomic_write(path) as file, writing(file) as content:
            content["x"] = np.zeros(1_000_000)

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(FlowceiError, match=r"a\.h5 cannot be written \(File too large\)"):
            full()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert _names(folder) == []


def test_an_open_file_is_watched_too(folder: Path) -> None:
    """What is read through a handle is read from the beginning, and stays open."""
    path = folder / "a.h5"
    with atomic_write(path) as file:
        with writing(file) as content:
            content["x"] = np.arange(3)
        with opened(path, file) as content:
            assert content["x"][()].tolist() == [0, 1, 2]
        assert not file.closed


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def _run(line: str, folder: Path) -> tuple[int, str, str]:
    """Run a line of bash, in which `flowcei` is this one, and return exit code, stdout and stderr."""
    program = f'flowcei() {{ "{sys.executable}" -m flowcei "$@"; }}; set -o pipefail; {line}'
    bash = str(shutil.which("bash"))
    done = subprocess.run(
        [bash, "-c", program], cwd=folder, env=_environment(), capture_output=True, text=True, check=False
    )
    # Whether the simulator is compiled first, and can be kept, depends on who ran before.
    own = [line for line in done.stderr.splitlines() if "compil" not in line and "kernels" not in line]
    return done.returncode, done.stdout, "\n".join(own)


@pytest.mark.parametrize("ending", ["h5", "csv"])
def test_a_limit_on_the_size_of_files_is_an_error_in_one_line(folder: Path, ending: str) -> None:
    """`ulimit -f`: exit code 1, and nothing is left."""
    code, out, err = _run(f"ulimit -f 10; flowcei -q simulate ocs -n 10000 --seed 1 -o a.{ending}", folder)
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert "File too large" in err
    assert _names(folder) == []


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        ("flowcei -q simulate ocs -n 20 --seed 1 -o a.csv >&-", 0, ""),
        ("flowcei simulate ocs -n 20 --seed 1 -o a.csv 2>&-", 0, ""),
        ("flowcei simulate ocs -n 20 --seed 1 -o a.csv 2>/dev/full", 0, ""),
        ("flowcei simulate ocs -n 20 --seed 1 -o a.csv <&- >&- 2>&-", 0, ""),
        ("flowcei info e.csv >&-", 1, "stdout cannot be written (Bad file descriptor)"),
        ("flowcei info e.csv >/dev/full", 1, "stdout cannot be written (No space left on device)"),
        ("flowcei -q simulate ocs -n 900 --seed 1 -o - >&-", 1, "output cannot be written"),
        ("flowcei -q simulate ocs -n 900 --seed 1 -o - >/dev/full", 1, "No space left on device"),
        ("flowcei -q simulate ocs -n 900 --seed 1 -o - | head -1 >/dev/null", 0, ""),
        ("flowcei info e.csv | true", 0, ""),
        ("flowcei check bad.csv | true", 3, ""),
        ("flowcei --help | true", 0, ""),
        ("flowcei simulate nonsense 2>&-", 2, ""),
    ],
)
def test_closed_and_full_streams(folder: Path, line: str, code: int, says: str) -> None:
    """What was done is done, a result that nobody got is an error in one line, and no traceback."""
    flowcei.write_events(flowcei.simulate("ocs", 20, seed=1), "e.csv")
    Path("bad.csv").write_text(Path("e.csv").read_text().rstrip() + "oops\n")
    found, _, err = _run(line, folder)
    assert found == code, err
    assert says in err
    assert len(err.splitlines()) == (1 if says else 0), err
    if "a.csv" in line:
        assert len(flowcei.read_events("a.csv")) == 20


# Before torch

# What a command is called with where all is well, and what of it may be wrong.
WELL = {
    "simulate": "ocs",
    "convert": "e.csv",
    "check": "e.csv",
    "train": "",
    "sample": "--momenta e.csv",
    "spread": "e.csv",
    "refine": "e.csv",
    "modes": "e.csv",
    "compare": "bundled --data e.csv",
    "calibrate": "bundled --data e.csv",
    "info": "e.csv",
    "demo": "",
}
_IONS = ["--isotopes 99O", "--charges 1,2", "--length-unit foot"]
_READING = ["--format word", "--mapping no.toml", "--mapping empty.toml", "--unit furlong"]
_SELECTION = [
    "--max-sum 0",
    "--max-sum-chance 2",
    "--max-sum 4 --max-sum-chance 0.1",
    "--ker 5",
    "--drift up",
]
_MOLECULE = ["--molecule no", "--molecule no.toml", "--molecule no.xyz", "--molecule empty.toml"]
_JUDGED = ["-o there", "--noise much", "--latent no", "--device abacus", "--drift up", "--seed -1", "-n 0"]
WRONG = {
    "simulate": [
        "--prior no",
        "--noise much",
        "--noise 200%",
        "-n 0",
        "-n x",
        "--accuracy 0",
        "--accuracy nan",
        "--seed -1",
        "-o there.h5",
        "-o no/e.h5",
        "-o e.docx",
        "-o e.csv --resume",
        "-o f.h5 --resume",
        "--geometries no.xyz",
        "--geometries empty.toml",
        "--as-published",
        *_IONS,
    ],
    "convert": [
        *_MOLECULE,
        *_IONS,
        *_READING,
        *_SELECTION,
        "--noise much",
        "-o there.h5",
        "-o e.csv",
        "-o e.docx",
        "-o no/e.h5",
    ],
    "check": [
        *_MOLECULE,
        *_READING,
        "--model no",
        "--noise much",
        "--repair there.h5",
        "--repair e.csv",
        "--repair e.docx",
        "--charges 2,2,2",
        "--molecule ocs --prior no",
        "--molecule ocs --charges 1,2",
        "--model bundled --molecule ocs",
    ],
    "train": [
        *_MOLECULE,
        *_IONS,
        "--data no.csv",
        "--data empty.toml",
        "--prior no",
        "--noise much",
        "--noise 200%",
        "--frame no",
        "--arch no",
        "--couplings 0",
        "--couplings x",
        "--coupling no",
        "--arch cvae --couplings 8",
        "--epochs 0",
        "--epochs x",
        "--events 5",
        "--batch 0",
        "--learning-rate 0",
        "--patience 0",
        "-o there",
        "--max-time soon",
        "--resume no",
        "--resume x -o y",
        "--seed -1",
        "--device abacus",
        "--data e.csv --prior broad",
    ],
    "sample": [
        *_READING,
        *_SELECTION,
        "--model no",
        "--model there",
        "-n 0",
        "--noise much",
        "--latent no",
        "--min-ess -1",
        "--budget 0",
        "-o there.h5",
        "-o e.csv",
        "-o e.docx",
        "-o no/s.h5",
        "-o s.h5 --resume",
        "--seed -1",
        "--device abacus",
    ],
    "spread": ["--event x", "-o there", "--xyz there.h5", "--xyz no/x.xyz"],
    "refine": ["-o there.h5", "-o no/r.csv", "-o r.docx", "-o r.h5 --resume"],
    "modes": ["--event x", "-o there.h5", "-o no/m.csv", "--xyz there.h5"],
    "compare": [*_JUDGED, "no"],
    "calibrate": [*_JUDGED, "-n 5"],
    "info": [*_MOLECULE, *_READING],
    "demo": ["-o there", "--seed -1"],
}
EARLY = [
    *(f"{command} {WELL[command]} {wrong}" for command, several in WRONG.items() for wrong in several),
    *(f"{command} {well} --no-such-option" for command, well in WELL.items()),
    *(f"{command} {well} -q -v" for command, well in WELL.items()),
    *(
        f"{command} {file}"
        for command in ("spread", "refine", "modes", "info", "check", "convert")
        for file in ("no.h5", "there", "empty.toml")
    ),
    *(
        f"{command} bundled --data {file}"
        for command in ("compare", "calibrate")
        for file in ("no.csv", "there")
    ),
    "sample --momenta no.csv",
    "sample",
    "compare bundled",
    "compare no --data e.csv",
    "calibrate no --data e.csv",
    "simulate",
    "simulate no",
    "simulate no.toml",
    "simulate --like no",
    "simulate ocs --like random_cos3d_10000",
    "frobnicate",
    "--config no.toml demo",
    "--config bad.toml train",
    "-q -v demo",
]

_LOOK = """
import json, sys, time
from flowcei.cli.main import main
for line in json.load(sys.stdin):
    sys.argv = ["flowcei", *line.split()]
    start = time.process_time()
    try:
        main()
    except SystemExit as leave:
        assert leave.code in (2, 3), (line, leave.code)
    else:
        raise SystemExit(f"{line} was accepted")
    slow = {"torch", "numba", "matplotlib", "scipy", "pandas", "h5py"} & set(sys.modules)
    assert not slow, (line, slow)
    assert time.process_time() - start < 0.3, line
"""


def test_what_is_typed_is_looked_at_before_anything_slow_is_imported(folder: Path) -> None:
    """Every command, with what may be wrong with its paths, names and numbers: a line each, within 0.3 s."""
    flowcei.write_events(flowcei.simulate("ocs", 20, seed=1), "e.csv")
    (folder / "there.h5").write_text("x")
    (folder / "empty.toml").write_text("")
    (folder / "bad.toml").write_text("[train]\ncouplings = 3\ncolour = 4\n")
    (folder / "there").mkdir()
    (folder / "there" / "file").write_text("x")
    done = subprocess.run(
        [sys.executable, "-c", _LOOK], input=json.dumps(EARLY),
        cwd=folder, env=_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stderr.splitlines()) == len(EARLY), done.stderr
    assert set(_names(folder)) == {"e.csv", "there.h5", "empty.toml", "bad.toml", "there"}
