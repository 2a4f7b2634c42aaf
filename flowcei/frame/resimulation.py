"""The exact simulator in the coordinates of a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flowcei.frame.interface import Condition
from flowcei.physics.build_up import LONGEST
from flowcei.physics.explosion import Coulomb, followed_momenta
from flowcei.physics.jacobian import followed_jacobian

if TYPE_CHECKING:
    from flowcei.frame.recoil import RecoilFrame
    from flowcei.frame.standardiser import Standardiser
    from flowcei.molecules.molecule import Molecule
    from flowcei.physics.forward import Floats

_ACCURACY = 1e-9  # of re-simulated momenta
_CLOSEST = 1e-3  # of the size of the molecule: nearer ions are a collision, not an answer
_LARGEST = 1e6


@dataclass(frozen=True, eq=False)
class Resimulation:
    """How far the simulated momenta of standardised charts are from those of standardised conditions.

    Because KER = U0, a chart that fits its event has the potential energy 1 in its own units: its simulated
    momenta are those of the condition, over sqrt(KER). Nothing has to be scaled back.
    """

    frame: RecoilFrame
    molecule: Molecule
    chart: Standardiser
    condition: Standardiser

    def residual(self, x: Floats, c: Floats) -> Floats:
        """Simulated less measured momenta, (B, 3N), over the measured rms component; inf at a collision."""
        measured, unit = self._measured(c)
        positions = self._positions(x)
        i, j = np.triu_indices(positions.shape[1], 1)
        gap = np.linalg.norm(positions[:, i] - positions[:, j], axis=-1)
        size = np.abs(positions).max(axis=(1, 2))
        sound = np.isfinite(size) & (gap.min(axis=1) > _CLOSEST * size) & (size < _LARGEST)
        out = np.full(measured.shape, np.inf)
        if sound.any():
            ions, times = (self.molecule.masses, self.molecule.charges), self._times(c)[sound]
            simulated = followed_momenta(
                positions[sound], *ions, forward=Coulomb(times), accuracy=_ACCURACY, threads=1
            )
            off = (simulated - measured[sound]) / unit[sound]
            # A search may come by a geometry too violent to follow: there it must not end for all.
            out[sound] = np.where(np.isfinite(off), off, np.inf)
        return out.reshape(len(x), -1)

    def jacobian(self, x: Floats, c: Floats) -> Floats:
        """Derivative of `residual` by x, (B, 3N, D)."""
        ions, times = (self.molecule.masses, self.molecule.charges), self._times(c)
        slope = followed_jacobian(
            self._positions(x), *ions, forward=Coulomb(times), accuracy=_ACCURACY, threads=1
        )
        assembly = np.kron(self.frame.assembly, np.eye(3))
        return slope @ assembly * self.chart.scale / self._measured(c)[1]

    def _measured(self, c: Floats) -> tuple[Floats, Floats]:
        """Measured momenta over sqrt(KER), (B, N, 3), and their rms component, (B, 1, 1)."""
        p = self.frame.momenta(self.condition.inverse(c))
        return p, np.sqrt((p**2).mean(axis=(1, 2)))[:, None, None]

    def _times(self, c: Floats) -> Floats:
        """Build-up times (B,) in the units of the chart: 0 where the condition does not hold them."""
        if not self.frame.build_up:
            return np.zeros(len(c))
        rows = self.condition.inverse(c)
        times = Condition.split(rows, len(self.molecule), build_up=True).build_up[:, 0]
        return np.clip(times, 0.0, LONGEST)

    def _positions(self, x: Floats) -> Floats:
        bonds = self.chart.inverse(x).reshape(len(x), -1, 3)
        return np.einsum("kj,bjx->bkx", self.frame.assembly, bonds)
