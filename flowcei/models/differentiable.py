"""Couplings with gradients on a CPU: in the kernels of `_gradients`, gradients of weights by torch.

See docs/decisions/0033.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors
from torch.autograd.function import once_differentiable

from flowcei.models._gradients import backward, forward
from flowcei.physics._lanes import PANEL
from flowcei.physics.threads import in_threads, shares

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowcei.models.stack import Stack

_ROWS = 16  # of lanes in single precision
_SHARE = 8  # blocks of a thread, at the least


class Differentiable:
    """A stack of couplings, for gradients with respect to their weights and their context."""

    def __init__(self, stack: Stack, couplings: nn.Module, orders: NDArray[np.intp]) -> None:
        names = [stack.layers(subnet) for subnet, _ in stack.subnets()]
        subnets: Any = [[couplings.get_submodule(name) for name in layers] for layers in names]
        self.hidden, self.depth, self.subnets = stack.hidden, stack.depth, len(subnets)
        self._layers = [layer for layers in subnets for layer in layers]
        self.longer = max(stack.cut, stack.width - stack.cut)
        self.outputs = self.longer * stack.per
        sizes = [layer.weight.numel() + layer.bias.numel() for layer in self._layers]
        starts = np.cumsum([0, *sizes[:-1]]).reshape(self.subnets, -1)
        self.how = starts, orders, stack.shape, stack.splines
        self.margin = torch.zeros(PANEL * max(layer.in_features for layer in self._layers))
        self.places = self._places(subnets, stack.width - stack.cut)
        self._idle: list[_Memory] = []

    def __call__(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return z (B, D) and log|det dz/dx| (B,) of x (B, D), which gets no gradient, given h (B, C)."""
        weights = [t for layer in self._layers for t in (layer.weight, layer.bias)]
        z, log_det = _Function.apply(self, x, h, *weights)
        return z, log_det

    def _places(self, subnets: Sequence[Sequence[nn.Linear]], seen_first: int) -> Tensor:
        """Where each weight's gradient is among the blocks that `_Function.backward` computes."""
        told, count = subnets[0][0].in_features - seen_first, 0

        def block(*sizes: int) -> Tensor:
            nonlocal count
            count += math.prod(sizes)
            return torch.arange(count - math.prod(sizes), count).view(sizes)

        by_seen = block(self.subnets, self.hidden, self.longer)
        by_told = block(told + 1, self.subnets, self.hidden).permute(1, 2, 0)
        layers = [
            [block(self.subnets, self.hidden, self.hidden), block(self.subnets, self.hidden)]
            for _ in range(self.depth - 1)
        ]
        layers.append([block(self.subnets, self.outputs, self.hidden), block(self.subnets, self.outputs)])
        table: list[Tensor] = []
        for s, linears in enumerate(subnets):
            seen = linears[0].in_features - told
            table += [torch.cat([by_seen[s, :, :seen], by_told[s, :, :-1]], dim=1), by_told[s, :, -1]]
            for linear, pair in zip(linears[1:], layers, strict=True):
                table += [of[s, : linear.out_features] for of in pair]
        return torch.cat([places.reshape(-1) for places in table])

    def memory(self, rows: int, told: int) -> _Memory:
        """Memory for a batch, not used by another one whose gradient is still to come."""
        fits = [k for k, memory in enumerate(self._idle) if memory.rows == rows]
        return self._idle.pop(fits[0]) if fits else _Memory(self, rows, told)

    def give_back(self, memory: _Memory) -> None:
        """Have it used again; batches of an epoch have two lengths."""
        self._idle = [*self._idle[-1:], memory]


class _Memory:
    """What is kept of a batch, and its gradients (see `_gradients`): memory is asked for once."""

    def __init__(self, own: Differentiable, rows: int, told: int) -> None:
        self.rows, n = rows, -(-rows // _ROWS) * _ROWS + _ROWS
        units = own.depth, own.subnets, own.hidden, n
        longer, outputs = (own.subnets, own.longer, n), (own.subnets, own.outputs, n)
        self.kept = [torch.zeros(size) for size in ((told + 1, n), longer, longer, units, outputs)]
        self.deltas = [torch.zeros(size) for size in (units, outputs)]


class _Function(torch.autograd.Function):
    """z and log|det| of x, given h and the weights and biases of all layers of all subnets."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        own: Differentiable,
        x: Tensor,
        h: Tensor,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor]:
        ctx.own, ctx.memory = own, own.memory(len(x), h.shape[1])
        ctx.weights = torch.cat([_flatten_dense_tensors(weights), own.margin])
        ctx.save_for_backward(*weights)
        z, log_det = torch.empty_like(x), x.new_empty(len(x))
        kept, results = _flat(ctx.memory.kept), _arrays(z, log_det)
        _shared(forward, len(x), (*_arrays(x, h, ctx.weights), *own.how, kept, *results))
        return z, log_det

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_z: Tensor, of_log_det: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        own, memory = ctx.own, ctx.memory
        told, seen, _, units, _ = memory.kept
        of_units, of_outputs = memory.deltas
        of_h = of_z.new_empty(len(of_z), len(told) - 1)
        kept, deltas = _flat(memory.kept), _flat(memory.deltas)
        given = _arrays(of_z, of_log_det, ctx.weights)
        _shared(backward, len(of_z), (*given, *own.how, kept, deltas, *_arrays(of_h)))
        # Blocks of all subnets, as `Differentiable._places` lays them out; each weight takes its own.
        blocks = [torch.bmm(of_units[0], seen.transpose(1, 2)), torch.mm(told, of_units[0].flatten(0, 1).T)]
        for by, inputs in [*zip(of_units[1:], units[:-1], strict=True), (of_outputs, units[-1])]:
            blocks += [torch.bmm(by, inputs.transpose(1, 2)), by.sum(dim=2)]
        gradient = torch.cat([block.view(-1) for block in blocks])[own.places]
        own.give_back(memory)
        return None, None, of_h, *_unflatten_dense_tensors(gradient, ctx.saved_tensors)


def _shared(kernel: Callable[..., None], rows: int, arguments: tuple[Any, ...]) -> None:
    """Run a kernel on all blocks of rows, in torch's number of threads."""
    threads = torch.get_num_threads()
    blocks = shares(-(-rows // _ROWS), _SHARE, threads)
    in_threads(lambda own: kernel(own.start, own.stop, *arguments), blocks, threads)


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


def _flat(tensors: Sequence[Tensor]) -> tuple[np.ndarray, ...]:
    return tuple(tensor.view(-1).numpy() for tensor in tensors)
