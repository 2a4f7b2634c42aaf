"""Plots of a population: the unfolded law beside the pooled samples, its corner, its correlations."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.errors import UsageError
from flowcei.plot.geometry import MOST_IN_CORNER, corner_of
from flowcei.plot.style import colour, grid, new_figure, plain, styled
from flowcei.units import length_in_bohr

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from flowcei.ensemble.coordinates import Coordinate
    from flowcei.ensemble.free import FreeLaw
    from flowcei.ensemble.mixture import Mixture
    from flowcei.ensemble.pathways import Pathways
    from flowcei.ensemble.population import Population
    from flowcei.ensemble.series import Series
    from flowcei.posterior.arrays import Floats

KINDS = ("unfolded", "corner", "correlation")
"""Plots of a population by their kind."""

_DRAWS = 20_000  # of the law
_OF_SERIES = "raw_mean", "mean", "mean_error", "sd"
_FAINT = 2e-3  # of the largest density: where less is, nothing is drawn
_POINTS = 200  # of a curve


@styled
def population_figure(
    population: Population, kind: str = "unfolded", unit: str = "angstrom", truth: Floats | None = None
) -> Figure:
    """Draw a population, and known coordinates (B, K) beside the unfolded law; UsageError for another kind.

    ``unfolded``: each coordinate, the samples pooled under the prior and the law, with a band of two standard
    errors; ``corner``: the law alone and in pairs; ``correlation``: its matrix.
    """
    _check_kind(kind, KINDS, "a population")
    scale = np.array([_scale(one, unit) for one in population.coordinates])
    labels = [_label(one, unit) for one in population.coordinates]
    events = f"{plain(population.molecule.name)}, {population.events:,} events"
    if kind == "correlation":
        return _matrix(population, f"{events}: correlations of the unfolded law")
    if kind == "corner":
        z = population.draws(_DRAWS)[:, :MOST_IN_CORNER] / scale[:MOST_IN_CORNER]
        return corner_of(z, labels[:MOST_IN_CORNER], f"{events}: draws of the unfolded law")
    title = f"{events}: unfolded law (band: 2 standard errors) beside the samples pooled under the prior"
    figure, panels = grid(len(labels), (3.2, 2.5), (0.3, 0.6), title=title, least=7.0)
    for k, axes in enumerate(panels):
        _unfolded(axes, population, k, scale[k], None if truth is None else truth[:, k])
        axes.set(xlabel=labels[k], yticks=[])
    _explained(panels)
    return figure


def _label(one: Coordinate, unit: str) -> str:
    shown = {"bohr": unit, "sd": "prior's deviation"}.get(one.unit, one.unit)
    return f"{plain(one.name)} ({shown})"


def _scale(one: Coordinate, unit: str) -> float:
    """The unit that a coordinate is shown in, over its own."""
    return length_in_bohr(unit) if one.unit == "bohr" else 1.0


def _explained(panels: Sequence[Axes]) -> None:
    """Say at the first panel what all show."""
    panels[0].set_ylabel("probability density")
    panels[0].legend(fontsize=7)


def _unfolded(axes: Axes, population: Population, k: int, scale: float, truth: Floats | None) -> None:
    """Draw a coordinate, lengths over a scale in bohr."""
    pooled = population.pooled[:, k] / scale
    mean, sd = population.mean[k] / scale, population.deviation[k] / scale
    low, high = min(np.quantile(pooled, 0.002), mean - 4 * sd), max(np.quantile(pooled, 0.998), mean + 4 * sd)
    high = min(high, 180.0) if population.law.bends[k] else high
    bins = np.linspace(low, high, 50).tolist()
    axes.hist(pooled, bins, density=True, color="0.75", label="pooled samples")
    if truth is not None:
        axes.hist(truth / scale, bins[::2], density=True, histtype="step", color="black", label="truth")
    at = np.linspace(low, high, _POINTS)
    density, error = (scale * values for values in population.density(k, at * scale))
    _with_band(axes, at, density, error)


def _with_band(axes: Axes, at: Floats, density: Floats, error: Floats) -> None:
    """Draw a density with a band of two standard errors."""
    ends = np.maximum(density - 2.0 * error, 0.0), density + 2.0 * error
    axes.fill_between(at, *ends, color=colour(0), alpha=0.3, lw=0)
    axes.plot(at, density, color=colour(0), label="unfolded law")


def _check_kind(kind: str, kinds: Sequence[str], drawn: str) -> None:
    """Raise UsageError for a kind of picture that there is not."""
    if kind not in kinds:
        raise UsageError(f"no plot of {drawn} {kind!r}; there are {', '.join(kinds)}")


def _matrix(population: Population, title: str) -> Figure:
    """Draw the correlations of the coordinates, with their numbers where there is room."""
    names = [plain(one.name) for one in population.coordinates]
    count = len(names)
    figure = new_figure(2.6 + 0.42 * count, 1.8 + 0.42 * count, title=title)
    axes = figure.add_subplot()
    image = axes.imshow(population.correlation, cmap="RdBu_r", vmin=-1, vmax=1)
    axes.set_xticks(range(count), names, rotation=90)
    axes.set_yticks(range(count), names)
    for i, j in np.ndindex(count, count):
        value = population.correlation[i, j]
        if count <= 12:
            shade = "white" if abs(value) > 0.6 else "black"
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7, color=shade)
    figure.colorbar(image, ax=axes, label="correlation")
    return figure


@styled
def mixture_figure(mixture: Mixture, kind: str = "shares", unit: str = "angstrom") -> Figure:
    """Draw ``shares`` beside how sure each event is, or ``unfolded`` coordinates of several normal laws.

    UsageError for another kind, or one that the mixture does not have.
    """
    events = f"{plain(mixture.molecule.name)}, {len(mixture.event_id):,} events"
    if kind == "shares":
        return _shares(mixture, f"{events}: which law they are of")
    if kind != "unfolded" or mixture.law is None or mixture.chart is None:
        raise UsageError(f"no plot of a mixture {kind!r}; there are shares and, of normal laws, unfolded")
    law = mixture.law
    title = f"{events}: unfolded law and its components"
    figure, panels = grid(len(law.bends), (3.2, 2.5), (0.3, 0.6), title=title, least=7.0)
    for k, (axes, one) in enumerate(zip(panels, mixture.chart.coordinates, strict=True)):
        scale = _scale(one, unit)
        middle, reach = law.mean[:, k], 4.0 * law.deviation[:, k]
        low = 0.0 if one.bend else (middle - reach).min()
        z = np.linspace(low, (middle + reach).max(), 2 * _POINTS)
        single = replace(law, mean=law.mean[:, [k]], covariance=law.covariance[:, [k]][:, :, [k]])
        density = np.exp(replace(single, bends=law.bends[[k]]).log_each(z[:, None])) * scale
        at = (180.0 - z if one.bend else z) / scale
        axes.plot(at, density.sum(axis=1), color="black", label="sum")
        for c, name in enumerate(mixture.names):
            axes.plot(at, density[:, c], color=colour(c), ls="--", label=plain(name))
        axes.set(xlabel=_label(one, unit), yticks=[])
    _explained(panels)
    return figure


def _shares(mixture: Mixture, title: str) -> Figure:
    """Draw shares with 90 % intervals, and how probable each law is for the events."""
    table = mixture.to_dataframe()
    low, share, high = (table[name].to_numpy(dtype=float) for name in ("p05", "share", "p95"))
    figure, (left, right) = grid(2, (3.4, 2.6), (0.3, 0.6), title=title, columns=2)
    for c, name in enumerate(mixture.names):
        left.bar(c, share[c], color=colour(c), yerr=[[share[c] - low[c]], [high[c] - share[c]]], capsize=4)
        p = mixture.probability[:, c]
        right.hist(p, np.linspace(0, 1, 21).tolist(), histtype="step", color=colour(c), label=plain(name))
    left.set_xticks(range(len(share)), [plain(name) for name in mixture.names])
    left.set_ylabel("share of the events (bar: 90 %)")
    right.set(xlabel="probability of an event", ylabel="events")
    right.legend(fontsize=7)
    return figure


@styled
def free_figure(law: FreeLaw, kind: str = "unfolded", unit: str = "angstrom") -> Figure:
    """Draw a law of one or two coordinates without a form beside the samples pooled under the prior."""
    _check_kind(kind, ["unfolded"], "a law without a form")
    scale = [_scale(one, unit) for one in law.coordinates]
    labels = [_label(one, unit) for one in law.coordinates]
    title = (
        f"{plain(law.molecule.name)}, {law.events:,} events: unfolded distribution (band: 2 standard errors)"
    )
    count = len(law.axes)
    figure, panels = grid(count + (count == 2), (3.4, 2.6), (0.3, 0.6), title=title, least=7.0)
    for k, axes in enumerate(panels[:count]):
        at = law.axes[k] / scale[k]
        density, raw = (scale[k] * law.marginal(k, one) for one in (law.density, law.raw))
        error = scale[k] * law.marginal(k, law.densities).std(axis=0)
        axes.fill_between(at, raw, color="0.75", lw=0, label="pooled samples")
        _with_band(axes, at, density, error)
        shown = at[np.maximum(density, raw) > _FAINT * max(density.max(), raw.max())]
        axes.set(xlabel=labels[k], yticks=[], xlim=(shown.min(), shown.max()))
    _explained(panels)
    if count == 2:
        x, y = (axis / s for axis, s in zip(law.axes, scale, strict=True))
        panels[2].pcolormesh(x, y, law.density.T, cmap="Blues", shading="nearest", rasterized=True)
        panels[2].set(xlabel=labels[0], ylabel=labels[1])
    return figure


@styled
def series_figure(series: Series, kind: str = "series", unit: str = "angstrom") -> Figure:
    """Draw laws along a column: means with standard errors, and the width of each law as a band."""
    _check_kind(kind, ["series"], "laws along a column")
    coordinates, table = series.laws[0].coordinates, series.to_dataframe()
    title = f"{plain(series.molecule.name)}, {series.events:,} events: unfolded laws along {plain(series.by)}"
    smooth, at = series.smooth, np.linspace(series.values.min(), series.values.max(), _POINTS)
    words = "points: laws of each value, mean with standard error; grey: pooled mean; "
    words += "band: width of the law (one deviation)" + ("; line: smooth law" if smooth else "")
    curves = None if smooth is None else (smooth.mean(at), smooth.deviation(at))
    figure, panels = grid(len(coordinates), (3.4, 2.6), (0.3, 0.7), title=f"{title}\n{words}", least=7.0)
    for k, (axes, one) in enumerate(zip(panels, coordinates, strict=True)):
        scale = _scale(one, unit)
        own = table[table["quantity"] == one.name]
        raw, mean, error, sd = (own[name].to_numpy(float) / scale for name in _OF_SERIES)
        axes.plot(series.values, raw, color="0.6", lw=1)
        if curves is None:
            axes.fill_between(series.values, mean - sd, mean + sd, color=colour(0), alpha=0.25, lw=0)
        else:
            line, width = (curve[:, k] / scale for curve in curves)
            axes.fill_between(at, line - width, line + width, color=colour(0), alpha=0.25, lw=0)
            axes.plot(at, line, color=colour(0))
        axes.errorbar(series.values, mean, error, fmt="o", ms=3, capsize=2, color=colour(0))
        axes.set(xlabel=plain(series.by), ylabel=_label(one, unit))
    return figure


@styled
def pathways_figure(pathways: Pathways, kind: str = "shares", unit: str = "angstrom") -> Figure:
    """Draw shares along a column, smooth ones with a band, all of 90 %, and means and widths of the laws."""
    _check_kind(kind, ["shares"], "shares along a column")
    table, means = pathways.to_dataframe(), pathways.components()
    coordinates = () if (chart := pathways.laws[0].chart) is None else chart.coordinates
    words = "points: laws of each value; line: smooth shares; bars, band: 90 %, of coordinates one deviation"
    events = f"{plain(pathways.molecule.name)}, {pathways.events:,} events"
    title = f"{events}: pathways along {plain(pathways.by)}\n{words}"
    figure, panels = grid(1 + len(coordinates), (3.4, 2.6), (0.3, 0.7), title=title, least=7.0)
    at, marks = np.linspace(pathways.values.min(), pathways.values.max(), _POINTS), "os^Dv<>ph"
    for c, name in enumerate(pathways.names):
        own = table[table["law"] == name]
        share, low, high = (own[column].to_numpy(float) for column in ("share", "p05", "p95"))
        look: dict[str, Any] = {"fmt": marks[c], "ms": 3.5, "capsize": 2, "color": colour(c)}
        panels[0].errorbar(pathways.values, share, [share - low, high - share], label=plain(name), **look)
        if pathways.smooth is not None:
            bottom, top = (end[:, c] for end in pathways.smooth.interval(at))
            panels[0].fill_between(at, bottom, top, color=colour(c), alpha=0.25, lw=0)
            panels[0].plot(at, pathways.smooth.share(at)[:, c], color=colour(c))
        for axes, one in zip(panels[1:], coordinates, strict=True):
            row = means[(means["law"] == name) & (means["quantity"] == one.name)]
            middle, width = (row[column].to_numpy(float) / _scale(one, unit) for column in ("mean", "sd"))
            axes.errorbar(pathways.values, middle, width, **look)
            axes.set_ylabel(_label(one, unit))
    for value in pathways.refused:
        panels[0].axvline(value, color="0.7", ls=":", lw=1, zorder=0)
    panels[0].set(ylabel="share (dotted: not separate)" if pathways.refused else "share", ylim=(-0.03, 1.03))
    panels[0].legend(fontsize=7)
    for axes in panels:
        axes.set(xlabel=plain(pathways.by), xlim=panels[0].get_xlim())
    return figure
