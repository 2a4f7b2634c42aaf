"""What `sample` says beforehand where its likelihood of atoms in motion is known to be off."""

from __future__ import annotations

import logging

import pytest

from flowcei.cli.inputs import warn_of_motion


@pytest.mark.parametrize(
    ("prior", "missing", "said"),
    [
        ({"kind": "normal_modes", "motion": True}, 2, True),
        ({"kind": "normal_modes", "motion": True}, 1, False),
        ({"kind": "normal_modes"}, 2, False),
        (None, 2, False),
    ],
)
def test_several_lost_ions_of_atoms_in_motion(
    caplog: pytest.LogCaptureFixture, prior: dict | None, missing: int, *, said: bool
) -> None:
    """Only where both are asked for: one lost ion is within the errors."""
    with caplog.at_level(logging.WARNING):
        warn_of_motion(prior, missing)
    assert ("motion at the start" in caplog.text) == said
