"""Rules of trainings that take a fraction of a second."""

from __future__ import annotations

from flowcei import TrainingRules

QUICK = TrainingRules(pilot_events=1500, validation_events=500)
