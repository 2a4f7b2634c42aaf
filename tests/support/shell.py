"""Runs commands of flowcei as a person types them, inside the test's process."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from flowcei.cli.main import main

if TYPE_CHECKING:
    import pytest


class Shell:
    """Runs `flowcei ...` in this process and keeps what it printed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        self.out = ""
        self.err = ""

    def __call__(self, *words: str) -> int:
        self._monkeypatch.setattr(sys, "argv", ["flowcei", *map(str, words)])
        try:
            main()
            code = 0
        except SystemExit as leave:
            code = int(leave.code or 0)
        self.out, self.err = self._capsys.readouterr()
        return code
