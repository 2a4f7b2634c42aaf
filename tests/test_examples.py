"""The example scripts run as they are, at small size."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

from benchmarks import explosions

# Not the script that makes examples/data: tests/test_your_data.py compares what it writes.
EXAMPLES = sorted(p for p in (Path(__file__).parent.parent / "examples").glob("*.py") if "make" not in p.name)


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda p: p.stem)
def test_example(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """It ends well and prints numbers that are finite."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(script), "--quick"])
    runpy.run_path(str(script), run_name="__main__")
    out = capsys.readouterr().out
    assert len(out.splitlines()) >= 3
    assert "inf" not in out


NOTEBOOKS = sorted((Path(__file__).parent.parent / "examples" / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook(notebook: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every cell runs, in order, from an empty folder; none holds an old output."""
    monkeypatch.chdir(tmp_path)
    cells = [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]
    assert len(cells) >= 3
    names: dict[str, object] = {}
    for cell in cells:
        assert not cell["outputs"]
        exec(compile("".join(cell["source"]), notebook.name, "exec"), names)  # noqa: S102


def test_the_examples_are_there() -> None:
    """None was lost."""
    assert (len(EXAMPLES), len(NOTEBOOKS)) == (5, 4)


@pytest.mark.parametrize(
    ("script", "folder"), [("benchmarks/answers.py", "DATA"), ("make-reference-posteriors", "FOLDER")]
)
def test_scripts_know_where_the_reference_posteriors_are(
    script: str, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are measured against for minutes, so that no test runs them whole."""
    path = Path(__file__).parent.parent / "bin" / script
    monkeypatch.syspath_prepend(str(path.parent))
    found = runpy.run_path(str(path), run_name="looked at")[folder]
    assert (found / "reference-ocs-equilibrium.h5").is_file()


# Explosions of two protons, exactly, in the format of the program that the benchmark measures.
ENGINE = """
import argparse, json, math, pathlib, struct, sys
parser = argparse.ArgumentParser()
parser.add_argument("--out", type=pathlib.Path)
parser.add_argument("--sims", type=int)
parser.add_argument("--pe-stop", type=float, default=1e-5)
given = parser.parse_args()
record = struct.Struct("<12fIB")
events = bytearray()
for event in range(given.sims):
    r = 1.0 + event / given.sims
    p = math.sqrt(1.008 * 1822.888486209 / r)
    events += record.pack(0, 0, 0, 0, r, 0, 0, -p, 0, 0, p, 0, 30, 1)
if given.pe_stop < 1.0:
    sum(k * k for k in range(1_000_000))
given.out.write_bytes(events)
about = {"n_atoms": 2, "symbols": "HH", "masses_amu": [1.008, 1.008], "charges": [1, 1], "rtol": 1e-4}
pathlib.Path(f"{given.out}.meta.json").write_text(json.dumps(about))
"""


def test_another_simulator_is_measured_beside_ours(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Its geometries, momenta and masses are read as they were written: both are exact to rounding."""
    program = tmp_path / "two_protons"
    program.write_text(f"#!{sys.executable}\n{ENGINE}")
    program.chmod(0o700)
    explosions.engine(str(program), quick=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("HH, CPU time of one thread of 20000 events")
    rows = [line.split() for line in lines[2:]]
    assert [row[0] for row in rows] == ["two_protons,", "flowcei,", "flowcei,", "flowcei,"]
    assert all(float(row[-1]) < 3e-7 for row in rows)
