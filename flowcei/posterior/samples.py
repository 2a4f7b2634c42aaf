"""Posterior samples: for each event the geometries that explain it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.errors import DataError
from flowcei.posterior.spread import Spread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from flowcei.molecule import Molecule

__all__ = ["PosteriorSamples"]


@dataclass(frozen=True, eq=False)
class PosteriorSamples:
    """Samples of the posterior of events.

    Attributes:
        molecule: Which atoms, in the order of the arrays.
        momenta: What was measured, (E, N, 3), hbar / bohr.
        positions: (E, n, N, 3), bohr, in the frame of the momenta, centre of mass 0.
        log_prob: Log density of each sample under the model, (E, n), per bohr^(3N-3).
        ids: The number of each event, (E,).
        sigma: Noise that was assumed, (E,), hbar / bohr.
        origin: Model, seed, latent and what is known of the events.

    Raises:
        DataError: For shapes that do not match.
    """

    molecule: Molecule
    momenta: NDArray[np.float64]
    positions: NDArray[np.float32]
    log_prob: NDArray[np.float64] | None
    ids: NDArray[np.int64]
    sigma: NDArray[np.float64]
    origin: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check shapes."""
        e, n = (*self.positions.shape, 0, 0)[:2]
        atoms = len(self.molecule)
        expected = {
            "positions": (e, n, atoms, 3),
            "momenta": (e, atoms, 3),
            "log_prob": (e, n),
            "ids": (e,),
            "sigma": (e,),
        }
        for name, shape in expected.items():
            array = getattr(self, name)
            if array is not None and array.shape != shape:
                msg = f"{name} of samples have shape {array.shape}; expected {shape}"
                raise DataError(msg)

    def __len__(self) -> int:
        """Return the number of events."""
        return len(self.positions)

    def __getitem__(self, rows: slice) -> PosteriorSamples:
        """Return some of the events."""
        return replace(
            self,
            momenta=self.momenta[rows],
            positions=self.positions[rows],
            log_prob=None if self.log_prob is None else self.log_prob[rows],
            ids=self.ids[rows],
            sigma=self.sigma[rows],
        )

    @classmethod
    def concatenate(cls, parts: Sequence[PosteriorSamples]) -> PosteriorSamples:
        """Join samples of different events."""
        first = parts[0]
        return replace(
            first,
            momenta=np.concatenate([p.momenta for p in parts]),
            positions=np.concatenate([p.positions for p in parts]),
            log_prob=None
            if first.log_prob is None
            else np.concatenate([p.log_prob for p in parts if p.log_prob is not None]),
            ids=np.concatenate([p.ids for p in parts]),
            sigma=np.concatenate([p.sigma for p in parts]),
        )

    def mean(self) -> NDArray[np.float64]:
        """Return the posterior mean of the positions, (E, N, 3), bohr."""
        mean: NDArray[np.float64] = self.positions.mean(axis=1, dtype=np.float64)
        return mean

    def spread(self) -> Spread:
        """Return how far the samples of each event lie apart: see `flowcei.posterior.spread`."""
        return Spread.of(self.molecule, self.momenta, self.positions, self.ids)
