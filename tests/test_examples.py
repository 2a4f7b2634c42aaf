"""The example scripts run as they are, at small size."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

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
