"""The law of greatest likelihood of many events: expectation and maximisation, accelerated.

Samples k of event i have weights w_ik under the prior. The likelihood of a law is the product over events
of p_i R_i + 1 - p_i, R_i = sum_k w_ik pi(q_ik) / pi0(q_ik), where p_i is P(true) under the prior: the
evidence of the event and the density of accidents enter by it alone (E. Thrane and C. Talbot,
arXiv:1809.02293). Where some events are never seen, the lost ones are added to the expected sums (A.
Dempster, N. Laird and D. Rubin, J. R. Statist. Soc. B 39, 1 (1977)).
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from flowcei.ensemble.components import Moments
from flowcei.ensemble.laws import NormalLaw
from flowcei.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self

    from flowcei.ensemble.components import Components
    from flowcei.posterior.arrays import Bools, Floats, Reals, Rows

_BLOCK = 200_000  # samples that are looked at together
_STEPS = 900  # of a search, at the most
_MEMORY = 8  # steps that the next law is extrapolated from, but one
_SHORTEST = 1e-5  # step that ends it
_COPIES = 40  # samples of an event, drawn by a law, that stand for it near this law
_WIDER = 2.0  # variances of the law that these are drawn by, over those of the law
_DRAWINGS, _ROUGH, _CORRECTIONS = 2, 1e-2, 8  # of a search by these: steps that end a drawing; corrections


@dataclass(frozen=True, eq=False)
class Weighted:
    """Coordinates of n samples of each of E events, with what a law is multiplied by."""

    z: Reals  # (E, n, K)
    log_base: Reals  # log of normalised weight over the density of z under the prior, (E, n)
    p_true: Floats  # under the prior, (E,)
    count: Floats  # how often each event counts, (E,): bootstrap

    def blocks(self, numbers: int = 1) -> Iterator[tuple[slice, Floats, Floats]]:
        """Rows, coordinates (e, n, K) and base (e, n) of some events after others, in double precision.

        The fewer at a time, the more numbers are made of each sample.
        """
        step = max(1, _BLOCK // self.z.shape[1] // max(1, numbers // 20))
        for first in range(0, len(self.z), step):
            rows = slice(first, first + step)
            yield rows, self.z[rows].astype(np.float64), self.log_base[rows].astype(np.float64)


@dataclass(frozen=True, eq=False)
class Selection:
    """Draws of the prior, and which of them a measurement keeps: what a law loses."""

    z: Floats  # (M, K)
    log_prior: Floats  # (M,)
    kept: Bools  # (M,)

    def weights(self, law: NormalLaw) -> Floats:
        """Of each kept draw, its share of the law, (M',); they sum to the chance to be kept."""
        z, log_prior = self.z[self.kept], self.log_prior[self.kept]
        return np.exp(law.log_prob(z) - log_prior) / len(self.kept)

    def chance(self, law: NormalLaw) -> float:
        """Chance that an event of a law is kept."""
        return float(self.weights(law).sum())

    def effective(self, law: NormalLaw) -> float:
        """Effective number of draws that tell it."""
        weights = self.weights(law)
        return float(weights.sum() ** 2 / max((weights**2).sum(), 1e-300))

    def moments(self, law: NormalLaw) -> Moments:
        """Expected sums of one event that is kept."""
        z, log_prior = self.z[self.kept], self.log_prior[self.kept]
        weights = np.exp(law.log_each(z) - log_prior[:, None])
        return Moments.of(z, weights / weights.sum())


def responsibilities(
    components: Components, z: Floats, base: Floats, row: Rows | None = None
) -> tuple[Floats, Floats]:
    """Log R (e,), and the share (e, n, C) that each sample (e, n, K) and component has of it."""
    each = components.log_each(z, row)
    each += base[:, :, None]
    top = each.max(axis=(1, 2))
    top = np.where(np.isfinite(top), top, 0.0)
    each = np.exp(each - top[:, None, None])
    total = each.sum(axis=(1, 2))
    with np.errstate(divide="ignore"):
        log_r = top + np.log(total)
    return log_r, each / np.where(total > 0.0, total, 1.0)[:, None, None]


def truth(log_r: Floats, p_true: Floats) -> tuple[Floats, Floats]:
    """Log likelihood (E,) of events, and P(true) under the law, of log R and P(true) under the prior."""
    with np.errstate(divide="ignore"):
        true, accident = np.log(p_true) + log_r, np.log1p(-p_true)
    total = np.logaddexp(true, accident)
    return total, np.exp(true - np.where(np.isfinite(total), total, 0.0))


def accident_weight(p_true: Floats, top: Floats) -> Floats:
    """(1 - P(true)) exp(-top), (E,), finite where an event is far less probable than under the prior."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.exp(np.minimum(np.log1p(-p_true) - top, 700.0)))


def expected(components: Components, data: Weighted, row: Rows | None = None) -> tuple[Moments, float]:
    """Expected sums (S, ...) of true events whose means are of a row (E,) each, and the log likelihood."""
    row = np.zeros(len(data.z), dtype=np.intp) if row is None else row
    sums, height = list[Moments](), 0.0
    for rows, z, base in data.blocks():
        p_true, times = data.p_true[rows], data.count[rows]
        log_r, own = components.moments(z, base, p_true, times, row[rows])
        height += float(times @ truth(log_r, p_true)[0])
        sums = [sums[0] + own] if sums else [own]
    return sums[0], height


def expectation(law: NormalLaw, data: Weighted, selection: Selection | None = None) -> tuple[Moments, float]:
    """Expected sums of all true events under a law, and its log likelihood."""
    each, log_likelihood = expected(law.components, data)
    sums = each[0]
    if selection is not None:
        seen = float(sums.count.sum())
        chance = min(selection.chance(law), 1.0)
        lost = law.moments.times(seen / chance) + selection.moments(law).times(-seen)
        sums, log_likelihood = sums + lost, log_likelihood - seen * np.log(chance)
    return sums, log_likelihood


def maximised(
    law: NormalLaw,
    data: Weighted,
    images: Floats,
    selection: Selection | None = None,
    steps: int = _STEPS,
    shortest: float = _SHORTEST,
    lacking: Moments | None = None,
) -> tuple[NormalLaw, float]:
    """The most likely law that a search from another finds, and its log likelihood.

    Steps that are shorter, of a number over its deviation, end it. Expected sums may lack others.
    """

    def step(law: NormalLaw) -> tuple[NormalLaw, float]:
        sums, log_likelihood = expectation(law, data, selection)
        if lacking is not None:
            sums, log_likelihood = sums + lacking, log_likelihood + law.log_complete(lacking)
        return NormalLaw.of(sums.imaged(images), law.bends), log_likelihood

    def close(law: NormalLaw, after: NormalLaw, _: float) -> bool:
        return _moved(law, after) + float(np.abs(after.vector - law.vector).max()) < shortest

    law = accelerated(law, step, close, steps)
    return law, expectation(law, data, selection)[1]


def searched(
    law: NormalLaw, data: Weighted, images: Floats, selection: Selection | None = None
) -> tuple[NormalLaw, float]:
    """As `maximised`, with few looks at all samples: some that a law near by has drawn stand for them.

    What their expected sums lack of those of all samples hardly changes near a law. It is added to them, and
    found anew under the law that they lead to, until this is the most likely one of all samples.
    """
    if data.z.shape[1] <= 2 * _COPIES:
        return maximised(law, data, images, selection)
    rng, near = np.random.default_rng(0), law
    with suppress(DataError, np.linalg.LinAlgError, FloatingPointError):  # a law without width: go on by all
        for _ in range(_DRAWINGS):
            short = drawn(near, data, rng)
            near, _ = maximised(near, short, images, selection, shortest=_ROUGH)
        for _ in range(_CORRECTIONS):
            lacking = expectation(near, data)[0] + expectation(near, short)[0].times(-1.0)
            before, (near, _) = near, maximised(near, short, images, selection, lacking=lacking)
            if _moved(before, near) < _SHORTEST:
                break
    return maximised(near, data, images, selection)


def _moved(law: NormalLaw, other: NormalLaw) -> float:
    """How far means are from another's, over deviations, at the most."""
    return float(np.abs((other.mean - law.mean) / law.deviation).max())


class Numbered(Protocol):
    """A law whose numbers are a vector without bounds."""

    @property
    def vector(self) -> Floats:
        """The numbers."""

    def from_vector(self, vector: Floats) -> Self:
        """Return the law of the same shape with others."""


Law = TypeVar("Law", bound=Numbered)


def accelerated(
    law: Law,
    step: Callable[[Law], tuple[Law, float]],
    close: Callable[[Law, Law, float], bool],
    steps: int,
) -> Law:
    """What steps of expectation and maximisation lead to, extrapolated.

    A step returns the next law and the log likelihood before it; `close` is asked of both laws and that, at
    every third step. The next law is where the steps of the last ones, taken for linear, vanish (D. G.
    Anderson, J. ACM 12, 547 (1965)). Where that is less likely the search goes on by a step, and forgets: so
    it never gets worse. Where noise is large each step is short, and two alone (SQUAREM) extrapolate to five
    times as many.
    """
    points: list[Floats] = []
    moves: list[Floats] = []
    after, here = step(law)
    for k in range(steps):
        if k % 3 == 2 and close(law, after, here):
            break
        points, moves = points[-_MEMORY:], moves[-_MEMORY:]
        points.append(law.vector)
        moves.append(after.vector - law.vector)
        if len(moves) > 1:
            bends, ways = np.diff(moves, axis=0).T, np.diff(points, axis=0).T
            share = np.linalg.lstsq(bends, moves[-1], rcond=1e-10)[0]
            with suppress(DataError, np.linalg.LinAlgError, FloatingPointError):
                there = law.from_vector(points[-1] + moves[-1] - (ways + bends) @ share)
                beyond, height = step(there)
                if height >= here:
                    law, after, here = there, beyond, height
                    continue
            points, moves = [], []
        law = after
        after, here = step(law)
    return after


def pooled_start(data: Weighted, weights: Floats, bends: Bools, components: int, along: int = 0) -> NormalLaw:
    """A law to begin with, of samples with weights (E, n): components side by side along a coordinate."""
    k = data.z.shape[2]
    if components == 1:
        sums = (Moments.of(z.reshape(-1, k), weights[rows].reshape(-1, 1)) for rows, z, _ in data.blocks())
        return NormalLaw.of(reduce(add, sums), bends)
    z, flat = data.z.reshape(-1, k).astype(np.float64), weights.reshape(-1, 1)
    order = np.argsort(z[:, along])
    rank = np.cumsum(flat[order, 0]) / flat.sum()
    group = np.empty(len(z), dtype=np.intp)
    group[order] = np.minimum((rank * components).astype(np.intp), components - 1)
    member = flat * (group[:, None] == np.arange(components))
    return NormalLaw.of(Moments.of(z, member), bends)


def fitted(z: Floats, bends: Bools, components: int) -> NormalLaw:
    """A mixture of normals that points z (B, K) are draws of."""
    ones = np.ones(len(z))
    data = Weighted(z[:, None], np.zeros((len(z), 1)), ones, ones)
    start = pooled_start(data, ones[:, None], bends, components)
    return maximised(start, data, np.eye(z.shape[1])[None], steps=60)[0]


def counted(data: Weighted, count: Floats) -> Weighted:
    """The same events, each so many times (E,)."""
    chosen = count > 0
    return replace(
        data,
        z=data.z[chosen],
        log_base=data.log_base[chosen],
        p_true=data.p_true[chosen],
        count=count[chosen],
    )


def drawn(law: NormalLaw, data: Weighted, rng: np.random.Generator, copies: int = _COPIES) -> Weighted:
    """A few samples of each event by its posterior under a wider law, weighed back."""
    wide = replace(law, covariance=_WIDER * law.covariance)
    z = np.empty((len(data.z), copies, data.z.shape[2]))
    base = np.empty(z.shape[:2])
    for rows, points, own in data.blocks():
        log_r, shares = responsibilities(wide.components, points, own)
        steps = shares.sum(axis=2).cumsum(axis=1)
        marks = (np.arange(copies) + rng.random((len(own), 1))) / copies * steps[:, -1:]
        chosen = np.stack([np.searchsorted(s, m) for s, m in zip(steps, marks, strict=True)])
        chosen = chosen.clip(0, own.shape[1] - 1)
        z[rows] = np.take_along_axis(points, chosen[:, :, None], axis=1)
        flat = wide.log_prob(z[rows].reshape(-1, z.shape[2])).reshape(base[rows].shape)
        base[rows] = log_r[:, None] - np.log(copies) - flat
    return replace(data, z=z, log_base=base)
