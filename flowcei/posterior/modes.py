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
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from flowcei.events.extracolumns import add_columns, component_names
from flowcei.experiment.likelihood import nonfinite_allowed
from flowcei.posterior.labels import label_by_geometry, relabel
from flowcei.posterior.laplace import MODE_RULES, ModeRules, covering, leaders, local_covariance, shape_of
from flowcei.posterior.refinement import CONVERGED, OUTSIDE, STALLED, STATUS, Refinement, required
from flowcei.posterior.spread import correlated, quantities
from flowcei.posterior.structures import to_atoms
from flowcei.storage.html import html_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from flowcei.experiment.likelihood import Likelihood
    from flowcei.posterior.arrays import Bools, Floats, Rows
    from flowcei.posterior.laplace import LogPrior
    from flowcei.posterior.samples import PosteriorSamples
    from flowcei.posterior.weights import Weights

UNIQUE, AMBIGUOUS, UNEXPLAINED, UNANSWERED = 0, 1, 2, 3
VERDICTS = ("unique", "ambiguous", "unexplained", "no samples")
"""One geometry has all but a hundredth of the probability; several share it; none explains the
event; the model had no geometry to offer, so nothing was tried."""

_PER_MODE = (
    "event", "number", "positions", "covariance", "probability", "laplace", "status", "error", "chi_squared",
    "starts",
)  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class Modes:
    """The modes of E events, M of them in all; those of one event by falling probability.

    `modes[3]` is one of them, `for one in modes` each; `modes[modes.of(0)]` are those of the first event.

    Attributes:
        event: Place of the event of each among the samples, (M,), 0 ... E - 1.
        number: Its place among the modes of its event, (M,), from 1.
        positions: (M, N, 3), bohr, in the frame of the momenta, centre of mass 0.
        covariance: Of the positions about the mode, (M, 3N, 3N), bohr^2 (`flowcei.posterior.laplace`); of all
            geometries that the mode stands for.
        probability: (M,); those of one event sum to 1, or are all 0 where none explains it.
        laplace: The same by prior density times local volume, (M,), exact for little noise; NaN
            where the prior has no density.
        status: `CONVERGED`, `OUTSIDE` or, for the nearest miss, `STALLED`, (M,).
        error: |dp| / |p| of its simulated momenta, (M,).
        chi_squared: The same in units of the noise, (M,).
        starts: Searches that ended there, (M,).
        verdict: Of each event, (E,), numbers into `VERDICTS`.
        source: Where the probabilities of each event come from, (E,): ``weights`` (exact),
            ``laplace`` (where they are not reliable) or ``samples`` (of the model alone).
        rules: When two geometries are one.
        samples: The samples that were refined, of `PosteriorSamples.modes`.

    Example:
        >>> import flowcei
        >>> s = flowcei.load().sample(flowcei.simulate("ocs", 2, noise="1%", seed=1), 20, seed=1)
        >>> s.modes()
        Modes: 2 geometries of 2 events of ocs, 2 unique
    """

    event: Rows
    number: Rows
    positions: Floats
    covariance: Floats
    probability: Floats
    laplace: Floats
    status: NDArray[np.uint8]
    error: Floats
    chi_squared: Floats
    starts: Rows
    verdict: NDArray[np.uint8]
    source: NDArray[np.str_]
    rules: ModeRules = MODE_RULES
    samples: PosteriorSamples | None = None

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
        counts = np.bincount(self.verdict, minlength=len(VERDICTS)).tolist()
        return {word: count for word, count in zip(VERDICTS, counts, strict=True) if count}

    def __len__(self) -> int:
        """Return the number of modes."""
        return len(self.event)

    def __iter__(self) -> Iterator[Modes]:
        """Yield one mode after the other."""
        return (self[k] for k in range(len(self)))

    def __getitem__(self, rows: int | slice | NDArray) -> Modes:
        """Return some of the modes, of an integer one; `verdict` and `source` stay those of all events."""
        rows = np.atleast_1d(np.arange(len(self))[rows])
        return replace(self, **{name: getattr(self, name)[rows] for name in _PER_MODE})

    def of(self, event: int) -> Rows:
        """Return which modes belong to an event, counted from 0."""
        return np.flatnonzero(self.event == event)

    def count(self, status: int | None = None) -> Rows:
        """Return how many modes each event has, (E,), of one status where it is given."""
        chosen = self.event if status is None else self.event[self.status == status]
        return np.bincount(chosen, minlength=len(self.verdict))

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
        rows = np.arange(len(self))[:, None, None]
        covariance = self.covariance[rows, axes[:, :, None], axes[:, None]]
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
        """Return a row for each mode.

        Returns:
            Number of the event and of the mode, its probability, its bonds (bohr) and angles (degrees) with
            the deviations of the local posterior and the correlations of each two of them (`sd_c-o`,
            `corr_c-o_c-s`), extra columns of its event, and its positions (bohr, in the frame of the
            momenta), identical ions labelled by the geometry. A nearest miss has no deviation: NaN.

        Raises:
            UsageError: Where it is not known of which samples they are.

        Example:
            >>> import flowcei
            >>> s = flowcei.load().sample(flowcei.simulate("ocs", 2, noise="1%", seed=1), 20, seed=1)
            >>> s.modes().to_dataframe()[["event", "mode", "probability", "verdict"]].values.tolist()
            [[0, 1, 1.0, 'unique'], [1, 1, 1.0, 'unique']]
        """
        samples, modes, table = required(self.samples), self.labelled(), self.facts()
        chi_squared = table.pop("chi_squared")
        table |= {"source": self.source[self.event], "laplace": self.laplace, "starts": self.starts}
        table |= {"error": self.error, "chi_squared": chi_squared}
        names, values = quantities(samples.molecule, modes.positions)
        deviations, correlation = correlated(_quantity_covariance(modes))
        internal = [k for k, quantity in enumerate(names) if quantity.kind != "atom"]
        for k in internal:
            table[names[k].name] = values[:, k]
            table[f"sd_{names[k].name}"] = deviations[:, k]
        for i, j in combinations(internal, 2):
            table[f"corr_{names[i].name}_{names[j].name}"] = correlation[:, i, j]
        table = add_columns(table, samples.columns, self.event)
        flat = modes.positions.reshape(len(self), -1)
        return pd.DataFrame(table | dict(zip(component_names(samples.molecule.labels), flat.T, strict=True)))

    def to_ase(self, event: int | None = None) -> list[Any]:
        """Return the modes as `ase.Atoms`, angstrom, in the frame of the momenta.

        Args:
            event: Whose, counted from 0; all where None.

        Returns:
            Atoms in the order of the molecule, each with `facts` in its `info`.

        Example:
            >>> import flowcei
            >>> s = flowcei.load().sample(flowcei.simulate("ocs", 2, noise="1%", seed=1), 20, seed=1)
            >>> s.modes().to_ase(1)[0].info["verdict"]
            'unique'
        """
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


def find_modes(
    refinement: Refinement,
    likelihood: Likelihood,
    *,
    weights: Weights | None = None,
    log_prior: LogPrior | None = None,
    rules: ModeRules = MODE_RULES,
) -> Modes:
    """Gather refined samples of E events into modes; unexplained ones have their nearest miss alone."""
    e, n = refinement.status.shape
    used = np.zeros(e, dtype=bool) if weights is None else weights.reliable
    # Without weights all that is known of the prior is what it excludes.
    shares = (refinement.status != OUTSIDE) / n
    shares = shares if weights is None else np.where(used[:, None], weights.normalised, shares)
    limit = likelihood.most_misfit
    answered = np.asarray(np.isfinite(refinement.positions).any(axis=(1, 2, 3)))
    event, sample, starts, share = _ends(refinement, shares, answered, limit, rules)
    positions, status = refinement.positions[event, sample], refinement.status[event, sample]
    error, chi_squared = refinement.error[event, sample], refinement.chi_squared[event, sample]
    # A geometry outside the prior has a probability where weighted samples near it lie inside.
    outside = status == OUTSIDE
    explains = np.where(outside, used[event], (status == CONVERGED) | (chi_squared <= limit))
    covariance, log_volume = local_covariance(likelihood, positions, event, bounded=True)
    laplace = np.full(len(event), np.nan)
    if log_prior is not None:
        log_mass = _log_mass(log_prior, positions, log_volume, chi_squared)
        laplace = _normalised(np.where(outside | ~explains, -np.inf, log_mass), event, e)
    source = np.where(used, "weights", "samples")
    if weights is not None:
        source[~used & (np.bincount(event, np.nan_to_num(laplace), minlength=e) > 0.5)] = "laplace"
    share = _shared(np.where(explains, share, 0.0), event, e)
    probability = np.where(source[event] == "laplace", laplace, share)
    leader = np.arange(len(event))
    if rules.resolve:
        first = np.lexsort((error, -probability, status == STALLED, event))
        leader = leaders(likelihood, positions, event, first, log_prior, rules)
    covariance = covering(covariance, positions, probability, leader)
    for sums in (probability, laplace, starts):
        sums[:] = np.bincount(leader, sums, minlength=len(sums))
    order = np.lexsort((chi_squared, -probability, event))
    order = order[leader[order] == order]
    number = np.zeros(len(event), dtype=np.intp)
    number[order] = np.arange(len(order)) - np.searchsorted(event[order], event[order]) + 1
    verdict = _verdicts(event[order][explains[order] & (probability[order] >= rules.counts)], answered)
    geometry, misfit = (event, number, positions, covariance), (status, error, chi_squared, starts)
    modes = Modes(*geometry, probability, laplace, *misfit, verdict, source, rules, refinement.samples)
    return modes[order]


def _ends(
    refinement: Refinement, shares: Floats, answered: Bools, limit: float, rules: ModeRules
) -> tuple[Rows, Rows, Rows, Floats]:
    """Event, sample, starts and share (M,) of the distinct ends of all events, of shares (E, n)."""
    ends = [
        (k, *end)
        for k in np.flatnonzero(answered).tolist()
        for end in _gathered(refinement, k, shares[k], limit, rules)
    ]
    event, sample, starts = (np.array([end[k] for end in ends], dtype=np.intp) for k in (0, 1, 3))
    return event, sample, starts, np.array([end[2] for end in ends], dtype=float)


def _gathered(
    refinement: Refinement, event: int, shares: Floats, limit: float, rules: ModeRules
) -> list[tuple[int, float, int]]:
    """The distinct ends of one event: the best of their samples, their share of the weight, their starts."""
    status, error = refinement.status[event], refinement.error[event]
    missed = np.flatnonzero((status == STALLED) & (refinement.chi_squared[event] <= limit))
    arrived = np.flatnonzero(status != STALLED)
    order = np.concatenate([rows[np.argsort(error[rows], kind="stable")] for rows in (arrived, missed)])
    if not len(order):
        best = int(refinement.chi_squared[event].argmin())
        return [(best, float(shares.sum() > 0), len(status))]
    form = shape_of(refinement.positions[event, order])
    reach = np.where(error[order] > refinement.rules.tolerance, rules.flat * rules.same, rules.same)
    free = np.ones(len(order), dtype=bool)
    ends = []
    while free.any():
        first = int(free.argmax())
        members = free & (np.abs(form - form[first]).max(axis=1) < reach)
        members[first] = True
        free &= ~members
        ends.append((int(order[first]), float(shares[order[members]].sum()), int(members.sum())))
    total = sum(share for _, share, _ in ends)
    # Searches that ended nowhere tell of no geometry: their weight is spread over the others.
    return [(k, share / total if total > 0 else 0.0, starts) for k, share, starts in ends]


def _log_mass(log_prior: LogPrior, positions: Floats, log_volume: Floats, chi_squared: Floats) -> Floats:
    """Log of Laplace's integral, (M,), of geometries (M, N, 3)."""
    with np.errstate(invalid="ignore"):  # no density, of a direction that momenta leave open: no mass
        log_mass = log_prior(positions) + log_volume - 0.5 * chi_squared
    return np.where(np.isnan(log_mass), -np.inf, log_mass)


def _normalised(log_density: Floats, event: Rows, e: int) -> Floats:
    """exp(log density) (M,) over its sum within each event; NaN where all are 0 or unbounded."""
    total = np.full(e, -np.inf)
    np.logaddexp.at(total, event, log_density)
    total = total[event]
    finite = np.isfinite(total)
    return np.where(finite, np.exp(log_density - np.where(finite, total, 0.0)), np.nan)


def _shared(share: Floats, event: Rows, e: int) -> Floats:
    """Shares (M,) over their sum within each event; 0 where that is 0."""
    total = np.bincount(event, share, minlength=e)[event]
    return np.where(total > 0.0, share / np.where(total > 0.0, total, 1.0), 0.0)


def _verdicts(event: Rows, answered: Bools) -> NDArray[np.uint8]:
    """Verdicts (E,) from the events of the geometries that explain one, and which were answered, (E,)."""
    count = np.bincount(event, minlength=len(answered)).clip(max=2)
    return np.where(answered, np.array([UNEXPLAINED, UNIQUE, AMBIGUOUS])[count], UNANSWERED).astype(np.uint8)
