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

__all__ = [
    "angles",
    "correlation",
    "covariance",
    "dalitz",
    "energy_shares",
    "ker",
    "ker_angle",
    "momentum_sums",
    "newton",
]
