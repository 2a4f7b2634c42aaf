"""Whole files or none."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowcei.errors import DataError, UsageError
from flowcei.files import check_readable, whole_file


def _break(path: Path) -> None:
    path.write_text("half")
    msg = "in the middle"
    raise KeyboardInterrupt(msg)


def test_a_broken_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    """Even an interrupt: no half of the new file, no temporary one."""
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), whole_file(path) as temporary:
        _break(temporary)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_whole_file_can_be_shared(tmp_path: Path) -> None:
    """Permissions are those of an ordinary new file, not of a temporary one."""
    with whole_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
    (tmp_path / "b.txt").write_text("plain")
    modes = {(tmp_path / name).stat().st_mode for name in ("a.txt", "b.txt")}
    assert len(modes) == 1


def test_places_that_cannot_be_written_or_read(tmp_path: Path) -> None:
    """Existing files, missing folders, missing, empty and odd inputs."""
    path = tmp_path / "a.txt"
    path.write_text("")
    with pytest.raises(UsageError, match="--overwrite"), whole_file(path, overwrite=False):
        pass
    with pytest.raises(UsageError, match="does not exist"), whole_file(tmp_path / "no" / "a.txt"):
        pass
    with pytest.raises(DataError, match="empty"):
        check_readable(path)
    with pytest.raises(UsageError, match="no file"):
        check_readable(tmp_path / "b.txt")
    with pytest.raises(UsageError, match="not a file"):
        check_readable(tmp_path)
