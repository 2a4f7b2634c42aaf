"""Blocks of samples drawn by workers: each loads the model from its file, once."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

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


@dataclass(frozen=True)
class StoredModel:
    """Where a worker finds a model (None: the one that comes with flowcei), and which it must be."""

    path: Path | None
    digest: str
    device: str

    @classmethod
    def of(cls, model: Reconstructor) -> StoredModel:
        """That of a loaded model."""
        return cls(model.path, _digest(model), str(model.sampler.device))

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


@dataclass(frozen=True)
class _Answer:
    """The answer of a stored model to a request."""

    stored: StoredModel
    request: SamplingRequest

    def __call__(self, events: Events, rng: np.random.Generator) -> PosteriorSamples:
        return Answering.of(self.stored.load(), self.request).block(events, rng)


def shared_blocks(model: Reconstructor, each: Each) -> Blocks:
    """What draws blocks as `Reconstructor.blocks` does, with others where `each` is not `map`.

    It yields what `each` makes of the blocks and of the function that answers one.
    """
    return model.blocks if each is map else partial(_blocks, model, each)


def _blocks(
    model: Reconstructor,
    each: Each,
    momenta: ArrayLike | Events | Iterable[Events | ArrayLike],
    request: SamplingRequest,
    *,
    start: int = 0,
) -> Iterator[Any]:
    limits.check_request(model, request)
    return sampled_blocks(
        momenta, model.molecule, request, _Answer(StoredModel.of(model), request), start, each
    )
