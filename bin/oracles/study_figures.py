"""The pictures of the first study, done again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from flowcei.plot.style import COLOURS, new_figure, styled

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray


@styled
def study_figure(table: pd.DataFrame, published: dict[str, dict[str, float]]) -> Figure:
    """Draw the MSE of one pass through each network on the data as published, beside the study's own.

    `table`: rows (dataset, model), column ``mse_study``, bohr^2; `published`: dataset -> model -> MSE.
    """
    figure = new_figure(9.6, 3.6, gap=0.05)
    for axis, dataset, values, names in _panels(figure, table, hidden=("floor",)):
        mse, places = values["mse_study"], np.arange(len(names))
        axis.barh(places, mse[names], color=COLOURS[0], height=0.7, label="flowcei")
        theirs = [(v, names.index(k)) for k, v in published.get(dataset, {}).items() if k in names]
        if theirs:
            axis.plot(*zip(*theirs, strict=True), "D", color=COLOURS[1], ms=6, mec="white", label="the study")
        axis.axvline(mse["mean"], color="black", lw=1, ls=":", label="predict the mean")
        axis.axvline(2 * mse["mean"], color="black", lw=1, ls="--", label="twice that")
        axis.set(title=dataset, xlabel="MSE of one pass (bohr$^2$)")
        axis.set_xlim(0, 1.15 * max(mse[names].max(), *(v for v, _ in theirs), 0.0))
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return figure


@styled
def recoil_figure(table: pd.DataFrame) -> Figure:
    """Draw errors in the recoil frame of (dataset, model): ``atom_error`` and ``atom_error_std``, bohr."""
    words = "posterior mean, recoil frame; orange: null model and look-up table; dotted: information floor"
    figure = new_figure(9.6, 3.6, gap=0.05)
    figure.suptitle(words, fontsize=9)
    for axis, dataset, values, names in _panels(figure, table, hidden=("floor", "marginal"), sharex=True):
        axis.barh(
            np.arange(len(names)),
            values.loc[names, "atom_error"],
            xerr=values.loc[names, "atom_error_std"].fillna(0.0),
            color=[COLOURS[4] if name in ("mean", "nearest") else COLOURS[0] for name in names],
            height=0.7,
        )
        if "floor" in values.index:
            axis.axvline(values["atom_error"]["floor"], color="black", lw=1, ls=":")
        axis.set(title=dataset, xlabel="error per atom (bohr)", xscale="log")
    return figure


def _panels(
    figure: Figure, table: pd.DataFrame, hidden: Sequence[str], *, sharex: bool = False
) -> Iterator[tuple[Axes, str, pd.DataFrame, list[str]]]:
    """Yield axis, dataset, its rows and the names of its bars, a panel a dataset; name the bars after."""
    datasets = list(table.index.get_level_values(0).unique())
    axes = figure.subplots(1, len(datasets), sharex=sharex, squeeze=False)[0]
    for axis, dataset in zip(axes, datasets, strict=True):
        values = table.loc[dataset]
        names = [name for name in values.index if name not in hidden]
        yield axis, dataset, values, names
        axis.set_yticks(np.arange(len(names)), names if axis is axes[0] else [""] * len(names))
        axis.invert_yaxis()


@styled
def apart_figure(angles: dict[str, NDArray[np.float64]], offsets: dict[str, NDArray[np.float64]]) -> Figure:
    """Draw angles (degrees, (E,)) between positions and momenta, and offsets of the centre of mass (bohr)."""
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
    left.set(xlabel="angle between positions and momenta (°)", ylabel="share of events", yscale="log")
    right.set(xlabel="centre of mass to origin (bohr)")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return figure


@styled
def ambiguity_figure(
    samples: NDArray[np.float64],
    exact: NDArray[np.float64],
    answer: NDArray[np.float64],
    truth: NDArray[np.float64],
    names: tuple[str, str],
) -> Figure:
    """Draw one event that several geometries explain, and the point estimate that lies between them.

    Two bond lengths, bohr: of posterior samples (n, 2), of the geometries with the measured momenta (k, 2),
    of the answer (2,) and of the truth (2,).
    """
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
