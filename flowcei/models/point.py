"""`mlp`: the point estimate of a perceptron, as published networks give it.

Regression as in arXiv:2602.14205: momenta in, one geometry out, trained on the squared
error. Where several geometries have the same momenta its answer is their average, which may
be none of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from flowcei.models.interface import InverseModel, Latent, ModelOptions, check_width
from flowcei.models.networks import mlp

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

__all__ = ["MLP", "MLPOptions"]


@dataclass(frozen=True)
class MLPOptions(ModelOptions):
    """Options of `mlp`.

    Attributes:
        hidden: Width of the network.
        depth: Hidden layers.
    """

    hidden: int = 256
    depth: int = 3


class MLP(InverseModel):
    """A perceptron from the condition to x."""

    architecture: ClassVar[str] = "mlp"
    options_type: ClassVar[type[ModelOptions]] = MLPOptions
    is_point: ClassVar[bool] = True

    def __init__(self, width: int, condition_width: int, options: MLPOptions) -> None:
        super().__init__(width, condition_width, options)
        self.net = mlp(condition_width, width, options.hidden, options.depth)

    def predict(self, c: Tensor) -> Tensor:
        """Return the answer (B, D) to c (B, C)."""
        check_width(c, self.condition_width, "the condition")
        out: Tensor = self.net(c)
        return out

    def loss(self, x: Tensor, c: Tensor) -> Tensor:
        """Return the mean squared error (B,)."""
        check_width(x, self.width, "the target")
        return ((self.predict(c) - x) ** 2).mean(dim=1)

    def sample_with_log_prob(
        self, c: Tensor, n: int, *, latent: Latent = "prior", generator: np.random.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """Return the one answer `n` times, (B, n, D)."""
        del generator
        self.refuse_latent(latent)
        return self.predict(c)[:, None].repeat(1, n, 1), None
