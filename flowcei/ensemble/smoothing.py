"""The search for a law that changes smoothly along a column of the events.

Sums over true values are at equal steps, in which the mean moves by hardly more than a width of
the law. Expectation and maximisation is in closed form, first of the covariances, then of the coefficients
(X.-L. Meng and D. Rubin, Biometrika 80, 267 (1993)), for each shape that is tried.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import block_diag

from flowcei.ensemble.components import Components
from flowcei.ensemble.fitting import Weighted, accelerated, counted, expected, responsibilities, truth
from flowcei.ensemble.smooth import SmoothLaw
from flowcei.ensemble.splines import FEWEST_TRUE, REACH, ends_of, mean_basis, true_values
from flowcei.ensemble.uncertainty import MonteCarlo, inverted, scored, significant
from flowcei.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowcei.ensemble.coordinates import Chart
    from flowcei.ensemble.laws import NormalLaw
    from flowcei.posterior.arrays import Bools, Floats, Rows

FEWEST = 5
"""Values of a column along which a law is smoothed."""

_SPLINES = (2, 4, 6, 9, 13, 18)  # that are tried, one after the other
_HATS, _MOST_HATS = {8: 2, 16: 3}, 4  # covariances at the most, of fewer values than these; of more
_MOST_TRUE = 61  # true values of a nominal one
_WIDTHS = 1.5  # of the law, from one true value to the next
_STEPS, _ENOUGH = 90, 3e-2  # of the search, and the gain of log likelihood of three that ends it
_DAMPING = (0.0, 0.3, 3.0, 30.0)  # of the last step, over the information: hardly known ends go too far
_LOSS = 1.0  # of log likelihood that it may have: it takes off a bias too
_MOST_VALUES = 200  # of a column: of more, those that are near are taken for one
_DENSE = 200  # values at which splines are begun with the means of single values
_STILL = 1e-6  # of the largest information on a coefficient
_UNLIKELY = 1e-3  # Akaike weight over the largest: less does not count
_FEWEST_EVENTS = 2.0  # of a spline or a covariance: there are none in a gap


def _without_pulses(values: Floats, laws: Sequence[NormalLaw], deviation: float) -> tuple[Floats, int]:
    """The mean covariance (K, K) of laws, the pulses roughly taken out; how many true values are needed."""
    mean = np.array([one.mean[0] for one in laws])
    covariance = np.mean([one.covariance[0] for one in laws], axis=0)
    moved = np.median(np.abs(np.gradient(mean, values, axis=0)), axis=0) * deviation
    own = np.clip(1.0 - moved**2 / np.diagonal(covariance), 0.1, 1.0)
    # From one to the next a mean moves by no more than so many widths: the sum is then as smooth as the law.
    step = _WIDTHS * np.sqrt(own * np.diagonal(covariance))
    count = int(np.ceil(REACH * float((moved / step).max())))
    return covariance * np.sqrt(own * own[:, None]), int(np.clip(2 * count + 1, FEWEST_TRUE, _MOST_TRUE))


@dataclass(frozen=True, eq=False)
class _Grid:
    """What laws of some shape say at G true values of each of V nominal ones."""

    splines: Floats  # (V, G, M)
    hats: Floats  # (V, G, J)
    share: Floats  # of the true values, (G,)

    @classmethod
    def of(cls, law: SmoothLaw, values: Floats) -> _Grid:
        """Of the shape of a law, at values (V,)."""
        nodes, share = true_values(law.cross_correlation, law.true_count)
        true = (values[:, None] + nodes).ravel()
        shape = len(values), len(nodes), -1
        return cls(law.splines(true).reshape(shape), law.hats(true).reshape(shape), share)

    def components(self, law: SmoothLaw) -> Components:
        """Components (G J) of a law at each value."""
        (v, g, j), k = self.hats.shape, len(law.bends)
        mean = np.repeat(self.splines @ law.coefficients, j, axis=1)
        with np.errstate(divide="ignore"):
            log_share = np.log(self.hats * self.share[:, None]).reshape(v, -1)
        return Components.of(mean.reshape(v, g * j, k), log_share, law.covariance, self.which, law.bends)

    @property
    def which(self) -> Rows:
        """The covariance of each component, (G J,)."""
        return np.tile(np.arange(self.hats.shape[2]), self.hats.shape[1])

    def by_number(self, sums: Floats) -> Floats:
        """Sums (V, G J, ...) of components as (V, G, J, ...)."""
        return sums.reshape(*self.hats.shape, *sums.shape[2:])

    def fewest(self, times: Floats) -> float:
        """Events of the spline or covariance that has the fewest, of times (V,) at each value."""
        own = times[:, None, None] * self.share[:, None]
        return float(min((own * np.abs(one)).sum(axis=(0, 1)).min() for one in (self.splines, self.hats)))


@dataclass(frozen=True, eq=False)
class _Events:
    """Samples of events, each of one of some values."""

    samples: Weighted
    values: Floats  # (V,)
    row: Rows  # of the value of each event, (E,)

    @classmethod
    def of(cls, samples: Weighted, by: Floats) -> _Events:
        """Of events with values (E,) of a column; of very many values those that are near are one."""
        values, row = np.unique(by, return_inverse=True)
        if len(values) > _MOST_VALUES:
            near = np.round((by - by.min()) / np.ptp(by) * _MOST_VALUES)
            _, row, count = np.unique(near, return_inverse=True, return_counts=True)
            values = np.bincount(row, by) / count
        return cls(samples, values, row)

    @property
    def count(self) -> Floats:
        """How many there are of each value, (V,)."""
        return np.bincount(self.row, minlength=len(self.values)).astype(np.float64)


def _step(law: SmoothLaw, grid: _Grid, events: _Events) -> tuple[SmoothLaw, float]:
    """One step of expectation and maximisation, and the log likelihood before it."""
    sums, height = expected(grid.components(law), events.samples, events.row)
    count, first = map(grid.by_number, (sums.count, sums.first))
    by_covariance = count.sum(axis=(0, 1))
    if not by_covariance.min() > 1.0:
        raise DataError("a covariance of the smooth law has no events")
    mean = grid.splines @ law.coefficients
    cross = np.einsum("vgjk,vgl->jkl", first - 0.5 * count[..., None] * mean[:, :, None], mean)
    covariance = sums.second.sum(axis=0) - cross - np.swapaxes(cross, 1, 2)
    covariance = covariance / by_covariance[:, None, None]
    straight = ~law.bends
    squares = np.einsum("jkk->jk", covariance)
    covariance = covariance * (straight[:, None] & straight)
    covariance += np.eye(len(straight)) * np.where(law.bends, 0.5 * squares, 0.0)[:, None]
    inverse = np.linalg.inv(covariance[:, straight][:, :, straight])
    design = np.einsum("vgj,vgm,vgn->jmn", count, grid.splines, grid.splines)
    pull = np.einsum("vgm,vgjk->jmk", grid.splines, first[..., straight])
    m, size = len(law.coefficients), int(straight.sum())
    normal = np.einsum("jmn,jkl->mknl", design, inverse).reshape(m * size, m * size)
    right = np.einsum("jmk,jkl->ml", pull, inverse).ravel()
    still = _STILL * np.diagonal(normal).max()  # splines that hardly an event is of stay as they are
    right += still * law.coefficients[:, straight].ravel()
    coefficients = np.zeros((m, len(straight)))
    own = np.linalg.solve(normal + still * np.eye(len(right)), right)
    coefficients[:, straight] = own.reshape(m, -1)
    # Of events whose like ions are exchanged, as of those at hand.
    coefficients = np.einsum("gkl,ml->mk", law.images, coefficients) / len(law.images)
    covariance = np.einsum("gkl,jlm,gnm->jkn", law.images, covariance, law.images) / len(law.images)
    return replace(law, coefficients=coefficients, covariance=covariance), height


def _maximised(law: SmoothLaw, events: _Events) -> tuple[SmoothLaw, float]:
    """The most likely law that a search from another finds, and its log likelihood."""
    heights = [-np.inf]

    def close(_: SmoothLaw, __: SmoothLaw, height: float) -> bool:
        heights.append(height)
        return height - heights[-2] < _ENOUGH

    grid = _Grid.of(law, events.values)
    law = accelerated(law, partial(_step, grid=grid, events=events), close, _STEPS)
    return law, heights[-1]


def smooth_law(
    values: Floats,
    laws: Sequence[NormalLaw],
    chart: Chart,
    short: Weighted,
    full: Weighted,
    by: Floats,
    distinct: float,
    cross_correlation: float,
) -> SmoothLaw:
    """The smooth law of events with values `by` (E,) of a column, from laws at some values.

    `short` are a few samples of each event, near the law, by which it is sought; a step of Fisher's scoring
    on `full`, all of them, ends the search and tells its errors. The cross-correlation is its deviation.

    Raises:
        DataError: Where the samples of each event are too few.
    """
    events, k = _Events.of(short, by), len(chart.bends)
    own, count = _without_pulses(values, laws, cross_correlation)
    shape = chart.coordinates, chart.bends, values, np.zeros((_SPLINES[0], k)), own[None]
    law = SmoothLaw(*shape, cross_correlation, chart.images, np.empty(0), count)
    tried = _means(law, events, np.array([one.mean[0] for one in laws]))
    most = next((hats for few, hats in _HATS.items() if len(values) < few), _MOST_HATS)
    start = max(tried, key=_first)[1]
    tried += _likely([start.with_covariances(hats) for hats in sorted({2, most})], events)
    best = max(tried, key=_first)[1]
    law = _scored(best, _Events.of(full, by), distinct)
    return replace(law, shapes=_weighed(sorted(tried, key=_first, reverse=True)))


def _weighed(tried: list[tuple[float, SmoothLaw]]) -> tuple[tuple[float, SmoothLaw], ...]:
    """Laws with Akaike weights, in place of the criterion that they come in the order of."""
    weights = np.exp([criterion - tried[0][0] for criterion, _ in tried])
    count = int((weights > _UNLIKELY).sum())
    return tuple(zip(weights[:count] / weights[:count].sum(), [law for _, law in tried], strict=False))


def _first(tried: tuple[float, SmoothLaw]) -> float:
    """The criterion by which one of several laws is the best."""
    return tried[0]


def _means(law: SmoothLaw, events: _Events, means: Floats) -> list[tuple[float, SmoothLaw]]:
    """Laws of one covariance with H. Akaike's criterion: means (V, K) begin the search.

    They have more and more splines, as long as there are events of each; then the best number and fewer,
    with a mean that stays beyond one end or both.
    """
    dense = np.linspace(*ends_of(law.values, 0.0), _DENSE)
    wanted = np.stack([np.interp(dense, law.values, column) for column in means.T], axis=1)
    tried = list[tuple[float, SmoothLaw]]()
    shapes = [(number, (True, True)) for number in _SPLINES if number <= len(law.values)]
    for number, straight in shapes:
        basis = mean_basis(dense, number, ends_of(law.values, 0.0), straight)
        law = replace(law, coefficients=np.linalg.lstsq(basis, wanted, rcond=None)[0], straight=straight)
        tried += (own := _likely([law], events))
        if not own:  # a gap in the column
            break
        law = own[0][1]
    if not law.cross_correlation > 0.0:  # nothing is seen of what is beyond
        return tried
    return tried + _likely(
        [
            replace(one, straight=straight)
            for _, one in tried[: 1 + int(np.argmax([criterion for criterion, _ in tried]))]
            for straight in ((False, True), (True, False), (False, False))
        ],
        events,
    )


def _likely(starts: list[SmoothLaw], events: _Events) -> list[tuple[float, SmoothLaw]]:
    """The most likely laws from some, with H. Akaike's criterion, where there are events to tell them."""
    enough = [law for law in starts if _Grid.of(law, events.values).fewest(events.count) >= _FEWEST_EVENTS]
    each = [_maximised(law, events) for law in enough]
    return [(height - law.numbers, law) for law, height in each]


def _scored(law: SmoothLaw, events: _Events, distinct: float) -> SmoothLaw:
    """A law after a step of Fisher's scoring, less the bias of its sums, with the errors of its numbers."""
    m, k = law.coefficients.shape
    size = m * k + law.covariance.shape[0] * k
    noise, bias, scores, height = np.zeros((size, size)), np.zeros(size), [], 0.0
    grid = _Grid.of(law, events.values)
    inverse = np.asarray(np.linalg.inv(law.covariance), dtype=np.float64)
    components = grid.components(law)
    mean: Floats = grid.splines @ law.coefficients
    for v, splines in enumerate(grid.splines):
        chain = block_diag(np.kron(splines, np.eye(k)), np.eye(size - m * k))  # to the numbers of the law
        some = counted(events.samples, (events.row == v).astype(np.float64))
        for rows, z, base in some.blocks(20 * len(grid.which)):
            log_r, each = responsibilities(components, z, base, np.full(len(z), v))
            log_likelihood, true = truth(log_r, some.p_true[rows])
            height, shares = height + float(log_likelihood.sum()), each.sum(axis=2)
            event, place = significant(shares)
            own = shares[event, place]
            member = each[event, place] / own[:, None]
            member = member.reshape(-1, *grid.hats.shape[1:])
            slopes = _slopes(z[event, place], member, mean[v], inverse, law.bends)
            score, covariance, shift = scored(slopes, own, event, true, distinct)
            scores.append(score @ chain)
            noise, bias = noise + chain.T @ covariance @ chain, bias + shift @ chain
    every = np.concatenate(scores)
    fisher = every.T @ every
    covariance = inverted(fisher)
    MonteCarlo.of(covariance, noise, bias, events.samples.z.shape[1]).check()
    law = replace(law, error=covariance + covariance @ noise @ covariance)
    for damping in _DAMPING:
        own = inverted(fisher + damping * np.diag(np.diagonal(fisher)))
        moved = law.moved(own @ (every.sum(axis=0) - bias))
        if _step(moved, grid, events)[1] > height - _LOSS:
            return moved
    return law


def _slopes(z: Floats, member: Floats, mean: Floats, inverse: Floats, bends: Bools) -> Floats:
    """Derivatives (S, G K + J K) of the log density by the mean at each true value and by log deviations.

    Points z (S, K) are members (S, G, J) of components with means (G, K).
    """
    by_mean, by_width = np.zeros((len(z), *mean.shape)), np.zeros((len(z), *inverse.shape[:2]))
    for j, one in enumerate(inverse):
        own = member[:, :, j]
        if not own.any():
            continue
        y, at = z @ one, mean @ one
        by_mean += own[:, :, None] * (y[:, None] - at)
        # The sum over true values of (z - mean) (y - at), which are products of matrices.
        square = z * (y * own.sum(axis=1)[:, None] - own @ at) - y * (own @ mean) + own @ (mean * at)
        by_width[:, j] = square - own.sum(axis=1)[:, None] * np.where(bends, 2.0, 1.0)
    by_mean *= ~bends
    return np.concatenate([by_mean.reshape(len(z), -1), by_width.reshape(len(z), -1)], axis=1)
