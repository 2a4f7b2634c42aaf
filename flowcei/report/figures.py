"""The pictures of events (Newton, KER), of posteriors (spread, modes) and of a training."""

from __future__ import annotations

import math
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Ellipse
from matplotlib.ticker import MaxNLocator

from flowcei.physics.explosion import kinetic_energy
from flowcei.posterior.labels import speed_names
from flowcei.posterior.modes import AMBIGUOUS, UNEXPLAINED, UNIQUE, VERDICTS
from flowcei.posterior.refinement import CONVERGED, OUTSIDE, STALLED
from flowcei.posterior.spread import (
    first_axis,
    in_recoil_frame,
    momenta_in_recoil_frame,
    quantities,
    typical_correlation,
)
from flowcei.report.style import COLOURS, colour, dots, grid, new_figure, styled
from flowcei.units import ELECTRONVOLT

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from flowcei.events.container import Events
    from flowcei.molecules.molecule import Molecule
    from flowcei.posterior.modes import Modes
    from flowcei.posterior.samples import PosteriorSamples
    from flowcei.posterior.spread import Spread

_MAX_PAIRS = 3  # of bonds, drawn against each other
_MAX_PERCENTILE = 99.5
_REMARKS = {CONVERGED: "", STALLED: ", nearest miss", OUTSIDE: ", outside the prior"}
_MOST = 6  # modes drawn
_MOST_CLOUD = 400
_PANEL = 2.6  # inches, width of one geometry
_RADIUS = 0.21  # bohr, of an atom
_KINDS = ((UNIQUE, "o", COLOURS[5]), (AMBIGUOUS, "^", COLOURS[1]), (UNEXPLAINED, "x", COLOURS[6]))


@styled
def spread_figure(spread: Spread, event: int | None = None) -> Figure:
    """Draw the clouds of atoms in the molecular plane of one event, or of all, with their marginals."""
    clouds, title = _of_event(spread, spread.positions, event)
    figure = new_figure(6.4, 4.8)
    cells = figure.add_gridspec(2, 2, width_ratios=(4, 1), height_ratios=(1, 3))
    plane = figure.add_subplot(cells[1, 0])
    above = figure.add_subplot(cells[0, 0], sharex=plane)
    right = figure.add_subplot(cells[1, 1], sharey=plane)
    handles: list[Line2D] = []
    for k, label in enumerate(spread.molecule.labels):
        x, y = clouds[:, k, 0], clouds[:, k, 1]
        dots(plane, clouds[:, k, :2], k, 4)
        handles.append(Line2D([], [], marker="o", ls="", color=colour(k), label=label))
        plane.plot(x.mean(), y.mean(), "+", ms=9, color="black", mew=1.2, label=label)
        look: Any = {"bins": _bins(len(clouds)), "histtype": "stepfilled", "alpha": 0.6, "color": colour(k)}
        above.hist(x, density=True, **look)
        right.hist(y, density=True, orientation="horizontal", **look)
    plane.set(xlabel=f"x along the momentum of {spread.along} (bohr)", ylabel=" \n ")
    handles.append(Line2D([], [], marker="+", ls="", color="black", label="mean"))
    plane.legend(handles=handles, loc="best")
    above.tick_params(labelbottom=False)
    right.tick_params(labelleft=False)
    above.set_ylabel("density\n(1/bohr)")
    right.set_xlabel("density\n(1/bohr)")
    above.set_title(f"{spread.molecule.name}: posterior positions, {title}", loc="left")
    # At equal scales most clouds would be dots: how many times longer is a bohr on the y axis?
    figure.draw_without_rendering()
    box, (left, end), (low, high) = plane.get_window_extent(), plane.get_xlim(), plane.get_ylim()
    stretch = (box.height / (high - low)) / (box.width / (end - left))
    plane.set_ylabel(f"y in the plane of the momenta\n(bohr, drawn {stretch:.2g} times larger than x)")
    return figure


@styled
def internal_figure(spread: Spread, event: int | None = None) -> Figure:
    """Draw the distributions of bonds and angles, with the central 68 %, and how bonds vary together.

    Of all events together the ellipses are those of a typical event.
    """
    chosen = [i for i, q in enumerate(spread.names) if q.kind != "atom"]
    values, title = _of_event(spread, spread.values, event)
    pairs = _correlated_bonds(spread)
    count = max(1, len(chosen) + len(pairs))
    words = f"{spread.molecule.name}: posterior, {title}; line: median, band: central 68 %"
    figure, panels = grid(count, (2.9, 2.3), (0.4, 0.3), title=words, columns=4 if count == 4 else 3)
    for i, axes in zip(chosen, panels, strict=False):
        quantity = spread.names[i]
        low, middle, high = np.percentile(values[:, i], (16, 50, 84))
        axes.hist(values[:, i], bins=_bins(len(values)), density=True, color=COLOURS[0], alpha=0.7)
        axes.axvspan(low, high, color=COLOURS[4], alpha=0.25, lw=0)
        axes.axvline(middle, color="black", lw=1)
        kind = "angle" if quantity.kind == "angle" else "length"
        axes.set(xlabel=f"{quantity.name} {kind} ({quantity.unit})", ylabel=f"density (1/{quantity.unit})")
        axes.set_title(f"{_with_errors(low, middle, high)} {quantity.unit}")
    for pair, axes in zip(pairs, panels[len(chosen) :], strict=True):
        _draw_pair(axes, spread, event, pair)
    return figure


def _of_event(spread: Spread, values: NDArray, event: int | None) -> tuple[NDArray, str]:
    """Return the samples of one event, or of all together, and what they are called."""
    if event is None:
        return values.reshape(-1, *values.shape[2:]), f"{len(values)} events together"
    return values[event], f"event {spread.event_id[event]}"


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
    points = _of_event(spread, values, event)[0]
    dots(axes, points, 0, 3)
    size, directions = np.linalg.eigh(covariance)
    length = 2.0 * np.sqrt(size.clip(0.0))
    tilt = np.degrees(np.arctan2(directions[1, 1], directions[0, 1]))
    for sigma, style in ((1.0, "-"), (2.0, "--")):
        shape: Any = {"width": sigma * length[1], "height": sigma * length[0], "angle": tilt, "ls": style}
        label = f"{sigma:.0f} sigma"
        axes.add_patch(Ellipse(points.mean(axis=0), fc="none", ec="black", lw=1, label=label, **shape))
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


@styled
def events_figure(events: Events) -> Figure:
    """Draw the Newton plot of events in their recoil frames, and their kinetic energy release."""
    p, names = momenta_in_recoil_frame(events.molecule, events.momenta), speed_names(events.molecule)
    first = np.linalg.norm(p, axis=(0, 2)).argmax()
    scaled = p / np.linalg.norm(p[:, first], axis=-1)[:, None, None]
    figure = new_figure(7.4, 3.2)
    newton, ker = figure.subplots(1, 2, width_ratios=(3, 2))
    for k, label in enumerate(names):
        dots(newton, scaled[:, k, :2], k, 2.5, alpha=0.4)
        if k == first:  # all of its points are one
            newton.plot(1.0, 0.0, "o", ms=6, color=colour(k))
        newton.plot([], [], "o", ms=5, color=colour(k), label=label)
    newton.set(xlabel=f"$p_x$ / |p({names[first]})|", ylabel=f"$p_y$ / |p({names[first]})|")
    newton.set_title(f"{events.molecule.name}: Newton plot in the recoil frame, {len(p)} events")
    newton.legend(title="ion")
    energy = kinetic_energy(p, events.molecule.masses) / ELECTRONVOLT
    ker.hist(energy[energy <= np.percentile(energy, _MAX_PERCENTILE)], bins=_bins(len(p)), color=COLOURS[0])
    ker.set(xlabel="kinetic energy release (eV)", ylabel="events", title="KER")
    return figure


@styled
def training_figure(metrics: pd.DataFrame) -> Figure:
    """Draw training and validation loss against epochs."""
    figure = new_figure(4.6, 3.0)
    axis = figure.subplots()
    for k, (name, line) in enumerate({"training": "s-", "validation": "o--"}.items()):
        column = "train_loss" if name == "training" else "validation_loss"
        axis.plot(metrics["epoch"], metrics[column], line, ms=3, color=COLOURS[k], label=name)
    axis.set(xlabel="epoch", ylabel="loss (nats per event)")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend()
    return figure


@styled
def modes_figure(modes: Modes, samples: PosteriorSamples, event: int) -> Figure:
    """Draw the modes of one event in the plane of the momenta, samples as dots around the nearest."""
    count = len(modes.of(event))
    chosen = modes.of(event)[:_MOST]
    molecule, momenta = samples.molecule, samples.momenta[event : event + 1]
    prior, axis = samples.known_prior(), speed_names(molecule)[first_axis(molecule, momenta)]
    atoms = in_recoil_frame(molecule, momenta, modes.positions[chosen][None], prior)[0]
    even = samples[event : event + 1].equally_weighted()
    cloud = in_recoil_frame(molecule, momenta, even.positions, prior)[0][:_MOST_CLOUD]
    nearest = ((cloud[:, None] - atoms[None]) ** 2).sum(axis=(2, 3)).argmin(axis=1)
    everything = np.concatenate([atoms, cloud]).reshape(-1, 3)[:, :2]
    low, high = everything.min(axis=0) - 0.4, everything.max(axis=0) + 0.4
    geometries = "1 geometry" if count == 1 else f"{count} geometries"
    title = (
        f"{molecule.name}, event {samples.event_id[event]}: {VERDICTS[modes.verdict[event]]}, {geometries}"
        f"{f', {_MOST} drawn' if count > _MOST else ''}\ncircles: atoms of the geometry; dots: samples"
    )
    height = _PANEL * (high[1] - low[1]) / (high[0] - low[0])
    figure, panels = grid(len(chosen), (_PANEL + 0.4, height + 1.2), (0.5, 0.6), title=title)
    columns = min(3, len(chosen))
    for k, (axes, mode) in enumerate(zip(panels, chosen, strict=True)):
        _draw_molecule(axes, molecule, atoms[k], cloud[nearest == k])
        axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
        if k % columns == 0:
            axes.set_ylabel("y in the plane of\nthe momenta (bohr)")
        if k >= len(chosen) - columns:
            axes.set_xlabel(f"x along the momentum of {axis} (bohr)")
        axes.set_title(_caption(modes, mode, molecule, atoms[k]), loc="left", fontsize=8)
    return figure


def _draw_molecule(axes: Axes, molecule: Molecule, atoms: NDArray, cloud: NDArray) -> None:
    for i, j in molecule.bonds:
        axes.plot(*atoms[[i, j], :2].T, "-", color="0.6", lw=1.5, zorder=1)
    for k, label in enumerate(molecule.labels):
        axes.plot(*cloud[:, k, :2].T, ".", ms=3.0, alpha=0.5, mew=0, color=colour(k), zorder=4)
        x, y = atoms[k, :2]
        axes.add_patch(Circle((x, y), _RADIUS, fc="white", ec=colour(k), lw=1.6, zorder=2))
        text: Any = {"textcoords": "offset points", "color": colour(k), "fontsize": 9, "zorder": 5}
        axes.annotate(label, (x, y), (9, 6), **text)


def _caption(modes: Modes, mode: int, molecule: Molecule, atoms: NDArray) -> str:
    names, values = quantities(molecule, atoms)
    bonds = [f"{q.name} {v:.2f} bohr" for q, v in zip(names, values, strict=True) if q.kind == "bond"]
    angles = [f"{q.name} {v:.1f}°" for q, v in zip(names, values, strict=True) if q.kind == "angle"]
    lines = [f"{modes.number[mode]}: probability {modes.probability[mode]:.3f}{_REMARKS[modes.status[mode]]}"]
    lines += [", ".join(bonds[k : k + 2]) for k in range(0, min(4, len(bonds)), 2)]
    return "\n".join(lines + angles[:1])


@styled
def ambiguity_figure(modes: Modes, samples: PosteriorSamples) -> Figure:
    """Draw where in momentum space events are unique, ambiguous or unexplained.

    Left: the Newton plot, momenta in units of the first ion's. Right: the Dalitz plot of the
    energy shares e_i = E_i / KER: (e_1 - e_2) / sqrt 3 against e_3 - 1/3, of more than three ions
    with all but the first two as the third (R. H. Dalitz, Phil. Mag. 44, 1068 (1953)).
    """
    molecule = samples.molecule
    p, names = momenta_in_recoil_frame(molecule, samples.momenta), speed_names(molecule)
    axis = first_axis(molecule, samples.momenta)
    other = next(k for k in range(len(molecule)) if k != axis)
    energy = (p**2).sum(axis=2) / (2.0 * molecule.masses)
    first, second = (energy / energy.sum(axis=1, keepdims=True))[:, [axis, other]].T
    newton = p[:, other, :2] / np.linalg.norm(p[:, axis], axis=1)[:, None]
    figure = new_figure(7.4, 3.5)
    left, right = figure.subplots(1, 2)
    for kind, marker, shade in _KINDS:
        mine = modes.verdict == kind
        label = f"{VERDICTS[kind]} ({int(mine.sum())})"
        style = {"ls": "", "marker": marker, "ms": 3.5, "alpha": 0.7, "color": shade, "label": label}
        left.plot(*newton[mine].T, **style)
        right.plot((first - second)[mine] / 3.0**0.5, (2.0 / 3.0 - first - second)[mine], **style)
    a, b = names[axis], names[other]
    others = [name for name in names if name not in (a, b)]
    third = others[0] if len(others) == 1 else "rest"
    left.set(xlabel=f"$p_x$({b}) / |p({a})|", ylabel=f"$p_y$({b}) / |p({a})|")
    left.set_title(f"{molecule.name}: Newton plot, {len(p)} events")
    left.legend(fontsize=8)
    energies = rf"$(\epsilon_{{{a}}} - \epsilon_{{{b}}}) / \sqrt{{3}}$,  $\epsilon_i = E_i$ / KER"
    right.set(xlabel=energies, ylabel=rf"$\epsilon_{{{third}}} - 1/3$", title="Dalitz plot")
    return figure
