"""From the chart back to the momenta, by the exact simulator: the inverse of all inverse models.

For a chart that fits its event the potential energy is 1 in the chart's own units, because
KER = U0 and the chart is bond vectors times KER; its simulated momenta then are the measured
ones over sqrt(KER), which is what the condition holds. Nothing has to be scaled back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from flowcei.physics.explosion import followed_momenta
from flowcei.physics.jacobian import followed_jacobian

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from flowcei.frame.standardiser import Standardiser
    from flowcei.molecules.molecule import Molecule

_ACCURACY = 1e-9
_CLOSEST = 1e-3  # of the size of the molecule: nearer ions are a collision, not an answer
_LARGEST = 1e6


class Resimulation:
    """How far the simulated momenta of a chart are from those of a condition.

    Args:
        molecule: What explodes.
        momenta: From conditions (B, C), not standardised, to momenta over sqrt(KER), (B, N, 3).
        assembly: From the N - 1 bond vectors of a chart to positions, (N, N - 1).
        chart: Standardiser of the chart.
        condition: Standardiser of the condition.
    """

    def __init__(
        self,
        molecule: Molecule,
        momenta: Callable[[torch.Tensor], torch.Tensor],
        assembly: torch.Tensor,
        chart: Standardiser,
        condition: Standardiser,
    ) -> None:
        self._masses = molecule.masses
        self._charges = molecule.charges
        self._momenta = momenta
        self._assembly = assembly.numpy()
        self._chart = chart
        self._condition = condition

    def residual(self, x: NDArray[np.float64], c: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return simulated less measured momenta, (B, 3N), in units of the measured rms component.

        Args:
            x: Standardised charts, (B, D).
            c: Standardised conditions, (B, C).

        Returns:
            Infinite where ions coincide or nothing can be followed.
        """
        measured = self._momenta(self._condition.inverse(torch.from_numpy(c))).numpy()
        positions, sound = self._positions(x)
        unit = np.sqrt((measured**2).mean(axis=(1, 2)))[:, None, None]
        out = np.full(measured.shape, np.inf)
        if sound.any():
            # A search may come by a geometry too violent to follow: there it must not end for all.
            simulated = followed_momenta(
                positions[sound], self._masses, self._charges, accuracy=_ACCURACY, threads=1
            )
            off = (simulated - measured[sound]) / unit[sound]
            out[sound] = np.where(np.isfinite(off), off, np.inf)
        return out.reshape(len(x), -1)

    def jacobian(self, x: NDArray[np.float64], c: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the derivative of `residual` by x, (B, 3N, D)."""
        measured = self._momenta(self._condition.inverse(torch.from_numpy(c))).numpy()
        unit = np.sqrt((measured**2).mean(axis=(1, 2)))[:, None, None]
        positions, _ = self._positions(x)
        slope = followed_jacobian(positions, self._masses, self._charges, accuracy=_ACCURACY, threads=1)
        assembly = np.kron(self._assembly, np.eye(3))
        return slope @ assembly * self._chart.scale.numpy() / unit

    def _positions(self, x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        bonds = self._chart.inverse(torch.from_numpy(x)).numpy().reshape(len(x), -1, 3)
        positions = np.einsum("kj,bjx->bkx", self._assembly, bonds)
        i, j = np.triu_indices(positions.shape[1], 1)
        gap = np.linalg.norm(positions[:, i] - positions[:, j], axis=-1)
        size = np.abs(positions).max(axis=(1, 2))
        sound = np.isfinite(size) & (gap.min(axis=1) > _CLOSEST * size) & (size < _LARGEST)
        return positions, sound
