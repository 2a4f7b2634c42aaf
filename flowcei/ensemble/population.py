"""Populations: the law that the geometries of all events follow, without the blur of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from flowcei.ensemble.fitting import expectation, pooled_start, searched
from flowcei.ensemble.free import FreeLaw, free_law
from flowcei.ensemble.laws import RAYLEIGH
from flowcei.ensemble.mixture import FEWEST, Mixture
from flowcei.ensemble.normals import normals
from flowcei.ensemble.pathways import Pathways, pathways
from flowcei.ensemble.prediction import check_selection, compared, selection_of
from flowcei.ensemble.reduction import gathered
from flowcei.ensemble.result import LEVEL, EnsembleLaw
from flowcei.ensemble.series import Series, deviation_of, series
from flowcei.ensemble.uncertainty import check_covered, information, resampled
from flowcei.errors import DataError, UsageError
from flowcei.posterior.labels import label_by_geometry, relabel

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from flowcei.check.run import RunCheck
    from flowcei.ensemble.coordinates import Chart, Coordinate
    from flowcei.ensemble.laws import NormalLaw
    from flowcei.ensemble.reduction import Ensemble, Samples
    from flowcei.ensemble.uncertainty import Information
    from flowcei.events.container import Events
    from flowcei.molecules.molecule import Molecule
    from flowcei.posterior.arrays import Floats
    from flowcei.workers.order import Each

LAWS = ("normal", "mixture", "free")
"""Laws that can be sought."""

_A_NUMBER = 3  # events for each number of a law, at the least
_DRAWN = 10_000  # pooled samples that are kept to be drawn


@dataclass(frozen=True, eq=False, repr=False)
class Population(EnsembleLaw):
    """A normal law of K internal coordinates that the geometries of E events follow.

    Attributes:
        molecule: Whose geometries these are.
        coordinates: Which numbers of a geometry the law is of.
        law: The law.
        mean: Of each coordinate, (K,), bohr, degrees or standard deviations of the prior; of a straight angle
            the mean angle.
        deviation: Width of the law, (K,); of a straight angle that of the angle.
        correlation: (K, K); 0 between a straight angle, which bends in any direction, and others.
        raw: Mean and deviation of the pooled samples under the prior, (2, K), for comparison.
        blur: Median over events of the deviation within an event under the prior, (K,).
        events: How many events it is of.
        log_likelihood: Log likelihood of the law over that of the prior, of all events together.
        check: Whether the law predicts the momenta of the run; None where it was not asked.

    Example:
        >>> import flowcei
        >>> s = flowcei.load().sample(
        ...     flowcei.simulate("ocs", 100, noise="1%", seed=1), 100, weigh=True, seed=1
        ... )
        >>> p = flowcei.population(s, bootstrap=0)
        >>> p.to_dataframe()["quantity"].tolist()
        ['c-o', 'c-s', 'o-c-s']
    """

    kind = "normal"
    molecule: Molecule
    chart: Chart
    law: NormalLaw
    raw: Floats
    blur: Floats
    pooled: Floats  # coordinates of some pooled samples, (S, K), to be drawn
    events: int
    samples: int  # an event
    log_likelihood: float
    information: Information
    laws: list[NormalLaw] = field(default_factory=list)
    check: RunCheck | None = None
    left_out: dict[str, int] = field(default_factory=dict)
    chance: float | None = None  # of an event of the law to pass the gates of the run

    def __repr__(self) -> str:
        names = ", ".join(one.name for one in self.coordinates)
        return f"Population: normal law of {names} of {self.molecule.name}, {self.events} events"

    @property
    def coordinates(self) -> tuple[Coordinate, ...]:
        """The coordinates of the law, K of them."""
        return self.chart.coordinates

    @property
    def mean(self) -> Floats:
        """Of each coordinate, (K,)."""
        return self.law.shown[0][0]

    @property
    def deviation(self) -> Floats:
        """Width of the law, (K,)."""
        return self.law.shown[1][0]

    @property
    def correlation(self) -> Floats:
        """Correlations, (K, K)."""
        return self.law.correlation[0]

    def errors(self) -> dict[str, Floats]:
        """Standard errors of means, log widths (K,) each and correlations (pairs,): by Fisher information.

        Names with `bootstrap` are those over events drawn with replacement, where there were any.
        """
        k, bends = len(self.coordinates), self.law.bends
        each = np.sqrt(np.diagonal(self.information.covariance))
        width = each[k : 2 * k]
        mean = np.where(bends, RAYLEIGH[0] * self.law.deviation[0] * width, each[:k])
        out = {"mean": mean, "log_sd": width, "correlation": each[2 * k :]}
        if len(self.laws) > 1:
            means, widths = (np.array([law.shown[k][0] for law in self.laws]) for k in (0, 1))
            out["bootstrap_mean"] = np.std(means, axis=0, ddof=1)
            out["bootstrap_log_sd"] = np.std(np.log(widths), axis=0, ddof=1)
            pairs = self.law.pairs
            out["bootstrap_correlation"] = np.std(
                [law.correlation[0][pairs] for law in self.laws], axis=0, ddof=1
            )
        return out

    def _error(self, name: str) -> Floats:
        """The standard error that intervals are made of: the larger one of both."""
        errors = self.errors()
        return np.maximum(errors[name], errors.get(f"bootstrap_{name}", 0.0))

    def to_dataframe(self) -> pd.DataFrame:
        """Return a row a coordinate: mean and width of pooled samples, blur, the law with 90 % intervals.

        `raw_mean` and `raw_sd` are of the samples pooled under the prior, `blur` is the median deviation
        within an event; `mean` and `sd` are of the law, each with standard error and interval.
        """
        by_mean, by_width = self._error("mean"), self._error("log_sd")
        mean, sd = self.mean, self.deviation
        table = {
            "quantity": [one.name for one in self.coordinates],
            "unit": [one.unit for one in self.coordinates],
            "raw_mean": self.raw[0],
            "raw_sd": self.raw[1],
            "blur": self.blur,
            "mean": mean,
            "mean_error": by_mean,
            "mean_p05": mean - LEVEL * by_mean,
            "mean_p95": mean + LEVEL * by_mean,
            "sd": sd,
            "sd_error": sd * by_width,
            "sd_p05": sd * np.exp(-LEVEL * by_width),
            "sd_p95": sd * np.exp(LEVEL * by_width),
        }
        return pd.DataFrame(table)

    def correlations(self) -> pd.DataFrame:
        """Return a row a pair of coordinates that can be correlated: correlation and standard error."""
        first, second = self.law.pairs
        names = np.array([one.name for one in self.coordinates])
        numbers = {"correlation": self.correlation[first, second], "error": self._error("correlation")}
        return pd.DataFrame({"quantity": names[first], "with": names[second], **numbers})

    def arrays(self) -> dict[str, np.ndarray]:
        """Return `mean` and `covariance`, of the bootstrap too, and which coordinates are `bends`."""
        arrays = {"mean": self.law.mean[0], "covariance": self.law.covariance[0], "bends": self.law.bends * 1}
        for name in ("mean", "covariance") if self.laws else ():
            arrays[f"bootstrap/{name}"] = np.array([getattr(law, name)[0] for law in self.laws])
        return arrays

    def facts(self) -> dict[str, Any]:
        """Return the correlations, what the number of samples does, and the comparison with the run."""
        facts: dict[str, Any] = {
            "monte_carlo": vars(self.information.monte_carlo),
            "chance_to_be_kept": self.chance,
        }
        return facts | {"correlations": self.correlations().to_dict("records")}

    def draws(self, n: int, seed: int = 0) -> Floats:
        """Return n draws of the law, (n, K), of straight angles the angle."""
        z = self.law.sample(n, np.random.default_rng(seed))
        return np.where(self.law.bends, 180.0 - z, z)

    def coordinates_of(self, events: Events) -> Floats:
        """Return the coordinates of known positions, (E, K), of straight angles the angle.

        Raises:
            UsageError: Where the events have no positions.
        """
        if events.positions is None:
            raise UsageError("the events hold no positions: nothing to draw beside the law")
        x = events.positions
        order = label_by_geometry(self.molecule, events.momenta, x[:, None], self.chart.prior)
        z = self.chart.values(relabel(x[:, None], order)[:, 0])
        return np.where(self.law.bends, 180.0 - z, z)

    def density(self, k: int, values: Floats) -> tuple[Floats, Floats]:
        """Return the density of coordinate k at values (B,), and its standard error, (B,) both."""
        bend, width = self.law.bends[k], self.law.deviation[0, k]
        by_mean, by_width = (self._error(name)[k] for name in ("mean", "log_sd"))
        if bend:
            u = np.maximum(180.0 - values, 0.0) / width
            density = u / width * np.exp(-0.5 * u**2)
            return density, density * np.abs(u**2 - 2.0) * by_width
        u = (values - self.law.mean[0, k]) / width
        density = np.exp(-0.5 * u**2) / (np.sqrt(2.0 * np.pi) * width)
        return density, density * np.hypot(u / width * by_mean, (u**2 - 1.0) * by_width)

    def plot(self, kind: str = "unfolded", unit: str = "angstrom", truth: Floats | None = None) -> Any:  # noqa: ANN401 (matplotlib)
        """Return a figure, ``unfolded``, ``corner`` or ``correlation``: see `flowcei.plot.population`."""
        return import_module("flowcei.plot.population").population_figure(self, kind, unit, truth)


def population(
    samples: Samples | Iterable[Samples],
    coordinates: Sequence[str] = (),
    *,
    law: str = "normal",
    components: int | None = None,
    by: str | None = None,
    cross_correlation: float = 0.0,
    bootstrap: int = 50,
    seed: int = 0,
    check: bool = True,
    keep_flagged: bool = False,
    each: Each = map,
) -> Population | Mixture | FreeLaw | Series | Pathways:
    """Unfold the law of a molecule's geometries from the posterior samples of many events.

    The posterior of each event is as wide as its noise leaves it, about what the prior held for likely:
    pooled they show neither the width nor the mean of what was there. Sought is the normal law of internal
    coordinates under which all events together are likeliest (hierarchical Bayes, E. Thrane and C. Talbot,
    arXiv:1809.02293). What the law leaves open stays as in the prior. Each event counts by its P(true), and
    gates on the KER are taken into account.

    Args:
        samples: Posterior samples, exact or weighed, or files of them, of one molecule, prior and experiment.
        coordinates: Names, such as ``c-o``; all that the prior has where none: its normal modes, the lengths
            and angles of its Z-matrix, or bonds and angles.
        law: ``normal``, ``mixture`` of several, or ``free`` of one or two coordinates, without a form.
        components: Normal laws of a mixture, 2 where None.
        by: Name of a column of the events, such as a delay: a normal law for each of its values, or for 20
            ranges of them; and of five or more one law of all events that changes smoothly. With a mixture
            shares at each value and smooth ones.
        cross_correlation: Full width at half maximum of the two pulses together, in units of the column: the
            smooth law is that at true delays.
        bootstrap: Laws of events drawn with replacement, for standard errors.
        seed: Of bootstrap and prediction.
        check: Whether to compare the run with what the law predicts.
        keep_flagged: Whether to take flagged events too.
        each: What maps a function over the laws of `bootstrap`: see `flowcei.workers.order.each_of`.

    Returns:
        The law with its errors: `Population` of a normal law, `Mixture` of several, `FreeLaw` without a form,
        `Series` along a column, `Pathways` of a mixture along one.

    Raises:
        DataError: For samples that cannot be pooled, too few events or samples, or a law that the prior does
            not cover.
        NoDensityError: For samples that are neither exact nor can be weighed.
        UsageError: For an unknown coordinate or law.

    Example:
        See `Population`.
    """
    if law not in LAWS:
        raise UsageError(f"no law {law!r}; there are {', '.join(LAWS)}")
    if components is not None and law != "mixture":
        raise UsageError("components are those of a mixture: name law 'mixture', or leave their number out")
    if by is not None and law == "free":
        raise UsageError("along a column there are normal laws and mixtures: leave out law or column")
    width = deviation_of(cross_correlation, by)
    ensemble = gathered(samples, coordinates, by=by, keep_flagged=keep_flagged)
    count = components or 2
    if by is not None and law == "mixture":

        def mixture_of(some: Ensemble, like: NormalLaw | None) -> Mixture:
            check_count(len(some.z), len(some.chart.coordinates), count)
            return normals(some, count, bootstrap, seed, like, check=check, causes=False, each=each)

        return pathways(ensemble, by, mixture_of, width)
    if by is not None:
        law_of = partial(_normal, bootstrap=bootstrap, seed=seed, check=check, causes=False, each=each)
        return series(ensemble, by, law_of, width, seed)
    if law == "free":
        return free_law(ensemble, bootstrap, seed, check=check, each=each)
    if law == "mixture":
        check_count(len(ensemble.z), len(ensemble.chart.coordinates), count)
        return normals(ensemble, count, bootstrap, seed, check=check, each=each)
    return _normal(ensemble, bootstrap, seed, check=check, each=each)


def _normal(
    ensemble: Ensemble, bootstrap: int, seed: int, *, check: bool, causes: bool = True, each: Each = map
) -> Population:
    """The normal law of an ensemble."""
    check_count(len(ensemble.z), len(ensemble.chart.coordinates), 1)
    chart, data, selection = ensemble.chart, ensemble.weighted, selection_of(ensemble, seed)
    start = pooled_start(data, ensemble.weights, chart.bends, 1)
    law, _ = searched(start, data, chart.images, selection)
    check_covered(chart, law, seed)
    check_selection(selection, law, len(data.z))
    told = information(law, data, ensemble.distinct, selection)
    try:
        told.check(law, len(data.z))
    except DataError as error:
        raise DataError(f"{error}; it is about {_in_words(chart, law)}") from error
    law = law.shifted(-told.bias, law.pairs)
    return Population(
        ensemble.molecule,
        chart,
        law,
        *_pooled(ensemble),
        _some(ensemble, seed),
        len(data.z),
        data.z.shape[1],
        expectation(law, data, selection)[1],
        told,
        resampled(law, data, chart.images, bootstrap, seed, selection, each),
        compared(ensemble, partial(chart.geometries, law), seed, causes=causes) if check else None,
        ensemble.left_out,
        None if selection is None else selection.chance(law),
    )


def _in_words(chart: Chart, law: NormalLaw) -> str:
    """A law as a prior would state it: lengths in bohr, bends by their width."""
    each = zip(chart.coordinates, law.mean[0], law.deviation[0], strict=True)
    return ", ".join(
        f"{one.name} {f'bend = {sd:.2g}' if one.bend else f'{mean:.3f} +/- {sd:.2g}'} {one.unit}"
        for one, mean, sd in each
    )


def check_count(events: int, coordinates: int, components: int = 1) -> None:
    """Raise DataError for too few events for a law of so many coordinates."""
    if events < (wanted := fewest(coordinates, components)):
        law = f"a law of {coordinates} coordinates has {_numbers(coordinates, components)} numbers"
        raise DataError(
            f"{events} events are too few: {law}, for which {wanted} are needed; or name fewer of them"
        )


def fewest(coordinates: int, components: int = 1) -> int:
    """Events that a law of so many coordinates takes at the least."""
    return max(FEWEST, _A_NUMBER * _numbers(coordinates, components))


def _numbers(coordinates: int, components: int) -> int:
    return components * (coordinates * (coordinates + 3) // 2 + 1) - 1


def _pooled(ensemble: Ensemble) -> tuple[Floats, Floats]:
    """Mean and deviation (2, K) of pooled samples, and the median deviation (K,) within an event."""
    first, within, _ = ensemble.within
    weight = ensemble.p_true / ensemble.p_true.sum()
    mean = weight @ first
    sd = np.sqrt(weight @ (within + (first - mean) ** 2))
    shown = np.where(ensemble.chart.bends, 180.0 - mean, mean)
    return np.array([shown, sd]), np.sqrt(np.median(within, axis=0))


def _some(ensemble: Ensemble, seed: int) -> Floats:
    """Coordinates (S, K) of some pooled samples, drawn by their weights, of straight angles the angle."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(9,)))
    weights = ensemble.weights.ravel()
    steps = np.cumsum(weights)
    rows = np.searchsorted(steps, rng.random(_DRAWN) * steps[-1]).clip(0, len(weights) - 1)
    z = ensemble.z.reshape(len(weights), -1)[rows].astype(np.float64)
    return np.where(ensemble.chart.bends, 180.0 - z, z)
