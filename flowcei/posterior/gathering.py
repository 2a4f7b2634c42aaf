"""Modes from the ends of searches.

Refined samples of an event fall onto a few points: every exact geometry is the end of the searches that began
in its basin, and its probability the weight of the samples there. Two ends are one mode where all distances
and the handedness agree, or where the noise does not tell them apart (`flowcei.posterior.laplace`). Where
noise has carried the momenta to where no geometry has them, the nearest miss, if within the noise, is a mode
too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowcei.experiment.likelihood import nonfinite_allowed
from flowcei.physics.explosion import centre_of_mass
from flowcei.physics.threads import in_threads
from flowcei.posterior.laplace import MODE_RULES, ModeRules, covering, leaders, local_covariance
from flowcei.posterior.modes import AMBIGUOUS, UNANSWERED, UNEXPLAINED, UNIQUE, Modes
from flowcei.posterior.refinement import (
    CONVERGED,
    OUTSIDE,
    REFINEMENT_RULES,
    STALLED,
    Refinement,
    RefinementRules,
    judged,
    solved,
)
from flowcei.posterior.searches import SEARCH_RULES, Searches, SearchRules, group_ends, search_ends

if TYPE_CHECKING:
    from flowcei.experiment.likelihood import Likelihood
    from flowcei.posterior.arrays import Bools, Floats, Reals, Rows
    from flowcei.posterior.laplace import LogPrior
    from flowcei.posterior.refinement import Plausible
    from flowcei.posterior.weights import Weights

_BLOCK = 1024  # events whose searches go together, at the most
_HELD = 8_000_000  # numbers of samples and derivatives of theirs
_LAST = RefinementRules(steps=20, patience=5, damping=1e-8)  # of searches that have all but arrived
_STAY = 0.1  # bohr


class _Ends(NamedTuple):
    """Ends of searches, event by event."""

    event: Rows  # (K,)
    positions: Floats  # (K, N, 3), bohr, centre of mass 0
    status: NDArray[np.uint8]  # (K,)
    error: Floats  # (K,)
    chi_squared: Floats  # (K,)
    share: Floats  # of the weight of the samples of the event, (K,)
    starts: Rows  # (K,)

    def of(self, rows: Rows) -> _Ends:
        """Some of them."""
        first = self.event[rows], self.positions[rows], self.status[rows]
        return _Ends(*first, self.error[rows], self.chi_squared[rows], self.share[rows], self.starts[rows])


class _Target(NamedTuple):
    """The posteriors of E events, as far as their modes need them."""

    likelihood: Likelihood
    shares: Floats  # of the samples, (E, n)
    used: Bools  # whether these are weights, (E,)
    weighed: bool  # whether there are any
    log_prior: LogPrior | None
    rules: ModeRules

    @classmethod
    def of(
        cls,
        likelihood: Likelihood,
        n: int,
        weights: Weights | None,
        log_prior: LogPrior | None,
        rules: ModeRules,
    ) -> _Target:
        """Where weights are not reliable, n samples count alike."""
        used = np.zeros(len(likelihood.size), dtype=bool) if weights is None else weights.reliable
        shares = np.full((len(used), n), 1.0 / n)
        if weights is not None:
            shares = np.where(used[:, None], weights.normalised, shares)
        return cls(likelihood, shares, used, weights is not None, log_prior, rules)


def search_modes(
    likelihood: Likelihood,
    positions: Reals,
    *,
    weights: Weights | None = None,
    log_prior: LogPrior | None = None,
    plausible: Plausible | None = None,
    rules: ModeRules = MODE_RULES,
    search: SearchRules = SEARCH_RULES,
    threads: int | None = None,
) -> Modes:
    """Find the modes of E events by searches from some of their samples (E, n, N, 3), bohr."""
    e, n, ions = positions.shape[:3]
    size = int(np.clip(_HELD // (n + search.starts * (3 * ions) ** 2), 1, _BLOCK))
    blocks = [slice(k, k + size) for k in range(0, e, size)] or [slice(0, 0)]
    parts: dict[int, Modes] = {}

    def work(k: int) -> None:
        block = blocks[k]
        some = None if weights is None else weights[block]
        target = _Target.of(likelihood.of(block), n, some, log_prior, rules)
        parts[k] = _modes_of_block(target, positions[block], plausible, search)

    in_threads(work, range(len(blocks)), threads)
    return Modes.joined([parts[k] for k in range(len(blocks))])


@nonfinite_allowed
def _modes_of_block(
    target: _Target, positions: Reals, plausible: Plausible | None, search: SearchRules
) -> Modes:
    """The modes of a block of events."""
    likelihood = target.likelihood
    result = search_ends(likelihood, positions, target.shares, target.rules, search)
    x, error = solved(likelihood, result.positions, result.event, _LAST, stay=_STAY)
    x -= centre_of_mass(x, likelihood.masses)
    chi_squared = likelihood.of(result.event).chi_squared(x[:, None], threads=1)[:, 0]
    status = judged(x, error, chi_squared, likelihood.most_misfit, plausible, REFINEMENT_RULES.tolerance)
    ends = _Ends(result.event, x, status, error, chi_squared, result.share, result.starts)
    return _gathered(ends, target, result.searches)


@nonfinite_allowed
def find_modes(
    refinement: Refinement,
    likelihood: Likelihood,
    *,
    weights: Weights | None = None,
    log_prior: LogPrior | None = None,
    rules: ModeRules = MODE_RULES,
) -> Modes:
    """Gather all refined samples of E events into modes; unexplained ones have their nearest miss alone."""
    e, n = refinement.status.shape
    target = _Target.of(likelihood, n, weights, log_prior, rules)
    answered = np.isfinite(refinement.positions).any(axis=(1, 2, 3))
    rows = np.flatnonzero(np.repeat(answered, n))
    event, positions = np.repeat(np.arange(e), n), refinement.positions.reshape(e * n, -1, 3)
    status, facts = refinement.status.ravel(), (refinement.error.ravel(), refinement.chi_squared.ravel())
    ends = _Ends(event, positions, status, *facts, target.shares.ravel(), np.ones(e * n, np.intp)).of(rows)
    every, none = np.where(answered, n, 0), np.zeros(e, dtype=np.intp)
    modes = _gathered(ends, target, Searches(every, every, none, none))
    return replace(modes, samples=refinement.samples)


def _gathered(ends: _Ends, target: _Target, searches: Searches) -> Modes:
    """The modes of E events."""
    likelihood, used, rules = target.likelihood, target.used, target.rules
    e, limit = len(used), likelihood.most_misfit
    # Without weights all that is known of the prior is what it excludes.
    share = np.where((ends.status == OUTSIDE) & ~used[ends.event], 0.0, ends.share)
    event, positions, status, error, chi_squared, share, starts = _distinct(
        ends._replace(share=share), limit, rules
    )
    # A geometry outside the prior has a probability where weighted samples near it lie inside.
    explains = np.where(status == OUTSIDE, used[event], (status == CONVERGED) | (chi_squared <= limit))
    covariance, log_volume = local_covariance(likelihood, positions, event, bounded=True)
    laplace = np.full(len(event), np.nan)
    if target.log_prior is not None:
        log_mass = target.log_prior(positions) + log_volume - 0.5 * chi_squared
        # NaN: no density, of a direction that momenta leave open.
        possible = explains & (status != OUTSIDE) & ~np.isnan(log_mass)
        laplace = _normalised(np.where(possible, log_mass, -np.inf), event, e)
    source = np.where(used, "weights", "samples")
    if target.weighed:
        source[~used & (np.bincount(event, np.nan_to_num(laplace), minlength=e) > 0.5)] = "laplace"
    share = np.where(explains, share, 0.0)
    total = np.bincount(event, share, minlength=e)[event]
    share = np.where(total > 0.0, share / total, 0.0)
    probability = np.where(source[event] == "laplace", laplace, share)
    verdict = np.where(searches.made > 0, UNEXPLAINED, UNANSWERED).astype(np.uint8)
    geometry, misfit = (event, event, positions, covariance), (status, error, chi_squared, starts)
    modes = Modes(*geometry, probability, laplace, *misfit, verdict, source, searches, rules)
    return _resolved(modes, explains, likelihood, target.log_prior)


def _distinct(ends: _Ends, limit: float, rules: ModeRules) -> _Ends:
    """The best of the ends that are the same, with the starts and the shares of all."""
    rank = np.where(ends.status != STALLED, 0, np.where(ends.chi_squared <= limit, 1, 2))
    order = np.lexsort((np.where(rank == 2, ends.chi_squared, ends.error), rank, ends.event))
    first = np.diff(ends.event[order], prepend=-1) > 0  # the best of each event
    nowhere = np.isin(ends.event, ends.event[order[first & (rank[order] == 2)]])
    # Searches that ended nowhere tell of no geometry: their weight is spread over the others. An event with
    # no others has its nearest miss.
    order = order[(rank[order] < 2) | nowhere[order]]
    some = ends.of(order)
    reach = np.where(some.error > REFINEMENT_RULES.tolerance, rules.flat * rules.same, rules.same)
    group = group_ends(some.event, some.positions, reach)
    lost = np.flatnonzero(nowhere[order])
    group[lost] = np.searchsorted(some.event, some.event[lost])
    leads = group == np.arange(len(group))
    starts, share = (np.bincount(group, each, len(group))[leads] for each in (some.starts, some.share))
    return some.of(np.flatnonzero(leads))._replace(starts=starts.astype(np.intp), share=share)


def _normalised(log_density: Floats, event: Rows, e: int) -> Floats:
    """exp(log density) (M,) over its sum within each event; NaN where all are 0 or unbounded."""
    total = np.full(e, -np.inf)
    np.logaddexp.at(total, event, log_density)
    return np.where(np.isfinite(total[event]), np.exp(log_density - total[event]), np.nan)


def _resolved(modes: Modes, explains: Bools, likelihood: Likelihood, log_prior: LogPrior | None) -> Modes:
    """The modes of ends (M,), those that the noise does not tell apart as one, with numbers and verdicts."""
    event, probability, rules = modes.event, modes.probability, modes.rules
    leader = np.arange(len(modes))
    if rules.resolve:
        first = np.lexsort((modes.error, -probability, modes.status == STALLED, event))
        leader = leaders(likelihood, modes.positions, event, first, log_prior, rules)
    covariance = covering(modes.covariance, modes.positions, probability, leader)
    size, mass = len(modes), (probability, modes.laplace)
    probability, laplace = (np.bincount(leader, m, size).astype(np.float64) for m in mass)
    order = np.lexsort((modes.chi_squared, -probability, event))
    order = order[leader[order] == order]
    number = np.zeros(size, dtype=np.intp)
    number[order] = np.arange(len(order)) - np.searchsorted(event[order], event[order]) + 1
    count = np.bincount(event[order][explains[order] & (probability[order] >= rules.counts)])
    verdict = modes.verdict.copy()
    verdict[np.flatnonzero(count)] = np.where(count[count > 0] > 1, AMBIGUOUS, UNIQUE)
    return replace(
        modes,
        number=number,
        covariance=covariance,
        probability=probability,
        laplace=laplace,
        starts=np.bincount(leader, modes.starts, size).astype(np.intp),
        verdict=verdict,
    )[order]
