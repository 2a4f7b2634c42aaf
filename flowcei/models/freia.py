"""The only file that touches FrEIA: a stack of conditional couplings, GLOW or spline.

What bites in FrEIA 0.2 is handled here: a block appended without `cond` and `cond_shape` silently ignores the
condition, the condition is a list, and widths are not checked when a permutation comes first.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from flowcei.models.interface import check_width
from flowcei.models.networks import mlp, rows_of_a_pass
from flowcei.models.splines import parameter_count, spline
from flowcei.models.stack import BOUND, CLAMP, Stack

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowcei.models.differentiable import Differentiable
    from flowcei.models.fused import Packed

_CHUNK = 4096  # rows a pass: larger ones leave the cache and run three times slower
MANY = 1_000
"""Rows from which the kernel of `fused` is worth loading, and compiling once."""


def _import_freia() -> tuple[Any, Any]:
    """Import FrEIA's framework and modules without scipy.stats, which takes a second of CPU.

    A block that is not used here draws its permutation by `special_ortho_group`: imported when it is called.
    """

    def rvs(*args: object, **kws: object) -> np.ndarray:
        return import_module("scipy.stats").special_ortho_group.rvs(*args, **kws)

    later = ModuleType("scipy.stats")
    later.special_ortho_group = SimpleNamespace(rvs=rvs)  # type: ignore[attr-defined]
    absent = sys.modules.setdefault(later.__name__, later) is later
    try:
        return import_module("FrEIA.framework"), import_module("FrEIA.modules")
    finally:
        if absent:
            del sys.modules[later.__name__]


_framework, _modules = _import_freia()
_Invertible: Any = _modules.InvertibleModule


class SplineCouplingBlock(_Invertible):  # type: ignore[misc]  # FrEIA has no types
    """A FrEIA block like `GLOWCouplingBlock` with monotone rational-quadratic splines after each affine map.

    A subnet computes all parameters of one half from the other half and the condition. Splines alone keep
    [-5, 5] where it is and cannot move or shrink a posterior as a whole.
    """

    def __init__(
        self,
        dims_in: Sequence[tuple[int]],
        dims_c: Sequence[tuple[int]] = (),
        *,
        subnet_constructor: Callable[[int, int], nn.Module],
        bins: int,
    ) -> None:
        super().__init__(dims_in, dims_c)
        width, extra = dims_in[0][0], sum(shape[0] for shape in dims_c)
        first, second = self.halves = [width // 2, width - width // 2]
        count = 2 + parameter_count(bins)
        self.subnet1 = subnet_constructor(second + extra, first * count)
        self.subnet2 = subnet_constructor(first + extra, second * count)

    def forward(
        self,
        x_or_z: Sequence[Tensor],
        c: Sequence[Tensor] = (),
        rev: bool = False,  # noqa: FBT001, FBT002 (FrEIA's signature)
        jac: bool = True,  # noqa: FBT001, FBT002
    ) -> tuple[tuple[Tensor], Tensor]:
        """Return the transformed (B, D) and log|det| (B,) of the direction that is run."""
        halves = list(x_or_z[0].split(self.halves, dim=1))
        total = x_or_z[0].new_zeros(len(x_or_z[0]))
        steps = [(0, self.subnet1), (1, self.subnet2)]
        for k, subnet in reversed(steps) if rev else steps:
            raw = subnet(torch.cat([halves[1 - k], *c], dim=1)).unflatten(1, (self.halves[k], -1))
            halves[k], slope = self._bend(halves[k], raw, inverse=rev)
            total = total + slope.sum(dim=1)
        return (torch.cat(halves, dim=1),), total

    def _bend(self, v: Tensor, raw: Tensor, *, inverse: bool) -> tuple[Tensor, Tensor]:
        log_scale, shift = CLAMP * torch.tanh(raw[..., 0] / CLAMP), raw[..., 1]
        if inverse:
            bent, slope = spline(v, raw[..., 2:], bound=BOUND, inverse=True)
            return (bent - shift) * torch.exp(-log_scale), slope - log_scale
        bent, slope = spline(v * torch.exp(log_scale) + shift, raw[..., 2:], bound=BOUND)
        return bent, slope + log_scale

    def output_dims(self, input_dims: list[tuple[int]]) -> list[tuple[int]]:
        """Return the shapes that come out: those that went in."""
        return input_dims


class Couplings(nn.Module):
    """An invertible map between x and z (B, D), given a context h (B, H): blocks after fixed permutations."""

    def __init__(self, stack: Stack) -> None:
        super().__init__()
        self.stack = stack
        block: dict[str, Any] = {"module_class": _modules.GLOWCouplingBlock, "clamp": CLAMP}
        if stack.bins is not None:
            block = {"module_class": SplineCouplingBlock, "bins": stack.bins}
        block["subnet_constructor"] = partial(mlp, hidden=stack.hidden, depth=stack.depth, zero=True)
        self.blocks = _framework.SequenceINN(stack.width)
        # PermuteRandom seeds NumPy's global generator, which belongs to the caller.
        state = np.random.get_state()
        for k in range(stack.count):
            self.blocks.append(_modules.PermuteRandom, seed=k)
            self.blocks.append(cond=0, cond_shape=(stack.context,), **block)
        np.random.set_state(state)
        self._last: tuple[list[Tensor], Packed] | None = None  # copies of parameters, packed
        self._trained: Differentiable | None = None

    def train(self, mode: bool = True) -> Couplings:  # noqa: FBT001, FBT002 (torch's signature)
        """Begin or end training, with the memory of its steps."""
        self._trained = self._trained if mode else None
        return super().train(mode)

    def forward(self, x: Tensor, h: Tensor, event: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return z (B, D) and log|det dz/dx| (B,); `event` (B,) are rows of h, each its own without."""
        return self._run(x, h, event, reverse=False)

    def inverse(self, z: Tensor, h: Tensor, event: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return x (B, D) and log|det dx/dz| (B,)."""
        return self._run(z, h, event, reverse=True)

    def _run(self, v: Tensor, h: Tensor, event: Tensor | None, *, reverse: bool) -> tuple[Tensor, Tensor]:
        check_width(v, self.stack.width, "the input of the couplings")
        check_width(h, self.stack.context, "the context of the couplings")
        single = v.device.type == "cpu" and v.dtype == h.dtype == torch.float32
        if torch.is_grad_enabled():
            if single and self.training and event is None and not (reverse or v.requires_grad):
                return self._differentiable()(v, h)
            return self.blocks(v, c=[h if event is None else h[event]], rev=reverse)
        event = torch.arange(len(v), device=v.device) if event is None else event
        if single and len(v) >= MANY and (packed := self.packed()):
            moved, volume = packed.run(*(t.numpy(force=True) for t in (v, h, event)), reverse=reverse)
            return torch.from_numpy(moved), torch.from_numpy(volume)
        out, log_det = torch.empty_like(v), v.new_empty(len(v))
        size = rows_of_a_pass(_CHUNK, v.device)
        for first in range(0, len(v), size):
            rows = slice(first, first + size)
            out[rows], log_det[rows] = self.blocks(v[rows], c=[h[event[rows]]], rev=reverse)
        return out, log_det

    def _differentiable(self) -> Differentiable:
        from flowcei.models.differentiable import Differentiable  # which brings numba

        if self._trained is None:
            self._trained = Differentiable(self.stack, self, self.stack.orders(self._arrays()))
        return self._trained

    def packed(self) -> Packed | None:
        """The weights that there are now, for the kernel; None on another device, or in double precision."""
        from flowcei.models.fused import Packed  # which brings numba

        weights = list(self.parameters())
        if any(p.device.type != "cpu" or p.dtype == torch.float64 for p in weights):
            return None
        # By their values: torch's count of versions misses what is written through `data`, or by NumPy.
        if self._last and all(map(torch.equal, self._last[0], weights)):
            return self._last[1]
        packed = Packed(self.stack, self._arrays())
        self._last = [p.detach().clone() for p in weights], packed
        return packed

    def _arrays(self) -> dict[str, NDArray[Any]]:
        return {name: tensor.numpy() for name, tensor in self.state_dict().items()}
