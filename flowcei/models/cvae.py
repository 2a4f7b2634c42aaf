"""`cvae`: the conditional variational auto-encoder of the first study, approach 2.

Encoder x -> (mean, log variance) of a latent z, decoder (z, c) -> x; the loss is the
squared error of the reconstruction plus the Kullback-Leibler divergence of the latent from
a standard normal (K. Sohn, H. Lee and X. Yan, NeurIPS 2015). The weight between the two
is learned, as the noise of the decoder (O. Rybkin et al., "Simple and effective VAE
training with calibrated decoders", ICML 2021), and samples carry that noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from flowcei.models.interface import InverseModel, Latent, ModelOptions, check_width
from flowcei.models.latents import LatentStore, standard_normal
from flowcei.models.networks import mlp

if TYPE_CHECKING:
    import numpy as np

__all__ = ["CVAE", "CVAEOptions"]

_CHUNK = 16384


@dataclass(frozen=True)
class CVAEOptions(ModelOptions):
    """Options of `cvae`.

    Attributes:
        latent: Width of the latent.
        hidden: Width of the networks.
        depth: Hidden layers of the networks.
    """

    latent: int = 6
    hidden: int = 256
    depth: int = 3


class CVAE(InverseModel):
    """Encoder and decoder; the encoder is not used to reconstruct an event."""

    architecture: ClassVar[str] = "cvae"
    options_type: ClassVar[type[ModelOptions]] = CVAEOptions

    def __init__(self, width: int, condition_width: int, options: CVAEOptions) -> None:
        super().__init__(width, condition_width, options)
        self.latent_width = options.latent
        self.encoder = mlp(width, 2 * options.latent, options.hidden, options.depth)
        self.decoder = mlp(options.latent + condition_width, width, options.hidden, options.depth)
        self.log_noise = nn.Parameter(torch.zeros(width))
        self.latents = LatentStore(options.latent)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and the log variance, (B, L) each, of the latent of x (B, D)."""
        check_width(x, self.width, "the input of the encoder")
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        return mean, log_variance.clamp(-12.0, 6.0)

    def decode(self, z: Tensor, c: Tensor) -> Tensor:
        """Return the mean of x (B, D) given the latent z (B, L) and c (B, C)."""
        check_width(c, self.condition_width, "the condition")
        out: Tensor = self.decoder(torch.cat([z, c], dim=1))
        return out

    def loss(self, x: Tensor, c: Tensor) -> Tensor:
        """Return the negative evidence bound (B,), with one latent per row."""
        mean, log_variance = self.encode(x)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1.0 - log_variance).sum(dim=1)
        return divergence - self._log_likelihood(x, self.decode(z, c))

    def iwae_bound(self, x: Tensor, c: Tensor, *, draws: int = 64, generator: np.random.Generator) -> Tensor:
        """Return a lower bound (B,) on log p(x | c) that tightens with `draws`.

        Source: Y. Burda, R. Grosse and R. Salakhutdinov, ICLR 2016. Not a reconstruction:
        it judges known positions and so may encode them.
        """
        mean, log_variance = self.encode(x)
        terms = []
        for _ in range(draws):
            noise = standard_normal(mean.shape, generator, mean)
            z = mean + torch.exp(0.5 * log_variance) * noise
            prior = -0.5 * (z**2).sum(dim=1)
            proposal = -0.5 * (noise**2 + log_variance).sum(dim=1)
            terms.append(prior - proposal + self._log_likelihood(x, self.decode(z, c)))
        return torch.logsumexp(torch.stack(terms), dim=0) - math.log(draws)

    def _log_likelihood(self, x: Tensor, mean: Tensor) -> Tensor:
        scaled = (x - mean) * torch.exp(-self.log_noise)
        return (-0.5 * scaled**2 - self.log_noise - 0.5 * math.log(2.0 * math.pi)).sum(dim=1)

    def resize_latents(self, rows: int) -> None:
        """Make room for the latents of a saved model."""
        self.latents.resize(rows)

    def store_latents(self, x: Tensor, c: Tensor) -> None:
        """Keep the latent distributions of training data for `latent="training"`."""
        mean, log_variance = self.encode(x)
        self.latents.store(mean, torch.exp(0.5 * log_variance))

    def sample_with_log_prob(
        self, c: Tensor, n: int, *, latent: Latent = "prior", generator: np.random.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """Draw `n` samples (B, n, D); there is no density."""
        check_width(c, self.condition_width, "the condition")
        # One draw holds all that a sample needs: its order must not depend on the batches.
        extra = int(latent == "training")
        drawn = standard_normal((len(c) * n, self.width + self.latent_width + extra), generator, c)
        noise, z = drawn[:, : self.width] * torch.exp(self.log_noise), drawn[:, self.width :]
        if latent == "training":
            z = self.latents.draw(z)
        samples = torch.empty_like(noise)
        for first in range(0, len(z), _CHUNK):
            rows = slice(first, first + _CHUNK)
            event = torch.arange(first, min(first + _CHUNK, len(z)), device=c.device) // n
            samples[rows] = self.decode(z[rows], c[event]) + noise[rows]
        return samples.reshape(len(c), n, self.width), None
