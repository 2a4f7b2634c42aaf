"""What is said where the likelihood of atoms in motion is known to be off."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from flowcei.experiment.missing import unsure_motion
from flowcei.reconstruction.limits import warn_of_motion

MOTION = {"kind": "normal_modes", "motion": True}


@pytest.mark.parametrize(
    ("prior", "most", "said"),
    [(MOTION, 2, True), (MOTION, 1, False), ({"kind": "normal_modes"}, 2, False), (None, 2, False)],
)
def test_several_lost_ions_of_atoms_in_motion(prior: dict | None, most: int, *, said: bool) -> None:
    """Only where both are there: one lost ion is within the errors; the command and Python say the same."""
    text = unsure_motion(prior, most)
    assert (text is not None) == said
    lost = np.array([[False] * 5, [True] * most + [False] * (5 - most)])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_motion(SimpleNamespace(prior_spec=prior), SimpleNamespace(lost=lost))  # type: ignore[arg-type]
        warn_of_motion(SimpleNamespace(prior_spec=prior), SimpleNamespace(lost=None))  # type: ignore[arg-type]
    assert [str(one.message) for one in caught] == ([text] if said else [])
