"""The variational auto-encoders of the first study: `cvae`, `ae-cvae` and `latent-cinn`.

The loss is the squared error of the reconstruction plus the Kullback-Leibler divergence of the latent from a
standard normal (K. Sohn, H. Lee and X. Yan, NeurIPS 2015). The weight between the two is learned, as the
noise of the decoder (O. Rybkin et al., "Simple and effective VAE training with calibrated decoders", ICML
2021), and samples carry that noise. With `decoder_noise="fixed"` it is the study's mean squared error plus
divergence, a noise of sqrt(D / 2): where the momenta say little the latent then carries nothing, and the
answer is a mean.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from flowcei.models.freia import Couplings
from flowcei.models.interface import InverseModel, check_width
from flowcei.models.networks import MAX_STORED, LatentStore, gaussian, mlp, rows_of_events, standard_normal
from flowcei.models.options import CVAEOptions, Latent, LatentCINNOptions, ModelOptions
from flowcei.models.stack import Stack

if TYPE_CHECKING:
    import numpy as np

_CHUNK = 16384


class VariationalModel(InverseModel):
    """Encoder x -> (mean, log variance) of a latent z, decoder (z, c) -> x; sampling encodes nothing."""

    has_latent: ClassVar[bool] = True
    stored: ClassVar[tuple[str, ...]] = ("latents.mean", "latents.deviation")
    encoder: nn.Module
    decoder: nn.Module

    def __init__(
        self, width: int, condition_width: int, options: ModelOptions, latent_width: int, decoder_noise: str
    ) -> None:
        super().__init__(width, condition_width, options)
        self.latent_width = latent_width
        self.learns_noise = decoder_noise == "learned"
        self.log_noise = self._noise_parameter()
        self.latents = LatentStore(latent_width)

    def _noise_parameter(self) -> nn.Parameter:
        fixed = 0.5 * math.log(0.5 * self.width)  # 1 / (2 s^2) = 1 / D: the mean of the squared errors
        first = torch.full((self.width,), 0.0 if self.learns_noise else fixed)
        return nn.Parameter(first, requires_grad=self.learns_noise)

    def _encoder_input(self, x: Tensor, c: Tensor) -> Tensor:
        return x

    def _decoder_input(self, z: Tensor, c: Tensor) -> Tensor:
        return torch.cat([z, c], dim=1)

    def encode(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and the log variance, (B, L) each, of the latent of x (B, D)."""
        check_width(x, self.width, "the input of the encoder")
        self.check_condition(c)
        return gaussian(self.encoder(self._encoder_input(x, c)))

    def decode(self, z: Tensor, c: Tensor) -> Tensor:
        """Return the mean of x (B, D) given the latent z (B, L) and c (B, C)."""
        self.check_condition(c)
        return self.decoder(self._decoder_input(z, c))

    def loss(self, x: Tensor, c: Tensor) -> Tensor:
        """Return the negative evidence bound (B,), with one latent per row."""
        mean, log_variance = self.encode(x, c)
        z = _reparameterised(mean, log_variance)
        return _divergence(mean, log_variance) - self.log_likelihood(x, self.decode(z, c))

    def iwae_bound(self, x: Tensor, c: Tensor, *, draws: int, generator: np.random.Generator) -> Tensor:
        """Return a lower bound (B,) on log p(x | c) that tightens with `draws`.

        Source: Y. Burda, R. Grosse and R. Salakhutdinov, ICLR 2016. It judges given positions, and so may
        encode them.
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
        return _log_normal(x, mean, self.log_noise)

    def remember(self, x: Tensor, c: Tensor) -> None:
        """Keep the latent distributions of training data for `latent="training"`."""
        mean, log_variance = self.encode(x[:MAX_STORED], c[:MAX_STORED])
        self.latents.store(mean, torch.exp(0.5 * log_variance))

    def sample_with_log_prob(
        self, c: Tensor, n: int, *, latent: Latent = "prior", generator: np.random.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """Draw `n` samples (B, n, D); there is no density."""
        self.check_condition(c)
        # One draw holds all that a sample needs: its order must not depend on the batches.
        extra = int(latent == "training")
        drawn = standard_normal((len(c) * n, self.width + self.latent_width + extra), generator, c)
        noise, z = drawn[:, : self.width] * torch.exp(self.log_noise), drawn[:, self.width :]
        if latent == "training":
            z = self.latents.draw(z)
        samples = torch.empty_like(noise)
        for rows, event in rows_of_events(len(z), n, _CHUNK, c.device):
            samples[rows] = self.decode(z[rows], c[event]) + noise[rows]
        return samples.reshape(len(c), n, self.width), None


class CVAE(VariationalModel):
    """`cvae`, the first study's approach 2: an encoder of positions, a decoder that sees the condition."""

    architecture: ClassVar[str] = "cvae"
    options_type = CVAEOptions

    def __init__(self, width: int, condition_width: int, options: CVAEOptions) -> None:
        super().__init__(width, condition_width, options, options.latent, options.decoder_noise)
        self.encoder = mlp(width, 2 * options.latent, options.hidden, options.depth)
        self.decoder = mlp(options.latent + condition_width, width, options.hidden, options.depth)


class AECVAE(VariationalModel):
    """`ae-cvae`, the first study's approach 1, in two phases.

    First an auto-encoder of positions alone learns a representation u of them, as a distribution. Then, with
    that encoder held, a CVAE takes the mean of u (so that bounds stay bounds) and the condition.
    """

    architecture: ClassVar[str] = "ae-cvae"
    options_type = CVAEOptions
    phases: ClassVar[int] = 2

    def __init__(self, width: int, condition_width: int, options: CVAEOptions) -> None:
        super().__init__(width, condition_width, options, options.latent, options.decoder_noise)
        latent, hidden, depth = options.latent, options.hidden, options.depth
        self.position_encoder = mlp(width, 2 * latent, hidden, depth)
        self.position_decoder = mlp(latent, width, hidden, depth)
        self.position_noise = self._noise_parameter()
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
        back = self.position_decoder(_reparameterised(mean, log_variance))
        return _divergence(mean, log_variance) - _log_normal(x, back, self.position_noise)

    def _encoder_input(self, x: Tensor, c: Tensor) -> Tensor:
        return torch.cat([gaussian(self.position_encoder(x))[0], c], dim=1)


class LatentCINN(VariationalModel):
    """`latent-cinn`, the first study's CINN: encoder, conditional couplings in reverse, decoder.

    A network turns the momenta into the context of the couplings. The density of x is not known.
    """

    architecture: ClassVar[str] = "latent-cinn"
    options_type = LatentCINNOptions

    def __init__(self, width: int, condition_width: int, options: LatentCINNOptions) -> None:
        super().__init__(width, condition_width, options, max(2, options.latent), options.decoder_noise)
        latent, hidden, depth = self.latent_width, options.hidden, options.depth
        self.encoder = mlp(width, 2 * latent, hidden, depth)
        self.condition_net = mlp(condition_width, options.context, hidden, 2)
        self.couplings = Couplings(
            Stack(latent, options.context, options.couplings, hidden // 2 or 1, depth=2, bins=None)
        )
        self.decoder = mlp(latent, width, hidden, depth)

    def _decoder_input(self, z: Tensor, c: Tensor) -> Tensor:
        return self.couplings.inverse(z, self.condition_net(c))[0]


def _reparameterised(mean: Tensor, log_variance: Tensor) -> Tensor:
    """A draw of z (B, L) such that gradients reach its mean and log variance."""
    return mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)


def _divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Kullback-Leibler divergence (B,) from a standard normal, closed form."""
    return 0.5 * (mean**2 + log_variance.exp() - 1.0 - log_variance).sum(dim=1)


def _log_normal(x: Tensor, mean: Tensor, log_deviation: Tensor) -> Tensor:
    """Log density (B,) of x (B, D) under independent normals."""
    scaled = (x - mean) * torch.exp(-log_deviation)
    return (-0.5 * scaled**2 - log_deviation - 0.5 * math.log(2.0 * math.pi)).sum(dim=1)
