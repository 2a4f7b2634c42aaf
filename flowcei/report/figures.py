"""The pictures of modes and of a training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.patches import Circle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from flowcei.plot.style import COLOURS, colour, grid, new_figure, styled
from flowcei.posterior.labels import speed_names
from flowcei.posterior.modes import AMBIGUOUS, UNEXPLAINED, UNIQUE, VERDICTS
from flowcei.posterior.refinement import CONVERGED, OUTSIDE, STALLED
from flowcei.posterior.spread import (
    first_axis,
    in_recoil_frame,
    momenta_in_recoil_frame,
    quantities,
)
from flowcei.units import ANGSTROM, length_in_bohr

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from flowcei.molecules.molecule import Molecule
    from flowcei.posterior.modes import Modes
    from flowcei.posterior.samples import PosteriorSamples

_REMARKS = {CONVERGED: "", STALLED: ", nearest miss", OUTSIDE: ", outside the prior"}
_MOST = 6  # modes drawn
_MOST_CLOUD = 400
_PANEL = 2.6  # inches, width of one geometry
_RADIUS = 0.11  # angstrom, of an atom
_KINDS = ((UNIQUE, "o", COLOURS[5]), (AMBIGUOUS, "^", COLOURS[1]), (UNEXPLAINED, "x", COLOURS[6]))


@styled
def training_figure(metrics: pd.DataFrame, loss: str = "") -> Figure:
    """Draw training and validation loss against epochs; what the loss is, with its unit."""
    figure = new_figure(4.6, 3.0)
    axis = figure.subplots()
    for k, (name, line) in enumerate({"training": "s-", "validation": "o--"}.items()):
        column = "train_loss" if name == "training" else "validation_loss"
        axis.plot(metrics["epoch"], metrics[column], line, ms=3, color=COLOURS[k], label=name)
    axis.set(xlabel="epoch", ylabel=loss or "loss")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend()
    return figure


@styled
def p_true_figure(p_true: NDArray[np.float64], least: float) -> Figure:
    """Draw how many events have which probability (E,) to be true, and a line at the least that is kept."""
    figure = new_figure(4.2, 3.1, title=f"{len(p_true):,} events, {int((p_true < least).sum()):,} left out")
    axis = figure.subplots()
    axis.hist(p_true, 40, range=(0.0, 1.0), color=COLOURS[0], alpha=0.8)
    axis.axvline(least, color=COLOURS[1], lw=1.5, ls="--")
    axis.set(xlabel="P(true)", ylabel="events per bin", xlim=(-0.01, 1.01), yscale="log")
    axis.set_ylim(bottom=0.7)
    return figure


@styled
def modes_figure(modes: Modes, samples: PosteriorSamples, event: int, unit: str = "angstrom") -> Figure:
    """Draw the modes of one event in the plane of the momenta, samples as dots around the nearest."""
    scale = length_in_bohr(unit)
    count = len(modes.of(event))
    chosen = modes.of(event)[:_MOST]
    molecule, momenta = samples.molecule, samples.momenta[event : event + 1]
    prior, axis = samples.known_prior(), speed_names(molecule)[first_axis(molecule, momenta)]
    atoms = in_recoil_frame(molecule, momenta, modes.positions[chosen][None], prior)[0] / scale
    even = samples[event : event + 1].equally_weighted()
    cloud = in_recoil_frame(molecule, momenta, even.positions, prior)[0][:_MOST_CLOUD] / scale
    nearest = ((cloud[:, None] - atoms[None]) ** 2).sum(axis=(2, 3)).argmin(axis=1)
    everything = np.concatenate([atoms, cloud]).reshape(-1, 3)[:, :2]
    room = 2.0 * _RADIUS * ANGSTROM / scale
    low, high = everything.min(axis=0) - room, everything.max(axis=0) + room
    geometries = "1 geometry" if count == 1 else f"{count} geometries"
    title = (
        f"{molecule.name}, event {samples.event_id[event]}: {VERDICTS[modes.verdict[event]]}, {geometries}"
        f"{f', {_MOST} drawn' if count > _MOST else ''}\ncircles: atoms of the geometry; dots: samples"
    )
    height = _PANEL * (high[1] - low[1]) / (high[0] - low[0])
    figure, panels = grid(len(chosen), (_PANEL + 0.4, height + 1.2), (0.5, 0.6), title=title)
    columns = min(3, len(chosen))
    for k, (axes, mode) in enumerate(zip(panels, chosen, strict=True)):
        _draw_molecule(axes, molecule, atoms[k], cloud[nearest == k], room / 2.0)
        axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
        if k % columns == 0:
            axes.set_ylabel(f"y in the plane of\nthe momenta ({unit})")
        if k >= len(chosen) - columns:
            axes.set_xlabel(f"x along the momentum of {axis} ({unit})")
        axes.set_title(_caption(modes, mode, molecule, atoms[k], unit), loc="left", fontsize=8)
    return figure


def _draw_molecule(axes: Axes, molecule: Molecule, atoms: NDArray, cloud: NDArray, radius: float) -> None:
    for i, j in molecule.bonds:
        axes.plot(*atoms[[i, j], :2].T, "-", color="0.6", lw=1.5, zorder=1)
    for k, label in enumerate(molecule.labels):
        axes.plot(*cloud[:, k, :2].T, ".", ms=3.0, alpha=0.5, mew=0, color=colour(k), zorder=4)
        x, y = atoms[k, :2]
        axes.add_patch(Circle((x, y), radius, fc="white", ec=colour(k), lw=1.6, zorder=2))
        text: Any = {"textcoords": "offset points", "color": colour(k), "fontsize": 9, "zorder": 5}
        axes.annotate(label, (x, y), (9, 6), **text)


def _caption(modes: Modes, mode: int, molecule: Molecule, atoms: NDArray, unit: str) -> str:
    names, values = quantities(molecule, atoms)
    bonds = [f"{q.name} {v:.2f} {unit}" for q, v in zip(names, values, strict=True) if q.kind == "bond"]
    angles = [f"{q.name} {v:.1f}°" for q, v in zip(names, values, strict=True) if q.kind == "angle"]
    lines = [f"{modes.number[mode]}: probability {modes.probability[mode]:.3f}{_REMARKS[modes.status[mode]]}"]
    lines += [", ".join(bonds[k : k + 2]) for k in range(0, min(4, len(bonds)), 2)]
    return "\n".join(lines + angles[:1])


@styled
def ambiguity_figure(molecule: Molecule, momenta: NDArray[Any], verdict: NDArray[np.uint8]) -> Figure:
    """Draw where in momentum space (E, N, 3) events of verdicts (E,) are unique, ambiguous or unexplained.

    Left: the Newton plot, momenta in units of the first ion's. Right: the Dalitz plot of the
    energy shares e_i = E_i / KER: (e_1 - e_2) / sqrt 3 against e_3 - 1/3, of more than three ions
    with all but the first two as the third (R. H. Dalitz, Phil. Mag. 44, 1068 (1953)).
    """
    p, names = momenta_in_recoil_frame(molecule, momenta), speed_names(molecule)
    axis = first_axis(molecule, momenta)
    other = next(k for k in range(len(molecule)) if k != axis)
    energy = (p**2).sum(axis=2) / (2.0 * molecule.masses)
    one, two = sorted((axis, other))  # as `flowcei.plot.dalitz` has them
    first, second = (energy / energy.sum(axis=1, keepdims=True))[:, [one, two]].T
    newton = p[:, other, :2] / np.linalg.norm(p[:, axis], axis=1)[:, None]
    figure = new_figure(7.4, 3.5)
    left, right = figure.subplots(1, 2)
    for kind, marker, shade in _KINDS:
        mine = verdict == kind
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
    energies = (
        rf"$(\epsilon_{{{names[one]}}} - \epsilon_{{{names[two]}}}) / \sqrt{{3}}$,  $\epsilon_i = E_i$ / KER"
    )
    right.set(xlabel=energies, ylabel=rf"$\epsilon_{{{third}}} - 1/3$", title="Dalitz plot")
    return figure
