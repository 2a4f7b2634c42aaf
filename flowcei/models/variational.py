"""What the variational architectures of the first study have in common.

An encoder turns x into the mean and log variance of a latent z, a decoder turns (z, c) into
x; the loss is the squared error of the reconstruction plus the Kullback-Leibler divergence
of the latent from a standard normal (K. Sohn, H. Lee and X. Yan, NeurIPS 2015). The weight
between the two is learned, as the noise of the decoder (O. Rybkin et al., "Simple and
effective VAE training with calibrated decoders", ICML 2021), and samples carry that noise.
With `decoder_noise="fixed"` the loss is mean squared error plus divergence, as in the first
study, which is a noise of sqrt(D / 2): where the momenta say little the latent then carries
nothing, and the decoder answers with a mean.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from flowcei.models.interface import InverseModel, Latent, ModelOptions, check_width
from flowcei.models.latents import MAX_STORED, LatentStore, standard_normal
from flowcei.models.networks import gaussian

if TYPE_CHECKING:
    import numpy as np

DECODER_NOISE = ("learned", "fixed")
"""How the weight between reconstruction and divergence is set."""

_CHUNK = 16384


class VariationalModel(InverseModel):
    """Encoder and decoder; the encoder is not used to reconstruct an event.

    Args:
        width: D.
        condition_width: C.
        options: Of the architecture.
        latent_width: Width of z.
        decoder_noise: ``"learned"``, or ``"fixed"`` at sqrt(D / 2).
    """

    has_latent: ClassVar[bool] = True
    stored: ClassVar[tuple[str, ...]] = ("latents.mean", "latents.deviation")
    encoder: nn.Module
    decoder: nn.Module

    def __init__(
        self,
        width: int,
        condition_width: int,
        options: ModelOptions,
        latent_width: int,
        decoder_noise: str = "learned",
    ) -> None:
        super().__init__(width, condition_width, options)
        self.latent_width = latent_width
        self.learns_noise = decoder_noise == "learned"
        self.log_noise = nn.Parameter(self._first_noise(), requires_grad=self.learns_noise)
        self.latents = LatentStore(latent_width)

    def _first_noise(self) -> Tensor:
        fixed = 0.5 * math.log(0.5 * self.width)  # 1 / (2 s^2) = 1 / D: the mean of the squared errors
        return torch.full((self.width,), 0.0 if self.learns_noise else fixed)

    def encode(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and the log variance, (B, L) each, of the latent of x (B, D)."""
        check_width(x, self.width, "the input of the encoder")
        check_width(c, self.condition_width, "the condition")
        return gaussian(self.encoder(x))

    def decode(self, z: Tensor, c: Tensor) -> Tensor:
        """Return the mean of x (B, D) given the latent z (B, L) and c (B, C)."""
        check_width(c, self.condition_width, "the condition")
        out: Tensor = self.decoder(torch.cat([z, c], dim=1))
        return out

    def loss(self, x: Tensor, c: Tensor) -> Tensor:
        """Return the negative evidence bound (B,), with one latent per row."""
        mean, log_variance = self.encode(x, c)
        z = reparameterised(mean, log_variance)
        return divergence(mean, log_variance) - self.log_likelihood(x, self.decode(z, c))

    def iwae_bound(self, x: Tensor, c: Tensor, *, draws: int = 64, generator: np.random.Generator) -> Tensor:
        """Return a lower bound (B,) on log p(x | c) that tightens with `draws`.

        Source: Y. Burda, R. Grosse and R. Salakhutdinov, ICLR 2016. Not a reconstruction:
        it judges known positions and so may encode them.
        """
        mean, log_variance = self.encode(x, c)
        terms = []
        for _ in range(draws):
            noise = standard_normal(mean.shape, generator, mean)
            z = mean + torch.exp(0.5 * log_variance) * noise
            prior = -0.5 * (z**2).sum(dim=1)
            proposal = -0.5 * (noise**2 + log_variance).sum(dim=1)
            terms.append(prior - proposal + self.log_likelihood(x, self.decode(z, c)))
        return torch.logsumexp(torch.stack(terms), dim=0) - math.log(draws)

    def log_likelihood(self, x: Tensor, mean: Tensor) -> Tensor:
        """Return log p(x | z, c), (B,), of x (B, D) around the decoder's answer (B, D)."""
        return log_normal(x, mean, self.log_noise)

    def remember(self, x: Tensor, c: Tensor) -> None:
        """Keep the latent distributions of training data for `latent="training"`."""
        mean, log_variance = self.encode(x[:MAX_STORED], c[:MAX_STORED])
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


def reparameterised(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Draw z (B, L) such that gradients reach its mean and log variance, (B, L) each.

    Example:
        >>> reparameterised(torch.zeros(2, 3), torch.zeros(2, 3)).shape
        torch.Size([2, 3])
    """
    return mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence (B,) from a standard normal, closed form.

    Example:
        >>> divergence(torch.ones(1, 2), torch.zeros(1, 2))
        tensor([1.])
    """
    return 0.5 * (mean**2 + log_variance.exp() - 1.0 - log_variance).sum(dim=1)


def log_normal(x: Tensor, mean: Tensor, log_deviation: Tensor) -> Tensor:
    """Return the log density (B,) of x (B, D) under independent normals.

    Example:
        >>> round(float(log_normal(torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1))), 4)
        -0.9189
    """
    scaled = (x - mean) * torch.exp(-log_deviation)
    return (-0.5 * scaled**2 - log_deviation - 0.5 * math.log(2.0 * math.pi)).sum(dim=1)
