"""Commands that read samples block by block: the same results, and no more in memory than a block."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from shell import Shell

import flowcei
from flowcei.cli import inputs

pytestmark = pytest.mark.usefixtures("undrawn")

COMMANDS = {
    "refine": (["refine", "s.h5", "-o", "{}.refined.csv"], ("refined.csv",)),
    "spread": (["spread", "s.h5", "-o", "{}", "--xyz", "{}.means.xyz"], ("", "means.xyz")),
    "modes": (["modes", "s.h5", "-o", "{}.csv", "--xyz", "{}.xyz"], ("csv", "xyz")),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with samples `s.h5` of eleven events, two of them flagged."""
    path = tmp_path_factory.mktemp("streaming")
    events = flowcei.simulate("ocs", 11, noise="1%", seed=31)
    events.momenta[[2, 7]] *= 3.0
    samples = flowcei.load().sample(events, 20, noise="1%", seed=1).weigh()
    flowcei.write_samples([samples], path / "s.h5")
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_blocks_give_what_one_gives(
    command: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Blocks of two events: the same bytes, and no array read is larger than a block."""
    monkeypatch.chdir(folder)
    shell, (words, endings), sizes = Shell(monkeypatch, capsys), COMMANDS[command], list[int]()
    assert shell(*(word.format("one") for word in words)) == 0
    said, read = shell.out, h5py.Dataset.__getitem__

    def counted(*args: Any) -> Any:
        array = read(*args)
        sizes.append(np.size(array))
        return array

    monkeypatch.setattr(h5py.Dataset, "__getitem__", counted)
    monkeypatch.setattr(inputs, "SAMPLES_AT_ONCE", 40)
    assert shell(*(word.format("more") for word in words)) == 0
    assert shell.out == said
    assert max(sizes) <= 40 * 9
    assert "2 of 11 events are flagged" in shell.err
    for ending in endings:
        first, second = (Path(f"{name}.{ending}".removesuffix(".")) for name in ("one", "more"))
        if first.is_dir():
            assert {p.name: p.read_bytes() for p in first.glob("*.csv")} == {
                p.name: p.read_bytes() for p in second.glob("*.csv")
            }
        else:
            assert first.read_bytes() == second.read_bytes()


def test_threads_give_what_one_gives(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Blocks of one event in the order of the file, whoever is done first."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(inputs, "SAMPLES_AT_ONCE", 100)
    shell, tables = Shell(monkeypatch, capsys), list[dict[str, bytes]]()
    for threads in ("1", "8"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        assert shell("spread", "s.h5", "-o", f"threads-{threads}") == 0
        tables.append({p.name: p.read_bytes() for p in Path(f"threads-{threads}").glob("*.csv")})
    assert len(tables[0]) == 3
    assert tables[0] == tables[1]
