"""The pictures of the first study, done again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from flowcei.report.style import COLOURS, new_figure, styled

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from numpy.typing import NDArray


def study_figure(table: pd.DataFrame, published: dict[str, dict[str, float]]) -> Figure:
    """Draw the MSE of one pass through each network on the data as published, beside the study's own figures.

    Args:
        table: Rows as (dataset, model), column ``mse_study``, bohr^2, means over seeds.
        published: Dataset -> model -> the study's MSE.
    """
    datasets = list(table.index.get_level_values(0).unique())
    with styled():
        figure = new_figure(9.6, 3.6, gap=0.05)
        axes = figure.subplots(1, len(datasets))
        for axis, dataset in zip(axes, datasets, strict=True):
            values = table.loc[dataset, "mse_study"]
            names = [n for n in values.index if n != "floor"]
            place = np.arange(len(names))
            axis.barh(place, values[names], color=COLOURS[0], height=0.7, label="flowcei")
            theirs = [(names.index(k), v) for k, v in published.get(dataset, {}).items() if k in names]
            if theirs:
                y, x = zip(*theirs, strict=True)
                axis.plot(x, y, "D", color=COLOURS[1], ms=6, mec="white", label="the study")
            axis.axvline(values["mean"], color="black", lw=1, ls=":", label="predict the mean")
            axis.axvline(2 * values["mean"], color="black", lw=1, ls="--", label="twice that")
            axis.set_yticks(place, names if axis is axes[0] else [""] * len(names))
            axis.invert_yaxis()
            axis.set(title=dataset, xlabel="MSE of one pass (bohr$^2$)")
            axis.set_xlim(0, 1.15 * max(values[names].max(), *(v for _, v in theirs), 0.0))
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=4)
    return figure


def recoil_figure(table: pd.DataFrame) -> Figure:
    """Draw the error per atom in the recoil frame.

    Args:
        table: Rows as (dataset, model), columns ``atom_error`` and its deviation over seeds
            ``atom_error_std``, bohr.
    """
    datasets = list(table.index.get_level_values(0).unique())
    with styled():
        figure = new_figure(9.6, 3.6, gap=0.05)
        axes = figure.subplots(1, len(datasets), sharex=True)
        for axis, dataset in zip(axes, datasets, strict=True):
            values = table.loc[dataset]
            names = [n for n in values.index if n not in ("floor", "marginal")]
            place = np.arange(len(names))
            nulls = [n in ("mean", "nearest") for n in names]
            axis.barh(
                place,
                values.loc[names, "atom_error"],
                xerr=values.loc[names, "atom_error_std"].fillna(0.0),
                color=[COLOURS[4] if null else COLOURS[0] for null in nulls],
                height=0.7,
            )
            if "floor" in values.index:
                axis.axvline(values.loc["floor", "atom_error"], color="black", lw=1, ls=":")
            axis.set_yticks(place, names if axis is axes[0] else [""] * len(names))
            axis.invert_yaxis()
            axis.set(title=dataset, xlabel="error per atom (bohr)", xscale="log")
        figure.suptitle(
            "posterior mean, recoil frame; orange: null model and look-up table; dotted: information floor",
            fontsize=9,
        )
    return figure


def apart_figure(angles: dict[str, NDArray[np.float64]], offsets: dict[str, NDArray[np.float64]]) -> Figure:
    """Draw how far apart the frames of positions and momenta are, and where the centre of mass is.

    Args:
        angles: Dataset -> degrees, (E,).
        offsets: Dataset -> distance of the centre of mass from the origin, bohr, (E,).
    """
    with styled():
        figure = new_figure(8.4, 3.0, gap=0.05)
        left, right = figure.subplots(1, 2)
        for k, name in enumerate(angles):
            # Histograms may lie on each other: the first are wide and pale, the last thin and dashed.
            width, dash, alpha = ((4.0, "-", 0.5), (2.0, "-", 1.0), (1.5, "--", 1.0))[k % 3]
            for axis, values, top in ((left, angles[name], 180.0), (right, offsets[name], 4.0)):
                edges = np.linspace(0.0, top, 46)
                share = np.histogram(values, edges)[0] / len(values)
                axis.stairs(share, edges, color=COLOURS[k], lw=width, ls=dash, alpha=alpha)
            left.plot([], [], color=COLOURS[k], lw=width, ls=dash, alpha=alpha, label=name)
        left.set(
            xlabel="angle between positions and momenta (°)",
            ylabel="share of events",
            yscale="log",
        )
        right.set(xlabel="centre of mass to origin (bohr)")
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=3)
    return figure


def ambiguity_figure(
    samples: NDArray[np.float64],
    exact: NDArray[np.float64],
    answer: NDArray[np.float64],
    truth: NDArray[np.float64],
    names: tuple[str, str],
) -> Figure:
    """Draw one event that several geometries explain, and the answer that lies between them.

    Args:
        samples: Two bond lengths of the posterior samples, (n, 2), bohr.
        exact: Of the geometries that have the measured momenta, (k, 2).
        answer: Of the point estimate, (2,).
        truth: (2,).
        names: Of the two bonds.
    """
    with styled():
        figure = new_figure(5.6, 4.2)
        axis = figure.subplots()
        axis.plot(*samples.T, ".", ms=3, alpha=0.25, mew=0, color=COLOURS[0])
        axis.plot([], [], "o", ms=4, color=COLOURS[0], label="posterior samples of cinn")
        axis.plot(*exact.T, "*", ms=13, mfc="white", mec="black", label="exact geometries (solver)")
        axis.plot(*truth, "o", ms=13, mfc="none", mec=COLOURS[2], mew=2, label="the one that exploded")
        axis.plot(*answer, "X", ms=10, color=COLOURS[1], mec="white", label="mlp: one answer")
        axis.set(xlabel=f"{names[0]} length (bohr)", ylabel=f"{names[1]} length (bohr)")
        axis.legend(loc="best")
    return figure
