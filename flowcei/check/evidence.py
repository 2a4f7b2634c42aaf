"""Are measured momenta as probable as those of the prior? Each event, and all of a run together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from flowcei.check.comparison import predicted_momenta
from flowcei.events.container import Events
from flowcei.experiment.detector import rms_component
from flowcei.physics.explosion import COULOMB

if TYPE_CHECKING:
    from flowcei.experiment.measurement import Measurement
    from flowcei.molecules.molecule import Molecule
    from flowcei.physics.priors import GeometryPrior
    from flowcei.posterior.arrays import Bools, Floats

# T = log evidence + (3N - 3) log rms(centred momenta) (`posterior.weights.scaled_evidence`) has one
# distribution over events of the prior with the stated noise, and whatever the flow does to it, it does to
# simulated events that are sampled and weighed as the run was: docs/trust.md.
LEVEL = 1e-3  # chance that a sound run is said to be improbable
_UNLIKELY = 1e-6  # chance that a sound event is flagged, as of the other flags
_TAIL = 0.1  # share of the reference to which a tail is fitted
_FEWEST_IN_TAIL = 10
_CAUSES = {
    False: "more noise than stated, other charges, masses, prior or molecule, a wrong momentum scale, or "
    "charges that build up",
    True: "less noise than stated, or geometries that spread less than the prior's",
}
# The tail of a log density is exponential: exp(-t) times a power of t for a normal law, exp(-t v / (v + d))
# where densities fall off as r^-(v + d) in d dimensions. A tenth of 500 events fixes its scale to 14 %:
# with three such errors more, one that came out too short by chance flags no sound event.
_MARGIN = 1.4


def reference_events(
    molecule: Molecule,
    prior: GeometryPrior,
    levels: Floats,
    count: int,
    seed: int,
    *,
    relative: bool = True,
    measurement: Measurement | None = None,
) -> Events:
    """Return about `count` events of a prior whose noise levels are distributed as `levels` (E,) of a run.

    Levels are over the rms momentum component where relative, else hbar / bohr; a measurement takes their
    place.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(6,)))
    forward = COULOMB if measurement is None else measurement.drawn_forward(count, rng)
    momenta = predicted_momenta(molecule, prior, count, rng, forward)
    if measurement is not None:
        return Events(molecule, replace(measurement, accidents=0.0).apply(momenta, rng)[0])
    level = rng.permutation(np.quantile(levels, (np.arange(len(momenta)) + 0.5) / len(momenta)))
    sigma = level * rms_component(momenta) if relative else level
    noisy = momenta + sigma[:, None, None] * rng.standard_normal(momenta.shape)
    stated = level * rms_component(noisy) if relative else level  # a share of what is measured, as of the run
    return Events(molecule, noisy, sigma=stated)


@dataclass(frozen=True, eq=False)
class EvidenceCheck:
    """How probable the momenta of a run are beside those of its prior and noise."""

    p_values: Floats  # of each event, (E,): chance of the like or less in a sound run
    p_value: float  # of the run: Kolmogorov-Smirnov test of T against the reference; NaN without events
    rank: float  # mean share of the reference that is less probable: 0.5 in a sound run
    events: int  # that the test of the run looks at

    @property
    def improbable(self) -> Bools:
        """Which events (E,) get the flag `evidence`."""
        return self.p_values < _UNLIKELY

    @property
    def sound(self) -> bool:
        """Whether the run may be of the prior and the noise."""
        return not self.p_value < LEVEL

    @property
    def summary(self) -> str:
        """What it comes to, in one line."""
        of = f"(p {self.p_value:.2g}, {self.events} events)"
        if self.sound:
            return f"the log evidence of the events is that of events of the prior with this noise {of}"
        more = self.rank > 0.5
        than = "more probable" if more else "less probable"
        return f"the momenta are {than} than those of the prior with this noise {of}: {_CAUSES[more]}"


def check_evidence(statistic: Floats, reference: Floats, chosen: Bools | None = None) -> EvidenceCheck:
    """Compare T (E,) of a run with T (M,) of events of the prior, sampled and weighed as the run, M >= 2.

    The test of the run looks at the chosen (E,): events with another flag tell of themselves.
    """
    from scipy.stats import ks_2samp

    asked = statistic if chosen is None else statistic[chosen]
    ordered = np.sort(reference)
    p_value, rank = np.nan, 0.5
    if len(asked):
        p_value = float(ks_2samp(asked, ordered).pvalue)
        sides = [np.searchsorted(ordered, asked, side) for side in ("left", "right")]
        rank = float(np.mean(sides)) / len(ordered)
    return EvidenceCheck(_lower_tail(statistic, ordered), p_value, rank, len(asked))


def _lower_tail(values: Floats, ordered: Floats) -> Floats:
    """Return the chance of values as small or smaller, from a sorted reference and the fit to its tail."""
    count = len(ordered)
    out = (np.searchsorted(ordered, values, "right") + 1.0) / (count + 1.0)
    most = int(_TAIL * count)
    if most < _FEWEST_IN_TAIL or not np.isfinite(ordered[0]) or ordered[most] <= ordered[0]:
        return np.minimum(out, 1.0)
    cut = ordered[most]
    scale = _MARGIN * float((cut - ordered[:most]).mean())
    below = values < cut
    out[below] = most / count * np.exp((values[below] - cut) / scale)
    return np.minimum(out, 1.0)
