"""`ae-cvae`: the first study's approach 1, trained in two phases.

First an auto-encoder of positions alone learns a latent representation u of them, as a
distribution. Then, with that encoder held, a conditional variational auto-encoder takes u
and the momenta, and learns to map its own latent z, with the momenta, to positions.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from flowcei.models.cvae import CVAEOptions
from flowcei.models.interface import ModelOptions, check_width
from flowcei.models.networks import gaussian, mlp
from flowcei.models.variational import (
    VariationalModel,
    divergence,
    log_normal,
    reparameterised,
)


class AECVAE(VariationalModel):
    """An auto-encoder of positions under a CVAE of what it learned."""

    architecture: ClassVar[str] = "ae-cvae"
    options_type: ClassVar[type[ModelOptions]] = CVAEOptions
    phases: ClassVar[int] = 2

    def __init__(self, width: int, condition_width: int, options: CVAEOptions) -> None:
        super().__init__(width, condition_width, options, options.latent, options.decoder_noise)
        latent, hidden, depth = options.latent, options.hidden, options.depth
        self.position_encoder = mlp(width, 2 * latent, hidden, depth)
        self.position_decoder = mlp(latent, width, hidden, depth)
        self.position_noise = nn.Parameter(self._first_noise(), requires_grad=self.learns_noise)
        self.encoder = mlp(latent + condition_width, 2 * latent, hidden, depth)
        self.decoder = mlp(latent + condition_width, width, hidden, depth)
        self._first = False

    def begin_phase(self, phase: int) -> None:
        """Train the auto-encoder of positions (0), then the CVAE (1)."""
        self._first = phase == 0
        for name, parameter in self.named_parameters():
            fixed = name.endswith("_noise") and not self.learns_noise
            parameter.requires_grad_(name.startswith("position_") == self._first and not fixed)

    def loss(self, x: Tensor, c: Tensor) -> Tensor:
        """Return the negative evidence bound (B,) of the phase that is trained."""
        if not self._first:
            return super().loss(x, c)
        check_width(x, self.width, "the input of the encoder")
        mean, log_variance = gaussian(self.position_encoder(x))
        back = self.position_decoder(reparameterised(mean, log_variance))
        return divergence(mean, log_variance) - log_normal(x, back, self.position_noise)

    def encode(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and the log variance, (B, L) each, of z for x (B, D) and c (B, C).

        x goes through the mean of its representation u, so that bounds stay bounds.
        """
        check_width(x, self.width, "the input of the encoder")
        check_width(c, self.condition_width, "the condition")
        u = gaussian(self.position_encoder(x))[0]
        return gaussian(self.encoder(torch.cat([u, c], dim=1)))
