"""The plain networks that the architectures are made of."""

from __future__ import annotations

from torch import Tensor, nn


def mlp(inputs: int, outputs: int, hidden: int, depth: int, *, zero: bool = False) -> nn.Sequential:
    """Return a perceptron with `depth` hidden layers of `hidden` units (ReLU).

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
        layers += [nn.Linear(width, hidden), nn.ReLU()]
        width = hidden
    last = nn.Linear(width, outputs)
    if zero:
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)


def gaussian(out: Tensor) -> tuple[Tensor, Tensor]:
    """Cut a network's output (B, 2 L) into a mean and a bounded log variance, (B, L) each.

    Example:
        >>> import torch
        >>> mean, log_variance = gaussian(torch.tensor([[1.0, 99.0]]))
        >>> float(mean), float(log_variance)
        (1.0, 6.0)
    """
    mean, log_variance = out.chunk(2, dim=1)
    return mean, log_variance.clamp(-12.0, 6.0)
