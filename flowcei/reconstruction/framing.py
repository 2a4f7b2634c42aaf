"""Which frame a training has: the order of like ions, and whether charts are whitened."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from flowcei.events.simulation import AXES
from flowcei.experiment.experiment import BUILD_UP_TIME
from flowcei.frame.recoil import RecoilFrame
from flowcei.frame.whitening import Whitening
from flowcei.physics.explosion import asymptotic_momenta

if TYPE_CHECKING:
    from flowcei.events.container import Events
    from flowcei.frame.interface import Frame, FramedEvents
    from flowcei.molecules.molecule import Molecule
    from flowcei.physics.forward import Floats
    from flowcei.physics.priors import GeometryPrior

_log = logging.getLogger("flowcei")
_ROWS = 2_000  # that decide, to 0.1 nats
# Of the entropy of charts about a linear function of the condition, that alignment has to take away. It takes
# 12 of methanol and 2.8 of C2H2, whose flows are then 100 and 1.4 times as efficient, 0.4 of a ball of C2H2.
_NATS = 1.0
_GEOMETRIES = 20_000  # of a prior, for its mean and covariance to 1 %


def ordered_frame(pilot: Events, *, reflect: bool) -> RecoilFrame:
    """Recoil frame of events with positions and noise, in the order of like ions that suits them."""
    molecule, momenta = pilot.molecule, pilot.momenta
    by_speed = RecoilFrame.of(molecule, momenta, reflect=reflect)
    if not molecule.identical:
        return by_speed
    x, masses, charges = molecule.equilibrium, molecule.masses, molecule.charges
    momenta_of_equilibrium = asymptotic_momenta(x, masses, charges, accuracy=1e-9).tolist()
    reference = tuple(tuple(row) for row in momenta_of_equilibrium)
    few = pilot[:: -(-len(pilot) // _ROWS)]
    aligned = RecoilFrame.of(molecule, few.momenta, reflect=reflect, reference=reference)
    if not aligned.reference:  # its symmetry undoes every order
        return by_speed
    gain = _entropy(by_speed, few) - _entropy(aligned, few)
    if not gain > _NATS:  # nor NaN, of charts that do not vary
        return by_speed
    _log.info("like ions are aligned with the equilibrium: charts spread %.1f nats less than by speed", gain)
    return aligned


def whitened_frame(frame: RecoilFrame, molecule: Molecule, prior: GeometryPrior, power: float) -> RecoilFrame:
    """Frame whose charts are whitened by a normal approximation of each event's posterior."""
    geometries = prior.sample(_GEOMETRIES, np.random.default_rng(0))
    return replace(frame, whitening=Whitening.of(molecule, geometries, power))


def charts_of(frame: Frame, events: Events) -> tuple[Floats, FramedEvents]:
    """Charts (B, D) of events with positions and noise, and the events in the frame."""
    noise = np.column_stack([events.columns[name] for name in AXES]) if frame.by_axis else events.sigma
    time = events.columns.get(BUILD_UP_TIME)
    framed = frame.enter(events.momenta, np.asarray(noise), time)
    return frame.to_chart(np.asarray(events.positions)[:, None], framed)[:, 0], framed


def _entropy(frame: RecoilFrame, events: Events) -> float:
    """Of a normal distribution of charts about a linear function of the condition, nats, up to a constant."""
    chart, framed = charts_of(frame, events)
    c = framed.condition
    linear = np.column_stack([np.ones(len(c)), c - c.mean(axis=0)])
    rest = chart - linear @ np.linalg.lstsq(linear, chart, rcond=None)[0]
    return 0.5 * float(np.linalg.slogdet(np.cov(rest.T))[1])
