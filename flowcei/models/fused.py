"""Couplings without gradients on a CPU: weights packed for the kernel of `_couplings`, and its calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from flowcei.models._couplings import transport
from flowcei.physics._lanes import PANEL
from flowcei.physics.threads import in_threads, shares

if TYPE_CHECKING:
    from flowcei.models.freia import Stack

_SHARE = 512  # rows of a thread, at the least


class Packed:
    """Weights in the order in which `_couplings.transport` reads them.

    Of each subnet what its first layer makes of the context, with the biases, and of the coordinates, and the
    other layers, each biases before weights. Outputs go panel by panel, in each input by input.
    """

    def __init__(self, stack: Stack) -> None:
        flat: list[Tensor] = []
        starts, width = [], len(stack.permutations[0])
        for k, (first, *others) in enumerate(stack.subnets):
            given = stack.cut if k % 2 else width - stack.cut
            starts.append(sum(map(len, flat)))
            seen, context = first.weight.split([given, first.in_features - given], dim=1)
            flat += [_filled(first.bias), _panels(context), _panels(seen)]
            for layer in others:
                flat += [_filled(layer.bias), _panels(layer.weight)]
        weights = torch.cat(flat).numpy()
        self._arguments = weights, np.array(starts), stack.orders, stack.shape, stack.splines

    def run(self, v: Tensor, h: Tensor, event: Tensor, *, reverse: bool) -> tuple[Tensor, Tensor]:
        """Return what becomes of v (B, D), and log|det| (B,); `event` (B,), rising, are rows of h (E, H)."""
        out, log_det = v.new_empty(v.shape), v.new_empty(len(v))
        context, *arrays = (t.detach().contiguous().numpy() for t in (h, v, event, out, log_det))

        def work(rows: slice) -> None:
            x, own, y, total = (array[rows] for array in arrays)
            transport(x, own, context, *self._arguments, reverse, y, total)

        threads = torch.get_num_threads()
        in_threads(work, shares(len(v), _SHARE, threads), threads)
        return out, log_det


def _filled(rows: Tensor) -> Tensor:
    """Rows with zeros after them, so that they fill panels."""
    missing = -len(rows) % PANEL
    return pad(rows, (0, 0, 0, missing) if rows.ndim == 2 else (0, missing))


def _panels(weight: Tensor) -> Tensor:
    """Weights (outputs, inputs), flat."""
    return _filled(weight).reshape(-1, PANEL, weight.shape[1]).transpose(1, 2).reshape(-1)
