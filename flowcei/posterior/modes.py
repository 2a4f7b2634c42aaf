"""Modes: the distinct geometries that explain an event, each with its probability.

Refined samples of an event fall onto a few points: every exact geometry is the end of the
searches that began in its basin. Two ends are one mode where all distances between atoms and
the handedness agree; identical ions are told apart by their measured momenta. The
probability of a mode is the weight of the samples of its basin. Where noise has carried the
momenta to where no geometry has them, the nearest miss, if within the noise, is a mode too.
Ends that the noise does not tell apart are one mode (`flowcei.posterior.distinct`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flowcei.posterior.distinct import covering, leaders, shape_of
from flowcei.posterior.laplace import local_covariance
from flowcei.posterior.refinement import CONVERGED, OUTSIDE, STALLED, TOLERANCE, Refinement

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from flowcei.experiment.likelihood import Likelihood

UNIQUE, AMBIGUOUS, UNEXPLAINED, UNANSWERED = 0, 1, 2, 3
VERDICTS = ("unique", "ambiguous", "unexplained", "no samples")
"""One geometry has all but a hundredth of the probability; several share it; none explains the
event; the model had no geometry to offer, so nothing was tried."""

SAME = 0.01
"""Bohr: two geometries whose distances all differ by less are one."""

COUNTS = 0.01
"""Probability from which on a mode makes an event ambiguous."""

_FLAT = 10.0  # times as far apart searches may end that arrived nowhere, and be one


@dataclass(frozen=True, eq=False)
class Modes:
    """The modes of E events, M of them in all; those of one event by falling probability.

    Attributes:
        event: Whose each is, (M,), 0 ... E - 1.
        number: Its place among the modes of its event, (M,), from 1.
        positions: (M, N, 3), bohr, in the frame of the momenta, centre of mass 0.
        covariance: Of the positions about the mode, (M, 3N, 3N), bohr^2: see
            `flowcei.posterior.laplace`; of all that the mode stands for.
        probability: (M,); those of one event sum to 1, or are all 0 where none explains it.
        laplace: The same by prior density times local volume, (M,), exact for little noise; NaN
            where the prior has no density.
        status: `CONVERGED`, `OUTSIDE` or, for the nearest miss, `STALLED`, (M,).
        error: |dp| / |p| of its simulated momenta, (M,).
        chi_squared: The same in units of the noise, (M,).
        starts: Searches that ended there, (M,).
        verdict: What to say of each event, (E,), numbers into `VERDICTS`.
        source: Where the probabilities of each event come from, (E,): ``weights`` (exact),
            ``laplace`` (where they are not reliable) or ``samples`` (of the model alone).
    """

    event: NDArray[np.intp]
    number: NDArray[np.intp]
    positions: NDArray[np.float64]
    covariance: NDArray[np.float64]
    probability: NDArray[np.float64]
    laplace: NDArray[np.float64]
    status: NDArray[np.uint8]
    error: NDArray[np.float64]
    chi_squared: NDArray[np.float64]
    starts: NDArray[np.intp]
    verdict: NDArray[np.uint8]
    source: NDArray[np.str_]

    def __len__(self) -> int:
        """Return the number of modes."""
        return len(self.event)

    def of(self, event: int) -> NDArray[np.intp]:
        """Return which modes belong to event number `event`, counted from 0."""
        return np.flatnonzero(self.event == event)

    @property
    def most_ambiguous(self) -> int:
        """The event, counted from 0, whose second exact geometry is the most probable.

        Where none has a second, the first that is explained; where none is, 0. A nearest miss
        is never the example.
        """
        exact = (self.status == CONVERGED) & (self.probability >= COUNTS)
        sound = np.bincount(self.event[exact], minlength=len(self.verdict)) == self.count()
        chosen = exact & sound[self.event]
        if not chosen.any():
            return 0
        return int(self.event[np.where(chosen, self.probability * (self.number > 1), -1.0).argmax()])

    def count(self, status: int | None = None) -> NDArray[np.intp]:
        """Return how many modes each event has, (E,), of one status where it is given."""
        chosen = self.event if status is None else self.event[self.status == status]
        return np.bincount(chosen, minlength=len(self.verdict))


def find_modes(
    refinement: Refinement,
    likelihood: Likelihood,
    *,
    weights: NDArray[np.float64] | None = None,
    reliable: NDArray[np.bool_] | None = None,
    log_prior: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None = None,
    same: float = SAME,
    resolve: bool = True,
) -> Modes:
    """Gather refined samples into modes.

    Args:
        refinement: Of the samples of E events.
        likelihood: Of the events.
        weights: Normalised importance weights, (E, n); all equal where None.
        reliable: Which events (E,) have weights to be believed, where there are any.
        log_prior: Log density (B,) of geometries (B, N, 3), where the prior has one.
        same: Bohr; two geometries whose distances all differ by less are one.
        resolve: Whether geometries that the noise does not tell apart are one mode: the most
            probable of them, with a covariance that covers all.

    Returns:
        The modes. An event that no search explains has the nearest miss as its only one.

    Example:
        >>> import flowcei
        >>> e = flowcei.simulate("ocs", 2, noise="1%", seed=1)
        >>> flowcei.load().sample(e, 20, seed=1).modes().count().tolist()
        [1, 1]
    """
    e, n = refinement.status.shape
    believed = np.full(e, weights is not None) if reliable is None else reliable
    # Without weights all that is known of the prior is what it excludes.
    shares = (refinement.status != OUTSIDE) / n
    if weights is not None:
        shares = np.where(believed[:, None], weights, shares)
    limit = likelihood.most_misfit
    answered = np.isfinite(refinement.positions).any(axis=(1, 2, 3))
    ends = [
        (k, *end)
        for k in np.flatnonzero(answered).tolist()
        for end in _gather(refinement, k, shares[k], same, limit)
    ]
    event, sample, starts = (np.array([end[k] for end in ends], dtype=np.intp) for k in (0, 1, 3))
    positions = refinement.positions[event, sample]
    status, chi_squared = refinement.status[event, sample], refinement.chi_squared[event, sample]
    # A geometry outside the prior has a probability where weighted samples near it lie inside.
    outside = status == OUTSIDE
    explains = np.where(outside, believed[event], (status == CONVERGED) | (chi_squared <= limit))
    covariance, log_volume = local_covariance(likelihood, positions, event, bounded=True)
    laplace = np.full(len(ends), np.nan)
    if log_prior is not None:
        with np.errstate(invalid="ignore"):  # no density, of a direction that momenta leave open: no mass
            log_mass = log_prior(positions) + log_volume - 0.5 * chi_squared
        log_mass[np.isnan(log_mass)] = -np.inf
        laplace = _normalised(np.where(outside | ~explains, -np.inf, log_mass), event, e)
    source = np.where(believed, "weights", "samples")
    if weights is not None:
        known = np.bincount(event, np.nan_to_num(laplace), minlength=e) > 0.5
        source = np.where(~believed & known, "laplace", source)
    share = np.where(explains, np.array([end[2] for end in ends], dtype=float), 0.0)
    share = _shared(share, event, e)
    probability = np.where(source[event] == "laplace", laplace, share)
    first = np.lexsort((refinement.error[event, sample], -probability, status == STALLED, event))
    leader = leaders(likelihood, positions, event, first, log_prior) if resolve else np.arange(len(event))
    covariance = covering(covariance, positions, probability, leader)
    for sums in (probability, laplace, starts):
        sums[:] = np.bincount(leader, sums, minlength=len(sums))
    order = np.lexsort((chi_squared, -probability, event))
    order = order[leader[order] == order]
    ranked = event[order]
    verdict = _verdicts(event[order][explains[order] & (probability[order] >= COUNTS)], e)
    return Modes(
        ranked,
        np.arange(len(ranked)) - np.searchsorted(ranked, ranked) + 1,
        positions[order],
        covariance[order],
        probability[order],
        laplace[order],
        status[order],
        refinement.error[event, sample][order],
        chi_squared[order],
        starts[order],
        np.where(answered, verdict, UNANSWERED).astype(np.uint8),
        source,
    )


def _gather(
    refinement: Refinement, event: int, shares: NDArray[np.float64], same: float, limit: float
) -> list[tuple[int, float, int]]:
    """Return the modes of one event: the best of their samples, their share, their starts."""
    status, error = refinement.status[event], refinement.error[event]
    missed = np.flatnonzero((status == STALLED) & (refinement.chi_squared[event] <= limit))
    arrived = np.flatnonzero(status != STALLED)
    order = np.concatenate([rows[np.argsort(error[rows], kind="stable")] for rows in (arrived, missed)])
    if not len(order):
        best = int(refinement.chi_squared[event].argmin())
        return [(best, float(shares.sum() > 0), len(status))]
    form = shape_of(refinement.positions[event, order])
    # Where two solutions meet and vanish the valley is flat, and a search ends less exactly.
    reach = np.where(error[order] > TOLERANCE, _FLAT * same, same)
    free = np.ones(len(order), dtype=bool)
    found = []
    while free.any():
        first = int(free.argmax())
        members = free & (np.abs(form - form[first]).max(axis=1) < reach)
        members[first] = True
        free &= ~members
        basin = order[members]
        found.append((int(order[first]), float(shares[basin].sum()), int(members.sum())))
    total = sum(share for _, share, _ in found)
    # Searches that ended nowhere tell of no geometry: their weight is spread over the others.
    return [(k, share / total if total > 0 else 0.0, starts) for k, share, starts in found]


def _normalised(log_density: NDArray[np.float64], event: NDArray[np.intp], e: int) -> NDArray[np.float64]:
    """Return exp(log density) over its sum within each event; NaN where all are 0 or unbounded."""
    total = np.full(e, -np.inf)
    np.logaddexp.at(total, event, log_density)
    total = total[event]
    known = np.isfinite(total)
    return np.where(known, np.exp(log_density - np.where(known, total, 0.0)), np.nan)


def _shared(share: NDArray[np.float64], event: NDArray[np.intp], e: int) -> NDArray[np.float64]:
    """Return shares (M,) over their sum within each event; 0 where that is 0."""
    total = np.bincount(event, share, minlength=e)[event]
    return np.where(total > 0.0, share / np.where(total > 0.0, total, 1.0), 0.0)


def _verdicts(event: NDArray[np.intp], e: int) -> NDArray[np.uint8]:
    """Return what to say of each of `e` events, from whose the geometries that explain one are."""
    count = np.bincount(event, minlength=e)
    return np.where(count == 0, UNEXPLAINED, np.where(count == 1, UNIQUE, AMBIGUOUS)).astype(np.uint8)
