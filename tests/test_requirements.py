"""What setup.cfg asks for is what the tests are run with: at its lowest, and at the pinned versions."""

from __future__ import annotations

import ast
import configparser
import re
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent
LINTERS = {"mypy", "pandas-stubs", "pytest-cov", "ruff"}  # --lowest runs no linters


def _stated() -> dict[str, Requirement]:
    """Return the requirements of setup.cfg, extras included, by name."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    texts = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    lines = (line for text in texts for line in text.split() if line)
    return {(found := Requirement(line)).name: found for line in lines}


def _pinned(name: str) -> dict[str, Version]:
    lines = (ROOT / name).read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {package: Version(number) for package, number in pairs}


def test_the_lowest_versions_are_those_that_the_tests_are_run_with() -> None:
    """`bin/test --lowest` installs exactly the minimum of each requirement."""
    lowest = _pinned("constraints-lowest.txt")
    for name, requirement in _stated().items():
        if name in LINTERS:
            continue
        number = re.search(r"[>=]=([\d.]+)", str(requirement.specifier))
        assert number, f"{name} has no lowest version"
        stated, used = Version(number[1]), lowest[name]
        assert used.release[: len(stated.release)] == stated.release, name
        assert requirement.specifier.contains(used)


@pytest.mark.parametrize("name", sorted(_stated()))
def test_the_pinned_version_is_allowed(name: str) -> None:
    """constraints.txt pins every requirement, to a version that setup.cfg allows."""
    assert _stated()[name].specifier.contains(_pinned("constraints.txt")[name])


def test_the_environment_is_sound() -> None:
    """What is imported is what was asked for."""
    for name, requirement in _stated().items():
        if name not in LINTERS:
            assert requirement.specifier.contains(version(name)), name


def test_every_test_that_the_security_page_names_exists() -> None:
    """Each promise about what is not trusted names at least one test, by file and function."""
    page = (ROOT / "SECURITY.md").read_text().split("**Trusted:**")[0]
    bullets = page.split("\n- ")[1:]
    for bullet in bullets:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", bullet)
        assert named, bullet
        for file, function in named:
            tree = ast.parse((ROOT / file).read_text())
            assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, (
                function
            )
