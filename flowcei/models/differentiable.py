"""Couplings with gradients on a CPU: in the kernels of `_gradients`, gradients of weights by torch.

See docs/decisions/0033.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from flowcei.models._gradients import backward, forward
from flowcei.models.vector import Parts
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
        self.longer = max(stack.cut, stack.width - stack.cut)
        self.outputs = self.longer * stack.per
        own = {id(p) for layers in subnets for layer in layers for p in layer.parameters()}
        self.weights = [p for p in couplings.parameters() if id(p) in own]  # the others are permutations
        self.parts = Parts(self.weights)
        starts = {id(p): start for p, start in zip(self.weights, self.parts.starts, strict=True)}
        matrices = [[starts[id(layer.weight)] for layer in layers] for layers in subnets]
        biases = [[starts[id(layer.bias)] for layer in layers] for layers in subnets]
        self.how = np.array([matrices, biases]), orders, stack.shape, stack.splines
        # A panel that a layer does not fill reads past its weights.
        longest = self.parts.total + PANEL * max(stack.hidden, self.outputs, stack.width + stack.context)
        self.flat, self.turned = torch.zeros(longest), torch.zeros(longest)
        self._turned = torch.arange(self.parts.total)
        for part in self.parts.of(self._turned):
            part.copy_(part.clone().t().reshape(part.shape))
        self.gradient = torch.zeros(self.parts.total)
        self.gradients = self.parts.of(self.gradient)
        self._sizes = self._blocks(stack.context)
        self._place_sums(subnets)
        self._idle: dict[tuple[int, int], list[_Tile]] = defaultdict(list)

    def _place_sums(self, subnets: Any) -> None:  # noqa: ANN401 (lists of layers)
        """Make room for sums of gradients, and find which of them each weight's is."""
        counts = [*map(math.prod, self._sizes)]
        self._sums = torch.zeros(sum(counts) + 1)  # the last is for what lies between weights
        split = self._sums[:-1].split(counts)
        self.sums = [part.view(size) for part, size in zip(split, self._sizes, strict=True)]
        self._places = torch.full((self.parts.total,), sum(counts))
        places = {id(p): part for p, part in zip(self.weights, self.parts.of(self._places), strict=True)}
        for layers, pairs in zip(subnets, self._placed(subnets), strict=True):
            for layer, (of_weight, of_bias) in zip(layers, pairs, strict=True):
                places[id(layer.weight)].copy_(of_weight)
                places[id(layer.bias)].copy_(of_bias)

    def __call__(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return z (B, D) and log|det dz/dx| (B,) of x (B, D), which gets no gradient, given h (B, C)."""
        vectors = self.parts.vector_of(self.weights), self.parts.vector_of([w.grad for w in self.weights])
        if any(vector is None for vector in vectors):
            z, log_det = _Function.apply(self, x, h, None, *self.weights)
        else:  # one weight stands for all: autograd takes as long for a hundred as the kernel for 30 rows
            z, log_det = _Function.apply(self, x, h, vectors, self.weights[0])
        return z, log_det

    def _blocks(self, told: int) -> list[tuple[int, ...]]:
        """Sizes of the sums of products that the gradients of all subnets are parts of."""
        sizes: list[tuple[int, ...]] = [(self.subnets, seen, self.hidden) for seen in (self.longer, told + 1)]
        for outputs in [*[self.hidden] * (self.depth - 1), self.outputs]:
            sizes += [(self.subnets, self.hidden, outputs), (self.subnets, outputs)]
        return sizes

    def _placed(self, subnets: Sequence[Sequence[nn.Linear]]) -> Iterator[list[tuple[Tensor, Tensor]]]:
        """Where the gradients of a subnet's weights and biases, layer by layer, are among these."""
        numbers = torch.arange(len(self._sums) - 1).split([*map(math.prod, self._sizes)])
        by_seen, by_told, *layers = (n.view(size) for n, size in zip(numbers, self._sizes, strict=True))
        for s, linears in enumerate(subnets):
            seen = linears[0].in_features - by_told.shape[1] + 1
            places = [(torch.cat([by_seen[s, :seen], by_told[s, :-1]]).T, by_told[s, -1])]
            for k, linear in enumerate(linears[1:]):
                matrix, bias = (of[s, ..., : linear.out_features] for of in layers[2 * k : 2 * k + 2])
                places.append((matrix.T, bias))
            yield places

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

    def read(self, vector: Tensor | None, weights: tuple[Tensor, ...]) -> None:
        """Copy the weights, of all in one vector or each by itself, as the kernels have them."""
        if vector is None:
            torch._foreach_copy_(self.parts.of(self.flat), weights)
        else:
            self.flat[: self.parts.total].copy_(vector)
        _take(self.flat, self._turned, self.turned[: self.parts.total])

    def begin(self) -> None:
        """Begin the sums over the tiles of a batch."""
        self._sums.zero_()

    def gather(self) -> None:
        """Bring them to where the weights are."""
        _take(self._sums, self._places, self.gradient)


class _Tile:
    """What is kept of some rows, and gradients (see `_gradients`): memory is asked for once."""

    def __init__(self, own: Differentiable, rows: int, told: int) -> None:
        filled = _up(rows)
        n = filled + _LANES
        longer, units = (own.subnets, own.longer, n), (own.depth, own.subnets, own.hidden, n)
        outputs = own.subnets, own.outputs, n
        kept = [torch.zeros(size) for size in ((told + 1, n), longer, longer, units, outputs)]
        deltas = [torch.zeros(own.depth, own.subnets, n, _up(own.hidden))]
        deltas.append(torch.zeros(own.subnets, n, _up(own.outputs)))
        self.kept, self.deltas = _flat(kept), _flat(deltas)
        self.told, self.seen, self.units = (kept[k][..., :filled] for k in (0, 1, 3))
        self.of_layers = [*deltas[0][..., :filled, : own.hidden], deltas[1][:, :filled, : own.outputs]]

    def add_to(self, sums: Sequence[Tensor]) -> None:
        """Add to sums of products, a block of all subnets each."""
        by_seen, by_told, *layers = sums
        by_seen.baddbmm_(self.seen, self.of_layers[0])
        by_told.baddbmm_(self.told.expand(len(by_told), -1, -1), self.of_layers[0])
        for k, by in enumerate(self.of_layers[1:]):
            layers[2 * k].baddbmm_(self.units[k], by)
            layers[2 * k + 1].add_(by.sum(dim=1))


class _Function(torch.autograd.Function):
    """z and log|det| of x, given h and weights.

    vectors: of which all weights, and all their gradients, are parts; these grow in place. None where they
    are tensors of their own.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        own: Differentiable,
        x: Tensor,
        h: Tensor,
        vectors: tuple[Tensor, Tensor] | None,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor]:
        ctx.own, ctx.vectors, ctx.tiles = own, vectors, own.tiles(len(x), h.shape[1])
        own.read(None if vectors is None else vectors[0], weights)
        ctx.save_for_backward(*weights)  # autograd refuses them where they are others by then
        z, log_det = torch.empty_like(x), x.new_empty(len(x))
        values, results = _arrays(x, h), _arrays(z, log_det)
        flat = own.turned.numpy()

        def work(part: tuple[slice, _Tile]) -> None:
            rows, tile = part
            given = [array[rows] for array in values]
            forward(*given, flat, *own.how, tile.kept, *(array[rows] for array in results))

        in_threads(work, ctx.tiles, torch.get_num_threads())
        return z, log_det

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_z: Tensor, of_log_det: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        own, threads, _ = ctx.own, torch.get_num_threads(), ctx.saved_tensors
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
        if ctx.vectors is None:
            return None, None, of_h, None, *(g.clone() for g in own.gradients)
        ctx.vectors[1].add_(own.gradient)
        return None, None, of_h, None, None


def _take(values: Tensor, places: Tensor, out: Tensor) -> None:
    """Write `values[places]`, in NumPy, which takes half as long as torch."""
    # No place is outside. Not mode="raise", which writes to memory of its own first.
    np.take(values.numpy(), places.numpy(), out=out.numpy(), mode="clip")


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


def _up(count: int) -> int:
    """To a multiple of the lanes."""
    return -(-count // _LANES) * _LANES


def _flat(tensors: Sequence[Tensor]) -> tuple[np.ndarray, ...]:
    return tuple(tensor.view(-1).numpy() for tensor in tensors)
