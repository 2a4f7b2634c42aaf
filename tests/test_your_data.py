"""The page "Bring your own data": every command on it runs as typed, and says what the page says."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from shell import Shell

import flowcei

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "your-data.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", PAGE, re.DOTALL)


def test_every_command_of_the_page_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """In the folder of example data, one after the other."""
    for file in (ROOT / "examples" / "data").iterdir():
        shutil.copy(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    mapping = next(text for kind, text in BLOCKS if kind == "toml" and "coincidences" in text)
    Path("lab.toml").write_text(mapping)
    shell, said = Shell(monkeypatch, capsys), ""
    for kind, text in BLOCKS:
        for line in text.splitlines() if not kind else ():
            assert shell(*shlex.split(line)[1:]) == 0, (line, shell.err)
            said += shell.err + shell.out
    assert "extra columns carried along: delay_fs, shot" in said
    Path("page.py").write_text(next(text for kind, text in BLOCKS if kind == "python"))
    runpy.run_path("page.py")
    assert (
        "momenta taken to be in 1e-22 kg m/s, as the median KER is then 108 eV (Coulomb energy 108 eV)"
        in said
    )
    first = next(text for kind, text in BLOCKS if kind == "toml" and "ksu.csv" in text)
    written = Path("ksu.toml").read_text()
    for line in first.splitlines():
        assert all(part in written for part in line.split("..."))
    # What was converted from each of them is the same events.
    made = flowcei.read_events("study.csv").momenta
    for name in ("headerless", "from-npy", "sculpt", "from-lab", "from-root", "from-records"):
        np.testing.assert_allclose(flowcei.read_events(f"{name}.h5").momenta, made, atol=1e-4)


def test_the_example_data_are_what_the_script_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text files to the digit, up to what another machine rounds otherwise."""
    script = str(ROOT / "examples" / "make_example_data.py")
    monkeypatch.setattr(sys, "argv", [script, str(tmp_path)])
    runpy.run_path(script, run_name="__main__")
    there = ROOT / "examples" / "data"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in there.iterdir())
    for name in ("headerless.dat", "study.csv", "ksu.csv"):
        skip = 0 if name == "headerless.dat" else 1
        separator = None if name == "headerless.dat" else ","
        a, b = (np.loadtxt(folder / name, delimiter=separator, skiprows=skip) for folder in (tmp_path, there))
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
