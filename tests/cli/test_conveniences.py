"""What people expect of a command line: groups, help, suggestions, completion, stdin, a file of defaults."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from shell import Shell

import flowcei
from flowcei.cli.main import _COMMANDS
from flowcei.molecules.molecule import built_in_molecules

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def flow(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Shell:
    """Commands in an empty folder, without a configuration of the user."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return Shell(monkeypatch, capsys)


def test_help_names_every_command_in_a_group(flow: Shell) -> None:
    """`flowcei help sample` is `flowcei sample --help`."""
    assert flow("--help") == 0
    for title in ("Events:", "Geometries:", "Models:", "Help:"):
        assert f"\n{title}\n" in flow.out
    assert all(f"\n  {name} " in flow.out for name in _COMMANDS)
    assert flow("sample", "--help") == 0
    expected = flow.out
    assert flow("help", "sample") == 0
    assert flow.out == expected


@pytest.mark.parametrize(("typed", "meant"), [("smaple", "sample"), ("reprot", "report"), ("plots", "plot")])
def test_a_mistyped_command_is_told(flow: Shell, typed: str, meant: str) -> None:
    """One line, exit code 2."""
    assert flow(typed) == 2
    assert f"did you mean {meant}?" in flow.err
    assert flow("xyzzy") == 2
    assert "did you mean" not in flow.err


def test_molecules_and_their_geometry(flow: Shell) -> None:
    """The bonds are those of the positions, here measured again."""
    assert flow("molecules", "--json") == 0
    table = json.loads(flow.out)
    assert set(table) == set(built_in_molecules())
    water = flowcei.Molecule.load("h2o")
    bond = np.linalg.norm(water.equilibrium[1] - water.equilibrium[0]) * 0.529177
    assert table["h2o"]["equilibrium"]["o-h1 (angstrom)"] == pytest.approx(bond, abs=1e-4)
    assert table["ocs"]["priors"][0] == water.default_prior == "equilibrium"
    assert flow("info", "ocs") == 0
    assert "c-s (angstrom)" in flow.out


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("simulate c", {"c2h2", "ch2o", "ch4", "chbrclf", "co2"}),
        ("simulate ocs --prior b", {"broad", "ball"}),
        ("train --molecule h2o --prior e", {"equilibrium"}),
        ("train --arch ci", {"cinn"}),
        ("sample --model b", {"bundled"}),
    ],
)
def test_values_are_completed(typed: str, expected: set[str]) -> None:
    """As bash asks for them."""
    words = f"flowcei {typed}".split()
    code = "import sys; sys.argv = ['flowcei']; from flowcei.cli.main import main; main()"
    environment = {
        "_FLOWCEI_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": str(len(words) - 1),
        "PATH": "",
        "PYTHONPATH": ":".join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert {line.partition(",")[2] for line in done.stdout.splitlines()} == expected, done.stderr


def test_events_come_from_stdin(flow: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same samples as of the file; what is empty is refused."""
    flowcei.write_events(flowcei.simulate("ocs", 5, noise="1%", seed=1), tmp_path / "e.csv")
    assert flow("sample", "--momenta", "e.csv", "-n", "3", "--seed", "1", "-o", "a.csv") == 0
    for content, code in (((tmp_path / "e.csv").read_bytes(), 0), (b"", 3)):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        assert flow("sample", "--momenta", "-", "-n", "3", "--seed", "1", "-o", f"b{code}.csv") == code, (
            flow.err
        )
    assert (tmp_path / "b0.csv").read_text() == (tmp_path / "a.csv").read_text()
    assert not (tmp_path / "b3.csv").exists()


def test_the_user_has_defaults(flow: Shell, tmp_path: Path) -> None:
    """In ~/.config/flowcei/config.toml, by the names of the options as they are typed."""
    folder = tmp_path / "config" / "flowcei"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text('[simulate]\nnoise = "2%"\nseed = 7\n')
    assert flow("simulate", "ocs", "-n", "5", "-o", "a.h5") == 0, flow.err
    assert flowcei.read_events("a.h5").origin["seed"] == 7
    assert flow("simulate", "-h") == 0  # the file was read with the same command
    (folder / "config.toml").write_text("[simulate]\nnoice = 1\n")
    assert flow("simulate", "ocs", "-n", "5", "-o", "b.h5") == 2
    assert "no option 'noice'" in flow.err
    (tmp_path / "other.toml").write_text("[sample]\nmin-ess = 5.0\n")
    assert flow("--config", "other.toml", "simulate", "ocs", "-n", "5", "-o", "c.h5") == 0, flow.err


def test_tables_are_json_too(flow: Shell, tmp_path: Path) -> None:
    """Of spread, modes and refine: the numbers of the files that they write."""
    samples = flowcei.load().sample(flowcei.simulate("ocs", 6, noise="1%", seed=1), 20, seed=1, weigh=True)
    flowcei.write_samples(samples, tmp_path / "s.h5")
    assert flow("spread", "s.h5", "-o", "sp", "--json") == 0, flow.err
    rows = {row["quantity"]: row for row in json.loads(flow.out)}
    overall = samples.spread().overall().set_index("quantity")
    assert rows["c-o"]["mean"] == pytest.approx(overall.loc["c-o", "mean"])
    assert flow("modes", "s.h5", "--json") == 0, flow.err
    assert json.loads(flow.out)[0]["probability"] == pytest.approx(1.0)
    assert flow("refine", "s.h5", "--json") == 0, flow.err
    assert sum(json.loads(flow.out).values()) == 6 * 20
