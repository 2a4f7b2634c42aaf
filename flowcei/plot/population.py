"""Plots of a population: the unfolded law beside the pooled samples, its corner, its correlations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from flowcei.errors import UsageError
from flowcei.plot.geometry import MOST_IN_CORNER, corner_of
from flowcei.plot.style import colour, grid, new_figure, plain, styled
from flowcei.units import length_in_bohr

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from flowcei.ensemble.coordinates import Coordinate
    from flowcei.ensemble.population import Population
    from flowcei.posterior.arrays import Floats

KINDS = ("unfolded", "corner", "correlation")
"""Plots of a population by their kind."""

_DRAWS = 20_000  # of the law
_POINTS = 200  # of a curve


@styled
def population_figure(
    population: Population, kind: str = "unfolded", unit: str = "angstrom", truth: Floats | None = None
) -> Figure:
    """Draw a population.

    Args:
        population: The law.
        kind: ``unfolded``: each coordinate, the samples pooled under the prior and the law, with a band of
            two standard errors; ``corner``: the law alone and in pairs; ``correlation``: its matrix.
        unit: Of lengths, ``angstrom`` or ``bohr``.
        truth: Known coordinates (B, K), drawn beside the unfolded law.

    Returns:
        The figure.

    Raises:
        UsageError: For an unknown kind or unit.
    """
    if kind not in KINDS:
        raise UsageError(f"no plot of a population {kind!r}; there are {', '.join(KINDS)}")
    scale = np.array([length_in_bohr(unit) if one.unit == "bohr" else 1.0 for one in population.coordinates])
    labels = [f"{plain(one.name)} ({_unit(one, unit)})" for one in population.coordinates]
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
    panels[0].set_ylabel("probability density")
    panels[0].legend(fontsize=7)
    return figure


def _unit(one: Coordinate, unit: str) -> str:
    return {"bohr": unit, "sd": "prior's deviation"}.get(one.unit, one.unit)


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
    ends = np.maximum(density - 2.0 * error, 0.0), density + 2.0 * error
    axes.fill_between(at, *ends, color=colour(0), alpha=0.3, lw=0)
    axes.plot(at, density, color=colour(0), label="unfolded law")


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
