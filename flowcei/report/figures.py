"""The pictures: of events (Newton, KER), of posteriors (spread) and of a training."""

from __future__ import annotations

import math
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse
from matplotlib.ticker import MaxNLocator

from flowcei.physics.explosion import kinetic_energy
from flowcei.posterior.labels import speed_names
from flowcei.posterior.spread import momenta_in_recoil_frame, typical_correlation
from flowcei.report.style import COLOURS, new_figure, styled
from flowcei.units import ELECTRONVOLT

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from flowcei.events.container import Events
    from flowcei.posterior.spread import Spread

_MAX_POINTS = 3000
_MAX_PAIRS = 3  # of bonds, drawn against each other
_MAX_PERCENTILE = 99.5


def spread_figure(spread: Spread, event: int | None = None) -> Figure:
    """Draw the clouds of atoms in the molecular plane, with their marginals.

    Args:
        spread: Of a file of samples.
        event: Index of one event, or None for all of them together.
    """
    clouds = spread.positions.reshape(-1, *spread.positions.shape[2:])
    title = f"{len(spread.positions)} events together"
    if event is not None:
        clouds, title = spread.positions[event], f"event {spread.event_id[event]}"
    with styled():
        figure = new_figure(6.4, 4.8)
        grid = figure.add_gridspec(2, 2, width_ratios=(4, 1), height_ratios=(1, 3))
        plane = figure.add_subplot(grid[1, 0])
        above = figure.add_subplot(grid[0, 0], sharex=plane)
        right = figure.add_subplot(grid[1, 1], sharey=plane)
        step = max(1, len(clouds) // _MAX_POINTS)
        handles: list[Line2D] = []
        for k, label in enumerate(spread.molecule.labels):
            x, y = clouds[:, k, 0], clouds[:, k, 1]
            colour = COLOURS[k % len(COLOURS)]
            dots = plane.plot(x[::step], y[::step], ".", ms=4, alpha=0.35, color=colour, mew=0)[0]
            handles.append(Line2D([], [], marker="o", ls="", color=dots.get_color(), label=label))
            plane.plot(x.mean(), y.mean(), "+", ms=9, color="black", mew=1.2, label=label)
            above.hist(
                x, bins=_bins(len(clouds)), density=True, histtype="stepfilled", alpha=0.6, color=colour
            )
            right.hist(
                y,
                bins=_bins(len(clouds)),
                density=True,
                histtype="stepfilled",
                alpha=0.6,
                color=colour,
                orientation="horizontal",
            )
        plane.set(xlabel=f"x along the momentum of {spread.along} (bohr)", ylabel=" \n ")
        handles.append(Line2D([], [], marker="+", ls="", color="black", label="mean"))
        plane.legend(handles=handles, loc="best")
        for side in (above, right):
            side.tick_params(labelbottom=side is right, labelleft=side is above)
        above.set_ylabel("density\n(1/bohr)")
        right.set_xlabel("density\n(1/bohr)")
        above.set_title(f"{spread.molecule.name}: posterior positions, {title}", loc="left")
        _say_stretch(figure, plane)
    return figure


def _say_stretch(figure: Figure, plane: Axes) -> None:
    """Say how many times longer a bohr is on the y axis: at equal scales most clouds are dots."""
    figure.draw_without_rendering()
    box, (left, right), (low, high) = plane.get_window_extent(), plane.get_xlim(), plane.get_ylim()
    stretch = (box.height / (high - low)) / (box.width / (right - left))
    plane.set_ylabel(f"y in the plane of the momenta\n(bohr, drawn {stretch:.2g} times larger than x)")


def internal_figure(spread: Spread, event: int | None = None) -> Figure:
    """Draw the distributions of bonds and angles, with the central 68 %, and how bonds vary together.

    Args:
        spread: Of a file of samples.
        event: Index of one event, or None for all of them together; then the ellipses are those
            of a typical event.
    """
    chosen = [i for i, q in enumerate(spread.names) if q.kind != "atom"]
    values = spread.values.reshape(-1, len(spread.names)) if event is None else spread.values[event]
    title = f"{len(spread.values)} events together" if event is None else f"event {spread.event_id[event]}"
    pairs = _correlated_bonds(spread)
    count = max(1, len(chosen) + len(pairs))
    columns = min(4 if count == 4 else 3, count)
    rows = -(-count // columns)
    with styled():
        figure = new_figure(2.9 * columns + 0.4, 2.3 * rows + 0.3)
        words = f"{spread.molecule.name}: posterior, {title}; line: median, band: central 68 %"
        figure.suptitle(words, fontsize=9, x=0.02, ha="left")
        for place, i in enumerate(chosen, start=1):
            quantity, axes = spread.names[i], figure.add_subplot(rows, columns, place)
            low, middle, high = np.percentile(values[:, i], (16, 50, 84))
            axes.hist(values[:, i], bins=_bins(len(values)), density=True, color=COLOURS[0], alpha=0.7)
            axes.axvspan(low, high, color=COLOURS[4], alpha=0.25, lw=0)
            axes.axvline(middle, color="black", lw=1)
            kind = "angle" if quantity.kind == "angle" else "length"
            unit = quantity.unit
            axes.set(xlabel=f"{quantity.name} {kind} ({unit})", ylabel=f"density (1/{unit})")
            axes.set_title(f"{_with_errors(low, middle, high)} {quantity.unit}")
        for place, pair in enumerate(pairs, start=len(chosen) + 1):
            _draw_pair(figure.add_subplot(rows, columns, place), spread, event, pair)
    return figure


def _correlated_bonds(spread: Spread) -> list[tuple[int, int]]:
    """Return the pairs of bonds, as numbers of quantities, that vary together most."""
    bonds = [k for k, q in enumerate(spread.names) if q.kind == "bond"]
    typical = np.nan_to_num(typical_correlation(spread.covariance()))  # bonds come first
    pairs = sorted(combinations(range(len(bonds)), 2), key=lambda pair: -abs(typical[pair]))
    return [(bonds[i], bonds[j]) for i, j in pairs[:_MAX_PAIRS]]


def _draw_pair(axes: Axes, spread: Spread, event: int | None, pair: tuple[int, int]) -> None:
    """Draw two bonds against each other, with the ellipses that hold 39 and 86 % of a normal posterior."""
    values = spread.values[:, :, pair]
    within = values - values.mean(axis=1, keepdims=True)
    each = np.einsum("enk,enl->ekl", within, within) / values.shape[1]
    if event is None:  # as the printed medians: of deviations and correlations, not of covariances
        typical = np.median(np.sqrt(np.diagonal(each, axis1=1, axis2=2)), axis=0)
        covariance = np.nan_to_num(typical_correlation(each)) * typical * typical[:, None]
    else:
        covariance = each[event]
    dots = values.reshape(-1, 2) if event is None else values[event]
    step = max(1, len(dots) // _MAX_POINTS)
    axes.plot(*dots[::step].T, ".", ms=3, alpha=0.35, mew=0, color=COLOURS[0])
    size, directions = np.linalg.eigh(covariance)
    length = 2.0 * np.sqrt(size.clip(0.0))
    tilt = np.degrees(np.arctan2(directions[1, 1], directions[0, 1]))
    for sigma, style in ((1.0, "-"), (2.0, "--")):
        shape = {"width": sigma * length[1], "height": sigma * length[0], "angle": tilt}
        label = f"{sigma:.0f} sigma"
        axes.add_patch(
            Ellipse(dots.mean(axis=0), **shape, fc="none", ec="black", ls=style, lw=1, label=label)
        )
    (first, second), deviation = (spread.names[k] for k in pair), np.sqrt(np.diagonal(covariance))
    axes.set(xlabel=f"{first.name} length ({first.unit})", ylabel=f"{second.name} length ({second.unit})")
    if deviation.all():
        axes.set_title(f"within one event: correlation {covariance[0, 1] / deviation.prod():.2f}")
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.2 * (high - low))  # room for the legend above the points
    axes.legend(fontsize=7, loc="upper right", ncols=2)


def _with_errors(low: float, middle: float, high: float) -> str:
    """Return a median with its errors, all to the second digit of the smaller error."""
    error = min(high - middle, middle - low)
    digits = max(0, 1 - math.floor(math.log10(error))) if error > 0 else 3
    return f"{middle:.{digits}f} +{high - middle:.{digits}f} -{middle - low:.{digits}f}"


def _bins(count: int) -> int:
    """Return a number of bins that leaves enough in each (J. Rice's rule), 60 at the most."""
    return int(min(60, 2 * count ** (1 / 3)))


def events_figure(events: Events) -> Figure:
    """Draw the Newton plot of events in their recoil frames, and their kinetic energy release."""
    p, names = momenta_in_recoil_frame(events.molecule, events.momenta), speed_names(events.molecule)
    first = np.linalg.norm(p, axis=(0, 2)).argmax()
    unit = np.linalg.norm(p[:, first], axis=-1)[:, None, None]
    with styled():
        figure = new_figure(7.4, 3.2)
        newton, ker = figure.subplots(1, 2, width_ratios=(3, 2))
        step = max(1, len(p) // _MAX_POINTS)
        for k, label in enumerate(names):
            q = (p / unit)[::step, k]
            newton.plot(q[:, 0], q[:, 1], ".", ms=2.5, alpha=0.4, mew=0, color=COLOURS[k % len(COLOURS)])
            if k == first:  # all of its points are one
                newton.plot(1.0, 0.0, "o", ms=6, color=COLOURS[k % len(COLOURS)])
            newton.plot([], [], "o", ms=5, color=COLOURS[k % len(COLOURS)], label=label)
        newton.set(xlabel=f"$p_x$ / |p({names[first]})|", ylabel=f"$p_y$ / |p({names[first]})|")
        newton.set_title(f"{events.molecule.name}: Newton plot in the recoil frame, {len(p)} events")
        newton.legend(title="ion")
        energy = kinetic_energy(p, events.molecule.masses) / ELECTRONVOLT
        ker.hist(
            energy[energy <= np.percentile(energy, _MAX_PERCENTILE)], bins=_bins(len(p)), color=COLOURS[0]
        )
        ker.set(xlabel="kinetic energy release (eV)", ylabel="events", title="KER")
    return figure


def training_figure(metrics: pd.DataFrame) -> Figure:
    """Draw training and validation loss against epochs."""
    with styled():
        figure = new_figure(4.6, 3.0)
        axis = figure.subplots()
        axis.plot(metrics["epoch"], metrics["train_loss"], "s-", ms=3, color=COLOURS[0], label="training")
        axis.plot(
            metrics["epoch"], metrics["validation_loss"], "o--", ms=3, color=COLOURS[1], label="validation"
        )
        axis.set(xlabel="epoch", ylabel="loss (nats per event)")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.legend()
    return figure
