"""`bin/fuzz` without its fuzzer: what it begins with is read as ever."""

from __future__ import annotations

import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest

LOADER = SourceFileLoader("fuzz", str(Path(__file__).parent.parent / "bin" / "fuzz"))


@pytest.mark.parametrize("name", ["csv", "mapping", "metadata"])
def test_targets_take_their_first_inputs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file that mutations begin with, in every way that the target reads it, is no finding."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    spec = spec_from_loader("fuzz", LOADER)
    assert spec is not None
    fuzz = module_from_spec(spec)
    LOADER.exec_module(fuzz)
    target = fuzz.TARGETS[name](tmp_path)
    for content in fuzz.SEEDS[name]():
        target(content)
