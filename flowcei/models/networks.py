"""The plain networks that the architectures are made of."""

from __future__ import annotations

from torch import nn

__all__ = ["mlp"]


def mlp(inputs: int, outputs: int, hidden: int, depth: int, *, zero: bool = False) -> nn.Sequential:
    """Return a perceptron with `depth` hidden layers of `hidden` SiLU units.

    Args:
        inputs: Width of the input.
        outputs: Width of the output.
        hidden: Width of the hidden layers.
        depth: Number of hidden layers.
        zero: Start with an output of zero, so that a coupling starts as the identity.

    Example:
        >>> import torch
        >>> mlp(3, 2, 16, 2)(torch.zeros(5, 3)).shape
        torch.Size([5, 2])
    """
    layers: list[nn.Module] = []
    width = inputs
    for _ in range(depth):
        layers += [nn.Linear(width, hidden), nn.SiLU()]
        width = hidden
    last = nn.Linear(width, outputs)
    if zero:
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)
