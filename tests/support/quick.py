"""Rules of trainings that take a fraction of a second."""

from __future__ import annotations

from flowcei import TrainingRules

QUICK = TrainingRules(pilot_events=1500, validation_events=500)
FEW = TrainingRules(pilot_events=300, validation_events=100)
"""For trainings of which only is asked whether two are the same: most of a QUICK one is its first frame."""
