"""Pictures of modes: those of one event side by side, and where events are ambiguous."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.patches import Circle

from flowcei.posterior.labels import speed_names
from flowcei.posterior.modes import AMBIGUOUS, UNEXPLAINED, UNIQUE, VERDICTS
from flowcei.posterior.refinement import CONVERGED, OUTSIDE, STALLED
from flowcei.posterior.spread import first_axis, in_recoil_frame, momenta_in_recoil_frame, quantities
from flowcei.report.style import COLOURS, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from flowcei.molecules.molecule import Molecule
    from flowcei.posterior.modes import Modes
    from flowcei.posterior.samples import PosteriorSamples

_REMARKS = {CONVERGED: "", STALLED: ", nearest miss", OUTSIDE: ", outside the prior"}
_MOST = 6  # modes drawn
_MOST_CLOUD = 400
_PANEL = 2.6  # inches, width of one geometry
_RADIUS = 0.21  # bohr, of an atom
_KINDS = ((UNIQUE, "o", COLOURS[5]), (AMBIGUOUS, "^", COLOURS[1]), (UNEXPLAINED, "x", COLOURS[6]))


def modes_figure(modes: Modes, samples: PosteriorSamples, event: int) -> Figure:
    """Draw the modes of one event side by side, in the plane of the momenta.

    Args:
        modes: Of the samples.
        samples: Drawn as dots around the mode that each is nearest to, by their weights.
        event: Counted from 0.
    """
    chosen = modes.of(event)[:_MOST]
    molecule, momenta = samples.molecule, samples.momenta[event : event + 1]
    prior, axis = samples.known_prior(), speed_names(molecule)[first_axis(molecule, momenta)]
    places = in_recoil_frame(molecule, momenta, modes.positions[chosen][None], prior)[0]
    even = samples[event : event + 1].equally_weighted()
    cloud = in_recoil_frame(molecule, momenta, even.positions, prior)[0][:_MOST_CLOUD]
    away = ((cloud[:, None] - places[None]) ** 2).sum(axis=(2, 3))
    nearest = away.argmin(axis=1)
    everything = np.concatenate([places.reshape(-1, 3), cloud.reshape(-1, 3)])
    low, high = everything[:, :2].min(axis=0) - 0.4, everything[:, :2].max(axis=0) + 0.4
    columns = min(3, len(chosen))
    rows = -(-len(chosen) // columns)
    with styled():
        panel = _PANEL * (high[1] - low[1]) / (high[0] - low[0])
        figure = new_figure((_PANEL + 0.4) * columns + 0.5, (panel + 1.2) * rows + 0.6)
        number = samples.event_id[event]
        words = f"{molecule.name}, event {number}: {VERDICTS[modes.verdict[event]]}"
        words = f"{words}, {_counted(len(modes.of(event)))}\ncircles: atoms of the geometry; dots: samples"
        figure.suptitle(words, fontsize=9, x=0.02, ha="left")
        for k, mode in enumerate(chosen):
            axes = figure.add_subplot(rows, columns, k + 1)
            _draw(axes, samples, places[k], cloud[nearest == k])
            axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
            if k % columns == 0:
                axes.set_ylabel("y in the plane of\nthe momenta (bohr)")
            if k >= len(chosen) - columns:
                axes.set_xlabel(f"x along the momentum of {axis} (bohr)")
            axes.set_title(_caption(modes, mode, molecule, places[k]), loc="left", fontsize=8)
    return figure


def _counted(count: int) -> str:
    return (
        "1 geometry" if count == 1 else f"{count} geometries" + (f", {_MOST} drawn" if count > _MOST else "")
    )


def _draw(axes: Axes, samples: PosteriorSamples, place: NDArray, cloud: NDArray) -> None:
    molecule = samples.molecule
    for i, j in molecule.bonds:
        axes.plot(*place[[i, j], :2].T, "-", color="0.6", lw=1.5, zorder=1)
    for k, label in enumerate(molecule.labels):
        colour = COLOURS[k % len(COLOURS)]
        axes.plot(*cloud[:, k, :2].T, ".", ms=3.0, alpha=0.5, mew=0, color=colour, zorder=4)
        x, y = place[k, :2]
        axes.add_patch(Circle((x, y), _RADIUS, fc="white", ec=colour, lw=1.6, zorder=2))
        axes.annotate(label, (x, y), (9, 6), textcoords="offset points", color=colour, fontsize=9, zorder=5)


def _caption(modes: Modes, mode: int, molecule: Molecule, place: NDArray) -> str:
    names, values = quantities(molecule, place)
    bonds = [f"{q.name} {v:.2f} bohr" for q, v in zip(names, values, strict=True) if q.kind == "bond"]
    angles = [f"{q.name} {v:.1f}°" for q, v in zip(names, values, strict=True) if q.kind == "angle"]
    lines = [f"{modes.number[mode]}: probability {modes.probability[mode]:.3f}{_REMARKS[modes.status[mode]]}"]
    lines += [", ".join(bonds[k : k + 2]) for k in range(0, min(4, len(bonds)), 2)]
    return "\n".join(lines + angles[:1])


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
    share = energy / energy.sum(axis=1, keepdims=True)
    newton = p[:, other, :2] / np.linalg.norm(p[:, axis], axis=1)[:, None]
    first, second = share[:, axis], share[:, other]
    with styled():
        figure = new_figure(7.4, 3.5)
        left, right = figure.subplots(1, 2)
        for kind, marker, colour in _KINDS:
            mine = modes.verdict == kind
            label = f"{VERDICTS[kind]} ({int(mine.sum())})"
            style = {"ls": "", "marker": marker, "ms": 3.5, "alpha": 0.7, "color": colour, "label": label}
            left.plot(*newton[mine].T, **style)
            right.plot((first - second)[mine] / 3.0**0.5, (2.0 / 3.0 - first - second)[mine], **style)
        a, b = names[axis], names[other]
        left.set(xlabel=f"$p_x$({b}) / |p({a})|", ylabel=f"$p_y$({b}) / |p({a})|")
        left.set_title(f"{molecule.name}: Newton plot, {len(p)} events")
        others = [name for name in names if name not in (a, b)]
        third = others[0] if len(others) == 1 else "rest"
        right.set(
            xlabel=rf"$(\epsilon_{{{a}}} - \epsilon_{{{b}}}) / \sqrt{{3}}$,  $\epsilon_i = E_i$ / KER",
            ylabel=rf"$\epsilon_{{{third}}} - 1/3$",
        )
        right.set_title("Dalitz plot")
        left.legend(fontsize=8)
    return figure
