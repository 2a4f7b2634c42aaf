"""The picture of a comparison: errors of models beside null models and floor, and coverage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from flowcei.evaluation.comparison import FLOOR
from flowcei.evaluation.nulls import NULL_MODELS
from flowcei.report.style import COLOURS, new_figure, styled

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

_PANELS = (
    ("std_mse_mean", "std_mse_sample", "MSE (standardised units)"),
    ("std_mae_mean", "std_mae_sample", "MAE (standardised units)"),
    ("atom_error_median", "atom_error_sample_median", "median error per atom (bohr)"),
)
_ROOM = 1.32  # of the longest bar, for the number behind it


def comparison_figure(table: pd.DataFrame) -> Figure:
    """Draw MSE, MAE and per-atom error of models beside the null models, and their coverage.

    Black bars are 95 % intervals. The information floor is a line where it lies below the
    null model of the mean; above that it bounds nothing that a model would do.

    Args:
        table: As `flowcei.evaluation.comparison.compare` returns it.
    """
    floor = table[table.index == FLOOR]
    table = table.drop(index=FLOOR, errors="ignore")
    y = np.arange(len(table))
    with styled():
        figure = new_figure(9.6, 1.1 + 0.55 * len(table) + 0.6, gap=0.06)
        axes = figure.subplots(1, 4, sharey=True)
        for axis, (of_mean, of_sample, label) in zip(axes, _PANELS, strict=False):
            _bars(axis, table, of_mean, y - 0.19, COLOURS[0], "posterior mean")
            _bars(axis, table, of_sample, y + 0.19, COLOURS[4], "one random sample")
            longest = max(_ends(table, name)[1].max() for name in (of_mean, of_sample))
            axis.set(xlabel=label, xlim=(0, _ROOM * longest))
            for value in floor[of_mean]:
                _floor_line(axis, table, of_mean, float(value))
        _coverage_panel(axes[3], table, y)
        names = [f"{name}\n(null model)" if name in NULL_MODELS else name for name in table.index]
        axes[0].set_yticks(y, names)
        axes[0].invert_yaxis()
        handles = {k: v for axis in axes for v, k in zip(*axis.get_legend_handles_labels(), strict=True)}
        figure.legend(list(handles.values()), list(handles), loc="outside upper center", ncols=5)
    return figure


def _bars(axis: Axes, table: pd.DataFrame, name: str, y: NDArray, colour: str, label: str) -> None:
    values = table[name].to_numpy(dtype=np.float64)
    low, high = _ends(table, name)
    axis.barh(y, values, height=0.36, color=colour, label=label)
    _whiskers(axis, values, low, high, y)
    for place, value, end in zip(y, values, high, strict=True):
        axis.annotate(
            f"{value:.3g}",
            (end, place),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
        )


def _ends(table: pd.DataFrame, name: str) -> tuple[NDArray, NDArray]:
    """Return the ends of the intervals of a column; the values themselves where there are none."""
    values = table[name].to_numpy(dtype=np.float64)
    low, high = (
        table[name + side].to_numpy(dtype=np.float64) if name + side in table else values
        for side in ("_low", "_high")
    )
    return np.fmin(values, low), np.fmax(values, high)


def _whiskers(axis: Axes, values: NDArray, low: NDArray, high: NDArray, y: NDArray) -> None:
    axis.errorbar(values, y, xerr=(values - low, high - values), fmt="none", color="black", lw=1, capsize=1.5)


def _floor_line(axis: Axes, table: pd.DataFrame, name: str, floor: float) -> None:
    nulls = table[name][table.index.isin(list(NULL_MODELS))]
    if floor < min(nulls.min() if len(nulls) else np.inf, axis.get_xlim()[1]):
        axis.axvline(floor, color=COLOURS[6], lw=1.2, ls="--", label="information floor, flat prior")
    else:
        axis.set_title("floor for a flat prior: above the null model", fontsize=7, color="0.35")


def _coverage_panel(axis: Axes, table: pd.DataFrame, y: NDArray) -> None:
    for level, marker, colour in ((50, "o", COLOURS[2]), (90, "D", COLOURS[3])):
        name = f"coverage_{level}"
        values = 100.0 * table[name].to_numpy(dtype=np.float64)
        low, high = (100.0 * end for end in _ends(table, name))
        axis.axvline(level, color=colour, lw=1, ls=":")
        axis.plot(values, y, marker, color=colour, label=f"coverage of {level} %")
        _whiskers(axis, values, low, high, y)
    for place in y[table["coverage_50"].isna()]:
        axis.text(2, place, "no interval", va="center", fontsize=7, color="0.35")
    axis.set(xlabel="coverage (%), dotted: wanted", xlim=(0, 102))
