"""Couplings without gradients on a CPU: weights packed for the kernel of `_couplings`, and a flow by it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from flowcei.errors import UsageError
from flowcei.models._couplings import transport
from flowcei.models.stack import CONDITION_DEPTH, Stack
from flowcei.physics._lanes import PANEL
from flowcei.physics.threads import in_threads, shares

if TYPE_CHECKING:
    from flowcei.models.interface import InverseModel, Simulates
    from flowcei.models.options import CINNOptions, Latent

    Single = NDArray[np.float32]

_SHARE = 512  # rows of a thread, at the least


class Packed:
    """Weights in the order in which `_couplings.transport` reads them.

    Of each subnet what its first layer makes of the context, with the biases, and of the coordinates, and the
    other layers, each biases before weights. Outputs go panel by panel, in each input by input.
    """

    def __init__(self, stack: Stack, arrays: Mapping[str, NDArray[Any]]) -> None:
        flat: list[Single] = []
        starts = []
        for name, moved in stack.subnets():
            starts.append(sum(map(len, flat)))
            (weight, bias), *others = (
                [arrays[f"{layer}.{of}"] for of in ("weight", "bias")] for layer in stack.layers(name)
            )
            seen, context = np.split(weight, [stack.width - moved], axis=1)
            flat += [_filled(bias), _panels(context), _panels(seen)]
            for weight, bias in others:
                flat += [_filled(bias), _panels(weight)]
        tables = np.concatenate(flat), np.array(starts), stack.orders(arrays)
        self._arguments = *tables, stack.shape, stack.splines

    def run(self, v: Single, h: Single, event: NDArray[np.intp], *, reverse: bool) -> tuple[Single, Single]:
        """Return what becomes of v (B, D), and log|det| (B,); `event` (B,), rising, are rows of h (E, H)."""
        out, log_det = np.empty(v.shape, np.float32), np.empty(len(v), np.float32)
        context, *arrays = (np.ascontiguousarray(table) for table in (h, v, event, out, log_det))

        def work(rows: slice) -> None:
            x, own, y, total = (array[rows] for array in arrays)
            transport(x, own, context, *self._arguments, reverse, y, total)

        in_threads(work, shares(len(v), _SHARE, None), None)
        return out, log_det


@dataclass(eq=False)
class CompiledFlow:
    """A `cinn` of a file, in the kernel of `_couplings`: a `Sampler` without torch."""

    architecture: ClassVar[str] = "cinn"
    has_density: ClassVar[bool] = True
    has_latent: ClassVar[bool] = True
    is_point: ClassVar[bool] = False
    cost: ClassVar[int] = 1
    device: ClassVar[str] = "cpu"

    width: int
    condition_width: int
    options: CINNOptions
    tensors: dict[str, NDArray[Any]]
    in_torch: Callable[[], InverseModel]  # the same model in torch
    packed: Packed | None = None  # its couplings, where somebody has them

    @cached_property
    def _packed(self) -> Packed:
        couplings = {name.removeprefix("couplings."): tensor for name, tensor in self.tensors.items()}
        return self.packed or Packed(Stack.of(self.width, self.condition_width, self.options), couplings)

    def _context(self, c: Single) -> Single:
        """Conditions (B, C) and what their subnet makes of them."""
        told = c
        for k in range(CONDITION_DEPTH + 1):
            weight, bias = (self.tensors[f"condition_net.{2 * k}.{of}"] for of in ("weight", "bias"))
            told = (told if k == 0 else np.maximum(told, 0.0)) @ weight.T + bias
        return np.concatenate([c, told], axis=1)

    @np.errstate(all="ignore")  # of absurd events, which are flagged
    def draw(
        self, c: Single, n: int, *, latent: Latent, generator: np.random.Generator
    ) -> tuple[Single, Single]:
        """Samples (B, n, D) for conditions (B, C), and their log density (B, n): as `CINN`."""
        learned = latent == "training"
        z = generator.standard_normal((len(c) * n, self.width + learned), dtype=np.float32)
        z = self._learned(z) if learned else z
        event = np.repeat(np.arange(len(c)), n)
        x, log_det = self._packed.run(z, self._context(c), event, reverse=True)
        return x.reshape(len(c), n, -1), (_log_normal(z) - log_det).reshape(len(c), n)

    @np.errstate(all="ignore")
    def density(self, x: Single, c: Single, *, draws: int = 0, seed: int = 0) -> Single:
        """Log density (B,) of x (B, D) given c (B, C)."""
        new = np.ones(len(c), dtype=bool)
        new[1:] = (c[1:] != c[:-1]).any(axis=1)
        z, log_det = self._packed.run(x, self._context(c[new]), np.cumsum(new) - 1, reverse=False)
        return _log_normal(z) + log_det

    def _learned(self, noise: Single) -> Single:
        """Latents (B, D) of training events, chosen by the last of standard normal numbers (B, D + 1)."""
        from scipy.special import ndtr

        mean, deviation = (self.tensors[f"latents.{name}"] for name in ("mean", "deviation"))
        if not len(mean):
            raise UsageError("this model has no latent samples of training events; use latent 'prior'")
        rows = np.minimum((ndtr(noise[:, -1]) * len(mean)).astype(np.intp), len(mean) - 1)
        return mean[rows] + deviation[rows] * noise[:, :-1]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Parameters and buffers by name."""
        return self.tensors

    def attach(self, simulator: Simulates) -> None:
        """A flow does without the simulator."""


def _log_normal(z: Single) -> Single:
    """Log density (B,) of z (B, D) under a standard normal."""
    return -0.5 * np.einsum("kd,kd->k", z, z) - np.float32(0.5 * z.shape[1] * math.log(2.0 * math.pi))


def _filled(rows: Single) -> Single:
    """Rows with zeros after them, so that they fill panels."""
    return np.pad(rows, [(0, -len(rows) % PANEL), *[(0, 0)] * (rows.ndim - 1)])


def _panels(weight: Single) -> Single:
    """Weights (outputs, inputs), flat."""
    return np.swapaxes(_filled(weight).reshape(-1, PANEL, weight.shape[1]), 1, 2).ravel()
