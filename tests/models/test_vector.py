"""Tensors that are parts of one vector."""

from __future__ import annotations

import torch

from flowcei.models.vector import Parts


def test_the_vector_of_parts_is_found_and_no_other() -> None:
    """Where each is where it would be; not for copies, another order, one missing, or a vector too short."""
    tensors = [torch.randn(3, 5), torch.randn(7), torch.randn(2, 2)]
    parts = Parts(tensors)
    vector = torch.randn(5 + parts.total)[5:]
    own = parts.of(vector)
    assert [part.shape for part in own] == [tensor.shape for tensor in tensors]
    found = parts.vector_of(own)
    assert found is not None
    found.zero_()
    assert not vector.any()
    own[1].fill_(2.0)
    assert found.sum() == vector.sum() == 14.0
    assert parts.vector_of(tensors) is None
    assert parts.vector_of([own[0], own[2], own[1]]) is None
    assert parts.vector_of([own[0], None, own[2]]) is None
    assert parts.vector_of([None, *own[1:]]) is None
    assert parts.vector_of([own[0], own[1].clone(), own[2]]) is None
    short = torch.zeros(parts.starts[-1] + 4)  # the last part is there, but not what follows it
    pieces = [short[a:][: t.numel()].view(t.shape) for a, t in zip(parts.starts, tensors, strict=True)]
    assert parts.vector_of(pieces) is None
