"""Plots of one's own events and posteriors: each takes axes, draws on them and returns them."""

from flowcei.plot.events import (
    angles,
    correlation,
    covariance,
    dalitz,
    energy_shares,
    ker,
    ker_angle,
    momentum_sums,
    newton,
)
from flowcei.plot.figure import events_figure, samples_figure
from flowcei.plot.geometry import corner, predicted, structure

__all__ = [
    "angles",
    "corner",
    "correlation",
    "covariance",
    "dalitz",
    "energy_shares",
    "events_figure",
    "ker",
    "ker_angle",
    "momentum_sums",
    "newton",
    "predicted",
    "samples_figure",
    "structure",
]
