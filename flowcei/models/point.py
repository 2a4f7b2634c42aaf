"""`mlp`: the point estimate of a perceptron, as published networks give it.

Regression as in arXiv:2602.14205: momenta in, one geometry out, trained on the squared
error. Where several geometries have the same momenta its answer is their average, which may
be none of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from flowcei.models.interface import ModelOptions, PointModel, check_width
from flowcei.models.networks import mlp

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class MLPOptions(ModelOptions):
    """Options of `mlp`.

    Attributes:
        hidden: Width of the network.
        depth: Hidden layers.
    """

    hidden: int = 256
    depth: int = 3


class MLP(PointModel):
    """A perceptron from the condition to x."""

    architecture: ClassVar[str] = "mlp"
    options_type: ClassVar[type[ModelOptions]] = MLPOptions

    def __init__(self, width: int, condition_width: int, options: MLPOptions) -> None:
        super().__init__(width, condition_width, options)
        self.net = mlp(condition_width, width, options.hidden, options.depth)

    def predict(self, c: Tensor) -> Tensor:
        """Return the answer (B, D) to c (B, C)."""
        check_width(c, self.condition_width, "the condition")
        out: Tensor = self.net(c)
        return out
