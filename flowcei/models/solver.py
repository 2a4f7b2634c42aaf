"""`solver`: many searches on the exact simulator, without any learning.

Multi-start optimisation, as of triatomic molecules in the thesis of A. Ramadhan (Ottawa,
2017): from random geometries of the training set Levenberg-Marquardt steps lead to where
the simulated momenta are the measured ones. What it finds is exact, but noise is not
weighed, geometries are not weighed against each other, and it takes milliseconds an event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from flowcei.errors import UsageError
from flowcei.models.baselines import Recall
from flowcei.models.interface import Simulates, check_width
from flowcei.models.options import Latent, SolverOptions
from flowcei.physics.leastsquares import levenberg_marquardt

if TYPE_CHECKING:
    from torch import Tensor

_ARRIVED = 1e-6  # of the rms momentum component
_EVENTS = 256  # solved together


class Solver(Recall):
    """Searches from training geometries; samples are the answers that were found."""

    architecture: ClassVar[str] = "solver"
    options_type = SolverOptions
    max_rows: ClassVar[int] = 10_000

    def __init__(self, width: int, condition_width: int, options: SolverOptions) -> None:
        super().__init__(width, condition_width, options)
        self._starts, self._steps = options.starts, options.steps
        self._attached: Simulates | None = None

    def attach(self, simulator: Simulates) -> None:
        """Take the simulator that is searched."""
        self._attached = simulator

    def loss(self, x: Tensor, c: Tensor) -> Tensor:
        """Return the misfit (B,) of x that the search makes small: half the squared residual."""
        check_width(x, self.width, "the geometry")
        self.check_condition(c)
        residual = self._simulator.residual(_array(x), _array(c))
        return torch.from_numpy(0.5 * (residual**2).sum(axis=1)).to(x)

    def sample_with_log_prob(
        self, c: Tensor, n: int, *, latent: Latent = "prior", generator: np.random.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """Return the answers found, best first and over again until there are `n`, (B, n, D).

        Where no search of an event arrives, the nearest miss is its answer.
        """
        self.check_latent(latent)
        geometries, conditions = _array(self.rows(c)), _array(c)
        chosen = (generator.random((len(c), self._starts)) * len(geometries)).astype(np.int64)
        chunks = (slice(first, first + _EVENTS) for first in range(0, len(c), _EVENTS))
        answers = [self._solve(geometries[chosen[rows]], conditions[rows], n) for rows in chunks]
        return torch.from_numpy(np.concatenate(answers)).to(c), None

    def _solve(self, start: NDArray[np.float64], c: NDArray[np.float64], n: int) -> NDArray[np.float64]:
        """Return n answers (B, n, D) to conditions (B, C) from geometries (B, S, D)."""
        simulator, (events, starts, _) = self._simulator, start.shape
        every = np.repeat(c, starts, axis=0)
        fit = levenberg_marquardt(
            lambda x, rows: simulator.residual(x, every[rows]),
            lambda x, rows: simulator.jacobian(x, every[rows]),
            start.reshape(events * starts, -1),
            tolerance=0.01 * _ARRIVED,
            steps=self._steps,
        )
        x, norm = fit.x.reshape(start.shape), fit.norm.reshape(events, starts)
        order = norm.argsort(axis=1, kind="stable")
        count = (norm <= _ARRIVED).sum(axis=1).clip(1)
        best = np.take_along_axis(order, np.arange(n) % count[:, None], axis=1)
        return np.take_along_axis(x, best[:, :, None], axis=1)

    @property
    def _simulator(self) -> Simulates:
        if self._attached is None:
            raise UsageError("the solver has no simulator; it is used through flowcei.train and flowcei.load")
        return self._attached


def _array(t: Tensor) -> NDArray[np.float64]:
    return t.detach().cpu().double().numpy()
