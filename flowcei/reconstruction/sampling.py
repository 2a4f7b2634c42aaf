"""Sampling, block by block: any number of events in little memory; knows no models."""

# Chunks of any size are put together again into blocks, whose size depends on the number of samples alone.
# Each has a random stream of its own, of the seed and its number: what is drawn does not depend on how events
# come, and block 700 can be drawn without the 699 before it.

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import ArrayLike
from tqdm.auto import tqdm

from flowcei.check.comparison import MOST_EVENTS
from flowcei.check.evidence import check_evidence, reference_events
from flowcei.errors import DataError, UsageError
from flowcei.events.container import Events, events_of
from flowcei.experiment.accidents import ACCIDENT, COMPLETE, FEWEST, LACKING, tell_accidents, tell_by_sums
from flowcei.experiment.detector import Noise
from flowcei.models.options import Latent
from flowcei.posterior.drawing import mostly_outside, restricted, top_up
from flowcei.posterior.exact import exact_samples
from flowcei.posterior.files import arrays_of
from flowcei.posterior.flags import BY_MOMENTA, FLAG_BITS, combined, poor_weights, unexplained
from flowcei.posterior.quality import Quality

if TYPE_CHECKING:
    from flowcei.check.evidence import EvidenceCheck
    from flowcei.experiment.experiment import Experiment
    from flowcei.experiment.measurement import Measurement
    from flowcei.molecules.molecule import Molecule
    from flowcei.physics.priors import GeometryPrior
    from flowcei.posterior.arrays import Bools, Floats, Rows
    from flowcei.posterior.exact import Density
    from flowcei.posterior.samples import PosteriorSamples
    from flowcei.workers.order import Each

    Blocks = Callable[..., Iterator[PosteriorSamples]]  # of events and a request
    Judged = tuple[Quality, EvidenceCheck | None]

ROWS = 200_000  # samples that share a random stream, and are held at a time
_BUDGET = 100  # times n: samples drawn of one event, at the most
_REFERENCE_EVENTS = 100, 500  # of the prior, with which evidence is compared
_REFERENCE_SAMPLES = 1_000_000
_REFERENCE_SEED = 2**32


def block_size(n: int) -> int:
    """How many events, of `n` samples each, make a block: 2,000 for 100."""
    return max(1, ROWS // n)


@dataclass(frozen=True)
class Survey:
    """What one look at all of a stream of events tells."""

    events: int
    digest: str  # of their momenta, noise, numbers and extra columns; chunks do not count
    thinned: Events | None = field(default=None, compare=False)  # evenly: by them a run is judged

    @classmethod
    def of(cls, chunks: Iterable[Events], most: int = MOST_EVENTS) -> Survey:
        """Count events, take their digest, and keep at most `most` of them, evenly."""
        names = ("momenta", "sigma", "event_id")
        hashes = {name: hashlib.sha256() for name in names}
        count, step, thinned = 0, 1, list[Events]()
        for chunk in _numbered(chunks):
            for name in names:
                array = getattr(chunk, name)
                hashes[name].update(b"" if array is None else np.ascontiguousarray(array).tobytes())
            for name, values in chunk.columns.items():
                hashes.setdefault(f"column {name}", hashlib.sha256(name.encode())).update(values.tobytes())
            rows = np.arange(-count % step, len(chunk), step)
            thinned += [chunk[rows]] if len(rows) else []  # a copy: a view would hold the whole chunk
            count += len(chunk)
            while sum(map(len, thinned)) > most:
                step, thinned = 2 * step, [Events.concatenate(thinned)[::2]]
        joined = b"".join(column.digest() for column in hashes.values())
        digest = hashlib.sha256(joined).hexdigest()[:16]
        return cls(count, digest, Events.concatenate(thinned) if thinned else None)


@dataclass(frozen=True)
class SamplingRequest:
    """What is asked of a model, checked once: see the arguments of `Reconstructor.sample`."""

    n: int
    seed: int
    noise: str | Noise | None = None
    latent: Latent = "prior"
    weigh: bool = False
    min_ess: float = 0.0
    budget: int | None = None
    exact: bool = False
    experiment: Experiment | None = None

    def __post_init__(self) -> None:
        if self.experiment is not None and self.noise is not None:
            raise UsageError("the experiment states its noise; leave the other out")
        if self.n < 1:
            raise UsageError(f"the number of samples is {self.n}; it must be 1 or more")
        if self.latent not in get_args(Latent):
            raise UsageError(f"latent is {' or '.join(map(repr, get_args(Latent)))}; got {self.latent!r}")
        if self.exact and (self.weigh or self.min_ess > 0):
            raise UsageError("exact samples count alike: they take no weights, and no least number of them")
        if self.weighs and self.latent != "prior":
            raise UsageError(
                "latent samples of the training events have no density; weights need latent 'prior'"
            )

    @property
    def weighs(self) -> bool:
        """Whether samples get weights."""
        return self.weigh or self.min_ess > 0 or self.exact

    @property
    def most_draws(self) -> int:
        """Samples drawn of one event, at the most."""
        return self.budget or _BUDGET * self.n

    def to_dict(self) -> dict[str, object]:
        """What the samples of given events and a given model depend on, as plain values."""
        asked: dict[str, object] = {
            "n": self.n,
            "seed": self.seed,
            "noise": None if self.noise is None else str(Noise.parse(self.noise)),
            "latent": self.latent,
            "weigh": self.weighs,
            "min_ess": float(self.min_ess),
            "budget": self.budget if self.exact else self.most_draws,
            "block": block_size(self.n),
        }
        if self.experiment is not None:
            asked["experiment"] = self.experiment.to_dict()
        return asked | ({"exact": True} if self.exact else {})


def sampled_blocks(
    momenta: ArrayLike | Events | Iterable[Events | ArrayLike],
    molecule: Molecule,
    request: SamplingRequest,
    answer: Callable[[Events, np.random.Generator], PosteriorSamples],
    start: int = 0,
    each: Each = map,
) -> Iterator[PosteriorSamples]:
    """Samples of block after block, each by `answer` with a random stream of its own.

    `each` maps a function over blocks, as workers do (`flowcei.workers.order`).
    """
    size = block_size(request.n)
    if start < 0 or start % size:
        raise UsageError(
            f"start is {start}; with {request.n} samples an event blocks begin at multiples of {size}"
        )
    chunks = (events_of(chunk, molecule) for chunk in chunks_of(momenta))

    def blocks() -> Iterator[PosteriorSamples]:
        empty = start == 0
        numbered = enumerate(_reblocked(chunks, size, start), start // size)
        for samples in each(partial(_answered, answer, request.seed), numbered):
            empty = False
            yield samples
        if empty:
            raise DataError("there is no event to reconstruct")

    return blocks()


def _answered(
    answer: Callable[[Events, np.random.Generator], PosteriorSamples], seed: int, block: tuple[int, Events]
) -> PosteriorSamples:
    index, events = block
    return answer(events, np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index,))))


def by_request(
    draw: Callable[[Rows, int], PosteriorSamples],
    flags: Mapping[str, Bools],
    request: SamplingRequest,
    rng: np.random.Generator,
    prior: GeometryPrior | None,
    density: Density,
    worth: Floats | None = None,
) -> PosteriorSamples:
    """Samples as a request asks: exact, weighed, or else within a prior that has bounds, and flagged.

    `draw` gives so many samples of some of the events, `density` is theirs; `flags` are those that momenta
    alone raise, (E,); `worth` as of `exact_samples`.
    """
    events = np.arange(len(next(iter(flags.values()))))
    if request.exact and prior is not None:
        how: dict[str, Any] = {"budget": request.budget, "worth": worth}
        samples = exact_samples(draw, density, len(events), request.n, prior, rng, **how)
    else:
        samples = draw(events, request.n)
    if request.weighs and not request.exact:
        least, most = request.min_ess, request.most_draws
        samples = top_up(samples.weigh(prior), draw, min_ess=least, budget=most, rng=rng, prior=prior)
    elif not request.exact and prior is not None and prior.has_density:  # what is weighed is 0 outside anyway
        samples = restricted(samples, draw, prior)
    answered = samples.answered
    more = {"no_geometry": ~answered, "outside_prior": mostly_outside(samples)}
    bits = combined(**flags, **more, re_simulation=unexplained(samples) & answered)
    if samples.weights is not None:
        poor = poor_weights(samples.weights, stand_in=samples.isotropic)
        bits |= np.where(answered, poor, np.uint16(0))
    if request.exact:  # of the chains; those of weights were before more was drawn
        bits |= samples.flag_bits
    return replace(samples, flags=bits)


def judged(
    quality: Quality,
    request: SamplingRequest,
    molecule: Molecule,
    prior: GeometryPrior,
    sample: Blocks,
    *,
    relative: bool,
) -> Judged:
    """A weighed run with p-values and the flag `evidence`, from as many events of the prior treated alike."""
    count = int(np.clip(_REFERENCE_SAMPLES // request.n, *_REFERENCE_EVENTS))
    if (
        request.exact or request.min_ess > 0
    ):  # where more are drawn that costs as much as the run, at the most
        count = int(np.clip(len(quality.event_id), _REFERENCE_EVENTS[0], count))
    levels = quality.sigma / quality.size if relative else quality.sigma
    own = None if request.experiment is None else request.experiment.of(molecule)
    events = reference_events(
        molecule, prior, levels, count, request.seed, relative=relative, measurement=own
    )
    # A seed of its own: reference events must not share latents with those of the run.
    other = replace(request, seed=request.seed + _REFERENCE_SEED, noise=None)
    reference = Quality.concatenate([Quality.of(arrays_of(s), molecule) for s in sample(events, other)])
    if quality.statistic is None or reference.statistic is None:
        return quality, None
    # Events with another flag tell of themselves.
    counts = [q.flags & (BY_MOMENTA | FLAG_BITS["no-geometry"]) == 0 for q in (reference, quality)]
    counts[1] &= ~np.isnan(quality.statistic)
    if quality.p_true is not None:
        counts[1] &= ~(quality.p_true < 0.5)
    check = check_evidence(quality.statistic, reference.statistic[counts[0]], counts[1])
    flags = quality.flags | combined(evidence=check.improbable)
    p_values = np.where(np.isnan(quality.statistic), np.nan, check.p_values)
    return replace(quality, flags=flags, evidence_p=p_values), check


def told_apart(quality: Quality, measurement: Measurement) -> Quality:
    """A weighed run with P(true) of its events and the flag `accident`; nothing of too few events.

    Complete events and those that lack an ion have a share of accidents each.
    """
    if quality.momenta is None or quality.lost is None or quality.log_evidence is None:
        return quality
    lacking, p_true = quality.lost.any(axis=1), np.full(len(quality), np.nan)
    shares: dict[str, Any] = {}
    for kind, rows in ((COMPLETE, np.flatnonzero(~lacking)), (LACKING, np.flatnonzero(lacking))):
        if len(rows) < FEWEST:
            continue
        momenta, lost = quality.momenta[rows], quality.lost[rows]
        mixture = tell_accidents(quality.log_evidence[rows], momenta, measurement, lost)
        shares[kind] = {"events": len(rows), "share": mixture.share, "error": mixture.share_error}
        if not lost.any() and measurement.orders is None:
            # The prior has no say in sums: where it is wrong, true events pass for accidents.
            spread = np.where(np.isinf(measurement.spread), 0.0, measurement.spread)
            width = replace(measurement, spread=spread).width(momenta)
            by_sums = tell_by_sums(momenta, width**2, np.ones((len(rows), 3)))
            shares[kind] |= {"share_by_sums": by_sums.share, "error_by_sums": by_sums.share_error}
        if np.isfinite(measurement.accidents):
            mixture = replace(mixture, share=float(measurement.accidental(lost).mean()))
            shares[kind]["stated"] = mixture.share
        p_true[rows] = mixture.p_true
    flags = quality.flags | combined(accident=p_true < ACCIDENT)
    return replace(quality, p_true=p_true, accidents=shares, flags=flags)


def bar_of_events(total: int | None, *, show: bool, done: int = 0) -> tqdm:
    """Progress bar, in a terminal or a notebook, of which an earlier run has done some."""
    return tqdm(total=total, initial=done, unit=" events", unit_scale=True, disable=not show)


def chunks_of(momenta: ArrayLike | Events | Iterable[Events | ArrayLike]) -> Iterable[Events | ArrayLike]:
    """Momenta as chunks: events and arrays are one, anything else that yields them is many."""
    if isinstance(momenta, (list, tuple)):
        several = len(momenta) > 0 and isinstance(momenta[0], Events)
    else:
        array = isinstance(momenta, Events) or hasattr(momenta, "__array__")
        several = isinstance(momenta, Iterable) and not array
    return momenta if several else [momenta]  # type: ignore[return-value, list-item]


def _numbered(chunks: Iterable[Events]) -> Iterator[Events]:
    """Chunks whose events have numbers: their own, or their places in the stream."""
    count = 0
    for chunk in chunks:
        yield chunk if chunk.numbered else replace(chunk, event_id=chunk.event_id + count, numbered=True)
        count += len(chunk)


def _reblocked(chunks: Iterable[Events], size: int, skip: int) -> Iterator[Events]:
    """Blocks of `size` events, the last shorter, without the first `skip` events."""
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


def _joined(chunks: list[Events]) -> Events:
    """Several chunks as one, without positions, which some may have."""
    stated = [chunk.sigma is not None for chunk in chunks]
    if len(set(stated)) > 1:
        event = chunks[stated.index(not stated[0])].event_id[0]
        raise DataError(f"event {event}: some events state their noise and others do not; --noise states one")
    return Events.concatenate([replace(chunk, positions=None) for chunk in chunks])
