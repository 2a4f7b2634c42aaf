"""What a law predicts: geometries, the momenta of a run, and which events a gate leaves out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.check.comparison import MOST_EVENTS, Observables, RunNoise, compare_shapes
from flowcei.check.run import FEWEST, RunCheck, check_run
from flowcei.ensemble.fitting import Selection
from flowcei.errors import DataError, UsageError
from flowcei.events.container import Events
from flowcei.experiment.accidents import P_TRUE, counted_as_true
from flowcei.experiment.experiment import Experiment
from flowcei.physics.explosion import followed_momenta, kinetic_energy
from flowcei.physics.priors import GeometryPrior
from flowcei.units import ELECTRONVOLT

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowcei.ensemble.laws import NormalLaw
    from flowcei.ensemble.reduction import Ensemble
    from flowcei.experiment.measurement import Measurement
    from flowcei.posterior.arrays import Bools, Floats

_DRAWS = 50_000  # simulated events, by which it is known what a gate leaves out
_PREDICTED = 10_000  # events, with which a run is compared
_FEWEST = 2.0  # of them that a law must count, for each event: their chance is then below that of the events


class LawPrior(GeometryPrior):
    """The geometries that a law draws, as a prior that can be sampled."""

    kind: str = "population"
    mirror_symmetric: bool = False

    def __init__(self, draw: Callable[[int, np.random.Generator], Floats], prior: GeometryPrior) -> None:
        self._draw, self._prior = draw, prior

    def sample(self, n: int, rng: np.random.Generator) -> Floats:
        """Draw about `n` geometries, (n, N, 3), bohr."""
        return self._draw(n, rng)

    def sample_moving(self, n: int, rng: np.random.Generator) -> tuple[Floats, Floats | None]:
        """As of `GeometryPrior`: momenta at the start are those of the prior, whatever the law."""
        x = self.sample(n, rng)
        return x, self._prior.momenta_of(x, (), rng)

    def spec(self) -> dict[str, Any]:
        """Return its kind: it cannot be built again."""
        return {"kind": self.kind}


def window_of(ensemble: Ensemble) -> tuple[float, float] | None:
    """The gate on the KER that the events passed, eV; None where there was none."""
    window = ensemble.origin.get("events", {}).get("selection", {}).get("ker_ev")
    return None if window is None else (float(window[0]), float(window[1]))


def check_ungated(ensemble: Ensemble) -> None:
    """Raise UsageError where a gate left events out: only a normal law knows what it does."""
    if window_of(ensemble) is not None:
        raise UsageError("only --law normal knows what a gate on the KER leaves out: sample without --ker")


def selection_of(ensemble: Ensemble, seed: int) -> Selection | None:
    """Which of simulated events of the prior the gate on the KER keeps; None without a gate."""
    if window_of(ensemble) is None:
        return None
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(7,)))
    x, z = ensemble.chart.drawn(_DRAWS, rng)
    kept = _passed(ensemble, _measured(ensemble, _stated(ensemble), x, rng)[0])
    return Selection(z, ensemble.chart.log_prior(z), kept)


def _stated(ensemble: Ensemble) -> Measurement | None:
    """The experiment of the events; None where none is stated."""
    stated = ensemble.origin.get("experiment")
    return replace(Experiment.from_dict(stated).of(ensemble.molecule), accidents=0.0) if stated else None


def _measured(
    ensemble: Ensemble, own: Measurement | None, x: Floats, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Measured momenta (B, N, 3) of geometries, as those of true events of the run, and their noise (B,)."""
    ions = ensemble.molecule
    forward = ensemble.forward if own is None else own.drawn_forward(len(x), rng)
    motion = ensemble.chart.prior.momenta_of(x, (), rng)
    how: dict[str, Any] = {"forward": forward, "initial_momenta": motion, "accuracy": 1e-5}
    momenta = np.asarray(followed_momenta(x, ions.masses, ions.charges, **how), dtype=np.float64)
    if own is None:
        return RunNoise.of(Events(ions, ensemble.momenta, sigma=ensemble.sigma), None).apply(momenta, rng)
    measured, sigma, _ = own.apply(momenta, rng)
    return measured, sigma


def _passed(ensemble: Ensemble, momenta: Floats) -> Bools:
    """Which events (B,) with measured momenta (B, N, 3) pass the gate on the KER; all without one."""
    if (window := window_of(ensemble)) is None:
        return np.ones(len(momenta), dtype=bool)
    energy = kinetic_energy(momenta, ensemble.molecule.masses) / ELECTRONVOLT
    return np.asarray((energy >= window[0]) & (energy <= window[1]))


def compared(
    ensemble: Ensemble,
    draw: Callable[[int, np.random.Generator], Floats],
    seed: int,
    *,
    causes: bool = True,
) -> RunCheck:
    """How the run compares with what a law, by draws of geometries, predicts.

    Of an experiment, or behind a gate, the shapes of complete events, each taken by its P(true), beside those
    of events that are simulated alike; no causes are sought there.
    """
    ions, own = ensemble.molecule, _stated(ensemble)
    if own is None and window_of(ensemble) is None:
        events = Events(ions, ensemble.momenta, sigma=ensemble.sigma)
        return check_run(events, LawPrior(draw, ensemble.chart.prior), seed=seed, causes=causes)
    names = ions.name, ions.labels, LawPrior.kind, len(ensemble.momenta)
    rows = counted_as_true({P_TRUE: ensemble.p_true}, len(ensemble.momenta))
    rows = rows[ensemble.complete[rows]][:MOST_EVENTS]
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(10,)))
    momenta, sigma = _measured(ensemble, own, draw(_PREDICTED, rng), rng)
    kept = _passed(ensemble, momenta)
    momenta = momenta if own is None else own.calibrated(momenta)
    if (count := min(len(rows), int(kept.sum()))) < FEWEST:
        return RunCheck(*names, remarks=(f"{count} complete events are too few, {FEWEST} are needed",))
    predicted = Observables.of(ions, momenta[kept], sigma[kept])
    here = Observables.of(ions, ensemble.momenta[rows], ensemble.sigma[rows])
    return RunCheck(*names, len(rows), comparisons=tuple(compare_shapes(here, predicted)))


def check_selection(selection: Selection | None, law: NormalLaw, events: int) -> None:
    """Raise DataError where too few simulated events tell what a gate does to a law."""
    if selection is not None and selection.effective(law) < _FEWEST * events:
        raise DataError(
            "the law is too far from the prior to say what the gate on the KER (--ker) does to it: sample "
            "the events without it, or under a prior that is nearer"
        )
