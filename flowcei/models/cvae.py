"""`cvae`: the conditional variational auto-encoder of the first study, approach 2.

Encoder x -> (mean, log variance) of a latent z, decoder (z, c) -> x.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from flowcei.models.interface import ModelOptions
from flowcei.models.networks import mlp
from flowcei.models.variational import DECODER_NOISE, VariationalModel


@dataclass(frozen=True)
class CVAEOptions(ModelOptions):
    """Options of `cvae` and `ae-cvae`.

    Attributes:
        latent: Width of the latents.
        hidden: Width of the networks.
        depth: Hidden layers of the networks.
        decoder_noise: ``"learned"``, or ``"fixed"``: the fixed weight of the first study.
    """

    latent: int = 6
    hidden: int = 256
    depth: int = 3
    decoder_noise: str = field(default="learned", metadata={"choices": DECODER_NOISE})


class CVAE(VariationalModel):
    """An encoder of positions, and a decoder that sees the condition."""

    architecture: ClassVar[str] = "cvae"
    options_type: ClassVar[type[ModelOptions]] = CVAEOptions

    def __init__(self, width: int, condition_width: int, options: CVAEOptions) -> None:
        super().__init__(width, condition_width, options, options.latent, options.decoder_noise)
        self.encoder = mlp(width, 2 * options.latent, options.hidden, options.depth)
        self.decoder = mlp(options.latent + condition_width, width, options.hidden, options.depth)
