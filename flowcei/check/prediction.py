"""What a model predicts of a run: events of its prior, exploded, seen with the noise of the run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from flowcei.check.observables import observables_of
from flowcei.errors import UsageError
from flowcei.experiment.detector import NOISE_FLOOR, Noise, rms_component
from flowcei.physics.explosion import followed_momenta

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowcei.check.observables import Observables
    from flowcei.events.container import Events
    from flowcei.molecules.molecule import Molecule
    from flowcei.physics.priors import GeometryPrior

_WHOLE = 1.0  # of the rms momentum component
_ACCURACY = 3e-6  # as of simulated events


@dataclass(frozen=True, eq=False)
class RunNoise:
    """The detector noise of a run, as it is stated or measured."""

    levels: NDArray[np.float64]  # of its events, (K,): shares of the rms momentum component, or hbar / bohr
    relative: bool  # which of the two
    axes: NDArray[np.float64]  # noise along each lab axis over the level, (3,)
    stated: bool = True  # by somebody; else measured from the sums

    @property
    def is_zero(self) -> bool:
        """Whether less noise than rounding is meant."""
        return self.relative and float(np.median(self.levels * self.axes.max())) < NOISE_FLOOR

    def sigma(self, momenta: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the level of measured events (B, N, 3) in hbar / bohr, (B,), one for each event."""
        unit = rms_component(momenta) if self.relative else 1.0
        return np.broadcast_to(self.levels, len(momenta)) * unit

    def apply(
        self, momenta: NDArray[np.float64], rng: np.random.Generator
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Add noise of random levels of the run to momenta (B, N, 3): with the sigma (B,) to be stated."""
        level = rng.choice(self.levels, len(momenta))
        sigma = level * rms_component(momenta) if self.relative else level
        noisy = momenta + sigma[:, None, None] * rng.standard_normal(momenta.shape) * self.axes
        return noisy, level * rms_component(noisy) if self.relative else level

    def measured(self, ratio: NDArray[np.float64]) -> RunNoise:
        """Return the noise whose size along each axis is `ratio` (3,) times this."""
        levels = np.array([NOISE_FLOOR]) if self.is_zero else self.levels
        return replace(self, levels=levels, axes=self.axes * ratio)


def noise_of_run(events: Events, noise: str | Noise | None) -> RunNoise:
    """Return the noise of events: what `noise` says, else what they say, else what their sums show.

    UsageError for a range of noise: the sums are judged by one level.
    """
    ones = np.ones(3)
    rms = rms_component(events.momenta)
    if noise is not None:
        asked = Noise.parse(noise)
        if asked.low != asked.high:
            raise UsageError(f"noise {asked} is a range; the run is compared with one level")
        return RunNoise(np.array([asked.low]), asked.relative, ones)
    share = np.full(len(rms), np.inf) if events.sigma is None else events.sigma / rms
    # Noise larger than the momenta is nobody's statement of them: they are in another unit.
    if events.sigma is not None and np.median(share) < _WHOLE:
        # Which of the two somebody had in mind: what varies less from event to event.
        relative = bool(np.std(share) * np.mean(events.sigma) <= np.std(events.sigma) * np.mean(share))
        return RunNoise(share if relative else events.sigma, relative, ones)
    total = events.momenta.sum(axis=1)
    shares = np.abs(total - np.median(total, axis=0)) / (rms * np.sqrt(len(events.molecule)))[:, None]
    measured = 1.4826 * np.median(shares, axis=0)  # of normal noise, from the median of its size
    level = max(float(np.sqrt((measured**2).mean())), 1e-12)
    return RunNoise(np.array([level]), True, measured / level, stated=False)


def predicted_momenta(
    molecule: Molecule, prior: GeometryPrior, n: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return noise-free momenta (about n, N, 3), hbar / bohr, of geometries drawn from a prior."""
    positions = prior.sample(n, rng)
    momenta = followed_momenta(positions, molecule.masses, molecule.charges, accuracy=_ACCURACY)
    return np.asarray(momenta[np.isfinite(momenta).all(axis=(1, 2))], dtype=np.float64)


def predict(
    molecule: Molecule, momenta: NDArray[np.float64], noise: RunNoise, rng: np.random.Generator
) -> Observables:
    """Return the observables of noise-free momenta (B, N, 3) that a detector with noise has measured."""
    noisy, sigma = noise.apply(momenta, rng)
    return observables_of(molecule, noisy, sigma)
