"""Null models and the look-up table: what is scored without learning anything.

`mean` and `marginal` do not look at the momenta: what a trained model gains over them is
what the momenta told it. `nearest` is the look-up table of studies of triatomic molecules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from flowcei.errors import UsageError
from flowcei.models.interface import InverseModel, Latent, ModelOptions, PointModel, check_width

if TYPE_CHECKING:
    import numpy as np

_MAX_ROWS = 100_000  # of the training set that a model keeps
_CHUNK = 256  # conditions compared with all rows at a time


class _Recall(InverseModel):
    """Answers with rows of the training set; nothing has a gradient."""

    options_type: ClassVar[type[ModelOptions]] = ModelOptions
    stored: ClassVar[tuple[str, ...]] = ("x",)
    x: Tensor

    def __init__(self, width: int, condition_width: int, options: ModelOptions) -> None:
        super().__init__(width, condition_width, options)
        self.register_buffer("x", torch.zeros(0, width))

    def remember(self, x: Tensor, c: Tensor) -> None:
        """Keep up to 100,000 rows."""
        del c
        self.x = x[:_MAX_ROWS].detach().clone()

    def _rows(self, c: Tensor) -> Tensor:
        check_width(c, self.condition_width, "the condition")
        if not len(self.x):
            msg = f"this {self.architecture!r} has seen no training data"
            raise UsageError(msg)
        return self.x


class Mean(_Recall, PointModel):
    """The mean of the training set, whatever was measured."""

    architecture: ClassVar[str] = "mean"

    def remember(self, x: Tensor, c: Tensor) -> None:
        """Keep the mean."""
        super().remember(x.double().mean(dim=0, keepdim=True).to(x.dtype), c)

    def predict(self, c: Tensor) -> Tensor:
        """Return the mean for every condition, (B, D)."""
        return self._rows(c).expand(len(c), -1)


class Marginal(_Recall):
    """Random rows of the training set, whatever was measured."""

    architecture: ClassVar[str] = "marginal"

    def loss(self, x: Tensor, c: Tensor) -> Tensor:
        """Return the expected mean squared error (B,) of one random row."""
        check_width(x, self.width, "the target")
        rows = self._rows(c)
        mean, variance = rows.mean(dim=0), rows.var(dim=0, correction=0)
        return ((x - mean) ** 2 + variance).mean(dim=1)

    def sample_with_log_prob(
        self, c: Tensor, n: int, *, latent: Latent = "prior", generator: np.random.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """Draw rows with replacement, (B, n, D)."""
        self.refuse_latent(latent)
        rows = self._rows(c)
        chosen = torch.from_numpy((generator.random((len(c), n)) * len(rows)).astype("int64"))
        return rows[chosen.to(rows.device)], None


@dataclass(frozen=True)
class NearestOptions(ModelOptions):
    """Options of `nearest`.

    Attributes:
        neighbours: Rows whose mean is the answer; 1 is the look-up table.
    """

    neighbours: int = 1


class Nearest(_Recall, PointModel):
    """The training event with the most similar condition: a look-up table.

    The last column of a condition, the noise, is no momentum and is not compared.
    """

    architecture: ClassVar[str] = "nearest"
    options_type: ClassVar[type[ModelOptions]] = NearestOptions
    stored: ClassVar[tuple[str, ...]] = ("x", "c")
    c: Tensor

    def __init__(self, width: int, condition_width: int, options: NearestOptions) -> None:
        super().__init__(width, condition_width, options)
        self.neighbours = options.neighbours
        self.register_buffer("c", torch.zeros(0, condition_width))

    def remember(self, x: Tensor, c: Tensor) -> None:
        """Keep up to 100,000 rows of both."""
        super().remember(x, c)
        self.c = c[:_MAX_ROWS].detach().clone()

    def predict(self, c: Tensor) -> Tensor:
        """Return the mean of the nearest rows, (B, D)."""
        rows = self._rows(c)
        count = min(self.neighbours, len(rows))
        answers = [
            rows[torch.cdist(part[:, :-1], self.c[:, :-1]).topk(count, largest=False).indices].mean(dim=1)
            for part in c.split(_CHUNK)
        ]
        return torch.cat(answers)
