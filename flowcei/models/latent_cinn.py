"""`latent-cinn`: the first study's CINN, couplings between a latent and a decoder.

A conditional network turns the momenta into a vector; z passes through conditional couplings in the reverse
direction, and a decoder maps what comes out to positions. The density of x is not known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from flowcei.models.freia import Couplings
from flowcei.models.networks import mlp
from flowcei.models.options import LatentCINNOptions
from flowcei.models.variational import VariationalModel

if TYPE_CHECKING:
    from torch import Tensor


class LatentCINN(VariationalModel):
    """Encoder, conditional couplings in reverse, decoder."""

    architecture: ClassVar[str] = "latent-cinn"
    options_type = LatentCINNOptions

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
