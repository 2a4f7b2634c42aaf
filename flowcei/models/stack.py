"""How the couplings of a flow are laid out, and what `cinn` calls its tensors; without torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowcei.models.options import CINNOptions

Claim: TypeAlias = tuple[str, tuple[tuple[int, ...], str]]  # name of a tensor, its shape and type

LEAST_BIN = 1e-3  # of the whole width of a spline: keeps slopes and their inverses in range
LEAST_SLOPE = 1e-3
UNIT = math.log(math.expm1(1.0 - LEAST_SLOPE))  # what softplus turns into a slope of 1
BOUND = 5.0  # standard deviations within which a spline bends
CLAMP = 2.0  # bound on the log scale of an affine map
CONDITION_DEPTH = 2  # hidden layers of the subnet on the condition


@dataclass(frozen=True)
class Stack:
    """Couplings after fixed permutations: `count` blocks of two subnets each."""

    width: int  # D
    context: int  # numbers that each subnet is told
    count: int
    hidden: int
    depth: int
    bins: int | None  # of splines; None where maps are affine

    @classmethod
    def of(cls, width: int, condition_width: int, options: CINNOptions) -> Stack:
        """That of a `cinn`, which tells subnets the condition and what another subnet makes of it."""
        bins = options.bins if options.coupling == "spline" else None
        return cls(
            width, condition_width + options.context, options.couplings, options.hidden, options.depth, bins
        )

    @property
    def cut(self) -> int:
        """Coordinates of the first half: FrEIA rounds, to the even number."""
        return round(self.width / 2) if self.bins is None else self.width // 2

    @property
    def per(self) -> int:
        """Numbers that a subnet computes for a coordinate."""
        return 2 if self.bins is None else 3 * self.bins + 1

    @property
    def shape(self) -> tuple[int, int, int, float]:
        """Coordinates of the first half, hidden units, hidden layers, and the bound, for kernels."""
        return self.cut, self.hidden, self.depth, CLAMP

    @property
    def splines(self) -> tuple[float, ...] | None:
        """Bins and constants of splines, for kernels; None where maps are affine."""
        return None if self.bins is None else (self.bins, BOUND, LEAST_BIN, LEAST_SLOPE, UNIT)

    @property
    def permutations(self) -> list[str]:
        """Names of the permutation before each block."""
        return [f"blocks.module_list.{2 * k}.perm" for k in range(self.count)]

    def orders(self, arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.intp]:
        """Which coordinate of the input each is, before the first block and behind each permutation."""
        orders = [np.arange(self.width)]
        for name in self.permutations:
            orders.append(orders[-1][arrays[name]])
        return np.array(orders)

    def subnets(self) -> Iterator[tuple[str, int]]:
        """Name of each subnet as they run, and the coordinates that it moves: the first half, the second."""
        names = ("subnet2", "subnet1") if self.bins is None else ("subnet1", "subnet2")  # FrEIA's GLOW
        for k in range(self.count):
            for name, moved in zip(names, (self.cut, self.width - self.cut), strict=True):
                yield f"blocks.module_list.{2 * k + 1}.{name}", moved

    def layers(self, subnet: str) -> list[str]:
        """Names of the layers of a subnet."""
        return [f"{subnet}.{2 * k}" for k in range(self.depth + 1)]


def cinn_claims(width: int, condition_width: int, options: CINNOptions, latents: int) -> Iterator[Claim]:
    """Every tensor of a `cinn` of so many stored latents."""
    yield from _perceptron("condition_net", condition_width, options.context, options.hidden, CONDITION_DEPTH)
    stack = Stack.of(width, condition_width, options)
    for name in stack.permutations:
        for ending in ("", "_inv"):
            yield f"couplings.{name}{ending}", ((width,), "int64")
    for name, moved in stack.subnets():
        inputs = width - moved + stack.context
        yield from _perceptron(f"couplings.{name}", inputs, moved * stack.per, stack.hidden, stack.depth)
    for name in ("mean", "deviation"):
        yield f"latents.{name}", ((latents, width), "float32")


def _perceptron(name: str, inputs: int, outputs: int, hidden: int, depth: int) -> Iterator[Claim]:
    for k, (a, b) in enumerate(pairwise([inputs, *[hidden] * depth, outputs])):
        yield f"{name}.{2 * k}.weight", ((b, a), "float32")
        yield f"{name}.{2 * k}.bias", ((b,), "float32")
