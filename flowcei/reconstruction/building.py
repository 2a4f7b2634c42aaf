"""Networks in torch of what a model file holds: what they need, without memory; and built."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch.overrides import TorchFunctionMode

from flowcei.errors import DataError
from flowcei.models.registry import build_model, find_architecture

if TYPE_CHECKING:
    from flowcei.frame.interface import Frame
    from flowcei.models.interface import InverseModel
    from flowcei.models.stack import Claim
    from flowcei.storage.card import ModelCard
    from flowcei.storage.modelfile import Tensors

_CALLS = 50  # of PyTorch for each tensor of a network that is built: many times what is needed


def claims_of(card: ModelCard, frame: Frame, tensors: Tensors) -> list[Claim]:
    """Every tensor of the network that a file describes."""
    with torch.device("meta"), _Bounded(len(tensors)):  # shapes without memory: a lying file gets none
        state = _untrained(card, frame, tensors).state_dict()
    return [(name, (tuple(t.shape), str(t.dtype).removeprefix("torch."))) for name, t in state.items()]


def build_network(card: ModelCard, frame: Frame, tensors: Tensors) -> InverseModel:
    """The network of a file, whose tensors it takes."""
    with torch.random.fork_rng(devices=[]):  # first weights are drawn; the caller's state stays
        network = _untrained(card, frame, tensors)
    stored = {name: torch.tensor(tensors[f"model.{name}"]) for name in network.state_dict()}
    network.load_state_dict(stored)
    return network.eval()


def _untrained(card: ModelCard, frame: Frame, tensors: Tensors) -> InverseModel:
    stored = [f"model.{name}" for name in find_architecture(card.architecture).stored]
    network = build_model(card.architecture, frame.width, frame.told_width, card.options)
    network.make_room(len(tensors.get(stored[0], ())) if stored else 0)
    return network


class _Bounded(TorchFunctionMode):
    """No more of PyTorch is called than a file with `count` tensors needs."""

    # Options such as the number of couplings say how often something is repeated: a small file must not keep
    # us busy for hours before its shapes are compared.
    def __init__(self, count: int) -> None:
        super().__init__()
        self._count, self._calls = count, 1000 + _CALLS * count

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        del types
        self._calls -= 1
        if self._calls < 0:
            raise DataError(f"the options ask for far more than the {self._count} tensors of the file")
        return func(*args, **(kwargs or {}))
