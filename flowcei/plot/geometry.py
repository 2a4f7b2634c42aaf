"""Plots of posterior samples: structures with their uncertainty, internal coordinates, predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse

from flowcei.errors import UsageError
from flowcei.events.container import Events
from flowcei.physics.explosion import asymptotic_momenta
from flowcei.plot.style import colour, dots, new_axes, new_figure
from flowcei.posterior.spread import quantities
from flowcei.units import ANGSTROM

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from flowcei.molecules.molecule import Molecule
    from flowcei.posterior.samples import PosteriorSamples

    Floats = NDArray[np.float64]

LENGTHS = {"angstrom": ANGSTROM, "bohr": 1.0}
"""Units of length in pictures, in bohr."""

_STICKS = 40  # samples whose bonds are drawn


def structure(
    samples: PosteriorSamples,
    axes: Axes | None = None,
    *,
    truth: Floats | None = None,
    unit: str = "angstrom",
) -> Axes:
    """Draw the samples of one event as ball and stick, in the plane that holds most of the molecule.

    Each atom is drawn at the median of its samples, with the ellipses that hold 39 and 86 % of a normal
    distribution; samples are turned onto their median, so that ellipses show the shape, not the orientation.

    Args:
        samples: Samples of one event: `samples[3]`.
        axes: Where to draw; axes of a new figure where None.
        truth: Known positions (N, 3), bohr, labelled as the molecule, drawn as crosses.
        unit: ``angstrom`` or ``bohr``.

    Returns:
        The axes, with equal scales.

    Raises:
        UsageError: For samples of more or fewer than one event, or an unknown unit.

    Example:
        >>> import flowcei
        >>> s = flowcei.load().sample(flowcei.simulate("ocs", 2, noise="1%", seed=1), 20, seed=1)
        >>> structure(s[0]).get_xlabel()
        '(angstrom)'
    """
    molecule, axes = samples.molecule, new_axes(axes)
    x = _of_one(samples).labelled()[0]
    onto = x[0]
    for _ in range(3):  # to the mean shape; a first sample is an arbitrary one
        onto = _superposed(x, onto).mean(axis=0)
    plane = np.linalg.svd(onto)[2].T[:, :2] / _length(unit)
    handles = _balls(axes, _superposed(x, onto) @ plane, molecule)
    for name, marker, geometry in (("truth", "x", truth), ("equilibrium", "+", molecule.equilibrium)):
        if geometry is not None:
            flat = _superposed(np.asarray(geometry)[None], onto)[0] @ plane
            axes.plot(*flat.T, marker, ms=8, mew=1.5, color="black", zorder=5)
            handles.append(Line2D([], [], marker=marker, ls="", color="black", label=name))
    axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.set(xlabel=f"({unit})", ylabel=f"({unit})", aspect="equal")
    axes.margins(0.15)
    low, high = axes.get_xlim()
    middle, half = (
        float(np.mean(axes.get_ylim())),
        max(0.5 * float(np.ptp(axes.get_ylim())), 0.2 * (high - low)),
    )
    axes.set_ylim(middle - half, middle + half)  # room for the marks of a straight molecule
    return axes


def corner(samples: PosteriorSamples, *, unit: str = "angstrom") -> Figure:
    """Draw bonds and angles of one event, each and in pairs, with the central 68 % and the correlation.

    Args:
        samples: Samples of one event: `samples[3]`.
        unit: Of lengths, ``angstrom`` or ``bohr``.

    Returns:
        The figure, a panel for each pair.

    Raises:
        UsageError: For samples of more or fewer than one event, or an unknown unit.
    """
    scale, x = _length(unit), _of_one(samples).labelled()
    names, values = quantities(samples.molecule, x)
    columns = [k for k, q in enumerate(names) if q.kind != "atom"]
    numbers = [values[0, :, k] / (scale if names[k].kind == "bond" else 1.0) for k in columns]
    labels = [f"{names[k].name} ({unit if names[k].kind == 'bond' else 'deg'})" for k in columns]
    count = len(columns)
    figure = new_figure(1.7 * count + 0.8, 1.7 * count + 0.4)
    panels = figure.subplots(count, count, squeeze=False)
    for row in range(count):
        for column in range(count):
            axes = panels[row, column]
            if column > row:
                axes.set_visible(False)
                continue
            if row == column:
                low, middle, high = np.percentile(numbers[row], (16, 50, 84))
                axes.hist(numbers[row], 24, color=colour(0), alpha=0.5)
                axes.axvline(middle, color="black", lw=1)
                axes.axvspan(low, high, color=colour(4), alpha=0.25, lw=0)
                axes.set_title(f"{middle:.3g} +{high - middle:.2g} -{middle - low:.2g}", fontsize=8)
                axes.set_yticks([])
            else:
                pair = np.stack([numbers[column], numbers[row]], axis=1)
                dots(axes, pair, 0, 2)
                _ellipses(axes, pair, "black")
                axes.set_title(f"correlation {np.corrcoef(pair.T).flat[1]:+.2f}", fontsize=7)
            axes.tick_params(labelbottom=row == count - 1, labelleft=column == 0 and row > 0, labelsize=7)
            if row == count - 1:
                axes.set_xlabel(labels[column], fontsize=8)
            if column == 0 and row > 0:
                axes.set_ylabel(labels[row], fontsize=8)
    return figure


def predicted(samples: PosteriorSamples) -> dict[str, Events]:
    """Measured events, and those that the simulator makes of one sample of each, for any plot of events."""
    x = np.asarray(samples.equally_weighted().positions[:, 0], dtype=np.float64)
    momenta = asymptotic_momenta(x, samples.molecule.masses, samples.molecule.charges)
    measured = Events(samples.molecule, samples.momenta, sigma=samples.sigma)
    return {"measured": measured, "re-simulated": Events(samples.molecule, momenta)}


def _length(unit: str) -> float:
    if unit not in LENGTHS:
        raise UsageError(f"no unit of length {unit!r} in pictures; use one of {', '.join(LENGTHS)}")
    return LENGTHS[unit]


def _of_one(samples: PosteriorSamples) -> PosteriorSamples:
    if len(samples) != 1:
        raise UsageError(f"this picture is of one event; there are {len(samples)}: samples[0] is the first")
    return samples.equally_weighted()


def _superposed(x: Floats, onto: Floats) -> Floats:
    """Geometries (n, N, 3), centred and turned onto one (N, 3) (W. Kabsch, Acta Cryst. A 32, 922 (1976))."""
    x, onto = x - x.mean(axis=-2, keepdims=True), onto - onto.mean(axis=0)
    u, _, vt = np.linalg.svd(np.einsum("nki,kj->nij", x, onto))
    sign = np.sign(np.linalg.det(u @ vt))
    u[:, :, -1] *= sign[:, None]
    return x @ (u @ vt)


def _balls(axes: Axes, x: Floats, molecule: Molecule) -> list[Line2D]:
    """Draw samples (n, N, 2) of atoms and bonds in the plane."""
    middle = np.median(x, axis=0)
    for i, j in molecule.bonds:
        axes.plot(*x[:_STICKS, [i, j]].transpose(2, 1, 0), color="0.6", lw=0.5, alpha=0.25, zorder=1)
        axes.plot(*middle[[i, j]].T, color="0.3", lw=4, alpha=0.7, zorder=2, solid_capstyle="round")
    for k, label in enumerate(molecule.labels):
        axes.plot(*middle[k], "o", ms=9, mfc="white", mec=colour(k), mew=2, zorder=3, label=label)
        dots(axes, x[:, k], k, 2, alpha=0.15)
        _ellipses(axes, x[:, k], colour(k))
    return [
        Line2D([], [], marker="o", ls="", mfc="white", mec=colour(k), mew=2, label=label)
        for k, label in enumerate(molecule.labels)
    ]


def _ellipses(axes: Axes, points: Floats, ink: str) -> None:
    """Draw the ellipses of one and two standard deviations of points (n, 2)."""
    size, directions = np.linalg.eigh(np.cov(points.T))
    tilt = np.degrees(np.arctan2(directions[1, 1], directions[0, 1]))
    for sigma, line in ((1.0, "-"), (2.0, "--")):
        width, height = 2.0 * sigma * np.sqrt(size[::-1].clip(0.0))
        look: Any = {"fc": "none", "ec": ink, "ls": line, "lw": 1.2, "zorder": 4}
        axes.add_patch(Ellipse(points.mean(axis=0), width, height, angle=tilt, **look))
