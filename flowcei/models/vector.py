"""Tensors as parts of one vector: a call for all of them in place of one for each of a hundred."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

_ALIGNED = 16  # numbers; in single precision each part begins at a multiple of 64 bytes


class Parts:
    """Where tensors of these shapes begin in a vector of `total` numbers, in their order."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.sizes = [tensor.shape for tensor in tensors]
        self.starts, self.total = list[int](), 0
        for tensor in tensors:
            self.starts.append(self.total)
            self.total += -(-tensor.numel() // _ALIGNED) * _ALIGNED

    def of(self, vector: Tensor) -> list[Tensor]:
        """The parts of a vector."""
        pairs = zip(self.starts, self.sizes, strict=True)
        return [vector[start:][: size.numel()].view(size) for start, size in pairs]

    def vector_of(self, tensors: Sequence[Tensor | None]) -> Tensor | None:
        """The vector that tensors are parts of, as `of` has them; None where they are not."""
        first = tensors[0]
        if first is None:
            return None
        begin, size, room = first.data_ptr(), first.element_size(), first.untyped_storage().nbytes()
        # Addresses within the memory of one tensor are no other's.
        if (first.storage_offset() + self.total) * size > room or any(
            tensor is None or tensor.data_ptr() != begin + start * size
            for tensor, start in zip(tensors, self.starts, strict=True)
        ):
            return None
        return torch.as_strided(first.detach(), (self.total,), (1,))
