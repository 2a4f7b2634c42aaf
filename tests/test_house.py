"""The rooms of the package stand above each other: imports go down, and never in a circle."""

from __future__ import annotations

import ast
import re
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "flowcei"
ROOMS = re.findall(r"^\| `(\w+)/?`", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}


def _room(module: str) -> str:
    return module.split(".")[1]


def _imported(path: Path) -> set[str]:
    """Return the modules of flowcei that a file imports, but for annotations only."""
    tree = ast.parse(path.read_text())
    guarded = {
        id(node)
        for test in ast.walk(tree)
        if isinstance(test, ast.If) and getattr(test.test, "id", "") == "TYPE_CHECKING"
        for part in test.body
        for node in ast.walk(part)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("flowcei"):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("flowcei.")}
    return {name if name in MODULES else f"{name}.__init__" for name in found} & set(MODULES)


@cache  # not at the import: each process of the tests would read the whole package
def _imports() -> dict[str, set[str]]:
    return {module: _imported(path) for module, path in MODULES.items()}


def test_every_room_is_described() -> None:
    """CONTRIBUTING.md draws the house: each folder and each file at the top, once."""
    there = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or any(path.glob("*.py"))}
    assert sorted(ROOMS) == sorted(there - {"__init__", "__main__", "__pycache__"})


def test_few_files_are_loose() -> None:
    """A stranger finds the room from the names of folders."""
    assert len(list(PACKAGE.glob("*.py"))) <= 5


@pytest.mark.parametrize("room", ROOMS)
def test_imports_go_down(room: str) -> None:
    """A room imports what CONTRIBUTING.md puts below it."""
    above = set(ROOMS[: ROOMS.index(room)])
    upward = {
        (module, other)
        for module, others in _imports().items()
        for other in others
        if _room(module) == room and _room(other) in above
    }
    assert not upward


def test_no_files_import_each_other() -> None:
    """Not even inside a function."""
    try:
        TopologicalSorter(_imports()).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_only_plots_are_imported_by_name() -> None:
    """What imports by name hide from the tests above: `.plot()` of what is drawn, commands, kernels."""
    found = {
        (str(path.relative_to(PACKAGE)), name)
        for path in MODULES.values()
        for name in re.findall(r"import_module\(f?\"(flowcei[\w.{}]*)\"\)", path.read_text())
    }
    assert found == {
        ("events/container.py", "flowcei.plot.figure"),
        ("posterior/samples.py", "flowcei.plot.figure"),
        ("ensemble/free.py", "flowcei.plot.population"),
        ("ensemble/mixture.py", "flowcei.plot.population"),
        ("ensemble/plan.py", "flowcei.plot.plan"),
        ("ensemble/population.py", "flowcei.plot.population"),
        ("ensemble/pathways.py", "flowcei.plot.population"),
        ("ensemble/series.py", "flowcei.plot.population"),
        ("ensemble/series.py", "flowcei.plot.movie"),
        ("posterior/modes.py", "flowcei.report.figures"),
        ("cli/main.py", "flowcei.cli.{name}"),
        ("workers/ahead.py", "flowcei.{module}"),
    }
