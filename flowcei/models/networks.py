"""What the architectures are made of: perceptrons, latents, and rows in chunks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from flowcei.errors import UsageError

MAX_STORED = 10_000
"""Latents of the training set that a model keeps, at the most."""


def mlp(inputs: int, outputs: int, hidden: int, depth: int, *, zero: bool = False) -> nn.Sequential:
    """Perceptron with `depth` hidden layers (ReLU); with `zero` a coupling starts as the identity."""
    widths = [inputs, *[hidden] * depth]
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    last = nn.Linear(widths[-1], outputs)
    if zero:
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)


def gaussian(out: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and bounded log variance, (B, L) each, of a network's output (B, 2 L)."""
    mean, log_variance = out.chunk(2, dim=1)
    return mean, log_variance.clamp(-12.0, 6.0)


def log_normal(z: Tensor) -> Tensor:
    """Log density (B,) of z (B, D) under a standard normal."""
    return -0.5 * (z**2).sum(dim=1) - 0.5 * z.shape[1] * math.log(2.0 * math.pi)


def standard_normal(shape: Sequence[int], generator: np.random.Generator, like: Tensor) -> Tensor:
    """Standard normal numbers of the type and on the device of `like`."""
    drawn = torch.from_numpy(generator.standard_normal(tuple(shape), dtype=np.float32))
    return drawn.to(device=like.device, dtype=like.dtype)


def rows_of_a_pass(rows: int, device: torch.device) -> int:
    """Rows at a time on a device, of those that a processor takes: elsewhere passes cost by their number."""
    return rows if device.type == "cpu" else 16 * rows


def rows_of_events(rows: int, n: int, size: int, device: torch.device) -> Iterator[tuple[slice, Tensor]]:
    """Rows, `size` at a time, of which every `n` belong to one event, and the events they belong to."""
    size = rows_of_a_pass(size, device)
    for first in range(0, rows, size):
        yield slice(first, first + size), torch.arange(first, min(first + size, rows), device=device) // n


def runs(c: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (E, C) of c (B, C) that differ from those before them, and which of them each row is, (B,)."""
    new = torch.ones(len(c), dtype=torch.bool, device=c.device)
    new[1:] = (c[1:] != c[:-1]).any(dim=1)
    return c[new], new.cumsum(dim=0) - 1


class LatentStore(nn.Module):
    """Latents (R, L) of the training set, saved with the model: each a mean and a deviation.

    A latent is drawn from the distribution of a random row; a flow's latents are points, with deviation 0.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(0, width))
        self.register_buffer("deviation", torch.zeros(0, width))

    def store(self, mean: Tensor, deviation: Tensor | None = None) -> None:
        """Keep up to `MAX_STORED` rows of means (B, L) and standard deviations (B, L)."""
        self.mean = mean[:MAX_STORED].detach().clone()
        spread = torch.zeros_like(mean) if deviation is None else deviation
        self.deviation = spread[:MAX_STORED].detach().clone()

    def draw(self, noise: Tensor) -> Tensor:
        """Turn standard normal numbers (..., L + 1) into latents (..., L).

        The last number chooses the row, so that one stream of one kind of number is all a draw needs, and
        cutting it into batches changes nothing.
        """
        if not len(self.mean):
            raise UsageError("this model has no latent samples of training events; use latent 'prior'")
        quantile = torch.special.ndtr(noise[..., -1])
        rows = (quantile * len(self.mean)).long().clamp_max(len(self.mean) - 1)
        return self.mean[rows] + self.deviation[rows] * noise[..., :-1]
