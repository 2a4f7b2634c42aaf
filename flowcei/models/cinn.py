"""`cinn`: a conditional normalizing flow, trained by maximum likelihood.

L. Ardizzone et al., "Guided image generation with conditional invertible neural
networks", arXiv:1907.02392 (2019); D. P. Kingma and P. Dhariwal, "Glow", NeurIPS 2018.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from flowcei.models.freia import Couplings
from flowcei.models.interface import InverseModel
from flowcei.models.networks import MAX_STORED, LatentStore, log_normal, mlp, runs, standard_normal
from flowcei.models.options import CINNOptions, Latent
from flowcei.models.stack import CONDITION_DEPTH, Stack

if TYPE_CHECKING:
    import numpy as np

    from flowcei.models.fused import CompiledFlow
    from flowcei.models.interface import Single


class CINN(InverseModel):
    """Couplings whose subnets see the condition and the output of a subnet on it."""

    architecture: ClassVar[str] = "cinn"
    options_type = CINNOptions
    has_density: ClassVar[bool] = True
    has_latent: ClassVar[bool] = True
    recordable: ClassVar[bool] = True
    stored: ClassVar[tuple[str, ...]] = ("latents.mean", "latents.deviation")

    options: CINNOptions

    def __init__(self, width: int, condition_width: int, options: CINNOptions) -> None:
        super().__init__(width, condition_width, options)
        self.condition_net = mlp(condition_width, options.context, options.hidden, CONDITION_DEPTH)
        self.couplings = Couplings(Stack.of(width, condition_width, options))
        self.latents = LatentStore(width)

    def _context(self, c: Tensor) -> Tensor:
        self.check_condition(c)
        return torch.cat([c, self.condition_net(c)], dim=1)

    def encode(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Return the latent z (B, D) of x (B, D) and log|det dz/dx| (B,)."""
        if torch.is_grad_enabled():
            return self.couplings(x, self._context(c))
        self.check_condition(c)
        c, event = runs(c)
        return self.couplings(x, self._context(c), event)

    def decode(self, z: Tensor, c: Tensor) -> Tensor:
        """Return x (B, D) of the latent z (B, D)."""
        return self.couplings.inverse(z, self._context(c))[0]

    def log_prob(self, x: Tensor, c: Tensor) -> Tensor:
        """Return the exact log density (B,) of x (B, D) given c (B, C)."""
        z, log_det = self.encode(x, c)
        return log_normal(z) + log_det

    def loss(self, x: Tensor, c: Tensor) -> Tensor:
        """Return the negative log density (B,)."""
        return -self.log_prob(x, c)

    def remember(self, x: Tensor, c: Tensor) -> None:
        """Keep latents of training data for `latent="training"`."""
        self.latents.store(self.encode(x[:MAX_STORED], c[:MAX_STORED])[0])

    def draw(
        self, c: Single, n: int, *, latent: Latent, generator: np.random.Generator
    ) -> tuple[Single, Single | None]:
        """As a model that was read from its file does, to the bit: on a CPU by the kernel."""
        compiled = self._compiled()
        draw = super().draw if compiled is None else compiled.draw
        return draw(c, n, latent=latent, generator=generator)

    def density(self, x: Single, c: Single, *, draws: int = 0, seed: int = 0) -> Single:
        """Likewise."""
        compiled = self._compiled()
        density = super().density if compiled is None else compiled.density
        return density(x, c, draws=draws, seed=seed)

    def _compiled(self) -> CompiledFlow | None:
        """The weights that there are now, in the kernel, on a CPU."""
        packed = self.couplings.packed()
        if packed is None:
            return None
        from flowcei.models.fused import CompiledFlow  # which brings numba

        how = self.width, self.condition_width, self.options, self.arrays(), self.in_torch, packed
        return CompiledFlow(*how)

    def sample_with_log_prob(
        self, c: Tensor, n: int, *, latent: Latent = "prior", generator: np.random.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """Draw `n` samples (B, n, D) and their log density (B, n): the flow's, wherever latents come from."""
        context = self._context(c)  # of an event, shared by its samples
        shape = (len(c), n, self.width)
        if latent == "training":
            z = self.latents.draw(standard_normal((len(c), n, self.width + 1), generator, c))
        else:
            z = standard_normal(shape, generator, c)
        z = z.reshape(-1, self.width)
        x, log_det = self.couplings.inverse(z, context, torch.arange(len(z), device=c.device) // n)
        return x.reshape(shape), (log_normal(z) - log_det).reshape(shape[:2])
