"""Scores of samples of a model, block by block."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from flowcei.evaluation.scores import SCORES, Answers, Score, TestSet, evaluate
from flowcei.physics.explosion import centre_of_mass
from flowcei.reconstruction.sampling import SamplingRequest, block_size
from flowcei.reconstruction.sharing import StoredModel, shared_blocks

if TYPE_CHECKING:
    from flowcei.events.container import Events
    from flowcei.posterior.arrays import Floats
    from flowcei.posterior.samples import PosteriorSamples
    from flowcei.reconstruction.model import Reconstructor
    from flowcei.workers.order import Each


class ScoredBlock(NamedTuple):
    """Scores of the events of a block, and how many samples were drawn of it in which time."""

    values: dict[str, Floats]
    drawn: int
    seconds: float


def scored_blocks(
    model: Reconstructor,
    events: Events,
    request: SamplingRequest,
    test: TestSet,
    scores: Sequence[Score],
    each: Each,
) -> Iterator[ScoredBlock]:
    """Draw and score block after block, with others where `each` is not `map`."""
    if each is map:
        how: dict[str, Any] = {"noise": request.noise, "latent": request.latent, "seed": request.seed}
        return _one_by_one(model, model.stream(events, request.n, **how), test, scores)
    stored, size = StoredModel.of(model), block_size(request.n)
    own = None if scores is SCORES else scores  # ours are no functions that can be sent by name

    def scored_by(answer: Callable[[Any], PosteriorSamples], blocks: Iterable[Any]) -> Iterator[Any]:
        tasks = ((block, test[k * size : (k + 1) * size]) for k, block in enumerate(blocks))
        return each(partial(_answered, stored, answer, own), tasks)

    found: Iterator[Any] = shared_blocks(model, scored_by)(events, request)
    return found


def _answered(
    stored: StoredModel,
    answer: Callable[[Any], PosteriorSamples],
    scores: Sequence[Score] | None,
    task: tuple[Any, TestSet],
) -> ScoredBlock:
    """Draw and score one block."""
    model, samples = stored.load(), (answer(block) for block in task[:1])
    return next(_one_by_one(model, samples, task[1], scores or SCORES))


def _one_by_one(
    model: Reconstructor, stream: Iterator[PosteriorSamples], test: TestSet, scores: Sequence[Score]
) -> Iterator[ScoredBlock]:
    """Score the samples of all events of a test set, as they are drawn."""
    first = 0
    while first < len(test.momenta):
        began = time.perf_counter()
        samples = next(stream)
        seconds = time.perf_counter() - began
        x = samples.positions
        if not model.frame.invariant:  # no momentum tells where the origin was
            x = x - centre_of_mass(x, test.molecule.masses)
        values = evaluate(scores, Answers(test[first : first + len(samples)], x))
        for column in values.values():  # an event without samples has no score
            column[~samples.answered] = np.nan
        yield ScoredBlock(values, len(x) * x.shape[1], seconds)
        first += len(samples)


def scores_of(
    model: Reconstructor, blocks: Sequence[PosteriorSamples], test: TestSet, scores: Sequence[Score]
) -> dict[str, Floats]:
    """Return the scores of samples that were drawn before."""
    return gathered_scores(model, _one_by_one(model, iter(blocks), test, scores))


def gathered_scores(model: Reconstructor, several: Iterable[ScoredBlock]) -> dict[str, Floats]:
    """Return the scores of all blocks, and those of the run."""
    blocks = list(several)
    timed = blocks[1:] or blocks  # in the first of several kernels are compiled and loaded
    run = {
        "parameters": model.training.parameters
        or sum(p.numel() for p in model.network.parameters() if p.requires_grad),
        "training_rate": model.training.rows_per_second or math.nan,
        "sampling_rate": sum(block.drawn for block in timed) / sum(block.seconds for block in timed),
    }
    values = {name: np.concatenate([block.values[name] for block in blocks]) for name in blocks[0].values}
    count = len(next(iter(values.values())))
    return values | {name: np.full(count, float(value)) for name, value in run.items()}
