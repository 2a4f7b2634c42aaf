"""Steps of a training: gradients of the loss, averaged over ranks, their bound, and AdamW."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch.optim.adamw import adamw

from flowcei.errors import UsageError
from flowcei.models.vector import Parts
from flowcei.training.devices import Ranks

if TYPE_CHECKING:
    from torch import Tensor

    from flowcei.models.interface import InverseModel
    from flowcei.training.schedule import Schedule

_WARM_UP = 3  # steps before one is recorded, as torch asks for
_SQUARES = 0.99  # share of the mean square of a gradient that is kept from one step to the next
_EPSILON = 1e-8


class Steps:
    """Steps of one phase. All weights that move are parts of one vector, and their gradients of another.

    So the bound on the gradient, the mean over ranks and AdamW are a few calls each, not a few for each of a
    hundred tensors. The vector of gradients ends with the loss and whether a rank wants to stop.
    """

    def __init__(
        self, model: InverseModel, schedule: Schedule, device: torch.device, ranks: Ranks | None = None
    ) -> None:
        self._model, self._ranks = model, ranks or Ranks()
        self._clip, self._decay = schedule.clip, schedule.weight_decay
        self._moving = [p for p in model.parameters() if p.requires_grad]
        parts = Parts(self._moving)
        if len(types := {p.dtype for p in self._moving}) > 1:
            raise UsageError(f"weights of one precision train together; these are of {len(types)}")
        self._sums = torch.zeros(parts.total + 2, device=device, dtype=next(iter(types), None))
        self.gradient = self._sums[: parts.total]
        self.weights = torch.zeros_like(self.gradient)
        sections = parts.of(self.weights), parts.of(self.gradient)
        for p, weights, gradient in zip(self._moving, *sections, strict=True):
            weights.copy_(p.detach())
            p.data, p.grad = weights, gradient
        self._fused = device.type in {"cpu", "cuda"}
        steps = torch.zeros((), device=device if self._fused else None)
        means = {name: torch.zeros_like(self.weights) for name in ("mean", "mean_square")}
        self.moments = {"steps": steps} | means
        recorded = device.type == "cuda" and getattr(model, "recordable", False)
        self._graphs: dict[int, _Graph] | None = {} if recorded else None

    def differentiate(self, x: Tensor, c: Tensor, *, stop: bool) -> None:
        """Compute the gradient of the mean loss, over the rows of all ranks, no longer than its bound."""
        if self._graphs is None:
            self._backward(x, c)
        else:  # to launch each kernel from Python takes ten times as long
            if len(x) not in self._graphs:
                self._graphs[len(x)] = _Graph(self._backward, x, c)
            self._graphs[len(x)].replay(x, c)
        self._sums[-1] = float(stop)
        self._ranks.average(self._sums)
        self.gradient.mul_((self._clip / (self.gradient.norm() + 1e-6)).clamp_max(1.0))

    def move(self, rate: float, momentum: float) -> None:
        """Move the weights by AdamW (I. Loshchilov and F. Hutter, arXiv:1711.05101).

        rate: of learning; momentum: share of the mean gradient that is kept from one step to the next.
        """
        # By the function: the first object of the class torch.optim.AdamW in a process takes two seconds, in
        # which it imports the compiler of torch.
        steps, mean, square = self.moments.values()
        adamw(
            [self.weights],
            [self.gradient],
            [mean],
            [square],
            [],
            [steps],
            fused=self._fused,
            amsgrad=False,
            maximize=False,
            beta1=momentum,
            beta2=_SQUARES,
            lr=rate,
            weight_decay=self._decay,
            eps=_EPSILON,
        )

    @property
    def loss(self) -> Tensor:
        """Mean loss of the rows that were differentiated, which the next call overwrites."""
        return self._sums[-2]

    @property
    def stopped(self) -> bool:
        """Whether any rank wanted to stop."""
        return self._ranks.count > 1 and float(self._sums[-1]) > 0.0

    def part(self) -> None:
        """Give every weight memory of its own again; gradients stay."""
        for p in self._moving:
            p.data = p.data.clone()

    def _backward(self, x: Tensor, c: Tensor) -> None:
        self._sums.zero_()
        loss = self._model.loss(x, c).mean()
        loss.backward()
        self._sums[-2] = loss.detach()


class _Graph:
    """What CUDA does in a call of `work`, recorded once and replayed on other rows, as many."""

    def __init__(self, work: Callable[[Tensor, Tensor], None], x: Tensor, c: Tensor) -> None:
        self._x, self._c = x.clone(), c.clone()
        state = torch.cuda.get_rng_state(x.device)
        side, own = torch.cuda.Stream(x.device), torch.cuda.current_stream(x.device)
        side.wait_stream(own)
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                work(self._x, self._c)
        own.wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            work(self._x, self._c)
        torch.cuda.set_rng_state(state, x.device)

    def replay(self, x: Tensor, c: Tensor) -> None:
        """Do it with x and c."""
        self._x.copy_(x)
        self._c.copy_(c)
        self._graph.replay()
