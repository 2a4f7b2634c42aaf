"""Whether the positions of events explain their momenta: shape, scale and frame.

Momenta are re-simulated from the positions and compared with the recorded ones through what
does not depend on orientation, the Gram matrices p_i . p_j. Divided by their trace they do
not depend on units and on a common factor of the charges either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flowcei.check.alignment import (
    angles_of,
    best_rotations,
    needed_positions,
    residuals,
    resimulated,
    without_total,
)
from flowcei.check.scale import scale_of
from flowcei.experiment.detector import rms_component
from flowcei.physics.explosion import kinetic_energy, potential_energy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowcei.check.conservation import Noisiness
    from flowcei.events.container import Events

ROUNDING = 1e-3
"""Less than this, of the momenta, is no disagreement: rounded columns, other masses."""

HARMLESS = 0.1
"""More than this between shapes is no longer the same explosion."""

_PAIRED = 0.5  # correlation of energies, below which rows do not belong together
_DRAWS = 200  # of the noise, over all events
_FEWEST = 20  # events of which a correlation means something


@dataclass(frozen=True, eq=False)
class Agreement:
    """Recorded momenta of B events beside those re-simulated from the positions."""

    events: Events  # those that could be followed
    lost: int  # events that could not: ions coincide
    recorded: NDArray[np.float64]  # momenta in the frame of the centre of mass, (B, N, 3), hbar / bohr
    simulated: NDArray[np.float64]  # re-simulated, scaled to the size of the recorded ones, (B, N, 3)
    scale: float  # median of KE / U0
    spread: float  # relative spread of KE / U0
    noise: float  # median relative noise
    slack: float  # factor by which few events may exceed what noise explains
    shape: NDArray[np.float64]  # relative difference of the Gram matrices over their traces, (B,)
    shape_of_noise: NDArray[np.float64]  # what noise alone does to `shape`, (B,)
    apart: NDArray[np.float64]  # distance of recorded and re-simulated momenta, over their size, (B,)
    turned: NDArray[np.float64]  # `apart` after the best rotation, (B,)
    apart_of_noise: NDArray[np.float64]  # what noise alone does to `apart`, (B,)
    angle: NDArray[np.float64]  # of the best rotation, (B,), degrees
    angle_of_noise: NDArray[np.float64]  # what noise alone does to `angle`, (B,), degrees
    mirrored: NDArray[np.bool_]  # whether only a reflection makes them agree, (B,)

    @property
    def tolerated(self) -> float:
        """The median `shape` up to which noise explains it."""
        return float((0.5 + self.slack) * np.median(self.shape_of_noise) + ROUNDING)

    @property
    def one_shape(self) -> bool:
        """Whether the positions explain the momenta up to orientation and scale."""
        middle = float(np.median(self.shape))
        # Near an equilibrium all shapes are alike: there rows in another order show in the energies.
        paired = len(self.shape) < _FEWEST or self.correlation > _PAIRED
        return middle <= self.tolerated or (middle <= HARMLESS and paired)

    @property
    def correlation(self) -> float:
        """The correlation of log KE and log U0 over the events."""
        molecule = self.events.molecule
        kinetic = np.log(kinetic_energy(self.recorded, molecule.masses))
        potential = np.log(np.abs(potential_energy(needed_positions(self.events), molecule.charges)))
        if np.ptp(kinetic) == 0 or np.ptp(potential) == 0:
            return 0.0
        return float(np.corrcoef(kinetic, potential)[0, 1])

    @property
    def rotated(self) -> NDArray[np.bool_]:
        """Which events have positions and momenta in different frames, (B,)."""
        usual = float(np.percentile(self.turned, 95))
        far = self.apart > 5.0 * np.maximum(self.slack * self.apart_of_noise, usual) + ROUNDING
        # All of them by a little: invisible in one event, plain in the median.
        middle = float(np.median(self.apart))
        all_apart = middle > 2.0 * self.slack * float(np.median(self.apart_of_noise)) + ROUNDING
        if all_apart and middle > 2.5 * float(np.median(self.turned)):
            far = far | (self.apart > 2.5 * self.turned)
        return far & ~self.mirrored


def compare_with_simulation(events: Events, noise: Noisiness) -> Agreement | None:
    """Re-simulate events with positions and compare; None where no event can be followed."""
    simulated = resimulated(events)
    followed = np.asarray(np.isfinite(simulated).all(axis=(1, 2)))
    if not followed.any():
        return None
    kept, sigma, fitted = events[followed], noise.sigma(events)[followed], simulated[followed]
    recorded = without_total(kept.momenta, kept.molecule.masses)
    fitted *= np.sqrt((recorded**2).sum(axis=(1, 2)) / (fitted**2).sum(axis=(1, 2)))[:, None, None]
    level = float(np.median(sigma / rms_component(kept.momenta)))
    scale, spread = scale_of(kept, sigma)
    noisy = _noisy(kept, fitted, sigma)
    slack = _slack(len(kept), known=kept.sigma is not None and bool((kept.sigma > 0).all()))
    rotation = best_rotations(fitted, recorded, noise=level)
    turned = residuals(fitted @ np.swapaxes(rotation, 1, 2), recorded)
    apart_of_noise = _apart_of_noise(kept, recorded, sigma)
    return Agreement(
        events=kept,
        lost=int((~followed).sum()),
        recorded=recorded,
        simulated=fitted,
        scale=scale,
        spread=spread,
        noise=level,
        slack=slack,
        shape=shape_difference(fitted, recorded),
        shape_of_noise=np.mean([shape_difference(draw, fitted) for draw in noisy], axis=0),
        apart=residuals(fitted, recorded),
        turned=turned,
        apart_of_noise=apart_of_noise,
        angle=angles_of(rotation),
        angle_of_noise=angles_of(best_rotations(fitted, noisy[0], noise=level)),
        mirrored=_mirrored(fitted, recorded, turned, slack * apart_of_noise),
    )


def _mirrored(
    simulated: NDArray[np.float64],
    recorded: NDArray[np.float64],
    turned: NDArray[np.float64],
    expected: NDArray[np.float64],
) -> NDArray[np.bool_]:
    """Whether a reflection makes momenta agree, and no rotation does, (B,)."""
    reflection = best_rotations(simulated, recorded, mirror=True)
    mirrored = residuals(simulated @ np.swapaxes(reflection, 1, 2), recorded)
    allowed = 5.0 * np.maximum(expected, float(np.percentile(np.minimum(turned, mirrored), 95)))
    out: NDArray[np.bool_] = (turned > allowed + ROUNDING) & (mirrored <= allowed)
    return out


def _apart_of_noise(
    events: Events, momenta: NDArray[np.float64], sigma: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the rms distance (B,) that noise makes, without the total, over the size of momenta."""
    share = events.molecule.masses / events.molecule.masses.sum()
    variance = 3.0 * float((1.0 - 2.0 * share + len(share) * share**2).sum())
    out: NDArray[np.float64] = sigma * np.sqrt(variance) / np.linalg.norm(momenta, axis=(1, 2))
    return out


def _noisy(
    events: Events, momenta: NDArray[np.float64], sigma: NDArray[np.float64]
) -> list[NDArray[np.float64]]:
    """Draw what noise alone would do, often enough for few events."""
    # Drawn, not derived: it depends on the shape of the explosion.
    rng, masses = np.random.default_rng(0), events.molecule.masses
    draws = max(1, _DRAWS // len(events))
    return [
        without_total(momenta + sigma[:, None, None] * rng.standard_normal(momenta.shape), masses)
        for _ in range(draws)
    ]


def _slack(count: int, *, known: bool) -> float:
    """Return how far above its expectation the median of `count` events may lie."""
    # A sigma estimated from the sums of few events may itself be far too small.
    few = 1.0 / np.sqrt(count)
    return float((1.0 + 4.0 * few) * (1.0 if known else 1.0 + 3.0 * few))


def shape_difference(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the relative difference (B,) of the Gram matrices p_i . p_j over their traces, to that of b."""
    first, second = _shape(a), _shape(b)
    out: NDArray[np.float64] = np.linalg.norm(first - second, axis=(1, 2)) / np.linalg.norm(
        second, axis=(1, 2)
    )
    return out


def _shape(p: NDArray[np.float64]) -> NDArray[np.float64]:
    gram = p @ np.swapaxes(p, 1, 2)
    out: NDArray[np.float64] = gram / np.trace(gram, axis1=1, axis2=2)[:, None, None]
    return out
