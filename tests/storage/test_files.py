"""Whole files or none."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

import pytest

from flowcei.errors import DataError, UsageError
from flowcei.storage.creation import atomic_text
from flowcei.storage.files import check_readable

if TYPE_CHECKING:
    from pathlib import Path


def _break(file: TextIO) -> None:
    file.write("half")
    msg = "in the middle"
    raise KeyboardInterrupt(msg)


def test_a_broken_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    """Even an interrupt: no half of the new file, no temporary one."""
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_text(path) as temporary:
        _break(temporary)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_whole_file_can_be_shared(tmp_path: Path) -> None:
    """Permissions are those of an ordinary new file, not of a temporary one."""
    with atomic_text(tmp_path / "a.txt") as temporary:
        temporary.write("new")
    (tmp_path / "b.txt").write_text("plain")
    modes = {(tmp_path / name).stat().st_mode for name in ("a.txt", "b.txt")}
    assert len(modes) == 1


def test_places_that_cannot_be_written_or_read(tmp_path: Path) -> None:
    """Existing files, missing folders, missing, empty and odd inputs."""
    path = tmp_path / "a.txt"
    path.write_text("")
    with pytest.raises(UsageError, match="--overwrite"), atomic_text(path, overwrite=False):
        pass
    with pytest.raises(UsageError, match="does not exist"), atomic_text(tmp_path / "no" / "a.txt"):
        pass
    with pytest.raises(DataError, match="empty"):
        check_readable(path)
    with pytest.raises(UsageError, match="no file"):
        check_readable(tmp_path / "b.txt")
    with pytest.raises(UsageError, match="not a file"):
        check_readable(tmp_path)


@pytest.mark.parametrize("text", ["", "half"])
def test_nothing_is_left_where_nothing_was(text: str, tmp_path: Path) -> None:
    """An error before or in the middle of writing leaves an empty folder."""

    def fail(temporary: TextIO) -> None:
        temporary.write(text)
        msg = "in the middle"
        raise ValueError(msg)

    with pytest.raises(ValueError, match="in the middle"), atomic_text(tmp_path / "a.txt") as temporary:
        fail(temporary)
    assert list(tmp_path.iterdir()) == []


def test_a_whole_file_replaces_the_old_one_only_at_the_end(tmp_path: Path) -> None:
    """Readers see the old file until the new one is complete."""
    path = tmp_path / "a.h5"
    path.write_text("old")
    with atomic_text(path) as temporary:
        temporary.write("new")
        temporary.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5"]
