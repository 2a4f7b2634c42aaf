"""Modes: the distinct geometries that explain an event, each with its probability.

Refined samples of an event fall onto a few points: every exact geometry is the end of the searches that began
in its basin, and its probability the weight of the samples there. Two ends are one mode where all distances
and the handedness agree, or where the noise does not tell them apart (`flowcei.posterior.laplace`). Where
noise has carried the momenta to where no geometry has them, the nearest miss, if within the noise, is a mode
too.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from flowcei.events.extracolumns import add_columns, component_names
from flowcei.experiment.likelihood import nonfinite_allowed
from flowcei.physics.explosion import centre_of_mass, in_threads
from flowcei.posterior.arrays import RowArrays
from flowcei.posterior.labels import label_by_geometry, relabel
from flowcei.posterior.laplace import MODE_RULES, ModeRules, covering, leaders, local_covariance
from flowcei.posterior.refinement import (
    CONVERGED,
    OUTSIDE,
    REFINEMENT_RULES,
    STALLED,
    STATUS,
    Refinement,
    RefinementRules,
    judged,
    solved,
)
from flowcei.posterior.searches import SEARCH_RULES, Searches, SearchRules, gathered, missed_share, searched
from flowcei.posterior.spread import correlated, quantities
from flowcei.posterior.structures import required, to_atoms
from flowcei.storage.html import html_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from flowcei.experiment.likelihood import Likelihood
    from flowcei.posterior.arrays import Bools, Floats, Reals, Rows
    from flowcei.posterior.laplace import LogPrior
    from flowcei.posterior.refinement import Plausible
    from flowcei.posterior.samples import PosteriorSamples
    from flowcei.posterior.weights import Weights

UNIQUE, AMBIGUOUS, UNEXPLAINED, UNANSWERED = 0, 1, 2, 3
VERDICTS = ("unique", "ambiguous", "unexplained", "no samples")
"""One geometry has all but a hundredth of the probability; several share it; none explains the
event; the model had no geometry to offer, so nothing was tried."""

_BLOCK = 1024  # events whose searches go together, at the most
_HELD = 8_000_000  # numbers of samples and derivatives of theirs
_LAST = RefinementRules(steps=20, patience=5)  # of searches that have all but arrived
_STAY = 0.1  # bohr


@dataclass(frozen=True, eq=False, repr=False)
class Modes(RowArrays):
    """The modes of E events, M of them in all; those of one event by falling probability.

    `modes[3]` is one of them, `for one in modes` each; `modes[modes.of(0)]` are those of the first event.
    """

    ROWS = (
        "event", "number", "positions", "covariance", "probability", "laplace", "status", "error",
        "chi_squared", "starts",
    )  # fmt: skip

    ROW = "mode"

    event: Rows  # its place among the samples, (M,), 0 ... E - 1
    number: Rows  # place among the modes of its event, (M,), from 1
    positions: Floats  # (M, N, 3), bohr, in the frame of the momenta, centre of mass 0
    # Of the positions about the mode, of all geometries that it stands for, (M, 3N, 3N), bohr^2.
    covariance: Floats
    probability: Floats  # (M,); those of one event sum to 1, or are all 0 where none explains it
    # The same by prior density times local volume, exact for little noise; NaN where there is no density.
    laplace: Floats
    status: NDArray[np.uint8]  # `CONVERGED`, `OUTSIDE` or, for the nearest miss, `STALLED`, (M,)
    error: Floats  # |dp| / |p| of its simulated momenta, (M,)
    chi_squared: Floats  # the same in units of the noise, (M,)
    starts: Rows  # searches that ended there, (M,)
    verdict: NDArray[np.uint8]  # of each event, (E,), numbers into `VERDICTS`
    # Of what the probabilities of an event are, (E,): `weights` (exact), `laplace` (where these are not
    # reliable) or `samples` (of the model alone).
    source: NDArray[np.str_]
    searches: Searches
    rules: ModeRules = MODE_RULES
    samples: PosteriorSamples | None = None  # that were refined, of `PosteriorSamples.modes`

    def __repr__(self) -> str:
        name = "" if self.samples is None else f" of {self.samples.molecule.name}"
        verdicts = ", ".join(f"{count} {word}" for word, count in self._counted().items())
        return f"Modes: {len(self)} geometries of {len(self.verdict)} events{name}, {verdicts}"

    def _repr_html_(self) -> str:
        sources = Counter(self.source.tolist())
        facts = {"events": len(self.verdict), "geometries": len(self)} | self._counted()
        return html_table("Modes", facts | {f"probabilities of {word}": k for word, k in sources.items()})

    def _counted(self) -> dict[str, int]:
        """How many events have each verdict."""
        return {word: count for k, word in enumerate(VERDICTS) if (count := int((self.verdict == k).sum()))}

    def of(self, event: int) -> Rows:
        """Return which modes belong to an event, counted from 0."""
        return np.flatnonzero(self.event == event)

    def count(self, status: int | None = None) -> Rows:
        """Return how many modes each event has, (E,), of one status where it is given."""
        chosen = self.event if status is None else self.event[self.status == status]
        return np.bincount(chosen, minlength=len(self.verdict))

    @property
    def missed(self) -> Floats:
        """Less than this share of the samples' weight leads to a geometry not found, with 95 %, (E,)."""
        return missed_share(self.searches.random)

    @property
    def missed_on_average(self) -> float:
        """The same of the average of all events, by the random starts of their second rounds."""
        return float(missed_share(self.searches.audits.sum(), self.searches.surprises.sum()))

    @classmethod
    def joined(cls, parts: Sequence[Modes]) -> Modes:
        """The modes of several runs of events, one after the other."""
        before = np.cumsum([0, *(len(part.verdict) for part in parts[:-1])])
        moved = [replace(part, event=part.event + k) for part, k in zip(parts, before, strict=True)]
        verdict, source = (np.concatenate([getattr(p, k) for p in parts]) for k in ("verdict", "source"))
        searches = Searches(*map(np.concatenate, zip(*(p.searches for p in parts), strict=True)))
        return replace(cls.concatenate(moved), searches=searches, verdict=verdict, source=source)

    @property
    def most_ambiguous(self) -> int:
        """The event, counted from 0, whose second exact geometry is the most probable.

        Where none has a second, the first that is explained; where none is, 0. Nearest misses do not count.
        """
        exact = (self.status == CONVERGED) & (self.probability >= self.rules.counts)
        sound = np.bincount(self.event[exact], minlength=len(self.verdict)) == self.count()
        chosen = exact & sound[self.event]
        if not chosen.any():
            return 0
        return int(self.event[np.where(chosen, self.probability * (self.number > 1), -1.0).argmax()])

    def labelled(self) -> Modes:
        """Return the modes with identical ions labelled by the geometry: see `flowcei.posterior.labels`."""
        samples, x = required(self.samples), self.positions[:, None]
        order = label_by_geometry(samples.molecule, samples.momenta[self.event], x, samples.known_prior())
        axes = (3 * order[:, 0, :, None] + np.arange(3)).reshape(len(self), 3 * len(samples.molecule))
        covariance = self.covariance[np.arange(len(self))[:, None, None], axes[:, :, None], axes[:, None]]
        return replace(self, positions=relabel(x, order)[:, 0], covariance=covariance)

    def facts(self) -> dict[str, np.ndarray]:
        """Return event number, mode, probability, verdict, status and chi squared of each mode, (M,)."""
        return {
            "event": required(self.samples).event_id[self.event],
            "mode": self.number,
            "probability": self.probability,
            "verdict": np.array(VERDICTS)[self.verdict[self.event]],
            "status": np.array(STATUS)[self.status],
            "chi_squared": self.chi_squared,
        }

    def to_dataframe(self) -> pd.DataFrame:
        """Return a row for each mode: `facts`, bonds (bohr), angles (degrees), extra columns, positions.

        With the deviations of bonds and angles that the noise alone leaves open about the mode, without the
        prior, and the correlations of each two (`sd_c-o`, `corr_c-o_c-s`), NaN of a nearest miss. Positions
        are `labelled`, bohr, in the frame of the momenta.
        """
        samples, modes, table = required(self.samples), self.labelled(), self.facts()
        chi_squared = table.pop("chi_squared")
        table |= {"source": self.source[self.event], "laplace": self.laplace, "starts": self.starts}
        table |= {"missed": self.missed[self.event]}
        table |= {"error": self.error, "chi_squared": chi_squared}
        names, values = quantities(samples.molecule, modes.positions)
        deviations, correlation = correlated(_quantity_covariance(modes))
        internal = [k for k, quantity in enumerate(names) if quantity.kind != "atom"]
        for k in internal:
            table |= {names[k].name: values[:, k], f"sd_{names[k].name}": deviations[:, k]}
        for i, j in combinations(internal, 2):
            table[f"corr_{names[i].name}_{names[j].name}"] = correlation[:, i, j]
        table = add_columns(table, samples.columns, self.event)
        flat = modes.positions.reshape(len(self), -1)
        return pd.DataFrame(table | dict(zip(component_names(samples.molecule.labels), flat.T, strict=True)))

    def plot(self, event: int | None = None) -> Any:  # noqa: ANN401 (matplotlib)
        """Return a figure of the modes of an event, from 0; of the most ambiguous where None."""
        which = self.most_ambiguous if event is None else event
        return import_module("flowcei.report.figures").modes_figure(self, required(self.samples), which)

    def to_ase(self, event: int | None = None) -> list[Any]:
        """Return the modes, of one event where it is given, as `ase.Atoms` (angstrom), `facts` as info."""
        modes = (self if event is None else self[self.of(event)]).labelled()
        return to_atoms(required(self.samples).molecule, modes.positions, modes.facts())


@nonfinite_allowed
def _quantity_covariance(modes: Modes) -> np.ndarray:
    """Local covariance of all `quantities`, (M, Q, Q), by their derivative; NaN of a nearest miss."""
    x, step = modes.positions, 1e-5
    size = 3 * x.shape[1]
    shifts = step * np.eye(size).reshape(size, -1, 3)
    ends = [quantities(required(modes.samples).molecule, x[:, None] + s * shifts)[1] for s in (1.0, -1.0)]
    slope = (ends[0] - ends[1]) / (2.0 * step)  # (M, 3N, Q)
    covariance = np.einsum("mdq,mde,mer->mqr", slope, modes.covariance, slope)
    # Where nothing meets the momenta the derivative says how flat the miss is, not how sure the geometry.
    covariance[modes.status == STALLED] = np.nan
    return np.asarray(covariance)


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


class _Known(NamedTuple):
    """What is known of E events beside the ends of searches."""

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
    ) -> _Known:
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
        known = _Known.of(likelihood.of(block), n, some, log_prior, rules)
        parts[k] = _searched(known, positions[block], plausible, search)

    in_threads(work, range(len(blocks)), threads)
    return Modes.joined([parts[k] for k in range(len(blocks))])


@nonfinite_allowed
def _searched(known: _Known, positions: Reals, plausible: Plausible | None, search: SearchRules) -> Modes:
    """The modes of a block of events."""
    likelihood = known.likelihood
    found = searched(likelihood, positions, known.shares, known.rules, search)
    x, error = solved(likelihood, found.positions, found.event, _LAST, stay=_STAY)
    x -= centre_of_mass(x, likelihood.masses)
    chi_squared = likelihood.of(found.event).chi_squared(x[:, None], threads=1)[:, 0]
    status = judged(x, error, chi_squared, likelihood.most_misfit, plausible, REFINEMENT_RULES.tolerance)
    ends = _Ends(found.event, x, status, error, chi_squared, found.share, found.starts)
    return _gathered(ends, known, found.searches)


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
    known = _Known.of(likelihood, n, weights, log_prior, rules)
    answered = np.isfinite(refinement.positions).any(axis=(1, 2, 3))
    rows = np.flatnonzero(np.repeat(answered, n))
    event, positions = np.repeat(np.arange(e), n), refinement.positions.reshape(e * n, -1, 3)
    status, facts = refinement.status.ravel(), (refinement.error.ravel(), refinement.chi_squared.ravel())
    ends = _Ends(event, positions, status, *facts, known.shares.ravel(), np.ones(e * n, np.intp)).of(rows)
    every, none = np.where(answered, n, 0), np.zeros(e, dtype=np.intp)
    modes = _gathered(ends, known, Searches(every, every, none, none))
    return replace(modes, samples=refinement.samples)


def _gathered(ends: _Ends, known: _Known, searches: Searches) -> Modes:
    """The modes of E events."""
    likelihood, used, rules = known.likelihood, known.used, known.rules
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
    if known.log_prior is not None:
        log_mass = known.log_prior(positions) + log_volume - 0.5 * chi_squared
        # NaN: no density, of a direction that momenta leave open.
        possible = explains & (status != OUTSIDE) & ~np.isnan(log_mass)
        laplace = _normalised(np.where(possible, log_mass, -np.inf), event, e)
    source = np.where(used, "weights", "samples")
    if known.weighed:
        source[~used & (np.bincount(event, np.nan_to_num(laplace), minlength=e) > 0.5)] = "laplace"
    share = np.where(explains, share, 0.0)
    total = np.bincount(event, share, minlength=e)[event]
    share = np.where(total > 0.0, share / total, 0.0)
    probability = np.where(source[event] == "laplace", laplace, share)
    verdict = np.where(searches.made > 0, UNEXPLAINED, UNANSWERED).astype(np.uint8)
    geometry, misfit = (event, event, positions, covariance), (status, error, chi_squared, starts)
    modes = Modes(*geometry, probability, laplace, *misfit, verdict, source, searches, rules)
    return _resolved(modes, explains, likelihood, known.log_prior)


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
    group = gathered(some.event, some.positions, reach)
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
