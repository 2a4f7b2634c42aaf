"""What a law predicts: geometries, the momenta of a run, and which events a gate leaves out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.check.comparison import RunNoise
from flowcei.ensemble.fitting import Selection
from flowcei.errors import DataError, UsageError
from flowcei.events.container import Events
from flowcei.experiment.experiment import Experiment
from flowcei.physics.explosion import followed_momenta, kinetic_energy
from flowcei.physics.priors import GeometryPrior
from flowcei.units import ELECTRONVOLT

if TYPE_CHECKING:
    from flowcei.ensemble.coordinates import Chart
    from flowcei.ensemble.laws import NormalLaw
    from flowcei.ensemble.reduction import Ensemble
    from flowcei.posterior.arrays import Floats

_DRAWS = 50_000  # simulated events, by which it is known what a gate leaves out
_FEWEST = 2.0  # of them that a law must count, for each event: their chance is then below that of the events


class LawPrior(GeometryPrior):
    """The geometries of a law, as a prior that can be sampled."""

    kind: str = "population"
    mirror_symmetric: bool = False

    def __init__(self, chart: Chart, law: NormalLaw) -> None:
        self._chart, self._law = chart, law

    def sample(self, n: int, rng: np.random.Generator) -> Floats:
        """Draw about `n` geometries, (n, N, 3), bohr."""
        return self._chart.geometries(self._law, n, rng)

    def sample_moving(self, n: int, rng: np.random.Generator) -> tuple[Floats, Floats | None]:
        """As of `GeometryPrior`: momenta at the start are those of the prior, whatever the law."""
        x = self.sample(n, rng)
        return x, self._chart.prior.momenta_of(x, (), rng)

    def spec(self) -> dict[str, Any]:
        """Return what names the law."""
        return {
            "kind": self.kind,
            "mean": self._law.mean.tolist(),
            "covariance": self._law.covariance.tolist(),
        }


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
    if (window := window_of(ensemble)) is None:
        return None
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(7,)))
    x, z = ensemble.chart.drawn(_DRAWS, rng)
    ions = ensemble.molecule
    motion = ensemble.chart.prior.momenta_of(x, (), rng)
    how: dict[str, Any] = {"forward": ensemble.forward, "initial_momenta": motion, "accuracy": 1e-5}
    momenta = np.asarray(followed_momenta(x, ions.masses, ions.charges, **how), dtype=np.float64)
    stated = ensemble.origin.get("experiment")
    if stated:
        momenta = Experiment.from_dict(stated).of(ions).apply(momenta, rng)[0]
    else:
        run = RunNoise.of(Events(ions, ensemble.momenta, sigma=ensemble.sigma), None)
        momenta = run.apply(momenta, rng)[0]
    energy = kinetic_energy(momenta, ions.masses) / ELECTRONVOLT
    return Selection(z, ensemble.chart.log_prior(z), (energy >= window[0]) & (energy <= window[1]))


def check_selection(selection: Selection | None, law: NormalLaw, events: int) -> None:
    """Raise DataError where too few simulated events tell what a gate does to a law."""
    if selection is not None and selection.effective(law) < _FEWEST * events:
        raise DataError(
            "the law is too far from the prior to say what the gate on the KER (--ker) does to it: sample "
            "the events without it, or under a prior that is nearer"
        )
