"""Modes: the distinct geometries that explain an event, each with its probability.

Refined samples of an event fall onto a few points: every exact geometry is the end of the
searches that began in its basin. Two ends are one mode where all distances between atoms and
the handedness agree; identical ions are told apart by their measured momenta. The
probability of a mode is the weight of the samples of its basin. Where noise has carried the
momenta to where no geometry has them, the nearest miss, if within the noise, is a mode too.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, islice
from typing import TYPE_CHECKING

import numpy as np

from flowcei.posterior.refinement import CONVERGED, OUTSIDE, STALLED, Refinement

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from flowcei.physics.likelihood import Likelihood

__all__ = ["AMBIGUOUS", "UNEXPLAINED", "UNIQUE", "VERDICTS", "Modes", "find_modes", "local_covariance"]

UNIQUE, AMBIGUOUS, UNEXPLAINED = 0, 1, 2
VERDICTS = ("unique", "ambiguous", "unexplained")
"""One geometry has all but a hundredth of the probability; several share it; none explains the event."""

SAME = 0.01
"""Bohr: two geometries whose distances all differ by less are one."""

COUNTS = 0.01
"""Probability from which on a mode makes an event ambiguous."""

_FEWEST = 10.0  # effective samples from which on their weights are believed
_FLAT = 10.0  # times as far apart searches may end that arrived nowhere, and be one
_SAME_NOISE = 3.0  # deviations of the momenta between geometries that are one to the detector
_QUADRUPLES = 100  # of atoms, whose handedness is compared


@dataclass(frozen=True, eq=False)
class Modes:
    """The modes of E events, M of them in all; those of one event by falling probability.

    Attributes:
        event: Whose each is, (M,), 0 ... E - 1.
        number: Its place among the modes of its event, (M,), from 1.
        positions: (M, N, 3), bohr, in the frame of the momenta, centre of mass 0.
        covariance: Of the positions about the mode, (M, 3N, 3N), bohr^2: the Laplace
            approximation for a flat prior.
        probability: (M,); those of one event sum to 1, or are all 0 where the prior excludes them.
        laplace: The same by prior density times local volume, (M,), exact for little noise; NaN
            where the prior has no density.
        status: `CONVERGED`, `OUTSIDE` or, for the nearest miss, `STALLED`, (M,).
        error: |dp| / |p| of its simulated momenta, (M,).
        chi_squared: The same in units of the noise, (M,).
        starts: Searches that ended there, (M,).
        verdict: What to say of each event, (E,), numbers into `VERDICTS`.
        source: Where the probabilities of each event come from, (E,): ``weights`` (exact),
            ``laplace`` (where fewer than ten samples count) or ``samples`` (of the model alone).
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
        """The event, counted from 0, whose second exact geometry is the most probable; 0 if none has one."""
        exact = (self.status == CONVERGED) & (self.number > 1)
        return int(self.event[np.where(exact, self.probability, -1.0).argmax()]) if exact.any() else 0

    def count(self, status: int | None = None) -> NDArray[np.intp]:
        """Return how many modes each event has, (E,), of one status where it is given."""
        chosen = self.event if status is None else self.event[self.status == status]
        return np.bincount(chosen, minlength=len(self.verdict))


def find_modes(
    refinement: Refinement,
    likelihood: Likelihood,
    *,
    weights: NDArray[np.float64] | None = None,
    ess: NDArray[np.float64] | None = None,
    log_prior: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None = None,
    same: float = SAME,
) -> Modes:
    """Gather refined samples into modes.

    Args:
        refinement: Of the samples of E events.
        likelihood: Of the events.
        weights: Normalised importance weights, (E, n); all equal where None.
        ess: Effective number of samples, (E,), where there are weights.
        log_prior: Log density (B,) of geometries (B, N, 3), where the prior has one.
        same: Bohr; two geometries whose distances all differ by less are one.

    Returns:
        The modes. An event that no search explains has the nearest miss as its only one.

    Example:
        >>> import flowcei
        >>> e = flowcei.simulate("ocs", 2, noise="1%", seed=1)
        >>> flowcei.load().sample(e, 20, seed=1).modes().count().tolist()
        [1, 1]
    """
    e, n = refinement.status.shape
    # Without weights all that is known of the prior is what it excludes.
    shares = (refinement.status != OUTSIDE) / n if weights is None else weights
    if ess is not None:
        shares = np.where(ess[:, None] > 0.0, shares, 0.0)
    limit = likelihood.most_misfit
    found = [(k, *mode) for k in range(e) for mode in _gather(refinement, k, shares[k], same, limit)]
    found = _joined(found, refinement, likelihood)
    event = np.array([mode[0] for mode in found], dtype=np.intp)
    sample = np.array([mode[1] for mode in found], dtype=np.intp)
    share = np.array([mode[2] for mode in found])
    positions = refinement.positions[event, sample]
    covariance, log_volume = local_covariance(likelihood, positions, event)
    laplace = np.full(len(found), np.nan)
    if log_prior is not None:
        outside = refinement.status[event, sample] == OUTSIDE
        log_mass = log_prior(positions) + log_volume - 0.5 * refinement.chi_squared[event, sample]
        laplace = _normalised(np.where(outside, -np.inf, log_mass), event, e)
    source = np.full(e, "samples" if weights is None else "weights")
    if ess is not None:
        known = np.bincount(event, np.nan_to_num(laplace), minlength=e) > 0.5
        source = np.where((ess < _FEWEST) & known, "laplace", source)
    probability = np.where(source[event] == "laplace", laplace, share)
    status, chi_squared = refinement.status[event, sample], refinement.chi_squared[event, sample]
    order = np.lexsort((chi_squared, -probability, event))
    ranked = event[order]
    # A geometry outside the prior has a probability where weighted samples near it lie inside.
    believed = np.zeros(e, dtype=bool) if ess is None else ess >= _FEWEST
    explains = np.where(status == STALLED, chi_squared <= limit, (status != OUTSIDE) | believed[event])
    verdict = _verdicts(event[explains & (probability >= COUNTS)], e)
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
        np.array([mode[3] for mode in found], dtype=np.intp)[order],
        verdict,
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
    form = _form(refinement.positions[event, order])
    # Where two solutions meet and vanish the valley is flat, and a search ends less exactly.
    reach = np.where(status[order] == STALLED, _FLAT * same, same)
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


def _joined(
    found: list[tuple[int, int, float, int]], refinement: Refinement, likelihood: Likelihood
) -> list[tuple[int, int, float, int]]:
    """Join near misses to modes that the noise does not tell from them: a flat valley is one mode."""
    event = np.array([mode[0] for mode in found], dtype=np.intp)
    sample = np.array([mode[1] for mode in found], dtype=np.intp)
    missed = refinement.status[event, sample] == STALLED
    concerned = np.isin(event, event[missed])
    positions = refinement.positions[event, sample]
    slope = np.zeros((len(found), 3 * positions.shape[1] - 3, 3 * positions.shape[1]))
    slope[concerned] = _slope(likelihood, positions[concerned], event[concerned])
    kept: list[tuple[int, int, float, int]] = []
    place: list[int] = []
    for k, mode in enumerate(found):
        near = [j for j, other in enumerate(kept) if other[0] == mode[0]] if missed[k] else []
        for j in near:
            step = (positions[k] - positions[place[j]]).ravel()
            change = min(np.linalg.norm(slope[k] @ step), np.linalg.norm(slope[place[j]] @ step))
            if change < _SAME_NOISE:
                kept[j] = (*kept[j][:2], kept[j][2] + mode[2], kept[j][3] + mode[3])
                break
        else:
            kept.append(mode)
            place.append(k)
    return kept


def _slope(
    likelihood: Likelihood, positions: NDArray[np.float64], event: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return the derivatives of whitened momenta in units of the noise by positions, (M, 3N-3, 3N)."""
    slope = likelihood.slope(positions, event, accuracy=1e-8)
    return slope * (likelihood.size / likelihood.noise)[event, None, None]


def _form(positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what makes a geometry the same however it is turned, (K, F), bohr.

    All distances, and for the handedness the heights of quadruples of atoms: six volumes over
    the square of the size.
    """
    ions = positions.shape[1]
    first, second = np.triu_indices(ions, 1)
    distance = np.linalg.norm(positions[:, first] - positions[:, second], axis=-1)
    if ions < 4:
        return distance
    corners = np.array(list(islice(combinations(range(ions), 4), _QUADRUPLES)))
    edges = positions[:, corners[:, 1:]] - positions[:, corners[:, :1]]
    height = np.linalg.det(edges) / distance.max(axis=1, keepdims=True) ** 2
    return np.concatenate([distance, height], axis=1)


def local_covariance(
    likelihood: Likelihood, positions: NDArray[np.float64], event: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return how well the momenta fix geometries near these ones (Laplace, flat prior).

    Args:
        likelihood: Of the events.
        positions: Geometries, (M, N, 3), bohr.
        event: Whose each is, (M,).

    Returns:
        Covariance (M, 3N, 3N), bohr^2, of positions with the centre of mass at 0, and the log
        of the volume (M,) of its square root in the 3N - 3 relative positions. NaN and -inf
        where the simulator cannot follow, infinite where momenta leave a direction open.

    Example:
        >>> import flowcei
        >>> e = flowcei.simulate("ocs", 2, noise="1%", seed=1)
        >>> known = flowcei.load().sample(e, 2, seed=1).likelihood
        >>> local_covariance(known, e.positions, np.arange(2))[0].shape
        (2, 9, 9)
    """
    ions = positions.shape[1]
    slope = _slope(likelihood, positions, event)[:, :, 3:]
    bad = ~np.isfinite(slope).all(axis=(1, 2))
    slope[bad] = 0.0
    _, size, axes = np.linalg.svd(slope)
    with np.errstate(divide="ignore"):
        scale = np.where(size > 1e-12 * size[:, :1], 1.0 / size, np.inf)
        log_volume = np.log(scale).sum(axis=1)
    shift = np.eye(ions) - likelihood.masses / likelihood.masses.sum()
    relative = np.kron(shift[:, 1:], np.eye(3))
    closed = np.asarray(np.isfinite(scale).all(axis=1))
    factor = np.matmul(relative, np.swapaxes(axes, 1, 2)) * np.where(closed[:, None], scale, 1.0)[:, None]
    covariance = np.matmul(factor, np.swapaxes(factor, 1, 2))
    covariance[~closed] = np.inf
    covariance[bad] = np.nan
    return covariance, np.where(bad, -np.inf, log_volume)


def _normalised(log_density: NDArray[np.float64], event: NDArray[np.intp], e: int) -> NDArray[np.float64]:
    """Return exp(log density) over its sum within each event; NaN where all are 0 or unbounded."""
    total = np.full(e, -np.inf)
    np.logaddexp.at(total, event, log_density)
    total = total[event]
    known = np.isfinite(total)
    return np.where(known, np.exp(log_density - np.where(known, total, 0.0)), np.nan)


def _verdicts(event: NDArray[np.intp], e: int) -> NDArray[np.uint8]:
    """Return what to say of each of `e` events, from whose the geometries that explain one are."""
    count = np.bincount(event, minlength=e)
    return np.where(count == 0, UNEXPLAINED, np.where(count == 1, UNIQUE, AMBIGUOUS)).astype(np.uint8)
