"""Modes: the distinct geometries that explain an event, each with its probability.

`flowcei.posterior.gathering` makes them of the ends of searches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flowcei.events.extracolumns import add_columns, component_names
from flowcei.experiment.likelihood import nonfinite_allowed
from flowcei.posterior.arrays import RowArrays
from flowcei.posterior.labels import label_by_geometry, relabel
from flowcei.posterior.laplace import MODE_RULES, ModeRules
from flowcei.posterior.refinement import CONVERGED, STALLED, STATUS
from flowcei.posterior.searches import Searches, missed_share
from flowcei.posterior.spread import correlated, quantities
from flowcei.posterior.structures import required, to_atoms
from flowcei.storage.html import html_table

if TYPE_CHECKING:
    import pandas as pd

    from flowcei.posterior.arrays import Floats, Rows
    from flowcei.posterior.samples import PosteriorSamples

UNIQUE, AMBIGUOUS, UNEXPLAINED, UNANSWERED = 0, 1, 2, 3
VERDICTS = ("unique", "ambiguous", "unexplained", "no samples")
"""One geometry has all but a hundredth of the probability; several share it; none explains the
event; the model had no geometry to offer, so nothing was tried."""


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
        before = np.cumsum([0, *(len(block.verdict) for block in parts[:-1])])
        moved = [replace(block, event=block.event + k) for block, k in zip(parts, before, strict=True)]
        verdict, source = (np.concatenate([getattr(p, k) for p in parts]) for k in ("verdict", "source"))
        searches = Searches(*map(np.concatenate, zip(*(p.searches for p in parts), strict=True)))
        return replace(cls.concatenate(moved), searches=searches, verdict=verdict, source=source)

    @property
    def most_ambiguous(self) -> int:
        """The event, counted from 0, whose second exact geometry is the most probable.

        Where none has a second, the first that is explained; where none is, 0. Nearest misses do not count.
        """
        return self.ambiguity[0]

    @property
    def ambiguity(self) -> tuple[int, float]:
        """`most_ambiguous`, with the probability of that geometry; -1 where no event is explained."""
        exact = (self.status == CONVERGED) & (self.probability >= self.rules.counts)
        sound = np.bincount(self.event[exact], minlength=len(self.verdict)) == self.count()
        chosen = exact & sound[self.event]
        if not chosen.any():
            return 0, -1.0
        second = np.where(chosen, self.probability * (self.number > 1), -1.0)
        return int(self.event[second.argmax()]), float(second.max())

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
        import pandas as pd

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
