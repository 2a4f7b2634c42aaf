"""Plots of posterior samples: structures with their uncertainty, internal coordinates, predictions."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse

from flowcei.errors import UsageError
from flowcei.events.container import Events
from flowcei.experiment.accidents import counted_as_true
from flowcei.physics.explosion import followed_momenta, with_times
from flowcei.physics.priors.orders import nearest_rotations
from flowcei.plot.style import colour, dots, new_axes, new_figure, plain
from flowcei.units import length_in_bohr

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from flowcei.molecules.molecule import Molecule
    from flowcei.posterior.samples import PosteriorSamples

    Floats = NDArray[np.float64]

FRAMES = ("recoil", "principal")
"""Frames in which structures are drawn."""

MOST_IN_CORNER = 8
"""Bonds and angles in a corner plot."""

_ORDERS = 5040  # of like atoms that are tried for the marks of a known geometry
_STICKS = 40  # samples whose bonds are drawn


def structure(
    samples: PosteriorSamples,
    axes: Axes | None = None,
    *,
    truth: Floats | None = None,
    frame: str = "recoil",
    unit: str = "angstrom",
    atom: str = "",
) -> Axes:
    """Draw samples as ball and stick, in the plane of the momenta or in that of the molecule.

    Each atom is drawn at the median of its samples, with the ellipses that hold 39 and 86 % of a normal
    distribution; of several events all samples are drawn together, of accidents as many as may be true.

    Args:
        samples: Samples of one event, `samples[3]`, or of several.
        axes: Where to draw; axes of a new figure where None.
        truth: Known positions (N, 3), bohr, labelled as the molecule, drawn as crosses.
        frame: ``recoil``: x along one momentum, y in the plane of two; ``principal``: each sample superposed
            on the others, x and y along the axes of the least moments of inertia.
        unit: ``angstrom`` or ``bohr``.
        atom: Label of an atom, to draw what is around it, on a scale on which the widest atom fills the axes.

    Returns:
        The axes, with equal scales.

    Raises:
        UsageError: For an unknown frame, unit or atom.

    Example:
        >>> import flowcei
        >>> s = flowcei.load().sample(flowcei.simulate("ocs", 2, noise="1%", seed=1), 20, seed=1)
        >>> structure(s[0]).get_xlabel()
        'x along p(s) (angstrom)'
    """
    if frame not in FRAMES:
        raise UsageError(f"no frame {frame!r}; use one of {', '.join(FRAMES)}")
    samples = _true(samples)
    scale, spread, axes = length_in_bohr(unit), samples.spread(keep_flagged=True), new_axes(axes)
    x = spread.positions.reshape(-1, *spread.positions.shape[2:])
    labels = f"x along p({spread.along}) ({unit})", f"y in the plane\nof momenta ({unit})"
    if frame == "principal":
        x = _in_principal_axes(x, samples.molecule.masses)
        labels = f"principal axis 1 ({unit})", f"principal axis 2 ({unit})"
    handles = _balls(axes, x[..., :2] / scale, samples.molecule)
    for name, marker, geometry in (("truth", "x", truth), ("equilibrium", "+", samples.molecule.equilibrium)):
        if geometry is not None:
            flat = _matched(np.asarray(geometry), np.median(x, axis=0), samples.molecule)[:, :2] / scale
            axes.plot(*flat.T, marker, ms=6, mew=1, color="black", zorder=5)
            handles.append(Line2D([], [], marker=marker, ls="", color="black", label=name))
    axes.set(xlabel=labels[0], ylabel=labels[1])
    # Where the data give way, and not the box, a layout leaves room for what stands beside the box.
    axes.set_aspect("equal", adjustable="box" if atom else "datalim")
    if atom:
        return _around(axes, x[..., :2] / scale, samples.molecule, atom)
    axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.margins(0.15)
    return axes


def _around(axes: Axes, x: Floats, molecule: Molecule, atom: str) -> Axes:
    """Show what is around an atom of samples (n, N, 2)."""
    if atom not in molecule.labels:
        raise UsageError(f"no atom {atom!r}; there are {', '.join(molecule.labels)}")
    low, middle, high = np.percentile(x, (2.5, 50, 97.5), axis=0)
    half = max(0.8 * float((high - low).max()), 1e-3)  # one sample has no width
    centre = middle[molecule.labels.index(atom)]
    axes.set(xlim=(centre[0] - half, centre[0] + half), ylim=(centre[1] - half, centre[1] + half))
    axes.set_title(f"around {plain(atom)}", loc="left")
    axes.locator_params(nbins=3)
    return axes


def corner(samples: PosteriorSamples, *, unit: str = "angstrom") -> Figure:
    """Draw bonds and angles, each and in pairs, with medians, the central 68 % and correlations.

    Args:
        samples: Samples of one event, `samples[3]`, or of several, which are drawn together.
        unit: Of lengths, ``angstrom`` or ``bohr``.

    Returns:
        The figure, a panel for each pair.

    Raises:
        UsageError: For an unknown unit.
    """
    samples = _true(samples)
    scale, spread = length_in_bohr(unit), samples.spread(keep_flagged=True)
    chosen = spread.internal[:MOST_IN_CORNER]
    names = [spread.names[k] for k in chosen]
    values = spread.values[:, :, chosen].reshape(-1, len(chosen))
    values = values / [scale if name.kind == "bond" else 1.0 for name in names]
    labels = [f"{name.name} ({unit if name.kind == 'bond' else 'deg'})" for name in names]
    return corner_of(values, labels, title_of(samples))


def corner_of(values: Floats, labels: Sequence[str], title: str) -> Figure:
    """Draw values (B, K), each and in pairs."""
    count = len(labels)
    words = "median with the central 68 %; ellipses hold 39 and 86 % of a normal distribution"
    figure = new_figure(1.8 * count + 1.0, 1.7 * count + 0.8, title=f"{title}\n{words}")
    for row in range(count):
        for column in range(row + 1):
            axes = figure.add_subplot(count, count, row * count + column + 1)
            _corner_panel(axes, values[:, column], None if row == column else values[:, row], labels[column])
            axes.locator_params(nbins=3)
            axes.tick_params(labelbottom=row == count - 1, labelleft=column == 0 and row > 0, labelsize=7)
            axes.set_xlabel(labels[column] if row == count - 1 else "", fontsize=8)
            axes.set_ylabel(labels[row] if column == 0 and row > 0 else "", fontsize=8)
    return figure


def _corner_panel(axes: Axes, x: Floats, y: Floats | None, label: str) -> None:
    if y is None:
        low, middle, high = np.percentile(x, (16, 50, 84))
        axes.hist(x, int(np.clip(2 * len(x) ** (1 / 3), 8, 60)), color=colour(0), alpha=0.5)
        axes.axvline(middle, color="black", lw=1)
        axes.axvspan(low, high, color=colour(4), alpha=0.25, lw=0)
        digits = (
            max(0, 1 - math.floor(math.log10(error)))
            if (error := min(high - middle, middle - low)) > 0
            else 3
        )
        errors = f"+{high - middle:.{digits}f} -{middle - low:.{digits}f}"
        axes.set_title(f"{label}\n{middle:.{digits}f} {errors}", fontsize=8)
        axes.set_yticks([])
        return
    pair = np.stack([x, y], axis=1)
    dots(axes, pair, 0, 2)
    _ellipses(axes, pair, "black")
    axes.set_title(f"correlation {round(np.corrcoef(x, y).flat[1], 2) + 0.0:+.2f}", fontsize=7)


def _true(samples: PosteriorSamples) -> PosteriorSamples:
    """Those of several events that count as true."""
    return samples[counted_as_true(samples.columns, len(samples))]


def title_of(samples: PosteriorSamples) -> str:
    """What a picture of samples is of."""
    events = f"event {samples.event_id[0]}" if len(samples) == 1 else f"{len(samples):,} events together"
    each = "" if len(samples) == 1 else " of each"
    return f"{plain(samples.molecule.name)}, {events}, {samples.positions.shape[1]} samples{each}"


def predicted(samples: PosteriorSamples) -> dict[str, Events]:
    """Measured events, and those that the simulator makes of one sample of each, for any plot of events.

    Of events that may be accidents as many as are true, by P(true); none whose sample cannot be exploded.
    """
    samples = _true(samples)
    even, ions = samples.equally_weighted(), samples.molecule
    x, likelihood = np.asarray(even.positions[:, 0], dtype=np.float64), samples.likelihood
    forward = likelihood.forward
    forward = forward if even.build_up is None else with_times(forward, even.build_up[:, 0])
    prior = samples.known_prior()
    motion = None if prior is None else prior.momenta_of(x, ions.identical, np.random.default_rng(0))
    momenta = followed_momenta(x, ions.masses, ions.charges, forward=forward, initial_momenta=motion)
    followed = np.flatnonzero(np.isfinite(momenta).all(axis=(1, 2)))
    measured = Events(ions, samples.momenta, sigma=samples.sigma, columns=samples.columns)[followed]
    return {
        "measured": measured,
        "re-simulated": replace(measured, momenta=momenta[followed].astype(np.float64), sigma=None),
    }


def _superposed(x: Floats, onto: Floats) -> Floats:
    """Geometries (n, N, 3), centred and turned onto one."""
    middle, x = onto.mean(axis=0), x - x.mean(axis=1, keepdims=True)
    return np.asarray(x @ nearest_rotations(x.transpose(0, 2, 1) @ (onto - middle)) + middle)


def _matched(x: Floats, onto: Floats, molecule: Molecule) -> Floats:
    """A geometry (N, 3) superposed on another, like atoms in the order that fits best, as of samples."""
    orders = [np.arange(len(molecule))]
    for group in molecule.identical:
        swaps = list(permutations(group)) if math.factorial(len(group)) * len(orders) <= _ORDERS else [group]
        orders = [_replaced(order, group, swap) for order in orders for swap in swaps]
    turned = _superposed(x[np.array(orders)], onto)
    return np.asarray(turned[((turned - onto) ** 2).sum(axis=(1, 2)).argmin()])


def _replaced(order: NDArray[np.intp], group: tuple[int, ...], swap: tuple[int, ...]) -> NDArray[np.intp]:
    order = order.copy()
    order[list(group)] = order[list(swap)]
    return order


def _in_principal_axes(x: Floats, masses: Floats) -> Floats:
    """Geometries (n, N, 3) superposed on the middle of them, in the axes of its inertia, the least first."""
    x = np.asarray(x, dtype=np.float64)
    middle = x[0]
    for _ in range(3):  # the middle of superposed ones is nearer to all than the first was
        middle = np.median(_superposed(x, middle), axis=0)
    middle = middle - np.average(middle, axis=0, weights=masses)
    axes = np.linalg.eigh((middle * masses[:, None]).T @ middle)[1][:, ::-1]
    axes[:, 2] *= np.sign(np.linalg.det(axes))
    return _superposed(x, middle @ axes)


def _balls(axes: Axes, x: Floats, molecule: Molecule) -> list[Line2D]:
    """Draw samples (n, N, 2) of atoms and bonds in the plane."""
    middle = np.median(x, axis=0)
    for i, j in molecule.bonds:
        thin = LineCollection(list(x[:_STICKS, [i, j]]), colors="0.6", lw=0.5, alpha=0.25, zorder=1)
        axes.add_collection(thin)
        axes.plot(*middle[[i, j]].T, color="0.3", lw=2.5, alpha=0.6, zorder=2, solid_capstyle="round")
    for k, label in enumerate(molecule.labels):
        axes.plot(*middle[k], "o", ms=5, mfc="white", mec=colour(k), mew=1.5, zorder=3, label=label)
        dots(axes, x[:, k], k, 2.5, alpha=0.35)
        _ellipses(axes, x[:, k], colour(k))
    return [
        Line2D([], [], marker="o", ls="", mfc="white", mec=colour(k), mew=2, label=label)
        for k, label in enumerate(molecule.labels)
    ]


def _ellipses(axes: Axes, points: Floats, ink: str) -> None:
    """Draw the ellipses of one and two standard deviations of points (n, 2)."""
    if len(points) < 2:
        return
    size, directions = np.linalg.eigh(np.cov(points.T))
    tilt = np.degrees(np.arctan2(directions[1, 1], directions[0, 1]))
    for sigma, line in ((1.0, "-"), (2.0, "--")):
        width, height = 2.0 * sigma * np.sqrt(size[::-1].clip(0.0))
        look: Any = {"fc": "none", "ec": ink, "ls": line, "lw": 1.2, "zorder": 4}
        axes.add_patch(Ellipse(points.mean(axis=0), width, height, angle=tilt, **look))
