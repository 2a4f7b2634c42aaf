"""`latent-cinn`: the first study's CINN, couplings between a latent and a decoder.

A conditional network turns the momenta into a vector; z passes through conditional couplings in the reverse
direction, and a decoder maps what comes out to positions. The density of x is not known.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from flowcei.models.freia import Couplings
from flowcei.models.interface import ModelOptions
from flowcei.models.networks import mlp
from flowcei.models.variational import DECODER_NOISE, VariationalModel

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class LatentCINNOptions(ModelOptions):
    """Options of `latent-cinn`.

    Attributes:
        couplings: Number of GLOW couplings.
        latent: Width of the latent, 2 or more.
        hidden: Width of all networks.
        depth: Hidden layers of encoder and decoder.
        context: Width of the conditional network's output.
        decoder_noise: ``"learned"``, or ``"fixed"``: the fixed weight of the first study.
    """

    couplings: int = 8
    latent: int = 6
    hidden: int = 128
    depth: int = 2
    context: int = 32
    decoder_noise: str = field(default="learned", metadata={"choices": DECODER_NOISE})


class LatentCINN(VariationalModel):
    """Encoder, conditional couplings in reverse, decoder."""

    architecture: ClassVar[str] = "latent-cinn"
    options_type: ClassVar[type[ModelOptions]] = LatentCINNOptions

    def __init__(self, width: int, condition_width: int, options: LatentCINNOptions) -> None:
        super().__init__(width, condition_width, options, max(2, options.latent), options.decoder_noise)
        latent, hidden, depth = self.latent_width, options.hidden, options.depth
        self.encoder = mlp(width, 2 * latent, hidden, depth)
        self.condition_net = mlp(condition_width, options.context, hidden, 2)
        self.couplings = Couplings(
            latent, options.context, count=options.couplings, hidden=hidden // 2 or 1, depth=2
        )
        self.decoder = mlp(latent, width, hidden, depth)

    def _decoder_input(self, z: Tensor, c: Tensor) -> Tensor:
        return self.couplings.inverse(z, self.condition_net(c))[0]
