"""flowcei: molecular geometries from the ion momenta of Coulomb explosions.

Everything public is here, and is imported when it is first used, so that the command line
answers at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from flowcei._version import __version__

if TYPE_CHECKING:
    from flowcei.check.examination import examine
    from flowcei.check.repair import repair
    from flowcei.check.verdict import check_run
    from flowcei.evaluation.calibration import calibrate
    from flowcei.evaluation.comparison import compare
    from flowcei.evaluation.floor import information_floor
    from flowcei.events.container import Events
    from flowcei.events.simulation import simulate
    from flowcei.events.storage import read_events, write_events
    from flowcei.experiment.drift import without_drift
    from flowcei.molecules.molecule import Molecule
    from flowcei.physics.explosion import asymptotic_momenta
    from flowcei.physics.jacobian import momenta_jacobian
    from flowcei.posterior.samples import PosteriorSamples
    from flowcei.posterior.storage import read_samples, write_samples
    from flowcei.reconstruction.fitting import train
    from flowcei.reconstruction.loading import load
    from flowcei.reconstruction.model import Reconstructor
    from flowcei.study.datasets import study_events
    from flowcei.training.loop import Schedule

__all__ = [
    "Events",
    "Molecule",
    "PosteriorSamples",
    "Reconstructor",
    "Schedule",
    "__version__",
    "asymptotic_momenta",
    "calibrate",
    "check_run",
    "compare",
    "examine",
    "information_floor",
    "load",
    "momenta_jacobian",
    "read_events",
    "read_samples",
    "repair",
    "simulate",
    "study_events",
    "train",
    "without_drift",
    "write_events",
    "write_samples",
]

_ROOMS = {
    "Events": "events.container",
    "Molecule": "molecules.molecule",
    "PosteriorSamples": "posterior.samples",
    "Reconstructor": "reconstruction.model",
    "Schedule": "training.schedule",
    "asymptotic_momenta": "physics.explosion",
    "calibrate": "evaluation.calibration",
    "check_run": "check.verdict",
    "compare": "evaluation.comparison",
    "examine": "check.examination",
    "information_floor": "evaluation.floor",
    "load": "reconstruction.loading",
    "momenta_jacobian": "physics.jacobian",
    "read_events": "events.storage",
    "read_samples": "posterior.storage",
    "repair": "check.repair",
    "simulate": "events.simulation",
    "study_events": "study.datasets",
    "train": "reconstruction.fitting",
    "without_drift": "experiment.drift",
    "write_events": "events.storage",
    "write_samples": "posterior.storage",
}


def __getattr__(name: str) -> object:
    """Import a public name from its room."""
    if name not in _ROOMS:
        msg = f"module 'flowcei' has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"flowcei.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    """Return the public names, which nothing has to be imported for."""
    return sorted(__all__)
