"""Zero mean and unit deviation for the numbers a network sees."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flowcei.errors import DataError

_CONSTANT = 1e-5  # of the largest: less is rounding, of single precision or of a text file


class Standardiser(nn.Module):
    """An affine map of each of `width` columns, fitted once, on training data only."""

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(width, dtype=torch.float64))

    def fit(self, rows: Tensor) -> None:
        """Take mean and deviation from rows (B, W); a constant column keeps scale 1."""
        self.mean = rows.mean(dim=0).double()
        deviation = rows.std(dim=0).double()
        constant = deviation <= _CONSTANT * rows.abs().max().clamp_min(1e-300)
        self.scale = torch.where(constant, torch.ones_like(deviation), deviation)

    def forward(self, rows: Tensor) -> Tensor:
        """Return standardised rows (..., W), float32."""
        return ((rows - self.mean) / self.scale).float()

    def inverse(self, rows: Tensor) -> Tensor:
        """Return rows (..., W) in their own units, float64."""
        return rows.double() * self.scale + self.mean

    def log_scale(self) -> Tensor:
        """Return log|d rows / d standardised rows|, a number."""
        return self.scale.log().sum()


def check_varying(rows: Tensor, names: Sequence[str]) -> None:
    """DataError for a constant column of rows (B, W), by name: a flow's likelihood would be unbounded."""
    deviation = rows.std(dim=0)
    constant = deviation <= _CONSTANT * deviation.max()
    if bool(constant.any()) or not bool(torch.isfinite(deviation).all()):
        raise DataError(
            f"model coordinate {names[int(constant.double().argmax())]} is the same in all training events, "
            "so its density is unbounded; train with --noise above 0, or on data that vary there"
        )
