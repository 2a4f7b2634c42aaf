"""Source distribution and wheel: they hold what they should, and work where nothing else of flowcei is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Folders of a distribution; the others of a checkout may be large, or of an earlier build.
_SOURCES = ("flowcei", "bin", "tests", "examples", "docs", ".ci")


def _run(*words: str | Path, cwd: Path) -> str:
    bare = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(words, cwd=cwd, env=bare, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _files() -> set[str]:
    """The files of the project, as they were committed, or as an unpacked source distribution has them."""
    if (ROOT / ".git").exists() and shutil.which("git"):
        listed = _run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).split("\n")
        return {name for name in listed if name and (ROOT / name).exists()}
    lists = ROOT / "flowcei.egg-info" / "SOURCES.txt"
    if not lists.exists():
        pytest.skip("neither a checkout nor a source distribution: nothing says which files belong")
    return {line for line in lists.read_text().splitlines() if "egg-info" not in line}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an sdist of the project and of the wheel that is made of it."""
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"
    for name in _SOURCES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", ".*cache"))
    for path in (path for path in ROOT.iterdir() if path.is_file() and path.name != ".git"):
        shutil.copy2(path, source)
    _run(sys.executable, "-m", "build", "--no-isolation", "-o", folder / "dist", cwd=source)
    return folder / "dist"


def test_the_source_distribution_holds_the_project(built: Path) -> None:
    """All that is committed, but for what only git needs: also the tests and the scripts that run them."""
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    missing = {name for name in _files() - held if Path(name).name != ".gitignore"}
    assert missing == set()
    assert {"bin/test", "tests/test_package.py", "constraints.txt", "docs/index.md"} <= held


def test_the_wheel_holds_the_package_and_nothing_else(built: Path) -> None:
    """Every file of the package, with its data; no tests and no scripts."""
    (path,) = built.glob("*.whl")
    held = {name for name in zipfile.ZipFile(path).namelist() if ".dist-info/" not in name}
    assert held == {name for name in _files() if name.startswith("flowcei/")}


def test_what_the_index_shows_stands_alone(built: Path) -> None:
    """The long description has no picture or link that leads nowhere outside a checkout."""
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith("/METADATA"))
        text = wheel.read(name).decode()
    assert "License-Expression: MIT" in text
    description = text.partition("\n\n")[2]
    assert "flowcei sample --momenta file.csv" in description
    assert re.findall(r"\]\((?!https://)[^)]*\)", description) == []


@pytest.mark.parametrize("kind", ["*.whl", "*.tar.gz"])
def test_a_fresh_environment_runs_what_was_built(built: Path, tmp_path: Path, kind: str) -> None:
    """Installed alone, beside the libraries: all files, and the two commands as typed, with the model."""
    (path,) = built.glob(kind)
    venv.create(tmp_path / "venv", with_pip=False)
    scheme = {"base": str(tmp_path / "venv"), "platbase": str(tmp_path / "venv")}
    site = Path(sysconfig.get_path("purelib", vars=scheme))
    # The libraries, without the link of an editable installation: only a site folder has its links followed.
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = tmp_path / "venv" / "bin" / "python"
    pip = (
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--no-deps",
        "--no-index",
        "--force-reinstall",
    )
    _run(*pip, "--no-build-isolation", path, cwd=tmp_path)
    where = _run(python, "-c", "import flowcei; print(flowcei.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(site)
    installed = {path for path in (site / "flowcei").rglob("*") if path.is_file() and path.suffix != ".pyc"}
    names = {path.relative_to(site).as_posix() for path in installed}
    assert names == {name for name in _files() if name.startswith("flowcei/")}
    command = tmp_path / "venv" / "bin" / "flowcei"
    assert _run(command, "--version", cwd=tmp_path).startswith("flowcei")
    if kind == "*.tar.gz":
        return  # the same files: the commands would do the same
    _run(command, "simulate", "ocs", "-n", "20", "--noise", "1%", "-o", "file.csv", cwd=tmp_path)
    _run(command, "sample", "--momenta", "file.csv", "-n", "10", cwd=tmp_path)
    assert (tmp_path / "file.samples.h5").is_file()
