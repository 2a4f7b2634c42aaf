"""The only file that touches FrEIA: a stack of conditional GLOW couplings.

What bites in FrEIA 0.2 is handled here: a block appended without `cond` and `cond_shape`
ignores the condition silently, the condition is a list, and widths are not checked when
a permutation comes first.
"""

from __future__ import annotations

import numpy as np
from FrEIA.framework import SequenceINN
from FrEIA.modules import GLOWCouplingBlock, PermuteRandom
from torch import Tensor, nn

from flowcei.models.interface import check_width
from flowcei.models.networks import mlp

__all__ = ["Couplings"]


class Couplings(nn.Module):
    """An invertible map between x and z (B, D), given a context h (B, H).

    Args:
        width: D.
        context_width: H.
        count: Number of couplings, each a `GLOWCouplingBlock` after a fixed permutation.
        hidden: Width of the subnets.
        depth: Hidden layers of the subnets.
        clamp: Bound on the log scale of a coupling.
    """

    def __init__(
        self,
        width: int,
        context_width: int,
        *,
        count: int,
        hidden: int,
        depth: int,
        clamp: float = 2.0,
    ) -> None:
        super().__init__()
        self.width = width
        self.context_width = context_width

        def subnet(inputs: int, outputs: int) -> nn.Module:
            return mlp(inputs, outputs, hidden, depth, zero=True)

        self.blocks = SequenceINN(width)
        # PermuteRandom seeds NumPy's global generator, which belongs to the caller.
        state = np.random.get_state()
        for k in range(count):
            self.blocks.append(PermuteRandom, seed=k)
            self.blocks.append(
                GLOWCouplingBlock,
                cond=0,
                cond_shape=(context_width,),
                subnet_constructor=subnet,
                clamp=clamp,
            )
        np.random.set_state(state)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return z (B, D) and log|det dz/dx| (B,)."""
        return self._run(x, h, reverse=False)

    def inverse(self, z: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return x (B, D) and log|det dx/dz| (B,)."""
        return self._run(z, h, reverse=True)

    def _run(self, v: Tensor, h: Tensor, *, reverse: bool) -> tuple[Tensor, Tensor]:
        check_width(v, self.width, "the input of the couplings")
        check_width(h, self.context_width, "the context of the couplings")
        out, log_det = self.blocks(v, c=[h], rev=reverse)
        return out, log_det
