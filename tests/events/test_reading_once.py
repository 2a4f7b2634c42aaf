"""A file of events is opened once, and a text file is parsed once, however many passes are made over it."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from shell import Shell

import flowcei
from flowcei.events import source
from flowcei.events.source import open_events
from flowcei.reconstruction.sampling import Survey

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def bytes_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of what is read of files of text, one for each call of the system."""
    sizes: list[int] = []
    pread = os.pread

    def counted(descriptor: int, length: int, offset: int) -> bytes:
        data = pread(descriptor, length, offset)
        sizes.append(len(data))
        return data

    monkeypatch.setattr(os, "pread", counted)
    return sizes


def _passes(path: Path) -> list[flowcei.Events]:
    """What `flowcei sample` does: it looks at the first events, surveys all of them, and draws."""
    events = open_events(path)
    next(events.chunks())
    survey = Survey.of(events.chunks())
    assert survey.events == 12_000
    return list(events.chunks())


def test_text_is_parsed_once(tmp_path: Path, bytes_read: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The first look, the survey and the drawing share one pass; beyond the bound each has its own."""
    path = tmp_path / "e.csv"
    simulated = flowcei.simulate("ocs", 12_000, noise="1%", seed=3)
    flowcei.write_events(simulated, path)
    size = path.stat().st_size
    once = _passes(path)
    # Format, separator and names are found in the beginning, of which 256 kB are read at a time.
    assert size <= sum(bytes_read) < size + 6 * (1 << 18) < 1.5 * size
    assert np.array_equal(np.concatenate([events.momenta for events in once]), simulated.momenta)

    bytes_read.clear()
    monkeypatch.setattr(source, "HELD_BYTES", size - 1)
    again = _passes(path)
    assert sum(bytes_read) > 3 * size
    for one, other in zip(once, again, strict=True):
        assert np.array_equal(one.momenta, other.momenta)
        assert np.array_equal(one.event_id, other.event_id)


def test_a_command_opens_its_events_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody opens the path again to ask for its format, its end or the number of its events."""
    monkeypatch.chdir(tmp_path)
    flowcei.write_events(flowcei.simulate("ocs", 7, noise="1%", seed=3), "e.csv")
    opened: list[str] = []
    for module in (os, io):
        original = module.open

        def counted(path: Any, *words: Any, original: Any = original, **more: Any) -> Any:
            opened.append(str(path))
            return original(path, *words, **more)

        monkeypatch.setattr(module, "open", counted)
    Shell(monkeypatch, capsys)("sample", "--momenta", "e.csv", "-n", "5", "--noise", "1%", "-o", "s.h5")
    assert sum(path.endswith("e.csv") for path in opened) == 1


def test_a_command_notes_that_it_parses_a_large_text_file_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line, however many passes are made; of a file that is held it says nothing."""
    monkeypatch.chdir(tmp_path)
    flowcei.write_events(flowcei.simulate("ocs", 7, noise="1%", seed=3), "e.csv")
    shell = Shell(monkeypatch, capsys)
    for bound, notes in ((1 << 27, 0), (0, 1)):
        monkeypatch.setattr(source, "HELD_BYTES", bound)
        assert shell("convert", "e.csv", "-o", "e.h5", "--overwrite") == 0
        assert shell.err.count("parsed anew in each pass") == notes
