"""Blocks of samples drawn by workers: each loads the model from its file, once."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

from flowcei.errors import DataError, FlowceiError, UsageError
from flowcei.reconstruction import limits
from flowcei.reconstruction.answering import Answering
from flowcei.reconstruction.loading import load
from flowcei.reconstruction.sampling import sampled_blocks
from flowcei.storage.modelfile import sealed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike

    from flowcei.events.container import Events
    from flowcei.posterior.samples import PosteriorSamples
    from flowcei.reconstruction.model import Reconstructor
    from flowcei.reconstruction.sampling import Blocks, SamplingRequest
    from flowcei.workers.order import Each

_LOADING = Lock()  # workers of Dask may be threads of one process


class ModelSource(Protocol):
    """Where a model is had from."""

    def load(self) -> Reconstructor:
        """The model."""


@dataclass(frozen=True)
class HeldModel:
    """A model of this process."""

    model: Reconstructor

    def load(self) -> Reconstructor:
        """The model."""
        return self.model


@dataclass(frozen=True)
class StoredModel:
    """Where a worker finds a model (None: the one that comes with flowcei), and which it must be."""

    path: Path | None
    digest: str
    device: str

    @classmethod
    def of(cls, model: Reconstructor) -> StoredModel:
        """That of a loaded model."""
        return cls(model.path, _digest(model), str(model.device))

    def load(self) -> Reconstructor:
        """The model, which a process keeps; an error names the machine that has no such model."""
        with _LOADING:
            return _loaded(self)


@lru_cache(maxsize=4)
def _loaded(stored: StoredModel) -> Reconstructor:
    here = f"on {socket.gethostname()}, for a worker"
    try:
        model = load(stored.path, device=stored.device)
    except FlowceiError as error:
        raise UsageError(f"{here}: {error}; workers need the model's file under the same name") from error
    if _digest(model) != stored.digest:
        raise DataError(f"{here}: is not the model that is asked for", path=stored.path or "bundled model")
    return model


def _digest(model: Reconstructor) -> str:
    return sealed(*model.stored())[1]


def source_of(model: Reconstructor, each: Each) -> ModelSource:
    """Where those who share the work find a model: this process itself where `each` is `map`."""
    return HeldModel(model) if each is map else StoredModel.of(model)


@dataclass(frozen=True)
class _Answer:
    """The answer of a model to a request."""

    source: ModelSource
    request: SamplingRequest

    def __call__(self, events: Events, rng: np.random.Generator) -> PosteriorSamples:
        return Answering.of(self.source.load(), self.request).block(events, rng)


def shared_blocks(model: Reconstructor, each: Each) -> Blocks:
    """What draws blocks as `Reconstructor.blocks` does, with others where `each` is not `map`."""
    return blocks_by(model, source_of(model, each), each)


def blocks_by(model: Reconstructor, source: ModelSource, each: Each) -> Blocks:
    """What yields all that `each` makes of blocks of events and of the function that samples one."""
    return partial(_blocks, model, source, each)


def _blocks(
    model: Reconstructor,
    source: ModelSource,
    each: Each,
    momenta: ArrayLike | Events | Iterable[Events | ArrayLike],
    request: SamplingRequest,
    *,
    start: int = 0,
) -> Iterator[Any]:
    limits.check_request(model, request)
    return sampled_blocks(momenta, model.molecule, request, _Answer(source, request), start, each)
