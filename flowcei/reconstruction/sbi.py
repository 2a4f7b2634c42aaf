"""A model with the interface of a posterior of `sbi`, for tools that expect one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from flowcei.reconstruction.model import Reconstructor


@dataclass(eq=False)
class DirectPosterior:
    """Positions theta (3N,), bohr, given momenta x (3N,), hbar / bohr, as an `sbi` posterior.

    Attributes:
        model: The model.
        noise: Of the momenta, as for `Reconstructor.sample`.
        default_x: Momenta where a method is given none.

    Example:
        >>> import flowcei, torch
        >>> events = flowcei.simulate("ocs", 2, noise="1%", seed=1)
        >>> posterior = DirectPosterior(flowcei.load(), noise="1%")
        >>> x = torch.from_numpy(events.momenta.reshape(2, -1))
        >>> theta = posterior.sample((5,), x=x[:1])
        >>> theta.shape, posterior.log_prob(theta, x=x[0]).shape, posterior.sample_batched((4,), x=x).shape
        (torch.Size([5, 9]), torch.Size([5]), torch.Size([4, 2, 9]))
    """

    model: Reconstructor
    noise: str | None = None
    default_x: torch.Tensor | None = None

    def set_default_x(self, x: torch.Tensor) -> DirectPosterior:
        """Take momenta (3N,) or (1, 3N) as those of every later call."""
        self.default_x = self._momenta(x)
        return self

    def sample(
        self, sample_shape: Sequence[int] = (), x: torch.Tensor | None = None, *, seed: int | None = None
    ) -> torch.Tensor:
        """Draw positions (*sample_shape, 3N) given the momenta of one event."""
        drawn = self.sample_batched((int(np.prod(sample_shape)),), self._momenta(x), seed=seed)[:, 0]
        return drawn.reshape(*sample_shape, -1)

    def sample_batched(
        self, sample_shape: Sequence[int], x: torch.Tensor, *, seed: int | None = None
    ) -> torch.Tensor:
        """Draw positions (*sample_shape, B, 3N) given the momenta (B, 3N) of many events."""
        momenta = x.numpy(force=True).reshape(len(x), -1, 3)
        # As in sbi, torch's generator decides where nobody names a seed.
        seed = int(torch.randint(2**31, (1,))) if seed is None else seed
        drawn = self.model.sample(momenta, int(np.prod(sample_shape)), noise=self.noise, seed=seed).positions
        flat = torch.from_numpy(np.swapaxes(drawn, 0, 1).copy()).flatten(2)
        return flat.reshape(*sample_shape, *flat.shape[1:])

    def log_prob(self, theta: torch.Tensor, x: torch.Tensor | None = None) -> torch.Tensor:
        """Return the log density (n,), per bohr^(3N-3), of positions (n, 3N) given one event."""
        momenta = self._momenta(x).numpy(force=True).reshape(1, -1, 3)
        positions = theta.numpy(force=True).reshape(1, len(theta), -1, 3)
        return torch.from_numpy(self.model.log_prob(positions, momenta, noise=self.noise)[0])

    def _momenta(self, x: torch.Tensor | None) -> torch.Tensor:
        x = self.default_x if x is None else x
        if x is None or (x.ndim > 1 and len(x) != 1):
            raise ValueError("x is the momenta of one event: (3N,) or (1, 3N); sample_batched takes more")
        return x.reshape(1, -1)
