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
from flowcei.reconstruction.sharing import blocks_by, source_of

if TYPE_CHECKING:
    from flowcei.events.container import Events
    from flowcei.posterior.arrays import Floats
    from flowcei.posterior.samples import PosteriorSamples
    from flowcei.reconstruction.model import Reconstructor
    from flowcei.reconstruction.sharing import ModelSource
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
    source, size = source_of(model, each), block_size(request.n)
    names = None if scores is SCORES else scores  # ours are no functions that can be sent by name

    def scored_by(answer: Callable[[Any], PosteriorSamples], blocks: Iterable[Any]) -> Iterator[Any]:
        tasks = ((block, test[k * size : (k + 1) * size]) for k, block in enumerate(blocks))
        return each(partial(_drawn_and_scored, source, answer, names), tasks)

    found: Iterator[Any] = blocks_by(model, source, scored_by)(events, request)
    return found


def _drawn_and_scored(
    source: ModelSource,
    answer: Callable[[Any], PosteriorSamples],
    scores: Sequence[Score] | None,
    task: tuple[Any, TestSet],
) -> ScoredBlock:
    began = time.perf_counter()
    samples = answer(task[0])
    return scored(source.load(), samples, task[1], scores or SCORES, time.perf_counter() - began)


def scored(
    model: Reconstructor,
    samples: PosteriorSamples,
    test: TestSet,
    scores: Sequence[Score],
    took: float = 1.0,
) -> ScoredBlock:
    """Score the samples of a block of events, which took so many seconds to draw."""
    x = samples.positions
    if not model.frame.invariant:  # no momentum tells where the origin was
        x = x - centre_of_mass(x, test.molecule.masses)
    values = evaluate(scores, Answers(test, x))
    for column in values.values():  # an event without samples has no score
        column[~samples.answered] = np.nan
    return ScoredBlock(values, len(x) * x.shape[1], took)


def gathered_scores(model: Reconstructor, several: Iterable[ScoredBlock]) -> dict[str, Floats]:
    """Return the scores of all blocks, and those of the run."""
    blocks = list(several)
    trained = sum(p.numel() for p in model.network.parameters() if p.requires_grad)
    timed = blocks[1:] or blocks  # in the first of several kernels are compiled and loaded
    run = {
        "parameters": model.training.parameters or trained,
        "training_rate": model.training.rows_per_second or math.nan,
        "sampling_rate": sum(block.drawn for block in timed) / sum(block.seconds for block in timed),
    }
    values = {name: np.concatenate([block.values[name] for block in blocks]) for name in blocks[0].values}
    count = len(next(iter(values.values())))
    return values | {name: np.full(count, float(value)) for name, value in run.items()}


def scores_of(
    model: Reconstructor, blocks: Iterable[PosteriorSamples], test: TestSet, scores: Sequence[Score]
) -> dict[str, Floats]:
    """Return the scores of samples of all events of a test set, block after block, that were drawn before."""

    def scored_one_by_one() -> Iterator[ScoredBlock]:
        first = 0
        for samples in blocks:
            yield scored(model, samples, test[first : first + len(samples)], scores)
            first += len(samples)

    return gathered_scores(model, scored_one_by_one())
