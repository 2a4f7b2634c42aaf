"""Charges that build up: what is stated, against plain words and numbers."""

from __future__ import annotations

import pytest

from flowcei.errors import UsageError
from flowcei.physics.build_up import BuildUp


@pytest.mark.parametrize(
    ("given", "times"),
    [
        ("10fs", (10.0,)),
        (" 5 fs , 1e1fs,.5fs", (5.0, 10.0, 0.5)),
        ("0fs", (0.0,)),
        (7, (7.0,)),
        ([5.0, 1 / 3], (5.0, 1 / 3)),
        (BuildUp((3.0,)), (3.0,)),
    ],
)
def test_a_build_up_is_read_as_it_is_meant(given: object, times: tuple[float, ...]) -> None:
    """Text with its unit, numbers in fs; text and table lead back."""
    found = BuildUp.parse(given)  # type: ignore[arg-type]
    assert found.times == times
    assert BuildUp.parse(str(found)) == BuildUp.from_dict(found.to_dict()) == found
    assert found.is_zero == (not any(times))


@pytest.mark.parametrize(
    "given",
    [
        *["", "10", "-1fs", "nanfs", "inf fs", "10 as", "10ps", "5fs;10fs", "5fs,", "ten fs"],
        *[-1.0, float("nan"), float("inf"), 1e7, []],
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(given: object) -> None:
    """Negative, not a number, another unit or none, no time at all."""
    with pytest.raises(UsageError) as refusal:
        BuildUp.parse(given)  # type: ignore[arg-type]
    assert "build-up" in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "table", [{}, {"times_fs": 10.0}, {"times_fs": ["10"]}, {"times_fs": [True]}, {"times_fs": [1.0], "x": 1}]
)
def test_a_table_of_something_else_is_refused(table: dict[str, object]) -> None:
    """A misspelt key must not mean no build-up."""
    with pytest.raises(UsageError, match="times_fs"):
        BuildUp.from_dict(table)
