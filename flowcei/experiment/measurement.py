"""What an experiment does to the momenta of one molecule, as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flowcei.errors import UsageError
from flowcei.experiment.detector import rms_component
from flowcei.experiment.shots import Shots, patterns
from flowcei.physics.build_up import BuildUp
from flowcei.physics.draws import standard_normal
from flowcei.physics.explosion import COULOMB, PLAIN, Coulomb, with_times

if TYPE_CHECKING:
    from flowcei.physics.build_up import BuildUpPrior
    from flowcei.physics.forward import ForwardModel

    Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Measurement:
    """Noise, source, scale and accidents of N ions; what is measured is scale (p + u P) + noise.

    P is the momentum of the molecule, normal, of which an ion has its share u by mass.
    """

    shares: Floats  # u, (N,)
    noise: Floats  # (N, 3), hbar / bohr, or over the rms momentum component where relative
    relative: bool
    drift: Floats  # mean of P, (3,), hbar / bohr
    spread: Floats  # standard deviation of P, (3,), hbar / bohr; infinite where it is unknown
    accidents: float = 0.0  # share of events whose ions are of different molecules; infinite if unknown
    scale: float = 1.0
    forward: ForwardModel = COULOMB
    build_up_prior: BuildUpPrior | None = None  # where the time is not known exactly; `forward` has its mean
    efficiency: Floats | None = None  # chance of each ion to be detected, (N,); all are where None
    orders: NDArray[np.intp] | None = None  # whose hit each ion may have, (K, N), the first its own; or that
    shots: Shots | None = None  # of which accidents come, where these are of ions that were lost

    def assigned(self, momenta: Floats) -> Floats:
        """Calibrated momenta (E, N, 3) under each of the K assignments of hits to ions, (K, E, N, 3).

        A hit keeps its velocity: as that of another ion its momentum is larger by the ratio of the masses.
        """
        orders = np.arange(len(self.shares))[None] if self.orders is None else self.orders
        ratio = self.shares / self.shares[orders]
        return np.asarray(np.swapaxes(momenta[:, orders], 0, 1) * ratio[:, None, :, None])

    @property
    def levels(self) -> Floats:
        """Noise of calibrated momenta, (N, 3), as `noise` is."""
        return self.noise if self.relative else self.noise / self.scale

    @property
    def isotropic(self) -> bool:
        """Whether noise is one level, the sum of momenta tells nothing, and forces are Coulomb's, at once."""
        return self.one_level and self.forward.name == PLAIN

    @property
    def one_level(self) -> bool:
        """Whether it is isotropic but for forces that are not Coulomb's at once."""
        return self.of_axes and bool((self.noise == self.noise[0, 0]).all())

    @property
    def of_axes(self) -> bool:
        """Whether noise is alike for all ions, and the sum of momenta tells nothing."""
        return bool((self.noise == self.noise[0]).all() and np.isinf(self.spread).all())

    @property
    def build_up(self) -> BuildUp | None:
        """That of the charges, where it is all that is not Coulomb's law at once."""
        alone = isinstance(self.forward, Coulomb) and self.forward.transfer is None
        growth = self.forward.build_up if isinstance(self.forward, Coulomb) and alone else None
        return growth if isinstance(growth, BuildUp) else None

    def drawn_forward(self, n: int, rng: np.random.Generator) -> ForwardModel:
        """That of n events, each with a build-up time of its own where it has a prior."""
        law = self.build_up_prior
        return self.forward if law is None else with_times(self.forward, law.draw(n, rng))

    def calibrated(self, momenta: Floats) -> Floats:
        """Measured momenta (E, N, 3) on the true scale and without the drift, as likelihoods take them."""
        return momenta / self.scale - self.shares[:, None] * self.drift

    def width(self, momenta: Floats) -> Floats:
        """Standard deviation (E, 3) of the sum of calibrated momenta (E, N, 3) by noise and source."""
        unit = rms_component(momenta)[:, None] if self.relative else np.ones((len(momenta), 1))
        return np.asarray(np.hypot(np.sqrt((self.levels**2).sum(axis=0)) * unit, self.spread))

    def sums(self, momenta: Floats) -> Floats:
        """Sums of calibrated momenta over noise and source, (E, 3); 0 where the source is unknown."""
        return np.asarray(momenta.sum(axis=1) / self.width(momenta))

    def whitening(self, momenta: Floats, lost: NDArray[np.bool_] | None = None) -> Floats:
        """W (E, 3, N, N) of each axis; W' W is the inverse covariance about exact momenta (E, N, 3).

        0 in rows and columns of ions that were lost, (E, N).
        """
        unit = rms_component(momenta) if self.relative else np.ones(len(momenta))
        noise = np.swapaxes(self.levels, 0, 1) * unit[:, None, None]  # (E, 3, N)
        if lost is not None:
            noise = np.where(lost[:, None], np.inf, noise)
        shares = self.shares / noise
        size = (shares**2).sum(axis=2)
        # By Sherman and Morrison, and the root of 1 - c v v'; where the source is unknown v is left out.
        known = np.sqrt(1.0 / (1.0 + self.spread**2 * size))
        taken = ((1.0 - known) / size)[..., None, None] * shares[..., None] * shares[..., None, :]
        return np.asarray((np.eye(len(self.shares)) - taken) / noise[..., None, :])

    def sigma(self, momenta: Floats) -> Floats:
        """Noise (E,) of measured momenta (E, N, 3) over ions and axes, rms, hbar / bohr."""
        level = float(np.sqrt((self.noise**2).mean()))
        return level * rms_component(momenta) if self.relative else np.full(len(momenta), level)

    def by_axis(self, momenta: Floats) -> Floats:
        """Noise (E, 3) of each axis, hbar / bohr, to tell a model of axes, of calibrated momenta (E, N, 3).

        Such a model knows ions of like noise and a source that is unknown. Told is the noise that has there
        the variance which momenta that sum to zero have here, the mean over their directions: the rms of the
        ions would tell that one badly resolved ion is not known, which a known source measures by the others.
        """
        unit = rms_component(momenta)[:, None] if self.relative else np.ones((len(momenta), 1))
        if self.of_axes:
            return np.asarray(self.levels[0] * unit)
        count, u = len(self.shares), self.shares
        zero_sum = np.vstack([np.eye(count - 1), -np.ones(count - 1)])
        whitening = self.whitening(momenta) @ zero_sum
        alike = zero_sum.T @ (np.eye(count) - np.outer(u, u) / (u @ u)) @ zero_sum
        variance = np.linalg.solve(np.swapaxes(whitening, 2, 3) @ whitening, alike)
        return np.asarray(np.sqrt(np.trace(variance, axis1=2, axis2=3) / (count - 1)))

    def check_stated(self) -> None:
        """Raise UsageError for what nobody can simulate."""
        if np.isinf(self.accidents):
            raise UsageError("the share of accidents is unknown; state it as a number to simulate them")
        if self.orders is not None and self.efficiency is not None:
            raise UsageError("assignments of hits need all of them: leave out the efficiency, or assignments")

    def accidental(self, lost: NDArray[np.bool_]) -> Floats:
        """Share (E,) of accidents among events that lack these ions (E, N)."""
        return np.full(len(lost), self.accidents) if self.shots is None else self.shots.share(lost)

    def lost(self, count: int, most: int, rng: np.random.Generator) -> NDArray[np.bool_]:
        """Ions (B, N) that are not detected, of events that lack `most` at the most."""
        table, chance = self._patterns(most)
        chance = chance / (1.0 - self.accidental(table))
        return table[rng.choice(len(table), count, p=chance / chance.sum())]

    def kept(self, most: int) -> tuple[float, float]:
        """Chance of a molecule to lack `most` ions at the most, and share of accidents among such events."""
        table, chance = self._patterns(most)
        every = float((chance / (1.0 - self.accidental(table))).sum())
        return float(chance.sum()), 1.0 - float(chance.sum()) / every

    def _patterns(self, most: int) -> tuple[NDArray[np.bool_], Floats]:
        """Ions (P, N) that events may lack, and how likely that is for a molecule, (P,)."""
        table = patterns(len(self.shares), most)
        efficiency = np.ones(len(self.shares)) if self.efficiency is None else self.efficiency
        return table, np.where(table, 1.0 - efficiency, efficiency).prod(axis=1)

    def apply(
        self, momenta: Floats, rng: np.random.Generator, lost: NDArray[np.bool_] | None = None
    ) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        """Measured momenta of exact ones (B, N, 3), their stated noise (B,), which are accidents (B,).

        Those lack the ions of `lost` (B, N), whose momenta here are of any molecule; none where None.
        Where the spread of the source is unknown its molecules are taken to be at rest, beside the drift.
        """
        count, ions = momenta.shape[:2]
        self.check_stated()
        noise = (
            self.noise * self.scale * rms_component(momenta)[:, None, None] if self.relative else self.noise
        )
        spread = np.where(np.isfinite(self.spread), self.spread, 0.0)
        source = self.drift + spread * standard_normal((count, 3), rng)
        out = self.scale * (momenta + self.shares[:, None] * source[:, None])
        out += noise * standard_normal(momenta.shape, rng)
        lost = np.zeros((count, ions), bool) if lost is None else lost
        accident = np.asarray(rng.random(count) < self.accidental(lost))
        if accident.any():
            molecule, ion = np.arange(ions), np.arange(ions)  # each ion of another
            if self.shots is not None:
                molecule, ion = self.shots.mixed(lost[accident], rng)
            if count <= (most := molecule.max() + 1):
                raise UsageError(f"accidents mix the ions of {most} events or more; there are {count}")
            # Events are independent, so a fixed distance in their order is as good as a random one.
            out[accident] = out[(np.flatnonzero(accident)[:, None] + 1 + molecule) % count, ion]
        return out, self.sigma(out), accident

    def shuffled(self, momenta: Floats, rng: np.random.Generator) -> tuple[Floats, NDArray[np.intp]]:
        """Momenta (B, N, 3) with hits under the names of other ions, and which assignment is right, (B,)."""
        orders = np.arange(len(self.shares))[None] if self.orders is None else self.orders
        chosen = rng.integers(len(orders), size=len(momenta))
        right = [int((orders == np.argsort(order)).all(axis=1).argmax()) for order in orders]
        return self.assigned(momenta)[chosen, np.arange(len(momenta))], np.array(right)[chosen]
