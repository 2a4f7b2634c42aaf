"""Where latents come from when an event is reconstructed: never from its positions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from flowcei.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_STORED = 10_000
"""Latents of the training set that a model keeps, at the most."""


def standard_normal(shape: Sequence[int], generator: np.random.Generator, like: Tensor) -> Tensor:
    """Draw standard normal numbers of the type and on the device of `like`.

    Example:
        >>> import numpy as np, torch
        >>> standard_normal((2, 3), np.random.default_rng(0), torch.zeros(1)).shape
        torch.Size([2, 3])
    """
    drawn = torch.from_numpy(generator.standard_normal(tuple(shape), dtype=np.float32))
    return drawn.to(device=like.device, dtype=like.dtype)


class LatentStore(nn.Module):
    """Latents of the training set, saved with the model: rows of (mean, deviation).

    A latent is drawn from the distribution of a random row, which for a flow, whose
    latents are points, is the row itself.

    Args:
        width: Width of a latent.
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
        self.deviation = (
            torch.zeros_like(self.mean) if deviation is None else deviation[:MAX_STORED].detach().clone()
        )

    def draw(self, noise: Tensor) -> Tensor:
        """Turn standard normal numbers (..., L + 1) into latents (..., L).

        The last number chooses the row, so that one stream of one kind of number is all a
        draw needs, and cutting it into batches changes nothing.

        Raises:
            UsageError: For a model that was never trained.
        """
        if not len(self.mean):
            msg = "this model has no latent samples of training events; use latent 'prior'"
            raise UsageError(msg)
        quantile = torch.special.ndtr(noise[..., -1])
        rows = (quantile * len(self.mean)).long().clamp_max(len(self.mean) - 1)
        return self.mean[rows] + self.deviation[rows] * noise[..., :-1]
