"""Sampling, block by block: any number of events in little memory, from where it was left.

Events come in chunks of any size and are put together again into blocks, whose size depends
on the number of samples alone. Each block has its own random stream, of the seed and its
number: what is drawn does not depend on how events come, and block 700 can be drawn without
the 699 before it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch

from flowcei.check.evidence import check_evidence, reference_events
from flowcei.errors import DataError, UsageError
from flowcei.events.container import Events, events_of
from flowcei.events.extracolumns import joined_columns
from flowcei.experiment.detector import Noise
from flowcei.models.interface import Latent
from flowcei.posterior.budget import top_up
from flowcei.posterior.flags import BY_MOMENTA, FLAG_BITS, combined, poor_weights, unexplained
from flowcei.posterior.hdf import arrays_of
from flowcei.posterior.restriction import mostly_outside, restricted
from flowcei.posterior.samples import PosteriorSamples
from flowcei.posterior.unfinished import Quality

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import ArrayLike, NDArray

    from flowcei.check.evidence import EvidenceCheck
    from flowcei.physics.priors import GeometryPrior
    from flowcei.reconstruction.trainedmodel import TrainedModel

__all__ = ["ROWS", "Sampling", "Survey", "block_size"]

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


@dataclass(frozen=True, eq=False)
class Sampling:
    """What is asked of a model: see `Reconstructor.sample`, whose arguments these are.

    Raises:
        UsageError: For n < 1, unknown latents, or weights of latents that have no density.
    """

    model: TrainedModel
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
        if self._weighs and self.latent != "prior":
            msg = "latent samples of the training events have no density; weights need latent 'prior'"
            raise UsageError(msg)
        self.model.refuse_inexact()

    def request(self) -> dict[str, Any]:
        """Return all that the samples of given events depend on, as plain numbers and words."""
        level = Noise.parse(self.noise) if isinstance(self.noise, str) else self.noise
        return {
            "model": self.model.card.get("name") or self.model.architecture,
            "model checksum": _checksum(self.model),
            "n": self.n,
            "seed": self.seed,
            "noise": None if level is None else str(level),
            "latent": self.latent,
            "weigh": self._weighs,
            "min_ess": float(self.min_ess),
            "budget": self._budget,
            "block": block_size(self.n),
            "flowcei": version("flowcei"),
        }

    def blocks(
        self, momenta: ArrayLike | Events | Iterable[Events | ArrayLike], start: int = 0
    ) -> Iterator[PosteriorSamples]:
        """Yield the samples of block after block: see `Reconstructor.stream`."""
        size = block_size(self.n)
        if start < 0 or start % size:
            msg = f"start is {start}; with {self.n} samples an event blocks begin at multiples of {size}"
            raise UsageError(msg)
        return self._blocks(momenta, start, size)

    def _blocks(
        self, momenta: ArrayLike | Events | Iterable[Events | ArrayLike], start: int, size: int
    ) -> Iterator[PosteriorSamples]:
        chunks = (events_of(chunk, self.model.molecule) for chunk in _chunks(momenta))
        empty = start == 0
        prior = self.model.prior if self._weighs else None
        support = None if self._weighs else self._support
        for index, events in enumerate(_reblocked(chunks, size, start), start // size):
            empty = False
            yield self._block(index, events, prior, support)
        if empty:
            msg = "there is no event to reconstruct"
            raise DataError(msg)

    def judged(self, quality: Quality) -> tuple[Quality, EvidenceCheck | None]:
        """Compare the evidence of a run with that of events of the prior, sampled and weighed alike.

        Args:
            quality: Of all the events of the run.

        Returns:
            The same with p-values and the flag `evidence`, and the comparison: None without weights.
        """
        if quality.statistic is None:
            return quality, None
        model = self.model
        count = int(np.clip(_REFERENCE_SAMPLES // self.n, *_REFERENCE_EVENTS))
        if self.min_ess > 0:  # where more are drawn that costs as much as the run, at the most
            count = int(np.clip(len(quality.ids), _REFERENCE_EVENTS[0], count))
        relative = model.noise.relative
        levels = quality.sigma / quality.size if relative else quality.sigma
        tables = (model.molecule, model.prior, levels, count, self.seed)
        events = reference_events(*tables, relative=relative)
        # A seed of its own: reference events must not share latents with those of the run.
        other = replace(self, seed=self.seed + _REFERENCE_SEED, noise=None)
        parts = (Quality.of(arrays_of(part), part.molecule) for part in other.blocks(events))
        reference = Quality.concatenate(list(parts))
        if reference.statistic is None:
            return quality, None
        # Events with another flag tell of themselves.
        counts = [q.flags & (BY_MOMENTA | FLAG_BITS["no-geometry"]) == 0 for q in (reference, quality)]
        check = check_evidence(quality.statistic, reference.statistic[counts[0]], counts[1])
        flags = quality.flags | combined(evidence=check.improbable)
        return replace(quality, flags=flags, evidence_p=check.p_values), check

    @property
    def _weighs(self) -> bool:
        return self.weigh or self.min_ess > 0

    @property
    def _support(self) -> GeometryPrior | None:
        """The prior that samples must lie in, where it excludes anything and what draws is a flow.

        Weighted samples need none: what lies outside has no weight.
        """
        if self.model.prior_spec is None or not self.model.model.has_density:
            return None
        prior = self.model.prior
        return prior if prior.has_density and prior.bounded else None

    @property
    def _budget(self) -> int:
        return self.budget or _BUDGET * self.n

    def _block(
        self, index: int, events: Events, prior: GeometryPrior | None, support: GeometryPrior | None
    ) -> PosteriorSamples:
        sigma = self.model.sigma(events, self.noise)
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(index,)))
        found = self._drawn(events, sigma, rng, np.arange(len(events)), self.n)
        if self._weighs:
            found = found.weigh(prior)
            draw = partial(self._drawn, events, sigma, rng)
            rules: dict[str, Any] = {"min_ess": self.min_ess, "budget": self._budget}
            found = top_up(found, draw, **rules, rng=rng, prior=prior)
        elif support is not None:
            found = restricted(found, partial(self._drawn, events, sigma, rng), support)
        answered = found.answered
        flags = self.model.unlike_training(events, self.noise)
        flags["no_geometry"] = ~answered
        flags["outside_prior"] = mostly_outside(found)
        flags["re_simulation"] = unexplained(found) & answered
        bits = combined(**flags)
        if found.weights is not None:
            bits |= np.where(answered, poor_weights(found.weights), np.uint16(0))
        return replace(found, flags=bits)

    @torch.no_grad()
    def _drawn(
        self,
        events: Events,
        sigma: NDArray[np.float64],
        rng: np.random.Generator,
        rows: NDArray[np.intp],
        n: int,
    ) -> PosteriorSamples:
        """Return n samples of some of the events, neither weighed nor flagged."""
        asked, model = events[rows], self.model
        framed, c = model.enter(asked.momenta, sigma[rows])
        drawn, density = model.model.sample_with_log_prob(c, n, latent=self.latent, generator=rng)
        chart = model.chart_standardiser.inverse(drawn.cpu())
        positions = model.frame.to_positions(chart, framed)
        # One event beyond what single precision holds must not cost the others of its file their
        # answers: all of its samples are NaN, and it is flagged. A part of them would be a biased lot.
        lost = ~(positions.abs().amax(dim=(1, 2, 3)) < torch.finfo(torch.float32).max)
        positions[lost] = torch.nan
        log_prob = None
        if density is not None:
            log_prob = (density.cpu().double() + model.log_volume(framed)[:, None]).numpy()
            log_prob[lost.numpy()] = np.nan
        return PosteriorSamples(
            molecule=model.molecule,
            momenta=asked.momenta,
            positions=positions.numpy().astype(np.float32),
            log_prob=log_prob,
            ids=asked.numbers,
            sigma=sigma[rows],
            origin=self._origin(events),
            columns=asked.columns,
        )

    def _origin(self, events: Events) -> dict[str, Any]:
        own = self.noise is None and events.sigma is not None
        return {
            "model": self.model.card.get("name"),
            "architecture": self.model.architecture,
            "latent": self.latent,
            "seed": self.seed,
            "noise": "of each event" if own else str(self.noise),
            "noise_relative": self.model.noise.relative,
            "prior": self.model.prior_spec,
            "events": events.origin,
        }


def _checksum(model: TrainedModel) -> str:
    """Return a fingerprint of all that a model answers with: its numbers and what it says of itself."""
    digest = hashlib.sha256()
    about = [model.architecture, model.model.options.to_dict(), model.molecule.to_dict()]
    about += [model.frame.to_dict(), str(model.noise), model.card]
    digest.update(json.dumps(about, sort_keys=True, default=str).encode())
    for part, module in model.parts().items():
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(f"{part}.{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _chunks(momenta: ArrayLike | Events | Iterable[Events | ArrayLike]) -> Iterable[Events | ArrayLike]:
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
