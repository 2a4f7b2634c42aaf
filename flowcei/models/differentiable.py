"""Couplings with gradients on a CPU: in the kernels of `_gradients`, gradients of weights by torch.

See docs/decisions/0033.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._utils import _unflatten_dense_tensors
from torch.autograd.function import once_differentiable

from flowcei.models._gradients import backward, forward
from flowcei.physics._lanes import PANEL
from flowcei.physics.threads import in_threads

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowcei.models.stack import Stack

_LANES = 16  # rows of a batch in single precision
_TILE = 128  # rows whose units, and gradients of them, a processor's cache holds; by any number of threads


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
        weights = [t for layer in self._layers for t in (layer.weight, layer.bias)]
        # A panel that a layer does not fill reads past its weights.
        self.flat = torch.zeros(sum(sizes) + PANEL * max(layer.in_features for layer in self._layers))
        self.parts = _unflatten_dense_tensors(self.flat[: sum(sizes)], weights)
        self.gradient = torch.zeros(sum(sizes))
        self.gradients = _unflatten_dense_tensors(self.gradient, weights)
        self._sizes = self._blocks(stack.context)
        self._sums = torch.zeros(sum(map(math.prod, self._sizes)))
        self.sums = [
            part.view(size)
            for part, size in zip(self._sums.split([*map(math.prod, self._sizes)]), self._sizes, strict=True)
        ]
        self._places = self._placed(subnets, self._sizes)
        self._idle: dict[tuple[int, int], list[_Tile]] = defaultdict(list)

    def __call__(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return z (B, D) and log|det dz/dx| (B,) of x (B, D), which gets no gradient, given h (B, C)."""
        weights = [t for layer in self._layers for t in (layer.weight, layer.bias)]
        z, log_det = _Function.apply(self, x, h, *weights)
        return z, log_det

    def _blocks(self, told: int) -> list[tuple[int, ...]]:
        """Sizes of the sums of products that the gradients of all subnets are parts of."""
        sizes: list[tuple[int, ...]] = [(self.subnets, self.hidden, self.longer)]
        sizes.append((told + 1, self.subnets * self.hidden))
        for outputs in [*[self.hidden] * (self.depth - 1), self.outputs]:
            sizes += [(self.subnets, outputs, self.hidden), (self.subnets, outputs)]
        return sizes

    def _placed(self, subnets: Sequence[Sequence[nn.Linear]], sizes: Sequence[tuple[int, ...]]) -> Tensor:
        """Where each weight's gradient is among these."""
        counts = [math.prod(size) for size in sizes]
        numbers = torch.arange(sum(counts), dtype=torch.int32).split(counts)
        by_seen, by_told, *layers = (n.view(size) for n, size in zip(numbers, sizes, strict=True))
        told, table = len(by_told) - 1, list[Tensor]()
        by_told = by_told.view(told + 1, self.subnets, self.hidden).permute(1, 2, 0)
        for s, linears in enumerate(subnets):
            seen = linears[0].in_features - told
            table += [torch.cat([by_seen[s, :, :seen], by_told[s, :, :-1]], dim=1), by_told[s, :, -1]]
            for k, linear in enumerate(linears[1:]):
                table += [of[s, : linear.out_features] for of in layers[2 * k : 2 * k + 2]]
        return torch.cat([places.reshape(-1) for places in table])

    def tiles(self, rows: int, told: int) -> list[tuple[slice, _Tile]]:
        """Parts of a batch, and memory for each, not used by one whose gradient is still to come."""
        parts = [slice(first, min(first + _TILE, rows)) for first in range(0, rows, _TILE)]
        return [(part, self._tile(part.stop - part.start, told)) for part in parts]

    def _tile(self, rows: int, told: int) -> _Tile:
        idle = self._idle[rows, told]
        return idle.pop() if idle else _Tile(self, rows, told)

    def give_back(self, tiles: Sequence[tuple[slice, _Tile]]) -> None:
        """Have memory used again."""
        for part, tile in tiles:
            self._idle[part.stop - part.start, len(tile.told) - 1].append(tile)

    def begin(self) -> None:
        """Begin the sums over the tiles of a batch."""
        self._sums.zero_()

    def gather(self) -> None:
        """Bring them into the order of weights."""
        torch.index_select(self._sums, 0, self._places, out=self.gradient)


class _Tile:
    """What is kept of some rows, and gradients (see `_gradients`): memory is asked for once."""

    def __init__(self, own: Differentiable, rows: int, told: int) -> None:
        n = -(-rows // _LANES) * _LANES + _LANES
        longer, units = (own.subnets, own.longer, n), (own.depth, own.subnets, own.hidden, n)
        outputs = own.subnets, own.outputs, n
        self.told, self.seen, before = (torch.zeros(size) for size in ((told + 1, n), longer, longer))
        self.units, self.of_units = torch.zeros(units), torch.zeros(units)
        values, self.of_outputs = torch.zeros(outputs), torch.zeros(outputs)
        self.kept = _flat([self.told, self.seen, before, self.units, values])
        self.deltas = _flat([self.of_units, self.of_outputs])

    def add_to(self, sums: Sequence[Tensor]) -> None:
        """Add to sums of products, a block of all subnets each."""
        by_seen, by_told, *layers = sums
        by_seen.baddbmm_(self.of_units[0], self.seen.transpose(1, 2))
        by_told.addmm_(self.told, self.of_units[0].flatten(0, 1).T)
        for k, by in enumerate([*self.of_units[1:], self.of_outputs]):
            layers[2 * k].baddbmm_(by, self.units[k].transpose(1, 2))
            layers[2 * k + 1].add_(by.sum(dim=2))


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
        ctx.own, ctx.tiles = own, own.tiles(len(x), h.shape[1])
        torch._foreach_copy_(own.parts, weights)
        ctx.save_for_backward(*weights)  # autograd refuses them where they are others by then
        z, log_det = torch.empty_like(x), x.new_empty(len(x))
        values, results = _arrays(x, h), _arrays(z, log_det)
        flat = own.flat.numpy()

        def work(part: tuple[slice, _Tile]) -> None:
            rows, tile = part
            given = [array[rows] for array in values]
            forward(*given, flat, *own.how, tile.kept, *(array[rows] for array in results))

        in_threads(work, ctx.tiles, torch.get_num_threads())
        return z, log_det

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_z: Tensor, of_log_det: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        own, threads, weights = ctx.own, torch.get_num_threads(), ctx.saved_tensors
        own.begin()
        of_h = of_z.new_empty(len(of_z), len(ctx.tiles[0][1].told) - 1)
        values, flat, (result,) = _arrays(of_z, of_log_det), own.flat.numpy(), _arrays(of_h)

        def work(part: tuple[slice, _Tile]) -> None:
            rows, tile = part
            given = [array[rows] for array in values]
            backward(*given, flat, *own.how, tile.kept, tile.deltas, result[rows])

        for first in range(0, len(ctx.tiles), threads):  # while what the kernel wrote is in the cache
            some = ctx.tiles[first : first + threads]
            in_threads(work, some, threads)
            for _, tile in some:
                tile.add_to(own.sums)
        own.gather()
        own.give_back(ctx.tiles)
        there = [w.grad for w in weights]
        if not all(g is not None and g._is_view() for g in there):  # noqa: SLF001 - torch has no other word
            return None, None, of_h, *(g.clone() for g in own.gradients)
        # Parts of one vector, as `training.steps` has them, grow in place: autograd takes as long for a
        # hundred sums as the kernel for 100 rows.
        torch._foreach_add_(there, own.gradients)
        return None, None, of_h, *[None] * len(there)


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


def _flat(tensors: Sequence[Tensor]) -> tuple[np.ndarray, ...]:
    return tuple(tensor.view(-1).numpy() for tensor in tensors)
