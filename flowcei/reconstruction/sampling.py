"""Sampling, block by block: any number of events in little memory, from where it was left.

Events come in chunks of any size and are put together again into blocks, whose size depends
on the number of samples alone. Each block has its own random stream, of the seed and its
number: what is drawn does not depend on how events come, and block 700 can be drawn without
the 699 before it. Nothing here knows of models: who draws hands in the function that does.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, get_args

import numpy as np

from flowcei.check.evidence import check_evidence, reference_events
from flowcei.errors import DataError, UsageError
from flowcei.events.container import Events
from flowcei.events.extracolumns import joined_columns
from flowcei.experiment.detector import Noise
from flowcei.models.interface import Latent
from flowcei.posterior.drawing import mostly_outside, restricted, top_up
from flowcei.posterior.files import Quality, arrays_of
from flowcei.posterior.flags import BY_MOMENTA, FLAG_BITS, combined, poor_weights, unexplained

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from numpy.typing import ArrayLike, NDArray

    from flowcei.check.evidence import EvidenceCheck
    from flowcei.molecules.molecule import Molecule
    from flowcei.physics.priors import GeometryPrior
    from flowcei.posterior.samples import PosteriorSamples

ROWS = 200_000
"""Samples that share a random stream, and are held at a time."""

_BUDGET = 100  # times n: samples drawn of one event, at the most
_REFERENCE_EVENTS = 100, 500
_REFERENCE_SAMPLES = 1_000_000
_REFERENCE_SEED = 2**32


def block_size(n: int) -> int:
    """Return how many events, of `n` samples each, make a block.

    Example:
        >>> block_size(100)
        2000
    """
    return max(1, ROWS // n)


@dataclass(frozen=True)
class Survey:
    """What is known of a stream of events after one look at all of it.

    Attributes:
        events: How many there are.
        digest: A fingerprint of their momenta, noise, numbers and extra columns.
    """

    events: int
    digest: str

    @classmethod
    def of(cls, chunks: Iterable[Events]) -> Survey:
        """Count events and take their fingerprint, which does not depend on the chunks.

        Example:
            >>> import flowcei
            >>> events = flowcei.simulate("ocs", 5, noise="1%", seed=1)
            >>> Survey.of([events]) == Survey.of([events[:2], events[2:]])
            True
        """
        parts = {name: hashlib.sha256() for name in ("momenta", "sigma", "numbers")}
        count = 0
        for chunk in _numbered(chunks):
            for name in ("momenta", "sigma", "numbers"):
                array = getattr(chunk, name)
                parts[name].update(b"" if array is None else np.ascontiguousarray(array).tobytes())
            for name, values in chunk.columns.items():
                parts.setdefault(f"column {name}", hashlib.sha256(name.encode())).update(values.tobytes())
            count += len(chunk)
        whole = hashlib.sha256(b"".join(digest.digest() for digest in parts.values()))
        return cls(count, whole.hexdigest()[:16])


@dataclass(frozen=True)
class SamplingRequest:
    """What is asked of a model, checked once: see the arguments of `Reconstructor.sample`.

    Raises:
        UsageError: For n < 1, unknown latents, or weights of latents that have no density.
    """

    n: int
    seed: int
    noise: str | Noise | None = None
    latent: Latent = "prior"
    weigh: bool = False
    min_ess: float = 0.0
    budget: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be answered, before any event is read."""
        if self.n < 1:
            msg = f"the number of samples is {self.n}; it must be 1 or more"
            raise UsageError(msg)
        if self.latent not in get_args(Latent):
            msg = f"latent is {' or '.join(map(repr, get_args(Latent)))}; got {self.latent!r}"
            raise UsageError(msg)
        if self.weighs and self.latent != "prior":
            msg = "latent samples of the training events have no density; weights need latent 'prior'"
            raise UsageError(msg)

    @property
    def weighs(self) -> bool:
        """Whether samples get weights."""
        return self.weigh or self.min_ess > 0

    @property
    def most_draws(self) -> int:
        """Samples drawn of one event, at the most."""
        return self.budget or _BUDGET * self.n

    def to_dict(self) -> dict[str, object]:
        """Return what the samples of given events and a given model depend on, as plain values."""
        return {
            "n": self.n,
            "seed": self.seed,
            "noise": None if self.noise is None else str(Noise.parse(self.noise)),
            "latent": self.latent,
            "weigh": self.weighs,
            "min_ess": float(self.min_ess),
            "budget": self.most_draws,
            "block": block_size(self.n),
        }


def sampled_blocks(
    chunks: Iterable[Events],
    request: SamplingRequest,
    answer: Callable[[Events, np.random.Generator], PosteriorSamples],
    start: int = 0,
) -> Iterator[PosteriorSamples]:
    """Yield the samples of block after block, each by `answer` with a random stream of its own.

    Raises:
        UsageError: For a `start` that is no whole number of blocks, at once.
        DataError: For no events at all.
    """
    size = block_size(request.n)
    if start < 0 or start % size:
        msg = f"start is {start}; with {request.n} samples an event blocks begin at multiples of {size}"
        raise UsageError(msg)

    def blocks() -> Iterator[PosteriorSamples]:
        empty = start == 0
        for index, events in enumerate(_reblocked(chunks, size, start), start // size):
            empty = False
            stream = np.random.SeedSequence(request.seed, spawn_key=(index,))
            yield answer(events, np.random.default_rng(stream))
        if empty:
            msg = "there is no event to reconstruct"
            raise DataError(msg)

    return blocks()


def by_request(
    draw: Callable[[NDArray[np.intp], int], PosteriorSamples],
    flags: Mapping[str, NDArray[np.bool_]],
    request: SamplingRequest,
    rng: np.random.Generator,
    prior: GeometryPrior | None,
) -> PosteriorSamples:
    """Return samples as a request asks: weighed by the prior, or else restricted to it, and flagged.

    `draw` gives so many samples of some of the events; `flags` are those that momenta alone raise, (E,).
    """
    samples = draw(np.arange(len(next(iter(flags.values())))), request.n)
    if request.weighs:
        least, most = request.min_ess, request.most_draws
        samples = top_up(samples.weigh(prior), draw, min_ess=least, budget=most, rng=rng, prior=prior)
    elif prior is not None:
        samples = restricted(samples, draw, prior)
    answered = samples.answered
    more = {"no_geometry": ~answered, "outside_prior": mostly_outside(samples)}
    bits = combined(**flags, **more, re_simulation=unexplained(samples) & answered)
    if samples.weights is not None:
        bits |= np.where(answered, poor_weights(samples.weights), np.uint16(0))
    return replace(samples, flags=bits)


def judged(
    quality: Quality,
    request: SamplingRequest,
    molecule: Molecule,
    prior: GeometryPrior,
    blocks: Callable[[Events, SamplingRequest], Iterable[PosteriorSamples]],
    *,
    relative: bool,
) -> tuple[Quality, EvidenceCheck | None]:
    """Compare the evidence of a weighed run with that of events of the prior, sampled and weighed alike.

    Returns:
        The same with p-values and the flag `evidence`, and the comparison: None without weights.
    """
    if quality.statistic is None:
        return quality, None
    count = int(np.clip(_REFERENCE_SAMPLES // request.n, *_REFERENCE_EVENTS))
    if request.min_ess > 0:  # where more are drawn that costs as much as the run, at the most
        count = int(np.clip(len(quality.event_id), _REFERENCE_EVENTS[0], count))
    levels = quality.sigma / quality.size if relative else quality.sigma
    events = reference_events(molecule, prior, levels, count, request.seed, relative=relative)
    # A seed of its own: reference events must not share latents with those of the run.
    other = replace(request, seed=request.seed + _REFERENCE_SEED, noise=None)
    reference = Quality.concatenate([Quality.of(arrays_of(s), molecule) for s in blocks(events, other)])
    if reference.statistic is None:
        return quality, None
    # Events with another flag tell of themselves.
    counts = [q.flags & (BY_MOMENTA | FLAG_BITS["no-geometry"]) == 0 for q in (reference, quality)]
    check = check_evidence(quality.statistic, reference.statistic[counts[0]], counts[1])
    flags = quality.flags | combined(evidence=check.improbable)
    return replace(quality, flags=flags, evidence_p=check.p_values), check


def chunks_of(momenta: ArrayLike | Events | Iterable[Events | ArrayLike]) -> Iterable[Events | ArrayLike]:
    """Return momenta as chunks: events and arrays are one, anything else that yields them is many."""
    if isinstance(momenta, (list, tuple)):
        several = len(momenta) > 0 and isinstance(momenta[0], Events)
    else:
        several = not isinstance(momenta, Events) and not hasattr(momenta, "__array__")
        several = several and hasattr(momenta, "__iter__")
    return momenta if several else [momenta]  # type: ignore[return-value, list-item]


def _numbered(chunks: Iterable[Events]) -> Iterator[Events]:
    """Yield chunks whose events have numbers: their own, or their places in the stream."""
    seen = 0
    for chunk in chunks:
        own = chunk.ids is not None
        yield chunk if own else replace(chunk, ids=np.arange(seen, seen + len(chunk), dtype=np.int64))
        seen += len(chunk)


def _reblocked(chunks: Iterable[Events], size: int, skip: int) -> Iterator[Events]:
    """Yield blocks of `size` events, the last what is left, without the first `skip` events."""
    held: list[Events] = []
    count = 0
    for chunk in _numbered(chunks):
        first = min(skip, len(chunk))
        skip -= first
        while first < len(chunk):
            last = min(first + size - count, len(chunk))
            held.append(chunk[first:last])
            count += last - first
            first = last
            if count == size:
                yield _joined(held)
                held, count = [], 0
    if held:
        yield _joined(held)


def _joined(parts: list[Events]) -> Events:
    """Return the measured part of several chunks as one."""
    first = parts[0]
    known = [part.sigma for part in parts if part.sigma is not None]
    if len(known) not in (0, len(parts)):
        odd = next(part for part in parts if (part.sigma is None) != (first.sigma is None))
        msg = f"event {odd.numbers[0]}: some events state their noise and others do not; --noise states one"
        raise DataError(msg)
    return Events(
        first.molecule,
        np.concatenate([part.momenta for part in parts]),
        ids=np.concatenate([part.numbers for part in parts]),
        sigma=np.concatenate(known) if known else None,
        origin=first.origin,
        columns=joined_columns([part.columns for part in parts]),
    )
