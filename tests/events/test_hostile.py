"""Hostile and damaged files: refused in one line, or read right; nothing runs, hangs or stays behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import corpus_hdf  # noqa: F401 (adds to the corpus)
import numpy as np
import pytest
from corpus import HOSTILE, SOUND, Case, base, text
from shell import Shell

from flowcei.errors import DataError, UsageError
from flowcei.events.container import Events
from flowcei.events.foreign.interpretation import Reading
from flowcei.events.foreign.mapping import read_mapping
from flowcei.events.storage import read_events, write_events
from flowcei.molecules.molecule import Molecule

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_PATIENCE = 30  # seconds; what hangs does so for ever
_WATCHED = (
    "socket.connect",
    "socket.getaddrinfo",
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
)
_seen: list[str] = []


class _HungError(BaseException):
    """Not an Exception: no reader may take it for a fault of a file."""


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if event in _WATCHED:
        _seen.append(f"{event} {arguments}")


sys.addaudithook(_hook)


@pytest.fixture(autouse=True)
def guarded() -> Iterator[None]:
    """Stop what hangs, and see whether a program was started or the network used."""

    def hung(_: int, frame: FrameType | None) -> None:
        raise _HungError(str(frame))

    _seen.clear()
    before = signal.signal(signal.SIGALRM, hung)
    signal.alarm(_PATIENCE)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    assert not _seen


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder that is the current one."""
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


def _read(case: Case, path: Path) -> object:
    """Read a file by the library in the role that it has."""
    if case.role == "events":
        return read_events(path, "ocs", Reading(**case.reading))
    events = path.parent.parent / "events.csv"
    events.write_text(text())
    if case.role == "mapping":
        return read_events(events, "ocs", Reading(mapping=read_mapping(path)))
    return read_events(events, Molecule.load(path))


def _words(case: Case, path: Path) -> list[str]:
    """Return what follows `flowcei COMMAND`."""
    if case.role == "events":
        words = [str(path), *case.words]
        if "mapping" in case.reading:
            given = path.parent.parent / "given.toml"
            given.write_text(case.reading["mapping"].to_toml())
            words += ["--mapping", str(given)]
        return words
    return [str(path.parent.parent / "events.csv"), f"--{case.role}", str(path)]


def _ids(cases: list[Case]) -> list[str]:
    names = [case.name for case in cases]
    assert len(set(names)) == len(names)
    return names


@pytest.mark.parametrize("case", SOUND, ids=_ids(SOUND))
def test_what_only_looks_odd_is_read(case: Case, folder: Path, shell: Shell) -> None:
    """Exactly the numbers that were written."""
    found = _read(case, case.write(folder))
    relative = 1e-12 if case.name == "xyz" else 0
    np.testing.assert_allclose(found.momenta, base().momenta, rtol=relative)
    assert shell("convert", *_words(case, Path(case.file).absolute()), "-o", "out.h5") == 0, shell.err
    np.testing.assert_allclose(read_events("out.h5").momenta, base().momenta, rtol=relative)


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path) -> Shell:
    """Runs `flowcei ...` in the folder."""
    del folder
    return Shell(monkeypatch, capsys)


@pytest.mark.parametrize("case", HOSTILE, ids=_ids(HOSTILE))
def test_what_is_hostile_is_refused(case: Case, folder: Path, shell: Shell) -> None:
    """By the library and by each command, in one line that says why; nothing is left behind."""
    path = case.write(folder)
    before = sorted(folder.iterdir())
    with pytest.raises((DataError, UsageError), match=case.says or ".") as caught:
        _read(case, path)
    assert len(str(caught.value)) < 1000
    for command in (("check",), ("convert", "-o", "out.h5")):
        code = shell(command[0], *_words(case, path), *command[1:])
        assert code in (2, 3), command
        lines = shell.err.splitlines()
        if command == ("check",) and case.report:
            assert "Errors" in shell.out
            assert not shell.err
        else:
            assert [line for line in lines if line.startswith("flowcei: error: ")] == lines[-1:], shell.err
            assert len(lines[-1]) < 1200
            assert not shell.out
        assert all(c.isprintable() or c == "\n" for c in shell.err + shell.out)
        assert sorted(folder.iterdir()) == before


def _one(name: str) -> Case:
    return next(case for case in HOSTILE if case.name == name)


@pytest.mark.parametrize(
    "name",
    [
        *("cut-in-a-row", "duplicate-header", "pickle-named-npy", "zip-bomb", "hdf5-fill-value-bomb"),
        *("hdf5-external-link-to-a-pipe", "hdf5-molecule-nested-tables", "parquet-lying-rows"),
        *("line-of-50-MB", "pipe", "endless-device", "link-to-itself", "name-with-escape-codes"),
    ],
)
def test_sampling_refuses_it_too(name: str, folder: Path, shell: Shell) -> None:
    """Also what reads a whole file, after a model: one line, and no file of samples."""
    path = _one(name).write(folder)
    before = sorted(folder.iterdir())
    assert shell("sample", "--momenta", path, "-n", "2", "--seed", "1") in (2, 3)
    assert shell.err.splitlines()[-1].startswith("flowcei: error: ")
    assert shell.err.count("flowcei: error: ") == 1
    assert all(c.isprintable() or c == "\n" for c in shell.err)
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("momenta", "positions"),
    [(1e150, 1.0), (1e-160, 1.0), (1.0, 1e150), (1.0, 1e306), (1.0, 1e-300), (1.0, 0.0)],
)
def test_numbers_without_a_unit_are_named_and_not_repaired(
    momenta: float, positions: float, folder: Path, shell: Shell
) -> None:
    """They are finite, and would overflow in what the doctor computes."""
    del folder
    events = Events(base().molecule, base().momenta * momenta, base().positions * positions)
    for name in ("e.csv", "e.h5"):
        write_events(events, name)
        assert shell("check", name) == 3
        assert ("extreme" if positions else "coincident") in shell.out
        assert not shell.err
        assert shell("check", name, "--repair", f"repaired-{name}") == 3
        assert shell.err.startswith("flowcei: error: ")
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["e.csv", "e.h5"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(folder: Path) -> None:
    """As data that cannot be read, not with a traceback."""
    path = folder / "e.csv"
    path.write_text(text())
    path.chmod(0)
    with pytest.raises(DataError, match="no permission"):
        read_events(path)


_MEASURED = """
import json, sys
from pathlib import Path
import corpus, corpus_hdf
from flowcei.errors import FlowceiError
from test_hostile import _read
from flowcei import check_file
from flowcei.events.source import Reading

def kilobytes(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))

cases = {case.name: case for case in corpus.HOSTILE + corpus.SOUND}
files = json.loads(Path(sys.argv[1]).read_text())
out = {}
for name, path in files.items():
    before = kilobytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    try:
        _read(cases[name], Path(path))
        if cases[name].role == "events":
            check_file(path, "ocs", Reading(**cases[name].reading))
    except FlowceiError:
        pass
    out[name] = (kilobytes("VmHWM") - before) / 1024
print(json.dumps(out))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peaks of memory are read from /proc")
def test_no_hostile_file_takes_much_memory(tmp_path: Path) -> None:
    """Each stays below 300 MB, whatever it says of its size."""
    files = {}
    for case in [*SOUND, *HOSTILE]:
        place = tmp_path / case.name / "here"
        place.mkdir(parents=True)
        files[case.name] = str(case.write(place))
    (tmp_path / "files.json").write_text(json.dumps(files))
    paths = sys.path
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _MEASURED, str(tmp_path / "files.json")],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )
    grown = json.loads(done.stdout)
    assert set(grown) == set(files)
    assert {name: size for name, size in grown.items() if size > 300} == {}
    _seen.clear()  # this test starts a program itself
