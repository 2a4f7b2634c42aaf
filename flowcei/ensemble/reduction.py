"""Posterior samples of many events, reduced block by block to what a law asks of them."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.ensemble.coordinates import Nothing, chart_of
from flowcei.ensemble.fitting import Weighted
from flowcei.ensemble.result import FLAGGED
from flowcei.errors import DataError, NoDensityError, UsageError
from flowcei.experiment.accidents import P_TRUE
from flowcei.experiment.missing import LOST
from flowcei.posterior.files import stream_samples
from flowcei.posterior.flags import EXCLUDING, NOT_MIXED, POOR_WEIGHTS
from flowcei.posterior.samples import PosteriorSamples

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from flowcei.ensemble.coordinates import Chart
    from flowcei.molecules.molecule import Molecule
    from flowcei.physics.forward import ForwardModel
    from flowcei.physics.priors import GeometryPrior
    from flowcei.posterior.arrays import Bools, Floats, Numbers, Reals, Rows

    Samples = PosteriorSamples | str | Path
    Extra = Callable[[PosteriorSamples], Floats]

UNRELIABLE, UNMIXED = "unreliable weights", "chains that have not mixed"
UNTOLD = "taken for true, as too few of a kind tell no accidents"
"""Why events do not count as they should: they count as they are."""

_CHANCE = 5.0  # deviations by which means of events, if they differ, scatter more than by chance
_SAME = ("prior", "experiment", "noise_relative", "forward", "motion")  # of origins that can be pooled


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Coordinates of n samples of E events and what is known of the events."""

    molecule: Molecule
    prior: GeometryPrior
    chart: Chart
    origin: dict[str, Any]
    forward: ForwardModel
    z: Reals  # coordinates of the law, (E, n, K), float32
    log_weight: Reals  # log of weights that sum to 1 for each event, (E, n), float32
    log_prior: Reals  # of the coordinates, (E, n), float32
    extra: Reals  # what else was asked of each sample, (E, n, J), float32
    by: Floats  # the column that was asked for, (E,)
    p_true: Floats  # (E,)
    event_id: Numbers  # (E,)
    momenta: Floats  # (E, N, 3), hbar / bohr
    sigma: Floats  # (E,), hbar / bohr
    distinct: float  # share of samples that are no copies of others
    poor: Bools  # events whose weights are not reliable: samples of the flow count alike there, (E,)
    unmixed: Bools  # events whose chains have not mixed, (E,)
    complete: Bools  # events that lack no ion, (E,)
    untold: Bools  # events of an unknown P(true), which count as true, (E,)
    flagged: int  # events that were left out

    @property
    def left_out(self) -> dict[str, int]:
        """How many events do not count as they should, by reason."""
        counts = {UNRELIABLE: int(self.poor.sum()), UNMIXED: int(self.unmixed.sum())}
        counts |= {UNTOLD: int(self.untold.sum())}
        return {FLAGGED: self.flagged} | counts

    def of_events(self, rows: Bools | Rows) -> Ensemble:
        """Return some of the events, (E,) of bool, or by their numbers."""
        arrays = {one.name: getattr(self, one.name) for one in fields(self)}
        some: dict[str, Any] = {
            name: a[rows] for name, a in arrays.items() if isinstance(a, np.ndarray) and a.ndim
        }
        return replace(self, **some)

    @property
    def weighted(self) -> Weighted:
        """The coordinates, with the log of weight over prior density."""
        base = self.log_weight - self.log_prior
        return Weighted(self.z, base, self.p_true, np.ones(len(self.z)))

    @property
    def within(self) -> tuple[Floats, Floats]:
        """Mean and variance of each coordinate within each event, (E, K) both."""
        each = np.exp(self.log_weight.astype(np.float64))  # outside of the prior: 0
        each /= np.maximum(each.sum(axis=1, keepdims=True), 1e-300)
        first = np.einsum("en,enk->ek", each, self.z)
        return first, np.einsum("en,enk->ek", each, (self.z - first[:, None]) ** 2)

    def check_told(self) -> None:
        """Raise DataError where events differ in a coordinate by no more than their samples do by chance."""
        first, variance = self.within
        few = np.exp(2.0 * self.log_weight.astype(np.float64)).sum(axis=1, keepdims=True) / self.distinct
        chance = (variance * few).mean(axis=0)
        least = 1.0 + _CHANCE * np.sqrt(2.0 / len(first))
        pairs = zip(self.chart.coordinates, first.var(axis=0) < least * chance, strict=True)
        if names := [one.name for one, same in pairs if same]:
            what = f"the samples tell nothing of {', '.join(names)}: all events have it as the prior has it"
            raise DataError(f"{what}; name the other coordinates (--coordinates)")

    @property
    def weights(self) -> Floats:
        """Weights (E, n) of pooled samples: those of an event sum to its P(true)."""
        return np.exp(self.log_weight.astype(np.float64)) * self.p_true[:, None]


def gathered(
    samples: Samples | Iterable[Samples],
    names: Sequence[str] | None = (),
    extra: Callable[[Molecule, GeometryPrior], Extra] | None = None,
    by: str | None = None,
    *,
    keep_flagged: bool = False,
) -> Ensemble:
    """Read samples, a block of events after the other, of one molecule, prior and experiment.

    Of no coordinates where `names` is None; `extra` makes what else is asked of each sample.

    Raises:
        DataError: For samples of different molecules, priors or experiments, or of no event to be trusted.
        NoDensityError: For samples that are neither exact nor can be weighed.
    """
    first: PosteriorSamples | None = None
    rows: list[dict[str, Any]] = []
    seen = flagged = 0
    for block in _blocks(samples):
        if first is None:
            first, prior = block[:1], block.prior
            chart = Nothing(prior) if names is None else chart_of(block.molecule, prior, names)
            ask = None if extra is None else extra(block.molecule, prior)
        _check_same(first, block)
        bad = block.flag_bits & EXCLUDING > 0 if not keep_flagged else np.zeros(len(block), dtype=bool)
        good = block[block.answered & ~bad]
        seen, flagged = seen + len(block), flagged + len(block) - len(good)
        if len(good):
            rows.append(_reduced(good, chart, ask) | {"by": _column(good, by)})
    if first is None or not rows:
        raise DataError(f"none of {seen} events is unflagged: nothing to take a law from")
    if len({row["z"].shape[1] for row in rows}) > 1:
        raise DataError("the files have different numbers of samples an event: sample them alike")
    # Name by name, so that never more than one array is there twice.
    own: dict[str, Any] = {name: np.concatenate([row.pop(name) for row in rows]) for name in list(rows[0])}
    own |= {"distinct": float(own["distinct"].mean())}
    own |= {"molecule": first.molecule, "prior": prior, "chart": chart, "origin": first.origin}
    own |= {"forward": first.likelihood.forward, "flagged": flagged}
    return Ensemble(**own)


def _blocks(samples: Samples | Iterable[Samples]) -> Iterator[PosteriorSamples]:
    listed = [samples] if isinstance(samples, PosteriorSamples | str | Path) else samples
    for one in listed:
        if isinstance(one, PosteriorSamples):
            yield one
        else:
            yield from stream_samples(one)


def _check_same(first: PosteriorSamples, block: PosteriorSamples) -> None:
    """Raise DataError for samples that cannot be pooled with the first."""
    if difference := first.molecule.difference(block.molecule):
        raise DataError(f"samples of different molecules: {difference}")
    for name in _SAME:
        if (one := first.origin.get(name)) != (other := block.origin.get(name)):
            raise DataError(f"samples of different {name}s ({_apart(one, other)}): sample all events alike")


def _apart(one: object, other: object) -> str:
    """Two different entries of origins, from a little before where they part."""
    texts = [" ".join(str(entry).split()) for entry in (one, other)]
    first = next((k for k, pair in enumerate(zip(*texts, strict=False)) if pair[0] != pair[1]), 0)
    begin = max(0, first - 30) if first > 50 else 0
    return " and ".join(("..." if begin else "") + text[begin:][:80] for text in texts)


def _column(samples: PosteriorSamples, name: str | None) -> Floats:
    """A column of the events, (E,); UsageError where there is none of that name."""
    if name is not None and name not in samples.columns:
        there = ", ".join(samples.columns) or "none"
        raise UsageError(f"the events have no extra column {name!r}; they have {there}")
    return np.zeros(len(samples)) if name is None else samples.columns[name].astype(np.float64)


def _reduced(samples: PosteriorSamples, chart: Chart, ask: Extra | None) -> dict[str, Any]:
    """What is kept of some events, as the fields of `Ensemble`."""
    if samples.weights is None and not samples.exact:
        if samples.log_prob is None:
            what = "a law needs the exact posterior, and this model has no density to weigh samples by"
            raise NoDensityError(f"{what}: sample with a flow, and --weigh or --exact")
        samples = samples.weigh()
    x = samples.labelled()
    events, n = x.shape[:2]
    if n < 2:
        raise UsageError("one sample an event tells no law: sample with a larger -n")
    z = chart.values(x.reshape(-1, *x.shape[2:]))
    log_prior = chart.log_prior(z).reshape(events, n)
    weights = np.full((events, n), 1.0 / n) if samples.weights is None else samples.weights.normalised
    # A sample where the prior has no geometry has no weight; where weights are poor a flow draws some.
    weights = np.where(np.isfinite(log_prior), weights, 0.0)
    with np.errstate(divide="ignore"):
        log_weight = np.log(weights)
    true = samples.columns.get(P_TRUE, np.ones(events))
    z = z.reshape(events, n, -1)
    copies = (np.diff(np.sort(x[:, :, -1, 0], axis=1), axis=1) == 0).mean(axis=1)
    return {
        "z": z.astype(np.float32),
        "log_weight": log_weight.astype(np.float32),
        "log_prior": np.where(np.isfinite(log_prior), log_prior, 0.0).astype(np.float32),
        "extra": np.empty((events, n, 0), np.float32) if ask is None else ask(samples).astype(np.float32),
        "p_true": np.where(np.isnan(true), 1.0, true).astype(np.float64),
        "event_id": samples.event_id,
        "momenta": samples.momenta,
        "sigma": samples.sigma,
        "distinct": 1.0 - copies,
        "poor": (samples.flag_bits & POOR_WEIGHTS > 0) & (not samples.exact),
        "unmixed": samples.flag_bits & NOT_MIXED > 0,
        "untold": np.isnan(true),
        "complete": samples.columns.get(LOST, np.zeros(events)) == 0,
    }
