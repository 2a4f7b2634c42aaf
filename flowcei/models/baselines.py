"""What a flow is compared with: a perceptron, a look-up table, and null models that do not see the momenta.

What a trained model gains over `mean` and `marginal` is what the momenta told it.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from flowcei.errors import UsageError
from flowcei.models.interface import InverseModel, check_width
from flowcei.models.networks import mlp
from flowcei.models.options import Latent, MLPOptions, ModelOptions, NearestOptions

if TYPE_CHECKING:
    import numpy as np

_CHUNK = 256  # conditions compared with all rows at a time


class PointModel(InverseModel):
    """A model whose answer is one x: subclasses say which with `predict`."""

    is_point: ClassVar[bool] = True

    @abstractmethod
    def predict(self, c: Tensor) -> Tensor:
        """Return the answer (B, D) to c (B, C)."""

    def loss(self, x: Tensor, c: Tensor) -> Tensor:
        """Return the mean squared error (B,)."""
        check_width(x, self.width, "the target")
        return ((self.predict(c) - x) ** 2).mean(dim=1)

    def sample_with_log_prob(
        self, c: Tensor, n: int, *, latent: Latent = "prior", generator: np.random.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """Return the one answer `n` times, (B, n, D)."""
        self.check_latent(latent)
        return self.predict(c)[:, None].repeat(1, n, 1), None


class MLP(PointModel):
    """`mlp`: regression on the squared error, as published networks do it (arXiv:2602.14205).

    Where several geometries have the same momenta its answer is their average, which may be none of them.
    """

    architecture: ClassVar[str] = "mlp"
    options_type = MLPOptions

    def __init__(self, width: int, condition_width: int, options: MLPOptions) -> None:
        super().__init__(width, condition_width, options)
        self.net = mlp(condition_width, width, options.hidden, options.depth)

    def predict(self, c: Tensor) -> Tensor:
        """Return the answer (B, D) to c (B, C)."""
        self.check_condition(c)
        return self.net(c)


class Recall(InverseModel):
    """Answers with rows of the training set, `max_rows` at the most; nothing has a gradient."""

    stored: ClassVar[tuple[str, ...]] = ("x",)
    max_rows: ClassVar[int] = 100_000
    x: Tensor

    def __init__(self, width: int, condition_width: int, options: ModelOptions) -> None:
        super().__init__(width, condition_width, options)
        self.register_buffer("x", torch.zeros(0, width))

    def remember(self, x: Tensor, c: Tensor) -> None:
        """Keep up to `max_rows` rows."""
        self.x = x[: self.max_rows].detach().clone()

    def rows(self, c: Tensor) -> Tensor:
        """Stored rows (R, D), for conditions (B, C) that fit; UsageError where there are none."""
        self.check_condition(c)
        if not len(self.x):
            raise UsageError(f"this {self.architecture!r} has seen no training data")
        return self.x


class Mean(Recall, PointModel):
    """`mean`: that of the training set, whatever was measured."""

    architecture: ClassVar[str] = "mean"

    def remember(self, x: Tensor, c: Tensor) -> None:
        """Keep the mean."""
        super().remember(x.double().mean(dim=0, keepdim=True).to(x.dtype), c)

    def predict(self, c: Tensor) -> Tensor:
        """Return the mean for every condition, (B, D)."""
        return self.rows(c).expand(len(c), -1)


class Marginal(Recall):
    """`marginal`: random rows of the training set, whatever was measured."""

    architecture: ClassVar[str] = "marginal"

    def loss(self, x: Tensor, c: Tensor) -> Tensor:
        """Return the expected mean squared error (B,) of one random row."""
        check_width(x, self.width, "the target")
        rows = self.rows(c)
        return ((x - rows.mean(dim=0)) ** 2 + rows.var(dim=0, correction=0)).mean(dim=1)

    def sample_with_log_prob(
        self, c: Tensor, n: int, *, latent: Latent = "prior", generator: np.random.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """Draw rows with replacement, (B, n, D)."""
        self.check_latent(latent)
        rows = self.rows(c)
        chosen = torch.from_numpy((generator.random((len(c), n)) * len(rows)).astype("int64"))
        return rows[chosen.to(rows.device)], None


class Nearest(Recall, PointModel):
    """`nearest`: the training event with the most similar condition, as in studies of triatomic molecules.

    The last column of a condition, the noise, is no momentum and is not compared.
    """

    architecture: ClassVar[str] = "nearest"
    options_type = NearestOptions
    stored: ClassVar[tuple[str, ...]] = ("x", "c")
    c: Tensor

    def __init__(self, width: int, condition_width: int, options: NearestOptions) -> None:
        super().__init__(width, condition_width, options)
        self.neighbours = options.neighbours
        self.register_buffer("c", torch.zeros(0, condition_width))

    def remember(self, x: Tensor, c: Tensor) -> None:
        """Keep up to `max_rows` rows of both."""
        super().remember(x, c)
        self.c = c[: self.max_rows].detach().clone()

    def predict(self, c: Tensor) -> Tensor:
        """Return the mean of the nearest rows, (B, D)."""
        rows = self.rows(c)
        count = min(self.neighbours, len(rows))
        distances = (torch.cdist(part[:, :-1], self.c[:, :-1]) for part in c.split(_CHUNK))
        return torch.cat([rows[d.topk(count, largest=False).indices].mean(dim=1) for d in distances])
